"""Everything that names a text, and what is said of what does not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

from llm_lab.corpora import files, shakespeare
from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.open import open_corpus
from llm_lab.errors import BadType, BadValue

PLAYS = Path(os.environ.get("LLM_LAB_DATA", "")) / shakespeare.FILE
needs_plays = pytest.mark.skipif(
    not (os.environ.get("LLM_LAB_DATA") and PLAYS.is_file()), reason=f"LLM_LAB_DATA names no folder with {PLAYS.name}"
)


def refused(spec: object, *words: str, **options: str) -> None:
    with pytest.raises((BadValue, BadType)) as caught:
        open_corpus(spec, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_text_and_lists() -> None:
    assert open_corpus(["中文", "b"]).documents == ("中文", "b")
    assert open_corpus(("a",), name="cell").name == "cell"
    assert open_corpus("two\nlines").documents == ("two\nlines",)
    assert open_corpus("text:shakespeare").documents == ("shakespeare",)
    assert open_corpus("word " * 300).n_chars == 1500
    same = Corpus("x", "y", ["z"])
    assert open_corpus(same) is same
    assert "1 empty left out" in open_corpus(["a", " ", "b"]).source


def test_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfBOM\r\nand\rlines\n")
    (tmp_path / "a.txt").write_text("第一\n", encoding="utf-8")
    assert open_corpus(str(tmp_path / "b.txt")).documents == ("BOM\nand\nlines\n",)
    assert open_corpus(tmp_path / "a.txt").name == "a"
    assert open_corpus(str(tmp_path / "*.txt")).documents == ("第一\n", "BOM\nand\nlines\n")
    assert open_corpus(tmp_path / "*.txt").source.startswith("2 files")


def test_files_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("novel.txt").write_text("text")
    Path("empty.txt").write_text("")
    Path("sub").mkdir()
    refused("nowel.txt", "does not exist", "did you mean 'novel.txt'")
    refused("sub/missing.txt", "does not exist")
    refused("empty.txt", "empty")
    refused("sub", "is a folder", "sub/*.txt")
    refused("*.md", "no file matches")
    refused("shakespeer", "unknown", "no such file", "did you mean 'shakespeare'", "python-docs")
    refused("", "empty name")
    refused("x" * 900, "cannot be a file's name" if os.name == "posix" else "")
    refused("a\0b", "cannot be")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("naïve café".encode("latin-1"), ("byte 0xEF at offset 2", "latin-1")),
        ("人人生而自由，在尊严和权利上一律平等。".encode("gb18030"), ("offset 0", "gb18030")),
        ("hello".encode("utf-16"), ("utf-16",)),
        (b"\x89PNG\0\0\xff", ("not text at all",)),
        (b"\xef\xbb\xbfab\xff", ("byte 0xFF at offset 5",)),
    ],
)
def test_files_that_are_not_utf8(tmp_path: Path, data: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes(data)
    refused(str(path), "not UTF-8", "old.txt", *words)


def test_other_things() -> None:
    refused(b"abc", "decode")
    refused(3, "int 3")
    refused(None, "NoneType")
    refused([], "empty")
    refused(["a", 3], "item 1 is int")
    refused("ftp://example.org/x", "ftp", "https")


def test_dataframes() -> None:
    frame = pd.DataFrame({"n": [1, 2, 3], "review": ["good", None, "差"]})
    found = open_corpus(frame)
    assert found.documents == ("good", "差") and found.name == "review" and "1 missing left out" in found.source
    assert open_corpus(frame["review"]).documents == found.documents
    frame["title"] = ["x", "y", "z"]
    refused(frame, "2 columns hold text", "--column review", "title")
    assert open_corpus(frame, column="title").documents == ("x", "y", "z")
    assert open_corpus(frame.rename(columns={"title": "text"})).name == "text"
    refused(frame, "did you mean 'title'", column="titel")
    refused(frame, "holds int", column="n")
    refused(frame[["n"]], "no column holds text")
    refused(pd.DataFrame([["a", "b"]], columns=["t", "t"]), "column")
    assert open_corpus(pd.DataFrame({0: ["a"]})).documents == ("a",)
    refused(pd.DataFrame({"t": ["a", 3]}), "holds int 3")


def test_opening_does_not_import_pandas_or_torch(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    code = (
        "import sys; from llm_lab.corpora.open import open_corpus; open_corpus(sys.argv[1]).report(); "
        "assert not {'pandas', 'torch', 'IPython', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=True)


def test_url_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pooch

    (tmp_path / "page.txt").write_text("from afar\n")
    asked = []

    def retrieve(url: str, **options: object) -> str:
        asked.append((url, options["known_hash"]))
        return str(tmp_path / "page.txt")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    found = open_corpus("https://example.org/books/page.txt?x=1")
    assert found.documents == ("from afar\n",) and found.name == "page" and "cannot be checked" in found.source
    assert asked == [("https://example.org/books/page.txt?x=1", None)]


def test_url_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def retrieve(*args: object, **options: object) -> str:
        raise ConnectionError("long\nstory")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.delenv("LLM_LAB_DATA", raising=False)
    refused("https://example.org/x.txt", "no connection", "example.org")
    refused("shakespeare", "no connection", "LLM_LAB_DATA", "python-docs")


class _Rows(dict):  # type: ignore[type-arg]
    """What `datasets` returns, as far as it is read."""

    features: ClassVar = {"id": types.SimpleNamespace(dtype="int64"), "text": types.SimpleNamespace(dtype="string")}

    def __len__(self) -> int:
        return 3


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:user/name", "pip install")
    rows = _Rows(text=["a", None, "b"], id=[1, 2, 3])
    fake = types.SimpleNamespace(load_dataset=lambda name, split: rows if (name, split) == ("u/n", "test") else 1 / 0)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = open_corpus("hf:u/n:test")
    assert found.documents == ("a", "b") and found.name == "u/n" and "1 missing left out" in found.source
    refused("hf:u/n", "cannot be had", "'train'")
    refused("hf:u/n:test", "not text", column="id")
    refused("hf:a b", "no data set's name")


def test_python_docs() -> None:
    found = open_corpus("python-docs")
    assert found.n_bytes > 300_000 and len(found.documents) > 50 and "Python 3" in found.source


@needs_plays
def test_shakespeare() -> None:
    found = open_corpus("shakespeare")
    assert (found.n_chars, len(set(found.text))) == (1_115_394, 65)
    train, val = found.split()
    assert (train.n_chars, val.n_chars) == (1_003_854, 111_540)
    report = found.report()
    assert report.top_words[0] == ("the", 6287) and report.n_duplicates == 74


def test_shakespeare_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / shakespeare.FILE).write_text("To be")
    monkeypatch.setenv("LLM_LAB_DATA", str(tmp_path))
    refused("shakespeare", "SHA-256", shakespeare.FILE)
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(b"To be").hexdigest())
    assert open_corpus("shakespeare").documents == ("To be",)


def test_the_cache_is_used_where_the_folder_lacks_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    (tmp_path / shakespeare.FILE).write_text("cached")
    monkeypatch.setenv("LLM_LAB_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(b"cached").hexdigest())
    assert open_corpus("shakespeare").documents == ("cached",)
    assert files.download(shakespeare.URL, shakespeare.SHA256, shakespeare.FILE) == tmp_path / shakespeare.FILE
