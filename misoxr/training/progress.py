"""What is shown while Lightning trains: a bar of all steps, with epoch, losses and the time left."""

import time
from typing import Any

from misoxr.errors import require
from misoxr.records.bars import Bar

require("pytorch_lightning", "train")
import pytorch_lightning as lightning  # noqa: E402

__all__ = ["StepsShown"]

INTERVAL = 0.5
"""Seconds between two looks at the loss: on a GPU, to look is to wait for it."""


class StepsShown(lightning.Callback):
    """Counts steps in a bar. Of several devices, each a process of its own, the first one shows it."""

    def __init__(self, bar: Bar, steps: int) -> None:
        self.bar, self.steps = bar, steps
        self.epochs, self.loss, self.looked = 0, float("nan"), 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Begin to count, where a run that is taken up had stopped."""
        if trainer.is_global_zero:
            self.bar.open()
            self.epochs = int(trainer.max_epochs or 0)
            self.bar.begin(self.steps * self.epochs, trainer.global_step)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a step."""
        now = time.monotonic()
        if now - self.looked >= INTERVAL:
            self.looked, self.loss = now, float(outputs["loss"])
            self.bar.tell(self._words(trainer, pl_module), now=False)
        self.bar.update()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Tell what validation found."""
        self.bar.tell(self._words(trainer, pl_module))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Leave the bar to who made it; one of a process of its own ends with it."""
        if trainer.num_devices > 1:
            self.bar.end()
            self.bar.close()

    def _words(self, trainer: lightning.Trainer, loop: Any) -> str:
        found = f"epoch {trainer.current_epoch + 1}/{self.epochs}, loss {self.loss:.3g}"
        return f"{found}, validation {loop.history[-1]['loss']:.3g}" if loop.history else found
