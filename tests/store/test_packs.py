"""Zips of runs: what goes in comes out, bit for bit; a zip that would do harm does none."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

import llm_lab as lab
from llm_lab.store import packs, runs
from tests.small import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One trained run with checkpoints, copied into each test's store."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("bard", steps=20, checkpoints=3)
    return folder / ".llm_lab"


@pytest.fixture
def run(trained, own_store):
    shutil.copytree(trained, own_store / ".llm_lab")
    (found,) = runs.all_runs()
    return found


@pytest.fixture
def elsewhere(run, own_store, tmp_path_factory, monkeypatch):
    """A folder without runs, and a zip of one in another."""
    gifts = tmp_path_factory.mktemp("gifts")
    file = packs.pack(run, gifts / "bard.zip")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    return file


def refused(call, *says: str) -> None:
    with pytest.raises(lab.LabError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in says:
        assert word in str(caught.value)


def test_a_run_comes_out_of_its_zip_as_it_went_in(run, elsewhere):
    lm = lab.load(str(elsewhere))
    whole = lab.load(run.path)
    assert all((a == b).all() for a, b in zip(lm.model.parameters(), whole.model.parameters(), strict=True))
    assert lm.name == "bard" and lm.run.id == run.id
    assert lm.history.equals(run.history) and len(lm.history)
    assert lm.report.train == lab.load(elsewhere).report.train != []
    assert lm.checkpoints == run.checkpoints == lm.run.checkpoints
    for name in ("request.json", "events.jsonl", "report.json", "model.safetensors", "tokenizer.json"):
        assert (lm.run.path / name).read_bytes() == (run.path / name).read_bytes()
    step = run.checkpoints[0]
    early = lab.load(f"{elsewhere}@{step}")
    assert early.step == step
    assert any((a != b).any() for a, b in zip(lm.model.parameters(), early.model.parameters(), strict=True))


def test_a_zip_holds_what_is_needed_and_no_more(run, own_store):
    (run.path / "worker.log").write_text("secret")
    (run.path / "lock").write_text("")
    (run.path / "resume").mkdir()
    (run.path / "resume" / "00000020.safetensors").write_bytes(b"state")
    (run.path / "notes.pkl").write_bytes(b"x")
    (run.path / "extras.safetensors").symlink_to(own_store / "secret")
    kept = {f"checkpoints/{step}/model.safetensors" for step in run.checkpoints}
    parts = {f"{part}.json" for part in ("request", "plan", "environment", "status", "report", "model", "tokenizer")}
    names = {f"{run.path.name}/{name}" for name in parts | kept | {"events.jsonl", "model.safetensors"}}
    with zipfile.ZipFile(packs.pack(run, own_store / "a.zip")) as archive:
        assert set(archive.namelist()) == names
        state = json.loads(archive.read(f"{run.path.name}/status.json"))
    assert state["status"] == "finished" and not {"pid", "host"} & set(state)
    run.set_status("paused")
    with zipfile.ZipFile(packs.pack(run, own_store / "b.zip")) as archive:
        assert set(archive.namelist()) == names | {f"{run.path.name}/resume/00000020.safetensors"}


def test_a_zip_is_the_same_each_time_and_overwrites_nothing(run, own_store):
    first = packs.pack(run, own_store / "a.zip").read_bytes()
    os.utime(run.path / "request.json", (1, 1))
    run.write("status", {**run.read("status"), "restored": 5.0, "pid": 7})
    assert packs.pack(run, own_store / "b.zip").read_bytes() == first
    refused(lambda: packs.pack(run, own_store / "a.zip"), "is there already and stays as it is")
    (own_store / "link.zip").symlink_to(own_store / "nowhere")
    refused(lambda: packs.pack(run, own_store / "link.zip"), "is there already")
    refused(lambda: packs.pack(run, own_store / "no" / "a.zip"), "cannot be written")
    assert (own_store / "a.zip").read_bytes() == first
    assert not [path for path in own_store.iterdir() if path.name.startswith(".a") or path.name.startswith(".b")]


def test_a_run_that_died_says_so_in_its_zip(run, own_store):
    run.write("status", {**run.read("status"), "status": "training", "pid": 2**22 + 1})
    assert run.status == "died"
    packs.pack(run, own_store / "a.zip")
    assert packs.only(own_store / "a.zip").status == "died"


@pytest.mark.parametrize("named", ["the zip", "its folder"])
def test_zips_are_listed_and_found_like_other_runs(run, elsewhere, monkeypatch, named):
    monkeypatch.setenv("LLM_LAB_PATH", str(elsewhere if named == "the zip" else elsewhere.parent))
    assert runs.names() == ["bard"]
    assert list(lab.runs()["run"]) == [run.id]
    assert not Path(".llm_lab").exists()  # a list unpacks nothing
    assert lab.load("bard").run.id == lab.load(run.id).run.id == run.id
    assert lab.load(f"bard@{run.checkpoints[0]}").step == run.checkpoints[0]
    assert list(lab.runs()["run"]) == [run.id]
    assert (Path(".llm_lab") / ".gitignore").read_text() == "*\n"


def test_a_zips_copy_of_a_run_that_is_here_is_not_listed_again(run, own_store, monkeypatch):
    packs.pack(run, own_store / "bard.zip")
    shutil.copy(own_store / "bard.zip", own_store / "copy.zip")
    monkeypatch.setenv("LLM_LAB_PATH", str(own_store))
    assert [found.where for found in runs.all_runs()] == [run.path]
    shutil.rmtree(run.path)
    assert [found.where.name for found in runs.all_runs()] == ["bard.zip"]


def test_a_zip_that_has_changed_is_read_again(run, elsewhere, monkeypatch):
    monkeypatch.setenv("LLM_LAB_PATH", str(elsewhere))
    before = lab.load("bard")
    other = run.path.with_name("poet-0a1b2c")
    run.path.rename(other)
    elsewhere.unlink()
    packs.pack(runs.Run(other), elsewhere)
    assert runs.names() == ["poet"]
    assert lab.load("poet").run.path != before.run.path


def test_what_another_program_packed_is_read(run, elsewhere, own_store):
    """Zipped by hand: compressed, the folder's entries among them, and files of the system's own; or without the folder."""
    for start, name in (("", run.path.name), ("store/runs/", run.path.name), (None, "mine")):
        with zipfile.ZipFile(own_store / "mine.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._x", b"x")
            for path in sorted(run.path.rglob("*")):
                inner = path.relative_to(run.path)
                archive.write(path, inner if start is None else f"{start}{run.path.name}/{inner}")
        found = packs.only(own_store / "mine.zip")
        assert found.path.name == name
        assert found.checkpoints == run.checkpoints
        assert found.history.equals(run.history)
        lm = lab.load(own_store / "mine.zip")
        assert lm.report.train
        assert not [path for path in lm.run.path.parent.rglob("*") if "MACOSX" in str(path)]


def test_the_parts_of_a_zip_are_read_as_zipfile_reads_them(run, elsewhere):
    found = packs.only(elsewhere)
    with zipfile.ZipFile(elsewhere) as archive:
        for name, about in found._files.items():
            whole = archive.read(about)
            with found.open(name) as file:
                assert file.read() == whole
            with found.open(name) as file:
                assert b"".join(iter(lambda file=file: file.read(7), b"")) == whole
    refused(lambda: found.open("model.safetensors", 10), "too large")


def test_several_runs_in_one_zip(run, own_store, monkeypatch, tmp_path_factory):
    shutil.copytree(run.path, run.path.with_name("poet-0a1b2c"))
    with zipfile.ZipFile(own_store / "all.zip", "w") as archive:
        for path in sorted((own_store / ".llm_lab" / "runs").rglob("*")):
            archive.write(path, path.relative_to(own_store / ".llm_lab"))
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    refused(lambda: lab.load(str(own_store / "all.zip")), "holds several runs", "poet-0a1b2c", "LLM_LAB_PATH")
    monkeypatch.setenv("LLM_LAB_PATH", str(own_store / "all.zip"))
    assert set(runs.names()) == {"bard", "poet"}
    assert lab.load("poet").run.id == "0a1b2c"


def test_looking_for_zips_imports_no_torch(elsewhere, monkeypatch):
    monkeypatch.setenv("LLM_LAB_PATH", str(elsewhere))
    code = "import sys; from llm_lab.store import runs; print(runs.names(), 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['bard'] False"


# zips that a stranger made


def bad_zip(path: Path, run: runs.Run, *more: tuple[zipfile.ZipInfo | str, bytes], left_out: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(one for one in run.path.rglob("*") if one.is_file()):
            name = file.relative_to(run.path).as_posix()
            if name != left_out:
                archive.write(file, f"{run.path.name}/{name}")
        for about, data in more:
            archive.writestr(about, data)
    return path


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    about = zipfile.ZipInfo(name)
    about.create_system, about.external_attr = 3, (kind | 0o777) << 16
    return about


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "bard-1/../../evil",
        "/evil",
        "C:evil",
        "bard-1\\..\\evil",
        "bard-1/\x1b[31m",
        "..",
        "bard-1/../request.json",
    ],
)
def test_names_that_lead_out_are_refused(run, own_store, monkeypatch, name):
    bad_zip(own_store / "bad.zip", run, (name, b"evil"))
    before = {path for path in own_store.parent.rglob("*") if ".llm_lab" not in path.parts}
    refused(lambda: lab.load("bad.zip"), "bad.zip is not used", "leads out of its folder")
    monkeypatch.setenv("LLM_LAB_PATH", str(own_store / "bad.zip"))
    shutil.rmtree(run.path)
    told: list[str] = []
    assert runs.all_runs(told) == [] and runs.names() == [] and len(told) == 1
    assert {path for path in own_store.parent.rglob("*") if ".llm_lab" not in path.parts} == before


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(run, own_store, kind):
    name = f"{run.path.name}/model.safetensors"
    bad_zip(own_store / "bad.zip", run, (link(name, kind), b"/etc/passwd"), left_out="model.safetensors")
    refused(lambda: lab.load("bad.zip"), "a link or a device")


def test_a_zip_bomb_is_refused_by_what_it_states_and_by_what_it_does(run, own_store):
    zeros = bytes(1 << 24)
    bad_zip(
        own_store / "bad.zip", run, *[(f"{run.path.name}/checkpoints/{i}/model.safetensors", zeros) for i in range(3)]
    )
    refused(lambda: lab.load("bad.zip"), "is not used", "would become")
    # one that states little and holds much ends where it said
    about = zipfile.ZipInfo(f"{run.path.name}/report.json")
    about.compress_type = zipfile.ZIP_DEFLATED
    bad_zip(own_store / "lies.zip", run, (about, zeros), left_out="report.json")
    data = (own_store / "lies.zip").read_bytes()
    true, small = (n.to_bytes(4, "little") for n in (len(zeros), 100))
    assert data.count(true) == 2
    (own_store / "lies.zip").write_bytes(data.replace(true, small))
    found = packs.only(own_store / "lies.zip")
    with found.open("report.json") as file:
        assert file.read() == bytes(100)
    refused(lambda: lab.load("lies.zip"), "lies.zip is damaged at", "report.json")
    assert not found.path.exists() and not list(found.path.parent.iterdir())


def test_lists_of_files_that_are_too_long_are_not_read(run, own_store):
    with zipfile.ZipFile(own_store / "bad.zip", "w") as archive:
        for i in range(20):
            archive.writestr(f"{i}/" + "x" * 60_000, b"")
    refused(lambda: lab.load("bad.zip"), "bad.zip is no zip that can be read", "too long")
    with zipfile.ZipFile(own_store / "many.zip", "w") as archive:
        for i in range(packs.RUNS + 1):
            archive.writestr(f"bard-{i:06x}/request.json", b"{}")
    refused(lambda: lab.load("many.zip"), f"{packs.RUNS + 1} runs")


@pytest.mark.parametrize("how", ["cut", "not a zip", "empty", "flipped", "head"])
def test_damaged_zips_are_named(run, elsewhere, monkeypatch, how):
    data = bytearray(elsewhere.read_bytes())
    with zipfile.ZipFile(elsewhere) as archive:
        at = archive.getinfo(f"{run.path.name}/model.safetensors").header_offset
    data[at + (5000 if how == "flipped" else 0)] ^= 255 if how in ("flipped", "head") else 0
    data = {"cut": data[:-30], "not a zip": bytearray(b"x" * 5000), "empty": bytearray()}.get(how, data)
    elsewhere.write_bytes(data)
    refused(lambda: lab.load(elsewhere), "bard.zip", "a whole copy of it would do")
    monkeypatch.setenv("LLM_LAB_PATH", str(elsewhere))
    # its weights are not read for a list
    assert runs.names() == (["bard"] if how in ("flipped", "head") else [])


def test_ways_of_packing_that_could_take_memory_are_refused(run, own_store):
    with zipfile.ZipFile(own_store / "bad.zip", "w") as archive:
        archive.writestr("bard-3f2a9c/request.json", b"{}", zipfile.ZIP_LZMA)
    refused(lambda: lab.load("bad.zip"), "packed in a way that is not read here")


def test_a_member_that_is_no_deflated_data_ends(own_store):
    with zipfile.ZipFile(own_store / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bard-3f2a9c/request.json", b"{}" * 500)
    data = bytearray((own_store / "a.zip").read_bytes())
    start = data.index(b"request.json") + len("request.json")
    data[start : start + 4] = b"\xff\xff\xff\xff"
    (own_store / "a.zip").write_bytes(data)
    (found,) = packs.packed(own_store / "a.zip")
    assert found.read("request") == {}
    with pytest.raises(zlib.error):
        zlib.decompress(b"\xff\xff\xff\xff", -15)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(elsewhere, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(lambda: lab.load(elsewhere), "cannot be unpacked", "of the disk are free")
    assert not list(Path(".llm_lab").rglob("*.safetensors"))
