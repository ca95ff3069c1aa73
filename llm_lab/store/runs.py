"""Runs on disk: one folder each, of plain files. It knows no torch: names and lists cost nothing to ask for.

.llm_lab/runs/bard-3f2a9c/   request.json  plan.json  environment.json  status.json  events.jsonl  report.json
                             model.safetensors  model.json  tokenizer.json
                             checkpoints/500/model.safetensors      weights that were asked for
                             resume/00000812.safetensors            what the run goes on from
                             lock                                   held by the one process that writes it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from llm_lab import machine
from llm_lab.errors import BadValue, Busy, listing, show, suggestion
from llm_lab.results.runs import STATUSES
from llm_lab.store import inside
from llm_lab.store.events import FILE, number, read_events, table
from llm_lab.store.folders import cache as cache
from llm_lab.store.folders import home as home
from llm_lab.store.folders import is_pack, packs, stores, writing

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("step", "tokens", "seconds", "train_loss", "val_loss", "lr")
_held: set[str] = set()  # the runs that this process writes
_WORD = re.compile(r"\w[\w.-]*")
SILENT = 300.0  # seconds after which a process of another machine, which no longer holds its lock, is taken for gone
RESUMABLE = ("paused", "died", "failed")


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

    def names(self, folder: str) -> list[str]:
        """What is in a folder of its."""
        try:
            return os.listdir(self.path / folder)
        except OSError:
            return []

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
        """training | paused | finished | failed | died (its process is gone)"""
        state = self.read("status")
        status = state.get("status")
        if status not in STATUSES:
            return "failed"
        if status != "training":
            return status
        here = state.get("host") == socket.gethostname()
        # A full disk may have kept this process from writing that it is over.
        if here and state.get("pid") == os.getpid():
            return status if self.path.name in _held else "died"
        if (here and _alive(state)) or _locked(self):
            return status
        return status if not here and self.silent < SILENT else "died"

    @property
    def silent(self) -> float:
        """Seconds since its process last wrote."""
        last = 0.0
        for name in (FILE, "status.json"):
            with contextlib.suppress(OSError):
                last = max(last, os.stat(self.path / name).st_mtime)
        return abs(time.time() - last)

    @property
    def diverged(self) -> bool:
        """Whether its loss stopped being a number: going on from there would do the same."""
        return self.read("status").get("diverged") is True

    @property
    def loadable(self) -> bool:
        """Whether there is a model to load: a finished one, or the state of one that is on its way or was left there."""
        if self.diverged:
            return False
        return bool(self.states) or (self.status != "failed" and self.has("model.safetensors"))

    @property
    def resumable(self) -> bool:
        return self.status in RESUMABLE and bool(self.states) and not self.diverged

    @property
    def states(self) -> list[int]:
        """The steps that it can go on from, in order."""
        stems = [name.removesuffix(".safetensors") for name in self.names("resume")]
        return sorted(int(stem) for stem in stems if stem.isdecimal() and self.has(f"resume/{stem}.safetensors"))

    @property
    def reached(self) -> int:
        """The step whose weights are the newest on the disk."""
        steps = number(self.read("status").get("steps"))
        return int(steps or 0) if self.status == "finished" or not self.states else self.states[-1]

    def state_file(self, step: int) -> Path:
        return self.path / "resume" / f"{step:08d}.safetensors"

    def forget_states(self) -> None:
        """A finished run has its model, and nothing to go on to."""
        for part in ("resume", "base"):
            shutil.rmtree(self.path / part, ignore_errors=True)

    @property
    def checkpoints(self) -> list[int]:
        """The steps whose weights were kept on the way, in order."""
        names = [name for name in self.names("checkpoints") if name.isdecimal()]
        return sorted(int(name) for name in names if self.has(f"checkpoints/{name}/model.safetensors"))

    def checkpoint(self, step: int) -> Path:
        """The folder of what is kept of a step."""
        return self.path / "checkpoints" / str(step)

    @property
    def recent(self) -> float:
        """When it was begun, or last restored by its cell: of one name, the most recent run is the one meant."""
        state = self.read("status")
        return max(number(state.get("started")) or 0.0, number(state.get("restored")) or 0.0)

    def set_status(self, status: str, **more: Any) -> None:
        """Write it down; of one that is training, that this process does it."""
        self.note(**(holder(os.getpid()) if status == "training" else {}), status=status, time=time.time(), **more)

    def note(self, **facts: Any) -> None:
        """Add facts to its status."""
        self.write("status", {**self.read("status"), **facts})

    def write(self, part: str, value: dict[str, Any]) -> None:
        from llm_lab.store.files import write_json

        write_json(self.path / f"{part}.json", value)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events as they happened; a line cut off by a crash ends them, and one that is damaged is passed by."""
        for event, _ in self.trace():
            yield event

    def trace(self, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """The events from a place in their file on, each with the place behind it. None of a file that memory could not hold."""
        try:
            file = self.open(FILE, machine.memory().available // 2)
        except (OSError, BadValue):
            return
        with file:
            yield from read_events(file, start)

    def ended_by(self, error: BaseException) -> str:
        """The status that an error leaves it with: an interrupt, where there is a state to go on from, is a pause."""
        return "paused" if isinstance(error, KeyboardInterrupt) and self.states else "failed"

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
                values = {name: number(value) for name, value in table(event.get("values")).items()}
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
        """The factor of the peak learning rate that each step used: the trace, as far as it is whole."""
        found: list[float] = []
        for event in self.events():
            if event.get("kind") == "step":
                if event["step"] != len(found) + 1:
                    break
                found.append(event["lr"])
        return tuple(found)


def parameters(run: Run) -> int | None:
    """The numbers among a run's weights, by the head of their file; None where it has none that can be read."""
    name, start = "model.safetensors", ""
    if not run.has(name) and (states := run.states):
        name, start = f"resume/{states[-1]:08d}.safetensors", "model."  # beside what optimisers hold
    try:
        with run.open(name) as file:
            found = inside.shapes(file, name)
    except (OSError, BadValue):
        return None
    return inside.count({tensor: shape for tensor, shape in found.items() if tensor.startswith(start)})


def _parts(event: dict[str, Any]) -> dict[str, float | None]:
    """The parts of an event's loss, those that are numbers; a damaged file may hold anything in their place."""
    parts = table(event.get("parts"))
    return {name: number(value) for name, value in parts.items() if name != "loss"}  # the whole's columns are so called


def holder(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from every other, one that is given its number later included."""
    return {"pid": pid, "born": machine.born(pid), "host": socket.gethostname()}


def _alive(state: dict[str, Any]) -> bool:
    import psutil

    pid, born = state.get("pid"), number(state.get("born"))
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and (born is None or abs(process.create_time() - born) < 1)
    except (psutil.Error, OverflowError):
        return False


def _locked(run: Run) -> bool:
    """Whether a process holds the lock on a run; False also where this system cannot tell. Process numbers mean nothing on
    another machine, and the time at which one began moves with the clock: the lock goes with its holder."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return False
    try:
        with run.open("lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, BadValue):
        return False
    return False


def key(request: dict[str, Any]) -> str:
    """What an identical request is recognised by."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def create(name: str, request: dict[str, Any], fresh: bool = True) -> Run:
    """A new run's folder with its request. BadValue where it cannot be written; Busy where another process is at the same
    request, unless `fresh`."""
    from llm_lab.store.files import sync

    folder = home(make=True) / "runs" / f"{name}-{secrets.token_hex(3)}"
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):  # of two that ask for the same at once, one is first
            if not fresh and (other := find_identical(name, request)) and other.status == "training":
                raise busy(other)
            folder.mkdir()
            sync(folder.parent)
            run = Run(folder)
            run.write("request", request)
            run.set_status("training", started=time.time())
    return run


@contextlib.contextmanager
def hold(run: Run) -> Iterator[None]:
    """The lock on a run, as long as this process writes it. Busy, with who holds it, where another does."""
    if os.path.lexists(run.path / "lock"):
        inside.plain(run.path / "lock", run.path)  # a link would have its target written
    lock = FileLock(run.path / "lock")
    with writing(run.path / "lock"):
        try:
            lock.acquire(timeout=0.2, poll_interval=0.02)  # whoever only looks has it for a moment
        except Timeout:  # which is an OSError too
            raise busy(run) from None
    _held.add(run.path.name)
    try:
        yield
    finally:
        _held.discard(run.path.name)
        lock.release()


def is_ours(run: Run, home: Path) -> bool:
    """Whether it is in the store that is written to, and not in one that is only read."""
    return type(run) is Run and os.path.realpath(run.path.parent) == os.path.realpath(home / "runs")


def need_ours(run: Run, home: Path, what: str) -> None:
    """BadValue where it is in a store that is only read."""
    if not is_ours(run, home):
        raise BadValue(
            f"{what}: run {run.id} of {run.name} is in {run.where}, which is only read; runs of {home} can be changed"
        )


def busy(run: Run) -> Busy:
    state = run.read("status")
    since = number(state.get("resumed")) or number(state.get("started"))
    when = f" since {time.strftime('%H:%M', time.localtime(since))}" if since else ""
    away = (
        ""
        if state.get("host") == socket.gethostname()
        else f"; should that machine be gone, it can go on {SILENT / 60:.0f} minutes after it last wrote"
    )
    return Busy(
        f"run {run.id} of {run.name} is being trained by process {state.get('pid', '?')} on {state.get('host', '?')}{when}; %attach {run.name} watches it, --fresh trains another{away}"
    )


def all_runs(refused: list[str] | None = None) -> list[Run]:
    """Every run of every store, the newest first; one whose files are damaged is among them, the oldest. A zip that cannot
    be used is left out, and why is added to `refused`; so is a zip's copy of a run that is here."""
    found: list[Run] = []
    for store in stores():
        with contextlib.suppress(OSError):  # a store that may not be read has nothing for us
            found += [Run(path.parent) for path in (store / "runs").glob("*/request.json")]
    if odd := [run for run in found if not run.path.name.isprintable()]:
        found = [run for run in found if run not in odd]
        if refused is not None:
            refused += [f"{show(str(run.path), 200)} is left out: its name holds control characters" for run in odd]
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
    """The names of runs that can be loaded and that may stand on a line, the newest first; none where the working folder is
    gone."""
    try:
        return list(dict.fromkeys(run.name for run in all_runs() if _WORD.fullmatch(run.name) and run.loadable))
    except BadValue:
        return []


def find(name: str) -> Run:
    """The newest run of that name that left a model (finished ones first), or the run of that id, whatever became of it;
    or the run in the zip of that name."""
    if is_pack(name):
        from llm_lab.store.packs import only

        return only(Path(name))
    runs = all_runs()
    same = [run for run in runs if run.name == name]
    hits = [run for run in same if run.loadable] or [run for run in runs if name in (run.id, run.path.name)]
    if hits:
        return next((run for run in hits if run.status == "finished"), hits[0])
    known = list(dict.fromkeys(run.name for run in runs if run.loadable))
    if same:
        became = listing((f"{run.id} {run.status}" for run in same), 4)
        raise BadValue(f"no run called {name!r} has left a model ({became}); train it again; {_there(known)}")
    raise BadValue(f"no model or run is called {name!r}{suggestion(name, known)}; {_there(known)}")


def named(name: object) -> list[Run]:
    """The runs of a name, the newest first, or the one of that id, whatever became of them. BadValue with the nearest name
    where there is none."""
    runs = all_runs()
    found = [run for run in runs if run.name == name] or [run for run in runs if name in (run.id, run.path.name)]
    if found:
        return found
    known = list(dict.fromkeys(run.name for run in runs))
    raise BadValue(f"no run is called {show(name)}{suggestion(name, known)}; {_there(known)}")


def find_any(name: object) -> Run:
    """Of the runs of that name, or id, the one that is training, else the newest. BadValue where there is none."""
    hits = named(name)
    return next((run for run in hits if run.status == "training"), hits[0])


def _there(known: list[str]) -> str:
    return f"there is: {listing(known)}" if known else "there is none yet; %%pretrain NAME makes one"


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
    """The newest run of this name that was asked for in just this way: finished and whole, on its way, or left where it
    can go on. One that a person touched and that is finished is found by its name only."""
    wanted = key(request)
    for run in all_runs():
        if run.name != name or key(run.read("request")) != wanted:
            continue
        if run.status == "finished" and not run.read("status").get("touched") and _whole(run):
            return run
        if (run.status == "training" or run.resumable) and os.access(run.path, os.W_OK):
            return run
    return None


def _whole(run: Run) -> bool:
    """Whether the model's files are there and can be read, by a look at their heads."""
    from llm_lab.store.files import read_json, weight_shapes

    try:
        folder = run.folder
        weight_shapes(folder / "model.safetensors", inside=folder)
        return all(isinstance(read_json(folder / f"{part}.json", folder), dict) for part in ("model", "tokenizer"))
    except BadValue:
        return False
