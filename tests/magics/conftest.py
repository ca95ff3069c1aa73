"""A running IPython with the extension loaded, and verbs that record what they were asked instead of doing it."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display as show
from IPython.utils.capture import capture_output
from traitlets.config import Config

from llm_lab.magics.extension import load, unload
from llm_lab.verbs import VERBS


class Shown:
    """A result that says who made it."""

    def __init__(self, verb, kwargs):
        self.verb, self.kwargs = verb, kwargs

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": f"<{self.verb}>"}


class Model(Shown):
    """A result that is a language model."""

    model = tokenizer = "here"


Shown.__module__ = Model.__module__ = "llm_lab.store.lm"


@pytest.fixture(scope="session")
def session_shell(tmp_path_factory):
    import os

    os.environ["IPYTHONDIR"] = str(tmp_path_factory.mktemp("ipython"))
    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    ip = InteractiveShell.instance(config=config)
    yield ip
    InteractiveShell.clear_instance()


class Lab:
    """The shell, the calls it led to, and ways to ask for one."""

    def __init__(self, ip, calls):
        self.ip, self.calls = ip, calls

    def run(self, cell):
        """Run a cell; returns (what was shown, what was written to stdout, the error or None)."""
        with capture_output() as out:
            result = self.ip.run_cell(cell, store_history=False)
        return [o.data["text/plain"] for o in out.outputs], out.stdout, result.error_in_exec or result.error_before_exec

    def call(self, cell):
        """The one call that a cell leads to: (verb, keyword arguments)."""
        self.calls.clear()
        shown, stdout, error = self.run(cell)
        assert error is None, error
        assert len(self.calls) == 1, (shown, stdout)
        return self.calls[0]

    def error(self, cell):
        """The one line that a cell ends in; nothing was run."""
        self.calls.clear()
        _, _, error = self.run(cell)
        assert error is not None, self.calls
        assert not self.calls
        return error


@pytest.fixture
def lab(session_shell, monkeypatch, tmp_path):
    calls = []

    def fake(name):
        def record(display=False, **kwargs):
            assert display is VERBS[name].draws  # a verb that draws itself is asked to
            calls.append((name, kwargs))
            result = (Model if name in ("pretrain", "build") else Shown)(name, kwargs)
            if VERBS[name].draws:
                show(result)
            return result

        return record

    module = types.ModuleType("fake_lab")
    for name, verb in list(VERBS.items()):
        setattr(module, name, fake(name))
        if verb.target:
            monkeypatch.setitem(VERBS, name, replace(verb, target=f"fake_lab:{name}"))
    monkeypatch.setitem(sys.modules, "fake_lab", module)
    monkeypatch.chdir(tmp_path)
    session_shell.reset(new_session=False)
    session_shell.config.pop("LLMLab", None)
    load(session_shell)
    yield Lab(session_shell, calls)
    unload(session_shell)
