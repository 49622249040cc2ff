"""The area of applicability: by the formula in plain NumPy, in every space, for any chunks and cores, and through every store."""

import json
from dataclasses import replace

import dask
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.ensemble import RandomForestClassifier

import misoxr
from misoxr.cube.features import features
from misoxr.cube.stack import stack
from misoxr.errors import BandError, GridError, MisoxrWarning, PointsError, SpecError, StoreError
from misoxr.estimators.pixel_model import PixelModel
from misoxr.spec import Task
from misoxr.uncertainty import training_dissimilarity
from misoxr.uncertainty.applicability import applicability
from tests.conftest import make_cube

SHAPE = (48, 60)
COUNT = 40
FOLDS = [(np.arange(COUNT)[np.arange(COUNT) % 4 != fold], np.arange(fold, COUNT, 4)) for fold in range(3)]
"""Of which the last fourth of the points is never tested."""


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube(SHAPE, spec.bands)


def points_of(cube, count=COUNT, seed=0):
    """Points at the centres of pixels of their own, with labels."""
    rng = np.random.default_rng(seed)
    at = rng.choice(SHAPE[0] * SHAPE[1], count, replace=False)
    row, column = np.divmod(at, SHAPE[1])
    labels = {"permafrost": rng.integers(0, 2, count), "taxonomy": rng.integers(0, 3, count)}
    return gpd.GeoDataFrame(labels, geometry=gpd.points_from_xy(cube.x.values[column], cube.y.values[row]), crs="EPSG:3338")


@pytest.fixture(scope="module")
def points(cube):
    return points_of(cube)


def pixels_of(cube, points):
    row = [int(np.abs(cube.y.values - y).argmin()) for y in points.geometry.y]
    column = [int(np.abs(cube.x.values - x).argmin()) for x in points.geometry.x]
    return np.array(row), np.array(column)


def formula(table, pixels, folds=None, weights=None):
    """Meyer & Pebesma (2021) as CAST 1.1 has it, of features (point, feature) and (pixel, feature), all in float64."""
    mean, deviation = table.mean(0), table.std(0, ddof=1)
    weights = np.ones(table.shape[1]) if weights is None else np.clip(weights, 0, None)
    table, pixels = ((part - mean) / deviation * weights for part in (table, pixels))
    apart = np.sqrt(((table[:, None] - table[None]) ** 2).sum(-1))
    count = len(table)
    mean_distance = (apart.sum(1) / (count - 1)).mean()
    trained = np.empty(count)
    for point in range(count):
        tested = [train for train, test in folds or [] if point in test]
        others = tested[0] if tested else np.delete(np.arange(count), point)
        trained[point] = apart[point, others].min() / mean_distance
    low, high = np.quantile(trained, [0.25, 0.75])
    threshold = min(high + 1.5 * (high - low), trained.max())
    distance = np.sqrt(((pixels[:, None] - table[None]) ** 2).sum(-1)) / mean_distance
    index, density = distance.min(1), (distance < threshold).sum(1).astype(float)
    density[np.isnan(index)] = np.nan
    return {"index": index, "density": density, "threshold": threshold, "mean_distance": mean_distance, "trained": trained}


def check_same(found, expected, shape=SHAPE):
    """Compare a computed map with what the formula gives."""
    for name in ("threshold", "mean_distance"):
        assert found.attrs[name] == pytest.approx(expected[name], abs=1e-6)
        assert all(array.attrs[name] == found.attrs[name] for array in found.data_vars.values())
    index, density = (expected[name].reshape(shape) for name in ("index", "density"))
    np.testing.assert_allclose(found.dissimilarity_index, index, atol=1e-6)
    np.testing.assert_array_equal(found.local_point_density, density)
    inside = np.where(np.isnan(index), 255, index <= expected["threshold"])
    np.testing.assert_array_equal(found.applicable, inside)
    assert {name: array.dtype.name for name, array in found.data_vars.items()} == {
        "dissimilarity_index": "float32",
        "local_point_density": "float32",
        "applicable": "uint8",
    }


def raw(cube, spec):
    """The model's bands, (pixel, feature), a direction as sine and cosine; and the band of each."""
    found = []
    for band in spec.bands:
        values = cube[band.name].values.ravel()
        both = (
            [np.where(values < 0, 0, turn(np.deg2rad(values))) for turn in (np.sin, np.cos)]
            if band.kind == "circular"
            else [values]
        )
        found += [(band.name, one.astype("float64")) for one in both]
    return np.stack([one for _, one in found], axis=-1), [name for name, _ in found]


@pytest.mark.parametrize("folds", [None, FOLDS], ids=["all others", "folds"])
@pytest.mark.parametrize("weights", [None, {"red": 2.0, "nir": 0.5, "aspect": 0.0, "elevation": 1.25}], ids=["alike", "weighted"])
def test_the_map_is_the_formula(cube, model, points, folds, weights, no_compute):
    gaps = cube.assign(nir=cube.nir.where(np.arange(SHAPE[1]) > 3))
    points = points.assign(extra=1)
    pixels, names = raw(gaps, model.spec)
    row, column = pixels_of(cube, points)
    at = row * SHAPE[1] + column
    there = np.flatnonzero(np.isfinite(pixels[at]).all(1))
    assert 30 < len(there) < COUNT, "some points lack a band"
    place_of = np.full(COUNT, -1)
    place_of[there] = np.arange(len(there))
    mine = [tuple(place_of[side][place_of[side] >= 0] for side in fold) for fold in folds] if folds else None
    ordered = None if weights is None else np.array([weights[name] for name in names])
    expected = formula(pixels[at[there]], pixels, mine, ordered)
    with pytest.warns(MisoxrWarning, match=f"{COUNT - len(there)} of {COUNT} points lack valid bands"):
        found = gaps.miso.applicability(model, points, cv=folds, weights=weights)
    with no_compute(), pytest.raises(AssertionError, match="computed"):
        found.compute()
    computed = found.compute()
    check_same(computed, expected)
    assert (computed.applicable == 1).any()
    assert computed.attrs["training_points"] == len(there)
    np.testing.assert_allclose(computed.dissimilarity_index.values[row[there], column[there]], 0, atol=0)
    with pytest.warns(MisoxrWarning, match="lack valid bands"):
        series = training_dissimilarity(gaps, model, points, cv=folds, weights=weights)
    np.testing.assert_allclose(series.to_numpy()[there], expected["trained"], atol=1e-6)
    assert series.isna().sum() == COUNT - len(there)


def forest(spec, kind="pixel", **changes):
    """Estimators that are fitted to nothing: what they see is what counts here."""
    task = Task("pf", "binary", ("no", "yes"))
    some = RandomForestClassifier(2, random_state=0).fit(np.eye(4), [0, 0, 1, 1])
    return PixelModel(replace(spec, tasks=(task,)), {"pf": some}, kind, **changes)


def seen_in(space, cube, model):
    """The features of a space, (pixel, feature), by the code that makes forests and embeddings."""
    if space == "embedding":
        return cube.miso.embed(model, device="cpu").embedding.values.reshape(model.spec.width, -1).T.astype("float64")
    found = features("neighbourhood", model.scaling, model.spec, stack(cube, model.spec), None).compute()
    assert (found[-1] == 1).all()
    return found[:-1].reshape(len(found) - 1, -1).T.astype("float64")


@pytest.mark.parametrize("space", ["neighbourhood", "embedding"])
def test_other_spaces_compare_what_the_models_see(cube, model, points, space):
    table = seen_in(space, cube, model)
    row, column = pixels_of(cube, points)
    expected = formula(table[row * SHAPE[1] + column], table, FOLDS)
    found = cube.chunk({"y": 20, "x": 60}).miso.applicability(model, points, cv=FOLDS, space=space).compute()
    np.testing.assert_allclose(found.dissimilarity_index, expected["index"].reshape(SHAPE), atol=1e-4)
    assert found.attrs["threshold"] == pytest.approx(expected["threshold"], abs=1e-4)
    assert (found.applicable == (expected["index"] <= expected["threshold"]).reshape(SHAPE)).mean() > 0.995
    assert found.attrs["space"] == space
    assert (json.loads(found.attrs["provenance"])["windows"] is None) == (space == "neighbourhood")


def test_neighbourhoods_of_estimators_are_as_the_estimators_see_them(cube, spec, points):
    plain = forest(spec, "neighbourhood")
    table = seen_in("neighbourhood", cube, plain)
    row, column = pixels_of(cube, points)
    names = ["red", "nir", "aspect", "elevation"]
    names += [f"{name}_{moment}_{side}" for side in (5, 15) for moment in ("mean", "std") for name in names[:4]]
    weights = {name: 1 + number / 10 for number, name in enumerate(names)}
    expected = formula(table[row * SHAPE[1] + column], table, None, np.array(list(weights.values())))
    found = applicability(cube, plain, points, space="neighbourhood", weights=pd.Series(weights)).compute()
    check_same(found, expected)


def test_any_chunks_give_the_same_map_and_points_are_read_from_their_chunks_alone(cube, model, points):
    whole = cube.miso.applicability(model, points, cv=FOLDS).compute()
    for chunks in ({"y": 7, "x": 11}, {"y": 48, "x": 1}):
        parts = cube.chunk(chunks).miso.applicability(model, points, cv=FOLDS)
        with dask.config.set(scheduler="synchronous"):
            xr.testing.assert_identical(parts.compute(), whole)
    read = []

    def noted(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    lazy = cube.chunk({"y": 12, "x": 12})
    noted_cube = lazy.assign({name: lazy[name].copy(data=lazy[name].data.map_blocks(noted, dtype="f4")) for name in lazy.data_vars})
    near = points[(points.geometry.x < float(cube.x[12]) - 10) & (points.geometry.y > float(cube.y[24]))]
    assert len(near) >= 3
    read.clear()
    noted_cube.miso.applicability(model, near)
    assert {place[1] for place in read} == {0}
    assert {place[0] for place in read} <= {0, 1}


def test_the_points_enter_the_graph_once(cube, model, points):
    found = cube.chunk({"y": 4, "x": 4}).miso.applicability(model, points)
    graph = dict(found.dissimilarity_index.data.__dask_graph__())
    assert len([key for key in graph if str(key).startswith("training-")]) == 1


def test_a_pixel_counts_as_often_as_it_has_points_and_folds_keep_them_apart(cube, model, points):
    """As in CAST: without folds a point of the same pixel is 0 away."""
    twice = gpd.GeoDataFrame(np.repeat(points.values, [3, *[1] * (COUNT - 1)], axis=0), columns=points.columns, crs=points.crs)
    twice = twice.set_geometry("geometry", crs=points.crs)
    row, column = pixels_of(cube, twice)
    pixels, _ = raw(cube, model.spec)
    at = row * SHAPE[1] + column
    found = cube.miso.applicability(model, twice).compute()
    check_same(found, formula(pixels[at], pixels))
    assert found.local_point_density.values[row[0], column[0]] >= 3
    alone = training_dissimilarity(cube, model, twice)
    assert (alone.iloc[:3] == 0).all()
    assert (alone.iloc[3:] > 0).all()
    together = training_dissimilarity(cube, model, twice, cv=[(np.arange(3, len(twice)), np.arange(3))])
    assert (together.iloc[:3] > 0).all()
    same = gpd.GeoDataFrame(geometry=[*points.geometry[:3], *[points.geometry[3]] * 30], crs=points.crs)
    with pytest.raises(PointsError, match="30 of 33 points have the features of another point"):
        training_dissimilarity(cube, model, same)


def test_dissimilarities_have_the_index_of_scores(cube, points):
    named = points.set_index(np.array([f"site {number}" for number in range(COUNT)]))[["permafrost", "geometry"]]
    scores = cube.miso.cross_validate("rf-11", named, cv=misoxr.KFold(3), progress=False)
    model = cube.miso.fit("rf-11", named)
    unlike = training_dissimilarity(cube, model, named, cv=misoxr.KFold(3))
    assert set(scores.predictions["point"]) == set(unlike.index)
    assert unlike.attrs["threshold"] == cube.miso.applicability(model, named, cv=3).attrs["threshold"]
    folds = list(misoxr.KFold(3).split(named))
    assert unlike.equals(training_dissimilarity(cube, model, named, cv=folds))
    assert not unlike.equals(training_dissimilarity(cube, model, named))
    repeated = named.set_axis([0] * COUNT)
    assert list(training_dissimilarity(cube, model, repeated).index) == list(range(COUNT))
    profile = scores.error_profile(unlike)
    assert profile.attrs["threshold"] == unlike.attrs["threshold"]
    with pytest.warns(MisoxrWarning, match="computed with cv=none, and the scores with cv=KFold"):
        scores.error_profile(training_dissimilarity(cube, model, named))


def test_what_is_left_out_of_the_map_is_left_out_here(cube, model, points):
    """Water counts in no share of the map that is inside."""
    water = cube.red > float(cube.red.median())
    plain = cube.miso.applicability(model, points).compute()
    found = cube.miso.applicability(model, points, exclude={"water": water}).compute()
    assert (found.applicable.values[water.values] == 255).all()
    assert np.isnan(found.dissimilarity_index.values[water.values]).all()
    assert (found.applicable.values == plain.applicable.values)[~water.values].all()
    assert found.excluded.attrs["flag_meanings"].split() == ["not_excluded", "water"]
    assert found.attrs["title"] == "area of applicability"
    assert found.attrs["cv"] == "none"


def test_a_point_that_several_folds_test_has_the_mean(cube, model, points):
    one, other = [(np.arange(10, COUNT), np.arange(10))], [(np.arange(20, COUNT), np.arange(10))]
    parts = [training_dissimilarity(cube, model, points, cv=folds) for folds in (one, other, one + other)]
    np.testing.assert_allclose(parts[2][:10], (parts[0][:10] + parts[1][:10]) / 2)
    np.testing.assert_array_equal(parts[2][10:], parts[0][10:])


def test_permutation_finds_the_band_that_matters(cube, spec):
    points = points_of(cube, 120, seed=1)
    row, column = pixels_of(cube, points)
    points["pf"] = (cube.nir.values[row, column] > np.median(cube.nir)).astype(int)
    task = replace(spec, tasks=(Task("pf", "binary", ("no", "yes")),))
    for name in ("rf-11", "rf-neighbourhood"):
        fitted = cube.miso.fit(name, points, like=task)
        found = cube.miso.applicability(fitted, points, weights="permutation")
        weights = json.loads(found.attrs["provenance"])["settings"]["applicability"]["weights"]
        assert weights["nir"] > 0.3
        assert weights["nir"] > 5 * max(value for band, value in weights.items() if band != "nir")
        assert min(weights.values()) >= 0
        again = cube.chunk({"y": 16, "x": 16}).miso.applicability(fitted, points, weights=weights)
        assert again.attrs["threshold"] == found.attrs["threshold"]
    with pytest.raises(PointsError, match="0 points have labels|No point has a label"):
        cube.miso.applicability(fitted, points.drop(columns="pf"), weights="permutation")
    with pytest.raises(PointsError, match="all the same"):
        cube.miso.applicability(fitted, points.assign(pf=1), weights="permutation")


def test_permutation_of_a_network_moves_whole_windows(cube, model):
    known = points_of(cube, 60, seed=2)
    answers = cube.miso.predict_at(model, known, device="cpu").compute()
    known["permafrost"] = (answers.permafrost_probability.values >= 0.5).astype(int)
    known["taxonomy"] = answers.taxonomy.values
    found = cube.miso.applicability(model, known, weights="permutation")
    weights = json.loads(found.attrs["provenance"])["settings"]["applicability"]["weights"]
    assert set(weights) == {"red", "nir", "aspect", "elevation"}
    assert max(weights.values()) > 0.05
    again = cube.chunk({"y": 30, "x": 60}).miso.applicability(model, known, weights="permutation")
    assert again.attrs["threshold"] == found.attrs["threshold"]


def test_features_that_do_not_vary_are_left_out_with_one_warning(cube, model, points):
    flat = cube.assign(nir=cube.nir * 0 + 0.25)
    with pytest.warns(MisoxrWarning, match=r"\['nir'\] have the same value at all 40 training points") as told:
        found = flat.miso.applicability(model, points).compute()
    assert len(told) == 1
    pixels = raw(flat, model.spec)[0][:, [0, 2, 3, 4]]
    row, column = pixels_of(cube, points)
    check_same(found, formula(pixels[row * SHAPE[1] + column], pixels))
    empty = cube.assign(nir=cube.nir * np.nan)
    with pytest.warns(MisoxrWarning, match="or none, and are left out"):
        xr.testing.assert_equal(empty.miso.applicability(model, points).compute(), found)
    with pytest.raises(PointsError, match="same value at all 40 points"):
        (cube * 0 + 1).assign_coords(spatial_ref=cube.spatial_ref).miso.applicability(forest(model.spec), points)


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (SpecError, "space is 'band'.*Did you mean \"bands\"", {"space": "band"}),
        (SpecError, "no embedding: it is made of estimators", {"space": "embedding", "model": "forest"}),
        (SpecError, "There are 2 models; give one", {"model": "several"}),
        (SpecError, r"weights has \['swir'\]", {"weights": {"swir": 1.0}}),
        (SpecError, r"weights lacks \['nir', 'aspect', 'elevation'\]", {"weights": {"red": 1.0}}),
        (SpecError, "are no numbers", {"weights": {"red": np.nan, "nir": 1, "aspect": 1, "elevation": 1}}),
        (SpecError, "weights is 'permute'", {"weights": "permute"}),
        (SpecError, "weights is a list", {"weights": [1, 1, 1, 1]}),
        (SpecError, "weighs bands, and space is 'embedding'", {"weights": "permutation", "space": "embedding"}),
        (PointsError, "are all 0", {"weights": {"red": 0, "nir": 0, "aspect": 0, "elevation": 0}}),
        (PointsError, "2 points have valid bands, and 3 or more", {"points": slice(2)}),
        (PointsError, "lie outside the cube", {"points": "outside"}),
        (SpecError, "cv is 'spatial'", {"cv": "spatial"}),
        (PointsError, "in both training and test", {"cv": [([0, 1, 2], [2, 3])]}),
        (PointsError, "hold index 99", {"cv": [([0, 1, 2], [99])]}),
        (SpecError, "cannot split points by coordinates alone", {"cv": "groups"}),
    ],
)
def test_errors_tell_the_remedy(cube, model, points, error, words, options):
    from sklearn.model_selection import LeaveOneGroupOut

    chosen = {"forest": forest(model.spec), "several": [model, model]}.get(options.pop("model", ""), model)
    mine = options.pop("points", slice(None))
    given = points.assign(geometry=points.geometry.translate(1e5)) if mine == "outside" else points.iloc[mine]
    options = {**options, **({"cv": LeaveOneGroupOut()} if options.get("cv") == "groups" else {})}
    for verb in (applicability, training_dissimilarity):
        with pytest.raises(error, match=words):
            verb(cube, chosen, given, **options)


def test_what_a_cube_lacks_is_told(cube, model, points):
    with pytest.raises(BandError, match="nir"):
        cube.drop_vars("nir").miso.applicability(model, points)
    with pytest.raises(BandError, match="None of the 40 points lies where the cube has a valid pixel"):
        (cube * np.nan).miso.applicability(model, points)
    with pytest.raises(GridError):
        applicability(cube.red, model, points)
    with pytest.warns(MisoxrWarning, match=r"\['red'\] are negative"):
        weighted = cube.miso.applicability(model, points, weights={"red": -1, "nir": 1, "aspect": 1, "elevation": 1})
    zero = cube.miso.applicability(model, points, weights={"red": 0, "nir": 1, "aspect": 1, "elevation": 1})
    assert weighted.attrs["threshold"] == zero.attrs["threshold"]


def test_yearly_composites_have_their_points_in_their_years(cube, model, points):
    years = np.array(["2019-01-01", "2021-01-01"], dtype="datetime64[ns]")
    both = xr.concat([cube, cube.assign({n: cube[n].copy(data=cube[n].values[::-1]) for n in cube.data_vars})], "time")
    both = both.assign_coords(time=years).transpose("time", ...)
    dated = points.assign(date=np.where(np.arange(COUNT) % 2, "2019-07-01", "2021-07-01"))
    found = training_dissimilarity(both, model, dated)
    row, column = pixels_of(cube, points)
    at = np.where(np.arange(COUNT) % 2, row, SHAPE[0] - 1 - row) * SHAPE[1] + column
    table = raw(cube, model.spec)[0][at]
    np.testing.assert_allclose(found, formula(table, table)["trained"], atol=1e-6)
    with pytest.raises(BandError, match="isel"):
        both.miso.applicability(model, dated)


def test_it_goes_through_every_store_beside_the_maps(cube, model, points, tmp_path):
    image = cube.assign(red=cube.red.where(np.arange(SHAPE[1]) > 5)).chunk({"y": 24, "x": 30})
    with pytest.warns(MisoxrWarning, match="lack valid bands"):
        applies = image.miso.applicability(model, points)
    maps = image.miso.predict(model, device="cpu").merge(applies, compat="override")
    assert maps.miso.plan(timed=False)
    maps.miso.to_zarr(tmp_path / "maps.zarr", progress=False)
    assert not len(misoxr.check(tmp_path / "maps.zarr"))
    opened = misoxr.open_maps(tmp_path / "maps.zarr", codes=True)
    computed = applies.compute()
    for name in applies.data_vars:
        np.testing.assert_array_equal(opened[name], computed[name])
        assert opened[name].attrs["threshold"] == applies.attrs["threshold"]
    assert opened.applicable.attrs["flag_meanings"] == "outside inside"
    assert (misoxr.open_maps(tmp_path / "maps.zarr").applicable.isnull() == (computed.applicable == 255)).all()
    files = applies.miso.to_cog(tmp_path / "cogs", progress=False)
    assert len(files) == 3
    applies.miso.to_pyramid(tmp_path / "pyramid.zarr", levels=1, progress=False)
    coarse = misoxr.open_maps(tmp_path / "pyramid.zarr/1")
    expected = computed.local_point_density.coarsen(y=2, x=2).mean()
    np.testing.assert_allclose(coarse.local_point_density, expected, rtol=1e-6)
    with pytest.warns(MisoxrWarning, match=r"2 of 20 points lack valid bands \(\['red'\]\)"):
        fewer = image.miso.applicability(model, points.iloc[:20])
    other = image.miso.predict(model, device="cpu").merge(fewer, compat="override")
    with pytest.raises(StoreError):
        other.miso.to_zarr(tmp_path / "maps.zarr", progress=False)


def test_a_direction_is_a_circle(cube, model, points):
    """A turn by less than a degree changes little, also where it goes through north."""
    angle = np.random.default_rng(3).uniform(0, 360, SHAPE).astype("float32")
    still, turned = (cube.assign(aspect=cube.aspect.copy(data=(angle + by) % 360)) for by in (0, 0.5))
    one, other = (ds.miso.applicability(model, points).compute() for ds in (still, turned))
    assert float(abs(one.dissimilarity_index - other.dissimilarity_index).max()) < 0.05


@pytest.mark.filterwarnings("error::FutureWarning")
def test_maps_take_it_in_without_a_word(cube, model, points, tmp_path):
    lazy = cube.chunk({"y": 20})
    maps, applies = lazy.miso.predict(model, device="cpu"), lazy.miso.applicability(model, points)
    both = maps.merge(applies)
    assert list(both.data_vars) == [*maps.data_vars, *applies.data_vars]
    assert both.spatial_ref.attrs == maps.spatial_ref.attrs
    applies.miso.to_zarr(tmp_path / "applies.zarr", progress=False)
    stored = misoxr.open_maps(tmp_path / "applies.zarr")
    assert list(stored.data_vars) == list(applies.data_vars)
    assert list(maps.merge(stored).data_vars) == list(both.data_vars)


@pytest.mark.parametrize("space", ["bands", "neighbourhood"])
def test_fill_values_at_training_points_are_refused(cube, model, points, space):
    filled = cube.assign(elevation=cube.elevation.where(cube.x > cube.x.median(), -9999))
    for verb in (applicability, training_dissimilarity):
        with pytest.raises(BandError, match=r"Band 'elevation' is -9999 in .* declare it where the raster is read"):
            verb(filled, forest(model.spec), points, space=space)


@pytest.mark.parametrize("space", ["bands", "neighbourhood"])
def test_fill_values_at_points_that_are_not_valid_are_no_matter(cube, model, points, space):
    """They are left out, as where a model learns."""
    there = cube.x < cube.x.quantile(0.7)
    images = [band.name for part in model.spec.modalities if part.required for band in part.bands]
    part = cube.assign({name: cube[name].where(there) for name in images})
    with pytest.warns(MisoxrWarning, match="points"):
        training_dissimilarity(part.assign(elevation=cube.elevation.where(there, -9999)), forest(model.spec), points, space=space)
