"""The training loop: against transformers' model in a plain loop, against its own matrix products, and what goes beside them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from llm_lab.bench.measuring import against, in_turns, judged, peer, ratio, spread, timed
from llm_lab.bench.options import BenchOptions
from llm_lab.corpora.open import open_corpus
from llm_lab.data.arrays import Tokens, tokenize
from llm_lab.data.sampler import BlockSampler
from llm_lab.lab import pretrain
from llm_lab.models.options import SHAPES
from llm_lab.models.presets import PRESETS
from llm_lab.objectives.make import make
from llm_lab.results import BenchLine
from llm_lab.session import Session
from llm_lab.tokenizers.tokenizer import Tokenizer, train
from llm_lab.training.options import BudgetOptions, TrainOptions
from llm_lab.training.plan import applied, resolve
from llm_lab.training.trainer import Trainer

PART = "training"
RECIPE = dict(n_layer=4, n_head=4, d_model=128, max_seq_len=64)  # nanoGPT's recipe for CPUs, 0.8 M parameters
RECIPE_BATCH = 12
WIDE = dict(n_layer=5, n_head=4, d_model=256, max_seq_len=256)
WIDE_BATCH = 16
SECONDS = 3.0  # of a turn
FASTER = 1.6  # than a plain loop of transformers' model
PRODUCTS = 0.6  # of a wide step, that its products alone would take
OPTIMIZER = 0.1
DATA = 0.03
AROUND, RUN_SECONDS = 0.03, 20


def training(options: BenchOptions) -> Iterator[BenchLine]:
    data, tokenizer = text()
    yield from _against_transformers(options, data, tokenizer)
    yield from _against_products(options, data, tokenizer)
    yield _around(options)


def text() -> tuple[Tokens, Tokenizer]:
    """The characters of `python-docs`, which every machine has."""
    corpus = open_corpus("python-docs")
    tokenizer = train(corpus, "char")
    return tokenize(corpus.split(0.9)[0], tokenizer, Path("data")), tokenizer


def trainer(
    preset: str,
    sizes: dict[str, int],
    data: Tokens,
    tokenizer: Tokenizer,
    batch_size: int,
    vocab_size: int | None = None,
    **more: Any,
) -> Trainer:
    """One that goes on for as long as it is asked."""
    torch.manual_seed(0)
    config = PRESETS.load(preset).config(vocab_size or tokenizer.vocab_size, **sizes, dropout=0.0)
    objective = make(["clm"], {}, tokenizer)
    options = TrainOptions(batch_size=batch_size, **more)
    plan = resolve(BudgetOptions(seconds=1e9), options, config.max_seq_len, len(data), config.d_model)
    trainee = objective.attach(SHAPES.load(config.shape)(config))
    trainee.model.to(plan.device)
    return Trainer(trainee, objective, data, None, plan)


def rate(one: Trainer) -> Callable[[], float]:
    """Tokens a second over some seconds of its steps; each call goes on with the same run."""
    events = one.events()
    step = one.plan.options.batch_size * one.plan.block

    def measure() -> float:
        with applied(one.plan):
            for _ in range(3):  # the loss of a step is read when the next was issued
                next(events)
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS or steps < 2:
                next(events)
                steps += 1
            return steps * step / (time.perf_counter() - began)

    return measure


def _against_transformers(options: BenchOptions, data: Tokens, tokenizer: Tokenizer) -> Iterator[BenchLine]:
    kept = {
        "gpt2": trainer("gpt2", RECIPE, data, tokenizer, RECIPE_BATCH, optimizer="adamw"),
        "gpt2 fp32": trainer("gpt2", RECIPE, data, tokenizer, RECIPE_BATCH, optimizer="adamw", precision="fp32"),
        "modern": trainer("modern", RECIPE, data, tokenizer, RECIPE_BATCH),
    }
    missing = peer()
    ways = {name: rate(one) for name, one in kept.items()}
    if not missing:
        ways["theirs"] = theirs(data, tokenizer.vocab_size)
    found = in_turns(ways, options.rounds)
    lines = {
        "gpt2": ("0.8 M, GPT-2 shape, AdamW, against transformers' plain loop", FASTER),
        "gpt2 fp32": ("the same in float32", None),
        "modern": ("0.8 M, modern, Muon, against the same loop: a step does more, and learns more", None),
    }
    for name, (what, goal) in lines.items():
        line = against(PART, what, goal, found[name], found.get("theirs"), missing)
        yield judged(line, ways[name], "fewer, larger operations in a block")


def theirs(data: Tokens, vocab_size: int) -> Callable[[], float]:
    """transformers' GPT-2 of the same shape, batch, data, clipping and optimiser, in the loop that its users write."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    block = RECIPE["max_seq_len"]
    config = GPT2Config(
        vocab_size=vocab_size,
        n_layer=RECIPE["n_layer"],
        n_head=RECIPE["n_head"],
        n_embd=RECIPE["d_model"],
        n_positions=block,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.from_numpy(np.asarray(data.ids, dtype=np.int64))
    rng = np.random.default_rng(0)

    def measure() -> float:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS or steps < 2:
            offsets = rng.integers(0, len(ids) - block, RECIPE_BATCH)
            batch = torch.stack([ids[i : i + block] for i in offsets])
            model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps += 1
        return steps * RECIPE_BATCH * block / (time.perf_counter() - began)

    return measure


def _against_products(options: BenchOptions, data: Tokens, tokenizer: Tokenizer) -> Iterator[BenchLine]:
    """A wide step, its products alone, its optimiser and its data, in turns."""
    one = trainer("modern", WIDE, data, tokenizer, WIDE_BATCH)
    measure = rate(one)
    tokens = WIDE_BATCH * WIDE["max_seq_len"]
    dtype = torch.bfloat16 if one.plan.precision == "bf16" else torch.float32
    multiply = products(one.trainee.model, tokens, dtype)

    def optimizer() -> float:
        steps: list[float] = []
        took = optimizer_seconds(one, lambda: steps.append(tokens / measure()))
        return took / steps[0]

    def sampling() -> float:
        rng = np.random.default_rng(0)
        return timed(lambda: one.objective.collate(one.sampler.examples(0, WIDE_BATCH), rng, 0))

    ways = {"step": lambda: tokens / measure(), "products": multiply, "optimizer": optimizer, "data": sampling}
    found = in_turns(ways, options.rounds)
    said = f"{WIDE['n_layer']} layers × {WIDE['d_model']}, context {WIDE['max_seq_len']}, batch {WIDE_BATCH}, {one.plan.precision}"
    step, alone = spread(found["step"])["value"], spread(found["products"])["value"]
    yield judged(
        BenchLine(
            part=PART,
            what=f"of a step, what its matrix products alone take ({said})",
            unit="%",
            goal=PRODUCTS,
            note=f"{1e3 * alone:,.0f} of {1e3 * step:,.0f} ms",
            **ratio(found["products"], found["step"]),
        ),
        measure,
        "norms, rotation and the loss in fewer passes over memory",
    )
    yield judged(
        BenchLine(
            part=PART,
            what="of that step, the optimiser",
            unit="%",
            goal=OPTIMIZER,
            least=False,
            **spread(found["optimizer"]),
        )
    )
    yield judged(
        BenchLine(
            part=PART,
            what="of that step, taking a batch from the text",
            unit="%",
            goal=DATA,
            least=False,
            **ratio(found["data"], found["step"]),
        )
    )


def products(model: nn.Module, tokens: int, dtype: torch.dtype) -> Callable[[], float]:
    """Seconds of the products of all linear maps of a step, forward and of both gradients, at its precision."""
    weights = [m.weight.detach().to(dtype) for m in model.modules() if isinstance(m, nn.Linear)]
    inputs = {w.shape[1]: torch.randn(tokens, w.shape[1]).to(dtype) for w in weights}
    grads = {w.shape[0]: torch.randn(tokens, w.shape[0]).to(dtype) for w in weights}

    def once() -> None:
        for w in weights:
            x, g = inputs[w.shape[1]], grads[w.shape[0]]
            nn.functional.linear(x, w)
            torch.mm(g, w)
            torch.mm(g.T, x)

    return lambda: min(timed(once) for _ in range(5))


def optimizer_seconds(one: Trainer, call: Callable[[], Any]) -> float:
    """Seconds that the optimisers took of one step, while `call` made some."""
    spent = spent_in([(optimizer, "step") for optimizer in one.optimizers], call)
    return sum(spent) / max(1, len(spent) // len(one.optimizers))


def spent_in(methods: Sequence[tuple[Any, str]], call: Callable[[], Any]) -> list[float]:
    """Seconds of each call of some methods, of objects or of classes, while `call` runs."""
    spent: list[float] = []

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = real(*args, **kwargs)
            spent.append(time.perf_counter() - began)
            return result

        return timing

    with contextlib.ExitStack() as patches:
        for owner, name in methods:
            patches.enter_context(patch.object(owner, name, around(getattr(owner, name))))
        call()
    return spent


def _around(options: BenchOptions) -> BenchLine:
    """What a run does besides its steps, by its own account: the clock is not fine enough for it."""
    reports: list[Any] = []

    def run() -> None:
        made = pretrain("python-docs", name="around", seconds=RUN_SECONDS, n_layer=4, display=False, fresh=True)
        reports.append(made.report)

    methods = [(Session, "_update"), (Trainer, "_validate"), (BlockSampler, "examples")]
    shares = [sum(spent_in(methods, run)) / reports[-1].seconds for _ in range(max(2, options.rounds // 2))]
    return judged(
        BenchLine(
            part=PART,
            what=f"of a run of {RUN_SECONDS} s: reading the text, validations, samples, events and states",
            unit="%",
            goal=AROUND,
            least=False,
            **spread(shares),
        )
    )
