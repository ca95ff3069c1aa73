"""What a run survives: its process killed at any moment, a full disk, damaged files; to the last bit."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

import llm_lab as lab
from llm_lab.background import attach
from llm_lab.jobs import write_job
from llm_lab.store import runs
from llm_lab.store.runs import Run
from tests.small import SIZES, TEXT, train

ROOT = Path(__file__).parent.parent
STEPS = dict(steps=900, save_every=0.001, dropout=0.1, d_model=64, max_seq_len=48, keep="best", eval_every=50)


def same(a: lab.LM, b: lab.LM) -> bool:
    pairs = zip(a.model.state_dict().items(), b.model.state_dict().items(), strict=True)
    return all(x == y and torch.equal(p, q) for (x, p), (y, q) in pairs)


def told(run: Run) -> list:
    """The course of a run, but for the clock."""
    frame = run.history
    return (
        frame.drop(columns="seconds").astype(object).where(frame.drop(columns="seconds").notna(), None).values.tolist()
    )


@pytest.fixture
def text():
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return "text.txt"


@pytest.fixture
def lives():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lives"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    yield process
    process.stdin.close()
    process.wait(30)
    for stream in (process.stdout, process.stderr):
        stream.close()


def live(process, run: Run, seconds: float | None) -> None:
    """One worker, killed after so many seconds; None: left in peace."""
    process.stdin.write(f"{run.path}\n")
    process.stdin.flush()
    child = int(process.stdout.readline())
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert process.stdout.readline() == "over\n"


def left_behind(name: str, text: str, **options) -> Run:
    """A run that was asked for and not begun."""
    from llm_lab.corpora.open import open_corpus
    from llm_lab.request import Request

    request, corpus = Request(name, text, {**SIZES, **options}), open_corpus(text)
    run = runs.create(name, request.identity(corpus, None))
    write_job(run, request, corpus)
    return run


def test_killed_at_25_random_moments_it_ends_as_if_nothing_had_been(text, lives):
    whole = train("whole", text, **STEPS)
    run = left_behind("killed", text, **STEPS)
    draw = random.Random(time.time_ns())
    reached, writing = [], 0
    for _ in range(25):
        live(lives, run, draw.uniform(0.03, 0.4))
        assert run.status == "died"
        writing += any(run.path.glob("**/.*"))
        reached.append(run.states[-1] if run.states else 0)
    assert reached == sorted(reached)  # nothing that was saved is lost
    assert 0 < reached[-1] < STEPS["steps"], reached
    print(f"states at {reached}; {writing} times the last kill left a file half written")
    live(lives, run, None)
    assert run.status == "finished", attach(run).report.notes
    again = lab.load("killed")
    assert same(whole, again)
    assert told(whole.run) == told(run)
    assert run.read("status")["final"] == whole.run.read("status")["final"]


OPTIONS = dict(steps=60, save_every=0.001, dropout=0.1, eval_every=10)


def pausing(monkeypatch, at: int, also=lambda session: None):
    """Pauses a run of this process at a step; what is `also` done at each event before."""
    from llm_lab.session import Session

    def update(self, event, real=Session._update):
        real(self, event)
        also(self)
        if event.step == at:
            self.trainer.request_stop()

    monkeypatch.setattr(Session, "_update", update)
    monkeypatch.setattr("llm_lab.store.states.COST", 1e9)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no seal"])
def test_a_damaged_state_is_named_and_the_one_before_it_is_used(damage, text, monkeypatch, own_store):
    whole = train("whole", text, **OPTIONS)
    with monkeypatch.context() as patch:
        pausing(patch, 40)
        run = train("hurt", text, **OPTIONS).run
    before, newest = run.states
    path = run.state_file(newest)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": data[: len(data) // 2], "empty": b"", "no seal": data.replace(b"sha256", b"sha257")}.get(damage, data)
    )
    assert lab.load("hurt").run.id == run.id  # a model can be had from the one before it
    again = train("hurt", text, **OPTIONS)
    assert again.run.id == run.id
    notes = "\n".join(again.report.notes)
    assert str(path) in notes
    assert "is damaged" in notes
    assert f"goes on from step {before} of" in notes
    assert same(whole, again)
    assert told(whole.run) == told(run)


def test_a_damaged_state_goes_as_soon_as_there_is_another(text, monkeypatch, own_store):
    with monkeypatch.context() as patch:
        pausing(patch, 40)
        run = train("hurt", text, **OPTIONS).run
    run.state_file(58).write_bytes(b"{}")
    with monkeypatch.context() as patch:
        pausing(patch, 45)
        train("hurt", text, **OPTIONS)
    assert len(run.states) == 2
    assert 45 <= run.states[-1] < 50


def wrong_in_its_thread(monkeypatch):
    monkeypatch.setattr("llm_lab.store.states.write_tensors", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))


def wrong_in_copying(monkeypatch):
    from llm_lab.training.optimizers import Muon

    def step(self, closure=None, real=Muon.step):
        real(self, closure)
        next(iter(self.state.values()))["past"] = []

    monkeypatch.setattr(Muon, "step", step)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (wrong_in_its_thread, "a state was not saved: MemoryError: no room"),
        (wrong_in_copying, "a state was not saved: Muon holds past, a list"),
    ],
)
def test_what_keeps_a_state_from_the_disk_is_said_once_and_the_run_goes_on(wrong, says, text, monkeypatch):
    whole = train("whole", text, **OPTIONS)
    with monkeypatch.context() as patch:
        wrong(patch)
        lm = train("bard", text, **OPTIONS)
        assert same(whole, lm)
        assert sum(says in note for note in lm.report.notes) == 1
        pausing(patch, 9)
        lm = train("left", text, **OPTIONS)
    assert "nothing is on the disk" in lm.report.notes


def test_where_every_state_is_damaged_it_begins_again(text, monkeypatch):
    whole = train("whole", text, **OPTIONS)
    with monkeypatch.context() as patch:
        pausing(patch, 40)
        run = train("hurt", text, **OPTIONS).run
    for step in run.states:
        run.state_file(step).write_bytes(b"{}")
    with pytest.raises(lab.LabError, match=r"is damaged"):
        lab.load("hurt")
    again = train("hurt", text, **OPTIONS)
    assert "goes on from step 0 of" in "\n".join(again.report.notes)
    assert same(whole, again)
    assert told(whole.run) == told(run)


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A folder on a disk of 3 MB, and what fills it and frees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    monkeypatch.chdir(disk)

    def fill(leave: int = 0) -> None:
        with contextlib.suppress(OSError), open("filler", "ab", buffering=0) as file:
            while os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize > leave:
                file.write(b"0" * 4096)

    yield fill
    os.chdir(tmp_path)
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("leave", [0, 20_000])
def test_a_full_disk_is_said_and_nothing_older_is_lost(leave, small_disk, monkeypatch):
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    train("whole", "text.txt", **OPTIONS)
    whole = lab.load("whole")
    filled = []

    def fill(session) -> None:
        session.saver.wait()
        if session.card.step >= 20 and not filled:
            session.log.flush()
            filled.extend(session.run.states)
            small_disk(leave)

    with monkeypatch.context() as patch:
        pausing(patch, 40, fill)
        lm = train("full", "text.txt", **OPTIONS)
    run = lm.run
    assert lm.report.status == "paused"
    assert any("the disk is full" in note for note in lm.report.notes), lm.report.notes
    assert f"what is on the disk goes on from step {filled[-1]}" in lm.report.notes
    assert lab.generate(lm, "1", max_new_tokens=3).text  # the model is there, as it was at step 40
    assert run.states == filled
    Path("filler").unlink()
    again = train("full", "text.txt", **OPTIONS)
    assert again.run.id == run.id
    assert f"goes on from step {filled[-1]} of" in "\n".join(again.report.notes)
    assert same(whole, again)
    assert told(runs.find("whole")) == told(run)


def test_what_is_asked_of_a_run_on_a_full_disk_does_not_end_it(small_disk, monkeypatch):
    Path("text.txt").write_text(TEXT, encoding="utf-8")

    def ask(session) -> None:
        if session.card.step == 20:
            session.saver.wait()
            small_disk()
            session._obey({"do": "lr", "scale": 0.5})
            Path("filler").unlink()

    with monkeypatch.context() as patch:
        pausing(patch, 40, ask)
        lm = train("full", "text.txt", **OPTIONS)
    assert lm.report.status == "paused"
    assert lm.run.read("status")["touched"] is True


def test_a_disk_that_is_full_at_the_end_leaves_the_model_to_its_user(small_disk, monkeypatch):
    from llm_lab.session import Session

    Path("text.txt").write_text(TEXT, encoding="utf-8")

    def update(self, event, real=Session._update):
        real(self, event)
        if event.kind == "end":
            self.saver.wait()
            small_disk()

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_update", update)
        patch.setattr("llm_lab.store.states.COST", 1e9)
        lm = train("late", "text.txt", **OPTIONS)
    assert lm.report.status == "failed"
    assert "the disk is full" in lm.report.notes[-1]
    assert "late.save(path)" in lm.report.notes[-1]
    assert lab.generate(lm, "1", max_new_tokens=3).text
    Path("filler").unlink()
    again = train("late", "text.txt", **OPTIONS)
    assert again.run.id == lm.run.id
    assert again.report.status == "finished"
    assert same(lm, again)


def test_a_full_device_is_left_empty_and_its_run_can_go_on(monkeypatch):
    """Nothing of the step, nor of the model, lives on in the error, which a notebook keeps."""
    from llm_lab.training.trainer import Trainer

    whole, left = train("whole", steps=12), []

    def step(self, number, factor, watched=False, real=Trainer._step):
        if number == 6:
            activations = self.trainee.model(torch.zeros(1, 4, dtype=torch.long)).logits
            left.extend(map(weakref.ref, (activations, self.trainee.model, self.optimizers[0])))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, number, factor, watched)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        patch.setattr("llm_lab.store.states.COST", 1e9)
        with pytest.raises(
            lab.LabError, match=r"batch_size 4; --batch_size 2 --accumulate 2 takes less; its state after step"
        ) as told_so:
            train("bard", steps=12, save_every=0.001)
    assert told_so.value.__context__ is None
    gc.collect()
    assert [one() for one in left] == [None] * 3
    assert runs.find_any("bard").status == "failed"
    assert same(whole, train("bard", steps=12))


def test_what_only_looks_does_not_end_a_run(monkeypatch):
    def broken(*_):
        raise RuntimeError("a whole block is needed")

    with monkeypatch.context() as patch:
        patch.setattr("llm_lab.session.sample", broken)
        lm = train("bard", steps=16, eval_every=1)
    assert lm.report.status == "finished"
    assert [note for note in lm.report.notes if note.startswith("no samples: ")] == [
        "no samples: RuntimeError: a whole block is needed"
    ]

    def gone(self, result):
        raise BrokenPipeError("the terminal is gone")

    for how in ("update", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(f"llm_lab.views.live.Live.{how}", gone)
            lm = lab.pretrain([TEXT], name=how, steps=8, **SIZES)
        assert lm.run.status == "finished"
        told_so = [note for note in lm.report.notes if note.startswith("not drawn from step")]
        assert len(told_so) == 1
        assert "BrokenPipeError: the terminal is gone" in told_so[0]
