"""What is done to the logits of the next token before one is chosen: one function a filter, (logits, value, past).

Dropped tokens become −inf. A filter that looks at one distribution alone ignores `past`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.decoding.spelling import Spelling


@dataclass(eq=False)
class Past:
    """What stands before the tokens that are chosen: R rows, `begin` tokens of each given, the others written."""

    ids: Int[Tensor, "R T"]
    begin: int
    keep: Bool[Tensor, "R T"] | None = None  # False where a shorter prompt was filled up
    stop: Sequence[int] = ()  # tokens that end a text
    spelling: Spelling | None = None  # what each token writes

    @property
    def written(self) -> Int[Tensor, "R t"]:
        return self.ids[:, self.begin :]

    def counts(self, size: int, written: bool) -> Int[Tensor, "R V"]:
        """How often each token stands there: among what was written, or in all of the text."""
        ids = self.written if written else self.ids
        found = torch.zeros(len(ids), size, dtype=torch.long, device=ids.device)
        ones = torch.ones_like(ids)
        if not written and self.keep is not None:
            ones = self.keep.long()
        return found.scatter_add_(1, ids, ones)


def temperature(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """softmax(logits / T)."""
    return logits if value == 1.0 else logits / value


def top_k(logits: Float[Tensor, "R V"], value: int, past: Past) -> Float[Tensor, "R V"]:
    """The k likeliest tokens (Fan et al. 2018, §5.2)."""
    kth = logits.topk(min(value, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def top_p(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """The smallest set of tokens whose probabilities sum to at least p (Holtzman et al. 2020, §3.1)."""
    values, order = logits.sort(dim=-1, descending=True)
    probs = values.softmax(dim=-1)
    # A token is dropped when those likelier than it already sum to p; the likeliest never is.
    return _keep_sorted(logits, order, probs.cumsum(dim=-1) - probs < value)


def min_p(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """Tokens with p ≥ value · max p (Nguyen et al. 2024, §3)."""
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < value * probs.amax(dim=-1, keepdim=True), -torch.inf)


def top_n_sigma(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """Tokens with logit ≥ max − n σ, σ being the standard deviation of a row's logits (Tang et al. 2024, §3)."""
    finite = torch.isfinite(logits)
    count = finite.sum(dim=-1, keepdim=True)
    there = logits.masked_fill(~finite, 0.0)
    mean = there.sum(dim=-1, keepdim=True) / count
    spread = ((there - mean).masked_fill(~finite, 0.0).square().sum(dim=-1, keepdim=True) / count).sqrt()
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) - value * spread, -torch.inf)


def typical_p(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """The tokens whose −log p is nearest to the entropy, until their probabilities sum to p (Meister et al. 2023, §3)."""
    logs = logits.log_softmax(dim=-1)
    probs = logs.exp()
    entropy = -(probs * logs).nansum(dim=-1, keepdim=True)
    order = (-logs - entropy).abs().argsort(dim=-1)
    taken = probs.gather(-1, order)
    return _keep_sorted(logits, order, taken.cumsum(dim=-1) - taken < value)


def epsilon_cutoff(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """Tokens with p ≥ ε, and the likeliest (Hewitt et al. 2022, §5)."""
    return _keep_best(logits, logits.softmax(dim=-1) >= value)


def eta_cutoff(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """Tokens with p ≥ min(ε, √ε exp(−entropy)), and the likeliest (Hewitt et al. 2022, §4.2)."""
    logs = logits.log_softmax(dim=-1)
    probs = logs.exp()
    entropy = -(probs * logs).nansum(dim=-1, keepdim=True)
    return _keep_best(logits, probs >= torch.clamp(value**0.5 * torch.exp(-entropy), max=value))


def repetition_penalty(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """Logits of all tokens of the text, prompt included, divided by the penalty, or multiplied where they are below 0
    (Keskar et al. 2019, §4.1, as Hugging Face reads it)."""
    seen = past.counts(logits.shape[-1], written=False) > 0
    return torch.where(seen, torch.where(logits < 0, logits * value, logits / value), logits)


def presence_penalty(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """Taken once from every token that was written."""
    return logits - value * (past.counts(logits.shape[-1], written=True) > 0)


def frequency_penalty(logits: Float[Tensor, "R V"], value: float, past: Past) -> Float[Tensor, "R V"]:
    """Taken from a token for each time that it was written."""
    return logits - value * past.counts(logits.shape[-1], written=True)


def no_repeat_ngram_size(logits: Float[Tensor, "R V"], value: int, past: Past) -> Float[Tensor, "R V"]:
    """No token that would end an n-gram which the text, prompt included, has already (Paulus et al. 2018, §2.5)."""
    T = past.ids.shape[1]
    if value > T:
        return logits
    windows = past.ids.unfold(1, value, 1)
    same = (windows[:, :, :-1] == past.ids[:, None, T - value + 1 :]).all(dim=-1)
    if past.keep is not None:
        same &= past.keep.unfold(1, value, 1).all(dim=-1)
    again = torch.zeros(logits.shape, dtype=torch.long, device=logits.device)
    again.scatter_add_(1, windows[:, :, -1], same.long())
    return logits.masked_fill(again > 0, -torch.inf)


def min_new_tokens(logits: Float[Tensor, "R V"], value: int, past: Past) -> Float[Tensor, "R V"]:
    """No token that ends the text before so many are written."""
    if past.written.shape[1] >= value or not past.stop:
        return logits
    return logits.index_fill(1, torch.tensor(list(past.stop), device=logits.device), -torch.inf)


def bad_words(logits: Float[Tensor, "R V"], value: Sequence[str], past: Past) -> Float[Tensor, "R V"]:
    """No token that would complete one of the texts, however it is cut into tokens."""
    if past.spelling is None:
        raise AssertionError("texts can be forbidden only where it is known what tokens write")
    masks = [past.spelling.completing(row, tuple(value)) for row in past.written.tolist()]
    return logits.masked_fill(torch.stack(masks).to(logits.device), -torch.inf)


def _keep_sorted(logits: Tensor, order: Tensor, kept: Tensor) -> Tensor:
    kept[:, 0] = True
    return logits.masked_fill(~torch.zeros_like(kept).scatter(-1, order, kept), -torch.inf)


def _keep_best(logits: Tensor, kept: Tensor) -> Tensor:
    return logits.masked_fill(~(kept | (logits == logits.amax(dim=-1, keepdim=True))), -torch.inf)
