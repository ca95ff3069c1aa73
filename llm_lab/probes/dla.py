"""Direct logit attribution: one logit as the sum of what every part of the model adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from llm_lab.data.batch import Batch
from llm_lab.errors import DIVERGED, BadValue
from llm_lab.models.attention import Heads
from llm_lab.models.heads import Linear
from llm_lab.models.language_model import evaluating
from llm_lab.models.stack import Block
from llm_lab.probes.answers import answer, ask
from llm_lab.probes.options import DLAOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.probes.stream import Stream, stream
from llm_lab.results import LogitAttribution, Panel

_OTHERS = ("token embedding", "query vector")  # shown even where they add nothing
Vector = Float[Tensor, " D"]


@dataclass(eq=False)
class Parts:
    """What each part adds to one logit (or to the difference of two)."""

    heads: np.ndarray  # (L, H) float64
    cross: np.ndarray | None  # (L, H), where the stack reads another
    mlps: np.ndarray  # (L,)
    others: dict[str, float] = field(default_factory=dict)
    logit: float = 0.0  # what the model gives, before a softcap
    accumulated: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (L + 1,) read from each layer's stream

    @property
    def total(self) -> float:
        crossed = 0.0 if self.cross is None else float(self.cross.sum())
        return float(self.heads.sum() + self.mlps.sum()) + crossed + sum(self.others.values())


def dla(reading: Reading, options: DLAOptions) -> LogitAttribution:
    """The logit of an answer, or the difference of two, by part; `.total` equals `.logit`. The norms are frozen at the
    scale that they have in this run. BadValue where the output is no linear map."""
    source = stream(reading, "dla")
    if not isinstance(source.model.head, Linear):
        raise BadValue(
            f"probe dla: the output of {reading.name} has a dense layer, an activation and a norm of its own (--output {source.model.config.output}), so its logits are no sum of what the parts write; kind logit_lens would do"
        )
    asked = ask(reading, options)
    with torch.no_grad(), evaluating(source.model):
        logits = source.model(**asked.batch.inputs()).logits[0, asked.position]
    if not logits.isfinite().all():
        raise BadValue(f"{reading.name}'s {DIVERGED}")
    said = answer(reading, options, logits)
    other = None if said.other is None else said.other.id
    parts = decompose(source, asked.batch, asked.position, said.target.id, other)
    n_layer, n_head = parts.heads.shape
    crossed = [] if parts.cross is None else [parts.cross]
    columns = [str(i) for i in range(n_head)] + [f"cross {i}" for i in range(n_head) if crossed] + ["mlp"]
    values = np.concatenate([parts.heads, *crossed, parts.mlps[:, None]], axis=1).astype(np.float32)
    layers = ["embedding", *(f"layer {i}" for i in range(n_layer))]
    cap = source.model.config.logit_softcap
    notes = [f"logits are taken before they are bent into ±{cap:g}, where parts no longer sum"] if cap else []
    result = LogitAttribution(
        name=reading.name,
        kind="dla",
        facts=[said.quantity, f"position {asked.position}", f"{n_layer} layers × {n_head} heads"],
        panels=[Panel(values, [str(i) for i in range(n_layer)], columns)],
        quantity=said.quantity,
        axes=("layer", "head"),
        signed=True,
        pieces=asked.pieces,
        caption="Each cell is what that head or MLP adds to the logit directly: what it writes into the stream, through the last norm (frozen at its scale in this run) and the output. What later parts make of it is not counted.",
        notes=notes,
        others=parts.others,
        logit=parts.logit,
        accumulated=parts.accumulated.astype(np.float32),
    )
    result.figures = [
        (said.quantity, f"{parts.logit:.3f}"),
        ("sum of all parts", f"{result.total:.3f}"),
        ("attention heads", f"{parts.heads.sum() + sum(x.sum() for x in crossed):.3f}"),
        ("MLPs", f"{parts.mlps.sum():.3f}"),
        *((name, f"{value:.3f}") for name, value in parts.others.items()),
        *((f"logit lens after {layer}", f"{x:.3f}") for layer, x in zip(layers, parts.accumulated, strict=True)),
    ]
    result.figures = [(name, value.replace("-", "−")) for name, value in result.figures]
    return result


@torch.no_grad()
def decompose(source: Stream, batch: Batch, position: int, target: int, other: int | None = None) -> Parts:
    """The logit of `target` (less that of `other`) at a position, by part (Elhage et al. 2021, "A mathematical framework";
    Wang et al. 2023, §3.1): every norm on the way is frozen at the scale that it has in this run, which leaves a linear map,
    so the parts sum to the logit exactly. Computed in float64.

    The direction that the logit reads is carried back through the stack, from the output to the embedding: what a part
    writes counts by its product with the direction there.
    """
    model, stack, c = source.model, source.stack, source.model.config
    paths = [place.attn.removesuffix(".attn") for place in stack.places]
    crosses = hasattr(stack.blocks[0], "cross")
    kinds = ["attn", "cross", "mlp"] if crosses else ["attn", "mlp"]
    names = [f"{path}.{kind}.out" for path in paths for kind in kinds]
    names += [f"{path}.{kind}.z" for path in paths for kind in kinds if kind != "mlp"]
    names += [
        f"{path}.{name}" for path in paths for name in ("resid_pre", "resid_mid", *(["resid_cross"] if crosses else []))
    ]
    names += [source.sites[-1], f"{stack.prefix}final"]
    read = batch.input_ids if batch.decoder_ids is None else batch.decoder_ids
    place = position - read.shape[1]  # counted from the end, which holds for two streams in one too

    def take(x: Tensor, site: str) -> Tensor:
        return (x[0, :, place] if site.endswith(".z") else x[0, place]).double()

    found = record(model, batch, names, take=take)
    others: dict[str, float] = {}
    L = len(paths)
    heads, mlps = np.zeros((L, c.n_head)), np.zeros(L)
    cross = np.zeros((L, c.n_head)) if crosses else None

    v, bias = _asked(source, target, other)
    others["output bias"] = bias
    logit = float(found[f"{stack.prefix}final"] @ v) + bias
    x = found[source.sites[-1]]
    v, others["final norm’s bias"] = _through(stack.norm, x, v)
    inner = biases = 0.0
    for i in reversed(range(L)):
        block = cast(Block, stack.blocks[i % len(stack.blocks)])
        before = dict(
            zip(
                kinds, ("resid_pre", "resid_mid", "resid_cross") if crosses else ("resid_pre", "resid_mid"), strict=True
            )
        )
        for kind in reversed(kinds):
            out = found[f"{paths[i]}.{kind}.out"]
            if block.place == "post":
                v, more = _through(getattr(block, f"{kind}_norm"), found[f"{paths[i]}.{before[kind]}"] + out, v)
                inner += more
            written = v
            if block.place == "sandwich":
                written, more = _through(block.after[kind], out, v)
                inner += more
            if kind == "mlp":
                mlps[i] = float(out @ written)
                continue
            layer = cast(Heads, getattr(block, kind))
            back = (layer.out.weight.double().T @ written).view(layer.n_head, -1)
            by_head = (found[f"{paths[i]}.{kind}.z"] * back).sum(-1).cpu().numpy()
            if kind == "attn" or cross is None:
                heads[i] = by_head
            else:
                cross[i] = by_head
            biases += float(layer.out.bias.double() @ written) if layer.out.bias is not None else 0.0
    if c.bias:
        others["attention biases"] = biases
    if c.norm_place != "pre":
        others["norms inside"] = inner
    others |= _embedded(source, batch, place, v)
    shown = {name: value for name, value in others.items() if value or name in _OTHERS}
    accumulated = _accumulated(source, [found[site] for site in source.sites], target, other)
    return Parts(heads, cross, mlps, shown, logit, accumulated)


def _asked(source: Stream, target: int, other: int | None) -> tuple[Vector, float]:
    """The direction, after the last norm, that the logit is the product with, and the bias that is added."""
    model = source.model
    weight, bias = model.unembed.weight.double(), model.unembed.bias
    v = weight[target] if other is None else weight[target] - weight[other]
    added = 0.0
    if bias is not None:
        added = float(bias[target].double() - (bias[other].double() if other is not None else 0.0))
    if isinstance(model.head.down, nn.Linear):
        v = model.head.down.weight.double().T @ v
    if model.config.scale_logits:
        v = v * model.config.d_model**-0.5
    return v, added


def _through(norm: nn.Module, x: Vector, v: Vector) -> tuple[Vector, float]:
    """Before a norm that is frozen as it is for x: the direction whose product with x, and the constant added to it, give
    v · norm(x)."""
    if isinstance(norm, nn.Identity):
        return v, 0.0
    assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
    scaled = v if norm.weight is None else v * norm.weight.double()
    eps = norm.eps if norm.eps is not None else 0.0
    if isinstance(norm, nn.RMSNorm):
        return scaled * (x.square().mean() + eps).rsqrt(), 0.0
    bias = 0.0 if norm.bias is None else float(norm.bias.double() @ v)
    return (scaled - scaled.mean()) * (x.var(correction=0) + eps).rsqrt(), bias


def _embedded(source: Stream, batch: Batch, place: int, v: Vector) -> dict[str, float]:
    """What the token, its position and its segment add, as the stream begins; `place` is counted from the end."""
    model, c = source.model, source.model.config
    ids = batch.input_ids if batch.decoder_ids is None else batch.decoder_ids
    at = ids.shape[1] + place
    blank = getattr(model, "query", None)  # of two streams, the one that predicts knows its place and no token
    begun = model.embed.weight[ids[0, at]] * (c.d_model**0.5 if c.scale_embeddings else 1.0) if blank is None else blank
    parts = {"token embedding" if blank is None else "query vector": begun.double()}
    positions = torch.tensor([[at if blank is None else at + 1]], device=ids.device)
    zeros = torch.zeros(1, 1, c.embed_width, device=ids.device, dtype=begun.dtype)
    parts["position"] = source.stack.position.embed(zeros, positions)[0, 0].double()
    if c.n_token_type and blank is None:
        parts["segment"] = model.types.weight[0].double()
    constant = 0.0
    if isinstance(model.embed_up, nn.Linear):
        if model.embed_up.bias is not None:
            constant += float(model.embed_up.bias.double() @ v)
        v = model.embed_up.weight.double().T @ v
    whole = torch.stack(list(parts.values())).sum(0)
    v, bias = _through(model.embed_norm, whole, v)
    return {name: float(part @ v) for name, part in parts.items()} | {"embedding biases": constant + bias}


def _accumulated(source: Stream, stream: list[Tensor], target: int, other: int | None) -> np.ndarray:
    """The same logit, before a softcap, read from the stream of each layer with a scale of its own, as a logit lens does."""
    v, bias = _asked(source, target, other)
    read = [_through(source.stack.norm, x, v) for x in stream]
    return np.array([float(x @ own) + more + bias for x, (own, more) in zip(stream, read, strict=True)])
