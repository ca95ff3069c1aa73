"""Strategies, prompts and models side by side: every one writes from every prompt, and what it wrote is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_lab.decoding.choosing import SECOND
from llm_lab.decoding.options import DRAWS, FILLS, FILTERS, STRATEGIES, ConstraintOptions, GenerateOptions
from llm_lab.decoding.writing import write
from llm_lab.errors import BadType, BadValue, show
from llm_lab.metrics.diversity import distinct, repetition, self_bleu
from llm_lab.options import specs
from llm_lab.results import Compared, Comparison, Generation
from llm_lab.store.lm import LM


def setting(value: Any) -> tuple[str, dict[str, Any]]:
    """(name, options) of a strategy that was asked for: `"top_p"`, `"top_p:p=0.5:temperature=0.8"`, or a dict with
    `strategy` in it. Raises BadValue or BadType where it is none of them."""
    if isinstance(value, Mapping):
        given = dict(value)
        name = given.get("strategy", "top_p")
        STRATEGIES.entry(name)
        words = ":".join(f"{key}={_shown(one)}" for key, one in given.items() if key != "strategy")
        return f"{name}{':' if words else ''}{words}", {"strategy": name, **given}
    if not isinstance(value, str):
        raise BadType(
            f'strategies: {show(value)} is {type(value).__name__}; a name such as "top_p:p=0.5", or a dict, would do'
        )
    name, *parts = value.strip().split(":")
    STRATEGIES.entry(name)
    given = {"strategy": name}
    for word in parts:
        key, equals, one = word.partition("=")
        if not equals or not key.strip() or not one.strip():
            raise BadValue(
                f"strategies: {show(word)} of {show(value)} is no option with a value; for example top_p:p=0.5"
            )
        given[key.strip()] = one.strip()
    return value.strip(), given


def _shown(value: Any) -> str:
    return str(getattr(value, "name", value))


def compare(
    lms: Sequence[LM], prompts: Sequence[str], strategies: Sequence[Any], shared: Mapping[str, Any]
) -> Iterator[Comparison]:
    """The comparison as it grows, one cell at a time; the last is whole. `shared` are options of all; a strategy that has
    no use for one goes without it."""
    settings = [setting(value) for value in strategies]
    if len({name for name, _ in settings}) < len(settings):
        raise BadValue("strategies: one of them is named twice; give it other options, for example top_p,top_p:p=0.5")
    seed = shared.get("seed")
    result = Comparison(
        models=[lm.name for lm in lms],
        prompts=list(prompts),
        strategies=[name for name, _ in settings],
        cells=[],
        notes=[],
    )
    for lm in lms:
        for name, own in settings:
            options, left_out = _for(own, shared)
            result.notes += [f"{name} has no use for {', '.join(left_out)}"] if left_out and lm is lms[0] else []
            for i, prompt in enumerate(prompts):
                found = write(lm, prompt, **{**options, **({} if seed is None else {"seed": seed})})
                result.cells.append(_measured(found, lm, name, i))
                yield result
    result.done = True
    yield result


def _for(own: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A strategy's options with those of the shared ones that it takes, and the names of the others."""
    entry = STRATEGIES.entry(own["strategy"])
    takes = {*specs(GenerateOptions), *specs(entry.options), *specs(ConstraintOptions)}
    takes |= {name for name, line in FILTERS.items() if entry.supports & DRAWS or not line.supports & DRAWS}
    if entry.supports & FILLS:
        takes -= {*specs(ConstraintOptions), "max_new_tokens", "stop", *(() if entry.supports & DRAWS else ("n",))}
    given = {name: value for name, value in shared.items() if name in takes and name not in SECOND}
    seconds = {name: shared[name] for name in SECOND if name in shared and name in specs(entry.options)}
    left_out = [name for name in shared if name not in takes and name not in {*SECOND, "max_new_tokens", "n"}]
    return {**given, **seconds, **own}, left_out


def _measured(found: Generation, lm: LM, name: str, prompt: int) -> Compared:
    """One cell: what was written, and its numbers."""
    logprobs = [x for sample in found.logprob for x in sample if math.isfinite(x)]
    entropy = [float(x) for one in found.statistics for x in one.entropy]
    written = found.tokens
    texts = found.continuations
    return Compared(
        model=lm.name,
        strategy=name,
        prompt=prompt,
        options=dict(found.options),
        texts=texts,
        logprob=sum(logprobs) / len(logprobs) if logprobs else math.nan,
        entropy=sum(entropy) / len(entropy) if entropy else math.nan,
        distinct_1=distinct(written, 1),
        distinct_2=distinct(written, 2),
        repetition=repetition(written),
        self_bleu=self_bleu(texts),
        n_tokens=sum(map(len, written)),
        tokens_per_second=found.tokens_per_second,
        seed=found.seed,
        notes=found.notes,
    )
