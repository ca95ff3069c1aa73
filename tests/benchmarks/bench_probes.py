"""What looking inside costs where nobody looks, while a model trains, and in memory. Measures; asserts nothing.

    python tests/benchmarks/bench_probes.py [--rounds 8] [--steps 30] [--tokens 128] [--length 256] [--device cpu] [--json FILE]

Training and generation run in turns with the sites of the model and without them (the same code, its calls of them taken out), and the
ratio is taken within each turn: the quartiles say what is noise. A run is slower by what is watched at the default cadence,
as its card says and as the same run without watches shows. Ten probes in a row are run with the memory of the process read
before and after.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import inspect
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout that this file is in, installed or not

import psutil
import torch

import llm_lab as lab
from llm_lab.data.batch import Batch
from llm_lab.decoding.writing import write
from llm_lab.probes.options import WATCHES

SIZES: dict[str, Any] = dict(n_layer=4, n_head=4, d_model=128, max_seq_len=64, batch_size=16)
IDLE = 0.01  # what closed sites may cost, of the time
WATCHING = 1.1  # times as slow a run may be that is watched at the default cadence
PROBES = 10
KEPT = 20e6  # bytes that so many probes may leave
USERS = (
    *("attention", "experts", "layers", "look", "stack", "transformer"),
    *("decoder", "encoder", "encoder_decoder", "permutation"),
)


class _Without(ast.NodeTransformer):
    """`site(x, name)` as `x`, `watched()` as False, `with running(self):` as its body."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "id", "")
        return node.args[0] if name == "site" else ast.Constant(False) if name == "watched" else node

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        opens = [getattr(getattr(item.context_expr, "func", None), "id", "") for item in node.items]
        return node.body if opens == ["running"] else node


def bare_codes() -> list[tuple[Any, Any, Any]]:
    """Every function of the models with its code, and with that of the same source without its sites."""
    found = []
    for user in USERS:
        module: Any = importlib.import_module(f"llm_lab.models.{user}")
        tree = ast.fix_missing_locations(_Without().visit(ast.parse(inspect.getsource(module))))
        bare = dict(vars(module))
        exec(compile(tree, str(module.__file__), "exec"), bare)
        for name, own in list(vars(module).items()):
            if getattr(own, "__module__", "") != module.__name__:
                continue
            pairs = [(own, bare[name])] if inspect.isfunction(own) else []
            if inspect.isclass(own):
                pairs = [(f, vars(bare[name])[key]) for key, f in vars(own).items() if inspect.isfunction(f)]
            found += [(function, function.__code__, other.__code__) for function, other in pairs]
    assert sum(whole.co_code != code.co_code for _, whole, code in found) > 8, "the sites are no longer where they were"
    return found


@contextlib.contextmanager
def without_sites(codes: list[tuple[Any, Any, Any]] = []) -> Iterator[None]:  # noqa: B006  # made once, when first used
    """Within the `with`, the models' code has no sites."""
    codes += [] if codes else bare_codes()
    for function, _, bare in codes:
        function.__code__ = bare
    try:
        yield
    finally:
        for function, whole, _ in codes:
            function.__code__ = whole


def trainer(lm: Any, steps: int) -> Callable[[], int]:
    """So many steps of plain training of a model that stands by, without a trainer around it."""
    model = lm.model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    ids = torch.randint(lm.tokenizer.vocab_size, (SIZES["batch_size"], SIZES["max_seq_len"]), device=lm.device)

    def run() -> int:
        model.train()
        for _ in range(steps):
            logits = model(**Batch(ids).inputs()).logits
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        if lm.device.type == "cuda":
            torch.cuda.synchronize()
        return steps

    return run


def turns(run: Callable[[], int], rounds: int) -> tuple[float, list[float]]:
    """(speed with the sites, a ratio a turn of the time with them to that without); the order changes from turn to turn."""

    def timed(bare: bool) -> float:
        with without_sites() if bare else contextlib.nullcontext():
            began = time.perf_counter()
            count = run()
            return (time.perf_counter() - began) / count

    timed(False), timed(True)
    speeds, ratios = [], []
    for turn in range(rounds):
        first = timed(turn % 2 == 0)
        second = timed(turn % 2 == 1)
        bare, whole = (first, second) if turn % 2 == 0 else (second, first)
        speeds.append(1 / whole)
        ratios.append(whole / bare)
    return statistics.median(speeds), ratios


def idle(lm: Any, args: argparse.Namespace) -> dict[str, Any]:
    print("sites closed, against the same model without them (above 1: slower):")
    length = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens}
    generate = lambda: sum(map(len, write(lm, "ROMEO:", strategy="greedy", **length).tokens))  # noqa: E731
    found = {}
    for name, run, unit in (("training", trainer(lm, args.steps), "steps/s"), ("generation", generate, "tokens/s")):
        speed, ratios = turns(run, args.rounds)
        low, middle, high = statistics.quantiles(ratios, n=4)
        verdict = "met" if middle < 1 + IDLE or low <= 1 <= high else "missed"
        print(
            f"  {name:<12} {speed:>8,.1f} {unit:<9} × {middle:.4f}, quartiles {low:.4f} to {high:.4f} "
            f"(below {1 + IDLE:g}, or no more than noise, wanted: {verdict})"
        )
        found[name] = {"speed": speed, "ratio": middle, "quartiles": [low, high], "verdict": verdict}
    return found


def watching(args: argparse.Namespace) -> dict[str, Any]:
    print(f"watched at the default cadence, {12 * args.steps} steps:")
    more: dict[str, Any] = dict(steps=12 * args.steps, device=args.device, fresh=True, display=False, sample_tokens=0)
    found = {}
    names = ("induction_score", "head_entropy")
    for label, watch in ((",".join(names), names), ("all of them", tuple(WATCHES))):
        ratios, said = [], []
        for _ in range(max(2, args.rounds // 3)):
            plain, watched = (
                lab.pretrain(args.corpus, name="watched", **SIZES, **more, **({"watch": watch} if on else {})).report
                for on in (False, True)
            )
            spans = [report.seconds - report.setup_seconds for report in (plain, watched)]
            ratios.append(spans[1] / spans[0])
            said.append(watched.slowdown)
        measured, told = statistics.median(ratios), statistics.median(said)
        verdict = "met" if told <= WATCHING else "missed"
        print(f"  {label:<34} × {told:.3f} by its card, × {measured:.3f} by the clock ({WATCHING} wanted: {verdict})")
        found[label] = {"card": told, "clock": measured, "verdict": verdict}
    return found


def memory(lm: Any, args: argparse.Namespace) -> dict[str, Any]:
    text = lab.corpus(args.corpus).documents[0][: args.length]
    sizes = dict(vocab_size=lm.tokenizer.vocab_size, n_layer=12, n_head=12, d_model=192, max_seq_len=args.length)
    big = lab.LM("big", lab.build("gpt2", **sizes).to(args.device), lm.tokenizer)
    process = psutil.Process()

    def resident() -> int:
        gc.collect()
        return process.memory_info().rss

    lab.probe(big, text)  # the first loads what probes need
    before, seconds = resident(), []
    for _ in range(PROBES):
        began = time.perf_counter()
        lab.probe(big, text)
        seconds.append(time.perf_counter() - began)
    grown = resident() - before
    verdict = "met" if grown < KEPT else "missed"
    print(
        f"{PROBES} probes of attention, 12 × 12 heads, {args.length} tokens, {statistics.median(seconds):.2f} s each:"
    )
    print(f"  {grown / 1e6:+.1f} MB resident (below {KEPT / 1e6:g} MB wanted: {verdict})")
    return {"bytes": grown, "seconds": statistics.median(seconds), "verdict": verdict}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    lm = lab.pretrain(args.corpus, name="bench", steps=args.steps, device=args.device, display=False, **SIZES)
    found: dict[str, Any] = {"device": args.device, "threads": torch.get_num_threads()}
    print(f"{lm!r}, {args.device}, {torch.get_num_threads()} threads")
    return found | {"idle": idle(lm, args), "watching": watching(args), "memory": memory(lm, args)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="of training in a turn")
    parser.add_argument("--tokens", type=int, default=128, help="written in a turn")
    parser.add_argument("--length", type=int, default=256, help="tokens that are probed")
    parser.add_argument("--corpus", default="python-docs")
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
