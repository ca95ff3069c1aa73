"""Linear probes: planted directions are read, random labels are not, passages do not leak, and controls are controls."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import llm_lab as lab
from llm_lab.probes.linear import Examples, common, held_out, interval, measured, token_labels
from llm_lab.probes.options import TOKEN_LABELS, LinearProbeOptions
from llm_lab.tokenizers.tokenizer import train as learned
from tests.probes.test_neurons import CORPUS, model
from tests.small import TEXT

LONG = [TEXT[:3000]]
OPTIONS = LinearProbeOptions()


def examples(label, group, control=None, classes=None) -> Examples:
    control = np.random.default_rng(9).permutation(label) if control is None else control
    names = classes or [str(i) for i in range(label.max() + 1)]
    return Examples(label, control, group, names, lambda sites: {}, [], "", [])


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_planted_direction_is_read_and_random_labels_are_not(n_classes):
    rng = np.random.default_rng(0)
    label, group = rng.integers(0, n_classes, 600), np.arange(600) // 10
    planted = np.linalg.qr(rng.normal(size=(20, n_classes)))[0].T
    x = (rng.normal(size=(600, 20)) * rng.uniform(0.5, 3, 20) + 8 * planted[label] + 5).astype(np.float32)
    score, directions, intercepts = measured("site", x, examples(label, group), OPTIONS)
    assert score.accuracy > 0.95 and score.balanced_accuracy > 0.95
    # The control's labels are dealt at random: chance, within what chance gives.
    assert abs(score.control_accuracy - 1 / n_classes) < 3 * np.sqrt(1 / n_classes / 600) + 0.03
    assert score.selectivity == pytest.approx(score.accuracy - score.control_accuracy)
    assert directions.shape == (n_classes, 20) and intercepts.shape == (n_classes,)
    assert ((x @ directions.T + intercepts).argmax(1) == label).mean() > 0.95
    # Each class's direction leads to its own mean, seen from the others'.
    means = np.stack([x[label == c].mean(0) for c in range(n_classes)])
    assert ((means @ directions.T + intercepts).argmax(1) == np.arange(n_classes)).all()


def test_logits_are_those_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 300)
    x = rng.normal(size=(300, 6)).astype(np.float32) * 2 + label[:, None]
    _, directions, intercepts = measured("site", x, examples(label, np.arange(300) // 5), LinearProbeOptions(l2=4.0))
    scaled = (x - x.mean(0)) / x.std(0)
    plain = LogisticRegression(C=0.25, tol=1e-3).fit(scaled, label)
    logits = x @ directions.T + intercepts
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], plain.decision_function(scaled), atol=1e-3)


def test_neighbours_do_not_leak():
    """Where activations tell the passage and labels are of passages at random, only leaking reads them."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 12)
    label = rng.integers(0, 2, 60)[group]
    x = (rng.normal(size=(60, 80))[group] + 0.01 * rng.normal(size=(720, 80))).astype(np.float32)
    assert held_out(x, label, group, OPTIONS).mean() < 0.68
    assert held_out(x, label, np.arange(720), OPTIONS).mean() > 0.99


def test_the_control_is_learned_where_types_can_be_told_apart():
    rng = np.random.default_rng(0)
    types = rng.integers(0, 12, 800)
    x = np.eye(12, dtype=np.float32)[types] + 0.05 * rng.normal(size=(800, 12)).astype(np.float32)
    control = rng.integers(0, 2, 12)[types]
    score, *_ = measured("site", x, examples(rng.integers(0, 2, 800), np.arange(800) // 10, control), OPTIONS)
    assert score.control_accuracy > 0.99 and abs(score.accuracy - 0.5) < 0.07 and score.selectivity < -0.4


def test_intervals_are_over_passages():
    rng = np.random.default_rng(0)
    alone = (rng.random(4000) < 0.7).astype(float)
    group = np.arange(4000)
    half = interval((alone - alone.mean()) / 4000, group)
    assert half == pytest.approx(1.96 * np.sqrt(alone.mean() * (1 - alone.mean()) / 4000), rel=1e-2)
    together = np.repeat(alone[:400], 10)
    wide = interval((together - together.mean()) / 4000, np.arange(4000) // 10)
    assert wide == pytest.approx(half * np.sqrt(10), rel=0.1)
    assert interval(np.zeros(10), np.arange(10)) is None


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("name", TOKEN_LABELS)
def test_token_labels_are_what_the_text_says(kind, name):
    text = "The Cat sat. On 12 mats!\nIt was (very) warm there and then it went out, again. " * 6
    tokenizer = learned([text], kind, *([300] if kind == "bpe" else []))
    ids = np.array(tokenizer.encode(text))[:80]
    words = [piece.text for piece in tokenizer.pieces(ids)]
    starts = np.array([0, 50])
    labels, classes = token_labels(name, ids, starts, 50, tokenizer)
    assert labels.shape == ids.shape and labels.min() >= -1 and labels.max() < len(classes)

    def kind_of(word: str) -> str:
        bare = word.strip()
        if not bare:
            return "line break" if "\n" in word else "space"
        if bare[0].isupper():
            return "capital"
        return "letter" if bare[0].isalpha() else "digit" if bare[0].isdigit() else "sign"

    for t, label in enumerate(labels):
        said = None if label < 0 else classes[label]
        first, last = t in (0, 50), t in (49, 79)
        before, behind = None if first else words[t - 1], None if last else words[t + 1]
        if name == "previous_token":
            assert said in (None, before) and (said is None or not first)
        elif name == "position":
            low, high = map(int, said.split(" to "))
            assert low <= t - 50 * (t >= 50) <= high
        elif name == "sentence_position":
            begun = 50 * (t >= 50)
            ends = [i for i in range(begun, t) if tokenizer.ends_sentence(ids[i : i + 1])[0]]
            since = t - ends[-1] - 1 if ends else None
            wanted = (
                None
                if since is None
                else ["0 to 3", "4 to 7", "8 to 15", "16 and more"][sum(since >= e for e in (4, 8, 16))]
            )
            assert said == wanted
        else:
            wanted = {
                "class": kind_of(words[t]),
                "previous_class": before and kind_of(before),
                "next_class": behind and kind_of(behind),
                "capital": "capital" if words[t] != words[t].lower() else "not capital",
                "space": "space" if words[t][0].isspace() else "not space",
                "inside_word": None
                if first
                else "inside_word"
                if words[t][0].isalnum() and before[-1].isalnum()
                else "not inside_word",
            }[name]
            assert said == wanted


def test_rare_classes_are_left_out():
    labels = np.array([0] * 10 + [1] * 3 + [2] * 10 + [-1])
    found, names = common(labels, ["a", "b", "c"], 5, "x")
    assert names == ["a", "c"] and found.tolist() == [0] * 10 + [-1] * 3 + [1] * 10 + [-1]
    with pytest.raises(lab.LabError, match="label: x has 1 class with at least 20 examples"):
        common(np.array([0] * 30), ["a"], 10, "x")


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder", "permutation"])
def test_every_layer_is_compared(shape):
    lm = model(shape)
    lm.model.train()
    before = {name: p.clone() for name, p in lm.model.state_dict().items()}
    found = lab.probe(lm, kind="linear_probe", corpus=LONG, label="class", folds=3)
    prefix = "encoder." if shape == "encoder_decoder" else ""
    sites = [f"{prefix}embed", f"{prefix}blocks.0.resid_post", f"{prefix}blocks.1.resid_post"]
    assert [score.site for score in found.scores] == sites and found.done
    assert list(found.directions) == sites and found.directions[sites[1]].shape == (len(found.classes), 16)
    assert found.scores[0].accuracy > 0.9 > found.majority  # what a token is stands in its embedding
    assert lm.model.training and all(torch.equal(p, before[name]) for name, p in lm.model.state_dict().items())
    assert not any(module._forward_hooks for module in lm.model.modules())
    # The classifier is of the activations that lab.record gives.
    lm.model.eval()
    text = LONG[0][:32]
    acts = lab.record(lm, text, sites[0])[sites[0]][0].numpy()
    said = (acts @ found.directions[sites[0]].T + found.intercepts[sites[0]]).argmax(1)
    labels, classes = token_labels("class", np.array(lm.tokenizer.encode(text)), np.array([0]), 32, lm.tokenizer)
    right = [found.classes[i] == classes[j] for i, j in zip(said, labels, strict=True) if classes[j] in found.classes]
    assert np.mean(right) > 0.9
    frame = found.to_pandas()
    assert list(frame.site) == sites and found.numpy().shape == (3,)
    np.testing.assert_allclose(frame.selectivity, frame.accuracy - frame.control_accuracy)


def test_a_steered_model_goes_where_the_direction_leads():
    lm = model()
    site = "blocks.0.resid_post"
    found = lab.probe(lm, kind="linear_probe", corpus=LONG, label="class", site=site, folds=3)
    way = torch.from_numpy(found.directions[site][found.classes.index("digit")])
    acts = lab.record(lm, TEXT[40:60], site)[site][0].numpy()
    moved = acts + 20 * (way / way.norm()).numpy()
    digit = found.classes.index("digit")

    def chance(x):
        logits = x @ found.directions[site].T + found.intercepts[site]
        return (
            np.exp(logits - logits.max(1, keepdims=True))
            / np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)
        )[:, digit]

    assert chance(moved).mean() > 0.9 > chance(acts).mean()


@pytest.mark.parametrize("pool", ["mean", "last", "first"])
def test_rows_of_a_table(pool):
    frame = pd.DataFrame(
        {
            "text": [f"{i} green bottles" if i % 2 else f"{i} of them fell" for i in range(80)] + [""],
            "mood": (["even", "odd"] * 40) + ["odd"],
        }
    )
    lm = model()
    found = lab.probe(lm, kind="linear_probe", on=frame, label="mood", pool=pool, site="blocks.1.resid_post", folds=4)
    assert found.classes == ["even", "odd"] and list(found.counts) == [40, 40]
    if pool == "mean":
        assert found.scores[0].accuracy > 0.95
        assert found.scores[0].control_accuracy < 0.75
    site = "blocks.1.resid_post"
    acts = lab.record(lm, "1 green bottles", site)[site][0].numpy()
    one = {"mean": acts.mean(0), "last": acts[-1], "first": acts[0]}[pool]
    logits = one @ found.directions[site].T + found.intercepts[site]
    assert np.isfinite(logits).all() and (pool == "first" or logits.argmax() == 1)
    assert "80 texts" in str(found)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (dict(label="colour"), "label: 'colour' is no label of tokens; there is: next_class"),
        (dict(column="text"), "column: it chooses the text of `on`"),
        (dict(on=pd.DataFrame({"text": ["a"]}), corpus=None), "label: a column of `on` says"),
        (
            dict(on=pd.DataFrame({"text": ["a", "b"], "y": ["1", "2"]}), label="y", corpus=None),
            "label: y has 0 classes",
        ),
        (
            dict(on=pd.DataFrame({"text": list("ab") * 99, "y": list(map(str, range(198)))}), label="y", corpus=None),
            "has 198 different values",
        ),
        (dict(on=pd.DataFrame({"text": ["a"], "y": ["1"]}), label="y"), "corpus: rows were given with `on`"),
        (dict(on="rows.csv", label="y", corpus=None), "on: 'rows.csv' is str; a DataFrame"),
        (
            dict(on=pd.DataFrame({"text": ["a"], "mood": [1]}), label="moood", corpus=None),
            "no column 'moood'; did you mean 'mood'",
        ),
        (dict(label="capital", folds=20, max_tokens=64), "label: capital has"),
    ],
)
def test_refusals(options, error):
    with pytest.raises(lab.LabError, match=error):
        lab.probe(model(), kind="linear_probe", **{"corpus": CORPUS, **options})


def test_labels_may_be_numbers_and_rows_dicts():
    rows = [{"text": f"{i} green bottles" if i % 2 else f"{i} of them fell", "odd": i % 2} for i in range(40)]
    found = [
        lab.probe(model(), kind="linear_probe", on=on, label="odd", site="embed") for on in (rows, pd.DataFrame(rows))
    ]
    assert found[0].classes == found[1].classes == ["0", "1"]
    assert np.array_equal(found[0].numpy(), found[1].numpy())


def test_it_grows_a_site_at_a_time():
    from llm_lab.probes.linear import linear_probe
    from llm_lab.probes.reading import Reading

    states = linear_probe(Reading((model(),)), LinearProbeOptions(corpus=LONG, folds=3))
    first = next(states)
    assert not first.done and "accuracy" in first._repr_mimebundle_()["text/html"] and torch.is_grad_enabled()
    assert [one.done for one in states] == [False, True]
