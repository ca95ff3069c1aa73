"""What a model thought at each token of a text that it wrote: how unsure it was, where the token stood, what else there
was. Worked out afterwards, in a few passes over what was read when it was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.models.language_model import LanguageModel, evaluating
from llm_lab.results import TokenStatistics

RUNNERS_UP = 10


def statistics(model: LanguageModel, ids: list[int], begin: int) -> TokenStatistics:
    """Of the tokens from `begin` on, at temperature 1. Past the context each is read as the loop read it."""
    if begin >= len(ids):
        none, table = np.zeros(0), np.zeros((0, RUNNERS_UP))
        return TokenStatistics(entropy=none, rank=none, top=table, top_logprob=table)
    with torch.no_grad(), evaluating(model):
        parts = [_of(logits, ids, first) for first, logits in _reads(model, ids, begin)]
    entropy, rank, top, logprobs = (torch.cat([part[i] for part in parts]) for i in range(4))
    return TokenStatistics(
        entropy=entropy.cpu().numpy(),
        rank=rank.cpu().numpy(),
        top=top.cpu().numpy(),
        top_logprob=logprobs.cpu().numpy(),
    )


def log_probs(model: LanguageModel, ids: list[int], begin: int) -> list[float]:
    """log p of each token from `begin` on, at temperature 1, in nats, read as the loop reads."""
    found: list[float] = []
    with torch.no_grad(), evaluating(model):
        for first, logits in _reads(model, ids, begin):
            found += given(logits, ids[first : first + len(logits)]).tolist()
    return found


def given(logits: Float[Tensor, "*B V"], ids: Any) -> Float[Tensor, "*B"]:
    """log p of each token, from the logits that predict it; `ids` are nested lists of the shape *B."""
    tokens = torch.tensor(ids, device=logits.device)
    return logits.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]


def _reads(model: LanguageModel, ids: list[int], begin: int) -> Iterator[tuple[int, Float[Tensor, "t V"]]]:
    """(the first token predicted, logits of it and of those after it), as `rows.Reader` reads them."""
    context, end = model.max_seq_len, len(ids)
    whole = torch.tensor([ids], device=model.device)
    first, start = begin, max(0, begin - context) if "cache" not in model.supports else 0
    while first < end:
        if first - start > context:  # what is read again: the later half, or the last context
            start = first - (context // 2 if "cache" in model.supports else context)
        last = min(end, start + context + 1)
        yield first, model(whole[:, start : last - 1]).logits[0, first - 1 - start :]
        first = last


def _of(logits: Float[Tensor, "t V"], ids: list[int], first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logs = logits.log_softmax(dim=-1)
    tokens = torch.tensor(ids[first : first + len(logits)], device=logits.device)
    entropy = -(logs.exp() * logs).nansum(dim=-1)
    rank = (logs > logs.gather(1, tokens[:, None])).sum(dim=-1) + 1
    top = logs.topk(min(RUNNERS_UP, logs.shape[1]), dim=-1)
    return entropy, rank, top.indices, top.values
