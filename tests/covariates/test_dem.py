"""DEMs as users have them: other units, types, nodata and files; and those that no formula holds for."""

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from misoxr.covariates import hydrology
from misoxr.covariates.dem import opened
from misoxr.errors import BandError, GridError, MisoxrWarning, SpecError
from misoxr.grid.geobox import assign

Z = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, -9999, 12]])


LAND = abs(Z) % 100


def dem_of(z=LAND, crs="EPSG:3338", pixel=(10.0, -10.0), **attrs):
    box = GeoBox(z.shape, Affine(pixel[0], 0, 300_000 if crs != "EPSG:4326" else 10, 0, pixel[1], 60), crs)
    return assign(xr.DataArray(z, dims=("y", "x"), attrs={"units": "m", **attrs}), box)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_nodata_is_nan_and_no_digit_is_lost(dtype):
    found = opened(dem_of(Z.astype(dtype), _FillValue=np.dtype(dtype).type(-9999)))
    assert found.dtype == ("float64" if dtype in ("int32", "float64") else "float32")
    np.testing.assert_array_equal(found, np.where(Z == -9999, np.nan, Z))
    assert found.name == "elevation"
    assert found.attrs["units"] == "m"
    endless = opened(dem_of(np.where(Z == -9999, np.inf, Z)))
    np.testing.assert_array_equal(np.isnan(endless), Z == -9999)


def test_feet_and_scales_become_metres():
    z = LAND
    np.testing.assert_allclose(opened(dem_of(z.astype("float32"), units="feet")), z * 0.3048, rtol=1e-6)
    scaled = opened(dem_of(z.astype("int16"), scale_factor=0.1, add_offset=100.0))
    np.testing.assert_allclose(scaled, z * 0.1 + 100, rtol=1e-6)
    with pytest.warns(MisoxrWarning, match="no units"):
        opened(dem_of(z, units=""))
    with pytest.raises(BandError, match="degC"):
        opened(dem_of(z, units="degC"))


def test_files_and_lazy_dems_stay_lazy(tmp_path, no_compute):
    z = LAND.astype("float32")
    dem = dem_of(z)
    dem.rio.to_raster(tmp_path / "dem.tif")
    with no_compute():
        file = opened(tmp_path / "dem.tif")
        lazy = opened(dem.chunk({"x": 2}).to_dataset(name="z"))
        assert file.chunks
        assert lazy.chunks == ((3,), (2, 2))
    for found in (file, lazy, opened(dem.transpose("x", "y"))):
        assert found.dims == ("y", "x")
        np.testing.assert_array_equal(found, dem)


def test_dems_that_no_formula_holds_for_are_refused_with_a_remedy():
    with pytest.raises(GridError, match="in degrees .*eproject"):
        hydrology(dem_of(crs="EPSG:4326", pixel=(0.1, -0.1)))
    with pytest.raises(GridError, match="10 m by 20 m, .*square"):
        hydrology(dem_of(pixel=(10.0, -20.0)))
    with pytest.raises(BandError, match="'one', 'two'"):
        opened(xr.Dataset({"one": dem_of(), "two": dem_of()}))
    with pytest.raises(BandError, match="time"):
        opened(dem_of().expand_dims(time=2))
    with pytest.raises(SpecError, match="give a path"):
        opened(Z)


def test_pixels_in_feet_have_their_area_in_metres():
    z = np.array([[5.0, 4.0, 3.0, 3.5]])
    box = GeoBox(z.shape, Affine(10, 0, 6_000_000, 0, -10, 2_000_000), "EPSG:2225")  # California, in US survey feet
    found = hydrology(assign(xr.DataArray(z, dims=("y", "x"), attrs={"units": "m"}), box), progress=False)
    np.testing.assert_allclose(found.catchment_area, np.array([[1, 2, 4, 1]]) * (10 * 1200 / 3937) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("units", "fill"), [("m", -999), ("m", -32768), ("ft", -999), ("ft", -32768), ("ft", -32767), ("m", -9999)]
)
def test_undeclared_fill_values_are_refused_in_metres_and_in_feet(units, fill):
    with pytest.raises(BandError, match="undeclared nodata value"):
        opened(dem_of(np.where(Z == -9999, fill, Z).astype("float32"), units=units)).compute()


def test_a_depth_of_the_sea_is_no_fill_value():
    sea = np.array([[-999.0, -1000.0], [-640.0, -998.0]])
    np.testing.assert_array_equal(opened(dem_of(sea)), sea)
    shallow = np.array([[-999.0, -997.0], [-990.0, -1003.0]])
    for units, metres in (("cm", 0.01), ("dm", 0.1), ("ft", 0.3048)):
        np.testing.assert_allclose(opened(dem_of(shallow, units=units)), shallow * metres)
    np.testing.assert_allclose(opened(dem_of(np.array([[-32767.0, 100.0]]), units="cm")), [[-327.67, 1.0]], rtol=1e-6)


def test_the_one_time_of_a_dem_is_dropped():
    np.testing.assert_array_equal(opened(dem_of().expand_dims(time=[np.datetime64("2020-01-01", "ns")])), LAND)
    with pytest.raises(SpecError, match="merge_arrays"):
        opened([dem_of(), dem_of()])
