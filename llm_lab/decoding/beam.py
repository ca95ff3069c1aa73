"""Searches for the likeliest text: beams, and groups of beams that are kept unlike each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.decoding import options as opt
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.step import Step, Text
from llm_lab.decoding.strategy import Strategy
from llm_lab.errors import BadValue
from llm_lab.results import BeamNode, BeamTree
from llm_lab.tokenizers.tokenizer import Tokenizer

WORST = -1e9  # below any text's log-probability
NODES = 4000  # that a result keeps of a search


@dataclass(frozen=True)
class Branch:
    """What one step did to one beam: the token that went on, or was finished, or fell away."""

    step: int
    parent: int  # the beam that it continues, by its place among the beams of the step before
    place: int | None  # among the beams that go on; None where it ended or fell away
    token: int
    total: float  # log-probability of the text up to here
    finished: bool


class _Group:
    """Beams that compete with each other: the running ones' totals, and the texts finished."""

    def __init__(self, size: int, options: opt.Beam) -> None:
        self.size, self.options = size, options
        self.totals: Tensor | None = None  # (size,) log-probabilities; at first all beams are the same
        self.finished: list[Text] = []
        self.done = False

    def choose(
        self, logs: Float[Tensor, "B V"], penalty: Float[Tensor, " V"] | None, n_stop: int, begun: float = 0.0
    ) -> list[tuple[int, int, float]]:
        """The best continuations of all beams, best first: (beam, token, total). So many that enough go on even where all
        ending tokens are among them. A penalty counts for the order, not for the totals. `begun` is the log-probability of
        what all beams begin with."""
        if self.totals is None:
            self.totals = torch.full((self.size,), WORST, device=logs.device)
            self.totals[0] = begun
        totals = logs + self.totals[:, None]
        ranked = (totals if penalty is None else totals - penalty).flatten()
        best = ranked.topk(min(max(2, 1 + n_stop) * self.size, ranked.numel())).indices
        values = totals.flatten()[best]
        V = logs.shape[1]
        found = zip((best // V).tolist(), (best % V).tolist(), values.tolist(), strict=True)
        return [one for one in found if one[2] > WORST / 2]

    def add(self, text: Text) -> None:
        """Keep a finished text while it is among the best."""
        if self.done:
            return
        self.finished = sorted([*self.finished, text], key=lambda one: -(one.score or 0.0))[: self.size]

    def check(self, length: int, most: int) -> None:
        """Whether texts of now `length` tokens can still become better than those finished; `most` is the limit."""
        if len(self.finished) < self.size:
            return
        assert self.totals is not None
        option, power = self.options.early_stopping, self.options.length_penalty
        best = float(self.totals.max()) / (most if option == "never" and power > 0 else length) ** power
        self.done = self.done or option == "true" or best <= min(one.score or 0.0 for one in self.finished)


class BeamSearch(Strategy):
    """Of all continuations of `num_beams` texts, the likeliest `num_beams` go on. A text's score is its log-probability
    over its length to the power of the length penalty. What ends, ties and early stopping do is as in Hugging Face's
    transformers, so that scores can be compared. The probabilities are those after the filters."""

    options: opt.Beam

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.groups = [_Group(self.options.num_beams, self.options)]
        self.tree: list[Branch] = []

    def rows(self, n: int) -> int:
        if n > self.options.num_beams:
            raise BadValue(f"n: {n} texts cannot come from {self.options.num_beams} beams; use --num_beams {n} or more")
        return self.options.num_beams

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        self._close(rows)
        logits = rows.logits()
        assert rows.raw is not None
        # The model's own probabilities, so that scores can be added up from what is reported of each token.
        logs = rows.raw[:, 0].log_softmax(dim=-1).masked_fill(logits.isneginf(), -torch.inf)
        logs = self.filtered(logs, rows.past)
        begun = float(rows.logprob[0].sum()) if self.groups[0].totals is None else 0.0
        parents: list[int] = []
        tokens: list[int] = []
        taken: list[int] = []
        for at, group in enumerate(self.groups):
            first = at * group.size
            penalty = self.penalty(taken, logs.shape[1], logs.device)
            on: list[tuple[int, int, float]] = []
            for rank, (beam, token, total) in enumerate(
                group.choose(logs[first : first + group.size], penalty, len(rows.stop), begun)
            ):
                ends = token in rows.stop or rows.left == 1
                finished = ends and rank < group.size
                if finished:
                    group.add(self._text(rows, first + beam, token, total, logs))
                place = first + len(on) if not ends and len(on) < group.size else None
                if place is not None:
                    on.append((first + beam, token, total))
                if place is not None or (finished and rows.left == 1):
                    taken.append(token)
                if place is not None or rank < group.size:
                    self.tree.append(Branch(rows.written, first + beam, place, token, total, finished))
            spare = on[0][:2] if on else (first, int(logs[first].argmax()))
            on += [(*spare, WORST)] * (group.size - len(on))  # rows that lead nowhere
            group.totals = torch.tensor([total for _, _, total in on], device=logs.device)
            parents += [beam for beam, _, _ in on]
            tokens += [token for _, token, _ in on]
            group.check(rows.written + 1, rows.new)
        over, ids = (torch.tensor(found, device=logs.device) for found in (parents, tokens))
        probs = logs.exp()[over, ids]
        return Step(over, ids[:, None], probs[:, None], final=all(group.done for group in self.groups))

    def penalty(self, taken: list[int], size: int, device: torch.device) -> Float[Tensor, " V"] | None:
        """What tokens lose, `taken` being those that earlier groups have just taken."""
        return None

    def _close(self, rows: Rows) -> None:
        """Finish the beams whose text has ended since the last step."""
        for row in torch.nonzero(~rows.alive)[:, 0].tolist():
            group = self.groups[row // self.groups[0].size]
            assert group.totals is not None
            total = float(group.totals[row % group.size])
            if total > WORST / 2:
                group.add(rows.text(row, self._score(total, rows.written)))
                group.totals[row % group.size] = WORST
                at = next(i for i in reversed(range(len(self.tree))) if self.tree[i].place == row)
                self.tree[at] = replace(self.tree[at], place=None, finished=True)

    def _score(self, total: float, length: int) -> float:
        return total / max(length, 1) ** self.options.length_penalty

    def _text(self, rows: Rows, row: int, token: int, total: float, logs: Tensor) -> Text:
        """The row's text with one more token, which ends it; a token that stands for the end is no part of it."""
        before = rows.text(row)
        score = self._score(total, rows.written + 1)
        assert rows.raw is not None
        own = float(rows.raw[row, 0].log_softmax(dim=-1)[token])
        if token in rows.stop:
            return Text(before.ids, before.logprob, before.chosen_prob, score, own)
        chosen = float(logs[row, token].exp())
        return Text([*before.ids, token], [*before.logprob, own], [*before.chosen_prob, chosen], score)

    def texts(self, rows: Rows, n: int) -> list[Text]:
        if all(group.totals is None for group in self.groups):  # all was given, and nothing is searched for
            return super().texts(rows, n)
        found = [text for group in self.groups for text in group.finished]
        for i, group in enumerate(self.groups if rows.left > 0 else []):
            if group.totals is not None and not group.done:
                places = enumerate(group.totals.tolist())
                found += [
                    rows.text(i * group.size + j, self._score(total, rows.written))
                    for j, total in places
                    if total > WORST / 2
                ]
        return sorted(found, key=lambda one: -(one.score or 0.0))[:n]

    def beams(self, rows: Rows, tokenizer: Tokenizer) -> BeamTree | None:
        """All that was taken up, and which of it led to a text."""
        if not self.tree:
            return None
        names = {piece.id: piece for piece in tokenizer.pieces(sorted({branch.token for branch in self.tree}))}
        begun = self.tree[0].step  # tokens that were there before the search, where it goes on from a text
        steps: list[list[Branch]] = [[] for _ in range(self.tree[-1].step + 1 - begun)]
        for branch in self.tree:
            steps[branch.step - begun].append(branch)
        places = [{branch.place: i for i, branch in enumerate(step)} for step in steps]
        parents = [[places[t - 1][one.parent] if t else -1 for one in step] for t, step in enumerate(steps)]
        kept = [[branch.finished or t == len(steps) - 1 for branch in step] for t, step in enumerate(steps)]
        for t in range(len(steps) - 1, 0, -1):
            for i, parent in enumerate(parents[t]):
                kept[t - 1][parent] |= kept[t][i]
        room, shown = NODES, list[list[BeamNode]]()
        for step, own, leads in zip(steps, parents, kept, strict=True):
            room -= len(step)
            if room < 0 and shown:
                break
            found = zip(step, own, leads, strict=True)
            shown.append([BeamNode(at, names[one.token], one.total, one.finished, on) for one, at, on in found])
        text = self.texts(rows, 1)
        tokens = [*text[0].ids, *([None] if text[0].end is not None else [])] if text else []
        best = _way(steps, parents, tokens[begun:])
        return BeamTree(n_beams=rows.ids.shape[0], n_steps=len(steps), steps=shown, best=best[: len(shown)])


def _way(steps: list[list[Branch]], parents: list[list[int]], tokens: Iterable[int | None]) -> list[int]:
    """The places that a text went through; None stands for whichever token ended it."""
    ways: dict[int, list[int]] = {-1: []}
    for step, own, token in zip(steps, parents, tokens, strict=False):
        ways = {
            i: [*ways[parent], i]
            for i, (branch, parent) in enumerate(zip(step, own, strict=True))
            if parent in ways and (branch.finished if token is None else branch.token == token)
        }
    # Groups of beams may have gone the same way; of those that did, one that ended there is meant.
    ended = [way for way in ways.values() if way and steps[len(way) - 1][way[-1]].finished]
    return next(iter([*ended, *ways.values()]), [])


class DiverseBeamSearch(BeamSearch):
    """Groups of beams that search one after the other; a token loses `diversity_penalty` for every beam of an earlier group
    that has just gone on with it (Vijayakumar et al. 2018, §4, Hamming diversity). Scores are counted without."""

    options: opt.DiverseBeam

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        count = self.options.num_beam_groups or self.options.num_beams
        self.groups = [_Group(self.options.num_beams // count, self.options) for _ in range(count)]

    def penalty(self, taken: list[int], size: int, device: torch.device) -> Float[Tensor, " V"] | None:
        if not taken:
            return None
        return self.options.diversity_penalty * torch.tensor(taken, device=device).bincount(minlength=size)
