"""Token vectors, or activations of a text, as points of a map that can be looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.sites import matching
from llm_lab.probes.options import EmbeddingsOptions
from llm_lab.probes.reading import Reading, corpus_ids
from llm_lab.probes.similarity import vectors
from llm_lab.results import Piece, Projection
from llm_lab.store.lm import LM

NEAR = 8
FEWEST = 4  # points that are a map
SAME_TRAINING = 0.1  # mean cosine of the tokens' vectors in two models above which one basis suits both; of models that
# know nothing of each other it is about 0


def embeddings(reading: Reading, options: EmbeddingsOptions) -> Projection:
    """The vectors of the most frequent tokens, or of those of a text, in two or three dimensions; with `site` the
    activations at the text's positions.

    `pca` lays them on their first principal axes (Pearson 1901); `tsne` keeps neighbours near (van der Maaten & Hinton
    2008, by scikit-learn, on the angles between vectors). Several models of one tokenizer are frames of one film: on the
    axes of the last, or each turned onto the one after it (orthogonal Procrustes; Schönemann 1966).
    """
    lms = reading.lms
    if other := next((lm for lm in lms if lm.tokenizer.fingerprint != lms[0].tokenizer.fingerprint), None):
        raise BadValue(
            f"embeddings: {lms[0].name} and {other.name} have different tokens, which no film can follow; models of one tokenizer would do"
        )
    notes: list[str] = []
    counts, ids = None, torch.zeros(0, dtype=torch.long)
    if options.site is not None:
        clouds, source = _activations(reading, options.site)
        pieces = reading.pieces()
        nearest = [_nearest(cloud, cloud, torch.arange(len(pieces)), []) for cloud in clouds]
        names = dict(enumerate(pieces))
    else:
        ids, counts = _tokens(reading, options, notes)
        source = f"{options.table} vectors"
        pieces = lms[-1].tokenizer.pieces(ids.tolist())
        clouds, nearest = [], []
        left = set(lms[-1].tokenizer.special_ids)
        if counts is not None:
            left |= set(np.flatnonzero(counts == 0).tolist()) - set(ids.tolist())
        for lm in lms:
            table = _table(lm, options.table)
            clouds.append(table[ids].double())
            nearest.append(_nearest(table[ids], table, ids, sorted(left)))
        found = {int(i) for near, _ in nearest for i in near.flat if i >= 0}
        names = {i: lms[-1].tokenizer.pieces([i])[0] for i in found}
    clouds = [cloud - cloud.mean(dim=0) for cloud in clouds]
    align = (options.align or _alignment(clouds)) if len(clouds) > 1 else ""
    explained = None
    if options.projection == "pca":
        points, explained = principal(clouds, options.dims, align == "basis")
    else:
        points = _tsne(clouds, options)
    if len(clouds) > 1 and (align == "procrustes" or options.projection == "tsne"):
        points, align = turned(points), "procrustes"
    return Projection(
        frames=[lm.name for lm in lms],
        source=source,
        pieces=pieces,
        kinds=[kind_of(piece) for piece in pieces],
        counts=None if counts is None else counts[ids],
        points=np.stack(points).astype(np.float32),
        projection=options.projection,
        explained=None if explained is None else np.array(explained),
        align=align,
        colour=options.colour if counts is not None else "kind",
        width=[cloud.shape[1] for cloud in clouds],
        near=np.stack([near for near, _ in nearest]),
        cosine=np.stack([cosine for _, cosine in nearest]),
        names=names,
        positions=options.site is not None,
        notes=notes,
    )


# --- which vectors --------------------------------------------------------------------------------------------------


def _activations(reading: Reading, wanted: str) -> tuple[list[Float[Tensor, "T D"]], str]:
    """What every model has at a site, for each position of the text."""
    if not reading.texts:
        raise BadValue('site: activations are of a text; give one, for example "To be, or not to be"')
    clouds, names = [], []
    for i, lm in enumerate(reading.lms):
        names = matching(wanted, lm.sites())
        if len(names) > 1:
            raise BadValue(
                f"site: {wanted!r} means {len(names)} sites, and a map is of one; use for example {names[-1]}"
            )
        clouds += vectors(lm, reading.ids(model=i), names)
    _enough(len(clouds[0]))
    return clouds, names[0]


def _tokens(
    reading: Reading, options: EmbeddingsOptions, notes: list[str]
) -> tuple[Int[Tensor, " N"], Int[np.ndarray, " V"] | None]:
    """The tokens that are shown, the most frequent first, and how often every token was counted, where there is a text."""
    lm, tokenizer = reading.lms[-1], reading.lms[-1].tokenizer
    counts = _counts(lm, options)
    if reading.texts:
        ids = np.array(list(dict.fromkeys(i for i in tokenizer.encode(reading.texts[0]) if i not in tokenizer.special_ids)), int)  # fmt: skip
        if len(ids) < FEWEST:
            raise BadValue(
                f"text: it has {len(ids)} different tokens, too few for a map; give at least {FEWEST}, or leave it out for the most frequent"
            )
    else:
        ids = tokenizer.text_ids
        if counts is not None:
            ids = ids[np.argsort(-counts[ids], kind="stable")]
            ids = ids[: max(FEWEST, int((counts[ids] > 0).sum()))]
        ids = ids[: options.n_tokens]
        _enough(len(ids))
    if counts is None:
        notes.append(
            "no text was there to count tokens in: these are the lowest ids, which most tokenizers give to frequent ones; --corpus counts"
            if not reading.texts
            else "no text was there to count tokens in; --corpus counts"
        )
    return torch.from_numpy(ids.astype(np.int64)), counts


def _counts(lm: LM, options: EmbeddingsOptions) -> Int[np.ndarray, " V"] | None:
    """How often each token is in the corpus, or in the model's own text; None where neither is there."""
    own = getattr(lm.model, "counts", None)
    if options.corpus is None and isinstance(own, Tensor) and bool(own.any()):
        return own[: lm.tokenizer.vocab_size].long().cpu().numpy()
    try:
        ids = corpus_ids(lm, options.corpus)[: options.max_tokens]
    except BadValue:
        if options.corpus is not None:
            raise
        return None
    return np.bincount(ids, minlength=lm.tokenizer.vocab_size)


def _enough(n: int) -> None:
    if n < FEWEST:
        raise BadValue(f"embeddings: {n} points are no map; {FEWEST} or more would be")


def _table(lm: LM, which: str) -> Float[Tensor, "V E"]:
    """A model's vectors of the tokens, on the CPU."""
    model: LanguageModel = lm.model
    model.need_weights()
    if which == "input":
        table = model.embedding_table()
    else:
        unembed = getattr(model, "unembed", None)
        if not isinstance(weight := getattr(unembed, "weight", None), Tensor):
            raise BadValue(f"table: {lm.name} has no vectors of the output; use --table input")
        table = weight
    return table.detach()[: lm.tokenizer.vocab_size].cpu().float()


def _nearest(
    cloud: Float[Tensor, "N D"], table: Float[Tensor, "M D"], own: Int[Tensor, " N"], without: list[int]
) -> tuple[Int[np.ndarray, "N k"], Float[np.ndarray, "N k"]]:
    """Of each point the rows of a table with the largest cosine; itself and some others are left out."""
    cosine = F.normalize(cloud, dim=1) @ F.normalize(table, dim=1).T  # (N, M)
    cosine[:, without] = -torch.inf
    cosine[torch.arange(len(cloud)), own] = -torch.inf
    best = cosine.topk(min(NEAR, cosine.shape[1]), dim=1)
    rows = torch.where(best.values.isfinite(), best.indices, -1)
    return rows.numpy().astype(np.int32), best.values.numpy().astype(np.float32)


_BYTES = re.compile(r"(<0x[0-9A-Fa-f]{2}>)+")


def kind_of(piece: Piece) -> str:
    """What sort of token it is, by its first character behind spaces."""
    if piece.special:
        return "special"
    text = piece.text.removeprefix("##").strip()
    if not text:
        return "space"
    if _BYTES.fullmatch(text):
        return "bytes"
    first = text.lstrip("▁Ġ")[:1]
    if first.isalpha():
        return "capital" if first.isupper() or first.istitle() else "lower case" if first.islower() else "other letter"
    return "digit" if first.isdigit() else "punctuation"


# --- few numbers of many --------------------------------------------------------------------------------------------


def _alignment(clouds: Sequence[Float[Tensor, "N _"]]) -> str:
    """One basis where the tokens' vectors point alike in neighbouring frames, as states of one training do."""
    if len({cloud.shape[1] for cloud in clouds}) > 1:
        return "procrustes"
    alike = [
        float(F.cosine_similarity(a, b, dim=1).mean()) for a, b in pairwise(clouds)
    ]  # fmt: skip
    return "basis" if min(alike) > SAME_TRAINING else "procrustes"


def axes_of(cloud: Float[Tensor, "N D"], dims: int) -> Float[Tensor, "D d"]:
    """The first principal axes of a centred cloud; the largest part of each points up."""
    _, _, rows = torch.linalg.svd(cloud, full_matrices=False)
    axes = rows[:dims].T
    signs = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    axes = axes * signs
    return F.pad(axes, (0, dims - axes.shape[1]))  # fewer numbers than axes


def principal(
    clouds: Sequence[Float[Tensor, "N _"]], dims: int, shared: bool
) -> tuple[list[Float[np.ndarray, "N d"]], list[list[float]]]:
    """Centred clouds on their principal axes, or all on the last one's, and the share of its variance on each axis."""
    points, shares = [], []
    for cloud in clouds:
        place = cloud @ axes_of(clouds[-1] if shared else cloud, dims)
        points.append(place.numpy())
        total = float(cloud.square().sum())
        shares.append([float(v) / total if total else 0.0 for v in place.square().sum(dim=0)])
    return points, shares


def _tsne(clouds: Sequence[Float[Tensor, "N _"]], options: EmbeddingsOptions) -> list[Float[np.ndarray, "N d"]]:
    """Each cloud by t-SNE, begun from its principal axes, or from where the frame after it ended."""
    from sklearn.manifold import TSNE

    found: list[np.ndarray] = []
    begin = principal(clouds[-1:], options.dims, False)[0][0]
    for cloud in reversed(clouds):
        scale = float(begin[:, 0].std()) or 1.0
        method = TSNE(
            n_components=options.dims,
            perplexity=min(options.neighbourhood, (len(cloud) - 1) / 3),
            init=(begin / scale * 1e-4).astype(np.float32),
            random_state=options.seed % 2**32,
            method="barnes_hut" if len(cloud) > 50 else "exact",
        )
        unit = F.normalize(cloud, dim=1).float().numpy()  # whose distances are by the angle alone
        begin = method.fit_transform(unit).astype(np.float64)
        begin -= begin.mean(axis=0)
        found.insert(0, begin)
    return found


def turned(frames: Sequence[Float[np.ndarray, "N d"]]) -> list[Float[np.ndarray, "N d"]]:
    """Centred frames, each turned and mirrored onto the one after it with the least squares between them."""
    found = [frames[-1]]
    for frame in reversed(frames[:-1]):
        u, _, v = np.linalg.svd(frame.T @ found[0])
        found.insert(0, frame @ (u @ v))
    return found
