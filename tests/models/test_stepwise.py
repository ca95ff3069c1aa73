"""The flat step of a decoder: the numbers of its modules' own forward, and only where nobody would miss those."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import llm_lab as lab
from llm_lab.decoding.cache import KVCache
from llm_lab.models.options import SHAPES
from llm_lab.models.presets import PRESETS
from llm_lab.models.sites import Tape, opened
from llm_lab.models.stepwise import stepwise, usable
from tests.small import train

SMALL = dict(n_layer=3, n_head=4, d_model=32, max_seq_len=24)
LIKE = {
    "modern": {},
    "grouped": dict(n_kv_head=2),
    "shared": dict(share_layers=True),
    "bare": dict(position="none", qk_norm=False, logit_softcap=0.0),
    "gpt2": dict(preset="gpt2"),
    "llama": dict(preset="llama", d_ff=48),
    "qwen3": dict(preset="qwen3", n_kv_head=2, d_head=16, d_ff=48),
    "narrow": dict(d_embed=16, embed_norm=True, scale_embeddings=True, mlp="geglu"),
}


def make(preset: str = "modern", **sizes):
    torch.manual_seed(0)
    config = PRESETS.load(preset).config(40, **{**SMALL, **sizes})
    model = SHAPES.load(config.shape)(config).eval()
    for p in model.parameters():
        nn.init.normal_(p, mean=0.1, std=0.3)  # those that start at zero too, and the gains
    return model


@pytest.mark.parametrize("name", list(LIKE))
@torch.no_grad()
def test_each_step_gives_what_the_whole_gives(name):
    model = make(**LIKE[name])
    ids = torch.randint(0, 40, (3, 20), generator=torch.Generator().manual_seed(1))
    whole, step, cache = model(ids), stepwise(model), KVCache(model.config, 3)
    assert step is not None
    model(ids[:, :5], cache=cache)
    for i in range(5, 20):
        found = step(ids[:, i : i + 1], cache)
        torch.testing.assert_close(found.logits[:, 0], whole.logits[:, i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.hidden[:, 0], whole.hidden[:, i], atol=1e-5, rtol=1e-5)
        if i == 10:  # rows change places, and ends are taken back
            cache.reorder(torch.tensor([2, 0, 0]))
            ids = ids[[2, 0, 0]]
            whole = model(ids)
            cache.truncate(8)
            model(ids[:, 8:11], cache=cache)
    assert cache.length == 20


@pytest.mark.parametrize("name", ["modern", "gpt2", "llama", "qwen3"])
@torch.no_grad()
def test_in_bfloat16_it_is_off_by_no_more_than_rounding(name):
    model = make(**LIKE[name]).bfloat16()
    ids = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    wide = make(**LIKE[name])
    wide.load_state_dict(model.state_dict())  # the same weights, rounded, in float32
    true, whole = wide(ids).logits, model(ids).logits
    step, cache = stepwise(model), KVCache(model.config, 3)
    assert step is not None
    model(ids[:, :5], cache=cache)
    found = torch.cat([step(ids[:, i : i + 1], cache).logits for i in range(5, 12)], dim=1)
    off, rounding = (found - true[:, 5:]).abs(), (whole - true)[:, 5:].abs()
    assert off.mean() < 1.5 * rounding.mean() + 1e-3
    assert off.max() < 2 * rounding.max() + 1e-2


@pytest.mark.parametrize(
    "sizes",
    [
        dict(attention="window", window=4),
        dict(position="alibi"),
        dict(norm_place="post"),
        dict(n_expert=2),
        dict(preset="t5", d_head=8, d_ff=32),
    ],
)
def test_what_is_of_another_make_has_no_flat_step(sizes):
    assert stepwise(make(**sizes)) is None


def test_nobody_who_listens_or_has_put_parts_in_is_passed_by():
    model = make()
    assert stepwise(model) is not None and usable()
    handle = model.blocks[1].mlp.register_forward_hook(lambda *_: None)
    assert stepwise(model) is None
    handle.remove()
    with opened(Tape(model, frozenset({"final"}))):
        assert not usable()
    for listen in ("register_module_forward_hook", "register_module_forward_pre_hook"):
        handle = getattr(nn.modules.module, listen)(lambda *_: None)
        assert not usable()
        handle.remove()
    model.blocks[0].mlp.bfloat16()
    assert stepwise(model) is None
    assert stepwise(make().double()) is None
    model = make()
    nn.utils.parametrizations.weight_norm(model.blocks[0].attn.out)
    assert stepwise(model) is None


def test_texts_are_those_of_the_modules_whatever_the_strategy(monkeypatch):
    lm = train("bard", steps=20)
    ways = [dict(), dict(strategy="beam"), dict(strategy="contrastive_search"), dict(strategy="prompt_lookup", n=2)]

    def texts():
        made = [
            lab.generate(lm, prompt, seed=3, max_new_tokens=60, **way).texts
            for way in ways
            for prompt in ("1", "1 green")
        ]
        return [text for some in made for text in some]

    flat = texts()
    monkeypatch.setattr("llm_lab.decoding.rows.stepwise", lambda model: None)
    assert texts() == flat


def test_the_weights_are_the_models_own():
    model = make()
    step, ids = stepwise(model), torch.tensor([[3]])
    with torch.no_grad():
        before = step(ids, KVCache(model.config, 1)).logits
        model.blocks[0].attn.qkv.weight.mul_(2)
        after = step(ids, KVCache(model.config, 1)).logits
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, model(ids).logits, atol=1e-5, rtol=1e-5)
