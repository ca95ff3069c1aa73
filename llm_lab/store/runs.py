"""Runs on disk: one folder each, of plain files. It knows no torch: names and lists cost nothing to ask for.

.llm_lab/runs/bard-3f2a9c/   request.json  plan.json  environment.json  status.json  events.jsonl
                             model.safetensors  model.json  tokenizer.json
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_lab.errors import BadValue, listing, suggestion

if TYPE_CHECKING:
    import pandas as pd

FOLDER = ".llm_lab"


def home(make: bool = False) -> Path:
    """The store: `.llm_lab` in the working folder or the nearest one above that has it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FOLDER).is_dir():
            return folder / FOLDER
    store = here / FOLDER
    if make:
        store.mkdir(parents=True, exist_ok=True)
        (store / ".gitignore").write_text("*\n")
    return store


def cache(make: bool = True) -> Path:
    """Where tokenised corpora are kept."""
    folder = home(make) / "data"
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _stores() -> list[Path]:
    """Our own store, then the read-only ones that LLM_LAB_PATH names."""
    more = [Path(part) for part in os.environ.get("LLM_LAB_PATH", "").split(os.pathsep) if part]
    return [home(), *(p / FOLDER if (p / FOLDER).is_dir() else p for p in more)]


@dataclass(frozen=True)
class Run:
    """One training run's folder."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name.rpartition("-")[2]

    @property
    def name(self) -> str:
        return self.path.name.rpartition("-")[0]

    def read(self, part: str) -> dict[str, Any]:
        """request | plan | environment | status | model, as a dict; empty where it is not written yet."""
        try:
            value = json.loads((self.path / f"{part}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def status(self) -> str:
        """training | finished | stopped | failed | died (its process is gone)"""
        state = self.read("status")
        status = str(state.get("status", "failed"))
        if status == "training" and state.get("host") == socket.gethostname() and not _alive(int(state.get("pid", 0))):
            return "died"
        return status

    def set_status(self, status: str, **more: Any) -> None:
        from llm_lab.store.files import write_json

        state = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            **self.read("status"),
            "status": status,
            "time": time.time(),
            **more,
        }
        write_json(self.path / "status.json", state)

    def write(self, part: str, value: dict[str, Any]) -> None:
        from llm_lab.store.files import write_json

        write_json(self.path / f"{part}.json", value)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events as they happened; a line cut off by a crash ends them."""
        try:
            file = open(self.path / "events.jsonl", encoding="utf-8")  # noqa: SIM115  # closed by the with below
        except OSError:
            return
        with file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    return

    @property
    def history(self) -> pd.DataFrame:
        """One row a step: step, tokens, seconds, train_loss, val_loss, lr (a factor of the peak)."""
        import pandas as pd

        rows: dict[int, dict[str, Any]] = {}
        for event in self.events():
            if event.get("kind") not in ("step", "validation"):
                continue
            row = rows.setdefault(event["step"], {"step": event["step"]})
            loss = "train_loss" if event["kind"] == "step" else "val_loss"
            row |= {"tokens": event["tokens"], "seconds": event["seconds"], loss: event["loss"]}
            if event["kind"] == "step":
                row["lr"] = event["lr"]
        return pd.DataFrame(list(rows.values()), columns=["step", "tokens", "seconds", "train_loss", "val_loss", "lr"])

    def learning_rates(self) -> tuple[float, ...]:
        """The factor of the peak learning rate that each step used: the trace."""
        return tuple(event["lr"] for event in self.events() if event.get("kind") == "step")


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def key(request: dict[str, Any]) -> str:
    """What an identical request is recognised by."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def create(name: str, request: dict[str, Any]) -> Run:
    """A new run's folder with its request."""
    store = home(make=True)
    folder = store / "runs" / f"{name}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    run = Run(folder)
    run.write("request", request)
    run.set_status("training", started=time.time())
    return run


def all_runs() -> list[Run]:
    """Every run of every store, the newest first."""
    found = [Run(path.parent) for store in _stores() for path in (store / "runs").glob("*/request.json")]
    return sorted(found, key=lambda run: run.read("status").get("started", 0.0), reverse=True)


def names() -> list[str]:
    """The names of runs that can be loaded, the newest first."""
    return list(dict.fromkeys(run.name for run in all_runs() if (run.path / "model.safetensors").is_file()))


def find(name: str) -> Run:
    """The newest run of that name that has weights (finished ones first), or the run of that id."""
    if "@" in name:
        raise BadValue(
            f"{name!r} names a checkpoint, and this version keeps only the last weights of a run; use {name.partition('@')[0]!r}"
        )
    runs = [run for run in all_runs() if (run.path / "model.safetensors").is_file()]
    hits = [run for run in runs if name in (run.name, run.id, run.path.name)]
    if not hits:
        known = list(dict.fromkeys(run.name for run in runs))
        there = f"there is: {listing(known)}" if known else "there is none yet; %%pretrain NAME makes one"
        raise BadValue(f"no model or run is called {name!r}{suggestion(name, known)}; {there}")
    return next((run for run in hits if run.status == "finished"), hits[0])


def find_identical(name: str, request: dict[str, Any]) -> Run | None:
    """The newest finished run of this name that was asked for in just this way."""
    wanted = key(request)
    for run in all_runs():
        if run.name == name and key(run.read("request")) == wanted and run.status == "finished":
            return run
    return None
