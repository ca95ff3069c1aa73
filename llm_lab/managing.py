"""The runs of every store: listed and chosen, renamed, deleted, accepted, packed. It trains and loads nothing."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llm_lab.errors import BadValue, Busy, listing, printable, suggestion
from llm_lab.results import BackgroundRun, Listing, RunRow, RunTable
from llm_lab.results.runs import STATUSES
from llm_lab.store import inside
from llm_lab.store import runs as store
from llm_lab.store.events import FILE, number, table
from llm_lab.store.runs import Run, parameters
from llm_lab.verbs import LabOptions

# Listed with the lowest first; of other numbers it is the highest, and words go from a to z.
_LOW = {"loss", "bits_per_byte"}
DEATHS = 4  # of which it is said why
_TAIL = 1 << 16  # bytes at the end of a trace, in which its last event stands
_PATIENCE, _LOOK = 5.0, 0.05  # seconds that the end of a step is waited for, and between two looks
_MOST = 1 << 53  # of whole numbers: a float no longer holds every one beyond it


# listing --------------------------------------------------------------------------------------------------------------


def listed(pattern: str | None = None, options: LabOptions | None = None) -> RunTable:
    """The runs whose name fits a pattern such as `bar*` (or whose id it is), the newest first unless sorted."""
    options = options or LabOptions()
    refused: list[str] = []
    found = store.all_runs(refused)
    home = store.home()
    rows = [row(run, home) for run in found if not pattern or fnmatchcase(run.name, pattern) or run.id == pattern]
    if options.status:
        rows = [one for one in rows if one.status in options.status]
    if options.corpus:
        rows = [one for one in rows if one.corpus and fnmatchcase(one.corpus, options.corpus)]
    if options.sort:
        rows = _sorted(rows, options.sort)
    if found and not rows:
        names = list(dict.fromkeys(run.name for run in found))
        near = suggestion(pattern, names) if pattern else ""
        if pattern in STATUSES:
            near = f"; --status {pattern} lists the runs of that status"
        refused.append(f"no run here is such a one{near}; there is: {listing(names, 8)}")
    shown = {one.run for one in rows if one.status in ("died", "failed") and not one.elsewhere}
    refused += _deaths([run for run in found if run.id in shown][:DEATHS])
    return RunTable(rows=rows, store=str(home), free=_free(home), notes=refused)


def _deaths(runs: Sequence[Run]) -> list[str]:
    """Why runs ended before their end, a line each."""
    if not runs:
        return []
    from llm_lab.background import death  # and torch with it

    return [f"{run.name} {run.id} {run.status}: {' '.join(death(run).split())}" for run in runs]


def row(run: Run, home: Path) -> RunRow:
    """What a run's files say of it, whatever they hold; weights are not read."""
    status, request, plan = (run.read(part) for part in ("status", "request", "plan"))
    corpus, final, parent = (table(one) for one in (request.get("corpus"), status.get("final"), request.get("from")))
    state = run.status
    event = last_event(run) if state not in ("finished", "failed") or _whole(status.get("steps")) is None else {}
    counts = {name: _whole(status.get(name)) for name in ("steps", "tokens")}
    seconds = number(status.get("seconds"))
    if event:
        counts = {"steps": _whole(event.get("step")), "tokens": _whole(event.get("tokens"))}
        seconds = number(event.get("seconds"))
    return RunRow(
        name=run.name,
        run=run.id,
        status=state,
        corpus=_word(corpus.get("name")),
        steps=counts["steps"],
        planned_steps=_whole(plan.get("steps")),
        planned_seconds=number(plan.get("seconds")),
        tokens=counts["tokens"],
        parameters=parameters(run),
        loss=number(final.get("loss")),
        bits_per_byte=number(final.get("bits_per_byte")),
        started=number(status.get("started")),
        when=number(status.get("time")),
        seconds=seconds,
        size=run.size,
        folder=str(run.where),
        elsewhere=not store.is_ours(run, home),
        parent=_word(parent.get("run")),
        parent_name=_word(parent.get("name")),
        parent_step=_whole(parent.get("step")),
    )


def last_event(run: Run) -> dict[str, Any]:
    """The last event of a run's trace that has a step; empty where there is none, and of a run in a zip."""
    with contextlib.suppress(OSError, BadValue), run.open(FILE) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL))
        for line in reversed(file.read(_TAIL).splitlines()):
            with contextlib.suppress(BadValue):
                event = inside.parsed(line, FILE)
                if isinstance(event, dict) and _whole(event.get("step")) is not None:
                    return event
    return {}


def _sorted(rows: list[RunRow], by: str) -> list[RunRow]:
    """The rows by a column, those without a value last."""
    field = {"MB": "size", "from": "parent", "from_step": "parent_step"}.get(by, by)
    known = [one for one in rows if getattr(one, field) is not None]
    falls = any(isinstance(getattr(one, field), int | float) for one in known) and by not in _LOW
    known.sort(key=lambda one: getattr(one, field), reverse=falls)
    return known + [one for one in rows if getattr(one, field) is None]


def _free(folder: Path) -> int | None:
    """Bytes that are free on a folder's disk."""
    there = next((one for one in (folder, *folder.parents) if one.is_dir()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free
    except OSError:
        return None


# choosing -------------------------------------------------------------------------------------------------------------


def _to_change(name: str, every: bool, verb: str) -> list[Run]:
    """The runs of a name that may be changed: one, or with `every` all. BadValue says which it could be, or why not."""
    runs = store.named(name)
    home = store.home()
    ours = [run for run in runs if store.is_ours(run, home)]
    if not ours:
        store.need_ours(runs[0], home, f"%lab {verb}")
    if len(ours) > 1 and not every:
        raise BadValue(
            f"{len(ours)} runs are called {name!r} ({_told(ours)}); name one by its id, for example %lab {verb} {ours[0].id}, "
            "or say --all"
        )
    for run in ours:
        _refuse_held(run)
        with store.hold(run):  # a process that has not yet said so, or is at its end
            pass
    return ours


def _refuse_held(run: Run) -> None:
    """Busy for a run that a process is training, with which."""
    if run.status == "training":
        state = run.read("status")
        raise Busy(
            f"run {run.id} of {run.name} is being trained by process {state.get('pid')} on {state.get('host')}; %lab stop "
            f"{run.id} ends it"
        )


def _told(runs: Sequence[Run]) -> str:
    return listing((f"{run.id} {run.status}" for run in runs), 6)


# changing -------------------------------------------------------------------------------------------------------------


def rename(name: str, to: str, every: bool = False) -> Listing:
    """Call a run, or with `every` all of that name, otherwise. Its id stays; the identical cell of the new name restores
    it."""
    runs, rows = _to_change(name, every, "rename"), []
    for run in runs:
        path = run.path.with_name(f"{to}-{run.id}")
        if os.path.lexists(path):
            raise BadValue(f"to: there is {str(path)!r} already; choose another name")
        try:
            os.rename(run.path, path)
        except OSError as error:
            raise BadValue(f"{str(run.path)!r} cannot be renamed ({error.strerror}); nothing was changed") from None
        renamed = Run(path)
        report = renamed.read("report")
        if report:  # its card, and the line that repeats it, go by the new name
            line = str(report.get("repeat", "")).replace(f"%%pretrain {run.name} ", f"%%pretrain {to} ", 1)
            renamed.write("report", {**report, "name": to, "repeat": line})
        rows.append([run.id, run.name, to, str(path)])
    caption = f'lab.load("{to}") brings it back; a variable that holds it keeps its name.'
    return Listing(title=to, facts=["renamed"], columns=["run", "was", "is", "folder"], rows=rows, caption=caption)


def delete(name: str, again: str | None = None, every: bool = False) -> Listing:
    """Delete a run (or a checkpoint of one, `bard@500`) for good, where its name is given twice; else say what would go."""
    if again is not None and again != name:
        raise BadValue(f"delete: the name again is {again!r}, not {name!r}; nothing was deleted")
    if "@" in name:
        run, step = store.find_checkpoint(name)
        _to_change(run.id, False, "delete")
        folders = [(run, f"checkpoint {step}", run.checkpoint(step))]
    elif (
        again is None
        and not every
        and len(ours := [run for run in store.named(name) if store.is_ours(run, store.home())]) > 1
    ):
        rows = [_gone(run, run.status, run.path) for run in ours]
        caption = (
            f"Nothing is deleted yet. %lab delete {ours[0].id} is for one of them, %lab delete {name} --all for all."
        )
        return Listing(title=name, facts=["delete", f"{len(rows)} runs"], columns=_GONE, rows=rows, caption=caption)
    else:
        folders = [(run, run.status, run.path) for run in _to_change(name, every, "delete")]
    rows = [_gone(*one) for one in folders]
    if again is None:
        line = f"%lab delete {name} {name}{' --all' if every else ''}"
        kept = _children([run.id for run, *_ in folders])
        caption = f"Nothing is deleted yet: {line} deletes this for good.{kept}"
        return Listing(title=name, facts=["delete"], columns=_GONE, rows=rows, caption=caption)
    for _, _, path in folders:
        _remove(path)
    return Listing(title=name, facts=["deleted"], columns=_GONE, rows=rows, caption="It is gone for good.")


_GONE = ("run", "name", "what", "MB", "folder")


def _gone(run: Run, what: str, folder: Path) -> list[Any]:
    return [run.id, run.name, what, round(inside.size(folder) / 1e6, 2), str(folder)]


def _children(ids: Sequence[str]) -> str:
    """Which runs were forked from these, in a sentence."""
    forks = [run for run in store.all_runs() if table(run.read("request").get("from")).get("run") in ids]
    names = listing((f"{run.name} {run.id}" for run in forks), 6)
    return f" {names} was forked from it, and stays." if forks else ""


def _remove(path: Path) -> None:
    """Delete a folder: out of the list at once, then file by file; what is linked to stays."""
    aside = store.home() / f".deleted-{secrets.token_hex(4)}"
    try:
        os.rename(path, aside)
        aside.unlink() if aside.is_symlink() else shutil.rmtree(aside)
    except OSError as error:
        raise BadValue(f"{str(path)!r} cannot be deleted ({error.strerror}); delete it by hand") from None


def accept(name: str) -> Listing:
    """Declare the newest run of a name that waits (or the one of that id) finished as it is, so that its cell restores it
    and does not go on."""
    from llm_lab.store.accepting import accept as take
    from llm_lab.store.cards import load_card

    runs, home = store.named(name), store.home()
    waiting = [run for run in runs if store.is_ours(run, home) and run.resumable]
    run = waiting[0] if waiting else runs[0]
    store.need_ours(run, home, "%lab accept")
    take(run)
    now, card = row(run, home), load_card(run)
    loss = card.val[-1][2] if card is not None and card.val else None
    return Listing(
        title=run.name,
        facts=["accepted", f"run {run.id}"],
        columns=["run", "status", "steps", "planned", "last validation loss"],
        rows=[[run.id, now.status, now.steps, now.planned_steps, loss]],
        caption=f"It is finished as it is: its cell restores it; --fresh trains anew; %evaluate {run.id} reads all held-out text.",
    )


def end(name: str | None, how: str, every: bool = False) -> Listing:
    """`pause` a run that is training, or `stop` it: take it as it is. With `every`, all that train on this machine; nobody is
    asked twice."""
    from llm_lab.background import pause, stop

    home = store.home()
    if every and name:
        raise BadValue(f"{how}: --all is for every run that is training; leave out {name!r}, or --all")
    if every:
        runs = [run for run in store.all_runs() if run.status == "training" and store.is_ours(run, home)]
    else:
        named = store.named(str(name))
        found = [run for run in named if store.is_ours(run, home)] or named
        runs = [next((run for run in found if run.status == "training"), found[0])]
        store.need_ours(runs[0], home, f"%lab {how}")
    for run in runs:
        (pause if how == "pause" else stop)(run)
    end = time.monotonic() + _PATIENCE
    while any(run.status == "training" for run in runs) and time.monotonic() < end:
        time.sleep(_LOOK)
    told = "%lab resume NAME goes on with it." if how == "pause" else "Its cell restores it as it is."
    if any(run.status == "training" for run in runs):
        told = f"What is still training finishes its step first. {told}"
    told = told if runs else "No run is training."
    rows = [[run.id, run.name, run.status, str(run.path)] for run in runs]
    return Listing(
        title=name or "runs", facts=[how], columns=["run", "name", "status", "folder"], rows=rows, caption=told
    )


def resume(name: str) -> BackgroundRun:
    """Go on in the background with the newest run of a name that waits, or the one of that id."""
    from llm_lab.background import attach
    from llm_lab.background import resume as go_on

    home = store.home()
    runs = store.named(name)
    found = [run for run in runs if store.is_ours(run, home)] or runs
    run = next((run for run in found if run.resumable), found[0])
    store.need_ours(run, home, "%lab resume")
    go_on(run)
    return attach(run)


def pack(name: str, to: str | None = None) -> Listing:
    """Write a run as one zip, into the working folder unless told."""
    from llm_lab.store.packs import pack as write

    run = store.find(name)
    _refuse_held(run)
    path = Path(to) if to else Path(f"{run.name}.zip")
    path = path / f"{run.name}.zip" if path.is_dir() else path
    if path.suffix.lower() != ".zip":
        raise BadValue(f"to: {str(path)!r} is no name of a zip; for example {run.name}.zip")
    write(run, path)
    told = f'lab.load("{path}") brings it back; so does its name, where LLM_LAB_PATH names the zip or the folder that it is in.'
    if not run.loadable:
        told = "It has no weights: its curves can be looked at, and nothing loaded."
    return Listing(
        title=run.name,
        facts=["packed", f"run {run.id}"],
        columns=["run", "status", "MB", "zip"],
        rows=[[run.id, run.status, round(path.stat().st_size / 1e6, 2), str(path)]],
        caption=told,
    )


# values of files that may hold anything -------------------------------------------------------------------------------


def _word(value: Any) -> str | None:
    return printable(value[:200]) if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST else None
