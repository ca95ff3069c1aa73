"""GPT-2 of 124 M parameters on one CUDA GPU, against what its maker says that it can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from llm_lab.bench.measuring import in_turns, judged, spread, timed
from llm_lab.bench.options import BenchOptions
from llm_lab.bench.training import rate, text, trainer
from llm_lab.decoding.writing import write
from llm_lab.results import BenchLine
from llm_lab.store.lm import LM

PART = "gpu"
SIZES: dict[str, Any] = dict(n_layer=12, n_head=12, d_model=768, max_seq_len=1024)
BATCH, TOKENS = 16, 256
TRAINS, WRITES = 0.5, 0.6  # of the bf16 peak; of the bandwidth
# By the makers' data sheets: dense bf16 operations and bytes of memory a second.
PEAKS = {
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L4": (121e12, 0.3e12),
    "A10": (125e12, 0.6e12),
    "T4": (65e12, 0.32e12),
}


def gpu(options: BenchOptions) -> Iterator[BenchLine]:
    training = "GPT-2 124 M, context 1024, compiled: training, of the GPU's bf16 peak"
    writing = "the same: writing, of the GPU's bandwidth"
    if not torch.cuda.is_available():
        for what, goal in ((training, TRAINS), (writing, WRITES)):
            yield BenchLine(part=PART, what=what, value=None, unit="%", goal=goal, note="no CUDA GPU is here")
        return
    device = torch.cuda.get_device_name()
    peak = next((value for name, value in PEAKS.items() if name in device), None)
    data, tokenizer = text()
    one = trainer("gpt2", SIZES, data, tokenizer, BATCH, device="cuda", compile=True)
    found = in_turns({"train": rate(one)}, options.rounds)["train"]
    model = one.trainee.model
    parameters = sum(p.numel() for p in model.parameters())
    # 6 operations a parameter, and what causal attention takes (Kaplan et al. 2020, §2.1)
    work = 6.0 * (parameters + SIZES["n_layer"] * SIZES["d_model"] * SIZES["max_seq_len"])
    note = f"{spread(found)['value']:,.0f} tokens/s on {device}, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    yield _line(training, [work * tokens for tokens in found], peak and peak[0], TRAINS, note)
    lm = LM("gpt2", model.to(torch.bfloat16).eval(), tokenizer)
    length = dict(max_new_tokens=TOKENS, min_new_tokens=TOKENS, seed=0, strategy="greedy")
    found = in_turns({"write": lambda: TOKENS / timed(lambda: write(lm, "The", **length))}, options.rounds)["write"]
    note = f"{spread(found)['value']:,.0f} tokens/s, one text"
    yield _line(writing, [2.0 * parameters * tokens for tokens in found], peak and peak[1], WRITES, note)


def _line(what: str, found: list[float], peak: float | None, goal: float, note: str) -> BenchLine:
    if peak is None:
        return BenchLine(
            part=PART, what=what, value=None, unit="%", goal=goal, note=f"{note}; its peak is not known here"
        )
    share = spread([value / peak for value in found])
    return judged(BenchLine(part=PART, what=what, unit="%", goal=goal, note=note, **share))
