"""What an answer is worth beside the one that is right: functions (text, target) -> float, more is better."""

from __future__ import annotations

import re
import string
from collections import Counter

from llm_lab.metrics.diversity import bleu_words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORDS = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]|[^\\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]+"
)
_SIGNS = str.maketrans("", "", string.punctuation + "，。！？；：、“”‘’（）《》")


def exact_match(text: str, target: str) -> float:
    """1 where they are the same but for white space around them, else 0."""
    return float(text.strip() == target.strip())


def contains(text: str, target: str) -> float:
    """1 where the target stands somewhere in the text, else 0."""
    return float(target.strip() in text)


def f1(text: str, target: str) -> float:
    """The harmonic mean of precision and recall of words, in lower case without signs and articles, 0 to 1 (Rajpurkar et
    al. 2016, §6.1). In Chinese, Japanese and Korean each character is a word."""
    said, right = _words(text), _words(target)
    if not said or not right:
        return float(said == right)
    same = sum((Counter(said) & Counter(right)).values())
    return 2 * same / (len(said) + len(right))


def chrf(text: str, target: str) -> float:
    """chrF2 of the sentence, 0 to 100, by sacrebleu (Popović 2015)."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(text, [target]).score)


def bleu(text: str, target: str) -> float:
    """BLEU of the sentence, 0 to 100, by sacrebleu with exponential smoothing and no longer n-grams than it has (Papineni
    et al. 2002; Chen and Cherry 2014). The mean over sentences is not the BLEU of a corpus."""
    from sacrebleu.metrics import BLEU

    return float(BLEU(tokenize=bleu_words([text, target]), effective_order=True).sentence_score(text, [target]).score)


def _words(text: str) -> list[str]:
    return _WORDS.findall(_ARTICLES.sub(" ", text.lower().translate(_SIGNS)))
