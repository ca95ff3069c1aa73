"""The size for the time that is given: the rule, the search by a machine that is only reckoned, and real runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

import llm_lab as lab
from llm_lab import memory, sizing
from llm_lab.results import Sizing
from llm_lab.sizing import LADDER, SHARE, STEPS, Size, best, choose, excess, reckon
from tests.small import TEXT
from tests.test_faults import pausing, same

LONG = TEXT * 4


def machine(peak: float, half: float):
    """Seconds of a step where small products reach less of the peak: half of it at `half` wide."""
    return lambda size: 0.004 + size.flops / (peak * size.d_model / (size.d_model + half))


def test_more_parameters_more_text_and_fresher_text_err_less():
    small, large = LADDER[1], LADDER[4]
    assert excess(large, 1e6, 1e9) < excess(small, 1e6, 1e9)
    assert excess(small, 2e6, 1e9) < excess(small, 1e6, 1e9)
    assert excess(small, 8e6, 1e9) < excess(small, 8e6, 1e6) < excess(small, 1e6, 1e6)
    assert excess(small, 1e9, 1e6) == pytest.approx(excess(small, 1e12, 1e6), rel=1e-4)  # read a thousand times


def test_each_size_costs_more_than_the_one_before():
    assert all(a.parameters < b.parameters and a.flops < b.flops for a, b in itertools.pairwise(LADDER))


def test_more_time_and_a_faster_machine_get_a_larger_model():
    def chosen(seconds, peak):
        timed = machine(peak, 200)
        return LADDER.index(best(reckon(seconds, 1e8, {size: timed(size) for size in LADDER})).size)

    by_time = [chosen(seconds, 1e11) for seconds in (1, 10, 60, 600, 3600, 36000)]
    assert by_time == sorted(by_time)
    assert by_time[0] < by_time[-1]
    assert chosen(60, 1e14) > chosen(60, 1e11)


@pytest.mark.parametrize("peak", [1e10, 1e11, 1e13, 1e14])
@pytest.mark.parametrize("seconds", [20, 60, 600, 36000])
def test_the_search_finds_what_timing_all_would(seconds, peak):
    timed, asked = machine(peak, 200), []

    def ask(size):
        asked.append(size)
        return timed(size)

    everything = reckon(seconds, 1e8, {size: timed(size) for size in LADDER})
    found = choose(seconds, 1e8, ask)
    assert len(asked) == len(set(asked))
    true = {one.size: one.excess for one in everything}
    slow = (STEPS + 2) * timed(best(everything).size) > SHARE * seconds  # then it must not even be tried
    assert true[best(found).size] <= (1.15 if slow else 1.001) * min(true.values())


def test_nothing_is_timed_that_would_take_too_much_of_the_time():
    asked = []

    def ask(size):
        asked.append(size)
        return 1.0 * size.flops / LADDER[1].flops

    found = choose(10.0, 1e8, ask)
    assert asked == [LADDER[1]]  # a second a step: no second size may be tried in 0.4 s
    assert best(found).size in LADDER[:2]


@pytest.fixture
def small(monkeypatch):
    """A ladder whose steps take a moment."""
    ladder = (Size(1, 2, 16, 16, 4), Size(2, 2, 16, 32, 4), Size(2, 2, 32, 32, 4))
    monkeypatch.setattr(sizing, "LADDER", ladder)
    return ladder


def pretrain(name="bard", **options):
    return lab.pretrain([LONG], name=name, display=False, sample_tokens=0, **options)


def test_a_time_alone_chooses_and_says_so(small):
    lm = pretrain(seconds=2)
    sizes = lm.run.read("plan")["sizes"]
    assert Size(**sizes) in small
    assert {key: getattr(lm.model.config, key) for key in sizes if key != "batch_size"} == {
        key: size for key, size in sizes.items() if key != "batch_size"
    }
    assert lm.run.read("plan")["options"]["batch_size"] == sizes["batch_size"]
    assert any(note.startswith("sized for 2 s here: ") for note in lm.report.notes)
    for key, value in sizes.items():
        assert f"--{key} {value}" in lm.report.repeat
    # The cell is recognised again, whatever would be chosen now.
    assert pretrain(seconds=2).run.id == lm.run.id


@pytest.mark.parametrize(
    "options",
    [{"n_layer": 1}, {"d_model": 32, "n_head": 2}, {"batch_size": 2}, {"max_seq_len": 16}, {"preset": "modern"}],
)
def test_a_size_of_ones_own_turns_it_off(options, monkeypatch):
    monkeypatch.setattr(sizing, "fit", lambda *_: pytest.fail("it was sized"))
    lm = pretrain(seconds=1, **options)
    assert lm.run.read("plan")["sizes"] == {}
    assert not any("sized" in note for note in lm.report.notes)


@pytest.mark.parametrize("budget", [{"steps": 2}, {"tokens": 4096}, {"epochs": 0.05}])
def test_other_budgets_do_not_choose(budget, monkeypatch):
    monkeypatch.setattr(sizing, "fit", lambda *_: pytest.fail("it was sized"))
    assert pretrain(**budget).model.config.d_model == 128


def test_what_is_no_size_is_kept(small):
    config = pretrain(seconds=1.5, dropout=0.1, mlp="gelu", norm="layernorm").model.config
    assert (config.dropout, config.mlp, config.norm) == (0.1, "gelu", "layernorm")


def test_a_run_that_goes_on_has_the_sizes_that_it_was_begun_with(small, monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 3)
        left = pretrain(seconds=3)
    assert left.report.status == "paused"
    monkeypatch.setattr(sizing, "fit", lambda *_: pytest.fail("it was sized again"))
    went_on = pretrain(seconds=3)
    assert went_on.run.id == left.run.id
    assert went_on.run.read("plan")["sizes"] == left.run.read("plan")["sizes"]


def test_the_line_that_repeats_it_trains_the_same_weights(small):
    lm = pretrain(seconds=1.5)
    sizes = lm.run.read("plan")["sizes"]
    again = pretrain("again", replay=lm.run.id, **sizes)
    assert same(lm, again)


def timed(monkeypatch, seconds):
    """The sizes that were timed, each as if its step took that long."""
    seen = []
    monkeypatch.setattr(sizing, "_step_time", lambda size, *_: seen.append(size) or seconds)
    return seen


def test_a_text_that_is_read_many_times_is_not_learned_by_heart(small, monkeypatch):
    timed(monkeypatch, 1e-4)
    lm = pretrain(seconds=1)
    assert lm.model.config.dropout == 0.1
    assert lm.model.config.weights_dropout == 0.0  # what a fused kernel on a CPU takes
    assert lm.run.read("plan")["sizes"]["dropout"] == 0.1
    assert any("dropout 0.1 since it reads the text" in note for note in lm.report.notes)
    assert "--dropout 0.1 --attention_dropout 0" in lm.report.repeat
    assert pretrain("both", seconds=1, attention_dropout=0.2).model.config.weights_dropout == 0.2
    asked = pretrain("asked", seconds=1, dropout=0.0)
    assert asked.model.config.dropout == 0.0
    assert not any("dropout" in note for note in asked.report.notes)
    timed(monkeypatch, 10.0)
    assert pretrain("once", seconds=1).model.config.dropout == 0.0


def test_a_dropout_that_does_not_fit_the_memory_is_left(small, monkeypatch):
    timed(monkeypatch, 1e-4)
    monkeypatch.setattr(sizing, "_room", lambda request, tokenizer: "dropout" not in request.sizes)
    lm = pretrain(seconds=1)
    assert lm.model.config.dropout == 0.0
    assert not any("dropout" in note for note in lm.report.notes)


def test_a_size_is_timed_with_the_dropout_that_it_gets(small, monkeypatch):
    seen = []

    def timed(size, request, tokenizer, data, dropped=None):
        seen.append((size, dropped))
        return 2e-4 if dropped else 1e-4

    monkeypatch.setattr(sizing, "_step_time", timed)
    lm = pretrain(seconds=1)
    assert seen[-1][1] == {"dropout": 0.1, "attention_dropout": 0.0}
    said = next(note for note in lm.report.notes if note.startswith("sized"))
    assert f"at {seen[-1][0].tokens / 2e-4:,.0f} a second" in said


def test_a_short_text_leaves_long_contexts_out(monkeypatch):
    seen = timed(monkeypatch, 1e-5)  # a machine that would take the largest
    lm = lab.pretrain([TEXT[:6000]], name="short", display=False, seconds=1, sample_tokens=0)
    assert seen
    assert all(size.max_seq_len <= 64 for size in seen)
    assert lm.model.config.max_seq_len <= 64


def test_a_full_memory_leaves_large_sizes_out(monkeypatch):
    seen = timed(monkeypatch, 1e-5)
    few = memory.machine.Memory(4 << 30, 400 << 20)
    monkeypatch.setattr(memory.machine, "device_memory", lambda *_: few)
    lm = pretrain(seconds=1)
    assert seen
    assert lm.model.config.d_model < LADDER[-1].d_model


def test_the_doctor_shows_the_choice(small):
    Path("text.txt").write_text(LONG, encoding="utf-8")
    found = lab.doctor(sizes=True, corpus="text.txt")
    assert isinstance(found, Sizing)
    assert [point.n_layer for point in found.points] == [size.n_layer for size in small]
    assert found.points[0].measured
    frame = found.to_pandas()
    assert len(frame) == len(small) * len(found.seconds)
    assert frame["excess"].gt(0).all()
    assert found.best(found.seconds[0]).parameters <= found.best(found.seconds[-1]).parameters
    assert "Hoffmann" in str(found)


def test_a_corpus_without_sizes_is_refused():
    with pytest.raises(lab.LabError, match="--sizes"):
        lab.doctor(corpus="python-docs")


def test_a_damaged_choice_is_said(small, monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 3)
        left = pretrain(seconds=3)
    plan = left.run.read("plan")
    (left.run.path / "plan.json").write_text(json.dumps({**plan, "sizes": ["evil"]}), encoding="utf-8")
    with pytest.raises(lab.LabError, match=r"plan\.json is damaged"):
        pretrain(seconds=3)
