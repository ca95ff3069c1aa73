"""LSTM and convolutions: torch's own modules as a reference, causality, gradients, costs, and that they learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llm_lab.baselines.conv import Conv, dilations, reach
from llm_lab.baselines.lstm import LSTM
from llm_lab.errors import BadValue
from llm_lab.models.options import SHAPES, ModelConfig

KINDS = {"lstm": LSTM, "conv": Conv}
SIZES: dict[str, Any] = dict(vocab_size=11, n_layer=3, n_head=1, d_model=8, max_seq_len=24, zero_init=False)
VARIANTS: list[dict[str, Any]] = [
    {},
    dict(bias=True, norm="layernorm", logit_softcap=0.0),
    dict(tie_embeddings=True, d_embed=6, output_bias=True),
    dict(n_layer=1, kernel=1, dropout=0.3),
    dict(n_layer=8, kernel=5, d_embed=12, bias=True),
]


def made(shape: str, **sizes) -> Any:
    torch.manual_seed(0)
    return SHAPES.load(shape)(ModelConfig(shape=shape, **{**SIZES, **sizes})).eval()


def ids(rows: int = 2, length: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 11, (rows, length)))


@pytest.mark.parametrize("shape", KINDS)
@pytest.mark.parametrize("sizes", VARIANTS)
def test_no_later_token_matters_and_every_parameter_learns(shape, sizes):
    model = made(shape, **sizes)
    read = ids()
    out = model(read)
    assert out.logits.shape == (2, 24, 11) and out.logits.dtype == torch.float32
    changed = read.clone()
    changed[:, 10:] = ids(seed=2)[:, 10:]  # padding at the right is a case of this
    torch.testing.assert_close(model(changed).logits[:, :10], out.logits[:, :10])
    assert not torch.allclose(model(changed).logits[:, 10:], out.logits[:, 10:])
    torch.testing.assert_close(model(read, last=True).logits, out.logits[:, -1:])
    F.cross_entropy(out.logits.flatten(0, 1), ids(seed=3).flatten()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("shape", KINDS)
@pytest.mark.parametrize("sizes", VARIANTS)
def test_parts_count_what_is_there(shape, sizes):
    model = made(shape, **sizes)
    report = model.report(4)
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert [part.count for part in report.parts if part.block] == [model.config.n_layer] * 2
    assert report.memory > 20 * report.parameters
    assert ("lstm" if shape == "lstm" else "convolution") in str(report)
    with torch.device("meta"):
        bare = KINDS[shape](model.config)
    assert bare.parts(4) == model.parts(4)


def test_flops_are_those_of_torch():
    from torch.utils.flop_counter import FlopCounterMode

    model = made("conv", d_embed=6, kernel=3)
    with FlopCounterMode(display=False) as counter:
        model(ids())
    norms = sum(part.flops for part in model.parts(1) if part.kind == "norm")  # torch counts products alone
    # torch counts one product for each tap of each position, the padded ones too
    assert sum(part.flops for part in model.parts(1)) - norms == counter.get_total_flops() / 48


@pytest.mark.parametrize("shape", KINDS)
def test_declares_what_the_table_says(shape):
    model = made(shape)
    assert model.supports == SHAPES[shape].supports == KINDS[shape].supports
    assert model.sites() == {}
    assert model.embedding_table().shape == (11, 8)
    assert made(shape, output="none").supports == {"embeddings", "gradients"}
    assert made(shape, output="none")(ids()).logits.shape == (2, 24, 0)
    with pytest.raises(BadValue, match="25 tokens do not fit the context of 24"):
        model(ids(length=25))


def test_lstm_of_one_layer_is_torchs():
    model = made("lstm", n_layer=1, logit_softcap=0.0, bias=True)
    reference = nn.LSTM(8, 8, batch_first=True)
    reference.load_state_dict(model.layers[0].state_dict())
    x = model.embed(ids())
    normed = x / x.square().mean(-1, keepdim=True).add(1e-5).sqrt()  # gains are 1 at the start
    stream = x + reference(normed)[0]
    wanted = stream / stream.square().mean(-1, keepdim=True).add(1e-5).sqrt() @ model.unembed.weight.mT
    torch.testing.assert_close(model(ids()).logits, wanted, rtol=1e-4, atol=1e-5)


def test_lstm_remembers_beyond_any_window():
    model = made("lstm")
    changed = ids().clone()
    changed[:, 0] = (changed[:, 0] + 1) % 11
    assert bool(((model(changed).logits - model(ids()).logits)[:, -1] != 0).any())


def test_gated_convolution_by_a_plain_loop():
    model = made("conv", n_layer=2, kernel=3)
    layer = model.layers[1]  # dilation 2
    x = torch.randn(1, 9, 8)
    weight = layer.conv.weight.detach()
    for t in range(9):
        total = torch.zeros(16)
        for tap in range(3):
            at = t - 2 * (2 - tap)
            if at >= 0:
                total += weight[:, :, tap] @ x[0, at]
        torch.testing.assert_close(layer(x)[0, t], total[:8] * total[8:].sigmoid(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_layer", "kernel", "wanted"), [(1, 1, 1), (1, 3, 3), (3, 2, 8), (2, 4, 10)])
def test_reach_is_where_influence_ends(n_layer, kernel, wanted):
    model = made("conv", n_layer=n_layer, kernel=kernel)
    assert reach(model.config) == wanted
    x = model.embed(ids()).detach().requires_grad_()
    stream = x
    for norm, layer in zip(model.norms, model.layers, strict=True):
        stream = stream + layer(norm(stream))
    (gradient,) = torch.autograd.grad(stream[:, -1].sum(), x)
    seen = gradient.abs().sum((0, 2)).flip(0) > 0
    assert seen.tolist() == [True] * wanted + [False] * (24 - wanted)
    assert f"sees {wanted} token" in str(model.report())


def test_dilation_begins_anew_before_it_passes_the_context():
    config = ModelConfig(vocab_size=11, n_layer=40, max_seq_len=24)
    assert dilations(config)[:7] == [1, 2, 4, 8, 16, 1, 2]
    assert dilations(ModelConfig(vocab_size=11, n_layer=2, max_seq_len=1)) == [1, 1]


@pytest.mark.parametrize("shape", KINDS)
def test_dropout_is_of_training_alone(shape):
    model = made(shape, dropout=0.5)
    assert torch.equal(model(ids()).logits, model(ids()).logits)
    model.train()
    assert not torch.equal(model(ids()).logits, model(ids()).logits)


@pytest.mark.parametrize(("shape", "tied"), [("lstm", False), ("lstm", True), ("conv", False), ("conv", True)])
def test_fits_a_sequence_that_needs_context(shape, tied):
    model = made(shape, zero_init=True, tie_embeddings=tied, d_model=16).train()
    assert (model.unembed.weight is model.embed.weight) == tied
    read = torch.tensor([[0, 1, 2, 0, 3, 4, 2, 5] * 3])  # what follows 2 depends on what came before it
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        loss = F.cross_entropy(model(read[:, :-1]).logits.flatten(0, 1)[3:], read[0, 4:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_skipgram_scores_every_neighbour():
    model = made("skipgram")
    assert not model(ids()).logits.any()  # as released, neighbours begin at zero
    nn.init.normal_(model.context.weight)
    out = model(ids()).logits
    assert out.shape == (2, 24, 11)
    torch.testing.assert_close(
        model.scores(ids(), ids(seed=4)[..., None])[..., 0], out.gather(2, ids(seed=4)[..., None])[..., 0]
    )
    assert model.supports == SHAPES["skipgram"].supports
    assert model.report().parameters == 2 * 11 * 8
    assert torch.equal(model.embedding_table(), model.centre.weight)
