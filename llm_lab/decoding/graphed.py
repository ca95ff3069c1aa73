"""One more token of every row as a CUDA graph: a GPU is told once what a token consists of, and then only that the next is due.

A token is some hundred operations of a few microseconds each, which Python and torch take longer to issue than a GPU to carry out.
A graph repeats them with the same memory: so the position is a number on the device, keys and values are written where it says, and
all the room of the cache is read, with what is not written yet masked.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab import machine
from llm_lab.decoding.cache import KVCache
from llm_lab.models.language_model import ModelOutput
from llm_lab.models.stepwise import Stepwise

WORTH = 32  # tokens to write, from which on a graph gains more than it takes to make
STEADY = 4  # steps with one cache before one is made: some strategies put another in its place at each step


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
        self._known: tuple[int, int] = 0, 0  # where the cache and the weights are that a graph would read
        self._steps = 0  # with those
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, input_ids: Int[Tensor, "R 1"], cache: KVCache) -> ModelOutput:
        assert cache.held is not None, "a prompt was read into it"
        now = cache.held.data_ptr(), self.step.model.embed.weight.data_ptr()
        if now != self._known:  # other rows, or moved to elsewhere
            self._known, self._steps, self._graph = now, 0, None
        self._steps += 1
        with torch.cuda.device(input_ids.device):
            if self._steps == STEADY:
                self._capture(input_ids, cache)
            if self._graph is None:
                return self.step(input_ids, cache)
            self._ids.copy_(input_ids)
            self._place.fill_(cache.length)
            self._graph.replay()
        cache.length += 1
        assert self._out.hidden is not None
        return ModelOutput(self._out.logits.clone(), self._out.hidden.clone())

    def _capture(self, input_ids: Int[Tensor, "R 1"], cache: KVCache) -> None:
        self._ids, self._place = input_ids.clone(), torch.full((1,), cache.length, device=input_ids.device)
        placed = Placed(cache, self._place)
        step = partial(self.step.at, self._ids, self._place[None], placed, placed.mask)
        beside, now = machine.side_stream(input_ids.device), torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            beside.wait_stream(now)
            with torch.cuda.stream(beside):  # libraries make what they need at the first call, which no graph may hold
                step()
            now.wait_stream(beside)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on to use the GPU
                self._out = step()
        except torch.OutOfMemoryError:  # it goes on without, since it has gone so far without
            return
        self._graph = graph
