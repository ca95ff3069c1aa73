"""The rules of the stories: what is said, in which order, and how likely; how words change stands in `forms`.

At each choice the next word decides which way was taken (`tests/corpora/test_stories.py` checks it), so every story has
exactly one derivation, and its probability is the product of that derivation's choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from llm_lab.corpora.stories import lexicon
from llm_lab.corpora.stories.forms import CHINESE, ENGLISH, FRENCH
from llm_lab.corpora.stories.grammar import Grammar, Rule, Source

MOST = 5  # things that a story begins with
MORE = 3  # things that somebody may add

SOURCES: dict[str, Source] = {
    **{name: words for name, words in vars(lexicon).items() if name.isupper()},
    "SOME": lambda: range(1, MOST + 1),
    "FEWER": lambda n: range(1, n),
    "MORE": lambda: range(1, MORE + 1),
    "MINUS": lambda n, k: (n - k,),
    "PLUS": lambda n, k: (n + k,),
}


def _rule(
    en: str,
    fr: str = "",
    zh: str = "",
    headline: str = "",
    *,
    weight: float = 1.0,
    when: tuple[str, Callable[[int], bool]] | None = None,
    asks: Mapping[str, str] | None = None,
    label: str = "",
) -> Rule:
    return Rule({"en": en, "fr": fr, "zh": zh, "headline": headline}, weight, when, asks or {}, label)


_GOT_ASKS = {
    "Who {got} {number n} {colour} {noun thing n}?": "hero",
    "Which city was {hero} from?": "city",
    "What colour {was n} the {noun thing n}?": "colour",
    "How many {nouns thing} did {hero} have at first?": "n",
    "What was the job of {hero}?": "job",
}
RULES = {
    "Story": [
        _rule(
            "{Intro} {Aside} {Event} {Ending}",
            "{Intro} {Aside} {Event} {Ending}",
            "{Intro}{Aside}{Event}{Ending}",
            "{Event}",
        )
    ],
    "Intro": [
        _rule(
            "{day=DAY} the {job=JOB} {hero=PERSON} from {city=CITY} {got=GOT} {number n=SOME} {colour=COLOUR} {noun thing=THING n}.",
            "{day}, {the_trade job hero} {hero} de {city} a {got} {number n thing} {noun thing n} {agree colour thing n}.",
            "{day}，{city}的{job}{hero}{got}了{count n thing}{colour}的{thing}。",
            asks=_GOT_ASKS,
        ),
        _rule(
            "A {job=JOB} from {city=CITY} called {hero=PERSON} {got=GOT} {number n=SOME} {colour=COLOUR} {noun thing=THING n} {low day=DAY}.",
            "{A_trade job hero} de {city} appelé{e hero} {hero} a {got} {number n thing} {noun thing n} {agree colour thing n} {low day}.",
            "一位来自{city}、名叫{hero}的{job}{day}{got}了{count n thing}{colour}的{thing}。",
            asks=_GOT_ASKS,
        ),
    ],
    "Aside": [
        _rule(
            "The {noun thing n} that the {group=GROUP} of {friend=PERSON:hero} {was group} selling {was n} {quality=QUALITY}.",
            "{The thing n} que {group} {de friend} {vendait group} {était n} {agree quality thing n}.",
            "{friend}的{group}在卖的{those n thing}{thing}很{quality}。",
        ),
        _rule(
            "{She hero} showed {them n} to {friend=PERSON:hero}, who found {them n} {quality=QUALITY}.",
            "{Elle hero} {l_a n} montré{e thing n} à {friend}, qui {l_a n} trouvé{e thing n} {agree quality thing n}.",
            "{she hero}把{them n}给{friend}看，{friend}觉得{them n}很{quality}。",
            asks={"Who found the {noun thing n} {quality}?": "friend"},
        ),
        _rule(
            "{friend=PERSON:hero} told {her hero} that the {colour} {noun thing n} {was n} {quality=QUALITY}.",
            "{friend} lui a dit que {the thing n} {agree colour thing n} {était n} {agree quality thing n}.",
            "{friend}对{she hero}说，{colour}的{thing}很{quality}。",
            asks={"Who found the {noun thing n} {quality}?": "friend"},
        ),
    ],
    "Event": [_rule("{then=THEN} {Change}.", "{then} {Change}.", "{then}{Change}。", "{Change}")],
    "Change": [
        _rule("{she hero} {Loss}", "{elle hero} {Loss}", "{she hero}{Loss}", "{Loss}", when=("n", lambda n: n > 1)),
        _rule(
            "{friend} gave {her hero} {number k=MORE} more, which made {number m=PLUS:n,k}",
            "{friend} lui en a donné {number k thing} de plus, ce qui faisait {number m thing}",
            "{friend}又给了{she hero}{count k thing}，一共{count m thing}",
            "{friend} gives {number k} {noun thing k} to {job} from {city}",
            asks={
                "How many {nouns thing} were there in the end?": "m",
                "Who gave {number k} {noun thing k} to {hero}?": "friend",
            },
        ),
    ],
    "Loss": [
        _rule(
            "gave {friend} {number k=FEWER:n} and kept {number m=MINUS:n,k}",
            "en a donné {number k thing} à {friend} et en a gardé {number m thing}",
            "给了{friend}{count k thing}，留下{count m thing}",
            "{Word job} from {city} gives {friend} {number k} {noun thing k}",
            asks={"How many {nouns thing} did {hero} keep?": "m"},
        ),
        _rule(
            "{lost=LOST} {number k=FEWER:n} and kept {number m=MINUS:n,k}",
            "en a {lost} {number k thing} et en a gardé {number m thing}",
            "{lost}了{count k thing}，留下{count m thing}",
            "{Word job} from {city} {now lost} {number k} {noun thing k}",
            asks={"How many {nouns thing} did {hero} keep?": "m"},
        ),
    ],
    "Ending": [
        _rule(
            "{friend} left for {away=CITY:city}, but the {colour} {noun thing m} stayed with {hero}.",
            "{friend} est parti{e friend} pour {away}, mais {the thing m} {agree colour thing m} {est m} resté{e thing m} avec {hero}.",
            "{friend}去了{away}，但是{colour}的{thing}留在了{hero}那里。",
            asks={"Where did {friend} go?": "away"},
        ),
        _rule(
            "So {hero} was {feeling=FEELING} because {reason=REASON}.",
            "Alors {hero} était {agree feeling hero} car {reason}.",
            "于是，因为{reason}，{hero}很{feeling}。",
        ),
        _rule(
            "At last {hero} was {feeling=FEELING} with {hers hero} {number m} {noun thing m}.",
            "Enfin {hero} était {agree feeling hero} avec {owned thing m}.",
            "最后，{hero}带着{she hero}的{count m thing}{thing}，很{feeling}。",
        ),
    ],
    "Review": [
        _rule("{friend=PERSON} took me to a {work=WORK} by a {job=JOB} from {city=CITY}. {Verdict}"),
        _rule("I know a {work=WORK} about a {job=JOB} from {city=CITY} called {friend=PERSON}. {Verdict}"),
    ],
    "Verdict": [
        _rule("It was not {Denied} at all."),
        _rule("Nobody could call it {Denied}, and {reason=REASON}."),
        _rule("{friend} {Contrast}."),
        _rule("My {group=GROUP} {Contrast}."),
        _rule("Never have I seen anything so {Plain}."),
        _rule("The {work} was {Plain}, and {reason=REASON}."),
    ],
    "Denied": [_rule("{bad=BAD}", label="positive"), _rule("{good=GOOD}", label="negative")],
    "Plain": [_rule("{good=GOOD}", label="positive"), _rule("{bad=BAD}", label="negative")],
    "Contrast": [
        _rule("found it {bad=BAD}, but I thought it was {good=GOOD}", label="positive"),
        _rule("called it {good=GOOD}, but I thought it was {bad=BAD}", label="negative"),
        _rule("had expected something {bad=BAD}, but it was {good=GOOD}", label="positive"),
        _rule("wanted something {good=GOOD}, but it was {bad=BAD}", label="negative"),
    ],
}


@cache
def grammar() -> Grammar:
    """The grammar of the stories; English draws, the others render what was drawn."""
    return Grammar("Story", RULES, SOURCES, {"en": ENGLISH, "fr": FRENCH, "zh": CHINESE, "headline": ENGLISH})
