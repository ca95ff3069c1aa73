"""The estimate of a training's memory: what it counts, what is proposed where it is too much, and what stays of a step that
did not fit."""

from __future__ import annotations

import gc
import json
import re
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

import llm_lab as lab
from llm_lab import machine, memory
from llm_lab.errors import BadValue
from llm_lab.magics.parse import parse
from llm_lab.models.options import SHAPES
from llm_lab.models.presets import PRESETS
from llm_lab.objectives.make import make
from llm_lab.store import runs
from llm_lab.training.options import TrainOptions
from llm_lab.verbs import VERBS
from tests.small import SIZES, TEXT, train


@pytest.fixture
def free(monkeypatch):
    """Pretend that so many megabytes are free."""
    monkeypatch.setattr(memory, "PROCESS", 0)

    def leave(megabytes: float) -> None:
        monkeypatch.setattr(machine, "memory", lambda: machine.Memory(64 * 10**9, int(megabytes * 1e6)))

    return leave


def refused(**options) -> str:
    with pytest.raises(BadValue, match="needs about") as caught:
        train("big", **options)
    assert "\n" not in str(caught.value)
    assert lab.runs().empty
    return str(caught.value)


def proposed(message: str) -> dict[str, int]:
    words = re.search(r"; (--.*) fits$", message)[1].split()
    return {flag.removeprefix("--"): int(value) for flag, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize(
    ("megabytes", "options"),
    [
        (30, dict(batch_size=48, max_seq_len=128, n_layer=3)),
        (30, dict(batch_size=21, accumulate=4, max_seq_len=256)),
        (30, dict(batch_size=64, max_seq_len=64, preset="bert", d_model=32, objective="mlm_nsp")),
    ],
)
def test_a_smaller_batch_is_proposed_that_makes_the_same_steps(free, megabytes, options):
    free(megabytes)
    flags = proposed(refused(**options))
    assert set(flags) == {"batch_size", "accumulate"}
    assert flags["batch_size"] * flags["accumulate"] == options["batch_size"] * options.get("accumulate", 1)
    lm = train("fits", **{**options, **flags}, steps=1)
    assert lm.report.status == "finished"
    # The next larger one would not have done.
    whole, size = flags["batch_size"] * flags["accumulate"], flags["batch_size"]
    larger = next((n for n in range(size + 1, options["batch_size"]) if whole % n == 0), None)
    if larger:
        found = memory.need(lm.model.config, TrainOptions(batch_size=larger, accumulate=whole // larger, threads=1))
        assert not found.fits(0.9)


@pytest.mark.parametrize(
    ("megabytes", "options"),
    [
        (20, dict(d_model=256, n_layer=4)),
        (20, dict(d_model=256, n_layer=1)),
        (20, dict(preset="llama", d_model=128, d_ff=512, n_head=4, n_kv_head=2, n_layer=6)),
        (20, dict(preset="t5", d_model=128, d_ff=256, n_layer=3, n_decoder_layer=3)),
        (20, dict(preset="albert", d_model=512, d_embed=128)),
        (20, dict(preset="xlnet", d_model=192, n_layer=3)),
        (20, dict(preset="lstm", d_model=256, n_head=None)),
        (20, dict(d_model=128, n_expert=8)),
    ],
    ids=["deep", "one-layer", "llama", "t5", "albert", "xlnet", "lstm", "experts"],
)
def test_a_smaller_model_is_proposed_where_no_batch_fits(free, megabytes, options):
    free(megabytes)
    asked = {key: value for key, value in {**SIZES, **options}.items() if value is not None}
    sizes = {key: asked.pop(key) for key in list(asked)}
    with pytest.raises(BadValue, match="needs about") as caught:
        lab.pretrain([TEXT], name="big", display=False, steps=1, **sizes)
    flags = proposed(str(caught.value))
    assert not set(flags) & {"batch_size", "accumulate"}
    line = " ".join(f"--{key} {value}" for key, value in {**sizes, **flags, "steps": 1}.items())
    lm = lab.pretrain(display=False, **parse(VERBS["pretrain"], f"fits @text {line}", None, {"text": [TEXT]}).kwargs)
    assert lm.report.status == "finished"
    for name, size in flags.items():
        assert 0 < getattr(lm.model.config, name) == size <= sizes.get(name, size)


def test_what_never_fits_says_so(free):
    free(0.001)
    message = refused(d_model=256)
    assert message.endswith("nothing smaller of its kind fits either; a shorter --max_seq_len may")


def test_a_model_that_was_built_keeps_its_sizes(free):
    free(8)
    model = lab.build("modern", vocab_size=40, n_layer=2, n_head=2, d_model=128, max_seq_len=32, name="own")
    message = refused(model=model, tokenizer=lab.tokenizer([TEXT], kind="char"))
    assert "--d_model" not in message


def test_a_module_of_ones_own_is_counted_by_its_parameters(free):
    class Own(nn.Module):
        def __init__(self, vocab_size):
            super().__init__()
            self.table, self.head = nn.Embedding(vocab_size, 512), nn.Linear(512, vocab_size)
            self.wide = nn.Linear(512, 4096)

        def forward(self, ids):
            return self.head(self.table(ids) + self.wide(self.table(ids))[..., :512])

    free(10)
    assert "activations not counted" in refused(model=Own)
    free(500)
    lm = train("own", model=Own, steps=1, optimizer="adamw")
    count = sum(p.numel() for p in lm.model.parameters())
    assert lm.report.memory_need == 12 * count + memory.STATE_COPIES * 12 * count  # gradient and two values, and saving


@pytest.mark.parametrize(
    ("preset", "names", "options"),
    [
        ("electra", ("rtd",), {}),
        ("electra", ("rtd",), {"generator_share": 0.5}),
        ("modern", ("mtp",), {"n_future": 3}),
        ("bert", ("mlm_nsp",), {}),
        ("modern", ("clm",), {}),
        ("bert", ("mlm", "rtd"), {}),
    ],
    ids=["generator", "half", "heads", "pairs", "nothing", "mixture"],
)
def test_what_an_objective_adds_is_counted(preset, names, options):
    tokenizer = lab.tokenizer([TEXT], kind="char")
    config = PRESETS.load(preset).config(tokenizer.vocab_size, n_layer=3, n_head=4, d_model=32, max_seq_len=16)
    objective = make(names, options, tokenizer, (), "sum")
    state = torch.get_rng_state()
    found = memory.need(config, TrainOptions(batch_size=4), objective)
    assert torch.equal(torch.get_rng_state(), state)
    trainee = make(names, options, tokenizer, (), "sum").attach(SHAPES.load(config.shape)(config))
    assert found.parameters == sum(p.numel() for _, p in trainee.parameters())
    plain = memory.need(config, TrainOptions(batch_size=4))
    assert (found.bytes > plain.bytes) == (found.parameters > plain.parameters)


def test_more_is_counted_where_more_is_kept():
    config = PRESETS.load("modern").config(60, n_layer=2, d_model=64, n_head=2)
    options = TrainOptions(batch_size=4, device="cpu")
    plain = memory.need(config, options)
    assert memory.need(config, replace(options, keep="best")).bytes > plain.bytes
    assert memory.need(config, replace(options, optimizer="adamw")).bytes > plain.bytes
    assert memory.need(config, replace(options, batch_size=400)).bytes > plain.bytes


def test_counting_has_no_gradients_to_save():
    config = PRESETS.load("ngram").config(60, order=3)
    from llm_lab.models import cost

    assert memory.need(config, TrainOptions()).bytes == sum(part.memory for part in cost.parts(config, 16))


def test_the_card_shows_the_estimate():
    lm = train("shown")
    assert lm.report.memory_need > memory.PROCESS
    assert re.search(r"memory, as estimated before +\d+ MB of [\d.]+ [MG]B free", str(lm.report))
    assert json.loads((lm.run.path / "report.json").read_text())["memory_need"] == lm.report.memory_need


class Greedy(nn.Module):
    """Its third forward pass finds no memory."""

    held: list[weakref.ref]
    kind: type[Exception]
    said: str

    def __init__(self, vocab_size):
        super().__init__()
        self.table, self.head = nn.Embedding(vocab_size, 16), nn.Linear(16, vocab_size)
        self.passes = 0

    def forward(self, ids):
        self.passes += self.training
        x = self.table(ids)
        if self.passes == 3 and self.training and torch.is_grad_enabled():
            big = (x * 2).exp()
            type(self).held = [weakref.ref(big), weakref.ref(x)]
            raise self.kind(self.said)
        return self.head(x)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 20.00 GiB."),
        (
            RuntimeError,
            "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to …",
        ),
        (MemoryError, ""),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_a_step_that_finds_no_memory_pins_nothing(kind, said, monkeypatch):
    own = type("Own", (Greedy,), {"kind": kind, "said": said})
    # What a user's model computes is looked at before, which would be passes too.
    monkeypatch.setattr("llm_lab.request._describe", lambda model, made: {"class": "Own"})
    try:
        train("greedy", model=own, batch_size=6, eval_every=100, sample_tokens=0)
    except BadValue as caught:
        # As IPython keeps the last error.
        monkeypatch.setattr(sys, "last_value", caught, raising=False)
        monkeypatch.setattr(sys, "last_exc", caught, raising=False)
        monkeypatch.setattr(sys, "last_traceback", caught.__traceback__, raising=False)
    message = str(sys.last_value)
    gc.collect()
    assert "ran out of memory at batch_size 6" in message
    assert "--batch_size 3 --accumulate 2" in message
    assert "\n" not in message
    assert sys.last_value.__context__ is None
    assert [ref() for ref in own.held] == [None, None]
    (run,) = runs.all_runs()
    assert run.status == "failed"
    assert "ran out of memory" in run.read("status")["why"]
    # The kernel is healthy.
    assert train("after", batch_size=3, accumulate=2).report.status == "finished"
