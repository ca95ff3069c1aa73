"""A compiled step: prepared before the first one, left out where it cannot be made; torch's own compiler is not what is tested."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab import machine
from llm_lab.models.options import ModelConfig
from llm_lab.training import plan
from llm_lab.training.options import BudgetOptions, TrainOptions
from llm_lab.training.plan import resolve
from tests.small import train


def losses(lm) -> list[float]:
    return lm.history.train_loss.dropna().tolist()


@pytest.fixture
def compiler(monkeypatch):
    """What torch would compile, as it is; the list of what it was asked for."""
    asked = []

    def compile(function, **how):
        asked.append(how)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    return asked


def broken(function, **how):
    def call(*args):
        raise RuntimeError("Python.h: No such file")

    return call


def test_what_prepares_it_changes_nothing(compiler):
    plain, fast = (train(name=f"n{on}", steps=6, dropout=0.1, compile=on, precision="fp32") for on in (False, True))
    assert losses(fast) == losses(plain)
    assert fast.report.tokens == plain.report.tokens
    assert compiler == [{"dynamic": False}]
    assert any(fact.endswith(", compiled") for fact in fast.report.facts)
    assert not any("compiled" in fact for fact in plain.report.facts)


def test_the_schedule_begins_after_it(compiler, monkeypatch):
    """Else a warm-up by the clock would be over when the steps begin."""
    from llm_lab.training.trainer import Trainer

    seconds, factors, real = 30.0, [], Trainer._factor
    monkeypatch.setattr(Trainer, "seconds", property(lambda self: 0.0 if self.at.late == 0 else 20.0 + self.at.step))

    def late(self):
        self.at.late = 20.0

    def factor(self, step):
        factors.append(real(self, step))
        return factors[-1]

    monkeypatch.setattr(Trainer, "_compile", late)
    monkeypatch.setattr(Trainer, "_factor", factor)
    train(seconds=seconds, warmup=0.5, compile=True, sample_tokens=0)
    assert factors[0] == 0.0
    assert np.argmax(factors) == len(factors) // 2


def test_where_it_was_asked_for_and_fails_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(lab.LabError, match=r"compile: .*Python\.h.*--compile false"):
        train(compile=True)


def test_where_it_was_not_asked_for_and_fails_the_steps_go_on_without(monkeypatch):
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(machine, "compiles", lambda where: True)
    monkeypatch.setattr(plan, "COMPILED", 0.5)
    lm = train(seconds=1.0)
    assert lm.report.step > 1
    assert any("could not be compiled" in note and "Python.h" in note for note in lm.report.notes)


@pytest.mark.parametrize(
    ("options", "compiled"),
    [
        (dict(seconds=1.0), True),
        (dict(steps=2), False),
        (dict(seconds=1.0, compile=False), False),
        (dict(seconds=1.0, n_expert=2), False),
        (dict(seconds=1.0, attention="window", window=8), False),
        (dict(seconds=1.0, objective="mlm"), False),
    ],
)
def test_by_itself_only_what_stays_the_same_and_lasts(compiler, monkeypatch, options, compiled):
    monkeypatch.setattr(machine, "compiles", lambda where: True)
    monkeypatch.setattr(plan, "COMPILED", 0.5)
    train(sample_tokens=0, **options)
    assert bool(compiler) == compiled


def test_a_cpu_compiles_nothing_by_itself():
    config = ModelConfig(vocab_size=9)
    found = resolve(BudgetOptions(seconds=3600), TrainOptions(device="cpu"), 32, 1000, config.d_model, alike=True)
    assert not found.compiled
