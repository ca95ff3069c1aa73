"""Files as a stranger may have written them: what is no regular file of its folder, or larger than its kind, is refused."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llm_lab.errors import BadValue
from llm_lab.store import inside


def write(path: Path, data: bytes = b"{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def refused(call) -> str:
    with pytest.raises(BadValue) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_the_folder_is_opened(tmp_path):
    file = write(tmp_path / "run" / "checkpoints" / "5" / "a.json", b"[1]")
    with inside.opened(file, tmp_path / "run", 3) as opened:
        assert inside.parsed(inside.bounded(opened, file, 3), file) == [1]
    assert inside.is_plain(file, tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        inside.plain(tmp_path / "run" / "nothing")
    assert not inside.is_plain(tmp_path / "run" / "nothing")


def test_a_folder_that_is_itself_behind_a_link_is_read(tmp_path):
    write(tmp_path / "disk" / "run" / "a.json")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert inside.is_plain(tmp_path / "link" / "run" / "a.json", tmp_path / "link" / "run")


@pytest.mark.parametrize("target", ["../out.json", "other.json", "nowhere.json", "a.json"])
def test_links_are_refused_wherever_they_lead(tmp_path, target):
    write(tmp_path / "out.json")
    write(tmp_path / "run" / "other.json")
    (tmp_path / "run" / "a.json").symlink_to(target)
    assert "link" in refused(lambda: inside.plain(tmp_path / "run" / "a.json", tmp_path / "run"))
    assert not inside.is_plain(tmp_path / "run" / "a.json", tmp_path / "run")


def test_a_folder_within_that_is_a_link_is_refused(tmp_path):
    write(tmp_path / "out" / "5" / "a.json")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "out")
    assert "is a link" in refused(
        lambda: inside.opened(tmp_path / "run" / "checkpoints" / "5" / "a.json", tmp_path / "run")
    )
    assert inside.is_plain(tmp_path / "run" / "checkpoints" / "5" / "a.json")  # as published models' folders are made


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_what_would_be_waited_for_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    assert "is a pipe, not a file" in refused(lambda: inside.opened(tmp_path / "a.json"))
    (tmp_path / "b.json").mkdir()
    assert "is a folder, not a file" in refused(lambda: inside.opened(tmp_path / "b.json"))
    assert "is a device, not a file" in refused(lambda: inside.opened(Path(os.devnull)))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "c.json"))
        assert "is a socket, not a file" in refused(lambda: inside.opened(tmp_path / "c.json"))


def test_what_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(1 << 40)
    assert "is too large: 1,099,511.6 MB" in refused(lambda: inside.opened(tmp_path / "a.json", most=inside.SMALL))
    with open(tmp_path / "a.json", "rb") as file:
        assert "too large: more" in refused(lambda: inside.bounded(file, "a.json", 10))
    assert inside.limit("report.json") > inside.limit("status.json")


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"1" * 10_000])
def test_what_is_no_json_is_named(data):
    assert "a.json cannot be read" in refused(lambda: inside.parsed(data, "a.json"))


def test_shapes_are_those_that_were_written(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(7, dtype=torch.int8), "c": torch.zeros(())}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    with open(tmp_path / "a.safetensors", "rb") as file:
        found = inside.shapes(file, "a", os.path.getsize(file.name))
    assert found == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert inside.count(found) == sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("length", "head", "says"),
    [
        (1 << 63, b"{}", "its head would take"),
        (3, b"{}", "its head would take"),
        (2, b"[]", None),
        (2, b"{,", "cannot be read"),
        (0, b"", "cannot be read"),
        (None, json.dumps({"a": {"shape": [2.0]}}).encode(), "'a' has no shape"),
        (None, json.dumps({"a": {"shape": [1 << 60]}}).encode(), "'a' has no shape"),
        (None, json.dumps({"a": [1]}).encode(), "'a' has no shape"),
    ],
)
def test_heads_are_measured_before_they_are_read(tmp_path, length, head, says):
    file = write(tmp_path / "a.safetensors", (len(head) if length is None else length).to_bytes(8, "little") + head)
    with open(file, "rb") as opened:
        if says is None:
            assert inside.shapes(opened, file, file.stat().st_size) == {}
        else:
            assert says in refused(lambda: inside.shapes(opened, file, file.stat().st_size))
    with open(file, "r+b") as opened:  # a sparse file whose head would be a hundred megabytes
        opened.write((100_000_000).to_bytes(8, "little"))
        opened.truncate(200_000_000)
        opened.seek(0)
        assert "the head of" in refused(lambda: inside.shapes(opened, file, 200_000_000))


def test_the_size_of_a_folder_is_that_of_its_own_files(tmp_path):
    write(tmp_path / "out.bin", b"x" * 1000)
    write(tmp_path / "run" / "a", b"x" * 10)
    write(tmp_path / "run" / "checkpoints" / "5" / "b", b"x" * 20)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "out.bin")
    (tmp_path / "run" / "around").symlink_to(tmp_path)
    assert inside.size(tmp_path / "run") == 30
    assert inside.size(tmp_path / "nowhere") == 0
