"""What a text is made of, counted: words, characters, duplicates, a sample; it does not know how that is drawn."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

from llm_lab.results import CorpusReport

if TYPE_CHECKING:
    from llm_lab.corpora.corpus import Corpus

_SAMPLE = 400  # characters
_TOP = 20
# Scripts that put no spaces between words: Han, kana, and their iteration marks.
UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


def report(corpus: Corpus, train_chars: int) -> CorpusReport:
    """Count a corpus.

    A word is a run of letters, digits and marks, with apostrophes and hyphens inside it; upper and lower case are
    the same word. Chinese characters and Japanese kana are each a word of their own, since nothing separates words
    there. Duplicates are documents (paragraphs, where there is one document) that were there before, letter by letter.
    """
    words: Counter[str] = Counter()
    characters: set[str] = set()
    for text, _ in corpus.pieces():
        characters.update(text)
        for line in text.splitlines():
            words.update(_words().findall(line.lower()))
    single = len(corpus.documents) == 1
    units: Iterable[Hashable] = (
        _paragraphs(corpus) if single else (hash(text.strip()) for text in corpus.documents if text.strip())
    )
    return CorpusReport(
        name=corpus.name,
        source=corpus.source,
        n_documents=len(corpus.documents),
        n_chars=corpus.n_chars,
        n_bytes=corpus.n_bytes,
        n_words=words.total(),
        n_distinct_chars=len(characters),
        n_distinct_words=len(words),
        # Counter.most_common leaves ties in the order of first appearance, which is the text's own
        top_words=words.most_common(_TOP),
        n_duplicates=_repeats(units),
        duplicate_unit="paragraphs" if single else "documents",
        train_chars=train_chars,
        val_chars=corpus.n_chars - train_chars,
        fingerprint=corpus.fingerprint,
        sample=_sample(corpus) if corpus.targets is None else _pairs(corpus),
        entropy=corpus.entropy,
        notes=list(corpus.notes),
    )


def _repeats(hashes: Iterable[Hashable]) -> int:
    """How many repeat an earlier one. Of hashes, since the texts may not fit the memory."""
    seen = Counter(hashes)
    return seen.total() - len(seen)


def _paragraphs(corpus: Corpus) -> Iterator[bytes]:
    """The hash of what stands between two empty lines, of a corpus of one document."""
    digest, space = hashlib.blake2b(digest_size=8), ""  # of the paragraph so far, but for white space at its end
    empty = digest.digest()
    for text, last in corpus.pieces():
        parts = re.split(r"\n\s*\n", space + text)
        for i, part in enumerate(parts):
            if digest.digest() == empty:
                part = part.lstrip()
            ended = i < len(parts) - 1 or last
            said = part.rstrip()
            space = "" if ended else part[len(said) :]
            digest.update(said.encode())
            if ended:
                if digest.digest() != empty:
                    yield digest.digest()
                digest = hashlib.blake2b(digest_size=8)


def _sample(corpus: Corpus) -> str:
    """About 400 characters from a third of the way in, from the start of a line where one is near.

    Short documents are shown from their beginning, several of them.
    """
    at = corpus.n_chars // 3 if corpus.n_chars > 3 * _SAMPLE else 0
    pieces = corpus.pieces()
    for document, last in pieces:
        if at < len(document):
            while not last and len(document) < at + 2 * _SAMPLE:
                more, last = next(pieces)
                document += more
            if len(document) < _SAMPLE and at:
                return "\n\n".join([document, *(text for text, _ in itertools.islice(pieces, 2))])[:_SAMPLE].strip()
            line = document.find("\n", at, at + _SAMPLE) + 1 if at else 0
            return document[line or at :][:_SAMPLE].strip() or document.strip()[:_SAMPLE]
        at -= len(document)
    return ""


def _pairs(corpus: Corpus) -> str:
    """A few documents with their targets, from a third of the way in, about 400 characters."""
    assert corpus.targets is not None
    said = ""
    for i in range(len(corpus.documents) // 3, len(corpus.documents)):
        said += f"{corpus.documents[i][:_SAMPLE]}\n→ {corpus.targets[i][:_SAMPLE]}\n\n"
        if len(said) >= _SAMPLE:
            break
    return said.strip()


@functools.cache
def _words() -> re.Pattern[str]:
    # `re` keeps combining marks out of \w, which would cut Hindi or Arabic words in pieces
    letter = rf"(?:[^\W_{UNSPACED}]|[{''.join(_marks())}])"
    return re.compile(rf"[{UNSPACED}]|{letter}+(?:['’-]{letter}+)*")


def _marks() -> Iterator[str]:
    """Unicode's combining marks as ranges of a character class."""
    codes = (code for code in range(0x300, 0x20000) if unicodedata.category(chr(code))[0] == "M")
    for _, run in itertools.groupby(enumerate(codes), key=lambda pair: pair[1] - pair[0]):
        found = [code for _, code in run]
        yield f"{chr(found[0])}-{chr(found[-1])}"
