"""Probability samples: reproducible, with the probabilities that they state, and allocated as the formulas say."""

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import misoxr
from misoxr.errors import BandError, GridError, MisoxrWarning, PointsError, SpecError
from misoxr.grid.geobox import assign
from misoxr.sampling import next_sites, sample_size, stratified
from misoxr.sampling.candidates import VALIDATION, hashed, key_of, least_of_each
from misoxr.sampling.stratified import allocated
from tests.conftest import ORIGIN

NAMES = ("gain", "loss", "stable_forest")
UNITS = (0.7, 0.6, 0.9)


def class_map(codes, names=NAMES, name="change", pixel=20.0, origin=ORIGIN, crs="EPSG:3338"):
    attrs = {"flag_values": list(range(len(names))), "flag_meanings": " ".join(names), "_FillValue": np.uint8(255)}
    array = xr.DataArray(np.asarray(codes, "uint8"), dims=("y", "x"), name=name, attrs=attrs)
    return assign(array, GeoBox(array.shape, Affine(pixel, 0, origin[0], 0, -pixel, origin[1]), crs))


@pytest.fixture(scope="module")
def change():
    """60 pixels of one class, 240 and 700 of the others, and 200 of nodata, in random places."""
    codes = np.repeat([0, 1, 2, 255], [60, 240, 700, 200])
    return class_map(np.random.default_rng(0).permutation(codes).reshape(30, 40))


def at(array, sites):
    return array.sel(x=xr.DataArray(sites.geometry.x.values), y=xr.DataArray(sites.geometry.y.values)).values


def test_sites_have_their_stratum_their_class_and_its_exact_probability(change):
    sites = stratified(change, 100)
    assert sites.attrs["pixels"] == {"gain": 60, "loss": 240, "stable_forest": 700}
    assert sites.attrs["sites"] == sites.stratum.value_counts().to_dict() == {"gain": 6, "loss": 24, "stable_forest": 70}
    assert (np.array(NAMES)[at(change, sites)] == sites.stratum).all()
    assert (sites.map_class == sites.stratum).all()
    assert sites.inclusion_probability.dtype == "float64"
    assert (sites.inclusion_probability == sites.stratum.map({"gain": 6 / 60, "loss": 24 / 240, "stable_forest": 70 / 700})).all()
    assert not sites.geometry.duplicated().any()
    assert sites.attrs["pixel_area"] == 400
    assert sites.attrs["random_state"] == 0
    assert sites.crs == "EPSG:3338"
    assert sites.to_crs("EPSG:4326").geometry.x.to_numpy() == pytest.approx(sites.lon)


def test_the_same_sample_for_any_chunks_scheduler_and_way_to_hold_the_map(change, tmp_path):
    whole = stratified(change, 50, random_state=3)
    for chunks, scheduler in (((7, 11), "threads"), ((30, 1), "synchronous")):
        with dask.config.set(scheduler=scheduler):
            again = stratified(change.chunk(dict(zip("yx", chunks, strict=True))), 50, random_state=3)
        assert again.equals(whole)
        assert again.attrs == whole.attrs
    change.to_dataset().chunk({"y": 16, "x": 16}).miso.to_zarr(tmp_path / "maps.zarr", progress=False)
    for codes in (True, False):
        stored = misoxr.open_maps(tmp_path / "maps.zarr", codes=codes).change
        assert stratified(stored, 50, random_state=3).equals(whole)
    assert stratified(change.expand_dims(band=[1]).transpose("x", "y", "band"), 50, random_state=3).equals(whole)
    assert not stratified(change, 50, random_state=4).geometry.equals(whole.geometry)


def test_every_pixel_and_every_pair_of_a_stratum_is_drawn_as_often_as_stated():
    """12 pixels, of which 4 of 8 and 2 of 4 are drawn: counts over 2,000 seeds lie within 4.5 standard errors."""
    codes = np.repeat([0, 1], [8, 4]).reshape(3, 4)
    array = class_map(codes, ("a", "b"))
    seeds, drawn = 2000, np.zeros((2000, 12), bool)
    for seed in range(seeds):
        chosen = least_of_each(codes.ravel(), hashed(np.arange(12), key_of(seed, VALIDATION)), 4)
        drawn[seed, np.concatenate([chosen[:4], chosen[4:6]])] = True
    expected = np.repeat([4 / 8, 2 / 4], [8, 4])
    assert (np.abs(drawn.mean(axis=0) - expected) < 4.5 * np.sqrt(expected * (1 - expected) / seeds)).all()
    pairs = (drawn[:, :8, None] & drawn[:, None, :8]).mean(axis=0)[np.triu_indices(8, 1)]
    both = 4 / 8 * 3 / 7
    assert (np.abs(pairs - both) < 4.5 * np.sqrt(both * (1 - both) / seeds)).all()
    for seed in (0, 1, 2):
        sites = stratified(array, 6, random_state=seed)
        flat = np.zeros(12, bool)
        rows, columns = array.indexes["y"].get_indexer(sites.geometry.y), array.indexes["x"].get_indexer(sites.geometry.x)
        flat[rows * 4 + columns] = True
        np.testing.assert_array_equal(flat, drawn[seed])


def test_the_sample_has_nothing_to_do_with_sites_of_the_same_seed(change):
    """Of 1,000 pixels, 100 are drawn by each: 10 are expected in both, and 30 would be 7 standard deviations off."""
    image = change.to_dataset().assign(red=change.astype("float32").where(change != 255))
    sites = next_sites(image, 100, method="random", by="red")
    assert len(set(sites.geometry) & set(stratified(change, 100).geometry)) < 30


def test_any_first_part_of_the_table_is_allocated_as_all_is(change):
    for allocation in ("proportional", "equal"):
        sites = stratified(change, 90, allocation=allocation)
        for many in (10, 31, 60):
            first = sites.stratum[:many].value_counts()
            for name, count in sites.attrs["sites"].items():
                assert abs(first.get(name, 0) - many * count / 90) <= 1.5, (allocation, many, name)


def test_the_same_sample_in_any_direction_of_the_axes(change):
    whole = stratified(change, 50)
    for flipped in (change[::-1], change[:, ::-1], change[::-1, ::-1]):
        assert stratified(flipped, 50).equals(whole)
        assert stratified(flipped, 50, strata=change.rename("old")).equals(whole)
    assert stratified(change[::-1], 30, random_state=1).attrs == stratified(change, 30, random_state=1).attrs


def test_names_of_classes_may_have_spaces(change):
    expected = {"gain": 0.7, "loss": 0.6, "stable forest": 0.9}
    plain = {name.replace(" ", "_"): value for name, value in expected.items()}
    assert stratified(change, 90, allocation="neyman", expected_accuracy=expected).equals(
        stratified(change, 90, allocation="neyman", expected_accuracy=plain)
    )
    assert sample_size({"stable forest": 0.9, "loss": 0.1}, {"stable_forest": 0.9, "loss": 0.8}, 0.05) > 0


def test_neyman_s_allocation_is_the_formula(change):
    expected = dict(zip(NAMES, UNITS, strict=True))
    sites = stratified(change, 200, allocation="neyman", expected_accuracy=pd.Series(expected))
    amounts = np.array([60, 240, 700]) * np.sqrt(np.array(UNITS) * (1 - np.array(UNITS)))
    exact = 200 * amounts / amounts.sum()
    got = np.array([sites.attrs["sites"][name] for name in NAMES])
    assert got.sum() == 200
    assert (np.abs(got - exact) < 1).all()
    one = stratified(change, 100, allocation="neyman", expected_accuracy=0.8)
    assert one.attrs["sites"] == {"gain": 6, "loss": 24, "stable_forest": 70}
    assert stratified(change, 99, allocation="equal").attrs["sites"] == dict.fromkeys(NAMES, 33)


def test_small_strata_get_the_least_number_and_full_ones_are_told(change):
    assert stratified(change, 20).attrs["sites"] == {"gain": 2, "loss": 5, "stable_forest": 13}
    assert stratified(change, 20, least=5).attrs["sites"] == {"gain": 5, "loss": 5, "stable_forest": 10}
    with pytest.warns(MisoxrWarning, match=r"All pixels of strata are drawn: gain \(60\)"):
        sites = stratified(change, 300, allocation="equal")
    assert sites.attrs["sites"] == {"gain": 60, "loss": 120, "stable_forest": 120}
    assert (sites.inclusion_probability[sites.stratum == "gain"] == 1).all()
    with pytest.warns(MisoxrWarning, match="gain .60., loss .240., stable_forest .700."):
        everything = stratified(change, 1000)
    assert len(everything.geometry.unique()) == 1000


@pytest.mark.parametrize(
    ("n", "amounts", "least", "most", "expected"),
    [
        (25, [0.1, 0.3, 0.5, 0.7, 0.9], 0, 100, [1, 3, 5, 7, 9]),
        (10, [1, 9], 0, [50, 4], [6, 4]),
        (9, [0, 0, 0], 0, 9, [3, 3, 3]),
        (5, [1, 1], 0, [2, 3], [2, 3]),
        (10, [98, 1, 1], 2, 50, [6, 2, 2]),
        (10, [98, 0, 2], [0, 0, 0], [5, 4, 1], [5, 4, 1]),
        (7, [5, 0], [2, 2], [100, 100], [5, 2]),
        (3, [1, 1, 1, 1], 0, 9, [1, 1, 1, 0]),
        (641, [0.02, 0.015, 0.32, 0.645], 50, 10**6, [50, 50, 179, 362]),
    ],
)
def test_how_sites_are_allocated(n, amounts, least, most, expected):
    size = len(amounts)
    got = allocated(n, np.array(amounts, float), np.broadcast_to(least, size), np.broadcast_to(most, size))
    assert got.tolist() == expected


def test_strata_may_be_another_map(change):
    old = class_map(np.arange(1200).reshape(30, 40) // 600, ("north", "south"), "old")
    sites = stratified(change, 60, strata=old, allocation="equal", least=3)
    pixels = {name: int((change.values[half] != 255).sum()) for name, half in (("north", slice(0, 15)), ("south", slice(15, 30)))}
    assert sites.attrs["pixels"] == pixels
    assert sites.attrs["sites"] == {"north": 30, "south": 30}
    assert (np.array(["north", "south"])[at(old, sites)] == sites.stratum).all()
    assert (np.array(NAMES)[at(change, sites)] == sites.map_class).all()
    assert (sites.inclusion_probability == sites.stratum.map({name: 30 / size for name, size in pixels.items()})).all()
    part = old.copy(data=np.where(np.arange(40) < 4, 255, old.values).astype("uint8"))
    with pytest.warns(MisoxrWarning, match=f"{int((change.values[:, :4] != 255).sum())} pixels of the map have no stratum"):
        stratified(change, 60, strata=part)
    with pytest.raises(GridError, match="strata cover .* put them on the map's grid first"):
        stratified(change, 60, strata=old.isel(x=slice(1, 40)))


def test_classes_that_do_not_occur_get_none(change):
    with pytest.warns(MisoxrWarning, match=r"strata \['burnt'\] have no pixel"):
        sites = stratified(change.assign_attrs(flag_values=[0, 1, 2, 3], flag_meanings="gain loss stable_forest burnt"), 50)
    assert list(sites.attrs["pixels"]) == list(NAMES)


def test_pixels_in_degrees_have_no_area_of_their_own(change):
    degrees = class_map(change.values, pixel=0.01, origin=(179.9, 65.0), crs="EPSG:4326")
    sites = stratified(degrees, 50)
    assert "pixel_area" not in sites.attrs
    assert sites.lon.between(-180, 180).all()
    feet = class_map(change.values, pixel=100.0, crs="EPSG:2263")
    assert stratified(feet, 50).attrs["pixel_area"] == pytest.approx((100 * 1200 / 3937) ** 2)


def test_the_sample_size_of_olofsson_et_al():
    """Their example: strata of 2, 1.5, 32 and 64.5 % at accuracies of .7, .6, .9 and .95 need 641 sites for a standard error of 0.01."""
    shares = {"deforestation": 0.02, "gain": 0.015, "forest": 0.32, "other": 0.645}
    accuracy = {"deforestation": 0.7, "gain": 0.6, "forest": 0.9, "other": 0.95}
    assert sample_size(shares, accuracy, 0.01) == 641
    assert sample_size({name: 1e7 * share for name, share in shares.items()}, accuracy, 0.01) == 641
    assert sample_size({"all": 1}, 0.5, 0.05) == 100
    series, expected = pd.Series(shares).iloc[::-1], pd.Series(accuracy)
    for held in (series, series.to_xarray()):
        assert sample_size(held, expected, 0.01) == sample_size(shares, expected.to_xarray(), 0.01) == 641


def test_the_sample_size_of_a_map(change):
    deviation = (np.array([60, 240, 700]) / 1000) @ np.sqrt(np.array(UNITS) * (1 - np.array(UNITS)))
    expected = dict(zip(NAMES, UNITS, strict=True))
    assert sample_size(change, expected, 0.02) == int(np.ceil((deviation / 0.02) ** 2))
    with pytest.raises(SpecError, match=r"lacks \['stable_forest'\]"):
        sample_size(change, {"gain": 0.5, "loss": 0.5}, 0.02)
    with pytest.raises(SpecError, match="standard_error is 0"):
        sample_size(change, expected, 0)
    for sure in (1.0, dict.fromkeys(NAMES, 0)):
        with pytest.raises(SpecError, match="0 or 1 in all strata, which leaves nothing to estimate"):
            sample_size(change, sure, 0.02)
    with pytest.raises(SpecError, match="give the share of each class"):
        sample_size({"a": -1}, 0.5, 0.1)
    with pytest.raises(SpecError, match="map has 'a' twice in its index"):
        sample_size(pd.Series([0.5, 0.5], ["a", "a"]), 0.5, 0.1)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"n": 0}, SpecError, "n is 0"),
        ({"n": 5}, SpecError, "n is 5, and 3 strata with at least 2 sites each need 6"),
        ({"n": 1001}, PointsError, "n is 1001 and the map 'change' has 1000 pixels with a class"),
        ({"least": 0}, SpecError, "least is 0"),
        ({"random_state": -1}, SpecError, "random_state is -1"),
        ({"allocation": "nayman"}, SpecError, 'Did you mean "neyman"'),
        ({"allocation": "neyman"}, SpecError, "needs expected_accuracy"),
        ({"expected_accuracy": 0.5}, SpecError, "belongs to allocation='neyman'"),
        ({"allocation": "neyman", "expected_accuracy": 80}, SpecError, "is 80; give a number from 0 to 1"),
        ({"allocation": "neyman", "expected_accuracy": {"los": 0.5}}, SpecError, 'Did you mean "loss"'),
        ({"allocation": "neyman", "expected_accuracy": {"loss": 0.5}}, SpecError, r"lacks \['gain', 'stable_forest'\]"),
        ({"allocation": "neyman", "expected_accuracy": 1}, SpecError, "0 or 1 in all strata"),
        ({"strata": 3}, SpecError, "strata is a int; give one variable"),
    ],
)
def test_bad_input_is_refused(change, changes, error, words):
    with pytest.raises(error, match=words):
        stratified(change, **{"n": 50, **changes})


def test_what_is_no_class_map_is_refused(change):
    with pytest.raises(SpecError, match="map is a Dataset; give one variable"):
        stratified(change.to_dataset(), 50)
    with pytest.raises(SpecError, match="has no flag_values and flag_meanings"):
        stratified(change.drop_attrs(), 50)
    with pytest.raises(SpecError, match=r"map has dimensions \('time', 'y', 'x'\)"):
        stratified(change.expand_dims(time=2), 50)
    with pytest.raises(BandError, match="pixels of the map 'change' hold none of its classes"):
        stratified(change.assign_attrs(flag_values=[0, 1], flag_meanings="a b"), 50)
    with pytest.raises(PointsError, match="has no pixel with a class"):
        stratified(change.copy(data=np.full(change.shape, 255, "uint8")), 50)
