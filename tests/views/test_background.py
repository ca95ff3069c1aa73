"""A run of another process on the page, without a browser: its card, what is said of what was asked, and who watches it."""

from __future__ import annotations

import re
import sys
import threading
import time
import types

import IPython.display
import pytest

from llm_lab.errors import BadValue
from llm_lab.views import background, live
from tests.views import fakes
from tests.views.test_pages import Page


class Output:
    """A display handle that keeps what was shown."""

    def __init__(self, bundle):
        self.shown = [bundle]

    def update(self, bundle, **_):
        self.shown.append(bundle)

    @property
    def html(self):
        return self.shown[-1]["text/html"]


@pytest.fixture
def outputs(monkeypatch):
    """The outputs of a cell, in their order; what a thread would print of an error fails the test."""
    made, wrong = [], []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **_: made.append(Output(bundle)) or made[-1])
    monkeypatch.setattr(threading, "excepthook", wrong.append)
    monkeypatch.setattr(background, "INTERVAL", 0.01)
    monkeypatch.setattr(background, "RARELY", 0.05)
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    yield made
    for shown in list(background._shown.values()):
        shown.leave()
    until(lambda: not watchers())
    assert wrong == []


def watchers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("llm_lab ")]


def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def words(result):
    return Page(re.sub(r"<script>.*?</script>", "", result._repr_mimebundle_()["text/html"], flags=re.S)).text


def test_the_card_says_where_it_trains_and_how_to_see_it_again():
    text = words(fakes.background())
    assert "training in the background" in text and "%attach bard shows this again" in text
    assert "interrupt" not in text  # that would not reach it
    assert "interrupt" in words(fakes.training("training"))
    died = words(fakes.background("died", why="its process was ended by SIGKILL"))
    assert "died" in died and "its process was ended by SIGKILL" in died and "background" not in died
    assert "trained" in words(fakes.background("finished"))
    assert "%attach" not in words(fakes.training())
    assert "training in the background" in str(fakes.background()) and "%attach bard" in str(fakes.background())


def test_what_is_left_is_said_where_steps_are_the_budget():
    report = fakes.training("training", steps=200, by_time=False)
    report.seconds = 50.0
    assert "0:50, about 1:42 to go" in words(report) and "0:50, about 1:42 to go" in str(report)  # 406 steps of 0.25 s
    report.status = "paused"
    assert "to go" not in words(report)
    assert "to go" not in words(fakes.training("training"))  # of a time budget the end is known


def test_what_was_asked_is_said_until_it_is_done():
    run = fakes.growing()
    asked = background.Controls(run)
    assert asked.now()["says"] == ""
    asked.ask("lr", 0.5)
    assert asked.now()["says"] == "learning rate × 0.5 from the next step on…" and asked.waits
    run.update()
    now = asked.now()
    assert now["says"] == "learning rate × 0.5 of its schedule" and not asked.waits
    assert (now["scale"], now["rate"], now["step"]) == (0.5, 3.2e-3, 5)
    asked.ask("pause")
    assert asked.now()["says"] == "pausing after this step…" and asked.waits
    run.update()
    assert asked.now()["says"] == "paused at step 5"
    asked.ask("resume")
    assert asked.now()["says"].endswith("goes on from its last state…")
    run.update()
    assert asked.now()["says"] == "it goes on"
    asked.ask("stop")
    assert asked.now()["says"] == "ending after this step…"


def test_what_cannot_be_done_is_said_in_one_line():
    run = fakes.growing()
    run.report.status = "died"
    asked = background.Controls(run)
    asked.ask("pause")
    assert asked.now()["wrong"] and asked.now()["says"] == "pause: run 3f2a9c of bard is died, not training"
    run.actions["resume"] = lambda: 1 / 0
    asked.ask("resume")
    assert asked.now()["says"] == "ZeroDivisionError: division by zero" and not asked.waits


def test_a_run_that_dies_is_not_going_on_any_more():
    run = fakes.growing()
    asked = background.Controls(run)
    for step in (5, 1):  # long after it went on, and before it could
        run.report.status = "died"
        assert "its process died" in asked.now()["says"] and "resume goes on" in asked.now()["says"]
        asked.ask("resume")
        assert asked.now()["says"] == "a process goes on from its last state…"
        run.report.status, run.report.step = "training", step
        assert asked.now()["says"] == ("it goes on" if step == 5 else "a process goes on from its last state…")
        run.report.step = 1
    run.report.status = "died"
    assert "its process died" in asked.now()["says"] and not asked.waits
    run.report.step = 0
    assert asked.now()["says"] == "its process died before the first step; resume begins it again"


def test_who_pauses_and_is_gone_on_with_elsewhere_is_not_pausing():
    run = fakes.growing()
    asked = background.Controls(run)
    asked.ask("pause")
    run.update()
    assert asked.now()["says"].startswith("paused")
    run.report.status = "training"
    assert asked.now()["says"] == ""


def test_a_thread_redraws_until_the_run_is_over(outputs):
    run = fakes.growing(ends=60)
    run.widget().show()
    card, bar = outputs
    assert re.fullmatch(r'<div class="llm-lab-bar-[0-9a-f]{8}"></div>', bar.shown[0]["text/html"])  # all that is saved
    assert "application/vnd.jupyter.widget-view+json" not in bar.shown[0]
    until(lambda: not watchers())
    assert len(card.shown) > 5
    assert "training in the background" in card.shown[3]["text/html"] and "<script" not in card.shown[3]["text/html"]
    assert "<script" in card.html and "training in the background" not in card.html
    assert bar.html == "" and not background._shown


def test_one_that_is_over_has_no_controls(outputs):
    done = fakes.background("finished")
    done.widget().show()
    assert len(outputs) == 1 and "<script" in outputs[0].html and not watchers()


def test_the_newest_output_of_a_run_is_the_live_one(outputs):
    run = fakes.growing()
    shown = [run.widget(), run.widget()]
    shown[0].show()
    shown[1].show()
    until(lambda: len(watchers()) == 1)
    assert "newer output" in outputs[1].html
    drawn = len(outputs[2].shown)
    until(lambda: len(outputs[2].shown) > drawn)
    assert background._shown == {"3f2a9c": shown[1]}
    shown[1].leave()
    until(lambda: not watchers())
    assert "detached; the run goes on" in outputs[3].html and run.report.status == "training"


def test_a_run_that_rests_is_not_redrawn_and_goes_on_when_it_does(outputs):
    run = fakes.growing()
    run.widget().show()
    run.pause()
    until(lambda: "paused" in outputs[0].html)
    drawn = len(outputs[0].shown)
    time.sleep(0.2)
    assert len(outputs[0].shown) == drawn
    run.resume()
    until(lambda: len(outputs[0].shown) > drawn + 2)


@pytest.mark.parametrize(
    ("error", "said"),
    [(BadValue("run 3f2a9c of bard was deleted"), "was deleted"), (RuntimeError("<b>"), "RuntimeError: &lt;b&gt;")],
)
def test_a_run_that_cannot_be_read_ends_the_watch_with_a_line(outputs, error, said):
    run = fakes.growing()

    def fail():
        raise error

    run.widget().show()
    run.actions["update"] = fail
    until(lambda: not watchers())
    assert said in outputs[1].html


def test_the_page_asks_and_is_told(outputs):
    run = fakes.growing()
    shown = run.widget()
    shown.show()
    bar, sent = shown._bar, []
    bar.send = sent.append
    for message in ({"kind": "ask", "do": "lr", "scale": 2.0}, {"kind": "ask", "do": "rm"}, {"kind": "ask"}, "what"):
        bar._heard(None, message, [])
    until(lambda: run.report.lr_scale == 2.0)
    until(lambda: bar.now["says"] == "learning rate × 2 of its schedule")
    bar._heard(None, {"kind": "card"}, [])
    assert sent[0]["kind"] == "card" and "llm-lab-card" in sent[0]["page"] and "llm-lab-drawn-" in sent[0]["classes"]
    bar._heard(None, {"kind": "detach"}, [])
    until(lambda: not watchers())


def test_a_cell_that_watches_draws_until_the_end(capsys, outputs):
    run = fakes.growing(ends=40)
    background.watch(run)
    assert run.report.status == "finished"
    said = capsys.readouterr()
    assert "step" in said.err and "trained" in said.out and "detached" not in said.out


def test_an_interrupt_detaches_and_leaves_the_run_alone(capsys, outputs):
    run = fakes.growing()
    update, looks = run.actions["update"], []

    def interrupted():
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return update()

    run.actions["update"] = interrupted
    background.watch(run)
    assert "detached; the run goes on; %attach bard watches it again" in capsys.readouterr().out
    assert run.report.status == "training"


def test_where_no_thread_can_draw_the_cell_watches(monkeypatch, capsys, outputs):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    run = fakes.growing(ends=20)
    run.widget().show()
    assert run.report.status == "finished" and not watchers() and not background._shown
