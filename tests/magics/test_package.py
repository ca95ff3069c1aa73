"""The package costs nothing to import, and its names are those of the verbs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llm_lab
from llm_lab.errors import NotYet
from llm_lab.verbs import VERBS

ROOT = Path(llm_lab.__file__).parents[1]


def python(code, *args, **more):
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        encoding="utf-8",
        check=False,
        **more,
    )


def test_loading_and_the_first_tab_import_nothing_heavy():
    code = """
import sys, time
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.completer import provisionalcompleter
ip = InteractiveShell.instance()
ip.user_ns_hidden
before = set(sys.modules)
start = time.perf_counter()
ip.run_line_magic("load_ext", "llm_lab")
seconds = time.perf_counter() - start
with provisionalcompleter():
    start = time.perf_counter()
    found = [c.text for c in ip.Completer.completions("%pretrain bard --sec", 20)]
    tab = time.perf_counter() - start
ip.run_cell("%pretrain?")
ip.run_cell("%pretrain bard --steps -5")
heavy = {"torch", "numpy", "pandas", "plotly", "transformers", "ipywidgets", "anywidget", "tokenizers", "safetensors"}
print("HEAVY", sorted(heavy & (set(sys.modules) - before)), found, seconds < 0.3, tab < 0.3, seconds, tab)
"""
    done = python(code)
    assert "HEAVY [] ['--seconds'] True True" in done.stdout, done.stdout + done.stderr


def test_public_names_are_the_verbs():
    for name, verb in VERBS.items():
        if name != "lab":  # the module llm_lab.lab holds that name
            assert name in llm_lab.__all__
            assert name in dir(llm_lab)
            assert (name in llm_lab._LATER) == (not verb.target)
    with pytest.raises(NotYet, match="finetune is not there yet"):
        llm_lab.finetune(1, prompt="a")
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        _ = llm_lab.pretrian


def test_importing_every_module_hides_no_public_name():
    code = """
import importlib, pkgutil, llm_lab
for found in pkgutil.walk_packages(llm_lab.__path__, "llm_lab."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print("WRONG", [name for name in llm_lab.__all__ if type(getattr(llm_lab, name)).__name__ == "module"])
"""
    done = python(code)
    assert "WRONG []" in done.stdout, done.stderr
