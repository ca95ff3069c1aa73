"""How good a minute of training is, and how fast our loop runs beside transformers'. Measures; asserts nothing.

    python tests/benchmarks/bench_shakespeare.py [--seconds 60] [--json FILE] [--only quality|speed]

Absolute times depend on the machine and on what else it does; the ratios are taken within one run, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

import llm_lab as lab

TARGET = 1.62  # nats per character over the whole held-out split, after 60 s on 2 cores
SHAPE = dict(n_layer=4, n_head=4, d_model=128, max_seq_len=64)  # nanoGPT's recipe for CPUs, 0.8 M parameters
BATCH = 12
WARM_STEPS = 3
NOISY = 1.3  # fastest turn over slowest, above which something else took the cores


def quality(seconds: float) -> dict[str, Any]:
    """Train once by the clock; the loss over the whole held-out split, in nats per character."""
    started = time.perf_counter()
    lm = lab.pretrain("shakespeare", name="bench", seconds=seconds, tokenizer="char", fresh=True, display=False)
    report = lm.report
    return {
        "asked_seconds": seconds,
        "trained_seconds": round(report.seconds, 2),
        "wall_seconds": round(time.perf_counter() - started, 2),
        "steps": report.step,
        "tokens": report.tokens,
        "tokens_per_second": round(report.tokens_per_second),
        "held_out_loss": round(report.final["loss"], 4),
        "target": TARGET,
        "reached": report.final["loss"] <= TARGET,
        "repeat": report.repeat,
    }


def speed(seconds: float, rounds: int) -> dict[str, Any]:
    """Tokens per second of the training loops at the same shape, batch and data: in turns, medians."""
    from llm_lab.data.arrays import tokenize
    from llm_lab.tokenizers.tokenizer import train

    corpus = lab.corpus("shakespeare")
    tokenizer = train(corpus, "char")
    data = tokenize(corpus.split(0.9)[0], tokenizer, Path("data"))
    loops: dict[str, Callable[[], float]] = {
        "llm_lab, gpt2 shape, AdamW, fp32": lambda: ours("gpt2", "adamw", "fp32", data, tokenizer, seconds),
        "llm_lab, gpt2 shape, AdamW": lambda: ours("gpt2", "adamw", "auto", data, tokenizer, seconds),
        "llm_lab, modern, Muon": lambda: ours("modern", "muon", "auto", data, tokenizer, seconds),
    }
    try:
        import transformers  # noqa: F401  # only whether it is there

        loops["transformers GPT2LMHeadModel, AdamW"] = lambda: theirs(data, tokenizer.vocab_size, seconds)
    except ImportError:
        print("transformers is not installed, so there is nothing to compare with")
    found: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            found[name].append(loop())
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    reference = medians.get("transformers GPT2LMHeadModel, AdamW")
    return {
        name: {
            "tokens_per_second": round(medians[name]),
            "all": [round(rate) for rate in rates],
            "ratio_to_transformers": round(medians[name] / reference, 3) if reference else None,
        }
        for name, rates in found.items()
    }


def ours(preset: str, optimizer: str, precision: str, data: Any, tokenizer: Any, seconds: float) -> float:
    """Tokens per second of our trainer, without validation; precision `auto` is what it takes by itself."""
    import torch

    from llm_lab.models.options import SHAPES
    from llm_lab.models.presets import PRESETS
    from llm_lab.objectives.make import make
    from llm_lab.training.options import BudgetOptions, TrainOptions
    from llm_lab.training.plan import applied, resolve
    from llm_lab.training.trainer import Trainer

    torch.manual_seed(0)
    config = PRESETS.load(preset).config(tokenizer.vocab_size, **SHAPE, dropout=0.0)
    objective = make(["clm"], {}, tokenizer)
    options = TrainOptions(batch_size=BATCH, optimizer=optimizer, device="cpu", precision=precision)
    plan = resolve(BudgetOptions(seconds=seconds), options, config.max_seq_len, len(data), config.d_model)
    trainer = Trainer(objective.attach(SHAPES.load(config.shape)(config)), objective, data, None, plan)
    with applied(plan):
        steps = [event for event in trainer.events() if event.kind == "step"]
    if len(steps) <= WARM_STEPS:
        return steps[-1].tokens / steps[-1].seconds
    first, last = steps[WARM_STEPS], steps[-1]
    return (last.tokens - first.tokens) / (last.seconds - first.seconds)


def theirs(data: Any, vocab_size: int, seconds: float) -> float:
    """Tokens per second of transformers' GPT-2 in a plain loop: the same shape, batch, data, clipping and optimiser."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn of token ids that play no part here
    torch.manual_seed(0)
    block = SHAPE["max_seq_len"]
    sizes = dict(n_layer=SHAPE["n_layer"], n_head=SHAPE["n_head"], n_embd=SHAPE["d_model"], n_positions=block)
    config = GPT2Config(vocab_size=vocab_size, **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.from_numpy(np.asarray(data.ids, dtype=np.int64))
    rng = np.random.default_rng(0)
    began, step = time.perf_counter(), 0
    start = began
    while time.perf_counter() - began < seconds or step <= WARM_STEPS:
        offsets = rng.integers(0, len(ids) - block, BATCH)
        batch = torch.stack([ids[i : i + block] for i in offsets])
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step == WARM_STEPS:
            start = time.perf_counter()
    return (step - WARM_STEPS) * BATCH * block / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="time budget of the training (default: 60)")
    parser.add_argument("--loop-seconds", type=float, default=5, help="time of each turn of a loop (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each loop (default: 3)")
    parser.add_argument("--only", choices=("quality", "speed"), help="one half only")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    if given.json:
        given.json = given.json.resolve()
    figures: dict[str, Any] = {"version": lab.__version__}
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # a store of its own: nothing is restored, nothing stays
        try:
            machine = lab.doctor()
            print(machine)
            figures["machine"] = {
                str(row[0]): " · ".join(str(cell) for cell in row[1:] if cell) for row in machine.rows
            }
            figures["load_average"] = os.getloadavg() if hasattr(os, "getloadavg") else None
            if given.only != "speed":
                figures["quality"] = found = quality(given.seconds)
                verdict = "reached" if found["reached"] else "missed"
                print(
                    f"\nshakespeare, {found['trained_seconds']} s, {found['steps']:,} steps, "
                    f"{found['tokens_per_second']:,} tokens/s: {found['held_out_loss']} nats/char over the whole "
                    f"held-out split; target {TARGET} {verdict}"
                    + ("" if given.seconds == 60 else " (the target is for --seconds 60)")
                )
            if given.only != "quality":
                figures["speed"] = speed(given.loop_seconds, given.rounds)
                print(f"\ntraining loops, batch {BATCH}, {SHAPE}, medians of {given.rounds} turns:")
                for name, row in figures["speed"].items():
                    ratio = f"  × {row['ratio_to_transformers']:.2f}" if row["ratio_to_transformers"] else ""
                    spread = f"({min(row['all']):,} to {max(row['all']):,})"
                    print(f"  {name:38} {row['tokens_per_second']:8,} tokens/s {spread:20}{ratio}")
                if any(max(row["all"]) > NOISY * min(row["all"]) for row in figures["speed"].values()):
                    print("  turns of one loop differ widely: the machine was busy, so do not quote these figures")
        finally:
            os.chdir(home)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten to {given.json}")


if __name__ == "__main__":
    main()
