"""The weights of a model in numbers: how they are distributed, their singular values, and the gradients of a loss."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from llm_lab import machine
from llm_lab.errors import BadValue, listing, show, suggestion
from llm_lab.models.language_model import LanguageModel, evaluating
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.objectives.objective import Trainee
from llm_lab.probes.options import WeightsOptions
from llm_lab.probes.reading import Reading, corpus_tokens
from llm_lab.results import WeightFacts, WeightRow, WeightTable
from llm_lab.store.lm import LM
from llm_lab.training.validation import pieces

BINS = 40  # of a histogram at most; of few numbers about the square root of their count
FAR = 5.0  # standard deviations that a histogram reaches at most
TAIL = 50  # eigenvalues from which on the exponent of their tail is fitted
MINIBATCH = 1024  # tokens of one gradient
_PARTS = {"qkv": ("q", "k", "v"), "kv": ("k", "v"), "up": ("gate", "up")}  # what fused maps are called one by one


def weights(reading: Reading, options: WeightsOptions) -> WeightTable:
    """Each weight's distribution and singular values; beside them those of a model of the same sizes before any
    training, or of a second model.

    Fused maps are taken apart (q, k and v; gate and up). With `gradients` also the norm of the gradient of the loss that
    the model was trained by, over the corpus in minibatches, and the noise scale that their scatter comes to. Nothing is
    left in `.grad`.
    """
    found = [_named(lm.model, options.parameters) for lm in reading.lms]
    names = list(dict.fromkeys(name for one in found for name in one))
    if len(found) == 2:
        same = [n for n in names if n in found[0] and n in found[1] and found[0][n].shape == found[1][n].shape]
        if not same:
            raise BadValue(
                f"weights: {reading.lms[0].name} and {reading.lms[1].name} have no weight of one name and shape; models of one architecture would do"
            )
        left, names = len(names) - len(same), same
        notes = [f"{left} weights that only one of both has, or in another shape, are left out"] if left else []
        first: dict[str, Tensor] = {}
    else:
        notes, first = [], _fresh(reading.model, names)
    slopes = [_gradients(lm, options) if options.gradients else None for lm in reading.lms]
    rows = []
    for name in names:
        values = [one[name].detach().cpu().double() for one in found]
        edges = _edges(values[0])
        facts = [_sloped(measured(value, edges), slope, name) for value, slope in zip(values, slopes, strict=True)]
        before = measured(first[name].double(), edges) if name in first else None
        apart = math.nan
        if len(values) == 2:
            apart = float((values[0] - values[1]).norm() / values[0].norm())
        rows.append(WeightRow(name, tuple(values[0].shape), edges, facts, before, apart))
    made = [slope for slope in slopes if slope is not None]
    return WeightTable(
        models=[lm.name for lm in reading.lms],
        rows=rows,
        losses=[slope.loss for slope in made],
        tokens=[slope.tokens for slope in made],
        notes=notes,
    )


# --- which weights --------------------------------------------------------------------------------------------------


def taken_apart(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values by the names of parameters as values by the names of single maps: fused ones in their parts."""
    found: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    for name, value in values.items():
        path, _, last = name.rpartition(".")
        splits = getattr(modules.get(path), "splits", ())
        before, _, own = path.rpartition(".")
        parts = _PARTS.get(own, ())
        end = "" if last == "weight" else f".{last}"
        if len(splits) > 1 and len(parts) == len(splits):
            for part, cut in zip(parts, value.split(splits, dim=0), strict=True):
                found[f"{before}.{part}{end}" if before else f"{part}{end}"] = cut
        else:
            found[f"{path}{end}" if path else name] = value
    return found


def _named(model: LanguageModel, wanted: tuple[str, ...] | None) -> dict[str, Tensor]:
    """The weights that are asked for, by name; BadValue where a pattern means none."""
    model.need_weights()
    known = taken_apart(model, {name: p for name, p in model.named_parameters() if p.is_floating_point() and p.numel()})
    if not known:
        raise BadValue(
            f"weights: {type(model).__name__} has no weights that are numbers; a model that is trained by gradients has"
        )
    if not wanted:
        return {name: value for name, value in known.items() if not name.endswith("bias")}
    chosen: set[str] = set()
    for pattern in wanted:
        hits = fnmatch.filter(known, pattern)
        if not hits:
            near = suggestion(pattern, known)
            raise BadValue(f"parameters: {show(pattern)} is not in this model{near}; there is: {listing(known, 12)}")
        chosen.update(hits)
    return {name: value for name, value in known.items() if name in chosen}


def _fresh(model: LanguageModel, names: list[str]) -> dict[str, Tensor]:
    """The first weights of a model of the same sizes; none where they are not known, or would take much memory."""
    size = 4 * sum(p.numel() for p in model.parameters())
    config = model.config
    if not isinstance(config, ModelConfig) or size > machine.memory().available / 4:
        return {}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        made: LanguageModel = SHAPES.load(config.shape)(config)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    alike = {name: p.detach() for name, p in made.named_parameters() if shapes.get(name) == p.shape}
    return {name: value for name, value in taken_apart(made, alike).items() if name in names}


# --- their numbers --------------------------------------------------------------------------------------------------


def _edges(w: Float[Tensor, ...]) -> tuple[float, float]:
    """Where the histogram of a weight begins and ends."""
    mean, std = float(w.mean()), float(w.std(correction=0))
    low, high = max(float(w.min()), mean - FAR * std), min(float(w.max()), mean + FAR * std)
    if not math.isfinite(low + high):
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def measured(w: Float[Tensor, ...], edges: tuple[float, float]) -> WeightFacts:
    """A weight in numbers. What has more than two dimensions is read as rows of its first."""
    mean, std = float(w.mean()), float(w.std(correction=0))
    rms = float(w.square().mean().sqrt())
    low, high = float(w.min()), float(w.max())
    count = min(BINS, max(8, round(w.numel() ** 0.5)))
    finite = math.isfinite(low + high)
    bins = np.histogram(w.clamp(*edges).numpy(), count, edges)[0] if finite else np.zeros(count)
    singular = singular_values(w.flatten(1)) if w.ndim > 1 else np.zeros(0)
    largest = float(singular[0]) if len(singular) else math.nan
    total = float(np.square(singular).sum())
    known = largest > 0
    share = singular / singular.sum() if known else singular
    share = share[share > 0]
    return WeightFacts(
        mean=mean,
        std=std,
        low=low,
        high=high,
        near_zero=float((w.abs() <= rms / 100).double().mean()),
        kurtosis=float((w - mean).pow(4).mean()) / std**4 - 3 if std > 0 else math.nan,
        norm=float(w.norm()),
        spectral_norm=largest,
        stable_rank=total / largest**2 if known else math.nan,
        effective_rank=float(np.exp(-(share * np.log(share)).sum())) if known else math.nan,
        condition=(largest / float(singular[-1]) if singular[-1] > 0 else math.inf) if known else math.nan,
        alpha=tail_exponent(np.square(singular)),
        histogram=(bins / w.numel()).astype(np.float32),
        singular=singular.astype(np.float32),
    )


def singular_values(w: Float[Tensor, "R C"]) -> Float[np.ndarray, " K"]:
    """All singular values, the largest first, from the smaller of both Gram matrices in float64; those below about 1e-8
    of the largest are rounding, and count as 0."""
    if not bool(w.isfinite().all()):
        return np.zeros(0)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    squares = torch.linalg.eigvalsh(gram).flip(0)
    squares[squares <= squares[0].clamp(min=0) * 1e-15] = 0.0
    return squares.sqrt().numpy()


def tail_exponent(values: Float[np.ndarray, " N"]) -> float:
    """α of the power law p(x) ∝ x^−α that the largest values follow, by maximum likelihood above the x from which on
    the law fits best, by the distance of Kolmogorov and Smirnov (Clauset et al. 2009, eqs. 3.1 and 3.9; of a weight's
    eigenvalues, Martin & Mahoney 2021, §3). NaN of fewer than 50 values, which say too little."""
    if len(values) < TAIL or values.max() <= 0:
        return math.nan
    logs = np.log(np.sort(values[values > 0]))
    best, alpha = math.inf, math.nan
    for i in range(len(logs) - 1):
        tail = logs[i:] - logs[i]
        n, total = len(tail), float(tail.sum())
        if total <= 0:
            continue
        expected = 1 - np.exp(-n / total * tail)
        below = np.arange(n) / n
        distance = max(float((expected - below).max()), float((below + 1 / n - expected).max()))
        if distance < best:
            best, alpha = distance, 1 + n / total
    return alpha


# --- gradients ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slopes:
    """The gradients of a loss, by weight: the norm of their mean over all minibatches, and the noise scale in tokens."""

    loss: float
    tokens: int
    norms: dict[str, float]
    noise: dict[str, float]


def _gradients(lm: LM, options: WeightsOptions) -> Slopes:
    """The gradients of the loss that the model was trained by, over a corpus."""
    lm.need("gradients", "weights --gradients", "leave --gradients out, or use a model that is trained by them")
    objective = lm.objective()
    with torch.random.fork_rng(devices=[]):  # what an objective adds may be drawn
        trainee = lm.trainee(objective)
    trainee.extras.to(lm.device)
    examples = pieces(objective, corpus_tokens(lm, options.corpus), lm.max_seq_len, options.max_tokens)
    length = len(examples[0]) if examples else 0
    if not objective.pairs:  # what is left at the end is shorter, and its gradient noisier
        examples = [one for one in examples if len(one) == length]
    size = max(1, MINIBATCH // lm.max_seq_len, objective.least_batch)
    batches = [examples[i : i + size] for i in range(0, len(examples), size)]
    batches = [one for one in batches if len(one) == size] or batches[:1]
    if not batches:
        raise BadValue("corpus: it is too short for a gradient; give more text")
    return _slopes(lm.model, trainee, objective, batches)


def _slopes(model: LanguageModel, trainee: Trainee, objective: Any, batches: list[list[np.ndarray]]) -> Slopes:
    """The mean gradient of minibatches of one size, and how far they scatter around it."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums: dict[str, Tensor] = {}
    squares: dict[str, float] = {}
    losses, n, tokens = [], len(batches), 0
    with evaluating(trainee.model), evaluating(trainee.extras), torch.enable_grad():
        for i, examples in enumerate(batches):
            batch = objective.collate(examples, np.random.default_rng(i)).to(model.device)
            loss, _ = objective.loss(trainee, batch)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            losses.append(float(loss.detach()))
            tokens = tokens or batch.input_ids.numel()
            slopes = {name: g.detach() for name, g in zip(named, found, strict=True) if g is not None}
            for name, g in taken_apart(model, slopes).items():
                sums[name] = sums[name] + g if name in sums else g.clone()
                squares[name] = squares.get(name, 0.0) + float(g.double().square().sum())
    norms = {name: float((total / n).norm()) for name, total in sums.items()}
    noise = {name: noise_scale(squares[name] / n, norms[name] ** 2, tokens, n) for name in norms}
    return Slopes(sum(losses) / n, tokens * n, norms, noise)


def noise_scale(each: float, together: float, tokens: int, n: int) -> float:
    """tr Σ / |G|² in tokens, from the mean square of n minibatches' gradients and the square of their mean (McCandlish
    et al. 2018, appendix A.1): batches far below it average mostly noise away. NaN where n is 1; infinite where no
    gradient stands out of the noise."""
    if n < 2:
        return math.nan
    scatter = (each - together) / (1 / tokens - 1 / (tokens * n))
    square = together - scatter / (tokens * n)
    return scatter / square if square > 0 else math.inf


def _sloped(facts: WeightFacts, slopes: Slopes | None, name: str) -> WeightFacts:
    if slopes is None or name not in slopes.norms:
        return facts
    return replace(facts, gradient=slopes.norms[name], noise_scale=slopes.noise[name])
