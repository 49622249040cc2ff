"""Scaling: units, circular bands, whitening, missing values, and what a checkpoint keeps of it."""

import json
import re
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from misoxr.cube.check import check
from misoxr.cube.decode import unit_vectors
from misoxr.cube.scaling import METHODS, ModalityScaling, Scaling, channels, valid_pixels
from misoxr.cube.stack import stack
from misoxr.cube.units import conversion
from misoxr.errors import BandError, CheckpointError, MisoxrWarning, SpecError
from misoxr.spec import COVARIATES, Band, Modality, ModelSpec, embedding
from tests.conftest import make_cube, tiny_spec

ASPECT, ELEVATION, RED = Band("aspect", "degree", "circular"), Band("elevation", "m"), Band("red")
PAPER = {band.name: band for band in COVARIATES}


# Units


@pytest.mark.parametrize(
    ("found", "band", "value", "expected"),
    [
        ("reflectance", RED, 0.3, 0.3),
        ("", RED, 0.3, 0.3),
        ("dimensionless", RED, 0.3, 0.3),
        ("%", RED, 30.0, 0.3),
        ("1", Band("red", "DN"), 0.3, 3000.0),
        ("counts", Band("red", "DN"), 3000.0, 3000.0),
        ("metres", ELEVATION, 12.0, 12.0),
        ("km", ELEVATION, 1.2, 1200.0),
        ("feet", ELEVATION, 1000.0, 304.8),
        ("radians", ASPECT, np.pi / 2, 90.0),
        ("deg", ASPECT, 90.0, 90.0),
        ("K", Band("january_minimum_temperature", "degC"), 253.15, -20.0),
        *(
            (units, Band("january_minimum_temperature", "degC"), -20.0, -20.0)
            for units in ("Celsius", "degrees Celsius", "degrees_celsius", "deg Celsius")
        ),
        ("degrees K", Band("january_minimum_temperature", "degC"), 253.15, -20.0),
        ("m", Band("annual_precipitation", "mm"), 0.4, 400.0),
        ("kg m-2", Band("annual_precipitation", "mm"), 400.0, 400.0),
        ("1/m", Band("max_curvature", "m-1"), 0.01, 0.01),
    ],
)
def test_units_are_converted(found, band, value, expected):
    factor, summand = conversion(found, band)
    assert value * factor + summand == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "band", "remedy"),
    [
        ("m", RED, "different quantities"),
        ("degC", ELEVATION, "different quantities"),
        ("degree", ELEVATION, "different quantities"),
        ("furlong", ELEVATION, "convert the band"),
    ],
)
def test_other_units_are_refused(found, band, remedy):
    with pytest.raises(BandError, match=f"'{band.name}' is in '{found}' and the model takes '{band.units}'; .*{remedy}"):
        conversion(found, band)


@pytest.mark.parametrize(
    "found", ["degC month", "°C months", "degC*month", "degC·month", "K month", "degrees_C months", "C month", "kelvin-months"]
)
def test_sums_of_monthly_temperatures_are_in_degrees_or_kelvins_alike(found):
    assert conversion(found, PAPER["summer_warmth_index"]) == (1.0, 0.0)  # differences of 1 K are differences of 1 degC


@pytest.mark.parametrize(
    ("found", "factor"), [("m2", 1), ("m^2", 1), ("m**2", 1), ("m²", 1), ("square metres", 1), ("ha", 1e4), ("km2", 1e6)]
)
def test_areas_are_in_square_metres(found, factor):
    assert conversion(found, PAPER["stream_power_index"]) == (factor, 0.0)


@pytest.mark.parametrize(
    ("name", "before"), [("topographic_position_index", "m"), ("stream_power_index", "1"), ("summer_warmth_index", "degC")]
)
def test_the_units_of_before_and_of_now_are_not_mixed(name, before):
    """Neither a checkpoint of before takes what there is now, nor a new one what was there before."""
    band = PAPER[name]
    for found, taken in ((band.units, replace(band, units=before)), (before, band)):
        with pytest.raises(
            BandError, match=f"'{name}' is in '{found}' and the model takes '{taken.units}'; .*fit a model to this one"
        ):
            conversion(found, taken)


def test_areas_enter_as_logarithms_and_lengths_as_they_are():
    """As reflectances do: a stream power index spans many powers of ten, and a factor is a summand then."""
    spec = replace(tiny_spec(), modalities=(replace(tiny_spec().modalities[0], bands=(Band("red"), PAPER["stream_power_index"])),))
    values = np.exp(np.random.default_rng(0).normal(3, 2, (2, 4000))).astype("float32")
    one, other = (Scaling.fit(spec, values * np.array([[1], [factor]], "float32")) for factor in (1, 1000))
    assert one.modalities["sat"].log == (True, True)
    np.testing.assert_allclose(
        one.apply(spec, values)["sat"], other.apply(spec, values * np.array([[1], [1000]], "float32"))["sat"], atol=1e-4
    )
    metres = replace(spec, modalities=(replace(spec.modalities[0], bands=(Band("red"), ELEVATION)),))
    assert Scaling.fit(metres, values).modalities["sat"].log == (True, False)


def test_raw_counts_are_refused_with_the_reason():
    with pytest.raises(BandError, match="baseline 04.00.*open_stac"):
        conversion("DN", RED)


def test_units_that_tell_nothing_are_none():
    for nothing in (None, "none", "N/A", " unknown ", float("nan")):
        assert conversion(nothing, ELEVATION) is None
    assert conversion("", ELEVATION) is None
    assert conversion("m", ASPECT) is None  # copied from the elevation: no angle is in metres


# The stack of bands


@pytest.fixture(scope="module")
def cube(spec: ModelSpec) -> xr.Dataset:
    return make_cube((30, 20), spec.bands)


def test_stack_has_the_model_s_order_units_and_type(spec, cube):
    mixed = cube[["elevation", "nir", "aspect", "red"]].assign(elevation=(cube.elevation / 1000).astype("float64"))
    mixed.elevation.attrs["units"] = "km"
    bands = stack(mixed.transpose("x", "y"), spec)
    assert isinstance(bands, da.Array)
    assert bands.dtype == "float32"
    assert bands.chunks[0] == (4,)
    expected = np.stack([cube[name] for name in ("red", "nir", "aspect", "elevation")])
    np.testing.assert_allclose(bands.compute(), expected, rtol=1e-6)


def test_stack_keeps_the_chunks_of_the_cube(spec, cube, no_compute):
    chunked = cube.chunk({"y": (7, 13, 10), "x": (20,)})
    chunked["elevation"] = cube.elevation  # one band in memory beside lazy ones
    chunked["aspect"] = cube.aspect.chunk({"y": 5, "x": 5})
    with no_compute():
        bands = stack(chunked, spec)
    assert bands.chunks == ((4,), (7, 13, 10), (20,))
    np.testing.assert_array_equal(bands[3].compute(), cube.elevation)


def test_missing_bands_are_nan(spec, cube):
    bands = stack(cube.drop_vars("aspect"), spec).compute()
    assert np.isnan(bands[2]).all()
    assert np.isfinite(bands[[0, 1, 3]]).all()


def test_integers_become_floats(spec, cube):
    counted = cube.assign(elevation=cube.elevation.astype("int16") + 100)
    counted.elevation.attrs["units"] = "m"
    np.testing.assert_array_equal(stack(counted, spec)[3].compute(), counted.elevation.values)


# Channels and validity


def test_circular_bands_become_sine_and_cosine(spec):
    modality = spec.modalities[1]
    values = np.array([[0, 90, 180, 270, 360, -1, np.nan], [1, 2, 3, 4, 5, 6, 7]], dtype="float32")
    out = channels(modality, values)
    np.testing.assert_allclose(out[0], [0, 1, 0, -1, 0, 0, np.nan], atol=1e-6)
    np.testing.assert_allclose(out[1], [1, 0, -1, 0, 1, 0, np.nan], atol=1e-6)
    np.testing.assert_array_equal(out[2], values[1])


@settings(deadline=None)
@given(st.floats(0, 360, width=32))
def test_north_is_one_direction(angle):
    """359 and 1 degrees are neighbours: a small turn is a small change of the channels, whatever the direction."""
    modality = tiny_spec().modalities[1]
    turned = np.array([[angle, (angle + 2) % 360], [0, 0]], dtype="float32")
    out = channels(modality, turned)
    assert np.hypot(*(out[:2, 1] - out[:2, 0])) == pytest.approx(2 * np.sin(np.deg2rad(1)), abs=1e-4)


def test_valid_pixels(spec):
    bands = np.zeros((4, 1, 5), dtype="float32")
    bands[0, 0, 1] = np.nan  # one of the required bands
    bands[:2, 0, 2] = np.nan  # both
    bands[2:, 0, 3] = np.nan  # the covariates, which are not required
    bands[:, 0, 4] = np.nan
    np.testing.assert_array_equal(valid_pixels(spec, bands)[0], [True, True, False, True, False])
    strict = replace(spec, modalities=tuple(replace(modality, required=True) for modality in spec.modalities))
    np.testing.assert_array_equal(valid_pixels(strict, bands)[0], [True, True, False, False, False])


# Scaling


def plain(scaling: ModalityScaling, values: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    out = np.empty(values.shape)
    for channel in range(len(values)):
        clipped = np.clip(values[channel].astype("float64"), scaling.lower[channel], scaling.upper[channel])
        clipped = np.log(clipped) if scaling.log[channel] else clipped
        out[channel] = (clipped - scaling.shift[channel]) / scaling.scale[channel]
    out = np.nan_to_num(out, nan=0.0)
    return out if scaling.whiten is None else np.einsum("ij,j...->i...", np.array(scaling.whiten), out)


def noise(spec: ModelSpec, count: int = 5000, seed: int = 0) -> np.ndarray:
    """Correlated bands (band, pixel): positive reflectance, any aspect, metres."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(count)
    red, nir = np.exp(0.3 * common - 2), np.exp(0.2 * common + 0.2 * rng.standard_normal(count) - 1)
    return np.stack([red, nir, rng.uniform(0, 360, count), 500 + 200 * common]).astype("float32")


@pytest.mark.parametrize("whiten", [None, ((0.5, -1.0), (2.0, 0.25))])
def test_apply_equals_the_definition(whiten):
    scaling = ModalityScaling((0.1, -5.0), (2.0, 5.0), (True, False), (0.3, 1.0), (0.5, 2.0), whiten)
    values = np.random.default_rng(0).normal(0, 3, (2, 6, 7)).astype("float32")
    values[0, 0] = np.nan
    before = values.copy()
    out = scaling.apply(values)
    assert out.dtype == "float32"
    np.testing.assert_allclose(out, plain(scaling, values), atol=1e-5)
    np.testing.assert_array_equal(values, before)


def test_missing_values_enter_as_zero(spec):
    bands = noise(spec)
    scaling = Scaling.fit(spec, bands)
    empty = scaling.apply(spec, np.full((4, 3, 3), np.nan, dtype="float32"))
    assert all((values == 0).all() for values in empty.values())
    part = noise(spec)[:, :9].reshape(4, 3, 3)
    part[0, 1, 1] = np.nan
    assert all(np.isfinite(values).all() for values in scaling.apply(spec, part).values())


def test_whitening_gives_identity_covariance(spec):
    bands = noise(spec)
    inputs = Scaling.fit(spec, bands).apply(spec, bands)
    assert {name: values.shape[0] for name, values in inputs.items()} == {"sat": 2, "cov": 3}
    for values in inputs.values():
        np.testing.assert_allclose(values.mean(axis=1), 0, atol=1e-3)
        np.testing.assert_allclose(np.cov(values, bias=True), np.eye(len(values)), atol=2e-3)
    assert abs(np.corrcoef(np.log(bands[:2]))[0, 1]) > 0.5, "the bands themselves are correlated"


def test_reflectance_becomes_logarithms_and_metres_do_not(spec):
    scaling = Scaling.fit(spec, noise(spec))
    assert scaling.modalities["sat"].log == (True, True)
    assert scaling.modalities["cov"].log == (False, False, False)
    bands = noise(spec)
    bands[0] -= 0.2  # reflectance that can be negative has no logarithm
    assert Scaling.fit(spec, bands).modalities["sat"].log == (False, True)


def test_outliers_are_clipped(spec):
    bands = noise(spec)
    scaling = Scaling.fit(spec, bands)
    wild = bands[:, :1].copy()
    wild[0] = 1e6
    assert np.abs(scaling.apply(spec, wild)["sat"]).max() < 20


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("method", ["whiten", "log", "standard"])
@pytest.mark.parametrize("value", [1e-4, 0.02, 0.5, 0.529, 0.7, 0.8, 1.0, 90.0, 273.15, 1e9, -1e-30, 0.0])
def test_bands_of_one_value_enter_as_zero(spec, method, value):
    """Also where the logarithm of the value is no float, a few pixels lie beyond the percentiles, or values waver by rounding."""
    steps = np.nextafter(np.full(5000, value, "float32"), np.float32(np.inf))
    few = np.where(np.arange(5000) < 4, np.float32(0.2), np.float32(value))
    for made in (np.full(5000, value, "float32"), few, np.where(np.arange(5000) % 3, steps, np.float32(value))):
        for held, inputs_of in (([0], [0]), ([3], [4]), ([0, 1], [0, 1]), ([0, 1, 3], [0, 1, 4])):
            bands = noise(spec)
            bands[held] = made
            scaling = Scaling.fit(spec, bands, method)
            alone = replace(scaling, modalities={k: replace(m, whiten=None) for k, m in scaling.modalities.items()})
            assert not np.concatenate(list(alone.apply(spec, bands).values()))[inputs_of].any()
            elsewhere = scaling.apply(spec, noise(spec, seed=1) * 3)  # what was one value in training is nothing in a map, too
            assert max(np.abs(values).max() for values in elsewhere.values()) < 50


def test_aspect_of_one_direction_enters_as_zero(spec):
    for angle in (-1.0, 0.0, 90.0, 300.0):
        bands = noise(spec)
        bands[2] = angle
        assert not Scaling.fit(spec, bands, "standard").apply(spec, bands)["cov"][:2].any()


def test_rounding_of_other_units_is_no_deviation():
    """A temperature of one value in kelvin that wavers by rounding is 0 degrees and next to it; so are sine and cosine of an angle."""
    spec = tiny_spec()
    warm, turned = np.float32(273.15), np.float32(180)
    waver = np.arange(5000) % 2 == 0
    bands = noise(spec)
    bands[2] = np.where(waver, turned, np.nextafter(turned, np.float32(0)))
    bands[3] = np.where(waver, warm, np.nextafter(warm, np.float32(0))) - warm
    band = replace(ELEVATION, units="degC")
    spec = replace(spec, modalities=(spec.modalities[0], replace(spec.modalities[1], bands=(spec.modalities[1].bands[0], band))))
    assert not Scaling.fit(spec, bands).apply(spec, bands)["cov"].any()


@settings(max_examples=200, deadline=None)
@given(
    method=st.sampled_from(["whiten", "log", "standard"]),
    found=st.sampled_from(
        [
            ("%", "1"),
            ("1", "DN"),
            ("km", "m"),
            ("cm", "m"),
            ("ft", "m"),
            ("m", "mm"),
            ("K", "degC"),
            ("degC", "K"),
            ("m", "cm"),
            ("mm", "km"),
        ]
    ),
    seed=st.integers(0, 20),
)
def test_units_of_bands_change_nothing(method, found, seed):
    """Bands in other units, converted as a cube's are, enter the network as they would in its own."""
    spec = tiny_spec()
    units = replace(ELEVATION, units=found[1])
    factor, summand = conversion(found[0], units)
    covariates = replace(spec.modalities[1], bands=(ASPECT, units))
    spec = replace(spec, modalities=(spec.modalities[0], covariates))
    bands = noise(spec, 400, seed)
    other = bands.copy()
    other[3] = ((bands[3].astype("float64") - summand) / factor).astype("float32") * np.float32(factor) + np.float32(summand)
    one, same = (Scaling.fit(spec, values, method).apply(spec, values) for values in (bands, other))
    for name in one:
        np.testing.assert_allclose(one[name], same[name], atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(
    method=st.sampled_from(["log", "standard"]),
    power=st.integers(-25, 25),
    offset=st.sampled_from([0.0, 1.0, -100.0, 1e4]),
    seed=st.integers(0, 20),
)
def test_factors_and_offsets_of_bands_change_nothing(method, power, offset, seed):
    """Any factor, and any offset of which float32 leaves digits: in deviations, inputs are the same."""
    spec, factor = tiny_spec(), np.float32(10.0**power)
    bands = noise(spec, 400, seed)
    other = bands.copy()
    other[0] *= factor  # reflectance, of which the logarithm is taken
    metres = bands[3].astype("float64")
    other[3] = (metres + offset * metres.std()) * float(factor)
    one, same = (Scaling.fit(spec, values, method).apply(spec, values) for values in (bands, other))
    np.testing.assert_allclose(one["sat"], same["sat"], atol=1e-4)
    np.testing.assert_allclose(one["cov"], same["cov"], atol=1e-5 + 1e-6 * abs(offset))


def test_of_two_bands_the_first_direction_is_their_sum(spec):
    """Directions of two bands are told by rounding, if by the largest entry, and might turn with the units."""
    for seed in range(20):
        whiten = np.array(Scaling.fit(spec, noise(spec, seed=seed)).modalities["sat"].whiten)
        assert whiten[0, 0] > 0
        assert whiten[1, 0] > 0


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("empty", [slice(2, 4), slice(3, 4)])
def test_what_training_never_saw_does_not_enter(spec, empty):
    """Covariates that were empty in training and are there in the map."""
    bands = noise(spec)
    bands[empty] = np.nan
    scaling = Scaling.fit(spec, bands)
    before = scaling.apply(spec, bands)["cov"]
    bands[empty] = noise(spec)[empty]
    np.testing.assert_array_equal(scaling.apply(spec, bands)["cov"], before)
    assert np.abs(before).max() < 50


@pytest.mark.parametrize("method", ["whiten", "log", "standard"])
def test_what_training_rarely_saw_enters_at_the_size_of_the_rest(spec, method):
    """A covariate that was there in one pixel of a thousand, and is there in the whole of a map."""
    bands = noise(spec)
    full = Scaling.fit(spec, bands, method).apply(spec, bands)["cov"]
    bands[2:, np.arange(5000) % 500 > 0] = np.nan
    found = Scaling.fit(spec, bands, method).apply(spec, noise(spec))["cov"]
    np.testing.assert_allclose(found.std(axis=1), full.std(axis=1), rtol=0.8)


def test_an_empty_required_band_is_refused(spec):
    bands = noise(spec)
    bands[1] = np.nan
    with pytest.raises(BandError, match="'nir' has no valid pixel"):
        Scaling.fit(spec, bands)


# What a checkpoint keeps


def test_json_round_trip(spec):
    scaling = Scaling.fit(spec, noise(spec))
    again = Scaling.from_dict(json.loads(json.dumps(scaling.to_dict())), spec)
    assert again == scaling
    bands = noise(spec, seed=1)
    for name, values in scaling.apply(spec, bands).items():
        np.testing.assert_array_equal(again.apply(spec, bands)[name], values)


@settings(max_examples=20, deadline=None)
@given(key=st.sampled_from(["lower", "upper", "log", "shift", "scale", "whiten"]), modality=st.sampled_from(["sat", "cov"]))
def test_a_scaling_of_other_channels_is_refused(key, modality):
    spec = tiny_spec()
    values = Scaling.fit(spec, noise(spec)).to_dict()
    count = len(values[modality]["scale"])
    values[modality][key] = values[modality][key][:-1]
    with pytest.raises(CheckpointError, match=f"'{modality}' has {count - 1} channels, the model {count}"):
        Scaling.from_dict(values, spec)


@pytest.mark.parametrize(
    "values", [{}, {"sat": {}}, {"sat": {"whiten": None}}, {"sat": None}, {"sat": {"whiten": None, "flavour": [1]}}]
)
def test_an_incomplete_scaling_is_refused(spec, values):
    with pytest.raises(CheckpointError, match="scaling of modality 'sat' cannot be read"):
        Scaling.from_dict(values, spec)


# Unit vectors: embeddings from elsewhere


def vectors_of(count, shape=(30, 20), seed=0):
    """Smooth unit vectors (feature, y, x)."""
    values = gaussian_filter(np.random.default_rng(seed).standard_normal((count, *shape)), (0, 4, 4))
    return (values / np.linalg.norm(values, axis=0)).astype("float32")


def embedded(cube, vectors, name="alphaearth", **attrs):
    """A cube with an embedding joined to it."""
    array = xr.DataArray(vectors, dims=("feature", "y", "x"), coords={"y": cube.y, "x": cube.x, "spatial_ref": cube.spatial_ref})
    return cube.miso.add(**{name: array.assign_attrs(attrs)})


@pytest.fixture(scope="module")
def wide(spec):
    return replace(spec, modalities=(*spec.modalities, embedding("alphaearth", 8, encoder=spec.modalities[0].encoder)))


@pytest.mark.parametrize("method", METHODS)
def test_components_of_a_vector_enter_as_they_are(wide, cube, method):
    vectors = vectors_of(8)
    bands = stack(embedded(cube, vectors), wide).compute()
    scaling = Scaling.fit(wide, bands.reshape(len(bands), -1), method)
    np.testing.assert_array_equal(scaling.apply(wide, bands)["alphaearth"], vectors)
    assert scaling.modalities["alphaearth"].whiten is None
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict())), wide) == scaling
    bands[:, 3, 3] = np.nan
    assert (scaling.apply(wide, bands)["alphaearth"][:, 3, 3] == 0).all()
    assert ModelSpec.from_dict(json.loads(json.dumps(wide.to_dict()))) == wide


def test_the_order_of_components_is_that_of_their_numbers(cube):
    found = embedded(cube, vectors_of(12), "tessera")
    names = [name for name in found if name.startswith("tessera")]
    assert names == [f"tessera_{k}" for k in range(12)] == [band.name for band in embedding("tessera", 12).bands]
    assert [band.name for band in embedding("aef", ["A00", "A01"]).bands] == ["A00", "A01"]


def test_components_may_have_a_scale_and_a_fill_value(wide, cube):
    vectors = vectors_of(8)
    stored = np.rint(vectors * 127).astype("int8")
    stored[:, 2, 2] = -128
    for attrs in ({"scale_factor": 1 / 127, "_FillValue": np.int8(-128)}, {"scale": 1 / 127, "nodata": -128}):
        plain = cube.assign({f"alphaearth_{k}": (("y", "x"), values, attrs) for k, values in enumerate(stored)})
        found = stack(plain, wide).compute()[-8:]
        assert np.isnan(found[:, 2, 2]).all()
        rest = np.isfinite(found).all(axis=0)
        assert rest.sum() == rest.size - 1
        np.testing.assert_allclose(found[:, rest], vectors[:, rest], atol=0.005)


def test_counts_are_no_components(wide, cube, no_compute):
    """Whole numbers are refused when the graph is built, and what has lost its type where it is read."""
    counts = np.rint(vectors_of(8) * 127).astype("int8")
    plain = cube.assign({f"alphaearth_{k}": (("y", "x"), values) for k, values in enumerate(counts)})
    with (
        no_compute(),
        pytest.raises(
            BandError, match=r"'alphaearth_0' holds whole numbers \(int8\) without a scale.*unit_vectors.*'linear'.*'alphaearth'"
        ),
    ):
        stack(plain, wide)
    for factor, told in ((127, "127"), (2.5, "2.5")):
        with pytest.raises(
            BandError, match=rf"vectors of 'alphaearth' have lengths up to {told}.*unit_vectors.*'linear'.*'alphaearth'"
        ):
            stack(embedded(cube, vectors_of(8) * np.float32(factor)), wide).compute()


@pytest.mark.parametrize(("factor", "refused"), [(0.01, False), (100, True)])
def test_chunks_do_not_decide_which_vectors_are_refused(wide, cube, factor, refused):
    """A short vector is one of mixed directions; a long one is refused beside whatever lies in its chunk."""
    vectors = vectors_of(8)
    vectors[:, 4, 4] *= np.float32(factor)
    plain = embedded(cube, vectors)
    for chunks in ({"y": -1, "x": -1}, {"y": 1, "x": 1}):
        lazy = stack(plain.chunk(chunks), wide)
        if refused:
            with pytest.raises(BandError, match="lengths up to"):
                lazy.compute()
        else:
            np.testing.assert_allclose(lazy.compute()[-8:, 4, 4], vectors[:, 4, 4])


def test_a_vector_of_zeros_is_nodata(wide, cube):
    vectors = vectors_of(8)
    vectors[:, 4:6] = 0
    required = replace(wide, modalities=(*wide.modalities[:-1], replace(wide.modalities[-1], required=True)))
    found = stack(embedded(cube, vectors), required).compute()
    np.testing.assert_array_equal(~valid_pixels(required, found), np.isin(np.arange(30), (4, 5))[:, None] & np.ones(20, bool))


def test_some_components_alone_are_refused(wide, cube):
    found = embedded(cube, vectors_of(8))
    with pytest.raises(BandError, match="lacks 1 of the 8 components of 'alphaearth', such as 'alphaearth_3'"):
        check(found.drop_vars("alphaearth_3"), wide)
    with pytest.warns(MisoxrWarning, match="lacks the optional bands"):
        check(cube, wide)


def test_vectors_are_components_alone():
    encoder = embedding("e", 2).encoder
    with pytest.raises(SpecError, match=r"'e' mixes components of a unit vector with bands of the kinds \['linear'\]"):
        Modality("e", (Band("a", kind="component"), Band("b")), encoder)
    with pytest.raises(SpecError, match="'a' is a component of a unit vector and has the units 'm'"):
        Band("a", "m", "component")
    with pytest.raises(SpecError, match="of kind 'round'; use one of"):
        Band("a", kind="round")
    for wrong, words in ((1, "has 1 components"), ("A00", "bands is 'A00'"), (True, "bands is True"), ([1, 2], "give the number")):
        with pytest.raises(SpecError, match=words):
            embedding("e", wrong)


@pytest.mark.parametrize("chunks", [None, {"band": 1, "y": 7, "x": 11}])
def test_alphaearth_is_decoded_by_its_own_rule(chunks, no_compute):
    """Its values are squares of what its files hold (Google's read-me), and -128 is nodata."""
    vectors = vectors_of(64)
    stored = np.rint(np.sign(vectors) * np.sqrt(np.abs(vectors)) * 127.5).astype("int8")
    stored[:, 1, 1] = -128
    array = xr.DataArray(stored, dims=("band", "y", "x"), coords={"band": np.arange(1, 65)}, name="aef")
    with no_compute():
        found = unit_vectors(array if chunks is None else array.chunk(chunks), "alphaearth")
    assert (found.dims, found.dtype, found.sizes["feature"]) == (("feature", "y", "x"), "float32", 64)
    assert list(found.feature.values) == list(range(64))
    assert np.isnan(found.values[:, 1, 1]).all()
    rest = np.isfinite(found.values).all(axis=0)
    np.testing.assert_allclose(found.values[:, rest], vectors[:, rest], atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(found.values[:, rest], axis=0), 1, atol=1e-6)
    masked = array.where(array != -128)
    masked.encoding["dtype"] = np.dtype("int8")  # as xarray reads them with mask_and_scale
    np.testing.assert_array_equal(unit_vectors(masked, "alphaearth"), found)


def test_a_scale_of_each_pixel_is_not_needed():
    """TESSERA keeps one beside its whole numbers; directions do not depend on it."""
    vectors = vectors_of(16)
    scales = np.random.default_rng(0).uniform(0.02, 0.2, vectors.shape[1:])
    stored = xr.DataArray(np.rint(vectors * 127).astype("int8"), dims=("band", "y", "x"))
    np.testing.assert_allclose(unit_vectors(stored, "linear"), vectors, atol=0.01)
    np.testing.assert_allclose(unit_vectors(stored * scales), unit_vectors(stored, "linear"), atol=1e-6)


def test_no_coding_of_whole_numbers_is_guessed(no_compute):
    counts = np.rint(vectors_of(4) * 127).astype("int8")
    stored = xr.DataArray(counts, dims=("band", "y", "x"), name="aef")
    masked = stored.where(stored != -128)
    masked.encoding["dtype"] = np.dtype("int8")
    for array in (stored, stored.chunk(), masked, stored.assign_attrs(_FillValue=-128)):
        with no_compute(), pytest.raises(BandError, match=r"whole numbers \(int8\) without a scale; .*'linear'.*'alphaearth'"):
            unit_vectors(array)
    np.testing.assert_allclose(unit_vectors(stored.assign_attrs(scale_factor=1 / 127)), unit_vectors(stored, "linear"), atol=1e-6)


def test_what_is_no_embedding_is_not_decoded():
    array = xr.DataArray(vectors_of(4), dims=("band", "y", "x"))
    with pytest.raises(BandError, match="holds float32, and AlphaEarth's stored values are int8"):
        unit_vectors(array, "alphaearth")
    with pytest.raises(SpecError, match="Unknown coding 'squared'"):
        unit_vectors(array, "squared")
    with pytest.raises(BandError, match=r"dimensions \('time', 'y', 'x'\)"):
        unit_vectors(array.rename(band="time"))


@pytest.mark.parametrize(
    ("fill", "values"),
    [
        (-9999, (100, 1500)),
        (-32768, (-40, 30)),
        (65535, (0, 1)),
        (-9999, (0, 1e7)),
        (1e20, (5, 5)),
        (-3.4028234663852886e38, (0, 1)),
        (9.969209968386869e36, (0, 1)),
    ],
)
def test_a_fill_value_that_nothing_declares_is_refused(fill, values):
    """One pixel in a thousand is enough: it would be the limit of a channel, or far from all else."""
    spec = ModelSpec.preset("miso-nano", sat=[], cov=[Band("dem", "m")], location=None)
    pixels = np.random.default_rng(0).uniform(*values, (1, 5000)).astype("float32")
    Scaling.fit(spec, pixels)
    pixels[0, ::1000] = fill
    with pytest.raises(BandError, match=r"Band 'dem' is .* in 0\.10% of the pixels that are learnt from.*write_nodata") as refused:
        Scaling.fit(spec, pixels)
    told = float(re.search(r"!= (\S+)\)", str(refused.value))[1])
    Scaling.fit(spec, np.where(pixels != told, pixels, np.nan))


def test_numbers_amid_others_are_no_fill_values():
    spec = ModelSpec.preset("miso-nano", sat=[], cov=[Band("depth", "m")], location=None)
    Scaling.fit(spec, np.array([[-9999, -5000, -12000, 3000]], "float32"))


def test_a_fill_value_that_was_not_learnt_is_refused_where_it_is_mapped():
    """Clipped to the limits of training, it would pass for a low place."""
    spec = ModelSpec.preset("miso-nano", sat=[], cov=[Band("dem", "m"), Band("aspect", "degree", "circular")], location=None)
    pixels = np.random.default_rng(0).uniform(100, 300, (2, 5000)).astype("float32")
    scaling = Scaling.fit(spec, pixels)
    window = pixels[:, :64].reshape(2, 8, 8).copy()
    window[0, 0] = -5000  # a deep place, which is no fill value
    scaling.apply(spec, window)
    window[0, 3, 3] = -9999
    with pytest.raises(BandError, match=r"Band 'dem' is -9999 in 1\.56% of a block, and 1.* to .* elsewhere"):
        scaling.apply(spec, window)
    window[0, 3, 3], window[1, 3, 3] = np.nan, -9999  # a negative direction is flat
    scaling.apply(spec, window)
