"""A map by misoxr against the plain published procedure, both with miso-base, side by side in one run.

    python benchmarks/predict.py [--preset miso-base] [--rows 2]
    python benchmarks/predict.py --golden ../shared/reference
    python benchmarks/predict.py --host --preset miso-nano [--old CHECKOUT] [--size 1024] [--zeros]
    python benchmarks/predict.py --compile --preset miso-nano

Random weights and smooth noise. "Same settings" are the published windows (250 px every 125, Gaussian) on a tile of ``--rows`` x 2 crops: the
answers must agree, and the ratio is one of equal numbers of points. The published form answers the location branch at every point; misoxr
only where it is asked to, so it is timed without, and the location's answers are compared at 500 pixels after. "Default settings"
are the preset's own windows and query: pixels a second inside a large map, against the published procedure at interval 2, which
takes 1,521 of the crops timed here for a tile of 5,000 x 5,000 pixels. With ``--golden``, the full-size reference case is
computed too: ``published_golden.npz``, with the weights of its ``published.py``.
With ``--host``, a block of 1024 x 1024 pixels (``--size``) and two tasks is computed with the network, and with a network that does nothing and answers
0: what is left is what is done beside the network. With ``--zeros``, it alone is measured. With ``--old``, another checkout of misoxr does the same, in turns with this one.
With ``--compile``, the same block is computed as it is and with ``compile=True``, whose first call compiles; and from how many pixels on that pays.
The last line is JSON.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from plain import plain_map
from scipy.ndimage import gaussian_filter

from misoxr.cube.scaling import Scaling
from misoxr.grid.geobox import assign, geobox_of, locations
from misoxr.model.checkpoint import Model
from misoxr.model.network import Miso
from misoxr.model.published import WINDOWS
from misoxr.spec import PERMAFROST, TAXONOMY, ModelSpec

TILE_CROPS, TILE_PIXELS = 1521, 5000 * 5000


def noise(spec: ModelSpec, shape: tuple[int, int]) -> xr.Dataset:
    """Make a cube of smooth noise in the bands' units."""
    rng = np.random.default_rng(0)
    data = {}
    for band in spec.bands:
        smooth = gaussian_filter(rng.standard_normal(shape), 4) * 12
        values = 180 + 60 * smooth if band.kind == "circular" else np.exp(smooth) * 0.2
        data[band.name] = (("y", "x"), values.astype("float32"), {"units": band.units})
    return assign(xr.Dataset(data), GeoBox(shape, Affine(10, 0, 300_000, 0, -10, 1_500_000), "EPSG:3338"))


def random_model(spec: ModelSpec, cube: xr.Dataset) -> Model:
    """Make a model of random weights, its heads strong enough to vary."""
    torch.manual_seed(0)
    network = Miso(spec)
    for name, parameter in network.named_parameters():
        if name.startswith("heads") and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=2.0 / parameter.shape[1] ** 0.5)
    pixels = np.stack([cube[band.name].values.ravel() for band in spec.bands])
    return Model(spec, Scaling.fit(spec, pixels), network)


def same_settings(preset: str, crops: int) -> tuple[float, float, float]:
    """Map some rows of two crops both ways: seconds of the plain procedure and of misoxr, and the greatest difference."""
    spec = ModelSpec.preset(preset, tasks=(PERMAFROST,))
    windows = WINDOWS if spec.windows.size > 250 else replace(WINDOWS, size=62, input_size=spec.windows.input_size, stride=31)
    spec = replace(spec, query="published", windows=windows)
    shape = windows.size + (crops - 1) * windows.stride, windows.size + windows.stride
    cube = noise(spec, shape)
    model = random_model(spec, cube)
    with tempfile.TemporaryDirectory() as directory:
        model.save(Path(directory) / "model.safetensors")
        cube.miso.predict(model)  # leaves the model in the cache
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    here = locations(geobox_of(cube), rows, columns, spec.location)
    bands = np.stack([cube[band.name].values for band in spec.bands])
    start = time.perf_counter()
    visual, located = plain_map(model, bands, here)
    plain = time.perf_counter() - start
    start = time.perf_counter()
    maps = cube.miso.predict(model, device="cpu", precision="float32").compute()
    fast = time.perf_counter() - start
    i, j = np.random.default_rng(0).integers(0, shape, (500, 2)).T
    points = {"x": maps.x.values[j], "y": maps.y.values[i]}
    at = cube.miso.predict_at(model, points, location=True, device="cpu", precision="float32").compute()
    pairs = ((maps.permafrost_probability, visual[0]), (at.permafrost_location_probability, located[0, i, j]))
    return plain, fast, max(float(np.abs(one.values - other).max()) for one, other in pairs)


def default_settings(preset: str) -> tuple[float, float]:
    """Map one chunk inside a large cube: pixels a second, and points asked a pixel."""
    spec = ModelSpec.preset(preset, tasks=(PERMAFROST,))
    stride = spec.windows.stride
    cube = noise(spec, (6 * stride, 6 * stride))
    model = random_model(spec, cube)
    chunks = (2 * stride, 2 * stride, 2 * stride)
    inner = {"y": slice(2 * stride, 4 * stride), "x": slice(2 * stride, 4 * stride)}
    maps = cube.chunk({"y": chunks, "x": chunks}).miso.predict(model, device="cpu", precision="float32").isel(inner)
    start = time.perf_counter()
    maps.permafrost_probability.compute()
    seconds = time.perf_counter() - start
    ramp = spec.windows.size - stride if spec.windows.ramp is None else spec.windows.ramp
    return 4 * stride**2 / seconds, ((stride + ramp) / stride) ** 2


def host(preset: str, size: int, rounds: int = 3, *, zeros: bool = False) -> dict[str, float]:
    """Map a block, with the network and with one that does nothing, or with this alone: nanoseconds a pixel of each, the least of some rounds."""
    spec = ModelSpec.preset(preset, tasks=(PERMAFROST, TAXONOMY))
    cube = noise(spec, (size, size))
    maps = cube.miso.predict(random_model(spec, cube), device="cpu", precision="float32")
    answers, project, forward = maps[["permafrost_probability", "taxonomy_probability"]], Miso.project, Miso.forward

    def least() -> float:
        times = []
        for _ in range(rounds + 1):  # the first loads the model
            start = time.perf_counter()
            answers.compute()
            times.append(time.perf_counter() - start)
        return round(min(times[1:]) / size**2 * 1e9)

    found = {} if zeros else {"network": least()}
    Miso.project = lambda self, inputs: {}
    nothing = torch.zeros(1, 1)
    Miso.forward = lambda self, cells, sample, points: {task.name: nothing.expand(len(points), task.outputs) for task in spec.tasks}
    found["zeros"] = least()
    Miso.project, Miso.forward = project, forward
    return found


def compiled(preset: str, rounds: int = 3) -> dict[str, float]:
    """Map a block as it is and compiled: nanoseconds a pixel of each, the seconds of the first call beyond a later one, and when they are won back."""
    spec = ModelSpec.preset(preset, tasks=(PERMAFROST, TAXONOMY))
    cube = noise(spec, (1024, 1024))
    model, times = random_model(spec, cube), {}
    for name, chosen in (("plain", False), ("compiled", True)):
        answers = cube.miso.predict(model, device="cpu", precision="float32", compile=chosen)[
            ["permafrost_probability", "taxonomy_probability"]
        ]
        times[name] = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            answers.compute()
            times[name].append(time.perf_counter() - start)
    plain, fast = (min(times[name][1:]) for name in ("plain", "compiled"))
    first = times["compiled"][0] - fast
    found = {name: round(seconds / 1024**2 * 1e9) for name, seconds in (("plain", plain), ("compiled", fast))}
    pays = 1024**2 * first / (plain - fast) / 1e6 if fast < plain else float("inf")
    return found | {
        "ratio": round(plain / fast, 2),
        "first_call_seconds": round(first, 1),
        "pays_from_million_pixels": round(pays, 1),
    }


def in_turns(preset: str, size: int, old: Path, turns: int = 3, *, zeros: bool = False) -> None:
    """Measure another checkout and this one in processes of their own, in turns, and print both and their ratio."""
    found: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
    for _ in range(turns):
        for name, root in (("old", old), ("new", Path(__file__).parents[1])):
            measured = f"print(json.dumps(predict.host({preset!r}, {size}, zeros={zeros})))"
            code = f"import json, predict, warnings; warnings.simplefilter('ignore'); {measured}"
            paths = os.pathsep.join(map(str, (root.resolve(), Path(__file__).parent)))
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": paths},
                capture_output=True,
                check=True,
                cwd=Path(__file__).parent,
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    least = {name: {kind: min(one[kind] for one in times) for kind in times[0]} for name, times in found.items()}
    ratios = {kind: round(least["old"][kind] / least["new"][kind], 2) for kind in least["old"]}
    print(f"{preset}, {size} x {size} pixels, nanoseconds a pixel, the least of {turns} turns; old, new, and their ratio")
    print(json.dumps({**least, "ratio": ratios}))


def golden(reference: Path) -> None:
    """Compute the full-size reference case, both tasks, and print the greatest differences."""
    place = importlib.util.spec_from_file_location("published", reference / "published.py")
    published = importlib.util.module_from_spec(place)
    place.loader.exec_module(published)
    expected = np.load(reference / "published_golden.npz")
    keys = json.loads((reference / "state_dict_keys.json").read_text())
    names = json.loads((reference / "constants.json").read_text())
    bands = np.concatenate(published.tile(375, 375))
    cube = xr.Dataset({name: (("y", "x"), band) for name, band in zip(names["sat_bands"] + names["cov_bands"], bands, strict=True)})
    cube = assign(cube, GeoBox((375, 375), Affine(10, 0, 200_005, 0, -10, 1_600_005), "EPSG:3338"))
    at = np.ix_(expected["rows"], expected["cols"])
    for task in ("permafrost", "taxonomy"):
        wanted = {key: shape for key, (shape, _) in keys[f"{task}_dual"].items() if not key.endswith(published.BUFFERS)}
        state = {key: torch.from_numpy(np.asarray(published.weight(key, tuple(shape)))) for key, shape in wanted.items()}
        maps = cube.miso.predict(Model.from_published(state, task), location=True, precision="float32").compute()
        for variable, key in ((f"{task}_probability", "blend"), (f"{task}_location_probability", "geo")):
            values = maps[variable].values.reshape(-1, 375, 375)[:, *at]
            difference = np.abs(np.moveaxis(values, 0, -1) - expected[f"{task}.{key}"])
            words = f"{np.isnan(difference).any(-1).sum()} of {difference[..., 0].size} pixels without imagery"
            print(f"golden {variable}: greatest difference {np.nanmax(difference):.1e}; {words}")


def main(preset: str, rows: int, reference: Path | None) -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    from query import peak, remaining  # not above: with --old, an older misoxr has other modules

    before = peak()
    plain, fast, difference = same_settings(preset, rows)
    size = 250 if preset != "miso-nano" else 62
    points = 2 * rows * size**2
    print(
        f"same settings, {points} points: plain {points / plain:.0f} points a second, misoxr {points / fast:.0f}, {plain / fast:.2f} times"
    )
    rate, asked = default_settings(preset)
    published = TILE_PIXELS / (TILE_CROPS * plain / (2 * rows)) * (size / 250) ** 2
    print(
        f"default settings: published at interval 2 {published:.0f} pixels a second, misoxr {rate:.0f} ({asked:.2f} points a pixel)"
    )
    with torch.device("meta"):
        arithmetic = 2 * remaining(Miso(ModelSpec.preset(preset, tasks=(PERMAFROST,))))
    top = max(before, peak())
    print(
        f"peak of a 4096 x 1024 x 1024 product {top / 1e9:.0f} GFLOP/s; share of it in queries and heads {rate * asked * arithmetic / top:.2f}"
    )
    if reference:
        golden(reference)
    line = {"speedup_same": round(plain / fast, 2), "speedup_default": round(rate / published, 2), "max_abs_diff": difference}
    print(json.dumps(line))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="miso-base")
    parser.add_argument("--rows", type=int, default=2, help="rows of two crops each")
    parser.add_argument("--golden", type=Path, help="folder of published.py and published_golden.npz")
    parser.add_argument("--host", action="store_true", help="what is done beside the network")
    parser.add_argument("--compile", action="store_true", help="with compile=True and without")
    parser.add_argument("--zeros", action="store_true", help="with the network that does nothing alone, for --host")
    parser.add_argument("--old", type=Path, help="another checkout, for --host")
    parser.add_argument("--size", type=int, default=1024, help="pixels of a side of the block, for --host")
    arguments = parser.parse_args()
    if arguments.host and arguments.old:
        in_turns(arguments.preset, arguments.size, arguments.old, zeros=arguments.zeros)
    elif arguments.compile:
        warnings.simplefilter("ignore")
        print(json.dumps(compiled(arguments.preset)))
    elif arguments.host:
        warnings.simplefilter("ignore")
        print(json.dumps(host(arguments.preset, arguments.size, zeros=arguments.zeros)))
    else:
        main(arguments.preset, arguments.rows, arguments.golden)
