"""Terrain joined to an image: computed on the DEM's own grid and whole extent, whatever the CRS of either."""

import tracemalloc
import warnings

import dask
import dask.array as da
import numpy as np
import pyproj
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.covariates import climate, hydrology, joined, moved, position_moments, terrain
from misoxr.covariates.joined import add_terrain
from misoxr.cube.join import add
from misoxr.errors import BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import assign, geobox_of, same_grid
from tests.covariates.test_relief import assert_same_direction, hills
from tests.cube.test_composite import BOX, box_at, image, layer

UNITS = {
    "aspect": "degree",
    "elevation": "m",
    "max_curvature": "m-1",
    "slope": "degree",
    "stream_power_index": "m2",
    "wetness_index": "1",
    "topographic_position_index": "1",
}
WIDE = box_at(299_000, 1_501_000, 10, (240, 250))
"""A DEM's grid: 100 pixels more than the image on each side, and of the same lattice."""


def on(box, z):
    return assign(xr.DataArray(np.asarray(z, "float32"), dims=("y", "x"), attrs={"units": "m"}), box)


def plane(box, fall=0.2, towards=120.0, crs="EPSG:3338"):
    """A plane that falls towards an azimuth of the image's CRS, by the elevations at a grid's own pixel centres."""
    across, down = np.meshgrid(np.arange(box.shape.x) + 0.5, np.arange(box.shape.y) + 0.5)
    x, y = box.affine.c + box.affine.a * across, box.affine.f + box.affine.e * down
    x, y = pyproj.Transformer.from_crs(str(box.crs), crs, always_xy=True).transform(x, y)
    way = np.radians(towards)
    return on(box, 1000 - fall * (np.sin(way) * (x - 300_250) + np.cos(way) * (y - 1_499_800)))


def around(crs, size, margin=1000.0):
    """Return a grid of a CRS that covers the image and a margin."""
    box = BOX.boundingbox
    x, y = np.meshgrid(np.linspace(box.left - margin, box.right + margin, 9), np.linspace(box.bottom - margin, box.top + margin, 9))
    x, y = pyproj.Transformer.from_crs("EPSG:3338", crs, always_xy=True).transform(x, y)
    shape = (int(np.ptp(y) / size[0]) + 1, int(np.ptp(x) / size[1]) + 1)
    return GeoBox(shape, Affine(size[1], 0, x.min(), 0, -size[0], y.max()), crs)


def water(box=WIDE):
    names = {"catchment_area": "m2", "stream_power_index": "m2", "wetness_index": "1"}
    return assign(xr.Dataset({name: layer(box, at, units=units) for at, (name, units) in enumerate(names.items())}), box)


def ready(dem, ds=None):
    """Hydrology that a DEM has, once it is moved to the image's CRS."""
    return water(geobox_of(moved(dem, image() if ds is None else ds)))


def test_the_seven_covariates_are_those_of_the_whole_dem(no_compute):
    dem, ready, ds = on(WIDE, hills(WIDE.shape)), water(), image(chunks={"y": 16, "x": 20})
    with no_compute():
        out = add_terrain(ds, dem, 3, ready)
        through = ds.miso.add_terrain(dem, radius=3, hydrology=ready)
    assert {name: out[name].attrs["units"] for name in out.data_vars if name not in ds} == UNITS
    assert {out[name].dtype.name for name in UNITS} == {"float32"}
    assert same_grid(geobox_of(out), BOX)
    assert {out[name].chunks for name in UNITS} == {ds.red.chunks}
    whole = terrain(dem, radius=3).compute()
    part = {"y": slice(100, 140), "x": slice(100, 150)}
    for name in UNITS:
        expected = (ready if name in ready else whole)[name].isel(part)
        np.testing.assert_allclose(out[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)
    xr.testing.assert_identical(through.compute(), out.compute())


def test_finer_and_coarser_dems_are_resampled_as_add_does():
    for size, method in ((3, "average"), (25, "bilinear")):
        box = box_at(299_000, 1_501_000, size, (int(2400 / size), int(2500 / size)))
        dem = on(box, hills(box.shape))
        out = add_terrain(image(), dem, hydrology=water(box))
        covariates = terrain(dem)
        for name in ("elevation", "slope", "max_curvature", "topographic_position_index"):
            expected = add(image(), method, one=covariates[name])
            np.testing.assert_array_equal(out[name], expected.one, err_msg=name)
        np.testing.assert_array_equal(out.aspect, add(image(), "nearest", aspect=covariates.aspect).aspect)


def test_directions_beside_north_are_not_averaged():
    box = box_at(299_000, 1_501_000, 3, (800, 830))
    across = np.arange(box.shape.x) // 9 % 2 * 2 - 1  # falls to the north, and in turns a little to the east and to the west
    z = 500 + 0.2 * -3 * np.arange(box.shape.y)[:, None] * -1 + 0.02 * 3 * np.cumsum(across)[None]
    aspect = add_terrain(image(), on(box, z), 1, water(box)).aspect.values
    assert (np.minimum(aspect, 360 - aspect) < 20).all()
    assert aspect.max() > 340
    assert aspect.min() < 20


@pytest.mark.parametrize(
    ("crs", "size"), [("EPSG:4326", (0.00027, 0.0005)), ("EPSG:4269", (0.0003, 0.0003)), ("EPSG:32604", (20.0, 20.0))]
)
def test_dems_of_other_crss_give_slopes_and_directions_on_the_image_s_grid(crs, size):
    source = plane(around(crs, size))
    out = add_terrain(image(chunks={"y": 16, "x": 20}), source, 2, ready(source)).compute()
    np.testing.assert_allclose(out.slope, np.degrees(np.arctan(0.2)), rtol=0.02)
    np.testing.assert_allclose(out.elevation, plane(BOX), atol=1.0)
    assert_same_direction(out.aspect, 120, 0.5)
    in_memory = add_terrain(image(), source, 2, ready(source))
    np.testing.assert_array_equal(in_memory.aspect, out.aspect)


def test_a_projected_dem_s_own_north_is_another_one():
    """Or the test above proved nothing."""
    own = terrain(plane(around("EPSG:32604", (20.0, 20.0))), radius=2).aspect.compute()
    assert np.abs(own[20:-20, 20:-20].median() - 120) > 1


def test_flat_ground_has_no_direction_in_any_crs():
    box = around("EPSG:32604", (20.0, 20.0))
    out = add_terrain(image(), on(box, np.full(box.shape, 7)), 2, water(box))
    assert set(np.unique(out.aspect)) == {-1}


def test_a_dem_in_degrees_on_either_side_of_180_is_moved():
    box = GeoBox((60, 60), Affine(10, 0, -1_700_000, 0, -10, 800_000), "EPSG:3338")
    lon, lat = pyproj.Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True).transform(-1_700_000, 800_000)
    for turn in (0, 360):
        degrees = GeoBox((120, 150), Affine(0.0003, 0, lon + turn - 0.022, 0, -0.0002, lat + 0.012), "EPSG:4326")
        z = hills(degrees.shape, 3, 100)
        ds = assign(xr.Dataset({"red": layer(box)}), box)
        out = add_terrain(ds, on(degrees, z), 1, ready(on(degrees, z), ds))
        assert np.isfinite(out.slope).all()
        assert float(out.elevation.min()) >= z.min()


def test_nodata_stay_nodata():
    z = hills(WIDE.shape)
    z[120, 125] = np.nan
    out = add_terrain(image(), on(WIDE, z), 2, water())
    missing = np.zeros(BOX.shape, bool)
    missing[18:23, 23:28] = True
    np.testing.assert_array_equal(np.isnan(out.slope), missing)
    assert int(np.isnan(out.topographic_position_index).sum()) == 1


def test_hydrology_is_read_from_a_store(tmp_path):
    ready = water()
    ready.to_zarr(tmp_path / "water.zarr", consolidated=False)
    out = add_terrain(image(), on(WIDE, hills(WIDE.shape)), hydrology=tmp_path / "water.zarr")
    np.testing.assert_allclose(out.wetness_index, ready.wetness_index[100:140, 100:150])
    assert "catchment_area" not in out


def test_hydrology_is_computed_where_there_is_none_and_said_of_a_large_dem(monkeypatch):
    dem = on(WIDE, hills(WIDE.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error", MisoxrWarning)
        small = add_terrain(image(), dem)
    monkeypatch.setattr(joined, "SOME", 1000)
    with pytest.warns(MisoxrWarning, match=r"Hydrology.*is computed from the whole DEM \(240 x 250 cells\)"):
        out = add_terrain(image(), dem)
    xr.testing.assert_identical(small.compute(), out.compute())
    part = {"y": slice(100, 140), "x": slice(100, 150)}
    expected = hydrology(dem, progress=False).isel(part)
    np.testing.assert_allclose(out.topographic_position_index, terrain(dem).topographic_position_index.isel(part), atol=1e-6)
    for name in ("stream_power_index", "wetness_index"):
        np.testing.assert_allclose(out[name], expected[name], rtol=1e-5)
        assert out[name].attrs["units"] == UNITS[name]


def test_a_dem_in_degrees_is_moved_first_and_computed_once(tmp_path, monkeypatch):
    """What the warning says to do can be done, and gives what add_terrain gives by itself."""
    monkeypatch.setattr(joined, "SOME", 1000)
    source = plane(around("EPSG:4326", (0.0003, 0.0006)))
    source = source + on(geobox_of(source), hills(source.shape, 1, 20)).values
    source.attrs["units"] = "m"
    with pytest.warns(MisoxrWarning, match=r"once: dem = misoxr.covariates.moved\(dem, image\), then add_terrain\(dem, hydrology="):
        itself = add_terrain(image(), source, 2)
    for refused in (hydrology, position_moments, terrain):
        with pytest.raises(GridError, match=r"misoxr.covariates.moved\(dem, image\)"):
            refused(source)
    dem = moved(source, image())
    assert dem.chunks
    assert dem.attrs["units"] == "m"
    made = hydrology(dem, store=tmp_path / "water.zarr", progress=False)
    moments = position_moments(dem, radius=2)
    for given in (dem, source):
        once = add_terrain(image(), given, 2, hydrology=made, moments=moments)
        xr.testing.assert_allclose(once.compute(), itself.compute(), rtol=1e-6)


def test_a_projected_dem_is_where_it_is():
    dem = on(WIDE, hills(WIDE.shape))
    assert same_grid(geobox_of(moved(dem, image())), WIDE)
    np.testing.assert_array_equal(moved(dem.assign_attrs(units="ft"), image()), dem * np.float32(0.3048))


def test_hydrology_of_another_dem_is_told():
    dem = on(WIDE, hills(WIDE.shape))
    others = {
        "coarser": box_at(299_000, 1_501_000, 20, (120, 125)),
        "beside": box_at(299_004, 1_501_000, 10, (240, 250)),
        "elsewhere": around("EPSG:32604", (10.0, 10.0)),
    }
    for box in others.values():
        with pytest.warns(MisoxrWarning, match="cells of the hydrology.*are not those of the DEM") as told:
            add_terrain(image(), dem, hydrology=water(box))
        assert words(told).count("cells of the hydrology") == 1
    larger = box_at(298_000, 1_502_000, 10, (440, 450))
    add_terrain(image(), dem, hydrology=water(larger))
    add_terrain(image(), dem, hydrology=water(larger).isel(y=slice(None, None, -1)))


def test_what_covers_a_part_of_the_image_is_told():
    dem = on(WIDE, hills(WIDE.shape))
    part = {"y": slice(0, 120), "x": slice(0, 125)}  # a quarter of the image
    with pytest.warns(MisoxrWarning, match=r"'stream_power_index' covers .*nodata beyond") as told:
        out = add_terrain(image(), dem, hydrology=water().isel(part))
    assert float(out.wetness_index.isnull().mean()) == 0.75
    assert words(told).count("nodata beyond") == 1
    with pytest.warns(MisoxrWarning, match="'elevation' covers .*nodata beyond"):
        add_terrain(image(), dem.isel(part), hydrology=water())


def test_the_mark_of_what_is_simulated_is_carried_to_the_image(tmp_path):
    mark = {"simulated": 1, "simulator_version": "2"}
    dem, made = on(WIDE, hills(WIDE.shape)), water()
    assert "simulated" not in add_terrain(image(), dem, hydrology=made).attrs
    marked = made.assign_attrs(mark)
    marked.to_zarr(tmp_path / "water.zarr", consolidated=False)
    for one, other in ((dem.assign_attrs(mark), made), (dem.to_dataset(name="z").assign_attrs(mark), made), (dem, marked)):
        assert add_terrain(image(), one, hydrology=other).attrs == mark
    assert add_terrain(image(), dem, hydrology=tmp_path / "water.zarr").attrs == mark
    assert hydrology(dem.assign_attrs(mark)[:20, :20], progress=False).attrs["simulator_version"] == "2"
    assert add(image(), height=dem.assign_attrs(mark)).attrs == mark
    assert (
        add(image().assign_attrs(simulated=1, simulator_version="1"), height=dem.assign_attrs(mark)).attrs["simulator_version"]
        == "1"
    )
    assert "simulated" not in add(image(), height=dem.assign_attrs(simulated=0)).attrs


def test_moments_of_a_larger_dem_are_taken():
    dem = on(WIDE, hills(WIDE.shape))
    tile = dem.isel(y=slice(80, 160), x=slice(80, 170))
    whole = add_terrain(image(), dem, hydrology=water())
    given = add_terrain(image(), tile, hydrology=water(), moments=position_moments(dem))
    xr.testing.assert_allclose(given.compute(), whole.compute(), atol=1e-6)


def test_a_large_dem_without_moments_is_noted(no_compute, monkeypatch):
    box = box_at(200_000, 1_600_000, 10, (20_000, 20_000))
    dem = assign(xr.DataArray(da.zeros(tuple(box.shape), chunks=2048, dtype="float32"), dims=("y", "x"), attrs={"units": "m"}), box)
    with no_compute(), pytest.warns(MisoxrWarning, match="400,000,000 cells.*position_moments"):
        add_terrain(image(chunks={"y": 16}), dem, hydrology=water())
    monkeypatch.setattr(joined, "MANY", 1000)
    source = plane(around("EPSG:4326", (0.0003, 0.0006)))
    made = ready(source)
    with pytest.warns(MisoxrWarning) as told:
        add_terrain(image(chunks={"y": 16}), source, hydrology=made)
    assert "dem = misoxr.covariates.moved(dem, image), then add_terrain(dem, moments=" in words(told)


@pytest.fixture
def single_threaded():
    with dask.config.set(scheduler="synchronous"):
        yield


def words(told):
    """What misoxr warned of."""
    return "\n".join(str(one.message) for one in told if one.category is MisoxrWarning)


def peak(work):
    """Return the most bytes that are held beyond those before, while work runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_in_memory_is_not_copied_whole_for_each_block(single_threaded):
    box = box_at(299_000, 1_501_000, 5, (6144, 2048))
    wide = on(box, np.zeros(box.shape))
    ds = image(chunks={"y": 40})
    joined = add(ds, wetness_index=wide.assign_attrs(units="1")).wetness_index
    assert peak(joined.compute) < 0.6 * wide.nbytes
    warm, wet = ([wide.assign_attrs(units=units)] * 12 for units in ("degC", "mm"))
    total = climate(warm, wet, like=ds).annual_precipitation
    assert peak(total.compute) < 1.2 * wide.nbytes


def test_moments_of_what_is_in_memory_hold_a_few_blocks(single_threaded):
    """One chunk of the whole would hold 11 times its bytes."""
    box = box_at(0, 0, 10, (10_240, 2048))
    wide = on(box, np.zeros(box.shape))
    assert peak(lambda: position_moments(wide, radius=2)) < 6 * wide.nbytes


def test_what_cannot_be_joined_is_refused_before_anything_is_computed(no_compute):
    dem, ready = on(WIDE, hills(WIDE.shape)), water()
    away = on(box_at(900_000, 1_501_000, 10, (50, 50)), hills((50, 50)))
    degrees = GeoBox((40, 50), Affine(1e-3, 0, -157.0, 0, -1e-3, 63.5), "EPSG:4326")
    world = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    in_degrees = assign(xr.Dataset({"red": layer(degrees)}), degrees)
    lazy = image(chunks={"y": 16})
    with no_compute():
        with pytest.raises(BandError, match=r"has \['slope'\] already.*drop_vars"):
            add_terrain(lazy.assign(slope=lazy.red), dem, hydrology=ready)
        with pytest.raises(BandError, match=r"lacks \['stream_power_index'\]"):
            add_terrain(lazy, dem, hydrology=ready.drop_vars("stream_power_index"))
        with pytest.raises(GridError, match="do not overlap"):
            add_terrain(lazy, away)
        with pytest.raises(GridError, match="both in degrees"):
            add_terrain(in_degrees, on(degrees, hills(degrees.shape)))
        with pytest.raises(GridError, match="more than the image's CRS"):
            add_terrain(lazy, on(world, np.zeros(world.shape)))
        with pytest.raises(SpecError, match="radius is 0"):
            add_terrain(lazy, dem, 0)
