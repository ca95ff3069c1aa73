"""Strategies side by side: what each wrote is what it writes alone, and the numbers are theirs."""

from __future__ import annotations

import math

import pytest
from IPython.core.interactiveshell import InteractiveShell

import llm_lab as lab
from llm_lab.decoding import writing
from llm_lab.decoding.loop import decode
from llm_lab.metrics.diversity import distinct, repetition, self_bleu
from llm_lab.views.live import Live
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


def interrupting(monkeypatch, cell, token):
    """From now on the writing of the nth text is interrupted after so many tokens."""
    begun = []

    def decoded(*args):
        begun.append(1)
        if (len(begun), token) == (cell, 0):
            raise KeyboardInterrupt
        for rows in decode(*args):
            yield rows
            if len(begun) == cell and rows.written == token:
                raise KeyboardInterrupt

    monkeypatch.setattr(writing, "decode", decoded)
    return begun


def test_an_interrupt_of_a_cell_keeps_what_was_written(monkeypatch):
    lm = train("tiny")
    begun = interrupting(monkeypatch, cell=3, token=4)
    found = lab.compare(lm, ["1", "2"], ["greedy", "top_k"], max_new_tokens=9, n=1, seed=0)
    assert len(begun) == 3
    assert [(c.strategy, c.prompt) for c in found.cells] == [("greedy", 0), ("greedy", 1), ("top_k", 0)]
    assert [len(cell.texts[0]) for cell in found.cells] == [9, 9, 4]
    assert found.done and found.notes == ["interrupted after 2 of 4; the last is unfinished"]
    assert found.cells[2].notes == ["interrupted after 4 tokens"]
    assert "interrupted after 2 of 4" in found._repr_mimebundle_()["text/html"]
    again = lab.compare(lm, ["1", "2"], ["greedy"], max_new_tokens=9, n=1, seed=0)
    assert [cell.texts for cell in again.cells] == [cell.texts for cell in found.cells[:2]]


def test_an_interrupt_before_the_first_token_leaves_no_cell(monkeypatch):
    lm = train("tiny")
    interrupting(monkeypatch, cell=2, token=0)
    found = lab.compare(lm, "1", ["greedy", "top_k"], max_new_tokens=5, n=1, seed=0)
    assert [cell.strategy for cell in found.cells] == ["greedy"]
    assert found.notes == ["interrupted after 1 of 2"]


def test_an_interrupt_between_cells_keeps_them(monkeypatch, capsys):
    """It comes while the result is drawn, which is no work of the comparison's own."""
    lm, drawn = train("tiny"), []
    update = Live.update

    def interrupted(self, result):
        drawn.append(len(result.cells))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return update(self, result)

    monkeypatch.setattr(Live, "update", interrupted)
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llm_lab")
    shell.user_ns["tiny"] = lm
    shell.run_line_magic("compare", 'tiny "1" --strategies greedy,top_k,top_p,min_p --n 1 --max_new_tokens 4 --as kept')
    found = shell.user_ns["kept"]
    assert [cell.strategy for cell in found.cells] == ["greedy", "top_k", "top_p"]
    assert found.notes == ["interrupted after 3 of 4"]
    assert "interrupted after 3 of 4" in capsys.readouterr().out
    assert drawn == [2, 3, 3]


def test_beams_come_along():
    found = lab.compare(train("tiny"), "1", ["greedy", "beam:num_beams=2"], max_new_tokens=6, n=1, seed=0)
    greedy, beam = found.cells
    alone = lab.generate(train("tiny"), "1", strategy="beam", num_beams=2, max_new_tokens=6, seed=0)
    assert greedy.beams is None
    assert beam.beams.best == alone.beams.best and beam.beams.steps == alone.beams.steps


def test_models_without_a_prompt_are_compared_by_their_runs():
    a, b = train("a", steps=40, eval_every=10), train("b", steps=20, eval_every=10, n_layer=1, lr=0.01)
    made = lab.LM("c", lab.build(vocab_size=a.tokenizer.vocab_size, n_layer=1, d_model=16, n_head=2), a.tokenizer)
    found = lab.compare([a, b, made])
    one, two, three = found.models
    assert (one.steps, one.tokens, two.steps) == (40, 40 * 4 * 32, 20)
    assert one.parameters == sum(p.numel() for p in a.model.parameters())
    assert (one.preset, one.corpus, one.objective, one.run) == ("modern", "texts", "clm", a.run.id)
    history = a.history
    assert one.val == [tuple(row) for row in history.dropna()[["step", "seconds", "val_loss"]].values.tolist()]
    assert one.train_loss == history["train_loss"].iloc[-1]
    assert one.val_loss == pytest.approx(lab.evaluate(a, metrics=["loss"])["loss"], abs=1e-4)
    assert one.tokens_per_second == pytest.approx(one.tokens / one.seconds)
    assert found.differ["n_layer"] == [2, 1, 1] and found.differ["lr"] == [None, 0.01, None]
    assert found.differ["steps"] == [40, 20, None] and "d_model" not in found.differ
    assert (three.run, three.steps, three.val_loss, three.val) == ("", None, None, [])
    assert found.notes == ["c has no run: how it was trained is not known"]
    assert found.to_pandas()["val_loss"].isna().tolist() == [False, False, True]
    assert found.code == "lab.compare([a, b, c])"


def test_runs_by_magic_and_when_they_are_meant():
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llm_lab")
    shell.user_ns["tiny"], shell.user_ns["small"] = train("tiny"), train("small", steps=8)
    shell.run_line_magic("compare", "tiny,small --as found")
    assert [one.steps for one in shell.user_ns["found"].models] == [12, 8]
    shell.run_line_magic("compare", "tiny,small --n 2 --as found")
    assert "n is for what models write; give a prompt in quotes" in shell.user_ns["found"].notes
    shell.run_line_magic("compare", "tiny,small --strategies greedy --max_new_tokens 3 --n 1 --as found")
    assert [cell.model for cell in shell.user_ns["found"].cells] == ["tiny", "small"]
    shell.run_line_magic("compare", "tiny --max_new_tokens 3 --n 1 --as found")
    assert shell.user_ns["found"].prompts == [""]


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
