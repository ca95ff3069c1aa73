"""Python's own help topics, which come with the standard library: half a megabyte of English prose, no network."""

from __future__ import annotations

import platform

from llm_lab.corpora.corpus import Corpus
from llm_lab.errors import BadValue


def read() -> Corpus:
    """One document a topic, by the topics' names. The text differs a little between versions of Python."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise BadValue(
            "python-docs: this Python came without pydoc_data; use another corpus, for example shakespeare"
        ) from None
    documents = [topics[name] for name in sorted(topics)]
    return Corpus("python-docs", f"help topics of Python {platform.python_version()}", documents)
