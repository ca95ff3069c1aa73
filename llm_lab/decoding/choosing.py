"""From flat options to a strategy that is ready to write: its filters in order, its constraint, its second model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from llm_lab.decoding.options import (
    DRAWS,
    FILTERS,
    STRATEGIES,
    ConstraintOptions,
    FilterOptions,
    GenerateOptions,
    StrategyOptions,
    strategy_options,
)
from llm_lab.decoding.strategy import Filter, Strategy
from llm_lab.errors import BadType, BadValue, listing, show
from llm_lab.options import distribute, specs

SECOND = ("amateur", "draft")  # options that hold a model


@dataclass(frozen=True)
class Choice:
    """What was asked for, checked: general options, the strategy's line and options, filters, constraint."""

    general: GenerateOptions
    name: str
    own: StrategyOptions
    filters: dict[str, Any]  # in the order they are applied in
    constraint: ConstraintOptions

    @property
    def shown(self) -> dict[str, Any]:
        """All that was chosen, as it is shown and repeated."""
        own = {name: getattr(value, "name", value) for name, value in self.own.to_dict().items()}
        filters = {name: value for name, value in self.filters.items() if name not in self.own.same.values()}
        drawn = {"temperature": 1.0} if STRATEGIES[self.name].supports & DRAWS else {}
        given = {name: value for name, value in self.constraint.to_dict().items() if value is not None}
        return own | drawn | filters | given

    def strategy(self, constraint: Filter | None = None) -> Strategy:
        """The strategy, made for one generation."""
        filters = [partial(_apply, FILTERS.load(name), value) for name, value in self.filters.items()]
        made: Strategy = STRATEGIES.load(self.name)(self.own, filters)
        made.constraint = constraint
        return made


def _apply(function: Any, value: Any, logits: Any, past: Any) -> Any:
    return function(logits, value, past)


def choose(options: Mapping[str, Any]) -> Choice:
    """Raises BadType for an option that belongs to another strategy, or that changes nothing with this one."""
    distribute((GenerateOptions, *strategy_options(options)), options, "generate")  # names and values first
    general: GenerateOptions = _made(GenerateOptions, _of(GenerateOptions, options))
    entry = STRATEGIES.entry(general.strategy)
    kind: Any = entry.options
    given_filters, constraint = _of(FilterOptions, options), _made(ConstraintOptions, _of(ConstraintOptions, options))
    given = {
        key: value
        for key, value in options.items()
        if not any(key in specs(one) for one in (GenerateOptions, FilterOptions, ConstraintOptions))
    }
    for key in given:
        if key not in specs(kind):
            others = [name for name, e in STRATEGIES.items() if key in specs(e.options)]
            raise BadType(
                f"{key} is an option of {listing(others)}, and the strategy is {entry.name}; add for example --strategy {others[0]}"
            )
    for own_name, name in kind.same.items():
        value = given_filters.pop(name, None)
        if value is not None and given.setdefault(own_name, value) != value:
            raise BadValue(
                f"{name}: {show(value)} is what {own_name} {show(given[own_name])} says too with strategy {entry.name}; give one of them"
            )
    for name, value in given_filters.items():
        if value is not None and FILTERS[name].supports & DRAWS and not entry.supports & DRAWS:
            raise BadType(
                f"{name} changes what is drawn, and {entry.name} draws nothing; leave it out, or use for example --strategy top_p"
            )
    own: StrategyOptions = _made(kind, given)
    told = {name: value for name, value in _made(FilterOptions, given_filters).to_dict().items() if value is not None}
    if told["temperature"] == 1.0:
        del told["temperature"]
    values = own.filters() | told
    return Choice(general, entry.name, own, {name: values[name] for name in FILTERS if name in values}, constraint)


def _made(cls: Any, values: Mapping[str, Any]) -> Any:
    """Options from values of which texts may still stand for numbers."""
    return distribute((cls,), values, "generate")[0]


def _of(cls: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in specs(cls)}
