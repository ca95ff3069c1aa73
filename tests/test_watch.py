"""What is watched while a model trains: the numbers are right, and watching changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import llm_lab as lab
from llm_lab import session
from llm_lab.magics.parse import parse
from llm_lab.probes.heads import head_scores
from llm_lab.probes.options import PROBES, WATCHES
from llm_lab.store import runs, texts
from llm_lab.verbs import VERBS
from tests.small import SIZES, TEXT, train

ALL = list(WATCHES)
# What kinds of probes need beside a text to be quick, or to find anything in a small model of characters.
OPTIONS = {"tuned_lens": {"steps": 2}, "heads": {"repeats": 2}}
TEXTS = {"neighbours": ["1 2 g"], "analogies": ["1 2 g"], "heads": [], "tuned_lens": ["12 green"]}


def weights(lm):
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


def rows(lm):
    """The history at the steps that were watched."""
    steps = [event["step"] for event in lm.run.events() if event["kind"] == "watch"]
    history = lm.history.set_index("step")
    return history.loc[steps]


def test_the_same_weights_with_and_without_and_every_number_in_the_history():
    plain = train("plain", dropout=0.2, eval_every=4)
    lm = train("bard", dropout=0.2, eval_every=4, watch=ALL, checkpoints=[0, 4, 11, 12])
    assert torch.equal(weights(plain), weights(lm))
    assert plain.history["train_loss"].tolist() == lm.history["train_loss"].dropna().tolist()
    seen = rows(lm)
    assert seen.index.tolist() == [0, 4, 8, 12]
    for name in ALL:
        columns = [column for column in seen if column.partition(".")[0] == name]
        expected = 3 if name in ("grad_norm", "update_ratio") else 4  # of no step yet there is nothing to measure
        assert columns and all(seen[column].notna().sum() == expected for column in columns), name

    # Against plain formulas, on the checkpoints.
    at = {step: lab.load(f"bard@{step}") for step in (4, 11, 12)}
    vectors = {step: weights(one) for step, one in at.items()}
    assert seen["weight_norm"][12] == pytest.approx(float(vectors[12].norm()), rel=1e-5)
    moved = float((vectors[12] - vectors[11]).norm() / vectors[11].norm())
    assert seen["update_ratio"][12] == pytest.approx(moved, rel=1e-4)
    ids = held_out(lm)
    found = lab.record(at[4], ids, ["*.resid_post", "*.mlp.pre", "logits", "*.pattern"])
    for i in range(2):
        norm = found[f"blocks.{i}.resid_post"].square().sum(-1).sqrt().mean()
        assert seen[f"residual_norm.layer {i}"][4] == pytest.approx(float(norm), rel=1e-5)
    entropy = [-(p * p.clamp(min=1e-30).log2()).sum(-1)[:, :, 1:].mean() for n, p in found.items() if "pattern" in n]
    assert seen["head_entropy"][4] == pytest.approx(float(torch.stack(entropy).mean()), rel=1e-4)
    dead = [(pre <= 0).flatten(0, 1).all(0) for name, pre in found.items() if name.endswith("mlp.pre")]
    assert seen["dead_neurons"][4] == pytest.approx(float(torch.cat(dead).float().mean()))
    model = at[4].model
    with torch.no_grad():
        lens = model.logits(model.norm(found["blocks.0.resid_post"])).softmax(-1)
    final = found["logits"].softmax(-1)
    kl = (final * (final.log() - lens.log())).sum(-1).mean()
    assert seen["lens_kl"][4] == pytest.approx(float(kl), rel=1e-3, abs=1e-6)


def held_out(lm):
    ids = texts.held_out(lm, [runs.cache()], "test").ids
    return torch.tensor(np.asarray(ids[: 8 * 32], dtype=np.int64)).view(8, 32)


def test_the_head_that_scores_is_named():
    lm = train("bard", watch="induction_score,previous_token_score", steps=4)
    last = rows(lm).iloc[-1]
    scores = head_scores(lm, [held_out(lm)], 2)["previous_token"]
    place = int(last["previous_token_score.layer"]), int(last["previous_token_score.head"])
    assert scores[place] == pytest.approx(last["previous_token_score"], rel=1e-5)
    assert scores[place] == scores.max()
    assert f"(layer {place[0]}, head {place[1]})" in str(lm.report)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_the_norm_of_the_gradient_is_that_before_it_is_clipped(clip, monkeypatch):
    norms = []
    real = torch.Tensor.backward

    def backward(self, *args, **more):
        real(self, *args, **more)
        grads = [p.grad for p in sessions[0].lm.model.parameters()]
        norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in grads if g is not None)))

    sessions = []
    prepare = session.Session.__init__

    def begin(self, *args):
        sessions[:] = [self]
        prepare(self, *args)

    monkeypatch.setattr(session.Session, "__init__", begin)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    lm = train("bard", grad_clip=clip, watch="grad_norm", eval_every=3, steps=6)
    seen = rows(lm)["grad_norm"].dropna()
    assert seen.tolist() == pytest.approx([norms[2], norms[5]], rel=1e-4)


def test_functions_of_ones_own(monkeypatch):
    def wide(lm):
        assert not lm.model.training
        return {"": lm.model.config.d_model, "half": torch.tensor(lm.model.config.d_model / 2)}

    def looked(lm):
        return lab.probe(lm, "12 green")

    def nothing(lm):
        return None

    lm = train("bard", watch=[wide, looked, nothing], steps=4, eval_every=2)
    seen = rows(lm)
    assert seen["wide"].tolist() == [16.0] * 3
    assert seen["wide.half"].tolist() == [8.0] * 3
    assert [step for step, _ in lm.watched["looked"]] == [0, 2, 4]
    final = lab.probe(lm, "12 green")
    assert np.array_equal(lm.watched["looked"][-1][1].q, final.q)
    assert not np.array_equal(lm.watched["looked"][0][1].q, final.q)
    assert "looked at step 4" in lm.report._repr_mimebundle_()["text/html"]
    assert "--watch @wide,@looked,@nothing" in lm.report.repeat
    call = parse(VERBS["pretrain"], "b --watch @wide,head_entropy", None, {"wide": wide})
    assert call.kwargs["watch"] == (wide, "head_entropy")

    again = train("bard", watch=[wide, looked, nothing], steps=4, eval_every=2)
    assert again.run.id == lm.run.id
    assert again.report.watched == lm.report.watched
    assert any("what looked and nothing found" in note or "looked, nothing" in note for note in again.report.notes)

    def wide(lm):
        return 0.0

    assert train("bard", watch=[wide, looked, nothing], steps=4, eval_every=2).run.id != lm.run.id


def test_kinds_of_probes_and_ones_own_are_watched_by_name():
    @lab.probe
    def biggest(lm, times=2.0):
        return times * max(float(p.detach().abs().max()) for p in lm.model.parameters())

    try:
        lm = train("bard", watch="attention,biggest,logit_lens", steps=4, eval_every=2)
    finally:
        del PROBES._entries["biggest"]
    assert rows(lm)["biggest"].iloc[-1] == pytest.approx(2 * float(weights(lm).abs().max()))
    assert list(lm.watched) == ["attention", "logit_lens"]
    assert [step for step, _ in lm.watched["logit_lens"]] == [0, 2, 4]


def test_every_kind_of_probe_between_steps_changes_nothing():
    worked = set()

    def everything(lm):
        lm.model.train()  # whatever mode it is left in
        torch.manual_seed(3)
        loss = F.cross_entropy(lm.model(torch.arange(8)[None]).logits[0], torch.arange(8))
        loss.backward()  # a gradient of ours is no part of the step
        for kind, entry in PROBES.items():
            count = entry.options.texts[0]
            asked = TEXTS.get(kind, ["12 green bottles", "13 green bottles"][:count])
            before = {name: value.clone() for name, value in lm.model.state_dict().items()}
            try:
                lab.probe([lm] * max(entry.options.models[0], 1), asked, kind=kind, **OPTIONS.get(kind, {}))
                worked.add(kind)
            except lab.LabError:
                pass  # it needs another model, or more to be told
            assert lm.model.training
            assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
        lab.generate(lm, "1", max_new_tokens=3)
        lab.record(lm, "12 green", "*", grad=True)["logits"].sum().backward()
        with lab.replace(lm, {"*.attn.z": torch.zeros_like}):
            lab.evaluate(lm, [TEXT[:200]], metrics=["loss"])

    options = dict(dropout=0.2, eval_every=3, steps=6, sample_tokens=0)
    lm = train("bard", watch=everything, **options)
    assert worked >= {"attention", "walk", "heads", "logit_lens", "tuned_lens", "neighbours", "analogies"}
    assert torch.equal(weights(lm), weights(train("plain", **options)))
    assert all(p.grad is None for p in lm.model.parameters())
    assert not lm.model.training


def test_one_that_fails_later_ends_alone_and_one_that_fails_at_once_trains_nothing():
    calls = []

    def breaks(lm):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("late")
        return 1.0

    lm = train("bard", watch=[breaks, "weight_norm"], steps=6, eval_every=2)
    assert len(calls) == 2
    assert lm.report.status == "finished"
    assert "watch breaks ended at step 2: ZeroDivisionError: late" in lm.report.notes
    assert rows(lm)["weight_norm"].notna().all()

    def wrong(lm):
        return "text"

    with pytest.raises(lab.LabError, match="wrong gave 'text'; a number, a dict of numbers or a result"):
        train("no", watch=wrong)
    assert [run.name for run in runs.all_runs()] == ["bard"]


def lr(lm):
    return 1.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(watch="inductionscore"), "did you mean 'induction_score'"),
        (dict(watch=[len, len]), "len is named twice"),
        (dict(watch=lambda lm: 1), "use def"),
        (dict(watch=3), "watch: 3 is int; a function of an LM would do"),
        (dict(watch=lr), "lr is a column of every history"),
        (dict(watch="dead_neurons", n_expert=2), "has experts in place of MLPs"),
        (dict(watch="induction_score", preset="ngram"), "watch induction_score needs a model with sites"),
        (dict(watch="grad_norm", preset="ngram"), "watch grad_norm needs a model with gradients"),
    ],
)
def test_what_cannot_be_watched(options, says):
    sizes = {} if options.get("preset") == "ngram" else SIZES
    with pytest.raises(lab.LabError, match=says):
        lab.pretrain([TEXT], name="bard", steps=2, display=False, **sizes, **options)
    assert not runs.all_runs()


@pytest.mark.parametrize("preset", ["t5", "bert", "xlnet", "llama"])
def test_every_shape_is_watched(preset):
    lm = train("bard", preset=preset, watch=ALL, steps=4, eval_every=2, sample_tokens=0)
    last = rows(lm).iloc[-1]
    assert all(np.isfinite(last[name]) for name in ALL if name != "residual_norm")
    assert torch.equal(weights(lm), weights(train("plain", preset=preset, steps=4, eval_every=2, sample_tokens=0)))


def test_what_watching_costs_is_counted_and_printed(monkeypatch):
    lm = train("bard", watch="weight_norm", steps=4, eval_every=2)
    report = lm.report
    report.setup_seconds, report.seconds, report.watch_seconds = 1.0, 11.0, 2.0
    assert report.slowdown == pytest.approx(10 / 8)
    assert "20 % of the time, × 1.25" in str(report)
    spent = sum(event["spent"] for event in lm.run.events() if event["kind"] == "watch")
    assert lab.load("bard").report.watch_seconds == pytest.approx(spent)
    assert "weight norm" in report._repr_mimebundle_()["text/html"]
    assert list(report.to_pandas())[-1] == "weight_norm"
    other = train("other", steps=4)
    compared = lab.compare([lm, other])
    assert compared.models[0].watched["weight_norm"] == pytest.approx(rows(lm)["weight_norm"].iloc[-1])
    assert compared.models[1].watched == {}
    assert "watched, at last" in compared._repr_mimebundle_()["text/html"]


def test_the_line_that_repeats_names_what_was_given():
    lm = train("named", watch=["head_entropy", "weight_norm"], checkpoints=[4, 8])
    line = lm.report.repeat
    assert "--watch head_entropy,weight_norm" in line and "--checkpoints 4,8" in line
    assert "@your_text" in line and "green bottles" not in line
