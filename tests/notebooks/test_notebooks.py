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
    r"--seconds 60 --background\b": "--seconds 25 --threads 1 --background",  # it is looked into, and paused, meanwhile
    # One thread: two that share their cores with other tests spend their time waiting for each other.
    r"--seconds 60\b": "--seconds 4 --threads 1",
    r"--seconds 30\b": "--steps 40 --threads 1",
    r"--seconds 10\b": "--steps 3 --threads 1",
    r"--max_new_tokens \d+": "--max_new_tokens 12",
    r"(?m)^steps = 400$": "steps = 4\nthreads = 1\neval_tokens = 512",
    r'"steps": 400,': '"steps": 4, "threads": 1, "eval_tokens": 512, "sample_tokens": 8,',
    r"size=60_000\b": "size=20_000",  # less, and by chance there may be no place among the new words
    r"splits=6\b": "splits=2",
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
        "probe": ["bard", "attention", r"\d layers × \d heads", "<img"],
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
    },
    # Its checks are assertions of the notebook's own: a part that is not what its formula says stops it.
    "01_build_a_transformer": {
        "embedding": ["thinking", "d7"],
        "qkv": ["Thinking", "Machines", "<th[^>]*>q</th>"],
        "scores": ["softmax", "7.389", "0.731"],
        "sum": ["1.462", "0.538"],
        "attention-check": ["0.269", "1.462"],
        "mask": ["-inf", "1.000"],
        "heads": ["grouped-query", "multi-query", "640"],
        "norm": ["LayerNorm", "RMSNorm", "1.0"],
        "block": ["pre-norm", "post-norm"],
        "stack": ["thinking"],
        "loss": ["the old machine is still", "probability"],
        "loss-mean": ["1.792"],
        "cross": ["Maschine", "machine"],
        "rotary": ["distance 50", "q at 550, k at 500"],
        "experts": ["weight 3"],
        "gpt2": ["small_gpt2", "gpt2 · decoder", "<img", "positions"],
        "bert": ["small_bert", "bert · encoder", "<img", "pooler"],
        "t5": ["small_t5", "t5 · encoder_decoder", "<img", "cross attention"],
        "pretrain": ["author", "trained", "gpt2", "stories, bpe", "<img", "nats/token"],
        "generate": ["author", "seed 1", "A teacher from Rome called"],
        "whole": ["next token", "our probability"],
        "probe": ["author", "attention", "3 layers × 4 heads", "<img"],
    },
    "02_six_ways_to_pretrain": {
        "corpus": ["stories", "entropy, exactly"],
        "one-sentence": ["clm", "&lt;mask&gt;", "&lt;extra_1&gt;", "second half follows", "wrong: "],
        "cost": ["span_corruption", "plm", "× clm"],
        "causal": ["causal", "trained", "stories, bpe", "<img", "nats/token"],
        "masked": ["masked", "mlm", "nats/masked token", "<img"],
        "pairs": ["mlm_nsp", "nsp", "<img"],
        "spans": ["span_corruption", "nats/target token", "<img"],
        "permuted": ["plm", "nats/predicted token", "<img"],
        "detective": ["rtd", "<img"],
        "turns": ["clm and mlm in turns", "<img"],
        "prefix": ["prefix_lm", "<img"],
        "evaluate": ["causal, turns", "bits per byte", "±"],
        "bits": ["the grammar itself", "times the entropy"],
        "probe-data": ["person", "neither"],
        "probe": ["known words", "new words", "untrained"],
        "table": ["what eight exercises taught", "detective", "untrained", "bits/byte"],
    },
    "03_ways_to_decode": {
        "train": ["teller", "trained", "shakespeare, char", "<img"],
        "next": ["log-probability"],
        "compare": ["teller", "8 strategies", "greedy", "mirostat", "temperature 1.5", "<img", "self.BLEU"],
        "penalty": ["no_repeat_ngram_size 4", "bad_words the"],
        "beam": ["beam 3", "mean log-probability"],
        "tree": ["beam", "num_beams 4", "<img"],
        "regrow": ["leaves sample 1 at token", "sample 4"],
        "live": ["teller", "seed 2"],
        "playground": ["teller", "top_p", "seed 0"],
        "speculative": ["speculative", "guesses were taken"],
        "regex": ["Here comes the", "sample 4 of 4"],
        "must": ["must"],
        "own-generate": ["my_top_p", "p 0.8"],
        "own-compare": ["my_top_p", "3 strategies"],
        "check": ["my_top_p beside top_p", "They differ first on distribution"],
        "fill-train": ["reader", "nats/masked token"],
        "fill": ["reader", "fill"],
        "gibbs": ["gibbs", "sample 3 of 3"],
        "chat": ["you", "teller", "Good morrow, cousin.", "{{user}}"],
    },
    "04_prompts_as_experiments": {
        "train": ["teller", "trained", "<img"],
        "preview": ["In Rome", "Rosa", "Lucy", "Anna"],
        "choices": ["story", "teller", "She", "exact match"],
        "templates": ["wording", "3 templates", "target logprob", "±"],
        "table": ["exact_match", "target_logprob"],
        "metric": ["consistent"],
        "counter": ["counter", "<img"],
        "one": ["one", "exact match", "the first row is the example"],
        "shots": ["0 examples", "2 examples", "down"],
        "ensemble": ["teller", "second", "both", "bits per byte"],
        "vote": ["teller \\+ second", "the best of"],
        "soup": ["mixed", "the mean of weights", "different weights"],
        "soup-evaluate": ["mixed", "bits per byte"],
        "many": ["In Rome Simon"],
    },
    # Its claims are assertions of its own, so its training is not shortened: about twenty seconds of one core.
    "05_induction_heads": {
        "train": ["copier", "trained", "<img"],
        "heads": ["copier", "2 layers × 4 heads", "induction", "previous", "<img"],
        "maps": ["copier", "attention", "2 layers × 4 heads", "<img"],
        "ablate": ["copier", "ablate", "loss on repeats", "<img"],
        "together": ["before", "after", "loss on repeats"],
        "pairs": ["all four", "head 1.0"],
    },
    "06_look_inside": {
        "train": ["teller", "trained", "head entropy", "6 checkpoints kept", "<img"],
        "attention": ["teller", "attention", "3 layers × 4 heads", "<img"],
        "heads": ["previous", "induction", "chance"],
        "lens": ["logit_lens", "KL", "<img"],
        "tuned": ["tuned_lens", "60 of 60 steps"],
        "dla": ["sum of all parts", "token embedding"],
        "ablate": ["loss, nats/token", "32 repeated random sequences"],
        "patch": ["share of the way from corrupted to clean", "clean: logit of"],
        "attribution-patching": ["by gradients", "by patching", "correlation with patching"],
        "steer": ["strength", "log p"],
        "attribution": ["sum of integrated gradients", "Shapley", "difference from the baseline"],
        "counterfactual": ["as it was", "texts were run"],
        "robustness": ["keyboard", "agreement", "±"],
        "neurons": ["most active at", "raises"],
        "linear": ["control", "selectivity"],
        "sae": ["variance explained", "loss recovered"],
        "embeddings": ["6 models", "<img"],
        "similarity": ["CKA", "mean of the diagonal"],
        "weights": ["singular.{0,6}values", "stable.{0,6}rank"],
        "walk": ["q · k, number by number", "W_in n", "probabilities"],
        "own-probe": ["gender"],
    },
    "07_runs_that_last": {
        "background": ["teller", "stories, bpe", "<img", "%attach teller"],
        "generate": ["teller", "seed 1"],
        "probe": ["teller", "3 layers × 4 heads"],
        "evaluate": ["teller", "bits per byte"],
        "attach": ["teller", "trained", "4 checkpoints kept", "<img"],
        "course": ["train_loss"],
        "runs": ["teller", "finished"],
        "restored": ["short", "restored from the store"],
        "fork": ["traveller", "from teller@\\d+", "<img"],
        "scratch": ["novice"],
        "compare": ["traveller, novice", "from", "<img"],
        "pack": ["packed", "teller.zip"],
    },
}
CHARTS = {  # cells that show a chart of plotly's
    "01_build_a_transformer": ("positions", "mlp", "bias", "sparse"),
    "02_six_ways_to_pretrain": ("curves",),
    "05_induction_heads": ("curve",),
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
    "01_build_a_transformer": """
assert author.run.status == "finished" and author.history["step"].max() == 4, "the test shortens its training"
assert small_t5.config.shape == "encoder_decoder" and small_bert.config.shape == "encoder"
""",
    "02_six_ways_to_pretrain": """
assert all(lm.run.status == "finished" and lm.history["step"].max() == 4 for lm in models), "the test shortens it"
learned = [lm.info["objective"] for lm in models]
assert learned == ["clm", "mlm", "mlm_nsp", "span_corruption", "plm", "rtd", "clm,mlm", "prefix_lm"], learned
assert len({sum(p.numel() for p in lm.model.parameters()) for lm in models}) > 1
assert list(bits.index[:2]) == ["causal", "turns"] and (bits["times the entropy"] > 1)[:2].all()
assert len(knows) == len(models) + 1 and knows.notna().all(axis=None)
""",
    "03_ways_to_decode": """
assert all(abs(score - sum(own) / len(own)) < 1e-5 for score, own in zip(found.scores, logs))
assert found.scores == sorted(found.scores, reverse=True)
assert len(story.texts) == 4 and story.tokens[1][:place] == story.tokens[0][:place]
""",
    "04_prompts_as_experiments": """
assert list(wording.to_pandas()["template"].unique()) == [1, 2, 3] and len(wording.to_pandas()) == 30
assert len(many) == 10 and mixed.info["soup"]
assert one.to_pandas()["exact_match"].between(0, 1).all() and len(one.to_pandas()) == sum(numbers["number"] != numbers["number"][0])
""",
    "05_induction_heads": """
assert (layer, head) == (1, 0) and rise[1, 0] > 3 * max(others), rise
assert surprise[:15].mean() > 2.8 and surprise[16:].mean() < 0.6, surprise
""",
    "06_look_inside": """
assert len(teller.checkpoints) == 6 and len(states) == 6
assert teller.history["head_entropy"].notna().sum() > 1
""",
    "07_runs_that_last": """
assert teller.status == "finished" and given.run.status == "finished"
assert course["step"].tolist() == list(range(1, len(course) + 1))
assert short.report.status == "restored" and short.history["step"].max() == 400
told = traveller.run.read("request")["from"]
assert told["run"] == teller.run and told["step"] == len(course), told
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
            assert not re.search(r"--seconds (?!60\b|30\b|10\b)", cell.source), "SMALL does not shorten this cell"
            assert not re.search(r"\bsteps\b.{0,3}[=:] (?!400\b)\d", cell.source), "SMALL does not shorten this cell"
    assert set(CHARTS.get(path.stem, ())) <= {cell.id for cell in notebook.cells if cell.cell_type == "code"}


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
    for cell_id in CHARTS.get(name, ()):
        assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in by_id[cell_id].outputs), (
            cell_id
        )
