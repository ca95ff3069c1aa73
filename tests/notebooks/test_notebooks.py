"""The tutorial notebooks, executed top to bottom in a real kernel at small scale."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

import llm_lab as lab

ROOT = Path(lab.__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
SMALL = {  # what a reader runs -> what the tests run
    # One thread: two that share their cores with other tests spend their time waiting for each other.
    r"--seconds 60\b": "--seconds 4 --threads 1",
    r"--seconds 10\b": "--steps 3 --threads 1",
    r"--max_new_tokens \d+": "--max_new_tokens 12",
}

# What the views of a notebook must say, by the id of the cell; anything else only has to run.
EXPECTED = {
    "00_quickstart": {
        "corpus": ["shakespeare", "1,115,394", "<img|<table"],
        "tokenize": ["char", "byte", "bpe", "exact"],
        "build": ["tiny", "modern", "<img", "attention"],
        "pretrain": ["bard", "trained", "shakespeare, char", "<img", "nats/char"],
        "generate": ["bard", "top_p"],
        "cold": ["seed 1", "0.3"],
        "hot": ["seed 1", "1.5"],
        "probe": ["bard", "attention", "4 layers × 4 heads", "<img"],
        "evaluate": ["bard", "perplexity", "bits per byte", "±"],
        "history": ["train_loss", "val_loss"],
        "runs": ["bard", "finished"],
        "own-text": ["wisdom|epoch"],
        "chinese-pretrain": ["poet", "<img"],
        "chinese-generate": ["poet", "[\u4e00-\u9fff]"],
        "own-model-pretrain": ["mine", "MyGPT", "<img"],
        "own-model-generate": ["mine"],
        "python": ["bits_per_byte", "mine"],
        "help": ["--strategy", "--temperature", "greedy"],
    }
}

# Asked of the kernel after the last cell.
ASSERTS = {
    "00_quickstart": """
assert bard.name == "bard" and bard.run.status == "finished", bard.run.status
assert {"step", "tokens", "seconds", "train_loss", "val_loss", "lr"} <= set(bard.history.columns)
assert not bard.history["train_loss"].isna().any()
assert poet.tokenizer.decode(poet.tokenizer.encode("床前明月光")) == "床前明月光"
assert type(mine.model.module) is MyGPT
assert scores["bits_per_byte"] > 0
assert "tiny" in dir() and sum(p.numel() for p in tiny.parameters()) > 500_000
assert sorted(lab.runs()["name"]) == ["bard", "mine", "poet"]
""",
}


class _ThisPython(KernelSpecManager):
    """Kernels of the interpreter that runs the tests, whatever is installed under the name python3."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="this Python", language="python", metadata={"debugger": False})


class _Kernel(AsyncKernelManager):
    """A kernel manager that asks `_ThisPython`."""

    def __init__(self, **options):
        super().__init__(**options, kernel_spec_manager=_ThisPython())


def small(source: str) -> str:
    for pattern, replacement in SMALL.items():
        source = re.sub(pattern, replacement, source)
    return source


def execute(notebook, folder: Path, monkeypatch):
    """The notebook with its outputs, run in `folder`."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    client = NotebookClient(
        notebook, timeout=240, kernel_manager_class=_Kernel, resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def shown(cell) -> str:
    """All that a cell shows as HTML."""
    return "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata  # GitHub shows such a notebook as invalid
    assert path.stem in EXPECTED, "add what the views of this notebook must say"
    assert set(EXPECTED[path.stem]) <= {cell.id for cell in notebook.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not re.search(r"--seconds (?!60\b|10\b)", cell.source), "SMALL does not shorten this cell"


@pytest.mark.notebook
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.filterwarnings("ignore:.*Proactor.*", "ignore:.*encryption.*")
def test_notebook_runs(name, tmp_path, monkeypatch):
    try:
        lab.corpus("shakespeare")
    except lab.LabError as error:
        pytest.skip(str(error))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, cell.outputs = small(cell.source), []
    notebook.cells.append(nbformat.v4.new_code_cell(ASSERTS[name]))
    done = execute(notebook, tmp_path, monkeypatch)
    by_id = {cell.id: cell for cell in done.cells if cell.cell_type == "code"}
    for cell in by_id.values():
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert not errors, (cell.source, errors)
    for cell_id, patterns in EXPECTED[name].items():
        found = shown(by_id[cell_id])
        missing = [pattern for pattern in patterns if not re.search(pattern, found)]
        assert not missing, (cell_id, missing, re.sub(r"data:[^\"]*", "data:…", found)[:3000])
