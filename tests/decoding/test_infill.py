"""Filling in: by certainty, and by draws that follow the model's own conditionals."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

import llm_lab as lab
from llm_lab.data.batch import Attend
from tests.small import TEXT, train


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lm"))
        yield train("reader", shape="encoder", objective="mlm", steps=500, d_model=48, lr=5e-3, batch_size=16)


def test_what_is_certain_is_filled_in(lm):
    found = lab.generate(lm, "3 green bot<mask>les stood up<mask>n")
    assert found.text == "3 green bottles stood upon"
    assert found.strategy == "fill"
    given = [logprob != logprob for logprob in found.logprob[0]]  # nan
    assert [i for i, yes in enumerate(given) if not yes] == [11, 24]
    assert len(found.pieces[0]) == len(found.text)
    assert "bottles" in str(found) and "ot<mask>" not in found._repr_mimebundle_()["text/html"]


@torch.no_grad()
def test_the_surest_place_comes_first_and_numbers_are_the_models(lm):
    prompt = "3 green b<mask><mask>tles st<mask>od"
    ids = [lm.tokenizer.special("cls")]
    for part in prompt.split("<mask>"):
        ids += [*lm.tokenizer.encode(part), lm.tokenizer.special("mask")]
    ids = [*ids[:-1], lm.tokenizer.special("sep")]
    want = {}
    while lm.tokenizer.special("mask") in ids:
        logits = lm.model(torch.tensor([ids]), Attend(causal=False)).logits[0]
        logits[:, sorted(lm.tokenizer.special_ids)] = -torch.inf
        places = [i for i, token in enumerate(ids) if token == lm.tokenizer.special("mask")]
        place = max(places, key=lambda i: float(logits[i].softmax(-1).max()))
        ids[place] = int(logits[place].argmax())
        want[place - 1] = float(logits[place].log_softmax(-1).max())
    found = lab.generate(lm, prompt)
    assert found.tokens[0] == ids[1:-1]
    assert {i: x for i, x in enumerate(found.logprob[0]) if x == x} == pytest.approx(want, abs=1e-5)


@torch.no_grad()
def test_gibbs_draws_follow_the_stationary_distribution(lm):
    """Two places of four letters each: the chain's own transition matrix, and its limit by powers, against its draws."""
    tokenizer = lm.tokenizer
    letters = tokenizer.encode("0123")
    mask, head = tokenizer.special("mask"), [tokenizer.special("cls")]
    tail = [*tokenizer.encode(" green"), tokenizer.special("sep")]

    def given(at, other):
        pair = [mask, other] if at == 0 else [other, mask]
        logits = lm.model(torch.tensor([[*head, *pair, *tail]]), Attend(causal=False)).logits[0, 1 + at]
        return (logits[letters] / 2.0).softmax(-1).double()

    tables = [torch.stack([given(at, other) for other in letters]) for at in (0, 1)]
    states = list(itertools.product(range(4), repeat=2))
    step = [torch.zeros(16, 16, dtype=torch.double) for _ in range(2)]
    for i, (a, b) in enumerate(states):
        for new in range(4):
            step[0][i, states.index((new, b))] = tables[0][b][new]
            step[1][i, states.index((a, new))] = tables[1][a][new]
    sweep = (step[0] @ step[1] + step[1] @ step[0]) / 2
    limit = torch.linalg.matrix_power(sweep, 30)[0]
    banned = [
        tokenizer.decode([i])
        for i in range(tokenizer.vocab_size)
        if i not in letters and i not in tokenizer.special_ids
    ]
    assert banned
    from llm_lab.decoding import infill

    class Only(infill.Gibbs):
        def filtered(self, logits, past):
            kept = torch.full_like(logits, -torch.inf)
            kept[:, letters] = logits[:, letters] / 2.0
            return kept

    gaps = infill.gaps_in(lm, "<mask><mask> green", 4000)
    for _ in Only(infill.opt.Gibbs(sweeps=8)).fill(gaps, torch.Generator().manual_seed(0)):
        pass
    seen = Counter((letters.index(a), letters.index(b)) for a, b in gaps.ids[:, 1:3].tolist())
    chi2 = sum(
        (seen[state] - 4000 * float(p)) ** 2 / (4000 * float(p))
        for state, p in zip(states, limit, strict=True)
        if p > 1e-3
    )
    assert chi2 < 45  # 15 degrees of freedom: beyond one in ten thousand


def test_gibbs_repeats_with_its_seed_and_differs_between_texts(lm):
    options = dict(strategy="gibbs", sweeps=2, n=3, seed=1, temperature=2.0)
    first, second = (lab.generate(lm, "<mask><mask><mask><mask> bottles", **options) for _ in range(2))
    assert first.texts == second.texts
    assert len(set(first.texts)) == 3
    assert first.options == {"sweeps": 2, "temperature": 2.0}


def test_models_of_both_kinds_do_both():
    lm = train("both", objective="clm,mlm", mix="turns", shape="decoder", steps=60)
    assert lab.generate(lm, "3 green", max_new_tokens=4).text.startswith("3 green")
    assert len(lab.generate(lm, "3 gr<mask>en", strategy="fill").text) == 7


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        ("no gaps", {}, "prompt: nothing is hidden in it; write <mask>"),
        ("a<mask>" * 40, {}, "tokens do not fit the context of 32"),
        ("<mask>", dict(max_new_tokens=5), "max_new_tokens is for writing from left to right"),
        ("<mask>", dict(n=2), "n: 2 texts would all be the same"),
        ("<mask>", dict(strategy="top_p"), "top_p writes on, and reader only fills in"),
    ],
)
def test_what_cannot_be_is_refused(lm, prompt, options, says):
    with pytest.raises(lab.LabError, match=says):
        lab.generate(lm, prompt, **options)


def test_a_model_that_only_writes_fills_nothing_in():
    with pytest.raises(lab.LabError, match="fill fills in, and tiny was not trained to"):
        lab.generate(train("tiny", [TEXT], steps=2), "<mask>", strategy="fill")


def test_what_nobody_listens_to_any_more_is_whole(lm, monkeypatch):
    from llm_lab.decoding import infill

    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", -1)
    states = infill.infill(lm, "3 green b<mask><mask>tles st<mask>od", strategy="gibbs", sweeps=50, seed=0)
    state = next(states)
    states.close()
    assert state.done
    assert state.interrupted
    assert not lm.model.training
