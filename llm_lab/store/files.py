"""Files that are whole or not there: written beside, flushed to disk, then renamed. JSON and safetensors only.

Tensors are sealed: the file's own SHA-256, taken with zeros in its place, stands in the header's metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from llm_lab.errors import BadValue
from llm_lab.store import inside as safe
from llm_lab.store.folders import writing
from llm_lab.training.state import distinct

# Of a published model, bytes of a JSON file (the index of its weights) and of the head of its weights.
_PUBLISHED, _PUBLISHED_HEAD = 1 << 26, 1 << 24
_UNSEALED = "0" * 64
_BESIDE = re.compile(r"\..+\.[0-9a-f]{8}")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    with _replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


def sweep(folder: Path) -> None:
    """Remove what was being written when its process was killed. For who holds the folder: others may be writing."""
    for file in folder.glob("**/.*"):
        if _BESIDE.fullmatch(file.name):
            with contextlib.suppress(OSError):
                file.unlink()


def make_folder(folder: Path) -> None:
    """A folder that lasts: what is written in it does no more than its own name in the folder above."""
    with writing(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync(folder.parent)


def sync(folder: Path) -> None:
    """Make a rename last, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """A safetensors file with its own checksum in it, and beside that what `about` says. They are written one after the other:
    the library makes the whole file in memory first, and other threads wait for it."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # each at a multiple of its size
    table: dict[str, Any] = {"__metadata__": {**(about or {}), "sha256": _UNSEALED}}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise BadValue(f"{name} is {tensor.dtype}, which no safetensors file holds; float32 would do")
        start, end = end, end + tensor.nbytes
        table[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(table, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    where = _SEAL.search(head)
    assert where is not None, "it was just written"
    digest = hashlib.sha256(head)
    with _replacing(path) as file:
        file.write(head)
        for name in names:
            data = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
            digest.update(data)
            file.write(data)
        file.seek(where.start(1))
        file.write(digest.hexdigest().encode())


def check_seal(path: Path, needed: bool = False) -> None:
    """BadValue where a tensor file is not as it was written; one without a seal, as other programs write it, passes
    unless it is `needed`."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < 8:
                raise BadValue(f"{path} is damaged: it is cut off")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                where = _SEAL.search(data, 8, min(len(data), 8 + int.from_bytes(data[:8], "little")))
                if where is None and not needed:
                    return
                if where is None:
                    raise BadValue(f"{path} is damaged: it has no checksum")
                start, end = where.span(1)
                digest, found = hashlib.sha256(memoryview(data)[:start]), where[1]
                digest.update(_UNSEALED.encode())
                digest.update(memoryview(data)[end:])
                del where  # it holds the map
    except FileNotFoundError:
        raise BadValue(f"{path} is missing: the run has no weights yet") from None
    except OSError as error:
        raise BadValue(f"{path} cannot be read: {error}") from None
    if digest.hexdigest().encode() != found:
        raise BadValue(f"{path} is damaged: its checksum is not that of what was written")


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
    kept = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in distinct(model.state_dict()).items()
        if not tensor.numel() or tensor.data_ptr() not in elsewhere
    }
    write_tensors(path, kept)


def weight_shapes(path: Path, prefix: str = "", inside: Path | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file whose names begin so, by its head alone; BadValue where it is missing, damaged or
    cut off, or is none of the folder `inside`."""
    try:
        with safe.opened(path, inside) as raw:
            most = safe.HEAD if inside else _PUBLISHED_HEAD
            found = safe.shapes(raw, path, os.fstat(raw.fileno()).st_size, most)
        with safe_open(path, framework="numpy"):  # which looks that the tensors lie one behind the other, to the end
            return {name.removeprefix(prefix): shape for name, shape in found.items() if name.startswith(prefix)}
    except FileNotFoundError:
        raise BadValue(f"{path} is missing: the run has no weights yet") from None
    except BadValue:
        raise
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


def read_weights(
    path: Path, model: nn.Module, partly: bool = False, prefix: str = "", inside: Path | None = None
) -> None:
    """Load a state into a model of the same make; BadValue that names what does not fit. `partly`: what is missing is
    there already, shared with another model. `prefix` begins the names of its tensors where the file holds others too."""
    check_fit(path, weight_shapes(path, prefix, inside), model, partly)
    check_seal(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # no dict
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadValue(f"{path} is damaged: {error}") from None
    model.load_state_dict(tensors, strict=False)
