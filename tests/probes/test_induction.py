"""A two-layer model trained on repeated random blocks grows an induction head: the table of heads names it, and the loss on
repeats rests on it several times more than on any other head."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import llm_lab as lab

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture(scope="module")
def copier(tmp_path_factory):
    """As the tutorial makes it: one live head in layer 1, and in layer 0 four that begin as copies of one."""
    rng = random.Random(0)
    documents = []
    for _ in range(6000):
        block = "".join(rng.choices(LETTERS, k=rng.randint(4, 24)))
        documents.append((block * 64)[:64])
    letters = lab.tokenizer(documents, kind="char")
    torch.manual_seed(0)
    first = lab.build(
        "modern",
        vocab_size=letters.vocab_size,
        n_layer=2,
        n_head=4,
        d_model=64,
        d_ff=128,
        max_seq_len=64,
        qk_norm=False,
        zero_init=False,
    )
    d = first.config.head_dim
    with torch.no_grad():
        below, above = (block.attn for block in first.blocks)
        for weight in below.qkv.weight.split(below.qkv.splits):
            weight.copy_(weight[:d].repeat(4, 1))
        below.out.weight.copy_(below.out.weight[:, :d].repeat(1, 4))
        above.qkv.weight.split(above.qkv.splits)[2][d:] = 0
        above.out.weight[:, d:] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("induction"))
        yield lab.pretrain(
            documents,
            name="copier",
            model=first,
            tokenizer=letters,
            steps=600,
            batch_size=32,
            threads=1,
            display=False,
            sample_tokens=0,
        )


def test_the_table_names_it(copier):
    table = lab.probe(copier, kind="heads", corpus=["abcdefgh" * 30])
    assert table.named("induction") == [(1, 0)]
    assert table.scores["induction"][1, 0] > 0.6 > 10 * table.chance["induction"]
    assert table.scores["induction"][0].max() < 0.2
    assert table.scores["previous_token"][0].min() > 0.3


def test_the_loss_on_repeats_rests_on_it(copier):
    found = lab.probe(copier, "abcabc", kind="ablate", parts=["heads"])
    rise = found.panels[1].values
    others = np.delete(rise.ravel(), 4)
    assert found.panels[1].title == "loss on repeats, nats/char"
    assert rise[1, 0] > 2 and rise[1, 0] > 3 * others.max()
    assert np.array_equal(rise[1, 1:], np.zeros(3))  # heads that give nothing can lose nothing


def test_it_needs_what_the_layer_below_writes(copier):
    names = [f"0.{j}" for j in range(4)]
    found = dict(lab.probe(copier, "abcabc", kind="ablate", together=names).figures)
    before, after = (float(number) for number in found["loss on repeats, nats/char"].split(" → "))
    assert before < 0.5 and after > before + 2
