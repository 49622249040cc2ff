"""Tables of a report as HTML: numbers to the digits that they need, every text escaped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from math import floor, isfinite, log10
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["MISSING", "decimals_for", "facts", "number", "scrolled", "table"]

MISSING = "–"
"""What stands for a value that is not known."""
Cell = tuple[Any, Any]
"""The labels of a cell's row and column."""


def number(value: Any, decimals: int = 3) -> str:
    """Return a value as text: whole numbers with separators of thousands, others to so many decimals."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:,.{decimals}f}" if isfinite(value) else MISSING
    return MISSING if value is None or value is pd.NA else str(value)


def decimals_for(values: Iterable[Any], digits: int = 4) -> int:
    """Return how many decimals give the largest of some values so many digits."""
    found = [abs(float(value)) for value in values if isfinite(float(value)) and value]
    return min(9, max(0, digits - 1 - floor(log10(max(found))))) if found else 0


def table(
    frame: pd.DataFrame,
    caption: str,
    *,
    decimals: int | Mapping[Any, int] = 3,
    bold: Iterable[Cell] = (),
    rows: Callable[[Any], str] = str,
    columns: Mapping[Any, str] | None = None,
    corner: str | None = None,
) -> str:
    """Return a table of HTML that scrolls sideways where it is too wide.

    Parameters
    ----------
    frame : DataFrame
        Its index becomes headers of rows, its columns headers of columns.
    caption : str
        What it shows.
    decimals : int or mapping of column to int, optional
        Of numbers that are not whole.
    bold : iterable of (row, column), optional
        Labels of the cells that stand out.
    rows : callable, optional
        Gives a row's header from its label.
    columns : mapping, optional
        Headers of columns by their labels, where they differ.
    corner : str, optional
        What the headers of rows are; by default the name of the index.
    """
    strong, names = set(bold), columns or {}
    levels = [str(name or "") for name in frame.index.names]
    corners = [corner] if corner is not None else levels
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in corners)
    for name, kind in frame.dtypes.items():
        side = ' class="n"' if pd.api.types.is_numeric_dtype(kind) else ""
        head += f'<th scope="col"{side}>{escape(names.get(name, str(name)))}</th>'
    lines = []
    for label, values in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        parts = label if isinstance(label, tuple) and len(corners) > 1 else (label,)
        cells = [f'<th scope="row">{escape(rows(part))}</th>' for part in parts]
        for column, value in zip(frame.columns, values, strict=True):
            places = decimals if isinstance(decimals, int) else decimals.get(column, 3)
            words = escape(number(value, places))
            kind = "" if isinstance(value, str) else ' class="n"'
            cells.append(f"<td{kind}>{f'<strong>{words}</strong>' if (label, column) in strong else words}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = f"<caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return scrolled(f"<table>{body}</table>", caption)


def scrolled(content: str, label: str) -> str:
    """Return HTML in a region that scrolls sideways, also by the keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Return names and what belongs to them as a list of definitions."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(number(value))}</dd></div>" for name, value in pairs)
    return f"<dl>{lines}</dl>"
