"""Windows by measurement: what strides and tapers cost, what seams they leave, how far they are from dense overlap.

    python benchmarks/windows.py [--preset miso-nano] [--size SIZE] [--epochs EPOCHS]

On a SIMULATED landscape. ``miso-nano`` is trained on it first, so that the field is one that users get; ``miso-small`` and
``miso-base`` have random weights. All variants answer the same pixels of some rows. The last line is JSON.

- queries: answers a pixel, away from the dataset's edges. Almost all of the time goes there with ``miso-base``.
- cost: time a pixel, relative to the first variant, from the time of a window's encoding and of an answer, measured here.
- seam: mean step between neighbouring pixels where windows hand over to each other (the ramps, or the windows' borders),
  over the mean step elsewhere; 1 where nobody could tell.
- from dense: mean and greatest difference from windows at an eighth of their size.
"""

import argparse
import json
import time
import warnings

import numpy as np
import torch

from misoxr import simulate
from misoxr.cube.presets import spec_for
from misoxr.cube.scaling import Scaling
from misoxr.grid.windows import plan
from misoxr.model.checkpoint import Model
from misoxr.model.devices import inference
from misoxr.model.inference import answer
from misoxr.model.network import Miso
from misoxr.spec import WindowSpec


def variants(size: int, read: int) -> dict[str, WindowSpec]:
    """Name the windows to compare, by stride and ramp as shares of their size."""

    def window(stride: float, taper: str = "cosine", ramp: float | None = None) -> WindowSpec:
        return WindowSpec(size, read, round(stride * size), taper, ramp=None if ramp is None else round(ramp * size))

    return {
        "cosine, stride 3/4, ramp 1/4": window(0.75),
        "cosine, stride 1/2, ramp 1/2": window(0.5),
        "cosine, stride 3/4, ramp 1/8": window(0.75, ramp=1 / 8),
        "linear, stride 3/4, ramp 1/8": window(0.75, "linear", 1 / 8),
        "cosine, stride 3/4, ramp 1/16": window(0.75, ramp=1 / 16),
        "cosine, stride 3/4, ramp 1/32": window(0.75, ramp=1 / 32),
        "cosine, stride 5/8, ramp 1/16": window(0.625, ramp=1 / 16),
        "cosine, stride 1/2, ramp 1/16": window(0.5, ramp=1 / 16),
        "cosine, stride 7/8, ramp 1/8": window(0.875, ramp=1 / 8),
        "cosine, stride 7/8, ramp 1/16": window(0.875, ramp=1 / 16),
        "gaussian, stride 1/2 (published)": window(0.5, "gaussian"),
        "centre only, stride 3/4 (naive)": window(0.75, ramp=0),
        "centre only, stride 1/2 (naive)": window(0.5, ramp=0),
    }


def borders(windows: WindowSpec, length: int, first: int) -> np.ndarray:
    """Mark the steps between neighbouring pixels at which windows hand over, away from the dataset's edges."""
    axis = plan((length, 1), windows, (first, 0)).y
    near = np.zeros(length - 1, dtype=bool)
    for start in axis.starts[2:-2]:
        ramp = windows.size - windows.stride if windows.ramp is None else windows.ramp
        for edge in axis.support(start):
            inner = -1 if edge > start + windows.size / 2 else 1
            at = np.arange(round(edge) - 1, round(edge) - 1 + inner * ramp, inner) if windows.taper != "gaussian" else []
            near[[round(edge) - 1, *at]] = True
    return near


def main(preset: str, size: int, epochs: int) -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    land = simulate.landscape((size, size))
    points = simulate.points(land, 3000)
    points = points.drop(columns=[name for name in points if name not in ("permafrost", "taxonomy", "geometry")])
    spec = spec_for(preset, land, points)
    if preset == "miso-nano":
        model = land.miso.fit(spec, points, teacher=None, max_epochs=epochs, progress=False)
    else:
        torch.manual_seed(0)
        bands = np.stack([land[band.name].values.ravel()[::50] for band in spec.bands])
        network = Miso(spec)
        for name, parameter in network.named_parameters():
            if name.startswith("heads") and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=2.0 / parameter.shape[1] ** 0.5)
        model = Model(spec, Scaling.fit(spec, bands), network)
    window, read = spec.windows.size, spec.windows.input_size
    rows = np.sort(np.random.default_rng(0).choice(np.arange(window, size - window), 24, replace=False))
    y, x = np.meshgrid(land.y.values[rows], land.x.values, indexing="ij")

    def field(windows: WindowSpec) -> np.ndarray:
        found = land.miso.predict_at(model, {"x": x.ravel(), "y": y.ravel()}, windows=windows).compute()
        layers = np.concatenate([found.permafrost_probability.values[None], found.taxonomy_probability.values])
        return layers.reshape(-1, *x.shape)

    encode, query = _times(model)
    dense = field(WindowSpec(window, read, window // 8))
    first = round(float(land.x[0] - 10) / 20)
    table, base = {}, 0.0
    print(f"{preset}, windows of {window}, {size} x {size} pixels, SIMULATED; a window's encoding takes {encode * 1e3:.1f} ms,")
    print(f"an answer {query * 1e6:.1f} us. Steps and differences in probability, all classes.")
    print(f"{'':36s}{'queries':>8s}{'cost':>7s}{'seam':>7s}{'mean diff':>11s}{'max diff':>10s}")
    inner = slice(2 * window, size - 2 * window)
    for name, windows in variants(window, read).items():
        ramp = windows.size - windows.stride if windows.ramp is None else windows.ramp
        asked = (windows.size if windows.taper == "gaussian" else windows.stride + ramp) / windows.stride
        cost = asked**2 * query + encode / windows.stride**2
        base = base or cost
        found = field(windows)
        steps = np.abs(np.diff(found, axis=-1)).mean(axis=(0, 1))
        near = borders(windows, size, first)
        elsewhere = ~near
        elsewhere[: inner.start] = elsewhere[inner.stop :] = near[: inner.start] = near[inner.stop :] = False
        seam = steps[near].mean() / (steps[elsewhere].mean() if elsewhere.any() else np.nan)
        difference = np.abs(found - dense)[..., inner]
        row = {"queries": asked**2, "cost": cost / base, "seam": seam, "mean": difference.mean(), "max": difference.max()}
        table[name] = {key: round(float(value), 4) for key, value in row.items()}
        print(
            f"{name:36s}{asked**2:8.2f}{cost / base:7.2f}{seam:7.2f}{difference.mean():11.4f}{difference.max():10.3f}", flush=True
        )
    print(json.dumps(table))


def _times(model: Model) -> tuple[float, float]:
    """Measure seconds of a window's encoding and of an answer."""
    side, spec = model.spec.windows.input_size, model.spec
    rng = np.random.default_rng(0)
    crops = torch.from_numpy(rng.uniform(0.1, 0.3, (8, len(spec.bands), side, side)).astype("float32"))
    taken = []
    for count in (1, 2048):
        xy, times = torch.from_numpy(rng.uniform(-1, 1, (8, count, 2))), []

        def points(numbers: range, xy: torch.Tensor = xy) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            mine = xy[numbers.start : numbers.stop]
            return (
                torch.arange(len(mine)).repeat_interleave(mine.shape[1]),
                mine.flatten(0, 1),
                torch.ones(mine.shape[:2]).flatten(),
            )

        for _ in range(4):
            with inference("cpu", torch.float32) as run:
                start = time.perf_counter()
                for _ in answer(model, lambda numbers: crops[numbers.start : numbers.stop], points, 8, run):
                    pass
                times.append(time.perf_counter() - start)
        taken.append(min(times))
    return taken[0] / 8, (taken[1] - taken[0]) / (8 * 2047)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="miso-nano")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    main(arguments.preset, arguments.size, arguments.epochs)
