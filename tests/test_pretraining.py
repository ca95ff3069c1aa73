"""One training from request to model: what is recognised again, what repeats exactly, and what is kept when it fails."""

from __future__ import annotations

import json
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import llm_lab as lab
from llm_lab import session
from llm_lab.errors import BadType, BadValue
from llm_lab.magics.parse import parse
from llm_lab.store import runs
from llm_lab.verbs import VERBS
from tests.small import SIZES, TEXT, train


def weights(lm):
    return [p.detach().clone() for p in lm.model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def repeat(lm, **namespace):
    """Carry out the line that a card prints, as the cell would."""
    line = lm.report.repeat.removeprefix("%%pretrain ")
    return lab.pretrain(display=False, **parse(VERBS["pretrain"], line, None, namespace).kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 12},
        {"steps": 12, "dropout": 0.2, "accumulate": 2, "optimizer": "adamw", "schedule": "cosine", "keep": "best"},
        {"steps": 8, "precision": "bf16", "max_seq_len": 16, "mlp": "swiglu", "bias": True, "seed": 2**53 + 1},
        {"seconds": 2},
        {"seconds": 2, "keep": "best", "muon_lr": 0.3, "eval_tokens": 300},
        {"epochs": 0.05, "tokenizer": "bpe", "vocab_size": 300, "sample_prompt": "-x none"},
    ],
)
def test_the_repeat_line_repeats_bit_by_bit(options, tmp_path):
    (tmp_path / "my text.txt").write_text(TEXT, encoding="utf-8")
    lm = train("first", "my text.txt", **options)
    again = repeat(lm)
    assert again.run.id != lm.run.id
    assert same(lm, again)
    assert again.report.final == lm.report.final


def test_an_interrupted_run_repeats_to_where_it_stopped(monkeypatch):
    def stop(self, event, real=session.Session._update):
        real(self, event)
        if event.step == 5:
            self.trainer.request_stop()

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_update", stop)
        lm = train("cut", steps=40, keep="best", eval_every=2)
    assert lm.report.status == "paused"
    assert lm.report.repeat.startswith("%%pretrain cut @your_text --replay")
    assert same(lm, repeat(lm, your_text=[TEXT]))


def make(scale, helper=None, width=16):
    """Classes that differ only where no source of their own shows it: in a constant, and in a helper."""
    helper = helper or nn.Identity

    class Own(nn.Module):
        def __init__(self, vocab_size):
            super().__init__()
            self.table, self.head = nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size)
            self.helper = helper()

        def forward(self, ids):
            return self.head(self.helper(self.table(ids))) * scale

    return Own


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def test_an_edited_model_of_ones_own_is_never_taken_for_the_old_one():
    first = train("own", model=make(1.0))
    assert train("own", model=make(1.0)).run.id == first.run.id
    for edited in (make(-5.0), make(1.0, Double), make(1.0, width=8)):
        assert train("own", model=edited).run.id != first.run.id


def test_an_instance_stays_as_it_was_and_is_not_restored():
    net = make(1.0)(200)
    before = [p.clone() for p in net.parameters()]
    lm = train("net", model=net)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert train("net", model=net).run.id != lm.run.id
    assert "@your_model" in lm.report.repeat
    assert "@your_text" in lm.report.repeat
    assert "is for the variable that you gave" in lm.report.notes[-1]
    assert same(lm, repeat(lm, your_text=[TEXT], your_model=net))


@pytest.mark.parametrize("options", [{"lr": 1e30, "grad_clip": 0, "muon_lr": 1e30}, {"lr": 1e30, "steps": 3}])
def test_weights_that_are_no_numbers_are_a_failed_run(options):
    lm = train("div", **options)
    assert lm.report.status == "failed"
    assert "stopped being a number" in lm.report.notes[-1]
    assert lm.report.final == {}
    json.loads((lm.run.path / "report.json").read_text(), parse_constant=pytest.fail)
    with pytest.raises(lab.LabError, match="div"):
        lab.load("div")
    with pytest.raises(lab.LabError, match="not numbers"):
        lab.generate(lm, "1")


def test_an_interrupt_of_the_last_measurement_keeps_the_model(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "likelihoods", interrupted)
    lm = train("late")
    assert lm.report.status == "finished"
    assert "was not read" in lm.report.notes[-1]
    assert same(lab.load("late"), lm)


def test_a_run_that_breaks_says_so_on_its_card(monkeypatch):
    shown = []

    class Live:
        def __init__(self, card):
            pass

        def update(self, card):
            pass

        def close(self, card):
            shown.append((card.status, card.notes[-1]))

    class Breaks(make(1.0)):
        calls = 0

        def forward(self, ids):
            Breaks.calls += 1
            if Breaks.calls > 20:
                raise RuntimeError("boom")
            return super().forward(ids)

    monkeypatch.setattr("llm_lab.views.live.Live", Live)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises((RuntimeError, lab.LabError), match="boom"):
        lab.pretrain([TEXT], name="broken", model=Breaks, steps=50, **SIZES)
    assert signal.getsignal(signal.SIGINT) is before
    assert shown[0][0] == "failed"
    assert "boom" in shown[0][1]
    assert runs.all_runs()[0].status == "failed"


def test_what_is_global_in_torch_is_put_back():
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    try:
        train(steps=2, threads=1)
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(1)


def test_replays_that_cannot_be():
    lm = train("a")
    with pytest.raises(lab.LabError, match="has 12 steps, and 100 were asked for"):
        train("b", replay=lm.run.id, steps=100)
    (lm.run.path / "events.jsonl").write_text("")
    with pytest.raises(lab.LabError, match="no trace"):
        train("b", replay=lm.run.id)


@pytest.mark.parametrize("vocabulary", [16, 64, 48, 17])
def test_muon_takes_the_matrices_of_the_blocks_whatever_the_vocabulary(vocabulary):
    from llm_lab.objectives.objective import Trainee
    from llm_lab.training.optimizers import Muon, muon
    from llm_lab.training.options import TrainOptions

    model = lab.build(vocab_size=vocabulary, n_layer=2, n_head=2, d_model=16, max_seq_len=16)
    first, rest = muon(Trainee(model, torch.nn.ModuleDict()), TrainOptions())
    assert isinstance(first, Muon)
    assert sum(len(group["params"]) for group in first.param_groups) == 2 * 4  # qkv, out, up, down
    outer = {id(model.embed.weight), id(model.unembed.weight)}
    assert outer <= {id(p) for group in rest.param_groups for p in group["params"]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 20000}, "threads"),
        ({"seed": 2**64}, "seed"),
        ({"sample_prompt": "\ud800"}, "half a character"),
        ({"column": "text"}, "chooses a column of a DataFrame"),
    ],
)
def test_more_bad_options(options, says):
    with pytest.raises(lab.LabError, match=says):
        train("x", **options)
    assert not runs.all_runs()


def test_a_column_is_chosen():
    frame = pd.DataFrame({"a": ["x y z " * 300] * 4, "b": [TEXT[:3000]] * 4})
    lm = train("frame", frame, column="b", steps=2)
    assert "g" in {piece.text for piece in lm.tokenizer.pieces(range(lm.tokenizer.vocab_size))}


def test_extreme_sampling_is_sampling_still():
    lm = train("a")
    for options in ({"p": 1e-300}, {"temperature": 1e-4}, {"temperature": 1e4}):
        assert np.isfinite(lab.generate(lm, "1", seed=0, max_new_tokens=5, **options).logprob[0]).all()
    with pytest.raises(lab.LabError, match="temperature"):
        lab.generate(lm, "1", temperature=1e-45)


def test_the_card_shows_each_part_of_the_loss():
    report = train("b", preset="bert", steps=6, eval_every=3).report
    assert list(report.parts) == list(report.val_parts) == ["mlm", "nsp"]
    assert [len(curve) for curve in report.parts.values()] == [6, 6]
    assert report.unit == "nats/masked token"
    assert report.facts[:2] == ["bert", "mlm_nsp"]
    for (_, _, total), (_, _, mlm), (_, _, nsp) in zip(report.train, *report.parts.values(), strict=True):
        assert total == pytest.approx(mlm + nsp, rel=1e-5)
    frame = report.to_pandas()
    assert list(frame.columns)[2:] == ["train_loss", "val_loss", "train_mlm", "train_nsp", "val_mlm", "val_nsp"]
    assert lab.load("b").report.parts == report.parts
    assert set(lab.load("b").history.columns) >= {"train_mlm", "val_nsp"}


def test_objectives_in_turns_have_a_part_a_step():
    lm = train("b", objective="clm,mlm", mix="turns", steps=8, eval_every=4)
    assert lm.report.facts[1] == "clm and mlm in turns"
    assert sorted(step for curve in lm.report.parts.values() for step, *_ in curve) == list(range(1, 9))
    assert {len(curve) for curve in lm.report.val_parts.values()} == {2}
    assert lm.history[["train_clm", "train_mlm"]].notna().sum(axis=1).tolist() == [1] * 8


def test_a_loss_of_one_part_has_no_curves_of_parts():
    report = train("b").report
    assert report.parts == report.val_parts == {}
    assert not [fact for fact in report.facts if "clm" in fact]
    experts = train("c", n_expert=3, steps=4).report
    assert list(experts.parts) == ["clm", "balance"]


def test_a_tokenizer_that_is_there_already_is_used():
    first = train("first", tokenizer="bpe", vocab_size=300)
    small = train("small", ["2 other bottles of another text. " * 40], tokenizer=first)
    again = train("again", ["2 other bottles of another text. " * 40], tokenizer=first.tokenizer)
    assert small.tokenizer.fingerprint == again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert small.model.vocab_size == first.model.vocab_size
    assert "--tokenizer @your_tokenizer" in small.report.repeat
    assert lab.load("small").tokenizer.fingerprint == first.tokenizer.fingerprint
    assert lab.generate(first, "1", strategy="speculative", draft=small, max_new_tokens=5).tokens
    other = train("small", ["2 other bottles of another text. " * 40], tokenizer="bpe", vocab_size=300)
    assert other.run.id != small.run.id  # the tokenizer is part of what was asked for
    with pytest.raises(BadType, match="tokenizer: 3 is int"):
        train("wrong", tokenizer=3)
    with pytest.raises(BadValue, match="vocab_size: the tokenizer that is given has"):
        train("wrong", tokenizer=first, vocab_size=300)
