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


# Of an answer beside the one that is right, (text, target) -> float; more is better. What is `given` needs the model; a
# `share` is 0 or 1 for each answer.
GIVEN = frozenset({"given"})
SHARE = frozenset({"share"})
ANSWERS = Table(
    "metric",
    [
        Entry(
            "exact_match", "llm_lab.metrics.answers:exact_match", "share of texts that are the target", supports=SHARE
        ),
        Entry(
            "contains", "llm_lab.metrics.answers:contains", "share of texts that the target stands in", supports=SHARE
        ),
        Entry("f1", "llm_lab.metrics.answers:f1", "words shared with the target (Rajpurkar et al. 2016), 0 to 1"),
        Entry("chrf", "llm_lab.metrics.answers:chrf", "character n-grams shared (Popović 2015), 0 to 100"),
        Entry("bleu", "llm_lab.metrics.answers:bleu", "BLEU of each sentence, smoothed, 0 to 100"),
        Entry(
            "target_logprob",
            "llm_lab.metrics.continuations:continuation_logprobs",
            "how likely the target is after the prompt, in nats per token",
            supports=GIVEN,
        ),
    ],
)


@dataclass(frozen=True)
class EvaluateOptions(Options):
    room: ClassVar[str] = "evaluation"
    metrics: tuple[str, ...] = option(
        tuple(METRICS), "what to measure", choices=lambda: METRICS, example="perplexity,bits_per_byte"
    )
