"""A model before it is trained, and one in training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ModelPart:
    """One part of a model and what it costs."""

    name: str  # "attention", "mlp", …
    detail: str  # "4 heads of 32, rotary, QK norm"
    count: int  # how many times it stands in the model
    parameters: int  # in all of them together
    flops: int  # forward, per token, at the full context; a multiply-add is 2
    memory: int  # bytes while training: weights, gradients, optimiser state, kept activations
    kind: str = ""  # what it does (embedding, position, norm, attention, cross, mlp, experts, …); "" where nobody knows
    stack: str = ""  # "encoder" or "decoder", where there are two
    block: bool = False  # it stands in the block that repeats `count` times


@dataclass(eq=False, kw_only=True)
class ModelReport(Result):
    """A model before it is trained: its parts, from the input to the output, and what they cost."""

    renderer: ClassVar[str] = "llm_lab.views.model:report"
    name: str
    title: str  # "modern · decoder" or the class's name
    config: dict[str, Any]
    parts: list[ModelPart]  # in the order data flows, one stack after the other
    parameters: int
    flops: int  # forward FLOPs per token
    memory: int  # training memory in bytes, at batch_size
    batch_size: int
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([vars(part) for part in self.parts])


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote while it learned."""

    step: int
    seconds: float
    prompt: str
    text: str


@dataclass(eq=False, kw_only=True)
class TrainingReport(Result):
    """A training run as its card shows it, while it goes on and after it."""

    renderer: ClassVar[str] = "llm_lab.views.training:report"
    name: str
    status: str  # training | paused | finished | failed | died | restored
    facts: list[
        str
    ]  # "modern", "0.80 M parameters", "shakespeare, char", "cpu 2 threads, fp32", "run 3f2a9c", "seed 0"
    unit: str  # of the losses: "nats/char", "nats/token", "nats/masked token"
    train: list[tuple[int, float, float]] = field(default_factory=list)  # (step, seconds, loss)
    val: list[tuple[int, float, float]] = field(default_factory=list)
    parts: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)  # by name, where there are several
    val_parts: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)
    watched: dict[str, list[tuple[int, float, float]]] = field(
        default_factory=dict
    )  # numbers by "watch" or "watch.key"
    watching: dict[str, str] = field(
        default_factory=dict
    )  # what the numbers of a watch are: "bits, the mean over all heads"
    looks: dict[str, tuple[int, Result]] = field(default_factory=dict)  # the last result of each watch that gives them
    setup_seconds: float = 0.0  # before the first step
    watch_seconds: float = 0.0  # of the time after it, what watching took
    val_on: str = ""  # "first 20,480 characters of the validation split"
    several: bool = False  # the loss has parts, each with a curve of its own
    by_time: bool = False  # the budget is seconds, so the chart runs over time; else over steps
    budget_steps: int | None = None  # an estimate where by_time
    budget_seconds: float | None = None
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    epochs: float = 0.0
    tokens_per_second: float = 0.0
    train_tokens: int = 0  # of the training text
    lr: float = 0.0
    peak_lr: float = 0.0  # the largest of the groups' peak learning rates
    lr_scale: float = 1.0  # what a person multiplies the schedule by
    schedule: str = ""
    memory: int = 0  # bytes in use by this process (or on the device)
    memory_total: int = 0
    memory_need: int = 0  # bytes that training was expected to take, of those that were free before it
    memory_free: int = 0
    final: dict[str, float] = field(default_factory=dict)  # whole validation split: val_loss, perplexity, bits_per_byte
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # one line each, newest last
    repeat: str = ""  # the line that repeats this run exactly

    @property
    def slowdown(self) -> float:
        """The time of training with watching as a multiple of the time without it."""
        spent = self.seconds - self.setup_seconds
        return spent / (spent - self.watch_seconds) if spent > self.watch_seconds else 1.0

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        frame = pd.DataFrame(self.train, columns=["step", "seconds", "train_loss"])
        curves = {"val_loss": self.val} | {f"train_{name}": curve for name, curve in self.parts.items()}
        for name, curve in (
            curves | {f"val_{name}": curve for name, curve in self.val_parts.items()} | self.watched
        ).items():
            one = pd.DataFrame(curve, columns=["step", "seconds", name])[["step", name]]
            frame = frame.merge(one, on="step", how="outer")
        return frame
