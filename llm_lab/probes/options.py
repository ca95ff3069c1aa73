"""The ways to look inside a model. A kind's options also say how many texts and models it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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

ATTRIBUTIONS = ("integrated_gradients", "gradient_x_input", "gradient", "occlusion", "shapley", "rollout")
BASELINES = ("mean", "zero", "mask", "pad", "space", "remove")


@dataclass(frozen=True)
class AttributionOptions(AnswerOptions):
    room: ClassVar[str] = "attribution"
    texts: ClassVar[tuple[int, int]] = (1, 2)
    method: tuple[str, ...] = option(
        ("integrated_gradients", "occlusion"), "how the tokens' shares are found", choices=ATTRIBUTIONS
    )
    explain: str = option(
        "log_prob",
        "what of the answer is explained; beside another answer it is the difference of logits",
        choices=("log_prob", "logit", "prob"),
    )
    each: str | None = option(
        None, "explain each token of the text: all, or those of the positions a:b", example="all", auto="one answer"
    )
    baseline: str | None = option(
        None,
        "what stands for a token that is not there",
        choices=BASELINES,
        auto="<mask> where the model learned to fill it, else the mean of all tokens' vectors",
    )
    path_steps: int | None = option(
        None,
        "points on the path of integrated gradients",
        ge=1,
        auto="as many as bring their sum within 1 % of the difference",
        example="64",
    )
    samples: int = option(25, "orders of the tokens that Shapley values are the mean of", ge=2)
    seed: int = option(0, "of what the probe draws", ge=0, lt=2**63)


@dataclass(frozen=True)
class CounterfactualOptions(AnswerOptions):
    room: ClassVar[str] = "counterfactual"
    texts: ClassVar[tuple[int, int]] = (1, 2)
    edits: int = option(3, "tokens that may be changed at most", unit="tokens", ge=1)
    beam: int = option(4, "changed texts that are gone on with after each edit", ge=1)
    candidates: int = option(128, "edits that are tried of each text: those that the gradient holds for best", ge=1)
    retokenize: bool = option(True, "only texts that are cut into the same tokens when they are read again")


NOISES = ("swap", "delete", "insert", "keyboard")


@dataclass(frozen=True)
class RobustnessOptions(CorpusReading):
    room: ClassVar[str] = "robustness"
    texts: ClassVar[tuple[int, int]] = (0, 1)
    noise: tuple[str, ...] = option(
        NOISES, "what happens to characters: swapped with the next, left out, one put in, a key beside", choices=NOISES
    )
    rates: tuple[float, ...] = option((0.02, 0.05, 0.1, 0.2), "shares of the characters that are changed", gt=0, le=1)
    draws: int = option(3, "times that each noise is drawn", ge=1)
    candidates: int = option(128, "edits that are tried of each text: those that the gradient holds for best", ge=1)
    seed: int = option(0, "of what the probe draws", ge=0, lt=2**63)


# --- neurons and directions -----------------------------------------------------------------------------------------


# --- vectors, weights and similarity ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NeighboursOptions(KindOptions):
    room: ClassVar[str] = "neighbours"


@dataclass(frozen=True)
class AnalogiesOptions(KindOptions):
    room: ClassVar[str] = "analogies"


SITES, EMBEDDINGS = frozenset({"sites"}), frozenset({"embeddings"})

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
            "attribution",
            "llm_lab.probes.attribution:attribution",
            "which tokens of the text an answer rests on",
            AttributionOptions,
            SITES,
        ),
        Entry(
            "counterfactual",
            "llm_lab.probes.counterfactual:counterfactual",
            "the fewest changed tokens that change the answer",
            CounterfactualOptions,
            SITES,
        ),
        Entry(
            "robustness",
            "llm_lab.probes.robustness:robustness",
            "what typing errors and one wrong token cost",
            RobustnessOptions,
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
