"""What every view with the kernel in the loop has: it shows itself, hears its page, and leaves the form that is saved."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llm_lab.views.bundle import css


@cache
def kernel_widget() -> type:
    """The base of the widgets. anywidget is imported when the first one is made."""
    import anywidget

    class KernelWidget(anywidget.AnyWidget):  # type: ignore[misc]
        _css = css()

        def __init__(self, still: Callable[[], dict[str, Any]], **state: Any) -> None:
            super().__init__(**state)
            self._still = still
            self._handle: Any = None
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
            """Replace the output by its static and scripted form: a saved widget is an error message once its kernel is gone."""
            if self._handle is not None:
                self._handle.update(self._still(), raw=True)
                self._handle = None
            self.close()

        def _heard(self, _: Any, message: Any, buffers: Any) -> None:
            kind = message.get("kind") if isinstance(message, dict) else None
            if kind == "freeze":
                self.freeze()
            elif kind is not None:
                self.heard(kind, message)

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            """What the page says, by kind."""

    return KernelWidget
