"""How a model is trained: budget, batches, optimiser, schedule, precision, validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm_lab.errors import BadValue
from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

OPTIMIZERS = Table(
    "optimizer",
    [
        Entry("muon", "llm_lab.training.optimizers:muon", "Muon for the matrices of the blocks, AdamW for the rest"),
        Entry("adamw", "llm_lab.training.optimizers:adamw", "AdamW for everything"),
    ],
)
SCHEDULES = Table(
    "schedule",
    [
        Entry("linear", "llm_lab.training.schedules:linear", "warm-up, then a straight line to zero"),
        Entry("cosine", "llm_lab.training.schedules:cosine", "warm-up, then half a cosine down to a tenth"),
        Entry("constant", "llm_lab.training.schedules:constant", "warm-up, then level"),
    ],
)
BUDGETS = ("steps", "seconds", "tokens", "epochs")


@dataclass(frozen=True)
class BudgetOptions(Options):
    """How long to train: one of the four, 60 seconds where none is given."""

    room: ClassVar[str] = "budget"
    steps: int | None = option(
        None,
        "train for this many optimiser steps",
        ge=1,
        also=("max_steps", "max_iters", "n_steps", "iterations"),
        example="2000",
    )
    seconds: float | None = option(
        None,
        "train for this much wall-clock time; with neither a preset nor a size, the model and its batch are sized for it",
        unit="s",
        gt=0,
        auto="60 where no budget is given",
        example="60",
    )
    tokens: int | None = option(None, "train on this many tokens", ge=1, example="5000000")
    epochs: float | None = option(None, "train for this many passes over the corpus", gt=0, example="3")

    def validate(self) -> None:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise BadValue(
                f"{' and '.join(given)}: only one budget can hold; keep one, for example --{given[0]} {getattr(self, given[0]):g}"
            )


@dataclass(frozen=True)
class TrainOptions(Options):
    room: ClassVar[str] = "training"
    batch_size: int = option(16, "sequences in one step (of one microbatch, where accumulated)", ge=1)
    accumulate: int = option(1, "microbatches whose gradients are added up before a step", ge=1)
    optimizer: str = option("muon", "what turns gradients into steps", choices=lambda: OPTIMIZERS)
    lr: float | None = option(
        None,
        "peak learning rate of AdamW's parameters",
        also=("learning_rate",),
        gt=0,
        auto="1e-2 beside muon, 1e-3 for adamw alone",
        example="1e-3",
    )
    muon_lr: float = option(0.02, "peak learning rate of Muon's matrices", gt=0)
    schedule: str = option("linear", "how the learning rate moves", choices=lambda: SCHEDULES)
    warmup: float = option(0.05, "share of the run in which the learning rate rises", ge=0, lt=1)
    weight_decay: float = option(0.1, "decoupled decay of matrices and embeddings", ge=0)
    beta1: float = option(0.9, "AdamW's decay of the mean gradient", ge=0, lt=1)
    beta2: float = option(0.95, "AdamW's decay of the squared gradient", ge=0, lt=1)
    grad_clip: float = option(1.0, "largest norm of the whole gradient; 0 turns clipping off", ge=0)
    precision: str = option("auto", "number format of the matrix products", choices=("auto", "fp32", "bf16"))
    compile: bool | None = option(
        None,
        "compile a step first (20 s and more; needs a compiler, on a GPU also Triton)",
        auto="on a GPU, for clm without experts or sparse patterns, where the time given is two minutes or more",
    )
    device: str = option("auto", "where to train", choices=("auto", "cpu", "cuda", "mps"))
    threads: int | None = option(None, "CPU threads", ge=1, le=256, auto="the cores this process may use")
    deterministic: bool = option(False, "only deterministic kernels (CUDA; slower)")
    seed: int = option(0, "of the weights, the order of the text and dropout", ge=0, lt=2**63)
    eval_every: int | None = option(
        None,
        "steps between validations",
        ge=1,
        auto="twelve in a run; fewer where they would take over 3 % of a time budget",
        example="100",
    )
    eval_tokens: int = option(8192, "tokens of the validation split that are used while training", ge=1)
    keep: str = option("last", "which weights are the result", choices=("last", "best"))


@dataclass(frozen=True)
class CheckpointOptions(Options):
    """Which states of the model are kept on the way. One number is how many; several are steps, 0 before the first."""

    room: ClassVar[str] = "checkpoints"
    checkpoints: tuple[int, ...] = option(
        (), "weights to keep on the way: how many, or after which steps", ge=0, auto="none", example="8"
    )
    checkpoint_spacing: str = option(
        "even", "how that many lie over the run; log: dense at its beginning", choices=("even", "log")
    )

    def shares(self, first: float) -> list[float]:
        """Where that many lie, as shares of the run, the last at its end; of a logarithmic spacing, from `first` on."""
        n = self.checkpoints[0]
        if self.checkpoint_spacing == "even":
            return [(i + 1) / n for i in range(n)]
        return [first ** (1 - i / (n - 1)) for i in range(n)] if n > 1 else [1.0]


@dataclass(frozen=True)
class SampleOptions(Options):
    """What a run shows of itself while it trains."""

    room: ClassVar[str] = "display"
    sample_prompt: str | None = option(
        None, "the model continues this text while it learns", auto="the start of the validation split"
    )
    sample_tokens: int = option(64, "length of these samples; 0 for none", ge=0)
