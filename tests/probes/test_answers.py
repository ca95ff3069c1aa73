"""Which prediction a probe asks for."""

from __future__ import annotations

import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.answers import Answer, answer, ask
from llm_lab.probes.options import AnswerOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Piece
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train

TOKENIZER = train(["abcdefg "], "char")


def reading(*texts: str, shape: str = "decoder", objective: str = "clm") -> Reading:
    torch.manual_seed(0)
    config = ModelConfig(
        shape=shape, vocab_size=TOKENIZER.vocab_size + 3, n_layer=1, n_head=2, d_model=8, max_seq_len=9
    )
    return Reading((LM("m", SHAPES.load(shape)(config).eval(), TOKENIZER, info={"objective": objective}),), texts)


def test_where_the_answer_is():
    asked = ask(reading("abcd"), AnswerOptions())
    assert asked.position == 3 and [piece.text for piece in asked.pieces] == list("abcd")
    assert ask(reading("abcd"), AnswerOptions(position=-3)).position == 1
    filled = ask(reading("ab<mask>d<mask>", shape="encoder", objective="mlm"), AnswerOptions())
    assert filled.position == 2 and filled.batch.attend.causal is False
    assert filled.batch.input_ids[0, 2] == filled.batch.input_ids[0, 4] == TOKENIZER.special("mask")
    assert len(ask(reading("<mask>"), AnswerOptions()).pieces) == 6  # to a decoder it is six characters
    two = ask(reading("abcd", shape="encoder_decoder", objective="span_corruption"), AnswerOptions())
    assert two.position == 0 and len(two.pieces) == 4
    with pytest.raises(lab.LabError, match=r"^text: .*write <mask> where the answer is"):
        ask(reading("abcd", shape="encoder", objective="mlm"), AnswerOptions())
    with pytest.raises(lab.LabError, match=r"^position: 4 is not in the text, which has 4 tokens; use -4 to 3"):
        ask(reading("abcd"), AnswerOptions(position=4))


def test_which_tokens_are_asked_for():
    one = reading("abcd")
    a, b, c = (TOKENIZER.encode(x)[0] for x in "abc")
    logits, corrupted = torch.zeros(2, TOKENIZER.vocab_size + 3)
    logits[[a, b]], corrupted[[a, c]] = torch.tensor([3.0, 2.0]), torch.tensor([3.0, 2.5])
    logits[-1] = corrupted[TOKENIZER.special("mask")] = 9.0  # no text has them
    found = answer(one, AnswerOptions(), logits)
    assert found.target.id == a and found.other is None
    assert found.logit_difference(logits[None]).tolist() == [3.0]
    found = answer(one, AnswerOptions(), logits, corrupted)
    assert (found.target.id, found.other.id) == (a, c)
    assert found.logit_difference(torch.stack([logits, corrupted])).tolist() == [3.0, 0.5]
    torch.testing.assert_close(found.log_probability(logits).exp(), logits.softmax(0)[a])
    assert answer(one, AnswerOptions(other="a"), logits, corrupted).target.id == b
    assert answer(one, AnswerOptions(target="b"), logits, corrupted).other.id == a
    for options, says in (
        ({"target": "ab"}, r"^target: 'ab' is 2 tokens \('a', 'b'\), and an answer is one; its first, 'a', would do"),
        ({"other": "é"}, "^other: 'é' is no token of this char tokenizer"),
        ({"target": ""}, "^target: '' is no token"),
        ({"target": "a", "other": "a"}, "^other: 'a' is the target too"),
    ):
        with pytest.raises(lab.LabError, match=says):
            answer(one, AnswerOptions(**options), logits)


def test_a_model_without_a_vocabulary_is_refused():
    config = ModelConfig(
        shape="encoder", vocab_size=TOKENIZER.vocab_size, n_layer=1, n_head=2, d_model=8, output="none"
    )
    vectors = Reading((LM("vectors", SHAPES.load("encoder")(config), TOKENIZER, info={"objective": "mlm"}),), ("ab",))
    with pytest.raises(lab.LabError, match=r"^vectors predicts no tokens"):
        ask(vectors, AnswerOptions())


def test_it_is_named_with_its_spaces():
    assert Answer(Piece(" a", 1), Piece("b", 2)).quantity == "logit of “ a” − “b”"
