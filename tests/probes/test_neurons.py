"""Neurons, factors and what they say in the logits, against brute force, plain products and planted structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.activations import logit_weights, vector_sites
from llm_lab.probes.factors import _fit, ordered
from llm_lab.probes.neurons import Moments
from llm_lab.probes.options import FactorsOptions
from llm_lab.probes.passages import passages
from llm_lab.results import Passages, TokenScores
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as letters_of
from tests.small import TEXT, train

TOKENIZER = letters_of([TEXT], "char")
SIZES = dict(vocab_size=TOKENIZER.vocab_size, n_layer=2, n_head=2, d_model=16, max_seq_len=32, zero_init=False)
CORPUS = [TEXT[:700]]


def model(shape: str = "decoder", **changed) -> LM:
    torch.manual_seed(0)
    config = ModelConfig(**{**SIZES, "shape": shape, **changed})
    made = SHAPES.load(shape)(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # gains are no longer 1, biases no longer 0
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return LM("tiny", made, TOKENIZER, info={"objective": "mlm"} if shape == "encoder" else {})


def recorded(lm: LM, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Every activation of the corpus at a site, (N, D), block by block, and the ids."""
    ids = lm.tokenizer.encode(CORPUS[0])
    length = lm.model.max_seq_len
    blocks = [ids[i : i + length] for i in range(0, len(ids), length)]
    return np.concatenate([lab.record(lm, [b], site)[site][0, : len(b)].numpy() for b in blocks]), np.array(ids)


@pytest.mark.parametrize(
    ("shape", "prefix"), [("decoder", ""), ("encoder", ""), ("permutation", ""), ("encoder_decoder", "encoder.")]
)
def test_passages_and_numbers_are_those_of_all_activations(shape, prefix):
    lm = model(shape, mlp="gelu")
    weights = {name: p.clone() for name, p in lm.model.state_dict().items()}
    lm.model.train()
    found = lab.probe(lm, kind="neurons", corpus=CORPUS, layer=1, neuron=[3, 17], top=4)
    assert isinstance(found, Passages) and [unit.name for unit in found.units] == [
        "layer 1, neuron 3",
        "layer 1, neuron 17",
    ]
    acts, ids = recorded(lm, f"{prefix}blocks.1.mlp.post")
    pieces = [piece.text for piece in lm.tokenizer.pieces(ids)]
    for unit, i in zip(found.units, (3, 17), strict=True):
        column = acts[:, i].astype(np.float64)
        np.testing.assert_allclose(unit.stats["mean"], column.mean(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(unit.stats["largest"], column.max(), rtol=1e-4)
        np.testing.assert_allclose(unit.stats["active"], 100 * (column > 0).mean(), atol=1e-6)
        centred = column - column.mean()
        np.testing.assert_allclose(
            unit.stats["kurtosis"], (centred**4).mean() / (centred**2).mean() ** 2 - 3, rtol=1e-3
        )
        # Brute force: the largest left, then nothing of its passage.
        left, wanted = column.copy(), []
        for _ in range(4):
            t = int(left.argmax())
            wanted.append(t)
            block = t // 32 * 32
            left[max(block, t - 60) : min(block + 32, t + 21)] = -np.inf
        assert [passage.position for passage in unit.passages] == wanted
        for passage in unit.passages:
            first = passage.position - passage.peak
            assert [p.text for p in passage.pieces] == pieces[first : first + len(passage.pieces)]
            np.testing.assert_allclose(
                passage.values, column[first : first + len(passage.values)], rtol=1e-4, atol=1e-5
            )
        token, value = unit.tokens[0]
        means = {i: column[ids == i].mean() for i in set(ids.tolist()) if (ids == i).sum() >= 3}
        assert token.id == max(means, key=means.__getitem__)
        np.testing.assert_allclose(value, means[token.id], rtol=1e-4)
    assert lm.model.training and all(torch.equal(p, weights[name]) for name, p in lm.model.state_dict().items())
    assert not any(p.grad is not None for p in lm.model.parameters())
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_the_most_telling_are_those_whose_last_peak_stands_farthest_out():
    lm = model()
    found = lab.probe(lm, kind="neurons", corpus=CORPUS, site="blocks.0.mlp.post", top=3)
    acts, _ = recorded(lm, "blocks.0.mlp.post")
    blocks = np.stack([acts[i : i + 32].max(0) for i in range(0, len(acts), 32)])
    third = np.sort(blocks, axis=0)[-3]
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (third - acts.mean(0)) / acts.std(0)
    wanted = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:16]
    assert [unit.name for unit in found.units] == [f"layer 0, neuron {i}" for i in wanted]
    assert found.numpy().shape == (16, 3)
    frame = found.passages
    assert len(frame) == np.isfinite(found.numpy()).sum() and frame.value.max() == pytest.approx(
        np.nanmax(found.numpy())
    )
    assert list(found.to_pandas().columns[:2]) == ["unit", "largest"]


def test_moments_do_not_cancel_far_from_zero():
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_t(8, size=(40, 25, 3))).astype(np.float32)
    moments = Moments(5)
    for part in np.split(x, 4):
        moments.see(torch.from_numpy(part))
    flat = x.reshape(-1, 3).astype(np.float64)
    centred = flat - flat.mean(0)
    stats = moments.stats()
    np.testing.assert_allclose(stats["mean"], flat.mean(0), rtol=1e-9)
    np.testing.assert_allclose(stats["spread"], flat.std(0), rtol=1e-5)
    np.testing.assert_allclose(stats["kurtosis"], (centred**4).mean(0) / (centred**2).mean(0) ** 2 - 3, rtol=1e-3)


def test_one_text_is_shaded():
    lm = model()
    text = TEXT[:30]
    found = lab.probe(lm, text, kind="neurons", neuron=[5])
    assert isinstance(found, TokenScores) and list(found.scores) == ["layer 0, neuron 5", "layer 1, neuron 5"]
    for layer in (0, 1):
        wanted = lab.record(lm, text, f"blocks.{layer}.mlp.post")[f"blocks.{layer}.mlp.post"][0, :, 5]
        np.testing.assert_allclose(found.scores[f"layer {layer}, neuron 5"], wanted, rtol=1e-5, atol=1e-6)
    assert len(lab.probe(lm, text, kind="neurons").scores) == 8


def _direct(lm: LM, site: str, direction: torch.Tensor) -> torch.Tensor:
    """The logits' derivative along a direction, with what norms divide by held: by the model's own modules."""
    made = lm.model
    layer, part = int(site.split(".")[1]), site.split(".", 2)[2]
    block = made.blocks[layer]
    x = direction
    if part == "mlp.post":
        x = block.mlp.down.weight @ x
    elif part == "attn.z":
        x = block.attn.out.weight @ x

    def norm(module, x):
        gain = getattr(module, "weight", None)
        x = x - x.mean() if isinstance(module, torch.nn.LayerNorm) else x
        return x if gain is None else gain * x

    if made.config.norm_place == "sandwich":
        x = norm(block.after[part.split(".")[0]], x)
    if made.config.norm_place == "post":
        if part.startswith("attn"):
            x = norm(block.attn_norm, x)
        x = norm(block.mlp_norm, x)
        for later in made.blocks[layer + 1 :]:
            x = norm(later.mlp_norm, norm(later.attn_norm, x))
    return made.unembed.weight @ norm(made.norm, x)


@pytest.mark.parametrize("place", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("site", ["blocks.0.mlp.post", "blocks.0.attn.z", "blocks.1.mlp.out"])
def test_logit_weights_by_hand(place, norm, site):
    lm = model(norm_place=place, norm=norm, bias=True, tie_embeddings=norm == "layernorm")
    width = 64 if site.endswith("post") else 16
    direction = torch.randn(width, generator=torch.Generator().manual_seed(1))
    found = logit_weights(lm.model, site, direction[None].numpy())
    np.testing.assert_allclose(found[0], _direct(lm, site, direction).detach(), rtol=1e-4, atol=1e-5)


def test_logit_weights_are_the_derivative_of_a_model_without_norms_in_between():
    """Of the last layer's neuron in a model whose stream has the length 1 by construction."""
    lm = model(logit_softcap=0.0)
    site, ids = "blocks.1.mlp.post", torch.tensor([TOKENIZER.encode(TEXT[:6])])
    final = []
    handle = lm.model.norm.register_forward_hook(lambda m, args, out: final.append(args[0]))
    clean = lm.model(ids).logits
    handle.remove()
    size = (final[0][0, -1].square().mean() + lm.model.config.norm_eps).sqrt()
    found = logit_weights(lm.model, site, np.eye(64, dtype=np.float32)[7:8])[0]
    step = 1e-3

    def raise_it(x):
        x[:, -1, 7] += step
        return x

    with lab.replace(lm, {site: raise_it}):
        moved = lm.model(ids).logits
    normed = lm.model.norm(final[0])[0, -1]
    written = lm.model.blocks[1].mlp.down.weight[:, 7]
    # The whole derivative is the direct path over the size, less what the division itself takes back.
    back = (final[0][0, -1] @ written) / 16 / size**2 * (lm.model.unembed.weight @ normed)
    wanted = torch.from_numpy(found) / size - back
    torch.testing.assert_close((moved - clean)[0, -1] / step, wanted, rtol=2e-2, atol=2e-3)


def test_where_no_direct_path_is_linear_nothing_is_raised():
    lm = model("encoder", output="mlm")
    assert logit_weights(lm.model, "blocks.0.mlp.post", np.eye(1, 64, dtype=np.float32)) is None
    assert logit_weights(model().model, "blocks.0.mlp.pre", np.eye(1, 64, dtype=np.float32)) is None
    found = lab.probe(lm, kind="neurons", corpus=CORPUS)
    assert not any(unit.promoted for unit in found.units)


def test_raised_and_lowered_are_the_ends():
    lm = model()
    found = lab.probe(lm, kind="neurons", corpus=CORPUS, layer=1, neuron=[2])
    weights = logit_weights(lm.model, "blocks.1.mlp.post", np.eye(64, dtype=np.float32)[2:3])[0]
    text = lm.tokenizer.text_ids
    (unit,) = found.units
    assert unit.promoted[0][0].id == text[weights[text].argmax()] and unit.promoted[0][1] == weights[text].max()
    assert unit.suppressed[0][0].id == text[weights[text].argmin()]


def test_passages_stay_in_their_block_and_stop_at_the_mean():
    values = np.zeros(50)
    values[[10, 30, 31]] = [3.0, 2.0, 1.0]
    ids = np.array(TOKENIZER.encode(TEXT[:50]))
    found = passages(values, ids, np.array([0, 30]), TOKENIZER, 8)
    assert [one.position for one in found] == [10, 30]
    assert found[0].peak == 10 and len(found[0].pieces) == 30
    assert found[1].peak == 0 and len(found[1].pieces) == 20


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (dict(neuron=[64]), "neuron: 64 is not there; blocks.0.mlp.post has 0 to 63"),
        (dict(layer=5), "layer: 5 is not among the sites that are read; there is: 0, 1"),
        (dict(site="blocks.0.attn.pattern"), "blocks.0.attn.pattern has no vector a token"),
        (dict(site="blocks.0.mlp.bost"), "is not in this model"),
    ],
)
def test_refusals(options, error):
    with pytest.raises(lab.LabError, match=error):
        lab.probe(model(), kind="neurons", corpus=CORPUS, **options)


def test_refusals_by_the_model_and_the_text():
    with pytest.raises(lab.LabError, match="its MLPs are experts; use another, for example --site"):
        lab.probe(model(n_expert=4), kind="neurons", corpus=CORPUS)
    with pytest.raises(lab.LabError, match="is of the decoder, which reads no corpus"):
        lab.probe(model("encoder_decoder"), kind="neurons", corpus=CORPUS, site="decoder.blocks.0.mlp.post")
    with pytest.raises(lab.LabError, match="corpus: a text was given too"):
        lab.probe(model(), "1 green", kind="neurons", corpus=CORPUS)


def test_heads_stand_side_by_side():
    lm = model(n_kv_head=1)
    assert vector_sites(lm, "blocks.0.attn.[qkvz]", "") == [f"blocks.0.attn.{x}" for x in "qkvz"]
    found = lab.probe(lm, TEXT[:20], kind="neurons", site="blocks.0.attn.q", neuron=[11])
    wanted = lab.record(lm, TEXT[:20], "blocks.0.attn.q")["blocks.0.attn.q"][0, 1, :, 3]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


# --- factors ----------------------------------------------------------------------------------------------------------


def test_planted_factors_are_found():
    rng = np.random.default_rng(0)
    planted = np.zeros((4, 40))
    for i in range(4):
        planted[i, 10 * i : 10 * i + 10] = rng.random(10) + 0.5
    weights = rng.random((300, 4)) * (rng.random((300, 4)) < 0.4)
    model = _fit((weights @ planted).astype(np.float32), FactorsOptions(n_factors=4))
    found, _ = ordered(model.components_, model.transform((weights @ planted).astype(np.float32)))
    cosine = found @ (planted / np.linalg.norm(planted, axis=1, keepdims=True)).T
    assert (cosine.max(axis=1) > 0.98).all() and len(set(cosine.argmax(axis=1))) == 4


@pytest.mark.parametrize("mlp", ["relu2", "gelu", "swiglu"])
def test_factors_of_a_text_rebuild_its_positive_activations(mlp):
    lm = model(mlp=mlp)
    text = TEXT[:30]
    found = lab.probe(lm, text, kind="factors", n_factors=5)
    assert found.directions.shape == (5, 128) and (found.directions >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, rtol=1e-5)
    sites = [f"blocks.{i}.mlp.post" for i in (0, 1)]
    acts = lab.record(lm, text, sites)
    x = np.concatenate([acts[site][0].numpy() for site in sites], axis=1)
    positive = np.maximum(x, 0)
    left = ((positive - found.numpy().T @ found.directions) ** 2).sum() / (positive**2).sum()
    figures = dict(found.figures)
    assert float(figures["sum of squares explained, %"]) == pytest.approx(100 * (1 - left), abs=0.2)
    below = (np.minimum(x, 0) ** 2).sum() / (x**2).sum()
    assert float(figures["left out: squares below zero, %"]) == pytest.approx(100 * below, abs=0.1)
    # No 5 directions do better than the singular vectors; these should not be far from them.
    best = (np.linalg.svd(positive, compute_uv=False)[5:] ** 2).sum() / (positive**2).sum()
    assert best - 1e-6 <= left < best + 0.2


def test_factors_of_a_corpus_have_passages(monkeypatch):
    lm = model()
    found = lab.probe(lm, kind="factors", corpus=CORPUS, n_factors=3, top=2)
    assert [unit.name for unit in found.units] == ["factor 1", "factor 2", "factor 3"]
    assert all(len(unit.passages) == 2 and unit.promoted for unit in found.units)
    shares = [unit.stats["share"] for unit in found.units]
    assert sum(shares) == pytest.approx(100) and shares == sorted(shares, reverse=True)
    parts = [logit_weights(lm.model, f"blocks.{i}.mlp.post", found.directions[:, 64 * i : 64 * i + 64]) for i in (0, 1)]
    np.testing.assert_allclose(
        found.units[0].promoted[0][1], (parts[0] + parts[1])[0, lm.tokenizer.text_ids].max(), rtol=1e-5
    )
    monkeypatch.setattr("llm_lab.probes.factors.ROOM", 200 * 128)
    some = lab.probe(lm, kind="factors", corpus=CORPUS, n_factors=3, top=2)
    assert some.notes == ["The factors were learned from 200 of the tokens, drawn."]
    assert (np.abs(some.directions @ found.directions.T).max(axis=1) > 0.8).all()


def test_too_many_factors_are_refused():
    with pytest.raises(lab.LabError, match="n_factors: 6 is more than the 4 tokens"):
        lab.probe(model(), TEXT[:4], kind="factors")


def test_a_trained_model_has_its_held_out_text():
    lm = train()
    for kind in ("neurons", "factors"):
        found = lab.probe(lm, kind=kind, max_tokens=300)
        assert found.units and "300 tokens read" in str(found)
        assert found.code == f"lab.probe(tiny, kind={kind!r}, max_tokens=300)"
