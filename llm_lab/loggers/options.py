"""Which loggers there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

LOGGERS = Table(
    "logger",
    [
        Entry("tensorboard", "llm_lab.loggers.tensorboard:TensorBoard", "event files in the run's folder"),
        Entry("mlflow", "llm_lab.loggers.mlflow:MLflow", "MLFLOW_TRACKING_URI, or a database in .llm_lab/mlflow"),
        Entry("wandb", "llm_lab.loggers.wandb:WandB", "Weights & Biases; offline where there is no key"),
        Entry("trackio", "llm_lab.loggers.trackio:Trackio", "trackio's own local project llm_lab"),
    ],
)


@dataclass(frozen=True)
class LogOptions(Options):
    room: ClassVar[str] = "log"
    log: tuple[str, ...] = option(
        (),
        "programs that are told what happens, each by its own library, where it is installed",
        choices=lambda: LOGGERS,
        auto="none",
        example="tensorboard,mlflow",
    )
