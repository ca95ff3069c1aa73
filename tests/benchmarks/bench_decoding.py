"""How fast each strategy writes, and how much guessing ahead saves. Measures; asserts nothing.

    python tests/benchmarks/bench_decoding.py [--seconds 240] [--rounds 5] [--tokens 128] [--device cpu] [--json FILE]

A larger model and a small one learn `stories` by one tokenizer. Then all ways write from the same prompts in turns, and
ratios are taken within each turn: to greedy decoding, to the same sampling without a draft, to reading all again for each
token, and to transformers' `generate` of the same weights. Guessing ahead changes no distribution (tests/decoding show
it); what it saves depends on how much faster the small model is and how often it agrees.
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

import torch

import llm_lab as lab
from llm_lab.decoding.options import FILLS, STRATEGIES
from llm_lab.decoding.writing import write

LARGE = dict(preset="gpt2", n_layer=6, n_head=6, d_model=384, max_seq_len=512, batch_size=8)
SMALL = dict(preset="gpt2", n_layer=1, n_head=2, d_model=96, max_seq_len=512, batch_size=8)
PROMPT = "Once upon a time"
USEFUL = 1.3  # times as fast guessing should be, to be worth the second model


def models(seconds: float, device: str) -> tuple[Any, Any]:
    corpus = lab.corpus("stories", size=2_000_000)
    tokenizer = lab.tokenizer(corpus, kind="bpe", vocab_size=1024)
    more: dict[str, Any] = dict(tokenizer=tokenizer, seed=0, display=False, device=device, fresh=True)
    large = lab.pretrain(corpus, name="large", seconds=seconds, **LARGE, **more)
    small = lab.pretrain(corpus, name="small", seconds=seconds / 8, **SMALL, **more)
    return large, small


def turns(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Tokens a second of each way, a number a turn; the first turn only warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            torch.manual_seed(turn)
            began = time.perf_counter()
            count = run()
            if turn:
                found[name].append(count / (time.perf_counter() - began))
    return found


def table(found: dict[str, list[float]], base: str, notes: dict[str, str] | None = None) -> list[dict[str, Any]]:
    rows = []
    for name, speeds in found.items():
        ratio = statistics.median(a / b for a, b in zip(speeds, found[base], strict=True))
        note = (notes or {}).get(name, "")
        rows.append(
            {"way": name, "tokens_per_second": round(statistics.median(speeds)), "ratio": round(ratio, 2), "note": note}
        )
        print(f"  {name:<34} {rows[-1]['tokens_per_second']:>7,} tokens/s   × {ratio:.2f} of {base}   {note}")
    return rows


def measure(args: argparse.Namespace) -> dict[str, Any]:
    large, small = models(args.seconds, args.device)
    size = {lm.name: sum(p.numel() for p in lm.model.parameters()) for lm in (large, small)}
    loss = {lm.name: float(lab.evaluate(lm, metrics=["loss"])["loss"]) for lm in (large, small)}
    print(
        f"large {size['large'] / 1e6:.1f} M, {loss['large']:.2f} nats per token; small {size['small'] / 1e6:.2f} M, {loss['small']:.2f}"
    )
    notes: dict[str, str] = {}
    seeds = iter(range(10**6))

    def way(name: str, **options: Any) -> Callable[[], int]:
        def run() -> int:
            length = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens}  # stories end when they like
            made = write(large, PROMPT, seed=next(seeds), **length, **options)
            notes[name] = next((note for note in made.notes if "guess" in note), "")
            return sum(map(len, made.tokens))

        return run

    found: dict[str, Any] = {"sizes": size, "loss": loss, "device": args.device, "threads": torch.get_num_threads()}
    print("every strategy, one text:")
    second = {"contrastive": {"amateur": small}, "speculative": {"draft": small}}
    names = ["greedy", *(n for n, e in STRATEGIES.items() if not e.supports & FILLS and n != "greedy")]
    found["strategies"] = table(
        turns({n: way(n, strategy=n, **second.get(n, {})) for n in names}, args.rounds), "greedy", notes
    )

    print("guessing ahead, against the same sampling without:")
    ways = {"top_p 0.95": way("top_p 0.95", strategy="top_p")}
    for k in (2, 4, 8):
        ways[f"speculative, {k} at a time"] = way(
            f"speculative, {k} at a time", strategy="speculative", top_p=0.95, draft=small, draft_tokens=k
        )
    ways["the small model alone"] = lambda: sum(
        map(len, write(small, PROMPT, max_new_tokens=args.tokens, min_new_tokens=args.tokens, seed=next(seeds)).tokens)
    )
    ways["prompt_lookup"] = way("prompt_lookup", strategy="prompt_lookup", top_p=0.95)
    found["guessing"] = table(turns(ways, args.rounds), "top_p 0.95", notes)
    best = max((row for row in found["guessing"] if row["way"].startswith("speculative")), key=lambda row: row["ratio"])
    verdict = "met" if best["ratio"] >= USEFUL else "missed"
    alone = next(row["ratio"] for row in found["guessing"] if row["way"] == "the small model alone")
    why = f"; a guess takes 1/{alone:.1f} of a token of the large model, and {loss['small']:.2f} against {loss['large']:.2f} nats say how far they differ"
    print(f"  {best['way']}: × {best['ratio']} ({USEFUL} wanted: {verdict}){why}")

    print("the cache, and transformers:")
    with tempfile.TemporaryDirectory() as folder:
        from transformers import AutoModelForCausalLM

        theirs = (
            AutoModelForCausalLM.from_pretrained(large.save(Path(folder) / "hf", format="hf")).to(args.device).eval()
        )
    ids = torch.tensor([large.tokenizer.encode(PROMPT)], device=args.device)

    def generate() -> int:
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=args.tokens,
            min_new_tokens=args.tokens,
            pad_token_id=0,
        )
        return int(out.shape[1] - ids.shape[1])

    @torch.no_grad()
    def uncached() -> int:
        row = ids
        for _ in range(args.tokens):
            row = torch.cat([row, large.model(row).logits[:, -1:].argmax(-1)], dim=1)
        return args.tokens

    found["references"] = table(
        turns(
            {
                "greedy": way("greedy", strategy="greedy"),
                "transformers": generate,
                "all read again": uncached,
                "8 texts": way("8 texts", n=8),
            },
            args.rounds,
        ),
        "greedy",
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240, help="of training of the larger model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.json is not None:
        args.json = args.json.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = measure(args)
        os.chdir("/")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
