"""A run that was left goes on as if it had not been: paused anywhere, whatever it learns, by steps and by time; and who finds
it again."""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import llm_lab as lab
from llm_lab.errors import BadType, BadValue, Busy
from llm_lab.registry import Entry
from llm_lab.store import control, runs
from llm_lab.store.states import newest_state, read_state
from llm_lab.training.options import OPTIMIZERS
from tests.small import SIZES, TEXT, train
from tests.test_faults import ROOT, pausing, same, told


def twice(monkeypatch, at: int, **options):
    """A run in one piece, and one that was paused at a step (or at several)."""
    whole = train("whole", **options)
    for step in [at] if isinstance(at, int) else at:
        with monkeypatch.context() as patch:
            pausing(patch, step)
            left = train("left", **options)
        assert left.report.status == "paused"
        assert left.run.states[-1] >= step
    again = train("left", **options)
    assert again.run.id == left.run.id
    return whole, again


class Odd(nn.Module):
    """A user's model with a state that no gradient moves, and a dropout of its own."""

    def __init__(self, vocab_size):
        super().__init__()
        self.table, self.norm = nn.Embedding(vocab_size, 12), nn.BatchNorm1d(12)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(12, vocab_size)

    def forward(self, ids):
        x = self.table(ids)
        return self.head(self.drop(self.norm(x.flatten(0, 1)).view_as(x)))


class Counting(nn.Module):
    """A user's model that counts its steps in a buffer which is no part of its state, and goes by it."""

    def __init__(self, vocab_size):
        super().__init__()
        self.table, self.head = nn.Embedding(vocab_size, 12), nn.Linear(12, vocab_size)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, ids):
        self.seen += self.training
        return self.head(self.table(ids) / (1 + self.seen))


class Momentum(torch.optim.Optimizer):
    """An optimiser whose state has plain numbers, and tensors of another shape than their parameter's."""

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["t"], state["scale"] = state.get("t", 0) + 1, 0.5 * state.get("scale", 1.0)
                state["rows"] = p.grad.mean(-1) + 0.9 * state.get("rows", 0)
                p.data -= group["lr"] * (state["rows"].unsqueeze(-1) / state["t"] + state["scale"] * p.grad)


@pytest.fixture
def momentum(monkeypatch):
    def make(trainee, options):
        return [Momentum([p for _, p in trainee.parameters()], {"lr": 0.1, "peak_lr": 0.1})]

    table = OPTIMIZERS._entries
    monkeypatch.setitem(table, "momentum", Entry("momentum", make))


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.2, "keep": "best", "eval_every": 4},
        {"optimizer": "adamw", "schedule": "cosine", "accumulate": 2, "dropout": 0.1},
        {"precision": "bf16", "mlp": "swiglu", "bias": True, "dropout": 0.1},
        {"preset": "bert", "dropout": 0.1},
        {"preset": "electra"},
        {"preset": "t5", "dropout": 0.1},
        {"preset": "xlnet"},
        {"preset": "lstm"},
        {"objective": "mtp", "n_future": 2},
        {"objective": "clm,mlm", "mix": "turns"},
        {"n_expert": 4, "n_active": 2},
        {"checkpoints": 5, "checkpoint_spacing": "log", "watch": "grad_norm,weight_norm", "eval_every": 5},
        {"model": Odd},
        {"model": Counting},
        {"optimizer": "momentum"},
        {"epochs": 0.4, "tokenizer": "bpe", "vocab_size": 300},
    ],
)
@pytest.mark.parametrize("at", [1, [7, 13]])
@pytest.mark.usefixtures("momentum")
def test_it_goes_on_to_the_last_bit(options, at, monkeypatch):
    steps = {} if "epochs" in options else {"steps": 24}
    if options.get("preset") == "lstm":
        monkeypatch.delitem(SIZES, "n_head")
    whole, again = twice(monkeypatch, at, **steps, **options)
    assert same(whole, again)
    extras = zip(whole.extras.state_dict().values(), again.extras.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in extras)
    assert told(whole.run) == told(again.run)
    assert again.report.final == whole.report.final
    assert again.checkpoints == whole.checkpoints
    for step in whole.checkpoints:
        assert same(lab.load(f"whole@{step}"), lab.load(f"left@{step}"))
    assert [s.text for s in again.report.samples] == [s.text for s in whole.report.samples]
    assert not again.run.states  # a finished run has its model


def test_a_time_budget_goes_on_with_the_time_that_was_left(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 20)
        left = train("left", seconds=2.5)
    spent = left.report.seconds
    assert left.report.status == "paused"
    assert spent < 2
    time.sleep(0.7)  # which is nobody's
    again = train("left", seconds=2.5)
    assert again.report.status == "finished"
    assert again.report.seconds == pytest.approx(2.5, abs=0.3)
    course = again.run.history
    assert course["step"].tolist() == list(range(1, len(course) + 1))
    assert course["seconds"].is_monotonic_increasing
    # the schedule goes on where the clock stood, and ends at its end
    steps = course.dropna(subset="lr")
    assert steps["lr"].iloc[-1] < 0.1 * steps["lr"].max()
    replayed = train("again", replay=again.run.id)  # the same plan and the same trace
    assert same(again, replayed)


def test_a_changed_rate_is_in_the_trace_and_such_a_run_is_found_by_name_only(monkeypatch):
    from llm_lab.session import Session

    asked = []

    def update(self, event, real=Session._update):
        real(self, event)
        if event.step == 6 and not asked:
            asked.append(self.card.step)
            self._obey({"do": "lr", "scale": 0.25})

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_update", update)
        touched = train("bard", steps=20, schedule="constant", warmup=0)
    rates = [event["lr"] for event in touched.run.events() if event["kind"] == "step"]
    assert set(rates) == {1.0, 0.25}
    assert [event["scale"] for event in touched.run.events() if event["kind"] == "control"] == [0.25]
    assert "learning rate × 0.25" in "\n".join(touched.report.notes)
    assert "--replay" in touched.report.repeat
    other = train("bard", steps=20, schedule="constant", warmup=0)
    assert other.run.id != touched.run.id
    assert train("bard", steps=20, schedule="constant", warmup=0).run.id == other.run.id
    assert same(train("again", replay=touched.run.id, warmup=0, schedule="constant"), touched)


def test_the_rate_that_a_person_set_is_still_set_after_a_pause(monkeypatch):
    from llm_lab.session import Session

    def update(self, event, real=Session._update):
        real(self, event)
        if event.step == 6:
            self._obey({"do": "lr", "scale": 0.25})
        if event.step == 10:
            self._obey({"do": "pause"})

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_update", update)
        train("bard", steps=20, schedule="constant", warmup=0)
    run = train("bard", steps=20, schedule="constant", warmup=0).run
    rates = [event["lr"] for event in run.events() if event["kind"] == "step"]
    assert len(rates) == 20
    assert set(rates[10:]) == {0.25}
    assert run.read("status")["touched"] is True


def test_only_the_same_request_goes_on(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        left = train("bard", steps=20)
    assert train("bard", steps=20, lr=0.003).run.id != left.run.id
    assert train("bard", [TEXT + "!"], steps=20).run.id != left.run.id
    assert train("bard", steps=20, fresh=True).run.id != left.run.id
    assert runs.Run(left.run.path).status == "paused"  # the old one is kept
    assert train("other", steps=20).run.id != left.run.id


def test_a_paused_run_is_a_model_and_can_be_taken_as_it_is(monkeypatch):
    options = dict(steps=40, keep="best", eval_every=3, muon_lr=0.3, schedule="constant")
    with monkeypatch.context() as patch:
        pausing(patch, 20)
        left = train("bard", **options)
    loaded = lab.load("bard")
    assert loaded.run.status == "paused"
    assert lab.generate("bard", "1", max_new_tokens=3).text
    from llm_lab.store.accepting import accept

    state, _ = newest_state(left.run)
    taken = accept(left.run)
    assert taken.run.status == "finished"
    assert "accepted at step" in taken.report.notes[-1]
    best = {name.removeprefix("best.0."): t for name, t in state.tensors.items() if name.startswith("best.0.")}
    assert best
    assert all(torch.equal(tensor, best[name]) for name, tensor in taken.model.state_dict().items() if name in best)
    assert train("bard", **options).run.id == left.run.id
    with pytest.raises(BadValue, match="is finished already"):
        accept(left.run)


def test_other_versions_of_torch_are_said(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        left = train("bard", steps=12)
    environment = left.run.read("environment")
    left.run.write("environment", {**environment, "torch": "2.9.0"})
    again = train("bard", steps=12)
    assert f"not exact to the last bit from here on: torch was 2.9.0 and is {torch.__version__}" in again.report.notes


def test_states_are_sealed_files_of_numbers_and_few(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 12)
        run = train("bard", steps=40, save_every=0.001).run
    assert len(run.states) == 2
    state = read_state(run.state_file(run.states[-1]))
    assert state.progress.step == run.states[-1]
    assert {name.split(".")[0] for name in state.tensors} == {"model", "optimizer"}
    assert oct(run.state_file(run.states[-1]).stat().st_mode)[-3:] == "644"


def test_weights_that_never_come_are_not_waited_for(text, monkeypatch):
    run = train("bard", text, steps=3).run
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run.note(status="training", pid=other.pid, born=None)
    monkeypatch.setattr("llm_lab.background._SOON", 0.0)
    card = run.read("report")
    run.write("report", {**card, "notes": [*card["notes"], "a state was not saved: the disk is full"]})
    with pytest.raises(BadValue, match=r"has saved no weights so far: a state was not saved: the disk is full"):
        lab.attach("bard").lm  # noqa: B018
    other.kill()
    other.wait()


def test_an_error_while_the_whole_split_is_read_leaves_the_run_finished(text, monkeypatch):
    def fail(*_):
        raise RuntimeError("odd")

    monkeypatch.setattr("llm_lab.session.likelihoods", fail)
    lm = train("bard", text, steps=3)
    assert lm.report.status == lm.run.status == "finished" and lm.report.final == {}
    assert "the whole validation split was not read (RuntimeError: odd); %evaluate does" in lm.report.notes


def test_an_interrupt_that_falls_into_the_start_of_saving_is_an_interrupt(monkeypatch):
    def start(self, real=threading.Thread.start):
        if self.name == "llm-lab-save":
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        pausing(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train("bard", steps=12)
    assert train("bard", steps=12).report.status == "finished"


def test_a_second_process_is_told_who_is_at_it(tmp_path):
    """Two at the same request at once: one trains, the other says so, and can attach."""
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    code = (
        "import llm_lab as lab\n"
        f"lm = lab.pretrain('text.txt', name='bard', display=False, seconds=6, **{SIZES!r})\n"
        "print(lm.report.status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    while not any(run.status == "training" for run in runs.all_runs()):
        time.sleep(0.05)
    attached = lab.attach("bard")
    with pytest.raises(
        Busy, match=rf"run {attached.run} of bard is being trained by process \d+ on .*%attach bard watches it"
    ):
        lab.pretrain("text.txt", name="bard", display=False, seconds=6, **SIZES)
    ends = [process.communicate(timeout=120) for process in both]
    said = sorted(out.decode().strip() for out, _ in ends)
    assert said == ["", "finished"]
    refused = next(err for out, err in ends if not out)
    assert b"is being trained by process" in refused
    assert attached.wait(10).run.status == "finished"
    assert len(runs.all_runs()) == 1


def test_a_held_run_is_not_written_by_another(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        run = train("bard", steps=12).run
    code = f"import time\nfrom pathlib import Path\nfrom llm_lab.store import runs\nwith runs.hold(runs.Run(Path({str(run.path)!r}))):\n print('held', flush=True)\n time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match="is being trained by process"):
            train("bard", steps=12)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert train("bard", steps=12).report.status == "finished"  # the lock went with its holder


def test_a_process_is_there_as_long_as_it_holds_its_lock(monkeypatch):
    """Another machine's processes cannot be looked at, and the clock by which one of ours was born may be put right."""
    whole = train("whole", steps=12)
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        run = train("bard", steps=12).run
    run.note(status="training", host="elsewhere")
    with pytest.raises(Busy, match=r"on elsewhere since .*should that machine be gone, it can go on 5 minutes after"):
        train("bard", steps=12)  # its lock is free, as it is where a disk keeps none
    code = f"import time\nfrom pathlib import Path\nfrom llm_lab.store import runs\nrun = runs.Run(Path({str(run.path)!r}))\nwith runs.hold(run):\n run.set_status('training')\n run.note(born=1.0)\n print('held', flush=True)\n time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        for host in (socket.gethostname(), "elsewhere"):
            run.note(host=host)
            for file in ("status.json", "events.jsonl"):
                os.utime(run.path / file, (1e9, 1e9))
            assert run.status == "training"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert run.status == "died"
    run.note(host=socket.gethostname())
    assert run.status == "died"
    assert same(whole, train("bard", steps=12))


def test_a_model_that_is_finished_while_it_is_loaded_is_the_finished_one(monkeypatch):
    from llm_lab.store import lm

    with monkeypatch.context() as patch:
        pausing(patch, 5)
        left = train("bard", steps=12)

    def first(run, model, real=lm._latest):
        train("bard", steps=12)
        return real(run, model)

    monkeypatch.setattr(lm, "_latest", first)
    assert lab.load("bard").run.status == "finished"
    assert not left.run.states


@pytest.mark.parametrize(("fresh", "cell"), [(True, "the same cell without --fresh"), (False, "the same cell")])
def test_the_cell_that_goes_on_is_named(fresh, cell, monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        left = train("bard", steps=12, fresh=fresh)
    assert f"; {cell} goes on from there" in left.report.notes[-1]
    assert train("bard", steps=12).run.id == left.run.id


# --- in the background ----------------------------------------------------------------------------------------------------


@pytest.fixture
def text():
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    yield "text.txt"
    ours = {child.pid for child in psutil.Process().children(recursive=True)}
    for run in runs.all_runs():
        # What stands in a file may be anybody's process by now.
        if run.status == "training" and (pid := run.read("status")["pid"]) in ours:
            os.kill(pid, 9)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def test_a_worker_trains_what_a_cell_would(text):
    here = train("here", text, steps=20, dropout=0.1)
    began = time.monotonic()
    bard = train("there", text, steps=20, dropout=0.1, background=True)
    assert time.monotonic() - began < 2  # it returns at once
    there = bard.wait(60)
    assert bard.status == "finished"
    assert same(here, there)
    assert told(here.run) == told(there.run)
    assert train("there", text, steps=20, dropout=0.1, background=True).run.id == there.run.id  # restored, an LM


@pytest.mark.parametrize("corpus", ["list", "pairs"])
def test_a_text_without_a_name_goes_along(corpus):
    data = [TEXT[:4000], TEXT[4000:8000]] if corpus == "list" else lab.corpus("stories", part="headlines", size=20_000)
    options = {"preset": "t5", "objective": "seq2seq"} if corpus == "pairs" else {}
    here = train("here", data, steps=4, **options)
    there = train("there", data, steps=4, background=True, **options).wait(60)
    assert same(here, there)


def test_a_tokenizer_goes_along(text):
    own = lab.tokenizer(text, "bpe", 300)
    there = train("there", text, steps=4, tokenizer=own, background=True).wait(60)
    assert there.tokenizer.fingerprint == own.fingerprint


def test_pause_resume_rate_and_stop(text, capsys):
    bard = train("bard", text, steps=100_000, background=True, save_every=0.2)
    assert lab.generate(bard, "1", max_new_tokens=3).text  # with its latest weights: the first are waited for
    with pytest.raises(Busy):
        bard.resume()
    capsys.readouterr()
    for name in (bard, "bard"):  # by the variable and by the name, it is said how far it had come
        lab.generate(name, "1", max_new_tokens=3)
        assert f"run {bard.run} is training; its weights after step " in capsys.readouterr().out
    first = bard.lm
    bard.lr(0.5)
    until(lambda: any("learning rate × 0.5" in note for note in bard.update().notes))
    until(lambda: bard.lm is not first)
    bard.pause()
    until(lambda: bard.status == "paused")
    at = bard.report.step
    assert not bard.lm.model.training
    with pytest.raises(BadValue, match="is paused, not training"):
        bard.lr(2)
    with pytest.raises(BadValue, match="is no factor"):
        bard.lr("fast")
    bard.resume()
    until(lambda: bard.update().step > at)
    same_cell = train("bard", text, steps=100_000, background=True, save_every=0.2)
    assert same_cell.run == bard.run  # it is watched again
    with pytest.raises(Busy, match="%attach bard watches it"):
        train("bard", text, steps=100_000)
    bard.stop()
    lm = bard.wait(60)
    assert lm.run.status == "finished"
    assert lm.report.final["loss"] > 0
    kinds = [
        (event["kind"], event.get("do"), event.get("scale"))
        for event in lm.run.events()
        if event["kind"] in ("control", "resume")
    ]
    assert kinds == [
        ("control", "lr", 0.5),
        ("control", "pause", None),
        ("resume", None, None),
        ("control", "stop", None),
    ]
    steps = [event["step"] for event in lm.run.events() if event["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))


def test_a_cell_that_was_paused_goes_on_in_the_background_as_it_now_says(monkeypatch):
    whole = train("whole", steps=12)  # whose text is a list, which no job of a cell holds
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        left = train("bard", steps=12, time_limit=1000)
    bard = train("bard", steps=12, background=True, time_limit=2000)
    assert bard.run == left.run.id
    assert json.loads((left.run.path / "job.json").read_text())["options"]["time_limit"] == 2000
    assert same(whole, bard.wait(60))


def test_a_worker_does_not_go_on_with_another_text(text, monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        left = train("bard", text, steps=12)
    Path(text).write_text(TEXT + "!", encoding="utf-8")
    bard = lab.lab.lab("resume", "bard")
    until(lambda: bard.status == "failed")
    bard.update()
    assert f"its text (text) has changed since run {left.run.id} of bard was begun" in bard.report.notes[-1]
    assert left.run.states
    Path(text).write_text(TEXT, encoding="utf-8")
    assert train("bard", text, steps=12).run.id == left.run.id


def test_why_a_worker_died_is_said_and_it_can_go_on(text):
    bard = train("bard", text, steps=100_000, background=True, save_every=0.1)
    run = runs.find_any("bard")
    until(lambda: run.states)
    os.kill(run.read("status")["pid"], 9)
    until(lambda: bard.status == "died")
    assert "its process was ended by SIGKILL; its state after step" in bard.report.notes[-1]
    # a kernel that did not begin it knows less
    run.note(signal=None)
    assert "ended without a word" in lab.attach("bard").report.notes[-1]
    run.note(ooms=-1)
    assert "the system killed its process, for memory was full" in lab.attach("bard").report.notes[-1]
    assert lab.runs()["status"].iloc[0].startswith("died")
    at = run.states[-1]
    bard.resume()
    until(lambda: bard.update().step > at and bard.status == "training")


def test_a_polite_end_of_its_process_is_a_pause(text):
    bard = train("bard", text, steps=100_000, background=True)
    run = runs.find_any("bard")
    until(lambda: bard.update().step > 5)
    os.kill(run.read("status")["pid"], 15)
    until(lambda: bard.status != "training")
    assert bard.status == "paused"
    assert run.states[-1] == bard.report.step


def test_a_polite_end_before_its_first_step_is_one_too(text, monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        run = train("bard", text, steps=100_000).run
    bard = lab.lab.lab("resume", "bard")
    pid = run.read("status")["pid"]
    until(lambda: "torch" in Path(f"/proc/{pid}/maps").read_text())  # it imports
    os.kill(pid, 15)
    until(lambda: bard.status != "training")
    assert bard.status == "paused"
    assert run.states


def test_a_time_limit_pauses(text):
    bard = train("bard", text, steps=100_000, background=True, time_limit=1)
    lm = bard.wait(60)
    assert bard.status == "paused"
    assert any("time limit of 1 s is over" in note for note in bard.report.notes)
    assert lm.run.states


def test_a_run_that_cannot_begin_says_why(text):
    bard = train("bard", text, steps=10, batch_size=4, max_seq_len=100_000, background=True)
    until(lambda: bard.status == "failed")
    assert "the corpus is shorter than one block" in "\n".join(bard.report.notes)
    with pytest.raises(lab.LabError, match="no run called 'bard' has left a model"):
        lab.load("bard")


class Here(Odd):
    pass


def test_what_a_worker_cannot_see_is_said_before_anything_is_begun(text):
    Local = type("MyGPT", (Odd,), {"__module__": "__main__"})
    with pytest.raises(
        BadValue, match=r"^model: MyGPT is defined in this notebook.*%%writefile mygpt\.py.*from mygpt import MyGPT"
    ):
        train("bard", text, model=Local, background=True)
    with pytest.raises(BadType, match=r"^model: .*an object of this kernel; give its class"):
        train("bard", text, model=Odd(200), background=True)

    def watching(w):
        return 1.0

    with pytest.raises(BadValue, match=r"^watch: watching is defined in this notebook"):
        train("bard", text, watch=(watching,), background=True)
    assert runs.all_runs() == []


def test_a_class_of_a_file_goes_to_a_worker(text):
    here = train("here", text, steps=4, model=Here)
    bard = train("there", text, steps=4, model=Here, background=True)
    until(lambda: bard.status == "finished")
    assert same(here, lab.load("there", model=Here))


def test_attach_finds_runs_of_any_state(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        lm = train("bard", steps=12)
    for name in ("bard", lm.run.id, lm):
        attached = lab.attach(name)
        assert (attached.run, attached.status, attached.report.step) == (lm.run.id, "paused", lm.report.step)
    assert np.isfinite(attached.to_pandas()["train_loss"]).all()
    with pytest.raises(BadValue, match="no run is called 'nobody'; there is: bard"):
        lab.attach("nobody")
    with pytest.raises(BadValue, match="was begun in a cell that holds what it needs"):
        attached.resume()  # its text was a list
    attached.stop()
    assert attached.status == "finished"
    with pytest.raises(BadValue, match="is finished, not training; %%pretrain NAME --from bard trains it further"):
        attached.pause()


def test_a_run_that_goes_on_is_not_said_to_be_paused(monkeypatch):
    """Between its new process's beginning and that one's first word."""
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        run = train("bard", steps=12).run
    attached = lab.attach("bard")
    assert any("paused at step" in note for note in attached.report.notes) and attached.report.repeat
    with runs.hold(run):
        run.note(status="training")
        report = attached.update()
        assert report.status == "training" and report.step >= 5 and not report.repeat
        assert report.notes == ["a process begins, to go on from its last state"]
    run.note(status="paused")
    assert any("paused at step" in note for note in attached.update().notes)


@pytest.mark.parametrize("when", ["update", "close"])
def test_a_card_that_cannot_be_drawn_costs_no_run(when, monkeypatch):
    """A shell's reader that is gone (`… | head -1`), a mistake of a view."""

    def broken(*_):
        raise BrokenPipeError("nobody reads on")

    with monkeypatch.context() as patch:
        patch.setattr(f"llm_lab.views.live.Live.{when}", broken)
        with contextlib.suppress(BrokenPipeError):
            lab.pretrain([TEXT], name="bard", steps=12, **SIZES)
    run = runs.find("bard")
    assert run.status == "finished"
    lm = train("bard", steps=12)
    assert lm.run.id == run.id and lm.report.status == "restored" and lm.report.step == 12
    assert any("not drawn from step" in note for note in lm.report.notes) == (when == "update")


def test_several_workers_share_the_cores(text, monkeypatch):
    monkeypatch.setattr("llm_lab.machine.cores", lambda: 2)
    first = train("first", text, steps=100_000, background=True, threads=None)
    until(lambda: first.update().step > 0)
    second = train("second", text, steps=3, background=True, threads=None)
    second.wait(60)
    plans = [runs.find_any(name).read("plan")["threads"] for name in ("first", "second")]
    cores = len(os.sched_getaffinity(0))
    assert plans == [cores, max(1, cores // 2)]
    third = train("third", text, steps=3, threads=None)  # in this process
    assert third.run.read("plan")["threads"] == max(1, cores // 2)
    assert any(note.startswith("the cores are shared with first, training now") for note in third.report.notes)
    first.pause()


def test_control_lines_that_are_none_are_passed_by(monkeypatch):
    run = train("bard", steps=2).run
    reader = control.Control(run)
    (run.path / control.FILE).write_bytes(b'{"do": "pause"}\n[1]\n{\n"x"\n{"do": "lr", "scale": 2}\n{"do": "st')
    assert list(reader.new()) == [{"do": "pause"}, {"do": "lr", "scale": 2}]
    with open(run.path / control.FILE, "ab") as file:
        file.write(b'op"}\n')
    assert list(reader.new()) == [{"do": "stop"}]
    assert json.loads((run.path / "status.json").read_text())["status"] == "finished"


def test_a_job_that_this_user_did_not_write_starts_nothing(text, monkeypatch):
    """A stranger's folder, put into one's own store: its job could name any code."""
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        run = train("bard", text, steps=12).run
    job = json.loads((run.path / "job.json").read_text())
    Path("canary.py").write_text("open('executed', 'w')")
    for changed in (
        {"path": [os.getcwd()]},
        {"options": {**job["options"], "model": {"code": "canary:x"}}},
        {"seal": None},
    ):
        run.write("job", {**job, **changed})
        with pytest.raises(BadValue, match=r"job\.json was not written in this store, so nothing is started by it"):
            lab.lab.lab("resume", "bard")
    assert not Path("executed").exists()
    run.write("job", job)
    assert lab.lab.lab("resume", "bard").wait(60).run.status == "finished"


# --- interrupts at its end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["llm_lab.store.lm:LM.save", "llm_lab.session:likelihoods"])
def test_an_interrupt_while_it_is_saved_or_measured_loses_nothing(where, monkeypatch):
    whole = train("whole", steps=5)
    real = pkgutil.resolve_name(where)

    def interrupted(*args, **more):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return real(*args, **more)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(where.replace(":", "."), interrupted)
        lm = train("bard", steps=5)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (lm.report.status, lm.run.status) == ("finished", "finished")
    assert bool(lm.report.final) == ("save" in where)
    assert same(whole, lab.load("bard"))


def test_what_ends_after_the_run_was_over_does_not_undo_it(monkeypatch):
    def closing(self, status, final):
        assert status == "finished"
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_lab.loggers.loggers.Loggers.close", closing)
    lm = train("bard", steps=5)
    assert lm.run.status == "finished"
    assert "log: its end was not waited for" in lab.load("bard").report.notes[-1]


def test_checkpoints_by_the_clock_are_those_of_the_course_that_was_taken(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, -1, also=lambda session: session.run.checkpoints and session.trainer.request_stop())
        left = train("bard", seconds=2.5, checkpoints=12, save_every=0)
    assert left.checkpoints
    later = left.run.states[-1] + 1
    left.run.checkpoint(later).mkdir()
    (left.run.checkpoint(later) / "model.safetensors").write_bytes(b"")
    again = train("bard", seconds=2.5, checkpoints=12, save_every=0)
    assert set(left.checkpoints) <= set(again.checkpoints)
    for step in again.checkpoints:
        lab.load(f"bard@{step}")
