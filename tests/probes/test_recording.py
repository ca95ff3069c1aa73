"""Reading and replacing activations, and what must hold while and after."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.models.decoder import Decoder
from llm_lab.models.options import ModelConfig
from tests.small import TEXT, train

IDS = torch.arange(10)[None] % 7


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=7, n_layer=2, n_head=4, n_kv_head=2, d_model=16, max_seq_len=16, zero_init=False)
    return Decoder(config).eval()


def test_the_sites_fit_together(model):
    a = lab.record(model, IDS)
    for i in range(2):
        b = f"blocks.{i}."
        torch.testing.assert_close(a[b + "resid_mid"], a[b + "resid_pre"] + a[b + "attn.out"])
        torch.testing.assert_close(a[b + "resid_post"], a[b + "resid_mid"] + a[b + "mlp.out"])
        k, v = (a[b + f"attn.{x}"].repeat_interleave(2, dim=1) for x in "kv")
        scores = a[b + "attn.q"] @ k.mT / 2
        keep = torch.ones(10, 10, dtype=torch.bool).tril()
        torch.testing.assert_close(a[b + "attn.scores"][..., keep], scores[..., keep])
        torch.testing.assert_close(a[b + "attn.z"], a[b + "attn.pattern"] @ v)
    torch.testing.assert_close(a["blocks.0.resid_post"], a["blocks.1.resid_pre"])


def test_transformerlens_names_and_patterns(model):
    both = lab.record(model, IDS, ["blocks.*.attn.hook_pattern", "hook_embed", "ln_final.hook_normalized"])
    assert list(both) == ["embed", "blocks.0.attn.pattern", "blocks.1.attn.pattern", "final"]
    with pytest.raises(lab.LabError, match=r"did you mean .blocks\.0\.attn\.z."):
        lab.record(model, IDS, "blocks.0.atn.z")


def test_gradients_flow_through_recorded_sites(model):
    a = lab.record(model, IDS, ["blocks.0.resid_post", "logits"], grad=True)
    (grad,) = torch.autograd.grad(a["logits"][0, -1, 3], a["blocks.0.resid_post"])
    assert grad.abs().sum() > 0
    assert not lab.record(model, IDS, "logits")["logits"].requires_grad


def test_a_replaced_site_changes_what_follows_and_nothing_after_the_with(model):
    before = model(IDS).logits
    with lab.replace(model, {"blocks.1.attn.z": torch.zeros_like}):
        during = model(IDS).logits
        seen = lab.record(model, IDS, "blocks.1.attn.z")["blocks.1.attn.z"]
    assert not torch.allclose(before, during)
    assert not seen.any()
    assert torch.equal(model(IDS).logits, before)
    with lab.replace(model, {"blocks.*.attn.z": lambda x: x}):
        torch.testing.assert_close(model(IDS).logits, before, atol=1e-5, rtol=1e-5)


def test_everything_is_closed_after_an_exception(model):
    before = model(IDS).logits

    def fail(x):
        raise RuntimeError("inside a probe")

    with pytest.raises(RuntimeError, match="inside a probe"), lab.replace(model, {"embed": fail}):
        model(IDS)
    assert torch.equal(model(IDS).logits, before)
    with (
        pytest.raises(lab.LabError, match="must return a tensor of shape"),
        lab.replace(model, {"embed": lambda x: x[0]}),
    ):
        model(IDS)


def test_a_tape_acts_on_its_own_model_alone(model):
    other = Decoder(model.config).eval()
    with torch.no_grad():
        before = other(IDS).logits
        with lab.replace(model, {"embed": torch.zeros_like}):
            assert torch.equal(other(IDS).logits, before)


def test_replacing_reaches_generation(model):
    lm = train(steps=60)
    plain = lab.generate(lm, "1 green", seed=0, max_new_tokens=20).text
    with lab.replace(lm, {"blocks.*.mlp.out": torch.zeros_like, "blocks.*.attn.out": torch.zeros_like}):
        assert lab.generate(lm, "1 green", seed=0, max_new_tokens=20).text != plain
    assert lab.generate(lm, "1 green", seed=0, max_new_tokens=20).text == plain


def test_attention_maps_equal_the_recorded_patterns():
    lm = train(n_kv_head=1, n_head=2)
    text = TEXT[:20]
    maps = lab.probe(lm, text)
    want = lab.record(lm, text, "blocks.*.attn.pattern")
    assert maps.shape == (2, 2, 20, 20)
    for i in range(2):
        np.testing.assert_allclose(maps.numpy()[i], want[f"blocks.{i}.attn.pattern"][0], atol=1e-6)
    assert maps.tensor.shape == maps.shape
    np.testing.assert_array_equal(maps.thumbnails, np.rint(maps.numpy() * 255).astype(np.uint8))
    assert [piece.text for piece in maps.pieces] == list(text)
    with pytest.raises(lab.LabError, match="heads 0 to 1"):
        maps.pattern(0, 2)


def test_long_maps_stay_small():
    maps = lab.probe(train(max_seq_len=200), TEXT[:200])
    assert maps.thumbnails.shape == (2, 2, 64, 64)
    assert maps.thumbnails.max() == 255


def test_bad_input_is_refused_in_one_line():
    lm = train()
    for text, says in (("", "empty"), (TEXT[:50], "50 tokens do not fit the context of 32")):
        with pytest.raises(lab.LabError, match=says):
            lab.probe(lm, text)
    with pytest.raises(lab.LabError, match=r"did you mean .attention"):
        lab.probe(lm, "x", kind="attenton")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "neither a text nor ids"),
        (b"a", "neither a text nor ids|dimensions|whole numbers"),
        (["a", "b"], "neither a text nor ids"),
        (5, "dimensions"),
        ([999999], "999999 is no id"),
        ([-1], "-1 is no id"),
        ([[1, 2], [3]], "neither a text nor ids"),
        ([0.5], "whole numbers"),
        ([True], "whole numbers"),
        ([[[1]]], "dimensions"),
        ([], "empty"),
        (["1"] * 0, "empty"),
        ([1] * 33, "33 tokens do not fit the context of 32"),
        ("1" * 33, "33 tokens do not fit the context of 32"),
        (10**30, "neither a text nor ids"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text, says):
    lm = train()
    with pytest.raises(lab.LabError, match=f"^text: .*({says})") as caught:
        lab.record(lm, text)
    assert "\n" not in str(caught.value)


def test_ids_of_every_kind_are_read(model):
    want = lab.record(model, IDS, "logits")["logits"]
    for ids in (IDS.tolist(), IDS[0].tolist(), IDS.numpy(), IDS.int(), IDS.numpy().astype(np.uint8)):
        assert torch.equal(lab.record(model, ids, "logits")["logits"], want)


def test_wrong_types_are_refused_in_one_line(model):
    z = "blocks.0.attn.z"

    def replace(what, replacements):
        with lab.replace(what, replacements):
            model(IDS)

    for call, says in (
        (lambda: lab.record(5, "x"), "^model: 5 is int"),
        (lambda: lab.record(torch.nn.Linear(2, 2), IDS), "^model: "),
        (lambda: lab.record(model, IDS, None), "^sites: None"),
        (lambda: lab.record(model, IDS, 5), "^sites: 5"),
        (lambda: lab.record(model, IDS, [5]), "^sites: 5"),
        (lambda: lab.record(model, IDS, b"embed"), "^sites: b'embed'"),
        (lambda: replace(None, {z: torch.zeros_like}), "^model: None"),
        (lambda: replace(model, None), "^replacements: None"),
        (lambda: replace(model, [z]), "^replacements: "),
        (lambda: replace(model, {z: 5}), "^replacements: 5"),
        (lambda: replace(model, {5: torch.zeros_like}), "^replacements: 5 is int"),
        (lambda: replace(model, {z: lambda x: x.double()}), r"torch\.float32 on cpu, not torch\.float64"),
        (lambda: replace(model, {z: lambda x: x.to("meta")}), "on cpu, not .* on meta"),
    ):
        with pytest.raises(lab.LabError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("grad", [False, True])
def test_what_was_recorded_is_not_changed_by_a_replacement(model, grad):
    want = lab.record(model, IDS)
    with lab.replace(model, {"blocks.1.resid_pre": lambda x: x.detach().zero_()}):
        found = lab.record(model, IDS, ["blocks.0.resid_post", "blocks.1.resid_pre"], grad=grad)
    assert torch.equal(found["blocks.0.resid_post"].detach(), want["blocks.0.resid_post"])
    assert not found["blocks.1.resid_pre"].any()


def test_recorded_tensors_are_their_own(model):
    found = lab.record(model, IDS)
    assert len({a.untyped_storage().data_ptr() for a in found.values()}) == len(found)


def test_replacements_in_a_users_module_are_checked_too():
    class Mine(torch.nn.Module):
        def __init__(self, vocab_size):
            super().__init__()
            self.table = torch.nn.Embedding(vocab_size, 8)
            self.bend = torch.nn.ReLU(inplace=True)
            self.head = torch.nn.Linear(8, vocab_size)

        def forward(self, ids):
            return self.head(self.bend(self.table(ids)))

    lm = train(model=Mine)
    found = lab.record(lm, "1 green", ["table", "bend"])
    assert (found["table"] < 0).any()
    assert not (found["bend"] < 0).any()
    for function in (lambda x: x[0], lambda x: x.double(), lambda x: None):
        with pytest.raises(lab.LabError, match=r"^replace .bend.: "), lab.replace(lm, {"bend": function}):
            lab.record(lm, "1 green")
