"""How much time sparse attention saves over the same pattern as a mask, and over full attention. Measures; asserts nothing.

    python tests/benchmarks/bench_sparse.py [--lengths 512,1024,2048,4096] [--rounds 5] [--device cpu] [--threads 1]
        [--json FILE]

Forward and backward of attention alone (batch 4, 4 heads of 32), causal and both ways. Absolute times depend on the
machine and on what else it does; the ratios are taken within one run, in turns. With --threads 1 the processor's time
is taken, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

import torch
import torch.nn.functional as F

from llm_lab import machine
from llm_lab.models.options import PATTERNS, ModelConfig
from llm_lab.models.sparse import dense_mask, plan, worthwhile

BATCH, HEADS, WIDTH = 4, 4, 32
NAMES = ("window", "longformer", "bigbird", "dilated", "strided")
NOISY = 1.3  # fastest turn over slowest, above which something else took the cores


def measured(
    name: str, causal: bool, length: int, rounds: int, device: torch.device, clock: Callable[[], float]
) -> dict[str, Any]:
    """Milliseconds of a forward and backward pass: full attention, the pattern as a mask, and as a layout."""
    config = ModelConfig(vocab_size=2, n_head=HEADS, d_model=HEADS * WIDTH, max_seq_len=length)
    pattern, scale = PATTERNS.load(name)(config), WIDTH**-0.5
    leaves = [torch.randn(BATCH, length, HEADS, WIDTH, device=device, requires_grad=True) for _ in range(3)]
    q, k, v = (leaf.transpose(1, 2) for leaf in leaves)
    mask = dense_mask(pattern, causal, length, length, device)
    layout = plan(pattern, causal, length, device)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "full": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale),
        "mask": lambda: F.scaled_dot_product_attention(q, k, v, mask, scale=scale),
        "sparse": lambda: layout.attend(q, k, v, scale),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, compute in ways.items():
            began = clock()
            torch.autograd.grad(compute().sum(), leaves)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first only warms up
                found[way].append(1e3 * (clock() - began))
    middle = {way: statistics.median(times) for way, times in found.items()}
    return {
        "pattern": name,
        "causal": causal,
        "length": length,
        "share": round(layout.share, 4),
        "allowed": round(float(mask.float().mean()), 4),
        "chosen": worthwhile(layout),
        **{f"{way}_ms": round(value, 2) for way, value in middle.items()},
        "mask_over_sparse": round(middle["mask"] / middle["sparse"], 2),
        "full_over_sparse": round(middle["full"] / middle["sparse"], 2),
        "noisy": any(max(times) / min(times) > NOISY for times in found.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="512,1024,2048,4096", help="positions (default: 512,1024,2048,4096)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (default: 5)")
    parser.add_argument("--device", default="cpu", help="where (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: its cores)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(given.device)
    torch.set_num_threads(given.threads or machine.cores())
    clock = time.process_time if given.threads == 1 and device.type == "cpu" else time.perf_counter
    rows = []
    print(f"{'pattern':<11}{'causal':<8}{'T':>5}{'share':>8}{'full ms':>10}{'mask ms':>10}{'sparse ms':>11}", end="")
    print(f"{'mask/sparse':>13}{'full/sparse':>13}  chosen")
    for name in NAMES:
        for causal in (True, False):
            for length in map(int, given.lengths.split(",")):
                row = measured(name, causal, length, given.rounds, device, clock)
                rows.append(row)
                print(f"{name:<11}{'yes' if causal else 'no':<8}{length:>5}{row['share']:>8.3f}", end="")
                print(f"{row['full_ms']:>10.1f}{row['mask_ms']:>10.1f}{row['sparse_ms']:>11.1f}", end="")
                print(f"{row['mask_over_sparse']:>13.2f}{row['full_over_sparse']:>13.2f}", end="")
                print(f"  {'sparse' if row['chosen'] else 'mask'}{'  noisy' if row['noisy'] else ''}", flush=True)
    facts = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": given.device,
        "clock": clock.__name__,
    }
    print(" · ".join(f"{key} {value}" for key, value in facts.items()))
    if given.json:
        given.json.write_text(json.dumps({**facts, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
