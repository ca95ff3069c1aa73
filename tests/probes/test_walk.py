"""A token's walk: each step follows from the steps before by its formula, on the model's own weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import llm_lab as lab
from llm_lab.models.options import MLPS, NORMS, POSITIONS, SHAPES
from llm_lab.models.presets import PRESETS
from llm_lab.probes.walk import BEND, NORM, POSITION
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as tokenizer_of
from tests.small import TEXT, train

WORDS = tokenizer_of(["abcdefgh ij"], "char")
SIZES = dict(n_layer=2, n_head=4, d_model=16, max_seq_len=32, zero_init=False)


def made(preset: str = "modern", **options) -> LM:
    torch.manual_seed(0)
    config = PRESETS.load(preset).config(WORDS.vocab_size, **{**SIZES, **options})
    model = SHAPES.load(config.shape)(config).eval()
    for parameter in model.parameters():  # biases and gains that do something
        parameter.data += 0.05 * torch.randn_like(parameter)
    return LM("small", model, WORDS)


def close(found, wanted) -> None:
    np.testing.assert_allclose(found, torch.as_tensor(wanted).detach().numpy(), atol=2e-5)


def joined(block, part, x, out):
    """The stream and what a part adds to it, by where the norms stand."""
    if block.place == "post":
        return getattr(block, f"{part}_norm")(x + out)
    return x + (block.after[part](out) if block.place == "sandwich" else out)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("modern", {}),
        ("gpt2", {}),
        ("llama", {"n_kv_head": 2}),
        ("bert", {}),
        ("modern", {"position": "alibi", "norm_place": "sandwich"}),
    ],
)
def test_every_step_follows_from_those_before(preset, options):
    lm = made(preset, **options)
    c, at = lm.model.config, 3
    walk = lab.probe(lm, "abc def", kind="walk", position=at)
    x = torch.from_numpy(walk["embed"])
    for i, block in enumerate(lm.model.blocks):
        close(walk["resid_pre"][i], x)
        n = x if c.norm_place == "post" else block.attn_norm(x)
        q, _, _ = block.attn.qkv(n).split(block.attn.qkv.splits)
        q = q.view(c.n_head, -1)
        if c.qk_norm:
            q = block.attn.q_norm(q)
        if c.position != "rotary":
            close(walk["attn.q"][i], q)
        else:  # turning leaves lengths as they are
            close(np.linalg.norm(walk["attn.q"][i], axis=-1), q.norm(dim=-1))
        scores, pattern = walk["attn.scores"][i], walk["attn.pattern"][i]
        close(pattern, torch.from_numpy(scores).softmax(-1))
        best = pattern.argmax(-1)
        if c.position != "alibi":
            products = walk["attn.products"][i].sum(-1) * c.head_dim**-0.5
            close(products, np.take_along_axis(scores, best[:, None], axis=1)[:, 0])
        close(walk["attn.products"][i], walk["attn.q"][i] * walk["attn.k"][i])
        values = lab.record(lm, "abc def", f"blocks.{i}.attn.v")[f"blocks.{i}.attn.v"][0]
        values = values.repeat_interleave(c.n_head // c.kv_heads, dim=0)
        close(walk["attn.z"][i], torch.einsum("ht,htd->hd", torch.from_numpy(pattern), values))
        out = block.attn.out(torch.from_numpy(walk["attn.z"][i]).flatten())
        close(walk["attn.out"][i], out)
        x = joined(block, "attn", x, out)
        close(walk["resid_mid"][i], x)
        n = x if c.norm_place == "post" else block.mlp_norm(x)
        pre = block.mlp.up(n).chunk(2)[0] if block.mlp.gated else block.mlp.up(n)
        close(walk["mlp.pre"][i], pre)
        out = block.mlp.down(torch.from_numpy(walk["mlp.post"][i]))
        close(walk["mlp.out"][i], out)
        x = joined(block, "mlp", x, out)
        close(walk["resid_post"][i], x)
    final = lm.model.norm(x)
    if c.final_norm:
        close(walk["final"], final)
    logits = lm.model.logits(final[None, None])[0, 0]
    top, order = logits.topk(10)
    close(walk["logits"], top)
    assert [piece.id for piece in walk.candidates] == order.tolist()
    close(walk["probabilities"], logits.softmax(-1)[order])
    wanted = lm.model(**lm.batch(torch.tensor([WORDS.encode("abc def")])).inputs()).logits[0, at]
    close(walk["logits"], wanted[order])


def test_two_stacks_walk_the_decoder():
    lm = made("t5")
    walk = lab.probe(lm, ["abc def", "ghi"], kind="walk", position=2)
    assert [piece.text for piece in walk.source] == list("abc def")
    assert [piece.text for piece in walk.pieces][1:] == list("ghi")
    close(walk["cross.pattern"], torch.from_numpy(walk["cross.scores"]).softmax(-1))
    assert walk["cross.pattern"].shape == (2, 4, 7)
    alone = lab.probe(lm, "abc def", kind="walk")
    assert len(alone.pieces) == 1


def test_experts_and_streams():
    routed = lab.probe(made(n_expert=3), "abc", kind="walk")
    assert routed["mlp.router"].shape == (2, 3)
    np.testing.assert_allclose(routed["mlp.router"].sum(-1), 1, atol=1e-5)
    streams = lab.probe(made(shape="permutation"), "abc def", kind="walk", position=4)
    assert streams["attn.pattern"].shape == (2, 4, 7)
    np.testing.assert_allclose(streams["attn.pattern"].sum(-1), 1, atol=1e-5)


def test_every_part_has_a_formula():
    assert set(NORM) == set(NORMS) and set(BEND) == set(MLPS) and set(POSITION) == set(POSITIONS)
    u = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(F.gelu(u), u * torch.special.ndtr(u))  # Φ of the formula


def test_table_and_refusals():
    lm = train()
    walk = lab.probe(lm, TEXT[:9], kind="walk", layer=1, head=0)
    frame = walk.to_pandas()
    assert list(frame.columns) == ["step", "index", "token", "value"]
    assert frame[frame.step == "attn.pattern"].value.sum() == pytest.approx(1, abs=1e-5)
    assert (walk.layer, walk.head, walk.position) == (1, 0, 8)
    for more, says in (
        ({"position": 9}, "position: 9 is not in the text, which has 9 tokens; use -9 to 8"),
        ({"layer": 2}, "layer: 2 is not there; this model has layers 0 to 1"),
        ({"head": 2}, "head: 2 is not there; this model has heads 0 to 1"),
    ):
        with pytest.raises(lab.LabError, match=says):
            lab.probe(lm, TEXT[:9], kind="walk", **more)
    with pytest.raises(lab.LabError, match="tiny reads one"):
        lab.probe(lm, ["1 ", "2 "], kind="walk")
    with pytest.raises(lab.LabError, match=r"step 'attn.w' is not in this walk; there is: embed, resid_pre"):
        walk["attn.w"]
