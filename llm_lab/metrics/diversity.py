"""How varied texts are: within one, and between several of one kind."""

from __future__ import annotations

import math
from collections.abc import Sequence


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of the texts together, 0 to 1 (Li et al. 2016, §4.5)."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(texts: Sequence[Sequence[int]], n: int = 4) -> float:
    """The share of a text's n-grams that it had before, the mean of the texts (seq-rep-n, Welleck et al. 2020, §6)."""
    found = [1 - distinct([text], n) for text in texts if len(text) >= n]
    return sum(found) / len(found) if found else math.nan


def self_bleu(texts: Sequence[str]) -> float:
    """BLEU of each text with the others as references, their mean, 0 to 100 (Zhu et al. 2018, §3); nan for one text.

    By sacrebleu: words and signs, or in Chinese, Japanese and Korean each character, with exponential smoothing.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2 or not all(text.strip() for text in texts):
        return math.nan
    bleu = BLEU(tokenize=bleu_words(texts), effective_order=True)
    scores = [bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return sum(scores) / len(scores)


def bleu_words(texts: Sequence[str]) -> str:
    """How sacrebleu is to cut texts of this kind: into words and signs, or into characters where words have no spaces."""
    wide = sum("\u3000" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7af" for text in texts for c in text)
    return "char" if wide > 0.2 * sum(map(len, texts)) else "13a"
