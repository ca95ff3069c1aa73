"""Neighbours and analogies: against a plain loop, on vectors made for it, and how they show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llm_lab.baselines.skipgram import SkipGram
from llm_lab.errors import BadValue
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.options import PROBES, NeighboursOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Neighbours
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train
from tests.views import fakes
from tests.views.test_pages import Page

TEXT = "the king and the queen met a man and a woman , the king left , the queen left . " * 30


def look(kind: str, text: str, tokenizer_kind: str = "wordpiece", shape: str = "skipgram", table=None) -> Neighbours:
    tokenizer = train([TEXT], tokenizer_kind)
    torch.manual_seed(0)
    model = SHAPES.load(shape)(ModelConfig(shape=shape, vocab_size=tokenizer.vocab_size, d_model=8, n_head=1))
    if table is not None:
        with torch.no_grad():
            for word, vector in table.items():
                model.embedding_table()[tokenizer.encode(word)[0]] = torch.tensor([*vector, *[0.0] * 6])
    return PROBES.load(kind)(Reading((LM("vec", model, tokenizer),), (text,)), PROBES[kind].options())


@pytest.mark.parametrize("shape", ["skipgram", "lstm", "conv"])
def test_neighbours_equal_a_plain_loop(shape):
    found = look("neighbours", "king queen king", shape=shape)
    tokenizer = train([TEXT], "wordpiece")
    torch.manual_seed(0)
    model = SHAPES.load(shape)(ModelConfig(shape=shape, vocab_size=tokenizer.vocab_size, d_model=8, n_head=1))
    table = model.embedding_table().detach().double().numpy()
    assert found.asked == ["king", "queen"]
    for word, near, values in zip(found.asked, found.pieces, found.similarity, strict=True):
        own = tokenizer.encode(word)[0]
        cosines = {
            i: float(table[own] @ table[i] / math.sqrt(table[own] @ table[own]) / math.sqrt(table[i] @ table[i]))
            for i in range(tokenizer.vocab_size)
            if i != own and i not in tokenizer.special_ids
        }
        wanted = sorted(cosines, key=lambda i: -cosines[i])[:10]
        assert [piece.id for piece in near] == wanted
        np.testing.assert_allclose(values, [cosines[i] for i in wanted], atol=1e-5)
    assert found.numpy().shape == tuple(found.tensor.shape) == (2, 10)
    assert list(found.to_pandas().columns) == ["asked", "rank", "token", "id", "similarity"]


ROYAL = {"man": (1, 0), "woman": (1, 1), "king": (3, 0.1), "queen": (3, 2.4), "left": (3, 2.0), "the": (-1, 0.2)}


def test_analogies_are_of_unit_vectors_without_the_three():
    found = look("analogies", "man king woman man woman king", table=ROYAL)
    assert found.asked == ["king − man + woman", "woman − man + king"]
    assert not {"man", "king", "woman"} & {piece.text for row in found.pieces for piece in row}
    unit = {word: np.array(vector) / np.hypot(*vector) for word, vector in ROYAL.items()}
    wanted = unit["king"] - unit["man"] + unit["woman"]
    wanted /= np.hypot(*wanted)
    near = {piece.text: value for piece, value in zip(found.pieces[0], found.similarity[0], strict=True)}
    best = max(("queen", "left", "the"), key=lambda word: wanted @ unit[word])
    assert found.pieces[0][0].text == best
    for word in ("queen", "left"):
        assert near[word] == pytest.approx(wanted @ unit[word], abs=1e-5)
    # Without unit length the longer vectors of king and queen would tip the sum the other way.
    raw = np.array(ROYAL["king"]) - ROYAL["man"] + ROYAL["woman"]
    assert abs(raw @ unit["queen"] / np.hypot(*raw) - near["queen"]) > 1e-3


def test_tokens_that_were_never_read_are_left_out():
    tokenizer = train([TEXT], "wordpiece")
    model = SkipGram(ModelConfig(shape="skipgram", vocab_size=tokenizer.vocab_size))
    seen = tokenizer.encode("king queen man")
    model.counts[seen] = 3
    found = PROBES.load("neighbours")(Reading((LM("vec", model, tokenizer),), ("king",)), NeighboursOptions())
    assert {piece.text for piece in found.pieces[0]} == {"queen", "man"}
    assert f"{len(tokenizer.text_ids) - 3} tokens that the training text does not have" in str(found)


@pytest.mark.parametrize("kind", ["neighbours", "analogies"])
def test_several_models_side_by_side(kind):
    tokenizer, lms = train([TEXT], "wordpiece"), []
    for seed, width in ((0, 8), (1, 12)):
        torch.manual_seed(seed)
        config = ModelConfig(shape="skipgram", vocab_size=tokenizer.vocab_size, d_model=width, n_head=1)
        lms.append(LM(f"v{seed}", SHAPES.load("skipgram")(config), tokenizer))
    words = "king man queen woman left the"
    options = PROBES[kind].options()
    both = PROBES.load(kind)(Reading(tuple(lms), (words,)), options)
    single = [PROBES.load(kind)(Reading((lm,), (words,)), options) for lm in lms]
    assert both.name == "v0, v1"
    assert both.asked == [f"{a} · v{i}" for a in single[0].asked for i in (0, 1)]
    for i, one in enumerate(single):
        np.testing.assert_array_equal(both.numpy()[i::2], one.numpy())


def test_a_word_of_bpe_is_the_token_with_its_space():
    found = look("neighbours", "queen king", "bpe")
    tokenizer = train([TEXT], "bpe")
    assert [len(tokenizer.encode(text)) for text in (" queen", " king")] == [1, 1]
    assert found.asked == ["queen", "king"]
    others = [piece.text for row in found.pieces for piece in row]
    assert " queen" not in [piece.text for piece in found.pieces[0]]
    assert len(others) == 20


def test_letters_of_a_char_tokenizer_have_neighbours():
    assert look("neighbours", "k q", "char").asked == ["k", "q"]


@pytest.mark.parametrize(
    ("kind", "text", "tokenizer", "message"),
    [
        ("neighbours", "king", "char", r"'king' is 4 tokens of this char tokenizer.*single characters; train with --tokenizer wordpiece"),
        ("neighbours", "leftking", "bpe", r"'leftking' is 4 tokens of this bpe tokenizer.*a larger --vocab_size"),
        ("neighbours", "king xyzzy", "wordpiece", r"the word after 'king' is not in the vocabulary of this wordpiece tokenizer"),
        ("analogies", "xyzzy man king woman", "wordpiece", r"the word at its beginning is not in the vocabulary"),
        ("neighbours", "  ", "char", r"no words"),
        ("analogies", "man king", "wordpiece", r"2 words, and an analogy has three"),
        ("analogies", "man", "wordpiece", r"1 word, and an analogy has three"),
    ],
)  # fmt: skip
def test_refusals(kind, text, tokenizer, message):
    with pytest.raises(BadValue, match=message):
        look(kind, text, tokenizer)


def test_only_models_with_vectors():
    model = SHAPES.load("ngram")(ModelConfig(shape="ngram", vocab_size=50))
    with pytest.raises(BadValue, match="NGram has no table of embeddings"):
        model.embedding_table()
    assert PROBES["neighbours"].supports <= SHAPES["skipgram"].supports


def test_shows_itself():
    made = fakes.neighbours()
    text = Page(made._repr_mimebundle_()["text/html"]).text
    for words in ("king", "queen0.812", "␣0.212", "crown−0.0877", "4,096 vectors of 128 numbers", "2 words"):
        assert words in text
    assert "king: queen 0.81, prince 0.51, ␣ 0.21" in str(made)
    made.pieces[1], made.similarity[1] = made.pieces[1][:1], made.similarity[1][:1]
    assert np.isnan(made.numpy()[1, 1:]).all() and made.numpy()[0, 3] == made.similarity[0][3]
    empty = Neighbours(name="v", kind="analogies", asked=["x"], pieces=[[]], similarity=[[]], n_tokens=1, width=1)
    assert "x: none" in str(empty) and "1 analogy" in str(empty)
    many = Neighbours(
        name="v", kind="neighbours", asked=["x"] * 30, pieces=[[]] * 30, similarity=[[]] * 30, n_tokens=1, width=1
    )
    assert "6 more are in .to_pandas()" in str(many)
