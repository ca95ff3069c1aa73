"""Which tokens an answer rests on: against formulas, plain re-runs, every order of the tokens, transformers and captum."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import llm_lab as lab
from llm_lab.probes.answers import answer
from llm_lab.probes.attribution import (
    METHODS,
    SHARES,
    Explained,
    _baseline,
    _value,
    faithfulness,
    integrate,
    shapley_exact,
    shapley_sampled,
)
from llm_lab.probes.inputs import read
from llm_lab.probes.options import ATTRIBUTIONS, AttributionOptions
from llm_lab.probes.reading import Reading
from tests.small import train

SHAPES = {
    "decoder": ("1 green bo", dict(objective="clm")),
    "encoder": ("1 gr<mask>en bottl", dict(objective="mlm")),
    "encoder_decoder": (("3 green bo", "een"), dict(objective="span_corruption")),
    "permutation": ("4 green bo", dict(objective="plm")),
    "experts": ("5 green bo", dict(objective="clm", n_expert=2, n_active=2)),
    "gpt2": ("6 green bo", dict(objective="clm", preset="gpt2")),
    "sandwich": ("7 green bo", dict(objective="clm", norm_place="sandwich", embed_norm=True, n_kv_head=1, d_embed=8)),
    "post": ("8 gre<mask>n", dict(objective="mlm", preset="bert")),
}


@functools.cache
def trained(shape: str) -> lab.LM:
    options = dict(SHAPES[shape][1])
    if shape in ("encoder", "encoder_decoder", "permutation"):
        options["shape"] = shape
    return train("m", steps=80, **options)


def explained(lm: lab.LM, text, **options) -> Explained:
    reading = Reading((lm,), (text,) if isinstance(text, str) else tuple(text))
    chosen = AttributionOptions(**options)
    inputs = read(reading, chosen)
    asked = answer(reading, chosen, inputs.logits(inputs.ids[None])[0])
    return Explained(inputs, _value(asked, chosen.explain), *_baseline(reading, chosen.baseline, inputs))


def test_integrated_gradients_of_functions_whose_integral_is_known():
    torch.manual_seed(0)
    x, base, w = torch.randn(3, 5, 4)
    found = integrate(lambda v: (v * w).sum((1, 2)), x, base)
    shares, difference = found.shares, found.difference
    torch.testing.assert_close(shares, (w * (x - base)).sum(-1))  # linear: weight times difference
    assert difference == pytest.approx(float((w * (x - base)).sum()), rel=1e-5)
    shares = integrate(lambda v: (v**2).sum((1, 2)) / 2, x, base).shares
    torch.testing.assert_close(shares, (x**2 - base**2).sum(-1) / 2)
    shares = integrate(lambda v: (v * w).sum((1, 2)) ** 3, x, base, 2).shares  # two points are exact to the cubic
    along = torch.linspace(0, 1, 20001, dtype=torch.float64)[:, None, None] * (x - base).double() + base.double()
    slope = 3 * ((along * w).sum((1, 2)) ** 2).mean()
    torch.testing.assert_close(shares, (slope * (w * (x - base)).sum(-1)).float(), rtol=1e-3, atol=1e-4)


def test_a_bend_on_the_path_is_found():
    """A step that is steep on a thousandth of the path: equal parts would miss it."""
    x, base = torch.ones(1, 1), torch.zeros(1, 1)

    def steep(v):
        return torch.sigmoid((v.sum((1, 2)) - 0.3) * 4000)

    found = integrate(steep, x, base)
    assert found.difference == pytest.approx(1, abs=1e-4) and float(found.shares) == pytest.approx(1, abs=0.01)
    assert found.steps < 200 and found.jumps == 0
    assert abs(float(integrate(steep, x, base, found.steps).shares) - 1) > 0.05


def test_a_jump_on_the_path_is_told_apart():
    def jumping(v):
        return v.sum((1, 2)) ** 2 + 0.4 * (v.sum((1, 2)) > 0.7).float()

    found = integrate(jumping, torch.ones(1, 1), torch.zeros(1, 1))
    assert float(found.shares) == pytest.approx(1, abs=1e-4)  # of the slope
    assert found.jumps == pytest.approx(0.4, abs=1e-4) and found.difference == pytest.approx(1.4)
    assert found.steps < 200
    routed = train("routed", steps=30, n_expert=4, n_active=1)
    shown = lab.probe(routed, "1 green bo", kind="attribution", method="integrated_gradients")
    total, whole = (
        float(dict(shown.figures)[name].replace("−", "-"))
        for name in ("sum of integrated gradients", "difference from the baseline")
    )
    (note,) = shown.notes
    jumps = float(note.split(" by ")[1].split(" in all")[0].replace("−", "-"))
    assert total + jumps == pytest.approx(whole, abs=0.02 * abs(whole))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("more", [{}, {"baseline": "zero"}, {"explain": "logit", "baseline": "pad"}])
def test_the_sum_is_the_difference_of_the_output(shape, more):
    text = SHAPES[shape][0]
    found = explained(trained(shape), text, **more)
    whole = integrate(found.of, found.x, found.base)
    shares, difference = whole.shares, whole.difference
    assert abs(difference) > 1e-5
    assert float(shares.sum()) == pytest.approx(difference, rel=0.01)
    ends = found.with_only(torch.stack([torch.zeros_like(found.inputs.free), torch.ones_like(found.inputs.free)]))
    assert float(ends.diff()) == pytest.approx(difference, abs=2e-5)  # of the path's ends, run without vectors
    assert not shares[~found.inputs.free].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_begin_the_stream_as_tokens_do(shape):
    inputs = explained(trained(shape), SHAPES[shape][0]).inputs
    vectors = inputs.vectors(inputs.ids[None])
    sites = ["embed"] if inputs.batch.decoder_ids is None else ["encoder.embed", "decoder.embed"]
    recorded = lab.record if inputs.batch.decoder_ids is None else None
    x = inputs.stream(vectors)
    if recorded is not None:
        text_ids = inputs.ids[None]
        torch.testing.assert_close(x, lab.record(trained(shape), text_ids, sites)["embed"])
    torch.testing.assert_close(inputs.logits_of(x), inputs.logits(inputs.ids[None]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_occlusion_is_a_plain_run_without_the_token(shape):
    lm, text = trained(shape), SHAPES[shape][0]
    pad, target = lm.tokenizer.special("pad"), lm.tokenizer.encode("e")[0]
    found = lab.probe(lm, text, kind="attribution", method="occlusion", baseline="pad", target="e")
    if shape == "encoder_decoder":
        source, written = (lm.tokenizer.encode(part) for part in text)
        ids = [*source, lm.tokenizer.start, *written]

        def run(row):
            parts = torch.tensor([row[: len(source)]]), torch.tensor([row[len(source) :]])
            return lm.model(parts[0], decoder_ids=parts[1]).logits[0, -1]
    else:
        before, mask, after = text.partition("<mask>")
        ids = (
            lm.tokenizer.encode(before)
            + ([lm.tokenizer.special("mask")] if mask else [])
            + (lm.tokenizer.encode(after) if after else [])
        )
        at = len(lm.tokenizer.encode(before)) if mask else -1

        def run(row):
            return lm.model(**lm.batch(torch.tensor([row])).inputs()).logits[0, at]

    with torch.no_grad():
        whole = run(ids).log_softmax(-1)[target]
        for i, token in enumerate(ids):
            if token in lm.tokenizer.special_ids:
                assert np.isnan(found.numpy()[i])
                continue
            fall = whole - run([*ids[:i], pad, *ids[i + 1 :]]).log_softmax(-1)[target]
            assert found.numpy()[i] == pytest.approx(float(fall), abs=1e-5)


def test_taking_a_token_out():
    lm = trained("decoder")
    found = lab.probe(lm, "1 gre", kind="attribution", method="occlusion", baseline="remove", target=" ").numpy()
    space = lm.tokenizer.encode(" ")[0]
    with torch.no_grad():
        logs = {
            t: lm.model(torch.tensor([lm.tokenizer.encode(t)])).logits[0, -1].log_softmax(-1)[space]
            for t in ("1 gre", "1 re", "1 gr")
        }
    assert found[2] == pytest.approx(float(logs["1 gre"] - logs["1 re"]), abs=1e-5)
    assert found[4] == pytest.approx(float(logs["1 gre"] - logs["1 gr"]), abs=1e-5)
    enc = trained("encoder")
    found = lab.probe(enc, "1 g<mask>ee", kind="attribution", method="occlusion", baseline="remove", target=" ").numpy()
    rows = {}
    for text, at in (("1 g<mask>ee", 3), ("1g<mask>ee", 2), ("1 g<mask>e", 3)):
        before, _, after = text.partition("<mask>")
        ids = [*enc.tokenizer.encode(before), enc.tokenizer.special("mask"), *enc.tokenizer.encode(after)]
        with torch.no_grad():
            rows[text] = enc.model(torch.tensor([ids])).logits[0, at].log_softmax(-1)[space]
    assert found[1] == pytest.approx(float(rows["1 g<mask>ee"] - rows["1g<mask>ee"]), abs=1e-5)
    assert found[5] == pytest.approx(float(rows["1 g<mask>ee"] - rows["1 g<mask>e"]), abs=1e-5)


def enumerated(found: Explained) -> np.ndarray:
    """Shapley values by every order of the tokens."""
    n = len(found.inputs.pieces)

    @functools.cache
    def worth(there: frozenset) -> float:
        return float(found.with_only(torch.tensor([[i in there for i in range(n)]])))

    gains = np.zeros(n)
    orders = list(itertools.permutations(found.inputs.free.nonzero()[:, 0].tolist()))
    for order in orders:
        for i, token in enumerate(order):
            gains[token] += worth(frozenset(order[: i + 1])) - worth(frozenset(order[:i]))
    return gains / len(orders)


@pytest.mark.parametrize(
    ("shape", "text"), [("decoder", "1 gre"), ("encoder", "1 g<mask>e"), ("encoder_decoder", ("gre", "e"))]
)
def test_shapley_values_are_means_over_all_orders(shape, text):
    found = explained(trained(shape), text)
    want = enumerated(found)
    np.testing.assert_allclose(shapley_exact(found), want, atol=1e-5)
    values, errors = shapley_sampled(found, 60, seed=1)
    free = found.inputs.free.numpy()
    assert (np.abs(values.numpy() - want) <= 4 * errors.numpy() + 1e-6).all()
    assert 0 < float(errors.max()) < np.abs(want).max()
    ends = found.with_only(torch.stack([~found.inputs.free, torch.ones_like(found.inputs.free)]))
    assert float(values.sum()) == pytest.approx(float(ends.diff()), abs=1e-5)
    assert not values[~free].any()
    assert torch.equal(shapley_sampled(found, 60, seed=1)[0], values)


def test_shapley_says_how_it_was_found():
    shown = lab.probe(trained("decoder"), "1 gr", kind="attribution", method="shapley")
    assert ("sum of Shapley values") in dict(shown.figures) and "all 16 sets" in dict(shown.figures)[
        "sum of Shapley values"
    ]
    assert not shown.errors
    shown = lab.probe(trained("decoder"), "1 green bottle", kind="attribution", method="shapley", samples=4)
    assert "4 orders" in dict(shown.figures)["sum of Shapley values"]
    assert (shown.errors["shapley"] > 0).any()
    assert "shapley_error" in shown.to_pandas()
    assert "±" in shown._repr_mimebundle_()["text/html"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    lm = train("g", preset="gpt2", steps=30)
    folder = lm.save(tmp_path_factory.mktemp("hf") / "gpt2", format="hf")
    return lm, transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def test_gradients_are_those_of_transformers_on_the_same_weights(gpt2):
    lm, theirs = gpt2
    ids = torch.tensor([lm.tokenizer.encode("1 green bott")])
    vectors = theirs.transformer.wte(ids).detach().requires_grad_()
    logits = theirs(inputs_embeds=vectors).logits[0, -1].log_softmax(-1)
    target = int(logits.argmax())
    (slope,) = torch.autograd.grad(logits[target], vectors)
    stream = vectors + theirs.transformer.wpe.weight[: ids.shape[1]]
    found = lab.probe(
        lm, "1 green bott", kind="attribution", method="gradient_x_input,gradient", target=lm.tokenizer.decode([target])
    )
    np.testing.assert_allclose(
        found.scores["gradient_x_input"], (slope * stream).sum(-1)[0].detach(), atol=2e-5, rtol=1e-3
    )
    np.testing.assert_allclose(found.scores["gradient"], slope.norm(dim=-1)[0], atol=2e-5, rtol=1e-3)


def test_rollout_is_a_loop_over_the_attentions_of_transformers(gpt2):
    lm, theirs = gpt2
    ids = torch.tensor([lm.tokenizer.encode("1 green bott")])
    with torch.no_grad():
        attentions = theirs(ids, output_attentions=True).attentions
    n = ids.shape[1]
    rolled = np.eye(n)
    for layer in attentions:
        mixed = layer[0].numpy().mean(axis=0) + np.eye(n)
        rolled = (mixed / mixed.sum(axis=-1, keepdims=True)) @ rolled
    found = lab.probe(lm, "1 green bott", kind="attribution", method="rollout").numpy()
    np.testing.assert_allclose(found, rolled[-1], atol=1e-5)
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("shape", ["encoder_decoder", "permutation"])
def test_rollout_shares_attention_out(shape):
    found = lab.probe(trained(shape), SHAPES[shape][0], kind="attribution", method="rollout").numpy()
    assert (found > 0).all()
    own = 0.25 if shape == "permutation" else 0.0  # what the asking stream keeps of itself in two layers
    assert found.sum() <= 1 - own + 1e-6
    if shape == "encoder_decoder":
        assert found.sum() == pytest.approx(1)


def test_captum_gives_the_same():
    attr = pytest.importorskip("captum.attr", reason="captum is not here: pip install captum")
    found = explained(trained("decoder"), "1 green bo", target=" ", baseline="pad")
    x, base = found.x[None], found.base[None]
    want = attr.IntegratedGradients(found.of).attribute(x, base, n_steps=64, method="gausslegendre").sum(-1)[0]
    got = integrate(found.of, found.x, found.base, 64).shares
    torch.testing.assert_close(got, want.to(got), atol=1e-5, rtol=1e-4)
    adaptive = integrate(found.of, found.x, found.base).shares
    torch.testing.assert_close(adaptive, got, atol=0.02 * float(got.abs().max()), rtol=0.05)
    options = AttributionOptions(target=" ", baseline="pad")
    want = attr.InputXGradient(found.of).attribute(x.clone().requires_grad_()).sum(-1)[0]
    np.testing.assert_allclose(METHODS["gradient_x_input"](found, options).values, want.detach(), atol=1e-5)

    def keeping(rows):
        return found.with_only(rows.bool())

    ones = torch.ones(1, x.shape[1])
    np.testing.assert_allclose(
        METHODS["occlusion"](found, options).values, attr.FeatureAblation(keeping).attribute(ones)[0], atol=1e-5
    )
    want = (
        attr.ShapleyValues(keeping).attribute(ones[:, :])
        if x.shape[1] <= 6
        else attr.ShapleyValueSampling(keeping).attribute(ones, n_samples=60)
    )
    values, errors = shapley_sampled(found, 60, seed=0)
    assert (np.abs(values.numpy() - want[0].numpy()) <= 6 * errors.numpy() + 1e-4).all()


def test_faithfulness_by_hand():
    found = explained(trained("decoder"), "1 green bo", explain="prob", baseline="pad", target=" ")
    n, order = len(found.inputs.pieces), np.array([3, 9, 0, 1, 2, 4, 5, 6, 7, 8])

    def chance(hidden) -> float:
        ids = found.inputs.ids.clone()
        ids[list(hidden)] = 0
        with torch.no_grad():
            return float(found.value(found.inputs.model(ids[None]).logits[:, -1]))

    assert trained("decoder").tokenizer.special("pad") == 0 and n == 10
    tops = [max(1, int(np.ceil(share * n))) for share in SHARES]
    lost = np.mean([chance([]) - chance(order[:k]) for k in tops])
    left = np.mean([chance([]) - chance(order[k:]) for k in tops])
    assert faithfulness(found, [order]) == pytest.approx((lost, left), abs=1e-6)


def test_what_is_shown_beside_the_scores():
    lm = trained("decoder")
    shown = lab.probe(lm, "1 green bo", kind="attribution", method=",".join(ATTRIBUTIONS), seed=3)
    assert list(shown.scores) == list(ATTRIBUTIONS) and shown.numpy().shape == (6, 10)
    figures = dict(shown.figures)
    assert sum(" ~ " in name for name in figures) == 15
    ours = np.abs(shown.scores["occlusion"].astype(float)), np.abs(shown.scores["gradient"].astype(float))
    ranks = [pd.Series(values).rank() for values in ours]
    assert figures["gradient ~ occlusion"] == f"ρ {np.corrcoef(*ranks)[0, 1]:.2f}".replace("-", "−")
    assert sum(name.endswith(": compr., suff.") for name in figures) == 7
    assert "10 random orders: compr., suff." in figures
    gap = float(figures["gap between the two"].split("%")[0])
    assert gap < 1
    again = lab.probe(lm, "1 green bo", kind="attribution", method=",".join(ATTRIBUTIONS), seed=3)
    assert again.figures == shown.figures
    assert shown.about == f"“{answer_of(lm, '1 green bo')}” after position 9"


def answer_of(lm: lab.LM, text: str) -> str:
    logits = lab.record(lm, text, "logits")["logits"][0, -1]
    logits[list(lm.tokenizer.special_ids)] = -torch.inf
    return lm.tokenizer.decode([int(logits.argmax())])


def test_what_is_explained_can_be_chosen():
    lm = trained("decoder")
    logits = lab.record(lm, "1 gre", "logits")["logits"][0, -1]
    e, n = (lm.tokenizer.encode(c)[0] for c in "en")
    for options, want in (
        ({"target": "e"}, logits.log_softmax(-1)[e]),
        ({"target": "e", "explain": "logit"}, logits[e]),
        ({"target": "e", "explain": "prob"}, logits.softmax(-1)[e]),
        ({"target": "e", "other": "n"}, logits[e] - logits[n]),
    ):
        shown = lab.probe(lm, "1 gre", kind="attribution", method="occlusion", **options)
        assert float(shown.figures[0][1].replace("−", "-")) == pytest.approx(float(want), abs=1e-4)
    earlier = lab.probe(lm, "1 gre", kind="attribution", method="gradient", target="e", position=2)
    assert [piece.text for piece in earlier.pieces] == list("1 g")
    np.testing.assert_allclose(
        earlier.numpy(), lab.probe(lm, "1 g", kind="attribution", method="gradient", target="e").numpy(), rtol=1e-4
    )


def test_each_row_is_one_answer_of_its_own():
    lm = trained("decoder")
    text = "1 green"
    found = lab.probe(lm, text, kind="attribution", method="integrated_gradients,rollout", each="all")
    assert found.numpy().shape == (2, 6, 6) and list(found.panels[0].rows) == list(text[1:])
    for t in (1, 4, 6):
        one = lab.probe(lm, text[:t], kind="attribution", method="integrated_gradients,rollout", target=text[t])
        np.testing.assert_allclose(found.numpy()[:, t - 1, :t], one.numpy(), atol=1e-5)
        assert np.isnan(found.numpy()[:, t - 1, t:]).all()
    part = lab.probe(lm, text, kind="attribution", method="rollout", each="2:4")
    np.testing.assert_allclose(part.numpy()[:, :3], found.numpy()[1, 1:3, :3], atol=1e-6)


def test_each_hidden_and_each_written_token():
    lm = trained("encoder")
    found = lab.probe(lm, "1 gree", kind="attribution", method="occlusion", each="all")
    assert found.numpy().shape == (6, 6) and np.isnan(np.diag(found.numpy())).all()
    one = lab.probe(lm, "1 <mask>ree", kind="attribution", method="occlusion", target="g")
    np.testing.assert_allclose(found.numpy()[2], one.numpy(), atol=1e-6)
    two = trained("encoder_decoder")
    found = lab.probe(two, ["3 gre", "een"], kind="attribution", method="integrated_gradients", each="all")
    assert found.numpy().shape == (3, 8) and list(found.panels[0].rows) == list("een")
    one = lab.probe(two, ["3 gre", "e"], kind="attribution", method="integrated_gradients", target="e")
    np.testing.assert_allclose(found.numpy()[1, :7], one.numpy(), atol=1e-5)


def test_nothing_is_left_behind():
    lm = trained("decoder")
    model = lm.model
    model.train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    hooks = len(model.embed._forward_hooks)
    try:
        lab.probe(lm, "1 green bo", kind="attribution", method=",".join(ATTRIBUTIONS))
        with pytest.raises(RuntimeError, match="inside"), lab.replace(lm, {"final": fail}):
            lab.probe(lm, "1 green bo", kind="attribution")
        assert [module.training for module in model.modules()] == before
        assert all(p.grad is None for p in model.parameters()) and all(p.requires_grad for p in model.parameters())
        assert len(model.embed._forward_hooks) == hooks
    finally:
        model.eval()
    with torch.no_grad():
        shown = lab.probe(lm, "1 green bo", kind="attribution")  # where gradients are off
    assert np.isfinite(shown.numpy()).all()


def fail(x):
    raise RuntimeError("inside")


@pytest.mark.parametrize(
    ("shape", "text", "options", "says"),
    [
        ("decoder", "1 gr", {"method": "magic"}, r"^method: 'magic' is unknown; .*integrated_gradients"),
        ("decoder", "1 gr", {"baseline": "remove"}, r"^baseline: 'remove' leaves no vector"),
        ("decoder", "1 gr", {"baseline": "remove", "method": "shapley"}, r"^baseline: 'remove' leaves nothing to read"),
        ("decoder", "1 gr", {"each": "all", "target": "e"}, r"^target: 'e' names one answer"),
        ("decoder", "1 gr", {"each": "3:9"}, r"^each: '3:9' is not in the text, which has 4 tokens"),
        ("decoder", "1 gr", {"each": "some"}, r"^each: 'some' is neither all nor a range"),
        ("decoder", "1", {"each": "all"}, r"^each: "),
        ("decoder", ("a", "b"), {}, r"^text: 2 texts were given, and m reads one"),
        ("decoder", "1 gr", {"target": "gr"}, r"^target: 'gr' is 2 tokens"),
        ("encoder", "<mask>", {}, r"^text: it has reserved tokens alone"),
        ("encoder", "1 gr", {}, r"^text: m fills in gaps"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(shape, text, options, says):
    with pytest.raises(lab.LabError, match=says):
        lab.probe(trained(shape), text, kind="attribution", **options)


def test_a_path_that_is_walked_too_coarsely_is_told():
    shown = lab.probe(
        trained("decoder"),
        "1 green bo",
        kind="attribution",
        baseline="zero",
        path_steps=1,
        method="integrated_gradients",
    )
    assert any("leave out --path_steps" in note for note in shown.notes)
