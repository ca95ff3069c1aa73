"""What is here, as plain tables: the verbs, the runs, the machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from importlib import metadata

from llm_lab import machine
from llm_lab.errors import LabError
from llm_lab.results import Listing
from llm_lab.store import runs as store
from llm_lab.store.events import number
from llm_lab.verbs import VERBS

_PACKAGES = ("torch", "tokenizers", "IPython", "ipykernel", "jupyterlab", "ipywidgets", "anywidget", "plotly")


def ago(then: object) -> str:
    """How long ago a time was; a damaged file's may be anything."""
    moment = number(then)
    if moment is None:
        return "some time ago"
    seconds = max(0.0, time.time() - moment)
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"


def code(run: store.Run, repeat: str) -> Listing:
    """The lines that bring a model back, and that train it again."""
    return Listing(
        title=run.name,
        facts=["code"],
        columns=["as", "code"],
        rows=[["load", f'{run.name} = lab.load("{run.id}")'], ["train again", repeat]],
    )


def verbs() -> Listing:
    """What can be done, with an example of each."""
    ready = [[f"%{verb.name}", verb.help, verb.example] for verb in VERBS.values() if verb.target]
    return Listing(
        title="llm_lab",
        facts=["what is here"],
        columns=["verb", "what it does", "for example"],
        rows=ready,
        caption="%verb? lists a verb's options. Tab completes verbs, options, values and names.",
    )


def doctor() -> Listing:
    """The machine as this process may use it, and what works here."""
    import torch

    memory = machine.memory()
    device = machine.device()
    there = sys.modules.get("IPython")
    shell = type(there.get_ipython()).__name__ if there and there.get_ipython() else "none"
    gpu = {"cuda": torch.cuda.get_device_name, "cpu": lambda: "no GPU was found"}.get(device.type, lambda: "")()
    free = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    rows = [
        ["processor", machine.cpu_name(), f"{machine.cores()} cores for this process, of {os.cpu_count()}"],
        ["memory", free, "as the container allows"],
        ["device", str(device), gpu],
        ["bf16", "from width 64" if machine.bf16_gains(device, 64) else "not used", "where the hardware gains"],
        ["compiler", "there" if _has_compiler() else "none found", "for --compile"],
        ["python", platform.python_version(), platform.platform()],
        *[[name, _version(name) or "not installed", ""] for name in _PACKAGES],
        ["shell", shell, "live cards need a notebook's kernel" if shell != "ZMQInteractiveShell" else ""],
        ["store", *_store()],
        ["LLM_LAB_DATA", os.environ.get("LLM_LAB_DATA", "not set"), "a folder searched before any download"],
    ]
    return Listing(
        title="doctor", facts=["the machine and what works on it"], columns=["what", "here", "note"], rows=rows
    )


def _store() -> tuple[str, str]:
    try:
        return str(store.home()), f"{len(store.all_runs())} runs"
    except LabError as error:
        return "none", str(error)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
