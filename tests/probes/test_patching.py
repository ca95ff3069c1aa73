"""Patching against the run that it must reproduce and a plain loop; its estimate by gradients where that must be exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES
from llm_lab.models.presets import PRESETS
from llm_lab.probes.answers import ask
from llm_lab.probes.contrast import contrast, run
from llm_lab.probes.options import AttributionPatchingOptions, PatchOptions
from llm_lab.probes.patching import PATCHED, attribution_patching, patch
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train

TOKENIZER = train(["abcdefghij "], "char")
# Fresh weights say almost the same of both texts, and a share of next to nothing is all rounding.
LOUD = 8
CLEAN, CORRUPTED = "abc def", "abg def"
STACKED = ("decoder", "encoder", "encoder_decoder", "permutation")
KINDS = {
    "modern": {},
    "grouped": {"n_kv_head": 2, "norm_place": "sandwich", "position": "alibi"},
    "experts": {"n_expert": 4, "n_active": 2},
    "window": {"attention": "window", "window": 3},
    **{shape: {"shape": shape} for shape in STACKED[1:]},
}
NAMED = [
    name
    for name in PRESETS
    if (config := PRESETS.load(name).config(9)).shape in STACKED and config.output != "none" and name != "modern"
]


def made(kind: str = "modern", times: float = 1, **changed) -> LM:
    torch.manual_seed(0)
    sizes = dict(n_layer=2, n_head=4, d_model=16, max_seq_len=12, dropout=0.0)
    if kind in KINDS:
        preset, own = "modern", {"zero_init": False, **KINDS[kind]}
    else:
        preset, theirs = kind, PRESETS.load(kind).overrides
        own = {k: v for k, v in {"n_kv_head": 2, "d_head": 4, "d_ff": 24, "d_embed": 8}.items() if theirs.get(k)}
    config = PRESETS.load(preset).config(TOKENIZER.vocab_size, **{**sizes, **own, **changed})
    objective = {"encoder": "mlm", "encoder_decoder": "span_corruption"}.get(config.shape, "clm")
    model = SHAPES.load(config.shape)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(times if weight.ndim > 1 else 1)
    return LM("m", model, TOKENIZER, info={"objective": objective})


def reading(lm: LM, clean: str = CLEAN, corrupted: str = CORRUPTED) -> Reading:
    fills = "fill" in lm.supports and "next_token" not in lm.supports
    return Reading((lm,), tuple(text.replace("e", "<mask>") if fills else text for text in (clean, corrupted)))


def last(results):
    *_, found = results
    return found


@pytest.mark.parametrize("kind", [*KINDS, *NAMED])
def test_its_own_activations_reproduce_a_run(kind):
    lm = made(kind)
    asked = ask(reading(lm), PatchOptions())
    plain, found = run(lm, asked, 1, {}, list(lm.sites()))
    assert set(found) == set(lm.sites())
    again, _ = run(lm, asked, 1, {site: lambda x, own=own: own for site, own in found.items()})
    assert torch.equal(plain, again)
    with torch.no_grad():
        fused = lm.model(**asked.batch.inputs()).logits[:, asked.position]
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, *NAMED])
def test_the_clean_stream_restores_the_clean_run(kind):
    lm = made(kind, LOUD)
    own = contrast(reading(lm), PatchOptions())
    site = f"{own.prefix}blocks.0.resid_pre"
    (source,) = own.read([site], own.source).values()
    restored = own.measure(own.run(1, {site: lambda x: source}))
    assert own.share(restored).tolist() == [1.0]
    assert own.share(own.measure(own.run(1, {}))).tolist() == [0.0]
    # One token differs, so that its position alone does the same.
    found = last(patch(reading(lm), PatchOptions())).numpy()
    assert found.shape == (2, 7)
    np.testing.assert_allclose(found[0], [0, 0, 1, 0, 0, 0, 0], atol=2e-3)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("site", PATCHED)
def test_every_cell_equals_a_run_of_its_own(kind, site):
    lm, noising = made(kind, LOUD), PATCHED.index(site) % 2 == 1
    texts = reading(lm)
    if not any(name.endswith(f"blocks.0.{site}") for name in lm.sites()):
        with pytest.raises(lab.LabError, match=f"^site: '{site}' cannot be patched here"):
            last(patch(texts, PatchOptions(site=site)))
        return
    base, source = (ask(texts, PatchOptions(), i) for i in ((0, 1) if noising else (1, 0)))
    a, b = (TOKENIZER.encode(x)[0] for x in "ab")
    name = f"{'encoder.' if kind == 'encoder_decoder' else ''}blocks.1.{site}"
    taken = record(lm.model, source.batch, name)[name]
    of_heads = taken.ndim == 4

    def metric(asked, function=lambda x: x):
        with torch.no_grad(), lab.replace(lm, {name: function}):
            logits = lm.model(**asked.batch.inputs()).logits[0, asked.position].double()
        return float(logits[a] - logits[b])

    ends = metric(base), metric(source)
    for by in ["position", "head", "head_position"] if of_heads else ["position"]:
        options = dict(site=site, noising=noising, target="a", other="b", by=by)
        found = last(patch(texts, PatchOptions(**options, **({"layer": 1} if "_" in by else {})))).numpy()
        wanted = []
        for head in range(taken.shape[1] if by != "position" else 1):
            for position in range(7 if by != "head" else 1):

                def put(x, head=head, position=position, by=by):
                    heads = [slice(None) if by == "position" else head] if of_heads else []
                    for stream in range(0, x.shape[-2], 7):
                        index = (0, *heads, slice(stream, stream + 7) if by == "head" else position + stream)
                        x[index] = taken[index]
                    return x

                wanted.append((metric(base, put) - ends[0]) / (ends[1] - ends[0]))
        own = found if "_" in by else found[1]
        np.testing.assert_allclose(own, np.array(wanted).reshape(own.shape), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("metric", ["log_probability", "kl"])
def test_other_metrics_have_the_same_ends(metric):
    lm = made()
    own = contrast(reading(lm), PatchOptions(metric=metric, target="d"))
    for asked, share in ((own.base, 0.0), (own.source, 1.0)):
        logits = own.run(1, {}, asked)
        assert own.share(own.measure(logits)).tolist() == [share]
    clean, corrupted = (own.run(1, {}, asked)[0].log_softmax(0) for asked in (own.clean, own.corrupted))
    wanted = {
        "log_probability": corrupted[TOKENIZER.encode("d")[0]],
        "kl": torch.nn.functional.kl_div(corrupted, clean, log_target=True, reduction="sum"),
    }[metric]
    assert own.at_corrupted == pytest.approx(float(wanted), abs=1e-5)


def test_chunks_change_nothing(monkeypatch):
    whole = last(patch(reading(made()), PatchOptions(site="z", by="head_position", layer=1))).numpy()
    monkeypatch.setattr("llm_lab.probes.contrast._TOKENS", 21)
    assert contrast(reading(made()), PatchOptions()).rows == 3
    parts = last(patch(reading(made()), PatchOptions(site="z", by="head_position", layer=1))).numpy()
    np.testing.assert_allclose(whole, parts, atol=1e-4)


def test_the_most_telling_layer_is_that_of_the_strongest_head():
    texts = reading(made(n_layer=4))
    by_head = last(patch(texts, PatchOptions(site="attn.z"))).numpy()
    found = last(patch(texts, PatchOptions(site="attn.z", by="head_position")))
    layer = int(np.abs(by_head).max(axis=1).argmax())
    assert found.facts[:2] == ["attn.z", f"layer {layer}"]
    again = last(patch(texts, PatchOptions(site=f"blocks.{layer}.attn.hook_z")))
    np.testing.assert_array_equal(found.numpy(), again.numpy())


# --- by gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "encoder_decoder"])
def test_the_estimate_is_exact_where_the_model_is_linear(kind):
    """Without its last norm, what follows the last block is."""
    lm = made(kind, logit_softcap=0.0)
    lm.model.norm = torch.nn.Identity()
    found = last(attribution_patching(reading(lm), AttributionPatchingOptions(site="blocks.1.resid_post", check=True)))
    estimate, true = found.numpy()
    np.testing.assert_allclose(estimate, true, atol=1e-4)
    assert abs(true).max() > 0.5


@pytest.mark.parametrize("kind", [*KINDS, "gpt2", "t5", "llama", "qwen3"])  # of others the first weights are tiny
def test_the_estimate_comes_near_as_the_texts_do(kind):
    """Its error falls with the square of the distance between the two runs, patching itself with the distance."""
    lm = made(kind)
    c, g = (TOKENIZER.encode(x)[0] for x in "cg")
    table = lm.model.embed.weight.detach().clone()
    errors = []
    for distance in (0.03, 0.003):
        with torch.no_grad():
            lm.model.embed.weight.copy_(table)
            lm.model.embed.weight[g] = table[c] + distance * (table[g] - table[c])
        options = AttributionPatchingOptions(site="resid_mid", target="a", other="b", check=True)
        own = contrast(reading(lm), options)
        both = last(attribution_patching(reading(lm), options)).numpy() * abs(own.at_clean - own.at_corrupted)
        errors.append(abs(both[0] - both[1]).max())
        assert abs(both[1]).max() > 3 * errors[-1]
    assert errors[1] < errors[0] / 20 or errors[1] < 2e-6


def test_integrated_gradients_sum_to_the_difference():
    """At the first stream they are those of the embeddings, which are complete (Sundararajan et al. 2017, Prop. 1)."""
    texts = reading(made())
    one, many = (
        last(attribution_patching(texts, AttributionPatchingOptions(n_steps=n))).numpy()[0].sum() for n in (1, 50)
    )
    assert abs(many - 1) < 0.01 < abs(one - 1)


def test_the_checked_map_names_how_the_two_agree():
    found = last(attribution_patching(reading(made()), AttributionPatchingOptions(check=True)))
    estimate, true = found.numpy()
    np.testing.assert_array_equal(true, last(patch(reading(made()), PatchOptions())).numpy())
    figures = dict(found.figures)
    assert float(figures["correlation with patching"]) == pytest.approx(
        np.corrcoef(estimate.ravel(), true.ravel())[0, 1], abs=1e-3
    )
    assert [panel.title for panel in found.panels] == ["by gradients", "by patching"]


def test_frozen_weights_have_an_estimate_too():
    lm = made()
    wanted = last(attribution_patching(reading(lm), AttributionPatchingOptions())).numpy()
    lm.model.requires_grad_(False)
    np.testing.assert_array_equal(wanted, last(attribution_patching(reading(lm), AttributionPatchingOptions())).numpy())


# --- how it is asked for --------------------------------------------------------------------------------------------


def test_the_verb_draws_it_as_it_grows():
    lm = made()
    states = [np.isfinite(state.numpy()).sum() for state in patch(reading(lm), PatchOptions())]
    assert states == [7, 14, 14]
    found = lab.probe(lm, [CLEAN, CORRUPTED], kind="patch", target="a", other="b")
    assert found.facts == ["resid_pre", "denoising"]
    assert found.panels[0].columns[2] == "c / g"
    assert "logit of “a” − “b”" in found.caption
    assert len(found._repr_mimebundle_()["text/html"]) < 300_000
    assert "share of the way from corrupted to clean" in found._repr_mimebundle_()["text/html"]


def test_an_interrupt_keeps_what_was_found():
    states = patch(reading(made()), PatchOptions())
    next(states)
    found = states.throw(KeyboardInterrupt())
    assert np.isfinite(found.numpy()).sum() == 7
    assert "interrupted" in found.notes[-1]


@pytest.mark.parametrize(
    ("texts", "options", "says"),
    [
        (("abc", "abcd"), {}, r"^text: the clean one has 3 tokens \('a', 'b', 'c'\) and the corrupted one 4"),
        (("abc", "abc"), {}, "^text: both are the same tokens"),
        (("abc", "abd"), {"position": 1}, r"^text: the two do not differ in the logit of .* in both"),
        (("abc", "abd"), {"site": "attn.zz"}, r"^site: 'attn.zz' cannot be patched here; did you mean 'attn.z'"),
        (("abc", "abd"), {"site": "blocks.7.attn.z"}, "^layer: 7 is not there; this model has layers 0 to 1"),
        (("abc", "abd"), {"layer": 2}, "^layer: 2 is not there"),
        (("abc", "abd"), {"by": "head"}, "^by: resid_pre has no heads"),
        (("abc", "abd"), {"by": "row"}, "^by: 'row'"),
        (("abc", "abd"), {"target": "ab"}, "^target: 'ab' is 2 tokens"),
    ],
)
def test_what_cannot_be_patched_is_refused_in_one_line(texts, options, says):
    lm = made()
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.probe(lm, list(texts), kind="patch", **options)
    assert "\n" not in str(caught.value)


def test_gaps_must_be_at_one_place():
    with pytest.raises(lab.LabError, match="let <mask> be at the same"):
        lab.probe(made("encoder"), ["ab<mask>d", "a<mask>bd"], kind="patch")
    with pytest.raises(lab.LabError, match="m predicts no tokens"):
        lab.probe(made("electra"), ["ab", "ac"], kind="patch")
