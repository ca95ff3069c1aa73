"""JSON values as the dataclasses they were written from; a value of another kind is a ValueError, not a surprise later."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

_T = TypeVar("_T")
_WHOLE = 1 << 53  # beyond it a float no longer holds every whole number


def build(cls: type[_T], value: Any, skip: frozenset[str] = frozenset()) -> _T:
    """An instance of a dataclass from a dict. Keys it does not know, and those in `skip`, are passed by."""
    if not isinstance(value, dict):
        raise ValueError(f"{cls.__name__}: {type(value).__name__} is not a dict")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.name not in skip]  # type: ignore[arg-type]
    try:
        return cls(**{name: _as(hints[name], value[name]) for name in names if name in value})
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


def _as(hint: Any, value: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value)
    if origin in (types.UnionType, typing.Union):  # X | None, or int | float
        if float in args and isinstance(value, float):
            return _number(value)
        return None if value is None else _as(args[0], value)
    if origin is list and isinstance(value, list):
        return [_as(args[0], item) for item in value]
    if origin is tuple and isinstance(value, list) and args[-1] is Ellipsis:
        return tuple(_as(args[0], item) for item in value)
    if origin is tuple and isinstance(value, list) and len(value) == len(args):
        return tuple(_as(one, item) for one, item in zip(args, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _as(args[1], item) for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _WHOLE:
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise ValueError(f"{type(value).__name__} is not {hint}")


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number of too many digits") from None
