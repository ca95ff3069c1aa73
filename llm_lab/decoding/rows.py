"""The rows of text that a strategy writes: what a model has read of them, in a cache where it has one, and its logits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.data.batch import Attend
from llm_lab.decoding.cache import Caches, KVCache, new_cache
from llm_lab.decoding.filters import Past
from llm_lab.decoding.graphed import WORTH, Graphed
from llm_lab.decoding.spelling import Spelling
from llm_lab.decoding.step import Step, Text
from llm_lab.errors import DIVERGED, BadValue
from llm_lab.models.language_model import LanguageModel, ModelOutput
from llm_lab.models.stepwise import stepwise, usable

ASKED = 8  # tokens written between two questions to a GPU


class Reader:
    """Reads rows of ids that grow, change their order and lose their ends; each position once where there is a cache.

    Past the context the oldest half is dropped and the rest read again, so that a token costs the same however long the
    text; without a cache the last `max_seq_len` tokens are read each time.
    """

    def __init__(self, model: LanguageModel, begin: int, new: int, keep: Bool[Tensor, "R T"] | None = None) -> None:
        self.model, self.keep = model, keep
        self.context: int = model.max_seq_len
        self.room = min(self.context, begin + new)  # positions; published models have contexts of gigabytes
        self.cache: KVCache | Caches | None = None
        self.start = 0  # the first position in the cache
        step = stepwise(model)
        graphed = step is not None and model.device.type == "cuda" and new >= WORTH
        self.step = Graphed(step) if step is not None and graphed else step

    def read(self, ids: Int[Tensor, "R T"], n: int = 1) -> ModelOutput:
        """Logits, (R, n, V), after each of the last `n` of these positions, those before having been read or not."""
        T = ids.shape[1]
        if "cache" not in self.model.supports:
            window = ids[:, -self.context :]
            return self._last(self.model(window, **self._padding(T - window.shape[1], T), last=n == 1), n)
        if self.cache is None or T - self.start > self.context:
            fits = self.context >= T and self.cache is None
            # What is asked for must be read; and of a text that does not fit, the later half.
            self.start = 0 if fits else T - max(n, self.context // 2)
            self.cache = new_cache(self.model, len(ids), self.room)
        # What is asked for is read, whether it was before or not: guesses that were not taken may stand there.
        self.cache.truncate(max(0, T - n - self.start))
        new = ids[:, self.start + self.cache.length :]
        padding = self._padding(self.start, T, new.shape[1])
        if self.step is not None and new.shape[1] == 1 and not padding and isinstance(self.cache, KVCache) and usable():
            with torch.inference_mode():
                return self.step(new, self.cache)
        return self._last(self.model(new, cache=self.cache, last=n == 1, **padding), n)

    def _last(self, output: ModelOutput, n: int) -> ModelOutput:
        hidden = None if output.hidden is None else output.hidden[:, -n:]
        return ModelOutput(output.logits[:, -n:], hidden)

    def _padding(self, start: int, end: int, new: int | None = None) -> dict[str, Any]:
        """How a model is told what is padding, where some is left."""
        keep = self.kept(end)
        if keep is None or bool(keep[:, start:].all()):
            return {}
        keep = keep[:, start:]
        places = (keep.long().cumsum(dim=1) - 1).clamp(min=0)
        return {"attend": Attend(keep=keep), "position_ids": places if new is None else places[:, -new:]}

    def kept(self, length: int) -> Bool[Tensor, "R T"] | None:
        """What is no padding of texts of that length, where some is; all that is written is none."""
        if self.keep is None:
            return None
        grown = self.keep.new_ones(len(self.keep), max(0, length - self.keep.shape[1]))
        return torch.cat([self.keep, grown], dim=1)[:, :length]

    def reorder(self, parents: Int[Tensor, " R"]) -> None:
        if self.cache is not None:
            self.cache.reorder(parents)
        if self.keep is not None:
            self.keep = self.keep[parents]


class Rows:
    """R rows of ids, (R, T), `begin` of them given, and what is known of each token written."""

    def __init__(
        self,
        model: LanguageModel,
        prompt: Int[Tensor, "R T"],
        new: int,
        banned: Collection[int] = (),
        stop: Collection[int] = (),
        keep: Bool[Tensor, "R T"] | None = None,
        spelling: Spelling | None = None,
    ) -> None:
        device = prompt.device
        self.model, self.ids, self.begin, self.new = model, prompt, prompt.shape[1], new
        self.reader = Reader(model, self.begin, new, keep)
        self.banned = torch.tensor(sorted(set(banned) - set(stop)), dtype=torch.long, device=device)
        self.stop = sorted(set(stop))
        self._stop = torch.tensor(self.stop, dtype=torch.long, device=device)
        self._ends = bool(stop)  # whether a row may end before all that may be written is
        self._asked = 0  # how much was written when it was last asked whether all have ended
        self.spelling = spelling
        self.logprob = torch.zeros(len(prompt), 0, device=device)
        self.chosen_prob = torch.zeros(len(prompt), 0, device=device)
        self.lengths = torch.full((len(prompt),), new, device=device)  # tokens after which a row ended, if it did
        self._stopped = torch.zeros(len(prompt), dtype=torch.bool, device=device)  # whether a token ended it
        self._read = False
        self.raw: Float[Tensor, "R n V"] | None = None  # what was read for the step that comes
        self.hidden: Float[Tensor, "R n D"] | None = None

    @property
    def past(self) -> Past:
        return self.past_with(self.ids[:, :0])

    def past_with(self, more: Int[Tensor, "R k"]) -> Past:
        """What would stand there with `more` tokens."""
        ids = torch.cat([self.ids, more], dim=1) if more.shape[1] else self.ids
        return Past(ids, self.begin, self.reader.kept(ids.shape[1]), self.stop, self.spelling)

    @property
    def written(self) -> int:
        return self.ids.shape[1] - self.begin

    @property
    def left(self) -> int:
        """Tokens that may still be written."""
        return self.new - self.written

    @property
    def alive(self) -> Bool[Tensor, " R"]:
        return self.lengths >= self.new

    def over(self, rarely: bool = False) -> bool:
        """Whether every row has ended. With `rarely` a GPU is asked once in ASKED tokens, since to ask is to wait for it: what a
        row is given past its end is no part of its text."""
        if not self._ends or (rarely and self.ids.is_cuda and self.written < self._asked + ASKED):
            return False
        self._asked = self.written
        return not bool(self.alive.any())

    def logits(self) -> Float[Tensor, "R V"]:
        """Of the next token, float32; −inf for tokens that must not be written."""
        return self.read(1)[:, 0]

    def read(self, n: int, more: Int[Tensor, "R k"] | None = None) -> Float[Tensor, "R n V"]:
        """The logits after each of the last `n` positions, `more` tokens included that are not of the text (yet)."""
        ids = self.ids if more is None else torch.cat([self.ids, more], dim=1)
        output = self.reader.read(ids, n)
        if not self._read and not bool(torch.isfinite(output.logits).all()):
            raise BadValue(f"the model's {DIVERGED}")
        self._read = True
        self.raw, self.hidden = output.logits, output.hidden
        # A special is no text: what the others have is shared among them.
        return output.logits.index_fill(2, self.banned, -torch.inf)

    def ahead(self, tokens: Int[Tensor, "R k"]) -> Float[Tensor, "R k D"]:
        """The hidden state that each of k tokens would have after its row. Nothing is kept of them."""
        (R, k), rows = tokens.shape, torch.arange(len(tokens), device=tokens.device)
        ids = torch.cat([self.ids.repeat_interleave(k, dim=0), tokens.flatten()[:, None]], dim=1)
        self.reader.reorder(rows.repeat_interleave(k))
        hidden = self.reader.read(ids).hidden
        self.reader.reorder(rows * k)
        if hidden is None:
            raise AssertionError("hidden states are asked of models that give them")
        return hidden[:, -1].view(R, k, -1)

    def guesses(self, wanted: int) -> int:
        """How many tokens can be read ahead: no more than may be written, and none past the context."""
        held = self.ids.shape[1] - self.reader.start
        return max(0, min(wanted, self.left - 1, self.reader.context - held))

    def give(self, tokens: Sequence[int]) -> None:
        """Let every row go on with these tokens, which were chosen by nobody here, in as few passes as the context allows."""
        left = list(tokens)
        while left:
            k = 1 + self.guesses(len(left) - 1)
            now, left = left[:k], left[k:]
            given = torch.tensor([now] * len(self.ids), device=self.ids.device)
            self.read(k, given[:, : k - 1])
            self.append(Step(None, given, torch.full(given.shape, torch.nan, device=self.ids.device)))

    def append(self, step: Step) -> None:
        """Go on as the step says. Its tokens' own probabilities are taken from what was read for it."""
        assert self.raw is not None, "a step is taken on logits"
        n = step.tokens.shape[1]
        if step.parents is None or torch.equal(step.parents, torch.arange(len(self.ids), device=step.parents.device)):
            logs = self.raw[:, :n].log_softmax(dim=-1)
        else:
            logs = self.raw[step.parents, :n].log_softmax(dim=-1)
            self.ids, self.lengths = self.ids[step.parents], self.lengths[step.parents]
            self._stopped = self._stopped[step.parents]
            self.logprob, self.chosen_prob = self.logprob[step.parents], self.chosen_prob[step.parents]
            self.reader.reorder(step.parents)
        before = self.written
        self.logprob = torch.cat([self.logprob, logs.gather(2, step.tokens[..., None])[..., 0]], dim=1)
        self.chosen_prob = torch.cat([self.chosen_prob, step.chosen_prob], dim=1)
        self.ids = torch.cat([self.ids, step.tokens], dim=1)
        self.raw = self.hidden = None
        if self.stop:
            ends = torch.isin(step.tokens, self._stop)
            any_ends = ends.any(dim=1)
            self._stopped = self._stopped | (self.alive & any_ends)
            first = torch.where(any_ends, before + ends.int().argmax(dim=1), self.new)
            self.lengths = torch.minimum(self.lengths, first)

    def end(self, row: int, length: int) -> None:
        """The row's text ends after so many tokens."""
        self.lengths[row] = min(int(self.lengths[row]), length)
        self._ends = True

    def text(self, row: int, score: float | None = None) -> Text:
        """What a row has written, without the token that ended it."""
        length = min(int(self.lengths[row]), self.written)
        ids: Sequence[Any] = self.ids[row, self.begin : self.begin + length].tolist()
        ended = length < self.written and bool(self._stopped[row])
        return Text(
            list(ids),
            self.logprob[row, :length].tolist(),
            self.chosen_prob[row, :length].tolist(),
            score,
            float(self.logprob[row, length]) if ended else None,
        )
