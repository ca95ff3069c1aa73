"""What all results are."""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue, LabError
from llm_lab.registry import load

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class Result:
    """Base of all results; compared by identity."""

    renderer: ClassVar[str]  # "module:function" that turns this result into a mimebundle
    code: str = ""  # the Python line that makes it
    actions: dict[str, Callable[..., Any]] = field(default_factory=dict, repr=False)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return load(self.renderer)(self)

    def __str__(self) -> str:
        return load(self.renderer)(self)["text/plain"]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def save_html(self, path: str | Path) -> Path:
        """Write the view as one HTML page that needs nothing else; returns its path."""
        path = Path(path)
        if not path.parent.is_dir():
            raise BadValue(f"path: the folder {str(path.parent)!r} does not exist; make it first or choose another")
        body = self._repr_mimebundle_()["text/html"]
        path.write_text(
            '<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(type(self).__name__)}</title>"
            "<style>:root{color-scheme:light dark}body{font:14px system-ui,sans-serif;margin:1rem}</style></head>"
            f"<body>{body}</body></html>",
            encoding="utf-8",
        )
        return path

    def to_pandas(self) -> pd.DataFrame:
        """The result as a table, where it is one."""
        raise LabError(f"{type(self).__name__} is not tabular; its fields are: {', '.join(vars(self))}")


@dataclass(eq=False, kw_only=True)
class Numbers(Result):
    """A result that is an array of numbers besides."""

    def numpy(self) -> np.ndarray:
        """The numbers; each kind says which, and of what shape."""
        raise NotImplementedError

    @property
    def tensor(self) -> Any:
        """What `.numpy()` gives, as a torch tensor."""
        import torch

        return torch.from_numpy(self.numpy())


@dataclass(frozen=True)
class Piece:
    """One token as a person may read it. A token that is a part of a character shows its bytes, as in `<0xE4>`."""

    text: str
    id: int
    special: bool = False
    unknown: bool = False


def in_notebook() -> bool:
    """Whether results can be shown as a notebook's output here (asked without importing IPython)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def mean(values: Iterable[float]) -> float:
    """The mean of the finite values; nan where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
