"""Run a tutorial in a real JupyterLab, in headless Chromium, and look at what a reader sees.

    python benchmarks/jupyterlab.py [docs/tutorials/imagery-to-map.ipynb] [--pictures demo/jupyterlab] [--seconds 900]

A JupyterLab is started on 127.0.0.1, with settings of its own. The notebook's cells are all run there, and each output is kept as a picture. The run fails if
an output is an error or red (stderr), or if a number in a table wraps. It needs the group "browser", the extra "jupyter", Chromium and its driver.
"""

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium import webdriver
from selenium.webdriver.common.by import By

HOST = "127.0.0.1"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,1000")
CELLS = "window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code')"
RAN = f"{CELLS}.every(cell => cell.model.executionState === 'idle' && cell.model.executionCount !== null)"
STATES = f"return {CELLS}.map(cell => [cell.model.executionState, cell.model.executionCount])"
FAULTS = f"""{CELLS}.flatMap((cell, at) => cell.model.outputs.toJSON().filter(
    output => output.output_type === 'error' || output.name === 'stderr'
).map(output => `cell ${{at + 1}}: ` + (output.evalue || output.text)))"""
WRAPPED = """return [...document.querySelectorAll('.jp-OutputArea-output td, .jp-OutputArea-output th')].filter(cell => {
    const range = document.createRange(); range.selectNodeContents(cell);
    const number = /^[\\s\\d.,±+−()%-]+$/.test(cell.textContent);  // text may flow, a number may not
    return number && new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1;
}).map(cell => cell.textContent)"""
KINDS = ", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("stderr", "error"))
RED = f"return document.querySelectorAll('{KINDS}').length"


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Start a JupyterLab that serves a folder, and yield the address of its documents, with %s for a name."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    token, own = secrets.token_hex(16), folder / ".jupyter"
    settings = own / "settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # all cells stay in the page
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = os.environ | {name: str(own / place) for name, place in places.items()} | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--ServerApp.ip={HOST}",
        f"--ServerApp.port={port}",
    ]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    command += ["--LabApp.news_url=None", "--ServerApp.port_retries=0"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://{HOST}:{port}/api", server, folder / "server.log")
            yield f"http://{HOST}:{port}/doc/tree/%s?token={token}"
        finally:
            server.terminate()
            server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 240.0) -> None:
    """Return once the address answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"JupyterLab does not answer ({error}):\n{log.read_text()[-2000:]}") from error
            time.sleep(0.5)


def until(browser: webdriver.Chrome, script: str, seconds: float, what: str) -> None:
    """Return once a script answers true."""
    end = time.monotonic() + seconds
    while not browser.execute_script(script):
        if time.monotonic() > end:
            raise RuntimeError(f"{what} took more than {seconds:.0f} s. Cells: {browser.execute_script(STATES)}")
        time.sleep(1)


def run(browser: webdriver.Chrome, address: str, seconds: float) -> None:
    """Open a notebook and run all of its cells, to the end."""
    browser.set_page_load_timeout(300)
    browser.set_script_timeout(30)
    browser.get(address)
    ready = "const app = window.jupyterapp; const shown = app && app.shell.currentWidget;"
    ready += "return Boolean(shown && shown.content && shown.content.widgets && shown.content.widgets.length > 1"
    ready += " && shown.sessionContext.session && shown.sessionContext.session.kernel)"
    until(browser, ready, 300, "Opening the notebook")
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    ended = f"return ({RAN}) || ({FAULTS}).length > 0"
    until(browser, ended, seconds, "Running the cells")


def pictures(browser: webdriver.Chrome, folder: Path) -> int:
    """Scroll through the notebook, and keep each output and each screen."""
    outputs = browser.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-OutputArea-output")
    for number, output in enumerate(outputs):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", output)
        time.sleep(0.3)
        if output.size["height"] and output.size["width"]:
            output.screenshot(str(folder / f"output-{number:02d}.png"))
            browser.save_screenshot(str(folder / f"screen-{number:02d}.png"))
    return len(outputs)


def main(notebook: Path, folder: Path, seconds: float) -> None:
    """Run, keep pictures, and fail on what a reader should not see."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with TemporaryDirectory() as name:
        place = Path(name)
        shutil.copy(notebook, place)
        with jupyterlab(place) as address:
            browser = webdriver.Chrome(options, service)
            try:
                start = time.perf_counter()
                run(browser, address % notebook.name, seconds)
                took = time.perf_counter() - start
                count = pictures(browser, folder)
                faults, wrapped, red = (browser.execute_script(script) for script in (f"return {FAULTS}", WRAPPED, RED))
            finally:
                browser.quit()
    print(f"{notebook.name}: all cells ran in {took:.0f} s; {count} outputs, pictures in {folder}")
    print(f"errors and stderr: {faults or 'none'}; red outputs: {red}; numbers in tables that wrap: {wrapped or 'none'}")
    if faults or wrapped or red or not count:
        sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("notebook", type=Path, nargs="?", default=root / "docs/tutorials/imagery-to-map.ipynb")
    parser.add_argument("--pictures", type=Path, default=root / "demo/jupyterlab")
    parser.add_argument("--seconds", type=float, default=900)
    given = parser.parse_args()
    main(given.notebook, given.pictures, given.seconds)
