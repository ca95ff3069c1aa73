"""The parts of the benchmark. A part is one file and one line here: a function that takes BenchOptions and yields lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

LONG = frozenset({"long"})  # minutes, on a machine that does nothing else
PARTS = Table(
    "part",
    [
        Entry("training", "llm_lab.bench.training:training", "the training loop against transformers', and a step against its products"),
        Entry("writing", "llm_lab.bench.writing:writing", "tokens a second against transformers' generate, 0.8 M and 135 M"),
        Entry("start", "llm_lab.bench.start:start", "the extension, the first step, a large model from the disk; the largest size of a process"),
        Entry("memory", "llm_lab.bench.memory:memory", "what grows over 5,000 steps and 200 texts; what trainings take, of their estimates"),
        Entry("quality", "llm_lab.bench.quality:quality", "losses on Shakespeare after 60, 300 and 600 s", supports=LONG),
        Entry("sizes", "llm_lab.bench.quality:sizes", "the size that is chosen for 60 s, against twelve fixed ones; over an hour", supports=LONG),
        Entry("sizes_long", "llm_lab.bench.quality:sizes_long", "the same for 300 s; over five hours", supports=LONG),
        Entry("gpu", "llm_lab.bench.gpu:gpu", "GPT-2 of 124 M on one CUDA GPU: share of its peak in training and decoding"),
    ],
)  # fmt: skip


@dataclass(frozen=True)
class BenchOptions(Options):
    room: ClassVar[str] = "benchmark"
    parts: tuple[str, ...] = option(
        (), "which parts of the benchmark", choices=lambda: PARTS, auto="all but the long ones", example="training"
    )
    rounds: int = option(5, "turns of each comparison", ge=2, le=100)

    @property
    def chosen(self) -> tuple[str, ...]:
        return self.parts or tuple(name for name, entry in PARTS.items() if not entry.supports & LONG)
