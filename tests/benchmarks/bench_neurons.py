"""What reading the neurons of a corpus costs beside the forward passes alone, and how long an autoencoder trains.

    python tests/benchmarks/bench_neurons.py --max_tokens 100000 --n_layer 4 --d_model 128

Times are of one run, in turns; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.activations import batches
from llm_lab.probes.reading import Reading
from llm_lab.store.lm import LM


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("max_tokens", 100_000),
        ("n_layer", 4),
        ("d_model", 128),
        ("max_seq_len", 128),
        ("turns", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    corpus = lab.corpus("python-docs")
    tokenizer = lab.tokenizer(corpus, kind="char")
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        n_layer=args.n_layer,
        n_head=4,
        d_model=args.d_model,
        max_seq_len=args.max_seq_len,
        zero_init=False,
    )
    lm = LM("random", SHAPES.load("decoder")(config).eval(), tokenizer)

    def forward() -> None:
        with torch.no_grad():
            for ids in batches(Reading((lm,)).blocks(corpus, args.max_tokens)):
                lm.model(**lm.batch(ids).inputs())

    def probe() -> None:
        lab.probe(lm, kind="neurons", corpus=corpus, max_tokens=args.max_tokens)

    forward()
    times = [(seconds(forward), seconds(probe)) for _ in range(args.turns)]
    plain, probed = (statistics.median(column) for column in zip(*times, strict=True))
    width = args.n_layer * config.ff_width
    print(
        f"{args.max_tokens:,} tokens, {width:,} neurons: forward {plain:.2f} s, neurons {probed:.2f} s, ×{probed / plain:.2f}"
    )
    trained = seconds(lambda: lab.probe(lm, kind="sae", corpus=corpus))
    print(f"an autoencoder of {4 * args.d_model:,} features, 20,000 tokens, 200 steps: {trained:.1f} s")


if __name__ == "__main__":
    main()
