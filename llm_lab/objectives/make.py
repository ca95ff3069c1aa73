"""An objective from its name, or a mixture from several; and whether a model can learn it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_lab.corpora.corpus import Corpus
from llm_lab.errors import BadValue, listing
from llm_lab.models.options import SHAPES, ModelConfig, abilities
from llm_lab.objectives.mixture import Mixture
from llm_lab.objectives.objective import Objective
from llm_lab.objectives.options import OBJECTIVES, own_options
from llm_lab.tokenizers.tokenizer import Tokenizer


def make(
    names: Sequence[str],
    given: Mapping[str, Any],
    tokenizer: Tokenizer,
    weights: Sequence[float] = (),
    mix: str = "sum",
) -> Objective:
    """The objective of that name, or the mixture of several. `given` are options of theirs."""
    options = own_options(names, given)
    found = [OBJECTIVES.load(name)(one, tokenizer) for name, one in zip(names, options, strict=True)]
    if len(found) == 1:
        if weights:
            raise BadValue(
                "weights: there is one objective, and nothing to weigh it against; name several, for example --objective mlm,clm"
            )
        return found[0]
    if len({one.pairs for one in found}) > 1:
        pairs = listing(name for name, one in zip(names, found, strict=True) if one.pairs)
        raise BadValue(
            f"objective: {pairs} learns from pairs of texts and the others from running text, so they cannot be mixed"
        )
    return Mixture(found, weights, mix)


def check_text(objective: Objective, names: Sequence[str], corpus: Corpus) -> None:
    """BadValue where the objective learns from pairs of texts and the corpus has none."""
    if objective.pairs and corpus.targets is None:
        raise BadValue(
            f"corpus: {listing(names)} learns from pairs of texts, and {corpus.name} has none; stories --part english-french has, or a DataFrame with --column source --target translation"
        )


def fitting(config: ModelConfig, preferred: str) -> str:
    """The objective that a model of that shape is given where none was asked for."""
    can = abilities(config)
    names = (preferred, *OBJECTIVES)
    return next((name for name in names if _learned_by(name, can)), preferred)


def _learned_by(name: str, can: frozenset[str]) -> bool:
    """Whether a model of these abilities can learn an objective. One without gradients counts the text as it stands,
    whatever a batch would make of it: that is clm."""
    return OBJECTIVES.entry(name).supports <= can and (name == "clm" or "gradients" in can)


def check_pair(names: Sequence[str], config: ModelConfig) -> None:
    """BadValue where a model of that shape cannot learn one of the objectives; it names the shapes that can."""
    can = abilities(config)
    for name in names:
        if _learned_by(name, can):
            continue
        shapes = [shape for shape, one in SHAPES.items() if _learned_by(name, one.supports)]
        if config.shape in shapes:
            raise BadValue(
                f"objective {name!r} predicts tokens, and output 'none' gives no logits; use --output mlm or --output linear"
            )
        others = [other for other in OBJECTIVES if _learned_by(other, can)]
        raise BadValue(
            f"objective {name!r} cannot be learned by shape {config.shape!r}; shapes that can: {listing(shapes)}, for example --shape {shapes[0]}; this shape can learn: {listing(others)}"
        )
