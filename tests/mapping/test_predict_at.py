"""The field at any coordinates: continuous everywhere, and the same as the map at pixel centres."""

from dataclasses import replace
from itertools import product

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401
import xarray as xr

from misoxr.cube.augment import AUGMENTATIONS, augmented
from misoxr.cube.variables import FILL
from misoxr.errors import MisoxrWarning, PointsError, SpecError
from misoxr.grid.geobox import geobox_of
from misoxr.mapping.job import plan_of
from misoxr.spec import ModelSpec
from tests.conftest import make_cube, make_model, tiny_spec

NAMES = ("permafrost_probability", "taxonomy_probability")


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube((96, 80), spec.bands)


def scattered(cube, count, seed=0):
    """Points anywhere in a cube, not at pixel centres."""
    rng = np.random.default_rng(seed)
    west, south = float(cube.x[0]) - 10, float(cube.y[-1]) - 10
    x = west + rng.uniform(0, 20 * cube.sizes["x"], count)
    y = south + rng.uniform(0, 20 * cube.sizes["y"], count)
    return {"x": x, "y": y}


def test_pixel_centres_answer_as_the_map_does(cube, model):
    maps = cube.miso.predict(model, location=True, device="cpu").compute()
    lazy = cube.chunk({"y": 40, "x": 33})
    y, x = np.meshgrid(cube.y, cube.x, indexing="ij")
    order = np.random.default_rng(0).permutation(y.size)
    found = lazy.miso.predict_at(model, {"x": x.ravel()[order], "y": y.ravel()[order]}, location=True, device="cpu").compute()
    assert set(found.data_vars) == set(maps.data_vars)
    for name, values in maps.data_vars.items():
        expected = values.values.reshape(*values.shape[:-2], -1)[..., order]
        np.testing.assert_allclose(found[name].values, expected, atol=1e-5)
    assert found.taxonomy_probability.dims == ("taxon", "point")
    np.testing.assert_array_equal(found.x, x.ravel()[order])


@pytest.mark.parametrize("resolution", [5, 8, 50, 300])
def test_another_resolution_answers_as_its_coordinates_do(cube, model, resolution):
    maps = cube.chunk({"y": 40, "x": 33}).miso.predict(model, resolution=resolution, device="cpu")
    assert float(maps.x[1] - maps.x[0]) == resolution
    assert maps.rio.bounds()[0] == 300_000
    assert maps.rio.bounds()[3] == 1_500_000
    assert maps.sizes["x"] == round(1600 / resolution)
    maps = maps.compute()
    y, x = np.meshgrid(maps.y, maps.x, indexing="ij")
    rng = np.random.default_rng(0)
    some = rng.choice(y.size, min(3000, y.size), replace=False)
    found = cube.miso.predict_at(model, {"x": x.ravel()[some], "y": y.ravel()[some]}, device="cpu").compute()
    for name in NAMES:
        values = maps[name].values.reshape(*maps[name].shape[:-2], -1)[..., some]
        np.testing.assert_allclose(values, found[name].values, atol=1e-5)


def test_points_of_any_kind(cube, model):
    x, y = scattered(cube, 30).values()
    with pytest.raises(PointsError, match="points are a tuple; give a table"):
        cube.miso.predict_at(model, (x, y))
    series = gpd.GeoSeries(gpd.points_from_xy(x, y), crs="EPSG:3338")
    assert cube.miso.predict_at(model, series).sizes["point"] == 30
    frame = gpd.GeoDataFrame({"site": range(30)}, geometry=gpd.points_from_xy(x, y), crs="EPSG:3338", index=range(100, 130))
    one = cube.miso.predict_at(model, frame, device="cpu").compute()
    degrees = frame.to_crs("EPSG:4326")
    table = pd.DataFrame({"lon": degrees.geometry.x, "lat": degrees.geometry.y})
    arrays = xr.Dataset({"x": ("site", x), "y": ("site", y)})
    for other in (degrees, table, arrays, {"x": arrays.x, "y": arrays.y}):
        found = cube.miso.predict_at(model, other, device="cpu").compute()
        np.testing.assert_allclose(found.permafrost_probability, one.permafrost_probability, atol=1e-4)
    assert list(one.point.values) == list(range(100, 130))
    assert one.rio.crs == "EPSG:3338"
    assert one.permafrost.dtype == "uint8"
    assert one.attrs["model_sha256"] == model.sha256


def test_points_without_input_or_outside_have_no_answer(cube, model):
    holed = cube.copy(deep=True)
    for name in ("red", "nir"):
        holed[name][20:25, 10:14] = np.nan
    x, y = float(cube.x[10]), float(cube.y[20])
    points = {"x": [x - 9.9, x - 10.1, 0.0, x], "y": [y + 9.9, y + 9.9, 0.0, float(cube.y[40])]}
    with pytest.warns(MisoxrWarning, match="1 of 4 points lie outside the cube"):
        found = holed.miso.predict_at(model, points, device="cpu")
    found = found.compute()
    np.testing.assert_array_equal(np.isnan(found.permafrost_probability), [True, False, True, False])
    np.testing.assert_array_equal(found.taxonomy == FILL, [True, False, True, False])


def test_what_cannot_be_asked(cube, model, no_compute):
    with no_compute():
        with pytest.raises(PointsError, match="All 1 points lie outside"):
            cube.miso.predict_at(model, {"x": [0.0], "y": [0.0]})
        with pytest.raises(PointsError, match="give x and y"):
            cube.miso.predict_at(model, {"lon": [0.0]})
        with pytest.raises(PointsError, match="two lists of one length"):
            cube.miso.predict_at(model, {"x": [0.0], "y": [0.0, 1.0]})
        with pytest.raises(PointsError, match="no CRS"):
            cube.miso.predict_at(model, pd.DataFrame({"x": [0.0], "y": [0.0]}))
        with pytest.raises(SpecError, match="at most a window, 320 in units"):
            cube.miso.predict(model, resolution=321)
        with pytest.raises(SpecError, match="above 0"):
            cube.miso.predict(model, resolution=0)
        with pytest.raises(SpecError, match="'10m'; give a number"):
            cube.miso.predict(model, resolution="10m")


def test_nothing_is_computed_and_little_is_read(cube, model, no_compute):
    """Of a cube of 64 chunks, the points of one corner read the chunks that their windows meet."""
    read = set()

    def load(block_info=None):
        place = tuple(block_info[None]["chunk-location"])
        read.add(place)
        return np.full((12, 10), 0.3, dtype="float32")

    lazy = cube.map(
        lambda a: a.copy(data=da.map_blocks(load, chunks=((12,) * 8, (10,) * 8), dtype="float32", meta=np.empty((0, 0), "float32")))
    )
    with no_compute():
        found = lazy.miso.predict_at(model, {"x": cube.x.values[:3], "y": cube.y.values[:3]}, device="cpu")
    assert not read
    found.compute(scheduler="synchronous")
    assert read == {(y, x) for y in range(2) for x in range(2)}


# Continuity, in float64


def jumps(cube, model, x, y, angle, distances):
    """Greatest change of the field over each distance in metres, across the points. All are asked at once: each window is encoded once."""
    steps = [sign * d / 2 for d in distances for sign in (-1, 1)]
    ends = {"x": np.concatenate([x + step * np.cos(angle) for step in steps])}
    ends["y"] = np.concatenate([y + step * np.sin(angle) for step in steps])
    field = cube.miso.predict_at(model, ends, precision="float64", device="cpu").compute()
    changes = []
    for name in NAMES:
        values = field[name].transpose("point", ...).values.reshape(len(distances), 2, len(x), -1)
        changes.append(np.abs(values[:, 1] - values[:, 0]).max(axis=(1, 2)))
    return [float(change) for change in np.max(changes, axis=0)]


def places(cube, spec, kind, count, down=False):
    """Points of a kind, away from the cube's own edges, which a step would cross: on borders that run north, or east (down)."""
    rng = np.random.default_rng(1)
    west, north = float(cube.x[0]) - 10, float(cube.y[0]) + 10
    u, v = (rng.uniform(1, size - 1, count) for size in (cube.sizes["x"], cube.sizes["y"]))
    windows, plan = spec.windows, plan_of(geobox_of(cube), spec, None)
    _, *lattice, _ = (plan.y if down else plan.x).starts  # without the windows that are flush with the edges
    if kind == "cells":  # of every stage, in windows of the lattice
        u = rng.choice(lattice, count) + rng.integers(1, windows.size, count) / 2
    elif kind == "windows":
        middle = rng.choice(lattice, count) + (windows.size - windows.stride) / 2
        u = middle + rng.choice([-1, 0, 1], count) * (windows.size - windows.stride if windows.ramp is None else windows.ramp) / 2
    elif kind == "chunks":
        u = np.where(rng.random(count) < 0.5, 33.0, 66.0)
    if down:
        u, v = v, u
    return west + 20 * u, north - 20 * v


def test_no_position_is_rounded_beyond_the_edge(model):
    """161 pixels of 20 m in steps of 56 m: the last position and the edge round to the same number."""
    maps = make_cube((161, 40), model.spec.bands).chunk({"y": 70}).miso.predict(model, resolution=56, device="cpu")
    assert maps.sizes["y"] == 57
    assert np.isfinite(maps.permafrost_probability.compute()).all()


@pytest.mark.parametrize(
    ("preset", "kind"),
    [*product(["tiny", "short ramps", "miso-nano"], ["anywhere", "cells", "windows", "chunks"]), ("augmented", "windows")],
)
def test_the_field_is_continuous(preset, kind):
    spec = tiny_spec() if preset != "miso-nano" else ModelSpec.preset("miso-nano", pixel_size=20)
    if preset == "augmented":
        spec = replace(spec, windows=replace(spec.windows, tta="flips"))
    if preset == "short ramps":  # as the larger presets have them
        spec = replace(spec, windows=replace(spec.windows, ramp=2))
    model = make_model(spec)
    cube = make_cube((160, 160), spec.bands).chunk({"y": 33, "x": 33})
    count = 10_000 if kind == "anywhere" else 1_000
    for down in (False, True) if kind != "anywhere" else (False,):
        x, y = places(cube, spec, kind, count, down)
        # Borders run north, or east; a step in any direction but theirs crosses them.
        angle = (
            np.random.default_rng(2).uniform(-1, 1, count) if kind != "anywhere" else np.random.default_rng(2).uniform(0, 7, count)
        )
        wide, middle, narrow = jumps(cube, model, x, y, angle + np.pi / 2 * down, (0.01, 0.001, 0.0001))
        assert wide > 1e-9, "a flat field would be continuous"
        assert middle < 0.11 * wide
        assert narrow < 0.11 * middle


@pytest.mark.parametrize("tta", ["mirror", "flips", "dihedral"])
def test_a_turned_landscape_has_a_turned_map(spec, tta):
    """One window, whose bands are turned with their directions: answers averaged over all ways to turn it turn with it."""
    cube = make_cube((16, 16), spec.bands)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    model = make_model(replace(spec, windows=replace(spec.windows, tta=tta)))
    plain = replace(model, spec=spec)
    before = cube.miso.predict(model, device="cpu").compute().permafrost_probability.values
    for mirror, quarters in AUGMENTATIONS[tta][1:]:
        other = cube.copy()
        for band, values in zip(spec.bands, augmented(bands, spec, mirror, quarters), strict=True):
            other[band.name] = cube[band.name].copy(data=values)
        found, single = (other.miso.predict(one, device="cpu").compute().permafrost_probability.values for one in (model, plain))
        expected = np.rot90(before[:, ::-1] if mirror else before, quarters)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(single - expected).max() > 1e-3


def test_the_published_query_jumps():
    spec = tiny_spec(query="published")
    model = make_model(spec)
    cube = make_cube((160, 160), spec.bands).chunk({"y": 33, "x": 33})
    x, y = places(cube, spec, "cells", 1_000)
    # Its cells change hands 1e-6 of half a window (0.16 mm) beside their borders.
    wide, middle = jumps(cube, model, x, y, np.zeros(1_000), (0.01, 0.001))
    assert middle > 0.5 * wide > 1e-4
    x, y = places(cube, spec, "anywhere", 10_000)
    wide, _, narrow = jumps(cube, model, x, y, np.zeros(10_000), (10.0, 1.0, 0.1))
    assert narrow > 0.02 * wide, "somewhere among random points a step of ten centimetres crosses a jump"


def test_batches_do_not_matter_and_bytes_repeat(cube, model):
    points = scattered(cube, 500)
    one, again = (cube.miso.predict_at(model, points, device="cpu").compute() for _ in range(2))
    other = cube.miso.predict_at(model, points, batch_size=1, device="cpu").compute()
    for name in NAMES:
        assert one[name].values.tobytes() == again[name].values.tobytes()
        np.testing.assert_allclose(one[name], other[name], atol=1e-5)


def test_the_network_may_be_compiled(spec, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # processes that compile would import torch first
    model = make_model(replace(spec, modalities=spec.modalities[:1], tasks=spec.tasks[:1], location=None))
    small = make_cube((20, 20), model.spec.bands)
    points = scattered(small, 5)
    plain = small.miso.predict_at(model, points, device="cpu").compute()
    compiled = small.miso.predict_at(model, points, device="cpu", compile=True).compute()
    np.testing.assert_allclose(compiled.permafrost_probability, plain.permafrost_probability, atol=1e-5)


def test_regressions_and_chosen_tasks(spec, cube, model):
    from misoxr.spec import Task

    depth = make_model(replace(spec, tasks=(Task("organic_thickness", "regression", units="cm"),)))
    found = cube.miso.predict_at(depth, scattered(cube, 9), device="cpu").compute()
    assert found.organic_thickness.dims == ("point",)
    assert list(cube.miso.predict_at(model, scattered(cube, 9), tasks=["taxonomy"])) == ["taxonomy_probability", "taxonomy"]


def test_answers_can_be_asked_again_and_tell_their_crs(cube, model):
    x, y = scattered(cube, 30).values()
    one = cube.miso.predict_at(model, {"x": x, "y": y}, device="cpu").compute()
    place = gpd.GeoSeries(gpd.points_from_xy(x, y), crs="EPSG:3338").to_crs("EPSG:4326")
    degrees = xr.Dataset(
        {"x": ("site", place.x), "y": ("site", place.y)}, {"spatial_ref": ((), 0, {"crs_wkt": place.crs.to_wkt()})}
    )
    for other in (one, degrees):
        found = cube.miso.predict_at(model, other, device="cpu").compute()
        np.testing.assert_allclose(found.permafrost_probability, one.permafrost_probability, atol=1e-4)
    with pytest.raises(PointsError, match="says otherwise; leave crs out"):
        cube.miso.predict_at(model, degrees, crs="EPSG:3338")
    with pytest.raises(PointsError, match=r"x lies along \('x',\) and y along \('y',\)"):
        cube.miso.predict_at(model, cube)


def test_labels_of_points_that_are_asked_do_not_matter(cube, model):
    x, y = scattered(cube, 4).values()
    frame = gpd.GeoDataFrame({"permafrost": [[0, 1], 1, "?", None]}, geometry=gpd.points_from_xy(x, y), crs="EPSG:3338")
    assert cube.miso.predict_at(model, frame).sizes["point"] == 4
