"""The decoding loop: one for every strategy, with a cache where the model has one. It knows ids, and no text."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.decoding.cache import KVCache
from llm_lab.decoding.strategy import Strategy
from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Written:
    """One token for each of R rows."""

    tokens: Int[Tensor, " R"]
    logprob: Float[Tensor, " R"]  # the model's own, at temperature 1, in nats
    chosen_prob: Float[Tensor, " R"]  # after the strategy's filtering
    alive: Bool[Tensor, " R"]  # rows that had not ended before this token


SMALL = 20_000_000  # weights times rows; below, threads wait for each other longer than one of them works


@contextlib.contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """While a token of a small model is computed on a CPU: measured, five times as fast as two."""
    before = torch.get_num_threads()
    few = wanted and before > 1
    if few:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if few:
            torch.set_num_threads(before)


class _Reader:
    """Gives the logits after each row's text. Past the context the oldest half is dropped and the rest read again, so
    that a token costs the same however long the text; without a cache the last `max_seq_len` tokens are read each time."""

    def __init__(self, model: LanguageModel, ids: Int[Tensor, "R T"], new: int) -> None:
        self.model, self.ids = model, ids
        self.context: int = model.max_seq_len
        self.room = min(self.context, ids.shape[1] + new)  # positions; published models have contexts of gigabytes
        self.cached = "cache" in model.supports
        self.cache: KVCache | None = None

    def logits(self) -> Float[Tensor, "R V"]:
        if not self.cached:
            return self.model(self.ids[:, -self.context :], last=True).logits[:, -1]
        if self.cache is None or self.cache.length >= self.context:
            fits = self.ids.shape[1] <= self.context and self.cache is None
            keep = self.ids.shape[1] if fits else max(1, self.context // 2)
            assert self.model.config is not None, "a model with a cache is one of ours"
            self.cache = KVCache(self.model.config, len(self.ids), self.ids.device, positions=self.room)
            return self.model(self.ids[:, -keep:], cache=self.cache, last=True).logits[:, -1]
        return self.model(self.ids[:, -1:], cache=self.cache, last=True).logits[:, -1]

    def append(self, parents: Int[Tensor, " R"], tokens: Int[Tensor, " R"]) -> None:
        same = torch.equal(parents, torch.arange(len(self.ids), device=parents.device))
        if not same:
            self.ids = self.ids[parents]
            if self.cache is not None:
                self.cache.reorder(parents)
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)


def decode(
    model: LanguageModel,
    prompt: Int[Tensor, "R T"],
    strategy: Strategy,
    max_new_tokens: int,
    generator: torch.Generator,
    banned: Collection[int] = (),
    stop: Collection[int] = (),
) -> Iterator[Written]:
    """Write up to `max_new_tokens` tokens after each row of `prompt` (T ≥ 1, all rows of one length).

    `banned` tokens are never written; a row ends with a token of `stop`. The model's mode is put back at the end.
    """
    was_training = model.training
    model.eval()
    try:
        reader = _Reader(model, prompt, max_new_tokens)
        alive = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
        barred = torch.tensor(sorted(set(banned) - set(stop)), dtype=torch.long, device=prompt.device)
        ends = torch.tensor(sorted(stop), dtype=torch.long, device=prompt.device)
        weights = sum(p.numel() for p in model.parameters())
        small = model.device.type == "cpu" and weights * len(prompt) < SMALL
        first = True
        for _ in range(max_new_tokens):
            with torch.no_grad(), _one_thread(small):
                logits = reader.logits()
                if first and not bool(torch.isfinite(logits).all()):
                    raise BadValue(
                        "the model's logits are not numbers: its training diverged; train with a lower --lr or --muon_lr"
                    )
                first = False
                # A special is no text: what the others have is shared among them.
                step = strategy.step(logits.index_fill(1, barred, -torch.inf), generator)
                logprob = logits.log_softmax(dim=-1)[step.parents, step.tokens]
                reader.append(step.parents, step.tokens)
            alive = alive[step.parents]
            yield Written(step.tokens, logprob, step.chosen_prob, alive)
            alive = alive & ~torch.isin(step.tokens, ends)
            if step.final or not bool(alive.any()):
                return
    finally:
        model.train(was_training)
