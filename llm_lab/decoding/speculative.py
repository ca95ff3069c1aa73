"""Strategies that guess several tokens and let the model check them all at once; what is written is distributed as if it
had written one by one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.decoding import options as opt
from llm_lab.decoding.rows import Reader, Rows
from llm_lab.decoding.step import Step
from llm_lab.decoding.strategy import Strategy, drawn

Guess = tuple[Int[Tensor, "R k"], Float[Tensor, "R k V"]]  # tokens, and the distributions that they were drawn from


class Guesser(Strategy):
    """Guessed tokens are taken with probability min(1, p / q), p being what the filters leave of the model's distribution
    and q the guesser's; in place of the first that is not, one is drawn from max(0, p − q) (Leviathan et al. 2023, §2.3).

    Rows go on together: as many tokens as the row takes that takes fewest. Each token is exact whatever the others are.
    """

    guessed = 0
    taken = 0
    passes = 0

    def guess(self, rows: Rows, k: int, generator: torch.Generator) -> Guess | None:
        """k tokens for each row, or fewer; None where there is nothing to guess from."""
        raise NotImplementedError

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        k = rows.guesses(self.wanted)
        guess = self.guess(rows, k, generator) if k else None
        self.passes += 1
        if guess is None:
            return Step.one(*drawn(self.filtered(rows.logits(), rows.past), generator))
        tokens, q = guess
        k = tokens.shape[1]
        logits = rows.read(k + 1, tokens)
        p = torch.stack(
            [self.filtered(logits[:, i], rows.past_with(tokens[:, :i])).softmax(dim=-1) for i in range(k + 1)], dim=1
        )
        chance = torch.rand(tokens.shape, generator=generator, device=tokens.device)
        each = tokens[..., None]
        accepted = chance * q.gather(2, each)[..., 0] < p[:, :k].gather(2, each)[..., 0]
        # A row that ends needs no more, and must not hold the others back.
        over = ~rows.alive[:, None] | _after_end(tokens, rows.stop)
        runs = (accepted | over).long().cumprod(dim=1).sum(dim=1)
        n = int(runs.min())
        rest = p[:, n] if n == k else (p[:, n] - q[:, n]).clamp(min=0)
        rest = torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, p[:, n])
        new = torch.multinomial(rest, 1, generator=generator)
        if n < k:  # rows that would have taken more keep their own guess
            new = torch.where((runs > n)[:, None], tokens[:, n : n + 1], new)
        tokens = torch.cat([tokens[:, :n], new], dim=1)
        self.guessed += k
        self.taken += n
        chosen = p[:, : n + 1].gather(2, tokens[..., None])[..., 0]
        return Step(None, tokens, chosen)

    @property
    def wanted(self) -> int:
        """How many tokens to guess at a time."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        if not self.guessed:
            return ["nothing could be guessed: each token took a pass of the model"]
        written = self.taken + self.passes
        return [
            f"{self.taken:,} of {self.guessed:,} guesses were taken ({self.taken / self.guessed:.0%}): "
            f"{written / self.passes:.2f} tokens for each pass of the model"
        ]


class Speculative(Guesser):
    """A draft model guesses, filtered as the model itself is."""

    options: opt.Speculative
    reader: Reader | None = None

    @property
    def wanted(self) -> int:
        return self.options.draft_tokens

    def guess(self, rows: Rows, k: int, generator: torch.Generator) -> Guess | None:
        if self.other is None:
            raise AssertionError("a draft is given when the strategy is made")
        if self.reader is None:
            self.reader = Reader(self.other, rows.begin, rows.new, rows.past.keep)
        tokens, probs = rows.ids[:, :0], []
        for _ in range(k):
            past = rows.past_with(tokens)
            logits = self.reader.read(past.ids).logits[:, 0].index_fill(1, rows.banned, -torch.inf)
            q = self.filtered(logits, past).softmax(dim=-1)
            tokens = torch.cat([tokens, torch.multinomial(q, 1, generator=generator)], dim=1)
            probs.append(q)
        return tokens, torch.stack(probs, dim=1)


class PromptLookup(Guesser):
    """The longest end of the text, up to `lookup_ngram` tokens, is looked for earlier in it, and what followed there last
    is guessed (Saxena 2023, prompt look-up decoding). Without a draft model a guess is certain of itself."""

    options: opt.PromptLookup

    @property
    def wanted(self) -> int:
        return self.options.lookup_tokens

    def guess(self, rows: Rows, k: int, generator: torch.Generator) -> Guess | None:
        found = [self._follows(row, k) for row in rows.ids.tolist()]
        alive = rows.alive.tolist()
        shortest = min((len(one) for one, yes in zip(found, alive, strict=True) if yes), default=0)
        if not shortest:
            return None
        assert rows.model.vocab_size > 0
        filled = [(one + [0] * shortest)[:shortest] for one in found]
        tokens = torch.tensor(filled, device=rows.ids.device)
        q = torch.zeros(*tokens.shape, rows.model.vocab_size, device=tokens.device)
        return tokens, q.scatter_(2, tokens[..., None], 1.0)

    def _follows(self, ids: list[int], k: int) -> list[int]:
        for size in range(min(self.options.lookup_ngram, len(ids) - 1), 0, -1):
            end = ids[-size:]
            for start in range(len(ids) - size - 1, -1, -1):
                if ids[start : start + size] == end:
                    return ids[start + size : start + size + k]
        return []


def _after_end(tokens: Int[Tensor, "R k"], stop: list[int]) -> Tensor:
    """Where a token stands behind one that ends the text."""
    ends = torch.isin(tokens, torch.tensor(stop, dtype=torch.long, device=tokens.device)).long()
    return (ends.cumsum(dim=1) - ends) > 0
