"""The numbers of weights: against numpy, torch.linalg, laws that are known, and backward() on a copy."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.data.batch import Batch
from llm_lab.errors import BadValue
from llm_lab.probes.options import WeightsOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.weights import noise_scale, singular_values, tail_exponent, taken_apart, weights
from llm_lab.results import WeightTable
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train
from tests.small import TEXT
from tests.views.test_pages import Page, still


def model(name="m", seed=0, preset="gpt2", **sizes) -> LM:
    tokenizer = train([TEXT], "char")
    torch.manual_seed(seed)
    given = dict(n_layer=2, n_head=2, d_model=16, max_seq_len=32, zero_init=False) | sizes
    return LM(name, lab.build(preset, vocab_size=tokenizer.vocab_size, **given), tokenizer)


def look(*lms: LM, **options) -> WeightTable:
    return weights(Reading(lms), WeightsOptions(**options))


def test_numbers_against_numpy_and_torch():
    lm = model(n_kv_head=1)
    found = look(lm)
    block = lm.model.blocks[1]
    for name, w in {
        "blocks.1.attn.q": block.attn.qkv.weight[:16],
        "blocks.1.attn.k": block.attn.qkv.weight[16:24],
        "blocks.1.attn.v": block.attn.qkv.weight[24:],
        "blocks.1.mlp.up": block.mlp.up.weight,
        "embed": lm.model.embed.weight,
    }.items():
        w = w.detach().double()
        facts, values = found[name], w.flatten().numpy()
        assert facts.mean == pytest.approx(values.mean()) and facts.std == pytest.approx(values.std())
        assert (facts.low, facts.high) == (values.min(), values.max())
        assert facts.near_zero == (np.abs(values) <= np.sqrt((values**2).mean()) / 100).mean()
        assert facts.kurtosis == pytest.approx((((values - values.mean()) / values.std()) ** 4).mean() - 3)
        assert facts.spectral_norm == pytest.approx(float(torch.linalg.matrix_norm(w, 2)))
        assert facts.norm == pytest.approx(float(torch.linalg.matrix_norm(w)))
        assert facts.stable_rank == pytest.approx(facts.norm**2 / facts.spectral_norm**2)
        assert facts.condition == pytest.approx(float(torch.linalg.cond(w)))
        singular = torch.linalg.svdvals(w)
        np.testing.assert_allclose(facts.singular, singular, rtol=1e-6)
        assert facts.effective_rank == pytest.approx(math.exp(torch.distributions.Categorical(singular).entropy()))
        assert facts.histogram.sum() == pytest.approx(1)
    gain = found["blocks.0.attn_norm"]
    assert gain.mean == 1 and gain.std == 0 and math.isnan(gain.spectral_norm) and math.isnan(gain.kurtosis)
    assert not any(row.name.endswith("bias") for row in found.rows)


@pytest.mark.parametrize("preset", ["modern", "gpt2", "llama", "bert", "t5", "xlnet"])
def test_every_parameter_once_and_parts_by_their_names(preset):
    lm = model(preset=preset)
    found = look(lm, parameters=("*",))
    assert sum(math.prod(row.shape) for row in found.rows) == sum(p.numel() for p in lm.model.parameters())
    assert len({row.name for row in found.rows}) == len(found.rows)
    named = {row.name for row in found.rows}
    assert any(name.endswith("attn.q") for name in named)
    if preset == "llama":
        ups = lm.model.blocks[0].mlp.up.weight.detach()
        assert found["blocks.0.mlp.gate"].norm == pytest.approx(float(ups[: len(ups) // 2].double().norm()))
    if preset == "t5":
        assert any(name.endswith("cross.k") for name in named)


def test_fresh_weights_are_those_of_a_model_of_the_same_sizes():
    lm = model(d_model=64, max_seq_len=16)
    before = torch.get_rng_state()
    with torch.no_grad():
        lm.model.blocks[0].attn.qkv.weight[:64].mul_(3)
    row = next(row for row in look(lm).rows if row.name == "blocks.0.attn.q")
    assert row.fresh.std == pytest.approx(0.02, rel=0.05)
    assert row.facts[0].std == pytest.approx(0.06, rel=0.05)
    assert torch.equal(before, torch.get_rng_state())


def test_what_has_no_spectrum():
    lm = model(zero_init=True)
    zero = look(lm)["blocks.0.attn.out"]
    assert zero.spectral_norm == 0 and math.isnan(zero.stable_rank) and math.isnan(zero.condition)
    with torch.no_grad():
        lm.model.blocks[0].attn.out.weight[0, 0] = math.nan
    lost = look(lm)["blocks.0.attn.out"]
    assert math.isnan(lost.mean) and math.isnan(lost.spectral_norm) and not lost.histogram.any()
    Page(look(lm)._repr_mimebundle_()["text/html"])
    thin = np.outer(np.arange(1, 5), np.ones(3))
    assert singular_values(torch.tensor(thin))[1:].tolist() == [0, 0]


def test_tail_exponent():
    g = np.random.default_rng(0)
    for alpha in (2.0, 3.5):
        pareto = (1 - g.random(4000)) ** (-1 / (alpha - 1))  # p(x) ∝ x^−α from 1
        mixed = np.concatenate([pareto * 5, g.uniform(0, 5, 3000)])
        assert tail_exponent(pareto) == pytest.approx(alpha, rel=0.1)
        assert tail_exponent(mixed) == pytest.approx(alpha, rel=0.15)
    assert math.isnan(tail_exponent(np.arange(1.0, 40.0)))
    values = np.sort((1 - g.random(60)) ** -1.0)
    best = (math.inf, 0.0)
    for least in values[:-1]:  # the same with every sum written out
        tail = [v for v in values if v >= least]
        alpha = 1 + len(tail) / sum(math.log(v / least) for v in tail)
        gaps = [abs(1 - (v / least) ** (1 - alpha) - i / len(tail)) for j, v in enumerate(tail) for i in (j, j + 1)]
        best = min(best, (max(gaps), alpha))
    assert tail_exponent(values) == pytest.approx(best[1])


def test_gradients_equal_backward_on_a_copy():
    lm = model()
    lm.model.train()
    found = look(lm, gradients=True, corpus=[TEXT], max_tokens=2080, parameters=("*",))
    ids = torch.tensor(lm.tokenizer.encode(TEXT))
    other = copy.deepcopy(lm.model).eval()
    inputs = ids[:2048].view(64, 32)
    targets = ids[1:2049].view(64, 32)
    logits = other(**Batch(inputs).inputs()).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    assert found.tokens == [2048] and found.losses[0] == pytest.approx(loss.item(), rel=1e-5)
    wanted = taken_apart(other, {name: p.grad for name, p in other.named_parameters()})
    for row in found.rows:
        assert row.facts[0].gradient == pytest.approx(float(wanted[row.name].norm()), rel=1e-3)
        if row.facts[0].norm:
            assert row.facts[0].gradient_ratio == row.facts[0].gradient / row.facts[0].norm
        assert row.facts[0].noise_scale > 0
    assert all(p.grad is None for p in lm.model.parameters()) and lm.model.training


def test_noise_scale_of_gradients_that_are_known():
    g = np.random.default_rng(0)
    true, noise, tokens, n = g.normal(size=50), 4.0, 8, 4000
    each = true + noise / math.sqrt(tokens) * g.normal(size=(n, 50))  # a token's gradient has the variance 16
    found = noise_scale(float((each**2).sum(1).mean()), float((each.mean(0) ** 2).sum()), tokens, n)
    assert found == pytest.approx(50 * noise**2 / (true**2).sum(), rel=0.05)
    assert math.isnan(noise_scale(1.0, 1.0, 8, 1))
    assert noise_scale(1.0, 0.0, 8, 4) == math.inf


@pytest.mark.parametrize("preset", ["bert", "t5", "xlnet"])
def test_gradients_of_other_objectives(preset):
    lm = model(preset=preset)
    lm.info["objective"] = {"bert": "mlm", "t5": "span_corruption", "xlnet": "plm"}[preset]
    found = look(lm, gradients=True, corpus=[TEXT], max_tokens=1000)
    assert found["embed"].gradient > 0 and found.losses[0] > 0
    assert all(p.grad is None for p in lm.model.parameters())


def test_two_models_side_by_side():
    one, two = model("one"), model("two", seed=1)
    found = look(one, two)
    row = next(row for row in found.rows if row.name == "blocks.0.mlp.up")
    a, b = (lm.model.blocks[0].mlp.up.weight.detach() for lm in (one, two))
    assert row.distance == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-5)
    assert [facts.std for facts in row.facts] == pytest.approx([float(w.std(correction=0)) for w in (a, b)])
    assert all(row.distance == 0 for row in look(one, model("again")).rows)
    assert set(found.to_pandas().model) == {"one", "two"}
    deeper = look(one, model("deep", n_layer=3))
    assert len(deeper.rows) == len(found.rows) and "only one of both has" in str(deeper)
    text = Page(found._repr_mimebundle_()["text/html"]).text
    assert "distance" in text and "orange line two" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": ("blocks.0.attn.qq",)}, "not in this model.*blocks.0.attn.q"),
        ({"corpus": [TEXT]}, "add --gradients"),
        ({"gradients": True}, "held-out text"),
        ({"gradients": True, "corpus": ["a"]}, "too short"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(BadValue, match=message):
        look(model(), **options)
    with pytest.raises(BadValue, match="no weight of one name and shape"):
        look(model(), model(d_model=24, max_seq_len=16, n_head=3))


def test_shows_itself_small():
    lm = model(n_layer=12)
    made = look(lm)
    source = made._repr_mimebundle_()["text/html"]
    assert len(source.encode()) < 300_000
    page = Page(still(made))
    shown = re.search(r"The first (\d+) of 99 weights are listed", page.text)
    assert shown and 70 < sum(tag == "img" for tag, _ in page.tags) <= 2 * int(shown[1])
    assert "blocks.3.attn.v" in page.text and "before training" in source
    assert "blocks.0.attn.q" in str(made)
    assert len(made.to_pandas()) == len(made.rows)
