"""Sites for the next season: reproducible, valid, apart, where they are needed; and bad input."""

import dask
import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.spatial.distance import cdist

from misoxr.errors import BandError, GridError, MisoxrWarning, PointsError, SpecError
from misoxr.grid.geobox import assign
from misoxr.sampling import next_sites, searches
from misoxr.sampling.methods import METHODS
from misoxr.sampling.searches import Hypercube, Spacing, annealed
from tests.conftest import ORIGIN


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Try few swaps, where it is of no matter how good a hypercube is."""
    monkeypatch.setattr(searches, "ITERATIONS", 400)


SHAPE = (60, 80)
FEW = {"candidates": 1500}


def placed(data, pixel=20.0, origin=ORIGIN, crs="EPSG:3338"):
    """A dataset of arrays (y, x), or (class, y, x), on a grid."""
    arrays = {
        name: (("class", "y", "x")[-np.ndim(values) :], values) if not isinstance(values, tuple) else values
        for name, values in data.items()
    }
    shape = next(iter(arrays.values()))[1].shape[-2:]
    return assign(xr.Dataset(arrays), GeoBox(shape, Affine(pixel, 0, origin[0], 0, -pixel, origin[1]), crs))


@pytest.fixture(scope="module")
def maps():
    """Four covariates that vary with place, one of them in directions; and what a map does not know of two tasks, with holes."""
    random = np.random.default_rng(0)
    row, column = np.meshgrid(*(np.linspace(0, 1, side) for side in SHAPE), indexing="ij")
    nir = (row + 0.1 * random.standard_normal(SHAPE)).astype("float32")
    nir[:10, :10] = np.nan
    soil = random.random((3, *SHAPE)).astype("float32")
    soil /= soil.sum(axis=0)
    data = {
        "red": (column**3).astype("float32"),
        "nir": nir,
        "aspect": (360 * random.random(SHAPE)).astype("float32"),
        "slope": random.gamma(1, 5, SHAPE).astype("float32"),
        "soil_probability": soil,
        "carbon": row.astype("float32"),
        "carbon_std": (row * column).astype("float32"),
    }
    ds = placed(data)
    codes = soil.argmax(axis=0).astype("uint8")
    codes[-5:] = 255
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "a b c", "_FillValue": np.uint8(255)}
    ds["soil"] = (("y", "x"), codes, {**flags, "grid_mapping": "spatial_ref"})
    return ds


def points(xy, crs="EPSG:3338"):
    return gpd.GeoDataFrame(geometry=gpd.points_from_xy(*np.transpose(xy)), crs=crs)


@pytest.fixture(scope="module")
def roadside(maps):
    """Points along the western edge, where red is low."""
    return points([(maps.x.values[at % 6], maps.y.values[at]) for at in range(11, 60, 2)])


def xy_of(sites):
    return np.column_stack([sites.geometry.x, sites.geometry.y])


def numbers(maps, sites):
    return maps.indexes["y"].get_indexer(sites.geometry.y), maps.indexes["x"].get_indexer(sites.geometry.x)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_sites_for_any_chunks_and_scheduler_and_others_for_another_seed(maps, roadside, method):
    options = {"method": method, "existing": roadside, "least_distance": 45, **FEW}
    whole = next_sites(maps, 12, **options)
    for chunks, scheduler in (({"y": 17, "x": 23}, "threads"), ({"y": 60, "x": 9, "class": 1}, "synchronous")):
        with dask.config.set(scheduler=scheduler):
            again = next_sites(maps.chunk(chunks), 12, **options)
        assert whole.equals(again)
        assert whole.attrs == again.attrs
    assert not next_sites(maps, 12, random_state=1, **options).geometry.equals(whole.geometry)


@pytest.mark.parametrize("method", METHODS)
def test_sites_are_pixel_centres_with_values_and_a_place_for_a_gps(maps, method, tmp_path):
    sites = next_sites(maps, 9, method=method, **FEW)
    rows, columns = numbers(maps, sites)
    assert (rows >= 0).all()
    assert (columns >= 0).all()
    assert sites.crs == "EPSG:3338"
    assert sites.site.tolist() == list(range(1, 10))
    for name in sites.attrs["by"]:
        values = maps[name].values[..., rows, columns]
        assert np.isfinite(values).all()
        columns_of = [name] if values.ndim == 1 else [f"{name}_{at}" for at in range(len(values))]
        np.testing.assert_array_equal(sites[columns_of].to_numpy().T, np.atleast_2d(values))
    lon, lat = pyproj.Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True).transform(*xy_of(sites).T)
    np.testing.assert_allclose(sites[["lon", "lat"]], np.column_stack([lon, lat]), rtol=1e-12)
    assert sites.attrs["method"] == method
    assert sites.attrs["candidates"] == 1500
    sites.to_file(tmp_path / "sites.gpkg")
    waypoints = sites.assign(name="site " + sites.site.astype(str))[["name", "geometry"]].to_crs("EPSG:4326")
    waypoints.to_file(tmp_path / "sites.gpx", driver="GPX", layer="waypoints")
    np.testing.assert_allclose(gpd.read_file(tmp_path / "sites.gpx", layer="waypoints").geometry.x, lon, atol=1e-8)


def test_by_default_what_chooses_is_what_the_method_needs(maps):
    image = ["red", "nir", "aspect", "slope"]
    kmeans = {"method": "kmeans", **FEW}
    assert next_sites(maps, 3, **kmeans).attrs["by"] == image
    assert next_sites(maps, 3, method="uncertainty", **FEW).attrs["by"] == ["carbon_std", "soil_probability"]
    known = maps.assign(dissimilarity_index=maps.red, soil_entropy=maps.nir, soil_set_size=maps.soil)
    assert next_sites(known, 3, method="uncertainty", **FEW).attrs["by"] == ["dissimilarity_index", "carbon_std", "soil_entropy"]
    assert next_sites(known, 3, **kmeans).attrs["by"] == image
    # Where the dataset tells what is not known, that chooses; else, or where variables are named, the covariates do.
    assert next_sites(known, 3, **FEW).attrs["method"] == "uncertainty"
    for other in ({"by": "red"}, {"weight": "carbon_std"}):
        assert next_sites(known, 3, **other, **FEW).attrs["method"] == "kmeans"
    assert next_sites(maps[image], 3, **FEW).attrs["method"] == "kmeans"


def test_nodata_is_never_chosen_nor_a_pixel_that_has_a_point(maps):
    """All pixels but two have a point or are nodata."""
    few = maps[["red", "soil"]].isel(y=slice(50, 60), x=slice(0, 4))
    taken = points([(x, y) for x in few.x.values for y in few.y.values[:5]][2:])
    assert next_sites(few, 2, method="random", by=["red", "soil"], existing=taken).geometry.y.isin(few.y.values[:2]).all()
    with pytest.raises(PointsError, match="Only 2 pixels can be chosen, and n is 3.*20, have 'soil'"):
        next_sites(few, 3, method="clhs", by=["red", "soil"], existing=taken)


@pytest.mark.parametrize("method", METHODS)
def test_sites_keep_the_least_distance_also_from_existing_points(maps, roadside, method):
    sites = next_sites(maps, 30, method=method, existing=roadside, least_distance=100, **FEW)
    apart = cdist(xy_of(sites), xy_of(sites))
    assert apart[np.triu_indices(30, 1)].min() >= 100 - 1e-6
    assert cdist(xy_of(sites), xy_of(roadside)).min() >= 100 - 1e-6
    with pytest.raises(PointsError, match=r"Only \d+ of 30 sites fit at a least distance of 600 among 1500"):
        next_sites(maps, 30, method=method, existing=roadside, least_distance=600, **FEW)


def test_pixels_exactly_as_far_apart_as_asked_for_are_far_enough():
    line = placed({"red": np.arange(5.0, dtype="float32").reshape(1, 5) * np.ones((2, 1), "float32")}).isel(y=[0, 1])
    sites = next_sites(line.isel(x=slice(0, 3)), 4, method="random", by="red", least_distance=20, candidates=6)
    assert len(sites) == 4


def spread(covariates, sites, existing=None):
    """Mean squared shortest distance in standardised covariates."""
    all_ = np.concatenate([sites, existing]) if existing is not None else sites
    mean, deviation = covariates.mean(axis=0), covariates.std(axis=0)
    return (cdist((covariates - mean) / deviation, (all_ - mean) / deviation) ** 2).min(axis=1).mean()


def test_kmeans_covers_the_covariates_better_than_random_and_infill_avoids_what_is_covered(maps, roadside):
    names = ["red", "nir", "slope"]
    every = maps[names].to_dataarray().values.reshape(3, -1).T
    every = every[np.isfinite(every).all(axis=1)]
    found = {
        method: [
            spread(every, next_sites(maps, 15, method=method, by=names, random_state=seed, **FEW)[names].to_numpy())
            for seed in range(3)
        ]
        for method in ("kmeans", "random")
    }
    assert max(found["kmeans"]) < min(found["random"])
    infill, afresh = (next_sites(maps, 15, by=names, existing=one, **FEW)[names].to_numpy() for one in (roadside, None))
    rows, columns = numbers(maps, roadside)
    covered = np.stack([maps[name].values[rows, columns] for name in names], axis=1)
    assert spread(every, infill, covered) < spread(every, afresh, covered)
    assert np.median(infill[:, 0]) > np.median(afresh[:, 0])  # points exist where red is low


def test_weights_draw_sites_to_what_is_not_known(maps):
    plain, weighted = (next_sites(maps, 20, method="kmeans", weight=one, **FEW) for one in (None, "carbon_std"))
    assert weighted.carbon_std.mean() > 1.2 * maps.carbon_std.values[*numbers(maps, plain)].mean()
    assert weighted.uncertainty.between(0, 1).all()
    assert plain.share.sum() == pytest.approx(1)
    assert plain.share.is_monotonic_decreasing


def test_uncertainty_has_more_sites_where_less_is_known_and_spreads_them(maps, roadside):
    sites = next_sites(maps, 25, method="uncertainty", by="carbon_std", **FEW)
    # Five strata of equal size, whose mean ranks are .1, .3, .5, .7 and .9: 25 sites by largest remainders.
    assert sites.stratum.value_counts().sort_index().tolist() == [1, 3, 5, 7, 9]
    assert sites.uncertainty.is_monotonic_decreasing
    assert sites.groupby("stratum").carbon_std.min().is_monotonic_increasing
    at_random = [next_sites(maps, 25, method="random", random_state=seed, **FEW) for seed in range(5)]
    nearest = [np.sort(cdist(xy_of(one), xy_of(one)), axis=1)[:, 1].mean() for one in [sites, *at_random]]
    assert nearest[0] > max(nearest[1:])
    beside = next_sites(maps, 25, method="uncertainty", by="carbon_std", existing=roadside, **FEW)
    assert beside.geometry.x.mean() > sites.geometry.x.mean()


def test_what_counts_as_unknown():
    """Ranks of 1 - the greatest probability; an empty set counts most, and confidence the other way round."""
    size = np.arange(400.0).reshape(20, 20).astype("float32") / 400
    ds = placed({"soil_probability": np.stack([size, 1 - size]), "t_confidence": size, "t_set_size": (size < 0.5).astype("uint8")})
    unsure = next_sites(ds, 20, method="uncertainty", by="soil_probability", candidates=400)
    assert np.abs(unsure.soil_probability_0 - 0.5).is_monotonic_increasing
    confident = next_sites(ds, 20, method="uncertainty", by="t_confidence", candidates=400)
    assert confident.t_confidence.is_monotonic_increasing
    empty = next_sites(ds, 20, method="uncertainty", by="t_set_size", candidates=400)
    assert empty.t_set_size.is_monotonic_increasing  # 0, the empty sets, first
    assert set(empty.stratum) == {1, 2}


def hypercube(n, existing=0):
    random = np.random.default_rng(3)
    features = random.standard_normal((2000 + existing, 3))
    spacing = Spacing(random.random((2000, 2)), None, np.empty((0, 2)))
    chosen = annealed(features, [], n, spacing, np.zeros(2000), np.random.default_rng(1))
    return features, np.append(chosen, np.arange(2000, 2000 + existing)).astype(int)


def test_a_latin_hypercube_has_about_one_site_in_each_stratum(monkeypatch):
    monkeypatch.setattr(searches, "ITERATIONS", 5000)
    features, sites = hypercube(20)
    cube = Hypercube(features, [], 2000, sites)
    at_random = [
        Hypercube(features, [], 2000, np.random.default_rng(seed).choice(2000, 20, False)).objective() for seed in range(20)
    ]
    assert (cube.counts == 1).mean() > 0.9
    assert cube.objective() < 0.25 * min(at_random)
    edges = np.quantile(features, np.linspace(0, 1, 21), axis=0)
    own = [np.histogram(features[sites, at], edges[:, at])[0] for at in range(3)]
    np.testing.assert_array_equal(cube.counts, own)
    np.testing.assert_allclose(cube.target, np.corrcoef(features.T), atol=1e-12)
    difference = np.abs(np.corrcoef(features[sites].T) - np.corrcoef(features.T)).sum()
    assert cube.objective() == pytest.approx(np.abs(np.array(own) - 1).sum() + difference)


def test_swaps_leave_the_sums_that_a_new_count_gives():
    features, sites = hypercube(20, 5)
    codes = [(features[:, 0] > 0).astype(int)]
    cube = Hypercube(features, codes, 2000, [*range(20), *range(2000, 2005)])
    for old, new in zip(range(20), sites[:20], strict=True):
        cube.swap(old, int(new))
    assert cube.objective() == pytest.approx(Hypercube(features, codes, 2000, sites).objective())


def test_a_latin_hypercube_fills_the_strata_that_existing_points_leave():
    features, sites = hypercube(12, existing=8)
    cube = Hypercube(features, [], 2000, sites)
    before = Hypercube(features, [], 2000, [*range(12), *range(2000, 2008)])
    assert cube.objective() < 0.5 * before.objective()


def test_cost_lowers_what_sites_cost(maps, roadside, monkeypatch):
    monkeypatch.setattr(searches, "ITERATIONS", 2000)
    road = gpd.GeoDataFrame(geometry=[shapely.LineString(xy_of(roadside))], crs="EPSG:3338")
    raster = xr.DataArray(np.tile(np.arange(80.0), (60, 1)), coords=dict(maps.red.coords), dims=("y", "x"))
    for method in ("kmeans", "uncertainty", "clhs"):
        by = ["soil_probability"] if method == "uncertainty" else ["nir", "slope"]  # what does not vary with the distance
        options = {"method": method, "by": by, **FEW}
        dear, cheap = (next_sites(maps, 20, cost=road, cost_weight=weight, **options).cost for weight in (0, 3))
        assert cheap.mean() < 0.8 * dear.mean()
    by_raster, in_cents = (next_sites(maps, 20, cost=one, **options) for one in (raster, 100 * raster))
    np.testing.assert_array_equal(by_raster.cost, numbers(maps, by_raster)[1])
    assert in_cents.geometry.equals(by_raster.geometry)
    by_road = next_sites(maps, 20, cost=road.to_crs("EPSG:3857"), method="random", **FEW)
    np.testing.assert_allclose(by_road.cost, by_road.geometry.distance(road.geometry[0]), atol=0.05)
    assert by_road.geometry.equals(next_sites(maps, 20, method="random", **FEW).geometry)


def test_no_site_where_there_is_no_cost_or_outside_the_area(maps):
    """A raster of 60 m pixels in another CRS that ends within the map, and polygons in degrees."""
    raster = xr.DataArray(np.tile(np.arange(80.0), (60, 1)), coords=dict(maps.red.coords), dims=("y", "x"))
    sites = next_sites(maps, 30, method="random", cost=raster.where(raster > 60), **FEW)
    assert (sites.cost > 60).all()
    part = next_sites(maps, 30, method="random", cost=raster.isel(x=slice(70, 80)), **FEW)
    assert part.geometry.x.min() > maps.x.values[69]
    west, south, east, north = maps.x.values[20] + 3, maps.y.values[40] + 3, maps.x.values[30] + 3, maps.y.values[30] + 3
    box = gpd.GeoDataFrame(geometry=[shapely.box(west, south, east, north)], crs="EPSG:3338")
    for area in (box, box.to_crs("EPSG:4326"), box.geometry):
        inside = next_sites(maps.chunk({"y": 7}), 30, method="clhs", within=area, **FEW)
        assert inside.geometry.x.between(west - 10, east + 10).all()
        assert inside.geometry.y.between(south - 10, north + 10).all()
    exact = next_sites(maps, 90, method="random", within=box, **FEW)
    assert exact.within(box.geometry[0].buffer(1e-6)).all()
    assert exact.attrs["valid_pixels"] == 100


def test_maps_in_degrees_spread_sites_in_metres_and_refuse_lengths():
    """At 65 degrees north a degree of longitude is 0.42 of one of latitude; the map crosses 180 degrees."""
    shape = (40, 40)
    ds = placed({"doubt": np.random.default_rng(0).random(shape).astype("float32")}, 0.01, (179.8, 65.2), "EPSG:4326")
    before = points([(-179.99, 65.0), (179.95, 65.1)], "EPSG:4326")
    options = {"method": "uncertainty", "by": "doubt", **FEW}
    sites = next_sites(ds, 10, existing=before, **options)
    assert sites.lon.between(-180, 180).all()
    assert ((sites.lon > 0) == (sites.geometry.x < 180)).all()
    turned = next_sites(ds.assign_coords(x=ds.x - 360), 10, existing=before, **options)
    np.testing.assert_allclose(turned.geometry.x + 360, sites.geometry.x)
    with pytest.raises(GridError, match=r"map is in degrees \(WGS 84\), which are no lengths; leave out least_distance"):
        next_sites(ds, 10, least_distance=100, **options)
    with pytest.raises(GridError, match="map is in degrees"):
        next_sites(ds, 10, cost=before, **options)


def test_embeddings_and_classes_are_covariates():
    random = np.random.default_rng(0)
    ds = placed({"embedding": (("feature", "y", "x"), random.standard_normal((4, 30, 30)).astype("float32"))})
    sites = next_sites(ds, 5)
    assert {f"embedding_{at}" for at in range(4)} <= set(sites)
    cover = random.choice([10, 20, 30], (30, 30), p=[0.5, 0.3, 0.2]).astype("uint8")
    ds["cover"] = (("y", "x"), cover, {"flag_values": [10, 20, 30], "flag_meanings": "a b c"})
    assert "cover" not in next_sites(ds, 5).attrs["by"]
    both = next_sites(ds, 20, method="clhs", by=["embedding", "cover"])
    shares = np.array([(cover == code).mean() for code in (10, 20, 30)])
    assert {f"embedding_{at}" for at in range(4)} < set(both)
    alone = next_sites(ds, 20, method="clhs", by="cover")
    np.testing.assert_allclose(alone.cover.value_counts(normalize=True).sort_index(), shares, atol=0.051)


def test_a_direction_of_359_is_near_one_of_1():
    """Half of the pixels face north, on either side of 0, the others south: two sites cover both."""
    angle = np.where(np.arange(400) % 2, 180, np.where(np.arange(400) % 4 == 0, 359, 1)).reshape(20, 20).astype("float32")
    sites = next_sites(placed({"aspect": angle}), 2)
    assert sorted(sites.aspect) in ([1, 180], [180, 359])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"n": 0}, SpecError, "n is 0; give a whole number of 1 or more"),
        ({"n": 2.5}, SpecError, "n is 2.5"),
        ({"n": 5000, "candidates": 100}, SpecError, "n is 5000 and candidates is 100"),
        (
            {"n": 5000, "candidates": 5000, "method": "kmeans"},
            PointsError,
            "Only 4700 pixels can be chosen, and n is 5000.*have 'nir'",
        ),
        ({"random_state": None}, SpecError, "random_state is None"),
        ({"method": "kmean"}, SpecError, "Unknown method 'kmean'.*Did you mean \"kmeans\""),
        ({"by": "nri"}, BandError, "no variable 'nri'.*Did you mean \"nir\""),
        ({"by": 3}, SpecError, "by is 3; give the name"),
        ({"by": "soil"}, BandError, "'soil' holds classes, which have no distances"),
        ({"by": "soil", "method": "uncertainty"}, BandError, "'soil' holds classes, which have no order; .* soil_probability"),
        ({"weight": "carbon_std", "method": "clhs"}, SpecError, "weight belongs to method='kmeans', and method is 'clhs'"),
        ({"weight": "carbon_sd"}, BandError, 'Did you mean "carbon_std"'),
        ({"least_distance": -1}, SpecError, "least_distance is -1"),
        ({"cost_weight": float("nan")}, SpecError, "cost_weight is nan"),
        ({"cost": 3}, SpecError, "cost is a int; give a DataArray"),
        ({"existing": [(0, 0)]}, PointsError, "existing is a list; give a GeoDataFrame"),
        ({"existing": gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)])}, PointsError, "existing carry no CRS"),
        ({"within": 3}, PointsError, "within is a int"),
        ({"within": gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)])}, PointsError, "within carry no CRS"),
        ({"within": points([(0, 0)])}, PointsError, "within holds Point; give polygons"),
        (
            {"within": gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:3338")},
            GridError,
            "area of within does not meet the map, which covers",
        ),
        ({"cost": gpd.GeoDataFrame(geometry=[], crs="EPSG:3338")}, PointsError, "hold no geometry"),
        ({"cost": gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)])}, PointsError, "roads of cost carry no CRS"),
        ({"cost": xr.DataArray(np.zeros((2, 2)), dims=("y", "x"))}, GridError, "raster of costs carries no CRS"),
        ({"cost": placed({"a": np.zeros((9, 9))}, origin=(0.0, 0.0)).a}, GridError, "do not overlap"),
    ],
)
def test_bad_input_is_refused(maps, changes, error, words):
    with pytest.raises(error, match=words):
        next_sites(maps, **{"n": 5, **changes})


def test_what_cannot_choose_is_told(maps):
    with pytest.raises(BandError, match=r"There are no covariates among .*give the image beside the map: image.merge\(maps\)"):
        next_sites(maps[["soil", "soil_probability"]], 5, method="kmeans")
    with pytest.raises(BandError, match="Nothing among .* tells what the map does not know"):
        next_sites(maps[["red", "nir"]], 5, method="uncertainty")
    with pytest.raises(BandError, match="same values at all pixels"):
        next_sites(maps[["red"]] * 0, 5)
    with pytest.raises(SpecError, match=r"maps is a DataArray; give a Dataset, such as array.to_dataset\(name='red'\)"):
        next_sites(maps.red, 5)
    with pytest.raises(SpecError, match="maps is a list"):
        next_sites([], 5)
    with pytest.raises(GridError, match="carries no CRS"):
        next_sites(maps.drop_vars("spatial_ref").drop_attrs(), 5)
    with pytest.raises(BandError, match=r"'set' has dimensions \('a', 'b', 'y', 'x'\)"):
        next_sites(maps.assign(set=maps.red.expand_dims(a=2, b=2)), 5, by="set")


def test_metadata_are_refused_before_anything_is_computed(maps, no_compute):
    lazy = maps.chunk({"y": 20})
    with no_compute():
        for changes in (
            {"by": "soil", "method": "uncertainty"},
            {"least_distance": 0},
            {"within": 3},
            {"existing": 3},
            {"cost": 3},
        ):
            with pytest.raises((BandError, SpecError, PointsError)):
                next_sites(lazy, 5, **changes)


def plain_image(**more):
    random = np.random.default_rng(4)
    data = {name: random.random(SHAPE).astype("float32") for name in ("red", "nir")}
    return placed(data | more)


def test_the_same_sites_in_any_direction_of_the_axes():
    image = plain_image()
    whole = next_sites(image, 12, **FEW)
    for flipped in (image.isel(y=slice(None, None, -1)), image.isel(y=slice(None, None, -1), x=slice(None, None, -1))):
        assert next_sites(flipped.chunk({"y": 17}), 12, **FEW).equals(whole)


def test_one_time_is_none_and_several_are_to_be_composited():
    image = plain_image()
    assert next_sites(image.expand_dims(time=1), 5, **FEW).equals(next_sites(image, 5, **FEW))
    times = image.expand_dims(time=2)
    for cube, by in ((times, None), (image.assign(swir16=times.red), None), (times, "red")):
        with pytest.raises(BandError, match=r"have time \(2 steps\); composite first"):
            next_sites(cube, 5, by=by, **FEW)


def test_a_cloudy_band_is_named():
    image = plain_image()
    cloudy = image.nir.where(np.arange(SHAPE[0])[:, None] < 6)
    with pytest.warns(MisoxrWarning, match=r"480 pixels can be chosen: few have 'nir' \(480\), and 4,800 have 'red'"):
        next_sites(image.assign(nir=cloudy), 5, **FEW)


def test_a_mapped_value_is_no_covariate():
    image = plain_image()
    both = image.assign(soc=image.red * 3)
    with pytest.warns(MisoxrWarning, match=r"chosen by \['red', 'nir', 'soc'\]. If a mapped value is among \['soc'\]"):
        next_sites(both, 5, **FEW)
    told = both.assign_attrs(provenance='{"model": {"tasks": [{"name": "soc"}]}}')
    assert next_sites(told, 5, **FEW).attrs["by"] == ["red", "nir"]


def test_counts_of_observations_choose_no_sites():
    several = xr.concat([plain_image(), plain_image()], "time").assign_coords(
        time=np.array(["2020-07-01", "2020-08-01"], "datetime64[ns]")
    )
    image = several.miso.composite()
    assert "observations" in image
    assert next_sites(image, 5, **FEW).attrs["by"] == ["red", "nir"]


def test_no_site_on_what_the_map_leaves_out(maps):
    """Water has covariates, and no answer."""
    water = (maps.x < float(maps.x.median())).broadcast_like(maps.y).transpose("y", "x")
    left_out = maps.assign(excluded=water.astype("uint8").assign_attrs(flag_values=[0, 1], flag_meanings="not_excluded water"))
    for opened in (left_out, left_out.assign(excluded=left_out.excluded.astype("float32"))):
        for method in METHODS:
            assert (next_sites(opened, 8, method=method).geometry.x >= float(maps.x.median())).all()


def test_existing_points_that_lie_elsewhere_are_told(maps):
    with pytest.warns(MisoxrWarning, match="None of the 2 existing points lies on the map"):
        next_sites(maps, 3, existing=points([(0.0, 0.0), (1.0, 1.0)]))


def test_latitudes_and_longitudes_are_y_and_x():
    rows = np.random.default_rng(0).random((20, 30)).astype("float32")
    coords = {"lat": 65 - 0.01 * np.arange(20), "lon": -150 + 0.01 * np.arange(30)}
    ds = xr.Dataset({"elevation": (("lat", "lon"), rows)}, coords)
    sites = next_sites(ds, 5)
    assert (len(sites), sites.crs) == (5, "EPSG:4326")


@pytest.mark.parametrize("method", ["kmeans", "clhs"])
def test_fill_values_of_covariates_and_uncertainties_are_refused(maps, method):
    """Sites would be chosen on pixels without data."""
    image = plain_image()
    filled = image.assign(nir=image.nir.where(np.arange(SHAPE[0])[:, None] < 40, -9999))
    with pytest.raises(
        BandError, match=r"Variable 'nir' is -9999 in 3\d\.\d\d% of the pixels .* maps\['nir'\]\.where\(maps\['nir'\] != -9999\)"
    ):
        next_sites(filled, 5, method=method, **FEW)
    sites = next_sites(filled.assign(nir=filled.nir.where(filled.nir != -9999)), 5, method=method, **FEW)
    assert (sites.nir > -1).all()
    with pytest.raises(BandError, match="Variable 'carbon_std' is -32768"):
        next_sites(maps.assign(carbon_std=maps.carbon_std.where(maps.y > maps.y.mean(), -32768)), 5, method="uncertainty", **FEW)


def test_fill_values_of_a_cost_are_refused(maps):
    """They would be the cheapest pixels."""
    cost = (100 * maps.slope).where(maps.x > maps.x.mean(), -32768).astype("int16")
    with pytest.raises(BandError, match=r"The cost is -32768 in .* make it missing: cost = cost\.where\(cost != -32768\)"):
        next_sites(plain_image(), 5, cost=cost, **FEW)
    sites = next_sites(plain_image(), 5, cost=cost.where(cost != -32768), **FEW)
    assert (sites.cost >= 0).all()


def test_numbers_that_stand_for_no_pixel_that_counts_are_no_fill_values():
    """Codes of classes, and values where an existing site has no image."""
    image = plain_image()
    gone = image.x > image.x.quantile(0.9)
    image = image.assign({name: image[name].where(~gone) for name in image.data_vars})
    filled = image.assign(nir=image.nir.where(~gone, -9999))
    existing = gpd.GeoDataFrame(geometry=gpd.points_from_xy(image.x[[0, -1]], image.y[[0, -1]]), crs="EPSG:3338")
    sites = next_sites(filled, 5, existing=existing, **FEW)
    assert sites.equals(next_sites(image, 5, existing=existing, **FEW))
    kind = xr.where(image.y > image.y.mean(), -9999, 1).expand_dims(x=image.x).transpose("y", "x")
    classes = image.assign(kind=kind.assign_attrs(flag_values=[-9999, 1], flag_meanings="water land"))
    assert len(next_sites(classes, 5, method="clhs", **FEW)) == 5
