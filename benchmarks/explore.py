"""The interactive map of 20,000 x 20,000 pixels: seconds until a view is drawn, and the share of the blocks that it reads.

    python benchmarks/explore.py [--side 20000] [--chunk 1024] [--pans 6] [--store FOLDER]

A store of SIMULATED classes and probabilities is written block by block, without overviews, and served by ``misoxr.explore`` in this process, on two cores.
Chromium, headless, opens the page, zooms in to the pixels, and pans by 600 pixels of the screen east or 400 south at a time. Seconds are those from the press
of the mouse until all tiles are drawn, the drag of 0.2 s included. What was read before a pan is forgotten. ``--lazy`` explores the same map before it is
written, computed block by block. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

CORES = 2
WAIT = 120


def block(values: str, block_info: Any = None) -> np.ndarray:
    """Make a block of smooth fields: a probability, or its classes."""
    rows, columns = (np.arange(*span) for span in block_info[None]["array-location"])
    field = np.add.outer(np.sin(rows / 700) + np.sin(rows / 90) / 3, np.cos(columns / 500) + np.cos(columns / 70) / 3)
    probability = (1 / (1 + np.exp(-3 * field))).astype("float32")
    return probability if values == "probability" else (probability > 0.5).astype("uint8")


def maps_of(side: int, chunk: int) -> Any:
    """A lazy map of permafrost."""
    import dask.array as da
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from misoxr.grid.geobox import assign

    chunks = da.core.normalize_chunks(chunk, (side, side))
    flags = {"flag_values": np.arange(2, dtype="uint8"), "flag_meanings": "absent present", "flag_colors": "#d8c08c #2b6ca3"}
    data = {}
    for name, kind, attrs in (
        ("permafrost_probability", "float32", {}),
        ("permafrost", "uint8", {**flags, "_FillValue": np.uint8(255)}),
    ):
        make = partial(block, "probability" if kind == "float32" else "classes")
        layer = da.map_blocks(make, chunks=chunks, dtype=kind, meta=np.empty((0, 0), kind))
        data[name] = (("y", "x"), layer, attrs)
    return assign(xr.Dataset(data, attrs={"simulated": 1}), GeoBox((side, side), Affine(20, 0, 0, 0, -20, 1_700_000), "EPSG:3338"))


def browser() -> Any:
    """Start a browser."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1400,900"):
        options.add_argument(f"--{argument}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


DRAWN = """
return document.querySelectorAll(".leaflet-tile-loaded").length > 0 && document.querySelector(".misoxr-busy").hidden
    && !document.querySelector(".leaflet-tile:not(.leaflet-tile-loaded)") && !document.querySelector(".leaflet-zoom-anim");
"""


def seconds(page: Any, start: float) -> float:
    """Return the seconds from a start until all tiles in view are drawn."""
    time.sleep(0.02)
    while not page.execute_script(DRAWN):
        if time.perf_counter() - start > WAIT:
            raise TimeoutError(f"The view is not drawn after {WAIT} s.")
        time.sleep(0.02)
    return time.perf_counter() - start


def zoom_in(page: Any) -> None:
    """Zoom in by one, and wait until it is drawn."""
    page.find_element("css selector", ".leaflet-control-zoom-in").click()
    time.sleep(0.5)
    seconds(page, time.perf_counter())


def pan(page: Any, right: int, down: int) -> float:
    """Drag the map, and return the seconds from the press of the mouse until it is drawn."""
    from selenium.webdriver.common.action_chains import ActionChains

    box = page.find_element("css selector", ".misoxr-box")
    drag = ActionChains(page, duration=50).move_to_element_with_offset(box, right // 2, down // 2)
    drag.perform()
    start = time.perf_counter()
    # Held still before the release, so that the map does not glide on.
    ActionChains(page, duration=50).click_and_hold().move_by_offset(-right, -down).pause(0.1).release().perform()
    return seconds(page, start)


def explored(served: Any, total: int, pans: int, layer: str) -> dict[str, Any]:
    """Explore a layer, and tell seconds and blocks."""
    page = browser()
    blocks = served.atlas.blocks
    try:
        start = time.perf_counter()
        page.get(served.url)
        told: dict[str, Any] = {"first_view_seconds": round(seconds(page, start), 2), "first_view_blocks": len(blocks.read)}
        time.sleep(1)
        told["note"] = page.find_element("css selector", ".misoxr-note").text
        while served.atlas.layers[layer].levels[0].ground.scale(zoom_of(page))[0] > 1:
            zoom_in(page)
        told["zoomed_in_share"] = round(len(blocks.read) / total, 4)
        times, own, read = [], [], []
        for at in range(pans):
            blocks.forget()  # as if the view came from nowhere: all that its new tiles need is read
            used = time.process_time()
            times.append(pan(page, 600, 0) if at % 3 < 2 else pan(page, 0, 400))
            own.append(time.process_time() - used)
            read.append(len(blocks.read) / total)
        told |= {
            "pan_seconds": _rounded(times),
            "pan_seconds_of_a_core": _rounded(own),
            "pan_share_of_blocks": _rounded(read, 4),
            "blocks": total,
        }
        told |= {"worst_pan_seconds": max(_rounded(times)), "worst_pan_share": max(_rounded(read, 4))}
    finally:
        page.quit()
    return told


def _rounded(values: list[float], digits: int = 2) -> list[float]:
    return [round(one, digits) for one in values]


def zoom_of(page: Any) -> int:
    """Return the zoom of the tiles that are shown."""
    return int(page.find_element("id", "map").get_attribute("data-zoom"))


def main(side: int, chunk: int, pans: int, store: str | None, *, lazy: bool) -> None:
    """Measure and print."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    import dask

    import misoxr
    from misoxr.explorer.atlas import atlas_of
    from misoxr.explorer.served import Served

    total = (-(-side // chunk)) ** 2
    found = {}
    with dask.config.set(num_workers=CORES), tempfile.TemporaryDirectory() as folder:
        maps = maps_of(side, chunk)
        if lazy:
            for layer in maps.data_vars:
                with Served(atlas_of(maps[[layer]])) as served:
                    found[f"lazy {layer}"] = explored(served, total, pans, str(layer))
        else:
            place = Path(store or folder) / "maps.zarr"
            start = time.perf_counter()
            if not place.exists():
                maps.miso.to_zarr(place, progress=False)
                print(f"The store of {side:,} x {side:,} pixels was written in {time.perf_counter() - start:.0f} s.")
            for layer in maps.data_vars:
                with misoxr.explore(place, wait=False, open_browser=False, variables=[layer]) as served:
                    raster = served.atlas.layers[layer].levels[0].rasters[0]
                    found[str(layer)] = explored(served, raster.count, pans, str(layer))
    for layer, told in found.items():
        print(f"{layer}: {told['note']}")
        print(
            f"  first view {told['first_view_seconds']} s and {told['first_view_blocks']} of {told['blocks']} blocks; pans {told['pan_seconds']} s, "
            f"{told['pan_seconds_of_a_core']} s of a core in this process, at most {told['worst_pan_share']:.2%} of the blocks each"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--pans", type=int, default=6)
    parser.add_argument("--store", help="a folder in which the store stays")
    parser.add_argument("--lazy", action="store_true")
    options = parser.parse_args()
    main(options.side, options.chunk, options.pans, options.store, lazy=options.lazy)
