"""How likely a model finds texts that are given, after prompts: what choosing among answers by likelihood rests on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm_lab.decoding.conditioned import FROM_SOURCE, conditioned
from llm_lab.decoding.writer import Writer
from llm_lab.errors import BadValue, show
from llm_lab.models.cost import EVALUATION_TOKENS
from llm_lab.models.language_model import LanguageModel


def continuation_logprobs(lm: Writer, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    """For each (prompt, continuation) the log-probabilities of the continuation's tokens, in nats, at temperature 1.

    They are the tokens that the two have together beyond the prompt's own, where the prompt's begin them; a prompt that
    does not fit the context with it is read from its end. Raises BadValue for a continuation longer than the context.
    """
    objective = lm.objectives[0]
    was_training = lm.model.training
    lm.model.eval()
    try:
        with torch.no_grad():
            if objective in FROM_SOURCE:
                return [_after_source(lm, objective, *pair) for pair in pairs]
            return _after_prompts(lm, pairs)
    finally:
        lm.model.train(was_training)


def _after_prompts(lm: Writer, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    context = lm.model.max_seq_len
    rows = []
    for prompt, continuation in pairs:
        ids, more = _split(lm, prompt, continuation)
        _check(len(more), context, continuation)
        rows.append(((ids + more)[-(context + 1) :], len(more)))
    found: list[list[float]] = [[] for _ in pairs]
    order = sorted((i for i, (_, count) in enumerate(rows) if count), key=lambda i: len(rows[i][0]))
    while order:
        # Longest first; what stands behind a shorter row is read by nothing before it.
        longest = len(rows[order[-1]][0])
        size = max(1, EVALUATION_TOKENS // longest)
        batch, order = order[-size:], order[:-size]
        filled = [rows[i][0] + [0] * (longest - len(rows[i][0])) for i in batch]
        for i, logs in zip(batch, _logs(lm.model, filled), strict=True):
            row, count = rows[i]
            found[i] = logs[len(row) - 1 - count : len(row) - 1].tolist()
    return found


def _after_source(lm: Writer, objective: str, prompt: str, continuation: str) -> list[float]:
    model, begins, _ = conditioned(lm.model, lm.tokenizer, prompt, objective)
    more = lm.tokenizer.encode(continuation)
    _check(len(begins) - 1 + len(more), model.max_seq_len, continuation)
    return _logs(model, [[*begins, *more]])[0][len(begins) - 1 :].tolist() if more else []


def _split(lm: Writer, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """The prompt's ids, as it is written after, and the continuation's."""
    tokenizer = lm.tokenizer
    ids = tokenizer.encode(prompt)
    if not ids:
        return tokenizer.encode("\n") or [tokenizer.start], tokenizer.encode(continuation)
    whole = tokenizer.encode(prompt + continuation)
    begins = whole[: len(ids)] == ids
    return ids, whole[len(ids) :] if begins else tokenizer.encode(continuation)


def _check(length: int, context: int, text: str) -> None:
    if length > context:
        raise BadValue(f"target: {show(text)} takes {length} tokens, and the context is {context}; shorten it")


def _logs(model: LanguageModel, ids: list[list[int]]) -> torch.Tensor:
    """(B, T − 1): of each token but the first, given those before it."""
    rows = torch.tensor(ids, device=model.device)
    logs = model(rows[:, :-1]).logits.log_softmax(dim=-1)
    return logs.gather(2, rows[:, 1:, None])[..., 0].cpu()
