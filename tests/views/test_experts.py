"""The view of experts: harmless, small, and readable where nothing but text and images survives."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

from tests.views import fakes
from tests.views.test_pages import Page, html, still

WORDS = ["To", " be", ",", " or", " not", " to", " be", "\n", "你好", "שלום"]


RESULTS = {
    "plain": fakes.routing(WORDS),
    "hostile": fakes.routing(fakes.HOSTILE, name="".join(fakes.HOSTILE)),
    "one": fakes.routing(["a"], 1, 2, 1),
    "long": fakes.routing(["word "] * 1024, 12, 8),
    "wide": fakes.routing(["word "] * 300, 12, 64),
}


@pytest.mark.parametrize("name", RESULTS)
def test_static_layer_holds_without_scripts_and_styles(name):
    source = still(RESULTS[name])
    page = Page(source)
    outside = re.sub(r'src="data:[^"]*"', "", source)
    for forbidden in ("<script", "<style", "<svg", "var(", "\0", "\u202e"):
        assert forbidden not in outside
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1
    assert len(images[0]["alt"] or "") > 10
    assert int(images[0]["width"] or 0) <= 800
    assert not any(re.search(r"(^|;)\s*color:", a.get("style") or "") for _, a in page.tags)
    assert len(html(RESULTS[name])) < 300_000


def test_numbers_are_in_the_table_and_in_plain_text():
    result = RESULTS["plain"]
    text = Page(html(result)).text
    for words in ("10 tokens", "4 layers × 8 experts", "2 take a token", "layer\xa03", "12.5 %", "in\xa0use"):
        assert words in text
    layer = result.load[2]
    assert f"most expert {layer.argmax()} ({100 * layer.max():.0f} %)" in str(result)


def test_the_picture_names_tokens_and_hostile_ones_stay_text():
    def drawn(result: ExpertRouting) -> str:
        (data,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', html(result))
        return base64.b64decode(data).decode()

    assert "你好" in drawn(RESULTS["plain"])
    assert "<script" not in drawn(RESULTS["hostile"])
    assert "&lt;script&gt;" in drawn(RESULTS["hostile"])
    assert "1,024 tokens" in drawn(RESULTS["long"])


def test_even_experts_are_all_in_use():
    result = fakes.routing(["a"] * 8, 1, 4, 1)
    result.chosen = np.arange(8).reshape(1, 8, 1) % 4
    assert "4.0 of 4 in use" in str(result)
    result.chosen = np.zeros((1, 8, 1), int)
    assert "1.0 of 4 in use" in str(result)
