"""Runs listed, filtered, renamed, deleted, accepted and packed: by their files, without loading any."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import llm_lab as lab
from llm_lab import managing
from llm_lab.lab import lab as verb
from llm_lab.store import inside, runs
from llm_lab.training.trainer import Trainer
from tests.small import train


def refused(call, *says: str) -> None:
    with pytest.raises(lab.LabError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in says:
        assert word in str(caught.value)


def fake(name: str, run_id: str, folder: Path | None = None, **parts: dict) -> runs.Run:
    """A run's folder, without weights."""
    path = (folder or runs.home(make=True)) / "runs" / f"{name}-{run_id}"
    path.mkdir(parents=True)
    for part in ("request", "status", "plan"):
        (path / f"{part}.json").write_text(json.dumps(parts.get(part, {})))
    return runs.Run(path)


def status(status: str = "finished", **more: object) -> dict:
    return {"status": status, "started": 1.0, "time": 2.0, **more}


def paused(name: str, step: int = 6, **options) -> lab.LM:
    """A run that was interrupted after a step."""
    real = Trainer.events

    def events(self):
        for event in real(self):
            yield event
            if event.kind == "step" and event.step == step:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "events", events)
        return train(name, **options)


# listing


def test_a_frame_has_a_row_a_run_and_proper_types():
    lm = train("bard", steps=9)
    fake("poet", "000001", status=status("failed"))
    frame = lab.runs()
    assert list(frame.index) == [0, 1] and set(frame["name"]) == {"bard", "poet"}
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert {kinds[name] for name in ("steps", "planned_steps", "tokens", "parameters", "from_step")} == {"Int64"}
    assert {kinds[name] for name in ("loss", "bits_per_byte", "seconds", "MB")} == {"float64"}
    assert {kinds[name] for name in ("name", "run", "from", "status", "corpus", "folder")} == {"string"}
    one = frame[frame["name"] == "bard"].iloc[0]
    assert one["parameters"] == sum(p.numel() for p in lm.model.parameters())
    assert one["steps"] == one["planned_steps"] == 9 and one["tokens"] == lm.history["tokens"].max()
    assert one["loss"] == lab.evaluate(lm, metrics="loss")["loss"] == pytest.approx(lm.report.final["loss"])
    sizes = [file.stat().st_size for file in lm.run.path.rglob("*") if file.is_file()]
    assert one["MB"] == sum(sizes) / 1e6
    assert isinstance(one["when"], pd.Timestamp) and one["started"] <= one["when"] <= pd.Timestamp.now(tz="UTC")
    assert one["when"].timestamp() == pytest.approx(lm.run.read("status")["time"], abs=1e-3)
    assert pd.isna(frame[frame["name"] == "poet"].iloc[0]["steps"])


def test_an_empty_list_has_the_same_columns():
    assert lab.runs().empty and list(lab.runs().columns) == list(managing.listed().to_pandas().columns)
    assert lab.runs().dtypes["steps"] == "Int64"
    assert "no run yet" in str(managing.listed())


def test_runs_are_filtered_and_sorted():
    for i, (name, corpus, state, loss) in enumerate(
        [
            ("bard", "a", "finished", 2.0),
            ("bard", "b", "paused", None),
            ("barn", "a", "finished", 1.0),
            ("poet", "a", "failed", 3.0),
        ]
    ):
        final = {} if loss is None else {"final": {"loss": loss}}
        fake(
            name,
            f"00000{i}",
            request={"corpus": {"name": corpus}},
            status=status(state, started=float(i), steps=10 - i, **final),
        )

    def ids(*args, **options) -> list[str]:
        return [one[-1] for one in lab.runs(*args, **options)["run"]]

    assert ids() == ["3", "2", "1", "0"]
    assert ids("bar*") == ["2", "1", "0"] and ids("bard") == ["1", "0"] and ids("000002") == ["2"]
    assert ids(status="paused") == ["1"] and ids(status=["paused", "failed"]) == ["3", "1"]
    assert ids("bar*", status="finished", corpus="a", sort="loss") == ["2", "0"]
    assert ids(sort="loss") == ["2", "0", "3", "1"] and ids(sort="steps") == ["0", "1", "2", "3"]
    assert ids(sort="name")[:2] == ["1", "0"] and ids(sort="started") == ["3", "2", "1", "0"]
    refused(lambda: lab.runs(sort="lost"), "sort: 'lost' is unknown; did you mean 'loss'")
    refused(lambda: lab.runs(status="pausd"), "did you mean 'paused'")
    assert "no run here is such a one; did you mean 'bard'" in str(managing.listed("brad"))
    assert "--status paused lists the runs of that status" in str(managing.listed("paused"))


def test_lineage_and_progress_are_shown():
    old = {"name": "bard", "run": "3f2a9c", "step": 500}
    path = fake("poet", "000001", request={"from": old}, plan={"steps": 2000}, status=status("paused", steps=812)).path
    timed = fake("timed", "000002", plan={"seconds": 60.0}, status=status("died"))
    line = {"kind": "step", "step": 41, "tokens": 7, "seconds": 35.0, "lr": 1.0, "loss": 2.0}
    (timed.path / "events.jsonl").write_text(
        "".join(json.dumps({**line, "step": i}) + "\n" for i in range(42)) + '{"kind"'
    )
    told = str(managing.listed())
    assert "bard 3f2a9c@500" in told and "paused at 812 of 2,000" in told
    assert "died at 41, 0:35 of 1:00" in told
    row = lab.runs("poet").iloc[0]
    assert (row["from"], row["from_step"]) == ("3f2a9c", 500)
    assert str(path) not in told and str(path) in set(lab.runs()["folder"])
    assert f"{len(lab.runs())} runs · " in told and " free" in told


def test_a_run_that_died_says_why():
    fake("bard", "000001", status=status("died", why="RuntimeError: the\nmachine"))
    assert "bard 000001 died: RuntimeError: the machine" in str(managing.listed())


def test_a_list_loads_no_weights(monkeypatch):
    lm = train("bard")
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: pytest.fail("loaded"))
    assert lab.runs()["parameters"].iloc[0] == sum(p.numel() for p in lm.model.parameters())
    assert [one.steps for one in lab.compare(["bard", lm.run.id]).models] == [12, 12]


# renaming


def test_a_renamed_run_goes_by_its_new_name(capsys):
    lm = train("bard")
    verb("rename", "bard", "poet")
    assert runs.names() == ["poet"]
    back = lab.load("poet")
    assert back.run.id == lm.run.id and back.name == back.report.name == "poet"
    assert "%%pretrain poet " in back.report.repeat and "bard" not in back.report.repeat
    assert back.history.equals(lab.load(lm.run.id).history)
    assert train("poet").run.id == lm.run.id
    assert train("bard").run.id != lm.run.id


def test_what_cannot_be_renamed():
    train("bard", steps=2), train("bard", steps=3)
    first, second = (run.id for run in reversed(runs.all_runs()))
    refused(lambda: verb("rename", "bard", "poet"), "2 runs are called 'bard'", first, second, "--all")
    refused(lambda: verb("rename", first, "my poet"), "cannot be a variable's name")
    refused(lambda: verb("rename", first), "lab rename needs a new name too")
    refused(lambda: verb("rename", "brad", "poet"), "no run is called 'brad'; did you mean 'bard'")
    refused(lambda: verb("rename", first, "poet", sort="loss"), "lab rename has no use for sort")
    assert {run.name for run in runs.all_runs()} == {"bard"}
    verb("rename", first, "poet")
    assert runs.find("poet").id == first and runs.find("bard").id == second
    train("bard", steps=4)
    verb("rename", "bard", "sage", all=True)
    assert sorted(run.name for run in runs.all_runs()) == ["poet", "sage", "sage"]


# deleting


def test_a_run_is_deleted_when_its_name_is_given_twice():
    lm, other = train("bard", checkpoints=2), train("poet")
    asked = verb("delete", "bard")
    assert lm.run.path.is_dir() and "Nothing is deleted yet: %lab delete bard bard" in str(asked)
    assert asked.rows[0][0] == lm.run.id and asked.rows[0][3] == round(inside.size(lm.run.path) / 1e6, 2)
    refused(lambda: verb("delete", "bard", "brad"), "the name again is 'brad', not 'bard'; nothing was deleted")
    refused(lambda: verb("delete", "nobody", "nobody"), "no run is called 'nobody'")
    gone = verb("delete", "bard", "bard")
    assert "deleted" in str(gone) and not lm.run.path.exists()
    assert [run.id for run in runs.all_runs()] == [other.run.id]
    assert not [path for path in runs.home().iterdir() if "deleted" in path.name]


def test_of_several_runs_one_is_named_or_all():
    train("bard", steps=2), train("bard", steps=3), train("bard", steps=4)
    newest, *others = (run.id for run in runs.all_runs())
    asked = verb("delete", "bard")
    assert len(asked.rows) == 3 and f"%lab delete {newest}" in str(asked) and "--all" in str(asked)
    refused(lambda: verb("delete", "bard", "bard"), "3 runs are called 'bard'", newest)
    assert len(runs.all_runs()) == 3
    verb("delete", newest, newest)
    assert [run.id for run in runs.all_runs()] == others
    assert "%lab delete bard bard --all" in str(verb("delete", "bard", all=True))
    verb("delete", "bard", "bard", all=True)
    assert runs.all_runs() == []


def test_a_checkpoint_is_deleted_and_its_run_stays():
    lm = train("bard", checkpoints=3)
    first, *rest = lm.checkpoints
    verb("delete", f"bard@{first}", f"bard@{first}")
    assert lab.load("bard").checkpoints == rest
    refused(lambda: verb("delete", f"bard@{first}"), "was not kept")


def test_a_run_that_was_forked_from_is_said_to_be():
    run = train("bard").run
    fake("poet", "00000a", request={"from": {"run": run.id, "step": 5, "name": "bard"}}, status=status())
    assert "poet 00000a was forked from it, and stays" in str(verb("delete", "bard"))


def test_a_run_that_is_training_is_not_touched():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        run = fake(
            "bard", "000001", status=status("training", pid=process.pid, host=__import__("socket").gethostname())
        )
        for call in (("delete", "bard", "bard"), ("rename", "bard", "poet"), ("pack", "000001")):
            refused(
                lambda call=call: verb(*call),
                "000001 of bard is being trained by process",
                str(process.pid),
                "%lab stop 000001",
            )
        process.kill()
    assert run.status == "died" and run.path.is_dir()
    verb("delete", "bard", "bard")
    assert not run.path.exists()


def test_a_run_that_another_process_has_locked_is_not_touched():
    run = train("bard").run
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); sys.stdin.read()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, str(run.path / "lock")], **pipes) as process:
        process.stdout.readline()
        refused(lambda: verb("delete", "bard", "bard"), "is being trained by process")
        process.communicate()
    verb("delete", "bard", "bard")


def test_what_lies_elsewhere_is_only_read(own_store, monkeypatch, tmp_path_factory):
    run = train("bard").run
    verb("pack", "bard")
    other = tmp_path_factory.mktemp("other")
    monkeypatch.chdir(other)
    for place in (own_store / ".llm_lab", own_store / "bard.zip"):
        monkeypatch.setenv("LLM_LAB_PATH", str(place))
        for call in (("delete", "bard", "bard"), ("rename", "bard", "poet"), ("accept", "bard")):
            refused(lambda call=call: verb(*call), "is only read", "bard")
        watched = lab.attach("bard")
        for ask in (watched.pause, watched.resume, watched.stop, functools.partial(watched.lr, 0.5)):
            refused(ask, "is only read", "bard")
        assert str(place) in lab.runs()["folder"].iloc[0]
    assert run.path.is_dir()


def test_links_are_deleted_and_not_what_they_lead_to(own_store, tmp_path_factory):
    run = train("bard").run
    disk = tmp_path_factory.mktemp("disk")
    shutil.move(run.path, disk / "moved")
    run.path.symlink_to(disk / "moved")
    (disk / "kept").write_text("mine")
    (disk / "moved" / "link").symlink_to(disk / "kept")
    assert lab.load("bard").run.id == run.id
    verb("delete", "bard", "bard")
    assert not os.path.lexists(run.path) and (disk / "moved" / "model.safetensors").is_file()
    assert (disk / "kept").read_text() == "mine"


# accepting


def test_a_paused_run_is_accepted_as_it_is():
    lm = paused("bard", 6, steps=40)
    assert lm.run.status == "paused" and not lm.run.has("model.safetensors")
    before = [p.clone() for p in lm.model.parameters()]
    assert "accepted" in str(verb("accept", "bard"))
    assert lm.run.status == "finished" and lm.run.read("status")["accepted"] is True
    again = train("bard", steps=40)
    assert again.run.id == lm.run.id and again.report.status == "restored" and again.report.step == 6
    assert all(torch.equal(a, b) for a, b in zip(before, again.model.parameters(), strict=True))
    refused(lambda: verb("accept", "bard"), "is finished already")


def test_what_cannot_be_accepted():
    fake("bard", "000001", status=status("failed"))
    refused(lambda: verb("accept", "bard"), "000001 of bard failed, and left no state")
    refused(lambda: verb("accept", "nobody"), "no run is called 'nobody'")


# packing


def test_packing_by_the_verb(own_store):
    lm = train("bard")
    made = verb("pack", "bard")
    assert Path("bard.zip").is_file() and 'lab.load("bard.zip")' in str(made)
    refused(lambda: verb("pack", "bard"), "bard.zip", "stays as it is; choose another name")
    (own_store / "gifts").mkdir()
    verb("pack", lm.run.id, "gifts")
    assert (own_store / "gifts" / "bard.zip").read_bytes() == Path("bard.zip").read_bytes()
    refused(lambda: verb("pack", "bard", "bard.tar"), "is no name of a zip; for example bard.zip")
    refused(lambda: verb("pack", "brad"), "did you mean 'bard'")
    shutil.rmtree(lm.run.path)
    assert lab.load("bard.zip").run.id == lm.run.id
    assert verb("show", "bard.zip").name == "bard"


def test_a_paused_run_is_packed_with_what_it_goes_on_from(own_store):
    lm = paused("bard", 6, steps=40)
    verb("pack", "bard")
    shutil.rmtree(lm.run.path)
    back = lab.load("bard.zip")
    assert back.run.status == "paused" and not back.run.resumable
    assert all(torch.equal(a, b) for a, b in zip(lm.model.parameters(), back.model.parameters(), strict=True))
    assert lab.runs().empty


# the verb


def test_by_magic():
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llm_lab")
    train("bard"), train("poet", steps=3)
    shell.run_line_magic("lab", 'runs "bar*" --sort loss --as found')
    assert [row.name for row in shell.user_ns["found"].rows] == ["bard"]
    shell.run_line_magic("lab", "rename bard sage --as found")
    shell.run_line_magic("lab", "delete sage sage")
    assert runs.names() == ["poet"]
    with pytest.raises(lab.LabError, match="did you mean 'sort'"):
        shell.run_line_magic("lab", "runs --sord loss")


def test_runs_are_compared_whatever_became_of_them():
    one = train("bard", steps=20, eval_every=5)
    two = paused("poet", 6, steps=40, eval_every=5)
    three = fake("cut", "00000c", request={"corpus": {"name": "x"}, "options": {"lr": 0.5}}, status=status("died"))
    shutil.copy(one.run.path / "events.jsonl", three.path)
    found = lab.compare(["bard", two.run.id, "cut"])
    assert [facts.status for facts in found.models] == ["finished", "paused", "died"]
    assert [facts.steps for facts in found.models] == [20, two.report.step, 20]
    history = one.history
    assert [p[2] for p in found.models[0].train] == history["train_loss"].dropna().tolist()
    assert [p[0] for p in found.models[2].val] == [5, 10, 15, 20]
    assert found.models[0].parameters == found.models[1].parameters == sum(p.numel() for p in one.model.parameters())
    assert found.models[2].parameters is None
    assert found.differ["steps"] == [20, 40, None] and "n_layer" not in found.differ
    assert found.differ["lr"][2] == 0.5
    assert ["steps", "20", "40", "–"] in [line.split() for line in str(found).splitlines()]
    assert found.code == f"lab.compare(['bard', {two.run.id!r}, 'cut'])"
    with runs.hold(two.run):  # gone on with: what it had come to when it was paused is old
        shutil.copy(one.run.path / "events.jsonl", two.run.path)
        two.run.note(status="training")
        facts = lab.compare(["bard", two.run.id]).models[1]
        assert (facts.status, facts.steps, facts.tokens) == ("training", 20, found.models[0].tokens)
        shown = verb("show", two.run.id)
        assert shown.status == "training" and not any("paused at" in note for note in shown.notes)
    two.run.note(status="paused")
    loaded = lab.compare([one, "poet"])
    assert loaded.models[0].options["n_layer"] == loaded.models[1].options["n_layer"] == 2
    assert set(loaded.differ) == {"steps"}
    refused(lambda: lab.compare(["bard", "nobody"]), "no model or run is called 'nobody'")
