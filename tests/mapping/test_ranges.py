"""Inputs far outside training are told once a map, wherever it is computed."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from misoxr.errors import MisoxrWarning
from misoxr.estimators.baselines import Baseline
from misoxr.mapping.ranges import Ranges
from tests.conftest import make_cube

COUNTS = (
    r"\['red', 'nir'\] lie far outside .* in up to 100% of the pixels of a block: 'red' is \d+.* Check the units, scale and offset"
)


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube((48, 64), spec.bands).chunk({"y": 16, "x": 32})


@pytest.fixture(scope="module")
def counts(cube):
    """The cube, with reflectance as counts."""
    return cube.assign({name: (cube[name] * 10_000).assign_attrs(cube[name].attrs) for name in ("red", "nir")})


def told(function):
    """Return what a call warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    return [str(one.message) for one in found if issubclass(one.category, MisoxrWarning)]


def test_one_warning_names_bands_and_share(counts, model, tmp_path, no_compute):
    with no_compute():
        maps = counts.miso.predict(model, device="cpu")
    with pytest.warns(MisoxrWarning, match=COUNTS) as found:
        maps.miso.to_zarr(tmp_path / "maps.zarr", progress=False)
    assert sum("far outside" in str(one.message) for one in found) == 1


def test_the_cube_of_training_is_no_reason_to_warn(cube, model):
    assert told(lambda: cube.miso.predict(model, device="cpu").compute()) == []


def test_a_cluster_tells_its_client(counts, model):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None),
        pytest.warns(MisoxrWarning, match=COUNTS),
    ):
        counts.miso.predict(model, device="cpu").permafrost.compute()


def test_copies_of_a_process_warn_once(spec, model, counts):
    ranges = Ranges.of(spec, model.scaling)
    bands = np.stack([counts[band.name].values for band in spec.bands])
    copies = [pickle.loads(pickle.dumps(ranges)) for _ in range(3)]
    assert len(told(lambda: [copy.look(bands) for copy in copies])) == 1
    assert len(told(lambda: [ranges.look(bands), ranges.look(bands)])) == 1


def test_few_pixels_and_directions_tell_nothing(spec, model, counts):
    bands = np.stack([counts[band.name].values for band in spec.bands])
    assert told(lambda: Ranges.of(spec, model.scaling).look(bands[:, :9, :9])) == []
    assert [one.name for one in Ranges.of(spec, model.scaling).bands] == ["red", "nir", "elevation"]
    assert Ranges.of(spec, None).bands == ()
    assert told(lambda: Ranges(()).look(np.empty((0, 4, 4)))) == []


def test_a_map_does_not_depend_on_who_has_warned(spec, model, counts):
    from dask.base import tokenize

    one, other = (Ranges.of(spec, model.scaling) for _ in range(2))
    told(lambda: one.look(np.stack([counts[band.name].values for band in spec.bands])))
    assert tokenize(one) == tokenize(other) != tokenize(Ranges(()))


def test_estimators_that_scale_bands_tell_it_too(cube, counts, spec, points_of):
    trees = Baseline(DecisionTreeClassifier(max_depth=2), "neighbourhood", "standard")
    forest = cube.miso.fit(trees, points_of(cube), like=spec, tasks=["permafrost"])
    with pytest.warns(MisoxrWarning, match=COUNTS):
        counts.miso.predict(forest).compute()
    assert told(lambda: cube.miso.predict(forest).compute()) == []


@pytest.fixture
def points_of():
    import geopandas as gpd

    def make(cube):
        rows, columns = np.meshgrid(np.arange(1, 48, 4), np.arange(1, 64, 4), indexing="ij")
        rows, columns = rows.ravel(), columns.ravel()
        wet = cube.red.values[rows, columns] > np.median(cube.red.values)
        place = gpd.points_from_xy(cube.x.values[columns], cube.y.values[rows])
        return gpd.GeoDataFrame({"permafrost": wet}, geometry=place, crs="EPSG:3338")

    return make
