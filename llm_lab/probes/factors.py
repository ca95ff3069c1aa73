"""Groups of neurons that are active together: non-negative factors of the activations of a text or a corpus."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.errors import BadValue
from llm_lab.probes.activations import batches, blocks_of, flat, gather, logit_weights, vector_sites
from llm_lab.probes.neurons import DEFAULT
from llm_lab.probes.options import FactorsOptions
from llm_lab.probes.passages import unit
from llm_lab.probes.reading import Reading
from llm_lab.results import FactorPassages, Factors, FactorScores

ROOM = 1 << 25  # numbers from which the factors are learned; of more tokens some are drawn
COLUMNS = {
    "largest": "weight at the peak of the first passage",
    "mean": "weight over all tokens",
    "share": "of all that the factors reconstruct, %",
}
CAPTION = (
    "A factor is a group of neurons that are active together (non-negative matrix factorisation; Alammar 2021): the activations "
    "of a token are about the sum of the factors, each times its weight there. Shades are those weights."
)


def factors(reading: Reading, options: FactorsOptions) -> FactorPassages | FactorScores:
    """The neurons of all sites side by side, (N tokens, W numbers) ≈ weights (N, K) · directions (K, W), by least squares with
    nothing below zero (Lee & Seung 1999). What activations are below zero counts as 0, and how much that was is said."""
    lm = reading.lm
    sites = vector_sites(lm, options.site, DEFAULT)
    blocks = list(batches(blocks_of(reading, options.corpus, options.max_tokens)))
    ids, starts = flat(blocks)
    widths: dict[str, int] = {}
    below = whole = 0.0

    def positive(found: dict[str, Tensor]) -> Float[np.ndarray, "N W"]:
        nonlocal below, whole
        widths.update({site: x.shape[1] for site, x in found.items()})
        x = torch.cat([found[site] for site in sites], dim=1).cpu()
        whole += float(x.double().square().sum())
        below += float(x.clamp(max=0).double().square().sum())
        return x.clamp(min=0).numpy()

    rng = np.random.default_rng(options.seed)
    kept: np.ndarray | None = None
    parts, at = [], 0
    for found in gather(lm, blocks, sites):
        x = positive(found)
        if kept is None:
            count = min(len(ids), max(ROOM // x.shape[1], 1))
            kept = np.sort(rng.choice(len(ids), count, replace=False))
        parts.append(x[kept[(kept >= at) & (kept < at + len(x))] - at])
        at += len(x)
    learned = np.concatenate(parts)
    model = _fit(learned, options)
    if len(learned) == len(ids):
        weights = model.transform(learned)
    else:
        below = whole = 0.0
        weights = np.concatenate([model.transform(positive(found)) for found in gather(lm, blocks, sites)])
    directions, weights = ordered(model.components_, weights)
    learned_weights = weights if len(learned) == len(ids) else weights[kept]
    explained = 1 - float(((learned - learned_weights @ directions) ** 2).sum()) / float((learned**2).sum())
    made = Factors([(site, widths[site]) for site in sites], directions.astype(np.float32))
    figures = [
        ("sum of squares explained, %", f"{100 * explained:.1f}"),
        ("left out: squares below zero, %", f"{100 * below / whole:.1f}"),
    ]
    where = sites[0] if len(sites) == 1 else f"{len(sites)} sites side by side"
    facts = [f"{len(directions)} factors", where, f"{directions.shape[1]:,} neurons"]
    if reading.texts:
        return FactorScores(
            name=lm.name,
            kind="factors",
            facts=facts,
            pieces=reading.pieces(),
            scores={f"factor {i + 1}": column.astype(np.float32) for i, column in enumerate(weights.T)},
            quantity="weight",
            signed=False,
            figures=figures,
            caption=CAPTION,
            factors=made,
        )
    logits = _logits(lm.model, made)
    shares = (weights**2).sum(0) / (weights**2).sum()
    units = [
        unit(
            f"factor {i + 1}",
            {"largest": float(w.max()), "mean": float(w.mean()), "share": 100 * float(shares[i])},
            w,
            ids,
            starts,
            reading.tokenizer,
            options.top,
            None if logits is None else logits[i],
        )
        for i, w in enumerate(weights.T)
    ]
    return FactorPassages(
        name=lm.name,
        kind="factors",
        facts=[*facts, f"{len(ids):,} tokens read"],
        units=units,
        columns=COLUMNS,
        figures=figures,
        caption=CAPTION,
        notes=[]
        if len(learned) == len(ids)
        else [f"The factors were learned from {len(learned):,} of the tokens, drawn."],
        factors=made,
    )


def _fit(x: Float[np.ndarray, "N W"], options: FactorsOptions) -> Any:
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    if options.n_factors > min(x.shape):
        raise BadValue(
            f"n_factors: {options.n_factors} is more than the {x.shape[0]} tokens or {x.shape[1]} neurons that are read; use --n_factors {min(x.shape)}"
        )
    if not x.any():
        raise BadValue(
            "site: no activation is above zero, so there is nothing to factor; use another, or a trained model"
        )
    model = NMF(options.n_factors, init="nndsvda", tol=1e-3, max_iter=300, random_state=options.seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it explains is said
        return model.fit(x)


def ordered(
    components: Float[np.ndarray, "K W"], weights: Float[np.ndarray, "N K"]
) -> tuple[Float[np.ndarray, "K W"], Float[np.ndarray, "N K"]]:
    """Directions of length 1, with the weights that undo it; those that reconstruct most come first."""
    length = np.linalg.norm(components, axis=1)
    safe = np.where(length > 0, length, 1)
    directions, weights = components / safe[:, None], weights * length
    order = np.argsort(-(weights**2).sum(0), kind="stable")
    return directions[order], weights[:, order]


def _logits(model: Any, made: Factors) -> np.ndarray | None:
    """What the factors add to the logits: the sum over their sites; None where one of those has no direct path."""
    at, total = 0, None
    for site, width in made.sites:
        part = logit_weights(model, site, np.ascontiguousarray(made.directions[:, at : at + width]))
        if part is None:
            return None
        total = part if total is None else total + part
        at += width
    return total
