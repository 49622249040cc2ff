"""Networks and fitted estimators in a notebook: what they read and answer, how they were trained, and where they come from."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyproj import CRS
from pyproj.exceptions import CRSError

from misoxr.model.conformal import Conformal
from misoxr.plot.history import History
from misoxr.reprs.cards import HTML, card, chips, code, fold, full, joined, line, pairs, short, table
from misoxr.reprs.curves import curve
from misoxr.spec import Modality, ModelSpec, Task

if TYPE_CHECKING:
    from misoxr.cube.scaling import ModalityScaling, Scaling
    from misoxr.estimators.embedded import EmbeddedModel
    from misoxr.estimators.pixel_model import PixelModel
    from misoxr.model.checkpoint import Model

__all__ = ["embedded", "network", "pixels"]

QUICK = 5_000_000
"""Weights that are hashed for a look at the model; of larger ones ``model.sha256`` tells."""
COVERAGES = (0.8, 0.9, 0.95)
DEEP = 3
"""Mappings and lists within each other that are shown of a record."""
BANDS = 40
"""Bands of a modality that are named."""


def network(model: "Model") -> HTML:
    """Return a network as a card."""
    spec, record = model.spec, model.record
    count = sum(parameter.numel() for parameter in model.network.parameters())
    history = History.of(record)
    known = model.__dict__.get("sha256") or (model.sha256 if count <= QUICK else None)
    members = f", {spec.members} members" if spec.members > 1 else ""
    title = f"{spec.name}: {_answers(spec)}; {count:,} parameters{members}"
    drawn = curve(history)
    training = [drawn or line("The record has no losses.", soft=True), pairs(_training(record, history))]
    parts = [
        fold(f"Inputs: {len(spec.bands)} bands, pixels of {spec.pixel_size:g} m", _inputs(spec, model.scaling), open=True),
        fold("Outputs", _outputs(spec), open=True),
        fold(f"Windows of {spec.windows.size} pixels", pairs(_windows(spec))),
        fold(f"Training{f': {history.epochs} epochs' if history.epochs else ''}", *training, open=bool(drawn)),
        fold("Calibration, and what is known of its errors", _calibration(model), *_conformal(model.conformal, spec)),
        fold("Provenance", pairs(_provenance(record, known or "see model.sha256"))),
    ]
    return card("Model", title, *parts, simulated=bool(record.get("simulated")))


def pixels(model: "PixelModel") -> HTML:
    """Return fitted estimators as a card."""
    spec, record = model.spec, model.record
    features = {
        "pixel": "the pixel's values",
        "neighbourhood": "the pixel and its neighbourhood",
        "coordinates": "x and y alone",
    }
    estimators = table(("task", "estimator"), [(name, code(type(one).__name__)) for name, one in model.estimators.items()])
    title = f"{short(model.title, 80)}: {_answers(spec)}, from {features.get(model.features, model.features)}"
    reads = [] if model.features == "coordinates" else [_read(spec, model.scaling)]
    parts = [
        fold(f"Inputs: {len(spec.bands) if reads else 0} bands, pixels of {spec.pixel_size:g} m", *reads, open=bool(reads)),
        fold("Outputs", _outputs(spec), estimators, open=True),
        fold("What is known of its errors", *_conformal(model.conformal, spec)),
        fold("Provenance", pairs(_provenance(record, model.__dict__.get("sha256", "see model.sha256")))),
    ]
    return card("PixelModel", title, *parts, simulated=bool(record.get("simulated")))


def embedded(model: "EmbeddedModel") -> HTML:
    """Return estimators of an embedding, with their networks, as a card."""
    spec, record = model.spec, model.record
    title = f"{short(record.get('estimator', ''), 80)}: {_answers(spec)}, from {spec.width} features of {spec.name}"
    rows = [
        (number, f"{sum(one.numel() for one in pair.network.network.parameters()):,}", pair.estimators.record.get("points", ""))
        for number, pair in enumerate(model.pairs)
    ]
    networks = table(("network", "parameters", "points of its estimators"), rows, right=(1, 2))
    parts = [
        fold(
            f"Inputs: {len(spec.bands)} bands, pixels of {spec.pixel_size:g} m",
            _inputs(spec, model.pairs[0].network.scaling),
            open=True,
        ),
        fold("Outputs", _outputs(spec), open=True),
        fold("Networks", networks),
        fold("What is known of its errors", *_conformal(model.conformal, spec)),
        fold("Provenance", pairs(_provenance(record, model.__dict__.get("sha256", "see model.sha256")))),
    ]
    return card("EmbeddedModel", title, *parts, simulated=bool(record.get("simulated")))


def _answers(spec: ModelSpec) -> str:
    return f"{len(spec.bands)} bands → {', '.join(short(task.name, 40) for task in spec.tasks[:8])}"


# ---- what it reads and answers


def _inputs(spec: ModelSpec, scaling: "Scaling | None") -> HTML:
    """Return the bands of each modality, with their units and how they are scaled."""
    rows: list[tuple[Any, ...]] = []
    for modality in spec.modalities:
        encoder = modality.encoder.backbone
        needed = "required" if modality.required else "may be missing"
        rows.append((code(modality.name), _bands(modality), _scaled(modality, scaling), f"{short(encoder, 40)}, {needed}"))
    if spec.location is not None:
        rows.append(
            (
                code("location"),
                f"x and y in {short(_name_of(spec.location.crs), 40)}",
                f"{spec.location.encoding} encoding",
                "its own branch",
            )
        )
    return table(("modality", "bands (units)", "scaling", "encoder"), rows, wide=(1,))


def _read(spec: ModelSpec, scaling: "Scaling | None") -> HTML:
    """Return the bands that estimators see, with their units and how they are scaled; of a network there is nothing in them."""
    rows = [(_bands(modality), _scaled(modality, scaling)) for modality in spec.modalities]
    return table(("bands (units)", "scaling"), rows, wide=(0,))


def _bands(modality: Modality) -> Any:
    words = [("sine and cosine of " if band.kind == "circular" else "") + band.name for band in modality.bands]
    return chips(
        [f"{word} ({band.units})" if band.units != "1" else word for word, band in zip(words, modality.bands, strict=True)],
        most=BANDS,
    )


def _name_of(crs: str) -> str:
    """Return the name of a CRS instead of its text, which may be long."""
    try:
        return str(CRS(crs).name)
    except CRSError:
        return crs


def _scaled(modality: Modality, scaling: "Scaling | None") -> str:
    if scaling is None:
        return "as they are"
    mine: ModalityScaling | None = scaling.modalities.get(modality.name)
    if mine is None:
        return "as they are"
    logs = sum(mine.log)
    words = ["clipped, standardised" if not modality.is_vector else "unit vector, as it is"]
    words += [f"{logs} of {len(mine.log)} inputs as logarithms"] if logs else []
    words += ["whitened"] if mine.whiten is not None else []
    return ", ".join(words)


def _outputs(spec: ModelSpec) -> HTML:
    rows = [(code(task.name), task.kind, short(task.long_name, 80), _classes(task)) for task in spec.tasks]
    return table(("task", "kind", "what it is", "classes, or units"), rows, wide=(2, 3))


def _classes(task: Task) -> Any:
    depth = f" down to {task.depth:g} m" if task.depth else ""
    return joined([chips(task.classes, task.colors), depth]) if task.classes else task.units


def _windows(spec: ModelSpec) -> list[tuple[str, Any]]:
    windows = spec.windows
    resized = f", resized to {windows.input_size}" if windows.input_size != windows.size else ""
    return [
        ("size", f"{windows.size} pixels ({windows.size * spec.pixel_size:g} m){resized}"),
        ("stride", f"{windows.stride} pixels, {windows.taper} taper"),
        ("test-time augmentation", windows.tta),
        ("embedding", f"{spec.width} wide"),
        ("query", spec.query),
    ]


# ---- how it was trained, and what is known of its errors


def _training(record: Mapping[str, Any], history: History) -> list[tuple[str, Any]]:
    teacher = record.get("teacher")
    names = teacher.get("estimators") if isinstance(teacher, Mapping) else None
    taught = _teachers(names) if isinstance(names, Sequence) and not isinstance(names, str) else ""
    kept = "" if history.best is None else f"{history.best + 1} of {history.epochs}"
    validation = record.get("validation_points")
    return [
        ("in a line", full(record.get("summary", ""))),
        ("points", _count(record.get("points"))),
        ("validation points", _count(validation) if validation else ""),
        ("teacher", taught),
        ("epoch that was kept", kept),
        ("best validation", _best(history)),
        ("seed", short(record.get("seed", ""))),
    ]


def _teachers(estimators: Sequence[Any]) -> str:
    found = [one.get("name") or one.get("estimator") for one in estimators if isinstance(one, Mapping)]
    return ", ".join(short(name, 80) for name in found[:6] if name)


def _best(history: History) -> str:
    if history.best is None or history.best >= len(history.validation):
        return ""
    loss = f"loss {history.validation[history.best]:.3f}"
    return f"{loss}, accuracy {history.accuracy[history.best]:.3f}" if history.best < len(history.accuracy) else loss


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else ""


def _calibration(model: "Model") -> HTML:
    rows = []
    for task in model.spec.tasks:
        found = model.calibration.get(task.name)
        if task.name in model.standardisation:
            rows.append((code(task.name), "–", "learnt standardised; answers are in the labels' units"))
        elif found is None:
            rows.append((code(task.name), "–", "not calibrated"))
        else:
            rows.append((code(task.name), f"{found.temperature:.3f}", "moved to another prevalence" if found.bias else ""))
    return table(("task", "temperature", ""), rows, right=(1,))


def _conformal(errors: Conformal | None, spec: ModelSpec) -> list[HTML]:
    """Return the calibration points of sets and intervals, and the quantiles that they give."""
    if errors is None:
        hint = [code("model.with_conformal(scores)"), "of a cross-validation adds prediction sets and intervals."]
        return [line(*hint, soft=True)]
    rows = []
    for name, one in list(errors.tasks.items())[:12]:
        task = spec.task(name)
        groups = errors.groups_of(task)
        by = {"": "all points", "class": f"each of {len(groups)} classes", "region": f"each of {len(groups)} regions"}
        quantiles = [f"{one.all.quantile(coverage):.3g}" for coverage in COVERAGES]
        rows.append((code(name), by[errors.by_of(task)], f"{one.all.points:,.0f}", *quantiles))
    headers = ("task", "coverage holds for", "calibration points", *(f"quantile at {coverage:.0%}" for coverage in COVERAGES))
    cv = errors.about.get("cv")
    folds = [line(f"Folds: {short(cv)}", soft=True)] if cv else []
    note = f"Method {errors.method}. Quantiles are of all points together: of 1 less the true class's probability, or of absolute errors."
    return [table(headers, rows, right=range(2, len(headers))), *folds, line(note, soft=True)]


def _provenance(record: Mapping[str, Any], sha256: str) -> list[tuple[str, Any]]:
    """Return where a model comes from: what its record says in short values, and not what stands elsewhere on the card."""
    elsewhere = {
        "summary",
        "recipe",
        "training",
        "validation",
        "points",
        "validation_points",
        "seed",
        "best_epoch",
        "teacher",
        "simulated",
    }
    rows: list[tuple[str, Any]] = [("SHA-256", code(sha256))]
    for key, value in list(record.items())[:40]:
        if key in elsewhere or value in (None, "", {}, [], ()):
            continue
        rows.append((short(str(key).replace("_", " "), 40), full(_flat(value), 300)))
    return rows


def _flat(value: Any, depth: int = 0) -> str:
    """Return nested JSON in a line; what lies deep in it is left out."""
    if depth > DEEP:
        return "…"
    if isinstance(value, Mapping):
        return "; ".join(f"{short(key, 40)}: {_flat(one, depth + 1)}" for key, one in list(value.items())[:12])
    if isinstance(value, list | tuple):
        return ", ".join(_flat(one, depth + 1) for one in value[:12])
    return f"{value:.4g}" if isinstance(value, float) else short(value, 200)
