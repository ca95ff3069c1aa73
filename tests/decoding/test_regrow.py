"""Texts written on from another token: what they share, what they write, and that the tree keeps all of them."""

from __future__ import annotations

import gc
import math
import re

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.decoding.options import FILLS, STRATEGIES
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.writing import stream
from llm_lab.errors import BadType, BadValue
from llm_lab.results import Fork
from tests.small import train

WRITES = [name for name, entry in STRATEGIES.items() if not entry.supports & FILLS]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("regrow"))
        yield train(steps=60)


def other(lm, gen, at, sample=0):
    """A token that is not the one which stands there."""
    return next(i for i in lm.tokenizer.text_ids.tolist() if i != gen.tokens[sample][at])


@pytest.mark.parametrize("strategy", WRITES)
def test_every_strategy_goes_on_from_another_token(lm, strategy):
    more = {"amateur": lm} if strategy == "contrastive" else {"draft": lm} if strategy == "speculative" else {}
    gen = lab.generate(lm, "1 green", strategy=strategy, max_new_tokens=24, seed=1, **more)
    token = other(lm, gen, 9)
    gen.regrow(9, token, seed=5)
    first, second = gen.tokens
    assert len(second) == 24
    assert second[:10] == [*first[:9], token]
    assert gen.forks == {1: Fork(0, 9, 5)}
    assert gen.texts[1] == "1 green" + lm.tokenizer.decode(second)
    ids = torch.tensor([lm.tokenizer.encode("1 green") + second])
    logs = lm.model(ids[:, :-1]).logits[0, 6:].log_softmax(-1)  # within the context of 32
    assert gen.logprob[1] == pytest.approx(logs.gather(1, torch.tensor(second)[:, None])[:, 0].tolist(), abs=1e-4)
    assert gen.chosen_prob[1][:9] == gen.chosen_prob[0][:9]
    assert math.isnan(gen.chosen_prob[1][9])
    assert not any(map(math.isnan, gen.chosen_prob[1][10:]))


def test_greedy_goes_on_as_it_would_after_that_prompt(lm):
    gen = lab.generate(lm, "1 green", strategy="greedy", max_new_tokens=40)
    token = other(lm, gen, 30)  # past the context, where the last half was read again
    gen.regrow(30, token)
    straight = lab.generate(lm, "1 green", strategy="greedy", max_new_tokens=9)
    gen.regrow(3, other(lm, gen, 3))
    begun = lm.tokenizer.decode(gen.tokens[2][:4])
    again = lab.generate(lm, "1 green" + begun, strategy="greedy", max_new_tokens=9)
    assert straight.tokens[0] == gen.tokens[0][:9]
    assert gen.tokens[2][4:13] == again.tokens[0]


def test_beams_score_the_whole_text(lm):
    gen = lab.generate(lm, "1 green", strategy="beam", num_beams=4, max_new_tokens=12)
    gen.regrow(4, other(lm, gen, 4))
    assert gen.scores[1] == pytest.approx(sum(gen.logprob[1]) / 12, abs=1e-4)
    gen.regrow(11, other(lm, gen, 11))  # nothing is left to search
    assert gen.tokens[2][:11] == gen.tokens[0][:11]


def test_a_fork_of_a_fork_and_one_before_it(lm):
    gen = lab.generate(lm, "1", max_new_tokens=20, seed=0)
    gen.regrow(8, other(lm, gen, 8))
    gen.regrow(12, other(lm, gen, 12, 1), sample=1)
    gen.regrow(5, other(lm, gen, 5, 2), sample=2)  # they all share it with the first
    gen.regrow(8, gen.tokens[0][8], sample=1)  # the same place as its own fork
    forks = [(fork.sample, fork.at) for fork in gen.forks.values()]
    assert forks == [(0, 8), (1, 12), (0, 5), (0, 8)]
    assert len(gen.statistics) == len(gen.texts) == 5
    assert [len(one.rank) for one in gen.statistics] == [20] * 5
    assert [len(piece) for piece in gen.pieces] == [20] * 5


def test_the_seed_repeats_what_is_written_on(lm):
    gen = lab.generate(lm, "1", max_new_tokens=30, seed=0)
    token = other(lm, gen, 2)
    for seed in (7, 7, 8):
        gen.regrow(2, token, seed=seed)
    assert gen.tokens[1] == gen.tokens[2] != gen.tokens[3]
    assert gen.regrow(2, token).forks[4].seed != 7


def test_a_token_can_be_given_as_text(lm):
    gen = lab.generate(lm, "1 green", max_new_tokens=8, seed=0).regrow(0, "w")
    assert gen.pieces[1][0].text == "w"


def test_constraints_and_stops_hold_over_what_was_given(lm):
    gen = lab.generate(lm, "1 ", regex="[0-9]{3}( [a-z]+)?", max_new_tokens=12, seed=0)
    digit = next(d for d in "0123456789" if d != gen.pieces[0][1].text)
    gen.regrow(1, digit)
    written = gen.texts[1].removeprefix("1 ")
    assert written[1] == digit
    assert re.fullmatch("[0-9]{3}( [a-z]+)?", written)
    with pytest.raises(BadValue, match="leads to no text"):
        gen.regrow(1, "w")
    gen = lab.generate(lm, "1 ", stop="w", strategy="greedy", max_new_tokens=30)
    gen.regrow(2, "w")
    assert gen.texts[-1].endswith("w")
    assert len(gen.tokens[-1]) == 3


def test_whole_numbers_of_any_kind_are_taken(lm):
    gen = lab.generate(lm, "1", max_new_tokens=6, seed=0, n=2)
    token = other(lm, gen, 3, 1)
    gen.regrow(np.int64(3), np.uint16(token), sample=torch.tensor(1), seed=np.int64(5))
    gen.regrow(3, token, sample=1, seed=5)
    assert gen.tokens[2] == gen.tokens[3]
    assert gen.forks == {2: Fork(1, 3, 5), 3: Fork(1, 3, 5)}
    assert all(type(value) is int for value in vars(gen.forks[2]).values())
    for place in (3.0, True, "3"):
        with pytest.raises(BadValue, match="at: "):
            gen.regrow(place, token)


def test_a_vote_cannot_be_regrown(lm):
    found = lab.generate([lm, train(steps=2)], "1", ensemble="vote", max_new_tokens=4)
    with pytest.raises(BadValue, match="the texts of a vote cannot be regrown"):
        found.regrow(0, "w")


def test_what_cannot_be_regrown_says_so(lm):
    gen = lab.generate(lm, "1", max_new_tokens=6, seed=0)
    for arguments, says in [
        ((6, "w"), "at: 6 is no token of text 0; it takes 0 to 5"),
        ((0, "w", 1), "sample: 1 is not there"),
        ((0, "green"), "is 5 tokens"),
        ((0, 10_000), "token: 10000 is no id"),
        ((0, lm.tokenizer.specials["mask"]), "reserved"),
    ]:
        with pytest.raises(BadValue, match=says):
            gen.regrow(*arguments)
    with pytest.raises(BadType, match="token"):
        gen.regrow(0, 1.5)
    assert len(gen.texts) == len(gen.pieces) == len(gen.logprob) == 1
    assert gen.done
    gone = train("gone", steps=2)
    made = lab.generate(gone, "1", max_new_tokens=4)
    live = lab.generate(gone, "1", max_new_tokens=4, live=True)
    del gone
    gc.collect()
    live.regrow(0, "w")  # a live one keeps its model
    del live
    gc.collect()
    with pytest.raises(BadValue, match="is gone"):
        made.regrow(0, "w")


def test_an_interrupt_keeps_what_was_written_on(lm, monkeypatch):
    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", 0.0)
    gen = lab.generate(lm, "1", max_new_tokens=30, seed=0)
    for state in gen.actions["regrow"](0, 2, other(lm, gen, 2)):
        if len(state.pieces) > 1 and len(state.pieces[1]) == 8 and not state.done:
            state.request_stop()
    assert len(gen.pieces[1]) == 8
    assert gen.done
    assert "interrupted after 8 tokens" in gen.notes
    for state in gen.actions["regrow"](0, 2, other(lm, gen, 2)):
        if len(state.pieces) == 3:
            break  # nobody listens any more
    gc.collect()
    assert len(gen.pieces) == len(gen.texts) == 2
    assert gen.done


def test_masks_that_were_filled_cannot_be_regrown(lm):
    filler = train("filler", objective="mlm", steps=4)
    found = lab.generate(filler, "1 <mask>reen")
    with pytest.raises(BadValue, match="from left to right"):
        found.regrow(0, "w")


def test_what_nobody_listens_to_any_more_is_whole(lm, monkeypatch):
    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", 0.0)
    states = stream(lm, "1", max_new_tokens=30, seed=0)
    state = next(state for state in states if len(state.pieces[0]) == 5)
    states.close()
    assert state.done
    assert state.interrupted
    assert len(state.pieces[0]) == len(state.logprob[0]) == 5


def test_a_mode_that_is_set_while_it_writes_is_found_so(lm, monkeypatch):
    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", 0.0)
    modes = []
    monkeypatch.setattr(
        Rows, "append", lambda self, step, append=Rows.append: (modes.append(self.model.training), append(self, step))
    )
    for i, _ in enumerate(stream(lm, "1", max_new_tokens=8, seed=0)):
        if i == 3:
            lm.model.train()
    assert modes == [False] * 8
    assert lm.model.training
    lm.model.eval()
