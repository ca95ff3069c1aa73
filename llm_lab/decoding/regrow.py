"""A text written on from one of its tokens with another in its place: generations become trees that keep their branches."""

from __future__ import annotations

import math
import operator
import secrets
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from llm_lab.decoding.writer import Writer
from llm_lab.decoding.writing import before_last, stream
from llm_lab.errors import BadType, BadValue, show
from llm_lab.results import Fork, Generation

_LISTS = ("pieces", "logprob", "chosen_prob", "texts", "scores", "end_logprob")


def growing(lm: Writer, prompt: str, options: Mapping[str, Any]) -> Iterator[Generation]:
    """As `stream`; the last state can also be regrown, while the model is there."""
    result = yield from before_last(stream(lm, prompt, **options))
    regrowable(lm, result, options)
    yield result


def regrowable(lm: Writer, result: Generation, options: Mapping[str, Any]) -> None:
    """Let what was written with these options be regrown, while the model is there."""
    if result.continues:
        second = {key: value.weakly() for key, value in options.items() if isinstance(value, Writer)}
        plain = {key: value for key, value in options.items() if key not in second}
        result.actions["regrow"] = partial(_regrow, lm.weakly(), second, plain, weakref.ref(result))


def _regrow(
    model: Callable[[], Writer | None],
    second: Mapping[str, Callable[[], Writer | None]],
    options: Mapping[str, Any],
    grown: weakref.ref[Generation],
    sample: Any,
    at: Any,
    token: Any,
    seed: Any = None,
) -> Iterator[Generation]:
    """The result as it grows by one more text: that of `sample` up to its token `at`, in whose place `token` stands."""
    lm, result = model(), grown()
    models = {name: reference() for name, reference in second.items()}
    if lm is None or result is None or None in models.values():
        raise BadValue("regrow: the model that wrote this is gone; load it and generate again")
    sample, at = _place(result, sample, at)
    begin = [*result.tokens[sample][:at], _id(lm, token)]
    seed = secrets.randbelow(2**31) if seed is None else seed
    asked = {**options, **models, "n": 1, "seed": seed}
    count = len(result.pieces)
    try:
        for found in stream(lm, result.prompt, begin=begin, **asked):
            # Those before were not chosen anew; the last was chosen by a person.
            chosen = [*result.chosen_prob[sample][:at], math.nan, *found.chosen_prob[0][at + 1 :]]
            found.chosen_prob = [chosen[: len(found.pieces[0])]]
            for name in _LISTS:
                own = getattr(result, name)
                own[count:] = getattr(found, name)[:1]
            result.forks[count] = Fork(sample, at, found.seed)
            result.tokens_per_second = found.tokens_per_second
            result.done = found.done
            result.notes += [note for note in found.notes if found.done and note not in result.notes]
            yield result
            if result.stopping:
                found.request_stop()
                result.stopping = False
    except BaseException:
        if not result.done:  # half a text would stand there as a whole one
            for name in _LISTS:
                del getattr(result, name)[count:]
            result.forks.pop(count, None)
            result.done = True
        raise


def _place(result: Generation, sample: Any, at: Any) -> tuple[int, int]:
    """The place, in the text where it was written first."""
    text, place = _whole(sample), _whole(at)
    if text is None or not 0 <= text < len(result.pieces):
        raise BadValue(f"sample: {show(sample)} is not there; it takes 0 to {len(result.pieces) - 1}")
    if place is None or not 0 <= place < len(result.pieces[text]):
        raise BadValue(f"at: {show(at)} is no token of text {text}; it takes 0 to {len(result.pieces[text]) - 1}")
    while text in result.forks and place <= result.forks[text].at:
        text = result.forks[text].sample
    return text, place


def _whole(value: Any) -> int | None:
    """A whole number of any kind, numpy's and torch's among them; None for what is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _id(lm: Writer, token: Any) -> int:
    if isinstance(token, str):
        ids = lm.tokenizer.encode(token)
        if len(ids) != 1:
            raise BadValue(f"token: {show(token)} is {len(ids)} tokens for {lm.name}; give one, as a text or as its id")
        return ids[0]
    found = _whole(token)
    if found is None:
        raise BadType(f"token: {show(token)} is {type(token).__name__}; a token's text or its id would do")
    if not 0 <= found < lm.tokenizer.vocab_size:
        raise BadValue(f"token: {found} is no id of {lm.name}; it has 0 to {lm.tokenizer.vocab_size - 1}")
    return found
