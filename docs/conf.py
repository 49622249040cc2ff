"""Sphinx configuration. It builds without a network; where there is one, names of other packages link to their documentation."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from misoxr import __version__

project = "misoxr"
author = "the misoxr developers"
copyright = "2026, the misoxr developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "architecture",
    "figures",
    "tutorials",
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}  # autosummary writes with the first
nb_execution_mode = "off"  # _ext/tutorials.py executes them, two at a time
exclude_patterns = ["_build", "_generated/*.md"]
templates_path = ["_templates"]

# Read the Docs has a network. Set MISOXR_DOCS_ONLINE to link on other machines, too.
if os.environ.get("READTHEDOCS") == "True" or "MISOXR_DOCS_ONLINE" in os.environ:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "xarray": ("https://docs.xarray.dev/en/stable", None),
        "dask": ("https://docs.dask.org/en/stable", None),
        "distributed": ("https://distributed.dask.org/en/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "geopandas": ("https://geopandas.org/en/stable", None),
        "odc-geo": ("https://odc-geo.readthedocs.io/en/latest", None),
    }
    numpydoc_xref_param_type = True
    numpydoc_xref_aliases = {
        "Dataset": "xarray.Dataset",
        "DataArray": "xarray.DataArray",
        "GeoDataFrame": "geopandas.GeoDataFrame",
        "DataFrame": "pandas.DataFrame",
        "Series": "pandas.Series",
        "Model": "misoxr.Model",
        "ModelSpec": "misoxr.ModelSpec",
        "WindowSpec": "misoxr.WindowSpec",
        "Scores": "misoxr.Scores",
        "dask array": "dask.array.Array",
    }
    numpydoc_xref_ignore = "all"

# A cross-reference that leads nowhere is a warning. Types of other packages need a network.
nitpicky = True
nitpick_ignore_regex = [("py:(class|obj|exc)", r"(?!misoxr\.).*")]

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["gallery.css"]
html_title = f"misoxr {release}"
