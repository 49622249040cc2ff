"""Explore maps in a notebook: the page as a widget, through the notebook's own channel."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from misoxr.errors import gathered, require
from misoxr.explorer.atlas import atlas_of

if TYPE_CHECKING:
    from misoxr.explorer.widget import MapWidget

__all__ = ["explore"]


@gathered
def explore(
    maps: xr.Dataset,
    *,
    image: xr.Dataset | None = None,
    variables: Sequence[str] | None = None,
    beside: xr.Dataset | str | None = None,
    pyramid: str | os.PathLike[str] | None = None,
    basemap: bool | str | None = None,
    height: int = 500,
) -> "MapWidget":
    """Show maps of any size in the notebook, to pan and zoom, and to click for coordinates, classes and probabilities.

    Only the tiles in view are read or computed, when they come into view. They go through the notebook's own channel: no port is opened, and
    nothing is asked of the network.

    Parameters
    ----------
    maps : Dataset
        From ``predict`` or :func:`misoxr.open_maps`, lazy or in memory, on a grid with CRS. All maps (y, x) are layers, and of probabilities
        (class, y, x) the greatest and each class's.
    image : Dataset, optional
        With red, green and blue, for a layer in true colour. It overlaps the maps, in their CRS. Left out, red, green and blue among the maps serve.
    variables : sequence of str, optional
        Which maps are layers, and are told where one clicks; by default all.
    beside : Dataset or str, optional
        What to compare with: other maps, on any grid, or the name of a layer. A divider then swipes between both; the page also shows them
        side by side. Any two layers can be compared on the page without it.
    pyramid : str or path, optional
        What ``to_pyramid`` wrote of these maps. Views of much of the map are read from its coarser levels. Without it, a view that would take long says
        what it would read, and draws a few whole blocks: one that computes more than 16 blocks (of large maps 5 % of them, and 64 at most), or reads more
        than 64 MB of a store.
    basemap : bool or str, optional
        True lays OpenStreetMap under the maps, which the browser asks of the network; a string is the address of other web Mercator tiles, with ``{z}``,
        ``{x}`` and ``{y}``. By default there is none, and no network is needed.
    height : int, optional
        Pixels of the screen.

    Returns
    -------
    MapWidget
        Show it as the last line of a cell. It has the traits ``layer`` and ``other`` (names of layers), ``compare`` ("off", "swipe" or "side"), ``opacity``
        (0 to 1), and ``clicked``: the last click's ``lon`` and ``lat`` (degrees), ``x`` and ``y`` (in the maps' CRS; None outside of them) and ``values`` by
        variable: the name of a class, a number in the variable's units, numbers by class, or the classes of a set; None where there is no value. With
        other maps beside, ``beside`` has theirs.

    Raises
    ------
    BandError
        If there is no map to draw, its classes and colours do not go together, or the image lacks red, green or blue.
    GridError
        If maps have no regular grid or CRS, or a rotated one, or the image or the pyramid lies on another.
    SpecError
        If there are no such variables or layers, or an argument is none of these.
    StoreError
        If the pyramid cannot be read, or is of other maps.
    MissingDependencyError
        If anywidget is missing (extra ``jupyter``), or matplotlib (extra ``plot``).

    Notes
    -----
    Pixels are drawn as they are: the nearest to each pixel of the screen, in web Mercator. Colours of quantities follow from a few blocks. Blocks that were
    read are kept, up to 1 GB.

    Examples
    --------
    >>> view = maps.miso.explore()
    >>> view.layer = "taxonomy"
    >>> view.clicked  # after a click on the map
    """
    require("anywidget", "jupyter")
    atlas = atlas_of(maps, image=image, variables=variables, beside=beside, pyramid=pyramid, basemap=basemap, height=height)
    from misoxr.explorer.widget import MapWidget  # with anywidget, which may be missing

    return MapWidget(atlas)
