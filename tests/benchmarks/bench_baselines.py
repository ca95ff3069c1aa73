"""What attention buys: baselines and a transformer on one text for equal time, and what each remembers over a distance.

    python tests/benchmarks/bench_baselines.py --seconds 30

Asserts nothing. Speeds are of one run, one model after the other; the machine's load is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

import llm_lab as lab

MODELS: dict[str, dict[str, Any]] = {
    "modern": dict(n_layer=4, d_model=128),
    "conv": dict(n_layer=6, d_model=192),
    "lstm": dict(n_layer=2, d_model=256),
    "ngram": dict(order=6),
}
DISTANCES = (4, 16, 48)
LENGTH = 128
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def recall(distance: int, count: int, seed: int) -> list[str]:
    """Lines in which random letters come again after `distance`, over and over: from there on all is certain, for who
    remembers."""
    draw = random.Random(seed)
    periods = ("".join(draw.choices(LETTERS, k=distance)) for _ in range(count))
    return [(period * (LENGTH // distance + 1))[: LENGTH - 1] for period in periods]


def remembered(lm: lab.LM, distance: int) -> float:
    """Nats per letter over the last quarter of lines that were not trained on; ln 26 = 3.26 is a guess."""
    ids = torch.tensor([lm.tokenizer.encode(line) for line in recall(distance, 64, seed=1000 + distance)])
    lm.model.eval()
    with torch.no_grad():
        logs = lm.model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])
    return -float(logs[:, -LENGTH // 4 :].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--corpus", default="stories")
    asked = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    common: dict[str, Any] = dict(display=False, tokenizer="char", sample_tokens=0, max_seq_len=LENGTH, batch_size=16)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    head = f"{'model':<8} {'parameters':>11} {'train tokens/s':>15} {asked.corpus + ' nats/char':>20}"
    print(head + "".join(f"{f'recall at {d}':>15}" for d in DISTANCES))
    for name, sizes in MODELS.items():
        budget = {} if name == "ngram" else {"seconds": asked.seconds}
        lm = lab.pretrain(asked.corpus, name=name, preset=name, **sizes, **budget, **common)
        found = []
        for distance in DISTANCES:
            lines = recall(distance, 4000, seed=distance)
            found.append(remembered(lab.pretrain(lines, name=name, preset=name, **sizes, **budget, **common), distance))
        size = sum(p.numel() for p in lm.model.parameters())
        speed = lm.report.tokens / lm.report.train[-1][1]
        print(
            f"{name:<8} {size:>11,} {speed:>15,.0f} {lm.report.final['loss']:>20.3f}"
            + "".join(f"{x:>15.3f}" for x in found),
            flush=True,
        )
    print("recall: nats per letter that stood so many letters before; 3.26 is a guess, 0 is memory")


if __name__ == "__main__":
    main()
