"""The size of the model for the time that is given, by what a step takes here and a scaling rule.

A model that trains for a fixed time errs for three reasons: it is too small for the text, it has read too little of it, and it
has made too few steps. A larger one has less of the first and, since it is slower, more of the others. Hoffmann et al. (2022, §3.3)
write the first two as powers; too few steps make what was read count for less (McCandlish et al. 2018, §2.3):

    excess(N, D, S) = (N_c / N)^α + (D_c / D)^β (1 + S_c / S),

for N parameters in blocks, D tokens and S steps. Here a block of a deep model counts for more than one of a shallow model: N is
multiplied by a quarter of the layers. Text that is read again counts for less (Muennighoff et al. 2023, §5): R passes beyond the
first as R* (1 − e^(−R / R*)) of them. The constants were fitted to 28 runs of `modern` (0.1 to 4 M parameters, 0.2 to 9 M tokens)
on the first 81 % of Shakespeare, with the next 9 % held out; they meet each of them within 0.03 nats.

What is the least over the sizes of a ladder is taken. The ladder is fixed, each step of it up to a few times as costly as the one
before; how many tokens each would read in the time is found by a few of its own steps. Where the choice would read the text seven times
or more it gets dropout: without, 0.8 M parameters come to 3.06 after 20 passes over 100 KB of Shakespeare, with it to 1.75. Dropout is
of the stream alone, since a CPU has no fused kernel that drops attention's weights: a minute of 1 M parameters on 100 KB (7 passes) comes
to 1.583 without, to 1.524 so, and to 1.594, in a quarter fewer steps, where attention's weights are dropped too. After 5 passes, over
other parts, it is the one without that is ahead, by 0.05.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from llm_lab import machine, memory
from llm_lab.data.arrays import Tokens
from llm_lab.models.options import SHAPES
from llm_lab.registry import load
from llm_lab.request import Request
from llm_lab.results import SizePoint, Sizing
from llm_lab.tokenizers.tokenizer import Tokenizer
from llm_lab.training.options import BudgetOptions, TrainOptions
from llm_lab.training.plan import DEFAULT_SECONDS, applied, resolve
from llm_lab.training.trainer import Trainer

SHARE = 0.04  # of the time, which measuring may take
STEPS = 3  # that are timed, after one that prepares the kernels
N_C, ALPHA = 770.0, 0.262
D_C, BETA = 2.21e4, 0.425
S_C = 108.0
PATIENCE = 4.0  # seconds that timing one size may take where all are looked at
TIMES = tuple(10 ** (0.7 + i / 12) for i in range(47))  # 5 s to 10 h
BLOCKS = 64  # of a context, that a text must have for it
ROOM = 0.8  # of the free memory, which the chosen size may take
AGAIN = 15.0  # R*: what reading again can add at most, in passes
OFTEN, DROPOUT = 7.0, 0.1  # passes over the text, from which on so much is dropped


@dataclass(frozen=True)
class Size:
    """One step of the ladder: what of a model, and of a training step, is chosen."""

    n_layer: int
    n_head: int
    d_model: int
    max_seq_len: int
    batch_size: int

    @property
    def parameters(self) -> int:
        """Of the blocks: embeddings, which cost no products, are not counted."""
        return 12 * self.n_layer * self.d_model**2

    @property
    def tokens(self) -> int:
        """That one step reads."""
        return self.batch_size * self.max_seq_len

    @property
    def flops(self) -> float:
        """Of one step: 6 for a parameter and a token, and what causal attention takes (Kaplan et al. 2020, §2.1)."""
        return self.tokens * 6 * (self.parameters + self.n_layer * self.d_model * self.max_seq_len)

    @property
    def options(self) -> dict[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.n_layer} layers × {self.d_model}, context {self.max_seq_len}, batch {self.batch_size}"


LADDER = (
    Size(2, 2, 64, 64, 16),
    Size(2, 2, 128, 64, 16),
    Size(5, 2, 128, 256, 8),
    Size(4, 3, 192, 256, 8),
    Size(6, 3, 192, 256, 16),
    Size(6, 4, 256, 256, 16),
    Size(6, 6, 384, 256, 32),
    Size(8, 8, 512, 512, 32),
    Size(12, 12, 768, 1024, 32),
)


@dataclass(frozen=True)
class Choice:
    """A size of the ladder with what it would come to in the time."""

    size: Size
    step: float  # seconds, measured or reckoned
    tokens: float  # that it reads in the time
    passes: float  # that this is over the text
    excess: float  # nats per token, by the rule
    measured: bool

    @property
    def dropped(self) -> dict[str, float]:
        """Options without which a text that is read many times is learned by heart. Attention's weights all stay: where some
        are dropped, a CPU has no fused kernel."""
        return {"dropout": DROPOUT, "attention_dropout": 0.0} if self.passes >= OFTEN else {}


def excess(size: Size, tokens: float, unique: float) -> float:
    """Nats per token above the best there could be, by the rule; `unique` are the tokens of the text."""
    passes = tokens / unique
    fresh = unique * (1 + AGAIN * (1 - math.exp(-(passes - 1) / AGAIN))) if passes > 1 else tokens
    steps = max(1.0, tokens / size.tokens)
    too_small = (N_C / (size.parameters * size.n_layer / 4)) ** ALPHA
    return too_small + (D_C / max(fresh, 1.0)) ** BETA * (1 + S_C / steps)


def reckon(seconds: float, unique: float, steps: dict[Size, float], ladder: Sequence[Size] = LADDER) -> list[Choice]:
    """Every size in the time. One that was not timed takes the time of the nearest that was, by their operations."""
    found = []
    for place, size in enumerate(ladder):
        near = min(steps, key=lambda timed: abs(ladder.index(timed) - place))
        step = steps[near] * size.flops / near.flops
        found.append(_choice(size, step, seconds, unique, size in steps))
    return found


def _choice(size: Size, step: float, seconds: float, unique: float, measured: bool) -> Choice:
    tokens = seconds / step * size.tokens
    return Choice(size, step, tokens, tokens / unique, excess(size, tokens, unique), measured)


def best(found: Sequence[Choice]) -> Choice:
    """The one that errs least."""
    return min(found, key=lambda one: one.excess)


def choose(
    seconds: float, unique: float, timed: Callable[[Size], float], ladder: Sequence[Size] = LADDER
) -> list[Choice]:
    """The ladder as it is at the end of measuring. From a small size on, the one that looks best is timed, until it and its
    neighbours have been, or SHARE of the time is gone: a large size does more operations in a second than a small one,
    so what one of them takes says too much for the larger and too little for the smaller."""
    began = time.perf_counter()
    start = ladder[min(1, len(ladder) - 1)]
    steps = {start: timed(start)}
    while True:
        found = reckon(seconds, unique, steps, ladder)
        at = found.index(best(found))
        around = [place for place in (at, at + 1, at - 1) if 0 <= place < len(found)]
        new = next((place for place in around if not found[place].measured), None)
        spent = time.perf_counter() - began
        if new is None or spent + (STEPS + 1) * found[new].step > SHARE * seconds:
            return found
        steps[ladder[new]] = timed(ladder[new])


def fit(request: Request, tokenizer: Tokenizer, data: Tokens, started: float) -> str:
    """Give the request the best size for its time of those that text and memory allow; the choice in one line."""
    seconds = request[BudgetOptions].seconds or DEFAULT_SECONDS
    ladder = [size for size in LADDER if size is LADDER[0] or _fits(size, request, tokenizer, data)]
    with torch.random.fork_rng():
        if machine.device(request[TrainOptions].device).type == "cuda":
            _step_time(ladder[0], request, tokenizer, data)  # a GPU takes a second or more to begin at all
        left = seconds - (time.perf_counter() - started)
        found = choose(
            left,
            len(data),
            lambda size: _step_time(size, request, tokenizer, data),
            ladder,
        )
        one = best(found)
        options: dict[str, int | float] = dict(one.size.options)
        dropped = {name: share for name, share in one.dropped.items() if name not in request.given}
        if "dropout" in dropped:
            request.resize({**options, **dropped})
            if _room(request, tokenizer):  # it takes more of it, and of time
                options |= dropped
                step = _step_time(one.size, request, tokenizer, data, dropped)
                one = _choice(one.size, step, left, len(data), measured=True)
        request.resize(options)
    return said(one, found, seconds, options.get("dropout"))


def _fits(size: Size, request: Request, tokenizer: Tokenizer, data: Tokens) -> bool:
    request.resize(size.options)
    return len(data) >= BLOCKS * size.max_seq_len and _room(request, tokenizer)


def _room(request: Request, tokenizer: Tokenizer) -> bool:
    config = request.config(tokenizer.vocab_size)
    return memory.need(config, request[TrainOptions], request.objective(tokenizer)).fits(ROOM)


def _step_time(
    size: Size, request: Request, tokenizer: Tokenizer, data: Tokens, dropped: Mapping[str, float] = {}
) -> float:
    """Seconds of one step of that size, the least of STEPS, by the trainer that will train it, not compiled."""
    request.resize({**size.options, **dropped})
    config, objective = request.config(tokenizer.vocab_size), request.objective(tokenizer)
    options = replace(request[TrainOptions], compile=False)
    trainee = objective.attach(load(SHAPES.entry(config.shape).target)(config))
    objective.prepare(data.ids)
    # An event comes when the next step has been issued: the first tells of two, the last of none.
    plan = resolve(BudgetOptions(steps=STEPS + 2), options, config.max_seq_len, len(data), config.d_model)
    trainee.model.to(plan.device)
    trainee.extras.to(plan.device)
    with applied(plan):
        came = [
            time.perf_counter()
            for event in Trainer(trainee, objective, data, None, plan).events()
            if event.kind == "step"
        ]
    return min(b - a for a, b in itertools.pairwise(came[:-1]))


def over_time(request: Request, tokenizer: Tokenizer, data: Tokens) -> Sizing:
    """The ladder over times from seconds to hours; the sizes whose steps are short enough are timed."""
    ladder = [size for size in LADDER if size is LADDER[0] or _fits(size, request, tokenizer, data)]
    with torch.random.fork_rng():
        steps = {ladder[0]: _step_time(ladder[0], request, tokenizer, data)}
        for before, size in itertools.pairwise(ladder):
            if steps[before] * size.flops / before.flops > PATIENCE / (STEPS + 2):
                break
            steps[size] = _step_time(size, request, tokenizer, data)
    over = [reckon(seconds, len(data), steps, ladder) for seconds in TIMES]
    points = [
        SizePoint(
            **one.size.options,
            parameters=one.size.parameters,
            tokens_per_second=one.size.tokens / one.step,
            measured=one.measured,
            excess=tuple(found[place].excess for found in over),
        )
        for place, one in enumerate(over[0])
    ]
    too_large = len(LADDER) - len(ladder)
    return Sizing(
        corpus="",
        tokens=len(data),
        unit=tokenizer.unit,
        seconds=TIMES,
        points=points,
        rule=(
            f"A model of N parameters (in blocks, a quarter as often as it has layers) that has read D tokens in S steps is taken to err by "
            f"({N_C:g} / N)^{ALPHA:g} + ({D_C:,.0f} / D)^{BETA:g} · (1 + {S_C:g} / S) nats per token more than the best there could be (the form of Hoffmann "
            "et al. 2022); text read again counts for less (Muennighoff et al. 2023). A larger model has less of the first, and in the same time more of "
            "the second. pretrain takes the lowest line at the time that it is given, where neither a preset nor a size is asked for, with dropout "
            f"{DROPOUT:g} where that reads the text {OFTEN:g} times or more."
        ),
        notes=[f"larger sizes left out, since the text is too short for them or the memory too small: {too_large}"]
        if too_large
        else [],
    )


def said(one: Choice, found: list[Choice], seconds: float, dropout: float | None) -> str:
    """The choice among all that was `found`, with the `dropout` that goes with it, in one line."""
    timed = sum(each.measured for each in found)
    dropped = f", dropout {dropout:g} since it reads the text {one.passes:,.0f} times" if dropout else ""
    return (
        f"sized for {seconds:g} s here: {one.size}{dropped}; of {len(found)} sizes, {timed} of them timed, it has the least predicted error "
        f"({one.tokens / 1e6:,.2g} M tokens at {one.size.tokens / one.step:,.0f} a second). A size of yours, such as --n_layer 4, turns this off"
    )
