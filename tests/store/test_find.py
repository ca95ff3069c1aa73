"""Which run a name, an id and an identical request find."""

from __future__ import annotations

import json

import pytest

import llm_lab as lab
from llm_lab.store import runs
from tests.small import train


def set_status(run: runs.Run, **changes: object) -> None:
    (run.path / "status.json").write_text(json.dumps({**run.read("status"), **changes}))


def test_failed_runs_are_passed_by():
    good = train("bard").run
    bad = train("bard", steps=3).run
    set_status(bad, status="failed")
    assert runs.find("bard") == good
    assert runs.names() == ["bard"]
    set_status(good, status="failed")
    assert runs.names() == []
    with pytest.raises(
        lab.LabError, match=rf"no run called 'bard' has left a model \({bad.id} failed, {good.id} failed\)"
    ):
        lab.load("bard")


def test_a_failed_run_is_found_by_its_id_and_not_loaded():
    run = train("bard").run
    set_status(run, status="failed")
    assert runs.find(run.id) == run
    assert len(runs.find(run.id).learning_rates()) == 12
    with pytest.raises(lab.LabError, match=r"failed, and its weights are not numbers to work with; train it again"):
        lab.load(run.id)
    (run.path / "model.safetensors").unlink()
    set_status(run, why="RuntimeError: the\nmachine")
    for name in (run.id, run.path.name, run.path):
        with pytest.raises(lab.LabError, match=r"failed \(RuntimeError: the machine\), and its weights were not saved"):
            lab.load(name)


def test_a_run_that_is_not_over_has_no_weights_yet():
    run = train("bard").run
    for name in ("model.safetensors", "model.json"):
        (run.path / name).unlink()
    set_status(run, status="training", pid=2**22 + 1)
    with pytest.raises(lab.LabError, match=r"status is died, and its weights were not saved"):
        lab.load(run.id)
    with pytest.raises(lab.LabError, match=rf"no run called 'bard' has left a model \({run.id} died\)"):
        lab.load("bard")


def test_finished_runs_come_first():
    finished, stopped = train("bard").run, train("bard", steps=3).run
    set_status(stopped, status="paused")
    assert runs.find("bard") == finished


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "longer", "not ours", "folder"])
def test_a_run_that_is_not_whole_trains_again(name, damage):
    first = train("bard", steps=3).run
    assert train("bard", steps=3).run == first
    path = first.path / name
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"cut": data[: len(data) // 2], "longer": data + b"}", "not ours": b"[]"}[damage])
    again = train("bard", steps=3).run
    assert again != first
    assert train("bard", steps=3).run == again
    assert lab.load("bard").run == again


def test_looking_for_runs_imports_no_torch(tmp_path):
    import subprocess
    import sys

    train("bard", steps=2)
    code = "import sys; from llm_lab.store import runs; print(runs.names(), 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['bard'] False"
