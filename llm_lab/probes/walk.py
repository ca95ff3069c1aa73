"""One token's walk through a model, with the numbers of every step and the formula that makes them of those before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_lab.errors import DIVERGED, BadValue
from llm_lab.models.options import ModelConfig
from llm_lab.probes.options import WalkOptions
from llm_lab.probes.reading import Reading, check_number, position_in
from llm_lab.probes.recording import record
from llm_lab.results import Step, Walk

CANDIDATES = 10
NORM = {"rmsnorm": "x / √(mean(x²) + ε) · g", "layernorm": "(x − mean(x)) / √(var(x) + ε) · g"}
BEND = {
    "relu2": "h = max(0, u)²",
    "relu": "h = max(0, u)",
    "gelu": "h = u · Φ(u), by tanh",
    "gelu_erf": "h = u · Φ(u)",
    "swiglu": "h = u · σ(u) · (W_up n)",
    "geglu": "h = u · Φ(u) · (W_up n)",
}
POSITION = {
    "rotary": "",
    "learned": " + P[position]",
    "sinusoidal": " + sin, cos of the position",
    "alibi": " − slope · distance",
    "t5": " + bias[distance]",
    "none": "",
}
_ADDED = ("learned", "sinusoidal")  # to the embedding; the others that have a term add it to the scores


def walk(reading: Reading, options: WalkOptions) -> Walk:
    """The walk of one token of a text; of two stacks, of the decoder's, which reads the second text (or only its start).

    Numbers are those of the explicit computation, in float32. Where a kind of model adds steps (a router, cross-attention)
    they are among the others.
    """
    model, name = reading.model, reading.name
    config = model.config
    assert config is not None, "a model with sites is one of ours"
    two = config.shape == "encoder_decoder"
    batch, tokenizer = reading.batch(), reading.tokenizer
    ids = reading.ids()[0].tolist()
    source: list[int] = []
    if two:
        source, read = ids, reading.ids(1)[0].tolist() if len(reading.texts) > 1 else []
        ids = [tokenizer.start, *read][: model.max_seq_len]
        batch = replace(batch, decoder_ids=torch.tensor([ids], device=model.device))
    elif len(reading.texts) > 1:
        raise BadValue(f"text: 2 texts were given, and {name} reads one; only an encoder and a decoder read two")
    at = position_in(options.position, len(ids))
    prefix = "decoder." if two else ""
    layers = config.decoder_layers if two else config.n_layer
    check_number("layer", options.layer, layers)
    check_number("head", options.head, config.n_head)
    sites = [site for site in model.sites() if site.startswith((f"{prefix}embed", f"{prefix}blocks", f"{prefix}final"))]
    sites += [site for site in ("logits",) if site in model.sites()]
    found = record(model, batch, sites, take=_at(at, len(ids)))
    values = {site.removeprefix(prefix): x[0].float().cpu().numpy() for site, x in found.items()}
    if not all(np.isfinite(x).all() for site, x in values.items() if not site.endswith("scores")):
        raise BadValue(f"{name}'s {DIVERGED}")
    steps = list(_steps(config, values, layers))
    if "logits" in values:
        logits = values["logits"].astype(np.float64)
        order = np.argsort(-logits, kind="stable")[:CANDIDATES]
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        steps += _ending(config, logits[order], chances[order])
    else:
        order = np.zeros(0, dtype=np.int64)
    layer, head = layers - 1 if options.layer is None else options.layer, options.head or 0
    if options.head is None and options.layer is None:
        layer, head = _telling(values, layers, at)
    return Walk(
        name=name,
        pieces=tokenizer.pieces(ids),
        source=tokenizer.pieces(source),
        position=at,
        layers=layers,
        heads=config.n_head,
        layer=layer,
        head=head,
        steps=steps,
        candidates=tokenizer.pieces(order.tolist()),
    )


def _at(position: int, length: int) -> Any:
    """What is kept of a site: the followed token's numbers; of keys and values those of all tokens. Of two streams in one,
    the first is the one that reads the text."""

    def take(x: Tensor, site: str) -> Tensor:
        kind = site.rpartition(".")[2]
        if kind in ("k", "v"):
            return x[:, :, :length] if ".attn." in site else x
        if kind in ("scores", "pattern"):
            return x[:, :, position, :length] if ".attn." in site else x[:, :, position]
        if kind in ("q", "z"):
            return x[:, :, position]
        return x[:, position]

    return take


def _steps(c: ModelConfig, values: dict[str, np.ndarray], layers: int) -> Iterator[Step]:
    """From the embedding to the last norm."""

    def stacked(site: str) -> np.ndarray:
        return np.stack([values[f"blocks.{i}.{site}"] for i in range(layers)])

    norm = NORM[c.norm] + (" + b" if c.bias and c.norm == "layernorm" else "")
    post, sandwich = (c.norm_place == place for place in ("post", "sandwich"))
    bias = " + b" if c.bias else ""
    scale = f"√{c.d_model} · " if c.scale_embeddings else ""
    place = POSITION[c.position] if c.position in _ADDED else ""
    embedding = f"{scale}E[id]{place}" + (" + S[segment]" if c.n_token_type else "")
    yield Step(
        "embed",
        "embedding",
        f"x = {f'norm({embedding})' if c.embed_norm else embedding}",
        values["embed"],
        words="The token's row of the embedding table begins the residual stream.",
    )
    yield Step("resid_pre", "the stream before the layer", "x", stacked("resid_pre"), "layer")
    n = "n = x" if post else f"n = {norm}"
    turn = "R(position) · " if c.position == "rotary" else ""
    rms = ("norm(", ")") if c.qk_norm else ("", "")
    factor = f" / √{c.head_dim}" if c.scale_scores else ""
    query, best = stacked("attn.q"), stacked("attn.pattern").argmax(-1)
    keys = np.repeat(stacked("attn.k"), c.n_head // c.kv_heads, axis=1)
    key = np.take_along_axis(keys, best[:, :, None, None], axis=2)[:, :, 0]
    yield Step(
        "attn.q",
        "query",
        f"q = {turn}{rms[0]}W_q n{bias}{rms[1]},  {n}",
        query,
        "head",
        words="What this head asks for at this token.",
    )
    yield Step(
        "attn.k",
        "key",
        f"k_j = {turn}{rms[0]}W_k n_j{bias}{rms[1]}",
        key,
        "head",
        words="What the token offers that gets the most attention.",
    )
    yield Step(
        "attn.products",
        "q · k, number by number",
        "q_i k_i",
        query * key,
        "head",
        words=f"Their sum{factor} is its score.",
    )
    added = POSITION[c.position] if c.position not in _ADDED else ""
    yield Step(
        "attn.scores",
        "scores",
        f"s_j = q · k_j{factor}{added}",
        stacked("attn.scores"),
        "head",
        "tokens",
        "How well each token's key answers the query; −∞ where it may not be read.",
    )
    yield Step(
        "attn.pattern",
        "attention",
        "a_j = e^s_j / Σ_i e^s_i",
        stacked("attn.pattern"),
        "head",
        "tokens",
        "Softmax makes shares of the scores; they sum to 1.",
    )
    yield Step(
        "attn.z",
        "what the head reads",
        "z = Σ_j a_j v_j",
        stacked("attn.z"),
        "head",
        words="The tokens' values, weighted by the attention.",
    )
    yield Step(
        "attn.out",
        "attention's output",
        f"o = W_o [z_0 … z_{c.n_head - 1}]{bias}",
        stacked("attn.out"),
        "layer",
        words="All heads together, brought back to the stream's width.",
    )
    beside = {True: "x ← norm(x + {out})"}.get(post, "x ← x + norm({out})" if sandwich else "x ← x + {out}")
    yield Step("resid_mid", "the stream after attention", beside.format(out="o"), stacked("resid_mid"), "layer")
    if "blocks.0.cross.q" in values:
        yield Step("cross.q", "query to the source", f"q = W_q n{bias}", stacked("cross.q"), "head")
        yield Step(
            "cross.scores", "scores of the source", f"s_j = q · k_j{factor}", stacked("cross.scores"), "head", "source"
        )
        yield Step(
            "cross.pattern",
            "attention to the source",
            "a_j = e^s_j / Σ_i e^s_i",
            stacked("cross.pattern"),
            "head",
            "source",
        )
        yield Step("cross.z", "what the head reads of it", "z = Σ_j a_j v_j", stacked("cross.z"), "head")
        yield Step(
            "cross.out",
            "cross-attention's output",
            f"o = W_o [z_0 … z_{c.n_head - 1}]{bias}",
            stacked("cross.out"),
            "layer",
        )
        yield Step("resid_cross", "the stream after it", beside.format(out="o"), stacked("resid_cross"), "layer")
    n = "n = x" if post else f"n = {norm}"
    if c.n_expert:
        yield Step(
            "mlp.router",
            "router",
            f"softmax(W n),  {n}",
            stacked("mlp.router"),
            "layer",
            "experts",
            f"The {c.n_active} likeliest experts take the token.",
        )
    else:
        gated = c.mlp in ("swiglu", "geglu")
        yield Step(
            "mlp.pre", "into the MLP", f"u = {'W_gate' if gated else 'W_in'} n{bias},  {n}", stacked("mlp.pre"), "layer"
        )
        yield Step(
            "mlp.post",
            "neurons",
            BEND[c.mlp],
            stacked("mlp.post"),
            "layer",
            words="Each number is one neuron; many are near zero.",
        )
    yield Step(
        "mlp.out",
        "the MLP's output",
        f"m = W_out h{bias}" if not c.n_expert else "m = Σ p_e · MLP_e(n)",
        stacked("mlp.out"),
        "layer",
    )
    yield Step("resid_post", "the stream after the layer", beside.format(out="m"), stacked("resid_post"), "layer")
    if c.final_norm:
        yield Step("final", "the last norm", f"n = {norm}", values["final"])


def _ending(c: ModelConfig, logits: np.ndarray, chances: np.ndarray) -> list[Step]:
    n = "n / √d" if c.scale_logits else "n"
    if c.output == "mlm":
        n = f"norm(gelu(W {n} + b))"
    line = f"W_U {n}" + (" + b" if c.output_bias else "")
    if c.logit_softcap:
        line = f"{c.logit_softcap:g} · tanh({line} / {c.logit_softcap:g})"
    return [
        Step(
            "logits",
            "logits",
            f"ℓ = {line}",
            logits.astype(np.float32),
            over="candidates",
            words="One number for each token there is; the largest are shown.",
        ),
        Step(
            "probabilities",
            "probabilities",
            "p = e^ℓ / Σ e^ℓ",
            chances.astype(np.float32),
            over="candidates",
            words="What the model says comes next, or stands here.",
        ),
    ]


def _telling(values: dict[str, np.ndarray], layers: int, at: int) -> tuple[int, int]:
    """The layer and head whose attention from this token is sharpest, where it is not merely to the first or to itself."""
    patterns = np.stack([values[f"blocks.{i}.attn.pattern"] for i in range(layers)])
    entropy = -(patterns * np.log(np.maximum(patterns, 1e-30))).sum(-1)
    plain = (patterns[..., 0] > 0.5) | (patterns[..., at] > 0.5)
    i, j = np.unravel_index(int(np.argmin(entropy + plain * math.log(1e6))), entropy.shape)
    return int(i), int(j)
