"""Runs that processes of their own train: begins them, asks things of them, and says what became of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_lab import machine
from llm_lab.errors import BadValue, LabError
from llm_lab.jobs import job_of
from llm_lab.results import BackgroundRun, TrainingReport
from llm_lab.store import control, runs
from llm_lab.store.accepting import accept
from llm_lab.store.cards import Follower
from llm_lab.store.folders import writing
from llm_lab.store.lm import LM, load_run
from llm_lab.store.runs import Run

LOG = "worker.log"
_LOOK = 0.1  # seconds between two looks
_SOON = 30.0  # seconds of steps in which a run has surely saved itself, unless it cannot
_children: dict[str, subprocess.Popen[bytes]] = {}  # by run: who began them must also bury them


def begin(run: Run) -> None:
    """A process that trains a run, from where it is. It has a session of its own, so that what ends the kernel does not
    end it; its threads sleep while they wait, so that several share the cores in place of fighting for them."""
    job = job_of(run)
    where = job["folder"] if os.path.isdir(job["folder"]) else os.getcwd()
    paths = [str(Path(__file__).parent.parent), *job["path"]]
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }
    control.forget(run)
    with writing(run.path / LOG):
        log = open(run.path / LOG, "ab")  # noqa: SIM115  # closed below
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "llm_lab.worker", str(run.path)],
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _children[run.path.name] = process
    now = time.time()
    who = runs.holder(process.pid)
    run.note(**who, status="training", time=now, background=True, resumed=now, ooms=machine.ooms(), why=None)


def attach(run: Run) -> BackgroundRun:
    """The run as it is now, with what can be asked of it."""
    watched, home = _Watched(run), runs.home()  # the store of here and now: a kernel may change its folder later
    report = watched.update()
    made = BackgroundRun(name=run.name, run=run.id, report=report, code=f"lab.attach({run.id!r})")

    def asked(do: Callable[..., None]) -> Callable[..., None]:
        def ask(*values: Any) -> None:
            runs.need_ours(run, home, "a run that is watched")
            do(run, *values)

        return ask

    made.actions = {
        "update": watched.update,
        "lm": watched.lm,
        "pause": asked(pause),
        "resume": asked(resume),
        "stop": asked(stop),
        "lr": asked(set_lr),
    }
    return made


class _Watched:
    """What one handle has read of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        _ = run.folder  # what is in a zip is unpacked
        self._lock = threading.Lock()  # a view's thread looks too
        self._follower: Follower | None = None
        self._read: tuple[Any, ...] = ()
        self._lm: tuple[Any, LM] | None = None

    def update(self) -> TrainingReport:
        """The card as the run is now; read from the beginning where the run was begun again. BadValue where it is gone."""
        with self._lock:
            return self._update()

    def _update(self) -> TrainingReport:
        if not self.run.path.is_dir():
            raise BadValue(f"run {self.run.id} of {self.run.name} was deleted; there is nothing to watch any more")
        status = self.run.status
        bury(self.run, gone=status == "died")
        file = self.run.path / "report.json"
        with suppress(OSError):
            facts = file.stat()
            if self._follower is None or self._read != (facts.st_mtime_ns, facts.st_size):
                self._read = (facts.st_mtime_ns, facts.st_size)
                with suppress(ValueError):  # damaged: what was read before stays
                    self._follower = Follower(self.run)
        if self._follower is None:
            why = f"{death(self.run)}" if status in ("died", "failed") else "it is being prepared"
            return TrainingReport(
                name=self.run.name, status=status, facts=[f"run {self.run.id}"], unit="nats", notes=[why]
            )
        told = self._follower.update()
        card = replace(told, status=status, notes=list(told.notes))
        if status in ("died", "failed") and told.status != status:
            card.notes.append(death(self.run))
        elif status == "training" and told.status in ("paused", "failed"):  # its new process has not written yet
            card.notes, card.repeat = ["a process begins, to go on from its last state"], ""
        return card

    def lm(self) -> LM:
        """The model as it was last saved; the same object until there is a newer one. A run that has only just begun is
        waited for: it saves itself at its first step. BadValue where it cannot."""
        while (card := self.update()).status == "training" and not self.run.states:
            if card.step and card.seconds - card.setup_seconds > _SOON:
                why = next((note for note in reversed(card.notes) if "not saved" in note), "its disk may be full")
                raise BadValue(f"run {self.run.id} of {self.run.name} has saved no weights so far: {why}")
            time.sleep(_LOOK)
        newest = self.run.states[-1:] if self.run.status != "finished" else ["finished"]
        if self._lm is None or self._lm[0] != newest:
            self._lm = (newest, load_run(self.run))
        return self._lm[1]


def pause(run: Run) -> None:
    """Ask it to end after the step in progress, so that it can go on later."""
    _need_training(run, "pause")
    control.ask(run, "pause")


def stop(run: Run) -> None:
    """Ask it to end and to take its model as it is; one that is paused is taken at once."""
    if run.status == "training":
        control.ask(run, "stop")
    else:
        accept(run)


def set_lr(run: Run, scale: float) -> None:
    """Ask it to multiply its schedule's learning rates by a factor."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < 1e6:
        raise BadValue(f"scale: {scale!r} is no factor of the learning rate; for example 0.5")
    _need_training(run, "lr")
    control.ask(run, "lr", scale=float(scale))


def resume(run: Run) -> None:
    """Go on with it in a new process. BadValue where it cannot."""
    if run.status == "training":
        raise runs.busy(run)
    if run.status == "finished":
        raise BadValue(f"run {run.id} of {run.name} is finished; {_further(run)}")
    if run.diverged:
        raise BadValue(f"run {run.id} of {run.name} diverged, and would again; train anew with a lower --lr")
    begin(run)


def bury(run: Run, gone: bool) -> None:
    """Let the system forget a process of ours that has ended, and write down how. One that is `gone` is waited for: it
    cannot take long."""
    process = _children.get(run.path.name)
    if process is None:
        return
    with suppress(subprocess.TimeoutExpired):
        process.wait(1 if gone else 0)
    if process.returncode is None:
        return
    del _children[run.path.name]
    if process.returncode < 0 and run.read("status").get("status") == "training":
        with suppress(LabError, ValueError):
            run.note(signal=signal.Signals(-process.returncode).name)


def death(run: Run) -> str:
    """Why a run ended before its end, and what can be done."""
    state = run.read("status")
    why = state.get("why")
    if not isinstance(why, str):
        before, name = state.get("ooms"), state.get("signal")
        if isinstance(before, int) and machine.ooms() > before and name in (None, "SIGKILL"):
            why = "the system killed its process, for memory was full; a smaller --batch_size would do"
        elif isinstance(name, str):
            why = f"its process was ended by {name}"
        else:
            why = _last_words(run) or "its process ended without a word (killed, or the machine was switched off)"
    if not run.resumable:
        return why[:300]
    there = f"its state after step {run.states[-1]} is on the disk, and %lab resume {run.name} goes on from there"
    return f"{why[:300]}; {there}"


def _last_words(run: Run) -> str:
    """The last line that its process wrote."""
    with suppress(OSError, BadValue), run.open(LOG) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
        lines = file.read(4000).decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else ""
    return ""


def _need_training(run: Run, what: str) -> None:
    if run.status != "training":
        then = _further(run) if run.status == "finished" else f"%lab resume {run.name} goes on with it"
        raise BadValue(f"{what}: run {run.id} of {run.name} is {run.status}, not training; {then}")


def _further(run: Run) -> str:
    return f"%%pretrain NAME --from {run.name} trains it further"
