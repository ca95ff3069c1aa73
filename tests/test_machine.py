"""Limits of a container are seen: cores and memory as cgroups (v1 and v2) allow them."""

from __future__ import annotations

import pytest
import torch

from llm_lab import machine
from llm_lab.errors import LabError


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_cgroup_v2(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_cgroup_folders", lambda root, controller: [tmp_path])
    write(tmp_path, {"cpu.max": "150000 100000\n", "memory.max": "2000000000\n", "memory.current": "1500000000\n"})
    write(tmp_path, {"memory.stat": "anon 900000000\ninactive_file 100000000\n"})
    assert machine.cores() == 1
    found = machine.memory()
    assert found.total == 2_000_000_000
    assert found.available <= 600_000_000


def test_cgroup_v1_and_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_cgroup_folders", lambda root, controller: [tmp_path])
    free = machine.memory()
    write(tmp_path, {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    write(tmp_path, {"memory.limit_in_bytes": str(2**63 - 4096), "memory.usage_in_bytes": "5"})
    assert machine.memory().total == free.total
    many = machine.cores()
    write(tmp_path, {"cpu.cfs_quota_us": "100000"})
    assert machine.cores() == 1 <= many


def test_own_cgroup_and_those_above_it_are_read(tmp_path, monkeypatch):
    root = tmp_path / "fs"
    write(root, {"a/b/memory.max": "max", "a/memory.max": "1000000"})
    listing = tmp_path / "cgroup"
    listing.write_text("0::/a/b\n")
    real = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: real(listing if str(path) == "/proc/self/cgroup" else path))
    assert machine.memory(root).total == 1_000_000


def test_devices():
    assert machine.device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(LabError, match="not on this machine"):
            machine.device("cuda")
    assert machine.used() > 10_000_000
