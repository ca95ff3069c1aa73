"""The verbs from a shell: the same parser, results as text, errors as one line and status 2."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import llm_lab
from llm_lab.__main__ import main


@pytest.fixture
def shell(lab, capsys):
    def run(*argv):
        lab.calls.clear()
        status = main(list(argv))
        out = capsys.readouterr()
        return status, out.out, out.err

    run.calls = lab.calls
    return run


@pytest.mark.parametrize(
    ("argv", "kwargs"),
    [
        (
            ["pretrain", "bard", "shakespeare", "--steps", "500"],
            {"name": "bard", "corpus": "shakespeare", "steps": 500},
        ),
        (["generate", "bard", "To be, or", "--n=2"], {"model": "bard", "prompt": "To be, or", "n": 2}),
        (["generate", "bard", "ROMEO:"], {"model": "bard", "prompt": "ROMEO:"}),
        (["generate", "bard", "--prompt", "# “x”; @y"], {"model": "bard", "prompt": "# “x”; @y"}),
        (["generate", "bard", "@y"], {"model": "bard", "prompt": "@y"}),
        (["probe", "bard", "hello"], {"model": "bard", "text": ["hello"]}),
        (
            ["probe", "bard", "attention", "hello", "you"],
            {"model": "bard", "kind": "attention", "text": ["hello", "you"]},
        ),
        (["evaluate", "a,b", "my text.txt"], {"model": ["a", "b"], "data": "my text.txt"}),
        (["lab", "show", "bard"], {"action": "show", "name": "bard"}),
        (["tokenize", "x"], {"text": "x"}),
    ],
)
def test_runs(shell, argv, kwargs):
    status, _, err = shell(*argv)
    assert (status, err) == (0, "")
    assert shell.calls == [(argv[0], kwargs)]


def test_prints_the_result(shell, monkeypatch):
    module = types.SimpleNamespace(corpus=lambda **kwargs: "the report", __name__="fake_lab")
    monkeypatch.setitem(sys.modules, "fake_lab", module)
    assert shell("corpus") == (0, "the report\n", "")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["genrate"], "did you mean 'generate'"),
        (["pretrain", "bard", "--steps", "-5"], "steps: -5 is out of range"),
        (["pretrain", "bard", "—steps", "5"], "write --steps"),
        (["pretrain", "bard", "--steps", "5", "--steps", "5"], "given twice"),
        (["tokenize"], "needs a text"),
        (["generate"], "needs the name of a model"),
        (["export", "a"], "not there yet"),
        (["generate", "bard", "--body", "none.txt"], "cannot be read"),
        (["generate", "bard", "--body"], "needs a value"),
    ],
)
def test_errors(shell, argv, says):
    status, out, err = shell(*argv)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
    assert not shell.calls


def test_help(shell):
    assert "pretrain" in shell()[1]
    assert "pretrain" in shell("--help")[1]
    status, out, _ = shell("pretrain", "--help")
    assert status == 0
    assert "--seconds" in out
    assert "--body" in out


def test_bodies(shell, tmp_path, monkeypatch):
    (tmp_path / "o.toml").write_text("steps = 5\n[model]\nn_layer = 2\n", encoding="utf-8")
    shell("pretrain", "bard", "--body", str(tmp_path / "o.toml"))
    assert shell.calls == [("pretrain", {"name": "bard", "steps": 5, "n_layer": 2})]
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO("中文\n".encode())))
    shell("generate", "bard", "--body", "-")
    assert shell.calls == [("generate", {"model": "bard", "prompt": "中文"})]
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in shell("generate", "bard", "--body", str(tmp_path / "bad"))[2]


def test_what_shows_itself_is_printed_as_its_text(shell, monkeypatch):
    class Shown:
        def _repr_mimebundle_(self, include=None, exclude=None):
            return {"text/plain": "the report", "text/html": "<b>the report</b>"}

    module = types.SimpleNamespace(corpus=lambda **kwargs: Shown(), __name__="fake_lab")
    monkeypatch.setitem(sys.modules, "fake_lab", module)
    assert shell("corpus") == (0, "the report\n", "")


def _process(*words, **given):
    path = os.pathsep.join([str(Path(llm_lab.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **given.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "llm_lab", *words], env=environment, **given)


def test_a_report_is_printed_whatever_the_terminal_can_hold():
    with _process("build", "x", stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}) as p:
        out, err = p.communicate(timeout=120)
    assert (p.returncode, err) == (0, b"")
    assert b"embedding" in out
    assert b"FLOPs" in out


def test_a_reader_that_leaves_is_no_error():
    with _process("--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, b"")
