"""The benchmark's own machinery, with parts that take no time; what it measures is not for a test to say."""

from __future__ import annotations

import json

import pytest
import torch

import llm_lab as lab
from llm_lab.bench import measuring, options
from llm_lab.bench.__main__ import main
from llm_lab.bench.gpu import gpu
from llm_lab.bench.measuring import in_turns, judged, limits, ratio, spread
from llm_lab.bench.options import LONG, PARTS, BenchOptions
from llm_lab.bench.training import WIDE, optimizer_seconds, products, rate, text, trainer
from llm_lab.bench.writing import random_lm
from llm_lab.registry import Entry, Table
from llm_lab.results import BenchLine


def quick(asked):
    yield BenchLine(part="quick", what="as fast", value=2.0, low=1.9, high=2.1, goal=1.5, note="4 against 2")
    yield BenchLine(part="quick", what="too slow", value=1.0, goal=1.5)
    yield BenchLine(part="quick", what="elsewhere", value=None, goal=1.5, note="there is no GPU")
    yield BenchLine(part="quick", what=f"{asked.rounds} turns", value=0.4, unit="%", goal=0.5, least=False)


@pytest.fixture
def parts(monkeypatch):
    made = Table("part", [Entry("quick", quick, "no time"), Entry("slow", quick, "hours", supports=LONG)])
    monkeypatch.setattr(options, "PARTS", made)
    monkeypatch.setattr(measuring, "PARTS", made)
    return made


def test_turns_alternate_and_the_first_is_not_counted():
    order = []

    def way(name):
        order.append(name)
        return float(len(order) - 1)

    found = in_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 3)
    assert order == ["a", "b"] * 4
    assert found == {"a": [2.0, 4.0, 6.0], "b": [3.0, 5.0, 7.0]}


def test_a_ratio_is_taken_within_each_turn():
    # A machine that slows down to a third between turns leaves the ratio as it is.
    assert ratio([6.0, 2.0, 4.0], [3.0, 1.0, 2.0]) == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"value": 3.0, "low": 2.0, "high": 4.0}


def test_goals_are_least_or_most():
    def reached(value, least):
        return BenchLine(part="p", what="w", value=value, goal=1.0, least=least).reached

    assert [reached(1.1, True), reached(0.9, True), reached(1.0, True)] == [True, False, True]
    assert [reached(1.1, False), reached(0.9, False), reached(None, True)] == [False, True, None]


def test_a_missed_goal_says_what_limits_it():
    x = torch.randn(400, 400)
    missed = judged(
        BenchLine(part="p", what="w", value=1.0, goal=2.0, note="1 of 2"), lambda: x @ x, "a larger product"
    )
    assert missed.note.startswith("1 of 2; of its operations' time ")
    assert "mm " in missed.note
    assert missed.note.endswith("next: a larger product")
    met = BenchLine(part="p", what="w", value=3.0, goal=2.0)
    assert judged(met, lambda: pytest.fail("it was profiled")) is met


def test_limits_name_what_takes_the_time():
    x = torch.randn(600, 600)
    said = limits(lambda: [x @ x for _ in range(5)])
    assert said.split("time ")[1].startswith(("mm ", "addmm "))


def test_the_command_prints_the_table_and_writes_the_figures(parts, tmp_path, capsys):
    target = tmp_path / "figures.json"
    assert main(["--rounds", "2", "--json", str(target)]) == 0
    out = capsys.readouterr().out
    assert "as fast" in out
    assert "× 2.00" in out
    assert "reached" in out
    assert "MISSED" in out
    assert "there is no GPU" in out
    assert "40.0 %" in out
    found = json.loads(target.read_text())
    assert [line["reached"] for line in found["lines"]] == [True, False, None, True]
    assert {"torch", "cpu", "date", "cores", "threads", "load_before"} <= found["environment"].keys()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_measured_before_it_stays(parts, monkeypatch, error):
    def breaks(asked):
        yield BenchLine(part="breaks", what="first", value=1.0)
        raise error("no more")

    made = Table("part", [Entry("breaks", breaks), Entry("quick", quick)])
    monkeypatch.setattr(options, "PARTS", made)
    monkeypatch.setattr(measuring, "PARTS", made)
    found = measuring.run(BenchOptions())
    assert found.lines[0].what == "first"
    if error is KeyboardInterrupt:
        assert any("interrupted in breaks" in note for note in found.notes)
        assert len(found.lines) == 1
    else:
        assert found.lines[1].note == "RuntimeError: no more"
        assert found.lines[2].what == "as fast"


def test_long_parts_only_where_they_are_named(parts):
    assert BenchOptions().chosen == ("quick",)
    assert BenchOptions(parts=("slow",)).chosen == ("slow",)


def test_an_unknown_part_is_one_line(capsys):
    assert main(["trainig"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "training" in said


def test_the_doctor_gives_it_and_leaves_nothing(parts, tmp_path):
    found = lab.doctor(bench=True)
    assert [line.what for line in found.lines][:2] == ["as fast", "too slow"]
    assert list(found.to_pandas()["reached"])[:2] == [True, False]
    assert not list(tmp_path.iterdir())
    with pytest.raises(lab.LabError, match="keep one"):
        lab.doctor(bench=True, sizes=True)


def test_without_a_gpu_its_figures_are_left_blank():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    lines = list(gpu(BenchOptions()))
    assert [line.value for line in lines] == [None, None]
    assert all("no CUDA GPU" in line.note for line in lines)


def test_each_part_of_the_table_can_be_loaded():
    assert all(callable(PARTS.load(name)) for name in PARTS)


def test_what_the_training_part_measures_is_what_it_says(monkeypatch):
    """A rate of real steps; as many products as the model has linear maps, three each; the optimiser put back as it was."""
    monkeypatch.setattr("llm_lab.bench.training.SECONDS", 0.05)
    data, tokenizer = text()
    sizes = dict(n_layer=1, n_head=2, d_model=32, max_seq_len=16)
    one = trainer("modern", sizes, data, tokenizer, 4)
    before = one.at.step
    measure = rate(one)
    assert measure() > 0
    assert one.at.step > before + 2
    calls = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args: calls.append(args) or real(*args))
    products(one.trainee.model, 64, torch.float32)()
    linear = sum(isinstance(m, torch.nn.Linear) for m in one.trainee.model.modules())
    assert len(calls) == 5 * 2 * linear
    monkeypatch.undo()
    steps = [optimizer.step for optimizer in one.optimizers]
    assert 0 < optimizer_seconds(one, lambda: next(one.events())) < 1
    assert [optimizer.step for optimizer in one.optimizers] == steps
    assert WIDE["d_model"] >= 256


def test_a_random_model_writes():
    _, tokenizer = text()
    lm = random_lm(
        "gpt2", tokenizer.vocab_size, tokenizer, dict(n_layer=1, n_head=2, d_model=16, max_seq_len=32), torch.float32
    )
    assert len(lab.generate(lm, "The", max_new_tokens=5, min_new_tokens=5, seed=0).tokens[0]) == 5


def test_other_seeds_only_for_sizes_that_come_near_the_chosen_one(monkeypatch):
    from llm_lab.bench import quality

    asked = []

    def loss(corpus, seconds, seed, **size):
        asked.append((seed, size.get("d_model")))
        return {None: 1.0, 64: 2.0, 128: 0.99, 256: 0.9}[size.get("d_model")] + 0.01 * seed

    sizes = [dict(n_layer=1, d_model=width, max_seq_len=8) for width in (64, 128, 256)]
    monkeypatch.setattr(quality, "_texts", lambda: ["a text"])
    monkeypatch.setattr(quality, "_loss", loss)
    monkeypatch.setattr(quality, "FIXED", sizes)
    (line,) = quality.sizes(BenchOptions(rounds=3))
    assert [one for one in asked if one[1] == 64] == [(0, 64)]
    assert [seed for seed, width in asked if width == 256] == [0, 1, 2]
    assert line.value == pytest.approx(1.01 / 0.91)
    assert line.reached is False
    assert "1 × 256, context 8: 0.9100; 3 seeds of the chosen one and of the 2 that come near it" in line.note
