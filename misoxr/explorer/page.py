"""The page of a map: script and style, which a notebook and a served page share, from the files in ``static``.

Leaflet (BSD 2-Clause, ``static/LICENSE-leaflet``) is part of the package, so that nothing is fetched.
"""

import json
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import urlsplit

__all__ = ["html", "policy", "script", "style"]

_HTML = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="map.css">
<title>$title</title>
</head>
<body class="misoxr-page">
<main id="map" data-about="$about"></main>
<script type="module" src="start.js"></script>
</body>
</html>
""")


def _file(name: str) -> str:
    return files("misoxr.explorer").joinpath("static", name).read_text(encoding="utf-8")


@cache
def script() -> str:
    """Return a module of JavaScript that needs no other: its default export is for anywidget, and ``serve`` for a page."""
    leaflet = _file("leaflet.js").partition("//# sourceMappingURL")[0]
    # Leaflet puts itself into the window, where another widget may have its own; so it is taken out again.
    wrapped = f"const L = (() => {{ const module = {{ exports: {{}} }}, exports = module.exports;\n{leaflet}\nreturn exports.noConflict(); }})();"
    return f"{wrapped}\n{_file('explore.js')}"


@cache
def style() -> str:
    """Return the style: Leaflet's, without its pictures, and ours."""
    leaflet = "\n".join(line for line in _file("leaflet.css").splitlines() if "url(" not in line)
    return f"{leaflet}\n{_file('explore.css')}"


def html(title: str, about: dict[str, Any]) -> str:
    """Return a page that asks its own server alone."""
    return _HTML.substitute(title=escape(title), about=escape(json.dumps(about)))


def policy(about: dict[str, Any]) -> str:
    """Return what the page may ask for: its own server, and a basemap where one is wanted."""
    base = about["basemap"]
    parts = urlsplit(base["url"]) if base else None
    other = f" {parts.scheme}://{parts.netloc.replace('{s}', '*')}" if parts else ""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:{other}"
    )
