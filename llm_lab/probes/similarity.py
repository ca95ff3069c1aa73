"""How alike the layers of a model, or of two, are in what they make of the same tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.errors import BadValue
from llm_lab.models.sites import matching
from llm_lab.probes.options import SimilarityOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.results import Heatmap, Panel
from llm_lab.store.lm import LM

ROWS = 512  # tokens that are compared with one another at a time
FEWEST = 4  # that the unbiased estimator is defined for
LAYERS = re.compile(r"(encoder\.)?(embed|blocks\.(?P<layer>\d+)\.resid_post|final)")
WIDEST = 8192  # numbers of all sites together whose covariances are held at once
_QUANTITY = {"cka": "CKA", "cosine": "mean cosine", "cca": "mean squared canonical correlation"}


def similarity(reading: Reading, options: SimilarityOptions) -> Heatmap:
    """The similarity of every two layers over the same tokens, within one model or between two.

    `cka` is linear centred kernel alignment (Kornblith et al. 2019, §3) from unbiased estimates of HSIC (Song et al.
    2012, eq. 5) that are averaged over minibatches of tokens (Nguyen et al. 2021, §3.1). `cosine` is the mean over the
    tokens of the cosine between their two vectors. `cca` is the mean squared canonical correlation (Kornblith et al.
    2019, table 1). Two models must have one tokenizer. Of two streams the content stream is compared, of an encoder and
    a decoder the encoder, unless sites are named.
    """
    lms = reading.lms
    if len(lms) == 2 and lms[0].tokenizer.fingerprint != lms[1].tokenizer.fingerprint:
        raise BadValue(
            f"similarity: {lms[0].name} and {lms[1].name} cut texts into different tokens, so no token is there for both; models of one tokenizer would do"
        )
    sites = [_sites(lm, options.site) for lm in lms]
    measure: CKA | Cosine | CCA = _MEASURES[options.measure]()
    tokens = 0
    for ids in _minibatches(reading, options):
        tokens += ids.numel()
        measure.add([x for lm, names in zip(lms, sites, strict=True) for x in vectors(lm, ids, names)])
    if not tokens:
        raise BadValue(f"corpus: it has fewer than {FEWEST} tokens, too few to compare; give more text")
    first = len(sites[0])
    values = measure.value(tokens)[:first, (first if len(lms) == 2 else 0) :]
    labels = [_labels(names) for names in sites]
    named = [f"{lm.name} " if len(lms) == 2 else "" for lm in lms]
    what = "layer" if all(map(LAYERS.fullmatch, sites[0])) else "site"
    panel = Panel(values.astype(np.float32), labels[0], labels[-1])
    return Heatmap(
        name=", ".join(lm.name for lm in lms),
        kind="similarity",
        facts=[_QUANTITY[options.measure], f"{tokens:,} tokens", f"{values.shape[0]} × {values.shape[1]} {what}s"],
        panels=[panel],
        quantity=_QUANTITY[options.measure],
        axes=(f"{named[0]}{what}", f"{named[-1]}{what}"),
        bounds=(0.0, 1.0),
        figures=_figures(values, labels, len(lms) == 2),
        pieces=reading.pieces() if reading.texts else [],
        caption=_CAPTION[options.measure],
    )


_CAPTION = {
    "cka": "CKA asks whether tokens that are near each other in one layer are near each other in the other: 1 where they "
    "are but for a rotation and a scale, 0 where they are not; its estimate is unbiased, so it may fall a little below 0.",
    "cosine": "The mean over the tokens of the cosine between a token's vectors in both: 1 is the same direction, 0 a right angle.",
    "cca": "The mean of the squared canonical correlations: how much of one can be read off the other by a linear map, "
    "whatever the size of its directions.",
}


def _figures(values: np.ndarray, labels: Sequence[Sequence[str]], two: bool) -> list[tuple[str, str]]:
    """What a person would look for first."""
    found = []
    if values.shape[0] == values.shape[1] and len(values) > 1:
        if two:
            found.append(("mean of the diagonal", f"{np.nanmean(np.diagonal(values)):.3f}"))
        else:
            beside = np.diagonal(values, offset=1)
            found.append(("mean of neighbours", f"{np.nanmean(beside):.3f}"))
            if np.isfinite(beside).any():
                i = int(np.nanargmin(beside))
                found.append(("largest step", f"{labels[0][i]} → {labels[0][i + 1]}: {beside[i]:.3f}"))
    return found


def _sites(lm: LM, wanted: str | None) -> list[str]:
    """The sites that are compared: the stream behind every layer, unless others are named."""
    known = lm.sites()
    if not wanted:
        found = [name for name in known if LAYERS.fullmatch(name)]
        if not found:
            raise BadValue(
                f"site: {lm.name} has no layers that the lab knows; name outputs of its modules, for example --site {next(iter(known), 'blocks.0')}"
            )
        return found
    names = matching(wanted, known)
    if wrong := next((name for name in names if name.endswith((".scores", ".pattern"))), None):
        raise BadValue(
            f"site: {wrong!r} says who reads whom, and is no vector of a token; use for example {wrong.rpartition('.')[0]}.z"
        )
    return names


def _labels(names: Sequence[str]) -> list[str]:
    """Layers by their number; other sites by their names."""
    found = [LAYERS.fullmatch(name) for name in names]
    if all(found):
        return [match["layer"] or match[2] for match in found if match]
    return list(names)


def _minibatches(reading: Reading, options: SimilarityOptions) -> Iterator[Int[Tensor, "B T"]]:
    """What all models read: the text, or the corpus in blocks that fit every context, about ROWS tokens at a time."""
    if reading.texts:
        ids = reading.ids(model=len(reading.lms) - 1)
        reading.ids()  # both contexts must hold it
        if ids.numel() < FEWEST:
            raise BadValue(
                f"text: {ids.numel()} tokens are too few to compare; give at least {FEWEST}, or a --corpus in its place"
            )
        yield ids
        return
    waiting: list[Tensor] = []
    for block in reading.blocks(options.corpus, options.max_tokens, length=min(lm.max_seq_len for lm in reading.lms)):
        if waiting and block.shape != waiting[0].shape:
            break  # what is left at the end
        waiting.append(block)
        if sum(one.numel() for one in waiting) >= ROWS:
            yield torch.cat(waiting)
            waiting = []
    if waiting and sum(one.numel() for one in waiting) >= FEWEST:
        yield torch.cat(waiting)


def vectors(lm: LM, ids: Int[Tensor, "B T"], names: Sequence[str]) -> list[Float[Tensor, "N D"]]:
    """At each site a vector for each token, float64 on the CPU. Heads stand one behind the other."""
    tokens = ids.shape[1]

    def take(x: Tensor, name: str) -> Tensor:
        if x.ndim == 4:  # (B, H, T, d)
            x = x.transpose(1, 2).flatten(2)
        if x.ndim != 3 or x.shape[1] not in (tokens, 2 * tokens):
            raise BadValue(
                f"site: {name!r} has the shape {tuple(x.shape)} for {tokens} tokens, and a vector for each token is needed; leave it out"
            )
        return x[:, :tokens].flatten(0, 1).cpu().double()

    found = record(lm.model, lm.batch(ids.to(lm.device)), names, take=take)
    return [found[name] for name in names]


class CKA:
    """Linear CKA from unbiased estimates of HSIC, averaged over minibatches."""

    def __init__(self) -> None:
        self.hsic: Tensor = torch.zeros(())

    def add(self, xs: list[Float[Tensor, "N _"]]) -> None:
        """HSIC of every two is the mean product of their U-centred Gram matrices (Székely & Rizzo 2014, prop. 1)."""
        n = len(xs[0])
        grams = torch.stack([u_centred(x).flatten() for x in xs])  # (L, N · N)
        self.hsic = self.hsic + grams @ grams.T / (n - 3)  # a minibatch counts by its tokens

    def value(self, tokens: int) -> Float[np.ndarray, "L L"]:
        own = self.hsic.diagonal().clamp(min=0).sqrt()
        return (self.hsic / (own[:, None] * own)).numpy()


def u_centred(x: Float[Tensor, "N D"]) -> Float[Tensor, "N N"]:
    """The Gram matrix of the rows with its diagonal taken out, and its rows and columns made to sum to zero."""
    n = len(x)
    x = x - x.mean(dim=0)  # changes nothing but the rounding
    gram = (x @ x.T).fill_diagonal_(0)
    rows = gram.sum(dim=1)
    gram = gram - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return gram.fill_diagonal_(0)


class Cosine:
    """The mean cosine between the two vectors of a token."""

    def __init__(self) -> None:
        self.total: Tensor = torch.zeros(())

    def add(self, xs: list[Float[Tensor, "N _"]]) -> None:
        widths = sorted({x.shape[1] for x in xs})
        if len(widths) > 1:
            raise BadValue(
                f"measure: a cosine is of two vectors of one width, and these have {widths[0]} and {widths[-1]} numbers; --measure cka takes any"
            )
        flat = torch.stack([F.normalize(x, dim=1).flatten() for x in xs])
        self.total = self.total + flat @ flat.T

    def value(self, tokens: int) -> Float[np.ndarray, "L L"]:
        return (self.total / tokens).numpy()


class CCA:
    """The mean squared canonical correlation, from the covariances of all sites."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.sum: Tensor = torch.zeros(())
        self.products: Tensor = torch.zeros(())

    def add(self, xs: list[Float[Tensor, "N _"]]) -> None:
        self.widths = [x.shape[1] for x in xs]
        if sum(self.widths) > WIDEST:
            raise BadValue(
                f"measure: the covariances of {len(xs)} sites of {max(self.widths):,} numbers are too large for cca; name fewer sites, or use --measure cka"
            )
        z = torch.cat(xs, dim=1)
        self.sum = self.sum + z.sum(dim=0)
        self.products = self.products + z.T @ z

    def value(self, tokens: int) -> Float[np.ndarray, "L L"]:
        if tokens < 2 * max(self.widths):
            raise BadValue(
                f"measure: {tokens:,} tokens are too few for cca of vectors of {max(self.widths):,} numbers; give at least {2 * max(self.widths):,} (--corpus, --max_tokens), or use --measure cka"
            )
        covariance = self.products - torch.outer(self.sum, self.sum) / tokens
        blocks = [list(row.split(self.widths, dim=1)) for row in covariance.split(self.widths, dim=0)]
        white = [_whitening(blocks[i][i]) for i in range(len(self.widths))]
        found = [
            [
                float((w.T @ blocks[i][j] @ v).square().sum() / min(w.shape[1], v.shape[1])) if w.numel() and v.numel() else np.nan
                for j, v in enumerate(white)
            ]
            for i, w in enumerate(white)
        ]  # fmt: skip
        return np.array(found)


_MEASURES: dict[str, type[CKA] | type[Cosine] | type[CCA]] = {"cka": CKA, "cosine": Cosine, "cca": CCA}


def _whitening(covariance: Float[Tensor, "D D"]) -> Float[Tensor, "D R"]:
    """W with Wᵀ C W = 1, over the directions that vary."""
    values, directions = torch.linalg.eigh(covariance)
    there = values > values.max().clamp(min=0) * 1e-10
    return directions[:, there] / values[there].sqrt()
