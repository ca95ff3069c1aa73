"""GPT-2 of 124 M parameters on one CUDA GPU, against what its maker says that it can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from llm_lab.bench.measuring import against, in_turns, judged, peer, ratio, spread, timed
from llm_lab.bench.options import BenchOptions
from llm_lab.bench.training import SECONDS, rate, text, trainer
from llm_lab.bench.writing import PROMPT, gpt2_writes, random_lm, writes
from llm_lab.data.arrays import Tokens
from llm_lab.models.language_model import LanguageModel
from llm_lab.results import BenchLine
from llm_lab.tokenizers.tokenizer import Tokenizer
from llm_lab.training.trainer import Trainer

PART = "gpu"
SIZES: dict[str, Any] = dict(n_layer=12, n_head=12, d_model=768, max_seq_len=1024)
VOCABULARY = 50_304  # GPT-2's 50,257, rounded up to a multiple of 64 as those who train it do
BATCH, TOKENS, TEXTS = 32, 768, 32
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
TRAINING = "GPT-2 124 M, context 1024, compiled: training, of the GPU's bf16 peak"
WRITING = "GPT-2 124 M, bfloat16, one text: writing, of the GPU's bandwidth"


def gpu(options: BenchOptions) -> Iterator[BenchLine]:
    if not torch.cuda.is_available():
        for what, goal in ((TRAINING, TRAINS), (WRITING, WRITES)):
            yield BenchLine(part=PART, what=what, value=None, unit="%", goal=goal, note="no CUDA GPU is here")
        return
    device = torch.cuda.get_device_name()
    operations, bandwidth = next((peaks for name, peaks in PEAKS.items() if name in device), (None, None))
    _, tokenizer = text()
    yield from _training(options, tokenizer, device, operations)
    with torch.inference_mode():
        yield from _writing(options, tokenizer, device, bandwidth)


def gpt2(tokenizer: Tokenizer, **more: Any) -> Trainer:
    """A trainer of it over random ids, which cost what text costs."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 1 << 23, dtype=np.uint16)
    data = Tokens(ids, np.array([0, len(ids)]), len(ids), len(ids))
    return trainer("gpt2", SIZES, data, tokenizer, BATCH, VOCABULARY, device="cuda", optimizer="adamw", **more)


def _training(options: BenchOptions, tokenizer: Tokenizer, device: str, peak: float | None) -> Iterator[BenchLine]:
    ways, taken, compiling = {}, {}, 0.0
    for name, compiles in (("eager", False), ("compiled", True)):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        one = gpt2(tokenizer, compile=compiles)
        ways[name] = rate(one)
        compiling = timed(ways[name]) - SECONDS
        taken[name] = (torch.cuda.max_memory_allocated() - before) / 1e9
    found = in_turns(ways, options.rounds)
    # 6 operations a weight, and what causal attention takes (Kaplan et al. 2020, §2.1)
    work = 6.0 * (_weights(one.trainee.model) + SIZES["n_layer"] * SIZES["d_model"] * SIZES["max_seq_len"])
    tokens = spread(found["compiled"])["value"]
    note = f"{tokens:,.0f} tokens/s on {device}, batch {BATCH}; {taken['compiled']:.1f} GB"
    line = _share(TRAINING, [work * tokens for tokens in found["compiled"]], peak, TRAINS, note)
    events = one.events()
    yield judged(
        line,
        lambda: [next(events) for _ in range(4)],
        "norms, activation and loss in fewer passes over memory",
        gpu=True,
    )
    yield BenchLine(
        part=PART,
        what="the same, against not compiled",
        note=f"not compiled {spread(found['eager'])['value']:,.0f} tokens/s and {taken['eager']:.1f} GB; compiling took {compiling:.0f} s",
        **ratio(found["compiled"], found["eager"]),
    )


def _writing(options: BenchOptions, tokenizer: Tokenizer, device: str, peak: float | None) -> Iterator[BenchLine]:
    lm = random_lm("gpt2", VOCABULARY, tokenizer, SIZES, torch.bfloat16)
    lm.model.to("cuda")
    ids = torch.tensor([tokenizer.encode(PROMPT)], device="cuda")
    ways = {
        "one": writes(lm, TOKENS, strategy="greedy"),
        "many": writes(lm, TOKENS, TEXTS, strategy="temperature", n=TEXTS),
    }
    if not (missing := peer()):
        reference = gpt2_writes(SIZES, VOCABULARY, torch.bfloat16, "cuda")
        ways["theirs"] = lambda: reference(ids, TOKENS // 4, do_sample=False)
    found = in_turns(ways, max(2, options.rounds // 2))
    weights = _weights(lm.model)
    note = f"{spread(found['one'])['value']:,.0f} tokens/s on {device}, {2 * weights / 1e6:,.0f} MB of weights for each"
    line = _share(WRITING, [2.0 * weights * tokens for tokens in found["one"]], peak, WRITES, note)
    yield judged(
        line,
        writes(lm, TOKENS // 12, strategy="greedy"),
        "a layer in fewer kernels, and the choice of the token within the graph",
        gpu=True,
    )
    yield against(PART, "the same, against transformers' generate", None, found["one"], found.get("theirs"), missing)
    yield BenchLine(
        part=PART,
        what=f"{TEXTS} texts at once, sampled, against one",
        note=f"{spread(found['many'])['value']:,.0f} tokens/s",
        **ratio(found["many"], found["one"]),
    )


def _weights(model: LanguageModel) -> int:
    """The parameters that each token is multiplied with: all but the positions'."""
    return sum(p.numel() for p in model.parameters()) - SIZES["max_seq_len"] * SIZES["d_model"]


def _share(what: str, found: list[float], peak: float | None, goal: float, note: str) -> BenchLine:
    if peak is None:
        return BenchLine(
            part=PART, what=what, value=None, unit="%", goal=goal, note=f"{note}; its peak is not known here"
        )
    share = spread([value / peak for value in found])
    return BenchLine(part=PART, what=what, unit="%", goal=goal, note=note, **share)
