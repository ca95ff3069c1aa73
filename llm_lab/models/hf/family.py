"""What a family of published models is: a table of how its config.json and its tensors are those of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_lab.models.hf.parts import Part


@dataclass(frozen=True)
class From:
    """Where the tensors of one of our modules stand: under several names, one below the other, where ours is fused."""

    names: tuple[str, ...]
    also: tuple[str, ...] = ()  # other names that files have for the same tensor
    instead: tuple[str, ...] = ()  # names that count where the first are not there; where they are, nothing reads these
    turned: bool = False  # a matrix stored the other way round (GPT-2's Conv1D)
    past_padding: bool = False  # a table that begins with rows for padding (RoBERTa)
    gated: tuple[str, ...] = ()  # the names where the MLP is gated


@dataclass(frozen=True)
class Family:
    """What its models have in common in our words, and how the rest maps: a `*` is a layer's number."""

    base: str  # what the names of `stack` begin with where a head stands beside it
    classes: Mapping[str, str]  # the class in transformers by our `output`
    objective: str
    fixed: Mapping[str, Any]
    parts: tuple[Part, ...]
    stack: Mapping[str, From]
    head: Mapping[str, From] = field(default_factory=dict)  # what stands outside the base, the output's weight included
    extras: Mapping[str, str] = field(default_factory=dict)  # heads of ours beside the model, and their names
    extra_classes: Mapping[str, str] = field(default_factory=dict)  # the class by such a head

    @property
    def output(self) -> str:
        """Our output where its models have one."""
        return next(iter(self.classes))


# What a model is where a family does not say otherwise.
PLAIN: dict[str, Any] = dict(
    n_kv_head=None,
    d_head=None,
    d_embed=None,
    norm_place="pre",
    embed_norm=False,
    attention="full",
    n_expert=None,
    qk_norm=False,
    qk_gain=False,
    scale_scores=True,
    logit_softcap=0.0,
    scale_embeddings=False,
    scale_logits=False,
    share_layers=False,
    n_token_type=0,
    pooler=False,
    output_bias=False,
    zero_init=False,
)


def names(table: Mapping[str, str | tuple[str, ...] | From]) -> dict[str, From]:
    """A table with what is plain in it written out; in a tuple, all but the first are ends in place of the first's."""
    return {ours: _from(theirs) for ours, theirs in table.items()}


def _from(theirs: str | tuple[str, ...] | From) -> From:
    if isinstance(theirs, From):
        return theirs
    if isinstance(theirs, str):
        return From((theirs,))
    stem = theirs[0].rpartition(".")[0]
    return From((theirs[0], *(f"{stem}.{end}" for end in theirs[1:])))


def without(fixed: Mapping[str, Any], *options: str) -> dict[str, Any]:
    """The options without those that a family leaves to its models."""
    return {key: value for key, value in fixed.items() if key not in options}
