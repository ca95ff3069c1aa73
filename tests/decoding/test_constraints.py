"""Texts are what they must be, within their tokens, whatever the model would rather write."""

from __future__ import annotations

import json
import re

import pytest
import torch

import llm_lab as lab
from llm_lab.decoding.choosing import choose
from llm_lab.decoding.constraints import constraint
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import ConstraintOptions
from llm_lab.decoding.rows import Rows
from llm_lab.models.decoder import Decoder
from llm_lab.models.options import ModelConfig
from llm_lab.options import distribute
from tests.small import CHINESE, TEXT, train

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "très"]}, "maxItems": 3},
        "alive": {"type": "boolean"},
    },
    "required": ["name", "age", "alive"],
}


@pytest.fixture(scope="module")
def tokenizers():
    printable = "".join(map(chr, range(32, 127))) + "très 明月é\n"
    made = {"char": lab.tokenizer([printable * 3], kind="char")}
    for kind in ("byte", "bpe", "unigram"):
        size = {} if kind == "byte" else {"vocab_size": 420}
        made[kind] = lab.tokenizer([printable * 3 + TEXT + CHINESE], kind=kind, **size)
    return made


def texts(tokenizer, n, budget, ends, **options):
    """n texts of an untrained model."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, d_model=16, max_seq_len=64, zero_init=False
    )
    model, stop = Decoder(config).eval(), [tokenizer.specials["eos"]] if ends else []
    choice = choose({"strategy": "temperature", **options})
    must = constraint(choice.constraint, tokenizer, budget, stop, model.vocab_size)
    made = choice.strategy(must)
    rows = Rows(model, torch.full((n, 1), tokenizer.start), budget, tokenizer.special_ids, stop)
    for _ in decode(rows, made, torch.Generator().manual_seed(0), must.ended):
        pass
    return [tokenizer.decode(rows.text(row).ids) for row in range(n)]


PATTERNS = [
    (r"[0-9]{3}-[0-9]{2,20}", 12),
    (r"(yes|no|maybe)( indeed)*!", 20),
    (r"[a-z]+@[a-z]+\.(org|com)", 14),
    ("明月+é?", 9),
    (r".*", 5),
]


@pytest.mark.parametrize("kind", ["char", "byte", "bpe", "unigram"])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(("pattern", "budget"), PATTERNS)
def test_a_thousand_texts_match_their_expression(tokenizers, kind, ends, pattern, budget):
    found = texts(tokenizers[kind], 1000, budget, ends, regex=pattern)
    assert all(re.fullmatch(pattern, text, re.S) for text in found)
    assert len(set(found)) > 1


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_thousand_texts_parse_under_their_schema(tokenizers, kind):
    for text in texts(tokenizers[kind], 1000, 90, False, json_schema=SCHEMA):
        found = json.loads(text)
        assert isinstance(found["name"], str) and len(found["name"]) <= 12
        assert type(found["age"]) is int and type(found["alive"]) is bool
        assert set(found.get("tags", [])) <= {"red", "green", "très"}


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
@pytest.mark.parametrize("words", [("rat", "brat", "at"), ("明月", "aa", "aaa"), ("green bottles",)])
def test_a_thousand_texts_hold_their_words(tokenizers, kind, words):
    tokenizer = tokenizers[kind]
    budget = sum(len(tokenizer.encode(word)) for word in words) + 2
    found = texts(tokenizer, 1000, budget, True, must=words)
    assert all(all(word in text for word in words) for text in found)
    assert len(set(found)) > 100


def test_filters_and_searches_keep_to_it(tokenizers):
    for options in (
        dict(strategy="beam", num_beams=4, n=1),
        dict(strategy="top_k", k=1, no_repeat_ngram_size=1),
        dict(strategy="greedy"),
    ):
        choice = choose({**options, "regex": "(ab){4}"})
        tokenizer = tokenizers["char"]
        config = ModelConfig(vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, d_model=16, max_seq_len=32)
        must = constraint(choice.constraint, tokenizer, 12, [], config.vocab_size)
        made, model = choice.strategy(must), Decoder(config).eval()
        rows = Rows(model, torch.full((made.rows(1), 1), tokenizer.start), 12)
        for _ in decode(rows, made, torch.Generator(), must.ended):
            pass
        assert tokenizer.decode(made.texts(rows, 1)[0].ids) == "abababab"


def test_what_cannot_be_met_says_so(tokenizers):
    tokenizer = tokenizers["char"]

    def ask(budget, options):
        (asked,) = distribute((ConstraintOptions,), options, "generate")
        constraint(asked, tokenizer, budget, [], tokenizer.vocab_size)

    def refused(budget, **options):
        with pytest.raises(lab.LabError) as error:
            ask(budget, options)
        return str(error.value)

    assert "its shortest text takes 30 tokens, and max_new_tokens is 10; use --max_new_tokens 30" in refused(
        10, regex="[0-9]{30}"
    )
    assert "regex: 'Ω" in refused(10, regex="Ω+")
    assert "regex: 'a('" in refused(10, regex="a(")
    assert "the texts take 6 tokens, and max_new_tokens is 5" in refused(5, must="abc,def")
    assert "cannot write 'Ω'" in refused(5, must="Ω")
    assert "json_schema: '{' is not JSON" in refused(5, json_schema="{")
    assert "json_schema: [1] is list" in refused(5, json_schema=[1])
    assert "regex is given too" in refused(5, regex="a", must="b")
    words = lab.tokenizer([TEXT], kind="wordpiece", vocab_size=300)
    with pytest.raises(lab.LabError, match="depends on where it stands; a model with a char"):
        constraint(ConstraintOptions(regex="a"), words, 5, [], words.vocab_size)


def test_users_ask_by_a_word():
    lm = train("tiny", steps=30)
    found = lab.generate(lm, "1 green", must=[" of them", " wall, and"], max_new_tokens=20, seed=0)
    assert " of them" in found.text and " wall, and" in found.text
    found = lab.generate(lm, "1 green ", regex="(bottles|walls){2} [0-9]+", max_new_tokens=25, n=4, seed=0)
    assert all(re.fullmatch(r"1 green (bottles|walls){2} [0-9]+", text) for text in found.texts)
    assert found.options["regex"] == "(bottles|walls){2} [0-9]+"
    found = lab.generate(lm, "1 green ", stop="of,bottle", max_new_tokens=60, n=4, seed=0)
    assert all(
        re.search("(of|bottle)$", text) or len(one) == 60 for text, one in zip(found.texts, found.tokens, strict=True)
    )
    found = lab.generate(lm, "1 green ", bad_words="bottle, w", max_new_tokens=60, n=4, seed=0)
    assert not any("bottle" in text or " w" in text for text in found.texts)
