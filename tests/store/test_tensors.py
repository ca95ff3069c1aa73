"""Tensor files: the published library reads what is written, and its seal tells what was changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llm_lab.errors import BadValue
from llm_lab.store.files import _DTYPES, check_seal, write_tensors

TENSORS = {
    **{f"a.{name}": (torch.arange(6).reshape(2, 3) % 2).to(dtype) for dtype, name in _DTYPES.items()},
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "transposed": torch.arange(12.0).reshape(3, 4).mT,
    'na"me é': torch.tensor([float("nan"), -0.0, float("inf")]),
    "parameter": torch.nn.Parameter(torch.ones(3)),
}


def test_the_library_reads_them():
    path = Path("x.safetensors")
    write_tensors(path, TENSORS, {"about": "é"})
    found = load_file(path)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        bits = [one.detach().contiguous().reshape(-1).view(torch.uint8) for one in (found[name], tensor)]
        assert torch.equal(*bits), name
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["about"] == "é"
    check_seal(path, needed=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in TENSORS.items()}, "y.safetensors")
    assert set(load_file("y.safetensors")) == set(found)  # it can write all of these too
    assert [one.name for one in Path().iterdir() if one.name.startswith(".x")] == []


def test_no_tensor_at_all():
    write_tensors(Path("x.safetensors"), {})
    check_seal(Path("x.safetensors"), needed=True)
    assert load_file("x.safetensors") == {}


def test_every_changed_byte_is_told():
    path = Path("x.safetensors")
    write_tensors(path, {"a": torch.arange(3.0)}, {"about": "b"})
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(BadValue, match="is damaged"):
            check_seal(path, needed=True)


def test_what_it_cannot_hold_is_said_and_nothing_is_left():
    with pytest.raises(BadValue, match=r"^a is torch\.complex128, which no safetensors file holds; float32 would do"):
        write_tensors(Path("x.safetensors"), {"a": torch.zeros(1, dtype=torch.complex128)})
    assert list(Path().iterdir()) == []
