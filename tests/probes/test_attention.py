"""Attention maps: those that transformers gives on the same weights, whole and row by row, for one text and for two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.attention import measured, thumbnail
from llm_lab.probes.recording import record
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as tokenizer_of
from tests.small import TEXT, train

transformers = pytest.importorskip("transformers", reason="transformers is the reference")
LETTERS = tokenizer_of(["abcdefgh ijklmnop"], "char")


def published(tmp_path, config, make):
    """A random model of transformers', and ours with its weights."""
    torch.manual_seed(0)
    theirs = make(config).eval()
    for parameter in theirs.parameters():  # scores that differ
        parameter.data = parameter.data * 3
    theirs.save_pretrained(tmp_path / "hf")
    LETTERS.save(tmp_path / "hf" / "tokenizer.json")
    ours = lab.load(str(tmp_path / "hf"))
    ours.tokenizer = LETTERS
    return theirs, ours


def test_gpt2_and_llama_equal_transformers(tmp_path):
    for config, make in (
        (transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=32, attn_implementation="eager"), transformers.GPT2LMHeadModel),
        (
            transformers.LlamaConfig(
                vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=32, attn_implementation="eager",
            ),
            transformers.LlamaForCausalLM,
        ),
    ):  # fmt: skip
        theirs, ours = published(tmp_path / make.__name__, config, make)
        maps = lab.probe(ours, "abc def ghi abc")
        with torch.no_grad():
            wanted = theirs(torch.tensor([LETTERS.encode("abc def ghi abc")]), output_attentions=True).attentions
        np.testing.assert_allclose(maps.numpy(), torch.stack(wanted)[:, 0].numpy(), atol=1e-5)
        assert maps.numpy().max() > 0.3, "a pattern that is even says little"


def test_both_stacks_and_cross_attention_equal_transformers(tmp_path):
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=10, decoder_start_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    theirs, ours = published(tmp_path, config, transformers.T5ForConditionalGeneration)
    source, written = LETTERS.encode("abc def ghij"), [LETTERS.start, *LETTERS.encode("kl m")]
    with torch.no_grad():
        wanted = theirs(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([written]), output_attentions=True
        )
    for stack, attentions in (
        ("encoder", wanted.encoder_attentions),
        ("decoder", wanted.decoder_attentions),
        ("cross", wanted.cross_attentions),
        (None, wanted.cross_attentions),
    ):
        maps = lab.probe(ours, ["abc def ghij", "kl m"], stack=stack)
        assert maps.stack == (stack or "cross")
        np.testing.assert_allclose(maps.numpy(), torch.stack(attentions)[:, 0].numpy(), atol=1e-5)
        assert len(maps.pieces) == (12 if stack == "encoder" else 5) and len(maps.keys) == (
            5 if stack == "decoder" else 12
        )
    assert lab.probe(ours, "abc def").stack == "encoder"
    with pytest.raises(lab.LabError, match="rollout multiplies layers that read themselves"):
        maps.aggregate("rollout")
    with pytest.raises(lab.LabError, match="stack: 'both' is unknown"):
        lab.probe(ours, "abc", stack="both")
    with pytest.raises(lab.LabError, match="stack: cross is one of an encoder and a decoder, and tiny is one stack"):
        lab.probe(train(), "1 green", stack="cross")


def test_a_real_encoder_equals_transformers(minilm):
    ours = lab.load(str(minilm))
    theirs = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    reads = transformers.AutoTokenizer.from_pretrained(minilm)
    for texts in (["The cat sat on the mat."], ["The cat sat on the mat.", "It was a warm evening in Rome."]):
        maps = lab.probe(ours, texts)
        encoded = reads(*texts, return_tensors="pt")
        with torch.no_grad():
            wanted = torch.stack(theirs(**encoded, output_attentions=True).attentions)[:, 0].numpy()
        assert [piece.id for piece in maps.pieces] == encoded["input_ids"][0].tolist()
        np.testing.assert_allclose(maps.numpy(), wanted, atol=1e-5)
    parts = np.array(maps.parts)
    assert (parts[encoded["token_type_ids"][0].numpy() == 1][:-1] == 2).all() and parts[0] == parts[-1] == 0
    between = maps.between()
    assert between.shape == (6, 12, 2, 2)
    a = wanted[3, 5][parts == 1]
    np.testing.assert_allclose(
        between[3, 5, 0], [a[:, parts == 1].sum(1).mean(), a[:, parts == 2].sum(1).mean()], atol=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [
        {"position": "alibi"},
        {"position": "t5", "n_kv_head": 1},
        {"attention": "window", "window": 3},
        {"attention": "bigbird", "sparse_block": 4, "shape": "encoder", "position": "alibi"},
        {"shape": "permutation"},
        {"shape": "encoder", "position": "t5"},
    ],
)
def test_rows_equal_the_recorded_pattern(options):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=LETTERS.vocab_size, n_layer=2, n_head=4, d_model=16, max_seq_len=48, zero_init=False, **options
    )
    model = SHAPES.load(config.shape)(config).eval()
    for parameter in model.parameters():
        parameter.data *= 2
    lm = LM("small", model, LETTERS)
    text = "abc def ghij klm nop abc"
    maps = lab.probe(lm, text)
    n = len(text)
    for i, (site, pattern) in enumerate(lab.record(lm, text, "blocks.*.attn.pattern").items()):
        pattern = pattern[0, :, :n, :n]
        np.testing.assert_allclose(maps.numpy()[i], pattern, atol=1e-6, err_msg=site)
        np.testing.assert_array_equal(maps.thumbnails[i], (pattern * 255).round().to(torch.uint8))
        np.testing.assert_allclose(maps.rows(i, 2, 5, 9), pattern[2, 5:9], atol=1e-6)
        np.testing.assert_allclose(maps.measures[i], measured(pattern), atol=1e-5)


def test_measures_by_hand():
    pattern = torch.rand(3, 9, 9).tril()
    pattern /= pattern.sum(-1, keepdim=True)
    weights = pattern.double().numpy()
    found = measured(pattern).numpy()
    entropy = -np.where(weights > 0, weights * np.log2(np.where(weights > 0, weights, 1)), 0).sum(-1).mean(-1)
    np.testing.assert_allclose(found[:, 0], entropy, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], np.array([weights[:, i, i - 1] for i in range(1, 9)]).mean(0), atol=1e-6)
    np.testing.assert_allclose(found[:, 2], weights[:, 1:, 0].mean(-1), atol=1e-6)
    np.testing.assert_allclose(found[:, 3], np.einsum("hii->h", weights) / 9, atol=1e-6)
    assert measured(torch.ones(2, 1, 1)).tolist() == [[0, 0, 1, 1]] * 2


def test_thumbnails_keep_the_largest():
    pattern = torch.rand(2, 130, 70)
    small = thumbnail(pattern)
    assert small.shape == (2, 64, 64)
    rows, columns = (np.arange(64) * n // 64 for n in (130, 70))
    wanted = np.maximum.reduceat(np.maximum.reduceat(pattern.numpy(), rows, axis=1), columns, axis=2)
    np.testing.assert_array_equal(small, np.rint(wanted * 255))


def test_aggregates_by_plain_loops():
    maps = lab.probe(train(), TEXT[:14])
    every = maps.numpy().astype(np.float64)
    np.testing.assert_allclose(maps.aggregate("mean"), every.mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(maps.select(layers=[1]).aggregate("max"), every[1].max(0), atol=1e-6)
    rolled = np.eye(14)
    for layer in every:
        rolled = (layer.mean(0) + np.eye(14)) / 2 @ rolled
    np.testing.assert_allclose(maps.aggregate("rollout"), rolled, atol=1e-6)
    with pytest.raises(lab.LabError, match="aggregate: 'sum' is unknown; there is: mean, max, rollout"):
        maps.aggregate("sum")
    scores = (maps.products(1, 0, 9, 4).sum() * maps.scale, maps.products(1, 0, 9, 5).sum() * maps.scale)
    row = maps.pattern(1, 0)[9]
    assert np.log(row[4] / row[5]) == pytest.approx(scores[0] - scores[1], abs=1e-4)


def test_some_layers_and_heads_keep_their_numbers():
    lm = train(n_layer=4, n_head=4, n_kv_head=2, position="alibi")
    every = lab.probe(lm, TEXT[:14])
    some = lab.probe(lm, TEXT[:14], layers=[3, 1], heads="2")
    assert some.shape == (2, 1, 14, 14) and list(some.layers) == [3, 1] and list(some.heads) == [2]
    np.testing.assert_array_equal(some.numpy()[:, 0], every.numpy()[[3, 1], 2])
    np.testing.assert_allclose(some.row(1, 2, -1), every.pattern(1, 2)[-1], atol=1e-6)
    np.testing.assert_array_equal(some.products(3, 2, 9, 4), every.products(3, 2, 9, 4))
    np.testing.assert_array_equal(some.measures, every.measures[[3, 1]][:, [2]])
    again = some.select(layers=[1])
    np.testing.assert_array_equal(again.pattern(1, 2), every.pattern(1, 2))
    assert "layer 1 · head 2" in str(again)
    assert sum(x.nbytes for x in vars(again).values() if isinstance(x, np.ndarray)) < 14 * 14 + 14 * 100
    for call, says in (
        (lambda: some.pattern(0, 2), "layer: 0 is not there; these maps have layers 3, 1"),
        (lambda: every.pattern(0, 4), "head: 4 is not there; these maps have heads 0 to 3"),
        (lambda: every.select(heads=[9]), "head: 9 is not there"),
        (lambda: every.select(layers=[]), "select: nothing is left"),
        (lambda: every.row(0, 0, 14), "query: 14 is not there; the text has 14 tokens; use -14 to 13"),
        (lambda: lab.probe(lm, "1 green", layers=[4]), "layer: 4 is not there"),
        (lambda: lab.probe(lm, "1 green", layers=[1], layer=0), "layer: 0 is not there; these maps have layers 1"),
    ):
        with pytest.raises(lab.LabError, match=says):
            call()


def test_the_head_that_is_shown_large_may_be_named():
    lm = train(n_layer=2, n_head=4)
    assert lab.probe(lm, "1 green").opens is None
    assert lab.probe(lm, "1 green", layer=1, head=3).opens == (1, 3)
    maps = lab.probe(lm, "1 green", head=2)
    assert maps.opens[1] == 2 and f"layer {maps.opens[0]} · head 2" in str(maps)
    assert maps.measures[maps.opens[0], 2, 0] in maps.measures[:, 2, 0]


def test_two_texts_of_one_stack_are_read_one_after_the_other():
    lm = train()
    maps = lab.probe(lm, ["1 green", " bottles"])
    assert "".join(piece.text for piece in maps.pieces) == "1 green bottles"
    assert list(maps.parts) == [1] * 7 + [2] * 8
    between = maps.between()
    assert np.allclose(between[:, :, 0, 1], 0) and np.allclose(between.sum(-1), 1, atol=1e-6)
    assert np.allclose(maps.numpy(), lab.probe(lm, "1 green bottles").numpy(), atol=1e-6)
    with pytest.raises(lab.LabError, match="between: one text was read"):
        lab.probe(lm, "1 green").between()
    with pytest.raises(lab.LabError, match="text: it is empty"):
        lab.probe(lm, ["1 green", ""])


def test_models_of_pairs_read_pairs_as_they_learned_to():
    pair = ["1 green", " bottles"]
    sizes = dict(preset="bert", steps=2)
    taught, plain = train(objective="mlm_nsp", **sizes), train("plain", objective="mlm", **sizes)
    maps = lab.probe(taught, pair)
    cls, sep = (taught.tokenizer.special(name) for name in ("cls", "sep"))
    one, other = (taught.tokenizer.encode(text) for text in pair)
    assert [piece.id for piece in maps.pieces] == [cls, *one, sep, *other, sep]
    assert list(maps.parts) == [0] + [1] * len(one) + [0] + [2] * len(other) + [0]
    ids = torch.tensor([[cls, *one, sep, *other, sep]])
    types = torch.tensor([[0] * (len(one) + 2) + [1] * (len(other) + 1)])
    batch = replace(taught.batch(ids), token_type_ids=types)
    for i in range(2):
        site = f"blocks.{i}.attn.pattern"
        np.testing.assert_allclose(maps.numpy()[i], record(taught.model, batch, site)[site][0], atol=1e-6)
    assert [piece.id for piece in lab.probe(plain, pair).pieces] == [*one, *other]


def test_long_maps_are_small_and_exact():
    """Twelve layers of twelve heads at 2,048 tokens hold under 200 MB; two of the layers are tried here."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=LETTERS.vocab_size, n_layer=2, n_head=12, d_model=768, d_ff=64, max_seq_len=2048, zero_init=False
    )
    lm = LM("long", SHAPES.load("decoder")(config).eval(), LETTERS)
    text = "abc def ghij klm" * 128
    maps = lab.probe(lm, text)
    held = sum(x.nbytes for x in vars(maps).values() if isinstance(x, np.ndarray))
    assert maps.shape == (2, 12, 2048, 2048)
    assert 6 * held < 200e6
    site = "blocks.1.attn.pattern"
    wanted = record(lm.model, lm.batch(torch.tensor([LETTERS.encode(text)])), site, take=lambda x, _: x[0, 7, 2000])[
        site
    ]
    np.testing.assert_allclose(maps.rows(1, 7, 2000, 2001)[0], wanted, atol=1e-6)
