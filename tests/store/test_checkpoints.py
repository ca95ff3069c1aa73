"""States of a model that are kept on the way, and how `bard@500` names them."""

from __future__ import annotations

import itertools
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab import session
from llm_lab.magics.complete import complete
from llm_lab.magics.parse import parse
from llm_lab.managing import listed
from llm_lab.store import runs
from llm_lab.training.options import BudgetOptions, CheckpointOptions, TrainOptions
from llm_lab.training.plan import resolve
from llm_lab.verbs import VERBS
from tests.small import train


def weights(lm):
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


def test_a_checkpoint_is_the_model_of_that_step():
    whole = train("bard", checkpoints=[0, 5, 12], dropout=0.1)
    assert whole.checkpoints == [0, 5, 12]
    assert torch.equal(weights(lab.load("bard@12")), weights(whole))
    # Learning rates follow the budget, so the first five steps are repeated with what they were, from the trace.
    again = train("again", replay=whole.run.id, steps=5, dropout=0.1)
    assert torch.equal(weights(lab.load("bard@5")), weights(again))
    start = lab.load("bard@0")
    assert torch.equal(weights(start), weights(lab.load(f"{train('other', checkpoints=[0, 1]).run.id}@0")))
    assert not torch.equal(weights(start), weights(again))


def test_what_is_loaded_knows_where_it_comes_from():
    lm = train("bard", checkpoints=3)
    early = lab.load("bard@4")
    assert (early.name, early.step, early.run) == ("bard@4", 4, lm.run)
    assert early.history["step"].max() == 4
    assert early.checkpoints == lm.checkpoints == [4, 8, 12]
    assert early.called == repr(f"{lm.run.id}@4")
    assert "bard@4" in repr(early)
    saved = lab.load(early.save("early"))
    assert torch.equal(weights(saved), weights(early))
    assert saved.checkpoints == []
    facts = lab.compare([early, lm]).models
    assert [one.steps for one in facts] == [4, 12]
    assert facts[0].tokens * 3 == facts[1].tokens
    assert facts[0].val_loss is None


def test_every_verb_that_reads_a_model_takes_it():
    lm = train("bard", checkpoints=2)
    assert lab.generate("bard@6", "1", max_new_tokens=3, seed=0).tokens
    scores = lab.evaluate(["bard@6", "bard"], metrics=["loss"]).to_pandas()
    assert list(scores["model"].unique()) == ["bard@6", "bard"]
    line = lab.probe("bard@6", "12 green").code
    assert line == f"lab.probe('{lm.run.id}@6', '12 green', kind='attention')"
    shares = [one.numpy() if hasattr(one, "numpy") else one.q for one in lab.probe(["bard@6", "bard"], "12 green")]
    assert not np.array_equal(*shares)


def test_what_was_not_kept_is_refused_with_the_nearest():
    lm = train("bard", checkpoints=[3, 9])
    with pytest.raises(lab.LabError, match=r"step 7 of run \w+ was not kept; the nearest is bard@9; kept are: 3, 9"):
        lab.load("bard@7")
    with pytest.raises(lab.LabError, match="'last' is no step; for example bard@9"):
        lab.load("bard@last")
    with pytest.raises(lab.LabError, match="no model or run is called 'poet'"):
        lab.load("poet@3")
    with pytest.raises(lab.LabError, match="no step"):
        lab.load("bard@" + "9" * 5000)
    plain = train("plain")
    with pytest.raises(lab.LabError, match=f"run {plain.run.id} kept none"):
        lab.load("plain@3")
    with pytest.raises(lab.LabError, match="the run has 12 steps, and 99 is beyond them"):
        train("late", checkpoints=[0, 99])
    assert lab.load(f"{lm.run.id}@3").step == 3


def test_how_they_lie_over_a_run():
    def planned(steps, *asked):
        return resolve(
            BudgetOptions(steps=steps), TrainOptions(), 8, 80, 16, kept=CheckpointOptions(*asked)
        ).checkpoints

    assert planned(10, (4,)) == (2, 5, 8, 10)
    assert planned(16, (5,), "log") == (1, 2, 4, 8, 16)
    assert planned(12, (1,), "log") == (12,)
    assert planned(12, (0,)) == planned(12) == ()
    assert planned(3, (50,)) == (1, 2, 3)
    assert planned(12, (9, 0, 9)) == (0, 9)
    assert CheckpointOptions((3,), "log").shares(0.01) == pytest.approx([0.01, 0.1, 1])


def test_a_time_budget_keeps_as_many(monkeypatch):
    """By a clock that moves on 4 ms whenever it is looked at."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: 0.004 * next(ticks), monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr("llm_lab.training.trainer.time", clock)
    monkeypatch.setattr("llm_lab.session.time", clock)
    monkeypatch.setattr("llm_lab.pretraining.time", clock)
    monkeypatch.setattr("llm_lab.lab.time", clock)
    lm = train("timed", seconds=1.5, checkpoints=3, sample_tokens=0)
    steps = lm.checkpoints
    assert len(steps) == 3
    assert steps[-1] == lm.report.step
    assert torch.equal(weights(lab.load(f"timed@{steps[-1]}")), weights(lm))
    when = lm.history.set_index("step")["seconds"]
    assert [when[step] for step in steps[:2]] == pytest.approx([0.5, 1.0], abs=0.05)


def test_an_identical_request_is_found_as_before():
    plain = train("bard")
    assert "checkpoints" not in json.loads((plain.run.path / "request.json").read_text())["options"]
    assert train("bard").run.id == plain.run.id
    kept = train("bard", checkpoints=2)
    assert kept.run.id != plain.run.id
    assert torch.equal(weights(kept), weights(plain))
    megabytes = listed().to_pandas().set_index("run")["MB"]
    assert megabytes[kept.run.id] > 1.5 * megabytes[plain.run.id]
    again = train("bard", checkpoints=2)
    assert again.run.id == kept.run.id
    assert again.checkpoints == [6, 12]
    assert "--checkpoints 2" in kept.report.repeat
    assert any("2 checkpoints kept" in note for note in kept.report.notes)


@pytest.mark.parametrize("preset", ["t5", "bert", "electra", "xlnet"])
def test_every_shape_and_what_its_objective_adds(preset):
    lm = train("bard", preset=preset, checkpoints=[6, 12], sample_tokens=0)
    late = lab.load("bard@12")
    assert torch.equal(weights(late), weights(lm))
    assert {n: v.shape for n, v in late.extras.state_dict().items()} == {
        n: v.shape for n, v in lm.extras.state_dict().items()
    }
    for name, value in lm.extras.state_dict().items():
        assert torch.equal(value, late.extras.state_dict()[name])
    assert not torch.equal(weights(lab.load("bard@6")), weights(lm))


def test_a_run_that_failed_or_diverged_has_its_checkpoints(monkeypatch):
    def fail(self, event, real=session.Session._update):
        real(self, event)
        if event.step == 8:
            raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_update", fail)
        with pytest.raises(RuntimeError, match="boom"):
            train("cut", checkpoints=6)
    assert runs.all_runs()[0].status == "failed"
    assert lab.load("cut@6").step == 6
    with pytest.raises(lab.LabError, match="no run called 'cut' has left a model"):
        lab.load("cut")


def test_a_disk_that_takes_no_more_does_not_end_the_run(monkeypatch):
    def refuse(self, folder, real=lab.LM.save_weights):
        if folder.name == "6":
            raise lab.LabError("no space is left")
        return real(self, folder)

    monkeypatch.setattr(lab.LM, "save_weights", refuse)
    lm = train("full", checkpoints=4)
    assert lm.report.status == "finished"
    assert lm.checkpoints == [3, 9, 12]
    assert "checkpoint 6 was not kept: no space is left" in lm.report.notes


def test_the_best_weights_are_the_result_and_the_last_are_kept():
    lm = train("best", steps=30, keep="best", checkpoints=[30], lr=0.3, muon_lr=0.5, schedule="constant", eval_every=2)
    assert lm.checkpoints == [1 + i for i in range(30)]  # one number is how many
    losses = lm.history["val_loss"].dropna()
    best = int(lm.history["step"][losses.idxmin()])
    assert torch.equal(weights(lab.load(f"best@{best}")), weights(lm))


def test_a_variable_means_its_own_run():
    first = train("bard", checkpoints=[2, 4])
    train("bard", steps=6, checkpoints=[2, 4])
    call = parse(VERBS["probe"], 'poet@2,bard@4 "12 green"', None, {"poet": first})
    assert call.kwargs["model"] == [f"bard-{first.run.id}@2", "bard@4"]
    assert lab.load(call.kwargs["model"][0]).run == first.run
    own = lab.LM("own", first.model, first.tokenizer)
    with pytest.raises(lab.LabError, match="own has no run, so no checkpoint 'own@2'"):
        parse(VERBS["generate"], 'own@2 "x"', None, {"own": own})
    assert parse(VERBS["generate"], 'bard@4 "x"', None, {}).kwargs["model"] == "bard@4"
    fragment, found = complete("%probe poet@2,poet@", 0, 19, {"poet": first})
    assert (fragment, [text for text, _ in found]) == ("poet@", ["poet@2", "poet@4"])
