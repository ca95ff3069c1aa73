"""What passes between a strategy and the loop: the step that a strategy takes, and the texts that it ends with."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """One step of decoding: R rows go on, each with the n tokens that the step settles."""

    parents: Int[Tensor, " R"] | None  # the row that each row continues; None: each its own
    tokens: Int[Tensor, "R n"]
    chosen_prob: Float[Tensor, "R n"]  # of each token, after filtering
    final: bool = False  # nothing better can come

    @classmethod
    def one(cls, tokens: Int[Tensor, " R"], chosen_prob: Float[Tensor, " R"]) -> Step:
        """Every row goes on with one token."""
        return cls(None, tokens[:, None], chosen_prob[:, None])


@dataclass(frozen=True, eq=False)
class Text:
    """A finished text: what was written after the prompt, with each token's probabilities."""

    ids: list[int]
    logprob: list[float]  # the model's own, at temperature 1, in nats
    chosen_prob: list[float]  # after the strategy's filtering
    score: float | None = None  # by which a search ranked it
    end: float | None = None  # the log-probability of the token that ended it, which is no part of it
