"""A notebook shows each figure once: the inline backend and IPython's last expression do not both show it."""

import pickle
import subprocess
import sys

import matplotlib
import pytest
from matplotlib import pyplot

from misoxr.plot.canvas import grid_of

matplotlib.use("Agg")
pytest.importorskip("matplotlib_inline")

CODE = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.displaypub import CapturingDisplayPublisher

shown = []
shell = InteractiveShell.instance()
shell.display_pub = CapturingDisplayPublisher(parent=shell)


class Hook(type(shell.displayhook)):
    def write_format_data(self, data, metadata=None):
        shown.append(data)


shell.displayhook.__class__ = Hook
import matplotlib
matplotlib.use("module://matplotlib_inline.backend_inline")


def pictures(code):
    shown.clear()
    shell.display_pub.outputs.clear()
    result = shell.run_cell(code)
    result.raise_error()
    data = [*shown, *(one["data"] for one in shell.display_pub.outputs)]
    return sum("image/png" in one for one in data)


shell.run_cell('''
import numpy as np, xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
import misoxr
from misoxr.grid.geobox import assign
maps = assign(xr.Dataset({"p_probability": (("y", "x"), np.eye(9))}), GeoBox((9, 9), Affine(20, 0, 0, 0, -20, 0), "EPSG:3338"))
''')
told = [
    pictures("maps.miso.plot()"),
    pictures("figure = maps.miso.plot()"),
    pictures("figure"),
    pictures("figure = maps.miso.plot(); display(figure)"),
    pictures("misoxr.plot.probability(maps.p_probability)"),
    pictures("None"),
]
print(f"\\n{told}")
"""


def test_a_figure_is_shown_once_by_the_inline_backend():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().splitlines()[-1] == "[1, 1, 1, 1, 1, 0]"


def test_in_a_script_pyplot_shows_it():
    figure, _ = grid_of(1, 1, {}, {}, [])
    assert pyplot.get_fignums() == [figure.number]
    assert type(pickle.loads(pickle.dumps(figure))).__name__ == "ShownOnce"
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert pyplot.get_fignums(), "another backend than inline shows it in a window, which stays open"
    pyplot.close("all")
