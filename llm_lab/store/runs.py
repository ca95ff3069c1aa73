"""Runs on disk: one folder each, of plain files. It knows no torch: names and lists cost nothing to ask for.

.llm_lab/runs/bard-3f2a9c/   request.json  plan.json  environment.json  status.json  events.jsonl
                             model.safetensors  model.json  tokenizer.json
                             checkpoints/500/model.safetensors
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from llm_lab.errors import BadValue, listing, suggestion
from llm_lab.store import inside
from llm_lab.store.folders import cache as cache
from llm_lab.store.folders import home as home
from llm_lab.store.folders import is_pack, packs, stores, writing

if TYPE_CHECKING:
    import pandas as pd

STATUSES = ("training", "paused", "stopped", "finished", "failed", "died")
COLUMNS = ("step", "tokens", "seconds", "train_loss", "val_loss", "lr")
_NUMBERS = {"step": ("step", "tokens", "seconds", "lr"), "validation": ("step", "tokens", "seconds")}
_NUMBERS["watch"] = _NUMBERS["validation"]


def number(value: object) -> float | None:
    """A finite number as it is, and None for whatever else a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None  # not of NaN


@dataclass(frozen=True)
class Run:
    """One training run's folder."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name.rpartition("-")[2]

    @property
    def name(self) -> str:
        return self.path.name.rpartition("-")[0] or self.path.name

    @property
    def folder(self) -> Path:
        """Where its files are to be loaded from."""
        return self.path

    @property
    def where(self) -> Path:
        """The folder, or the file, that a person finds it in."""
        return self.path

    @property
    def size(self) -> int:
        """Bytes on disk, checkpoints included."""
        return inside.size(self.path)

    def open(self, name: str, most: int | None = None) -> IO[bytes]:
        """One of its files. Every one is data that a stranger may have written: see `inside.plain` for what is refused."""
        return inside.opened(self.path / name, self.path, most)

    def has(self, name: str) -> bool:
        """Whether it has that file, and as one of its own."""
        return inside.is_plain(self.path / name, self.path)

    def read(self, part: str) -> dict[str, Any]:
        """request | plan | environment | status | report, as a dict; empty where it is not written yet, or damaged."""
        name = f"{part}.json"
        most = inside.limit(name)
        try:
            with self.open(name, most) as file:
                value = inside.parsed(inside.bounded(file, name, most), name)
        except (OSError, BadValue):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def status(self) -> str:
        """training | finished | stopped | failed | died (its process is gone)"""
        state = self.read("status")
        status = state.get("status")
        if status not in STATUSES:
            return "failed"
        if status == "training" and state.get("host") == socket.gethostname() and not _alive(state.get("pid")):
            return "died"
        return status

    @property
    def loadable(self) -> bool:
        """Whether it left a model: weights were saved, and the run did not fail."""
        return self.has("model.safetensors") and self.status != "failed"

    @property
    def checkpoints(self) -> list[int]:
        """The steps whose weights were kept on the way, in order."""
        try:
            found = [name for name in os.listdir(self.path / "checkpoints") if name.isdecimal()]
        except OSError:
            return []
        return sorted(int(name) for name in found if self.has(f"checkpoints/{name}/model.safetensors"))

    def checkpoint(self, step: int) -> Path:
        """The folder of what is kept of a step."""
        return self.path / "checkpoints" / str(step)

    @property
    def recent(self) -> float:
        """When it was begun, or last restored by its cell: of one name, the most recent run is the one meant."""
        state = self.read("status")
        return max(number(state.get("started")) or 0.0, number(state.get("restored")) or 0.0)

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
        """The events as they happened; a line cut off by a crash, or damaged, ends them."""
        try:
            file = self.open("events.jsonl")
        except (OSError, BadValue):
            return
        with file:
            while line := file.readline(inside.LINE):
                try:
                    event = inside.parsed(line, "events.jsonl")
                except BadValue:
                    return
                if not _is_event(event):
                    return
                yield event

    @property
    def history(self) -> pd.DataFrame:
        """One row a step: step, tokens, seconds, train_loss, val_loss, lr (the largest of the groups' rates); and where the
        loss has several parts `train_…` and `val_…` of each; and what was watched."""
        import pandas as pd

        peak = number(self.read("plan").get("peak_lr")) or 1.0

        rows: dict[int, dict[str, Any]] = {}
        parts, watched = dict[str, None](), dict[str, None]()  # in the order in which they came
        for event in self.events():
            if event.get("kind") == "watch":
                row = rows.setdefault(event["step"], {key: event[key] for key in ("step", "tokens", "seconds")})
                values = {name: number(value) for name, value in _table(event, "values").items()}
                row |= {name: value for name, value in values.items() if name not in COLUMNS}
                watched |= dict.fromkeys(name for name in values if name not in COLUMNS)
            if event.get("kind") not in ("step", "validation"):
                continue
            row = rows.setdefault(event["step"], {"step": event["step"]})
            loss = "train_loss" if event["kind"] == "step" else "val_loss"
            row |= {"tokens": event["tokens"], "seconds": event["seconds"], loss: event["loss"]}
            if event["kind"] == "step":
                row["lr"] = event["lr"] * peak
            for part, value in _parts(event).items():
                parts[part] = None
                row[loss.replace("loss", part)] = value
        columns = list(COLUMNS)
        if len(parts) > 1:
            columns += [f"{split}_{part}" for split in ("train", "val") for part in parts]
        columns += [name for name in watched if name not in columns]
        return pd.DataFrame(list(rows.values()), columns=columns)

    def eval_steps(self) -> frozenset[int]:
        """The steps at which the run validated."""
        return frozenset(event["step"] for event in self.events() if event.get("kind") == "validation")

    def learning_rates(self) -> tuple[float, ...]:
        """The factor of the peak learning rate that each step used: the trace."""
        return tuple(event["lr"] for event in self.events() if event.get("kind") == "step")


def parameters(run: Run) -> int | None:
    """The numbers among a run's weights, by the head of their file; None where it has none that can be read."""
    try:
        with run.open("model.safetensors") as file:
            return inside.count(inside.shapes(file, "model.safetensors"))
    except (OSError, BadValue):
        return None


def _is_event(value: Any) -> bool:
    """Whether a line of the trace holds what its readers rest on; a loss that was no number is None."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    needed = _NUMBERS.get(value["kind"], ())
    if any(number(value.get(name)) is None for name in needed):
        return False
    loss = value.get("loss")
    return not needed or (isinstance(value["step"], int) and (loss is None or number(loss) is not None))


def _parts(event: dict[str, Any]) -> dict[str, float | None]:
    """The parts of an event's loss, those that are numbers; a damaged file may hold anything in their place."""
    parts = _table(event, "parts")
    return {name: number(value) for name, value in parts.items() if name != "loss"}  # the whole's columns are so called


def _table(event: dict[str, Any], key: str) -> dict[str, Any]:
    value = event.get(key)
    return value if isinstance(value, dict) else {}


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    import psutil

    try:
        return bool(psutil.pid_exists(pid))
    except OverflowError:
        return False


def key(request: dict[str, Any]) -> str:
    """What an identical request is recognised by."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def create(name: str, request: dict[str, Any]) -> Run:
    """A new run's folder with its request. BadValue where it cannot be written."""
    folder = home(make=True) / "runs" / f"{name}-{secrets.token_hex(3)}"
    with writing(folder):
        folder.mkdir(parents=True)
    run = Run(folder)
    run.write("request", request)
    run.set_status("training", started=time.time())
    return run


def all_runs(refused: list[str] | None = None) -> list[Run]:
    """Every run of every store, the newest first; one whose files are damaged is among them, the oldest. A zip that cannot
    be used is left out, and why is added to `refused`; so is a zip's copy of a run that is here."""
    found: list[Run] = []
    for store in stores():
        with contextlib.suppress(OSError):  # a store that may not be read has nothing for us
            found += [Run(path.parent) for path in (store / "runs").glob("*/request.json")]
    here = {run.path.name for run in found}
    for file in packs():
        from llm_lab.store.packs import packed

        try:
            new = [run for run in packed(file) if run.path.name not in here]
        except BadValue as error:
            if refused is not None:
                refused.append(str(error))
            continue
        found += new
        here |= {run.path.name for run in new}
    return sorted(found, key=lambda run: run.recent, reverse=True)


def names() -> list[str]:
    """The names of runs that can be loaded, the newest first; none where the working folder is gone."""
    try:
        return list(dict.fromkeys(run.name for run in all_runs() if run.loadable))
    except BadValue:
        return []


def find(name: str) -> Run:
    """The newest run of that name that left a model (finished ones first), or the run of that id, whatever became of it;
    or the run in the zip of that name."""
    if is_pack(name):
        from llm_lab.store.packs import only

        return only(Path(name))
    runs = all_runs()
    named = [run for run in runs if run.name == name]
    good = [run for run in named if run.loadable]
    hits = good or [run for run in runs if name in (run.id, run.path.name)]
    if hits:
        return next((run for run in hits if run.status == "finished"), hits[0])
    known = list(dict.fromkeys(run.name for run in runs if run.loadable))
    there = f"there is: {listing(known)}" if known else "there is none yet; %%pretrain NAME makes one"
    if named:
        became = listing((f"{run.id} {run.status}" for run in named), 4)
        raise BadValue(f"no run called {name!r} has left a model ({became}); train it again; {there}")
    raise BadValue(f"no model or run is called {name!r}{suggestion(name, known)}; {there}")


def find_traced(name: str) -> tuple[Run, int | None]:
    """The run whose trace a name, an id or `bard@500` means: as `find`, and where no run of that name left a model, the
    newest that has begun. The step is that of the checkpoint."""
    if "@" in name:
        return find_checkpoint(name)
    try:
        return find(name), None
    except BadValue:
        begun = [run for run in all_runs() if run.name == name and run.has("events.jsonl")]
        if not begun:
            raise
        return begun[0], None


def find_checkpoint(name: str) -> tuple[Run, int]:
    """The run and the step that `bard@500` names: of the runs that are called so the one that `find` takes, or, where that
    one left no model, the newest that kept checkpoints. BadValue, with the nearest step, where that step was not kept."""
    base, _, word = name.rpartition("@")
    try:
        run = find(base)
    except BadValue:
        left = [run for run in all_runs() if run.name == base and run.checkpoints]
        if not left:
            raise
        run = left[0]
    steps = run.checkpoints
    if not steps:
        raise BadValue(
            f"{name!r} names a checkpoint, and run {run.id} kept none: --checkpoints 8 keeps some on the way; use {base!r}"
        )
    word = word if len(word) < 16 else "…"  # no run is that long
    if word.isdecimal() and int(word) in steps:
        return run, int(word)
    if word.isdecimal():
        step = min(steps, key=lambda kept: abs(kept - int(word)))
        what = f"step {int(word)} of run {run.id} was not kept; the nearest is {base}@{step}"
    else:
        what = f"{word!r} is no step; for example {base}@{steps[-1]}"
    raise BadValue(f"checkpoint {name!r}: {what}; kept are: {listing(map(str, steps), 12)}")


def find_identical(name: str, request: dict[str, Any]) -> Run | None:
    """The newest finished run of this name that was asked for in just this way, and whose files are whole."""
    wanted = key(request)
    for run in all_runs():
        if run.name == name and run.status == "finished" and key(run.read("request")) == wanted and _whole(run):
            return run
    return None


def _whole(run: Run) -> bool:
    """Whether the model's files are there and can be read, by a look at their heads."""
    from llm_lab.store.files import read_json, weight_shapes

    try:
        weight_shapes(run.folder / "model.safetensors", run.folder)
        return all(
            isinstance(read_json(run.folder / f"{part}.json", run.folder), dict) for part in ("model", "tokenizer")
        )
    except BadValue:
        return False
