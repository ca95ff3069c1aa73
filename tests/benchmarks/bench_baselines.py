"""What attention buys: baselines and a transformer on one text for equal time, and what each remembers over a distance.

    python tests/benchmarks/bench_baselines.py --seconds 30

Asserts nothing. Speeds are of one run, one model after the other; the machine's load is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from typing import Any

import numpy as np
import torch

import llm_lab as lab

MODELS: dict[str, dict[str, Any]] = {
    "modern": dict(n_layer=4, d_model=128),
    "conv": dict(n_layer=6, d_model=192),
    "lstm": dict(n_layer=2, d_model=256),
    "ngram": dict(order=6),
}
DISTANCES = (8, 32, 64, 120)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def recall(distance: int, count: int, seed: int) -> list[str]:
    """Lines that say four letters, then dots, then the four letters again: the second time is certain, for who remembers."""
    draw = random.Random(seed)
    words = ("".join(draw.choice(LETTERS) for _ in range(4)) for _ in range(count))
    return [f"{word}{'.' * distance}{word}" for word in words]


def remembered(lm: lab.LM, distance: int) -> float:
    """Nats per letter of the second time, over lines that were not trained on; ln 26 = 3.26 is a guess."""
    lines = recall(distance, 64, seed=1000 + distance)
    ids = torch.from_numpy(np.array([lm.tokenizer.encode(line) for line in lines]))
    lm.model.eval()
    with torch.no_grad():
        losses = lm.model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[:, -4:, 0]
    return -float(losses.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--corpus", default="stories")
    asked = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    common: dict[str, Any] = dict(display=False, tokenizer="char", sample_tokens=0, max_seq_len=128, batch_size=16)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    lines = [line for distance in DISTANCES for line in recall(distance, 1500, seed=distance)]
    random.Random(0).shuffle(lines)
    head = f"{'model':<8} {'parameters':>11} {'train tokens/s':>15} {asked.corpus + ' nats/char':>20}"
    print(head + "".join(f"{f'recall at {d}':>15}" for d in DISTANCES))
    for name, sizes in MODELS.items():
        budget = {} if name == "ngram" else {"seconds": asked.seconds}
        lm = lab.pretrain(asked.corpus, name=name, preset=name, **sizes, **budget, **common)
        report = lm.report
        memory = lab.pretrain(lines, name=f"{name}_recall", preset=name, **sizes, **budget, **common)
        found = [remembered(memory, distance) for distance in DISTANCES]
        size = sum(p.numel() for p in lm.model.parameters())
        speed = report.tokens / report.train[-1][1]
        print(
            f"{name:<8} {size:>11,} {speed:>15,.0f} {report.final['loss']:>20.3f}"
            + "".join(f"{x:>15.3f}" for x in found)
        )
    print("recall: nats per letter of a word said again; 3.26 is a guess, 0 is memory")


if __name__ == "__main__":
    main()
