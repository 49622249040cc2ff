"""Pictures show every map, in the classes' own colours, and never load more than they show."""

import dask.array as da
import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from misoxr.display.maps import _coarse, classes, plot

from misoxr.errors import BandError, PointsError
from misoxr.evaluation.scores import Scores
from misoxr.spec import PERMAFROST
from tests.conftest import make_cube

matplotlib.use("Agg")


def test_a_map_has_a_panel_for_each_layer(model, spec):
    cube = make_cube((40, 40), spec.bands)
    maps = cube.miso.predict(model, device="cpu").compute()
    maps.attrs["simulated"] = 1
    figure = maps.miso.plot()
    drawn = [axis for axis in figure.axes if axis.images and axis.get_xlabel() == "x (km)"]
    assert len(drawn) == 2
    assert "Simulated" in figure.get_suptitle()
    legend = drawn[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(spec.task("taxonomy").classes)
    left, right, bottom, top = drawn[0].images[0].get_extent()
    assert (left, right, bottom, top) == pytest.approx((300.0, 300.8, 1499.2, 1500.0))


def test_classes_are_drawn_in_their_colours(model, spec):
    cube = make_cube((20, 20), spec.bands)
    maps = cube.miso.predict(model, device="cpu").compute()
    maps["taxonomy"][3, 4] = 255
    _, axes = matplotlib.pyplot.subplots()
    classes(maps.taxonomy, axes)
    image = axes.images[0].get_array()
    colours = [matplotlib.colors.to_rgb(colour) for colour in spec.task("taxonomy").colors]
    np.testing.assert_allclose(image[3, 4], (1, 1, 1))
    np.testing.assert_allclose(image[0, 0], colours[int(maps.taxonomy[0, 0])])


def test_large_maps_are_thinned():
    large = xr.DataArray(da.zeros((2000, 1600), chunks=400), dims=("y", "x"))
    assert _coarse(large).shape == (1000, 800)


def test_true_colour_needs_its_bands(model, spec):
    cube = make_cube((20, 20), spec.bands)
    with pytest.raises(BandError, match="green"):
        plot(cube.miso.predict(model, device="cpu"), image=cube)


def test_a_cube_without_maps_is_refused(spec):
    cube = make_cube((20, 20), spec.bands)
    for image in (None, cube):
        with pytest.raises(BandError, match="no probability and no class map among"):
            plot(cube, image=image)


def test_scores_are_compared_in_bars_and_dots():
    rng = np.random.default_rng(0)
    rows = [
        {"model": model, "seed": seed, "fold": fold, "task": "permafrost", "point": point, "region": None, "truth": point % 2}
        for model in ("miso", "rf-11")
        for seed in (0, 1)
        for fold in (0, 1, 2)
        for point in range(6 * fold, 6 * fold + 6)
    ]
    predictions = pd.DataFrame(rows).assign(p0=rng.random(len(rows)), seconds=1.0)
    found = Scores(predictions, (PERMAFROST,), {"cv": "KFold(3)", "simulated": True})
    axis = found.plot("recall")
    assert [text.get_text() for text in axis.get_yticklabels()] == ["miso", "rf-11"]
    assert [len(line.get_xdata()) for line in axis.lines] == [6, 6]
    assert axis.get_title().startswith("SIMULATED")
    assert axis.get_xlabel() == "recall of permafrost"
    with pytest.raises(PointsError, match="no score 'f7'"):
        found.plot("f7")
