"""What a head reads of each head before it: by path patching, or from the weights of both alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import ModelConfig
from llm_lab.models.sites import Replacement
from llm_lab.probes.contrast import Contrast, contrast, growing, reading_prefix, run
from llm_lab.probes.options import PathsOptions
from llm_lab.probes.patching import Plan, measured
from llm_lab.probes.reading import Reading, check_number
from llm_lab.results import Heatmap, Panel

INPUTS = {"q": "queries", "k": "keys", "v": "values"}


def paths(reading: Reading, options: PathsOptions) -> Iterator[Heatmap]:
    """How much of a head's work rests on each head before it.

    With two texts: the direct path from each earlier head to the queries, keys and values of one head is patched (Wang et
    al. 2022, §3.1; Goldowsky-Dill et al. 2023). Without any: the composition scores of all pairs of heads (Elhage et
    al. 2021, "Observations about attention heads").
    """
    config = reading.model.config
    assert config is not None, "a model with sites is one of ours"
    if len(reading.texts) == 1:
        raise BadValue(
            "text: 1 text was given, and paths takes two, a clean and a corrupted one, or none: then it compares the weights"
        )
    check_number("layer", options.layer, config.n_layer)
    check_number("head", options.head, config.n_head)
    if config.n_layer < 2:
        raise BadValue(f"layer: {reading.name} has one, and a path leads from a head to a later one; two would do")
    if options.layer == 0:
        raise BadValue("layer: 0 has no head before it; use a later one, for example --layer 1")
    if not reading.texts:
        yield _composition(reading, options, config)
        return
    compared = contrast(reading, options)
    layer, head = _receiver(compared, options, config)
    values = np.full((3, layer, config.n_head), np.nan, np.float32)
    result = _map(compared, layer, head, values, config)
    yield from growing(result, _followed(compared, layer, head, values, config), result.notes.append)


# --- by patching ----------------------------------------------------------------------------------------------------


def _followed(compared: Contrast, layer: int, head: int, values: np.ndarray, config: ModelConfig) -> Iterator[None]:
    """Fill in the map, one earlier layer after the other, its heads in one pass."""
    blocks = [f"{compared.prefix}blocks.{i}" for i in range(layer)]
    own = {name: f"{compared.prefix}blocks.{layer}.attn.{name}" for name in INPUTS}
    of_group = {"q": head, "k": head // (config.n_head // config.kv_heads)}
    of_group["v"] = of_group["k"]
    parts = [f"{block}.{part}" for block in blocks for part in ("attn.z", "attn.out", "mlp.out")]
    base = compared.read(parts, compared.base)
    source = compared.read([f"{block}.attn.z" for block in blocks], compared.source)
    for i, block in enumerate(blocks):
        # Everything else that writes into the stream writes what it wrote: the direct path alone is left.
        kept = {site: _held(base[site]) for site in parts if site.endswith("out") and site != f"{block}.attn.out"}
        for heads in torch.arange(config.n_head, device=compared.model.device).split(compared.rows):
            each = torch.arange(config.n_head, device=heads.device) == heads[:, None]
            z = torch.where(each[:, :, None, None], source[f"{block}.attn.z"], base[f"{block}.attn.z"])  # (R, H, T, d)
            held = {**kept, f"{block}.attn.z": _held(z)}
            received = run(compared.lm, compared.base, len(heads), held, list(own.values()))[1]
            for j, (name, site) in enumerate(own.items()):
                metric = compared.measure(compared.run(len(heads), {site: _put(received[site], of_group[name])}))
                values[j, i, heads.cpu().numpy()] = compared.share(metric).float().cpu().numpy()
        yield


def _held(own: Tensor) -> Replacement:
    return lambda x: own.expand_as(x)


def _put(new: Tensor, head: int) -> Replacement:
    """One head of the site is new."""

    def put(x: Tensor) -> Tensor:
        x[:, head] = new[:, head]
        return x

    return put


def _receiver(compared: Contrast, options: PathsOptions, config: ModelConfig) -> tuple[int, int]:
    """The head that is asked for; where it is not, the one that alone makes the largest difference when patched."""
    layers = range(1, config.n_layer) if options.layer is None else [options.layer]
    if len(layers) == 1 and options.head is not None:
        return layers[0], options.head
    effects = np.abs(measured(Plan(compared, "attn.z", list(layers), "head", config.n_head)))
    if options.head is not None:
        return layers[int(effects[:, options.head].argmax())], options.head
    best = int(effects.argmax())
    return layers[best // config.n_head], best % config.n_head


def _map(compared: Contrast, layer: int, head: int, values: np.ndarray, config: ModelConfig) -> Heatmap:
    rows, heads = [str(i) for i in range(layer)], [str(i) for i in range(config.n_head)]
    source, base = ("corrupted", "clean") if compared.noising else ("clean", "corrupted")
    group = config.n_head // config.kv_heads
    notes = (
        [f"keys and values are shared by the {group} heads of a group, and patched for all of them"]
        if group > 1
        else []
    )
    return Heatmap(
        name=compared.lm.name,
        kind="paths",
        facts=[f"to head {head} of layer {layer}", "noising" if compared.noising else "denoising"],
        panels=[Panel(values[j], rows, heads, f"through its {name}") for j, name in enumerate(INPUTS.values())],
        quantity=compared.towards,
        axes=("layer", "head"),
        signed=True,
        figures=list(compared.facts),
        caption=f"Each cell: what an earlier head writes is taken from the {source} run, and reaches only this head's queries, keys or values, by the stream alone; 0 leaves the {base} run's {compared.quantity}, 1 gives the {source} run's.",
        notes=notes,
    )


# --- from the weights -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's heads in float64, with the gains of the norms before and after them: q, k and v (H, d, D), o (H, D, d)."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor


def weights(model: LanguageModel, layer: int) -> Weights:
    """The weights of a layer's heads as the stream meets them. BadValue where norms stand in the stream itself."""
    config = model.config
    assert config is not None, "a model with sites is one of ours"
    if config.norm_place == "post":
        raise BadValue(
            "text: without texts the weights of heads are compared, and here a norm stands in the stream between them (--norm_place post); give two, for path patching"
        )
    stack: Any = getattr(model, "encoder", model)
    block = stack.blocks[layer % len(stack.blocks)]
    attention, d = block.attn, config.head_dim
    q, k, v = (
        _gained(part.detach().double(), block.attn_norm).unflatten(0, (-1, d))
        for part in attention.qkv.weight.split(attention.qkv.splits)
    )
    q, k = (
        x if norm is None or norm.weight is None else x * norm.weight.detach().double()[:, None]
        for x, norm in ((q, attention.q_norm), (k, attention.k_norm))
    )
    out = attention.out.weight.detach().double()
    if config.norm_place == "sandwich":
        out = _gained(out.T, block.after["attn"]).T
    o = out.unflatten(1, (-1, d)).transpose(0, 1)
    repeat = config.n_head // config.kv_heads
    k, v = k.repeat_interleave(repeat, dim=0), v.repeat_interleave(repeat, dim=0)
    return Weights(*(x.cpu() for x in (q, k, v, o)))


def _gained(weight: Float[Tensor, "R D"], norm: nn.Module) -> Float[Tensor, "R D"]:
    """A map of what a norm gives as one of what it takes, but for the division by the size of each vector."""
    gain = getattr(norm, "weight", None)
    if gain is not None:
        weight = weight * gain.detach().double()
    return weight - weight.mean(dim=1, keepdim=True) if isinstance(norm, nn.LayerNorm) else weight


def composition(earlier: Weights, later: Weights) -> Float[Tensor, "3 H G"]:
    """‖W₂ W₁‖ / (‖W₂‖ ‖W₁‖), Frobenius norms, of each head of an earlier layer and each of a later one: W₁ is W_OV of the
    earlier; W₂ is W_QKᵀ (Q), W_QK (K) and W_OV (V) of the later, with W_QK = W_Qᵀ W_K and W_OV = W_O W_V. 0 to 1."""
    o, v = earlier.o, earlier.v
    inner = v @ v.mT  # of d × d matrices only: ‖A M B‖² = tr(AᵀA M BBᵀ Mᵀ)
    ov = _norm(o.mT @ o, torch.eye(o.shape[-1], dtype=o.dtype), inner)  # (H,)
    found = []
    for left, right in ((later.k.mT, later.q), (later.q.mT, later.k), (later.o, later.v)):
        outer = left.mT @ left  # (G, d, d)
        between = right[None] @ o[:, None]  # (H, G, d, d)
        whole = _norm(outer, between, inner[:, None])
        alone = _norm(outer, torch.eye(o.shape[-1], dtype=o.dtype), right @ right.mT)
        found.append(whole / (alone * ov[:, None]).clamp_min(1e-300))
    return torch.stack(found)


def _norm(outer: Tensor, between: Tensor, inner: Tensor) -> Tensor:
    """√tr(outer · between · inner · betweenᵀ)."""
    return ((outer @ between @ inner) * between).sum(dim=(-2, -1)).clamp_min(0).sqrt()


def random_composition(d_model: int, d_head: int, seed: int) -> float:
    """The mean score of heads whose weights are drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> Weights:
        q, k, v = (torch.randn(4, d_head, d_model, generator=generator, dtype=torch.float64) for _ in range(3))
        return Weights(q, k, v, torch.randn(4, d_model, d_head, generator=generator, dtype=torch.float64))

    return float(composition(drawn(), drawn()).mean())


def _composition(reading: Reading, options: PathsOptions, config: ModelConfig) -> Heatmap:
    layers = [weights(reading.model, i) for i in range(config.n_layer)]
    n, H = config.n_layer, config.n_head
    scores = torch.full((3, n, H, n, H), torch.nan, dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1, n):
            scores[:, i, :, j] = composition(layers[i], layers[j])
    chance = random_composition(config.d_model, config.head_dim, options.seed)
    above = (scores - chance).float().numpy()
    names = [f"{i}.{h}" for i in range(n) for h in range(H)]
    facts, axes = ["weights"], ("earlier head", "later head")
    if options.layer is not None and options.head is not None:
        above, facts, axes = above[:, : options.layer, :, options.layer, options.head], [
            *facts, f"to head {options.head} of layer {options.layer}",
        ], ("layer", "head")  # fmt: skip
        rows, columns = [str(i) for i in range(options.layer)], [str(h) for h in range(H)]
    else:
        chosen = [
            (j, h) for j in range(1, n) for h in range(H) if options.layer in (None, j) and options.head in (None, h)
        ]
        rows, columns = names[: (n - 1) * H], [f"{j}.{h}" for j, h in chosen]
        above = np.stack([above[:, : n - 1, :, j, h].reshape(3, -1) for j, h in chosen], axis=-1)
    notes = []
    if reading_prefix(reading.model):
        notes.append("the heads are the encoder's")
    if any(isinstance(m, nn.LayerNorm | nn.RMSNorm) for m in reading.model.modules()):
        notes.append("the norms' gains are in the weights; the division by the size of each vector is not")
    if config.position == "rotary":
        notes.append("queries and keys are compared as they are at distance 0, before they are turned")
    if config.bias:
        notes.append("biases are left out")
    return Heatmap(
        name=reading.name,
        kind="paths",
        facts=facts,
        panels=[Panel(above[i], rows, columns, f"{name}-composition") for i, name in enumerate(("Q", "K", "V"))],
        quantity="composition score above that of random weights",
        axes=axes,
        signed=True,
        figures=[("score of random weights", f"{chance:.4f}")],
        caption="Each cell: how much of what the earlier head writes the later one's queries (Q), keys (K) or values (V) read, ‖W₂W₁‖ / (‖W₂‖‖W₁‖) by the Frobenius norm, less what random weights of these sizes have.",
        notes=notes,
    )
