"""Lenses and direct logit attribution in every shape of model, and the training of the tuned lens."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.models.presets import PRESETS
from llm_lab.probes.lenses import tuned_lens
from llm_lab.probes.options import TunedLensOptions
from llm_lab.probes.reading import Reading
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as letters_of
from tests.small import TEXT, train

TOKENIZER = letters_of(["abcdefg"], "char")
SIZES = dict(n_layer=3, n_head=4, d_model=32, d_ff=None, d_head=None, max_seq_len=16, zero_init=False)
LEARNED = {"decoder": "clm", "encoder": "mlm", "encoder_decoder": "seq2seq", "permutation": "plm"}
MODELS = {
    "modern": ("modern", {}),
    "gpt2": ("gpt2", {}),
    "grouped": ("llama", {"n_kv_head": 2}),
    "2017": ("transformer", {}),
    "t5": ("t5", {"n_decoder_layer": 2}),
    "xlnet": ("xlnet", {}),
    "sandwich": ("modern", {"norm_place": "sandwich", "bias": True, "norm": "layernorm"}),
    "t5 sandwich": ("t5", {"n_decoder_layer": 2, "norm_place": "sandwich"}),
    "experts": ("modern", {"n_expert": 4, "n_active": 2}),
    "shared": ("modern", {"share_layers": True, "norm_place": "post", "d_embed": 8, "embed_norm": True, "bias": True}),
    "scaled": (
        "modern",
        {
            "shape": "permutation",
            "position": "learned",
            "scale_embeddings": True,
            "scale_logits": True,
            "output_bias": True,
        },
    ),
    "encoder": ("modern", {"shape": "encoder", "n_token_type": 2, "position": "sinusoidal"}),
}


def made(name: str, **more) -> LM:
    preset, changed = MODELS.get(name, (name, {}))
    config = PRESETS.load(preset).overrides | SIZES | changed | more
    torch.manual_seed(0)
    model = SHAPES.load(config.get("shape", "decoder"))(ModelConfig(vocab_size=TOKENIZER.vocab_size, **config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return LM(name, model, TOKENIZER, info={"objective": LEARNED[model.config.shape]})


def before_cap(lm: LM, logits: torch.Tensor) -> torch.Tensor:
    cap = lm.model.config.logit_softcap
    return cap * torch.atanh(logits.double() / cap) if cap else logits.double()


@pytest.mark.parametrize("name", MODELS)
def test_parts_sum_to_the_logit(name):
    lm = made(name)
    lm.model.train()
    text = "abf<mask>gc" if name == "encoder" else "abfegcd"
    ids = TOKENIZER.encode("abf") + [TOKENIZER.special("mask")] + TOKENIZER.encode("gc")
    logits = lab.record(lm, [ids] if name == "encoder" else text, "logits")["logits"][0]
    logits = before_cap(lm, logits[3 if name == "encoder" else -1])
    right, wrong = (TOKENIZER.encode(letter)[0] for letter in "ce")
    for other, wanted in ((None, logits[right]), ("e", logits[right] - logits[wrong])):
        found = lab.probe(lm, text, kind="dla", target="c", other=other)
        assert found.total == pytest.approx(float(wanted), abs=1e-4)
        assert found.logit == pytest.approx(float(wanted), abs=1e-4)
        assert found.accumulated[-1] == pytest.approx(float(wanted), abs=1e-4)
        assert found.to_pandas().value.sum() == pytest.approx(found.total, abs=1e-6)
    assert lm.model.training
    if name.startswith("t5"):
        assert found.panels[0].columns[4] == "cross 0"


@pytest.mark.parametrize("name", MODELS)
def test_the_last_row_of_a_lens_is_the_model(name):
    lm = made(name)
    found = lab.probe(lm, "abfegcd", kind="logit_lens")
    logs = lab.record(lm, "abfegcd", "logits")["logits"][0].log_softmax(-1)
    np.testing.assert_allclose(found.top_logprob[-1, :, 0], logs.amax(-1), atol=1e-5)
    assert not found.kl[-1].any() and (found.kl[:-1] > 0).all()
    T = 1 if name in ("2017", "t5", "t5 sandwich") else 7
    assert len(found.pieces) == T
    assert found.layers == ["embedding", *(f"layer {i}" for i in range(found.kl.shape[0] - 1))]
    assert len(found.to_pandas()) == found.kl.size and len(found.by_layer()) == len(found.kl)
    assert torch.equal(found.tensor, torch.from_numpy(found.numpy()))
    assert all(found.top[i, t, 0] in found.names for i in range(len(found.kl)) for t in range(T))


def test_what_is_true_where():
    texts = [None if p is None else p.text for p in lab.probe(made("modern"), "abc", kind="logit_lens").truth]
    assert texts == ["b", "c", None]
    gap = lab.probe(made("encoder"), "ab<mask>c", kind="logit_lens")
    assert gap.both_ways and [None if p is None else p.text for p in gap.truth] == ["a", "b", None, "c"]
    assert (gap.rank[:, 2] == 0).all() and gap.rank[:, [0, 1, 3]].all()
    lm = made("t5")
    two = lab.probe(lm, ["abc", "dea"], kind="logit_lens")
    assert [p.text for p in two.truth] == ["d", "e", "a"]
    batch = {"input_ids": torch.tensor([TOKENIZER.encode("abc")])}
    read = torch.tensor([[TOKENIZER.start, *TOKENIZER.encode("de")]])
    lm.model.eval()
    with torch.no_grad():
        logs = lm.model(**batch, decoder_ids=read).logits[0].log_softmax(-1)
    np.testing.assert_allclose(two.true_logprob[-1], logs[range(3), TOKENIZER.encode("dea")], atol=1e-5)
    assert np.isnan(lab.probe(lm, "abc", kind="logit_lens").true_logprob).all()


@pytest.mark.parametrize(
    ("name", "text", "kind", "says"),
    [
        ("bert", "ab<mask>", "dla", r"--output mlm\).*kind logit_lens would do"),
        ("electra", "abc", "logit_lens", "no vocabulary to predict"),
        ("modern", ["abc", "abc"], "logit_lens", "2 texts were given, and modern reads one"),
        ("t5", "abc", "tuned_lens", "has an encoder.*kind logit_lens"),
    ],
)
def test_refusals(name, text, kind, says):
    lm = made("bert" if name == "bert" else name)
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.probe(lm, text, kind=kind)
    assert "\n" not in str(caught.value)


def test_bert_has_a_lens():
    found = lab.probe(made("bert"), "ab<mask>c", kind="logit_lens")
    assert "norms stand after each sum" in found.notes[0]
    assert not found.kl[-1].any()


# --- the tuned lens -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("store"))
        return train(steps=150, n_layer=3, d_model=32, max_seq_len=32)


def states(lm: LM, text: str = TEXT[:30], **options) -> list[lab.results.TunedLens]:
    return list(tuned_lens(Reading((lm,), (text,)), TunedLensOptions(corpus=[TEXT[:3000]], **options)))


def test_it_begins_as_the_logit_lens_and_comes_nearer(trained, monkeypatch):
    monkeypatch.setattr("llm_lab.probes.lenses.REFRESH_SECONDS", 0)  # a state a step, however quick they are
    monkeypatch.setattr("llm_lab.probes.lenses.PATIENCE", 0)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    trained.model.train()
    all_states = states(trained, steps=60)
    first, last = all_states[0], all_states[-1]
    assert len(all_states) > 2 and not first.done and last.done and last.step == 60
    plain = lab.probe(trained, TEXT[:30], kind="logit_lens")
    assert first.step == 0 and not first.translators.any()
    for name in ("top", "top_logprob", "rank", "kl", "entropy"):
        np.testing.assert_allclose(getattr(first, name), getattr(plain, name), atol=1e-6)
    np.testing.assert_allclose(first.tuned_kl, first.logit_kl, atol=1e-6)
    assert (last.tuned_kl[:2] < 0.8 * last.logit_kl[:2]).all()  # on text that it was not trained on
    assert last.tuned_kl[-1] == last.logit_kl[-1] == 0
    assert last.kl[:2].mean() < plain.kl[:2].mean()
    assert last.translators.shape == (3, 32, 33) and last.translators.dtype == np.float16
    assert last.n_measured >= 32 and last.n_trained >= 4 * last.n_measured - 128
    # Nothing is left behind.
    assert trained.model.training
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in trained.model.parameters())


def test_what_is_measured_on_is_not_trained_on(trained):
    """A text whose one block in five is another language: only the measured part knows it."""
    block = trained.max_seq_len
    plain, noise = TEXT[:block], "".join(chr(97 + i * 7 % 20) for i in range(block))
    corpus = [(plain * 4 + noise) * 5]
    lens = list(tuned_lens(Reading((trained,), (plain,)), TunedLensOptions(corpus=corpus, steps=60)))[-1]
    batches = [lab.record(trained, text, "logits")["logits"].log_softmax(-1)[0] for text in (plain, noise)]
    final, own = batches[1], lab.record(trained, noise, "blocks.1.resid_pre")["blocks.1.resid_pre"]
    with torch.no_grad():
        logs = trained.model.logits(trained.model.norm(own))[0].log_softmax(-1)
    wanted = float((final.exp() * (final - logs)).sum(-1).mean())
    assert lens.logit_kl[1] == pytest.approx(wanted, rel=1e-4)
    assert (lens.n_trained, lens.n_measured) == (20 * block, 5 * block)


def test_the_same_seed_gives_the_same_lens(trained):
    one, two, three = (states(trained, steps=5, seed=seed)[-1].translators for seed in (0, 0, 1))
    assert np.array_equal(one, two) and not np.array_equal(one, three)


def test_it_is_what_its_translators_make_of_the_stream(trained):
    made = states(trained, steps=10)[-1]
    x = lab.record(trained, TEXT[:30], "blocks.1.resid_pre")["blocks.1.resid_pre"]
    weight = torch.from_numpy(made.translators[1]).float()
    moved = x + x @ weight[:, :-1].T + weight[:, -1]
    with torch.no_grad():
        logs = trained.model.logits(trained.model.norm(moved))[0].log_softmax(-1)
    np.testing.assert_allclose(made.top_logprob[1, :, 0], logs.amax(-1), atol=1e-5)


def test_it_reads_another_text_while_the_model_is_there():
    lm = train(steps=2)
    made = states(lm, steps=3)[-1]
    again = made.read(TEXT[100:120])
    assert len(again.pieces) == 20 and again.step == 3 and again.translators is made.translators
    np.testing.assert_allclose(made.read(TEXT[:30]).kl, made.kl, atol=1e-6)
    del lm
    gc.collect()
    with pytest.raises(lab.LabError, match="no longer here"):
        made.read("1 green")


def test_an_interrupt_and_the_clock_end_it_early(trained, monkeypatch):
    monkeypatch.setattr("llm_lab.probes.lenses.REFRESH_SECONDS", 0.0)
    monkeypatch.setattr("llm_lab.probes.lenses.PATIENCE", 0)
    steps = tuned_lens(Reading((trained,), (TEXT[:30],)), TunedLensOptions(corpus=[TEXT], steps=1000))
    assert [next(steps).step for _ in range(3)] == [0, 1, 2]
    last = steps.throw(KeyboardInterrupt())
    assert last.done and last.notes[-1] == "interrupted after 2 of 1000 steps"
    assert list(steps) == []
    cut = states(trained, steps=1000, seconds=1e-6)[-1]
    assert cut.done and cut.step == 1 and "after 1 of 1000 steps" in cut.notes[-1]


def test_too_little_text_is_refused(trained):
    with pytest.raises(lab.LabError, match="at least 64 tokens"):
        lab.probe(trained, "1 green", kind="tuned_lens", corpus=[TEXT[:20]])


def test_the_verb_gives_them(trained):
    for kind in ("logit_lens", "tuned_lens", "dla"):
        options = {"steps": 2, "corpus": [TEXT[:2000]]} if kind == "tuned_lens" else {}
        found = lab.probe(trained, "1 green", kind=kind, **options)
        assert f"kind='{kind}'" in found.code
        assert kind in str(found) and kind in found._repr_mimebundle_()["text/html"]
