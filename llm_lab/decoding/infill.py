"""Filling in what is hidden, by a model that reads both ways. A loop of its own: places are filled in any order, and may
be filled again, so that there is no next token and no cache."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.data.batch import Attend, Batch
from llm_lab.decoding import options as opt
from llm_lab.decoding.choosing import Choice, choose
from llm_lab.decoding.conditioned import source_ids
from llm_lab.decoding.filters import Past
from llm_lab.decoding.pace import paced
from llm_lab.decoding.strategy import Strategy, drawn
from llm_lab.decoding.writer import Writer
from llm_lab.errors import BadType, BadValue
from llm_lab.models.language_model import evaluating
from llm_lab.results import Generation


@dataclass(eq=False)
class Gaps:
    """n copies of a text, (n, T), with hidden places, and what is known of each place's token."""

    lm: Writer
    ids: Int[Tensor, "n T"]
    places: list[int]
    banned: Int[Tensor, " b"]
    mask: int
    logprob: Float[Tensor, "n T"]  # the model's own, when the place was last filled
    chosen_prob: Float[Tensor, "n T"]

    def logits(self, ids: Int[Tensor, "n T"]) -> Float[Tensor, "n T V"]:
        """Of every place, given all others; −inf for tokens that are no text."""
        batch = Batch(ids, attend=Attend(causal=False))
        return self.lm.model(**batch.inputs()).logits.index_fill(2, self.banned, -torch.inf)

    def hidden(self, place: int) -> Int[Tensor, "n T"]:
        """The text with one place hidden."""
        ids = self.ids.clone()
        ids[:, place] = self.mask
        return ids

    def put(
        self, place: int, tokens: Int[Tensor, " n"], logits: Float[Tensor, "n V"], probs: Float[Tensor, " n"]
    ) -> None:
        self.ids[:, place] = tokens
        self.logprob[:, place] = logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        self.chosen_prob[:, place] = probs


class Filler(Strategy):
    """Base of the ways to fill in."""

    def fill(self, gaps: Gaps, generator: torch.Generator) -> Iterator[None]:
        """Fill all places; gives way after each."""
        raise NotImplementedError


class EasyFirst(Filler):
    """One place after the other, the one that the model is surest of first, by its likeliest token."""

    options: opt.Fill

    def fill(self, gaps: Gaps, generator: torch.Generator) -> Iterator[None]:
        left = list(gaps.places)
        while left:
            logits = gaps.logits(gaps.ids)[:, left]
            logits = torch.stack([self.filtered(logits[:, i], Past(gaps.ids, 0)) for i in range(len(left))], dim=1)
            best = logits.softmax(dim=-1).amax(dim=-1)
            at = int(best[0].argmax())
            place = left.pop(at)
            gaps.put(place, logits[:, at].argmax(dim=-1), logits[:, at], torch.ones_like(best[:, at]))
            yield


class Gibbs(Filler):
    """Every place is drawn given all others, in a random order, `sweeps` times over (Wang and Cho 2019, §3). The first
    time over, places that were not reached yet are hidden."""

    options: opt.Gibbs

    def fill(self, gaps: Gaps, generator: torch.Generator) -> Iterator[None]:
        for _ in range(self.options.sweeps):
            order = torch.randperm(len(gaps.places), generator=generator, device=gaps.ids.device).tolist()
            for place in [gaps.places[i] for i in order]:
                raw = gaps.logits(gaps.hidden(place))[:, place]
                tokens, probs = drawn(self.filtered(raw, Past(gaps.ids, 0)), generator)
                gaps.put(place, tokens, raw, probs)
                yield


def infill(lm: Writer, prompt: str, **options: Any) -> Generator[Generation, None, None]:
    """The text with its `<mask>`s filled in, a few states a second; the last one is `done`."""
    choice = choose({"strategy": "fill", **options})
    _refuse(lm, choice, options)
    seed = choice.general.seed if choice.general.seed is not None else secrets.randbelow(2**31)
    gaps = gaps_in(lm, prompt, choice.general.n)
    strategy = choice.strategy()
    assert isinstance(strategy, Filler)
    result = Generation(
        name=lm.name, prompt=prompt, prompt_pieces=[], pieces=[], logprob=[], chosen_prob=[], texts=[],
        strategy=choice.name, options=choice.shown, seed=seed, tokens_per_second=0.0, continues=False, done=False,
        notes=list(lm.model.about.get("notes", ())),
    )  # fmt: skip
    generator = torch.Generator(lm.device).manual_seed(seed)
    steps = _steps(gaps, strategy.fill(gaps, generator))
    yield from paced(steps, [result], partial(_write, result, gaps), result, "draws")
    result.done = True
    yield result


def _steps(gaps: Gaps, filling: Iterator[None]) -> Iterator[int]:
    """Fill; says after each step how many places were drawn for, all texts together."""
    filled = 0
    with evaluating(gaps.lm.model):
        while True:
            with torch.no_grad():
                if next(filling, False) is False:
                    return
            filled += len(gaps.ids)
            yield filled


def _refuse(lm: Writer, choice: Choice, options: dict[str, Any]) -> None:
    if "fill" not in lm.supports:
        raise BadValue(
            f"strategy: {choice.name} fills in, and {lm.name} was not trained to; a model trained with objective mlm would do"
        )
    for name in ("max_new_tokens", "stop", "regex", "json_schema", "must", "bad_words", "min_new_tokens"):
        if options.get(name) is not None:
            raise BadType(
                f"{name} is for writing from left to right, and {choice.name} fills in as many tokens as there are <mask>s; leave it out"
            )
    if choice.name == "fill" and choice.general.n > 1:
        raise BadValue(
            f"n: {choice.general.n} texts would all be the same, since fill draws nothing; use --strategy gibbs"
        )


def gaps_in(lm: Writer, prompt: str, n: int = 1) -> Gaps:
    """The prompt's `<mask>`s in n rows. BadValue where there is none, or it does not fit the context."""
    tokenizer = lm.tokenizer
    mask = tokenizer.special("mask")
    ids = source_ids(prompt, tokenizer, "mlm")
    places = [i for i, token in enumerate(ids) if token == mask]
    if not places:
        raise BadValue(
            'prompt: nothing is hidden in it; write <mask> for each token to be filled in, for example "To be, or <mask><mask><mask> to be"'
        )
    before, after = ([tokenizer.specials[name]] if name in tokenizer.specials else [] for name in ("cls", "sep"))
    row = [*before, *ids, *after]
    if len(row) > lm.model.max_seq_len:
        raise BadValue(f"prompt: its {len(row)} tokens do not fit the context of {lm.model.max_seq_len}; shorten it")
    found = torch.tensor([row] * n, device=lm.device)
    banned = sorted(tokenizer.special_ids | set(range(tokenizer.vocab_size, lm.model.vocab_size)))
    known = torch.full(found.shape, torch.nan, device=lm.device)
    return Gaps(
        lm,
        found,
        [place + len(before) for place in places],
        torch.tensor(banned, device=lm.device),
        mask,
        known,
        known.clone(),
    )


def _write(result: Generation, gaps: Gaps, filled: int, seconds: float) -> None:
    tokenizer = gaps.lm.tokenizer
    inner = [
        i for i, token in enumerate(gaps.ids[0].tolist()) if token not in tokenizer.special_ids or token == gaps.mask
    ]
    rows = gaps.ids[:, inner].tolist()
    result.pieces = [
        [replace(piece, text="▢") if piece.id == gaps.mask else piece for piece in tokenizer.pieces(row)]
        for row in rows
    ]
    result.logprob, result.chosen_prob = gaps.logprob[:, inner].tolist(), gaps.chosen_prob[:, inner].tolist()
    result.texts = [tokenizer.decode(row) for row in rows]
    result.tokens_per_second = filled / max(seconds, 1e-9)
