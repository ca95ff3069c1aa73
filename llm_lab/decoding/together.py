"""Several prompts: which of them are written on together, so that each text is what it would be alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llm_lab.decoding.conditioned import FROM_SOURCE
from llm_lab.decoding.regrow import regrowable
from llm_lab.decoding.writer import Writer
from llm_lab.decoding.writing import (
    MOST_SEEDS,
    Asked,
    Setting,
    fills,
    fitting,
    grow,
    prepare,
    read,
    second,
    setting,
    stream,
)
from llm_lab.models.ensemble import Ensemble
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.stack import Stack
from llm_lab.results import Generations

ROWS = 64  # texts in one batch at most


def stream_all(lm: Writer, prompts: Sequence[str], **options: Any) -> Iterator[Generations]:
    """What is written after each prompt as it grows, a few states a second, and one whenever texts are whole; the last is
    `done`.

    The seed of prompt number i is the seed and i: what is written after it does not depend on the others, and its own seed
    repeats it alone. An interrupt keeps what was written, and leaves out the prompts that were not reached.
    """
    result = Generations(name=lm.name, prompts=list(prompts), done=False)
    try:
        yield from _one_by_one(lm, result, options) if fills(lm, options) else _in_batches(lm, result, options)
    except KeyboardInterrupt:  # between two texts: an encoder read a source, a batch was made ready
        result.written = {i: one for i, one in result.written.items() if one.done}
        result.interrupted = True
    if result.interrupted:
        result.notes.append(f"interrupted: {len(result):,} of {len(prompts):,} prompts were reached")
    for one in result:
        regrowable(lm, one, options)
    result.done = True
    yield result


def _one_by_one(lm: Writer, result: Generations, options: dict[str, Any]) -> Iterator[Generations]:
    for i, prompt in enumerate(result.prompts):
        for one in stream(lm, prompt, **options):
            result.written[i] = one
            try:
                yield result
            except KeyboardInterrupt:  # whoever draws it was interrupted
                if one.done:
                    raise
                one.request_stop()
        if one.interrupted:
            result.interrupted = True
            return
        options = {**options, "seed": (one.seed + 1) % MOST_SEEDS}


def _in_batches(lm: Writer, result: Generations, options: dict[str, Any]) -> Iterator[Generations]:
    how = setting(lm, options)
    asked = (
        [read(how, prompt, i) for i, prompt in enumerate(result.prompts)] if how.objective not in FROM_SOURCE else None
    )
    batches = [[i] for i in range(len(result.prompts))] if asked is None else _batches(how, asked)
    for batch in batches:
        # A source is read when its turn comes: what an encoder makes of it takes memory.
        some = [asked[i] if asked else read(how, result.prompts[i], i) for i in batch]
        result.written |= {i: one.result for i, one in zip(batch, some, strict=True)}
        yield from grow(prepare(how, some), result)
        if any(one.result.interrupted for one in some):
            result.interrupted = True
            return


def _batches(how: Setting, asked: Sequence[Asked]) -> list[list[int]]:
    """The numbers of the prompts that share a batch. Shorter ones are filled up on the left where that changes nothing:
    in models that go by distances, and as long as no text grows past the context, where each drops its own oldest half."""
    n, new, model = how.choice.general.n, how.choice.general.max_new_tokens, how.lm.model
    if not how.choice.strategy().by_row:
        return [[i] for i in range(len(asked))]
    other = second(how, asked[0])
    padded = _pads(model) and (other is None or _pads(other))
    context = min(one.max_seq_len for one in (model, other) if one is not None)
    alike: dict[int | None, list[int]] = {}
    for i in sorted(range(len(asked)), key=lambda i: len(asked[i].start)):
        length = len(asked[i].start)
        alike.setdefault(None if padded and length + new <= context else length, []).append(i)
    found = []
    for group in alike.values():
        size = max(1, min(ROWS, fitting(how.lm, len(asked[group[-1]].start), new)) // n)
        found += [group[i : i + size] for i in range(0, len(group), size)]
    return found


def _pads(model: LanguageModel) -> bool:
    """Whether it reads a row that was filled up on the left as the row alone."""
    if isinstance(model, Ensemble):
        return all(map(_pads, model.members))
    return isinstance(model, Stack) and model.pattern.relative
