"""Stories: one derivation a text, exact entropy, and tasks whose truth can be read off the text itself."""

from __future__ import annotations

import hashlib
import math
import random
import re
import statistics
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest

from llm_lab.corpora import stories
from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.open import open_corpus
from llm_lab.corpora.options import STORY_PARTS
from llm_lab.corpora.stories.grammar import Grammar, Rule
from llm_lab.corpora.stories.parts import PARTS
from llm_lab.corpora.stories.rules import RULES, grammar
from llm_lab.corpora.stories.scoring import begins, derivations, expectation, log_prob, undecided
from llm_lab.errors import BadType, BadValue

NUMBERS = dict(zip(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], range(1, 10), strict=True))
WOMEN = {"Anna", "Emma", "Julia", "Lucy", "Nina", "Rosa"}
MEN = {"Adam", "David", "Hugo", "Leo", "Simon", "Victor"}
PLURALS = {"hat": "hats", "book": "books", "knife": "knives", "fish": "fish", "horse": "horses", "pen": "pens"}
PLURALS |= {"shirt": "shirts", "table": "tables", "flower": "flowers", "mouse": "mice", "lamp": "lamps", "car": "cars"}
MASCULINE = dict(hat="chapeau chapeaux", book="livre livres", knife="couteau couteaux", fish="poisson poissons")
MASCULINE |= dict(horse="cheval chevaux", pen="stylo stylos")
FEMININE = dict(shirt="chemise chemises", table="table tables", flower="fleur fleurs", mouse="souris souris")
FEMININE |= dict(lamp="lampe lampes", car="voiture voitures")
FRENCH = dict(
    zip(["un", "une", "deux", "trois", "quatre", "cinq", "six", "sept", "huit"], (1, *range(1, 9)), strict=True)
)
MEASURE = {"帽子": "顶", "书": "本", "刀": "把", "鱼": "条", "马": "匹", "笔": "支", "衬衫": "件", "桌子": "张"}
MEASURE |= {"花": "朵", "老鼠": "只", "灯": "盏", "汽车": "辆"}
THING = "|".join({*PLURALS, *PLURALS.values()})


def sample(part: str, size: int = 60_000) -> Corpus:
    return open_corpus("stories", part=part, size=size, corpus_seed=7)


def small(symbols: dict[str, int]) -> Grammar:
    """The grammar of the stories with fewer words: one of each source but those named."""
    full = grammar()
    sources = {
        name: source if callable(source) else source[: symbols.get(name, 1)] for name, source in full.sources.items()
    }
    return Grammar("Story", RULES, {**sources, "SOME": lambda: range(1, 4), "MORE": lambda: range(1, 3)}, full.forms)


# the grammar


def test_the_next_word_decides_every_choice() -> None:
    assert undecided(grammar()) == set() and undecided(grammar(), "Review") == set()


def test_a_grammar_that_can_be_read_in_two_ways_is_found() -> None:
    def toy(*rules: str) -> Grammar:
        words = {"WORD": ("a", "ab", "a b"), "OTHER": ("x", "y")}
        forms = {"en": {"word": str}}
        return Grammar("S", {"S": [Rule({"en": one}) for one in rules], "T": [Rule({"en": "a."})]}, words, forms)

    assert undecided(toy("a {v=OTHER}.", "b {v=OTHER}.")) == set()
    assert undecided(toy("a {v=OTHER}.", "{T}")) == {"S"}
    assert undecided(toy("a {v=OTHER}.", "a{v=OTHER}.")) == {"S"}
    assert "w" in undecided(toy("a {w=WORD}."))
    twice = toy("a {v=OTHER}.", "a x.")
    assert log_prob(twice, "a x.") == pytest.approx(math.log(0.25 + 0.5))


def test_enumerated_probabilities_sum_to_one_and_give_the_stated_entropy() -> None:
    few = small({"PERSON": 3, "CITY": 2, "THING": 4})
    found = Counter()
    for text, cost in derivations(few):
        assert text not in found, "a text has one derivation"
        found[text] = math.exp(cost)
    stated = expectation(few)
    assert len(found) > 1000 and math.fsum(found.values()) == pytest.approx(1, abs=1e-9)
    assert stated.nats == pytest.approx(-math.fsum(p * math.log(p) for p in found.values()), rel=1e-9)
    assert stated.chars == pytest.approx(math.fsum(p * len(text) for text, p in found.items()), rel=1e-9)
    assert stated.bytes == stated.chars  # the stories are in ASCII
    text = next(iter(found))
    assert log_prob(few, text) == pytest.approx(math.log(found[text]))


def test_the_entropy_of_the_real_grammar_is_what_samples_cost() -> None:
    documents = sample("text", 120_000).documents
    costs = [-stories.log_prob(story) for story in documents]
    error = 1.96 * statistics.stdev(costs) / math.sqrt(len(costs))
    assert abs(statistics.mean(costs) - stories.entropy().nats) < 1.5 * error
    lengths = [len(story) for story in documents]
    error = 1.96 * statistics.stdev(lengths) / math.sqrt(len(lengths))
    assert abs(statistics.mean(lengths) - stories.entropy().chars) < 1.5 * error
    assert stories.cross_entropy(documents) == pytest.approx(sum(costs) / sum(lengths))


def test_log_prob_is_that_of_the_derivation_drawn() -> None:
    rng = random.Random(3)
    for _ in range(50):
        found = grammar().sample(rng)
        text = grammar().text(found, "en")
        assert stories.log_prob(text) == pytest.approx(found.log_prob)
        assert begins(grammar(), text[:40]) and begins(grammar(), text)
    assert stories.log_prob(text + " ") == stories.log_prob("To be, or not to be") == -math.inf
    assert not begins(grammar(), text[:40] + "#")


def test_the_same_stories_everywhere() -> None:
    found = open_corpus("stories", size=5000)
    assert found.fingerprint == open_corpus("stories", size=5000, corpus_seed=0).fingerprint
    assert found.fingerprint != open_corpus("stories", size=5000, corpus_seed=1).fingerprint
    assert found.documents == open_corpus("stories", size=9000).documents[: len(found.documents)]
    code = "from llm_lab.corpora.open import open_corpus; print(open_corpus('stories', size=5000).fingerprint)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == found.fingerprint
    assert hashlib.sha256(found.documents[0].encode()).hexdigest()[:8] == "93c59866", (
        "the first story is for ever the same"
    )


# what the stories say, checked on the text alone


def names(story: str) -> list[str]:
    return re.findall(rf"\b(?:{'|'.join(WOMEN | MEN)})\b", story)


def counted(text: str) -> list[tuple[int, str]]:
    """Every number with the thing, in the singular, that it counts; a thing in the wrong number is an error."""
    found = []
    for number, said in re.findall(rf"\b({'|'.join(NUMBERS)})(?: (?!of)\w+)? ({THING})\b", text):
        forms = {one if number == "one" else many: one for one, many in PLURALS.items()}
        found.append((NUMBERS[number], forms[said]))
    return found


def test_names_pronouns_and_agreement() -> None:
    seen = Counter()
    for story in sample("text").documents:
        hero = names(story)[0]
        assert len(set(names(story))) == 2
        she, her, hers = ("she", "her", "her") if hero in WOMEN else ("he", "him", "his")
        said = re.findall(r"\b(she|he)\b", story.lower())
        assert set(said) <= {she}, story
        assert set(re.findall(r"(?:told|gave) (her|him)\b", story)) <= {her}, story
        assert set(re.findall(r"with (her|his)\b", story)) <= {hers}, story
        n = counted(story)[0][0]
        for them in re.findall(r"(?:showed|found) (it|them)\b", story):
            assert them == ("it" if n == 1 else "them"), story
        for thing, group, inner, outer in re.findall(
            r"The (\w+) that the (\w+) of \w+ (was|were) selling (was|were)", story
        ):
            assert thing in (PLURALS if n == 1 else PLURALS.values())
            assert inner == ("were" if group.endswith("s") else "was") and outer == ("was" if n == 1 else "were"), story
            seen[inner, outer] += 1
        assert len({thing for _, thing in counted(story)}) == 1, story
    assert len(seen) == 4, "every pair of numbers of the subject and the noun beside the verb occurs"


def test_numbers_add_up() -> None:
    seen = Counter()
    for story in sample("text").documents:
        first, _, third, ending = re.split(r"(?<=\.) ", story)
        ((n, _),) = counted(first)
        k, m = (NUMBERS[word] for word in re.findall(rf"\b({'|'.join(NUMBERS)})\b", third))
        kept = "kept" in third
        assert m == (n - k if kept else n + k) and {number for number, _ in counted(ending)} <= {m}, story
        seen[kept] += 1
        if found := re.search(rf"but the \w+ ({THING})\b", ending):
            assert found[1] in (PLURALS if m == 1 else PLURALS.values()), story
    assert min(seen[True], seen[False]) > 50


def test_french_agrees_and_counts_the_same() -> None:
    nouns = {form: thing for thing, both in {**MASCULINE, **FEMININE}.items() for form in both.split()}
    seen = Counter()
    for english, other in zip(*sample("english-french", 200_000).table.values(), strict=True):
        n, thing = counted(english)[0]
        word, noun = re.search(rf"\b({'|'.join(FRENCH)}) ({'|'.join(nouns)})\b", other).groups()
        feminine = thing in FEMININE
        assert (FRENCH[word], nouns[noun]) == (n, thing) and (word == "une") <= feminine, other
        assert noun == {**MASCULINE, **FEMININE}[thing].split()[n > 1], other
        ending = ("e" if feminine else "") + ("s" if n > 1 else "")
        for said, participle in re.findall(r"\b(l'a|les a) (?:montré|trouvé)(e?s?)\b", other):
            assert (said, participle) == ("les a" if n > 1 else "l'a", ending), other
            seen[participle] += 1
        hero = "e" if names(english)[0] in WOMEN else ""
        assert set(re.findall(r"appelé(e?) ", other)) <= {hero}, other
        friend = next(name for name in names(english) if name != names(english)[0])
        assert set(re.findall(r"parti(e?) pour", other)) <= {"e" if friend in WOMEN else ""}, other
        assert not re.search(r"\b(?:de|que|le|la) [AEÉIOUaeéiou]", other), other
    assert set(seen) == {"", "e", "s", "es"}, "every gender and number occurs"


def test_chinese_measures_and_counts_the_same() -> None:
    digits = "一两三四五六七八九"
    seen = set()
    for english, other in zip(*sample("english-chinese").table.values(), strict=True):
        said = re.findall(rf"([{digits}])([{''.join(MEASURE.values())}])(?:\w色的)?({'|'.join(MEASURE)})?", other)
        things = {thing for _, _, thing in said if thing}
        assert len(things) == 1 and {measure for _, measure, _ in said} == {MEASURE[thing] for thing in things}, other
        numbers = [NUMBERS[word] for word in re.findall(rf"\b({'|'.join(NUMBERS)})\b", english)]
        assert [digits.index(digit) + 1 for digit, _, _ in said] == numbers, (english, other)
        seen |= things
        assert ("她" in other) <= (names(english)[0] in WOMEN) and ("他" in other) <= (names(english)[0] in MEN), other
    assert seen == set(MEASURE)


# the tasks


def test_every_part_has_its_columns() -> None:
    assert tuple(PARTS) == STORY_PARTS
    for part in STORY_PARTS:
        found = open_corpus("stories", part=part, size=3000)
        assert found.n_chars >= 3000 and found.n_chars < 4000 and found.name.startswith("stories")
        assert (found.targets is None) == (found.entropy is not None) == (part == "text")
        assert len(found.to_pandas()) == len(found.documents)


def test_pairs_are_next_or_impossible() -> None:
    rows = sample("pairs").to_pandas()
    assert 0.4 < rows["next"].mean() < 0.6
    for row in rows.itertuples():
        assert begins(grammar(), f"{row.first} {row.second}") == row.next


def test_sentiment_is_the_writers() -> None:
    good = {"wonderful", "moving", "funny", "clever", "charming", "brilliant"}
    bad = {"boring", "stupid", "dreadful", "confused", "tiresome", "clumsy"}
    found = sample("sentiment")
    for text, label in zip(found.documents, found.targets, strict=True):
        verdict = re.split(r"\. ", text)[1]
        words = [word for word in re.findall(r"\w+", verdict) if word in good | bad]
        denied = verdict.startswith(("It was not", "Nobody could"))
        assert label == ("positive" if (words[-1] in good) != denied else "negative"), text
    assert set(found.targets) == {"positive", "negative"}


def test_headlines_say_what_happened() -> None:
    for story, headline in zip(*sample("headlines").table.values(), strict=True):
        words = {word.lower() for word in re.findall(r"\w+", headline)} - {
            "to",
            "from",
            "gives",
            "loses",
            "sells",
            "hides",
            "forgets",
        }
        assert headline[0].isupper() and len(headline) < len(story) / 3
        assert {w for w in words if w not in PLURALS and w not in PLURALS.values()} <= set(
            re.findall(r"\w+", story.lower())
        ), (story, headline)


def test_answers_are_spans_of_the_text() -> None:
    rows = sample("questions").to_pandas()
    kinds = Counter()
    for row in rows.itertuples():
        assert row.context[row.start : row.end] == row.answer and row.answer, row
        kinds[row.question.split()[0]] += 1
        if row.question.startswith("How many"):
            used = [NUMBERS[word] for word in re.findall(rf"\b({'|'.join(NUMBERS)})\b", row.context)][:3]
            assert NUMBERS[row.answer] == (used[0] if "at first" in row.question else used[2]), row
        elif row.question.startswith("Which city"):
            assert f"from {row.answer}" in row.context
    assert set(kinds) == {"Who", "Which", "What", "How", "Where"}


def test_tags_name_persons_and_places() -> None:
    found = sample("entities")
    for document, tokens, tags in zip(found.documents, *found.table.values(), strict=True):
        assert re.findall(r"\w+|[^\w\s]", document) == tokens and len(tags) == len(tokens)
        persons = [token for token, tag in zip(tokens, tags, strict=True) if tag.endswith("-PER")]
        assert persons == names(document)
        places = " ".join(token for token, tag in zip(tokens, tags, strict=True) if tag.endswith("-LOC"))
        assert (
            re.sub("New York|Buenos Aires|Paris|London|Rome|Berlin|Madrid|Tokyo", "", places).strip() == "" and places
        )
        assert all(tags[i - 1] == "B-LOC" for i, tag in enumerate(tags) if tag == "I-LOC")
    assert found.targets[0] == " ".join(found.table["tags"][0])


# options, and corpora with targets


def test_options_of_stories_belong_to_stories() -> None:
    with pytest.raises(BadType, match="size is an option of stories, and the corpus is 'python-docs'"):
        open_corpus("python-docs", size=5000)
    with pytest.raises(BadType, match="part is an option of stories, and the corpus is a list"):
        open_corpus(["a"], part="text")
    with pytest.raises(BadValue, match="part: 'pears' is unknown; did you mean 'pairs'"):
        open_corpus("stories", part="pears")
    with pytest.raises(BadType, match="no option 'sise'"):
        open_corpus("stories", sise=1)
    assert open_corpus(["a"], part=None).documents == ("a",)


def test_the_report_says_what_is_known() -> None:
    report = sample("text").report()
    per_byte = stories.entropy().nats / stories.entropy().bytes
    assert report.entropy == per_byte and f"{per_byte:.4f} nats/byte" in report._repr_mimebundle_()["text/plain"]
    pairs = sample("headlines")
    assert pairs.report().entropy is None and f"→ {pairs.targets[len(pairs.targets) // 3]}" in pairs.report().sample


def test_targets_stay_with_their_documents() -> None:
    pairs = Corpus("p", "a test", ["aaaa", "bb", "中"], targets=["1", "2", ""], table={"x": [1, 2, 3]})
    assert (pairs.n_chars, pairs.n_bytes) == (9, 11) and repr(pairs) == "Corpus('p': 3 pairs, 9 characters)"
    train, val = pairs.split(0.9)
    assert (train.documents, train.targets) == (("aaaa", "bb"), ("1", "2"))
    assert (val.documents, val.targets, val.table) == (("中",), ("",), {"x": [3]})
    report = pairs.report(0.9)
    assert (report.train_chars, report.val_chars) == (8, 1)
    assert pairs.fingerprint != Corpus("p", "", pairs.documents, targets=["1", "3", ""]).fingerprint
    assert pairs.fingerprint != Corpus("p", "", ["aaaa", "1", "bb", "2", "中", ""]).fingerprint
    assert Corpus("p", "", ["a", "b"], targets=["c", "d"]).to_pandas().columns.tolist() == ["text", "target"]
    with pytest.raises(BadValue, match="1 for 2 documents"):
        Corpus("p", "", ["a", "b"], targets=["c"])
    with pytest.raises(BadType, match="targets: item 0 is int"):
        Corpus("p", "", ["a"], targets=[1])  # type: ignore[list-item]
    with pytest.raises(BadValue, match="train needs some"):
        Corpus("p", "", ["a"], targets=["b"]).split(0.9999)


def test_pairs_of_a_dataframe() -> None:
    frame = pd.DataFrame({"en": ["one", "two", None, "four"], "fr": ["un", None, "trois", "quatre"], "n": range(4)})
    found = open_corpus(frame, column="en", target="fr")
    assert (found.documents, found.targets) == (
        ("one", "four"),
        ("un", "quatre"),
    ) and "2 missing left out" in found.source
    assert found.to_pandas().to_dict("list") == {"en": ["one", "four"], "fr": ["un", "quatre"]}
    assert open_corpus(frame, target="fr").documents == found.documents
    for target, words in (("fre", "did you mean 'fr'"), ("n", "'n' holds int 0"), ("en", "column of the texts too")):
        with pytest.raises(BadValue, match=words):
            open_corpus(frame, column="en", target=target)
    with pytest.raises(BadValue, match="target: 'x' chooses a column of a DataFrame"):
        open_corpus(["a"], target="x")
