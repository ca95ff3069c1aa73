"""Our decoder with another implementation's weights gives that implementation's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_lab.data.batch import Attend, Batch
from llm_lab.models.layers import LayerNorm, RMSNorm
from llm_lab.models.options import ModelConfig
from llm_lab.models.presets import PRESETS
from llm_lab.models.decoder import Decoder
from llm_lab.probes.recording import record

transformers = pytest.importorskip("transformers", reason="transformers is the reference")


@pytest.fixture(scope="module")
def pair():
    """A tiny random GPT-2 of transformers, and ours with its weights."""
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=97, n_positions=32, n_embd=48, n_layer=3, n_head=4, attn_implementation="eager",
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():  # biases and gains of a fresh model would hide a mistake
        nn.init.normal_(parameter, std=0.15)
    config = PRESETS.load("gpt2").config(97, n_layer=3, n_head=4, d_model=48, max_seq_len=32)
    ours = Decoder(config).eval()
    old = theirs.state_dict()
    new = {"embed.weight": old["transformer.wte.weight"], "position.table.weight": old["transformer.wpe.weight"]}
    for end in ("weight", "bias"):
        new[f"norm.{end}"] = old[f"transformer.ln_f.{end}"]
        for i in range(3):
            for a, b in (("attn_norm", "ln_1"), ("mlp_norm", "ln_2"), ("attn.qkv", "attn.c_attn"), ("attn.out", "attn.c_proj"), ("mlp.up", "mlp.c_fc"), ("mlp.down", "mlp.c_proj")):  # fmt: skip
                value = old[f"transformer.h.{i}.{b}.{end}"]
                new[f"blocks.{i}.{a}.{end}"] = value.T if value.ndim == 2 else value
    new["unembed.weight"] = old["transformer.wte.weight"]
    ours.load_state_dict(new)
    return theirs, ours


def test_gpt2_logits_and_hidden_states(pair):
    theirs, ours = pair
    ids = torch.randint(0, 97, (2, 32))
    with torch.no_grad():
        reference = theirs(ids, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(ours(ids).logits, reference.logits, atol=1e-5, rtol=1e-5)
    found = record(ours, Batch(ids))
    for i in range(3):
        torch.testing.assert_close(found[f"blocks.{i}.resid_pre"], reference.hidden_states[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[f"blocks.{i}.attn.pattern"], reference.attentions[i], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["final"], reference.hidden_states[-1], atol=1e-5, rtol=1e-5)


def test_gpt2_left_padding_gives_the_same_logits(pair):
    theirs, ours = pair
    ids = torch.randint(0, 97, (1, 9))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], dim=1)
    keep = torch.arange(14)[None] >= 5
    positions = (torch.arange(14)[None] - 5).clamp(min=0)
    got = ours(padded, attend=Attend(keep=keep), position_ids=positions).logits[:, 5:]
    torch.testing.assert_close(got, ours(ids).logits, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        reference = theirs(padded, attention_mask=keep.long(), position_ids=positions).logits[:, 5:]
    torch.testing.assert_close(got, reference, atol=1e-5, rtol=1e-5)


def test_gpt2_size():
    config = PRESETS.load("gpt2").config(50257)
    with torch.device("meta"):
        model = Decoder(config)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808  # as released


def test_norms_against_torch():
    x = torch.randn(3, 5, 16)
    config = ModelConfig(vocab_size=8, d_model=16, bias=True)
    for ours, theirs in ((RMSNorm(config), nn.RMSNorm(16, eps=1e-5)), (LayerNorm(config), nn.LayerNorm(16, eps=1e-5))):
        nn.init.normal_(ours.weight)
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(x), theirs(x))


def test_attention_against_torch():
    """One attention layer with torch.nn.MultiheadAttention's weights, causal."""
    from llm_lab.models.attention import Attention
    from llm_lab.models.look import Look

    config = ModelConfig(vocab_size=8, d_model=32, n_head=4, bias=True, qk_norm=False, position="learned")
    ours, theirs = Attention(config), nn.MultiheadAttention(32, 4, batch_first=True)
    ours.qkv.load_state_dict({"weight": theirs.in_proj_weight.detach(), "bias": theirs.in_proj_bias.detach()})
    ours.out.load_state_dict({k: v.detach() for k, v in theirs.out_proj.state_dict().items()})
    x = torch.randn(2, 7, 32)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(ours(x, Look(is_causal=True), "a"), theirs(x, x, x, attn_mask=mask)[0], atol=1e-5, rtol=1e-5)


def test_rotary_against_transformers():
    """The same angles and the same turning as Llama's."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    from llm_lab.models.positions import Rotary, rotate

    config = ModelConfig(vocab_size=8, d_model=32, n_head=2, max_seq_len=24)
    theirs = LlamaRotaryEmbedding(
        transformers.LlamaConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=24)
    )
    q, k, ids = torch.randn(1, 2, 24, 16), torch.randn(1, 2, 24, 16), torch.arange(24)[None]
    want = apply_rotary_pos_emb(q, k, *theirs(q, ids))
    angles = Rotary(config).angles(ids)
    for ours, reference in zip((rotate(q, angles), rotate(k, angles)), want, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)
