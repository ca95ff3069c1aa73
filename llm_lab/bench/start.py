"""What a user waits for before anything happens, and the memory that it takes: each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from llm_lab.bench.measuring import judged, spread
from llm_lab.bench.options import BenchOptions
from llm_lab.bench.training import text
from llm_lab.results import BenchLine

PART = "start"
EXTENSION, STEP, LOAD, MEMORY = 0.2, 3.0, 0.5, 1000.0

_EXTENSION = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
began = time.perf_counter()
shell.run_line_magic("load_ext", "llm_lab")
print(json.dumps({"seconds": time.perf_counter() - began}))
"""
_STEP = """
import llm_lab as lab, psutil, threading, time
most = [0]
def look():
    while True:
        most[0] = max(most[0], psutil.Process().memory_info().rss)
        time.sleep(0.02)
threading.Thread(target=look, daemon=True).start()
lm = lab.pretrain("python-docs", name="quick", seconds=8, display=False, fresh=True)
first = next(event for event in lm.run.events() if event["kind"] == "step")
lab.generate(lm, "The ", max_new_tokens=100, seed=0)
print(json.dumps({"seconds": first["seconds"], "memory": most[0] / 1e6}))
"""
_LOAD = """
import torch, time, llm_lab as lab
lab.load  # what loading needs besides its model is imported
from llm_lab.store import lm
began = time.perf_counter()
found = lab.load("large")
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def start(options: BenchOptions) -> Iterator[BenchLine]:
    turns = max(2, min(options.rounds, 5))
    found = [process(_EXTENSION)["seconds"] for _ in range(turns)]
    yield judged(
        BenchLine(
            part=PART,
            what="%load_ext llm_lab, in a shell that runs",
            unit="s",
            goal=EXTENSION,
            least=False,
            **spread(found),
        )
    )
    steps = [process(_STEP) for _ in range(turns)]
    yield judged(
        BenchLine(
            part=PART,
            what="from the call of pretrain to its first step, torch's import and the choice of the size included",
            unit="s",
            goal=STEP,
            least=False,
            **spread([one["seconds"] for one in steps]),
        )
    )
    yield judged(
        BenchLine(
            part=PART,
            what="the process that trains and writes, at its largest",
            unit="MB",
            goal=MEMORY,
            least=False,
            **spread([one["memory"] for one in steps]),
        )
    )
    _save_large()
    loads = [process(_LOAD)["seconds"] for _ in range(turns)]
    yield judged(
        BenchLine(
            part=PART,
            what="loading a saved model of 135 M parameters",
            unit="s",
            goal=LOAD,
            least=False,
            **spread(loads),
        )
    )


def _save_large() -> None:
    """A model of that size in the store of this folder."""
    import torch

    from llm_lab.bench.writing import LARGE, LARGE_VOCABULARY, random_lm

    _, tokenizer = text()
    random_lm("llama", LARGE_VOCABULARY, tokenizer, LARGE, torch.float32).save("large")


def process(code: str) -> dict[str, Any]:
    """What the code prints last, as JSON, from a new process in this folder."""
    made = subprocess.run([sys.executable, "-c", "import json\n" + code], capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(made.stderr)
    return json.loads(made.stdout.splitlines()[-1])
