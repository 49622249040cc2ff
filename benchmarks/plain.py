"""The plain published form: what the fast query and the windows of misoxr are measured and checked against.

Four whole MLPs a point and stage, at all points of a window at once, with the axes mixed as published (arXiv 2506.17302); the
location branch at every point; crops on a grid, averaged with the Gaussian window. Written from the paper's facts on the
weights of :class:`misoxr.model.network.Miso`.
"""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from misoxr.model.checkpoint import Model
from misoxr.model.encoder import Encoder
from misoxr.model.inference import activate
from misoxr.model.network import Miso
from misoxr.model.query import Query

__all__ = ["crop_points", "encode", "gaussian_window", "plain_answer", "plain_map", "plain_query"]


def plain_query(query: Query, feature: Tensor, points: Tensor) -> Tensor:
    """Answer one stage: feature (1, n, n, C), points (N, 2) of x and y in -1..1 -> (N, width)."""
    n = feature.shape[1]
    centres = -1 + (2 * torch.arange(n) + 1) / n
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    maps = torch.cat([feature, torch.stack([rows, columns], -1)[None]], -1).permute(0, 3, 1, 2)
    answers, shares = [], []
    for right in (-1, 1):
        for down in (-1, 1):
            near = points + torch.tensor([right, down]) / n + 1e-6
            near = near.clamp(-1 + 1e-6, 1 - 1e-6)
            cell = F.grid_sample(maps, near[None, None], mode="nearest", align_corners=False)[0, :, 0].T
            offset = (points - cell[:, -2:]) * n  # the cell's row from x, its column from y
            hidden = F.relu(query.first(torch.cat([cell[:, :-2], offset], -1)))
            answers.append(query.third(F.relu(query.second(hidden))))
            shares.append(1 / (offset.prod(-1).abs() + 1e-9))
    total = sum(shares)
    mean = sum(answer * (share / total)[:, None] for answer, share in zip(answers, shares, strict=True))
    return query.norm(query.output(mean))


def encode(encoder: Encoder, image: Tensor) -> list[Tensor]:
    """Encode an image (1, C, H, W) to the features of each stage, (1, n, n, C)."""
    features = encoder.backbone(image.contiguous(memory_format=torch.channels_last))
    return features if encoder.channels_last else [feature.permute(0, 2, 3, 1) for feature in features]


def plain_answer(network: Miso, features: Mapping[str, list[Tensor]], points: Tensor) -> dict[str, Tensor]:
    """Answer at points (N, 2) of a window from its features: logits by task."""
    visual = []
    for name, encoder in network.encoders.items():
        stages = zip(encoder.queries, features[name], strict=True)
        visual.append(network.mappers[name](encoder.norm(sum(plain_query(query, feature, points) for query, feature in stages))))
    mapped = network.visual_mapper(sum(visual))
    return {name: head(mapped) for name, head in network.heads.items()}


def crop_points(size: int) -> Tensor:
    """Return the pixel centres (size * size, 2) of a crop, x and y in -1..1, row by row."""
    centres = -1 + (2 * torch.arange(size) + 1) / size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def gaussian_window(size: int) -> np.ndarray:
    """Return the published window: a unit impulse through SciPy's Gaussian filter with its reflecting border."""
    impulse = np.zeros((size, size))
    impulse[size // 2, size // 2] = 1
    return gaussian_filter(impulse, sigma=size / 4)


def plain_map(model: Model, bands: np.ndarray, location: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map raw bands (band, y, x) by the published procedure.

    Parameters
    ----------
    location : array
        (y, x, 2) scaled locations of the pixels.

    Returns
    -------
    (array, array)
        Probabilities (output, y, x) from imagery, averaged with the window, and from location, averaged without.
    """
    windows, network = model.spec.windows, model.network
    size, stride = windows.size, windows.stride
    inputs = {name: torch.from_numpy(values[None]) for name, values in model.scaling.apply(model.spec, bands).items()}
    outputs = sum(task.outputs for task in model.spec.tasks)
    blend, located = (np.zeros((outputs, *bands.shape[1:])) for _ in range(2))
    weight, count = (np.zeros(bands.shape[1:]) for _ in range(2))
    points, window = crop_points(size), gaussian_window(size)
    for top in range(0, bands.shape[1] - size + 1, stride):
        for left in range(0, bands.shape[2] - size + 1, stride):
            cut = np.s_[..., top : top + size, left : left + size]
            with torch.no_grad():
                resized = {
                    name: F.interpolate(values[cut], size=(windows.input_size,) * 2, mode="bilinear", align_corners=False)
                    for name, values in inputs.items()
                }
                features = {name: encode(encoder, resized[name]) for name, encoder in network.encoders.items()}
                visual = activate(model.spec, plain_answer(network, features, points)).reshape(-1, size, size)
                here = torch.from_numpy(location[top : top + size, left : left + size].reshape(-1, 2)).float()
                geo = activate(model.spec, network.locate(here)).reshape(-1, size, size)
            blend[cut] += visual.numpy() * window
            located[cut] += geo.numpy()
            weight[cut] += window
            count[cut] += 1
    return blend / weight, located / count
