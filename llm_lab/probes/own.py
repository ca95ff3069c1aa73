"""A user's own probe from one function: what it returns becomes a result that shows itself."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from llm_lab.errors import BadType, BadValue
from llm_lab.options import first_line, own_name, own_options
from llm_lab.probes.options import PROBES, KindOptions
from llm_lab.probes.reading import Reading
from llm_lab.registry import Entry
from llm_lab.results import Heatmap, Listing, Panel, Piece, Result, TokenScores


@dataclasses.dataclass(frozen=True)
class Maker:
    """Calls the function for a reading; a line of the table holds it."""

    function: Callable[..., Any]

    def __call__(self, reading: Reading, options: KindOptions) -> Result:
        return shown(self.call(reading, options), self.function.__name__, reading)

    def call(self, reading: Reading, options: KindOptions) -> Any:
        """What the function returns."""
        texts = reading.texts if len(inspect.signature(self.function).parameters) > len(options.to_dict()) + 1 else ()
        return self.function(reading.lm, *texts, **options.to_dict())


def probe(function: Any) -> Any:
    """Make a function a probe of its name: `def my_probe(lm, text, layer=0): …`.

    Its first arguments are an LM and, where it has a second without a default, a text. It may return a number for each
    token, (T,); a table of numbers, (R, C); a DataFrame, or a dict of numbers; or a Result. Keyword defaults are its
    options, and the first line of its docstring its help.
    """
    name = own_name(function, "probe", "a function of an LM and a text")
    if name in PROBES and not isinstance(PROBES[name].target, Maker):
        raise BadValue(
            f"probe: {name!r} is one of the lab's own; give the function another name, for example my_{name}"
        )
    parameters = list(inspect.signature(function).parameters.values())
    plain = [p.name for p in parameters[1:] if p.default is inspect.Parameter.empty]
    if not parameters or len(plain) > 1:
        raise BadType(f"probe: {name} takes an LM and at most one text; for example def {name}(lm, text, layer=0)")
    options = own_options(function, KindOptions, "probe", "LM", plain)
    options.texts = (len(plain), len(plain))
    PROBES.add(Entry(name, Maker(function), first_line(function, "a probe of your own"), options))
    return function


def shown(found: Any, name: str, reading: Reading) -> Result:
    """What a function returned, as a result."""
    if isinstance(found, Result):
        return found
    if hasattr(found, "to_dict") and hasattr(found, "columns"):  # a DataFrame
        rows = found.reset_index(drop=True)
        return Listing(
            title=reading.name,
            facts=[name],
            columns=[str(column) for column in rows.columns],
            rows=rows.values.tolist(),
        )
    if isinstance(found, Mapping):
        return Listing(
            title=reading.name, facts=[name], columns=["", "value"], rows=[[str(k), v] for k, v in found.items()]
        )
    try:
        values = np.asarray(found.detach().float().cpu() if isinstance(found, Tensor) else found, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadType(
            f"probe: {name} gave {type(found).__name__}; a number, numbers for the tokens (T,), a table (R, C), a DataFrame or a dict would do"
        ) from None
    if values.ndim == 0:
        return Listing(title=reading.name, facts=[name], columns=["", "value"], rows=[[name, float(values)]])
    pieces: list[Piece] = reading.pieces() if reading.texts else []
    if values.ndim == 1 and len(values) == len(pieces):
        return TokenScores(name=reading.name, kind=name, pieces=pieces, scores={name: values.astype(np.float32)})
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2:
        raise BadType(f"probe: {name} gave numbers of shape {values.shape}; (T,) or (R, C) would do")
    rows, columns = values.shape
    panel = Panel(values.astype(np.float32), [str(i) for i in range(rows)], [str(i) for i in range(columns)])
    return Heatmap(name=reading.name, kind=name, panels=[panel])
