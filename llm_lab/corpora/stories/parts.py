"""The parts of the corpus: running text, and tasks whose truth the derivation of each story holds."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from llm_lab.corpora.stories.grammar import Derivation, Grammar
from llm_lab.corpora.stories.scoring import begins

ENTITIES = {"PERSON": "PER", "CITY": "LOC"}  # the sources whose words are named entities
_PAST = 50  # stories whose sentences stand ready as wrong ones


class Row(NamedTuple):
    """One example: what is read, what is to be said of it (None for running text), and both in columns."""

    document: str
    target: str | None
    columns: dict[str, Any]


def text(grammar: Grammar, rng: random.Random) -> Iterator[Row]:
    while True:
        yield Row(grammar.text(grammar.sample(rng), "en"), None, {})


def translation(language: str, name: str, grammar: Grammar, rng: random.Random) -> Iterator[Row]:
    while True:
        story = grammar.sample(rng)
        english, other = grammar.text(story, "en"), grammar.text(story, language)
        yield Row(english, other, {"english": english, name: other})


def headlines(grammar: Grammar, rng: random.Random) -> Iterator[Row]:
    while True:
        found = grammar.sample(rng)
        story, headline = grammar.text(found, "en"), grammar.text(found, "headline")
        headline = headline[0].upper() + headline[1:]
        yield Row(story, headline, {"story": story, "headline": headline})


def sentiment(grammar: Grammar, rng: random.Random) -> Iterator[Row]:
    """What the writer of a review thinks; others may think otherwise, and words may be denied."""
    while True:
        found = grammar.sample(rng, "Review")
        review = grammar.text(found, "en")
        (label,) = [rule.label for node in found.nodes() if (rule := grammar.rule(node)).label]
        yield Row(review, label, {"text": review, "label": label})


def pairs(grammar: Grammar, rng: random.Random) -> Iterator[Row]:
    """The beginning of a story and its next sentence, or one of another story that cannot follow there."""
    past: list[list[str]] = []
    while True:
        story = re.split(r"(?<=\.) ", grammar.text(grammar.sample(rng), "en"))
        at = 1 + int(rng.random() * (len(story) - 1))
        first, second = " ".join(story[:at]), story[at]
        if past and rng.random() < 0.5:
            others = (past[int(rng.random() * len(past))][at] for _ in range(_PAST))
            second = next((other for other in others if not begins(grammar, f"{first} {other}")), second)
        label = "next" if second == story[at] else "other"
        past = [*past[1 - _PAST :], story]
        yield Row(f"{first}\n{second}", label, {"first": first, "second": second, "next": label == "next"})


def questions(grammar: Grammar, rng: random.Random) -> Iterator[Row]:
    """A question about each story, answered by a stretch of it; `start` and `end` count characters."""
    while True:
        found = grammar.sample(rng)
        story = grammar.text(found, "en")
        asks = [(node, *ask) for node in found.nodes() for ask in grammar.rule(node).asks.items()]
        node, template, variable = asks[int(rng.random() * len(asks))]
        question = grammar.say(template, "en", found.env)
        start = 0
        for piece in grammar.pieces(found, "en"):
            if piece.node is node and piece.slot and variable in piece.slot.arguments:
                break
            start += len(piece.text)
        columns = dict(context=story, question=question, answer=piece.text, start=start, end=start + len(piece.text))
        yield Row(f"{story}\n{question}", piece.text, columns)


def entities(grammar: Grammar, rng: random.Random) -> Iterator[Row]:
    """A tag for each word and sign: B- begins a named person (PER) or place (LOC), I- goes on with it, O is neither."""
    while True:
        found = grammar.sample(rng)
        tokens, tags = [], []
        for piece in grammar.pieces(found, "en"):
            words = re.findall(r"\w+|[^\w\s]", piece.text)
            kind = _entity(grammar, found, piece.slot.arguments, piece.text) if piece.slot else ""
            tokens += words
            tags += [f"{'I' if i else 'B'}-{kind}" if kind else "O" for i in range(len(words))]
        yield Row(grammar.text(found, "en"), " ".join(tags), {"tokens": tokens, "tags": tags})


def _entity(grammar: Grammar, found: Derivation, arguments: tuple[str, ...], said: str) -> str:
    """What a stretch of text names, or nothing: a pronoun stands for a person and is no name."""
    kind = ENTITIES.get(grammar.drawn[arguments[0]].source, "")
    return kind if kind and found.env[arguments[0]].en == said else ""


PARTS: dict[str, Callable[[Grammar, random.Random], Iterator[Row]]] = {
    "text": text,
    "pairs": pairs,
    "sentiment": sentiment,
    "headlines": headlines,
    "questions": questions,
    "entities": entities,
    "english-french": partial(translation, "fr", "french"),
    "english-chinese": partial(translation, "zh", "chinese"),
}
