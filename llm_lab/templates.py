"""A text with places for values: `Translate: {{english}}`. It knows neither tables nor models."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_lab.errors import BadType, BadValue, listing, show, suggestion

_SLOT = re.compile(r"(\{\{\{\{)|\{\{([^{}\n]*)\}\}")


@dataclass(frozen=True)
class Slot:
    """A place that a value takes."""

    field: str


@dataclass(frozen=True)
class Template:
    """The text as it was written, and its parts: texts and slots."""

    text: str
    parts: tuple[str | Slot, ...]

    @classmethod
    def read(cls, text: str) -> Template:
        """`{{field}}` is a slot, spaces inside do not count, and `{{{{` stands for two braces. Raises BadValue for a slot
        without a name, and for one that is not closed."""
        if not text.strip():
            raise BadValue('template: it is empty; for example "Translate: {{english}}"')
        parts: list[str | Slot] = []
        at = 0
        for match in _SLOT.finditer(text):
            parts += [_plain(text[at : match.start()])]
            if match[1]:
                parts.append("{{")
            elif match[2].strip():
                parts.append(Slot(match[2].strip()))
            else:
                raise BadValue(f"template: {match[0]} names no field; for example {{{{english}}}}")
            at = match.end()
        return cls(text, tuple(part for part in [*parts, _plain(text[at:])] if part))

    @property
    def fields(self) -> list[str]:
        """The names in its slots, each once."""
        return list(dict.fromkeys(part.field for part in self.parts if isinstance(part, Slot)))

    def fill(self, values: Mapping[str, Any], row: str = "") -> str:
        """The text with values in its slots, each as `str` writes it. Raises BadValue where one is not there; `row` is what
        the values are called then."""
        return "".join(part if isinstance(part, str) else value_of(values, part.field, row) for part in self.parts)

    def check(self, columns: list[str]) -> None:
        """BadValue where a slot names none of the columns."""
        for field in self.fields:
            if field not in columns:
                raise BadValue(
                    f"template: {{{{{field}}}}} is no column{suggestion(field, columns)}; there is: {listing(columns)}"
                )


def value_of(values: Mapping[str, Any], field: str, row: str = "") -> str:
    """A value as text; BadValue where it is missing."""
    if field not in values:
        near = suggestion(field, map(str, values))
        raise BadValue(f"{row or 'values'}: {field} is not there{near}; there is: {listing(values) or 'none'}")
    value = values[field]
    if is_missing(value):
        raise BadValue(
            f"{row or 'values'}: {field} is missing ({show(value)}); fill it in, or drop such rows with df.dropna(subset=[{field!r}])"
        )
    return str(value)


def is_missing(value: object) -> bool:
    """Whether it stands for nothing: None, nan, or what pandas has for it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, numbers.Real) and math.isnan(value)


def row_of(values: Any) -> dict[str, Any]:
    """A dict, or a row of a DataFrame, by the names of its fields."""
    if not (isinstance(values, Mapping) or (hasattr(values, "keys") and hasattr(values, "__getitem__"))):
        raise BadType(
            f'row: {show(values)} is {type(values).__name__}; a dict or a row of a DataFrame would do, for example {{"english": "cat"}}'
        )
    return {str(key): values[key] for key in values.keys()}  # noqa: SIM118  # a Series iterates over its values


def _plain(text: str) -> str:
    if "{{" in text:
        rest = text[text.index("{{") :][:30]
        raise BadValue(
            f"template: the slot {show(rest)} is not closed; write {{{{field}}}}, or {{{{{{{{ for two braces that are text"
        )
    return text
