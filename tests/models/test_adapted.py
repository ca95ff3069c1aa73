"""Users' own modules: what they may return, how they are built, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import llm_lab as lab
from tests.small import SIZES, TEXT, train


class NanoGPT(nn.Module):
    """Has nanoGPT's interface: one config, and only the last logits unless targets are given."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.mix = nn.Linear(config.n_embd, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, idx, targets=None):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        x = x + self.mix(x.cumsum(1) / torch.arange(1, idx.shape[1] + 1)[None, :, None])
        if targets is None:
            return self.head(x[:, [-1]]), None
        logits = self.head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Plain(nn.Module):
    def __init__(self, vocab_size, d_model=16):
        super().__init__()
        self.table = nn.Embedding(vocab_size, d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, ids):
        return self.head(self.table(ids))


class Wrapped(Plain):
    def forward(self, ids):
        return SimpleNamespace(logits=super().forward(ids))


@pytest.mark.parametrize("own", [NanoGPT, Plain, Wrapped])
def test_a_class_trains_generates_saves_and_loads(own):
    lm = train(model=own, steps=40)
    assert lm.history.train_loss.iloc[-1] < lm.history.train_loss.iloc[0] - 0.3
    text = lab.generate(lm, "1 green", seed=0, max_new_tokens=50).text
    assert len(text) == 57
    assert own.__name__ in lm.report.facts
    with pytest.raises(lab.LabError, match=f"trained with the class {own.__name__}"):
        lab.load("tiny")
    assert lab.generate(lab.load("tiny", model=own), "1 green", seed=0, max_new_tokens=50).text == text


def test_an_instance_trains_and_what_it_cannot_do_is_said():
    config = SimpleNamespace(vocab_size=200, block_size=24, n_embd=16)
    lm = train(model=NanoGPT(config), steps=5, max_seq_len=64)
    assert lm.max_seq_len == 24
    with pytest.raises(lab.LabError, match="probe attention needs a model with sites"):
        lab.probe(lm, "1 green")
    assert lab.record(lm, "1 green", "mix")["mix"].shape == (1, 7, 16)
    with lab.replace(lm, {"mix": torch.zeros_like}):
        assert not lab.record(lm, "1 green", "mix")["mix"].any()


def test_an_edited_class_is_another_request():
    source = train(model=Plain, name="own").run.read("request")["model"]
    assert source["class"] == "Plain"
    assert "nn.Embedding" in source["source"]


def test_a_model_that_build_made_trains_and_stays_as_it_was():
    vocabulary = lab.tokenizer([TEXT], kind="char").vocab_size
    tiny = lab.build("modern", vocab_size=vocabulary, n_layer=1, n_head=2, d_model=16, max_seq_len=16)
    before = [p.clone() for p in tiny.parameters()]
    lm = lab.pretrain([TEXT], name="x", model=tiny, steps=3, batch_size=4, threads=1, display=False)
    assert lm.max_seq_len == 16
    assert all(torch.equal(a, b) for a, b in zip(before, tiny.parameters(), strict=True))
    with pytest.raises(lab.LabError, match=f"--vocab_size {vocabulary}"):
        lab.pretrain([TEXT], name="x", model=lab.build(vocab_size=9), steps=3, display=False)


class Cheat(Plain):
    def forward(self, ids):
        x = self.table(ids)
        return self.head(x + x.mean(1, keepdim=True))


class Wrong(Plain):
    def forward(self, ids):
        return self.table(ids).sum((1, 2))


class Crash(Plain):
    def forward(self, ids):
        return self.head(self.head(self.table(ids)))


class Asks(nn.Module):
    def __init__(self, secret):
        super().__init__()


@dataclass
class NoModule:
    vocab_size: int


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (Cheat, "a later token changes an earlier logit"),
        (Wrong, "it must give"),
        (Crash, "its forward failed"),
        (Asks, "argument 'secret'"),
        (NoModule, "not an nn.Module"),
        (5, "an nn.Module, or a class"),
    ],
)
def test_what_cannot_be_a_model_is_refused(own, says):
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.pretrain([TEXT], name="x", model=own, steps=3, display=False, **SIZES)
    assert "\n" not in str(caught.value)


class Frozen(Plain):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.requires_grad_(False)


class Empty(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tables = [nn.Embedding(vocab_size, vocab_size)]

    def forward(self, ids):
        return self.tables[0](ids)


class Cut(Plain):
    def forward(self, ids):
        with torch.no_grad():
            return super().forward(ids)


class NaN(Plain):
    def forward(self, ids):
        return super().forward(ids) * torch.nan


class Infinite(Plain):
    def forward(self, ids):
        return super().forward(ids) - torch.inf


class HalfLogits(Plain):
    def forward(self, ids):
        return super().forward(ids).half()


class HalfWeights(Plain):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.half()


class Sparse(Plain):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.table = nn.Embedding(vocab_size, 16, sparse=True)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (Frozen, "none of its parameters can be trained"),
        (Empty, "no parameters"),
        (Cut, "its logits have no gradient"),
        (NaN, "its logits are NaN"),
        (Infinite, "its logits are infinite"),
        (HalfLogits, "its logits are float16; keep weights in float32"),
        (HalfWeights, "float16; keep weights in float32"),
        (Sparse, "its embedding table has sparse=True"),
        (int, "would do"),
        (max, "does not tell what it takes|would do"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_there_is_a_run(own, says):
    with pytest.raises(lab.LabError, match=f"^model.*({says})") as caught:
        train(model=own)
    assert "\n" not in str(caught.value)
    assert not len(lab.runs())


def test_gradients_being_off_outside_is_no_fault_of_the_model():
    with torch.no_grad():
        assert lab.build(model=Plain, vocab_size=9).vocab_size == 9


def test_a_users_instance_stays_as_it_was():
    mine = Plain(200).eval()
    before = [p.clone() for p in mine.parameters()]
    lm = train(model=mine, steps=5)
    assert lm.model.module is not mine
    assert not mine.training
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, mine.parameters(), strict=True))
    assert not torch.equal(lm.model.module.head.weight, mine.head.weight)


def test_an_instance_that_cannot_be_copied_is_refused():
    mine = Plain(200)
    mine.cached = mine.head.weight * 2
    with pytest.raises(lab.LabError, match=r"cannot be copied.*--model @Plain") as caught:
        train(model=mine)
    assert "\n" not in str(caught.value)


@dataclass
class Config:
    vocab_size: int = 7
    block_size: int = 7
    n_layer: int = 2
    n_embd: int = 8


class OwnDefaults(Plain):
    def __init__(self, vocab_size, block_size, n_embd=8, n_layer=3):
        super().__init__(vocab_size, n_embd)
        self.sizes = (vocab_size, block_size, n_embd, n_layer)


class OwnConfig(Plain):
    def __init__(self, config: Config):
        super().__init__(config.vocab_size, config.n_embd)
        self.sizes = (config.vocab_size, config.block_size, config.n_embd, config.n_layer)


@pytest.mark.parametrize(("own", "n_layer"), [(OwnDefaults, 3), (OwnConfig, 2)])
def test_ones_own_defaults_stand_unless_the_size_is_given(own, n_layer, monkeypatch):
    made = lab.build(model=own, vocab_size=50, max_seq_len=24).module
    assert made.sizes == (50, 24, 8, n_layer)
    assert lab.build(model=own, vocab_size=50, max_seq_len=24, d_model=32).module.sizes == (50, 24, 32, n_layer)
    lm = train(model=own, steps=3)  # gives d_model and n_layer
    assert lm.model.module.sizes[1:] == (32, 16, 2)
    assert lab.load("tiny", model=own).model.module.sizes == lm.model.module.sizes


def test_the_names_that_sizes_have_elsewhere_are_known():
    for theirs, ours in (("n_embd", "d_model"), ("block_size", "max_seq_len"), ("learning_rate", "lr")):
        with pytest.raises(lab.LabError, match=f"here it is called '{ours}'"):
            lab.pretrain([TEXT], name="x", display=False, **{theirs: 8})
