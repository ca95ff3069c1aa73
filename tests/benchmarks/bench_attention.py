"""How large attention's view is and how fast it opens, by the length of the text. Measures; asserts nothing.

    python tests/benchmarks/bench_attention.py [--tokens 64,256,512,2048] [--layers 12] [--heads 12] [--rounds 3] [--threads N] [--json FILE]

A random model of GPT-2's size reads random letters; its queries are scaled up, so that heads differ and their maps deflate
badly, as they do at worst. The pass of the model is timed alone and within the probe, in turns; what the probe and its view
take beyond it is what a person waits for, on the clock and in seconds of processors (of use on a shared machine, with one
thread: threads that wait for each other count too). Changes of head are timed in headless Chromium, from the key to the second frame
after it, and by the script alone. bertviz's figures are cited: its `model_view` of 12 layers × 12 heads writes 27 MB of HTML
at 64 tokens, 428 MB in 11 s at 256, and 1,710 MB in 45 s at 512.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

import numpy as np
import psutil
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES
from llm_lab.models.presets import PRESETS
from llm_lab.results import AttentionMaps
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train
from llm_lab.views.attention_widget import attention_widget
from tests.browser.lab import FLAGS, find_browser

BERTVIZ = {64: (27.0, None), 256: (428.0, 11), 512: (1710.0, 45)}  # tokens: MB of HTML, seconds
# What is wanted, by figure: at which lengths, at most, unit.
TARGETS: dict[str, tuple[tuple[int, ...], float, str]] = {
    "opens": ((64, 256, 512), 1.0, "s"),
    "saved": ((64, 256, 512), 1.5, "MB"),
    "view": ((64, 256, 512, 2048), 0.3, "MB"),
    "sent": ((64, 256, 512), 1.0, "MB"),
    "held": ((64, 256, 512, 2048), 200.0, "MB"),
    "head_change": ((64, 256, 512, 2048), 100.0, "ms"),
}
TRIES = 24  # head changes
# One press of a key, and when the second frame after it is there.
PRESS = """async ([key]) => {
  const grid = document.querySelector('button.lab-head[aria-pressed=true]');
  const began = performance.now();
  grid.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  const script = performance.now() - began;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return [script, performance.now() - began];
}"""


def random_model(layers: int, heads: int, length: int) -> LM:
    letters = train(["abcdefghijklmnopqrstuvwxyz "], "char")
    sizes = dict(n_layer=layers, n_head=heads, d_model=64 * heads, max_seq_len=length, zero_init=False)
    config = PRESETS.load("gpt2").config(letters.vocab_size, **sizes)
    torch.manual_seed(0)
    model = SHAPES.load(config.shape)(config).eval()
    for block in model.blocks:
        with torch.no_grad():
            block.attn.query_weight().mul_(12)
    return LM("random", model, letters)


def text_of(length: int) -> str:
    return "".join(np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz "), length))


def seconds(run: Any) -> tuple[np.ndarray, Any]:
    """(on the clock, of processors) and what it gives."""
    began = np.array([time.perf_counter(), time.process_time()])
    found = run()
    return np.array([time.perf_counter(), time.process_time()]) - began, found


def held(maps: AttentionMaps) -> float:
    return sum(x.nbytes for x in vars(maps).values() if isinstance(x, np.ndarray)) / 1e6


def at_length(lm: LM, length: int, rounds: int) -> tuple[dict[str, Any], AttentionMaps]:
    """Seconds and megabytes at one length; the first turn only warms up where it is short."""
    text = text_of(length)
    batch = lm.batch(torch.tensor([lm.tokenizer.encode(text)]))

    @torch.no_grad()
    def forward() -> None:
        lm.model(**batch.inputs())

    times, maps = [], None
    for turn in range(rounds + 1):
        maps = None
        gc.collect()
        before = psutil.Process().memory_info().rss
        alone, _ = seconds(forward)
        probed, maps = seconds(lambda: lab.probe(lm, text))
        shown, bundle = seconds(maps._repr_mimebundle_)
        if turn:
            times.append([alone, probed, shown, probed - alone + shown])
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # what is free goes back, where the allocator can be told so
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    grown = (psutil.Process().memory_info().rss - before) / 1e6
    forwarded, probed, shown, opens = np.median(times, axis=0)
    state = attention_widget(maps).get_state()
    first = sum(len(value) if isinstance(value, bytes) else len(json.dumps(value)) for value in state.values())
    return {
        "tokens": length,
        "forward": forwarded[0],
        "probe": probed[0],
        "show": shown[0],
        "opens": opens[0],
        "opens_cpu": opens[1],
        "view": len(bundle["text/html"].encode()) / 1e6,
        "saved": len(json.dumps(bundle).encode()) / 1e6,
        "sent": first / 1e6,
        "held": held(maps),
        "grown": grown,
    }, maps


def head_changes(maps: AttentionMaps, folder: Path) -> dict[str, float]:
    """Milliseconds from a key to what it draws: the script alone, and with the two frames that follow."""
    from playwright.sync_api import sync_playwright

    path = maps.save_html(folder / "maps.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        began = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector(".llm-lab[data-live] button.lab-head")
        opened = time.perf_counter() - began
        found = [page.evaluate(PRESS, [key]) for key in (["ArrowRight"] * 5 + ["ArrowDown"]) * (TRIES // 6)]
        browser.close()
    script, drawn = (sorted(column) for column in zip(*found[2:], strict=True))
    return {
        "page_opens": opened,
        "head_script": statistics.median(script),
        "head_change": statistics.median(drawn),
        "head_worst": drawn[-1],
    }


def verdicts(row: dict[str, Any]) -> list[str]:
    found = []
    for name, (lengths, most, unit) in TARGETS.items():
        if row["tokens"] in lengths and name in row:
            met = "met" if row[name] <= most else "missed"
            found.append(f"{name} {row[name]:.3g} {unit} (at most {most:g} {unit} wanted: {met})")
    return found


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    lm = random_model(args.layers, args.heads, max(args.tokens))
    size = sum(p.numel() for p in lm.model.parameters()) / 1e6
    load = os.getloadavg()[0]
    print(
        f"{args.layers} layers × {args.heads} heads, {size:.0f} M parameters, {torch.get_num_threads()} threads; load {load:.1f} "
        f"of {os.cpu_count()} cores (where it is above, the clock measures others too: see the seconds of processors)"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in args.tokens:
            row, maps = at_length(lm, length, args.rounds)
            if find_browser() is None:
                print("  no Chromium here: changes of head are not measured")
            else:
                row |= head_changes(maps, Path(folder))
            rows.append(row)
            print(
                f"{length:>5} tokens: forward {row['forward']:.2f} s, probe {row['probe']:.2f} s, show {row['show']:.2f} s; "
                f"opens in {row['opens_cpu']:.2f} s of processors; "
                f"held {row['held']:.0f} MB (process grew by {row['grown']:.0f} MB); HTML {row['view']:.3f} MB"
            )
            if length in BERTVIZ:
                theirs, took = BERTVIZ[length]
                print(
                    f"      bertviz, cited: {theirs:,.0f} MB of HTML{f' in {took} s' if took else ''}: 1/{theirs / row['view']:,.0f}"
                )
            for verdict in verdicts(row):
                print(f"      {verdict}")
            if "head_worst" in row:
                print(
                    f"      of a head change {row['head_script']:.1f} ms are the script's; the slowest took {row['head_worst']:.0f} ms; "
                    f"the page opened in {row['page_opens']:.2f} s"
                )
            del maps
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokens", type=lambda text: [int(one) for one in text.split(",")], default=[64, 256, 512, 2048]
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="as many as the machine gives, unless told")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    found = measure(args)
    if args.json is not None:
        facts = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        }
        args.json.write_text(json.dumps({"machine": facts, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
