"""How near the estimate of training memory comes to what a process takes. Measures; asserts nothing.

    python tests/benchmarks/bench_memory.py [--steps 20] [--only gpt2,t5] [--json FILE]

Each model is trained on the CPU in a process of its own. What is measured is the largest resident size from the check of
memory on, above the size at it: text and tokenizer are there by then. The estimate is the one a training is refused by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

SHAPES: dict[str, dict[str, Any]] = {
    "wide": dict(n_layer=6, n_head=8, d_model=768, max_seq_len=64, batch_size=4),
    "adamw": dict(n_layer=6, n_head=8, d_model=768, max_seq_len=64, batch_size=4, optimizer="adamw"),
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


def text() -> str:
    """Enough different words for eight thousand merges."""
    return " ".join(f"{i * i * 7919 % 99999983:x} green bottles" for i in range(20000))


def one(options: dict[str, Any], steps: int) -> dict[str, float]:
    """Train one model here, and tell what was expected and what it took, in bytes."""
    import llm_lab as lab
    from llm_lab import machine, memory

    more: dict[str, Any] = dict(display=False, threads=1, device="cpu")
    words = [text()]
    before: list[int] = []
    check = memory.check

    def noted(*args: Any, **kwargs: Any) -> memory.Need:
        found = check(*args, **kwargs)
        before.append(machine.used())
        Path("/proc/self/clear_refs").write_text("5")  # the largest size is counted anew from here
        return found

    memory.check = noted
    lm = lab.pretrain(words, name="measured", steps=steps, **options, **more)
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    most = 1024 * int(lines["VmHWM"].split()[0])
    size = sum(p.numel() for p in lm.model.parameters())
    return {"parameters": size, "expected": lm.report.memory_need, "measured": most - before[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default=",".join(SHAPES))
    parser.add_argument("--json", default="")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(SHAPES[asked.one], asked.steps)))
        return
    print(f"{'model':<12}{'M parameters':>13}{'estimate, MB':>14}{'measured, MB':>14}{'ratio':>7}", flush=True)
    found = {}
    for name in asked.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--steps", str(asked.steps)]
            made = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True)
        if made.returncode:
            sys.exit(made.stderr)
        found[name] = row = json.loads(made.stdout.splitlines()[-1])
        numbers = (
            row["parameters"] / 1e6,
            row["expected"] / 1e6,
            row["measured"] / 1e6,
            row["expected"] / row["measured"],
        )
        print(f"{name:<12}{numbers[0]:>13.1f}{numbers[1]:>14,.0f}{numbers[2]:>14,.0f}{numbers[3]:>7.2f}", flush=True)
    if asked.json:
        Path(asked.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
