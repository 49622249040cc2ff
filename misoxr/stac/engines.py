"""stackstac and odc-stac as builders of lazy cubes over one reader of our own, so that both are safe and give the same numbers.

Each engine gets items that carry nothing but an extent on the target grid and, for each band, an :class:`~misoxr.assets.read.Asset`;
each returns (item, y, x) arrays in the order of the scenes.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import dask.array as da
import dask.base
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from misoxr.assets.read import Asset, PatchUrl, Reader
from misoxr.errors import GridError
from misoxr.grid.footprints import bounds_on
from misoxr.stac.items import Scene

__all__ = ["ENGINES"]

MARGIN = 3
"""Pixels by which extents are widened, so that no engine leaves out an item that touches a block."""


def with_stackstac(
    scenes: Sequence[Scene], bands: Sequence[str], geobox: GeoBox, chunks: tuple[int, int], patch_url: PatchUrl | None
) -> dict[str, da.Array]:
    """Build the cube with :func:`stackstac.stack`."""
    import stackstac

    if geobox.crs is None or geobox.crs.epsg is None:
        raise GridError(f"stackstac needs a CRS with an EPSG code, and the grid is in {geobox.crs}; use engine='odc'.")
    items = [
        {
            "id": scene.id,
            "properties": {"datetime": scene.time.isoformat(), "proj:epsg": geobox.crs.epsg, "proj:bbox": _bounds(scene, geobox)},
            # stackstac hands the href to the reader as it is
            "assets": {band: {"href": scene.assets[band]} for band in bands if band in scene.assets},
        }
        for scene in scenes
    ]
    stack = stackstac.stack(
        items,
        assets=list(bands),
        epsg=geobox.crs.epsg,
        resolution=(geobox.affine.a, -geobox.affine.e),
        bounds=tuple(geobox.boundingbox.bbox),
        snap_bounds=False,
        chunksize=(1, 1, *chunks),
        dtype=np.dtype("float32"),
        fill_value=np.float32(np.nan),
        rescale=False,
        sortby_date=False,
        xy_coords="center",
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        reader=partial(StackReader, geobox=geobox, patch_url=patch_url),
    )
    assert stack.shape == (len(scenes), len(bands), *geobox.shape.yx)
    return {band: stack.data[:, index] for index, band in enumerate(bands)}


class StackReader:
    """stackstac's Reader: one asset, window by window."""

    def __init__(self, *, url: Asset, geobox: GeoBox, patch_url: PatchUrl | None, **_: Any) -> None:
        self.asset, self.geobox, self.patch_url = url, geobox, patch_url

    def read(self, window: Any, **_: Any) -> npt.NDArray[np.float32]:
        """Read a window of the target grid."""
        rows, columns = window.toslices()
        with Reader(self.geobox[rows, columns], self.patch_url, self.geobox) as reader:
            return reader.read(self.asset)

    def close(self) -> None:
        """Nothing stays open between windows."""


def with_odc(
    scenes: Sequence[Scene], bands: Sequence[str], geobox: GeoBox, chunks: tuple[int, int], patch_url: PatchUrl | None
) -> dict[str, da.Array]:
    """Build the cube with :func:`odc.stac.load`, every item a time of its own."""
    import odc.stac

    cube = odc.stac.load(
        [_odc_item(index, scene, bands, geobox) for index, scene in enumerate(scenes)],
        bands=list(bands),
        groupby="id",
        preserve_original_order=True,
        geobox=geobox,
        chunks={"time": 1, "y": chunks[0], "x": chunks[1]},
        driver=OdcDriver(tuple(bands), patch_url, geobox),
    )
    return {band: cube[band].data for band in bands}


def _odc_item(index: int, scene: Scene, bands: Sequence[str], geobox: GeoBox) -> Any:
    """Return an item whose assets are single pixels as large as the scene: odc-stac finds the blocks they meet."""
    import pystac

    west, south, east, north = _bounds(scene, geobox)
    extension = "https://stac-extensions.github.io/projection/v1.1.0/schema.json"
    outline = {
        "proj:epsg": None,
        "proj:wkt2": str(geobox.crs.wkt) if geobox.crs else None,
        "proj:shape": [1, 1],
        "proj:transform": [east - west, 0.0, west, 0.0, south - north, north],
    }
    item = pystac.Item(f"{index}", None, None, scene.time.to_pydatetime(), {}, stac_extensions=[extension])
    for band in bands:
        asset = scene.assets.get(band)
        if asset is not None:
            # the address enters odc's names of tasks: two readings of one file must not share one
            href = f"misoxr://{dask.base.tokenize(asset)}"
            item.add_asset(band, pystac.Asset(href, extra_fields={**outline, "misoxr:asset": asset}))
    return item


@dataclass(frozen=True)
class OdcDriver:
    """odc-loader's ReaderDriver and metadata parser."""

    bands: tuple[str, ...]
    patch_url: PatchUrl | None
    whole: GeoBox

    dask_reader = None
    aux_reader = None

    @property
    def md_parser(self) -> "OdcDriver":
        """The driver knows what it put into the items."""
        return self

    def extract(self, _: Any) -> Any:
        """Return the bands, which are the same for all items."""
        from odc.loader.types import RasterBandMetadata, RasterGroupMetadata

        return RasterGroupMetadata({(band, 1): RasterBandMetadata("float32", float("nan"), "1") for band in self.bands})

    def driver_data(self, item: Any, band_key: tuple[str, int]) -> Asset | None:
        """Return what the reader needs."""
        asset = item.assets.get(band_key[0])
        return None if asset is None else asset.extra_fields["misoxr:asset"]

    def new_load(self, geobox: GeoBox, *, chunks: Any = None) -> None:
        """Nothing is shared between blocks."""

    def finalise_load(self, load_state: Any) -> Any:
        """Nothing is left to do."""
        return load_state

    def capture_env(self) -> dict[str, Any]:
        """The reader sets its own environment."""
        return {}

    def restore_env(self, env: Any, load_state: Any) -> Any:
        """The reader sets its own environment."""
        return nullcontext(load_state)

    def open(self, src: Any, ctx: Any) -> "OdcReader":
        """Return the reader of one asset; nothing is opened yet."""
        return OdcReader(src.driver_data, self.patch_url, self.whole)


@dataclass(frozen=True)
class OdcReader:
    """odc-loader's RasterReader: one asset, block by block."""

    asset: Asset
    patch_url: PatchUrl | None
    whole: GeoBox

    def read(self, cfg: Any, dst_geobox: GeoBox, **_: Any) -> tuple[tuple[slice, slice], npt.NDArray[np.float32]]:
        """Read a block."""
        with Reader(dst_geobox, self.patch_url, self.whole) as reader:
            return np.s_[:, :], reader.read(self.asset)


def _bounds(scene: Scene, geobox: GeoBox) -> tuple[float, float, float, float]:
    west, south, east, north = bounds_on(scene.outline, geobox)
    margin = MARGIN * geobox.affine.a
    return west - margin, south - margin, east + margin, north + margin


Engine = Callable[[Sequence[Scene], Sequence[str], GeoBox, tuple[int, int], PatchUrl | None], dict[str, da.Array]]

ENGINES: Mapping[str, Engine] = MappingProxyType({"stackstac": with_stackstac, "odc": with_odc})
"""What ``engine`` names."""
