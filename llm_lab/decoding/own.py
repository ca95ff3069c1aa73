"""A user's own strategy from one function, and how it compares with one of ours."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.decoding.choosing import choose
from llm_lab.decoding.filters import Past
from llm_lab.decoding.options import DRAWS, STRATEGIES, FilterOptions, StrategyOptions
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.samplers import Greedy, Sampler
from llm_lab.decoding.step import Step
from llm_lab.decoding.strategy import Strategy, drawn
from llm_lab.errors import BadType, BadValue, listing, show
from llm_lab.options import distribute, first_line, own_name, own_options, specs
from llm_lab.registry import Entry
from llm_lab.results import Listing

_TRIALS = 200  # random distributions that two strategies are compared on
_SAME = 1e-5  # probabilities that differ by less are the same
_SHOWN = 12


class Own(Strategy):
    """A function of the logits, (R, V), and if it takes `ids` of the text so far, (R, T): it gives the logits that a token
    is drawn from, (R, V), or the tokens themselves, (R,)."""

    def __init__(self, function: Callable[..., Any], options: StrategyOptions, filters: Any = ()) -> None:
        super().__init__(options, filters)
        self.function = function

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        logits = self.filtered(rows.logits(), rows.past)
        found = self.call(logits, rows.ids)
        if found.ndim == 2:
            return Step.one(*drawn(found, generator))
        return Step.one(found, logits.softmax(dim=-1).gather(1, found[:, None])[:, 0])

    def call(self, logits: Float[Tensor, "R V"], ids: Tensor) -> Tensor:
        """What the function gives, checked."""
        more = {"ids": ids} if "ids" in inspect.signature(self.function).parameters else {}
        name = self.function.__name__
        found = self.function(logits.clone(), **more, **self.options.to_dict())
        if not isinstance(found, Tensor):
            raise BadType(f"{name} gave {type(found).__name__}; logits (R, V), or tokens (R,), would do")
        if found.shape == logits.shape and found.is_floating_point():
            if bool(found.isnan().any()) or bool(found.isneginf().all(dim=-1).any()):
                raise BadValue(f"{name} gave logits that are not numbers, or kept no token; it must keep one at least")
            return found
        if found.shape == logits.shape[:1] and not found.is_floating_point():
            return found
        raise BadType(
            f"{name} gave {str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}; logits {tuple(logits.shape)}, or whole numbers {tuple(logits.shape[:1])}, would do"
        )


def strategy(function: Any) -> Any:
    """Make a function a strategy of its name, for every verb that decodes: `def my_top_p(logits, p=0.9): …`.

    It takes logits, (R, V), and if it likes `ids`, (R, T), and returns logits to draw from (−inf drops a token) or tokens,
    (R,). Its keyword defaults are its options, and the first line of its docstring its help.
    """
    name = own_name(function, "strategy", "a function of logits")
    if name in STRATEGIES and not _is_own(STRATEGIES[name]):
        raise BadValue(
            f"strategy: {name!r} is one of the lab's own; give the function another name, for example my_{name}"
        )
    entry = Entry(name, _Maker(function), first_line(function, "a strategy of your own"), _options(function), DRAWS)
    STRATEGIES.add(entry)
    return function


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes the strategy; a line of the table holds it."""

    function: Callable[..., Any]

    def __call__(self, options: StrategyOptions, filters: Any = ()) -> Own:
        return Own(self.function, options, filters)


def _is_own(entry: Entry) -> bool:
    return isinstance(entry.target, _Maker)


def _options(function: Callable[..., Any]) -> type[StrategyOptions]:
    """The keyword defaults of a function as a class of options."""
    return own_options(function, StrategyOptions, "strategy", "logits", {"ids"})


def check(function: Callable[..., Any], like: str, options: Mapping[str, Any]) -> Listing:
    """Compare a function with one of our strategies on random distributions: how far apart they are at most, and the first
    distribution that they differ on, token by token. Options that both have are the function's, unless told otherwise."""
    entry = STRATEGIES.entry(like)
    kind: Any = _options(function)
    if not issubclass(entry.load() if isinstance(entry.target, str) else Own, Sampler | Greedy):
        known = [
            name
            for name, e in STRATEGIES.items()
            if isinstance(e.target, str) and issubclass(e.load(), Sampler | Greedy)
        ]
        raise BadValue(f"like: {show(like)} looks at more than one distribution at a time; there is: {listing(known)}")
    theirs = {**specs(FilterOptions), **specs(entry.options)}
    told = {name: spec.default for name, spec in specs(kind).items() if name in theirs} | dict(options)
    ours = choose({"strategy": like, **told}).strategy()
    (mine,) = distribute(
        (kind,), {name: value for name, value in told.items() if name in specs(kind)}, function.__name__
    )
    own = Own(function, mine)
    largest, first = 0.0, None
    draw = torch.Generator().manual_seed(0)
    for trial in range(_TRIALS):
        size, spread = int(torch.randint(2, 40, (), generator=draw)), 0.2 + 4 * float(torch.rand((), generator=draw))
        logits, ids = torch.randn(1, size, generator=draw) * spread, torch.randint(size, (1, 6), generator=draw)
        wanted, found = ours.filtered(logits, Past(ids, 0)), own.call(logits, ids)
        wanted = _certain(wanted.argmax(dim=-1), size) if isinstance(ours, Greedy) else wanted.softmax(dim=-1)
        found = found.softmax(dim=-1) if found.ndim == 2 else _certain(found, size)
        apart = float((found - wanted).abs().max())
        largest = max(largest, apart)
        if first is None and apart > _SAME:
            first = trial, logits.softmax(dim=-1)[0], wanted[0], found[0]
    name, words = function.__name__, ", ".join(f"{key}={value!r}" for key, value in told.items())
    rows: list[list[Any]] = []
    if first is not None:
        order = first[1].argsort(descending=True).tolist()
        summed = first[1].sort(descending=True).values.cumsum(dim=0).tolist()
        rows = [
            [
                i + 1,
                round(float(first[1][token]), 5),
                round(summed[i], 5),
                round(float(first[2][token]), 5),
                round(float(first[3][token]), 5),
            ]
            for i, token in enumerate(order[:_SHOWN])
        ]
    return Listing(
        title=f"{name} beside {like}",
        facts=[words, f"{_TRIALS} random distributions", f"largest difference {largest:.2g}"],
        columns=["rank", "probability", "summed", like, name],
        rows=rows,
        caption=f"They differ first on distribution {first[0] + 1}: its tokens from the likeliest on, and the probability that each leaves of it."
        if first is not None
        else "No difference: they leave the same of every distribution.",
        code=f"lab.check({name}, like={like!r})",
    )


def _certain(tokens: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(tokens, size).float()
