"""What a time is enough for: losses on Shakespeare, and the chosen size against fixed ones. Minutes, on a machine left alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_lab.bench.measuring import judged, peer, spread
from llm_lab.bench.options import BenchOptions
from llm_lab.bench.training import RECIPE, RECIPE_BATCH, text, theirs
from llm_lab.corpora.open import open_corpus
from llm_lab.errors import LabError
from llm_lab.lab import pretrain
from llm_lab.results import BenchLine

PART = "quality"
RECIPE_STEPS, RECIPE_LOSS = 2000, 1.886  # nanoGPT's recipe for CPUs, and where it ends (nats per character)
GOALS = {60: 1.62, 300: 1.50, 600: 1.4697}  # the last is nanoGPT's published result on a GPU
WORSE = 1.02  # times the best fixed size's loss that the chosen one's may be
CLOSE = 1.01  # times the chosen one's with the first seed
FIXED: tuple[dict[str, int], ...] = (
    dict(n_layer=2, n_head=2, d_model=64, max_seq_len=64),
    dict(n_layer=2, n_head=2, d_model=128, max_seq_len=64),
    dict(n_layer=3, n_head=2, d_model=128, max_seq_len=128),
    dict(n_layer=4, n_head=4, d_model=128, max_seq_len=64),
    dict(n_layer=4, n_head=2, d_model=128, max_seq_len=128),
    dict(n_layer=4, n_head=2, d_model=128, max_seq_len=256, batch_size=8),
    dict(n_layer=6, n_head=2, d_model=128, max_seq_len=128),
    dict(n_layer=4, n_head=3, d_model=192, max_seq_len=128),
    dict(n_layer=6, n_head=3, d_model=192, max_seq_len=256),
    dict(n_layer=4, n_head=4, d_model=256, max_seq_len=128),
    dict(n_layer=5, n_head=4, d_model=256, max_seq_len=256),
    dict(n_layer=6, n_head=6, d_model=384, max_seq_len=256),
)


def quality(options: BenchOptions) -> Iterator[BenchLine]:
    try:
        open_corpus("shakespeare")
    except LabError as error:
        yield BenchLine(part=PART, what="nats per character of Shakespeare", value=None, note=str(error))
        return
    what = f"Shakespeare after a tenth of the CPU recipe's time ({RECIPE_STEPS:,} steps of transformers' model)"
    if missing := peer():
        yield BenchLine(part=PART, what=what, value=None, goal=RECIPE_LOSS, least=False, note=missing)
    else:
        data, tokenizer = text()
        loop = theirs(data, tokenizer.vocab_size)
        loop()
        seconds = RECIPE_STEPS * RECIPE_BATCH * RECIPE["max_seq_len"] / loop() / 10
        yield _after(seconds, what, RECIPE_LOSS)
    for seconds, goal in GOALS.items():
        yield _after(seconds, f"Shakespeare after {seconds} s", goal)


def _after(seconds: float, what: str, goal: float) -> BenchLine:
    """The whole held-out split, by a run that is given a time alone."""
    began = time.perf_counter()
    lm = pretrain("shakespeare", name="quality", seconds=seconds, tokenizer="char", fresh=True, display=False)
    report: Any = lm.report
    sized = next((note for note in report.notes if note.startswith("sized")), "").partition(";")[0]
    note = f"{report.seconds:.1f} s, {time.perf_counter() - began:.1f} with the last evaluation; {report.step:,} steps; {sized}"
    line = BenchLine(part=PART, what=what, value=report.final["loss"], unit="nats", goal=goal, least=False, note=note)
    return judged(line, idea="a size between those of the ladder, rates fitted to it")


def sizes(options: BenchOptions) -> Iterator[BenchLine]:
    """After a minute, for each of three texts."""
    return _against_fixed("sizes", 60, options)


def sizes_long(options: BenchOptions) -> Iterator[BenchLine]:
    """After five minutes, for each of three texts."""
    return _against_fixed("sizes_long", 300, options)


def _against_fixed(part: str, seconds: float, options: BenchOptions) -> Iterator[BenchLine]:
    """The training part of Shakespeare, `python-docs` and `stories`, each with three seeds (fewer with fewer rounds).

    All fixed sizes are trained with the first seed; with the others the best of them, and those that are within CLOSE of the
    chosen one or ahead of it: what is behind by more with one seed is not ahead by WORSE in the median of three.
    """
    for corpus in _texts():
        seeds = range(1, min(options.rounds, 3))
        chosen = [_loss(corpus, seconds, 0)]
        fixed = [(size, [_loss(corpus, seconds, 0, **size)]) for size in FIXED]
        most = max(CLOSE * chosen[0], min(losses[0] for _, losses in fixed))
        close = [(size, losses) for size, losses in fixed if losses[0] <= most]
        for seed in seeds:
            chosen.append(_loss(corpus, seconds, seed))
            for size, losses in close:
                losses.append(_loss(corpus, seconds, seed, **size))
        ours = spread(chosen)["value"]
        theirs, best = min(((spread(losses)["value"], size) for size, losses in close), key=lambda one: one[0])
        named = f"{best['n_layer']} × {best['d_model']}, context {best['max_seq_len']}"
        yield judged(
            BenchLine(
                part=part,
                what=f"{corpus} after {seconds:g} s: the chosen size's loss against the best of {len(FIXED)} fixed ones",
                value=ours / theirs,
                goal=WORSE,
                least=False,
                note=f"{ours:.4f} nats, and {named}: {theirs:.4f}; {1 + len(seeds)} seeds of the chosen one and of the {len(close)} that come near it",
            ),
            idea="sizes between those of the ladder",
        )


def _texts() -> list[str]:
    found = ["python-docs", "stories"]
    try:
        whole = str(open_corpus("shakespeare").split(0.9)[0].text)
    except LabError:
        return found
    Path("part.txt").write_text(whole, encoding="utf-8")
    return ["part.txt", *found]


def _loss(corpus: str, seconds: float, seed: int, **sizes: Any) -> float:
    lm = pretrain(corpus, name="sized", seconds=seconds, seed=seed, fresh=True, display=False, sample_tokens=0, **sizes)
    report: Any = lm.report
    loss = float(report.final["loss"])
    print(f"{corpus}, {seconds:g} s, seed {seed}, {sizes or 'chosen'}: {loss:.4f}", file=sys.stderr, flush=True)
    return loss
