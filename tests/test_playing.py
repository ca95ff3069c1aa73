"""The playground's controls follow the options of every strategy, a user's own included, and write what generate writes."""

from __future__ import annotations

import pytest

import llm_lab as lab
from llm_lab.decoding.options import FILLS, STRATEGIES, FilterOptions
from llm_lab.errors import BadType, BadValue
from llm_lab.options import specs
from tests.small import train


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("play"))
        yield train(steps=30)


def controls(play, strategy):
    return {one.name: one for one in next(one for one in play.strategies if one.name == strategy).own}


def test_every_option_has_a_control_that_stands_within_its_limits(lm):
    play = lab.playground(lm, draft=lm, amateur=lm)
    assert {one.name for one in play.strategies} == {n for n, e in STRATEGIES.items() if not e.supports & FILLS}
    for entry in play.strategies:
        own = {name for name, spec in specs(STRATEGIES[entry.name].options).items() if name not in ("draft", "amateur")}
        assert own <= set(controls(play, entry.name))
    everything = [*play.filters, *play.general, *(one for entry in play.strategies for one in entry.own)]
    for one in everything:
        assert one.help
        if one.kind == "slider":
            assert one.low < one.high
            assert one.low <= one.value <= one.high
            assert 0 < one.step < one.high - one.low
            assert not one.whole or one.step == 1
    assert {one.name for one in play.filters} >= set(specs(FilterOptions))
    # What a slider's ends are is allowed by the option.
    for entry in play.strategies:
        for one in entry.own:
            spec = {**specs(STRATEGIES[entry.name].options), **specs(FilterOptions)}[one.name]
            for value in (one.low, one.high) if one.kind == "slider" else one.choices:
                spec.check(value)


def test_a_strategy_says_which_filters_it_has_no_use_for(lm):
    play = lab.playground(lm)
    without = {one.name: one.without for one in play.strategies}
    assert "top_p" in without["top_p"]
    assert {"temperature", "top_k"} <= set(without["beam"])
    assert "repetition_penalty" not in without["beam"]
    assert controls(play, "min_p")["min_p"].value == 0.1
    assert "speculative" not in without  # its second model was not given


def test_it_writes_what_generate_writes(lm):
    play = lab.playground(lm, "1 green", strategy="top_k", k=5, max_new_tokens=20, seed=3)
    assert play.strategy == "top_k"
    assert controls(play, "top_k")["k"].value == 5
    assert play.generation.texts == lab.generate(lm, "1 green", strategy="top_k", k=5, max_new_tokens=20, seed=3).texts
    assert eval(play.generation.code, {"lab": lab, "tiny": lm}).texts == play.generation.texts
    moved = play.write(temperature=0.5)
    assert (
        moved.texts
        == lab.generate(lm, "1 green", strategy="top_k", k=5, temperature=0.5, max_new_tokens=20, seed=3).texts
    )
    other = play.write("2", strategy="beam", num_beams=5)
    assert [len(ids) for ids in other.tokens] == [20]  # what is set at the beginning and makes sense is kept
    assert (play.prompt, other.strategy) == ("2", "beam")
    assert "num_beams" not in other.code
    assert eval(other.code, {"lab": lab, "tiny": lm}).texts == other.texts
    drawn = play.write(seed=None)
    assert eval(drawn.code, {"lab": lab, "tiny": lm}).texts == drawn.texts  # the seed that was drawn is said
    play.generation.regrow(1, "w")
    assert len(play.generation.texts) == 2


def test_values_stand_in_their_boxes_as_they_are_read_again(lm):
    options = {"stop": ["\n", "END"], "json_schema": {"type": "integer"}, "strategy": "top_k"}
    play = lab.playground(lm, **options)
    boxes = {one.name: one.value for one in [*play.filters, *play.general] if one.kind == "text"}
    assert boxes["stop"] == "\\n,END"
    said = {"strategy": "top_k", "stop": boxes["stop"], "json_schema": boxes["json_schema"], "max_new_tokens": 30}
    *_, found = play.actions["write"]("1 ", said, True)
    assert found.options["json_schema"] == '{"type": "integer"}'
    assert found.texts[0].removeprefix("1 ").lstrip("-").isdigit()


def test_a_users_own_strategy_has_sliders(lm):
    @lab.strategy
    def halves(logits, share=0.5, count=3, sharp=True):
        """The upper half."""
        return logits

    try:
        play = lab.playground(lm)
        own = controls(play, "halves")
        assert {
            name: (one.kind, one.value, one.low, one.high) for name, one in own.items() if name != "temperature"
        } == {
            "share": ("slider", 0.5, 0.0, 1.0),
            "count": ("slider", 3, 0.0, 6.0),
            "sharp": ("switch", True, 0.0, 1.0),
        }
        assert next(one.help for one in play.strategies if one.name == "halves") == "The upper half."
        assert play.write("1", strategy="halves", share=0.2, max_new_tokens=4).options["share"] == 0.2
    finally:
        STRATEGIES._entries.pop("halves")


def test_a_model_that_fills_in_has_the_ways_to(lm):
    filler = train("filler", objective="mlm", steps=4)
    play = lab.playground(filler, "1 <mask>reen")
    assert [one.name for one in play.strategies] == ["fill", "gibbs"]
    assert {one.name for one in play.general} == {"n", "seed"}
    assert play.generation.strategy == "fill"
    with pytest.raises(BadValue, match="nothing is hidden"):
        lab.playground(filler, "1 green")


def test_mistakes_cost_a_line(lm):
    for options, says in (({"p": 7}, "is out of range"), ({"strategy": "topp"}, "top_p")):
        with pytest.raises(BadValue, match=says):
            lab.playground(lm, **options)
    with pytest.raises(BadValue, match="speculative needs a second model, for example --draft @small"):
        lab.playground(lm, strategy="speculative")
    with pytest.raises(BadValue, match="fill is none that tiny can use"):
        lab.playground(lm, strategy="fill")
    with pytest.raises(BadType, match="no option 'tempature'"):
        lab.playground(lm, tempature=1)
    assert "Nothing is written yet" in str(lab.playground(lm))
