"""An LLM laboratory inside the notebook: build, train, sample from and look inside transformers.

The public names are loaded when they are first used, so that importing the package, and `%load_ext llm_lab`, cost
next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__version__ = "0.1.0"

# Read by torch's OpenMP when torch is first imported. Threads that wait for each other spin, by default so long that
# one busy neighbour on the same cores makes a training step ten times slower; this short spin costs nothing alone.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_PUBLIC = {
    "corpus": "llm_lab.lab:corpus",
    "tokenizer": "llm_lab.lab:tokenizer",
    "tokenize": "llm_lab.lab:tokenize",
    "build": "llm_lab.lab:build",
    "pretrain": "llm_lab.lab:pretrain",
    "generate": "llm_lab.lab:generate",
    "ensemble": "llm_lab.lab:ensemble",
    "soup": "llm_lab.lab:soup",
    "compare": "llm_lab.lab:compare",
    "prompt": "llm_lab.lab:prompt",
    "playground": "llm_lab.lab:playground",
    "chat": "llm_lab.lab:chat",
    "strategy": "llm_lab.lab:strategy",
    "check": "llm_lab.lab:check",
    "probe": "llm_lab.lab:probe",
    "record": "llm_lab.lab:record",
    "replace": "llm_lab.lab:replace",
    "evaluate": "llm_lab.lab:evaluate",
    "runs": "llm_lab.lab:runs",
    "load": "llm_lab.lab:load",
    "attach": "llm_lab.lab:attach",
    "doctor": "llm_lab.lab:doctor",
    "LM": "llm_lab.store.lm:LM",
    "LabError": "llm_lab.errors:LabError",
}
_LATER = ("finetune", "compress", "export")

__all__ = [*_PUBLIC, *_LATER, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = _load(_PUBLIC[name])
    elif name in _LATER:
        value = _not_yet(name)
    else:
        raise AttributeError(f"module 'llm_lab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "load_ipython_extension", "unload_ipython_extension"])


def _load(entry: str) -> Any:
    from llm_lab.registry import load

    return load(entry)


def _not_yet(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        return _load("llm_lab.verbs:VERBS")[name].load()(*args, **kwargs)

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = "Not there yet: calling it says what does the nearest thing."
    return refuse


def load_ipython_extension(ip: Any) -> None:
    """What `%load_ext llm_lab` calls."""
    _load("llm_lab.magics.extension:load")(ip)


def unload_ipython_extension(ip: Any) -> None:
    """What `%unload_ext llm_lab` calls."""
    _load("llm_lab.magics.extension:unload")(ip)
