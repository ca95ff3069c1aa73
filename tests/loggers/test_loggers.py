"""What holds for any logger: it is asked for by name, holds up no step, ends no run, and changes no weight."""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest
import torch

from llm_lab.errors import BadValue
from llm_lab.loggers import loggers as room
from llm_lab.loggers.logger import Logger, Names, flat, library, settings
from llm_lab.loggers.loggers import FILE, Loggers
from llm_lab.loggers.options import LOGGERS
from llm_lab.registry import Entry
from llm_lab.store import runs
from tests.small import train


class Listener(Logger):
    """One that keeps what it is told, and fails, or waits, at a step."""

    fails_at = waits_at = -1

    def __init__(self) -> None:
        self.told, self.closed, self.go = [], [], threading.Event()
        type(self).last = self

    def start(self, about, kept):
        self.about, self.kept = about, kept
        self.look = "look here"
        return {"times": kept.get("times", 0) + 1}

    def tell(self, event):
        if event["step"] == self.fails_at:
            raise OSError("the server\nis gone")
        if event["step"] == self.waits_at:
            self.go.wait(20)
        self.told.append(event)

    def close(self, status, final):
        self.closed.append((status, dict(final)))


@pytest.fixture
def listener(monkeypatch):
    made = type("Own", (Listener,), {})
    monkeypatch.setattr(LOGGERS, "_entries", {**LOGGERS._entries, "own": Entry("own", made)})
    return made


def about(folder, **more):
    base = dict(name="a", id="b", folder=folder, step=0, seconds=0.0, request={}, plan={}, facts=[], environment={})
    return {**base, **more}


def step(n):
    return {"kind": "step", "step": n, "tokens": n, "seconds": 1.0, "loss": 1.0, "lr": 1.0}


def test_what_is_not_installed_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(BadValue, match="log: tensorboard is not installed; pip install tensorboard") as caught:
        train("none", log="tensorboard")
    assert "\n" not in str(caught.value)
    assert runs.all_runs() == []


def test_a_folder_that_a_logger_left_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "some_logger").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadValue, match="some_logger is not installed"):
        library("some_logger")


def test_a_library_that_is_broken_is_said(tmp_path, monkeypatch):
    (tmp_path / "broken_logger.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        BadValue, match=r"broken_logger cannot be imported .*nothing_of_that_name.* pip install --upgrade"
    ):
        library("broken_logger")


def test_an_unknown_logger_is_refused_with_the_nearest_spelling():
    with pytest.raises(BadValue, match="did you mean 'tensorboard'"):
        train("none", log="tensorbord")


def test_a_logger_is_told_the_lines_of_the_trace(listener):
    lm = train("told", log="own", watch="head_entropy")
    one = listener.last
    assert one.told == list(lm.run.events())
    assert {event["kind"] for event in one.told} >= {"start", "step", "validation", "watch", "sample", "end"}
    assert one.closed == [("finished", lm.report.final)]
    assert "log: look here" in lm.report.notes
    assert "log: look here" in json.loads((lm.run.path / "report.json").read_text())["notes"]
    assert json.loads((lm.run.path / FILE).read_text()) == {"own": {"times": 1}}
    assert one.about["plan"]["peak_lr"] == lm.run.read("plan")["peak_lr"]


def test_what_is_logged_is_no_part_of_the_request_and_changes_no_weight(listener):
    plain = train("same")
    restored = train("same", log="own")
    assert restored.run.id == plain.run.id
    assert restored.report.notes[-1] == "nothing was trained, so nothing was told to own"
    logged = train("same", log="own", fresh=True)
    assert logged.run.id != plain.run.id
    assert "--log own" in logged.report.repeat
    for a, b in zip(plain.model.parameters(), logged.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_logger_that_fails_is_closed_and_the_run_goes_on(listener):
    listener.fails_at = 5
    lm = train("lives", log="own", steps=20)
    assert (lm.report.status, lm.report.step) == ("finished", 20)
    assert [note for note in lm.report.notes if "closed" in note] == [
        "log: own was closed: OSError: the server is gone"
    ]
    assert listener.last.closed == [("failed", {})]


def test_a_logger_that_hangs_holds_up_neither_steps_nor_the_end(listener, tmp_path, monkeypatch):
    listener.waits_at = 2
    monkeypatch.setattr(room, "_PATIENCE", 0.3)
    notes: list[str] = []
    loggers = Loggers(["own"])
    loggers.start(about(tmp_path), notes)
    began = time.monotonic()
    for n in range(1, 200):
        loggers.tell(step(n))
    loggers.close("finished", {})
    assert time.monotonic() - began < 10  # and not the twenty seconds that it hangs
    assert notes[-1].startswith("log: own was closed: it did not take everything within")
    listener.last.go.set()


def test_a_logger_too_far_behind_is_given_up(listener, tmp_path, monkeypatch):
    listener.waits_at = 1
    monkeypatch.setattr(room, "_WAITING", 10)
    notes: list[str] = []
    loggers = Loggers(["own"])
    loggers.start(about(tmp_path), notes)
    for n in range(1, 50):
        loggers.tell(step(n))
    assert [note for note in notes if "closed" in note] == ["log: own was closed: it is 10 events behind"]
    listener.last.go.set()
    loggers.close("finished", {})
    assert len([note for note in notes if "closed" in note]) == 1


def test_a_run_that_goes_on_hands_back_what_was_kept_and_tells_the_past(listener, tmp_path):
    for expected in (1, 2):
        loggers = Loggers(["own"])
        loggers.start(about(tmp_path), [], map(step, range(1, 4)))
        loggers.tell(step(4))
        loggers.close("paused", {})
        assert listener.last.kept == ({} if expected == 1 else {"times": 1})
        assert [event["step"] for event in listener.last.told] == [1, 2, 3, 4]
        assert json.loads((tmp_path / FILE).read_text()) == {"own": {"times": expected}}


def test_a_damaged_file_of_what_was_kept_is_passed_by(listener, tmp_path):
    (tmp_path / FILE).write_text('{"own": [1, 2')
    loggers = Loggers(["own"])
    loggers.start(about(tmp_path), [])
    loggers.close("finished", {})
    assert listener.last.kept == {}


def test_no_loggers_cost_no_thread_and_no_file(tmp_path):
    before = threading.active_count()
    loggers = Loggers()
    loggers.start(about(tmp_path), [], iter(lambda: pytest.fail("the past is not read"), None))
    loggers.tell(step(1))
    assert threading.active_count() == before
    loggers.close("finished", {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_closes_its_loggers(listener, monkeypatch):
    from llm_lab import session

    def fail(self, event):
        if event.step == 3:
            raise ZeroDivisionError("at step three")

    monkeypatch.setattr(session.Session, "_update", fail)
    with pytest.raises(ZeroDivisionError):
        train("fails", log="own")
    assert listener.last.closed == [("failed", {})]


def test_names_are_the_fields():
    names = Names({"plan": {"peak_lr": 0.02}, "several": True, "seconds": 0.0})
    event = {
        "kind": "step",
        "step": 3,
        "tokens": 300,
        "seconds": 2.0,
        "loss": 1.5,
        "lr": 0.5,
        "parts": {"mlm": 1.0, "nsp": None},
    }
    assert names.numbers(event) == {
        "train/loss": 1.5,
        "train/lr": 0.01,
        "train/mlm": 1.0,
        "train/tokens": 300,
        "train/tokens_per_second": 150.0,
    }
    assert names.numbers({"kind": "validation", "step": 3, "loss": None, "parts": {"mlm": 2.0}}) == {"val/mlm": 2.0}
    assert names.numbers({"kind": "watch", "step": 3, "values": {"heads.0": 1.0, "lost": None}}) == {
        "watch/heads.0": 1.0
    }
    assert names.numbers({"kind": "pause", "step": 3}) == {}


def test_settings_are_flat_and_keep_code_at_home():
    request = {"model": {"class": "MyGPT", "source": "secret = 1", "behaviour": "f00"}, "options": {"steps": 12}}
    found = dict(flat(settings(about("x", request=request, plan={"options": {"lr": None, "muon": True}}))))
    assert found["request.model"] == "MyGPT"
    assert found["request.options.steps"] == 12
    assert found["plan.options.muon"] is True
    assert "plan.options.lr" not in found
    assert "secret" not in str(found)


def test_help_shows_the_option():
    from llm_lab.magics.help import text
    from llm_lab.verbs import VERBS

    assert "--log" in text(VERBS["pretrain"])
