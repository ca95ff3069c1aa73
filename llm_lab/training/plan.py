"""What was resolved from a request before the first step, frozen: with the trace it repeats a run exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from llm_lab import machine
from llm_lab.errors import BadValue
from llm_lab.training.options import BudgetOptions, CheckpointOptions, TrainOptions

DEFAULT_SECONDS = 60.0
COMPILED = 120.0  # seconds from which on compiling pays: GPT-2 of 124 M takes 24 s longer to begin on an H100, then × 1.6 as many steps
FIRST_SHARE = 1e-3  # of a time budget: where a logarithmic spacing begins


@dataclass(frozen=True)
class Plan:
    """How a run is carried out. Exactly one of `steps` and `seconds` bounds it."""

    options: TrainOptions
    block: int  # tokens in a sequence
    advance: float  # tokens of the text that one row goes on by
    steps: int | None
    seconds: float | None
    device: str
    precision: str  # fp32 | bf16
    threads: int
    eval_every: int | None  # steps; None: by time, at most twelve in a run
    checkpoints: tuple[int, ...] = ()  # steps after which the weights are kept; 0: before the first
    checkpoint_shares: tuple[float, ...] = ()  # of a time budget, whose steps are not known: after which shares of it
    sizes: dict[str, int | float] = field(default_factory=dict)  # options that were chosen for the time, not asked for
    compiled: bool = False
    # Of a replayed run: the factor of the peak learning rate of each step, and the steps it validated at.
    learning_rates: tuple[float, ...] = field(default=(), repr=False)
    eval_steps: frozenset[int] = field(default=frozenset(), repr=False)

    @property
    def tokens_per_step(self) -> float:
        return self.options.batch_size * self.options.accumulate * self.advance

    def to_dict(self) -> dict[str, Any]:
        """As it is stored; a replayed run's learning rates stand in its trace."""
        return {key: value for key, value in asdict(self).items() if key not in ("learning_rates", "eval_steps")}


def resolve(
    budget: BudgetOptions,
    options: TrainOptions,
    block: int,
    train_tokens: int,
    d_model: int,
    replay: str | None = None,
    replayed: tuple[tuple[float, ...], frozenset[int]] = ((), frozenset()),
    advance: float | None = None,
    kept: CheckpointOptions | None = None,
    alike: bool = False,
) -> Plan:
    """The plan for a budget on this machine. `advance` are the tokens of the text that one row goes on by, a block
    unless told; `alike`: all steps have tensors of the same shapes.

    `replayed` is the trace of the run called `replay`: its learning-rate factors, and the steps it validated at.
    """
    rates, eval_steps = replayed
    if replay and not rates:
        raise BadValue(
            f"replay: run {replay} has no trace of learning rates (events.jsonl); train with --steps instead"
        )
    device = machine.device(options.device)
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if machine.bf16_gains(device, d_model) else "fp32"
    plan = Plan(
        options=options,
        block=block,
        advance=block if advance is None else advance,
        steps=budget.steps,
        seconds=budget.seconds,
        device=str(device),
        precision=precision,
        threads=options.threads or machine.cores(),
        eval_every=options.eval_every,
        learning_rates=rates,
        eval_steps=eval_steps,
    )
    steps = budget.steps
    if budget.tokens is not None:
        steps = max(1, round(budget.tokens / plan.tokens_per_step))
    elif budget.epochs is not None:
        steps = max(1, round(budget.epochs * train_tokens / plan.tokens_per_step))
    if rates:
        if (steps or 0) > len(rates):
            raise BadValue(f"replay: run {replay} has {len(rates)} steps, and {steps} were asked for; give no budget")
        steps = steps or len(rates)
    seconds = None if steps else budget.seconds or DEFAULT_SECONDS
    compiled = options.compile
    if compiled is None:
        compiled = alike and (seconds or 0) >= COMPILED and machine.compiles(device)
    return replace(
        plan,
        steps=steps,
        seconds=seconds,
        compiled=compiled,
        eval_every=options.eval_every or (max(1, steps // 12) if steps else None),
        **_checkpoints(kept or CheckpointOptions(), steps),
    )


def _checkpoints(kept: CheckpointOptions, steps: int | None) -> dict[str, Any]:
    """The plan's fields of what is kept on the way; BadValue for a step that the run does not have."""
    if len(kept.checkpoints) == 1:
        if not kept.checkpoints[0]:
            return {}
        shares = kept.shares(1 / steps if steps else FIRST_SHARE)
        if steps is None:
            return {"checkpoint_shares": tuple(shares)}
        return {"checkpoints": tuple(sorted({max(1, round(share * steps)) for share in shares}))}
    if steps is not None and any(step > steps for step in kept.checkpoints):
        raise BadValue(
            f"checkpoints: the run has {steps} steps, and {max(kept.checkpoints)} is beyond them; use for example --checkpoints 0,{steps}"
        )
    return {"checkpoints": tuple(sorted(set(kept.checkpoints)))}


@contextlib.contextmanager
def applied(plan: Plan) -> Iterator[None]:
    """What is global, set for a while: threads, deterministic kernels where asked, and freed memory kept for the next step."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(deterministic or plan.options.deterministic)
    try:
        with machine.keeping_memory():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
