"""How near a minute of training comes to the exact entropy of `stories`, beside an n-gram. Measures; asserts nothing.

    python tests/benchmarks/bench_stories.py [--seconds 55] [--json FILE]

Losses are nats per UTF-8 byte of the whole held-out split, so that tokenizers do not matter. The entropy is the
grammar's own; `this text` is what the held-out stories themselves cost under it, which is the fairer floor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

import llm_lab as lab
from llm_lab.corpora.stories import cross_entropy, entropy

SIZE = 4_000_000  # characters: a minute reads them about once
SETTINGS = dict(
    tokenizer="bpe", vocab_size=1024, n_layer=2, n_head=4, d_model=128, max_seq_len=512, batch_size=4, qk_norm=False
)
NEAR = 0.05  # the model should come as near to the entropy as this
FAR = 0.15  # and the n-gram should stay farther away than this


def nats_per_byte(lm: Any) -> float:
    """Of the model's own held-out split, the document's end included."""
    return float(lab.evaluate(lm, metrics=["bits_per_byte"])["bits_per_byte"]) * math.log(2)


def measure(seconds: float) -> dict[str, Any]:
    corpus = lab.corpus("stories", size=SIZE)
    held_out = corpus.split(0.9)[1].documents[1:]  # the first may be the end of a story that was cut
    started = time.perf_counter()
    lm = lab.pretrain(corpus, name="stories", seconds=seconds, fresh=True, display=False, **SETTINGS)
    report = lm.report
    found: dict[str, Any] = {
        "settings": SETTINGS,
        "size": SIZE,
        "entropy": round(entropy().nats / entropy().bytes, 5),
        "entropy_of_this_text": round(cross_entropy(held_out), 5),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "trained_seconds": round(report.seconds, 1),
        "steps": report.step,
        "tokens_per_second": round(report.tokens_per_second),
        "model": round(nats_per_byte(lm), 5),
        "repeat": report.repeat,
    }
    try:
        found["ngram"] = round(nats_per_byte(lab.pretrain(corpus, name="ngram", preset="ngram", display=False)), 5)
    except lab.LabError as error:
        found["ngram"] = None
        print(f"no n-gram: {error}")
    return found


def verdict(loss: float | None, floor: float, reached: bool, target: str) -> str:
    if loss is None:
        return "not measured"
    return f"{loss:.4f} nats/byte, {loss / floor - 1:+.1%}; target {target} {'met' if reached else 'missed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=55, help="time budget of the training (default: 55)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    if given.json:
        given.json = given.json.resolve()
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # a store of its own: nothing is restored, nothing stays
        try:
            machine = lab.doctor()
            print(machine)
            found = measure(given.seconds)
        finally:
            os.chdir(home)
    found["load_average"] = os.getloadavg() if hasattr(os, "getloadavg") else None
    floor = found["entropy_of_this_text"]
    model, ngram = found["model"], found["ngram"]
    print(
        f"\nstories, {SIZE:,} characters, {found['steps']:,} steps in {found['trained_seconds']} s, {found['tokens_per_second']:,} tokens/s"
    )
    print(f"  entropy  {found['entropy']:.4f} nats/byte exactly; this text {floor:.4f}")
    print(f"  model    {verdict(model, floor, model <= (1 + NEAR) * floor, f'within {NEAR:.0%}')}")
    print(f"  n-gram   {verdict(ngram, floor, bool(ngram and ngram > (1 + FAR) * floor), f'above {FAR:.0%}')}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten to {given.json}")


if __name__ == "__main__":
    main()
