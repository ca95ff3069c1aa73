"""A corpus as arrays on disk: the right ids, written once, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from llm_lab.corpora import shakespeare
from llm_lab.corpora.corpus import Corpus
from llm_lab.data import arrays
from llm_lab.data.arrays import tokenize
from llm_lab.errors import BadValue
from llm_lab.tokenizers.tokenizer import Tokenizer, train

DATA = Path(os.environ.get("LLM_LAB_DATA", "")) / shakespeare.FILE


def corpus(*texts: str) -> Corpus:
    return Corpus("test", "a test", texts)


def test_one_document_has_no_end(tmp_path: Path) -> None:
    text = corpus("中文 text")
    tokenizer = train(text, "byte")
    found = tokenize(text, tokenizer, tmp_path / "new" / "folder")
    assert isinstance(found.ids, np.memmap) and found.ids.dtype == np.uint16 and found.offsets.dtype == np.int64
    assert found.ids.tolist() == tokenizer.encode("中文 text") and found.offsets.tolist() == [0, len(found)]
    assert (found.n_chars, found.n_bytes, found.n_documents) == (7, 11, 1)


@pytest.mark.parametrize("batch", [1, 7, 1 << 21])
@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
def test_several_documents_end_with_eos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, kind: str) -> None:
    monkeypatch.setattr(arrays, "_BATCH", batch)
    monkeypatch.setattr(arrays, "_PART", 5)
    text = corpus("one two three four\nfive", "", "六七", "eight nine ten eleven twelve", "x")
    tokenizer = train(text, kind)
    found = tokenize(text, tokenizer, tmp_path)
    split = [found.ids[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)]
    assert split == [[*tokenizer.encode(document), tokenizer.specials["eos"]] for document in text.documents]
    assert found.n_documents == 5 and found.offsets[-1] == len(found)


@pytest.mark.parametrize("batch", [1, 9, 1 << 21])
def test_of_a_pair_the_target_follows_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(arrays, "_BATCH", batch)
    monkeypatch.setattr(arrays, "_PART", 5)
    text = Corpus("test", "a test", ["one two three four", "", "six"], targets=["un deux trois quatre", "rien", "s"])
    tokenizer = train(text, "bpe")
    found = tokenize(text, tokenizer, tmp_path)
    sep, eos = tokenizer.special("sep"), tokenizer.end
    assert [found.document(i).tolist() for i in range(found.n_documents)] == [
        [*tokenizer.encode(source), sep, *tokenizer.encode(target), eos]
        for source, target in zip(text.documents, text.targets or (), strict=True)
    ]


def test_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus("a b c")
    tokenizer = train(text, "char")
    first = tokenize(text, tokenizer, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    stem = f"{text.fingerprint[:16]}-{tokenizer.fingerprint[:16]}"
    assert names == [f"{stem}.json", f"{stem}.npy", f"{stem}.offsets.npy"]
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda *args: pytest.fail("encoded again"))
    assert tokenize(text, tokenizer, tmp_path).ids.tolist() == first.ids.tolist()


def test_other_text_and_other_tokenizer_are_other_files(tmp_path: Path) -> None:
    one, two = corpus("ab"), corpus("ba")
    tokenize(one, train(one, "char"), tmp_path)
    tokenize(two, train(one, "char"), tmp_path)
    tokenize(one, train(one, "byte"), tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize("suffix", [".npy", ".offsets.npy", ".json"])
@pytest.mark.parametrize("damage", ["gone", "short", "empty"])
def test_damaged_files_are_written_again(tmp_path: Path, suffix: str, damage: str) -> None:
    text = corpus("some text", "and more")
    tokenizer = train(text, "char")
    good = tokenize(text, tokenizer, tmp_path)
    ids = good.ids.tolist()
    assert good.path is not None
    path = good.path.with_suffix(suffix)
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[:-3] if damage == "short" else b"")
    assert tokenize(text, tokenizer, tmp_path).ids.tolist() == ids


def test_a_description_of_something_else_is_not_trusted(tmp_path: Path) -> None:
    text = corpus("some text")
    found = tokenize(text, train(text, "char"), tmp_path)
    assert found.path is not None
    about = json.loads(found.path.with_suffix(".json").read_text())
    found.path.with_suffix(".json").write_text(json.dumps({**about, "n_chars": 1}))
    assert tokenize(text, train(text, "char"), tmp_path).n_chars == 9


def test_what_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    old, new = tmp_path / "a.npy.1.part", tmp_path / "b.npy.2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    text = corpus("some text")
    tokenize(text, train(text, "char"), tmp_path)
    assert not old.exists()
    assert new.exists()  # another process writes it


def test_nothing_is_left_of_a_broken_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus("some text")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays, "_header", full)
    with pytest.raises(BadValue, match="No space left"):
        tokenize(text, train(text, "char"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = corpus("some text")
    with pytest.raises(BadValue, match="cannot be written"):
        tokenize(text, train(text, "char"), tmp_path / "file")


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="no tokens"):
        tokenize(corpus("\x01"), train(["words"], "wordpiece"), tmp_path)


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    text = corpus("".join(chr(i) for i in range(0x10000, 0x10000 + 66_000)))
    found = tokenize(text, train(text, "char"), tmp_path)
    assert found.ids.dtype == np.uint32 and found.ids[-1] == 23 + 66_000 - 1


@pytest.mark.skipif(not DATA.is_file(), reason=f"LLM_LAB_DATA names no folder with {shakespeare.FILE}")
def test_shakespeare_by_characters(tmp_path: Path) -> None:
    text = shakespeare.read()
    tokenizer = train(text, "char")
    found = tokenize(text, tokenizer, tmp_path)
    assert len(found) == 1_115_394 and tokenizer.vocab_size == 23 + 65
    assert found.ids.max() == 23 + 65 - 1 and found.ids.min() == 23
    assert tokenizer.decode(found.ids[:20]) == text.text[:20]
