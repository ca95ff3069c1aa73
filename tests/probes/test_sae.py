"""Sparse autoencoders: planted features are found, losses are those of plain replacements, and nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import llm_lab as lab
from llm_lab.probes.options import SAEOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.sae import loss_recovered, on_device, replaced_loss, sae, train
from llm_lab.results import FeatureScores, SparseAutoencoder
from tests import small
from tests.probes.test_neurons import CORPUS, model
from tests.small import TEXT


def planted(n: int = 6000, width: int = 24, features: int = 40) -> tuple[torch.Tensor, np.ndarray]:
    """Activations that are sums of three of forty directions, around a mean that is not 0."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(features, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = np.zeros((n, features))
    for row in weights:
        row[rng.choice(features, 3, replace=False)] = 1 + rng.random(3)
    return torch.from_numpy(5 * weights @ directions + 3).float(), directions


@pytest.mark.parametrize("how", [dict(sparsity="topk", k=3), dict(sparsity="l1", l1=0.1)])
def test_planted_features_are_found(how):
    x, directions = planted()
    *_, (done, loss, now) = train(x, SAEOptions(steps=900, lr=3e-3, **how), 60)
    assert done == 900 and loss < 0.3
    found = now()
    np.testing.assert_allclose(np.linalg.norm(found.decoder, axis=1), 1, rtol=1e-5)
    cosine = (directions @ found.decoder.T).max(axis=1)
    assert (cosine > 0.9).mean() > 0.8
    code = found.encode(x.numpy())
    assert code.min() >= 0 and ((code > 0).sum(1) <= 3).mean() > (0.99 if how["sparsity"] == "topk" else -1)
    left = ((x.numpy() - found.decode(code)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert left < 0.12
    # The tensors' way is the arrays' way.
    encode, decode = on_device(found, torch.device("cpu"))
    np.testing.assert_allclose(encode(x[None])[0], code, atol=1e-3)
    np.testing.assert_allclose(decode(encode(x)), found.decode(code), atol=1e-3)


def test_one_seed_gives_one_autoencoder():
    x, _ = planted(500)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(made))
        *_, (_, _, now) = train(x, SAEOptions(steps=5, seed=seed, k=3), 30)
        made.append(now().decoder)
    assert np.array_equal(made[0], made[1]) and not np.allclose(made[0], made[2])


def blocks() -> list[torch.Tensor]:
    ids = torch.tensor(model().tokenizer.encode(CORPUS[0]))
    return [ids[i : i + 32][None] for i in range(0, 640, 32)]


@pytest.mark.parametrize("site", ["blocks.0.resid_post", "blocks.1.attn.z", "blocks.0.mlp.post"])
def test_losses_are_those_of_plain_replacements(site):
    lm = small.train(steps=60, zero_init=False)
    ids = torch.tensor(lm.tokenizer.encode(CORPUS[0]))[:640].view(20, 32)
    text = [ids[:15], ids[15:]]
    ways = {
        "clean": lambda rows: rows,
        "reconstructed": lambda rows: rows,
        "zero": torch.zeros_like,
        "mean": lambda rows: torch.full_like(rows, 0.1),
    }
    losses = {name: replaced_loss(lm, text, site, way) for name, way in ways.items()}
    assert loss_recovered(losses) == pytest.approx(1)
    assert loss_recovered({**losses, "reconstructed": losses["zero"]}) == pytest.approx(0)
    with torch.no_grad():
        logits = lm.model(ids).logits
    plain = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert losses["clean"] == pytest.approx(float(plain), rel=1e-5)
    with torch.no_grad(), lab.replace(lm, {site: torch.zeros_like}):
        zero = F.cross_entropy(lm.model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert losses["zero"] == pytest.approx(float(zero), rel=1e-5) and losses["zero"] != pytest.approx(losses["clean"])
    assert loss_recovered({**losses, "zero": losses["clean"]}) is None


def test_only_the_stream_that_reads_is_replaced():
    lm = model("permutation")
    seen = {}

    def rows(x):
        seen["shape"] = tuple(x.shape)
        return torch.zeros_like(x)

    loss = replaced_loss(lm, blocks(), "blocks.0.resid_post", rows)
    assert seen["shape"] == (1, 32, 16)

    def first(x):
        x[:, :32] = 0
        return x

    ids = torch.cat(blocks())
    with torch.no_grad(), lab.replace(lm, {"blocks.0.resid_post": first}):
        wanted = F.cross_entropy(lm.model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss == pytest.approx(float(wanted), rel=1e-5)


def test_a_model_that_fills_in_is_asked_for_masked_tokens():
    lm = model("encoder", output="mlm")
    assert "fill" in lm.supports
    clean = replaced_loss(lm, blocks(), "blocks.0.resid_post", lambda rows: rows)
    assert clean == replaced_loss(lm, blocks(), "blocks.0.resid_post", lambda rows: rows)
    assert clean == pytest.approx(np.log(lm.model.vocab_size), rel=0.5)
    assert replaced_loss(model("encoder_decoder"), blocks(), "encoder.blocks.0.resid_post", lambda rows: rows) is None


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder", "permutation"])
def test_features_of_a_corpus(shape):
    lm = model(shape)
    lm.model.train()
    before = {name: p.clone() for name, p in lm.model.state_dict().items()}
    state = torch.get_rng_state()
    found = lab.probe(lm, kind="sae", corpus=CORPUS, n_features=24, k=4, steps=20, top=3)
    assert torch.equal(state, torch.get_rng_state())
    assert lm.model.training and all(torch.equal(p, before[name]) for name, p in lm.model.state_dict().items())
    assert not any(p.grad is not None for p in lm.model.parameters())
    assert isinstance(found, SparseAutoencoder) and found.done and found.units
    assert found.encoder.shape == (16, 24) and found.decoder.shape == (24, 16)
    site = found.autoencoder.site
    assert site.endswith("blocks.0.resid_post")
    # What stands in the passages is what the arrays say of the recorded activations.
    ids = lm.tokenizer.encode(CORPUS[0])
    lm.model.eval()
    acts = np.concatenate(
        [
            lab.record(lm, [ids[i : i + 32]], site)[site][0, : len(ids[i : i + 32])].numpy()
            for i in range(0, len(ids), 32)
        ]
    )
    code = found.encode(acts)
    assert ((code > 0).sum(1) <= 4).all()
    for unit in found.units:
        column = code[:, int(unit.name.split()[1])]
        assert unit.stats["largest"] == pytest.approx(column.max(), rel=1e-3)
        assert unit.stats["active"] == pytest.approx(100 * (column > 0).mean(), abs=0.2)
        assert column[unit.passages[0].position] == pytest.approx(column.max(), rel=1e-3)
    held = acts[32 * 20 :]  # of 22 blocks the last two
    left = ((held - found.decode(found.encode(held))) ** 2).sum() / ((held - held.mean(0)) ** 2).sum()
    assert float(dict(found.figures)["variance explained, %"]) == pytest.approx(100 * (1 - left), abs=0.2)
    assert bool(found.losses) == (shape != "encoder_decoder")


def test_a_text_is_shaded_by_its_features():
    lm = model()
    found = lab.probe(lm, TEXT[:20], kind="sae", corpus=CORPUS, n_features=24, k=4, steps=5)
    assert isinstance(found, FeatureScores) and len(found.scores) == 8
    site = found.autoencoder.site
    code = found.encode(lab.record(lm, TEXT[:20], site)[site][0].numpy())
    for name, values in found.scores.items():
        np.testing.assert_allclose(values, code[:, int(name.split()[1])], atol=1e-6)


def test_an_interrupt_keeps_what_was_learned(monkeypatch):
    monkeypatch.setattr("llm_lab.probes.sae.EVERY", 0.0)
    lm = model()
    going = sae(Reading((lm,)), SAEOptions(corpus=CORPUS, n_features=24, k=4, steps=500))
    growing = next(going)
    assert not growing.done and "step" in str(growing) and torch.is_grad_enabled()
    next(going)
    growing = going.throw(KeyboardInterrupt())
    whole = growing
    assert list(going) == [] and whole.done and whole.units
    assert any("The training ended at step 2 of 500" in note for note in whole.notes)


def test_an_error_in_its_middle_leaves_nothing(monkeypatch):
    lm = model()
    lm.model.train()
    monkeypatch.setattr("llm_lab.probes.sae.vectors", lambda x, n: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab.probe(lm, kind="sae", corpus=CORPUS, n_features=24, k=4, steps=2)
    assert lm.model.training and torch.is_grad_enabled()
    with torch.no_grad():
        assert lm.model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_refusals():
    with pytest.raises(
        lab.LabError, match=r"means 2 sites, and an autoencoder is of one; use .* --site blocks.0.mlp.out"
    ):
        lab.probe(model(), kind="sae", corpus=CORPUS, site="blocks.*.mlp.out")
    with pytest.raises(lab.LabError, match="one trains and one measures"):
        lab.probe(model(), kind="sae", corpus=[TEXT[:20]])
    with pytest.raises(lab.LabError, match="sparsity: 'l0' is unknown"):
        lab.probe(model(), kind="sae", corpus=CORPUS, sparsity="l0")
