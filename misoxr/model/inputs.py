"""From raw bands to network inputs on the device that the network is on: augmentation, sine and cosine, scaling."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from misoxr.cube.scaling import Scaling, channels
from misoxr.spec import Modality, ModelSpec

__all__ = ["Inputs", "moved"]


class _Scaled(nn.Module):
    """The scaling of one modality, as :meth:`misoxr.cube.scaling.ModalityScaling.apply` has it for arrays."""

    lower: Tensor
    upper: Tensor
    shift: Tensor
    scale: Tensor
    whiten: Tensor | None

    def __init__(self, modality: Modality, scaling: Scaling) -> None:
        super().__init__()
        one = scaling.modalities[modality.name]
        for name in ("lower", "upper", "shift", "scale"):
            self.register_buffer(name, torch.tensor(getattr(one, name), dtype=torch.float32)[:, None, None])
        # Whitening also divides by the scale, for each pass over windows takes its time.
        whiten = None if one.whiten is None else torch.tensor(np.asarray(one.whiten) / np.asarray(one.scale), dtype=torch.float32)
        self.register_buffer("whiten", whiten)
        self.logs = _runs(one.log)

    def forward(self, values: Tensor) -> Tensor:
        """Scale channels (B, channel, y, x) in place, 0 where missing: NaN or infinite. Those that are whitened are returned in new memory."""
        values.add_(values, alpha=0)  # 0 times infinity is NaN
        torch.maximum(values, self.lower, out=values)  # three times faster than clamp
        torch.minimum(values, self.upper, out=values)
        for first, stop in self.logs:
            _take_log(values[:, first:stop])
        values.sub_(self.shift)
        if self.whiten is None:
            return values.div_(self.scale).nan_to_num_(nan=0.0)
        values.nan_to_num_(nan=0.0)
        # A product for each window: one for all would round as their number has it.
        whitened = torch.bmm(self.whiten.expand(len(values), -1, -1), values.flatten(2))
        return whitened.view(values.shape)


def _take_log(values: Tensor) -> None:
    """Take the logarithm in place: on a CPU by NumPy, as in training, which has it in a third of the time."""
    if values.device.type != "cpu":
        values.log_()
        return
    array = values.numpy()
    with np.errstate(invalid="ignore"):
        np.log(array, out=array)


def _runs(chosen: tuple[bool, ...]) -> list[tuple[int, int]]:
    """Return first and last + 1 of the channels that are chosen and follow each other."""
    edges = [index for index in range(len(chosen) + 1) if (index and chosen[index - 1]) != (index < len(chosen) and chosen[index])]
    return list(zip(edges[::2], edges[1::2], strict=True))


class Inputs(nn.Module):
    """The inputs of a model: raw windows to scaled channels.

    Parameters
    ----------
    spec : ModelSpec
        Modalities and bands.
    scaling : Scaling
        What training fitted.
    """

    def __init__(self, spec: ModelSpec, scaling: Scaling) -> None:
        super().__init__()
        self.modalities = spec.modalities
        self.circular = [index for index, band in enumerate(spec.bands) if band.kind == "circular"]
        self.scaled = nn.ModuleList(_Scaled(modality, scaling) for modality in spec.modalities)

    def forward(self, windows: Tensor, mirror: bool = False, quarters: int = 0) -> dict[str, Tensor]:
        """Augment and scale raw windows (B, band, y, x), NaN where missing: (B, channel, y, x) by modality.

        Windows are mirrored east to west, then rotated anticlockwise by quarters, and with them the directions of circular bands.
        They are written to: what is scaled lies where they were.
        """
        # Of values far from 0, bfloat16 would keep three digits.
        with torch.autocast(windows.device.type, enabled=False):
            windows = self._augmented(windows, mirror, quarters)
            found, at = {}, 0
            for modality, scaled in zip(self.modalities, self.scaled, strict=True):
                found[modality.name] = scaled(_channels(modality, windows[:, at : at + len(modality.bands)]))
                at += len(modality.bands)
        return found

    def _augmented(self, windows: Tensor, mirror: bool, quarters: int) -> Tensor:
        out = windows.flip(-1) if mirror else windows
        out = torch.rot90(out, quarters, (-2, -1)) if quarters % 4 else out
        if out is windows or not self.circular:
            return out
        out = out.contiguous()  # flip and rot90 have copied or will here, so that the raw windows stay as they are
        for index in self.circular:  # one by one: a list of numbers would be sent to the device
            angle = out[:, index]
            # Degrees clockwise from north: a quarter anticlockwise takes 90 away.
            turned = ((360.0 - angle if mirror else angle) - 90.0 * quarters).remainder(360.0)
            out[:, index] = torch.where(angle >= 0, turned, angle)
        return out


def _channels(modality: Modality, bands: Tensor) -> Tensor:
    """Expand raw bands (B, band, ...) to channels: circular bands become sine and cosine, 0 and 0 where negative, NaN where infinite."""
    if modality.channels == len(modality.bands):
        return bands
    if bands.device.type == "cpu" and bands.dtype == torch.float32 and not bands.requires_grad:
        # By NumPy, in two thirds of the time.
        return torch.from_numpy(channels(modality, bands.numpy().swapaxes(0, 1))).transpose(0, 1)
    parts = []
    for band, values in zip(modality.bands, bands.unbind(1), strict=True):
        if band.kind == "circular":
            angle = values * (math.pi / 180)
            flat = (values < 0) & values.isfinite()
            parts += [torch.where(flat, 0.0, part) for part in (angle.sin(), angle.cos())]
        else:
            parts.append(values)
    return torch.stack(parts, 1)


def moved(points: Tensor, mirror: bool, quarters: int) -> Tensor:
    """Move points (N, [x, y]) in -1..1 of a window, y downwards, as :class:`Inputs` moves its pixels."""
    if not mirror and quarters % 4 == 0:
        return points
    x, y = points.unbind(-1)
    x = -x if mirror else x
    for _ in range(quarters % 4):
        x, y = y, -x
    return torch.stack([x, y], -1)
