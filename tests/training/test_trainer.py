"""The loop: what it repeats, when it ends, and what its events say."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import llm_lab as lab
from llm_lab import session
from llm_lab.objectives.objective import Trainee
from llm_lab.training import schedules
from llm_lab.training.optimizers import Muon, muon, orthogonalize
from llm_lab.training.options import TrainOptions
from tests.small import SIZES, TEXT, train


def losses(lm):
    return lm.history.train_loss.tolist()


def test_training_lowers_the_loss_and_the_whole_split_is_measured():
    lm = train(steps=150, name="learner")
    history = lm.history
    assert len(history) == 150
    assert history.train_loss.iloc[-10:].mean() < 0.5 * history.train_loss.iloc[0]
    assert history.val_loss.notna().sum() >= 12
    assert lm.report.final["loss"] == pytest.approx(lab.evaluate(lm)["loss"], abs=1e-6)
    assert lm.report.status == "finished"


def test_the_same_seed_gives_the_same_run_whatever_is_displayed():
    first = train(name="a", dropout=0.1)
    torch.manual_seed(999)
    np.random.seed(1)
    second = train(name="b", dropout=0.1, sample_tokens=0)
    assert losses(first) == losses(second)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    texts = [lab.generate(lm, "1 green", seed=3, max_new_tokens=20, n=2).texts for lm in (first, second)]
    assert texts[0] == texts[1]
    assert losses(train(name="c", dropout=0.1, seed=1)) != losses(first)


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    train(steps=2, dropout=0.1)
    assert torch.equal(torch.rand(3), want)


def test_accumulated_microbatches_equal_one_large_batch():
    whole = train(name="whole", batch_size=8, steps=4, optimizer="adamw", sample_tokens=0)
    parts = train(name="parts", batch_size=4, accumulate=2, steps=4, optimizer="adamw", sample_tokens=0)
    np.testing.assert_allclose(losses(whole), losses(parts), rtol=1e-4)


def test_a_time_budget_ends_in_time_and_its_trace_repeats_it(monkeypatch):
    """By a clock that moves on 4 ms whenever it is looked at: how fast this machine is must not matter."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: 0.004 * next(ticks), monotonic=time.monotonic, time=time.time)
    with monkeypatch.context() as patch:
        patch.setattr("llm_lab.training.trainer.time", clock)
        patch.setattr("llm_lab.session.time", clock)
        patch.setattr("llm_lab.pretraining.time", clock)
        patch.setattr("llm_lab.lab.time", clock)
        lm = train(seconds=3, name="timed")
    assert lm.report.seconds == pytest.approx(3, rel=0.05)
    assert lm.report.step > 50
    rates = lm.history.lr
    assert rates.iloc[-1] < 0.1 * rates.max()
    assert rates.max() <= 0.02  # Muon's peak, the larger of the two
    again = train(name="again", replay=lm.run.id)
    assert losses(again) == losses(lm)
    assert again.report.final == lm.report.final
    assert f"--replay {lm.run.id}" in lm.report.repeat


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"tokens": 1280}, 10), ({"epochs": 0.1}, round(0.1 * 0.9 * len(TEXT) / 128)), ({"steps": 5}, 5)],
)
def test_budgets(budget, steps):
    assert train(**budget).report.step == steps


@pytest.mark.parametrize("name", ["clm", "mlm", "fim", "mlm_sop", "clm,mlm", "span_corruption", "seq2seq"])
def test_an_epoch_is_the_text_once_and_tokens_are_those_that_are_read(name):
    words = ["one two", "two three and four", "three", "four one two"] * 33
    pairs = dict(column="source", target="target")
    frame = pd.DataFrame({"source": words, "target": [word[::-1] for word in words]})
    text = dict(text=frame, **pairs) if name == "seq2seq" else dict(text=[TEXT[:4000]])
    asked = dict(objective=name, max_seq_len=16, batch_size=4, sample_tokens=0, **text)
    report = train("epoch", epochs=1, **asked).report
    one_step = report.tokens / report.step
    assert report.epochs == pytest.approx(1, abs=0.6 / report.step)
    assert train("some", tokens=round(5 * one_step), **asked).report.step == 5


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_every_optimizer_and_schedule_learns(optimizer, schedule):
    found = losses(train(steps=40, optimizer=optimizer, lr=1e-2, schedule=schedule, sample_tokens=0))
    assert np.mean(found[-5:]) < np.mean(found[:2]) - 0.3


def test_schedules_rise_and_fall():
    for schedule, end in ((schedules.linear, 0.0), (schedules.cosine, 0.1), (schedules.constant, 1.0)):
        assert schedule(0.05, 0.1) == pytest.approx(0.5)
        assert schedule(0.1, 0.1) == pytest.approx(1.0)
        assert schedule(1.0, 0.1) == pytest.approx(end)
        assert schedule(0.0, 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 32, 8), (1, 8, 32)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(x, steps=8))
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    agree = (orthogonalize(x, steps=8) * (left @ right)).sum((-2, -1)) / min(shape[1:])
    assert (agree > 0.75).all()  # the same directions as the polar factor's


@pytest.mark.parametrize(("kind", "gates"), [(torch.nn.LSTM, 4), (torch.nn.GRU, 3)])
def test_muon_takes_the_gates_of_a_recurrent_layer_one_by_one(kind, gates):
    """After one step without decay, each gate has moved by a multiple of a semi-orthogonal matrix."""

    class Net(torch.nn.Module):
        def __init__(self, vocab_size):
            super().__init__()
            self.table = torch.nn.Embedding(vocab_size, 8)
            self.layers = kind(8, 12, num_layers=2, batch_first=True)
            self.head = torch.nn.Linear(12, vocab_size)

        def forward(self, ids):
            return self.head(self.layers(self.table(ids))[0])

    net = lab.build(model=Net, vocab_size=30)
    optimizers = muon(Trainee(net, torch.nn.ModuleDict()), TrainOptions(weight_decay=0.0, muon_lr=0.1))
    matrices = {name: p for name, p in net.named_parameters() if ".layers.weight" in name}
    before = {name: p.detach().clone() for name, p in matrices.items()}
    net(torch.arange(24).view(2, 12)).logits.square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert len(matrices) == 4
    for name, p in matrices.items():
        for moved, grad in zip((p.detach() - before[name]).split(12), p.grad.split(12), strict=True):
            torch.testing.assert_close(
                moved, -0.1 * max(1, 12 / p.shape[1]) ** 0.5 * orthogonalize(grad[None])[0], atol=1e-5, rtol=1e-3
            )
        assert p.shape[0] == 12 * gates


def test_muon_against_one_matrix_at_a_time():
    """Stacking and splitting change nothing: torch's own Muon, matrix by matrix, in float32, is the reference."""
    gen = torch.Generator().manual_seed(0)
    fused = torch.nn.Parameter(torch.randn(24, 8, generator=gen))
    ours = Muon([("w", fused)], {"w": (8, 8, 8)}, lr=0.1, weight_decay=0.01)
    single = [torch.nn.Parameter(part.clone()) for part in fused.detach().split(8)]
    theirs = [Muon([("w", p)], {}, lr=0.1, weight_decay=0.01) for p in single]
    reference = [torch.nn.Parameter(part.clone()) for part in fused.detach().split(8)]
    official = torch.optim.Muon(reference, lr=0.1, weight_decay=0.01, momentum=0.95, nesterov=True)
    for _ in range(3):
        grad = torch.randn(24, 8, generator=gen)
        fused.grad = grad.clone()
        for p, q, part in zip(single, reference, grad.split(8), strict=True):
            p.grad, q.grad = part.clone(), part.clone()
        for optimizer in (ours, *theirs, official):
            optimizer.step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in single]))
    # torch orthogonalises in bfloat16, so only roughly the same
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in reference]), atol=0.05, rtol=0)


def test_an_interrupt_ends_the_step_keeps_the_model_and_restores_the_handler():
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(3, os.kill, (os.getpid(), signal.SIGINT)).start()
    lm = train(seconds=60)
    assert lm.report.status == "paused"
    assert 0 < lm.report.seconds < 30
    assert "the same cell goes on from there" in lm.report.notes[-1]
    assert signal.getsignal(signal.SIGINT) is before
    assert lab.generate(lm, "1", max_new_tokens=3).text
    assert lab.load("tiny").run.status == "paused"


def test_a_loss_that_is_no_number_stops_the_run_and_says_so():
    class Broken(torch.nn.Module):
        def __init__(self, vocab_size):
            super().__init__()
            self.table = torch.nn.Embedding(vocab_size, vocab_size)
            self.calls = 0

        def forward(self, ids):
            self.calls += 1
            return self.table(ids) * (float("nan") if self.training and self.calls > 8 else 1.0)

    lm = train(model=Broken, steps=50, sample_tokens=0)
    assert lm.report.status == "failed"
    assert "stopped being a number" in lm.report.notes[-1]


def test_keep_best_gives_the_weights_of_the_lowest_validation():
    lm = train(
        name="best",
        steps=60,
        keep="best",
        muon_lr=0.3,
        schedule="constant",
        eval_every=5,
        sample_tokens=0,
        eval_tokens=10**6,
    )
    assert lm.report.final["loss"] == pytest.approx(lm.history.val_loss.min(), abs=1e-4)


def watched(monkeypatch, **options):
    """A run, with the weights of all that was trained as they were at each validation."""
    states = []

    def look(self, event, real=session.Session._update):
        if event.kind == "validation":
            trainee = self.trainer.trainee
            states.append(
                [p.detach().clone() for m in (trainee.model, trainee.extras) for p in m.state_dict().values()]
            )
        real(self, event)

    monkeypatch.setattr(session.Session, "_update", look)
    lm = train(keep="best", sample_tokens=0, eval_tokens=500, **options)
    kept = [p for module in (lm.model, lm.extras) for p in module.state_dict().values()]
    return lm, [all(map(torch.equal, kept, state)) for state in states]


def test_keep_best_looks_at_the_last_weights_too(monkeypatch):
    lm, kept = watched(monkeypatch, steps=13, eval_every=5)  # it learns until its end
    assert [step for step, *_ in lm.report.val] == [5, 10, 13]
    assert kept == [False, False, True]
    again = train("again", replay=lm.run.id, keep="best", sample_tokens=0, eval_tokens=500)
    assert again.history.val_loss.equals(lm.history.val_loss)
    assert again.report.final == lm.report.final


@pytest.mark.parametrize(
    "options", [dict(preset="bert"), dict(preset="electra", d_embed=8), dict(objective="mtp")], ids=str
)
def test_keep_best_keeps_what_the_objective_added_from_the_same_step(monkeypatch, options):
    rising = itertools.count(1.0)  # as if it learned nothing after its first validation
    monkeypatch.setattr("llm_lab.training.trainer.mean_losses", lambda found: dict.fromkeys(found, next(rising)))
    lm, kept = watched(monkeypatch, steps=6, eval_every=2, **options)
    assert len(lm.extras)
    assert kept == [True, False, False]


def test_batches_are_a_function_of_seed_and_step_alone():
    from llm_lab.data.arrays import Tokens
    from llm_lab.data.sampler import BlockSampler

    tokens = Tokens(np.arange(1003, dtype=np.uint16), np.array([0, 1003]), 1003, 1003)
    sampler = BlockSampler(tokens, 11, 10, seed=3)
    whole = sampler.examples(0, 300)
    again = BlockSampler(tokens, 11, 10, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(whole[250:260], again.examples(250, 10), strict=True))
    first_epoch = np.concatenate([example[:-1] for example in whole[:100]])
    assert len(set(first_epoch.tolist())) == 1000  # no token twice in an epoch
    assert all((np.diff(example.astype(int)) == 1).all() for example in whole)
    assert [e[0] for e in whole[:100]] != [e[0] for e in whole[100:200]]
    assert not all(
        np.array_equal(a, b)
        for a, b in itertools.islice(zip(whole, BlockSampler(tokens, 11, 10, seed=4).examples(0, 5), strict=False), 5)
    )


def test_bf16_trains_on_a_cpu():
    found = losses(train(steps=40, precision="bf16", sample_tokens=0))
    assert found[-1] < found[0] - 0.3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(steps=-5), "steps: -5 is out of range"),
        (dict(steps=5, seconds=5), "only one budget"),
        (dict(stpes=5), "did you mean 'steps'"),
        (dict(steps=5, d_model=15), "does not divide by n_head"),
        (dict(steps=5, device="tpu"), "device"),
        (dict(steps=5, d_model=8192, n_layer=200, n_head=8), "GB are free"),
        (dict(steps=5, max_seq_len=10**5), "shorter than one block"),
        (dict(steps=5, preset="gpt3"), "preset: 'gpt3' is unknown"),
        (dict(steps=5, replay="ffffff"), "no model or run is called"),
        (dict(steps=5, vocab_size=300, tokenizer="char"), "vocab_size"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing_behind(options, says, tmp_path):
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.pretrain([TEXT], name="x", display=False, **{**SIZES, **options})
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / ".llm_lab" / "runs").glob("*")) if (tmp_path / ".llm_lab").exists() else True
