"""Files that are whole or not there: written beside, flushed to disk, then renamed. JSON and safetensors only."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from llm_lab.errors import BadValue


def write_bytes(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The file's value; BadValue that names the file where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadValue(f"{path} is missing: the run is not whole") from None
    except (ValueError, OSError) as error:
        raise BadValue(f"{path} cannot be read: {error}") from None


def write_weights(path: Path, model: nn.Module) -> None:
    """A model's state; tensors that share memory (tied embeddings) are stored once."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor.detach().cpu().contiguous()
    write_bytes(path, save(tensors))


def read_weights(path: Path, model: nn.Module) -> None:
    """Load a state into a model of the same make; BadValue that names what does not fit."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise BadValue(f"{path} is missing: the run has no weights yet") from None
    except (SafetensorError, OSError) as error:
        raise BadValue(f"{path} is damaged: {error}") from None
    own = model.state_dict()
    tied = {
        name
        for name, tensor in own.items()
        if any(t in tensors and own[t].data_ptr() == tensor.data_ptr() for t in own)
    }
    missing = [name for name in own if name not in tensors and name not in tied]
    unknown = [name for name in tensors if name not in own]
    wrong = [name for name in tensors if name in own and own[name].shape != tensors[name].shape]
    if missing or unknown or wrong:
        raise BadValue(
            f"{path} does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}, of another shape {wrong[:3]}"
        )
    model.load_state_dict(tensors, strict=False)
