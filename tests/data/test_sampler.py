"""The order in which a text is read."""

from __future__ import annotations

import numpy as np
import pytest

from llm_lab.data import sampler
from llm_lab.data.arrays import Tokens
from llm_lab.data.sampler import BlockSampler, Scattered


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 4097, 65536])
def test_an_order_that_is_computed_has_everything_once(n):
    order = Scattered(np.random.default_rng(1), n)
    assert sorted(order[i] for i in range(n)) == list(range(n))
    if n > 100:
        other = Scattered(np.random.default_rng(2), n)
        assert [order[i] for i in range(20)] != [other[i] for i in range(20)]


def test_an_order_that_is_computed_is_as_random_as_one_that_is_drawn():
    n = 20_000
    places = np.array([Scattered(np.random.default_rng(3), n)[i] for i in range(n)])
    # neighbours are as far apart as two that are drawn: a third of all, in the mean
    assert abs(np.abs(np.diff(places)).mean() / n - 1 / 3) < 0.01
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(places, np.arange(n))[0, 1]) < 0.03


def test_a_long_text_is_read_whole_each_epoch(monkeypatch):
    monkeypatch.setattr(sampler, "HELD", 10)
    ids = np.arange(330, dtype=np.uint16)
    made = BlockSampler(Tokens(ids, np.array([0, 330]), 330, 330), 4, 3, seed=0)
    for epoch in range(2):
        found = made.examples(epoch * made.n_blocks, made.n_blocks)
        assert len({int(block[0]) for block in found}) == made.n_blocks > 100
