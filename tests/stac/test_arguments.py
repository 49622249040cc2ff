"""Arguments of open_stac in the forms in which people give them."""

import datetime as dt

import numpy as np
import odc.geo
import pandas as pd
import pystac
import pytest

from misoxr.errors import BandError, CatalogError, GridError
from misoxr.stac.arguments import band_names, box_of, chunk_sizes, collection_names, crs_of, pixel_size, refuse_unknown


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (None, (1024, 1024)),
        ("auto", (1024, 1024)),
        (512, (512, 512)),
        (np.int64(512), (512, 512)),
        (-1, (-1, -1)),
        ((256, 512), (256, 512)),
        ([256, -1], (256, -1)),
        ({"y": 256}, (256, 1024)),
        ({"x": np.int32(256), "y": "auto"}, (1024, 256)),
        ({"y": None, "x": 5}, (1024, 5)),
        ({}, (1024, 1024)),
    ],
)
def test_chunks(chunks, expected):
    sizes = chunk_sizes(chunks)
    assert (sizes["y"], sizes["x"]) == expected
    assert {type(size) for size in sizes.values()} == {int}


@pytest.mark.parametrize(
    "chunks", ["fast", True, 0, -2, 5.5, (1, 2, 3), ("512", 512), {"time": 1}, {"z": 5}, {"y": "big"}, [], np.nan], ids=repr
)
def test_chunks_that_are_none(chunks):
    with pytest.raises(CatalogError, match=r"chunks=.*give pixels along 'y' and 'x'"):
        chunk_sizes(chunks)


@pytest.mark.parametrize("key", ["Y", "yy", "x "])
def test_a_near_key_of_chunks_is_named(key):
    with pytest.raises(CatalogError, match=f'Did you mean "{key.strip().lower()[0]}"'):
        chunk_sizes({key: 512})


def test_resolutions():
    for resolution in (10, 10.0, np.float32(10), np.int64(10), np.array(10), (10, 10), (10, -10), [-10, 10], np.array([10, -10])):
        assert pixel_size(resolution) == 10
        assert type(pixel_size(resolution)) is float
    assert pixel_size(odc.geo.resxy_(10, -10)) == 10
    assert pixel_size(None) is None
    for resolution in ("10", True, (10,), (1, 2, 3), {}, object(), np.nan):
        with pytest.raises(GridError, match="resolution=.*is not a number"):
            pixel_size(resolution)
    with pytest.raises(GridError, match=r"resolution=\(10, 20\) makes pixels that are not square"):
        pixel_size((10, 20))


def test_names():
    assert band_names("red") == ["red"]
    assert band_names(np.array(["red", "nir"])) == ["red", "nir"]
    assert band_names(pd.Index(["red"])) == ["red"]
    for bands in ([], ["red", "red"], ["clear"], [5], 5, [None], [""]):
        with pytest.raises(BandError, match="bands=.*give common names"):
            band_names(bands)
    assert collection_names("a") == collection_names(["a"]) == collection_names(np.array(["a"])) == ("a",)
    extent = pystac.Extent(pystac.SpatialExtent([[0, 0, 1, 1]]), pystac.TemporalExtent([[dt.datetime(2020, 1, 1), None]]))
    assert collection_names(pystac.Collection("a", "", extent)) == ("a",)
    for collections in ([], 5, [5], [None]):
        with pytest.raises(CatalogError, match="collections=.*is not one or several names"):
            collection_names(collections)


def test_boxes_and_codes():
    assert box_of(np.array([1, 2, 3, 4])) == box_of((1, 2, 3.0, np.int8(4))) == (1, 2, 3, 4)
    assert box_of((1, 2, 0, 3, 4, 9)) == (1, 2, 0, 3, 4, 9)  # heights between
    for bbox in ((1, 2, 3), (1, 2, 3, 4, 5), "1,2,3,4", 5, (1, 2, 3, "4"), (1, 2, 3, np.nan)):
        with pytest.raises(CatalogError, match="bbox=.*is not four numbers"):
            box_of(bbox)
    assert crs_of(np.int64(3338)) == 3338
    assert crs_of("EPSG:3338") == "EPSG:3338"


@pytest.mark.parametrize("value", ["mediann", "Median", ["median"], np.array(["median"]), 5, True])
def test_unknown_options(value):
    with pytest.raises(CatalogError, match="reduce=.*is unknown; use one of") as error:
        refuse_unknown("reduce", value, (None, "median"))
    assert ('Did you mean "median"?' in str(error.value)) == isinstance(value, str)
    refuse_unknown("reduce", np.str_("median"), (None, "median"))
