"""A part of one's own is one class or function and one line in a table: nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.options import CORPORA
from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.models.options import POSITIONS
from llm_lab.models.positions import Position
from llm_lab.objectives.objective import Objective, rectangle
from llm_lab.objectives.options import OBJECTIVES, Plain
from llm_lab.registry import Entry
from tests.small import SIZES, TEXT


@pytest.fixture
def tables(monkeypatch):
    """What a test adds to a table is gone after it."""
    for table in (POSITIONS, OBJECTIVES, CORPORA):
        monkeypatch.setattr(table, "_entries", dict(table._entries))


class Ramp(Position):
    """Adds the position itself, divided by the context, to every embedding."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = 1 / config.max_seq_len

    def embed(self, x, ids):
        return x + self.scale * ids[..., None]


class Backwards(Objective):
    """Every position predicts the token before it."""

    parts = ("backwards",)
    covers = True

    def take(self, block):
        return block + 1, block

    def collate(self, examples, rng, turn=None):
        reversed_ = [example[::-1] for example in examples]
        ids = rectangle([row[:-1] for row in reversed_], 0)
        return Batch(ids, rectangle([row[1:] for row in reversed_], IGNORE), Attend(causal=True))


def squares():
    return Corpus("squares", "the squares of the numbers", [" ".join(str(i * i) for i in range(900))])


def test_a_position(tables):
    POSITIONS.add(Entry("ramp", Ramp, "a straight line, added to the embedding"))
    lm = lab.pretrain([TEXT], name="x", position="ramp", steps=5, display=False, **SIZES)
    assert np.isfinite(lm.report.final["loss"])
    assert isinstance(lab.load("x").model.position, Ramp)
    assert lab.build(position="ramp").report().parts


def test_an_objective(tables):
    OBJECTIVES.add(Entry("backwards", Backwards, "predict each token before", Plain, frozenset({"next_token"})))
    lm = lab.pretrain([TEXT], name="x", objective="backwards", steps=40, display=False, **SIZES)
    assert lm.report.train[-1][2] < 0.8 * lm.report.train[0][2]
    mixed = lab.pretrain([TEXT], name="y", objective="backwards,clm", mix="turns", steps=4, display=False, **SIZES)
    assert set(mixed.run.history.columns) >= {"train_backwards", "train_clm"}
    assert lab.evaluate(lab.load("x"))["bits_per_byte"] > 0


def test_a_corpus(tables):
    CORPORA.add(Entry("squares", squares, "the squares of the numbers"))
    assert lab.corpus("squares").documents[0].startswith("0 1 4 9")
    assert lab.pretrain("squares", name="x", steps=3, display=False, **SIZES).report.facts[2].startswith("squares")


def test_their_names_reach_help_and_errors(tables):
    POSITIONS.add(Entry("ramp", Ramp, "a straight line"))
    with pytest.raises(lab.LabError, match="did you mean 'ramp'"):
        lab.build(position="rmap")
    assert torch.is_tensor(lab.build(position="ramp", vocab_size=9)(torch.zeros(1, 2, dtype=torch.long)).logits)
