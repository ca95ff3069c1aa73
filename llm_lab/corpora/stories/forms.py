"""How words change in English, French and Chinese: by number, gender and measure; it does not know any sentence.

Each form is a function of words and numbers; a rule's template calls it by name, `{the thing n}`. Capitalised there, it
begins a sentence.
"""

from __future__ import annotations

from llm_lab.corpora.stories.grammar import Form
from llm_lab.corpora.stories.lexicon import Adjective, Group, Job, Person, Thing

EN_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FR_NUMBERS = ("aucun", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf")
ZH_NUMBERS = "零一两三四五六七八九"  # 两, not 二, stands before a measure word


def _lower(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]


def _be(subject: int | Group) -> str:
    """was or were, by a number of things or by a group of people."""
    many = subject.plural if isinstance(subject, Group) else subject != 1
    return "were" if many else "was"


ENGLISH: dict[str, Form] = {
    "word": lambda word: word.en,
    "low": lambda phrase: _lower(phrase.en),
    "now": lambda verb: verb.en_present,
    "number": lambda n: EN_NUMBERS[n],
    "noun": lambda thing, n: thing.en if n == 1 else thing.en_plural,
    "nouns": lambda thing: thing.en_plural,
    "was": _be,
    "them": lambda n: "it" if n == 1 else "them",
    "she": lambda person: "she" if person.female else "he",
    "her": lambda person: "her" if person.female else "him",
    "hers": lambda person: "her" if person.female else "his",
}


def _vowel(word: str) -> bool:
    """Whether an article or a conjunction before it loses its vowel. The h of our names is pronounced like none."""
    return word[0].lower() in "aeiouéèêh"


def _elide(short: str, word: str) -> str:
    return f"{short[:-1]}'{word}" if _vowel(word) else f"{short} {word}"


def _ending(noun: Thing | Person, n: int = 1) -> str:
    """What a participle takes that agrees with a thing or a person: nothing, e, s or es."""
    feminine = noun.female if isinstance(noun, Person) else noun.feminine
    return ("e" if feminine else "") + ("" if n == 1 else "s")


def _agree(adjective: Adjective, noun: Thing | Person, n: int = 1) -> str:
    feminine = noun.female if isinstance(noun, Person) else noun.feminine
    return adjective.fr[feminine + 2 * (n != 1)]


def _fr_noun(thing: Thing, n: int) -> str:
    return thing.fr if n == 1 else thing.fr_plural


def _article(thing: Thing, n: int) -> str:
    return "les" if n != 1 else "la" if thing.feminine else "le"


def _fr_number(n: int, thing: Thing) -> str:
    return "une" if n == 1 and thing.feminine else FR_NUMBERS[n]


def _trade(job: Job, person: Person) -> str:
    return job.fr_feminine if person.female else job.fr


def _the_trade(job: Job, person: Person) -> str:
    return _elide("la" if person.female else "le", _trade(job, person))


def _owned(thing: Thing, n: int) -> str:
    """His or her things, counted; one alone is not."""
    if n == 1:
        return f"{'sa' if thing.feminine else 'son'} {thing.fr}"
    return f"ses {FR_NUMBERS[n]} {thing.fr_plural}"


FRENCH: dict[str, Form] = {
    "word": lambda word: word.fr,
    "low": lambda phrase: _lower(phrase.fr),
    "number": _fr_number,
    "noun": _fr_noun,
    "the": lambda thing, n: f"{_article(thing, n)} {_fr_noun(thing, n)}",
    "agree": _agree,
    "e": _ending,
    "était": lambda n: "était" if n == 1 else "étaient",
    "est": lambda n: "est" if n == 1 else "sont",
    "vendait": lambda group: "vendaient" if group.plural else "vendait",
    "l_a": lambda n: "l'a" if n == 1 else "les a",
    "elle": lambda person: "elle" if person.female else "il",
    "de": lambda person: _elide("de", person.fr),
    "owned": _owned,
    "trade": _trade,
    "the_trade": _the_trade,
    "a_trade": lambda job, person: f"{'une' if person.female else 'un'} {_trade(job, person)}",
}

CHINESE: dict[str, Form] = {
    "word": lambda word: word.zh,
    "count": lambda n, thing: ZH_NUMBERS[n] + thing.measure,
    "those": lambda n, thing: "那" + (thing.measure if n == 1 else "些"),
    "them": lambda n: "它" if n == 1 else "它们",
    "she": lambda person: "她" if person.female else "他",
}
