"""The fewest tokens of a text that must be others for a model to predict something else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.errors import DIVERGED, BadValue, show
from llm_lab.probes.answers import answer, quoted, sayable
from llm_lab.probes.inputs import Inputs, need_one, place, read
from llm_lab.probes.options import AnswerOptions, CounterfactualOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Counterfactual, Piece
from llm_lab.tokenizers.tokenizer import Tokenizer

ANSWERS = 5  # before and after, that are shown
_LOOKED_AT = 20  # times as many edits as are tried are asked whether they can be read again

Edits = frozenset[tuple[int, int]]  # (position, token)


def counterfactual(reading: Reading, options: CounterfactualOptions) -> Counterfactual:
    """Edits that make the model predict the target, or without one anything else than now, and of which no part would do.

    Of each text so far the swaps of one token that the gradient holds for best (HotFlip; Ebrahimi et al. 2018, §3) are
    run, and the best texts gone on with, until one has the answer that is wanted.
    """
    need_one(reading)
    if options.other is not None:
        raise BadValue(
            f"other: {show(options.other)} is not needed: a counterfactual is weighed against what is predicted now; leave it out, or give it as --target"
        )
    inputs, tokenizer = read(reading, options), reading.tokenizer
    ids = inputs.ids
    logits = inputs.logits(ids[None])[0]
    if not bool(torch.isfinite(logits).all()):
        raise BadValue(f"{reading.name}'s {DIVERGED}")
    now = answer(reading, AnswerOptions(), logits).target
    wanted = None if options.target is None else answer(reading, options, logits).target
    if wanted is not None and wanted.id == now.id:
        raise BadValue(f"target: {show(options.target)} is what {reading.name} predicts now; give another token")
    if not bool(inputs.free.any()):
        raise BadValue("text: it has reserved tokens alone, which are not changed; give it words")
    notes = []
    fits: Callable[[Tensor], bool] = lambda row: True  # noqa: E731
    if options.retokenize:
        if retokenizes(ids.tolist(), tokenizer):
            fits = lambda row: retokenizes(row.tolist(), tokenizer)  # noqa: E731
        else:
            notes.append(
                "The text itself is cut into other tokens when it is read again, so that no edit was asked for that."
            )
    search = _Search(inputs, margin(now, wanted, sayable(inputs.model, tokenizer)), _text_ids(tokenizer, inputs), fits)
    edits, flipped = search.run(options.edits, options.beam, options.candidates)
    edited = changed(ids, edits)
    after = inputs.logits(edited[None])[0]
    if not flipped:
        what = f"{quoted(wanted)} the likeliest" if wanted is not None else "another token the likeliest"
        notes.append(
            f"No {options.edits} edits that were tried make {what}; shown are those that come nearest. More --edits, a wider --beam or more --candidates may."
        )
    return Counterfactual(
        name=reading.name,
        facts=[f"{len(edits)} of {int(inputs.free.sum())} tokens changed"],
        pieces=inputs.pieces,
        edited=tokenizer.pieces(edited.tolist()),
        about=place(inputs, tokenizer),
        flipped=flipped,
        before=now,
        after=answer(reading, AnswerOptions(), after).target,
        wanted=wanted,
        answers=_answers(logits, after, tokenizer, wanted),
        edited_text=written(edited.tolist(), tokenizer),
        passes=search.passes,
        notes=notes,
    )


def margin(
    now: Piece, wanted: Piece | None, can: Bool[Tensor, " V"]
) -> Callable[[Float[Tensor, "R V"]], Float[Tensor, " R"]]:
    """By how much a logit leads: the wanted token's over all others', or without one the best other's over the token's
    of now. Above zero the prediction is as it should be."""
    own = now if wanted is None else wanted
    rivals = can.clone()
    rivals[own.id] = False

    def lead(logits: Tensor) -> Tensor:
        best = logits.masked_fill(~rivals, -torch.inf).amax(dim=-1)
        return best - logits[:, own.id] if wanted is None else logits[:, own.id] - best

    return lead


class _Search:
    """A beam of edited texts."""

    def __init__(
        self,
        inputs: Inputs,
        lead: Callable[[Tensor], Tensor],
        tokens: Int[Tensor, " W"],
        fits: Callable[[Tensor], bool],
    ) -> None:
        self.inputs, self.lead, self.tokens, self.fits = inputs, lead, tokens, fits
        self.ids, self.passes = inputs.ids, 1

    def run(self, most: int, beam: int, candidates: int) -> tuple[Edits, bool]:
        """(edits, whether they do it): those that lead furthest at the first depth where some do, or the nearest."""
        states: list[Edits] = [frozenset()]
        nearest: tuple[float, Edits] = (-torch.inf, frozenset())
        for _ in range(min(most, int(self.inputs.free.sum()))):
            tried = list(dict.fromkeys(edits for state in states for edits in self._next(state, candidates)))
            if not tried:
                break
            leads = self._leads(tried)
            order = sorted(range(len(tried)), key=lambda i: -leads[i])
            if leads[order[0]] > 0:
                return self._least(tried[order[0]]), True
            nearest = max(nearest, (leads[order[0]], tried[order[0]]), key=lambda one: one[0])
            states = [tried[i] for i in order[:beam]]
        return nearest[1], False

    def _next(self, state: Edits, most: int) -> Iterator[Edits]:
        """A text's edits with one more each, the ones that the gradient holds for best."""
        row = changed(self.ids, state)
        gains = swaps(self.inputs, self.lead, row, self.tokens)
        self.passes += 1
        gains[[t for t, _ in state]] = -torch.inf  # what was changed stays as it is
        found = 0
        best, order = gains.flatten().topk(min(_LOOKED_AT * most, gains.numel()))
        for gain, cell in zip(best.tolist(), order.tolist(), strict=True):
            if gain == -torch.inf or found == most:
                return
            edits = state | {(cell // len(self.tokens), int(self.tokens[cell % len(self.tokens)]))}
            if self.fits(changed(self.ids, edits)):
                found += 1
                yield edits

    def _leads(self, tried: Sequence[Edits]) -> list[float]:
        rows = torch.stack([changed(self.ids, edits) for edits in tried])
        self.passes += len(rows)
        found: list[float] = self.lead(self.inputs.logits(rows)).tolist()
        return found

    def _least(self, edits: Edits) -> Edits:
        """The smallest part of the edits that does it too; of those of one size the one that leads furthest."""
        for size in range(1, len(edits)):
            parts = [frozenset(part) for part in itertools.combinations(sorted(edits), size)]
            parts = [part for part in parts if self.fits(changed(self.ids, part))]
            leads = self._leads(parts) if parts else []
            if leads and max(leads) > 0:
                return parts[leads.index(max(leads))]
        return edits


def swaps(
    inputs: Inputs, value: Callable[[Tensor], Tensor], ids: Int[Tensor, " N"], tokens: Int[Tensor, " W"]
) -> Float[Tensor, "N W"]:
    """By how much a number of the logits rises, to first order, when a token is swapped for another: the gradient by the
    token's vector times the difference of the two vectors (Ebrahimi et al. 2018, eq. 2). −inf where nothing may be, or
    is, swapped."""
    with torch.enable_grad():
        vectors = inputs.vectors(ids[None]).requires_grad_()
        (slope,) = torch.autograd.grad(value(inputs.logits_of(inputs.stream(vectors))).sum(), vectors)
    with torch.no_grad():
        others = inputs.vectors(tokens[None])[0]
        gains = slope[0] @ others.T - (slope * vectors).sum(dim=-1).T
        return gains.masked_fill(~inputs.free[:, None] | (tokens == ids[:, None]), -torch.inf)


def changed(ids: Int[Tensor, " N"], edits: Iterable[tuple[int, int]]) -> Int[Tensor, " N"]:
    """The tokens with some of them swapped."""
    row = ids.clone()
    for t, token in edits:
        row[t] = token
    return row


def retokenizes(ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether the text of some tokens is cut into the same when it is read again; reserved ones stay where they are."""
    return all(tokenizer.encode(tokenizer.decode(run)) == run for run, text in _runs(ids, tokenizer) if text)


def written(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of some tokens, reserved ones as they are written: `<mask>`."""
    return "".join(
        tokenizer.decode(run) if text else "".join(piece.text for piece in tokenizer.pieces(run))
        for run, text in _runs(ids, tokenizer)
    )


def _runs(ids: Sequence[int], tokenizer: Tokenizer) -> list[tuple[list[int], bool]]:
    """Tokens in runs that are text, or are not."""
    grouped = itertools.groupby(ids, key=lambda i: i not in tokenizer.special_ids)
    return [(list(run), text) for text, run in grouped]


def _text_ids(tokenizer: Tokenizer, inputs: Inputs) -> Int[Tensor, " W"]:
    return torch.from_numpy(tokenizer.text_ids).to(inputs.model.device)


def _answers(
    before: Float[Tensor, " V"], after: Float[Tensor, " V"], tokenizer: Tokenizer, wanted: Piece | None
) -> list[tuple[Piece, float, float]]:
    """The likeliest tokens of both, the likeliest after the edits first."""
    probs = torch.stack([before, after]).softmax(dim=-1)[:, : tokenizer.vocab_size].cpu()
    known = dict.fromkeys(int(i) for row in probs.flip(0) for i in row.topk(min(ANSWERS, probs.shape[1])).indices)
    if wanted is not None:
        known[wanted.id] = None
    order = sorted(known, key=lambda i: -float(probs[1, i]))
    return [(piece, float(probs[0, piece.id]), float(probs[1, piece.id])) for piece in tokenizer.pieces(order)]
