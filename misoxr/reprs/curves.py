"""A training curve as SVG, small enough for a notebook's output."""

from collections.abc import Sequence
from html import escape
from math import isfinite

from misoxr.plot.history import History
from misoxr.reprs.cards import HTML

__all__ = ["curve"]

WIDE, HIGH, LEFT, TOP = 420, 130, 44, 8
"""Of the drawing, in pixels, and the room for its numbers."""
MOST = 120
"""Points of a line; of more epochs every n-th is drawn."""


def curve(history: History) -> HTML:
    """Draw training and validation loss by epoch, and mark the epoch that was kept."""
    lines = [
        ("training loss", history.training, "#8a8a8a"),
        ("validation loss", history.validation, "#3b8bc4"),
    ]
    known = [value for _, values, _ in lines for value in values if isfinite(value)]
    if not known:
        return HTML("")
    low, high = min(known), max(known)
    span = high - low or abs(high) or 1.0
    parts, labels = [_axes(low, high, history.epochs)], []
    for words, values, color in lines:
        if values:
            parts.append(_line(values, history.epochs, low, span, color))
            labels.append((words, color))
    if history.best is not None:
        x = _across(history.best, history.epochs)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{TOP + HIGH}" stroke="#c0392b" stroke-dasharray="3 3"/>')
        labels.append((f"kept: epoch {history.best + 1}", "#c0392b"))
    at = LEFT
    for words, color in labels:
        parts.append(f'<rect x="{at}" y="{TOP + HIGH + 22}" width="10" height="3" fill="{color}"/>')
        parts.append(f'<text x="{at + 14}" y="{TOP + HIGH + 27}">{escape(words)}</text>')
        at += 24 + 6 * len(words)
    label = escape(f"Losses of {history.epochs} epochs, from {_figure(high)} at the most to {_figure(low)} at the least")
    return HTML(
        f'<svg viewBox="0 0 {LEFT + WIDE + 10} {TOP + HIGH + 34}" width="{LEFT + WIDE + 10}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _across(epoch: int, count: int) -> float:
    return LEFT + WIDE * (epoch / (count - 1) if count > 1 else 0.5)


def _line(values: Sequence[float], count: int, low: float, span: float, color: str) -> str:
    """Return a line through the values that are known, with a dot for each of few."""
    step = max(1, -(-len(values) // MOST))
    places = [
        (_across(epoch, count), TOP + HIGH * (1 - (value - low) / span))
        for epoch, value in enumerate(values)
        if isfinite(value) and (epoch % step == 0 or epoch == len(values) - 1)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{color}"/>' for x, y in places) if len(places) <= 40 else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>{dots}'


def _axes(low: float, high: float, count: int) -> str:
    bottom = TOP + HIGH
    frame = f'<path d="M{LEFT} {TOP}V{bottom}H{LEFT + WIDE}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
    ends = [(TOP + 4, high), (bottom, low)] if high > low else [(TOP + 4, high)]
    texts = "".join(f'<text x="{LEFT - 5}" y="{y}" text-anchor="end">{_figure(value)}</text>' for y, value in ends)
    first = f'<text x="{_across(0, count):.0f}" y="{bottom + 13}" text-anchor="middle">1</text>'
    last = f'<text x="{_across(count - 1, count):.0f}" y="{bottom + 13}" text-anchor="middle">{count:,}</text>' if count > 1 else ""
    return f'{frame}{texts}{first}{last}<text x="{LEFT + WIDE / 2:.0f}" y="{bottom + 13}" text-anchor="middle">epoch</text>'


def _figure(value: float) -> str:
    return f"{value:.3g}"
