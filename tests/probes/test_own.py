"""A user's own probe: one function with options, help and a view; and what every probe refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import llm_lab as lab
from llm_lab.magics.help import text as help_text
from llm_lab.magics.parse import parse
from llm_lab.probes.options import PROBES
from llm_lab.verbs import VERBS
from tests.small import TEXT, train


@pytest.fixture
def own(monkeypatch):
    """The table of probes as it was, after the test."""
    monkeypatch.setattr(PROBES, "_entries", dict(PROBES._entries))


def test_numbers_for_the_tokens_become_a_shaded_text(own):
    @lab.probe
    def surprisal(lm, text, base=2.0):
        """How surprising each token is."""
        logits = lab.record(lm, text, "logits")["logits"][0].log_softmax(-1)
        ids = torch.tensor(lm.tokenizer.encode(text))
        said = -logits[:-1].gather(1, ids[1:, None])[:, 0] / np.log(base)
        return torch.cat([torch.zeros(1), said])

    lm = train()
    text = TEXT[:12]
    found = lab.probe(lm, text, kind="surprisal", base=np.e)
    assert type(found).__name__ == "TokenScores"
    assert [piece.text for piece in found.pieces] == list(text)
    logits = lm.model(torch.tensor([lm.tokenizer.encode(text)])).logits[0, :-1].double()
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(lm.tokenizer.encode(text))[1:], reduction="none")
    np.testing.assert_allclose(found.numpy()[1:], wanted.detach(), atol=1e-4)
    assert found.code == f"lab.probe(tiny, {text!r}, kind='surprisal', base={np.e!r})"
    assert list(found.to_pandas().columns) == ["position", "token", "id", "surprisal"]
    assert "How surprising each token is." in help_text(VERBS["probe"])
    call = parse(VERBS["probe"], 'tiny surprisal "a text" --base 3', namespace={"tiny": lm})
    assert call.kwargs["kind"] == "surprisal" and call.kwargs["base"] == 3.0


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0.5, "Listing"),
        ({"a": 1.0, "b": 2}, "Listing"),
        (pd.DataFrame({"layer": [0, 1], "score": [0.1, 0.2]}), "Listing"),
        (np.eye(3), "Heatmap"),
        (torch.eye(2, 5), "Heatmap"),
        ([1.0, 2.0, 3.0], "Heatmap"),
    ],
)
def test_what_it_returns_shows_itself(own, value, kind):
    @lab.probe
    def mine(lm, scale=1.0):
        return value

    found = lab.probe(train(), kind="mine")
    assert type(found).__name__ == kind
    assert set(found._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_refusals(own):
    lm = train()

    @lab.probe
    def words(lm, text):
        return "no number"

    with pytest.raises(lab.LabError, match="words gave str; a number, numbers for the tokens"):
        lab.probe(lm, "1", kind="words")
    with pytest.raises(lab.LabError, match="0 texts were given, and words takes one; for example %probe bard words"):
        lab.probe(lm, kind="words")
    with pytest.raises(lab.LabError, match="'attention' is one of the lab's own"):

        @lab.probe
        def attention(lm, text):
            return 1.0

    with pytest.raises(lab.LabError, match="takes an LM and at most one text"):

        @lab.probe
        def three(lm, text, more):
            return 1.0

    with pytest.raises(lab.LabError, match="has no option 'live': it is one of attention"):
        lab.probe(lm, "king", kind="experts", live=True)
    with pytest.raises(lab.LabError, match="probe has no option 'lvie'"):
        lab.probe(lm, "1", lvie=True)
