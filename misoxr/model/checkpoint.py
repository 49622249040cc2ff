"""A trained model and its file: safetensors, with specification, scaling and training record in the header."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from misoxr.cube.scaling import Scaling
from misoxr.errors import CheckpointError, SpecError, note
from misoxr.model.calibration import Calibration, prevalence_bias
from misoxr.model.conformal import Conformal, Method, with_scores
from misoxr.model.files import check_tensors, fetch, holds_estimators, put, with_header
from misoxr.model.inputs import Inputs
from misoxr.model.network import Miso
from misoxr.model.pretrained import holds_encoder
from misoxr.paths import cache
from misoxr.spec import ModelSpec
from misoxr.spec.build import build
from misoxr.spec.standardisation import Standardisation

__all__ = ["Address", "Model", "cached_at", "forget", "resolve"]

_KEY = "misoxr"

_SPARE = 2**27
"""Weights that a backbone may build and drop again, beside those in the file: the largest preset's has 88 million."""
_LAYERS = 10_000
"""Weights and buffers, each of a layer, that a network has at the most; the deepest of timm have a few thousand."""
_DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_)
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class _Header:
    """What stands beside the weights, as JSON."""

    spec: ModelSpec
    scaling: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    standardisation: Mapping[str, Any] = field(default_factory=dict)
    conformal: Mapping[str, Any] = field(default_factory=dict)
    checksum: str = ""


@dataclass(frozen=True)
class Address:
    """Where a model lies, and the hash of its bytes: all of it that a Dask graph carries."""

    uri: str
    sha256: str

    def __dask_tokenize__(self) -> str:
        """What a graph does depends on the model, and not on where a copy of it lies."""
        return self.sha256


def cached_at(sha256: str) -> Path:
    """Return where the local cache keeps a model of this hash."""
    return cache("models") / f"{sha256}.safetensors"


@dataclass(repr=False)
class Model:
    """A network with everything that prediction needs.

    Attributes
    ----------
    spec : ModelSpec
        What the model is.
    scaling : Scaling
        Bands to network inputs.
    network : Miso
        The weights. Not to be changed once the model was hashed, saved or used.
    record : mapping
        How the model was trained: settings, package version, and of each epoch the means of its training losses ("training") and what validation
        found ("validation").
    calibration : mapping of str to Calibration
        By task, how logits become probabilities that hold; of the visual head alone.
    standardisation : mapping of str to Standardisation
        By task, how the labels of a regression were learnt; answers come in the labels' units.
    conformal : Conformal or None
        What is known of its errors, for ``predict(model, coverage=…)``.

    Examples
    --------
    >>> model = misoxr.Model.load("model.safetensors")
    >>> local = model.with_prevalence(permafrost=0.3)
    >>> local.save("local.safetensors")
    """

    spec: ModelSpec
    scaling: Scaling
    network: Miso
    record: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    standardisation: Mapping[str, Standardisation] = field(default_factory=dict)
    conformal: Conformal | None = None

    def __post_init__(self) -> None:
        """Put the network in evaluation mode, and leave it there: dropout and stochastic depth are for training alone."""
        self.network.eval()

    def __repr__(self) -> str:
        """What it reads and answers, in a line."""
        count = sum(parameter.numel() for parameter in self.network.parameters())
        return f"<misoxr.Model {self.spec.summary()}; {count:,} parameters>"

    def _repr_html_(self) -> str:
        """Show in a notebook what it reads and answers, how it was trained, and where it comes from."""
        # Pictures stand on a higher floor than models, so they are looked up by name, as pandas does.
        return str(import_module("misoxr.reprs.models").network(self))

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses of the training by epoch, and mark the epoch that was kept.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        SpecError
            If the record has no losses, as of published checkpoints.

        Examples
        --------
        >>> axes = model.plot()
        """
        return import_module("misoxr.plot.training").curve(self, ax)

    @cached_property
    def inputs(self) -> Inputs:
        """Raw windows to network inputs, on the network's device."""
        return Inputs(self.spec, self.scaling).to(next(self.network.parameters()).device)

    @cached_property
    def _bytes(self) -> bytes:
        header = {"spec": self.spec.to_dict(), "scaling": self.scaling.to_dict(), "record": dict(self.record)}
        if self.calibration:
            header["calibration"] = {name: found.to_dict() for name, found in self.calibration.items()}
        if self.standardisation:
            header["standardisation"] = {name: found.to_dict() for name, found in self.standardisation.items()}
        if self.conformal is not None:
            header["conformal"] = self.conformal.to_dict()
        state = {key: value.detach().cpu().contiguous() for key, value in self.network.state_dict().items()}
        return with_header(serialise, state, _KEY, header)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the checkpoint's bytes."""
        return hashlib.sha256(self._bytes).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the checkpoint's bytes, as :meth:`save` writes them."""
        return self._bytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint to a path or fsspec URL; a local file appears only when it is complete."""
        put(path, self._bytes, ".safetensors")

    @classmethod
    def load(cls, uri: str | os.PathLike[str], *, sha256: str | None = None) -> Self:
        """Read a checkpoint from a path or URL (http(s), s3, ...).

        Parameters
        ----------
        uri : str or path
            Where the file lies.
        sha256 : str, optional
            The hash it must have.

        Raises
        ------
        CheckpointError
            If the file is missing, truncated, not one of misoxr, or belongs to another specification.
        """
        data = fetch(uri)
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256:
            raise CheckpointError(f"The checkpoint {uri} has changed: its SHA-256 is {found}, expected {sha256}.")
        return cls.from_bytes(data, os.fspath(uri))

    @classmethod
    def from_published(
        cls, source: str | os.PathLike[str] | Mapping[str, Any], task: Literal["permafrost", "taxonomy"] = "permafrost"
    ) -> Self:
        """Read a checkpoint that the authors' code saved (``best_model.pth``), exactly.

        The model answers as the published one does: its bands in raw counts and physical units, named as in the authors'
        configuration (Sentinel-2 also by STAC common names), its scaling, windows, Gaussian weights, and its query with the
        axes mixed, which is not continuous.

        Parameters
        ----------
        source : str, path or mapping
            Path or URL (http(s)://, s3://, hf://) of a ``.pth`` or ``.safetensors`` file, or the state dict; with or without a
            "module." prefix. The configurations ``visual_geo_dual``, ``visual_only`` and ``geo_only`` are recognised by their keys.
        task : {"permafrost", "taxonomy"}
            What the checkpoint was trained for.

        Raises
        ------
        CheckpointError
            If a key is missing, not known or of another shape, or a derived buffer is not as computed; the error names them.

        Notes
        -----
        The limits of the covariates are the authors'. Their rasters were resampled by cubic convolution, which overshoots at steps: slope goes
        down to -0.28 degrees and aspect up to 390, and the mean stream power index is negative. Covariates that are resampled otherwise stay
        within their natural ranges, and differ from the authors' beside steps. The units are those of the authors' tools: ``spi`` is in m2,
        ``tpi_4`` is standardised (unit 1), and ``tmean_swi`` is in degC month.
        """
        from misoxr.model.published import load_published

        spec, scaling, network = load_published(source, task)
        return cls(spec, scaling, network, {"source": "published checkpoint of arXiv 2506.17302"})

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "") -> Self:
        """Build a model from a checkpoint's bytes; ``name`` stands in errors."""
        text, state = _parse(data, name)
        check_tensors(data, text, name)
        try:
            header = build(_Header, json.loads(text))
            spec: ModelSpec = header.spec
            scaling = Scaling.from_dict(header.scaling, spec)
            calibration = {task: Calibration.from_dict(found, spec.task(task)) for task, found in header.calibration.items()}
            learnt_as = {task: Standardisation.from_dict(found, spec.task(task)) for task, found in header.standardisation.items()}
            conformal = Conformal.from_dict(header.conformal, spec) if header.conformal else None
            with torch.device("meta"), _Undrawn(), _bounded(sum(value.numel() for value in state.values()) + _SPARE):
                plan = Miso(spec)  # without memory: what the header asks for is compared with the file before it is built
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"The header of checkpoint {name} cannot be read: {error}") from error
        _compare(plan.state_dict(), state, name)
        _try(plan, spec, name)
        with _Undrawn():
            network = Miso(spec)
        network.load_state_dict(state)
        model = cls(spec, scaling, network, header.record, calibration, learnt_as, conformal)
        model.__dict__.update(sha256=hashlib.sha256(data).hexdigest(), _bytes=data)
        return model

    def with_prevalence(self, **shares: float | Mapping[str, float]) -> Self:
        """Return the model corrected for how common classes are where it is applied.

        Parameters
        ----------
        **shares
            By task, the share of class 1 (binary), or a mapping or Series of every class to its share (multiclass).

        Raises
        ------
        SpecError
            If a task is not known, the model's record does not tell what shares it was trained with, or shares are not valid; or the model
            has calibration scores of the task (:meth:`with_conformal`), which are of probabilities that have not moved.

        Notes
        -----
        Where the model has members, the logits of each move, and the answer is the mean of the probabilities that they then have.

        References
        ----------
        Saerens et al. 2002: the logits move by the logarithm of wanted over assumed shares. Temperatures are kept.
        """
        calibration = dict(self.calibration)
        for name, wanted in shares.items():
            task = self.spec.task(name)
            if self.conformal is not None and name in self.conformal.tasks:
                raise SpecError(
                    f"The model has calibration scores of {name!r}, which do not fit probabilities of another prevalence; correct the model as it "
                    'was before with_conformal. Sets of with_conformal(scores, by="class") hold for any prevalence as they are.'
                )
            known = self.record.get("prevalence")
            assumed = known.get(name) if isinstance(known, Mapping) else None
            if assumed is None:
                raise SpecError(
                    f"The model's record does not tell what prevalence of {name!r} it was trained with; it cannot be corrected."
                )
            before = calibration.get(name, Calibration())
            calibration[name] = replace(before, bias=prevalence_bias(task, assumed, wanted))
        return replace(self, calibration=calibration)

    def with_conformal(self, scores: Any, name: str | None = None, by: Any = None, method: Method = "plain") -> Self:
        """Return the model with what a cross-validation tells of its errors; see :func:`misoxr.uncertainty.conformal.with_conformal`.

        ``predict(model, coverage=0.9)`` then adds sets and intervals. They stand in the model's file.
        """
        return with_scores(self, scores, name, by, method)

    def address(self) -> Address:
        """Leave a content-addressed copy in the local cache, and return its address."""
        path = cached_at(self.sha256)
        there = path.exists()
        if not there or path.read_bytes() != self._bytes:
            if there:
                note(f"The cached checkpoint {path} is damaged, and is written again.")
            self.save(path)
        return Address(str(path), self.sha256)


def _parse(data: bytes, name: str) -> tuple[str, dict[str, torch.Tensor]]:
    """Return misoxr's header, as text, and the weights."""
    if holds_estimators(data):
        raise CheckpointError(f"{name} holds fitted estimators, and no network; read it with misoxr.load.")
    try:
        state = parse(data)
    except (SafetensorError, KeyError) as error:  # a key: safetensors knows more kinds of numbers than torch
        raise CheckpointError(
            f"The checkpoint {name} ({len(data)} bytes) is truncated or no safetensors file ({error}); copy or save it again. "
            "The authors' own files are read with Model.from_published."
        ) from error
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    if holds_encoder(data):
        raise CheckpointError(
            f"{name} holds an encoder that ds.miso.pretrain wrote, and no model; begin a training with it: fit(pretrained={{modality: {name!r}}})."
        )
    if _KEY not in metadata:
        raise CheckpointError(f"The checkpoint {name} is a safetensors file without a misoxr header; was it saved with Model.save?")
    return str(metadata[_KEY]), state


class _Undrawn(TorchFunctionMode):
    """Weights that are filled next are not drawn: that would take most of the time, and numbers of the user's."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Refuse a layer without weights, and the first one beyond ``most`` weights or ``_LAYERS``, before more is built."""
    thread, layers, weights = threading.get_ident(), 0, 0

    def count(_: Any, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal layers, weights
        if tensor is None or threading.get_ident() != thread:
            return
        layers, weights = layers + 1, weights + tensor.numel()
        if not tensor.numel() or weights > most or layers > _LAYERS:
            raise SpecError(
                f"The network has {layers} tensors with {weights:,} weights and is not complete, and {name} {tuple(tensor.shape)}; "
                "that is no network of the weights in the file."
            )

    hooks = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _compare(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], name: str) -> None:
    """Compare names, shapes and kinds of weights strictly; the error names what does not fit."""
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"The checkpoint {name} belongs to another specification: missing {missing}, not known {extra}, of another shape {shapes}."
        )
    for key, value in state.items():
        if value.dtype != wanted[key].dtype and not {value.dtype, wanted[key].dtype} <= set(_PRECISIONS):
            raise CheckpointError(
                f"The checkpoint {name} holds {key} as {value.dtype} instead of {wanted[key].dtype}; save it again."
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(
                f"The checkpoint {name} holds values of {key} that are not finite; it is damaged, or training failed."
            )


def _try(plan: Miso, spec: ModelSpec, name: str) -> None:
    """Read a window with the network that has no memory: a backbone that does not take the header's windows is refused here."""
    windows = {m.name: torch.zeros(1, m.channels, plan.side, plan.side, device="meta") for m in spec.modalities}
    try:
        with torch.device("meta"):
            plan.to("meta").eval().project(windows)
    except NotImplementedError:
        pass  # a backbone may look at its values, and here are none
    except (RuntimeError, TypeError, ValueError, ArithmeticError, AssertionError, LookupError, AttributeError) as error:
        if "meta tensors" not in str(error):
            raise CheckpointError(
                f"The network of checkpoint {name} cannot read windows of {plan.side} pixels ({error}); its header contradicts itself."
            ) from error


_LOADING = threading.Lock()
_CACHED = 6 * 2**30
"""Bytes of weights that a process keeps loaded: seven of ``miso-base``, thousands of ``miso-nano``."""
_LOADED: dict[tuple[Address, str, torch.dtype, bool], Model] = {}
"""Loaded models, the one that was used last at the end."""


def resolve(address: Address, device: str, precision: torch.dtype = torch.float32, *, compiled: bool = False) -> Model:
    """Return the model at an address on a device, loaded once per process; bfloat16 is mixed with weights in float32."""
    key = address, device, torch.float64 if precision == torch.float64 else torch.float32, compiled
    with _LOADING:
        model = _LOADED.pop(key) if key in _LOADED else _load(*key)
        _LOADED[key] = model
        while sum(map(_weight, _LOADED.values())) > _CACHED and len(_LOADED) > 1:
            del _LOADED[next(iter(_LOADED))]
    return model


def forget(model: Model) -> None:
    """Remove a model from this process and from the local cache."""
    address = model.address()
    with _LOADING:
        for key in [key for key in _LOADED if key[0] == address]:
            del _LOADED[key]
    Path(address.uri).unlink(missing_ok=True)


def _weight(model: Model) -> int:
    return sum(parameter.nbytes for parameter in model.network.parameters())


def _load(address: Address, device: str, precision: torch.dtype, compiled: bool) -> Model:
    uri, cached = address.uri, cached_at(address.sha256)
    if "://" not in uri and not os.path.exists(uri) and cached.exists():
        uri = str(cached)  # on another machine than the client's
    model = Model.load(uri, sha256=address.sha256)
    del model.__dict__["_bytes"]  # the file's bytes would stay beside the weights
    model.network.requires_grad_(False).to(device, precision)
    model.inputs.to(device)
    if compiled:
        model.network.compile(dynamic=True)
        model.network.locate = torch.compile(model.network.locate, dynamic=True)  # type: ignore[method-assign]
    return model
