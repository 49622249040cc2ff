"""Class maps: floats with NaN in memory, codes in stores, and never a code that occurs in no pixel."""

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr

from misoxr.cube.variables import FILL
from misoxr.errors import SpecError, StoreError
from misoxr.io.layout import open_maps
from misoxr.io.pyramid import to_pyramid
from misoxr.io.zarr import to_zarr
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube

SHAPE = (16, 12)
CODES = (np.arange(192, dtype="uint8") * 7 % 5).reshape(SHAPE)
CODES[2, 3] = CODES[8:12, 4:8] = FILL
VALID = np.where(CODES == FILL, np.nan, CODES).astype("float32")
FLAGS = {
    "flag_values": np.arange(5, dtype="uint8"),
    "flag_meanings": "a b c d e",
    "flag_colors": "#000000 #111111 #222222 #333333 #444444",
    "_FillValue": np.uint8(FILL),
}


@pytest.fixture
def maps() -> xr.Dataset:
    """A lazy class map in four blocks."""
    ds = make_cube(SHAPE, SENTINEL2[:1]).drop_vars("red")
    return ds.assign(order=(("y", "x"), CODES, FLAGS)).chunk({"y": 8, "x": 6})


@pytest.fixture
def opened(maps, tmp_path) -> xr.Dataset:
    to_zarr(maps, tmp_path / "opened.zarr", progress=False)
    return open_maps(tmp_path / "opened.zarr")


def raw(path: object) -> zarr.Array:
    return zarr.open_group(path, mode="r")["order"]


# Areas


def test_the_share_of_a_class_counts_valid_pixels_alone(opened):
    assert float(opened.order.mean()) == pytest.approx(np.nanmean(VALID))
    share = (opened.order == 2).where(opened.order.notnull()).coarsen(y=4, x=4).mean()
    by_hand = np.where(np.isnan(VALID), np.nan, VALID == 2).reshape(4, 4, 3, 4).swapaxes(1, 2).reshape(4, 3, 16)
    with np.testing.suppress_warnings() as quiet:
        quiet.filter(RuntimeWarning)
        np.testing.assert_allclose(share, np.nanmean(by_hand, axis=-1))


# Floats that are means stay floats


@pytest.mark.parametrize("how", ["of codes", "of floats"])
def test_means_of_a_class_map_are_written_as_they_are(how, maps, opened, tmp_path):
    coarse = (maps if how == "of codes" else opened).coarsen(y=4, x=4).mean()
    for name, ds in (("lazy", coarse), ("memory", coarse.compute())):
        to_zarr(ds, tmp_path / f"{name}.zarr", progress=False)
        assert raw(tmp_path / f"{name}.zarr").dtype.kind == "f"
        np.testing.assert_array_equal(open_maps(tmp_path / f"{name}.zarr").order, coarse.order)
        (path,) = ds.miso.to_cog(tmp_path / name, progress=False)
        with rasterio.open(path) as file:
            assert file.dtypes == (coarse.order.dtype.name,)
            np.testing.assert_array_equal(file.read(1), coarse.order)
        to_pyramid(ds, tmp_path / f"{name}-pyramid.zarr", levels=1, progress=False)
        np.testing.assert_array_equal(open_maps(tmp_path / f"{name}-pyramid.zarr" / "0").order, coarse.order)
        np.testing.assert_allclose(
            open_maps(tmp_path / f"{name}-pyramid.zarr" / "1").order, coarse.order.coarsen(y=2, x=2, boundary="pad").mean()
        )


def test_as_codes_means_are_an_error_that_names_them(maps, tmp_path):
    to_zarr(maps.coarsen(y=4, x=4).mean(), tmp_path / "a.zarr", progress=False)
    coarse = open_maps(tmp_path / "a.zarr", codes=True)
    with pytest.raises(StoreError, match=r"class map 'order' holds [\d.]+, which is no code .* without codes=True"):
        coarse.order.compute()


def test_floats_whose_encoding_says_codes_are_not_cut_to_codes(opened, tmp_path):
    """xarray and rioxarray keep the encoding of what they move, whatever becomes of its values."""
    moved = opened.order.copy(data=opened.order.data + 0.5).to_dataset(name="order")
    assert moved.order.encoding == opened.order.encoding
    with pytest.raises(StoreError, match=r"'order' holds \d\.5, which is no code .*drop_encoding\(\)"):
        to_zarr(moved, tmp_path / "lazy.zarr", progress=False)
    to_zarr(moved.drop_encoding(), tmp_path / "floats.zarr", progress=False)
    to_zarr(moved.compute(), tmp_path / "memory.zarr", progress=False)
    for name in ("floats", "memory"):
        np.testing.assert_array_equal(open_maps(tmp_path / f"{name}.zarr").order, VALID + 0.5)


# Floats that are codes are written as codes


def test_codes_in_memory_and_those_that_were_read_are_written_as_codes(maps, opened, tmp_path):
    masked = maps.where(maps.order != FILL)
    plain = xr.open_zarr(tmp_path / "opened.zarr")
    cases = {
        "memory": masked.compute(),
        "again": opened,
        "sliced": opened.isel(y=slice(0, 16)),
        "plain": plain,
        "loaded": plain.load(),
    }
    cases["unchunked"] = xr.open_zarr(tmp_path / "opened.zarr", chunks=None)
    for name, ds in cases.items():
        assert ds.order.dtype == "float32"
        to_zarr(ds, tmp_path / f"{name}.zarr", progress=False)
        assert raw(tmp_path / f"{name}.zarr").dtype == "uint8"
        np.testing.assert_array_equal(raw(tmp_path / f"{name}.zarr")[...], CODES)


def test_codes_of_other_types_are_written_back_in_theirs(tmp_path):
    values = np.where(CODES == FILL, -1, CODES.astype("int16"))
    ds = make_cube(SHAPE, SENTINEL2[:1]).assign(order=(("y", "x"), values, FLAGS | {"_FillValue": np.int16(-1)})).chunk({"y": 8})
    to_zarr(ds, tmp_path / "one.zarr", progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "one.zarr").order, VALID)
    to_zarr(open_maps(tmp_path / "one.zarr"), tmp_path / "two.zarr", progress=False)
    assert raw(tmp_path / "two.zarr").dtype == "int16"
    np.testing.assert_array_equal(raw(tmp_path / "two.zarr")[...], values)


def test_lazily_masked_codes_keep_their_values_and_are_codes_where_all_of_them_are_known(maps, tmp_path):
    masked = maps.where(maps.order != 3)
    wanted = np.where((CODES == 3) | (CODES == FILL), np.nan, CODES)
    wanted_codes = np.where(CODES == 3, FILL, CODES)
    masked = masked.where(masked.order != FILL)
    to_zarr(masked, tmp_path / "maps.zarr", progress=False)
    np.testing.assert_array_equal(open_maps(tmp_path / "maps.zarr").order, wanted)
    np.testing.assert_array_equal(open_maps(tmp_path / "maps.zarr", codes=True).order, wanted_codes)
    (path,) = masked.miso.to_cog(tmp_path / "cog", progress=False)
    with rasterio.open(path) as file:
        assert (file.dtypes, file.nodata) == (("uint8",), FILL)
        assert file.colormap(1)[4] == (0x44, 0x44, 0x44, 255)
        np.testing.assert_array_equal(file.read(1), wanted_codes)
    to_pyramid(masked, tmp_path / "pyramid.zarr", levels=2, progress=False)
    assert sorted(each.name for each in (tmp_path / "pyramid.zarr").iterdir()) == ["0", "1", "2", "zarr.json"]
    for level in "012":
        assert raw(tmp_path / "pyramid.zarr" / level).dtype == "uint8"
        assert set(np.unique(raw(tmp_path / "pyramid.zarr" / level)[...])) <= {0, 1, 2, 4, FILL}


def test_counts_with_flags_that_are_no_codes_stay_floats(maps, tmp_path):
    counts = maps.where(maps.order != FILL).coarsen(y=4, x=4).sum().compute()
    to_zarr(counts, tmp_path / "maps.zarr", progress=False)
    assert raw(tmp_path / "maps.zarr").dtype.kind == "f"


# Pyramids


def test_the_classes_of_a_pyramid_are_those_of_the_class_map(maps, tmp_path):
    """Not of the probabilities beside it, which know nothing of what was done to it."""
    sure = np.zeros((5, *SHAPE), "float32")
    sure[4] = 1
    ds = maps.assign(order_probability=(("class", "y", "x"), da.from_array(sure, chunks=(5, 8, 6))))
    to_pyramid(ds, tmp_path / "pyramid.zarr", levels=1, progress=False)
    below, found = (open_maps(tmp_path / "pyramid.zarr" / level, codes=True).order.values for level in "01")
    four = np.stack([below[row::2, column::2] for row in (0, 1) for column in (0, 1)])
    assert (found == four).any(0).all()
    assert (found == FILL)[4:6, 2:4].all()
    to_pyramid(ds, tmp_path / "probable.zarr", levels=1, classes="probability", progress=False)
    assert (open_maps(tmp_path / "probable.zarr" / "1").order == 4).all()


def test_the_most_probable_class_goes_by_its_name_and_has_the_code_of_the_map(maps, tmp_path):
    names = maps.order.attrs["flag_meanings"].split()
    shares = np.random.default_rng(0).dirichlet(np.ones(len(names)), SHAPE).astype("float32").transpose(2, 0, 1)
    layers = xr.DataArray(shares, dims=("class", "y", "x"), coords={"class": names})
    codes = np.arange(len(names)) * 100 + 3
    flags = {"flag_values": codes.astype("int16"), "flag_meanings": " ".join(names), "_FillValue": np.int16(-1)}
    order = xr.where(maps.order == FILL, -1, maps.order.astype("int16") * 100 + 3).astype("int16").assign_attrs(flags)
    ds = maps.assign(order=order, order_probability=layers)
    back = list(range(len(names)))[::-1]
    listed = order.assign_attrs(flag_values=flags["flag_values"][::-1], flag_meanings=" ".join(names[::-1]))
    mean = shares.reshape(len(names), SHAPE[0] // 2, 2, SHAPE[1] // 2, 2).mean((2, 4))
    for number, one in enumerate(
        (ds, ds.isel({"class": back}), ds.assign(order=listed), ds.assign(order=listed).isel({"class": back}))
    ):
        to_pyramid(one, tmp_path / f"{number}.zarr", levels=1, classes="probability", progress=False)
        np.testing.assert_array_equal(open_maps(tmp_path / f"{number}.zarr" / "1", codes=True).order, codes[mean.argmax(0)])
    with pytest.raises(SpecError, match="give one layer for each class"):
        to_pyramid(ds.isel({"class": back[1:]}), tmp_path / "none.zarr", classes="probability", progress=False)
    assert not (tmp_path / "none.zarr").exists()
