"""Each logger with its real library: what the library's own reader finds of a run is the run's history, to the last digit."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import threading
from pathlib import Path

import pytest

from llm_lab import session
from llm_lab.loggers.loggers import FILE, Loggers
from llm_lab.store import runs
from tests.loggers import reading
from tests.small import train

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the libraries' own affairs
]


def there(name: str) -> bool:
    needs = {"mlflow": ["mlflow", "sqlalchemy"]}.get(name, [name])
    return all(importlib.util.find_spec(one) is not None for one in needs)


@pytest.fixture(params=["tensorboard", "mlflow", "wandb", "trackio"])
def name(request, monkeypatch, tmp_path_factory):
    if not there(request.param):
        pytest.skip(f"{request.param} is not installed; pip install {request.param} brings this test")
    for variable in [key for key in os.environ if key.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # nobody's keys
    if request.param == "trackio":
        pytest.importorskip("trackio.utils")
        for module in ("utils", "sqlite_storage"):  # it reads TRACKIO_DIR once, when it is imported
            monkeypatch.setattr(f"trackio.{module}.TRACKIO_DIR", tmp_path_factory.mktemp("trackio") / "own")
    return request.param


def history(lm) -> reading.Curves:
    """The curves as they should be, from what `lm.history` and the report say."""
    frame = lm.history

    def curve(column: str) -> list[tuple[int, float]]:
        rows = frame[["step", column]].dropna()
        return [(int(step), float(value)) for step, value in zip(rows["step"], rows[column], strict=True)]

    found = {"train/loss": curve("train_loss"), "val/loss": curve("val_loss"), "train/lr": curve("lr")}
    for column in frame:
        split, _, part = column.partition("_")
        if split in ("train", "val") and part != "loss":
            found[f"{split}/{part}"] = curve(column)
    steps = [
        event for event in lm.run.events() if event["kind"] == "step"
    ]  # whose seconds a validation's row overwrites
    found["train/tokens"] = [(event["step"], event["tokens"]) for event in steps]
    found["train/tokens_per_second"] = [(event["step"], event["tokens"] / event["seconds"]) for event in steps]
    return found | {f"watch/{column}": curve(column) for column in ("head_entropy", "grad_norm") if column in frame}


def test_the_librarys_own_reader_finds_the_history(name):
    lm = train("logged", steps=24, log=name, n_expert=2, watch="head_entropy,grad_norm")
    ((note,)) = [note for note in lm.report.notes if note.startswith("log: ")]
    curves, more = getattr(reading, name)(lm.run.path)
    assert set(curves) == set(history(lm))
    assert {"train/clm", "val/clm", "train/balance", "watch/head_entropy"} <= set(curves)
    for metric, curve in history(lm).items():
        assert curves[metric] == curve, metric
    assert len(more["sample"]) == len(lm.report.samples) > 0
    for (step, text), sample in zip(sorted(more["sample"]), lm.report.samples, strict=True):
        assert step == sample.step
        assert "".join((sample.prompt + sample.text).split()) in "".join(text.split())
    final = {f"final/{metric}": value for metric, value in lm.report.final.items()}
    assert {metric: more["final"][metric] for metric in final} == pytest.approx(final, rel=1e-6)
    assert "muon" in json.dumps(dict(more["settings"]), default=str)
    command, _, path = note.partition(" --logdir ")
    if name == "tensorboard":
        assert command == "log: tensorboard"
        assert Path(path).is_dir()  # from the working folder


def test_a_paused_run_goes_on_in_the_same_logged_run(name, monkeypatch):
    def pause(self, event, real=session.Session._update):
        real(self, event)
        if event.step == 9 and event.kind == "step" and self.first.kind == "start":
            self.trainer.request_stop()

    monkeypatch.setattr(session.Session, "_update", pause)
    asked = dict(steps=20, log=name, watch="head_entropy,grad_norm")
    left = train("twice", **asked)
    assert left.report.status == "paused"
    kept = json.loads((left.run.path / FILE).read_text())
    if name == "mlflow":
        assert reading.mlflow(left.run.path)[1]["status"] == "KILLED"
    lm = train("twice", **asked)
    assert (lm.run.id, lm.report.status, lm.report.step) == (left.run.id, "finished", 20)
    assert json.loads((lm.run.path / FILE).read_text()) == kept
    curves, more = getattr(reading, name)(lm.run.path)
    assert set(curves) == set(history(lm))
    for metric, curve in history(lm).items():
        assert curves[metric] == curve, metric
    assert len([value for step, value in curves["train/loss"]]) == 20
    assert "final/loss" in more["final"]


@pytest.mark.parametrize("lost", [4, -5], ids=["behind", "ahead"])
def test_a_run_that_was_killed_has_neither_gaps_nor_doubles(name, lost):
    """Its newest events did not get there, or came from after the state that it goes on from."""
    lm = train("cut", steps=30, watch="head_entropy")
    events, at = list(lm.run.events()), 14
    about = {part: lm.run.read(part) for part in ("request", "plan", "environment")}
    about |= {"name": lm.run.name, "id": lm.run.id, "folder": lm.run.path, "facts": [], "several": False}

    def tell(told, status, final, **more):
        notes: list[str] = []
        loggers = Loggers([name])
        loggers.start({**about, **more}, notes, [event for event in events if event["step"] <= more["step"]])
        for event in told:
            loggers.tell(event)
        loggers.close(status, final)
        assert not [note for note in notes if "was closed" in note]

    first = [event for event in events if event["step"] <= at - lost]
    loggers = Loggers([name])
    loggers.start({**about, "step": 0, "seconds": 0.0}, [])
    for event in first:
        loggers.tell(event)
    loggers.close("paused", {})
    kept = json.loads((lm.run.path / FILE).read_text())
    tell([event for event in events if event["step"] > at], "finished", {"loss": 1.5}, step=at, seconds=1.0)
    assert json.loads((lm.run.path / FILE).read_text()) == kept
    curves, more = getattr(reading, name)(lm.run.path)
    for metric, curve in history(lm).items():
        assert curves[metric] == curve, metric
    assert more["final"]["final/loss"] == 1.5
    if name == "mlflow":
        assert more["status"] == "FINISHED"


def test_mlflow_that_loses_its_database_ends_no_run(monkeypatch):
    if not there("mlflow"):
        pytest.skip("mlflow is not installed; pip install mlflow brings this test")

    def damage(self, event, real=session.Session._update):
        real(self, event)
        if event.step == 10:
            for file in Path(".llm_lab/mlflow").glob("mlflow.db*"):
                file.write_bytes(b"no database " * 500)

    monkeypatch.setattr(session.Session, "_update", damage)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lm = train("lives", steps=20, log="mlflow")
    assert lm.report.status == "finished"
    assert lm.report.step == 20
    assert [note for note in lm.report.notes if "mlflow was closed" in note]


def test_a_server_that_is_not_there_ends_no_run(monkeypatch):
    if not there("mlflow"):
        pytest.skip("mlflow is not installed; pip install mlflow brings this test")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lm = train("lives", steps=5, log="mlflow")
    assert lm.report.status == "finished"
    (note,) = [note for note in lm.report.notes if "mlflow" in note]
    assert "mlflow was closed" in note
    assert "127.0.0.1" in note


def test_tensorboard_on_a_full_disk_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # its own writer's thread ends by an error too
    notes: list[str] = []
    about = dict(name="a", id="b", folder=tmp_path, step=0, seconds=0.0, request={}, plan={}, facts=[], environment={})
    loggers = Loggers(["tensorboard"])
    loggers.start(about, notes)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4096, limits[1])
    )  # no file may grow beyond: writing fails as on a full disk
    try:
        for step in range(1, 3000):
            loggers.tell(dict(kind="step", step=step, tokens=step, seconds=1.0, loss=1.0, lr=1.0))
        loggers.close("finished", {})
        for thread in threading.enumerate():  # here, not in another test
            if type(thread).__name__ == "_AsyncWriterThread":
                thread.join(10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [note for note in notes if "tensorboard was closed" in note and "File too large" in note]
    assert runs.all_runs() == []
