"""A function in the place of an activation, by one line: against `lab.replace` by hand."""

from __future__ import annotations

import math

import pytest
import torch

import llm_lab as lab
from tests.small import TEXT, train


def halve(z):
    return z / 2


def test_it_is_what_replace_does():
    lm = train()
    text, sites = TEXT[:14], "blocks.*.mlp.out"
    found = lab.probe(lm, text, kind="replace", site=sites, function=halve, target="b")
    ids = torch.tensor([lm.tokenizer.encode(text)])
    with torch.no_grad():
        before = lm.model(ids).logits[0, -1].double().log_softmax(-1)
        with lab.replace(lm, {sites: halve}):
            after = lm.model(ids).logits[0, -1].double().log_softmax(-1)
    rows = {row[0]: row for row in found.rows}
    for name, row in rows.items():
        (i,) = lm.tokenizer.encode(name) if name != "<eos>" else [lm.tokenizer.special("eos")]
        assert row[1] == pytest.approx(float(before[i].exp()), abs=1e-6)
        assert row[2] == pytest.approx(float(after[i].exp()), abs=1e-6)
        assert row[3] == pytest.approx(float(after[i] - before[i]), abs=1e-4)
        assert row[4] == int((before > before[i]).sum()) + 1
    assert "b" in rows and abs(rows["b"][3]) > 1e-4
    kl = float((before.exp() * (before - after)).sum())
    assert float(found.facts[3].split()[1]) == pytest.approx(kl, rel=0.01)
    assert found.code == f"lab.probe(tiny, {text!r}, kind='replace', site={sites!r}, function=halve, target='b')"


def test_nothing_replaced_changes_nothing():
    found = lab.probe(train(), TEXT[:14], kind="replace", site="blocks.0.attn.z", function=lambda z: z)
    assert all(row[3] == 0 and row[4] == row[5] and math.isfinite(row[1]) for row in found.rows)


def test_refusals():
    lm = train()
    for more, says in (
        ({"function": halve}, "needs a site; for example --site"),
        ({"site": "blocks.0.attn.z"}, "needs a function, and None is none"),
        ({"site": "blocks.9.attn.z", "function": halve}, "site 'blocks.9.attn.z' is not in this model"),
        ({"site": "embed", "function": lambda x: x[0]}, "must return a tensor of shape"),
    ):
        with pytest.raises(lab.LabError, match=says):
            lab.probe(lm, "1 green", kind="replace", **more)
