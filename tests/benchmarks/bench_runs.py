"""What it costs that a run is never lost: states saved at the default cadence, the live card, workers side by side; and how
long the quickstart takes when its runs are finished. Measures; asserts nothing.

    python tests/benchmarks/bench_runs.py [--rounds 4] [--seconds 25] [--corpus python-docs] [--json FILE]

Saving and the card are compared by runs in turns, with and without; and, since a clock on a shared machine is coarser than what
is looked for, also by what they took themselves: the time that steps waited for a copy, the processor's time of the thread
that writes, and of drawing. The card is drawn in a real kernel, which sends it to a client that reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

import torch

import llm_lab as lab
from llm_lab.store import states

ROOT = Path(__file__).parents[2]
SHAPES: dict[str, dict[str, Any]] = {
    "0.8 M": dict(n_layer=4, n_head=4, d_model=128, max_seq_len=64, batch_size=12),
    "10 M": dict(n_layer=6, n_head=6, d_model=384, max_seq_len=128, batch_size=8),
}
COST = 1.02  # times as long a run may take that is saved, or drawn
FAIR = 0.9  # of the work of one worker that two at once must do together


def spans(seconds: float, shape: dict[str, Any], corpus: str, **options: Any) -> tuple[float, int]:
    """(seconds a step, steps) of one run."""
    report = lab.pretrain(
        corpus,
        name="bench",
        seconds=seconds,
        schedule="constant",
        fresh=True,
        sample_tokens=0,
        eval_tokens=512,
        **shape,
        **options,
    ).report
    return (report.seconds - report.setup_seconds) / report.step, report.step


def told(label: str, ratios: list[float], share: float, more: str = "") -> dict[str, Any]:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    verdict = "met" if 1 + share < COST and (middle < COST or low <= COST) else "missed"
    print(
        f"  {label:<10} × {middle:.4f} by the clock, quartiles {low:.4f} to {high:.4f}; {100 * share:.2f} % of the time by its own "
        f"account{more} (below {100 * (COST - 1):.0f} % wanted: {verdict})"
    )
    return {"ratio": middle, "quartiles": [low, high], "share": share, "verdict": verdict}


def saving(args: argparse.Namespace) -> dict[str, Any]:
    """States at the default cadence against none."""
    print("saving, every 10 s unless that takes over a hundredth of the time:")
    copies, writes = [], []
    save, write = states.Saver.save, states.Saver._write

    def timed_save(self: Any, take: Any) -> None:
        began = time.perf_counter()
        save(self, take)
        copies.append(time.perf_counter() - began)

    def timed_write(self: Any, *rest: Any) -> None:
        began = time.thread_time()
        write(self, *rest)
        writes.append(time.thread_time() - began)

    states.Saver.save, states.Saver._write = timed_save, timed_write  # type: ignore[method-assign]
    found = {}
    for name, shape in SHAPES.items():
        spans(4, shape, args.corpus, display=False)
        ratios, total = [], 0.0
        copies.clear(), writes.clear()
        for turn in range(args.rounds):
            order = (10.0, 0.0) if turn % 2 else (0.0, 10.0)
            measured = {
                every: spans(args.seconds, shape, args.corpus, save_every=every, display=False) for every in order
            }
            ratios.append(measured[10.0][0] / measured[0.0][0])
            total += args.seconds
        states_saved = len(copies) / args.rounds
        more = f", {states_saved:g} states a run, the longest stop {1e3 * max(copies, default=0):.0f} ms"
        found[name] = told(name, ratios, (sum(copies) + sum(writes)) / total, more)
    states.Saver.save, states.Saver._write = save, write  # type: ignore[method-assign]
    return found


KERNEL = """
import sys, time
sys.path.insert(0, {root!r})
from tests.benchmarks.bench_runs import SHAPES, spans
from llm_lab.views import live
drawing = []
update = live.Live.update
def timed(self, result):
    began = time.perf_counter()
    done = update(self, result)
    drawing.append(time.perf_counter() - began)
    return done
live.Live.update = timed
def one(shape, display):
    drawing.clear()
    step, steps = spans({seconds}, SHAPES[shape], {corpus!r}, display=display)
    return step, sum(drawing) / {seconds}
"""


def drawing(args: argparse.Namespace) -> dict[str, Any]:
    """A card in a real kernel against none."""
    from jupyter_client.manager import start_new_kernel

    print("the live card, in a kernel:")
    manager, client = start_new_kernel(extra_arguments=["--HistoryManager.enabled=False"])
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            said.append(message["content"]["text"])

    def run(code: str) -> str:
        said.clear()
        reply = client.execute_interactive(code, output_hook=hear, timeout=600)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(said)

    found = {}
    try:
        run(KERNEL.format(root=str(ROOT), seconds=args.seconds, corpus=args.corpus))
        for name in SHAPES:
            run(f"one({name!r}, False)")
            ratios, shares = [], []
            for turn in range(args.rounds):
                measured = {}
                for display in (True, False) if turn % 2 else (False, True):
                    measured[display] = json.loads(
                        run(f"import json; print(json.dumps(one({name!r}, {display})))").splitlines()[-1]
                    )
                ratios.append(measured[True][0] / measured[False][0])
                shares.append(measured[True][1])
            found[name] = told(name, ratios, statistics.mean(shares))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return found


def workers(args: argparse.Namespace) -> dict[str, Any]:
    """Two workers at once against one alone: the steps of both in the same time."""
    print("workers side by side, in the background:")

    def steps(count: int) -> int:
        made = [
            lab.pretrain(
                args.corpus,
                name=f"worker{i}",
                steps=10**6,
                background=True,
                fresh=True,
                display=False,
                sample_tokens=0,
                **SHAPES["0.8 M"],
            )
            for i in range(count)
        ]
        while not all(run.update().step for run in made):
            time.sleep(0.1)
        before = sum(run.update().step for run in made)
        time.sleep(args.seconds)
        after = sum(run.update().step for run in made)
        for run in made:
            run.pause()
        while any(run.status == "training" for run in made):
            time.sleep(0.1)
        return after - before

    ratios = []
    for turn in range(max(2, args.rounds // 2)):
        counts = {count: steps(count) for count in ((1, 2) if turn % 2 else (2, 1))}
        ratios.append(counts[2] / counts[1])
    middle = statistics.median(ratios)
    verdict = "met" if middle >= FAIR else "missed"
    print(
        f"  two do × {middle:.3f} of the steps of one alone ({', '.join(f'{r:.3f}' for r in ratios)}; at least {FAIR} wanted: {verdict})"
    )
    return {"ratio": middle, "ratios": ratios, "verdict": verdict}


def again(args: argparse.Namespace, limit: float = 20) -> dict[str, Any]:
    """Restart & Run All of the quickstart, its runs finished: training is shortened for the first time, and the cells are the
    same both times."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(ROOT / "notebooks" / "00_quickstart.ipynb", as_version=4)
    for cell in book.cells:
        cell.source = re.sub(r"--seconds \d+", "--seconds 5", cell.source) if cell.cell_type == "code" else cell.source
    seconds = []
    os.environ["PYTHONPATH"] = str(ROOT)
    for _ in range(2):
        began = time.perf_counter()
        NotebookClient(
            book, timeout=600, kernel_name="python3", resources={"metadata": {"path": os.getcwd()}}
        ).execute()
        seconds.append(time.perf_counter() - began)
    verdict = "met" if seconds[1] < limit else "missed"
    print(
        f"the quickstart, run again with its runs finished: {seconds[1]:.1f} s, kernel's start included (below {limit:g} s wanted: {verdict})"
    )
    return {"first": seconds[0], "again": seconds[1], "verdict": verdict}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=25, help="of one run")
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.json is not None:
        args.json = args.json.resolve()
    facts = {"torch": torch.__version__, "cores": os.cpu_count(), "load": os.getloadavg()}
    print(f"{facts['cores']} cores, load {facts['load'][0]:.2f}, torch {facts['torch']}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = {
            "machine": facts,
            "saving": saving(args),
            "drawing": drawing(args),
            "workers": workers(args),
            "again": again(args),
        }
        os.chdir("/")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
