"""Run folders that a stranger made to do harm: nothing is executed, nothing outside is read, nothing is waited for, and
every verb says in one line what is wrong, or leaves the folder out."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_lab as lab
from llm_lab import managing
from llm_lab.lab import lab as verb
from llm_lab.magics.complete import complete
from llm_lab.store import runs
from llm_lab.store.cards import load_card
from tests.small import train

PARTS = ("request", "plan", "environment", "status", "report", "model", "tokenizer")
FILES = (*(f"{part}.json" for part in PARTS), "events.jsonl", "model.safetensors")
SECONDS = 30  # after which a test hangs
PEAK = 150e6  # bytes that Python may take meanwhile
ESCAPE = "\x1b[2J"


class Harm:
    """Makes a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A good run and one to be spoiled, copied into each test's store."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("good", steps=3)
        train("evil", steps=6, checkpoints=2)
    return folder / ".llm_lab"


@pytest.fixture
def evil(trained, own_store):
    shutil.copytree(trained, own_store / ".llm_lab")
    (own_store / "secret").write_text('{"secret": "treasure"}')
    return next(run.path for run in runs.all_runs() if run.name == "evil")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Within it nothing may be waited for, and little memory taken."""

    def late(*_: Any) -> None:
        raise AssertionError(f"it takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < PEAK
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def said(call: Callable[[], Any]) -> str:
    """What a person reads of a call: its result or the one line of its error."""
    try:
        found = call()
    except lab.LabError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return str(error)
    made = found._repr_mimebundle_() if hasattr(found, "_repr_mimebundle_") else {"text/plain": str(found)}
    assert "<script>alert" not in made.get("text/html", "")
    return "".join(made.values())


def everything(path: Path, own_store: Path, load: str | None = None) -> str:
    """All that may be asked about a run, and what was said; nothing of it does harm, and the good run is as it was."""
    run = next((run for run in runs.all_runs() if run.path == path), None)
    name = load or (run.id if run else path.name)
    calls = [
        lambda: lab.load(name),
        lambda: lab.load(f"{name}@3"),
        lambda: lab.runs().to_string(),
        lambda: managing.listed(),
        lambda: verb("show", name),
        lambda: verb("code", name),
        lambda: lab.compare([name, "good"]),
        lambda: lab.doctor(),
        lambda: verb("delete", name),
        lambda: str(runs.names()),
        lambda: str(complete("%generate ", 0, 10, {})),
        lambda: str(complete(f"%generate {name}@", 0, 11 + len(name), {})),
    ]
    with bounded():
        told = "\n".join(said(call) for call in calls)
    assert "treasure" not in told and ESCAPE not in told
    assert not (own_store / "canary").exists()
    assert (own_store / "secret").read_text() == '{"secret": "treasure"}'
    assert lab.load("good").history["step"].max() == 3
    assert "good" in runs.names() and "good" in set(lab.runs()["name"])
    return told


def change(path: Path, part: str, text: Callable[[dict[str, Any]], str | dict[str, Any]]) -> None:
    file = path / f"{part}.json"
    made = text(json.loads(file.read_text()))
    file.write_text(made if isinstance(made, str) else json.dumps(made))


def weights(path: Path, head: bytes, length: int | None = None, size: int | None = None) -> None:
    with open(path / "model.safetensors", "wb") as file:
        file.write((len(head) if length is None else length).to_bytes(8, "little") + head)
        if size is not None:
            file.truncate(size)


# what is executed where a file is trusted


@pytest.mark.parametrize("how", ["pickle", "torch"])
@pytest.mark.parametrize("name", [*FILES, "extras.safetensors", "checkpoints/3/model.safetensors", "optimizer.pt"])
def test_pickles_are_not_unpickled(evil, own_store, how, name):
    harm = Harm(own_store / "canary")
    with open(evil / name, "wb") as file:
        pickle.dump(harm, file) if how == "pickle" else torch.save({"model": harm}, file)
    told = everything(evil, own_store)
    if name in ("model.safetensors", "model.json", "tokenizer.json"):
        assert name in told


def test_a_pickled_state_is_not_unpickled(evil, own_store):
    (evil / "resume").mkdir()
    change(evil, "status", lambda status: {**status, "status": "paused"})
    with open(evil / "resume" / "00000006.safetensors", "wb") as file:
        pickle.dump(Harm(own_store / "canary"), file)
    assert "00000006.safetensors is damaged" in everything(evil, own_store)


@pytest.mark.parametrize(
    "info",
    [
        {"objective": "__import__('os').system('touch canary')"},
        {"objective": "llm_lab.store.files:write_bytes"},
        {"objective_options": {"mask_prob": float("nan")}},
        {"held_out": "../../../secret"},
        {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
        {"sizes": {"__class__": "x"}},
    ],
)
def test_words_in_files_are_not_run(evil, own_store, info):
    shutil.copy(evil / "model.safetensors", evil / "extras.safetensors")
    change(evil, "model", lambda about: {**about, "info": {**about["info"], **info}})
    everything(evil, own_store)


# what leads out of the folder


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link_is_not_read(evil, own_store, name):
    (evil / name).unlink()
    (evil / name).symlink_to(own_store / "secret")
    told = everything(evil, own_store)
    if name in ("model.json", "tokenizer.json", "model.safetensors"):
        assert "is a link" in told or "left a model" in told


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/3", "resume"])
def test_a_folder_that_is_a_link_is_not_read(evil, own_store, name):
    shutil.rmtree(evil / name, ignore_errors=True)
    outside = own_store / "outside"
    (outside / "3").mkdir(parents=True)
    for file in (outside / "model.safetensors", outside / "3" / "model.safetensors", outside / "00000003.safetensors"):
        shutil.copy(evil / "model.safetensors", file)
    (evil / name).symlink_to(outside)
    everything(evil, own_store)
    assert runs.Run(evil).states == []
    assert 3 not in runs.Run(evil).checkpoints or name == "resume"


@pytest.mark.parametrize("name", FILES)
def test_links_to_devices_and_round_in_circles(evil, own_store, name):
    for target in ("/dev/zero", "/proc/self/mem", name):
        (evil / name).unlink()
        (evil / name).symlink_to(target)
        everything(evil, own_store)


def test_a_lock_that_is_a_link_is_not_written(evil, own_store):
    (evil / "lock").unlink(missing_ok=True)
    (evil / "lock").symlink_to(own_store / "secret")
    everything(evil, own_store)
    for call in (lambda: verb("rename", evil.name, "poet"), lambda: verb("delete", evil.name, evil.name)):
        assert "is a link" in said(call)
    assert (own_store / "secret").read_text() == '{"secret": "treasure"}'


def test_paths_in_files_are_names_at_most(evil, own_store):
    trick = "../../../secret"
    for part in ("request", "status", "plan", "report"):
        change(evil, part, lambda old: {**old, "name": trick, "run": trick, "path": trick, "folder": trick})
    change(
        evil,
        "request",
        lambda old: {**old, "from": {"run": trick, "name": trick, "step": -1}, "corpus": {"name": trick}},
    )
    everything(evil, own_store)


# what would be waited for


@pytest.mark.parametrize(
    "name", [*FILES, "resume/00000006.safetensors", "worker.log", "tokenizer_config.json", "config.json"]
)
def test_pipes_are_not_waited_for(evil, own_store, name):
    (evil / name).unlink(missing_ok=True)
    (evil / name).parent.mkdir(exist_ok=True)
    os.mkfifo(evil / name)
    everything(evil, own_store)
    change(evil, "status", lambda old: {**old, "status": "died"}) if name != "status.json" else None
    everything(evil, own_store)


def test_folders_in_the_place_of_files(evil, own_store):
    for name in FILES:
        (evil / name).unlink()
        (evil / name).mkdir()
    shutil.rmtree(evil / "checkpoints")
    (evil / "checkpoints").write_text("x")
    everything(evil, own_store)


# what would fill the memory


@pytest.mark.parametrize("name", FILES)
def test_files_of_gigabytes_are_not_read(evil, own_store, name):
    with open(evil / name, "wb") as file:
        file.truncate(1 << 42)
    told = everything(evil, own_store)
    if name in ("model.json", "tokenizer.json"):
        assert "too large" in told


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"a":' * 200_000,
        "[" + "[]," * 300_000 + "[]]",
        "9" * 1_000_000,
        '{"a":1,"a":[2],"config":NaN}',
        "\x00",
        "-1",
    ],
    ids=["deep", "deep tables", "many lists", "digits", "twice", "zero", "number"],
)
def test_json_that_is_made_to_hurt(evil, own_store, part, text):
    (evil / f"{part}.json").write_text(text)
    everything(evil, own_store)


@pytest.mark.parametrize(
    "value", [[1], {"a": 1}, "x" * 100_000, -1, 1e308, True, None, float("nan"), ESCAPE + "<script>alert(1)</script>"]
)
@pytest.mark.parametrize("part", ["request", "plan", "status", "report", "model"])
def test_values_of_every_kind_in_every_place(evil, own_store, part, value):
    change(evil, part, lambda old: dict.fromkeys([*old, "from", "why", "signal", "ooms"], value))
    everything(evil, own_store)


@pytest.mark.parametrize("line", [b"x" * 50_000_000, b'{"kind":"step","step":' + b"9" * 4000 + b"}\n", b"\n" * 1000])
def test_events_of_one_line(evil, own_store, line):
    (evil / "events.jsonl").write_bytes(line)
    everything(evil, own_store)


def test_events_that_memory_could_not_hold_are_left_alone(evil, own_store, monkeypatch):
    from llm_lab import machine

    run = runs.Run(evil)
    assert len(run.history) and load_card(run).train
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(10**8, (evil / "events.jsonl").stat().st_size))
    assert not len(run.history) and not load_card(run).train


@pytest.mark.parametrize(
    ("head", "length", "size"),
    [
        (b"{}", 1 << 62, None),
        (b"{}", 99_000_000, 100_000_000),
        (b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999999999]}}', None, None),
        (b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}}', None, None),
        (b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}', None, None),
        (
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            None,
            200,
        ),
        (b'{"a":{"dtype":"PICKLE","shape":[4],"data_offsets":[0,16]}}', None, 200),
        (b"[" * 4_000_000, None, None),
        (b'{"a":{"shape":[]},' * 200_000, None, None),
    ],
    ids=["length", "sparse head", "behind the end", "before the start", "overflow", "overlap", "kind", "deep", "many"],
)
def test_heads_of_weights_that_are_made_to_hurt(evil, own_store, head, length, size):
    weights(evil, head, length, size)
    assert "model.safetensors" in everything(evil, own_store)


def test_weights_that_memory_could_not_hold_are_refused_before_it_is_taken(evil, own_store):
    """A sparse file of a terabyte, whose shapes are those of its model."""
    change(evil, "model", lambda about: {**about, "config": {**about["config"], "d_model": 1 << 18, "d_ff": 1 << 18}})
    from safetensors import safe_open

    with safe_open(evil / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    at, head = 0, {}
    for name, shape in shapes.items():
        grown = [1 << 18 if n >= 16 else n for n in shape]
        size = 4 * torch.Size(grown).numel()
        head[name] = {"dtype": "F32", "shape": grown, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    weights(evil, text, size=8 + len(text) + at)
    assert " GB are free" in everything(evil, own_store)


@pytest.mark.parametrize(
    "model",
    [
        {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
        {"type": "Unigram", "unk_id": 10**9, "vocab": []},
        {"type": "Evil"},
        [],
    ],
)
def test_tokenizers_that_are_made_to_hurt(evil, own_store, model):
    change(evil, "tokenizer", lambda old: {**old, "model": model})
    assert "tokenizer.json" in everything(evil, own_store)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
        {
            "padding": {
                "strategy": {"Fixed": 10**12},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        },
        {"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10**9}},
        {"decoder": {"type": "Strip", "content": "a", "start": 10**12, "stop": 10**12}},
        {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}},
        {
            "added_tokens": [
                {
                    "id": 2**31,
                    "content": "\x1b[2J",
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
            ]
        },
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_of_tokenizers_that_are_made_to_hurt(evil, own_store, changes):
    change(evil, "tokenizer", lambda old: {**old, **changes})
    everything(evil, own_store)


# names


@pytest.mark.parametrize(
    "name",
    [
        f"{ESCAPE}-3f2a9c",
        "<script>alert(1)<-3f2a9c",
        "a\nb-3f2a9c",
        "-",
        "..-..",
        "x" * 200 + "-3f2a9c",
        "a,b@5-3f2a9c",
        "%load_ext os-3f2a9c",
    ],
)
def test_names_of_folders_are_shown_and_not_obeyed(evil, own_store, name):
    path = evil.with_name(name)
    evil.rename(path)
    everything(path, own_store)
    assert not [one for one in runs.names() if not one.replace("_", "a").isalnum()]


# the same in a zip


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", pickle.dumps(Harm(Path("canary")))),
        ("model.json", b"[" * 1_000_000),
        ("status.json", b'{"status": "training", "pid": 1}'),
        ("request.json", b"\xff"),
        ("report.json", b"9" * 1_000_000),
        ("events.jsonl", b"x" * 5_000_000),
        ("tokenizer.json", b"{}"),
        ("../secret", b"mine"),
        ("evil.py", b"open('canary', 'w')"),
    ],
)
def test_what_is_hostile_in_a_zip(evil, own_store, monkeypatch, name, data):
    with zipfile.ZipFile(own_store / "gift.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(one for one in evil.rglob("*") if one.is_file() and one.name != name):
            archive.write(file, f"{evil.name}/{file.relative_to(evil).as_posix()}")
        archive.writestr(f"{evil.name}/{name}", data)
    shutil.rmtree(evil)
    monkeypatch.setenv("LLM_LAB_PATH", str(own_store / "gift.zip"))
    for load in (str(own_store / "gift.zip"), evil.name):
        everything(evil, own_store, load)
    assert not list(own_store.rglob("evil.py"))
