"""The ways to look inside a model. A kind's options also say how many texts and models it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.options import Options, all_specs, option, specs
from llm_lab.registry import Entry, Table


@dataclass(frozen=True)
class KindOptions(Options):
    """The options of one kind of probe, and what it reads: (fewest, most) texts and models."""

    texts: ClassVar[tuple[int, int]] = (1, 1)
    models: ClassVar[tuple[int, int]] = (1, 1)


@dataclass(frozen=True)
class CorpusReading(KindOptions):
    """Options of the kinds that read a corpus."""

    room: ClassVar[str] = "corpus"
    texts: ClassVar[tuple[int, int]] = (0, 0)
    corpus: object = option(None, "the text that is read", auto="the model's held-out text", example="python-docs")
    max_tokens: int = option(20_000, "of the corpus that are read", unit="tokens", ge=2)


@dataclass(frozen=True)
class PositionOptions(KindOptions):
    """Options of the kinds that look at one position."""

    room: ClassVar[str] = "position"
    position: int | None = option(
        None, "the token that is looked at; −1 is the last", auto="the last, or the first <mask>", example="-1"
    )


@dataclass(frozen=True)
class AnswerOptions(PositionOptions):
    """Options of the kinds that ask for one prediction: which token is right there, and which is wrong."""

    room: ClassVar[str] = "answer"
    target: str | None = option(None, "the right answer, one token", auto="the likeliest", example='" Paris"')
    other: str | None = option(None, "a wrong answer that it is weighed against, one token", example='" Rome"')


# --- attention ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionOptions(KindOptions):
    room: ClassVar[str] = "attention"
    texts: ClassVar[tuple[int, int]] = (1, 2)
    stack: str | None = option(
        None,
        "of an encoder and a decoder, whose attention",
        choices=("encoder", "decoder", "cross"),
        auto="cross where the decoder was given a text, else the encoder's",
    )
    live: bool = option(
        False, "keep the kernel in the loop: the value under the pointer is exact (a widget while the kernel lives)"
    )


@dataclass(frozen=True)
class ExpertsOptions(KindOptions):
    room: ClassVar[str] = "experts"


# --- a token's walk -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WalkOptions(PositionOptions):
    room: ClassVar[str] = "walk"
    texts: ClassVar[tuple[int, int]] = (1, 2)
    layer: int | None = option(None, "the layer that is shown", ge=0, auto="the most telling", example="1")
    head: int | None = option(None, "the head that is shown", ge=0, auto="the most telling", example="2")


# --- lenses ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogitLensOptions(KindOptions):
    room: ClassVar[str] = "logit_lens"
    texts: ClassVar[tuple[int, int]] = (1, 2)


@dataclass(frozen=True)
class TunedLensOptions(CorpusReading):
    room: ClassVar[str] = "tuned_lens"
    texts: ClassVar[tuple[int, int]] = (1, 1)
    steps: int = option(200, "of the training of what the probe learns", ge=1)
    seconds: float | None = option(60.0, "at most that this training takes", unit="seconds", gt=0)
    lr: float = option(1e-3, "learning rate of Adam at the first step; it falls to 0", gt=0)
    seed: int = option(0, "of what the probe draws", ge=0, lt=2**63)


@dataclass(frozen=True)
class DLAOptions(AnswerOptions):
    room: ClassVar[str] = "dla"


# --- interventions --------------------------------------------------------------------------------------------------


# --- attribution ----------------------------------------------------------------------------------------------------


# --- neurons and directions -----------------------------------------------------------------------------------------


# --- vectors, weights and similarity ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NeighboursOptions(KindOptions):
    room: ClassVar[str] = "neighbours"
    models: ClassVar[tuple[int, int]] = (1, 64)


@dataclass(frozen=True)
class AnalogiesOptions(KindOptions):
    room: ClassVar[str] = "analogies"
    models: ClassVar[tuple[int, int]] = (1, 64)


@dataclass(frozen=True)
class WeightsOptions(CorpusReading):
    room: ClassVar[str] = "weights"
    models: ClassVar[tuple[int, int]] = (1, 2)
    parameters: tuple[str, ...] | None = option(
        None,
        "the weights, or patterns of them",
        auto="all but biases",
        example='"blocks.*.attn.q"',
    )
    gradients: bool = option(False, "also the gradients of its loss on the corpus")

    def validate(self) -> None:
        if self.corpus is not None and not self.gradients:
            raise BadValue("corpus: weights are read without one, only gradients need it; add --gradients")


@dataclass(frozen=True)
class SiteReading(CorpusReading):
    """Options of the kinds that read activations of a text or of a corpus."""

    texts: ClassVar[tuple[int, int]] = (0, 1)
    site: str | None = option(
        None,
        "the activations that are read: a site, or a pattern of several",
        auto="what the kind is about",
        example="blocks.*.mlp.post",
    )


@dataclass(frozen=True)
class EmbeddingsOptions(SiteReading):
    room: ClassVar[str] = "embeddings"
    models: ClassVar[tuple[int, int]] = (1, 64)
    table: str = option("input", "whose vectors: of the input, or of the output", choices=("input", "output"))
    n_tokens: int = option(300, "the most frequent tokens that are shown, where no text names some", ge=3, le=2000)
    projection: str = option("pca", "how many numbers become few", choices=("pca", "tsne"))
    dims: int = option(2, "dimensions of the picture", ge=2, le=3)
    align: str | None = option(
        None,
        "how several models' pictures are laid on one another",
        choices=("basis", "procrustes"),
        auto="one basis where they are states of one training, else each turned onto the next",
    )
    colour: str = option("kind", "what the colours and signs show", choices=("kind", "frequency"))
    neighbourhood: float = option(30.0, "neighbours that t-SNE keeps near, its perplexity", gt=1)
    seed: int = option(0, "of what the probe draws", ge=0, lt=2**63)


@dataclass(frozen=True)
class SimilarityOptions(SiteReading):
    room: ClassVar[str] = "similarity"
    models: ClassVar[tuple[int, int]] = (1, 2)
    measure: str = option("cka", "what says how alike two layers are", choices=("cka", "cosine", "cca"))


SITES, EMBEDDINGS, GRADIENTS = frozenset({"sites"}), frozenset({"embeddings"}), frozenset({"gradients"})

PROBES = Table(
    "probe",
    [
        Entry(
            "attention",
            "llm_lab.probes.attention:attention",
            "which token reads from which, every head",
            AttentionOptions,
            SITES,
        ),
        Entry(
            "experts",
            "llm_lab.probes.experts:experts",
            "which experts take which token, every layer",
            ExpertsOptions,
            SITES,
        ),
        Entry(
            "walk",
            "llm_lab.probes.walk:walk",
            "one token through every step, with formulas and numbers",
            WalkOptions,
            SITES,
        ),
        Entry(
            "logit_lens",
            "llm_lab.probes.lenses:logit_lens",
            "what every layer would predict at every token",
            LogitLensOptions,
            SITES,
        ),
        Entry(
            "tuned_lens",
            "llm_lab.probes.lenses:tuned_lens",
            "the same behind translators of each layer, trained on the spot",
            TunedLensOptions,
            SITES,
        ),
        Entry(
            "dla",
            "llm_lab.probes.dla:dla",
            "direct logit attribution: what every head and MLP adds to a logit",
            DLAOptions,
            SITES,
        ),
        Entry(
            "neighbours",
            "llm_lab.probes.vectors:neighbours",
            "the tokens whose vectors are nearest to each word's",
            NeighboursOptions,
            EMBEDDINGS,
        ),
        Entry(
            "analogies",
            "llm_lab.probes.vectors:analogies",
            "man is to king as woman is to …, for every three words",
            AnalogiesOptions,
            EMBEDDINGS,
        ),
        Entry(
            "embeddings",
            "llm_lab.probes.embeddings:embeddings",
            "the vectors of the tokens as a map, of one model or of several over its training",
            EmbeddingsOptions,
            EMBEDDINGS,
        ),
        Entry(
            "weights",
            "llm_lab.probes.weights:weights",
            "how the weights, and their gradients, are distributed, and their singular values; of one model or two",
            WeightsOptions,
            GRADIENTS,
        ),
        Entry(
            "similarity",
            "llm_lab.probes.similarity:similarity",
            "how alike the layers are in what they make of the same tokens (CKA), of one model or two",
            SimilarityOptions,
            GRADIENTS,
        ),
    ],
)


@dataclass(frozen=True)
class ProbeOptions(Options):
    room: ClassVar[str] = "probe"
    kind: str = option("attention", "what to look at", choices=lambda: PROBES)


def probe_options(given: Mapping[str, Any]) -> tuple[type[Options], ...]:
    """The options of the kind that is `given`, and those of all others whose names do not stand for something else there."""
    meant = PROBES.get(given.get("kind") or "attention")
    found: list[type[Options]] = []
    for entry in [*([meant] if meant else []), *PROBES.values()]:
        kind: Any = entry.options
        others = all_specs(found)
        if kind not in found and all(others.get(name, spec) == spec for name, spec in specs(kind).items()):
            found.append(kind)
    return tuple(found)
