"""The bar of what takes long before there is a card: drawn where somebody looks, gone in the end."""

from __future__ import annotations

import sys

import IPython.display
import pytest

from llm_lab import progress
from llm_lab.progress import Bar
from llm_lab.views import progress as views


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)


class Handle:
    def __init__(self, drawn):
        self.drawn = [drawn]

    def update(self, data, raw):
        self.drawn.append(data)


@pytest.fixture
def notebook(monkeypatch):
    made = []
    monkeypatch.setattr(views, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda data, **_: made.append(Handle(data)) or made[-1])
    return made


def test_one_place_in_a_notebook_that_is_empty_in_the_end(notebook):
    with Bar(2_000_000, "tokenizing <b>", "characters") as bar:
        bar.update(500_000)
        bar.update(500_000)
    (handle,) = notebook
    first, second, last = handle.drawn
    assert first["text/plain"].startswith("tokenizing <b> · 25% of 2.00 M characters · ")
    assert "tokenizing &lt;b&gt;" in first["text/html"]
    assert "50.0%" in second["text/html"]
    assert last == {"text/plain": "", "text/html": ""}


def test_also_after_an_error(notebook):
    def fails():
        with Bar(10, "tokenizing") as bar:
            bar.update(1)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    assert notebook[0].drawn[-1] == {"text/plain": "", "text/html": ""}


def test_one_line_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar(10, "reading") as bar:
        bar.update(5)
        bar.update(5)
    said = capsys.readouterr().err
    assert "reading · 50% of 10 bytes" in said
    assert said.endswith("100% of 10 bytes · 0:00 left\r\x1b[K")
    assert "\n" not in said


def test_a_file_is_kept_free_of_it(capsys):
    with Bar(10, "reading") as bar:
        bar.update(5)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_drawn_of_what_is_quick(monkeypatch, notebook):
    monkeypatch.setattr(progress, "DELAY", 60.0)
    with Bar(10, "reading") as bar:
        bar.update(10)
    assert notebook == []
