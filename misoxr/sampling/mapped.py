"""What a map alone tells of areas: pixels counted, and expected areas from probabilities."""

from typing import Any, NamedTuple

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from misoxr.clusters import computed
from misoxr.cube.decode import decoded
from misoxr.cube.variables import layers_by_flag
from misoxr.errors import SpecError, gathered
from misoxr.grid.geobox import located
from misoxr.grid.halo import in_blocks
from misoxr.grid.layers import flat, one_of
from misoxr.sampling.classes import Legend, has_classes
from misoxr.sampling.counts import Ground, checked_unit, class_sums

__all__ = ["area"]

NODATA = "nodata"
"""Name of the row of pixels without a class."""


class _Layer(NamedTuple):
    """A class map in chunks, its classes, and the probabilities beside it."""

    codes: da.Array
    legend: Legend
    probability: da.Array | None


@gathered
def area(maps: xr.Dataset, by: gpd.GeoDataFrame | None = None, *, unit: str = "km2") -> pd.DataFrame:
    """Count the area of each class of each map, with the expected areas from the probabilities beside.

    Neither has an error bar, and both are biased by the errors of the map: :func:`misoxr.sampling.areas` estimates areas from reference sites. All maps are
    counted block by block, in one computation.

    Parameters
    ----------
    maps : Dataset
        Maps, such as those of :func:`misoxr.mapping.predict.predict` or :func:`misoxr.open_maps`; lazy, of any size. Each class map over (y, x) is counted:
        tasks, and also ``excluded`` and ``applicable``. Regressions have no classes; see :func:`misoxr.sampling.mean`.
    by : GeoDataFrame, optional
        Polygons, such as permafrost zones. They are named by a column "name", or by the index without one. Where they overlap, the first counts.
    unit : {"km2", "ha", "m2"}, optional
        Unit of the areas, which are true ones on the ellipsoid, whatever the projection.

    Returns
    -------
    DataFrame
        A row for each task and class; with ``by``, for each region, task and class, and a region "none" for the rest. ``pixels``; ``counted``, their area;
        ``expected``, the sum of probability times area by the names of the classes, NaN for maps without probabilities; ``share`` of the counted area with a class. Pixels without a class have a
        row "nodata", where there are any. The unit is in ``attrs``.

    Raises
    ------
    SpecError
        If there is no class map, or a probability has other classes than its map.
    BandError
        If a class map holds what is no class.
    GridError
        If the maps have no grid or CRS, or no polygon meets them.
    PointsError
        If the polygons have no CRS or no names.

    Notes
    -----
    A pixel belongs to the polygon that its centre lies in. Sums are of whole numbers, so they are the same for any chunks.

    Examples
    --------
    >>> table = maps.miso.area()
    >>> by_zone = maps.miso.area(by=gpd.read_file("zones.gpkg"), unit="ha")
    """
    divisor = checked_unit(unit)
    maps = located(maps)
    layers = [_layer(maps, str(name)) for name, array in maps.data_vars.items() if _counts(array)]
    if not layers:
        raise SpecError(
            f"There is no class map over y and x among {list(maps.data_vars)}; class maps have flag_values and flag_meanings. The mean and total "
            f"of a map of values are told by misoxr.sampling.mean.{one_of(maps)}"
        )
    ground = Ground.of(maps, by)
    sums = computed(*(class_sums(one.codes, one.legend, ground, one.probability) for one in layers))
    table = pd.concat([_table(one, found, ground, divisor) for one, found in zip(layers, sums, strict=True)])
    if by is not None:
        table = table.sort_index(
            level="region", key=lambda names: names.map(ground.names.index), sort_remaining=False, kind="stable"
        )
    table.attrs = {"unit": unit}
    return table


def _counts(array: xr.DataArray) -> bool:
    """Return whether a variable is a class map over y and x."""
    return (
        has_classes(array) and {dim for dim in array.dims if array.sizes[dim] > 1} <= {"y", "x"} and {"y", "x"} <= set(array.dims)
    )


def _layer(maps: xr.Dataset, name: str) -> _Layer:
    """Find the probabilities beside a class map."""
    codes = flat(maps[name])
    legend = Legend.of(codes)
    beside = maps.get(f"{name}_probability")
    if beside is None:
        return _Layer(codes.data, legend, None)
    single = [dim for dim in beside.dims if beside.sizes[dim] == 1 and dim in ("time", *maps[name].dims) and dim not in ("y", "x")]
    beside = beside.squeeze(single, drop=True)
    beside = decoded(beside.name, beside, beside.dtype.name if beside.dtype.kind == "f" else "float32")
    others = [dim for dim in beside.dims if dim not in ("y", "x") and (beside.sizes[dim] > 1 or dim in beside.indexes)]
    many = len(legend.names)
    if len(others) > 1 or (beside.sizes[others[0]] if others else 2) != many:
        raise SpecError(
            f"{name}_probability has dimensions {dict(beside.sizes)}, and {name!r} {many} classes; give one layer for each class, or that of the "
            "second of two."
        )
    return _Layer(codes.data, legend, in_blocks(layers_by_flag(beside, codes)).data)


def _table(layer: _Layer, sums: Any, ground: Ground, divisor: float) -> pd.DataFrame:
    """Return the rows of one class map."""
    legend, kinds = layer.legend, len(layer.legend.names)
    legend.refuse(int(sums[0, :, -1].sum()))
    counted, expected = (ground.areas.metres(part[:, :-1]) / divisor for part in sums[1:])
    last = len(ground.names) - 1
    out = []
    for region, name in enumerate(ground.names):
        pixels = sums[0, region, :-1].astype("int64")
        if name and region == last and not pixels.any():
            continue
        names = [*legend.names, *([NODATA] if pixels[-1] else [])]
        with np.errstate(invalid="ignore"):
            share = counted[region] / counted[region, :kinds].sum()
        columns = {"pixels": pixels, "counted": counted[region], "expected": expected[region], "share": share}
        table = pd.DataFrame(columns)
        table.loc[kinds, ["expected", "share"]] = np.nan
        if layer.probability is None:
            table["expected"] = np.nan
        levels: dict[str, list[Any]] = {"region": [name]} if name else {}
        index = pd.MultiIndex.from_product([*levels.values(), [legend.name], names], names=[*levels, "task", "class"])
        out.append(table.iloc[: len(names)].set_axis(index))
    return pd.concat(out)
