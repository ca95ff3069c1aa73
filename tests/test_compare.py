"""Strategies side by side: what each wrote is what it writes alone, and the numbers are theirs."""

from __future__ import annotations

import math

import pytest
from IPython.core.interactiveshell import InteractiveShell

import llm_lab as lab
from llm_lab.metrics.diversity import distinct, repetition, self_bleu
from tests.small import train


def test_every_cell_is_what_the_strategy_writes_alone():
    a, b = train("a", steps=40), train("b", steps=20)
    asked = ["greedy", "top_p:p=0.5:temperature=1.5", {"strategy": "beam", "num_beams": 4}]
    found = lab.compare([a, b], ["1 green", "7 of"], asked, max_new_tokens=20, n=2, seed=3, repetition_penalty=1.3)
    assert len(found.cells) == 12 and found.done
    assert found.strategies == ["greedy", "top_p:p=0.5:temperature=1.5", "beam:num_beams=4"]
    cell = next(c for c in found.cells if (c.model, c.strategy, c.prompt) == ("b", "top_p:p=0.5:temperature=1.5", 1))
    alone = lab.generate(b, "7 of", p=0.5, temperature=1.5, max_new_tokens=20, n=2, seed=3, repetition_penalty=1.3)
    assert ["7 of" + text for text in cell.texts] == alone.texts
    logprobs = [x for sample in alone.logprob for x in sample]
    assert cell.logprob == pytest.approx(sum(logprobs) / 40)
    assert cell.entropy == pytest.approx(sum(float(s.entropy.sum()) for s in alone.statistics) / 40)
    assert cell.distinct_2 == distinct(alone.tokens, 2)
    assert cell.options == alone.options
    frame = found.to_pandas()
    assert len(frame) == 24 and set(frame["prompt"]) == {"1 green", "7 of"}
    assert {c.model for c in found["greedy"]} == {"a", "b"}


def test_an_option_that_a_strategy_has_no_use_for_is_left_out_and_said():
    lm = train("a")
    found = lab.compare(lm, "1", ["greedy", "top_k"], temperature=0.5, n=1, max_new_tokens=5, k=3)
    assert found.notes == ["greedy has no use for temperature, k"]
    assert found["top_k"][0].options == {"k": 3, "temperature": 0.5}
    assert math.isnan(found["top_k"][0].self_bleu)


def test_a_model_that_fills_in_is_compared_too():
    lm = train("reader", shape="encoder", objective="mlm", steps=20)
    found = lab.compare(lm, "3 gr<mask>en b<mask>t", n=1)
    assert found.strategies == ["fill", "gibbs"]
    assert all(len(text) == len("3 green bot") for cell in found.cells for text in cell.texts)


def test_by_magic():
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llm_lab")
    shell.user_ns["tiny"], shell.user_ns["small"] = train("tiny"), train("small")
    line = 'tiny "1 green" --strategies greedy,speculative:draft_tokens=2 --draft @small --max_new_tokens 8 --n 1 --as found'
    shell.run_line_magic("compare", line)
    assert shell.user_ns["found"].strategies == ["greedy", "speculative:draft_tokens=2"]
    shell.run_cell_magic("compare", "tiny --n 1 --max_new_tokens 4 --as found", "1 green\n---\n2 green")
    assert shell.user_ns["found"].prompts == ["1 green", "2 green"]
    assert shell.user_ns["found"].strategies == ["greedy", "top_k", "top_p", "min_p", "beam"]


@pytest.mark.parametrize(
    ("strategies", "says"),
    [
        ("gredy", "strategy 'gredy' is unknown; did you mean 'greedy'"),
        ("top_p:0.5", "'0.5' of 'top_p:0.5' is no option with a value"),
        ("top_p:q=1", "no option 'q'"),
        ("top_p:p=7", "p: 7"),
        ("greedy,greedy", "one of them is named twice"),
        ([3], "3 is int; a name such as"),
        ("beam:num_beams=2", "n: 3 texts cannot come from 2 beams"),
    ],
)
def test_what_cannot_be_compared_is_refused(strategies, says):
    with pytest.raises(lab.LabError, match=says):
        lab.compare(train("a", steps=2), "1", strategies, max_new_tokens=4)


def test_measures_of_variety():
    assert distinct([[1, 2, 1, 2], [1, 2]], 1) == 2 / 6
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == 2 / 4  # 12, 21, 12, 12
    assert math.isnan(distinct([[1]], 2))
    assert repetition([[1, 2, 3, 4, 1, 2, 3, 4], [1, 2, 3]]) == 1 - 4 / 5
    assert self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(100)
    assert self_bleu(["the cat sat on the mat", "a dog ran over one hill"]) < 10
    assert self_bleu(["床前明月光", "床前明月光"]) == pytest.approx(100)
    assert math.isnan(self_bleu(["one"]))


def test_self_bleu_is_sacrebleus_sentence_score():
    import sacrebleu

    texts = ["to be or not to be", "to go or not to go there", "to be or not at all"]
    want = [
        sacrebleu.sentence_bleu(texts[i], [t for j, t in enumerate(texts) if j != i], use_effective_order=True).score
        for i in range(3)
    ]
    assert self_bleu(texts) == pytest.approx(sum(want) / 3)
