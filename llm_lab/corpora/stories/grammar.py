"""A weighted synchronous grammar: one derivation, a text in every language; it does not know what the texts are about.

A rule holds a template for each language. In a template `{Symbol}` stands for another rule, and `{form a b}` prints the
word form `form` of the variables `a` and `b`. In the first language `a=SOURCE:c` draws `a`, all of its source but `c`
equally likely; the other languages print what was drawn, in an order of their own (Lewis & Stearns 1968; Chiang 2005).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Env = dict[str, Any]  # what was drawn: a word (an object with its forms) or a number
Source = Sequence[Any] | Callable[..., Sequence[int]]  # words; or numbers, as a function of other numbers
Form = Callable[..., str]


class Draw(NamedTuple):
    variable: str
    source: str
    given: tuple[str, ...]  # words that cannot be drawn again, or numbers that the source depends on


class Slot(NamedTuple):
    """A place where a word form is printed; its draws come first."""

    form: Form
    arguments: tuple[str, ...]
    draws: tuple[Draw, ...]

    def say(self, env: Env) -> str:
        return self.form(*[env[name] for name in self.arguments])


class Child(NamedTuple):
    """A place where a symbol is expanded: the `nth` of its name in the rule."""

    symbol: str
    nth: int


Part = str | Slot | Child


@dataclass(frozen=True)
class Rule:
    """One way to expand a symbol."""

    texts: Mapping[str, str]  # by language; the first one draws
    weight: float = 1.0
    when: tuple[str, Callable[[int], bool]] | None = None  # a number, and what must hold of it
    asks: Mapping[str, str] = field(default_factory=dict)  # question -> the variable whose mention here answers it
    label: str = ""  # what a text that this rule is used in is labelled


class Node(NamedTuple):
    """A rule that was used, and below it the rules that its symbols were expanded by."""

    rule: int
    symbol: str
    children: dict[tuple[str, int], Node]


class Piece(NamedTuple):
    """A stretch of a rendered text, and where in the derivation it comes from."""

    text: str
    node: Node
    slot: Slot | None


class Derivation(NamedTuple):
    root: Node
    env: Env
    log_prob: float  # nats

    def nodes(self) -> Iterator[Node]:
        """Every rule that was used, from the root down."""
        todo = [self.root]
        while todo:
            node = todo.pop()
            yield node
            todo.extend(node.children.values())


class Grammar:
    """Rules by symbol, sources to draw from, and word forms by language; the first language draws."""

    def __init__(
        self,
        start: str,
        rules: Mapping[str, Sequence[Rule]],
        sources: Mapping[str, Source],
        forms: Mapping[str, Mapping[str, Form]],
    ) -> None:
        self.start, self.rules, self.sources, self.forms = start, rules, sources, forms
        self.first = next(iter(forms))
        self.drawn: dict[str, Draw] = {}  # how each variable is drawn
        self._templates: dict[tuple[str, str], list[Part]] = {}
        self._parts = {
            (language, symbol): [self._compile(rule.texts.get(language, ""), language) for rule in several]
            for language in forms
            for symbol, several in rules.items()
        }
        self._choices: dict[tuple[str, tuple[bool, ...]], list[tuple[int, float]]] = {}
        self._pools: dict[tuple[str, tuple[Any, ...]], Sequence[Any]] = {}

    def _compile(self, template: str, language: str) -> list[Part]:
        parts: list[Part] = []
        seen: dict[str, int] = {}
        for i, piece in enumerate(re.split(r"\{(.*?)\}", template)):
            if i % 2 == 0:
                parts += [piece] if piece else []
            elif piece in self.rules:
                parts.append(Child(piece, seen.get(piece, 0)))
                seen[piece] = seen.get(piece, 0) + 1
            else:
                parts.append(self._slot(piece, language))
        return parts

    def _slot(self, piece: str, language: str) -> Slot:
        name, *arguments = piece.split() if " " in piece else ("word", piece)
        draws = []
        for argument in arguments:
            variable, _, source = argument.partition("=")
            if source:
                source, _, given = source.partition(":")
                draw = Draw(variable, source, tuple(filter(None, given.split(","))))
                draws.append(draw)
                self.drawn[variable] = draw
        forms = self.forms[language]
        form = forms[name] if name in forms else _capital(forms[name.lower()])
        return Slot(form, tuple(argument.partition("=")[0] for argument in arguments), tuple(draws))

    def parts(self, symbol: str, rule: int, language: str) -> list[Part]:
        """What a rule of a symbol says in a language."""
        return self._parts[language, symbol][rule]

    def rule(self, node: Node) -> Rule:
        return self.rules[node.symbol][node.rule]

    # what can be chosen

    def choices(self, symbol: str, env: Env) -> list[tuple[int, float]]:
        """The rules of a symbol that are allowed now, with their probabilities."""
        rules = self.rules[symbol]
        allowed = tuple([rule.when is None or rule.when[1](env[rule.when[0]]) for rule in rules])
        if (found := self._choices.get((symbol, allowed))) is None:
            total = sum(rule.weight for rule, there in zip(rules, allowed, strict=True) if there)
            found = [(i, rule.weight / total) for i, rule in enumerate(rules) if allowed[i]]
            self._choices[symbol, allowed] = found
        return found

    def pool(self, draw: Draw, env: Env) -> Sequence[Any]:
        """What can be drawn now, each as likely as the others."""
        key = (draw.source, tuple([env[name] for name in draw.given]))
        if (found := self._pools.get(key)) is None:
            source = self.sources[draw.source]
            found = source(*key[1]) if callable(source) else [word for word in source if word not in key[1]]
            self._pools[key] = found
        return found

    # from chance to text

    def sample(self, rng: random.Random, start: str | None = None) -> Derivation:
        """One derivation at random. Only `rng.random()` is used, which is the same on every platform and version."""
        env: Env = {}
        log_prob = 0.0

        def expand(symbol: str) -> Node:
            nonlocal log_prob
            choices = self.choices(symbol, env)
            rule = choices[0][0]
            if len(choices) > 1:
                at = rng.random()
                for rule, chance in choices:  # noqa: B007  # the last one stands where rounding leaves a rest
                    at -= chance
                    if at < 0:
                        break
                log_prob += math.log(chance)
            children = {}
            for part in self._parts[self.first, symbol][rule]:
                if isinstance(part, Child):
                    children[part.symbol, part.nth] = expand(part.symbol)
                elif isinstance(part, Slot):
                    for draw in part.draws:
                        pool = self.pool(draw, env)
                        env[draw.variable] = pool[int(rng.random() * len(pool))]
                        log_prob -= math.log(len(pool))
            return Node(rule, symbol, children)

        root = expand(start or self.start)
        return Derivation(root, env, log_prob)

    def pieces(self, found: Derivation, language: str, node: Node | None = None) -> Iterator[Piece]:
        """The text of a derivation in a language, piece by piece."""
        node = node or found.root
        for part in self.parts(node.symbol, node.rule, language):
            if isinstance(part, str):
                yield Piece(part, node, None)
            elif isinstance(part, Slot):
                yield Piece(part.say(found.env), node, part)
            else:
                yield from self.pieces(found, language, node.children[part.symbol, part.nth])

    def text(self, found: Derivation, language: str) -> str:
        """The text of a derivation in a language."""
        said: list[str] = []

        def say(node: Node) -> None:
            for part in self._parts[language, node.symbol][node.rule]:
                if isinstance(part, str):
                    said.append(part)
                elif isinstance(part, Slot):
                    said.append(part.say(found.env))
                else:
                    say(node.children[part.symbol, part.nth])

        say(found.root)
        return "".join(said)

    def say(self, template: str, language: str, env: Env) -> str:
        """A template of its own, without symbols, about what was drawn."""
        if (parts := self._templates.get((language, template))) is None:
            parts = self._templates[language, template] = self._compile(template, language)
        return "".join(
            part if isinstance(part, str) else part.say(env) for part in parts if not isinstance(part, Child)
        )


def _capital(form: Form) -> Form:
    def capital(*arguments: Any) -> str:
        said = form(*arguments)
        return said[:1].upper() + said[1:]

    return capital
