"""Our parts with the weights of torch's own modules give those modules' numbers; `test_hf` does so with transformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llm_lab.data.batch import Attend, Batch
from llm_lab.models.attention import Attention
from llm_lab.models.decoder import Decoder
from llm_lab.models.encoder_decoder import EncoderDecoder
from llm_lab.models.layers import LayerNorm, RMSNorm
from llm_lab.models.look import Look
from llm_lab.models.options import ModelConfig
from llm_lab.models.presets import PRESETS
from llm_lab.probes.recording import record

CLOSE = dict(atol=1e-5, rtol=1e-5)


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
    config = ModelConfig(vocab_size=8, d_model=32, n_head=4, bias=True, qk_norm=False, position="learned")
    ours, theirs = Attention(config), nn.MultiheadAttention(32, 4, batch_first=True)
    ours.qkv.load_state_dict({"weight": theirs.in_proj_weight.detach(), "bias": theirs.in_proj_bias.detach()})
    ours.out.load_state_dict({k: v.detach() for k, v in theirs.out_proj.state_dict().items()})
    x = torch.randn(2, 7, 32)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(ours(x, Look(is_causal=True), "a"), theirs(x, x, x, attn_mask=mask)[0], **CLOSE)


def waves(length: int, width: int) -> Tensor:
    """Vaswani et al. 2017, §3.5, written out: sin at even places, cos at odd ones."""
    made = torch.zeros(length, width)
    for place in range(length):
        for i in range(0, width, 2):
            made[place, i] = math.sin(place / 10000 ** (i / width))
            made[place, i + 1] = math.cos(place / 10000 ** (i / width))
    return made


# Ours, theirs in an encoder's layer, theirs in a decoder's.
BLOCK = {
    "attn.qkv.weight": ("self_attn.in_proj_weight",) * 2,
    "attn.qkv.bias": ("self_attn.in_proj_bias",) * 2,
    "attn.out": ("self_attn.out_proj",) * 2,
    "attn_norm": ("norm1",) * 2,
    "mlp.up": ("linear1",) * 2,
    "mlp.down": ("linear2",) * 2,
    "mlp_norm": ("norm2", "norm3"),
    "cross.out": (None, "multihead_attn.out_proj"),
    "cross_norm": (None, "norm2"),
}


def copied(theirs: nn.Transformer, config: ModelConfig) -> EncoderDecoder:
    ours, new = EncoderDecoder(config).eval(), {}
    for side, stack in enumerate(("encoder", "decoder")):
        for i, layer in enumerate(getattr(theirs, stack).layers):
            held = layer.state_dict()
            for name, places in BLOCK.items():
                if (place := places[side]) is None:
                    continue
                if name.endswith(("weight", "bias")):
                    new[f"{stack}.blocks.{i}.{name}"] = held[place]
                else:
                    new |= {f"{stack}.blocks.{i}.{name}.{end}": held[f"{place}.{end}"] for end in ("weight", "bias")}
            if stack == "decoder":
                for end in ("weight", "bias"):
                    fused = held[f"multihead_attn.in_proj_{end}"]
                    new[f"{stack}.blocks.{i}.cross.q.{end}"] = fused[: config.d_model]
                    new[f"{stack}.blocks.{i}.cross.kv.{end}"] = fused[config.d_model :]
    missing, unexpected = ours.load_state_dict(new, strict=False)
    assert not unexpected and set(missing) == {"embed.weight", "unembed.weight"}
    return ours


def test_the_transformer_of_2017_against_torch():
    """Preset `transformer` with the weights of torch.nn.Transformer, which has neither embeddings nor an output: hidden
    states of every layer of both stacks, and logits, with padding in the source."""
    torch.manual_seed(0)
    sizes = dict(n_layer=2, n_decoder_layer=3, n_head=4, d_model=32, d_ff=48, max_seq_len=24)
    config = PRESETS.load("transformer").config(53, **sizes)
    layer = dict(d_model=32, nhead=4, dim_feedforward=48, dropout=0.0, batch_first=True)
    theirs = nn.Transformer(
        custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(**layer), 2, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), 3),
        d_model=32, nhead=4, batch_first=True,
    ).train()  # fmt: skip  # in training mode, without dropout: the other path skips rows of padding
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = copied(theirs, config)
    source, target = torch.randint(0, 53, (2, 12)), torch.randint(0, 53, (2, 9))
    keep = torch.ones(2, 12, dtype=torch.bool)
    keep[1, -4:] = False
    states: dict[str, Tensor] = {}
    for stack in ("encoder", "decoder"):
        for i, one in enumerate(getattr(theirs, stack).layers):
            one.register_forward_hook(
                lambda *call, name=f"{stack}.blocks.{i}.resid_post": states.update({name: call[-1]})
            )
    table = ours.embed.weight
    with torch.no_grad():
        x, y = (table[ids] * math.sqrt(32) + waves(ids.shape[1], 32) for ids in (source, target))
        causal = torch.ones(9, 9, dtype=torch.bool).triu(1)
        hidden = theirs(x, y, tgt_mask=causal, src_key_padding_mask=~keep, memory_key_padding_mask=~keep)
        logits = hidden @ table.T
    batch = Batch(source, attend=Attend(causal=False, keep=keep), decoder_ids=target)
    found = record(ours, batch)
    assert len(states) == 5
    for name, value in states.items():
        rows = keep if name.startswith("encoder") else torch.ones(2, 9, dtype=torch.bool)
        torch.testing.assert_close(found[name][rows], value[rows], **CLOSE)
    torch.testing.assert_close(found["decoder.final"], hidden, **CLOSE)
    torch.testing.assert_close(ours(**batch.inputs()).logits, logits, **CLOSE)
