"""Metrics that rest on the likelihood of held-out text: loss, perplexity, bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llm_lab.results import Score, ratio_interval


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of a text: for each block its targets' −log p in nats, and how many they are."""

    model: str
    sums: np.ndarray
    counts: np.ndarray
    n_bytes: int | None  # UTF-8 bytes of the text behind the targets; None where they are but a part of a text
    unit: str  # "char" or "token": what a target is
    part: str = "clm"  # of the objective's loss
    # text: it is the likelihood of a whole text; choices: each target is one choice among all tokens.
    kinds: frozenset[str] = frozenset({"text", "choices"})

    @property
    def mean(self) -> float:
        """Nats per target."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def interval(self) -> float | None:
        """Half of the 95 % confidence interval of the mean. Blocks, not tokens, are taken as independent: tokens of
        one text are not (ratio estimator; Cochran 1977, §2.11)."""
        return ratio_interval(self.sums.tolist(), self.counts.tolist())[1]

    def score(self, metric: str, value: float, slope: float, unit: str) -> Score:
        """A metric that is a function of the mean, with that function's slope for its interval (delta method)."""
        interval = None if self.interval is None else abs(slope) * self.interval
        return Score(self.model, metric, value, interval, unit, "lower", len(self.sums))


def loss(found: Likelihood) -> Score:
    """− mean log p, in nats per token (per character where characters are the tokens)."""
    return found.score("loss", found.mean, 1.0, f"nats/{found.unit}")


def perplexity(found: Likelihood) -> Score:
    """exp(loss), per token: compare only models of one tokenizer (Jelinek et al. 1977)."""
    value = math.exp(min(found.mean, 700.0))
    return found.score("perplexity", value, value, f"per {found.unit}")


def bits_per_byte(found: Likelihood) -> Score:
    """Bits to code one UTF-8 byte of the text: comparable whatever the tokenizer (Gao et al. 2020, §3.1)."""
    assert found.n_bytes is not None, "asked for where the loss is the text's likelihood"
    slope = float(found.counts.sum()) / (found.n_bytes * math.log(2))
    return found.score("bits_per_byte", found.mean * slope, slope, "bits/byte")
