"""When states are saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_lab.store import runs, states


def test_saving_less_often_where_it_costs_too_much(monkeypatch):
    saver = states.Saver(runs.Run(Path("nowhere")), 10.0)
    saver._cost = 0.5
    assert saver.interval == pytest.approx(50)  # half a second in a hundred
    assert states.Saver(runs.Run(Path("nowhere")), 0.0).due is False
    asked = states.Saver(runs.Run(Path("nowhere")), 0.0, at_once=True)
    assert asked.due  # somebody waits for it
    asked.skip()
    assert not asked.due


def test_a_run_that_others_wait_for_is_saved_often_at_first(monkeypatch):
    now = 100.0
    monkeypatch.setattr(states.time, "monotonic", lambda: now)
    monkeypatch.setattr(states, "write_state", lambda *_: None)
    saver, saved = states.Saver(runs.Run(Path("nowhere")), 10.0, at_once=True), []
    while now < 150:
        if saver.due:
            saver.save(lambda: None)
            saver.wait()
            saver._cost = 0.0
            saved.append(now - 100)
        now += 0.5
    assert saved == [0, 1, 3, 7, 15, 25, 35, 45]
