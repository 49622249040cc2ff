"""Draw the packages and their imports, and list what they are for, whenever the documentation is built.

Floors are those of the import-linter contract in pyproject.toml; arrows and words come from the code. A package that has no floor stops the build.
"""

import ast
import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "_generated"
WIDTH, BOX, HIGH, GAP = 860, 96, 30, 46
"""Of the picture, of a box, and the room between two floors, in pixels."""
ACROSS = {
    "display": 0.08,
    "simulate": 0.92,
    "training": 0.3,
    "io": 0.62,
    "model": 0.3,
    "stac": 0.78,
    "assets": 0.86,
    "sensors": 0.78,
    "cube": 0.5,
}
ACROSS |= {"points": 0.1, "grid": 0.4, "metrics": 0.62, "spec": 0.4, "errors": 0.62, "paths": 0.1, "clusters": 0.86}
"""Where a box stands between left and right, so that arrows pass beside boxes; others stand evenly."""


def floors() -> list[list[str]]:
    """Return the names on each floor, the highest first, as import-linter checks them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name for name in layer.replace("|", ":").split(" : ") if name != "_version"] for layer in layers]


def imports(names: set[str]) -> set[tuple[str, str]]:
    """Return pairs of a package and one that it imports directly, but for those that follow from others."""
    graph = grimp.build_graph("misoxr", exclude_type_checking_imports=True, cache_dir=None)
    direct: dict[str, set[str]] = {name: set() for name in names}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            one, two = (f"{path}.".split(".")[1] for path in (module, other))
            if one != two and one in names and two in names:
                direct[one].add(two)

    def below(name: str) -> set[str]:
        return direct[name].union(*(below(other) for other in direct[name]))

    return {(one, two) for one in direct for two in direct[one] if not any(two in below(other) for other in direct[one] - {two})}


def picture() -> str:
    """Return the packages on their floors, with an arrow for each import, as SVG."""
    rows = floors()
    names = {name for row in rows for name in row}
    modules = {path.stem if path.suffix else path.name for path in (ROOT / "misoxr").iterdir() if path.suffix in ("", ".py")}
    missing = modules - names - {"__init__", "__pycache__", "_version"}
    if missing:
        raise RuntimeError(f"{sorted(missing)} of misoxr have no floor in the contract of pyproject.toml; add them there.")
    place = {}
    for at, row in enumerate(rows):
        for index, name in enumerate(row):
            place[name] = (WIDTH * ACROSS.get(name, (index + 1) / (len(row) + 1)), 20 + at * (HIGH + GAP))
    lines = []
    for one, two in sorted(imports(names)):
        (x1, y1), (x2, y2) = place[one], place[two]
        y1, bend = y1 + HIGH, (y2 - y1 - HIGH) / 2
        lines.append(
            f'<path d="M{x1:.0f},{y1} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2 - 5}" marker-end="url(#tip)">'
            f"<title>{one} imports {two}</title></path>"
        )
    boxes = []
    for name, (x, y) in place.items():
        boxes.append(f'<rect x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{HIGH}" rx="4"/>')
        boxes.append(f'<text x="{x:.0f}" y="{y + HIGH / 2 + 4:.0f}">{escape(name)}</text>')
    height = 40 + len(rows) * (HIGH + GAP) - GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Packages of misoxr and their imports">'
        "<style>path{fill:none;stroke:#7a8b99;stroke-width:1.2}rect{fill:#e8eef2;stroke:#1f4e66}"
        "text{font:13px sans-serif;text-anchor:middle;fill:#14303f}svg{background:#fff}</style>"
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="3" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        '<polygon points="0,0 6,3 0,6" fill="#7a8b99"/></marker></defs>' + "".join(lines + boxes) + "</svg>\n"
    )


def table() -> str:
    """Return what each package and module is for, in the words of its docstring, the highest floor first."""
    lines = ["| package | what it is for |", "|---|---|"]
    for name in (name for row in floors() for name in row):
        path = ROOT / "misoxr" / name
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        words = (ast.get_docstring(ast.parse(source.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"| `{name}` | {words.replace(':func:`', '`').replace(':class:`', '`')} |")
    return "\n".join(lines) + "\n"


def setup(app):
    """Draw and write when a build begins."""

    def draw(_):
        OUT.mkdir(exist_ok=True)
        for name, text in (("architecture.svg", picture()), ("packages.md", table())):
            path = OUT / name
            if not path.exists() or path.read_text() != text:  # else Sphinx would read it anew each time
                path.write_text(text)

    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True}
