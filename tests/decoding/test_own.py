"""A stranger's strategy is one short function, and works wherever ours do."""

from __future__ import annotations

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import llm_lab as lab
from llm_lab.decoding.options import STRATEGIES
from llm_lab.verbs import VERBS
from tests.small import train


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))


def my_top_p(logits, p=0.9):
    """My own nucleus."""
    values, order = logits.sort(descending=True)
    drop = values.softmax(-1).cumsum(-1) - values.softmax(-1) >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def off_by_one(logits, p=0.9):
    values, order = logits.sort(descending=True)
    drop = values.softmax(-1).cumsum(-1) >= p  # the token that reaches p is dropped too
    drop[:, 0] = False
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def test_it_writes_with_options_of_its_own():
    lab.strategy(my_top_p)
    lm = train("tiny", steps=30)
    found = lab.generate(lm, "1 green", strategy="my_top_p", p=0.8, temperature=0.9, max_new_tokens=30, seed=3, n=2)
    ours = lab.generate(lm, "1 green", strategy="top_p", p=0.8, temperature=0.9, max_new_tokens=30, seed=3, n=2)
    assert found.texts == ours.texts
    assert found.options == {"p": 0.8, "temperature": 0.9}
    with pytest.raises(lab.LabError, match="no option 'tau'"):
        lab.generate(lm, "1", strategy="my_top_p", tau=1)


def test_it_has_flags_help_and_a_place_among_the_choices():
    @lab.strategy
    def my_steps(logits, ids, reach=2, loud=False, mode="soft", sharp=1.5):
        """Draws near the last token."""
        assert ids.shape[0] == logits.shape[0] and mode == "hard" and loud and reach == 3
        return logits * sharp

    verb = VERBS["generate"]
    assert "my_steps" in verb.specs["strategy"].choice_names()
    assert verb.specs["reach"].type is int and verb.specs["reach"].default == 2
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llm_lab")
    shell.user_ns["tiny"] = train("tiny", steps=3)
    line = 'tiny "1" --strategy my_steps --reach 3 --loud --mode hard --sharp 2 --max_new_tokens 4 --as found'
    shell.run_line_magic("generate", line)
    assert shell.user_ns["found"].options == {
        "reach": 3,
        "loud": True,
        "mode": "hard",
        "sharp": 2.0,
        "temperature": 1.0,
    }


def test_tokens_may_be_chosen_outright():
    @lab.strategy
    def second(logits):
        return logits.topk(2).indices[:, 1]

    lm = train("tiny", steps=10)
    found = lab.generate(lm, "1", strategy="second", max_new_tokens=5)
    ids = torch.tensor([lm.tokenizer.encode("1")])
    assert found.tokens[0][0] in lm.model(ids).logits[0, -1].topk(40).indices.tolist()
    assert 0 < found.chosen_prob[0][0] <= 0.5


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda logits: None, "a function without a name"),
        (3, "3 is int; a function of logits"),
        (eval("lambda: 0", {"__name__": "x"}), "without a name"),
    ],
)
def test_what_is_no_strategy_is_refused(function, says):
    with pytest.raises(lab.LabError, match=says):
        lab.strategy(function)


def test_mistakes_inside_are_told():
    lm = train("tiny", steps=3)

    def refused(function):
        lab.strategy(function)
        with pytest.raises(lab.LabError) as error:
            lab.generate(lm, "1", strategy=function.__name__, max_new_tokens=3)
        return str(error.value)

    def nothing(logits):
        logits.sort()

    def short(logits):
        return logits[:, :3]

    def empty(logits):
        return torch.full_like(logits, -torch.inf)

    def top_k(logits, k=3):
        return logits

    def needs(logits, k):
        return logits

    assert "nothing gave NoneType" in refused(nothing)
    assert "short gave float32 (1, 3)" in refused(short)
    assert "kept no token" in refused(empty)
    with pytest.raises(lab.LabError, match="one of the lab's own"):
        lab.strategy(top_k)
    with pytest.raises(lab.LabError, match="k of needs has the default none"):
        lab.strategy(needs)


def test_a_student_sees_where_a_copy_differs():
    same = lab.check(my_top_p, like="top_p")
    assert "largest difference 0" in same.facts[2] and "No difference" in same.caption
    other = lab.check(off_by_one, like="top_p", p=0.7)
    assert other.facts[0] == "p=0.7"
    assert other.columns == ["rank", "probability", "summed", "top_p", "off_by_one"]
    wrong = next(row for row in other.rows if abs(row[3] - row[4]) > 1e-4 and row[4] == 0)
    assert wrong[2] >= 0.7 > wrong[2] - wrong[1]  # the token that reaches p
    assert lab.check(lambda_free_greedy, like="greedy").rows == []
    with pytest.raises(lab.LabError, match="like: 'beam' looks at more than one"):
        lab.check(my_top_p, like="beam")


def lambda_free_greedy(logits):
    return logits.argmax(-1)
