"""One kind of probe of several models: a result each, side by side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import llm_lab as lab
from llm_lab.probes.options import PROBES, KindOptions
from llm_lab.probing import probe
from llm_lab.registry import Entry
from llm_lab.results import Heatmap, Listing, SideBySide
from tests.small import train


@pytest.fixture
def models():
    lm = train("bard", checkpoints=[0, 6])
    return lab.load("bard@6"), lm


def test_each_is_what_it_is_alone(models):
    found = lab.probe(models, "12 green")
    assert isinstance(found, SideBySide)
    assert found.names == ["bard@6", "bard"]
    assert len(found) == 2
    for one, lm in zip(found, models, strict=True):
        assert np.array_equal(one.q, lab.probe(lm, "12 green").q)
    assert found.code == f"lab.probe([{models[0].called}, bard], '12 green', kind='attention')"
    assert found[0].code == f"lab.probe({models[0].called}, '12 green', kind='attention')"
    page = found._repr_mimebundle_()
    assert page["text/plain"].startswith("bard@6, bard · attention of 2 models")
    assert page["text/html"].count('class="llm-lab-card"') == 3  # both, and the whole, which is saved as one picture


@dataclasses.dataclass(frozen=True)
class GrowsOptions(KindOptions):
    room = "grows"


@pytest.fixture
def growing():
    """A kind that grows in three states and keeps what it has when it is interrupted."""

    def grows(reading, options):
        heat = Listing(title=reading.name, facts=[], columns=["n"], rows=[])
        try:
            for i in range(3):
                heat.rows.append([i])
                yield heat
        except KeyboardInterrupt:
            heat.rows.append(["interrupted"])
            yield heat

    PROBES.add(Entry("grows", grows, "grows", GrowsOptions))
    yield
    del PROBES._entries["grows"]


def test_it_grows_one_after_the_other(models, growing):
    sizes = [[len(one.rows) for one in sides.results] for sides in probe(models, ["x"], "grows", {})]
    assert sizes == [[1], [2], [3], [3, 1], [3, 2], [3, 3]]
    frame = lab.probe(models, "x", kind="grows").to_pandas()
    assert frame["model"].tolist() == ["bard@6"] * 3 + ["bard"] * 3


def test_an_interrupt_keeps_what_there_is_and_begins_no_other(models, growing):
    states = probe(models, ["x"], "grows", {})
    next(states)
    sides = states.throw(KeyboardInterrupt())
    assert [one.rows[-1] for one in sides] == [["interrupted"]]
    assert next(states, None) is None
    assert "still to come: bard" in sides._repr_mimebundle_()["text/html"]


def test_what_cannot_stand_side_by_side(models):
    with pytest.raises(lab.LabError, match="live: it takes one model at a time, and 2 were given"):
        lab.probe(models, "12 green", live=True)
    with pytest.raises(lab.LabError, match="3 texts were given, and attention takes"):
        lab.probe(models, ["a", "b", "c"])
    with pytest.raises(lab.LabError, match="is not tabular"):
        SideBySide(kind="attention", names=["a"], results=[lab.probe(models[1], "12 green")]).to_pandas()
    with pytest.raises(lab.LabError, match="has no result yet"):
        SideBySide(kind="attention", names=["a"]).to_pandas()


def test_ones_own_kind_too(models):
    @lab.probe
    def squares(lm, text):
        return np.eye(2) * len(text)

    try:
        found = lab.probe(models, "abc", kind="squares")
    finally:
        del PROBES._entries["squares"]
    assert all(isinstance(one, Heatmap) and one.numpy()[0, 0] == 3 for one in found)
