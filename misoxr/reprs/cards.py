"""Cards in a notebook: HTML that folds, wraps no number, and takes the colours of JupyterLab, VS Code or the page that it stands in.

Every text is escaped, unless it is HTML made here. The style goes with each card, for a notebook may be opened with any part of it missing; where a viewer
drops it, as GitHub does, plain tables are left.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

__all__ = [
    "HTML",
    "bold",
    "card",
    "chip",
    "chips",
    "code",
    "fold",
    "full",
    "joined",
    "line",
    "named",
    "numbers",
    "pairs",
    "short",
    "shown",
    "table",
]

LONGEST = 160
"""Characters of a text that are shown."""
ROWS = 60
"""Rows of a table that are shown."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{3}(?:[0-9a-fA-F]{3})?|[a-zA-Z]{3,30}")

_STYLE = """
.misoxr{color:var(--jp-content-font-color0,var(--vscode-editor-foreground,inherit));font-size:13px;line-height:1.45;max-width:64rem;
--mx-line:var(--jp-border-color2,rgba(127,127,127,.4));--mx-soft:var(--jp-content-font-color2,var(--vscode-descriptionForeground,inherit));
--mx-mark:var(--jp-brand-color1,var(--vscode-textLink-foreground,#3b8bc4));--mx-warn:var(--jp-warn-color0,#c77700)}
.misoxr .mx-head{padding:.2em 0 .35em;border-bottom:1px solid var(--mx-line);margin-bottom:.35em}
.misoxr .mx-head b{font-size:1.05em}
.misoxr .mx-soft{color:var(--mx-soft);opacity:.85}
.misoxr .mx-warn{color:var(--mx-warn);border:1px solid currentColor;border-radius:3px;padding:0 .4em;font-size:.85em;font-weight:600;white-space:nowrap}
.misoxr .mx-scroll{overflow-x:auto;max-width:100%;margin:.3em 0 .6em}
.misoxr table{border-collapse:collapse;margin:0;font-size:12.5px;color:inherit;table-layout:auto;border:0;width:auto}
.misoxr table tbody tr,.misoxr table tbody tr:nth-child(even),.misoxr table tbody tr:nth-child(odd){background:transparent}
.misoxr table caption{text-align:left;caption-side:top;color:var(--mx-soft);padding:.1em 0;white-space:nowrap}
.misoxr table th,.misoxr table td{padding:.15em .8em .15em 0;border:0;border-bottom:1px solid var(--mx-line);text-align:left!important;vertical-align:top;white-space:nowrap;
max-width:none;background:transparent;color:inherit;font-weight:400;line-height:1.45}
.misoxr table thead th{color:var(--mx-soft);border-bottom-width:2px}
.misoxr table .mx-n{text-align:right!important;padding-left:.8em;font-variant-numeric:tabular-nums}
.misoxr table .mx-w{white-space:normal;overflow-wrap:anywhere;min-width:14em;max-width:44em}
.misoxr details{margin:.1em 0}
.misoxr summary{cursor:pointer;color:var(--mx-mark)}
.misoxr details>div{padding:0 0 .3em 1.1em}
.misoxr code{font-size:.92em;background:transparent;color:inherit;padding:0}
.misoxr .mx-chip{display:inline-block;white-space:nowrap;margin-right:.8em}
.misoxr .mx-chip i{display:inline-block;width:.8em;height:.8em;margin-right:.3em;border:1px solid var(--mx-line);vertical-align:-.05em}
.misoxr svg{display:block;max-width:100%;height:auto}
.misoxr svg text{fill:currentColor;font-size:10px}
"""


class HTML(str):
    """Text that is HTML already: made here, of texts that were escaped."""


def shown(value: Any) -> HTML:
    """Return a value as HTML; of a long text the beginning."""
    return value if isinstance(value, HTML) else HTML(escape(short(value)))


def short(value: Any, most: int = LONGEST) -> str:
    """Return a value as text in a line, cut where it is long."""
    text = " ".join(str(value)[: 4 * most].split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def full(value: Any, most: int = 600) -> HTML:
    """Return a longer text, such as a sentence, as HTML."""
    return HTML(escape(short(value, most)))


def named(name: Any, most: int = 48) -> HTML:
    """Return a name in one piece; of a long one both ends, and the whole where the pointer rests on it."""
    text = short(name, 400)
    if len(text) <= most:
        return HTML(escape(text))
    return HTML(f'<span title="{escape(text)}">{escape(text[: most - 16])}…{escape(text[-15:])}</span>')


def joined(parts: Iterable[Any], between: str = "") -> HTML:
    """Return parts one after another."""
    return HTML(escape(between).join(shown(part) for part in parts))


def bold(value: Any) -> HTML:
    """Return a value that stands out."""
    return HTML(f"<b>{shown(value)}</b>")


def code(value: Any) -> HTML:
    """Return a name as it is written in code."""
    return HTML(f"<code>{shown(value)}</code>")


def line(*parts: Any, soft: bool = False) -> HTML:
    """Return a line of text."""
    kind = ' class="mx-soft"' if soft else ""
    return HTML(f"<div{kind}>{joined(parts, ' ')}</div>")


def numbers(*values: str) -> HTML:
    """Return a number with its error in one piece, which no line ends within."""
    return HTML("&nbsp;".join(escape(value) for value in values).replace("-", "&#8209;"))


def chip(name: Any, color: Any = "") -> HTML:
    """Return a name with a patch of its colour, where this is one."""
    is_color = bool(_COLOUR.fullmatch(str(color)))
    patch = f'<i style="background:{color}"></i>' if is_color else ""
    return HTML(f'<span class="mx-chip">{patch}{shown(short(name, 60))}</span>')


def chips(names: Sequence[Any], colors: Sequence[Any] = (), most: int = 24) -> HTML:
    """Return names with their colours; of many the first."""
    found = [chip(name, colors[at] if at < len(colors) else "") for at, name in enumerate(names[:most])]
    return joined([*found, *([f"and {len(names) - most} more"] if len(names) > most else [])], " ")


def table(
    headers: Sequence[Any], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = (), wide: Sequence[int] = (), caption: str = ""
) -> HTML:
    """Return a table that scrolls sideways where it is too wide.

    Parameters
    ----------
    headers : sequence
        Of the columns; none for a table without.
    rows : sequence of sequence
        Cells; the first of a row is its header. Of more than 60 the first are shown.
    right, wide : sequence of int, optional
        Columns of numbers, and of texts that may wrap.
    caption : str, optional
        What it shows.
    """
    kinds = {**dict.fromkeys(wide, ' class="mx-w"'), **dict.fromkeys(right, ' class="mx-n"')}
    head = "".join(f'<th scope="col"{kinds.get(at, "")}>{shown(one)}</th>' for at, one in enumerate(headers))
    lines = []
    for row in rows[:ROWS]:
        first, *others = row
        cells = "".join(f"<td{kinds.get(at, '')}>{shown(one)}</td>" for at, one in enumerate(others, 1))
        lines.append(f'<tr><th scope="row"{kinds.get(0, "")}>{shown(first)}</th>{cells}</tr>')
    if len(rows) > ROWS:
        lines.append(f'<tr><th scope="row">… {len(rows) - ROWS:,} more</th></tr>')
    top = f"<caption>{shown(caption)}</caption>" if caption else ""
    header = f"<thead><tr>{head}</tr></thead>" if headers else ""
    return HTML(f'<div class="mx-scroll"><table>{top}{header}<tbody>{"".join(lines)}</tbody></table></div>')


def pairs(rows: Sequence[tuple[Any, Any]]) -> HTML:
    """Return names and what belongs to them as a table; those without a value are left out."""
    return table((), [row for row in rows if row[1] not in (None, "")], wide=(1,))


def fold(summary: Any, *parts: Any, open: bool = False) -> HTML:
    """Return parts that a click unfolds."""
    return HTML(f"<details{' open' if open else ''}><summary>{shown(summary)}</summary><div>{joined(parts)}</div></details>")


def card(kind: str, title: Any, *parts: Any, simulated: bool = False) -> HTML:
    """Return the whole card: its style, a heading, and its parts."""
    mark = ' <span class="mx-warn">SIMULATED</span>' if simulated else ""
    head = f'<div class="mx-head"><b>{shown(kind)}</b> {shown(title)}{mark}</div>'
    return HTML(f'<div class="misoxr"><style>{_STYLE}</style>{head}{joined(parts)}</div>')
