"""A corpus: sizes, fingerprint, split, report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_lab.corpora.corpus import Corpus
from llm_lab.errors import BadType, BadValue

documents = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=6)


def corpus(*texts: str) -> Corpus:
    return Corpus("test", "a test", texts)


def test_sizes() -> None:
    found = corpus("中文", "ab\n")
    assert (found.n_chars, found.n_bytes, found.text) == (5, 9, "中文\n\nab\n")
    assert repr(found) == "Corpus('test': 2 documents, 5 characters)"


def test_fingerprint_knows_the_boundaries_and_not_the_name() -> None:
    assert corpus("ab", "c").fingerprint != corpus("a", "bc").fingerprint != corpus("abc").fingerprint
    assert Corpus("x", "y", ["ab", "c"]).fingerprint == corpus("ab", "c").fingerprint
    assert len(corpus("a").fingerprint) == 64


@given(documents, st.floats(0.05, 0.95))
def test_split_keeps_every_character_in_order(texts: list[str], share: float) -> None:
    try:
        whole = corpus(*texts)
        train, val = whole.split(share)
    except BadValue:
        return  # too short, or only white space on one side
    assert "".join(train.documents) + "".join(val.documents) == "".join(texts)
    assert train.n_chars == int(whole.n_chars * share)
    assert all(train.documents) and all(val.documents)


def test_split_cuts_the_document_across_the_boundary() -> None:
    train, val = corpus("abcd", "efghij").split(0.6)
    assert (train.documents, val.documents) == (("abcd", "ef"), ("ghij",))
    assert train.name == "test:train" and val.name == "test:val"


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, True, "0.9", float("nan")])
def test_split_refuses_what_is_no_share(share: object) -> None:
    with pytest.raises(BadValue, match="between 0 and 1"):
        corpus("abc").split(share)  # type: ignore[arg-type]


def test_what_is_no_corpus() -> None:
    with pytest.raises(BadValue, match="empty"):
        corpus("", " \n")
    with pytest.raises(BadValue, match="empty"):
        corpus()
    with pytest.raises(BadType, match="item 1 is int 3"):
        Corpus("x", "y", ["a", 3])  # type: ignore[list-item]
    with pytest.raises(BadValue, match="lone surrogate"):
        corpus("ab\ud800c")
    with pytest.raises(BadValue, match="train needs some"):
        corpus("a").split()


def test_report_counts_words_and_duplicates() -> None:
    report = corpus("The cat's well-known hat.\n\nthe end\n\n\nThe end\n \nthe end").report()
    assert report.top_words[:2] == [("the", 4), ("end", 3)]
    assert {"cat's", "well-known", "hat"} <= {word for word, _ in report.top_words}
    assert (report.n_words, report.n_distinct_words) == (10, 5)
    assert (report.n_duplicates, report.duplicate_unit) == (1, "paragraphs")
    assert (report.train_chars + report.val_chars, report.n_documents) == (report.n_chars, 1)
    assert corpus("a", "b", "a", "a").report().n_duplicates == 2
    assert corpus("a", "b", "a").report().duplicate_unit == "documents"


def test_report_counts_chinese_and_marked_words() -> None:
    report = corpus("他说：我说，GPT-2 很好。हिन्दी ひらがな don’t_x").report()
    words = dict(report.top_words)
    assert words["说"] == 2 and words["gpt-2"] == 1 and words["हिन्दी"] == 1 and words["ひ"] == 1
    assert words["don’t"] == 1 and not {"：", "。", "_"} & set(words)


def test_sample_is_from_inside_and_the_same_each_time() -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    sample = corpus(text).report().sample
    assert sample == corpus(text).report().sample and sample.startswith("line 3") and 300 < len(sample) <= 400
    assert corpus("short").report().sample == "short"
    assert corpus("x" * 5000).report().sample == "x" * 400
