"""What a model is fed: a batch of ids, and a symbolic description of who may attend to whom.

Causality belongs to the batch, not to the weights: `Attend` says it in words, and `lower` turns the words into the
fast path of fused attention where there is one, and into a dense mask where there is not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORE = -100  # a target that no loss counts


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. To a GPU it goes through pinned memory: what is copied from elsewhere waits until the GPU has done
    all that it was told before."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, eq=False)
class Attend:
    """Which key positions each query position may read. Everything stated must hold at once.

    causal     a position reads itself and what is before it
    window     … only positions less than `window` away, itself included
    prefix     (B,) the first so many positions are read by all, whatever `causal` says
    segments   (B, T) only positions of the same number read each other
    order      (B, T) in place of left-to-right: a position reads those of a lower or the same rank
    keep       (B, T) False marks padding, which nobody reads
    """

    causal: bool = True
    window: int | None = None
    prefix: Int[Tensor, " B"] | None = None
    segments: Int[Tensor, "B T"] | None = None
    order: Int[Tensor, "B T"] | None = None
    keep: Bool[Tensor, "B T"] | None = None

    def to(self, device: torch.device) -> Attend:
        found: dict[str, Any] = {
            f.name: moved(v, device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **found)


def lower(
    attend: Attend, n_query: int, n_key: int, device: torch.device
) -> tuple[bool, Bool[Tensor, "b 1 q k"] | None]:
    """`(is_causal, mask)` for `scaled_dot_product_attention`; the mask is True where a query may read a key.

    The queries are the last `n_query` of the `n_key` positions (the others are in a cache). No mask is made where
    none is needed: one query that reads everything, or plain causality over the whole sequence.
    """
    plain = attend.prefix is None and attend.segments is None and attend.order is None and attend.keep is None
    narrow = attend.window is not None and attend.window < n_key
    if plain and not narrow:
        if not attend.causal or n_query == 1:
            return False, None
        if n_query == n_key:
            return True, None
    key = torch.arange(n_key, device=device)
    query = key[n_key - n_query :, None]
    mask = torch.ones(1, n_query, n_key, dtype=torch.bool, device=device)
    if attend.order is not None:
        mask = mask & (attend.order[:, None, :] <= attend.order[:, n_key - n_query :, None])
    elif attend.causal:
        mask = mask & (key <= query)
    if attend.window is not None:
        near = (key - query).abs() if attend.order is not None or not attend.causal else query - key
        mask = mask & (near < attend.window)
    if attend.prefix is not None:
        mask = mask | (key[None, None, :] < attend.prefix[:, None, None])
    if attend.segments is not None:
        mask = mask & (attend.segments[:, None, :] == attend.segments[:, n_key - n_query :, None])
    if attend.keep is not None:
        # Padding reads itself: a row without any key would be NaN, and nobody reads the row.
        mask = (mask & attend.keep[:, None, :]) | (key == query)
    return False, mask[:, None]


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's data. `targets` stand at the position whose logits predict them; −100 is not counted.

    Of an encoder and a decoder, `input_ids` are what the encoder reads, `decoder_ids` what the decoder does, and
    `targets` line up with the latter.
    """

    input_ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B U"] | None = None
    attend: Attend | None = None  # None: as the model's shape reads where nobody says otherwise
    position_ids: Int[Tensor, "B T"] | None = None
    token_type_ids: Int[Tensor, "B T"] | None = None
    decoder_ids: Int[Tensor, "B U"] | None = None
    labels: Int[Tensor, " B"] | None = None  # of the whole sequence
    draws: Float[Tensor, "B T"] | None = None  # uniform in [0, 1), for what is drawn inside a step
    negatives: Int[Tensor, "B U N"] | None = None  # wrong answers beside each target

    def to(self, device: torch.device) -> Batch:
        found: dict[str, Any] = {
            f.name: v.to(device) if isinstance(v, Attend) else moved(v, device)
            for f in fields(self)
            if (v := getattr(self, f.name)) is not None
        }
        return replace(self, **found)

    def inputs(self) -> dict[str, Any]:
        """The fields that a model's forward takes, those that are there."""
        names = ("input_ids", "attend", "position_ids", "token_type_ids", "decoder_ids")
        return {name: value for name in names if (value := getattr(self, name)) is not None}
