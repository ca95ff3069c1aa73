"""What can be measured of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

# What a metric needs of a loss stands in its `supports`: see `Likelihood.kinds`.
METRICS = Table(
    "metric",
    [
        Entry("loss", "llm_lab.metrics.likelihood:loss", "mean negative log-likelihood of a token"),
        Entry(
            "perplexity",
            "llm_lab.metrics.likelihood:perplexity",
            "exp of the loss: how many tokens it is torn between",
            supports=frozenset({"choices"}),
        ),
        Entry(
            "bits_per_byte",
            "llm_lab.metrics.likelihood:bits_per_byte",
            "bits to code a byte of the text: comparable across tokenizers",
            supports=frozenset({"text"}),
        ),
    ],
)


@dataclass(frozen=True)
class EvaluateOptions(Options):
    room: ClassVar[str] = "evaluation"
    metrics: tuple[str, ...] = option(
        tuple(METRICS), "what to measure", choices=lambda: METRICS, example="perplexity,bits_per_byte"
    )
