"""What a grammar gives away before and after a text is drawn: entropy, probabilities, whether each text is read one way.

All of it concerns the grammar's first language. Probabilities are natural logarithms, in nats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from llm_lab.corpora.stories.grammar import Child, Draw, Env, Grammar, Part, Slot

Stack = tuple[Part, Any] | None  # what is still to be said: a linked list


class Expectation(NamedTuple):
    """Of a random text: its entropy in nats, its characters and its UTF-8 bytes."""

    nats: float
    chars: float
    bytes: float


def _push(parts: Sequence[Part], stack: Stack) -> Stack:
    for part in reversed(parts):
        stack = (part, stack)
    return stack


def _expand(grammar: Grammar, symbol: str, rule: int, stack: Stack) -> Stack:
    return _push(grammar.parts(symbol, rule, grammar.first), stack)


def _draws(grammar: Grammar, draws: Sequence[Draw], env: Env) -> Iterator[tuple[Env, float]]:
    """Every outcome of some draws, with its cost in nats."""
    if not draws:
        yield env, 0.0
        return
    pool = grammar.pool(draws[0], env)
    for value in pool:
        for drawn, cost in _draws(grammar, draws[1:], {**env, draws[0].variable: value}):
            yield drawn, cost + math.log(len(pool))


# from a text to its probability


def derivations(
    grammar: Grammar, keep: Callable[[str], bool] = lambda said: True, start: str = ""
) -> Iterator[tuple[str, float]]:
    """Every derivation as (text, log-probability). Where `keep` refuses the beginning of a text, it is left out."""
    return _walk(grammar, (Child(start or grammar.start, 0), None), "", {}, 0.0, keep)


def _walk(
    grammar: Grammar, stack: Stack, said: str, env: Env, log_prob: float, keep: Callable[[str], bool]
) -> Iterator[tuple[str, float]]:
    if stack is None:
        yield said, log_prob
        return
    part, rest = stack
    if isinstance(part, str):
        if keep(said + part):
            yield from _walk(grammar, rest, said + part, env, log_prob, keep)
    elif isinstance(part, Child):
        for rule, chance in grammar.choices(part.symbol, env):
            below = _expand(grammar, part.symbol, rule, rest)
            yield from _walk(grammar, below, said, env, log_prob + math.log(chance), keep)
    else:
        for drawn, cost in _draws(grammar, part.draws, env):
            now = said + part.say(drawn)
            if keep(now):
                yield from _walk(grammar, rest, now, drawn, log_prob - cost, keep)


def log_prob(grammar: Grammar, text: str) -> float:
    """The log-probability of a text: of all its derivations together; −inf where it has none."""
    found = [log_prob for said, log_prob in derivations(grammar, text.startswith) if said == text]
    return math.log(math.fsum(map(math.exp, found))) if found else -math.inf


def begins(grammar: Grammar, text: str) -> bool:
    """Whether some text of the grammar begins so."""

    def keep(said: str) -> bool:
        return said.startswith(text) or text.startswith(said)

    return any(said.startswith(text) for said, _ in derivations(grammar, keep))


# before any text is drawn


def expectation(grammar: Grammar) -> Expectation:
    """Exact, by recursion over what is still to be said and the numbers drawn so far.

    Words need no recursion. No rule depends on a word, so each draw costs the log of its pool's size; and a word drawn
    from those that are left is, over all texts, as likely to be any of its source.
    """
    known: dict[tuple[Stack, tuple[Any, ...]], Expectation] = {}

    def rest(stack: Stack, numbers: Env) -> Expectation:
        if stack is None:
            return Expectation(0.0, 0.0, 0.0)
        key = (stack, tuple(numbers.items()))
        if key not in known:
            part, after = stack
            known[key] = _mix(
                [
                    (math.exp(-nats), nats + free, said, rest(*next))
                    for nats, free, said, next in _ways(grammar, part, after, numbers)
                ]
            )
        return known[key]

    return rest((Child(grammar.start, 0), None), {})


def _ways(
    grammar: Grammar, part: Part, after: Stack, numbers: Env
) -> Iterator[tuple[float, float, list[str], tuple[Stack, Env]]]:
    """How a text can go on, words aside: cost in nats, the words' cost, what is said (all as likely), what comes next."""
    if isinstance(part, str):
        yield 0.0, 0.0, [part], (after, numbers)
    elif isinstance(part, Child):
        for rule, chance in grammar.choices(part.symbol, numbers):
            yield -math.log(chance), 0.0, [""], (_expand(grammar, part.symbol, rule, after), numbers)
    else:
        words = [draw for draw in part.draws if not callable(grammar.sources[draw.source])]
        free = sum(math.log(len(_words(grammar, draw.variable)) - len(draw.given)) for draw in words)
        for drawn, nats in _draws(grammar, [draw for draw in part.draws if draw not in words], numbers):
            yield nats, free, _sayings(grammar, part, drawn), (after, drawn)


def _words(grammar: Grammar, variable: str) -> Sequence[Any]:
    words = grammar.sources[grammar.drawn[variable].source]
    assert not callable(words)
    return words


def _sayings(grammar: Grammar, slot: Slot, numbers: Env) -> list[str]:
    """What a slot can read, for each value of its word."""
    names = [name for name in dict.fromkeys(slot.arguments) if name not in numbers]
    assert len(names) <= 1, f"{slot}: the mean length of a form of one word is known, not of several"
    return [slot.say({**numbers, name: word}) for name in names for word in _words(grammar, name)] or [
        slot.say(numbers)
    ]


def _mix(found: Sequence[tuple[float, float, list[str], Expectation]]) -> Expectation:
    return Expectation(
        math.fsum(chance * (nats + after.nats) for chance, nats, _, after in found),
        math.fsum(chance * (sum(map(len, said)) / len(said) + after.chars) for chance, _, said, after in found),
        math.fsum(
            chance * (sum(len(one.encode()) for one in said) / len(said) + after.bytes)
            for chance, _, said, after in found
        ),
    )


# whether a text is read one way


def undecided(grammar: Grammar, start: str = "") -> set[str]:
    """The choices that the next word of a text does not decide; where there are none, every text has one derivation.

    Looked at with every number that can occur there, and every word.
    """
    found: set[str] = set()
    seen: set[tuple[Stack, tuple[Any, ...]]] = set()
    todo: list[tuple[Stack, Env]] = [((Child(start or grammar.start, 0), None), {})]
    while todo:
        stack, numbers = todo.pop()
        key = (stack, tuple(numbers.items()))
        if stack is None or key in seen:
            continue
        seen.add(key)
        part, after = stack
        ways = list(_ways(grammar, part, after, numbers))
        todo += [following for *_, following in ways]
        if isinstance(part, Child):
            starts = [_first_words(grammar, *following) for *_, following in ways]
            if any(a & b or "" in a | b for i, a in enumerate(starts) for b in starts[:i]):
                found.add(part.symbol)
        elif isinstance(part, Slot) and part.draws:
            said = [one for _, _, several, _ in ways for one in several]
            clash = any(a != b and re.match(rf"{re.escape(a)}\b", b) for a in said for b in said)
            if clash or len(set(said)) < len(said) or not _apart(after):
                found.add(part.draws[0].variable)
    return found


def _first_words(grammar: Grammar, stack: Stack, numbers: Env) -> set[str]:
    """The first words that what is still to be said can have; "" stands for one that the next part goes on with."""
    assert stack is not None
    part, after = stack
    if isinstance(part, Child):
        return set().union(*[_first_words(grammar, *way[3]) for way in _ways(grammar, part, after, numbers)])
    found = set()
    for _, _, several, _ in _ways(grammar, part, after, numbers):
        for said in several:
            word = re.match(r"\W*\w+", said)
            found.add(word[0] if word and (len(word[0]) < len(said) or _apart(after)) else "")
    return found


def _apart(stack: Stack) -> bool:
    """Whether what comes next does not go on with the word before it."""
    return stack is None or (isinstance(stack[0], str) and not stack[0][0].isalnum())
