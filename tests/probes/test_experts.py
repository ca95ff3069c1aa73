"""The probe of experts reads what the routers did, in every shape that has some."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.data.batch import Batch
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.experts import experts
from llm_lab.probes.options import PROBES
from llm_lab.results import Piece
from tests.small import train

IDS = torch.tensor([[3, 1, 4, 1, 5, 2, 6]])
BATCH = Batch(IDS)
PIECES = [Piece(f"t{i}", int(i)) for i in IDS[0]]
SIZES = dict(vocab_size=7, n_layer=3, n_head=2, d_model=16, max_seq_len=16, zero_init=False)


def model(shape: str = "decoder", **changed):
    torch.manual_seed(0)
    config = ModelConfig(**{**SIZES, "shape": shape, "n_expert": 5, "n_active": 2, **changed})
    return SHAPES.load(shape)(config).eval()


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder", "permutation"])
def test_it_is_what_the_routers_say(shape):
    made = model(shape)
    batch = Batch(IDS, decoder_ids=IDS[:, :2]) if shape == "encoder_decoder" else BATCH
    found = experts(made, batch, PIECES, "moe")
    assert found.probs.shape == (3, 7, 5)
    assert found.probs.dtype == np.float16
    assert found.chosen.shape == (3, 7, 2)
    np.testing.assert_allclose(found.numpy().sum(-1), 1, atol=2e-3)
    blocks = (made.encoder if shape == "encoder_decoder" else made).blocks
    heard = []
    for block in blocks:
        block.mlp.register_forward_hook(lambda m, args, out: heard.append(m.route(args[0][0])))
    with torch.no_grad():
        made(**batch.inputs())
    for probs, chosen, wanted in zip(found.probs, found.chosen, heard, strict=True):
        wanted = wanted[: IDS.shape[1]]
        np.testing.assert_allclose(probs, wanted.numpy(), atol=1e-3)
        assert np.array_equal(chosen, wanted.topk(2).indices.numpy())


def test_load_and_table():
    found = experts(model(), BATCH, PIECES, "moe")
    np.testing.assert_allclose(found.load.sum(axis=1), 1)
    assert found.load[1, 3] == (found.chosen[1] == 3).sum() / 14
    frame = found.to_pandas()
    assert len(frame) == 3 * 7 * 2
    np.testing.assert_allclose(frame.groupby(["layer", "position"]).weight.sum(), 1, atol=1e-6)
    assert torch.equal(found.tensor, torch.from_numpy(found.numpy()))


def test_a_model_without_experts_is_told_what_would_do():
    with pytest.raises(lab.LabError, match="--n_expert 8 would do"):
        experts(model(n_expert=None), BATCH, PIECES, "plain")


def test_it_is_in_the_table():
    assert PROBES.load("experts") is experts


def test_the_verb_gives_it():
    lm = train(n_expert=3, n_active=1)
    found = lab.probe(lm, "green bottles", kind="experts")
    assert found.probs.shape == (2, len(found.pieces), 3)
    assert found.code.endswith("kind='experts')")
    assert "1 take a token" in str(found)
    with pytest.raises(lab.LabError, match="--n_expert 8 would do"):
        lab.probe(train("plain", steps=1), "green bottles", kind="experts")
