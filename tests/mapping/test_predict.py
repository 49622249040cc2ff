"""The map: lazy, covering, the same for any chunking, NaN where there is no valid input."""

import json
import pickle
import warnings
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from misoxr.cube.variables import FILL
from misoxr.errors import BandError, GridError, MisoxrWarning, SpecError
from misoxr.mapping.predict import predict
from misoxr.spec import PERMAFROST, ModelSpec, Task, WindowSpec
from misoxr.spec.standardisation import Standardisation
from tests.conftest import make_cube, make_model, tiny_spec


def chunks_of(length: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Chunks that sum to a length, of any sizes."""
    cuts = st.sets(st.integers(1, length - 1), max_size=4)
    return cuts.map(lambda inner: tuple(int(n) for n in np.diff([0, *sorted(inner), length])))


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube((61, 47), spec.bands)


@pytest.fixture(scope="module")
def whole(cube, model):
    return cube.miso.predict(model, device="cpu").compute()


def plain_map(cube, model, windows):
    """The procedure written out plainly: every window, every pixel, weights from their definition."""
    spec = model.spec
    height, width = cube.sizes["y"], cube.sizes["x"]
    bands = np.stack([cube[band.name].values for band in spec.bands])
    inputs = {name: torch.from_numpy(values[None]) for name, values in model.scaling.apply(spec, bands).items()}
    top, left = round(-float(cube.y[0] + 10) / 20), round(float(cube.x[0] - 10) / 20)

    def starts(length, first):
        lattice = [s for s in range(length - windows.size + 1) if (s + first) % windows.stride == 0]
        return sorted({0, length - windows.size, *lattice})

    def taper(start, length, first):
        ramp = windows.size - windows.stride
        t = start + np.arange(windows.size) + 0.5
        before, after = ([s for s in starts(length, first) if sign * (s - start) > 0] for sign in (-1, 1))
        middle = [(s + start + windows.size) / 2 for s in (*before[-1:], *after[:1])]
        rise = (t - middle[0]) / ramp + 0.5 if before else np.ones(windows.size)
        fall = (middle[-1] - t) / ramp + 0.5 if after else np.ones(windows.size)
        return (1 - np.cos(np.pi * np.clip(np.minimum(rise, fall), 0, 1))) / 2

    total, weights = np.zeros((8, height, width)), np.zeros((height, width))
    centres = torch.from_numpy((2 * np.arange(windows.size) + 1) / windows.size - 1).float()
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x.ravel(), y.ravel()], -1)
    for row in starts(height, top):
        for column in starts(width, left):
            cut = np.s_[..., row : row + windows.size, column : column + windows.size]
            with torch.no_grad():
                cells = model.network.project({name: values[cut] for name, values in inputs.items()})
                logits = model.network(cells, torch.zeros(len(points), dtype=torch.long), points)
            p = torch.cat([logits["permafrost"].sigmoid(), logits["taxonomy"].softmax(-1)], -1).T
            weight = np.outer(taper(row, height, top), taper(column, width, left))
            total[cut] += p.reshape(8, windows.size, windows.size).numpy() * weight
            weights[cut[1:]] += weight
    return total / weights


def test_equals_the_plain_procedure(cube, model, whole):
    expected = plain_map(cube, model, model.spec.windows)
    np.testing.assert_allclose(whole.permafrost_probability, expected[0], atol=1e-5)
    np.testing.assert_allclose(whole.taxonomy_probability, expected[1:], atol=1e-5)
    assert whole.permafrost_probability.std() > 0.01, "a flat map would equal anything"


def test_names_dims_and_attributes(whole, model, cube):
    assert set(whole.data_vars) == {"permafrost_probability", "permafrost", "taxonomy_probability", "taxonomy"}
    assert whole.taxonomy_probability.dims == ("taxon", "y", "x")
    assert list(whole.taxon.values) == list(model.spec.task("taxonomy").classes)
    assert whole.permafrost_probability.dtype == "float32"
    assert whole.taxonomy.dtype == "uint8"
    assert whole.taxonomy.attrs["flag_meanings"].split() == list(model.spec.task("taxonomy").classes)
    assert len(whole.taxonomy.attrs["flag_colors"].split()) == 7
    assert whole.taxonomy.attrs["_FillValue"] == FILL
    assert whole.permafrost_probability.attrs["grid_mapping"] == "spatial_ref"
    assert whole.attrs["model_sha256"] == model.sha256
    np.testing.assert_array_equal(whole.x, cube.x)
    np.testing.assert_allclose(whole.taxonomy_probability.sum("taxon"), 1, atol=1e-5)


@pytest.mark.parametrize(
    "names", [("sol\u00a0brun", "a  b", "a\tc"), ("(0, 10]", "(10, 20]", "(20, 30]"), ("e\u0301te\u0301", "sec", "gel")]
)
def test_maps_know_their_classes_however_they_are_named(spec, cube, names):
    ground = Task("ground", "multiclass", names)
    maps = cube.miso.predict(make_model(replace(spec, tasks=(ground,))), device="cpu")
    table = maps.miso.area().loc["ground"]
    assert list(table.counted[:3] > 0) == list(table.expected[:3] > 0) == [True] * 3
    np.testing.assert_allclose(table.expected[:3].sum(), table.counted[:3].sum())


def test_classes_follow_probabilities(whole):
    np.testing.assert_array_equal(whole.taxonomy, whole.taxonomy_probability.argmax("taxon"))
    np.testing.assert_array_equal(whole.permafrost, whole.permafrost_probability >= 0.5)
    assert len(np.unique(whole.taxonomy)) > 1


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(y=chunks_of(61), x=chunks_of(47), batch=st.sampled_from([1, 3, 8]))
def test_any_chunking_gives_the_same_map(cube, model, whole, y, x, batch):
    maps = cube.chunk({"y": y, "x": x}).miso.predict(model, device="cpu", batch_size=batch).compute()
    for name in ("permafrost_probability", "taxonomy_probability"):
        np.testing.assert_allclose(maps[name], whole[name], atol=1e-5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 40), width=st.integers(2, 40), stride=st.integers(5, 15), row=st.integers(0, 30), data=st.data())
@pytest.mark.filterwarnings("ignore:.*lie far outside")  # a few pixels of noise may
def test_every_pixel_is_covered_whatever_the_size(model, height, width, stride, row, data):
    windows = WindowSpec(16, 16, stride)
    cube = make_cube((height, width), model.spec.bands, origin=(300_000.0, 1_500_000.0 - 20 * row))
    chunked = cube.chunk({"y": data.draw(chunks_of(height)), "x": data.draw(chunks_of(width))})
    if min(height, width) < 16:
        with pytest.warns(MisoxrWarning, match="less than a window of 16"):
            one, other = (ds.miso.predict(model, windows=windows, device="cpu") for ds in (cube, chunked))
    else:
        one, other = (ds.miso.predict(model, windows=windows, device="cpu") for ds in (cube, chunked))
    one, other = dask.compute(one, other)
    assert one.permafrost_probability.notnull().all()
    assert (one.taxonomy != FILL).all()
    np.testing.assert_allclose(one.permafrost_probability, other.permafrost_probability, atol=1e-5)


def test_a_larger_dataset_gives_the_same_map_away_from_its_edges(model, spec):
    large = make_cube((96, 96), spec.bands)
    small = large.isel(y=slice(10, 80), x=slice(7, 90))
    one = large.miso.predict(model, device="cpu").permafrost_probability.isel(y=slice(10, 80), x=slice(7, 90))
    other = small.miso.predict(model, device="cpu").permafrost_probability
    inner = {"y": slice(16, -16), "x": slice(16, -16)}
    np.testing.assert_allclose(one.isel(inner), other.isel(inner), atol=1e-5)


def test_nothing_is_computed_while_building(cube, model, no_compute):
    lazy = cube.chunk({"y": 20, "x": 20})
    with no_compute():
        maps = lazy.miso.predict(model, location=True, device="cpu")
    assert all(isinstance(variable.data, da.Array) for variable in maps.data_vars.values())


def test_numpy_backed_cubes_work_and_stay_lazy(cube, model):
    maps = cube.miso.predict(model, device="cpu")
    assert maps.permafrost.chunks is not None
    assert maps.permafrost.compute().shape == (61, 47)


@pytest.mark.parametrize("side", [16, 40])
def test_a_cube_in_memory_is_not_written_to(model, spec, side):
    """Windows are scaled where they were cut to, one or several of them."""
    cube = make_cube((side, side), spec.bands)
    before = cube.copy(deep=True)
    cube.miso.predict(model, device="cpu").compute()
    xr.testing.assert_identical(cube, before)


def test_no_valid_input_is_nan_to_the_end(cube, model, whole):
    holed = cube.copy(deep=True)
    for name in ("red", "nir"):
        holed[name][20:25, 10:14] = np.nan
    holed["red"][40, 40] = np.nan
    holed["elevation"][5:9, 5:9] = np.nan
    maps = holed.chunk({"y": 30, "x": 30}).miso.predict(model, device="cpu").compute()
    empty = np.zeros((61, 47), dtype=bool)
    empty[20:25, 10:14] = True
    np.testing.assert_array_equal(np.isnan(maps.permafrost_probability), empty)
    np.testing.assert_array_equal(np.isnan(maps.taxonomy_probability).any("taxon"), empty)
    np.testing.assert_array_equal(maps.taxonomy == FILL, empty)
    np.testing.assert_array_equal(maps.permafrost == FILL, empty)


def test_an_empty_cube_gives_an_empty_map(cube, model):
    maps = xr.full_like(cube, np.nan).miso.predict(model, location=True, device="cpu").compute()
    assert maps.permafrost_location_probability.isnull().all()
    assert (maps.permafrost == FILL).all()


def test_an_optional_modality_may_be_missing(cube, model):
    with pytest.warns(MisoxrWarning, match="lacks the optional bands"):
        maps = cube.drop_vars(["aspect", "elevation"]).miso.predict(model, device="cpu").compute()
    empty = cube.assign(aspect=cube.aspect * np.nan, elevation=cube.elevation * np.nan)
    empty.aspect.attrs, empty.elevation.attrs = cube.aspect.attrs, cube.elevation.attrs
    same = empty.miso.predict(model, device="cpu").compute()
    np.testing.assert_allclose(maps.permafrost_probability, same.permafrost_probability, atol=1e-6)


def test_tasks_and_location(cube, model):
    maps = cube.chunk({"y": 31, "x": 47}).miso.predict(model, tasks=["permafrost"], location=True, device="cpu").compute()
    assert set(maps.data_vars) == {"permafrost_probability", "permafrost", "permafrost_location_probability"}
    west, south, east, north = model.spec.location.extent
    x, y = np.meshgrid(cube.x, cube.y)
    scaled = np.stack([2 * (x - west) / (east - west) - 1, 2 * (north - y) / (north - south) - 1], -1)
    with torch.no_grad():
        logits = model.network.locate(torch.from_numpy(scaled.reshape(-1, 2)).float())["permafrost"]
    expected = logits.sigmoid().reshape(61, 47)
    np.testing.assert_allclose(maps.permafrost_location_probability, expected, atol=1e-5)


def test_units_are_converted(cube, model, whole):
    other = cube.assign(elevation=cube.elevation / 1000, aspect=np.deg2rad(cube.aspect))
    other.elevation.attrs["units"], other.aspect.attrs["units"] = "km", "radian"
    maps = other.miso.predict(model, device="cpu").compute()
    np.testing.assert_allclose(maps.permafrost_probability, whole.permafrost_probability, atol=1e-4)


def test_bfloat16_is_near(cube, model, whole):
    maps = cube.miso.predict(model, device="cpu", precision="bfloat16").compute()
    difference = np.abs(maps.permafrost_probability - whole.permafrost_probability)
    assert 0 < difference.mean() < 0.02


@pytest.mark.parametrize("taper", ["cosine", "linear"])
def test_no_seam_where_windows_begin(model, spec, taper):
    """With a taper that falls to zero, steps across window borders are no larger than steps elsewhere."""
    cube = make_cube((96, 96), spec.bands)
    windows = WindowSpec(16, 16, 12, taper)
    p = cube.miso.predict(model, windows=windows, device="cpu").permafrost_probability.compute().values
    steps = np.abs(np.diff(p, axis=1)).mean(axis=0)
    offset = int(cube.x[0] - 10) // 20
    at_border = (np.arange(1, 96) + offset) % 12 == 0
    naive = windows.__class__(16, 16, 16, "gaussian")
    seams = np.abs(np.diff(cube.miso.predict(model, windows=naive, device="cpu").permafrost_probability.values, axis=1)).mean(
        axis=0
    )
    naive_border = (np.arange(1, 96) + offset) % 16 == 0
    ratio = steps[at_border].mean() / steps[~at_border].mean()
    naive_ratio = seams[naive_border].mean() / seams[~naive_border].mean()
    assert ratio < 1.3 < naive_ratio


def test_the_graph_of_a_16_chunk_map_stays_small():
    spec = ModelSpec.preset("miso-small", pixel_size=20)
    model = make_model(spec)
    cube = make_cube((1024, 1024), spec.bands).chunk({"y": 256, "x": 256})
    lazy = cube.map(lambda array: array.copy(data=da.zeros(array.shape, chunks=array.chunks, dtype="float32")))
    maps = lazy.miso.predict(model, device="cpu")
    assert maps.permafrost.data.npartitions == 16
    assert len(pickle.dumps(dict(maps.__dask_graph__()))) < 1_000_000


def test_regressions_give_values(spec, cube):
    model = make_model(replace(spec, tasks=(Task("organic_thickness", "regression", long_name="organic layer", units="cm"),)))
    maps = cube.miso.predict(model, location=True, device="cpu").compute()
    assert set(maps.data_vars) == {"organic_thickness", "organic_thickness_location"}
    assert maps.organic_thickness.dtype == "float32"
    assert maps.organic_thickness.attrs["units"] == "cm"


@pytest.mark.parametrize(("shift", "scale"), [(2e-6, 1e-6), (1e5, 1.0), (-1e9, 1e3), (3.25, 0.0)])
def test_regressions_are_answered_in_the_units_of_their_labels(spec, shift, scale):
    """By imagery and by location, on maps and at points, blended, averaged over test-time augmentations and over models: as the labels were, to
    float32's digits.
    """
    cube, plain = make_cube((25, 28), spec.bands), make_model(replace(spec, tasks=(PERMAFROST, Task("soc", "regression"))))
    windows = replace(spec.windows, tta="mirror")
    models = [replace(plain, standardisation={"soc": Standardisation(shift + k * scale, scale)}) for k in (0, 1)]
    ways = {
        "map": lambda model: cube.miso.predict(model, location=True, windows=windows, device="cpu"),
        "points": lambda model: cube.miso.predict_at(model, {"x": [300_333.0], "y": [1_499_744.0]}, location=True, device="cpu"),
    }
    for way in ways.values():
        before, after, mean = (way(which).compute() for which in (plain, models[0], models))
        room = {"rtol": float(np.finfo("float32").eps), "atol": 1e-5 * scale}
        for name in ("soc", "soc_location"):
            assert after[name].dtype == "float32"
            np.testing.assert_allclose(after[name], before[name].values.astype("float64") * scale + shift, **room)
            np.testing.assert_allclose(mean[name], before[name].values.astype("float64") * scale + shift + scale / 2, **room)
        spread = max(scale / 2, np.spacing(np.float32(abs(shift))))
        assert np.abs(mean.soc_std - scale / 2).max() <= spread
        np.testing.assert_allclose(after.permafrost_probability, before.permafrost_probability, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_cpu_map(cube, model, whole):
    maps = cube.miso.predict(model, device="cuda", precision="float32").compute()
    np.testing.assert_allclose(maps.permafrost_probability, whole.permafrost_probability, atol=1e-3)


def test_bad_input_is_refused_when_the_graph_is_built(cube, model, spec, no_compute):
    with no_compute():
        with pytest.raises(BandError, match="nir"):
            cube.drop_vars("nir").miso.predict(model)
        with pytest.raises(GridError, match="no CRS"):
            cube.drop_vars("spatial_ref").miso.predict(model)
        with pytest.raises(GridError, match="pixel"):
            cube.isel(y=slice(None, None, 2), x=slice(None, None, 2)).miso.predict(model)
        with pytest.raises(SpecError, match="no task 'peat'"):
            cube.miso.predict(model, tasks=["peat"])
        with pytest.raises(SpecError, match="tasks is empty"):
            cube.miso.predict(model, tasks=[])
        with pytest.raises(SpecError, match=r"tasks is 'permafrost'; give a list"):
            cube.miso.predict(model, tasks="permafrost")
        with pytest.raises(SpecError, match="must be a whole number"):
            cube.miso.predict(model, batch_size=1.5)
        with pytest.raises(SpecError, match="windows is 64; give a WindowSpec"):
            cube.miso.predict(model, windows=64)
        with pytest.raises(SpecError, match=r"ds\.miso\.fit\('miso-nano', points\)"):
            cube.miso.predict("miso-nano")
        with pytest.raises(SpecError, match="LogisticRegression is no model of misoxr"):
            cube.miso.predict(LogisticRegression())
        with pytest.raises(GridError, match="0 x 47 pixels"):
            cube.isel(y=slice(0, 0)).miso.predict(model)
        with pytest.raises(SpecError, match="'meta' is not known"):
            cube.miso.predict(model, device="meta")
        with pytest.raises(GridError, match="north-up"):
            cube.isel(y=slice(None, None, -1)).miso.predict(model)
        with pytest.raises(SpecError, match="batch size"):
            cube.miso.predict(model, batch_size=0)
        with pytest.raises(SpecError, match="precision"):
            cube.miso.predict(model, precision="float8")
        with pytest.raises(SpecError, match="device"):
            cube.miso.predict(model, device="abacus")
        with pytest.raises(SpecError, match="inputs of 16 pixels"):
            cube.miso.predict(model, windows=WindowSpec(32, 32, 24))
        with pytest.raises(SpecError, match="location branch"):
            cube.miso.predict(make_model(replace(spec, location=None)), location=True)
        counts = cube.assign(red=cube.red.assign_attrs(units="DN"))
        with pytest.raises(BandError, match="baseline 04.00"):
            counts.miso.predict(model)
        bare = cube.assign(red=cube.red.drop_attrs())
        with pytest.warns(MisoxrWarning, match="no units"):
            bare.miso.predict(model)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tasks": 5}, "tasks is 5; give a list of names"),
        ({"tasks": ["permafrst"]}, "no task 'permafrst'.*Did you mean \"permafrost\""),
        ({"resolution": True}, "resolution is True; give a number"),
        ({"batch_size": True}, "batch size is True"),
        ({"location": "yes"}, "location is 'yes'; give True or False"),
        ({"compile": 1}, "compile is 1; give True or False"),
        ({"device": 0}, "device is 0; give text"),
        ({"precision": ["float32"]}, "precision is .*give text"),
        ({"precision": "float46"}, 'Did you mean "float64"'),
    ],
)
def test_the_type_of_every_argument_is_checked(cube, model, wrong, words):
    with pytest.raises(SpecError, match=words):
        cube.miso.predict(model, **wrong)
    if "resolution" not in wrong:
        with pytest.raises(SpecError, match=words):
            cube.miso.predict_at(model, {"x": cube.x.values[:1], "y": cube.y.values[:1]}, **wrong)


def test_a_batch_size_may_be_numpy_s(cube, model):
    assert "permafrost" in cube.miso.predict(model, batch_size=np.int64(4))


def test_what_is_no_dataset_is_refused(cube, model):
    with pytest.raises(GridError, match="The cube is a DataArray; give a Dataset.*to_dataset"):
        predict(cube["red"], model)


def test_beyond_the_extent_of_the_locations(spec):
    narrow = replace(spec, location=replace(spec.location, extent=(0.0, 0.0, 300_500.0, 2e6)))
    model = make_model(narrow)
    cube = make_cube((40, 40), spec.bands)
    with pytest.warns(MisoxrWarning, match="beyond the extent"):
        cube.miso.predict(model, location=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        cube.miso.predict(model)
        cube.isel(x=slice(0, 20)).miso.predict(model, location=True)


def test_models_tell_themselves_in_a_line(model):
    assert repr(model).startswith("<misoxr.Model 'miso-nano': sat (2 bands), cov (2 bands) -> permafrost, taxonomy;")


def test_windows_of_another_input_size(cube):
    model = make_model(tiny_spec(size=16))
    windows = WindowSpec(12, 16, 9)
    resized = make_model(replace(model.spec, windows=windows))
    maps = cube.chunk({"y": 25, "x": 25}).miso.predict(resized, device="cpu").compute()
    # The plain procedure hands over windows of 12 pixels, and the network resizes them.
    np.testing.assert_allclose(maps.permafrost_probability, plain_map(cube, resized, windows)[0], atol=1e-5)


def test_attributes_of_any_kind_go_into_the_provenance(cube, model):
    attrs = {"a": [np.float32(1), {"b": np.datetime64("2020-07-01")}], "c": np.nan, "simulated": 1, "simulator_version": "7"}
    maps = cube.assign_attrs(attrs).miso.predict(model, device="cpu")
    found = json.loads(maps.attrs["provenance"])["input"]
    assert found == {"a": [1.0, {"b": "2020-07-01"}], "c": "nan", "simulated": 1, "simulator_version": "7"}
    assert (maps.attrs["simulated"], maps.attrs["simulator_version"]) == (1, "7")


def test_a_fill_value_counts_where_windows_are_asked_whatever_the_chunks_are(spec, model):
    """Ground without imagery is not asked, and its elevations may be anything; a window that is asked refuses a fill value."""
    cube = make_cube((64, 96), spec.bands).copy(deep=True)
    required = [band.name for modality in spec.modalities if modality.required for band in modality.bands]
    for name in required:
        cube[name].values[:, :48] = np.nan
    far = cube.copy(deep=True)
    far["elevation"].values[:, :20] = -9999
    far["elevation"].values[:, 20:48] = np.nan
    maps = [far.chunk({"x": size}).miso.predict(model, device="cpu").permafrost_probability.compute() for size in (96, 32)]
    np.testing.assert_allclose(*maps, atol=1e-5)
    assert np.isfinite(maps[0].values[:, 48:]).all()
    near = cube.copy(deep=True)
    near["elevation"].values[:, 44:48] = -9999
    for size in (96, 32):
        with pytest.raises(BandError, match="-9999"):
            near.chunk({"x": size}).miso.predict(model, device="cpu").permafrost_probability.compute()


def test_dimensions_of_length_1_are_dropped_and_bands_are_numbers(cube, model, whole):
    for one in (cube.expand_dims(band=[1]), cube.map(lambda array: array.expand_dims("band"))):
        found = one.miso.predict(model, device="cpu").permafrost_probability
        np.testing.assert_allclose(found, whole.permafrost_probability, atol=1e-5)
    with pytest.raises(
        BandError, match=r"Band 'red' has dimensions .*take one of the 2 layers along 'band', such as ds.isel\(band=0"
    ):
        cube.expand_dims(band=[1, 2]).miso.predict(model, device="cpu")
    with pytest.raises(BandError, match=r"Band 'red' holds object, .* ds\['red'\] = ds\['red'\].astype\(\"float32\"\)"):
        cube.assign(red=cube.red.astype(object)).miso.predict(model, device="cpu")
