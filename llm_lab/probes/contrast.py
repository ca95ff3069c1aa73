"""A clean and a corrupted text of one length, and the number that says which of the two a run is like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab import machine
from llm_lab.errors import DIVERGED, BadValue, listing, show
from llm_lab.models.language_model import LanguageModel, evaluating
from llm_lab.models.sites import Replacement, Tape, opened
from llm_lab.probes.answers import Answer, Asked, answer, ask, quoted
from llm_lab.probes.options import ContrastOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Piece
from llm_lab.store.lm import LM

_SHARE = 0.25  # of the free memory that one forward pass may take
_TOKENS = 8192  # in a pass: more saves no time

_R = TypeVar("_R")


@dataclass(frozen=True, eq=False)
class Contrast:
    """What two texts differ in to a model. Activations of the `source` run are put into the `base` run: of the clean
    into the corrupted (denoising), or the other way round (noising)."""

    lm: LM
    clean: Asked
    corrupted: Asked
    answer: Answer
    measure: Callable[[Tensor], Tensor]  # of logits, (R, V), the metric, (R,) float64; has a gradient
    quantity: str  # what that is, with its unit
    at_clean: float
    at_corrupted: float
    noising: bool
    facts: list[tuple[str, str]]

    @property
    def model(self) -> LanguageModel:
        return self.lm.model

    @property
    def base(self) -> Asked:
        return self.clean if self.noising else self.corrupted

    @property
    def source(self) -> Asked:
        return self.corrupted if self.noising else self.clean

    @property
    def length(self) -> int:
        return len(self.clean.pieces)

    @property
    def prefix(self) -> str:
        """What stands before the names of the sites of the stack that reads the texts."""
        return reading_prefix(self.model)

    def share(self, metric: Tensor) -> Float[Tensor, "*R"]:
        """How far a run went from its base to its source: 0 is the base's metric, 1 the source's."""
        base, source = self._ends
        return (metric - base) / (source - base)

    def estimate(self, change: Tensor) -> Float[Tensor, "*R"]:
        """The same of a change of the metric."""
        base, source = self._ends
        return change / (source - base)

    @property
    def _ends(self) -> tuple[float, float]:
        return (self.at_clean, self.at_corrupted) if self.noising else (self.at_corrupted, self.at_clean)

    def run(
        self, rows: int, replacements: Mapping[str, Replacement], asked: Asked | None = None
    ) -> Float[Tensor, "R V"]:
        """The answer's logits in `rows` copies of the base run (or of another), with the replacements made."""
        logits, _ = run(self.lm, asked or self.base, rows, replacements)
        return logits

    def read(self, sites: list[str], asked: Asked) -> dict[str, Tensor]:
        """The activations of one of the two runs at these sites, (1, …)."""
        return run(self.lm, asked, 1, {}, sites)[1]

    @property
    def rows(self) -> int:
        """How many copies one pass takes."""
        return rows_of(self.model, self.length)

    @property
    def towards(self) -> str:
        """What a number of the maps is."""
        return f"share of the way from {'clean to corrupted' if self.noising else 'corrupted to clean'}"

    @property
    def columns(self) -> list[str]:
        """The tokens that the positions hold, both where the texts differ."""
        return [
            a.text if a.id == b.id else f"{a.text} / {b.text}"
            for a, b in zip(self.clean.pieces, self.corrupted.pieces, strict=True)
        ]


def run(
    lm: LM, asked: Asked, rows: int, replacements: Mapping[str, Replacement], sites: list[str] | None = None
) -> tuple[Float[Tensor, "R V"], dict[str, Tensor]]:
    """The logits at the answer in `rows` copies of a run with explicit attention, and what was read at the sites."""
    many = replace(asked, batch=lm.batch(asked.batch.input_ids.expand(rows, -1)))
    with torch.no_grad(), evaluating(lm.model), opened(Tape(lm.model, frozenset(sites or ()), replacements)) as tape:
        return logits_at(lm.model, many), dict(tape.found)


def logits_at(model: LanguageModel, asked: Asked) -> Float[Tensor, "R V"]:
    """The logits at the answer; only these are computed, where it is at the end."""
    batch = asked.batch
    read = batch.input_ids if batch.decoder_ids is None else batch.decoder_ids
    last = asked.position == read.shape[1] - 1
    return model(**batch.inputs(), last=last).logits[:, -1 if last else asked.position]


def reading_prefix(model: LanguageModel) -> str:
    """What stands before the names of the sites of the stack that reads a text."""
    return "encoder." if model.config is not None and model.config.shape == "encoder_decoder" else ""


def rows_of(model: LanguageModel, length: int) -> int:
    """How many copies of a text of that many tokens a pass takes in the memory that is free."""
    config = model.config
    assert config is not None, "a model with sites is one of ours"
    n = length * (2 if config.shape == "permutation" else 1)
    numbers = n * (8 * config.d_model + 3 * config.ff_width) + 3 * config.n_head * n * n
    numbers += config.vocab_size * (length if config.shape == "encoder" else 2)
    free = machine.device_memory(model.device).available
    return max(1, min(int(_SHARE * free) // (4 * numbers), _TOKENS // n))


def contrast(reading: Reading, options: ContrastOptions) -> Contrast:
    """The two texts of a reading, the first of which is clean, and what their answers differ in.

    Raises BadValue where they have not the same number of tokens, are the same, or give the same answer.
    """
    lm = reading.lm
    clean, corrupted = (ask(reading, options, i) for i in range(2))
    one, two = ([piece.id for piece in asked.pieces] for asked in (clean, corrupted))
    if len(one) != len(two):
        raise BadValue(
            f"text: the clean one has {len(one)} tokens ({_cut(clean.pieces)}) and the corrupted one {len(two)} ({_cut(corrupted.pieces)}), and a position of one is put in the place of the same of the other; "
            "write both with the same number, for example with another word that is as many tokens (%tokenize shows how each is cut)"
        )
    if one == two:
        raise BadValue("text: both are the same tokens, so that there is nothing to patch; change a word of the second")
    if clean.position != corrupted.position:
        raise BadValue(
            f"text: the answer is at position {clean.position} of the first and {corrupted.position} of the second; let <mask> be at the same"
        )
    first, second = (run(lm, asked, 1, {})[0][0] for asked in (clean, corrupted))
    if not (first.isfinite().all() and second.isfinite().all()):
        raise BadValue(f"{lm.name}'s {DIVERGED}")
    weighed = options.metric == "logit_difference"
    wanted = answer(reading, options, first, second if weighed else None)
    measure, quantity = _metric(options.metric, wanted, first)
    at_clean, at_corrupted = (float(measure(logits[None])[0]) for logits in (first, second))
    if abs(at_clean - at_corrupted) <= 1e-6 * max(1.0, abs(at_clean)):
        raise BadValue(
            f"text: the two do not differ in the {quantity} ({at_clean:.4g} in both), so that nothing can be restored; use texts with different answers, or another --target, --other or --metric"
        )
    chances = [logits.double().softmax(dim=-1) for logits in (first, second)]
    facts = [(f"clean: {quantity}", _number(at_clean)), (f"corrupted: {quantity}", _number(at_corrupted))]
    for piece in (wanted.target, wanted.other):
        if piece is not None:
            both = " → ".join(f"{float(p[piece.id]):.3f}" for p in chances)
            facts.append((f"p({quoted(piece)}), clean → corrupted", both))
    return Contrast(lm, clean, corrupted, wanted, measure, quantity, at_clean, at_corrupted, options.noising, facts)


def _metric(name: str, wanted: Answer, clean: Tensor) -> tuple[Callable[[Tensor], Tensor], str]:
    if name == "logit_difference":
        return lambda logits: wanted.logit_difference(logits.double()), wanted.quantity
    if name == "log_probability":
        return lambda logits: wanted.log_probability(logits.double()), f"log p({quoted(wanted.target)}), nats"
    log_p = clean.double().log_softmax(dim=-1)

    def divergence(logits: Tensor) -> Tensor:
        return (log_p.exp() * (log_p - logits.double().log_softmax(dim=-1))).sum(dim=-1)

    return divergence, "KL divergence from the clean prediction, nats"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _cut(pieces: list[Piece]) -> str:
    return listing((show(piece.text) for piece in pieces), 12)


def growing(result: _R, steps: Iterator[None], say: Callable[[str], None]) -> Iterator[_R]:
    """The result after each of the steps that fill it in. An interrupt, here or while it is drawn, ends it and is said, and
    what was found stays."""
    try:
        for _ in steps:
            yield result
    except KeyboardInterrupt:
        say("interrupted: what is missing was not computed")
    yield result
