"""Losses are those that transformers computes for the same weights and the same batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.data.batch import IGNORE
from llm_lab.objectives.make import make
from tests.models.test_hf import published

transformers = pytest.importorskip("transformers", reason="transformers is the reference")

EXAMPLES = [np.random.default_rng(i).integers(7, 33, 24) for i in range(4)]


def both(name, objective, tmp_path):
    """transformers' model, ours from its folder, and the objective attached to it."""
    theirs = published(name, tmp_path)
    lm = lab.load(f"hf:{tmp_path}")
    one = make([objective], {}, lm.tokenizer)
    trainee = one.attach(lm.model)
    trainee.train(False)
    return theirs, one, trainee


def agree(ours, theirs):
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5, abs=1e-5)


def test_causal(tmp_path):
    theirs, one, trainee = both("llama", "clm", tmp_path)
    loss, _ = one.loss(trainee, one.collate(EXAMPLES, np.random.default_rng(0)))
    ids = torch.from_numpy(np.stack(EXAMPLES))
    agree(loss, theirs(ids, labels=ids).loss)


def test_masked(tmp_path):
    theirs, one, trainee = both("roberta", "mlm", tmp_path)
    batch = one.collate(EXAMPLES, np.random.default_rng(0))
    loss, _ = one.loss(trainee, batch)
    agree(loss, theirs(batch.input_ids, labels=batch.targets).loss)


@pytest.mark.parametrize(
    ("name", "objective", "head"), [("bert-both", "mlm_nsp", "nsp"), ("albert-both", "mlm_sop", "sop")]
)
def test_masked_and_pairs(name, objective, head, tmp_path):
    theirs, one, trainee = both(name, objective, tmp_path)
    given = theirs.cls.seq_relationship if head == "nsp" else theirs.sop_classifier.classifier
    trainee.extras[head].load_state_dict(given.state_dict())
    batch = one.collate(EXAMPLES, np.random.default_rng(0))
    loss, _ = one.loss(trainee, batch)
    keep = batch.attend.keep
    said = {"nsp": "next_sentence_label", "sop": "sentence_order_label"}[head]
    found = theirs(
        batch.input_ids,
        attention_mask=None if keep is None else keep.long(),
        token_type_ids=batch.token_type_ids,
        labels=batch.targets,
        **{said: batch.labels},
    )
    agree(loss, found.loss)


def test_source_to_target(tmp_path):
    theirs, one, trainee = both("t5", "prefix_lm", tmp_path)
    batch = one.collate(EXAMPLES, np.random.default_rng(0))
    loss, _ = one.loss(trainee, batch)
    assert bool((batch.targets == IGNORE).any())  # targets of several lengths
    found = theirs(
        batch.input_ids,
        attention_mask=batch.attend.keep.long(),
        decoder_input_ids=batch.decoder_ids,
        labels=batch.targets,
    )
    agree(loss, found.loss)


def test_balance_of_experts(tmp_path):
    """The whole loss of a Mixtral: cross-entropy and the weighted balance of its routers (here over one layer)."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    torch.manual_seed(0)
    model = lab.build(vocab_size=40, n_layer=1, n_head=2, d_model=16, max_seq_len=32, n_expert=4, router_loss=0.3)
    tokenizer = lab.tokenizer(["abcdefgh"], "char")
    one = make(["clm"], {}, tokenizer)
    trainee = one.attach(model)
    batch = one.collate(EXAMPLES, np.random.default_rng(0))
    loss, parts = one.loss(trainee, batch)
    router = lab.record(model, batch.input_ids, "blocks.0.mlp.router")["blocks.0.mlp.router"]
    want = load_balancing_loss_func((router.flatten(0, 1).log(),), 4, 2)
    agree(parts["balance"], want)
    agree(loss, parts["clm"] + 0.3 * want)
