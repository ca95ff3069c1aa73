"""One more position of a decoder whose past is in a cache, with its blocks as a flat list of operations.

The numbers are those of the modules' own forward. For a small model that spends more time on finding its way through modules,
sites and symbolic masks, none of which one position needs, than on computing: more than half of each token written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.models.attention import Attention, Cache
from llm_lab.models.decoder import Decoder
from llm_lab.models.language_model import LanguageModel, ModelOutput
from llm_lab.models.layers import MLP, FusedLinear, IntoStream, LayerNorm, RMSNorm
from llm_lab.models.products import prepared
from llm_lab.models.sites import taped
from llm_lab.models.stack import Block

Layer = Callable[[Tensor, Cache, Tensor | None, Tensor | None, Tensor | None], Tensor]


class Stepwise:
    """`step(ids, cache)` as `model(ids, cache=cache)`, for ids (R, 1). The weights are the model's own, not copies."""

    def __init__(self, model: Decoder) -> None:
        self.model = model
        blocks = cast("list[Block]", [model.blocks[place.layer % len(model.blocks)] for place in model.places])
        self.layers = [_layer(block, i) for i, block in enumerate(blocks)]
        self.norm = _norm(model.norm) if isinstance(model.norm, nn.RMSNorm | nn.LayerNorm) else model.norm

    def __call__(self, input_ids: Int[Tensor, "R 1"], cache: Cache) -> ModelOutput:
        return self.at(input_ids, self.model.positions(1, cache.length, None, input_ids.device), cache)

    def at(
        self,
        input_ids: Int[Tensor, "R 1"],
        ids: Int[Tensor, "1 1"],
        cache: Cache,
        mask: Callable[[Tensor], Float[Tensor, "1 1 1 S"]] | None = None,
    ) -> ModelOutput:
        """The step at position `ids`; `mask`, of what is like its argument, is added to the scores where not all that the cache
        gives may be read."""
        model = self.model
        x = model.embedded(input_ids, model.position, ids)[:, 0]
        masked = None if mask is None else mask(x)
        cos = sin = None
        if (angles := model.position.angles(ids)) is not None:
            # x · (cos, cos) + (x₂, x₁) · (−sin, sin) turns each pair, in three operations.
            cos, sin = torch.cat([angles[0]] * 2, dim=-1), torch.cat([-angles[1], angles[1]], dim=-1)
            cos, sin = cos.type_as(x), sin.type_as(x)
        for layer in self.layers:
            x = layer(x, cache, cos, sin, masked)
        hidden = self.norm(x[:, None])
        return ModelOutput(model.logits(hidden), hidden)


def stepwise(model: LanguageModel) -> Stepwise | None:
    """The model's steps; None where its own forward has to be used: it is of another make, its parts were replaced, or
    somebody listens to them."""
    if type(model) is not Decoder:
        return None
    c = model.config
    known = c.norm_place == "pre" and c.attention == "full" and c.n_expert is None and not model.position.biased
    if not known or not all(_plain(module) for module in model.modules()):
        return None
    kinds = {p.dtype for p in model.parameters()}
    alike = len(kinds) == 1 and kinds < {torch.float32, torch.bfloat16}
    return Stepwise(model) if alike and all(map(_ours, model.blocks)) else None


def usable() -> bool:
    """Whether nobody reads or replaces activations just now."""
    every = nn.modules.module  # hooks on all modules that there are
    return not (taped() or every._global_forward_hooks or every._global_forward_pre_hooks)


def _plain(module: nn.Module) -> bool:
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _ours(block: nn.Module) -> bool:
    """Whether its parts are those that it was built with: pruning, adapters and quantisation put others in their place."""
    if type(block) is not Block or type(block.attn) is not Attention or not isinstance(block.mlp, MLP):
        return False
    maps = (block.attn.qkv, block.attn.out, block.mlp.up, block.mlp.down)
    norms = (block.attn_norm, block.mlp_norm)
    return all(type(one) in (FusedLinear, IntoStream) for one in maps) and all(
        type(one) in (RMSNorm, LayerNorm) for one in norms
    )


def _norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(norm, nn.RMSNorm):
        return _rms(norm.normalized_shape[0], norm.eps, norm.weight, norm.weight.device)
    assert isinstance(norm, nn.LayerNorm)
    shape = list(norm.normalized_shape)
    return partial(F.layer_norm, normalized_shape=shape, weight=norm.weight, bias=norm.bias, eps=norm.eps)


def _rms(n: int, eps: float | None, weight: Tensor | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """x / √(mean x² + ε), times the gain. On a CPU torch's own is six operations one after the other, 8 µs for one row; these are
    five of 1 µs, since that root is the hypotenuse of ‖x‖ / √n and √ε."""
    if eps is None or device.type != "cpu":
        return partial(F.rms_norm, normalized_shape=(n,), weight=weight, eps=eps)
    least, share = torch.tensor(eps**0.5), n**-0.5

    def run(x: Tensor) -> Tensor:
        x = x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True) * share, least)
        return x if weight is None else x * weight

    return run


def _layer(block: Block, index: int) -> Layer:
    attention, mlp = block.attn, cast(MLP, block.mlp)
    n, m, d = attention.n_head, attention.n_kv_head, attention.d_head
    into, out, up, down = (prepared(one.weight, one.bias) for one in (attention.qkv, attention.out, mlp.up, mlp.down))
    before_attention, before_mlp = _norm(block.attn_norm), _norm(block.mlp_norm)
    q_norm, k_norm = attention.q_norm, attention.k_norm
    both = (
        None if q_norm is None or q_norm.weight is not None else _rms(d, q_norm.eps, None, attention.out.weight.device)
    )
    scale, bend, gated = attention.scale, mlp.bend, mlp.gated

    def run(
        x: Float[Tensor, "R D"], cache: Cache, cos: Tensor | None, sin: Tensor | None, mask: Tensor | None
    ) -> Float[Tensor, "R D"]:
        heads = into(before_attention(x)).view(len(x), n + 2 * m, 1, d)
        qk = heads[:, : n + m]
        if q_norm is not None and k_norm is not None:
            qk = both(qk) if both is not None else torch.cat([q_norm(qk[:, :n]), k_norm(qk[:, n:])], dim=1)
        if cos is not None and sin is not None:
            qk = torch.addcmul(qk * cos, qk.roll(d // 2, -1), sin)
        k, v = cache.extend(index, qk[:, n:], heads[:, n + m :])
        if mask is None:
            z = F.scaled_dot_product_attention(qk[:, :n], k, v, scale=scale, enable_gqa=n != m)
        else:  # heads of a group are so many queries of one: no kernel has both a mask and groups
            z = F.scaled_dot_product_attention(qk[:, :n].reshape(len(x), m, n // m, d), k, v, mask, scale=scale)
        x = x + out(z.reshape(len(x), n * d))
        inner = up(before_mlp(x))
        if gated:
            gate, inner = inner.chunk(2, dim=-1)
            return x + down(bend(gate) * inner)
        return x + down(bend(inner))

    return run
