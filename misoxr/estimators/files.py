"""Files of fitted scikit-learn estimators: skops, with a list of the types that are loaded.

A file is skops' zip archive of a mapping of estimators, with one member more, ``misoxr.json``. Its members are stored, not
compressed, and each stands for one array alone, so what is read takes no more memory than the file is long.
"""

import io
import json
import sys
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from misoxr.errors import CheckpointError, SpecError, note, require
from misoxr.estimators.indices import check_indices, parts
from misoxr.model.files import ESTIMATOR_HEADER, ESTIMATOR_SCHEMA, is_intact, sealed

__all__ = ["ALLOWED", "pack", "unpack"]

_BEGIN = (1980, 1, 1, 0, 0, 0)
"""The time of all members: a file's bytes depend on what is in it alone."""

_NAMES = {
    "functools": "partial",
    "numpy": "dtype",
    "scipy._lib.array_api_compat.numpy._aliases": "asarray",
    "scipy.interpolate._bsplines": "BSpline",
    "scipy.sparse._csr": "csr_matrix csr_array",
    "scipy.sparse._csc": "csc_matrix csc_array",
    "sklearn._loss.loss": "HalfTweedieLoss HalfTweedieLossIdentity",
    "sklearn.compose._column_transformer": "_RemainderColsList",
    "sklearn.calibration": "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "sklearn.feature_selection._univariate_selection": "chi2 f_classif f_regression r_regression",
    "sklearn.gaussian_process._gpc": "_BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels": "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation Matern PairwiseKernel Product "
    "RBF RationalQuadratic Sum WhiteKernel",
    "sklearn.metrics._classification": "accuracy_score balanced_accuracy_score brier_score_loss f1_score log_loss matthews_corrcoef "
    "precision_score recall_score",
    "sklearn.metrics._dist_metrics": " ".join(
        f"{name}Distance{bits}"
        for name in (
            "BrayCurtis",
            "Canberra",
            "Chebyshev",
            "Euclidean",
            "Hamming",
            "Mahalanobis",
            "Manhattan",
            "Minkowski",
            "SEuclidean",
        )
        for bits in ("", 32, 64)
    ),
    "sklearn.metrics._ranking": "average_precision_score roc_auc_score",
    "sklearn.metrics._regression": "explained_variance_score max_error mean_absolute_error mean_squared_error mean_squared_log_error "
    "median_absolute_error r2_score root_mean_squared_error",
    "sklearn.metrics._scorer": "_CurveScorer _PassthroughScorer _Scorer",
    "sklearn.model_selection._split": "GroupKFold KFold LeaveOneGroupOut LeaveOneOut RepeatedKFold RepeatedStratifiedKFold ShuffleSplit "
    "StratifiedGroupKFold StratifiedKFold StratifiedShuffleSplit",
    "sklearn.multiclass": "_ConstantPredictor",
    "sklearn.neighbors._ball_tree": "BallTree BallTree32 BallTree64",
    "sklearn.neighbors._kd_tree": "KDTree KDTree32 KDTree64",
    "sklearn.neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
    "sklearn.tree._tree": "Tree",
    "sklearn.utils._bunch": "Bunch",
    "sklearn.utils._metadata_requests": "MetadataRequest MethodMetadataRequest",
    "sklearn.utils.validation": "check_array",
}
ALLOWED = frozenset(f"{module}.{name}" for module, names in _NAMES.items() for name in names.split())
"""Types that are loaded beside those that skops trusts of itself: scikit-learn's estimators, NumPy's arrays and Python's values."""


def pack(header: Mapping[str, Any], estimators: Mapping[str, Any]) -> bytes:
    """Return the file of fitted estimators: the same bytes in every process.

    Parameters
    ----------
    header : mapping
        JSON values beside the estimators.
    estimators : mapping of str to object
        The estimators.

    Raises
    ------
    SpecError
        If one holds what cannot be written: a function of no module, or state that skops does not know.
    """
    for part in parts(dict(estimators)):
        if isinstance(part, FunctionType) and not _is_found(part):
            raise SpecError(
                f"The estimator holds the function {part.__qualname__!r}, which no other process finds; write it in a module, and fit again."
            )
    try:
        dumped = _members(_skops().dumps(dict(estimators)))
        schema = json.loads(dumped.pop(ESTIMATOR_SCHEMA))
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise SpecError(f"skops cannot write the estimator {list(estimators.values())[0]!r}: {error}.") from error
    members = {ESTIMATOR_HEADER: json.dumps(header, sort_keys=True).encode()}
    # skops names objects by where they lie in memory, and shares those that are one: both differ in every process.
    for number, state in enumerate(_states(schema)):
        state.pop("__id__", None)
        if "file" in state:
            old = state["file"]
            state["file"] = f"{number}{PurePath(old).suffix}"
            members[state["file"]] = _tidy(old, dumped[old])
        if state["__class__"] in ("KDTree", "BallTree"):  # how often they were asked, which answering changes
            for counter in state["content"]["content"][7:11]:
                counter["content"] = "0"
    members[ESTIMATOR_SCHEMA] = json.dumps(schema, separators=(",", ":")).encode()
    return sealed(_stored(members))


def unpack(data: bytes, name: str, trusted: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and estimators of a file, which may come from anywhere; nothing is unpickled.

    Parameters
    ----------
    data : bytes
        The file.
    name : str
        What errors call it.
    trusted : collection of str
        Types that are loaded beside :data:`ALLOWED`, as "module.name".

    Raises
    ------
    CheckpointError
        If the file is damaged, not one of misoxr, or holds a type that is not allowed.
    """
    skops = _skops()
    try:
        if not is_intact(data):
            raise ValueError("its checksum differs from its content")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = _checked(archive, len(data))
            if ESTIMATOR_HEADER not in names:
                raise CheckpointError(
                    f"{name} is a skops file without {ESTIMATOR_HEADER}, which tells the bands of its estimators; save what ds.miso.fit returns."
                )
            header, schema = json.loads(archive.read(ESTIMATOR_HEADER)), archive.read(ESTIMATOR_SCHEMA)
            _check_schema(json.loads(schema), archive)
        # The types stand in the schema; without the arrays it is quickly asked for them.
        types = skops.get_untrusted_types(data=_stored({**dict.fromkeys(names, b""), ESTIMATOR_SCHEMA: schema}))
        unknown = sorted(set(types) - ALLOWED - set(trusted))
        if unknown:
            raise CheckpointError(
                f"{name} holds {unknown}, which are no types of scikit-learn that are loaded from any file. If you know who wrote it, "
                f"give misoxr.load({name!r}, trusted={unknown})."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn on its own version, once a tree
            estimators = skops.loads(data, trusted=types)
        if not isinstance(header, dict) or not isinstance(estimators, dict):
            raise ValueError("it holds no mapping of estimators")
        check_indices(estimators)
    except CheckpointError:
        raise
    except Exception as error:
        # Damaged bytes lead skops, NumPy and scikit-learn anywhere.
        why = str(error).partition("\n")[0][:300]
        raise CheckpointError(
            f"{name} ({len(data)} bytes) is damaged ({type(error).__name__}: {why}); copy or save it again."
        ) from error
    _warn_of_version(header, name)
    return header, estimators


@cache
def _skops() -> ModuleType:
    """Import skops: it imports all of scikit-learn, of which one module imports torch (seconds, 0.7 GB), which is left out."""
    heavy = "sklearn.externals.array_api_compat.torch"
    absent = heavy not in sys.modules and "torch" not in sys.modules
    if absent:
        sys.modules[heavy] = None  # type: ignore[assignment]
    try:
        return require("skops.io", "train")
    finally:
        if absent:
            del sys.modules[heavy]


def _is_found(function: FunctionType) -> bool:
    """Whether another process finds a function by its module and name."""
    known = getattr(sys.modules.get(function.__module__), function.__qualname__, None)
    return known is function and function.__module__ != "__main__"


def _warn_of_version(header: Mapping[str, Any], name: str) -> None:
    here, there = require("sklearn", "train").__version__, header.get("sklearn_version")
    if there != here:
        note(f"{name} was written with scikit-learn {there}, and {here} may answer otherwise; fit again, or install that version.")


def _tidy(name: str, content: bytes) -> bytes:
    """Return a member without what is left to chance: times, compression, and the bytes between the fields of nodes."""
    if name.endswith(".npz"):
        return _stored(_members(content))
    if name.endswith(".npy"):
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.dtype.names:
            clean, file = np.zeros(array.shape, array.dtype), io.BytesIO()
            for field in array.dtype.names:
                clean[field] = array[field]
            np.save(file, clean)
            return file.getvalue()
    return content


def _stored(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of uncompressed members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _BEGIN), content)
    return file.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    """Read an archive of our own making."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _checked(archive: zipfile.ZipFile, size: int) -> list[str]:
    """Return the names of an archive's members, which take no more memory than the archive has bytes."""
    found = archive.infolist()
    names = [member.filename for member in found]
    if any(member.compress_type != zipfile.ZIP_STORED for member in found) or sum(member.file_size for member in found) > size:
        raise ValueError("its members are compressed, and those of misoxr are not")
    if len(set(names)) < len(names):
        raise ValueError("a member stands twice")
    return names


def _states(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield what skops says of every object, in the order of the schema."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "__loader__" in value:
                yield value
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)


def _check_schema(schema: Any, archive: zipfile.ZipFile) -> None:
    """Refuse a schema that shares objects, which a small file could share a million times, and arrays that are not as long as they say."""
    used = set()
    for state in _states(schema):
        if "__id__" in state:
            raise ValueError("its objects have numbers, and those of misoxr have none")
        if "file" not in state:
            continue
        name = state["file"]
        if name in used:
            raise ValueError(f"two objects have one file {name!r}")
        used.add(name)
        if name.endswith(".npz"):
            content = archive.read(name)
            with zipfile.ZipFile(io.BytesIO(content)) as inner:
                for part in _checked(inner, len(content)):
                    _check_array(inner, part)
        elif not name.endswith(".bin"):
            _check_array(archive, name)


def _check_array(archive: zipfile.ZipFile, name: str) -> None:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(name) as file:
        shape, _, dtype = read[np.lib.format.read_magic(file)](file)
        left = archive.getinfo(name).file_size - file.tell()
    size = dtype.itemsize
    for length in shape:
        size *= length
    if dtype.hasobject or not dtype.itemsize or min(shape, default=0) < 0 or size != left:
        raise ValueError(f"an array of {shape} {dtype} in {left} bytes")
