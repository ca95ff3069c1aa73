"""One pass over a text, and every metric asked for from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llm_lab.data.arrays import Tokens
from llm_lab.errors import BadValue
from llm_lab.metrics.likelihood import Likelihood
from llm_lab.metrics.options import METRICS
from llm_lab.models.cost import at_once
from llm_lab.objectives.objective import Objective, Trainee
from llm_lab.results import Score
from llm_lab.training.validation import block_losses, pieces


def likelihoods(name: str, trainee: Trainee, objective: Objective, tokens: Tokens, unit: str) -> list[Likelihood]:
    """What a model thinks of a whole text, read once in blocks of its context: for each part of its objective's loss,
    the chief one first. `unit` is what a token is called."""
    if len(tokens.ids) < 2:
        raise BadValue(f"data: {len(tokens.ids)} token is too short to evaluate on; at least 2 are needed")
    model = trainee.model
    length: int = model.max_seq_len
    examples = pieces(objective, tokens, length)
    if not examples:
        raise BadValue(f"data: {len(tokens.ids)} tokens are too short for the objective; give more text")
    found = block_losses(
        objective, trainee, examples, max(objective.least_batch, at_once(model.vocab_size, length)), model.device
    )
    made = []
    for part in (name for name in objective.parts if name in found):
        sums, counts = found[part]
        chief = part == objective.parts[0]
        # The first token is predicted by nothing, so its bytes do not count.
        share = counts.sum() / len(tokens.ids)
        n_bytes = max(1, round(tokens.n_bytes * float(share))) if chief and objective.covers else None
        kinds = {"text"} if n_bytes else set()
        kinds |= {"choices"} if chief and objective.choices else set()
        target = (objective.target or unit) if chief else part
        made.append(Likelihood(name, sums, counts, n_bytes, target, part, frozenset(kinds)))
    return made


def evaluate(found: Sequence[Likelihood], metrics: Sequence[str]) -> list[Score]:
    """The metrics of the chief part, in the order asked for, those that its loss has; then the other parts' losses."""
    chief, *others = found
    scores = [METRICS.load(metric)(chief) for metric in metrics if METRICS[metric].supports <= chief.kinds]
    return scores + [replace(METRICS.load("loss")(other), metric=f"{other.part} loss") for other in others]
