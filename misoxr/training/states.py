"""What Lightning writes in the directory of a run: states, whole or not at all, and logs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from misoxr.errors import require
from misoxr.training.runs import FIT, keep, read

require("pytorch_lightning", "train")
from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger  # noqa: E402
from pytorch_lightning.plugins import TorchCheckpointIO  # noqa: E402

__all__ = ["WholeStates", "loggers", "states"]


class WholeStates(TorchCheckpointIO):
    """Writes states as the files of a run, where Lightning copies them over the last one. What it writes for itself stays as it is."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a state beside its place, with a checksum, and move it there."""
        if _is_state(path):
            keep(Path(path).parent, FIT, checkpoint)
        else:
            super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a state."""
        return dict(read(Path(path))) if _is_state(path) else super().load_checkpoint(path, *args, **options)

    def remove_checkpoint(self, path: Any) -> None:
        """Leave states there: each takes the place of the one before."""
        if not _is_state(path):
            super().remove_checkpoint(path)


def _is_state(path: Any) -> bool:
    return Path(path).name == FIT.state


def states(folder: Path) -> ModelCheckpoint:
    """Have the state written after each epoch."""
    return ModelCheckpoint(folder, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)


def loggers(directory: Path | None) -> Any:
    """CSV, and TensorBoard where it is installed."""
    if directory is None:
        return False
    # A run that is taken up has a version of its own, so that what was logged before stays.
    found: list[Any] = [CSVLogger(directory, name="logs")]
    with suppress(ModuleNotFoundError):
        found.append(TensorBoardLogger(str(directory), name="logs", version=found[0].version))
    return found
