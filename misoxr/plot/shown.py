"""A figure that a notebook shows once, whether it is the last expression of a cell or not."""

from misoxr.errors import require

require("matplotlib", "plot")
import matplotlib  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

__all__ = ["ShownOnce"]


class ShownOnce(Figure):
    """A figure of pyplot, which ``pyplot.show()`` shows in scripts.

    In a notebook, the inline backend shows every figure that is open at the end of a cell, and IPython also shows the cell's last expression.
    A figure that IPython shows is closed here first, so it is shown once. One that a cell leaves in a variable stays open, and is shown, too.
    """

    def _ipython_display_(self) -> None:
        """Close the figure where the inline backend would show it again, and leave it to IPython to draw it."""
        if "inline" in matplotlib.get_backend().lower():
            from matplotlib import pyplot

            pyplot.close(self)
        raise NotImplementedError  # IPython then looks for another way to show it: the backend's own
