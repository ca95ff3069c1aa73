"""A run that begins with another's weights: the same weights, the same tokens, another course, and its lineage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llm_lab as lab
from llm_lab.errors import BadType, BadValue
from llm_lab.magics.help import text
from llm_lab.magics.parse import parse
from llm_lab.models.adapted import Adapted
from llm_lab.store import runs
from llm_lab.verbs import VERBS
from tests.small import TEXT, train
from tests.test_faults import pausing
from tests.test_pretraining import make, same
from tests.test_resume import until

OTHER = ["green bottles fell upon the wall. " * 300]
FEW = dict(display=False, threads=1, batch_size=4, steps=3)
RATE = dict(lr=1e-12, muon_lr=1e-12, weight_decay=0.0, steps=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "bert"},
        {"preset": "electra"},
        {"preset": "t5"},
        {"preset": "modern", "objective": "mtp", "n_future": 2},
        {"preset": "gpt2", "optimizer": "adamw"},
        {"model": make(1.0)},
    ],
)
def test_it_begins_with_the_same_weights(options):
    base = train("bard", steps=4, **options)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    fork = lab.pretrain([TEXT], name="fork", init_from=base, display=False, threads=1, batch_size=4, **RATE)
    assert fork.run.id != base.run.id
    assert fork.objectives == base.objectives
    for name, tensor in fork.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-6)
        assert torch.equal(base.model.state_dict()[name], before[name])  # which stays as it was
    for name, tensor in fork.extras.state_dict().items():
        torch.testing.assert_close(tensor, base.extras.state_dict()[name], atol=1e-6, rtol=1e-6)


def test_lineage_is_kept_and_shown():
    base = train("bard", steps=8, checkpoints=(4, 8))
    fork = lab.pretrain(OTHER, "fork", init_from="bard@4", **FEW)
    assert f"from bard@4 (run {base.run.id})" in fork.report.facts
    told = fork.run.read("request")["from"]
    assert (told["name"], told["run"], told["step"]) == ("bard@4", base.run.id, 4)
    assert fork.tokenizer.fingerprint == base.tokenizer.fingerprint
    again = lab.pretrain(OTHER, "fork", init_from="bard@4", **FEW)
    assert again.run.id == fork.run.id
    assert again.report.status == "restored"
    last = lab.pretrain(OTHER, "fork", init_from=base, **FEW)
    assert last.run.id != fork.run.id  # other weights, another run


def test_its_line_repeats_it():
    base = train("bard", steps=8, checkpoints=(4,))
    options = dict(display=False, threads=1, batch_size=4, steps=5)
    fork = lab.pretrain([TEXT], name="fork", init_from="bard@4", **options)
    line = fork.report.repeat.removeprefix("%%pretrain ")
    assert f'--from "{base.run.id}@4"' in line
    again = lab.pretrain(display=False, **parse(VERBS["pretrain"], line, None, {"your_text": [TEXT]}).kwargs)
    assert again.run.id != fork.run.id
    assert same(fork, again)


def test_its_line_names_the_run_and_not_what_is_called_so_today():
    base = train("bard", steps=3)
    fork = lab.pretrain(OTHER, "fork", init_from="bard", **FEW)
    train("bard", steps=4)
    line = fork.report.repeat.removeprefix("%%pretrain ")
    assert f"--from {base.run.id} " in line
    again = lab.pretrain(display=False, **parse(VERBS["pretrain"], line, None, {"your_text": OTHER}).kwargs)
    assert same(fork, again)
    for number in ("123456", "12e456"):  # ids that look like numbers
        assert parse(VERBS["pretrain"], f"fork --from {number}").kwargs["init_from"] == number


def test_weights_that_a_run_left_behind_are_said_to_be_gone(monkeypatch):
    with monkeypatch.context() as patch:
        pausing(patch, 5)
        left = train("bard", steps=12)
    fork = lab.pretrain(OTHER, "fork", init_from="bard", **FEW)
    gone = f"it began with bard as it was after step {left.report.step}, which is not kept"
    assert any(note.startswith(gone) for note in fork.report.notes)
    train("bard", steps=12)
    fork = lab.pretrain(OTHER, "fork", init_from="bard", **FEW)
    assert not any("not kept" in note for note in fork.report.notes)


def test_from_on_a_line_and_in_a_body():
    for line, body in (("fork --from bard@4", None), ("fork", 'from = "bard@4"'), ("fork --init_from bard@4", None)):
        assert parse(VERBS["pretrain"], line, body).kwargs["init_from"] == "bard@4"
    with pytest.raises(BadType, match="for example --from bard@500"):
        parse(VERBS["pretrain"], "fork --from", None)
    assert "--from VALUE" in text(VERBS["pretrain"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_layer": 3}, r"^n_layer: bard, which it begins with, has n_layer 2, and 3 was asked for"),
        ({"preset": "gpt2"}, r"^preset: bard, which it begins with, has its own"),
        ({"tokenizer": "byte"}, r"^tokenizer: bard, which it begins with, reads \d+ tokens of its own \(char\)"),
        ({"vocab_size": 300}, r"^vocab_size: bard"),
        ({"model": make(1.0)}, r"^from: bard brings its own model"),
        ({"objective": "plm"}, r"plm"),
    ],
)
def test_what_is_the_other_models_cannot_be_asked_for(options, says):
    base = train("bard", steps=2)
    with pytest.raises(lab.LabError, match=says):
        lab.pretrain([TEXT], name="fork", init_from=base, steps=2, display=False, **options)
    assert [run.name for run in runs.all_runs()] == ["bard"]


def test_the_same_shape_may_be_said_and_dropout_changed():
    base = train("bard", steps=2)
    fork = lab.pretrain([TEXT], name="fork", init_from=base, display=False, threads=1, n_layer=2, dropout=0.3, **RATE)
    assert fork.model.config.dropout == 0.3
    assert base.model.config.dropout == 0.0


def test_counts_cannot_be_trained_further():
    base = lab.pretrain([TEXT], name="counts", preset="ngram", display=False)
    with pytest.raises(BadValue, match=r"^from: counts has no gradients"):
        lab.pretrain([TEXT], name="fork", init_from=base, steps=2, display=False)


def test_a_paused_run_can_be_forked(monkeypatch):
    from tests.test_faults import pausing

    with monkeypatch.context() as patch:
        pausing(patch, 6)
        paused = train("bard", steps=50)
    assert paused.report.status == "paused"
    fork = lab.pretrain([TEXT], name="fork", init_from="bard", display=False, threads=1, batch_size=4, steps=2)
    assert fork.run.read("request")["from"]["step"] == paused.run.states[-1]


def test_a_worker_begins_with_them_too():
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    base = train("bard", "text.txt", steps=8, checkpoints=(4,))
    options = dict(init_from="bard@4", display=False, threads=1, batch_size=4, steps=5)
    here = lab.pretrain("text.txt", name="here", **options)
    there = lab.pretrain("text.txt", name="there", background=True, **options).wait(60)
    assert same(here, there)
    assert f"from bard@4 (run {base.run.id})" in there.report.facts
    assert not isinstance(there.model, Adapted)
    until(lambda: not (there.run.path / "base").exists())  # it goes when the run is over
