"""The pixel grid: reading it, writing it, and the way between pixels, coordinates and locations."""

from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from misoxr.errors import GridError
from misoxr.grid.geobox import assign, crs_of, geobox_of, lattice_offset, located, locations, pixels, same_grid, with_mappings
from misoxr.spec import ALASKA

GOLDEN = Path(__file__).parents[1] / "data" / "golden.safetensors"


@st.composite
def geoboxes(draw: st.DrawFn, smallest: int = 2) -> GeoBox:
    size = draw(st.sampled_from([0.5, 1.0, 10.0, 29.97, 1000.0]))
    shape = draw(st.integers(smallest, 60)), draw(st.integers(smallest, 60))
    west, north = (draw(st.floats(-2e6, 2e6, allow_nan=False)) for _ in "xy")
    flip = draw(st.sampled_from([-1, 1]))
    return GeoBox(shape, Affine(size, 0, west, 0, flip * size, north), draw(st.sampled_from(["EPSG:3338", "EPSG:32606"])))


def blank(geobox: GeoBox) -> xr.Dataset:
    return xr.Dataset({"a": (("y", "x"), np.zeros(geobox.shape, dtype="float32"))})


@given(geoboxes(smallest=1))
def test_a_grid_that_was_written_is_read_back(geobox):
    ds = assign(blank(geobox), geobox)
    assert same_grid(geobox_of(ds), geobox)
    assert ds["a"].attrs["grid_mapping"] == "spatial_ref"


@pytest.mark.parametrize(("units", "factor"), [("km", 1e3), ("Kilometers", 1e3), ("cm", 1e-2), ("m", 1), ("metre", 1), ("1", 1)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_coordinates_in_another_length_are_converted(units, factor, dtype):
    """As sea ice and snow come, in kilometres."""
    geobox = GeoBox((5, 6), Affine(10_000, 0, -1_500_000, 0, -10_000, 800_000), "EPSG:3413")
    ds = assign(blank(geobox), geobox)
    ds.spatial_ref.attrs.pop("GeoTransform")
    ds = ds.assign_coords({dim: (dim, (ds[dim].values / factor).astype(dtype), {"units": units}) for dim in ("y", "x")})
    assert same_grid(geobox_of(ds), geobox)
    assert assign(ds, geobox_of(ds)).x.attrs["units"] == "m"


@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("north", [800_000, 20_000])
def test_units_that_stayed_on_coordinates_in_metres_do_no_harm(transform, north):
    geobox = GeoBox((5, 6), Affine(10_000, 0, -1_500_000, 0, -10_000, north), "EPSG:3413")
    ds = assign(blank(geobox), geobox)
    if not transform:
        ds.spatial_ref.attrs.pop("GeoTransform")
    ds = ds.assign_coords({dim: (dim, ds[dim].values, {"units": "km"}) for dim in ("y", "x")})
    assert same_grid(geobox_of(ds), geobox)


def test_a_map_named_as_a_grid_mapping_is_a_map():
    ds = xr.Dataset({"crs": (("y", "x"), np.zeros((2, 3))), "a": (("y", "x"), np.zeros((2, 3)))})
    assert list(with_mappings(ds).data_vars) == ["crs", "a"]


def test_a_crs_in_kilometres_has_coordinates_in_kilometres():
    geobox = GeoBox((5, 6), Affine(10, 0, -1500, 0, -10, 800), "+proj=stere +lat_0=90 +lat_ts=70 +units=km")
    ds = assign(blank(geobox), geobox)
    ds = ds.assign_coords({dim: (dim, ds[dim].values, {"units": "km"}) for dim in ("y", "x")})
    assert same_grid(geobox_of(ds), geobox)


def test_angles_of_a_projection_are_refused():
    geobox = GeoBox((5, 6), Affine(1e-4, 0, -0.1, 0, -1e-4, 0.1), "EPSG:3413")
    ds = assign(blank(geobox), geobox)
    ds = ds.assign_coords({dim: (dim, ds[dim].values, {"units": "rad"}) for dim in ("y", "x")})
    with pytest.raises(
        GridError, match=r"The 'y' coordinates are angles \(rad\), and the CRS is in metre; multiply them by the persp"
    ):
        geobox_of(ds)


@pytest.mark.parametrize("told", ["polar: x y", "polar: y x", "earth: lat lon polar: x y", "polar:  x y earth: lat lon", "polar"])
def test_grid_mappings_name_what_they_are_for(told):
    geobox = GeoBox((5, 6), Affine(10, 0, 0, 0, -10, 0), "EPSG:3413")
    ds = assign(blank(geobox), geobox).drop_vars("spatial_ref")
    ds = ds.assign({name: xr.Variable((), 0, pyproj.CRS(code).to_cf()) for name, code in (("polar", 3413), ("earth", 4326))})
    ds.a.attrs["grid_mapping"] = told
    assert pyproj.CRS(crs_of(ds)).to_epsg() == 3413
    assert pyproj.CRS(crs_of(with_mappings(ds)[["a"]])).to_epsg() == 3413


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"GeoTransform": "0 9 -3 0 -3 -9"}, r"The grid is rotated [^;]*; reproject it"),
        ({"gcps": "{}"}, "has ground control points and no grid; warp it"),
        ({"GeoTransform": "1 2 3"}, "no 'y' coordinate"),
    ],
)
def test_rasters_without_rows_and_columns_of_one_place_are_refused(attrs, words):
    """As rioxarray opens them: where pixels are stands in two dimensions."""
    places = {name: (("y", "x"), np.zeros((2, 3))) for name in ("xc", "yc")}
    ds = xr.Dataset({"a": (("y", "x"), np.zeros((2, 3)))}, {**places, "spatial_ref": xr.Variable((), 0, attrs)})
    with pytest.raises(GridError, match=words):
        geobox_of(ds)


@given(geoboxes(smallest=6))
def test_a_slice_knows_its_own_grid_in_spite_of_the_stale_transform(geobox):
    part = assign(blank(geobox), geobox).isel(y=slice(1, 5), x=slice(2, None))
    assert same_grid(geobox_of(part), geobox[1:5, 2:])


@given(geoboxes(), st.lists(st.tuples(st.floats(-5, 70), st.floats(-5, 70)), min_size=1, max_size=9))
def test_pixels_are_the_inverse_of_the_transform(geobox, places):
    rows, columns = np.array(places).T
    x, y = geobox.affine.c + geobox.affine.a * columns, geobox.affine.f + geobox.affine.e * rows
    found = pixels(geobox, x, y)
    np.testing.assert_allclose(found, [rows, columns], atol=1e-5)


@given(geoboxes(), st.integers(-50, 50), st.integers(-50, 50))
def test_the_lattice_offset_moves_with_the_dataset(geobox, down, right):
    a, e = geobox.affine.a, geobox.affine.e
    affine = Affine(a, 0, geobox.affine.c + right * a, 0, e, geobox.affine.f + down * e)
    moved = GeoBox(geobox.shape, affine, geobox.crs)
    phase = [(part % 1 + 0.25) % 1 for part in (geobox.affine.c / geobox.affine.a, geobox.affine.f / geobox.affine.e)]
    # A grid on the very edge of the rounding may fall to either side.
    if all(1e-6 < part < 1 - 1e-6 for part in phase):
        rows, columns = lattice_offset(geobox)
        assert lattice_offset(moved) == (rows + down, columns + right)


@pytest.mark.parametrize("half", [0.0, 0.5])
def test_the_lattice_offset_does_not_waver_by_rounding(half):
    wobble = np.array([-1e-7, 0, 1e-7])
    boxes = [GeoBox((4, 4), Affine(10, 0, (7 + half + w) * 10, 0, -10, (9 + half - w) * 10), "EPSG:3338") for w in wobble]
    assert len({lattice_offset(box) for box in boxes}) == 1


def test_rasterio_and_odc_read_the_same_grid():
    import odc.geo.xr  # noqa: F401
    import rioxarray  # noqa: F401

    geobox = GeoBox((30, 20), Affine(10, 0, 200_005, 0, -10, 1_600_005), "EPSG:3338")
    ds = assign(blank(geobox), geobox)
    assert ds.rio.crs.to_epsg() == 3338
    assert ds.rio.transform() == geobox.affine
    assert ds.odc.geobox == geobox


@pytest.mark.parametrize(
    ("coords", "attrs"),
    [
        ({"epsg": 3338}, {}),
        ({"proj:epsg": 3338}, {}),
        ({}, {"crs": "EPSG:3338"}),
        ({}, {"proj:code": "EPSG:3338"}),
        ({}, {"proj:epsg": 3338}),
        ({}, {"proj:wkt2": pyproj.CRS(3338).to_wkt()}),
        ({}, {"proj:projjson": pyproj.CRS(3338).to_json_dict()}),
        ({}, {"crs": pyproj.CRS(3338).to_json_dict()}),
    ],
)
def test_the_crs_is_found_where_other_packages_leave_it(coords, attrs):
    array = xr.DataArray(np.zeros((2, 2)), {"y": [15.0, 5.0], "x": [5.0, 15.0], **coords}, ("y", "x"), attrs=attrs)
    assert pyproj.CRS(crs_of(array)) == pyproj.CRS(3338)
    for one in (array, array.to_dataset(name="red"), array.drop_attrs().to_dataset(name="red").assign_attrs(attrs)):
        assert geobox_of(one).crs.epsg == 3338


def test_a_remark_of_a_variable_is_no_crs():
    grid = xr.Dataset({"t": (("lat", "lon"), np.zeros((2, 2)), {"crs": "unknown"})}, {"lat": [2.0, 1.0], "lon": [1.0, 2.0]})
    assert crs_of(grid) is None
    assert geobox_of(located(grid)).crs.epsg == 4326
    with pytest.raises(GridError, match="The CRS 'unknown' cannot be read"):
        geobox_of(located(grid.assign_attrs(crs="unknown")))


def test_bad_grids_are_refused_with_the_reason():
    def grid(y, x, **attrs):
        return xr.DataArray(np.zeros((len(y), len(x))), {"y": y, "x": x}, ("y", "x"), attrs=attrs)

    with pytest.raises(GridError, match="no CRS"):
        geobox_of(grid([2.0, 1.0], [1.0, 2.0]))
    with pytest.raises(GridError, match=r"irregular, by up to 0\.\d+ pixels"):
        geobox_of(grid([3.0, 2.0, 1.0], [1.0, 2.0, 3.5], crs="EPSG:3338"))
    with pytest.raises(GridError, match="do not advance"):
        geobox_of(grid([2.0, 2.0], [1.0, 2.0], crs="EPSG:3338"))
    with pytest.raises(GridError, match="pixel size is unknown; take two pixels or more"):
        geobox_of(grid([2.0], [1.0, 2.0], crs="EPSG:3338"))
    with pytest.raises(GridError, match="no 'y' coordinate"):
        geobox_of(xr.DataArray(np.zeros((2, 2)), dims=("lat", "lon")))
    rotated = grid([2.0, 1.0], [1.0, 2.0]).assign_coords(
        spatial_ref=xr.Variable((), 0, {"crs_wkt": "EPSG:3338", "GeoTransform": "0 1 0.2 0 0.2 -1"})
    )
    with pytest.raises(GridError, match="rotated"):
        geobox_of(rotated)


def test_grids_differ_by_shape_crs_or_a_hundredth_of_a_pixel():
    box = GeoBox((5, 5), Affine(10, 0, 0, 0, -10, 0), "EPSG:3338")
    assert same_grid(box, GeoBox((5, 5), Affine(10, 0, 0.005, 0, -10, 0), "EPSG:3338"))
    assert not same_grid(box, GeoBox((5, 5), Affine(10, 0, 0.1, 0, -10, 0), "EPSG:3338"))
    assert not same_grid(box, GeoBox((5, 5), Affine(10, 0, 0, 0, 10, -50), "EPSG:3338"))
    assert not same_grid(box, GeoBox((5, 6), box.affine, "EPSG:3338"))
    assert not same_grid(box, GeoBox((5, 5), box.affine, "EPSG:32606"))


def test_locations_reach_minus_one_to_one_at_the_corners_of_alaska():
    west, south, east, north = ALASKA.extent
    box = GeoBox((int(north - south) // 100, int(east - west) // 100), Affine(100, 0, west, 0, -100, north), "EPSG:3338")
    found = locations(box, [0, box.shape.y], [0, box.shape.x], ALASKA)
    np.testing.assert_allclose(found, [[-1, -1], [1, 1]], atol=1e-12)


def test_locations_of_another_crs_are_transformed():
    import pyproj

    albers = GeoBox((10, 10), Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338")
    x, y = pyproj.Transformer.from_crs("EPSG:3338", "EPSG:32606", always_xy=True).transform(300_035, 1_499_945)
    utm = GeoBox((10, 10), Affine(10, 0, x - 50, 0, -10, y + 50), "EPSG:32606")
    np.testing.assert_allclose(locations(utm, 5, 5, ALASKA), locations(albers, 5.5, 3.5, ALASKA), atol=1e-9)


def test_locations_equal_the_published_scaling():
    from safetensors.numpy import load_file

    golden = load_file(GOLDEN)
    x, y = golden["coord3338.xy"].T
    box = GeoBox((10, 10), Affine(1, 0, 0, 0, -1, 0), "EPSG:3338")  # rows and columns are coordinates
    np.testing.assert_allclose(locations(box, -y, x, ALASKA), golden["coord3338.out"], atol=1e-6)


def test_longitudes_in_single_precision_are_regular():
    """A grid of 15 seconds near 180 degrees, as NetCDF files hold it: rounding is 0.002 of its pixels."""
    step = 1 / 240
    x = (-179.9 + step * np.arange(1000)).astype("float32")
    y = (60 - step * np.arange(20)).astype("float32")
    array = xr.DataArray(np.zeros((20, 1000)), dims=("y", "x"), coords={"y": y, "x": x}, attrs={"crs": "EPSG:4326"})
    box = geobox_of(array)
    assert np.abs(x - (box.affine.c + box.affine.a * (np.arange(1000) + 0.5))).max() > 1.2e-3 * step
    assert (box.affine.a, box.affine.e) == pytest.approx((step, -step), rel=1e-4)
    with pytest.raises(GridError, match="irregular"):
        geobox_of(array.assign_coords(x=x.astype("float64") + 0.01 * step * (np.arange(1000) == 500)))
    with pytest.raises(GridError, match="irregular"):
        geobox_of(array.assign_coords(x=x + np.float32(0.01 * step) * (np.arange(1000) == 500)))


@pytest.mark.parametrize("stored", [lambda x: x.astype("float32"), lambda x: np.round(x, 5), lambda x: np.round(x, 4)])
def test_rounded_coordinates_are_regular(stored):
    """Single precision whose type was changed, and decimals of a text: a grid of 7.5 seconds."""
    step = 1 / 480
    x, y = (stored(first + step * np.arange(count)).astype("float64") for first, count in ((-149.9, 500), (60, 20)))
    array = xr.DataArray(np.zeros((20, 500)), dims=("y", "x"), coords={"y": y, "x": x}, attrs={"crs": "EPSG:4326"})
    box = geobox_of(array)
    centres = box.affine.c + box.affine.a * (np.arange(500) + 0.5)
    assert 1e-3 * step < np.abs(x - centres).max() < 0.05 * step
    with pytest.raises(GridError, match="irregular"):
        geobox_of(array.assign_coords(x=x + 0.07 * step * (np.arange(500) == 250)))
    with pytest.raises(GridError, match="irregular"):  # two decimals are a large part of a pixel
        geobox_of(array.assign_coords(x=np.round(x, 2)))


def test_a_grid_mapping_that_was_left_behind_is_named():
    array = xr.DataArray(np.zeros((2, 2)), {"y": [2.0, 1.0], "x": [1.0, 2.0]}, ("y", "x"), attrs={"grid_mapping": "lambert"})
    with pytest.raises(GridError, match=r"no CRS. Its grid mapping 'lambert' was left behind: .*ds\[\[name, 'lambert'\]\]"):
        geobox_of(array)


def test_a_crs_that_is_told_by_parameters_alone():
    """Daymet's grid mapping; one that lacks parameters is no CRS."""
    parameters = {
        "grid_mapping_name": "lambert_conformal_conic",
        "standard_parallel": [25.0, 60.0],
        "longitude_of_central_meridian": -100.0,
        "latitude_of_projection_origin": 42.5,
        "semi_major_axis": 6378137.0,
        "inverse_flattening": 298.257223563,
    }
    coords = {"y": [2000.0, 1000.0], "x": [0.0, 1000.0], "lambert": ((), 0, parameters)}
    array = xr.DataArray(np.zeros((2, 2)), dims=("y", "x"), coords=coords, attrs={"grid_mapping": "lambert"})
    found = pyproj.CRS(crs_of(array))
    expected = pyproj.CRS("+proj=lcc +lat_1=25 +lat_2=60 +lat_0=42.5 +lon_0=-100 +ellps=WGS84")
    point = pyproj.Transformer.from_crs("EPSG:4326", found, always_xy=True).transform(-148, 64.5)
    assert point == pytest.approx(
        pyproj.Transformer.from_crs("EPSG:4326", expected, always_xy=True).transform(-148, 64.5), abs=1e-3
    )
    array = array.assign_coords(lambert=((), 0, {"grid_mapping_name": "polar_stereographic"}))
    assert crs_of(array) is None


@pytest.mark.parametrize("cut", [{"y": slice(3, 4)}, {"x": slice(5, 6)}])
def test_one_row_or_column_is_refused_where_its_pixel_size_is_not_sure(cut):
    """A row that was cut out, and the mean of three rows, look the same."""
    grid = GeoBox((6, 8), Affine(20, 0, 3e5, 0, -10, 1e6), "EPSG:3338")
    whole = assign(xr.Dataset({"red": (("y", "x"), np.zeros((6, 8)))}), grid)
    for part in (whole.isel(cut), whole.isel(y=slice(0, 3)).coarsen(y=3).mean()):
        with pytest.raises(GridError, match="pixel size is unknown; take two pixels or more"):
            geobox_of(part)
