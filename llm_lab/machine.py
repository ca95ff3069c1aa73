"""The cores, memory and device that this process may really use: inside a container, less than the host shows."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import math
import os
import platform
import shutil
import signal
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from llm_lab import __version__
from llm_lab.errors import BadValue

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_CGROUP = Path("/sys/fs/cgroup")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """The folders whose limits bind this process: its own cgroup and all above it (v2, then v1)."""
    folders = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        here = base / path.lstrip("/")
        folders += [folder for folder in (here, *here.parents) if folder == base or base in folder.parents]
    return folders or [root]


def cores(root: Path = _CGROUP) -> int:
    """Cores this process may use: the least of affinity and the cgroups' CPU quotas, at least 1."""
    found = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _cgroup_folders(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            found = min(found, int(quota) / int(period))
    return max(1, math.floor(found))


def keep_to_own_cores() -> None:
    """Lower torch's threads to the cores of this process: inside a container it would take all of the host's, which is
    many times slower than too few."""
    import torch

    if torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: what this process may use in all, and what is left of it."""

    total: int
    available: int


def memory(root: Path = _CGROUP) -> Memory:
    """Main memory within the host's and every cgroup's limit."""
    host = psutil.virtual_memory()
    total, available = host.total, host.available
    for folder in _cgroup_folders(root, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _read(folder / limit_name), _read(folder / used_name)
            if limit.isdigit() and int(limit) < total:
                total = int(limit)
            if limit.isdigit() and used.isdigit():
                # Pages of files can be dropped at once: the kernel counts them as used, but they are free to take.
                cache = dict(line.split() for line in _read(folder / "memory.stat").splitlines() if " " in line)
                free = int(limit) - int(used) + int(cache.get("inactive_file", 0))
                available = min(available, max(0, free))
    return Memory(total, min(available, total))


def ooms(root: Path = _CGROUP) -> int:
    """How often the system has killed a process of this container for memory."""
    found = 0
    for folder in _cgroup_folders(root, "memory"):
        for line in (_read(folder / "memory.events") or _read(folder / "memory.oom_control")).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                found = max(found, int(count))
    return found


def born(pid: int) -> float:
    """When a process began; 0 where it is gone already."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return 0.0


def used() -> int:
    """Bytes of main memory this process holds."""
    return psutil.Process().memory_info().rss


def device(wanted: str = "auto") -> torch.device:
    """The device to train on: CUDA, then MPS, then CPU, unless told."""
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return torch.device(next(name for name, ok in there.items() if ok))
    if not there.get(wanted.split(":")[0], False):
        has = ", ".join(name for name, ok in there.items() if ok)
        raise BadValue(f"device: {wanted!r} is not on this machine; it has {has}, for example --device cpu")
    return torch.device(wanted)


def device_memory(where: torch.device) -> Memory:
    """Total and free bytes on the device that a model is trained on."""
    import torch

    if where.type == "cuda":
        free, total = torch.cuda.mem_get_info(where)
        return Memory(total, free)
    return memory()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory, on a device or in the machine."""
    import torch

    said = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def cpu_name() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def bf16_gains(where: torch.device, d_model: int) -> bool:
    """Whether bfloat16 is faster here: on CUDA where the hardware has it; on a CPU with bf16 products from width 64
    (below, converting costs more than the products gain)."""
    import torch

    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return where.type == "cpu" and d_model >= 64 and bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def compiles(where: torch.device) -> bool:
    """Whether torch.compile can be counted on for a device: on CUDA, with Triton and what that needs there."""
    import torch

    if where.type != "cuda" or torch.cuda.get_device_capability(where) < (7, 0):
        return False
    compiler = (
        any(map(shutil.which, ("cc", "gcc", "clang"))) and (Path(sysconfig.get_path("include")) / "Python.h").exists()
    )
    return compiler and importlib.util.find_spec("triton") is not None


@functools.cache
def side_stream(where: torch.device) -> torch.cuda.Stream:
    """A stream beside the one that a GPU works on: one for all, since torch has few of them, which it gives out in turns."""
    import torch

    return torch.cuda.Stream(where)


def environment() -> dict[str, Any]:
    """What a run depends on besides its request: versions, processor, platform."""
    import tokenizers
    import torch

    return {
        "llm_lab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
    }


@contextlib.contextmanager
def keeping_memory() -> Iterator[None]:
    """Within the `with` the C library keeps what is freed, for the next allocation, in place of handing it back to the system
    with each step's end: taking it again, page by page, costs up to a fifth of a small model's step. Only of glibc's."""
    mallopt = trim = None
    if platform.libc_ver()[0] == "glibc":
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            mallopt, trim = library.mallopt, library.malloc_trim
    if mallopt is None or trim is None:
        yield
        return
    # Above this size memory is the system's again as soon as it is freed. Measured: at 3 MB a step takes up to twice as long; at
    # 32 MB, no faster than at 8, holes between what is kept make a process half as large again.
    mallopt(_MMAP_THRESHOLD, 8 << 20)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_TRIM_THRESHOLD, 1 << 26)  # about what it comes to by itself, once large tensors were freed
        trim(0)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within the `with` an interrupt waits until the end: an import that is cut off leaves half a module behind for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if came:
        raise KeyboardInterrupt
