"""The verbs in Python: what they give, what the store keeps, and what they say when they cannot."""

from __future__ import annotations

import importlib
import json
import math
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import llm_lab
import llm_lab as lab
from llm_lab import verbs
from llm_lab.store import runs
from tests.small import CHINESE, SIZES, TEXT, train


def test_no_module_shadows_a_public_name():
    for module in pkgutil.walk_packages(llm_lab.__path__, "llm_lab."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in llm_lab.__all__:
        value = getattr(llm_lab, name)
        assert callable(value) or isinstance(value, str), name


def test_every_verb_that_is_not_there_says_so_in_one_line():
    missing = [verb for verb in verbs.VERBS.values() if not verb.target]
    assert missing
    for verb in missing:
        with pytest.raises(lab.LabError, match=f"^{verb.name} is not there yet: ") as caught:
            getattr(lab, verb.name)("bard")
        assert "\n" not in str(caught.value)


def test_a_run_is_plain_files_and_loads_again():
    lm = train("bard", steps=20)
    names = {path.name for path in lm.run.path.iterdir()}
    wanted = {"request.json", "plan.json", "environment.json", "status.json", "events.jsonl", "report.json", "lock"}
    assert names == wanted | {"model.safetensors", "model.json", "tokenizer.json"}
    for path in lm.run.path.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    assert (Path(".llm_lab") / ".gitignore").read_text() == "*\n"
    again = lab.load("bard")
    assert again.run.id == lm.run.id
    ids = torch.arange(8)[None] + 30
    assert torch.equal(again.model(ids).logits, lm.model(ids).logits)
    assert again.history.equals(lm.history)
    assert lab.load(lm.run.id).run.id == lm.run.id
    assert lab.evaluate(again)["loss"] == pytest.approx(lab.evaluate(lm)["loss"], abs=1e-9)


def test_tied_embeddings_are_stored_once_and_load(tmp_path):
    lm = train("tied", tie_embeddings=True, zero_init=False, preset="gpt2", steps=3)
    folder = lm.save(tmp_path / "copy")
    again = lab.load(folder)
    assert again.model.unembed.weight is again.model.embed.weight
    ids = torch.arange(8)[None] + 30
    assert torch.equal(again.model(ids).logits, lm.model.eval()(ids).logits)


def test_an_identical_request_is_restored_and_a_changed_one_is_not():
    first = train("bard")
    assert train("bard").run.id == first.run.id
    assert "restored" in train("bard").report.notes[-1]
    others = [train("bard", seed=1), train("bard", text=[TEXT + "x"]), train("bard", fresh=True), train("other")]
    assert len({lm.run.id for lm in [first, *others]}) == 5
    assert len(lab.runs()) == 5
    assert set(lab.runs()["name"]) == {"bard", "other"}


def test_a_damaged_file_is_named(tmp_path):
    lm = train("bard")
    for name in ("model.safetensors", "model.json", "tokenizer.json"):
        path = lm.run.path / name
        kept = path.read_bytes()
        path.write_bytes(kept[: len(kept) // 2])
        with pytest.raises(lab.LabError, match=re.escape(name)):
            lab.load("bard")
        path.write_bytes(kept)
    lab.load("bard")


def test_nothing_is_executed_that_a_run_folder_holds(tmp_path):
    lm = train("bard")
    import pickle

    (lm.run.path / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(lab.LabError, match=r"damaged"):
        lab.load("bard")
    about = json.loads((lm.run.path / "model.json").read_text())
    about["config"]["norm"] = "os:system"
    (lm.run.path / "model.json").write_text(json.dumps(about))
    with pytest.raises(lab.LabError, match=r"norm: 'os:system' is unknown"):
        lab.load("bard")


def test_read_only_stores_are_found(tmp_path, monkeypatch):
    lm = train("bard")
    monkeypatch.setenv("LLM_LAB_PATH", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".llm_lab").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert lab.load("bard").run.id == lm.run.id


def test_evaluation_against_a_plain_loop():
    lm = train("bard", steps=30)
    held_out = TEXT[int(0.9 * len(TEXT)) :]
    ids = torch.tensor(lm.tokenizer.encode(held_out))
    nats = 0.0
    for i in range(0, len(ids) - 1, 32):
        block = ids[i : min(i + 33, len(ids))]
        logp = lm.model(block[None, :-1]).logits[0].log_softmax(-1).detach()
        nats -= float(logp.gather(1, block[1:, None]).double().sum())
    found = lab.evaluate(lm)
    assert found["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / (len(held_out) - 1), rel=1e-3)
    assert list(found.to_pandas()["metric"]) == ["loss", "perplexity", "bits_per_byte"]
    assert lab.evaluate(lm, metrics="loss").scores[0].interval > 0


def test_bits_per_byte_counts_bytes_not_characters():
    lm = train("hanzi", [CHINESE], steps=5)
    found = lab.evaluate(lm)
    assert found["bits_per_byte"] < found["loss"] / math.log(2) / 2.2  # three bytes a character, one a line break


def test_the_interval_covers_the_mean_as_it_says():
    from llm_lab.metrics.likelihood import Likelihood

    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        sums = rng.normal(2.0, 0.5, 60) * 10
        found = Likelihood("m", sums, np.full(60, 10), 600, "token")
        hits += abs(found.mean - 2.0) <= found.interval
    assert 0.92 <= hits / 400 <= 0.98


def test_several_models_are_compared_on_the_same_data():
    a, b = train("a"), train("b", tokenizer="byte")
    found = lab.evaluate([a, b])
    assert [score.model for score in found.scores[::3]] == ["a", "b"]
    assert "compare bits_per_byte" in found.notes[0]
    other = lab.evaluate(a, ["one green bottle fell. " * 20])
    assert other["loss"] != found["loss"]


def test_build_reports_what_the_model_really_has():
    for options in (
        {},
        dict(n_kv_head=2, mlp="swiglu", bias=True, norm="layernorm", position="learned", tie_embeddings=True),
    ):
        model = lab.build("modern", vocab_size=300, n_layer=3, n_head=4, d_model=64, max_seq_len=48, **options)
        report = model.report()
        assert report.parameters == sum(p.numel() for p in model.parameters())
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 48, dtype=torch.long))
        assert report.flops * 48 == pytest.approx(counter.get_total_flops(), rel=0.1)
        assert report.to_pandas()["name"].iloc[0] == "embedding"


def test_training_memory_is_estimated_within_reason():
    """The estimate of kept activations against what autograd really keeps, where the batch is what takes the memory."""
    model = lab.build("modern", vocab_size=64, n_layer=2, n_head=2, d_model=64, max_seq_len=64)
    kept: dict[int, int] = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(torch.zeros(128, 64, dtype=torch.long)).logits.sum()
    weights = sum(p.numel() for p in model.parameters())
    measured = sum(kept.values()) - weights * 4
    estimated = model.report(batch_size=128).memory - weights * 20
    assert 0.8 < estimated / measured < 1.6


_MEASURED = """
import json, sys, threading, time
import psutil, torch
import llm_lab as lab
from llm_lab.models import cost

def train(name, **options):
    return lab.pretrain([text], name=name, display=False, threads=1, device="cpu", steps=3, **options)

text = " ".join(f"{i * i * 7919 % 999983:x} green bottles" for i in range(9000))  # enough for 2000 merges
train("warm", n_layer=1, n_head=1, d_model=16, max_seq_len=16, batch_size=2)
process, ended = psutil.Process(), threading.Event()
before = most = process.memory_info().rss

def watch():
    global most
    while not ended.is_set():
        most = max(most, process.memory_info().rss)
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
options = json.loads(sys.argv[1])
lm = train("measured", **options)
ended.set()
watcher.join()
print(sum(part.memory for part in cost.parts(lm.model.config, options["batch_size"], "cpu")) / (most - before))
"""


@pytest.mark.parametrize(
    "options",
    [
        dict(preset="gpt2", n_layer=2, d_model=128, n_head=8, max_seq_len=256, batch_size=16, dropout=0.1),
        dict(n_layer=4, n_head=8, d_model=512, max_seq_len=32, batch_size=1),
        dict(n_layer=1, n_head=2, d_model=32, max_seq_len=32, batch_size=256, tokenizer="bpe", vocab_size=2000),
    ],
    ids=["dropout", "wide", "vocabulary"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="measured with Linux's allocator")
def test_training_memory_is_what_the_process_takes(options):
    command = [sys.executable, "-c", _MEASURED, json.dumps(options)]
    path = os.pathsep.join([str(Path(llm_lab.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert found.returncode == 0, found.stderr
    assert 0.7 < float(found.stdout.split()[-1]) < 1.8


def test_a_users_module_is_described():
    class Mine(torch.nn.Module):
        def __init__(self, vocab_size):
            super().__init__()
            self.table = torch.nn.Embedding(vocab_size, 8)
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
            self.head = torch.nn.Linear(8, vocab_size)

        def forward(self, ids):
            x = self.table(ids)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    report = lab.build(model=Mine, vocab_size=50).report()
    assert [(part.name, part.count) for part in report.parts] == [("table", 1), ("blocks", 3), ("head", 1)]
    assert report.parameters == 50 * 8 + 3 * 72 + 8 * 50 + 50
    assert report.parts[1].flops == 3 * 2 * 64
    assert report.title == "Mine"


def test_too_large_a_model_is_shown_without_weights_or_refused():
    model = lab.build("gpt2", n_layer=500, d_model=12288, n_head=96, vocab_size=50257)
    assert "shown without weights: they take 3," in model.report().notes[0]
    with pytest.raises(lab.LabError, match=r"the weights alone take [\d,.]+ GB, and [\d,.]+ GB are free"):
        lab.build("gpt2", n_layer=10**6, d_model=12288, n_head=96, vocab_size=50257)


@pytest.mark.parametrize("source", ["frame", "list", "file", "text"])
def test_every_kind_of_text_trains(source, tmp_path):
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    corpora = {
        "frame": pd.DataFrame({"text": [TEXT[i : i + 500] for i in range(0, 20000, 500)], "n": range(40)}),
        "list": [TEXT[:9000], TEXT[9000:]],
        "file": "my.txt",
        "text": lab.corpus([TEXT]),
    }
    assert train("x", corpora[source], steps=2).report.step == 2


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        ([""], "empty"),
        ("nowhere.txt", "nowhere.txt"),
        ("shakespear", "did you mean 'shakespeare'"),
        (["short"], "shorter than one block|no text"),
    ],
)
def test_corpora_that_cannot_train(corpus, says):
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.pretrain(corpus, name="x", steps=2, display=False, **SIZES)
    assert "\n" not in str(caught.value)
    assert not runs.all_runs()


def test_names_and_signatures():
    import inspect

    with pytest.raises(lab.LabError, match="cannot be a variable's name"):
        lab.pretrain([TEXT], name="my model", steps=1)
    parameters = inspect.signature(lab.pretrain).parameters
    assert {"corpus", "name", "steps", "lr", "n_layer", "tokenizer"} <= set(parameters)
    assert "lr: peak learning rate" in lab.pretrain.__doc__


def test_tokenize_compares_all_kinds_or_shows_a_models_own():
    found = lab.tokenize("To be, or not to be", corpus="python-docs")
    assert [row.kind for row in found.rows] == ["char", "byte", "bpe", "wordpiece", "unigram"]
    assert all("".join(p.text for p in row.pieces) == "To be, or not to be" for row in found.rows[:3])
    own = lab.tokenize("1 green", model=train("bard"))
    assert [row.kind for row in own.rows] == ["char"]


def test_doctor_and_overview_show_themselves():
    assert "memory" in str(lab.doctor())
    from llm_lab.lab import lab as verb

    assert "%pretrain" in str(verb())
    assert "no run yet" in str(verb("runs"))
    train("bard")
    assert "%%pretrain bard" in str(verb("code", "bard"))
    assert verb("show", "bard").name == "bard"
    with pytest.raises(lab.LabError, match="did you mean 'runs'"):
        verb("run")


def test_results_are_saved_as_pages(tmp_path):
    lm = train("bard")
    for result in (lm.report, lab.generate(lm, "1", max_new_tokens=5), lab.probe(lm, "1 green"), lab.evaluate(lm)):
        page = result.save_html(tmp_path / "page.html").read_text(encoding="utf-8")
        assert "<!doctype html>" in page
        assert "bard" in page
        assert result.code.startswith("lab.") or result is lm.report
    with pytest.raises(lab.LabError, match="does not exist"):
        lm.report.save_html(tmp_path / "no" / "page.html")


def _refused(call, says):
    with pytest.raises(lab.LabError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, b"a", [5], {"a": 1}])
def test_what_is_no_text_is_refused(value):
    lm = train("bard")
    _refused(lambda: lab.generate(lm, value), "^prompt: .* not text")
    _refused(lambda: lab.probe(lm, value), "^text: .* not text")
    _refused(lambda: lab.tokenize(value, corpus=[TEXT]), "^text: .* not text")


def test_what_cannot_be_measured_or_built_is_refused():
    lm = train("bard")
    _refused(lambda: lab.evaluate([]), "^model: the list is empty")
    _refused(lambda: lab.evaluate(lm, metrics=[]), "^metrics: it names none; there is: loss")
    _refused(lambda: lab.build(name=5), "^name: 5 is int, not text")
    _refused(
        lambda: lab.build("tiny", "gpt2"), r"^build: too many positional arguments; it takes preset, name, and its opt"
    )
    _refused(lambda: lab.generate(), "^generate: missing a required argument: 'model'; it takes model, prompt, display")
    _refused(lambda: lab.pretrain([TEXT], "gpt2"), "^name: gpt2 is a preset, and none was chosen.*use preset='gpt2'")
    _refused(lambda: lm.save(3), "^path: 3 is int; a folder would do")
    _refused(lambda: lm.save(""), "^path: it is empty")


def test_a_model_whose_training_diverged_is_not_measured_in_silence():
    lm = train("bard", lr=1e30, optimizer="adamw", steps=3)
    assert not lm.run.states
    assert lab.evaluate(lm).notes[-1].startswith("bard's logits are not numbers: its training diverged")
    _refused(lambda: lab.probe(lm, "1 green"), "^bard's logits are not numbers")
    _refused(lambda: lab.generate(lm, "1 green"), "^the model's logits are not numbers")


def test_what_has_no_effect_or_was_put_in_place_is_noted():
    counted = lab.pretrain([TEXT], name="counts", preset="ngram", lr=5.0, steps=3, display=False)
    assert counted.report.notes[0] == "the text is counted once: lr, steps has no effect"
    other = train("bert", preset="bert", output="none")
    assert "mlm_nsp, which bert learns, cannot be learned" in other.report.notes[0]
    train("bard")
    assert "the samples are those of that run: sample_prompt" in train("bard", sample_prompt="1").report.notes[-1]


def test_a_validation_in_turns_is_the_mean_of_those_whose_turn_it_is():
    lm = train("both", objective="clm,mlm", weights="3,1", mix="turns", steps=8, eval_every=8)
    last = lm.run.history.iloc[-1]
    assert last["val_loss"] == pytest.approx(0.75 * last["val_clm"] + 0.25 * last["val_mlm"], rel=1e-5)


def test_what_cannot_be_learned_from_is_said_beforehand():
    ahead = dict(objective="mtp", n_future=9, max_seq_len=8)
    _refused(lambda: train("x", **ahead), "^n_future: 9 tokens ahead are past a context of 8")
    vectors = dict(preset="skipgram", tokenizer="wordpiece", vocab_size=100, subsample=1e-12, display=False, steps=3)
    _refused(lambda: lab.pretrain([TEXT], **vectors), "^subsample: 1e-12 leaves about")


def test_pairs_that_are_cut_are_counted():
    words = pd.DataFrame(
        {"source": ["one two three four"] * 9 + ["one"], "target": ["eins zwei drei vier"] * 9 + ["eins"]}
    )
    pairs = dict(column="source", target="target", objective="seq2seq", split=0.8, max_seq_len=16)
    one = train("pairs", words, **pairs)
    assert "7 of 7 pairs are longer than the context of 16" in one.report.notes[0]
    assert "--max_seq_len 39 holds all" in one.report.notes[0]
    two = train("pairs", words, **pairs, shape="encoder_decoder", position="learned")
    assert "--max_seq_len 20 holds all" in two.report.notes[0]
    assert any(note.startswith("pairs: 2 of 3 pairs") for note in lab.evaluate(two).notes)
    whole = train("pairs", words, **{**pairs, "max_seq_len": 40})
    assert not any("are cut" in note for note in whole.report.notes)


@pytest.mark.parametrize("objective", ["span_corruption", "prefix_lm"])
def test_a_sample_never_ends_a_run(objective):
    lm = train(
        "short", objective=objective, max_seq_len=16, sample_prompt="a prompt that is longer than the context holds"
    )
    assert lm.report.samples
    _refused(lambda: lab.build(model=int), "^model")


def test_tables_of_positions_are_counted_before_they_are_made():
    _refused(lambda: lab.build("modern", n_layer=1, max_seq_len=10**10), r"positions take [\d,.]+ GB.*--max_seq_len")
    from llm_lab.models import cost

    model = lab.build("modern", n_layer=1, d_model=64, max_seq_len=4096, tie_embeddings=True)
    weights, tables = cost.taken(model.config)
    assert weights >= 4 * sum(p.numel() for p in model.parameters())
    assert tables >= sum(b.nbytes for b in model.buffers()) > 0


@pytest.mark.parametrize("own", [False, True])
def test_more_texts_than_memory_holds_are_refused_before_it_is_taken(own, monkeypatch):
    from llm_lab import machine

    lm = train("bard") if not own else train("bard", model=_Table)
    _refused(lambda: lab.generate(lm, "1", n=10**12, max_new_tokens=5), r"^n: .* GB are free; --n \d+ would fit")
    _refused(lambda: lab.generate(lm, "1", max_new_tokens=10**12), "a smaller --max_new_tokens would fit")
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(10**8, 10**7))
    with pytest.raises(lab.LabError) as caught:
        lab.generate(lm, "1", n=10**6, max_new_tokens=5)
    fits = int(re.search(r"--n (\d+)", str(caught.value))[1])
    assert len(lab.generate(lm, "1", n=fits, max_new_tokens=5).texts) == fits > 10


class _Table(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids):
        return self.table(ids)


def test_evaluation_says_what_the_tokenizer_does_not_know():
    lm = train("bard")
    assert not lab.evaluate(lm, [TEXT[:500]]).notes
    (note,) = lab.evaluate(lm, [TEXT[:500] + "中文" * 250]).notes
    assert "does not know 50.00% of the tokens (500)" in note
    words = train("words", tokenizer="wordpiece", vocab_size=100)
    assert "loses spaces and line breaks" in lab.evaluate(words).notes[-1]
    assert not lab.evaluate(words, metrics="loss").notes


def test_a_model_of_one_document_is_not_asked_for_the_ends_of_several():
    one, several = train("one"), train("several", [TEXT[:9000], TEXT[9000:]])
    assert (one.info["ends"], several.info["ends"]) == (False, True)
    pieces = [TEXT[i : i + 40] for i in range(0, 4000, 40)]
    found = lab.evaluate(one, pieces)
    assert "one learned from one document" in found.notes[0]
    joined = lab.evaluate(one, ["\n".join(pieces)])
    assert found["loss"] == joined["loss"]
    assert not any("one document" in note for note in lab.evaluate(several, pieces).notes)


def test_a_restored_run_is_the_one_that_its_name_means():
    first, second = train("bard"), train("bard", seed=1)
    assert lab.load("bard").run.id == second.run.id
    train("bard")
    assert lab.load("bard").run.id == first.run.id


def test_cards_and_code_need_no_class():
    class Mine(torch.nn.Module):
        def __init__(self, vocab_size):
            super().__init__()
            self.table = torch.nn.Embedding(vocab_size, vocab_size)

        def forward(self, ids):
            return self.table(ids)

    from llm_lab.lab import lab as verb

    train("mine", model=Mine, steps=2)
    assert verb("show", "mine").name == "mine"
    assert "%%pretrain mine" in str(verb("code", "mine"))


def test_models_measured_on_different_texts_are_not_ranked():
    a, b = train("a"), train("b", text=[TEXT[:20000]])
    found = lab.evaluate([a, b])
    assert not found.comparable
    assert "its own held-out text" in found.notes[-1]
    assert ";" in found.data
    assert "bold" not in found._repr_mimebundle_()["text/html"]
    assert lab.evaluate([a, b], [TEXT]).comparable


def test_no_temperature_is_greedy():
    with pytest.raises(lab.LabError, match="--strategy greedy"):
        lab.generate(train("a"), "1", temperature=0)
