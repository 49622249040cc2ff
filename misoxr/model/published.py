"""Load weights: the authors' checkpoints, SatlasPretrain's Swin-V2, SimMIM's Swin, and encoders that were pre-trained here."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from misoxr.cube.scaling import ModalityScaling, Scaling
from misoxr.errors import CheckpointError, SpecError
from misoxr.model.encoder import Encoder
from misoxr.model.files import read_state
from misoxr.model.network import Miso
from misoxr.model.pretrained import Pretrained
from misoxr.spec import ALASKA, PERMAFROST, SENTINEL2, TAXONOMY, Band, Modality, ModelSpec, WindowSpec

__all__ = ["WINDOWS", "check_backbone", "load_backbone", "load_published"]

WINDOWS = WindowSpec(250, 256, 125, "gaussian", "dataset")
"""The published windows."""

_SAT = ("Red", "Green", "Blue", "RedEdge1", "RedEdge2", "RedEdge3", "NIR", "SWIR1", "SWIR2")
_SAT_BANDS = tuple(
    Band(name, "DN", aliases=(common.name,), valid_min=-32766.0) for name, common in zip(_SAT, SENTINEL2, strict=True)
)
_SAT_LIMITS = ((78.0, 3318.0), (158.0, 3411.0), (167.0, 3335.0), *((0.0, 8160.0),) * 6)
_COV = {  # name: (units, least, greatest): the authors' clip, standardise and min-max in one
    "aspct_4": ("degree", -30.5223, 390.849),
    "elevation_full_10m_3338": ("m", -18.2, 6161.18),
    "maxc_4": ("m-1", -0.0614807, 0.195017),
    "sl_4": ("degree", -0.279193, 84.0483),
    "spi": ("m2", -2328630.0, 36558200.0),
    "swi_10": ("1", 0.336838, 26.324),
    "tpi_4": ("1", -151.879, 135.04),
    "ppt_annual": ("mm", 101.981, 10187.9),
    "tmean_swi": ("degC month", -121.997, 67.3781),
    "tmin_january": ("degC", -39.7864, 1.4687),
}
_COV_BANDS = tuple(Band(name, units, valid_min=-1e38) for name, (units, _, _) in _COV.items())
_TASKS = {"permafrost": PERMAFROST, "taxonomy": TAXONOMY}

_DERIVED = re.compile(r"(relative_position_index|relative_coords_table|attn_mask)$")

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

_TORCHVISION: Rules = (
    (r"^patch_embed\.proj\.", "features.0.0."),
    (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^layers_(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^layers_(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"\.[qv]_bias$", ".qkv.bias"),
)
"""From names of timm's Swin-V2 to torchvision's."""

_SWIN: Rules = (
    (r"^layers_(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample."),
    (r"^layers_(\d)\.", r"layers.\1."),
)
"""From names of timm's Swin to the original ones, which merge patches at the end of a stage and not before the next."""

_MISO: Rules = (
    (r"^encoders\.(\w+)\.queries\.(\d)\.", r"\1_encoder.query_layers.\2."),
    (r"^encoders\.(\w+)\.norm\.", r"\1_encoder.norm."),
    (r"(query_layers\.\d)\.first\.", r"\1.mlp.layers.0."),
    (r"(query_layers\.\d)\.second\.", r"\1.mlp.layers.2."),
    (r"(query_layers\.\d)\.third\.", r"\1.mlp.layers.4."),
    (r"(query_layers\.\d)\.output\.", r"\1.output_layer."),
    (r"^mappers\.(\w+)\.", r"\1_mapper."),
    (r"^location_mapper\.", "geo_mapper."),
    (r"_mapper\.([02])\.", r"_mapper.0.layers.\1."),
    (r"_mapper\.3\.", "_mapper.1."),
    (r"^heads\.\w+\.", "out."),
    (r"^location_heads\.\w+\.", "geo_out."),
    (r"^location_encoder\.entry\.", "geo_encoder.layers.0.lin."),
    (r"^location_encoder\.blocks\.(\d)\.", lambda m: f"geo_encoder.layers.{int(m[1]) + 1}.lin."),
    (r"^location_encoder\.norms\.(\d)\.", lambda m: f"geo_encoder.layers.{int(m[1]) + 1}.layer_norm."),
    (r"^location_encoder\.exit\.", "geo_encoder.layers.4.lin."),
)
"""From names of :class:`Miso` to the authors', but for the backbones."""


def _apply(rules: Rules, key: str) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _published_name(key: str) -> str:
    """Return the authors' name of a key of :class:`Miso`."""
    match = re.match(r"encoders\.(sat|cov)\.backbone\.(.*)", key)
    if match is None:
        return _apply(_MISO, key)
    return f"{match[1]}_encoder.feature_extractor.{_apply(_TORCHVISION if match[1] == 'sat' else _SWIN, match[2])}"


def _fill(module: nn.Module, state: Mapping[str, Tensor], name_of: Callable[[str], str], unused: str, words: str) -> None:
    """Fill a module with weights of other names, strictly: every key used, every parameter filled, buffers as computed.

    Parameters
    ----------
    name_of : callable
        From a key of the module to its name in the state dict.
    unused : str
        Pattern of the names that play no part.
    words : str
        What the state dict is, for errors.
    """
    wanted = {key: name_of(key) for key in module.state_dict()}
    buffers = {name_of(key): buffer for key, buffer in module.named_buffers() if _DERIVED.search(key)}
    missing = sorted(set(wanted.values()) - state.keys())
    extra = sorted(key for key in state.keys() - set(wanted.values()) - buffers.keys() if not re.match(unused, key))
    filled, shapes = {}, []
    for key, parameter in module.state_dict().items():
        source = wanted[key]
        if source not in state:
            continue
        value = state[source]
        if key.endswith(("q_bias", "v_bias")) and len(value) == 3 * len(parameter):
            # Swin-V2 has no bias of the keys; the third that stands there is zeroed in use.
            value = value.chunk(3)[0 if key.endswith("q_bias") else 2]
        if value.shape != parameter.shape:
            shapes.append(f"{source} {tuple(state[source].shape)} instead of {tuple(parameter.shape)}")
        filled[key] = value.to(parameter.dtype)
    wrong = sorted(key for key in buffers.keys() & state.keys() if not _same(state[key], buffers[key]))
    broken = sorted({wanted[key] for key, value in filled.items() if not torch.isfinite(value).all()})
    problems = {"missing": missing, "not known": extra, "of another shape": sorted(set(shapes)), "not as computed": wrong}
    problems["not finite"] = broken
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
        raise CheckpointError(f"{words} does not fit. {listed}.")
    module.load_state_dict(filled)


def _some(keys: list[str], count: int = 8) -> str:
    return ", ".join(keys[:count]) + (f" and {len(keys) - count} more" if len(keys) > count else "")


def _same(found: Tensor, computed: Tensor) -> bool:
    return found.numel() == computed.numel() and torch.allclose(found.flatten().double(), computed.flatten().double(), atol=1e-6)


def load_published(
    source: str | os.PathLike[str] | Mapping[str, Any], task: Literal["permafrost", "taxonomy"]
) -> tuple[ModelSpec, Scaling, Miso]:
    """Read one of the authors' checkpoints; see :meth:`misoxr.Model.from_published`."""
    if task not in _TASKS:
        raise SpecError(f"Unknown task {task!r} of the published model; use one of {sorted(_TASKS)}.")
    state = read_state(source)
    visual = any(key.startswith(("sat_encoder.", "cov_encoder.", "out.")) for key in state)
    located = any(key.startswith("geo_") for key in state)
    if not (visual or located):
        words = "It looks like one of misoxr's own: read it with Model.load." if any("encoders." in key for key in state) else ""
        raise CheckpointError(f"The keys are not those of a MISO checkpoint; the first are {sorted(state)[:3]}. {words}".rstrip())
    base = ModelSpec.preset("miso-base", sat=_SAT_BANDS, cov=_COV_BANDS, tasks=(_TASKS[task],))
    spec = ModelSpec(
        name="miso-published" if visual and located else "miso-published-visual" if visual else "miso-published-location",
        modalities=base.modalities if visual else (),
        tasks=base.tasks,
        pixel_size=10.0,
        windows=WINDOWS,
        width=base.width,
        location=ALASKA if located else None,
        query="published",
    )
    with torch.random.fork_rng(devices=[]):
        network = Miso(spec)
    # The final norm and classifier of the backbone stand in the file and play no part.
    unused = r"sat_encoder\.feature_extractor\.(norm|head)\.(weight|bias)$"
    _fill(network, state, _published_name, unused, f"The checkpoint, as one of {task},")
    limits = {"sat": _SAT_LIMITS, "cov": tuple(limits for _, *limits in _COV.values())}
    return spec, Scaling({m.name: _between(limits[m.name]) for m in spec.modalities}), network


def _between(limits: Any) -> ModalityScaling:
    """Scale what lies between limits to 0..1."""
    lower, upper = (tuple(float(pair[at]) for pair in limits) for at in (0, 1))
    scale = tuple(high - low for low, high in zip(lower, upper, strict=True))
    return ModalityScaling(lower, upper, (False,) * len(lower), lower, scale)


def check_backbone(modality: Modality) -> None:
    """Refuse a backbone that no weights from elsewhere fit: all but Swin-V2 and Swin, of which ``swinv2_cr`` is another form."""
    name = modality.encoder.backbone
    if not name.startswith(("swin_", "swinv2_")) or name.startswith("swinv2_cr_"):
        raise SpecError(
            f"The backbone of {modality.name!r} is {name!r}, and pretrained weights are those of a Swin-V2 (SatlasPretrain) or a Swin "
            "(SimMIM); leave them out, or use a model with such backbones, such as 'miso-base'. Weights for any backbone come from ds.miso.pretrain."
        )


def load_backbone(
    encoder: Encoder,
    modality: Modality,
    source: str | os.PathLike[str] | Mapping[str, Any] | Pretrained,
    *,
    stem: bool | Literal["auto"] = "auto",
) -> bool:
    """Fill an encoder with weights of ``pretrain``, or its backbone with weights that were trained elsewhere.

    Parameters
    ----------
    encoder : Encoder
        With any backbone for a file of :func:`misoxr.training.pretrain.pretrain`, which also fills the queries and the norm. With a Swin-V2 of
        timm for SatlasPretrain's files (keys ``backbone.backbone.…`` in torchvision's names), with a Swin for SimMIM's (``model`` ->
        ``encoder.…``), whose tables of relative positions are resized where the window differs.
    modality : Modality
        Bands of the encoder.
    source : str, path, mapping or Pretrained
        As for :meth:`misoxr.Model.from_published`; or an encoder in hand.
    stem : bool or "auto"
        Whether the first layer, which reads the bands, is taken too. Satlas' bands are known, and go by name; SimMIM's are not,
        and must be as many as the encoder's. "auto" takes it where it fits. Files of ``pretrain`` always fill it.

    Returns
    -------
    bool
        Whether the stem was taken.

    Raises
    ------
    CheckpointError
        If a key is missing, not known or of another shape, or the stem is asked for and does not fit. If a file of ``pretrain`` is of other
        bands or another encoder.
    SpecError
        If the backbone is neither a Swin-V2 nor a Swin, or ``stem`` is False for a file of ``pretrain``.
    """
    own = source if isinstance(source, Pretrained) else None if isinstance(source, Mapping) else Pretrained.found(source)
    if own is not None:
        if stem is False:
            raise SpecError("stem is False, and weights of pretrain hold for its bands and scaling alone; leave stem at 'auto'.")
        own.check(modality)
        _fill(encoder, own.weights, str, "$^", f"The file of pretrain, as the encoder of {modality.name!r},")
        return True
    assert not isinstance(source, Pretrained)
    check_backbone(modality)
    state = read_state(source)
    if any(key.startswith("backbone.backbone.") for key in state):
        return _satlas(encoder, modality, state, stem)
    if any(key.startswith("encoder.") for key in state):
        return _simmim(encoder, state, stem)
    raise CheckpointError(
        f"The keys are neither SatlasPretrain's (backbone.backbone.…) nor SimMIM's (encoder.…); the first are {sorted(state)[:3]}."
    )


def _with_stem(encoder: Encoder, state: dict[str, Tensor], key: str, weight: Tensor | None, stem: bool | str, why: str) -> bool:
    """Put the stem's weight for the encoder's bands in the state dict, or the encoder's own where it is not to be taken."""
    own = encoder.backbone.patch_embed.proj.weight
    if stem and weight is not None and weight.shape == own.shape:
        state[key] = weight
        return True
    if stem is True:
        raise CheckpointError(f"The stem does not fit: {why}. Leave it out with stem=False.")
    state[key] = own.detach()
    bias = encoder.backbone.patch_embed.proj.bias
    if bias is not None:
        state[key.removesuffix("weight") + "bias"] = bias.detach()
    return False


def _satlas(encoder: Encoder, modality: Modality, state: dict[str, Tensor], stem: bool | str) -> bool:
    prefix, key = "backbone.backbone.", "features.0.0.weight"
    # Feature pyramids and heads of Satlas' tasks stand beside the backbone.
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    bands = [band.name for band in SENTINEL2]
    weight = None
    if key in state:
        bands = bands[: state[key].shape[1]]
        names = [next((n for n in (band.name, *band.aliases) if n in bands), None) for band in modality.bands]
        if None not in names and modality.channels == len(names):
            weight = state[key][:, [bands.index(str(name)) for name in names]]
    why = f"its bands are {bands}, the encoder's {[band.name for band in modality.bands]}"
    taken = _with_stem(encoder, state, key, weight, stem, why)
    _fill(encoder.backbone, state, lambda name: _apply(_TORCHVISION, name), r"(norm|head)\.", "The Satlas checkpoint")
    return taken


def _simmim(encoder: Encoder, state: dict[str, Tensor], stem: bool | str) -> bool:
    state = {name.removeprefix("encoder."): value for name, value in state.items()}
    tables = {_apply(_SWIN, key): value for key, value in encoder.backbone.state_dict().items() if key.endswith("bias_table")}
    resized = False
    for key, table in tables.items():
        if key in state and state[key].shape != table.shape and state[key].shape[1] == table.shape[1]:
            side = int(round(len(table) ** 0.5))
            state[key] = resize_rel_pos_bias_table(state[key].float(), ((side + 1) // 2,) * 2, table.shape)
            resized = True
    # Masks and indices belong to the window; those of another one are not ours to check.
    state = {key: value for key, value in state.items() if not (resized and _DERIVED.search(key))}
    key = "patch_embed.proj.weight"
    channels = state[key].shape[1] if key in state else 0
    why = f"it reads {channels} channels, the encoder {encoder.backbone.patch_embed.proj.in_channels}"
    taken = _with_stem(encoder, state, key, state.get(key), stem, why)
    _fill(encoder.backbone, state, lambda name: _apply(_SWIN, name), r"(norm|head|decoder)\.|mask_token$", "The SimMIM checkpoint")
    return taken
