"""Turns, medians and quartiles; and where the time of a call goes."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import torch

from llm_lab import machine
from llm_lab.bench.options import PARTS, BenchOptions
from llm_lab.results import Bench, BenchLine


def run(options: BenchOptions | None = None, told: Callable[[BenchLine], None] = lambda line: None) -> Bench:
    """The chosen parts, one after the other, in a folder of their own that goes again; `told` hears each line as it is there."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return _run(options or BenchOptions(), told)


def _run(options: BenchOptions, told: Callable[[BenchLine], None]) -> Bench:
    lines: list[BenchLine] = []
    before = _load()
    notes = [
        "Each ratio is the median over turns taken one after the other in this run (A B A B), with quartiles; a first turn of each is not counted."
    ]
    for part in options.chosen:
        try:
            for line in PARTS.load(part)(options):
                lines.append(line)
                told(line)
        except KeyboardInterrupt:
            notes.append(f"It was interrupted in {part}; what comes after it is not measured.")
            break
        except Exception as error:  # what was measured before it stays
            lines.append(BenchLine(part=part, what="the rest", value=None, note=f"{type(error).__name__}: {error}"))
    environment = {
        **machine.environment(),
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "cores": machine.cores(),
        "threads": torch.get_num_threads(),
        "load_before": before,
        "rounds": options.rounds,
    }
    if torch.cuda.is_available():
        environment["gpu"] = torch.cuda.get_device_name()
    facts = [
        environment["date"][:10],
        environment["cpu"],
        f"{environment['cores']} cores",
        f"torch {environment['torch']}",
    ]
    if before is not None and before > 0.5 * machine.cores():
        notes.append(f"The machine was busy before it began (load {before:.1f}): do not quote these figures.")
    return Bench(lines=lines, environment=environment, facts=facts, notes=notes)


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each way gives, once a turn; the first turn only warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            value = way()
            if turn:
                found[name].append(value)
    return found


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call, with what it left to the GPU."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles, as fields of a line."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"value": middle, "low": low, "high": high}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Of two ways by turns, one over the other within each."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def limits(call: Callable[[], Any], most: int = 4, gpu: bool = False) -> str:
    """What a call spends its time on: the operations, of a GPU the kernels, that take most of it, and what is left: on a CPU that
    is Python's own, on a GPU it waits."""
    from torch.profiler import ProfilerActivity, profile

    timed(call)
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        slow = timed(call)
    spent = "self_device_time_total" if gpu else "self_cpu_time_total"
    events = [(_short(event.key), getattr(event, spent) / 1e6) for event in profiler.key_averages()]
    total = sum(seconds for _, seconds in events)
    events = sorted(events, key=lambda event: -event[1])[:most]
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in events)
    outside = max(0.0, 1 - total / slow)
    return f"of its operations' time {shares}; {outside:.0%} outside of them"


def _short(operation: str) -> str:
    """The name of an operation or a kernel without what it was made of."""
    name = operation.removeprefix("aten::").removeprefix("void ")
    return re.split(r"[<(]", name)[0].split("::")[-1][:40] or name[:40]


def judged(line: BenchLine, call: Callable[[], Any] | None = None, idea: str = "", gpu: bool = False) -> BenchLine:
    """The line; where its goal is missed, with what limits it and what would be next."""
    if line.reached is not False:
        return line
    more = [line.note, limits(call, gpu=gpu) if call else "", f"next: {idea}" if idea else ""]
    return replace(line, note="; ".join(part for part in more if part))


def against(
    part: str, what: str, goal: float | None, ours: Sequence[float], theirs: Sequence[float] | None, missing: str
) -> BenchLine:
    """Tokens a second of ours over theirs, by turns; blank where there is nothing to compare with, for the reason `missing`."""

    def shown(rates: Sequence[float]) -> str:
        rate = spread(rates)["value"]
        return f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}"

    if theirs is None:
        return BenchLine(part=part, what=what, value=None, goal=goal, note=f"{shown(ours)} tokens/s; {missing}")
    note = f"{shown(ours)} against {shown(theirs)} tokens/s"
    return BenchLine(part=part, what=what, goal=goal, note=note, **ratio(ours, theirs))


def peer() -> str:
    """Why there is no comparison with transformers; empty where it is installed."""
    try:
        import transformers
    except ImportError:
        return "transformers is not installed: pip install transformers"
    transformers.utils.logging.set_verbosity_error()  # it would warn of token ids that play no part here
    return ""
