"""How likely a model finds texts that are given, after prompts: what choosing among answers by likelihood rests on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm_lab.decoding.conditioned import FROM_SOURCE, conditioned, source_ids
from llm_lab.decoding.statistics import given, log_probs
from llm_lab.decoding.writer import Writer
from llm_lab.errors import BadValue, show
from llm_lab.models.cost import at_once
from llm_lab.models.language_model import evaluating


def continuation_logprobs(lm: Writer, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    """For each (prompt, continuation) the log-probabilities of the continuation's tokens, in nats, at temperature 1.

    They are the tokens that the two have together beyond the prompt's own, where the prompt's begin them; a prompt that
    does not fit the context with it is read from its end. Raises BadValue for a continuation longer than the context.
    """
    for prompt, continuation in pairs:
        check_continuation(lm, prompt, continuation)
    if (objective := lm.objectives[0]) in FROM_SOURCE:
        return [_after_source(lm, objective, *pair) for pair in pairs]
    with torch.no_grad(), evaluating(lm.model):
        return _after_prompts(lm, pairs)


def check_continuation(lm: Writer, prompt: str, continuation: str, argument: str = "target") -> None:
    """BadValue where the continuation is longer than the context, in which a source may have to stay."""
    room = context = lm.model.max_seq_len
    if (objective := lm.objectives[0]) not in FROM_SOURCE:
        length = len(_split(lm, prompt, continuation)[1])
    else:
        length = len(lm.tokenizer.encode(continuation))
        if "next_token" in lm.model.supports:  # one stack reads both
            room -= len(source_ids(prompt, lm.tokenizer, objective))
    if length > room:
        left = "" if room == context else f", of which the source leaves {max(room, 0)}"
        raise BadValue(
            f"{argument}: {show(continuation)} takes {length} tokens, and the context is {context}{left}; shorten it"
        )


def _after_prompts(lm: Writer, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    context = lm.model.max_seq_len
    rows = []
    for prompt, continuation in pairs:
        ids, more = _split(lm, prompt, continuation)
        rows.append(((ids + more)[-(context + 1) :], len(more)))
    found: list[list[float]] = [[] for _ in pairs]
    order = sorted((i for i, (_, count) in enumerate(rows) if count), key=lambda i: len(rows[i][0]))
    while order:
        # Longest first; what stands behind a shorter row is read by nothing before it.
        longest = len(rows[order[-1]][0])
        size = at_once(lm.model.vocab_size, longest)
        batch, order = order[-size:], order[:-size]
        filled = [rows[i][0] + [0] * (longest - len(rows[i][0])) for i in batch]
        logits = lm.model(torch.tensor([row[:-1] for row in filled], device=lm.device)).logits
        for i, logs in zip(batch, given(logits, [row[1:] for row in filled]).cpu(), strict=True):
            row, count = rows[i]
            found[i] = logs[len(row) - 1 - count : len(row) - 1].tolist()
    return found


def _after_source(lm: Writer, objective: str, prompt: str, continuation: str) -> list[float]:
    model, begins, _ = conditioned(lm.model, lm.tokenizer, prompt, objective)
    return log_probs(model, [*begins, *lm.tokenizer.encode(continuation)], len(begins))


def _split(lm: Writer, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """The prompt's ids, as it is written after, and the continuation's."""
    tokenizer = lm.tokenizer
    ids = tokenizer.encode(prompt)
    if not ids:
        return tokenizer.encode("\n") or [tokenizer.start], tokenizer.encode(continuation)
    whole = tokenizer.encode(prompt + continuation)
    begins = whole[: len(ids)] == ids
    return ids, whole[len(ids) :] if begins else tokenizer.encode(continuation)
