"""Tiny Shakespeare: 1.1 MB of plays in the public domain, downloaded once; it does not know how it is used."""

from __future__ import annotations

import os
from pathlib import Path

from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.files import check_sha256, download, read_text, reason
from llm_lab.errors import BadValue

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FILE = "tinyshakespeare.txt"


def read() -> Corpus:
    """The plays: from the folder that LLM_LAB_DATA names, else from the cache, else from the network."""
    return Corpus("shakespeare", "tiny Shakespeare (char-rnn), public domain", (read_text(_find()),))


def _find() -> Path:
    if folder := os.environ.get("LLM_LAB_DATA"):
        path = Path(folder).expanduser() / FILE
        if path.is_file():
            check_sha256(path, SHA256)
            return path
    try:
        return download(URL, SHA256, FILE)
    except BadValue as error:
        raise BadValue(
            f"shakespeare could not be downloaded ({reason(error.__cause__ or error)}); put {FILE} in a folder "
            "and name it in LLM_LAB_DATA, or use python-docs, which needs no network"
        ) from error
