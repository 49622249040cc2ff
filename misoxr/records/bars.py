"""Bars that show how far a call is: a widget in a notebook that has widgets, elsewhere one line."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm.std import tqdm

__all__ = ["Bar", "each", "spoken"]

Item = TypeVar("Item")

COUNTED = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"
TOLD = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"
"""What a bar shows; where the time left is told by who counts."""
UNCOUNTED = "{desc}"
"""What it shows while nothing can be counted yet."""
INTERVAL, SMOOTHING = 0.5, 0.05
"""Seconds between two looks at the least, and the weight of the last of them in the pace."""


class Bar:
    """One bar for a call: what it does now, how much of it is done, and how long that takes.

    The bar is there from the beginning of the context, and its time is that of the whole context. What cannot be counted is a stage in words.

    Parameters
    ----------
    name : str
        What works.
    unit : str
        What is counted, in the plural.
    shown : bool, optional
        Whether anything is shown.
    stage : str, optional
        What is done first.

    Examples
    --------
    >>> with Bar("to_zarr", "blocks", stage="planning") as bar:
    ...     bar.begin(2)
    ...     bar.update()
    ...     bar.update()
    """

    def __init__(self, name: str, unit: str, *, shown: bool = True, stage: str = "") -> None:
        self.name, self.unit, self.shown, self._stage = name, unit, shown, stage
        self._bar: Any = None
        self._start = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the bar itself behind: another process opens one of its own, where it is to show anything."""
        return {**self.__dict__, "_bar": None}

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is None:
            return
        if kind is None:
            self._settle()
        elif not self._bar.total:  # an error says enough; a bar that has counted stays, as it tells how far the call came
            self._bar.leave = False
        self.close()

    def open(self) -> None:
        """Show the bar."""
        if self.shown and self._bar is None:
            made, place = _class()
            self._bar = made(
                desc=self._words(),
                unit=self.unit,
                file=place,
                bar_format=UNCOUNTED,
                mininterval=INTERVAL,
                smoothing=SMOOTHING,
                leave=True,
            )

    def close(self) -> None:
        """Show no more of it here."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def hand_over(self) -> None:
        """Remove the bar, as another process shows it from here on."""
        if self._bar is not None:
            self._bar.leave = False
            self.close()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    def begin(self, total: int, done: int = 0, *, told: bool = False) -> None:
        """Count from here on; what was done before tells nothing of the pace. With ``told``, the caller tells the time left."""
        self._stage = ""
        if self._bar is not None:
            start = self._bar.start_t
            self._bar.bar_format = TOLD if told else COUNTED
            self._bar.set_description_str(f"{self._words()}: ", refresh=False)
            self._bar.reset(total)
            self._bar.n = self._bar.initial = self._bar.last_print_n = done
            self._bar.start_t = start
            self._bar.refresh()

    def update(self, count: int = 1) -> bool:
        """Count what is done, and return whether that is shown now."""
        return bool(self._bar is not None and self._bar.update(count))

    def reach(self, done: int, total: int) -> None:
        """Count up to what is done by now, whoever did it."""
        if self._bar is not None and self._bar.total != total:
            self.begin(total, done)
        elif self._bar is not None and self._bar.n != done:
            self._bar.update(done - self._bar.n)

    def stage(self, words: str = "") -> None:
        """Say what is done now."""
        self._stage = words
        if self._bar is not None:
            self._bar.set_description_str(self._words() + (": " if self._bar.total else ""))

    def tell(self, words: str, *, now: bool = True) -> None:
        """Say something behind the count, such as a loss."""
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=now)

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if self._bar is not None:
            self._bar.write(line)
            sys.stdout.flush()
        elif self.shown:
            print(line, flush=True)

    def end(self, words: str = "") -> None:
        """Say how it ended. What was counted was all, also where that is less than was thought."""
        self.open()
        self._stage = words
        self._settle()

    def _settle(self) -> None:
        if self._bar is None:
            return
        if self._bar.total and self._bar.n != self._bar.total:
            self._bar.total = self._bar.n
            if hasattr(self._bar, "container"):
                self._bar.container.children[1].max = self._bar.n
        self.stage(self._stage)

    def _words(self) -> str:
        return f"{self.name}, {self._stage}" if self._stage else self.name


def each(items: Iterable[Item], name: str, unit: str, *, shown: bool) -> Iterator[Item]:
    """Yield items, and show how many of them are done."""
    several = list(items)
    with Bar(name, unit, shown=shown) as bar:
        bar.begin(len(several))
        for item in several:
            yield item
            bar.update()


def spoken(seconds: float) -> str:
    """Return a time in words, in the unit that people would say."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 9.5 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _class() -> tuple[Any, Any]:
    """Return the kind of bar, and where it is written.

    A notebook prints what goes to stderr in red; so a line goes to stdout there, where there are no widgets.
    """
    if not _in_kernel():
        return tqdm, sys.stderr
    from tqdm import notebook  # with ipywidgets, where it is

    return (tqdm, sys.stdout) if getattr(notebook, "IProgress", None) is None else (notebook.tqdm, sys.stdout)


def _in_kernel() -> bool:
    """Return whether this code runs in a kernel of Jupyter."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
