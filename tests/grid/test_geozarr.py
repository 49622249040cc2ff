"""The conventions of georeferencing: as their schemas have them, and never those of another grid."""

import json
from pathlib import Path

import numpy as np
import pytest
import rioxarray
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox

from misoxr.grid.geobox import assign, geobox_of
from misoxr.io.layout import open_maps
from misoxr.io.zarr import to_zarr
from misoxr.spec import SENTINEL2
from tests.conftest import make_cube

zarr_cm = pytest.importorskip("zarr_cm")
ALBERS = "+proj=aea +lat_0=50 +lon_0=-154 +lat_1=55 +lat_2=65 +datum=WGS84 +units=m +type=crs"
"""A CRS without a code."""


def cube(crs: str = "EPSG:3338") -> xr.Dataset:
    ds = make_cube((8, 6), SENTINEL2[:1])
    return assign(ds.drop_vars("spatial_ref"), GeoBox((8, 6), geobox_of(ds).affine, crs))


def document(path: Path) -> dict:
    return json.loads((path / "zarr.json").read_text())


def validated(found: dict, *conventions: str) -> list[str]:
    """The conventions that a group registers, after zarr-cm found it valid under some."""
    registered = {entry["name"]: entry for entry in found["attributes"]["zarr_conventions"]}
    for name in conventions:
        convention = getattr(zarr_cm, name)
        assert convention.detect(found["attributes"]) == convention.LATEST
        convention.validate_group_metadata(found)
        # The schemas allow these fields, with these values, and no others.
        assert registered[name] == dict(convention.CMO)
        assert set(registered[name]) == {"uuid", "name", "schema_url", "spec_url", "description"}
        assert "/v0.1/" in registered[name]["schema_url"]
    return list(registered)


@pytest.mark.parametrize("crs", ["EPSG:3338", "EPSG:4326", ALBERS])
def test_a_store_is_valid(crs, tmp_path):
    to_zarr(cube(crs), tmp_path / "maps.zarr", progress=False)
    found = document(tmp_path / "maps.zarr")
    assert validated(found, "proj", "spatial") == ["proj", "spatial"]
    assert ("proj:code" in found["attributes"]) == (crs != ALBERS)


def test_a_pyramid_is_valid_and_its_transform_and_shape_stand_with_the_levels(tmp_path):
    cube().assign_attrs(title="a map").miso.to_pyramid(tmp_path / "pyramid.zarr", levels=2, progress=False)
    found = document(tmp_path / "pyramid.zarr")
    assert validated(found, "proj", "spatial", "multiscales") == ["proj", "spatial", "multiscales"]
    attrs = found["attributes"]
    assert {key for key in attrs if key.startswith("spatial:")} == {"spatial:dimensions", "spatial:bbox", "spatial:registration"}
    assert [entry["spatial:shape"] for entry in attrs["multiscales"]["layout"]] == [[8, 6], [4, 3], [2, 2]]
    assert attrs["title"] == "a map"
    for level in "012":
        assert validated(document(tmp_path / "pyramid.zarr" / level), "proj", "spatial") == ["proj", "spatial"]


@pytest.mark.parametrize(
    "opened", [open_maps, lambda path: xr.open_zarr(path, consolidated=False)], ids=["open_maps", "plain xarray"]
)
@pytest.mark.parametrize("crs", [ALBERS, "EPSG:32606"])
def test_nothing_of_another_grid_is_left(opened, crs, tmp_path):
    to_zarr(cube(), tmp_path / "one.zarr", progress=False)
    moved = opened(tmp_path / "one.zarr").compute().rio.reproject(crs)
    to_zarr(moved, tmp_path / "two.zarr", progress=False)
    attrs = document(tmp_path / "two.zarr")["attributes"]
    assert attrs.get("proj:code") == (None if crs == ALBERS else crs)
    assert attrs["spatial:shape"] == list(moved.red.shape)
    assert attrs["spatial:transform"] == list(geobox_of(moved).affine)[:6]
    (path,) = moved.miso.to_cog(tmp_path / "cog", progress=False)
    tags = rioxarray.open_rasterio(path).attrs
    assert not [key for key in tags if key.startswith(("proj:", "spatial:", "zarr_conventions"))]


def test_what_is_opened_has_its_grid_in_one_place(tmp_path):
    to_zarr(cube(), tmp_path / "one.zarr", progress=False)
    assert open_maps(tmp_path / "one.zarr").attrs == {}
    assert geobox_of(open_maps(tmp_path / "one.zarr")) == geobox_of(cube())


def test_other_conventions_are_kept(tmp_path):
    other = {"uuid": "b77365e5-2b0b-4141-b917-c03b7a68c935", "name": "license"}
    to_zarr(cube().assign_attrs(zarr_conventions=[other], license="CC0"), tmp_path / "one.zarr", progress=False)
    to_zarr(open_maps(tmp_path / "one.zarr"), tmp_path / "two.zarr", progress=False)
    names = [entry["name"] for entry in document(tmp_path / "two.zarr")["attributes"]["zarr_conventions"]]
    assert names == ["license", "proj", "spatial"]


def test_metadata_are_gathered_when_a_store_is_finished_and_not_before(tmp_path):
    ds = cube().chunk({"y": 4})
    seen = []

    def look(block: np.ndarray) -> np.ndarray:
        seen.append(zarr.open_group(tmp_path / "maps.zarr", mode="r").metadata.consolidated_metadata)
        return block

    lazy = ds.red.data.map_blocks(look, dtype="float32", meta=np.empty((0, 0), "float32"))
    to_zarr(ds.assign(red=ds.red.copy(data=lazy)), tmp_path / "maps.zarr", progress=False)
    assert seen == [None, None]
    assert set(document(tmp_path / "maps.zarr")["consolidated_metadata"]["metadata"]) == {"red", "spatial_ref", "x", "y"}
