"""What every view with the kernel in the loop has: it shows itself, hears its page, and leaves the form that is saved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from llm_lab.errors import LabError
from llm_lab.views.bundle import css

_REST = 0.005  # seconds between two states in which the kernel hears what the page says


@cache
def kernel_widget() -> type:
    """The base of the widgets. anywidget is imported when the first one is made."""
    import anywidget

    class KernelWidget(anywidget.AnyWidget):  # type: ignore[misc]
        _css = css() + css("export")

        def __init__(self, still: Callable[[], dict[str, Any]], **state: Any) -> None:
            super().__init__(**state)
            self._still = still
            self._handle: Any = None
            self._turn = 0  # of what is being written; a later turn ends an earlier one
            self._task: asyncio.Task[None] | None = None
            self._freezing = False
            self.on_msg(self._heard)

        def show(self, handle: Any = None) -> None:
            """Display it, in the place of `handle` where one is given."""
            from IPython.display import display

            made = super()._repr_mimebundle_()
            bundle, metadata = made if isinstance(made, tuple) else (made, {})
            # Where no widget can be shown (GitHub, an untrusted notebook) the HTML beside it is.
            bundle = {**(bundle or {}), **self._still()}
            if handle is None:
                self._handle = display(bundle, metadata=metadata, raw=True, display_id=True)
            else:
                handle.update(bundle, metadata=metadata, raw=True)
                self._handle = handle

        def _ipython_display_(self, **_: Any) -> None:
            self.show()

        def freeze(self) -> None:
            """Replace the output by its static and scripted form: a saved widget is an error message once its kernel is gone.

            What is being written is ended first.
            """
            if self._task is not None and not self._task.done():
                self._freezing = True
                self.halt()
            else:
                self._freeze()

        def _freeze(self) -> None:
            if self._handle is not None:
                self._handle.update(self._still(), raw=True)
                self._handle = None
            self.frozen()
            self.close()

        def _heard(self, _: Any, message: Any, buffers: Any) -> None:
            kind = message.get("kind") if isinstance(message, dict) else None
            if kind == "freeze":
                self.freeze()
            elif kind == "stop":
                self.halt()
            elif kind is not None:
                self.heard(kind, message)

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            """What the page says, by kind."""

        def drawn(self, state: Any) -> dict[str, Any] | None:
            """What the page is told of a state of what is being written; None for nothing."""

        def settled(self) -> None:
            """Make what was written part of the widget's state, for every view of it."""

        def halt(self) -> None:
            """End what is being written; what there is of it stays."""

        def frozen(self) -> None:
            """The page no longer asks for anything."""

        def go(self, id: Any, states: Iterator[Any]) -> None:
            """Write on the loop that the page's message came in by, so that its next one is heard meanwhile."""
            self._turn += 1
            writing = self._write(self._turn, id, states, self._task)
            try:
                self._task = asyncio.get_running_loop().create_task(writing)
            except RuntimeError:
                asyncio.run(writing)

        async def _write(self, turn: int, id: Any, states: Iterator[Any], before: asyncio.Task[None] | None) -> None:
            wrong = ""
            try:
                if before is not None and not before.done():
                    await asyncio.wait({before})
                for state in states if self._turn == turn else ():
                    if told := self.drawn(state):
                        self.send({"kind": "state", "id": id, **told})
                    await asyncio.sleep(_REST)
                    if self._turn != turn:
                        break
            except LabError as error:
                wrong = str(error)
            except Exception as error:  # whatever it is, the person at the page is told
                wrong = f"{type(error).__name__}: {error}"
            finally:
                states.close()  # type: ignore[attr-defined]  # a generator
            if self._turn != turn:
                return
            try:
                self.settled()
            except Exception as error:
                wrong = wrong or f"{type(error).__name__}: {error}"
            self.send({"kind": "error", "id": id, "text": wrong} if wrong else {"kind": "done", "id": id})
            if self._freezing:
                self._freeze()

    return KernelWidget
