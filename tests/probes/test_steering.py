"""Steering: nothing at strength 0, and what is added is what is written with it added by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.probes.options import SteerOptions
from llm_lab.probes.steering import steer
from tests.probes.test_patching import last, made, reading

AB = dict(toward="abc", away=["de", "fg"], max_new_tokens=6)


@pytest.mark.parametrize("kind", ["modern", "grouped", "encoder", "encoder_decoder", "permutation", "gpt2"])
def test_no_strength_changes_nothing(kind):
    lm = made(kind)
    text = reading(lm).texts[0]
    found = lab.probe(lm, text, kind="steer", strengths=[0, 3], **AB)
    assert found.rows[0][0] == 0 and found.rows[0][2] == pytest.approx(0, abs=1e-6)
    assert found.rows[1][2] != 0
    length = {} if kind == "encoder" else {"max_new_tokens": 6}
    with lab.replace(lm, {}):  # explicit attention, as while a probe looks
        plain = lab.generate(lm, text, seed=0, **length)
    assert found.rows[0][3] == plain.texts[0].removeprefix("" if plain.from_source else text)


def test_what_is_added_is_the_difference_of_the_means():
    lm = made()
    site = "blocks.0.resid_post"
    means = [
        torch.stack([lab.record(lm, t, site)[site][0].mean(0) for t in ts]).mean(0) for ts in (["abc"], ["de", "fg"])
    ]
    direction = means[0] - means[1]
    found = lab.probe(lm, "abc def", kind="steer", strengths="-1,2.5", target="a", seed=3, **AB)
    assert found.facts[1] == site
    a = lm.tokenizer.encode("a")[0]
    plain = lab.record(lm, "abc def", "logits")["logits"][0, -1].log_softmax(0)[a]
    for strength, log_p, change, text in found.rows:
        with lab.replace(lm, {site: lambda x, s=strength: x + s * direction}):
            logits = lab.record(lm, "abc def", "logits")["logits"][0, -1]
            written = lab.generate(lm, "abc def", seed=3, max_new_tokens=6).text
        assert log_p == pytest.approx(float(logits.log_softmax(0)[a]), abs=1e-5)
        assert change == pytest.approx(log_p - float(plain), abs=1e-5)
        assert "abc def" + text == written
    vector = dict(site=site, strengths=[2.5], target="a", seed=3, max_new_tokens=6)
    for given in (direction, direction.numpy().astype(np.float64), torch.stack(means), direction.tolist()):
        again = lab.probe(lm, "abc def", kind="steer", vector=given, **vector)
        assert again.rows[0][1] == pytest.approx(found.rows[1][1], abs=1e-5)
        assert again.rows[0][3] == found.rows[1][3]


def test_it_grows_and_an_interrupt_keeps_what_was_written():
    states = steer(reading(made()), SteerOptions(**AB))
    assert [len(state.rows) for state in [next(states)]] == [1]
    found = states.throw(KeyboardInterrupt())
    assert len(found.rows) == 1 and "Interrupted" in found.caption
    assert len(last(steer(reading(made()), SteerOptions(**AB))).rows) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "^steer needs toward and away"),
        ({"toward": "abc"}, "^steer needs toward and away"),
        ({"toward": "abc", "away": []}, r"^away: \[\] is neither"),
        ({"toward": "abc", "away": ""}, "^away: it is empty"),
        ({"toward": 5, "away": "abc"}, "^toward: 5 is neither"),
        ({"vector": [1.0]}, r"^vector: its shape is \(1,\), and blocks.0.resid_post is 16 wide"),
        ({"vector": "abc"}, "^vector: 'abc' holds no numbers"),
        ({"vector": [float("nan")] * 16}, "^vector: it holds numbers that are not finite"),
        ({"vector": [1.0] * 16, "toward": "abc"}, "^vector: it is the direction"),
        ({"toward": "abc", "away": "d", "site": "blocks.*.resid_post"}, "^site: .* is blocks.0.resid_post, blocks.1"),
        ({"toward": "abc", "away": "d", "site": "blocks.0.attn.z"}, "^site: .*a direction is added to one of shape"),
    ],
)
def test_what_is_no_direction_is_refused_in_one_line(options, says):
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.probe(made(), "abc def", kind="steer", **options)
    assert "\n" not in str(caught.value)
