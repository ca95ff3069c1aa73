"""Folders where nothing can be kept: one line that names the folder and says what would work."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

import llm_lab as lab
from llm_lab import managing, overview
from llm_lab.store import folders, runs
from llm_lab.store.files import write_json
from tests.small import train


def says(call, *words: str) -> None:
    with pytest.raises(lab.LabError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def read_only(monkeypatch, folder: Path, code: int = errno.EACCES) -> None:
    """As if `folder` could not be written: tests may run as root, whom no permission stops."""
    real_mkdir, real_open = os.mkdir, open

    def refuse(path) -> None:
        if Path(path).is_relative_to(folder):
            raise OSError(code, os.strerror(code), str(path))

    def mkdir(path, *args, **kwargs):
        refuse(path)
        return real_mkdir(path, *args, **kwargs)

    def open_(path, mode="r", *args, **kwargs):
        if isinstance(path, str | Path) and set(mode) & set("wax+"):
            refuse(path)
        return real_open(path, mode, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr("builtins.open", open_)


def test_a_folder_that_cannot_be_written(monkeypatch, own_store):
    read_only(monkeypatch, own_store)
    says(lambda: train("bard"), str(own_store), "Permission denied", "change to one that can be written")
    says(runs.cache, str(own_store))
    assert lab.runs().empty
    assert "no run yet" in str(managing.listed())


def test_a_store_that_cannot_be_written_is_still_read(monkeypatch, own_store):
    lm = train("bard")
    read_only(monkeypatch, own_store)
    says(lambda: train("other"), str(own_store), "Permission denied")
    assert lab.load("bard").run == lm.run
    says(lambda: lm.save(own_store / "copy"), str(own_store / "copy"))
    says(lambda: lm.save(lm.run.path), "model.safetensors", "Permission denied")


def test_a_full_disk(monkeypatch, own_store):
    run = train("bard").run
    read_only(monkeypatch, own_store, errno.ENOSPC)
    says(lambda: write_json(run.path / "plan.json", {}), "plan.json", "the disk is full")
    assert run.read("plan")


def test_a_file_where_the_store_would_be(own_store):
    (own_store / ".llm_lab").write_text("mine")
    says(lambda: train("bard"), str(own_store / ".llm_lab"), "is a file", "rename")
    assert lab.runs().empty
    assert "0 runs" in str(lab.doctor())
    assert (own_store / ".llm_lab").read_text() == "mine"


def test_a_file_where_the_runs_would_be(own_store):
    (own_store / ".llm_lab").mkdir()
    (own_store / ".llm_lab" / "runs").write_text("mine")
    says(lambda: train("bard"), str(own_store / ".llm_lab" / "runs"), "is a file")
    assert lab.runs().empty


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no folder that is in use")
def test_a_working_folder_that_is_gone(own_store, monkeypatch):
    folder = own_store / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    for call in (lab.runs, lambda: train("bard"), lambda: lab.load("bard"), runs.home, runs.cache, managing.listed):
        says(call, "working folder", "no longer there", "change to one")
    assert "no longer there" in str(lab.doctor())
    assert runs.names() == []
    monkeypatch.chdir(own_store)


def test_a_name_that_is_too_long(own_store):
    says(lambda: train("a" * 300), "too long", "64 letters")
    says(lambda: train("文" * 100), "too long")
    assert not runs.all_runs()


def test_a_store_is_listed_once(own_store, monkeypatch):
    train("bard")
    (own_store / "link").symlink_to(own_store)
    names = [
        own_store,
        own_store / ".llm_lab",
        own_store / "link",
        own_store / "nowhere",
        own_store / "link" / ".llm_lab",
    ]
    monkeypatch.setenv("LLM_LAB_PATH", os.pathsep.join(map(str, names)))
    assert len(lab.runs()) == 1
    monkeypatch.setenv("LLM_LAB_PATH", ".")
    assert len(lab.runs()) == 1


def test_no_code_is_cut(own_store):
    words = "lone words of a prompt " * 40
    repeat = f'%%pretrain bard "{words}" --steps 5 --fresh'
    found = overview.code(runs.Run(own_store / "bard-3f2a9c"), repeat)._repr_mimebundle_()
    assert repeat in found["text/plain"]
    assert "…" not in found["text/plain"] + found["text/html"]
    assert re.search(r'lab\.load\("3f2a9c"\)', found["text/plain"])


@pytest.mark.parametrize("links", [True, False])
def test_what_only_this_user_has_stays_the_same(links, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "no links here")

    monkeypatch.setattr("platformdirs.user_data_path", lambda _: tmp_path / "mine")
    if not links:
        monkeypatch.setattr("os.link", refuse)
    made = folders.secret()
    assert len(made) == 32 and folders.secret() == made
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["secret"]
    assert (tmp_path / "mine" / "secret").stat().st_mode & 0o077 == 0
