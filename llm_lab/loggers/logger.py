"""What a logger is, and what a run's events are called in one. It knows no library."""

from __future__ import annotations

import importlib
import importlib.util
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_lab.errors import BadValue

PROJECT = "llm_lab"  # what runs are kept together under
_LONGEST = 500  # characters of a setting: MLflow takes no more in older versions


class Logger:
    """One program that is told what happens in a run. Its library is imported when it is made.

    start, tell and close are called in this order and by one thread, which is not the one that trains.
    """

    look = ""  # how to look at what it keeps, once it has started
    note = ""  # what else its user should know

    def start(self, about: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
        """Begin, or go on where `kept`, what an earlier start of this run returned, says so. Returns what to keep.

        `about`: name and id of the run, its folder, the step it goes on from and the seconds it has trained, request, plan
        (with peak_lr), facts and environment as they are stored, and `several`, whether its loss has several parts.
        """
        raise NotImplementedError

    def tell(self, event: Mapping[str, Any]) -> None:
        """One event, as a line of events.jsonl has it. A run that goes on tells all that happened before once more."""
        raise NotImplementedError

    def close(self, status: str, final: Mapping[str, float]) -> None:
        """The end: the run's status, and the metrics of the whole validation split."""
        raise NotImplementedError


class Names:
    """An event's numbers as loggers know them: train/loss, train/lr, val/loss, watch/NAME."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.peak_lr = float(about["plan"].get("peak_lr") or 1.0)
        self.several = bool(about.get("several"))
        self.began = time.time() - float(about.get("seconds") or 0.0)

    def numbers(self, event: Mapping[str, Any]) -> dict[str, float]:
        """Losses in nats, the learning rate as it was used, tokens and tokens per second since the start. What is no
        number is left out."""
        kind = event.get("kind")
        if kind == "watch":
            return _finite({f"watch/{name}": value for name, value in event.get("values", {}).items()})
        if kind not in ("step", "validation"):
            return {}
        split = "train" if kind == "step" else "val"
        found = {f"{split}/loss": event.get("loss")}
        if self.several:
            parts = event.get("parts", {})
            found |= {f"{split}/{name}": value for name, value in parts.items() if name != "loss"}
        if kind == "step":
            found["train/lr"] = event["lr"] * self.peak_lr
            found["train/tokens"] = event["tokens"]
            found["train/tokens_per_second"] = event["tokens"] / event["seconds"] if event["seconds"] else None
        return _finite(found)

    def time(self, event: Mapping[str, Any]) -> float:
        """When it happened, in seconds since 1970, as if the run had not been interrupted."""
        return self.began + float(event.get("seconds") or 0.0)


def sampled(event: Mapping[str, Any]) -> str:
    """What the model wrote at a sample, with the prompt that it went on from; empty of any other event."""
    return f"{event.get('prompt') or ''}{event.get('text') or ''}" if event.get("kind") == "sample" else ""


def verbatim(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _finite(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the run was asked for and what was made of it, as a tree; code of the user's stays at home."""
    request = {key: value for key, value in about["request"].items() if key != "model"}
    model = about["request"].get("model")
    if isinstance(model, Mapping):
        request["model"] = model.get("class")
    return {
        "run": about["id"],
        "facts": list(about["facts"]),
        "request": request,
        "plan": dict(about["plan"]),
        "environment": dict(about["environment"]),
    }


def flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """A tree's leaves by their path (plan.options.lr): numbers and truth as they are, all else as text."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list | tuple):
        yield name, ", ".join(map(str, tree))[:_LONGEST]
    elif tree is not None:
        yield name, tree if isinstance(tree, bool | int | float) else str(tree)[:_LONGEST]


def library(name: str, install: str = "") -> Any:
    """The module of a logger's library; BadValue where it is not installed, or cannot be imported."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    # A folder of that name in the working folder, where some of them write, is no library.
    if spec is None or spec.origin is None:
        raise BadValue(f"log: {name} is not installed; pip install {install or name}, or leave it out of --log")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadValue(
            f"log: {name} cannot be imported ({error}); pip install --upgrade {install or name}, or leave it out of --log"
        ) from None


def relative(path: Path) -> str:
    """A path as a command in the working folder has it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
