"""What a run's trace tells its card."""

from __future__ import annotations

import json
import math

import pytest

from llm_lab.store.cards import Follower, tell, write_card
from llm_lab.store.runs import Run
from tests.views import fakes


def test_a_person_s_hand_on_the_learning_rate_is_read_from_the_trace(tmp_path):
    run = Run(tmp_path)
    report = fakes.training("training", steps=3)
    report.lr_scale = 7.0  # of the process that writes the card; readers go by the trace
    write_card(run, report)
    (tmp_path / "events.jsonl").write_text(
        "".join(json.dumps({"kind": "control", "step": 2, "do": "lr", "scale": scale}) + "\n" for scale in (0.5, 2.0))
    )
    assert Follower(run).update().lr_scale == 2.0


@pytest.mark.parametrize("scale", ["x", None, math.nan, math.inf, True, [1]])
def test_a_factor_that_is_no_number_is_none(scale):
    card = fakes.training("training", steps=3)
    tell(card, {"kind": "control", "do": "lr", "scale": scale})
    assert card.lr_scale == 1.0
