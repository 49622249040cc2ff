"""The four query layers and the whole answer of miso-base: plain published form against the fast one, side by side.

    python benchmarks/query.py [--side 250] [--preset miso-base] [--rounds 1]

Both run on random weights and one window of one task, in the published mode of the query, in rounds, after a first call, and the
median of the rounds counts. The plain form takes all points of the window at once with torch's default threads and answers the
location branch too; the fast one goes by blocks, one thread a core.
The last line is JSON: the speed-up of the whole answer, the fast form's share of the machine's matrix-product peak (on the
arithmetic that remains, measured in the same run), and the greatest difference of their logits.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from plain import crop_points, encode, plain_answer, plain_query
from torch import Tensor

from misoxr.model.devices import Run, inference
from misoxr.model.inference import block_size
from misoxr.model.network import Miso
from misoxr.model.query import neighbours
from misoxr.spec import PERMAFROST, ModelSpec


def seconds(*functions: Callable[[], object], rounds: int = 5) -> list[float]:
    """Time functions in rounds, after a first call of each, and return the median of each."""
    taken: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + 1):
        for function, times in zip(functions, taken, strict=True):
            start = time.perf_counter()
            function()
            if number:
                times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in taken]


def peak() -> float:
    """Measure a 4096 x 1024 x 1024 product of float32: operations a second, the best of ten, with all cores."""
    one, other = torch.randn(4096, 1024), torch.randn(1024, 1024)
    best = np.inf
    for _ in range(10):
        start = time.perf_counter()
        one @ other
        best = min(best, time.perf_counter() - start)
    return 2 * 4096 * 1024 * 1024 / best


def remaining(network: Miso, query_only: bool = False) -> int:
    """Count the multiply-adds a point that remain after the algebra."""
    total = 0
    for encoder in network.encoders.values():
        for query in encoder.queries:
            first, second, third = query.first, query.second, query.third
            total += (
                4 * (2 * first.out_features + second.in_features * second.out_features) + third.in_features * third.out_features
            )
    if query_only:
        return total
    rest = [*network.mappers.values(), network.visual_mapper, *network.heads.values()]
    linear = [layer for part in rest for layer in part if isinstance(layer, torch.nn.Linear)]
    return total + sum(layer.in_features * layer.out_features for layer in linear)


def blocks(points: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Cut points in blocks, with their window's number."""
    return list(zip(torch.zeros(len(points), dtype=torch.long).split(size), points.split(size), strict=True))


def main(preset: str, side: int, rounds: int) -> None:
    """Measure and print."""
    torch.manual_seed(0)
    spec = replace(ModelSpec.preset(preset, tasks=(PERMAFROST,)), query="published")
    network = Miso(spec).eval().requires_grad_(False)
    shape = (spec.windows.input_size,) * 2
    images = {m.name: torch.randn(1, m.channels, *shape) for m in spec.modalities}
    points = crop_points(side).double()
    count = len(points)
    with torch.inference_mode():
        features = {name: encode(encoder, images[name]) for name, encoder in network.encoders.items()}
        cells = network.project(images)
    size = block_size(network, "cpu")
    print(f"{preset}, {count} points, blocks of {size}, {torch.get_num_threads()} threads")
    print(f"{'':24s}{'plain':>12s}{'fast':>12s}{'ratio':>8s}{'max diff':>10s}   (us a point)")

    def fast(run: Run, function: Callable[[tuple[Tensor, Tensor]], Tensor]) -> Tensor:
        return torch.cat(list(run(function, blocks(points, size))))

    def row(name: str, plain: Callable[[], Tensor], quick: Callable[[tuple[Tensor, Tensor]], Tensor]) -> tuple[float, float, float]:
        def slow() -> Tensor:
            with torch.inference_mode():
                return plain()

        def whole() -> Tensor:
            with inference("cpu", torch.float32) as run:
                return fast(run, quick)

        difference = float((slow() - whole()).abs().max())
        one, other = seconds(slow, whole, rounds=rounds)
        print(f"{name:24s}{one / count * 1e6:12.1f}{other / count * 1e6:12.1f}{one / other:8.2f}{difference:10.1e}")
        return one, other, difference

    name, encoder = next(iter(network.encoders.items()))
    for stage, query in enumerate(encoder.queries):
        feature, cell = features[name][stage], cells[name][stage]
        n = feature.shape[1]
        row(
            f"stage {stage + 1} ({n} x {n} cells)",
            lambda query=query, feature=feature: plain_query(query, feature, points.float()),
            lambda block, query=query, cell=cell, n=n: query(cell, neighbours(block[1], n, n, "published")),
        )
    task = spec.tasks[0].name

    def with_location() -> Tensor:
        network.locate(points.float())  # the published form answers it always
        return plain_answer(network, features, points.float())[task]

    before = peak()
    slow, quick, difference = row("the whole answer", with_location, lambda block: network(cells, *block)[task])
    top = max(before, peak())
    share = 2 * remaining(network) * count / quick / top
    print(f"fast: {count / quick:.0f} points a second; plain: {count / slow:.0f}")
    print(
        f"peak of a 4096 x 1024 x 1024 product: {top / 1e9:.0f} GFLOP/s; {remaining(network) / 1e6:.1f} M multiply-adds a point remain"
    )
    print(json.dumps({"speedup": round(slow / quick, 2), "peak_share": round(share, 3), "max_abs_diff": difference}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="miso-base")
    parser.add_argument("--side", type=int, default=250, help="pixels of the window's side, each of which is asked")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.preset, arguments.side, arguments.rounds)
