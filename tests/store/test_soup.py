"""The mean of weights: what it is, what stays as it was, and what cannot be averaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import llm_lab as lab
from tests.small import TEXT, train


def state(lm):
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "options",
    [{}, dict(tie_embeddings=True), dict(position="learned", n_kv_head=1), dict(share_layers=True)],
)
@pytest.mark.parametrize("weights", [None, (3, 1)])
def test_weights_are_the_mean_of_the_weights(options, weights):
    a, b = train("a", **options), train("b", **options, seed=1)
    before = state(a), state(b)
    mixed = lab.soup([a, b], name="mixed", weights=weights)
    first, second = (0.5, 0.5) if weights is None else (0.75, 0.25)
    for name, tensor in mixed.model.state_dict().items():
        torch.testing.assert_close(tensor, first * before[0][name] + second * before[1][name])
    assert same(state(a), before[0]) and same(state(b), before[1])
    own = {tensor.data_ptr() for tensor in mixed.model.state_dict().values()}
    assert not own & {tensor.data_ptr() for lm in (a, b) for tensor in lm.model.state_dict().values()}
    if "tie_embeddings" in options:
        assert mixed.model.unembed.weight is mixed.model.embed.weight
    assert not mixed.model.training
    assert len(lab.generate(mixed, "1 green", max_new_tokens=40).tokens[0]) == 40


def test_a_soup_of_one_model_is_that_model():
    a = train("a")
    assert same(state(lab.soup([a, a, a])), state(a))
    assert same(state(lab.soup(a)), state(a))


def test_heads_are_averaged_with_the_model():
    a, b = (train(name, objective="mlm_nsp", shape="encoder", seed=seed) for seed, name in enumerate("ab"))
    mixed = lab.soup([a, b])
    theirs = [lm.extras.state_dict() for lm in (a, b)]
    assert theirs[0]
    for name, tensor in mixed.extras.state_dict().items():
        torch.testing.assert_close(tensor, (theirs[0][name] + theirs[1][name]) / 2)
    assert lab.evaluate(mixed, metrics="loss").scores[0].value > 0


def test_a_soup_says_what_it_is_made_of_and_is_kept():
    a, b = train("a"), train("b", steps=20)
    mixed = lab.soup([a, b], name="mixed", weights=(3, 1))
    assert mixed.info["soup"] == [
        {"name": "a", "weight": 0.75, "run": a.run.id, "seed": 0},
        {"name": "b", "weight": 0.25, "run": b.run.id, "seed": 0},
    ]
    assert "began from the same first weights (seed 0)" in str(mixed.report)
    again = lab.load(str(mixed.save("kept")))
    assert same(state(again), state(mixed))
    assert again.info == mixed.info
    assert again.tokenizer.fingerprint == a.tokenizer.fingerprint
    twice = lab.soup([again, a])
    assert "run" not in twice.info["soup"][0]
    assert "Whether these models began from the same weights is not known" in str(twice.report)
    assert same(state(eval(mixed.report.code, {"lab": lab, "a": a, "b": b})), state(mixed))
    assert lab.evaluate([mixed, a, b]).comparable


def test_models_that_began_elsewhere_are_told_of():
    mixed = lab.soup([train("a"), train("b", seed=1)])
    assert "began from different weights (seeds 0, 1)" in str(mixed.report)
    assert "<table" in mixed._repr_mimebundle_()["text/html"]


class Net(torch.nn.Module):
    def __init__(self, vocab_size, tied=False):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab_size, 8)
        self.head = torch.nn.Linear(8, vocab_size, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


def test_a_users_own_class():
    a, b = (train(name, model=Net, seed=seed) for seed, name in enumerate("ab"))
    mixed = lab.soup([a, b])
    want = (a.model.module.embed.weight + b.model.module.embed.weight) / 2
    torch.testing.assert_close(mixed.model.module.embed.weight, want)
    assert same(state(lab.load(str(mixed.save("kept")), model=Net)), state(mixed))
    tied = train("tied", model=Net(a.tokenizer.vocab_size, tied=True), seed=2)
    with pytest.raises(
        lab.LabError, match=r"^model: tied has module.head.weight \(53, 8\) tied to module.embed.weight"
    ):
        lab.soup([a, tied])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(n_layer=1), "^model: b has n_layer 1, and a 2; weights can be averaged where all is the same"),
        (dict(position="alibi"), "^model: b has position alibi, and a rotary"),
        (dict(tokenizer="byte"), "^model: b has another tokenizer than a"),
        (dict(objective="fim"), "^model: b has the objective fim, and a clm"),
        (dict(shape="permutation"), "^model: b has the class PermutationDecoder, and a Decoder"),
    ],
)
def test_the_first_difference_is_named(options, says):
    a, b = train("a"), train("b", **options)
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.soup([a, b])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["lstm", "skipgram", "ngram"])
def test_baselines_are_averaged_but_for_counts(preset):
    sizes = {"lstm": dict(n_layer=1, d_model=16, max_seq_len=16), "skipgram": dict(d_model=16)}.get(preset, {})
    budget = {} if preset == "ngram" else dict(steps=12)
    a, b, c = (
        lab.pretrain([text], name=name, preset=preset, display=False, seed=i, **sizes, **budget)
        for i, (name, text) in enumerate([("a", TEXT), ("b", TEXT), ("c", TEXT.replace("fell", "flew"))])
    )
    mixed = state(lab.soup([a, b]))  # of one text, so that its counts are the same
    for name, tensor in mixed.items():
        first, second = a.model.state_dict()[name], b.model.state_dict()[name]
        want = (first + second) / 2 if tensor.is_floating_point() else first
        torch.testing.assert_close(tensor, want)
    if preset == "lstm":
        return
    with pytest.raises(lab.LabError, match=r"^model: \S+ holds whole numbers that differ"):
        lab.soup([a, c])


def test_by_magic_and_by_hand():
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llm_lab")
    shell.user_ns["a"], shell.user_ns["b"] = train("a"), train("b", seed=1)
    shell.run_line_magic("soup", "mixed a,b --weights 3,1")
    mixed = shell.user_ns["mixed"]
    assert (mixed.name, [part["weight"] for part in mixed.info["soup"]]) == ("mixed", [0.75, 0.25])
    assert "began from different weights" in shell.user_ns["mixed"]._repr_mimebundle_()["text/plain"]
    shell.run_line_magic("soup", "mixed mixed,b")  # what is ours may be made again
    assert shell.user_ns["mixed"] is not mixed
    for call, says in (
        (lambda: lab.soup([]), "^model: the list is empty"),
        (lambda: lab.soup([mixed], name="a b"), "^name: 'a b' cannot be"),
        (lambda: lab.soup([mixed, mixed], weights=(1,)), "^weights: .* there are 2 models"),
        (lambda: lab.soup([lab.ensemble([mixed, mixed])]).save("x"), "^save: soup is several models"),
    ):
        with pytest.raises(lab.LabError, match=says):
            call()


def test_a_damaged_account_of_a_soup_is_named():
    a = train("a")
    folder = lab.soup([a, a]).save("kept")
    about = json.loads((folder / "model.json").read_text())
    about["info"]["soup"] = "a"
    Path(folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(lab.LabError, match=r"info\.soup is a str"):
        lab.load(str(folder))
