"""Passages of a text around the tokens at which units are most active, and the tokens that units are about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_lab.results import Passage, Piece, Unit
from llm_lab.tokenizers.tokenizer import Tokenizer

BEFORE, AFTER = 24, 8  # tokens of a passage around its peak; of characters and bytes more
LETTERS = 2.5
TOKENS = 8  # of a unit that are listed
SEEN = 3  # times at least that a token stands in the text before its mean activation is listed


def unit(
    name: str,
    stats: dict[str, float],
    values: np.ndarray,
    ids: np.ndarray,
    starts: np.ndarray,
    tokenizer: Tokenizer,
    top: int,
    logits: np.ndarray | None,
) -> Unit:
    """A unit from its activation at every token, (N,), of blocks that begin at `starts`; `logits` are its logit weights."""
    promoted, suppressed = ends(logits, tokenizer) if logits is not None else ([], [])
    return Unit(
        name,
        stats,
        passages(values, ids, starts, tokenizer, top),
        answered(values, ids, tokenizer),
        promoted,
        suppressed,
    )


def passages(values: np.ndarray, ids: np.ndarray, starts: np.ndarray, tokenizer: Tokenizer, top: int) -> list[Passage]:
    """The passages of the largest activations. No peak stands in the passage of a larger one, and none is at or below the
    mean."""
    scale = LETTERS if tokenizer.kind in ("char", "byte") else 1
    before, after = int(BEFORE * scale), int(AFTER * scale)
    block = np.searchsorted(starts, np.arange(len(ids)), side="right") - 1
    edges = np.append(starts, len(ids))
    free = values > values.mean()
    found: list[Passage] = []
    for t in np.argsort(-values, kind="stable"):
        if len(found) == top or not values[t] > values.mean():
            break
        if not free[t]:
            continue
        low, high = max(t - before, edges[block[t]]), min(t + after + 1, edges[block[t] + 1])
        free[low:high] = False
        shown = values[low:high].astype(np.float32)
        found.append(Passage(tokenizer.pieces(ids[low:high]), shown, int(t - low), int(t)))
    return found


def answered(values: np.ndarray, ids: np.ndarray, tokenizer: Tokenizer) -> list[tuple[Piece, float]]:
    """The tokens at which the mean activation is largest, of those that are not rare."""
    counts = np.bincount(ids)
    sums = np.bincount(ids, weights=values)
    often = counts >= min(SEEN, counts.max())
    means = np.where(often, sums / np.maximum(counts, 1), -np.inf)
    order = [int(i) for i in np.argsort(-means, kind="stable")[:TOKENS] if means[i] > values.mean()]
    return list(zip(tokenizer.pieces(order), means[order].tolist(), strict=True))


def ends(
    logits: np.ndarray, tokenizer: Tokenizer
) -> tuple[Sequence[tuple[Piece, float]], Sequence[tuple[Piece, float]]]:
    """The tokens with the largest and the smallest logit weights, (V,); reserved tokens are left out."""
    kept = tokenizer.text_ids[tokenizer.text_ids < len(logits)]
    order = kept[np.argsort(-logits[kept], kind="stable")]
    count = min(TOKENS, len(order) // 2)
    high, low = order[:count], order[::-1][:count]
    pieces = tokenizer.pieces
    return (
        list(zip(pieces(high), logits[high].tolist(), strict=True)),
        list(zip(pieces(low), logits[low].tolist(), strict=True)),
    )
