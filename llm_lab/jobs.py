"""A request as plain files in its run's folder, so that another process can carry it out: `job.json`, and beside it the text
where that has no name of its own. Code is named by its module, never written down."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.large import FileTexts
from llm_lab.corpora.open import open_corpus
from llm_lab.corpora.options import opening
from llm_lab.errors import BadType, BadValue, LabError, show
from llm_lab.request import Request
from llm_lab.store.files import read_json, write_bytes
from llm_lab.store.folders import secret, writing
from llm_lab.store.lm import LM, load_lm
from llm_lab.store.runs import Run
from llm_lab.tokenizers.tokenizer import Tokenizer

FILE, TEXT, TOKENIZER, BASE = "job.json", "corpus.jsonl", "job.tokenizer.json", "base"
_HERE = ("fresh", "background")  # what was for the process that asked


def write_job(run: Run, request: Request, corpus: Corpus) -> None:
    """Write it down. BadValue names what cannot go to another process, and what would do; a run whose cell holds such a
    thing has no job, and only its cell goes on with it."""
    options = {key: _plain(key, value, run) for key, value in request.given.items() if key not in _HERE}
    named = isinstance(request.corpus, str | Path)
    if not named:
        targets: Sequence[str | None] = corpus.targets or [None] * len(corpus.documents)
        rows = zip(corpus.documents, targets, strict=True)
        lines = (json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") for row in rows)
        write_bytes(run.path / TEXT, b"\n".join(lines))
    about = {"name": corpus.name, "source": corpus.source, "notes": list(corpus.notes)}
    job = {
        "name": request.name,
        "corpus": str(request.corpus) if named else about,
        "options": options,
        "lineage": request.lineage,
        "folder": os.getcwd(),
        "path": [entry for entry in sys.path if entry],
    }
    run.write("job", {**job, "seal": _seal(job)})


def _seal(job: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in job.items() if key != "seal"}, sort_keys=True)
    return hmac.new(secret(), text.encode(), hashlib.sha256).hexdigest()


def job_of(run: Run) -> dict[str, Any]:
    """What `write_job` wrote. BadValue where there is none, or where it is not of this store: a job names code, and a folder
    that a stranger made is to start none."""
    if not run.has(FILE):
        raise BadValue(
            f"run {run.id} of {run.name} was begun in a cell that holds what it needs; run that cell again to go on with it"
        )
    job = read_json(run.path / FILE)
    if not isinstance(job, dict) or not hmac.compare_digest(str(job.get("seal")), _seal(job)):
        raise BadValue(
            f"{run.path / FILE} was not written in this store, so nothing is started by it; run the cell again to go on with the run"
        )
    return job


def check_job(request: Request) -> None:
    """BadValue where `write_job` would refuse, before there is a run."""
    if isinstance(getattr(request.corpus, "documents", None), FileTexts):
        raise BadValue(
            "corpus: it is too large to be copied for another process; give the name of its file, or a pattern, in its place"
        )
    for key, value in request.given.items():
        if key not in _HERE:
            _plain(key, value, None)


def read_job(run: Run) -> tuple[Request, Corpus]:
    """The request of a run, and its text. BadValue where the run's cell has to be run again for it."""
    job = job_of(run)
    try:
        options = {key: _object(key, value, run) for key, value in job["options"].items()}
        name, corpus = job["name"], job["corpus"]
    except (KeyError, TypeError, AttributeError):
        raise BadValue(f"{run.path / FILE} is damaged; run the cell again to go on with the run") from None
    request = Request(name, corpus if isinstance(corpus, str) else None, options)
    request.lineage = job.get("lineage")
    if isinstance(corpus, str):
        return request, open_corpus(corpus, **opening(request.given))
    text = _read_text(run.path / TEXT, corpus)
    request.corpus = text
    return request, text


def _read_text(path: Path, about: Any) -> Corpus:
    try:
        with open(path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        documents, targets = [row[0] for row in rows], [row[1] for row in rows]
        whole = None if targets[0] is None else targets
        return Corpus(about["name"], about["source"], documents, whole, notes=about["notes"])
    except (OSError, ValueError, LookupError, TypeError, LabError) as error:
        raise BadValue(f"{path} is damaged ({error}); run the cell again to go on with the run") from None


def _plain(key: str, value: Any, run: Run | None) -> Any:
    """An option's value as JSON has it; `run` None only looks whether there is one."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(key, one, run) for one in value]
    if isinstance(value, LM):
        if run is not None:
            value.save(run.path / BASE)
        elif value.model.config is None:
            raise BadValue(
                f"{key}: {value.name} is of a class of your own, which a worker would need besides; train it without --background"
            )
        return {"model": BASE}
    made = getattr(value, "tokenizer", value)
    if key == "tokenizer" and isinstance(made, Tokenizer):
        if run is not None:
            with writing(run.path / TOKENIZER):
                made.save(run.path / TOKENIZER)
        return {"tokenizer": TOKENIZER}
    if inspect.isclass(value) or inspect.isfunction(value):
        return {"code": _address(key, value)}
    what = f"{type(value).__name__}, an object of this kernel"
    if isinstance(value, nn.Module):
        what += f"; give its class in its place, --{key} @{type(value).__name__}, from a file that can be imported"
    raise BadType(f"{key}: {show(value)} is {what}, and a worker is a process of its own that has none")


def _address(key: str, value: Callable[..., Any]) -> str:
    """module:name of code that another process can import. BadValue for what a cell defines."""
    module, name = value.__module__, value.__qualname__
    found = getattr(sys.modules.get(module), name, None)
    if module == "__main__" or found is not value:
        file = f"{value.__name__.lower()}.py"
        raise BadValue(
            f"{key}: {value.__name__} is defined in this notebook, and a worker is a process of its own that cannot see it; put %%writefile {file} on top of its cell, run it, and then: from {file[:-3]} import {value.__name__}"
        )
    return f"{module}:{name}"


def _object(key: str, value: Any, run: Run) -> Any:
    if isinstance(value, list):
        return tuple(_object(key, one, run) for one in value)
    if not isinstance(value, dict):
        return value
    if "model" in value:
        return load_lm(run.path / BASE)
    if "tokenizer" in value:
        return Tokenizer.load(run.path / TOKENIZER)
    module, _, name = str(value["code"]).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadValue(
            f"{key}: {module}:{name} cannot be imported ({error}); it is the code of the run's model"
        ) from None
