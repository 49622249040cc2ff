"""Execute the tutorials, and show them with their outputs.

    python docs/_ext/tutorials.py

executes all of them anew, two at a time, and fails with the traceback of a cell that fails or writes to stderr. Sphinx executes those that have
not been executed since they were changed. Executed notebooks and the gallery's pictures lie in ``docs/_build``; those of the repository have no outputs.
"""

import base64
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import nbclient
import nbformat
from traitlets.config import Config

DOCS = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))
EXECUTED, PICTURES = DOCS / "_build/tutorials", DOCS / "_generated/gallery"
TOGETHER = 2
"""Notebooks at a time, each with one thread."""
SECONDS = 1800
"""Limit for one cell; the machine may be slow."""


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(path: Path) -> nbformat.NotebookNode | None:
    """Return the notebook with its outputs, or None if its code has not been executed as it stands. Text may have changed since."""
    there = EXECUTED / path.name
    if not there.exists():
        return None
    notebook, done = nbformat.read(path, 4), nbformat.read(there, 4)
    if [cell.source for cell in code_of(notebook)] != [cell.source for cell in code_of(done)]:
        return None
    for cell, other in zip(code_of(notebook), code_of(done), strict=True):
        cell.update(outputs=other.outputs, execution_count=other.execution_count)
    return notebook


def execute(path: Path) -> None:
    """Execute one notebook in an empty folder, and write it with its outputs.

    Raises
    ------
    CellExecutionError
        If a cell fails.
    RuntimeError
        If a cell writes to stderr, as warnings do.
    """
    notebook = nbformat.read(path, 4)
    start = time.perf_counter()
    with TemporaryDirectory() as folder, TemporaryDirectory() as sockets:
        # Jupyter picks TCP ports before the kernel binds them, and another process may take them meanwhile. Files in a folder of its own are free.
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        where = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=SECONDS, startup_timeout=300, resources=where, config=config).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"A cell of {path.name} writes to stderr:\n\n{cell.source}\n\n{output.text}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {"seconds": time.perf_counter() - start, "cpu_seconds": used.ru_utime + used.ru_stime}
    notebook.metadata["execution"] = {name: round(value, 1) for name, value in cost.items()}
    EXECUTED.mkdir(parents=True, exist_ok=True)
    scratch = EXECUTED / f".{path.name}.scratch"
    nbformat.write(notebook, scratch)
    scratch.replace(EXECUTED / path.name)


def execute_all(paths: Sequence[Path]) -> None:
    """Execute notebooks, each in a process of its own, and say how long each took.

    Raises
    ------
    RuntimeError
        If one fails; the others are executed all the same.
    """

    def one(path: Path) -> str:
        # Its own process, so that its CPU time can be told, and because nbclient runs an event loop.
        command = [sys.executable, str(Path(__file__).resolve()), str(path)]
        run = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
        if run.returncode:
            return f"{path.name} failed:\n{run.stderr}"
        told = nbformat.read(EXECUTED / path.name, 4).metadata["execution"]
        print(f"{path.name}: {told['seconds']:.0f} s, {told['cpu_seconds']:.0f} s of CPU", flush=True)
        return ""

    with ThreadPoolExecutor(TOGETHER) as pool:
        failures = [words for words in pool.map(one, paths) if words]
    if failures:
        raise RuntimeError("\n\n".join(failures))


def picture(notebook: nbformat.NotebookNode) -> bytes:
    """Return the picture of the cell that is tagged "gallery", as PNG."""
    (cell,) = (cell for cell in notebook.cells if "gallery" in cell.metadata.get("tags", []))
    (found,) = (output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
    return base64.b64decode(found)


def draw() -> None:
    """Write the gallery's pictures, where they are not there already."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in TUTORIALS:
        drawn, there = picture(nbformat.read(EXECUTED / path.name, 4)), PICTURES / f"{path.stem}.png"
        if not there.exists() or there.read_bytes() != drawn:  # else Sphinx would read pages anew each time
            there.write_bytes(drawn)


def setup(app):
    """Execute what is missing when a build begins, and give Sphinx the executed notebooks."""

    def begin(_):
        execute_all([path for path in TUTORIALS if executed(path) is None])
        draw()

    def with_outputs(_, name, source):
        if name in names:
            source[0] = nbformat.writes(executed(DOCS / f"{name}.ipynb"))

    names = [f"tutorials/{path.stem}" for path in TUTORIALS]
    app.connect("builder-inited", begin)
    app.connect("env-get-outdated", lambda *_: names)  # the outputs may be new, though the notebooks are not
    app.connect("source-read", with_outputs)
    return {"parallel_read_safe": True}


def main(paths: Sequence[Path]) -> None:
    """Execute all notebooks, or only the one that is named."""
    if paths:
        (path,) = paths
        execute(path)
        return
    start = time.perf_counter()
    for path in TUTORIALS:
        (EXECUTED / path.name).unlink(missing_ok=True)
    try:
        execute_all(TUTORIALS)
    except RuntimeError as failures:
        sys.exit(str(failures))
    draw()
    print(f"{len(TUTORIALS)} tutorials: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
