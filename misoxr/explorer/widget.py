"""The widget of a map: its state, and answers to its page by custom messages."""

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from misoxr.errors import SpecError, did_you_mean
from misoxr.explorer.atlas import Atlas
from misoxr.explorer.page import script, style
from misoxr.explorer.workers import Workers

__all__ = ["MapWidget"]


class MapWidget(anywidget.AnyWidget):
    """A map in a notebook; :func:`misoxr.explorer.notebook.explore` makes it.

    Attributes
    ----------
    layer, other : str
        Names of the layer that is shown, and of the one that it is compared with.
    compare : {"off", "swipe", "side"}
        Whether two layers are compared, and how.
    opacity : float
        Of the layers, 0 to 1.
    clicked : dict
        What the last click told.

    Examples
    --------
    >>> view = maps.miso.explore(beside="permafrost_probability")
    >>> view.observe(lambda change: print(change.new["values"]), "clicked")
    """

    _esm = script()
    _css = style()
    about = traitlets.Dict().tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)
    other = traitlets.Unicode().tag(sync=True)
    compare = traitlets.Enum(["off", "swipe", "side"], "off").tag(sync=True)
    opacity = traitlets.Float(1.0, min=0.0, max=1.0).tag(sync=True)
    clicked = traitlets.Dict().tag(sync=True)

    def __init__(self, atlas: Atlas) -> None:
        self._atlas, self._workers = atlas, Workers()
        chosen = {name: atlas.about[name] for name in ("layer", "other", "compare")}
        super().__init__(about=atlas.about, **chosen)
        self.on_msg(self._receive)

    @traitlets.validate("layer", "other")
    def _known(self, proposal: Any) -> str:
        names, name = list(self._atlas.layers), str(proposal["value"])
        if name not in names:
            raise SpecError(f"There is no layer {name!r}; there are {names}.{did_you_mean(name, names)}")
        return name

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """Take a message of the page: a request with an ``id``, or the id of one to drop."""
        if not isinstance(content, dict) or not isinstance(content.get("id"), str):
            return
        if content.get("kind") == "drop":
            self._workers.drop(content["id"])
            return
        self._workers.submit(content["id"], lambda wanted: self._reply(content, wanted))

    def _reply(self, content: dict[str, Any], wanted: Callable[[], bool]) -> None:
        answer = self._atlas.answer(content, wanted)
        if answer is None:
            return
        words, image = answer
        if content["kind"] == "click" and "error" not in words:
            self.clicked = words
        self.send({"id": content["id"], **words}, [image] if image else None)
