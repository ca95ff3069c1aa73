"""How options are declared: once, as the fields of a frozen dataclass; flags, TOML keys, help, completion and Python's
keyword arguments all derive from them.

    @dataclass(frozen=True)
    class TopP(Options):
        p: float = option(0.95, "keep the likeliest tokens whose probabilities sum to p", gt=0, le=1)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import keyword
import math
import types
import typing
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.errors import BadType, BadValue, listing, show, suggestion

REQUIRED = dataclasses.MISSING
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def option(
    default: Any = REQUIRED,
    help: str = "",
    *,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Iterable[str] | Callable[[], Iterable[str]] | None = None,
    example: str = "",
    auto: str = "",
    also: tuple[str, ...] = (),
    usual: tuple[float, float] | None = None,
) -> Any:
    """A dataclass field that is an option.

    `ge, gt, le, lt` bound a number; `choices` are the names allowed (a table, or a function that returns them);
    `unit` and `example` are for help; `auto` says what None stands for ("chosen for the machine"); `also` are the
    names that it goes by elsewhere, for suggestions; `usual` are the ends of its slider, where its limits are not them.
    """
    meta = dict(
        help=help, unit=unit, ge=ge, gt=gt, le=le, lt=lt, choices=choices, example=example, auto=auto, also=also,
        usual=usual,
    )  # fmt: skip
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"option": meta})
    return dataclasses.field(default=default, metadata={"option": meta})


@dataclass(frozen=True)
class Spec:
    """One option as its readers need it: parser, help, completion, widgets."""

    name: str
    type: type  # int, float, bool, str or object (anything)
    default: Any
    optional: bool  # None is allowed
    many: bool  # a list; a comma separates the items on a line
    help: str
    unit: str
    ge: float | None
    gt: float | None
    le: float | None
    lt: float | None
    choices: Any
    example: str
    auto: str
    also: tuple[str, ...]
    usual: tuple[float, float] | None

    @property
    def word(self) -> str:
        """How it is called on a line and in a body: there it may be a word of Python, which no argument's name can be."""
        return next((word for word in self.also if keyword.iskeyword(word)), self.name)

    @property
    def flag(self) -> str:
        return f"--{self.word}"

    def choice_names(self) -> list[str]:
        """The allowed names, or an empty list where any value will do."""
        found = self.choices() if callable(self.choices) else self.choices
        return [str(name) for name in found or ()]

    @property
    def works(self) -> str:
        """What would work, in words: `"a whole number, at least 1"`."""
        if names := self.choice_names():
            return f"one of {listing(names)}"
        words = _WORDS.get(self.type, "a value")
        limits = [
            f"{text} {bound:g}"
            for text, bound in (
                ("at least", self.ge),
                ("above", self.gt),
                ("at most", self.le),
                ("below", self.lt),
            )
            if bound is not None
        ]
        words = ", ".join([words, " and ".join(limits)] if limits else [words])
        return f"{'a list of: ' if self.many else ''}{words}{' (' + self.unit + ')' if self.unit else ''}"

    def show_example(self) -> str:
        """A flag with a value that is accepted."""
        if self.type is bool:
            return self.flag
        value = self.example or next(iter(self.choice_names()), None) or self.default
        if value is None or value is REQUIRED:
            low = self.ge if self.ge is not None else self.gt
            value = {int: int(low or 0) + 1, float: (low or 0.0) + 0.5}.get(self.type, "VALUE")
        return f"{self.flag} {value}"

    def refuse(self, value: Any, why: str = "") -> BadValue:
        """The error for a value that cannot be taken."""
        near = suggestion(value, self.choice_names()) if isinstance(value, str) else ""
        return BadValue(
            f"{self.name}: {show(value)} {why or 'cannot be used'}{near}; "
            f"it takes {self.works}, for example {self.show_example()}"
        )

    def check(self, value: Any) -> Any:
        """The value as the option's type; BadValue or BadType where it is not one, or out of range."""
        if value is None:
            if self.optional:
                return None
            raise self.refuse(value)
        if self.many:
            items = [item.strip() or item for item in value.split(",")] if isinstance(value, str) else value
            if not isinstance(items, Sequence):
                items = [items]  # one thing is a list of one
            return tuple(self._check_one(item) for item in items)
        return self._check_one(value)

    def _check_one(self, value: Any) -> Any:
        value = self._coerce(value)
        if (names := self.choice_names()) and isinstance(value, str) and value not in names:
            raise self.refuse(value, "is unknown")
        if isinstance(value, int | float) and not isinstance(value, bool):
            low = (self.ge is not None and value < self.ge) or (self.gt is not None and value <= self.gt)
            high = (self.le is not None and value > self.le) or (self.lt is not None and value >= self.lt)
            if low or high:
                raise self.refuse(value, "is out of range")
        return value

    def _coerce(self, value: Any) -> Any:
        if self.type is object:
            return value
        if self.type is bool:
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in _TRUTH:
                return _TRUTH[value.lower()]
            raise self.refuse(value)
        if self.type in (int, float):
            return self._number(value)
        if isinstance(value, str):
            return value
        raise self.refuse(value, f"is {type(value).__name__}, not text")

    def _number(self, value: Any) -> int | float:
        if isinstance(value, bool) or not (isinstance(value, int | float | str) or hasattr(value, "__float__")):
            raise self.refuse(value)
        if self.type is int and isinstance(value, str):
            with contextlib.suppress(ValueError):
                return int(value)  # a float between would lose the digits of a large seed
        try:
            number = float(value)
        except (ValueError, TypeError, OverflowError, RuntimeError):
            raise self.refuse(value, "is not a number") from None
        if not math.isfinite(number):
            raise self.refuse(value, "is not a finite number")
        if self.type is float:
            return number
        if number != int(number):
            raise self.refuse(value, "is not a whole number")
        return int(value) if isinstance(value, int) else int(number)


@functools.cache
def specs(cls: Any) -> dict[str, Spec]:
    """The options of a dataclass, by name, in the order written."""
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if "option" not in field.metadata:
            continue
        kind, optional, many = _read_type(hints[field.name])
        default = field.default_factory() if field.default_factory is not REQUIRED else field.default
        found[field.name] = Spec(
            name=field.name,
            type=kind,
            default=default,
            optional=optional or default is None,
            many=many,
            **field.metadata["option"],
        )
    return found


def _read_type(hint: Any) -> tuple[type, bool, bool]:
    """(scalar type, None allowed, is a list) of an annotation such as `int | None` or `tuple[str, ...]`."""
    optional = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        optional = len(rest) < len(typing.get_args(hint))
        hint = rest[0] if len(rest) == 1 else object
    if typing.get_origin(hint) in (tuple, list):
        return typing.get_args(hint)[0], optional, True
    return (hint if hint in _WORDS else object), optional, False


def _class(one: object) -> Any:
    return type(one)  # to mypy, a dataclass's own type is not hashable


@dataclass(frozen=True)
class Options:
    """Base of every set of options: values are checked and coerced on construction."""

    room: ClassVar[str] = ""  # the heading over these options in help

    def __post_init__(self) -> None:
        for name, spec in specs(_class(self)).items():
            object.__setattr__(self, name, spec.check(getattr(self, name)))
        self.validate()

    def validate(self) -> None:
        """Checks that need more than one field; raise BadValue."""

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in specs(_class(self))}


def all_specs(classes: Iterable[Any]) -> dict[str, Spec]:
    """The flat option names of several dataclasses; a name declared twice is our own mistake."""
    found: dict[str, Spec] = {}
    for cls in classes:
        for name, spec in specs(cls).items():
            assert name not in found or found[name] == spec, f"option {name} is declared twice"
            found[name] = spec
    return found


def distribute(classes: Sequence[Any], values: Mapping[str, Any], where: str) -> list[Any]:
    """Flat `values` as one instance of each class. An unknown name is a BadType with the nearest spelling.

    `where` names the verb in messages ("pretrain").
    """
    known = all_specs(classes)
    for name in values:
        if name not in known:
            elsewhere = next((spec.name for spec in known.values() if name in spec.also), None)
            near = f"; here it is called {elsewhere!r}" if elsewhere else suggestion(name, known)
            raise BadType(
                f"{where} has no option {name!r}{near}; "
                + (f"%{where}? lists them all" if near else f"it has: {listing(known) or 'none'}")
            )
    made = []
    for cls in classes:
        given = {name: spec.check(values[name]) for name, spec in specs(cls).items() if name in values}
        missing = [n for n, s in specs(cls).items() if s.default is REQUIRED and n not in given]
        if missing:
            spec = specs(cls)[missing[0]]
            raise BadType(f"{where} needs {spec.name}: {spec.help or spec.works}, for example {spec.show_example()}")
        made.append(cls(**given))
    return made


# --- a user's own function as a plug-in --------------------------------------------------------------------------------

_KINDS = {bool: "bool", int: "int", float: "float", str: "str"}


def own_name(function: Any, what: str, works: str) -> str:
    """The name that a user's function goes by; BadType where it has none."""
    if not callable(function) or not hasattr(function, "__name__"):
        raise BadType(f"{what}: {show(function)} is {type(function).__name__}; {works} would do")
    if not function.__name__.isidentifier():
        raise BadType(
            f"{what}: a function without a name cannot be called by it; use def in place of {function.__name__}"
        )
    return str(function.__name__)


def first_line(function: Callable[..., Any], otherwise: str) -> str:
    """The help of a user's function: the first line of its docstring."""
    return (inspect.getdoc(function) or otherwise).split("\n")[0]


def own_options(function: Callable[..., Any], base: Any, what: str, first: str, taken: Container[str] = ()) -> Any:
    """The keyword defaults of a function as a class of options, a `base`. Its first argument (and those `taken`) are none."""
    fields = []
    leading, *parameters = inspect.signature(function).parameters.values()
    if leading.default is not inspect.Parameter.empty:
        raise BadType(f"{what}: {function.__name__} takes no {first}; its first argument is them, without a default")
    for parameter in parameters:
        if parameter.name in taken:
            continue
        default = parameter.default
        kind = next((kind for kind in _KINDS if type(default) is kind), None)
        if kind is None:
            raise BadType(
                f"{what}: {parameter.name} of {function.__name__} has the default {'none' if default is inspect.Parameter.empty else show(default)}; a number, a text or True or False would do, for example {parameter.name}=0.9"
            )
        fields.append((parameter.name, kind, option(default, f"an option of {function.__name__}")))
    made: Any = dataclasses.make_dataclass(
        function.__name__, fields, bases=(base,), frozen=True, namespace={"__module__": __name__}
    )
    made.room = function.__name__
    return made
