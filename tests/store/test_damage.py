"""Stores with damaged files: lists go on, loading says in one line which file it is, and nothing absurd is allocated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import llm_lab as lab
from llm_lab import managing, overview
from llm_lab.results import Sample, TrainingReport
from llm_lab.store import runs
from llm_lab.store.typed import build
from tests.small import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One trained run, copied into each test's store."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("bard", steps=20)
    return folder / ".llm_lab"


@pytest.fixture
def run(trained, own_store):
    shutil.copytree(trained, own_store / ".llm_lab")
    (found,) = runs.all_runs()
    return found


def edit(path: Path, **changes: object) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


def refused(name: str = "bard", model: object = None) -> str:
    with pytest.raises(lab.LabError) as caught:
        lab.load(name, model=model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"started": "x"},
        {"started": None},
        {"started": float("nan")},
        {"status": "training", "pid": "x"},
        {"status": "training", "pid": 10**30},
        {"status": "training", "pid": [1]},
        {"status": ["finished"]},
        {"time": None},
        {"time": 1e999},
        {"final": [1]},
        {"final": {"loss": "low"}},
        {"steps": {"a": 1}},
    ],
)
def test_a_damaged_status_breaks_no_list(run, changes):
    edit(run.path / "status.json", **changes)
    other = train("other", steps=2)
    assert {row["run"] for _, row in lab.runs().iterrows()} == {run.id, other.run.id}
    assert run.id in str(managing.listed())
    assert "2 runs" in str(lab.doctor())
    assert runs.find("other").id == other.run.id
    assert lab.load(run.id).run == run
    assert isinstance(overview.ago(run.read("status").get("time")), str)
    assert runs.find_identical("nobody", {}) is None


@pytest.mark.parametrize("text", ['{"corpus":"x"}', "[1]", '{"corpus":{"name":[1]}}', "{", "[" * 100_000, '"\\ud800"'])
@pytest.mark.parametrize("part", ["request", "status"])
def test_a_damaged_request_or_status_breaks_no_list(run, text, part):
    (run.path / f"{part}.json").write_text(text)
    assert list(lab.runs()["run"]) == [run.id]
    assert run.id in str(managing.listed())
    assert runs.find_identical("bard", {"corpus": "y"}) is None
    train("bard", steps=2)
    assert len(runs.all_runs()) == 2


def test_bytes_that_are_no_text_break_no_list(run):
    for name in ("request.json", "status.json", "report.json", "events.jsonl"):
        (run.path / name).write_bytes(b"\xff\xfe\x00{")
    (run.path / "request.json").write_text('{"corpus": {"name": "\\ud800"}}')
    assert list(lab.runs()["run"]) == [run.id]
    assert runs.key(run.read("request"))
    assert lab.load(run.id).report is None


def test_dates_of_damaged_files():
    assert [overview.ago(then) for then in (None, "x", [1], float("nan"), True)] == ["some time ago"] * 5
    assert overview.ago(0.0).endswith(" days ago")


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"a"}',
        "[1]",
        "{",
        "null",
        '{"notes":[1]}',
        '{"notes":"a"}',
        '{"step":1e999}',
        '{"final":[1]}',
    ],
)
def test_a_damaged_card_is_left_out(run, text):
    path = run.path / "report.json"
    try:
        changes = json.loads(text)
        whole = {**json.loads(path.read_text()), **changes} if set(changes) - {"name"} else changes
        path.write_text(json.dumps(whole))
    except (TypeError, ValueError):
        path.write_text(text)
    lm = lab.load("bard")
    assert lm.report is None
    assert lab.generate(lm, "1", max_new_tokens=2).text


def test_a_whole_card_comes_back_as_it_was(run):
    report = lab.load("bard").report
    assert isinstance(report, TrainingReport)
    assert all(isinstance(point, tuple) for point in report.train)
    assert all(isinstance(sample, Sample) for sample in report.samples)
    assert report.samples
    # long curves are thinned out point by point, which lists would not allow
    report.train *= 40
    assert "bard" in str(report)


def test_typed_values_are_checked():
    whole = {"step": 1, "seconds": 2, "prompt": "a", "text": "b", "later": 1}
    assert build(Sample, whole) == Sample(1, 2.0, "a", "b")
    for key, value in (("step", True), ("step", 1.5), ("step", 10**30), ("seconds", 10**400), ("text", None)):
        with pytest.raises(ValueError, match=r"."):
            build(Sample, {**whole, key: value})
    with pytest.raises(ValueError, match="missing"):
        build(Sample, {"step": 1})


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "{}", "{", "[" * 100_000, '{"config":[1]}', '{"own_class":[1]}'])
def test_a_model_json_that_is_none_is_named(run, text):
    (run.path / "model.json").write_text(text)
    assert "model.json" in refused()
    assert list(lab.runs()["run"]) == [run.id]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"info": [1]}, "info is a list"),
        ({"info": {"sizes": [1]}}, "info.sizes"),
        ({"info": {"held_out": "../../secret"}}, "is a path, not a name"),
        ({"info": {"held_out": 3}}, "info.held_out"),
        ({"config": {"vocab_size": None}}, "vocab_size is missing"),
        ({"config": {"n_layer": "2"}}, "n_layer '2' is not a whole number"),
        ({"config": {"n_layer": True}}, "n_layer True"),
        ({"config": {"n_head": 3}}, "does not divide"),
        ({"config": {"d_model": 200000}}, "d_model 200000 is larger than anything in model.safetensors"),
        ({"config": {"d_model": 10**12 + 1}}, "d_model 1000000000001 is larger"),
        ({"config": {"n_layer": 10**6}}, "n_layer 1000000 is larger than anything in model.safetensors"),
        ({"config": {"n_layer": 10**9}}, "n_layer 1000000000 is larger"),
        ({"config": {"vocab_size": 10**11}}, "vocab_size"),
        ({"config": {"max_seq_len": 10**30}}, "max_seq_len"),
        ({"config": {"max_seq_len": 10**11}}, "max_seq_len 100,000,000,000 takes"),
        ({"config": {"d_model": 32}}, "does not fit the model"),
        ({"config": {"n_layer": 3}}, "does not fit the model"),
        ({"config": {"tie_embeddings": True}}, "does not fit the model"),
        ({"config": {"colour": "red"}}, "colour is unknown to this version"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_memory_is_taken(run, changes, says, monkeypatch):
    path = run.path / "model.json"
    for part, values in changes.items():
        edit(path, **{part: {**json.loads(path.read_text())[part], **values} if isinstance(values, dict) else values})
    import torch

    real = torch.nn.init.normal_

    def on_meta(tensor, *args, **kwargs):
        assert tensor.is_meta, "allocated"
        return real(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.nn.init, "normal_", on_meta)
    message = refused()
    assert says in message
    assert "model.json" in message or "model.safetensors" in message


def test_a_users_class_is_not_built_from_absurd_sizes(own_store):
    import torch

    class Mine(torch.nn.Module):
        def __init__(self, vocab_size, d_model):
            super().__init__()
            assert d_model < 1000, "allocated"
            self.table = torch.nn.Embedding(vocab_size, d_model)
            self.head = torch.nn.Linear(d_model, vocab_size)

        def forward(self, ids):
            return self.head(self.table(ids))

    lm = train("mine", model=Mine)
    path = lm.run.path / "model.json"
    kept = path.read_text()
    assert lab.load("mine", model=Mine).name == "mine"
    assert "own_class" not in refused("mine")
    for changes in ({"d_model": 200000, "n_head": 2}, {"d_model": 10**15 + 1}, {"d_model": "x"}, {"colour": 1}):
        about = json.loads(kept)
        about["info"]["sizes"] |= changes
        path.write_text(json.dumps(about))
        assert "model.json" in refused("mine", Mine)
    for vocab in (None, "x", [1], 2):
        path.write_text(json.dumps({**json.loads(kept), "vocab_size": vocab}))
        assert "model.json" in refused("mine", Mine)


def test_a_tokenizer_that_is_not_the_models_is_named(run):
    path = run.path / "tokenizer.json"
    kept = path.read_text()
    for text in ("{}", "[]", "{", kept.replace("<eos>", "<end>")):
        path.write_text(text)
        assert "tokenizer.json" in refused()
    lab.tokenizer(["".join(map(chr, range(33, 400)))]).save(path)
    assert "tokenizer.json has" in refused()


@pytest.mark.parametrize(
    "line",
    [
        b"[1]",
        b'"x"',
        b"1",
        b'{"kind":"step"}',
        b'{"kind":["step"]}',
        b'{"kind":"step","step":"9","tokens":1,"seconds":1,"loss":1,"lr":1}',
        b'{"kind":"step","step":9,"tokens":1,"seconds":1,"loss":1,"lr":null}',
        b'{"kind":"step","step":9,"tokens":1,"seconds":NaN,"loss":1,"lr":1}',
        b'{"kind":"step","step":9,"tokens":1,"seconds":1,"loss":[1],"lr":1}',
        b'{"kind":"validation"}',
        b"\xff\xfe",
        b'{"kind":"st\xff',
        b"[" * 100_000,
        b'{"kind":"ste',
    ],
)
def test_a_damaged_line_of_a_trace_is_passed_by_and_a_replay_ends_before_it(run, line):
    path = run.path / "events.jsonl"
    lines = path.read_bytes().splitlines()
    whole = run.learning_rates()
    at = [i for i, text in enumerate(lines) if b'"step", "step": 8,' in text or b'"kind": "step"' in text][7]
    path.write_bytes(b"\n".join([*lines[:at], line, *lines[at + 1 :]]) + b"\n")
    assert run.learning_rates() == whole[:7]
    assert set(range(1, len(whole) + 1)) - {8} <= set(run.history["step"])
    assert lab.load("bard").history.equals(run.history)


def test_parts_of_a_loss_are_columns_and_damaged_ones_are_passed_by(run):
    path = run.path / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert not [name for name in run.history.columns if name.endswith("_clm")]  # one part is the loss itself
    said = [{"clm": 1.5, "mlm": 2.5}, {"mlm": 3.5}, {"mlm": [1], "clm": None}, [1], 7, {"loss": 9.0}, {"clm": "1"}]
    steps = [event for event in events if event["kind"] == "step"]
    for event, parts in zip(steps, said, strict=False):
        event["parts"] = parts
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    history = run.history
    assert list(history.columns)[:6] == ["step", "tokens", "seconds", "train_loss", "val_loss", "lr"]
    assert set(history.columns[6:]) == {"train_clm", "train_mlm", "val_clm", "val_mlm"}
    assert history["train_mlm"].tolist()[:2] == [2.5, 3.5]
    assert history["train_mlm"].iloc[2:7].isna().all()
    assert history["train_loss"].tolist()[5] == steps[5]["loss"]


def test_names_in_files_are_no_paths(run, own_store):
    edit(run.path / "request.json", corpus={"name": "../../x"}, name="../../y")
    edit(run.path / "model.json", name="../../z")
    assert lab.load("bard").name == "bard"
    assert lab.load(run.path).name == run.path.name
    assert list(lab.runs()["name"]) == ["bard"]
    assert list(lab.runs()["folder"]) == [str(run.path)]
    assert {path.name for path in own_store.iterdir()} == {".llm_lab"}
