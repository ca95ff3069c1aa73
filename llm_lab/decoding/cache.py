"""Keys and values of what a model has read, in memory taken once for all that it will read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.models.ensemble import Ensemble
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import ModelConfig

ALIGNED = 8  # positions: room in multiples of it, as a GPU's kernels want masks to be


class KVCache:
    """Preallocated (layers, rows, kv heads, positions, d_head). Rows can be reordered and the end cut off.

    `crossed` are keys and values of an encoder's output, by layer, which stay as they are while the text grows.
    """

    def __init__(self, config: ModelConfig, rows: int, positions: int | None = None) -> None:
        """Room for so many `positions`, or for the whole context; of the kind of the first keys that come."""
        layers = config.decoder_layers if config.shape == "encoder_decoder" else config.n_layer
        room = -(-(positions or config.max_seq_len) // ALIGNED) * ALIGNED
        self._shape = (2, layers, rows, config.kv_heads, room, config.head_dim)
        self.held: Tensor | None = None
        self.layers: list[tuple[Tensor, Tensor]] = []  # views of it, keys and values, by layer
        self._last = layers - 1
        self.length = 0
        self.crossed: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(
        self, layer: int, k: Float[Tensor, "B H T d"], v: Float[Tensor, "B H T d"]
    ) -> tuple[Float[Tensor, "B H S d"], Float[Tensor, "B H S d"]]:
        if self.held is None:
            with torch.inference_mode(False):  # it is written to by steps within that mode, and by others
                self._hold(k.new_zeros(self._shape))
        end = self.length + k.shape[2]
        keys, values = self.layers[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        if layer == self._last:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def _hold(self, held: Tensor) -> None:
        self.held = held
        self.layers = list(zip(held[0].unbind(), held[1].unbind(), strict=True))

    def reorder(self, parents: Int[Tensor, " R"]) -> None:
        """Row i becomes what row `parents[i]` was; more rows than before are allowed."""
        if self.held is not None:
            found = self.held.index_select(2, parents)  # three times as fast as indexing
            if found.is_cuda and found.shape == self.held.shape:
                self.held.copy_(found)  # a graph of the step knows this memory
            else:
                self._hold(found)
        self.crossed = {layer: (k[parents], v[parents]) for layer, (k, v) in self.crossed.items()}

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on."""
        self.length = min(self.length, length)


class Caches:
    """A cache for each member of an ensemble; they hold the same positions."""

    def __init__(self, members: Sequence[KVCache | Caches]) -> None:
        self.members = list(members)

    @property
    def length(self) -> int:
        return self.members[0].length

    def reorder(self, parents: Int[Tensor, " R"]) -> None:
        for one in self.members:
            one.reorder(parents)

    def truncate(self, length: int) -> None:
        for one in self.members:
            one.truncate(length)


def new_cache(model: LanguageModel, rows: int, positions: int | None = None) -> KVCache | Caches:
    """An empty cache for what a model will read: of an ensemble, one for each member."""
    if isinstance(model, Ensemble):
        return Caches([new_cache(one, rows, positions) for one in model.members])
    assert model.config is not None, "a model with a cache is one of ours"
    return KVCache(model.config, rows, positions)
