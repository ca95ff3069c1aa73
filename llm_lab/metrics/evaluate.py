"""One pass over a text, and every metric asked for from it."""

from __future__ import annotations

from collections.abc import Sequence

from llm_lab.data.arrays import Tokens
from llm_lab.data.sampler import blocks
from llm_lab.errors import BadValue
from llm_lab.metrics.likelihood import Likelihood
from llm_lab.metrics.options import METRICS
from llm_lab.models.cost import EVALUATION_TOKENS
from llm_lab.models.language_model import LanguageModel
from llm_lab.objectives.objective import Objective
from llm_lab.results import Score
from llm_lab.training.validation import block_losses


def likelihood(name: str, model: LanguageModel, objective: Objective, tokens: Tokens, unit: str) -> Likelihood:
    """A model's likelihood of a whole text, read once in blocks of its context."""
    if len(tokens.ids) < 2:
        raise BadValue(f"data: {len(tokens.ids)} token is too short to evaluate on; at least 2 are needed")
    length: int = model.max_seq_len
    device = model.device
    sums, counts = block_losses(objective, model, blocks(tokens, length), max(1, EVALUATION_TOKENS // length), device)
    # The first token is predicted by nothing, so its bytes do not count.
    share = counts.sum() / len(tokens.ids)
    return Likelihood(name, sums, counts, max(1, round(tokens.n_bytes * float(share))), unit)


def evaluate(found: Likelihood, metrics: Sequence[str]) -> list[Score]:
    """The metrics, in the order asked for."""
    return [METRICS.load(metric)(found) for metric in metrics]
