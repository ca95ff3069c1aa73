"""Tab: what is offered at each place of a line or body, and which text it replaces."""

from __future__ import annotations

import time

import pytest
from IPython.core.completer import provisionalcompleter

from llm_lab.corpora.options import CORPORA
from llm_lab.magics.complete import complete
from llm_lab.models.presets import PRESETS
from llm_lab.probes.options import PROBES
from llm_lab.tokenizers.options import TOKENIZERS
from tests.magics.conftest import Model

NAMES = {"bard": Model("pretrain", {}), "critic": Model("pretrain", {}), "Net": int, "_": 1}


def at(cell, namespace=NAMES):
    """The completions at the `|` of a cell: (text to be replaced, completions)."""
    before, after = cell.split("|")
    row = before.count("\n")
    found = complete(before + after, row, len(before.rpartition("\n")[2]), namespace)
    return None if found is None else (found[0], [text for text, _ in found[1]])


@pytest.mark.parametrize(
    ("cell", "fragment", "offered"),
    [
        ("%pretrain bard --sec|", "--sec", ["--seconds"]),
        ("%%pretrain bard --n-l|", "--n-l", ["--n_layer"]),
        ("x = %pretrain bard --n_l|", "--n_l", ["--n_layer"]),
        ("# note\n%%pretrain bard --sec|\nsteps = 5", "--sec", ["--seconds"]),
        ("y = 1\n    %pretrain bard --sec|", "--sec", ["--seconds"]),
        ("%pretrain bard --seconds 5 --sec|", "--sec", []),
        ("%pretrain bard --tokenizer |", "", list(TOKENIZERS)),
        ("%pretrain bard --tokenizer=w|", "w", ["wordpiece"]),
        ("%tokenize --kind char,by|", "by", ["byte"]),
        ("%pretrain bard --fresh=|", "", ["true", "false"]),
        ("%pretrain bard shake|", "shake", ["shakespeare"]),
        ("%build tiny |", "", list(PRESETS)),
        ("%generate ba|", "ba", ["bard"]),
        ("%evaluate bard,cr|", "cr", ["critic"]),
        ("%evaluate bard sh|", "sh", ["shakespeare"]),
        ("%probe bard atte|", "atte", ["attention"]),
        ("%probe atte|", "atte", ["attention"]),
        ("%pretrain bard --model @N|", "@N", ["@Net"]),
        ("%probe bard a|", "a", [kind for kind in PROBES if kind.startswith("a")]),
        ("%pretrain bard --objective mlm,n|", "n", ["nsp"]),
        ("%pretrain bard stories --part eng|", "eng", ["english-french", "english-chinese"]),
        ("%pretrain poet --fro|", "--fro", ["--from"]),
        ("%pretrain poet --from bard --fro|", "--fro", []),
        ("%pretrain poet --from ba|", "ba", ["bard"]),
        ("%%pretrain poet\nfro|", "fro", ["from = "]),
        ('%%pretrain bard\nposition = "al|', '"al', ['"alibi"']),
        ("%lab sho|", "sho", ["show"]),
        ("%generate bard --as|", "--as", ["--as"]),
        ("%%pretrain bard --steps 5\nn-l|", "n-l", ["n_layer = "]),
        ("%%pretrain bard --steps 5\nste|", "ste", []),
        ("%%pretrain bard\nn_l| = 4", "n_l", ["n_layer"]),
        ("%%pretrain bard\ntokenizer = |", "", [f'"{name}"' for name in TOKENIZERS]),
        ('%%pretrain bard\ntokenizer = "w|', '"w', ['"wordpiece"']),
        ('%%pretrain bard\ntokenizer = "w|"', '"w', ['"wordpiece']),
        ('%%evaluate bard\nmetrics = ["loss", "per|', '"per', ['"perplexity"']),
        ('%%pretrain bard\nmodel = "@N|"', '"@N', ['"@Net']),
        ("%%pretrain bard\nbias = t|", "t", ["true"]),
        ("%%pretrain bard\n[bud|", "bud", ["budget]"]),
    ],
)
def test_offers(cell, fragment, offered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert at(cell) == (fragment, offered)


@pytest.mark.parametrize(
    "cell", ["x = ba|", "%timeit --se|", '%generate bard "--se|', "%%generate bard\n--se|", "%time # --se|", "|"]
)
def test_keeps_out(cell):
    found = at(cell)
    assert found is None or not found[1]


def test_an_empty_place_offers_flags_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "with space.txt").write_text("a")
    assert "--strategy" in at('%generate bard "x" |')[1]
    assert at("%corpus |")[1] == [*CORPORA, "texts/"]
    assert at("%corpus texts/|") == ("texts/", ["texts/a.txt"])


def test_ipython_gives_ours_alone_and_at_once(lab):
    lab.ip.user_ns["bard"] = Model("pretrain", {})

    def tab(cell):
        with provisionalcompleter():
            return [(c.start, c.end, c.text) for c in lab.ip.Completer.completions(cell, len(cell))]

    lab.ip.user_ns["barn"] = 1
    assert tab("%generate ba") == [(10, 12, "bard")]
    start = time.perf_counter()
    assert tab("%pretrain bard --sec") == [(15, 20, "--seconds")]
    assert time.perf_counter() - start < 1  # JupyterLab drops an answer that takes longer
    assert tab("x = 1\n%%pretrain bard --sec")[0][1:] == (27, "--seconds")
    assert tab("%%pretrain bard\nmuon") == [(16, 20, "muon_lr = ")]
    assert {text for _, _, text in tab("%pretr")} >= {"%pretrain"}
    assert {text for _, _, text in tab("%%pretr")} == {"%%pretrain"}
