"""Whether anything grows over thousands of steps and hundreds of texts, and whether a training takes what was said before it."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from typing import Any

from llm_lab import machine
from llm_lab.bench.measuring import judged
from llm_lab.bench.options import BenchOptions
from llm_lab.bench.start import process
from llm_lab.bench.training import text, trainer
from llm_lab.decoding.writing import write
from llm_lab.results import BenchLine
from llm_lab.store.lm import LM
from llm_lab.training.plan import applied
from llm_lab.training.validation import block_losses, pieces

PART = "memory"
STEPS, SETTLED = 5000, 500
TEXTS, FIRST = 200, 20
GROWTH = 10.0  # MB: what the allocator's own unevenness comes to
SIZES = dict(n_layer=2, n_head=2, d_model=64, max_seq_len=64)
OVER = 1.15  # times the estimate that a training may come to
SHAPES: dict[str, dict[str, Any]] = {
    "wide": dict(n_layer=6, n_head=8, d_model=768, max_seq_len=64, batch_size=4),
    "AdamW": dict(n_layer=6, n_head=8, d_model=768, max_seq_len=64, batch_size=4, optimizer="adamw"),
    "long": dict(n_layer=4, n_head=4, d_model=256, max_seq_len=512, batch_size=16),
    "gpt2": dict(preset="gpt2", n_layer=6, n_head=6, d_model=384, max_seq_len=256, batch_size=8, dropout=0.1),
    "llama": dict(
        preset="llama", n_layer=6, n_head=8, n_kv_head=2, d_model=512, d_ff=1408, max_seq_len=256, batch_size=8
    ),
    "vocabulary": dict(
        n_layer=2, n_head=4, d_model=256, max_seq_len=128, batch_size=16, tokenizer="bpe", vocab_size=8000
    ),
    "bert": dict(preset="bert", n_layer=6, n_head=6, d_model=384, max_seq_len=256, batch_size=8),
    "t5": dict(
        preset="t5", n_layer=4, n_decoder_layer=4, n_head=6, d_model=384, d_ff=1536, max_seq_len=128, batch_size=16
    ),
    "experts": dict(n_layer=4, n_head=4, d_model=256, n_expert=8, n_active=2, max_seq_len=256, batch_size=8),
}
# The largest size from the check of memory on, above the size at it: text and tokenizer are there by then.
_ONE = """
import sys
from pathlib import Path
import llm_lab as lab
from llm_lab import machine, memory
before, check = [], memory.check
def noted(*args, **kwargs):
    found = check(*args, **kwargs)
    before.append(machine.used())
    Path("/proc/self/clear_refs").write_text("5")  # the largest size is counted anew from here
    return found
memory.check = noted
text = " ".join(f"{i * i * 7919 % 99999983:x} green bottles" for i in range(9000))  # words for eight thousand merges
options = json.loads(OPTIONS)
lm = lab.pretrain([text], name="measured", steps=10, display=False, device="cpu", sample_tokens=0, **options)
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
most = 1024 * int(lines["VmHWM"].split()[0])
print(json.dumps({"expected": lm.report.memory_need, "measured": most - before[0]}))
"""
# What of the process no file stands for: pages of a mapped file go when others need the memory.
_LARGE = """
import random, re, threading, time
from pathlib import Path
import llm_lab as lab
rng = random.Random(0)
words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(20000)]
with open("large.txt", "w") as file:
    while file.tell() < SIZE:
        file.write(" ".join(rng.choices(words, k=20000)) + "\\n")
most = [0]
def look():
    while True:
        most[0] = max(most[0], int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
        time.sleep(0.02)
threading.Thread(target=look, daemon=True).start()
began = time.perf_counter()
lm = lab.pretrain("large.txt", name="large", steps=50, display=False, device="cpu", sample_tokens=0, **json.loads(OPTIONS))
print(json.dumps({"memory": most[0] * 1024 / 1e6, "seconds": time.perf_counter() - began}))
"""
LARGE, LARGE_MEMORY = 300_000_000, 1000.0  # bytes of text, which are read as those of any larger one; MB


def memory(options: BenchOptions) -> Iterator[BenchLine]:
    yield from _growth()
    if not sys.platform.startswith("linux"):
        yield BenchLine(part=PART, what="a training against its estimate", value=None, note="measured on Linux alone")
        return
    found = process(f"SIZE = {LARGE}; OPTIONS = {json.dumps({**SIZES, 'tokenizer': 'bpe'})!r}" + _LARGE)
    yield judged(
        BenchLine(
            part=PART,
            what=f"the process that learns merges from a text of {LARGE / 1e6:,.0f} MB, tokenises it and trains on it",
            value=found["memory"],
            unit="MB",
            goal=LARGE_MEMORY,
            least=False,
            note=f"{found['seconds']:.0f} s; what no file stands for, at its largest",
        )
    )
    for name, shape in SHAPES.items():
        found = process(f"OPTIONS = {json.dumps(shape)!r}" + _ONE)
        yield judged(
            BenchLine(
                part=PART,
                what=f"{name}: what a training takes, of the estimate shown before it",
                value=found["measured"] / found["expected"],
                goal=OVER,
                least=False,
                note=f"{found['measured'] / 1e6:,.0f} of {found['expected'] / 1e6:,.0f} MB",
            )
        )


def _growth() -> Iterator[BenchLine]:
    data, tokenizer = text()
    one = trainer("modern", SIZES, data, tokenizer, 8)
    before = 0.0
    with applied(one.plan):
        for event in one.events():
            if event.kind == "step" and event.step == SETTLED:
                before = _used()
            if event.step == STEPS:
                break
        grown = _grown(f"what the process grows by from step {SETTLED:,} to {STEPS:,}", before)
    yield grown
    examples = pieces(one.objective, data, SIZES["max_seq_len"])
    block_losses(one.objective, one.trainee, examples[:FIRST], FIRST, one.device)
    before = _used()
    block_losses(one.objective, one.trainee, examples, FIRST, one.device)
    yield _grown(f"what it grows by over an evaluation of {len(data):,} tokens", before)
    lm = LM("small", one.trainee.model.eval(), tokenizer)
    for i in range(TEXTS):
        write(lm, "The quick", max_new_tokens=60, min_new_tokens=60, seed=i)
        if i + 1 == FIRST:
            before = _used()
    yield _grown(f"what it grows by from text {FIRST} to {TEXTS}", before)


def _used() -> float:
    gc.collect()
    return machine.used() / 1e6


def _grown(what: str, before: float) -> BenchLine:
    after = _used()
    note = f"{before:,.0f} MB, then {after:,.0f} MB"
    line = BenchLine(
        part=PART, what=what, value=max(0.0, after - before), unit="MB", goal=GROWTH, least=False, note=note
    )
    return judged(line)
