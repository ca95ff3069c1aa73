"""The playground of a model: which strategies it can write by, and every option of them as something to move."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from llm_lab.decoding.choosing import SECOND, choose
from llm_lab.decoding.options import (
    DRAWS,
    FILLS,
    FILTERS,
    STRATEGIES,
    ConstraintOptions,
    FilterOptions,
    GenerateOptions,
)
from llm_lab.decoding.regrow import growing
from llm_lab.errors import BadValue, listing
from llm_lab.options import Spec, specs
from llm_lab.registry import Entry
from llm_lab.results import Control, Generation, Playground, StrategyControls
from llm_lab.store.lm import LM, words

_GENERAL = ("max_new_tokens", "n", "seed", "stop")


def playground(lm: LM, prompt: str, options: Mapping[str, Any]) -> Playground:
    """The controls, standing where `options` say; models among them stay as they are given."""
    fills = not lm.supports & {"next_token", "seq2seq"}
    # Second models wait for the strategies that work with one.
    given = {name: value for name, value in options.items() if name in SECOND and value is not None}
    start: dict[str, Any] = {"strategy": "fill" if fills else "top_p", "seed": 0}
    start |= {name: value for name, value in options.items() if name not in given}

    def models(strategy: str) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name in specs(STRATEGIES.entry(strategy).options)}

    choose(start | models(start["strategy"]))  # refuses mistakes
    offered = [entry for entry in STRATEGIES.values() if bool(entry.supports & FILLS) == fills and _whole(entry, given)]
    names = [entry.name for entry in offered]
    if start["strategy"] not in names:
        needs = next((one for one in SECOND if one in specs(STRATEGIES[start["strategy"]].options)), None)
        why = f"needs a second model, for example --{needs} @small" if needs else f"is none that {lm.name} can use"
        raise BadValue(f"strategy: {start['strategy']} {why}; without it there is: {listing(names)}")
    hidden = {"bad_words", "min_new_tokens", *specs(ConstraintOptions)} if fills else set()
    filters = {**specs(FilterOptions), **specs(ConstraintOptions)}
    general = {name: spec for name, spec in specs(GenerateOptions).items() if name in _GENERAL}
    if fills:
        general = {name: spec for name, spec in general.items() if name in ("n", "seed")}
    made = Playground(
        name=lm.name,
        facts=[f"context {lm.max_seq_len:,} tokens", lm.tokenizer.kind],
        prompt=prompt,
        strategy=start["strategy"],
        strategies=[_strategy(entry, start, {*hidden}) for entry in offered],
        filters=[_control(spec, start) for name, spec in filters.items() if name not in hidden],
        general=[_control(spec, start) for spec in general.values()],
    )

    def write(text: str, moved: Mapping[str, Any], whole: bool = False) -> Iterator[Generation]:
        """`moved` is all that is set, or what differs from the beginning; then another strategy keeps what it has a use for."""
        name = moved.get("strategy", start["strategy"])
        kept = {} if whole else start if name == start["strategy"] else _kept(start, name)
        asked = {**kept, **models(name), **moved, "strategy": name}
        for found in growing(lm, text, asked):
            found.code = f"lab.generate({lm.called}, {text!r}{_words(asked | {'seed': found.seed})})"
            made.prompt, made.generation = text, found
            yield found

    made.actions["write"] = write
    if prompt:
        made.write()
    return made


def _kept(start: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """What is set of the beginning that makes sense with another strategy too."""
    entry = STRATEGIES.entry(strategy)
    without = _without(entry)
    usable = {*specs(GenerateOptions), *specs(FilterOptions), *specs(ConstraintOptions)} - without
    return {name: value for name, value in start.items() if name in usable}


def _words(options: Mapping[str, Any]) -> str:
    """Options as they stand in the line that repeats a text; what stands at its default is left out."""
    own: Any = STRATEGIES.entry(options["strategy"]).options
    known = {**specs(GenerateOptions), **specs(FilterOptions), **specs(own)}
    return words({key: value for key, value in options.items() if key not in known or known[key].default != value})


def _whole(entry: Entry, given: Mapping[str, Any]) -> bool:
    """Whether a strategy has all that it needs: a second model must have been given."""
    return all(name in given for name in specs(entry.options) if name in SECOND)


def _strategy(entry: Entry, start: Mapping[str, Any], hidden: set[str]) -> StrategyControls:
    kind: Any = entry.options
    draws = bool(entry.supports & DRAWS)
    values = start if start["strategy"] == entry.name else {}
    own = [_control(spec, values) for name, spec in specs(kind).items() if name not in SECOND]
    # What it consists of is moved like an option of its own.
    fixed = {**kind.fixed, **({"temperature": 1.0} if draws else {})}
    own += [_control(specs(FilterOptions)[name], {name: value, **values}) for name, value in fixed.items()]
    without = sorted({*_without(entry), *fixed, *hidden})
    return StrategyControls(name=entry.name, help=entry.help, draws=draws, own=own, without=without)


def _without(entry: Entry) -> set[str]:
    """Filters that say what an option of the strategy says, or that have no meaning for it."""
    kind: Any = entry.options
    useless = {name for name, line in FILTERS.items() if line.supports & DRAWS and not entry.supports & DRAWS}
    return {*kind.same.values(), *useless}


def _control(spec: Spec, values: Mapping[str, Any]) -> Control:
    """An option as something to move. One without a value is off, and stands at its example."""
    value = values.get(spec.name, spec.default)
    on = value is not None
    kind = "text"
    if spec.choices is not None and not spec.many:
        kind = "choice"
    elif spec.type is bool:
        kind = "switch"
    elif spec.type in (int, float) and not spec.many:
        kind = "number" if spec.usual is None and (spec.le or spec.lt or 0) > 1e6 else "slider"
    shown: Any = spec.type(spec.example) if value is None and spec.example and kind != "text" else value
    if kind == "text":
        shown = _boxed(value)
    low, high = _ends(spec, shown) if kind == "slider" else (0.0, 1.0)
    return Control(
        name=spec.name,
        kind=kind,
        help=spec.help,
        unit=spec.unit,
        value=low if kind == "slider" and shown is None else shown,
        low=low,
        high=high,
        step=1.0 if spec.type is int else _step(low, high),
        whole=spec.type is int,
        choices=spec.choice_names(),
        optional=spec.optional or kind == "text",
        on=on,
    )


def _boxed(value: Any) -> str:
    """A value as it stands in a box of one line, and is read from it again."""
    if value is None:
        return ""
    if isinstance(value, Mapping | bool):  # a schema
        return json.dumps(value)
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("\n", "\\n")


def _ends(spec: Spec, value: Any) -> tuple[float, float]:
    """The ends of a slider: the usual ones, else the limits, else around the value."""
    low, high = spec.usual or (None, None)
    bottom = spec.ge if spec.ge is not None else spec.gt
    top = spec.le if spec.le is not None else spec.lt
    about = float(value) if value else 1.0
    if low is None:
        low = bottom if bottom is not None else min(0.0, 2 * about)
    if high is None:
        high = top if top is not None and top < 1e6 else max(1.0, abs(2 * about))
    if value is not None:
        low, high = min(low, float(value)), max(high, float(value))
    step = 1.0 if spec.type is int else _step(low, high)
    # Limits that are not allowed themselves are left out.
    low = low + step if spec.gt is not None and low <= spec.gt else low
    high = high - step if spec.lt is not None and high >= spec.lt else high
    return float(low), float(high)


def _step(low: float, high: float) -> float:
    """A round hundredth of the way, or a little less."""
    rough = max(high - low, 1e-9) / 100
    power = 10.0 ** math.floor(math.log10(rough))
    return float(max(m for m in (1, 2, 5, 10) if m * power <= rough * 1.02) * power)
