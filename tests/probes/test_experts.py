"""The probe of experts reads what the routers did, in every shape that has some."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.experts import experts
from llm_lab.probes.options import PROBES, ExpertsOptions
from llm_lab.probes.reading import Reading
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as letters_of
from tests.small import train

TOKENIZER = letters_of(["abcdefg"], "char")
TEXT = "dbebfcg"
IDS = torch.tensor([TOKENIZER.encode(TEXT)])
SIZES = dict(vocab_size=TOKENIZER.vocab_size, n_layer=3, n_head=2, d_model=16, max_seq_len=16, zero_init=False)


def model(shape: str = "decoder", **changed):
    torch.manual_seed(0)
    config = ModelConfig(**{**SIZES, "shape": shape, "n_expert": 5, "n_active": 2, **changed})
    return SHAPES.load(shape)(config).eval()


def look(made):
    return experts(Reading((LM("moe", made, TOKENIZER),), (TEXT,)), ExpertsOptions())


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder", "permutation"])
def test_it_is_what_the_routers_say(shape):
    made = model(shape)
    batch = LM("moe", made, TOKENIZER).batch(IDS)
    found = look(made)
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
    found = look(model())
    np.testing.assert_allclose(found.load.sum(axis=1), 1)
    assert found.load[1, 3] == (found.chosen[1] == 3).sum() / 14
    frame = found.to_pandas()
    assert len(frame) == 3 * 7 * 2
    np.testing.assert_allclose(frame.groupby(["layer", "position"]).weight.sum(), 1, atol=1e-6)
    assert torch.equal(found.tensor, torch.from_numpy(found.numpy()))


def test_a_model_without_experts_is_told_what_would_do():
    with pytest.raises(lab.LabError, match="--n_expert 8 would do"):
        look(model(n_expert=None))


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
