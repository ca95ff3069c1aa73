"""Jinja as chat templates have it: what transformers gives them, in a sandbox with limits. It knows no tokens.

Templates come with published models and are not trusted. Loops and macros end after some seconds, and numbers, texts and
lists that grow past a size are refused: before they are made by an operator or a repetition, after that elsewhere. Widths
in a format and replacing within a text are not foreseen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

SECONDS = 5.0  # that a rendering may take
LARGEST = 10_000_000  # characters, items, bits of a whole number


class Jinja:
    """A template that was read. Making and rendering it raise whatever a template may: errors of jinja2, and any other."""

    def __init__(self, source: str) -> None:
        self._room = _Room()
        tree = _Watched().visit(self._room.parse(source)).set_environment(self._room)
        self._made = self._room.from_string(tree)

    def render(self, **given: Any) -> str:
        self._room.until = time.monotonic() + SECONDS
        parts, size = list[str](), 0
        for part in self._made.generate(**given):
            parts.append(part)
            size += len(part)
            _check(size)
        return "".join(parts)


class _Room(ImmutableSandboxedEnvironment):
    """Blocks stand without the lines that they are on; names and filters are those of transformers."""

    intercepted_binops = frozenset(["+", "*", "**"])
    until = 0.0  # by the clock

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"], cache_size=0
        )
        self.filters = {name: _measured(function) for name, function in {**self.filters, "tojson": _json}.items()}
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": _Namespace}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _check(_size(left) + _size(right))
        elif isinstance(left, int) and isinstance(right, int):
            _check(_size(left) * right if operator == "**" else _size(left) + _size(right))
        elif operator == "*":
            times = right if isinstance(right, int) else left if isinstance(left, int) else 0
            _check(times * max(_size(one) for one in (left, right) if one is not times))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # `self` is a template's
        _check_numbers(args, kwargs)
        found = super().call(__context, __obj, *args, **kwargs)
        _check(_size(found))
        return found

    def tick(self) -> str:
        """What every turn of a loop and every macro begins with."""
        if time.monotonic() > self.until:
            raise TemplateError(f"it takes more than {SECONDS:g} seconds")
        return ""

    def joined(self, *parts: Any) -> str:
        """What `~` does."""
        texts = [str(part) for part in parts]
        _check(sum(map(len, texts)))
        return "".join(texts)


class _Watched(NodeTransformer):
    """A template's tree in which loops and macros ask for the time, and texts are measured before they are joined."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._ticking(node)

    def _ticking(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_called("tick", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _called("joined", node.nodes, node.lineno)


def _called(name: str, given: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name, lineno=line), given, [], None, None, lineno=line)


class _Generation(Extension):
    """`{% generation %}` around what an assistant says: a mark for training, of which nothing is written."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(Namespace):
    """Without names that begin with `_`, which could pass for Python's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in dict(*args, **kwargs):
            _check_name(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace has no {name!r}; a name without _ before it would do")


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(why: str) -> None:
    raise TemplateError(why)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _measured(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        _check_numbers(args, kwargs)
        found = function(*args, **kwargs)
        _check(_size(found))
        return found

    return measured


def _check_numbers(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """A large number is a width, or a count."""
    for one in (*args, *kwargs.values()):
        if isinstance(one, int):
            _check(one)


def _size(value: Any) -> int:
    if isinstance(value, int):
        return value.bit_length()
    return len(value) if isinstance(value, str | list | tuple) else 0


def _check(size: int) -> None:
    if size > LARGEST:
        raise TemplateError(f"it makes something larger than {LARGEST:,} characters")
