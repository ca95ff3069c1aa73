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
    live: bool = option(
        False, "keep the kernel in the loop: the value under the pointer is exact (a widget while the kernel lives)"
    )


@dataclass(frozen=True)
class ExpertsOptions(KindOptions):
    room: ClassVar[str] = "experts"


@dataclass(frozen=True)
class HeadsOptions(CorpusReading):
    room: ClassVar[str] = "heads"
    texts: ClassVar[tuple[int, int]] = (0, 1000)
    repeats: int = option(32, "repeated random sequences, for what heads do on repeats; 0 for none", ge=0)
    seed: int = option(0, "of what the probe draws", ge=0, lt=2**63)


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


@dataclass(frozen=True)
class AblateOptions(AnswerOptions, CorpusReading):
    room: ClassVar[str] = "ablate"
    texts: ClassVar[tuple[int, int]] = (0, 1000)
    parts: tuple[str, ...] = option(
        ("heads", "attention", "mlps", "layers"),
        "what is ablated, one at a time",
        choices=("heads", "attention", "mlps", "layers"),
    )
    ablation: str = option(
        "zero",
        "what stands in for what a part gives: zeros, its mean over all tokens, or what it gave at a token drawn by chance",
        choices=("zero", "mean", "resample"),
    )
    together: tuple[str, ...] = option(
        (), "parts that are ablated at once, in place of each alone", auto="one at a time", example="1.3,0.mlp"
    )
    repeats: int = option(32, "repeated random sequences, for what heads do on repeats; 0 for none", ge=0)
    seed: int = option(0, "of what the probe draws", ge=0, lt=2**63)


# --- attribution ----------------------------------------------------------------------------------------------------


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
            "heads",
            "llm_lab.probes.heads:heads",
            "what every head does, by numbers and a name: previous token, induction, …",
            HeadsOptions,
            SITES,
        ),
        Entry(
            "ablate",
            "llm_lab.probes.ablate:ablate",
            "what is lost without each head, attention, MLP and layer",
            AblateOptions,
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
