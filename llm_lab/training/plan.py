"""What was resolved from a request before the first step, frozen: with the trace it repeats a run exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from llm_lab import machine
from llm_lab.training.options import BudgetOptions, TrainOptions

DEFAULT_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """How a run is carried out. Exactly one of `steps` and `seconds` bounds it."""

    options: TrainOptions
    block: int  # tokens in a sequence
    steps: int | None
    seconds: float | None
    device: str
    precision: str  # fp32 | bf16
    threads: int
    eval_every: int | None  # steps; None: by time, twelve in a run
    learning_rates: tuple[float, ...] = field(
        default=(), repr=False
    )  # of a replayed run: a factor of the peak per step

    @property
    def tokens_per_step(self) -> int:
        return self.options.batch_size * self.options.accumulate * self.block

    def to_dict(self) -> dict[str, Any]:
        """As it is stored; a replayed run's learning rates stand in its trace."""
        return {key: value for key, value in asdict(self).items() if key != "learning_rates"}


def resolve(
    budget: BudgetOptions,
    options: TrainOptions,
    block: int,
    train_tokens: int,
    d_model: int,
    replayed: tuple[float, ...] = (),
) -> Plan:
    """The plan for a budget on this machine. `replayed` are the learning-rate factors of an earlier run."""
    device = machine.device(options.device)
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if machine.bf16_gains(device, d_model) else "fp32"
    plan = Plan(
        options=options,
        block=block,
        steps=budget.steps,
        seconds=budget.seconds,
        device=str(device),
        precision=precision,
        threads=options.threads or machine.cores(),
        eval_every=options.eval_every,
        learning_rates=replayed,
    )
    steps = budget.steps
    if budget.tokens is not None:
        steps = max(1, round(budget.tokens / plan.tokens_per_step))
    elif budget.epochs is not None:
        steps = max(1, round(budget.epochs * train_tokens / plan.tokens_per_step))
    if replayed:
        steps = len(replayed) if steps is None else min(steps, len(replayed))
    seconds = None if steps else budget.seconds or DEFAULT_SECONDS
    return replace(
        plan, steps=steps, seconds=seconds, eval_every=options.eval_every or (max(1, steps // 12) if steps else None)
    )


def apply(plan: Plan) -> None:
    """Set what is global in torch: threads, and deterministic kernels where asked."""
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(plan.options.deterministic)
