"""Files that are whole or not there: written beside, flushed to disk, then renamed. JSON and safetensors only."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from llm_lab.errors import BadValue
from llm_lab.store import inside as safe
from llm_lab.store.folders import writing

# Of a published model, bytes of a JSON file (the index of its weights) and of the head of its weights.
_PUBLISHED, _PUBLISHED_HEAD = 1 << 26, 1 << 24


def write_bytes(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, inside: Path | None = None) -> Any:
    """The file's value; BadValue that names the file where it is missing or damaged, or is none of the folder `inside`."""
    most = safe.limit(path.name) if inside else _PUBLISHED
    try:
        with safe.opened(path, inside, most) as file:
            return safe.parsed(safe.bounded(file, path, most), path)
    except FileNotFoundError:
        raise BadValue(f"{path} is missing: the run is not whole") from None
    except OSError as error:
        raise BadValue(f"{path} cannot be read: {error}") from None


def write_weights(path: Path, model: nn.Module, elsewhere: Collection[int] = ()) -> None:
    """A model's state; tensors that share memory (tied embeddings) are stored once, and not at all where their memory
    is stored `elsewhere`."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        key = _memory(tensor)
        if tensor.numel() and (key in seen or key[0] in elsewhere):
            continue
        seen.add(key)
        tensors[name] = tensor.detach().cpu().contiguous()
    write_bytes(path, save(tensors))


def weight_shapes(path: Path, inside: Path | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file, by its head alone; BadValue where it is missing, damaged or cut off, or is none
    of the folder `inside`."""
    try:
        with safe.opened(path, inside) as raw:
            most = safe.HEAD if inside else _PUBLISHED_HEAD
            safe.shapes(raw, path, os.fstat(raw.fileno()).st_size, most)
    except FileNotFoundError:
        raise BadValue(f"{path} is missing: the run has no weights yet") from None
    try:
        with safe_open(path, framework="numpy") as file:  # which looks that the tensors lie one behind the other
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise BadValue(f"{path} is damaged: {error}") from None


def check_fit(path: Path, shapes: dict[str, tuple[int, ...]], model: nn.Module, partly: bool = False) -> None:
    """BadValue that names what does not fit, where a file's tensors are not those of a model (which may be on `meta`)."""
    own = model.state_dict(keep_vars=True)
    stored: dict[tuple[int, tuple[int, ...]], str] = {}
    unknown = []  # one of two tied tensors is stored, not both
    for name in shapes:
        tensor = own.get(name)
        if tensor is None or (tensor.numel() and stored.setdefault(_memory(tensor), name) != name):
            unknown.append(name)
    missing = [name for name, tensor in own.items() if name not in shapes and _memory(tensor) not in stored]
    wrong = [name for name, shape in shapes.items() if name in own and tuple(own[name].shape) != shape]
    if (missing and not partly) or unknown or wrong:
        raise BadValue(
            f"{path} does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}, of another shape {wrong[:3]}; "
            "a whole copy of its folder would do"
        )


def _memory(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """What tied tensors have in common; on `meta`, where nothing is stored, that they are one."""
    return id(tensor) if tensor.is_meta else tensor.data_ptr(), tuple(tensor.shape)


def read_weights(path: Path, model: nn.Module, partly: bool = False, inside: Path | None = None) -> None:
    """Load a state into a model of the same make; BadValue that names what does not fit. `partly`: what is missing is
    there already, shared with another model."""
    check_fit(path, weight_shapes(path, inside), model, partly)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadValue(f"{path} is damaged: {error}") from None
    model.load_state_dict(tensors, strict=False)
