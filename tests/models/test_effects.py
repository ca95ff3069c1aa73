"""Options that have an effect only beside others: the table is true, and who gives an idle one is told."""

from __future__ import annotations

import zlib

import pytest
import torch

import llm_lab as lab
from llm_lab.models.effects import EFFECTS
from llm_lab.models.options import PATTERNS, POSITIONS, SHAPES, ModelConfig
from llm_lab.models.presets import PRESETS
from tests.small import train

BASE = dict(
    n_layer=2, n_head=2, d_model=8, max_seq_len=16, window=2, stride=2, sparse_block=4, dropout=0.1, rel_buckets=8
)
OTHER = dict(
    d_model=16, d_embed=4, n_layer=1, norm="layernorm", norm_eps=0.5, bias=True, dropout=0.5, zero_init=False,
    logit_softcap=0.01, tie_embeddings=True, output="mlm", output_bias=True, n_head=4, n_kv_head=1, d_head=6, d_ff=12,
    norm_place="post", embed_norm=True, position="none", attention="dilated", mlp="swiglu", n_expert=3, qk_norm=False,
    scale_scores=False, scale_embeddings=True, scale_logits=True, share_layers=True, n_token_type=2, n_decoder_layer=1,
    pooler=True, order=3, kernel=2, rope_theta=3.0, rel_buckets=16, rel_distance=5, window=3, stride=3, n_global=3,
    n_random=2, sparse_block=8, n_active=1, qk_gain=True, attention_dropout=0.5,
)  # fmt: skip
VALUES = {"shape": list(SHAPES), "position": list(POSITIONS), "attention": list(PATTERNS)}
VALUES |= {"n_expert": [None, 4], "qk_norm": [False, True]}


def looks(**options) -> list[torch.Tensor]:
    """What a model makes of a text while it trains: by its first weights, and by some that a zero does not hide."""
    config = ModelConfig(vocab_size=11, **{**BASE, **options})
    torch.manual_seed(0)
    model = SHAPES.load(config.shape)(config).train()
    ids = torch.arange(16)[None] % 11
    found = []
    if config.shape == "ngram":
        model.fit(ids[0].numpy())
    for _ in range(2):
        torch.manual_seed(0)
        out = model(ids, **({"decoder_ids": ids} if config.shape == "encoder_decoder" else {}))
        found += [out.logits.detach(), torch.zeros(0) if out.pooled is None else out.pooled.detach()]
        for name, p in model.named_parameters():
            p.data.normal_(std=0.3, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return found


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", [name for name in EFFECTS if name != "router_loss"])  # it is the objective's
def test_an_option_has_an_effect_where_the_table_says_and_nowhere_else(name):
    effect = EFFECTS[name]
    felt = []
    values = [value for value in VALUES[effect.of] if (name, value) != ("attention", "permutation")]  # refused anyway
    for value in values:
        beside = {effect.of: value}
        changed = not same(looks(**beside), looks(**{**beside, name: OTHER[name]}))
        if effect.there(ModelConfig(vocab_size=11, **{**BASE, **beside})):
            felt.append(changed)
        else:
            assert not changed, value
    assert any(felt) if name in ("sparse_block", "mlp") else all(felt)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(window=16), "^window: 16 has an effect with --attention window, dilated, longformer or bigbird, and attention is full; leave it out, or use for example --attention window --window 16$"),
        (dict(preset="lstm", n_head=4), "^n_head: 4 has an effect with --shape decoder, .* and shape is lstm"),
        (dict(n_active=2), "use for example --n_expert 8 --n_active 2$"),
        (dict(n_decoder_layer=2), "--shape encoder_decoder, and shape is decoder"),
        (dict(position="learned", rope_theta=500.0), "--position rotary, and position is learned"),
        (dict(qk_norm=False, qk_gain=True), "use for example --qk_norm --qk_gain$"),
        (dict(preset="ngram", d_model=16), "shape is ngram"),
    ],
)  # fmt: skip
def test_an_idle_option_that_was_given_is_refused_in_one_line(options, says):
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.build(**options)
    assert "\n" not in str(caught.value)
    with pytest.raises(lab.LabError, match=says):
        lab.pretrain(["never read"], name="x", display=False, **options)


def test_what_was_not_given_or_asks_for_nothing_is_let_be():
    lab.build("mistral", n_layer=1, n_head=2, n_kv_head=1, d_model=16, d_ff=8, max_seq_len=16, window=8, vocab_size=9)
    lab.build("lstm", d_model=8, n_layer=1, qk_norm=False, n_expert=None)  # its config has heads that it does not use
    for name in PRESETS:
        given = PRESETS.load(name).overrides
        PRESETS.load(name).config(9, **given)  # no preset states what would be refused
    lm = train(n_layer=1, steps=1, attention="window", window=4)
    lab.load("tiny")
    assert ModelConfig(**lm.model.config.to_dict()) == lm.model.config
