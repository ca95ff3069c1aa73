"""The step that a CUDA graph repeats: the flat step's numbers, from a position that is a number on the device."""

from __future__ import annotations

import pytest
import torch

from llm_lab.decoding.cache import KVCache
from llm_lab.decoding.graphed import Placed
from llm_lab.models.stepwise import stepwise
from tests.models.test_stepwise import LIKE, make


@pytest.mark.parametrize("name", list(LIKE))
@torch.no_grad()
def test_reading_all_the_room_gives_what_reading_the_text_gives(name):
    model = make(**LIKE[name])
    ids = torch.randint(0, 40, (3, 20), generator=torch.Generator().manual_seed(1))
    step, plain, cache = stepwise(model), KVCache(model.config, 3), KVCache(model.config, 3)
    assert step is not None
    for one in (plain, cache):
        model(ids[:, :12], cache=one)
        one.truncate(5)  # what stands behind the end must not be read
    for i in range(5, 20):
        place = torch.tensor([i])
        placed = Placed(cache, place)
        found, wanted = step.at(ids[:, i : i + 1], place[None], placed, placed.mask), step(ids[:, i : i + 1], plain)
        torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.hidden, wanted.hidden, atol=1e-5, rtol=1e-5)
        cache.length += 1
        if i == 9:
            for one in (plain, cache):
                one.reorder(torch.tensor([2, 0, 0]))
            ids = ids[[2, 0, 0]]
