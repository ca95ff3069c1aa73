"""One more token of every row as a CUDA graph: a GPU is told once what a token consists of, and then only that the next is due.

A token is some hundred operations of a few microseconds each, which Python and torch take longer to issue than a GPU to carry out.
A graph repeats them with the same memory: so the position is a number on the device, keys and values are written where it says, and
all the room of the cache is read, with what is not written yet masked.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.decoding.cache import KVCache
from llm_lab.models.language_model import ModelOutput
from llm_lab.models.stepwise import Stepwise

STEADY = 4  # steps with one cache before a graph is made of it, which takes as long as some more


class Placed:
    """A cache as a graph sees it: what comes is written at `place`, a number on the device, and all room is given."""

    def __init__(self, cache: KVCache, place: Int[Tensor, " 1"]) -> None:
        self.cache, self.place = cache, place
        self.length, self.crossed = cache.length, cache.crossed

    def extend(
        self, layer: int, k: Float[Tensor, "B H 1 d"], v: Float[Tensor, "B H 1 d"]
    ) -> tuple[Float[Tensor, "B H S d"], Float[Tensor, "B H S d"]]:
        keys, values = self.cache.layers[layer]
        return keys.index_copy_(2, self.place, k), values.index_copy_(2, self.place, v)

    def mask(self, like: Tensor) -> Float[Tensor, "1 1 1 S"]:
        """What is added to the scores: −∞ where nothing is written yet."""
        keys, _ = self.cache.layers[0]
        later = torch.arange(keys.shape[2], device=keys.device) > self.place
        return torch.zeros_like(later, dtype=like.dtype).masked_fill(later, -torch.inf)[None, None, None]


class Graphed:
    """`step(ids, cache)` as the flat step's own, on a CUDA GPU."""

    def __init__(self, step: Stepwise) -> None:
        self.step = step
        self._held: Tensor | None = None
        self._steps = 0  # with what is held
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, input_ids: Int[Tensor, "R 1"], cache: KVCache) -> ModelOutput:
        if cache.held is not self._held:  # other rows, or elsewhere
            self._held, self._steps, self._graph = cache.held, 0, None
        self._steps += 1
        if self._steps <= STEADY:
            return self.step(input_ids, cache)
        if self._graph is None:
            self._ids, self._place = input_ids.clone(), torch.full((1,), cache.length, device=input_ids.device)
            self._capture(cache)
        assert self._graph is not None
        self._ids.copy_(input_ids)
        self._place.fill_(cache.length)
        self._graph.replay()
        cache.length += 1
        assert self._out.hidden is not None
        return ModelOutput(self._out.logits.clone(), self._out.hidden.clone())

    def _capture(self, cache: KVCache) -> None:
        placed = Placed(cache, self._place)
        beside, now = torch.cuda.Stream(), torch.cuda.current_stream()
        beside.wait_stream(now)
        with torch.cuda.stream(beside):  # libraries make what they need at the first call, which no graph may hold
            self.step.at(self._ids, self._place[None], placed, placed.mask)
        now.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on to use the GPU
            self._out = self.step.at(self._ids, self._place[None], placed, placed.mask)
        self._graph = graph
