"""The page of a report: one file of HTML with its style inside, for screens of any width, light and dark, and for paper."""

from collections.abc import Sequence
from html import escape
from string import Template
from typing import NamedTuple

__all__ = ["Section", "folded", "items", "page", "paragraph"]


class Section(NamedTuple):
    """A part of a page: a name for links, a heading, and HTML."""

    name: str
    heading: str
    content: str


_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f23; --soft: #57606a; --line: #d0d7de; --shade: #f3f5f7; --mark: #0b5c8a;
  --warn: #7a3e00; --warn-ground: #fff3dc; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181c; --text: #e3e8ed; --soft: #9aa6b2; --line: #39424b; --shade: #1d2329;
  --mark: #79c0e8; --warn: #ffd591; --warn-ground: #3a2a10; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--mark); }
code, pre { font: .85em/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
code { color: var(--soft); }
.banner { padding: .6rem .9rem; border: 2px solid currentColor; border-radius: .4rem; color: var(--warn); background: var(--warn-ground); max-width: none; }
.note { color: var(--soft); font-size: .85rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: 1rem 0; padding: 0; }
ul.key { padding-left: 1.2rem; max-width: 46rem; }
dl { margin: 1rem 0; }
dl div { display: grid; grid-template-columns: minmax(7rem, 11rem) minmax(0, 1fr); gap: 0 1rem; padding: .2rem 0; border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem; align-items: start; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { margin-bottom: .4rem; }
figcaption code { display: block; }
.map img { display: block; width: 100%; background: repeating-linear-gradient(45deg, var(--shade) 0 6px, var(--line) 6px 7px); border: 1px solid var(--line); }
img.sharp { image-rendering: pixelated; }
.scale { font-size: .8rem; color: var(--soft); white-space: nowrap; margin-top: .3rem; }
.scale span { display: block; height: .4rem; border: 1px solid var(--text); border-top: 0; }
ul.legend { display: flex; flex-wrap: wrap; gap: .15rem .9rem; list-style: none; margin: .4rem 0; padding: 0; font-size: .85rem; }
ul.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .35em; vertical-align: -.1em; border: 1px solid var(--soft); }
ul.legend i.none { background: repeating-linear-gradient(45deg, var(--shade) 0 3px, var(--line) 3px 4px); }
.bar { max-width: 26rem; margin: .4rem 0; font-size: .8rem; }
.bar div { height: .8rem; border: 1px solid var(--line); }
.bar p { display: flex; justify-content: space-between; margin: 0; white-space: nowrap; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 1rem 0; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; min-width: min(100%, 26rem); }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(46rem, 100vw - 3rem); }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; vertical-align: bottom; }
thead th { border-bottom: 2px solid var(--line); }
tbody th { font-weight: 400; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.beside { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: start; }
.beside > * { min-width: 0; }
svg.plot { display: block; width: 20rem; max-width: 100%; height: auto; }
svg.plot text { fill: var(--text); font-size: 11px; }
svg.plot line, svg.plot path { stroke: var(--soft); fill: none; }
svg.plot .drawn { stroke: var(--mark); stroke-width: 2; }
svg.plot circle { fill: var(--mark); stroke: var(--ground); }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: .3rem; padding: .4rem .8rem; }
summary { cursor: pointer; }
pre { overflow-x: auto; max-height: 30rem; background: var(--shade); padding: .6rem; }
.bar div, .scale span, ul.legend i, .banner, .map img { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
@media (max-width: 34rem) { dl div { display: block; } body { padding: .75rem; } }
@media print { :root { --ground: #fff; --text: #000; --soft: #444; --line: #bbb; --shade: #eee; --mark: #0b5c8a; --warn: #7a3e00; --warn-ground: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } .scroll { overflow: visible; } table { font-size: 8pt; }
  caption span { max-width: none; } th, td { padding: .15rem .35rem; } tr, .beside { break-inside: avoid; } h2, h3 { break-after: avoid; } pre { max-height: none; white-space: pre-wrap; } }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="$generator">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$head
</header>
<nav aria-label="Sections"><ul>$links</ul></nav>
<main>
$sections
</main>
</body>
</html>
""")


def page(title: str, head: str, sections: Sequence[Section], generator: str) -> str:
    """Return a page of HTML that asks for nothing: its policy allows no request either."""
    links = "".join(f'<li><a href="#{one.name}">{escape(one.heading)}</a></li>' for one in sections)
    parts = [
        f'<section id="{one.name}" aria-labelledby="{one.name}-heading"><h2 id="{one.name}-heading">{escape(one.heading)}</h2>{one.content}</section>'
        for one in sections
    ]
    words = {"title": escape(title), "generator": escape(generator), "style": _STYLE}
    return _PAGE.substitute(words, head=head, links=links, sections="\n".join(parts))


def paragraph(text: str, kind: str = "") -> str:
    """Return text as a paragraph."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def items(sentences: Sequence[str]) -> str:
    """Return sentences as a list; nothing where there are none."""
    lines = "".join(f"<li>{escape(one)}</li>" for one in sentences)
    return f'<ul class="key">{lines}</ul>' if lines else ""


def folded(summary: str, content: str) -> str:
    """Return HTML that a click unfolds."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
