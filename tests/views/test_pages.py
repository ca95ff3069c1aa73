"""Every view of every result: well-formed, harmless, small, and readable where nothing but text and images survives."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser

import pytest

from llm_lab.views.bundle import saving
from llm_lab.views.card import bundle, clean, esc, visible
from tests.views import fakes

PLAIN = fakes.everything()
HOSTILE = {f"hostile {name}": result for name, result in fakes.everything(hostile=True).items()}
RESULTS = PLAIN | HOSTILE
WORDS = ["".join(chr(97 + (i * i + j) % 26) for i in range(3000)) for j in range(3)]
GROWING = {"live", "live parts", "watching", "streaming", "asking", "live lens", "in the background"}
VOID = {"br", "img", "hr", "input", "meta"}
LAYER = re.compile(
    r'<script>(?P<code>.*?)\)\("(?P<key>[0-9a-f]{16})",(?P<packed>\[("[A-Za-z0-9+/=]+"(, )?)+\])\)</script>', re.S
)


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in its order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def html(result) -> str:
    return result._repr_mimebundle_()["text/html"]


def still(result) -> str:
    """The static layer: what stays where the script is dropped."""
    return LAYER.sub("", html(result))


@pytest.mark.parametrize("name", RESULTS)
def test_static_layer_holds_without_scripts_and_styles(name):
    source = still(RESULTS[name])
    page = Page(source)
    outside = re.sub(r'src="data:[^"]*"', "", source)
    for forbidden in ("<script", "<style", "<svg", "var(", "\0", "javascript:alert"):
        assert forbidden not in outside
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
        assert not re.search(r"(^|;)\s*color:", attributes.get("style") or "")
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/")
            assert len(attributes["alt"] or "") > 10
            assert int(attributes["width"] or 0) > 0
    outside.encode("utf-8")


@pytest.mark.parametrize("name", RESULTS)
def test_bundle_is_plain_text_and_html_that_can_be_saved(name):
    made = RESULTS[name]._repr_mimebundle_()
    assert set(made) == {"text/plain", "text/html"}
    assert made["text/plain"].strip()
    json.dumps(made).encode()
    "".join(made.values()).encode("utf-8")
    assert not re.search("[\0-\x08\x0b-\x1f\u202e]", made["text/plain"] + made["text/html"])


@pytest.mark.parametrize("name", RESULTS)
def test_script_layer_carries_data_as_base64_only(name):
    source = html(RESULTS[name])
    layers = list(LAYER.finditer(source))
    assert source.count("<script") == len(layers)
    for layer in layers:
        assert f'class="llm-lab llm-lab-{layer["key"]}"' in source
        assert fakes.EVIL not in layer["code"]
        head = json.loads(zlib.decompress(base64.b64decode(json.loads(layer["packed"])[0])))
        assert "export default" in head["esm"]
        assert "alert(1)" not in head["esm"] + head["css"]


def test_codes_are_the_same_whatever_the_data():
    codes = {match["code"] for result in RESULTS.values() for match in LAYER.finditer(html(result))}
    assert len(codes) == 1


@pytest.mark.parametrize("name", RESULTS)
def test_what_is_done_can_be_saved_as_a_picture(name):
    """A place for the buttons in each card that does not grow, and the script that fills them all once."""
    source = html(RESULTS[name])
    place, script = saving()
    growing = name.removeprefix("hostile ") in GROWING
    assert (place in source) is not growing
    assert source.count(script) == (not growing)
    assert "<button" not in still(RESULTS[name])
    assert place not in script


def test_cards_inside_another_share_the_script():
    place, script = saving()
    two = html(PLAIN["sides"])
    assert two.count(place) == 3 and two.count(script) == 1
    looked = html(PLAIN["watched"])
    assert looked.count(place) == 1 + len(PLAIN["watched"].looks) > 1 and looked.count(script) == 1
    waits = html(PLAIN["sides to come"])
    assert waits.count(place) == 1 and waits.count(script) == 1
    assert len(script) < 16_000


def test_hostile_text_is_shown_not_obeyed():
    for name, result in HOSTILE.items():
        text = Page(still(result)).text
        assert "alert(1)" in text or "attention" in name
        assert "<script>alert" not in html(result)


def test_no_script_while_it_grows_and_small():
    for name in ("live", "live parts", "streaming", "live lens"):
        assert "<script" not in html(PLAIN[name])
    long = fakes.training("training", steps=20_000)
    assert len(html(long)) < 30_000
    many = fakes.generation(["word "] * 5000, n=4, done=False)
    assert len(html(many)) < 60_000


@pytest.mark.parametrize(
    "result",
    [
        fakes.training(steps=20_000),
        fakes.with_parts(fakes.training(steps=20_000), ("mlm", "nsp", "balance")),
        fakes.generation(["word "] * 5000, n=4),
        fakes.generation(n=300),
        fakes.generation([f"w{i} " for i in range(200)], n=64),
        fakes.heads(48, 32),
        fakes.attention([f"t{i}" for i in range(256)], 8, 8),
        fakes.attention([f"t{i}" for i in range(40)], 12, 12),
        fakes.projection([f" word{i}" for i in range(2000)]),
        fakes.projection([f" word{i}" for i in range(300)], frames=40, dims=3),
        fakes.tokenization("word " * 5000),
        fakes.counterfactual(["<床前> "] * 3000),
        fakes.robustness(["<床前明月光> "] * 60, noises=tuple(f"noise {i}" for i in range(40))),
        fakes.asked(("word {{english}} " * 2000, "{{english}}"), values=("word " * 5000,) * 1000),
        fakes.asked(tuple(f"{i} {{{{english}}}} " + "&{{english}}" * 900 for i in range(100))),
        fakes.prompt(tuple(f"{i} {{{{english}}}} " + "word " * 5000 for i in range(100))),
        fakes.several(["word "] * 5000, ("word " * 5000,) * 100),
        fakes.several(["<床前明月光> "] * 5000, ("word " * 5000,) * 30, n=64),
        fakes.compared(WORDS, tuple(f"top_p:p=0.{i}" for i in range(1, 60)), models=3),
        fakes.compared(
            ["床前明月光，疑是地上霜。" * 5000] * 40,
            tuple(f"beam:n={i}" for i in range(9)),
            tree=fakes.beams(n_beams=12, n_steps=40),
        ),
        fakes.heatmap(tuple(f"word{i}" for i in range(600)), panels=3),
        fakes.scores(("word ",) * 9000),
        fakes.walk(("word ",) * 3000, width=6000),
        fakes.lens(tuple(f"w{i * i} " for i in range(1000)), layers=24),
        fakes.lens(tuple(chr(0x4E00 + i) for i in range(200)), layers=12),
        fakes.units(tuple(f"word{i} " for i in range(33)), n=200, many=50),
        fakes.units(tuple(f"<字{i}> " for i in range(81)), n=60, many=50),
        fakes.linear(tuple(f"word{i} " for i in range(2000)), n=200),
    ],
    ids=[
        "training",
        "parts",
        "generation",
        "many texts",
        "many long texts",
        "heads",
        "attention-long",
        "attention-wide",
        "map",
        "film",
        "tokenization",
        "counterfactual",
        "robustness",
        "asked",
        "templates",
        "prompt",
        "several",
        "many texts",
        "compared",
        "long texts",
        "heatmap",
        "scores",
        "walk",
        "long lens",
        "lens",
        "units",
        "long units",
        "linear",
    ],
)
def test_large_results_stay_under_300_kb(result):
    assert len(html(result).encode()) < 300_000


def test_what_is_left_out_is_said():
    made = fakes.several(["word "] * 100, ("hi",) * 40, n=64)
    text = Page(html(made)).text
    assert re.search(r"Drawn are the first 30 of 40 prompts, \d+ of 64 texts after each; .to_pandas", text)
    assert "the first 2 of 64 texts" in str(made) and len(str(made)) < 20_000
    whole = Page(html(fakes.several())).text
    assert "Drawn" not in whole
    made = fakes.prompt(tuple(f"{i} {{{{english}}}} " + "word " * 2000 for i in range(100)))
    text = Page(html(made)).text
    assert re.search(r"the first \d+ of 100 templates", text) and re.search(r"template 1, the first [\d,]+ char", text)
    assert "the first 30 of 100 templates" in str(made) and len(str(made)) < 20_000
    asked = fakes.asked(tuple(f"{i} {{{{english}}}}" for i in range(100)))
    assert "the first 60 of 200 lines; .summary has all" in Page(html(asked)).text
    whole = Page(html(fakes.asked())).text
    assert "the first 2" not in whole and "characters" not in whole


def test_a_comparison_that_is_cut_says_so():
    made = fakes.compared(WORDS, tuple(f"top_p:p=0.{i}" for i in range(1, 60)), models=3)
    text = Page(html(made)).text
    assert "texts are cut to" in text and "The first 60 of 354 rows" in text
    whole = Page(html(fakes.compared())).text
    assert "cut to" not in whole and "The first" not in whole


def test_text_reads_without_styles():
    text = Page(still(PLAIN["generation"])).text
    assert "ROMEO:⏎\nWhat is the matter with your honour, my lord?⏎\nI have a son" in text
    text = Page(still(PLAIN["training"])).text
    for words in ("1.712 nats/char", "2.470", "20.6 k tokens/s", "And the world I say", "--steps 606"):
        assert words in text


def test_same_result_gives_the_same_page():
    assert html(fakes.attention()) == html(fakes.attention())
    assert html(fakes.training()) == html(fakes.training())


def test_right_to_left_tokens_have_a_box_of_their_own():
    source = still(fakes.generation(["a ", "שלום", " b"]))
    assert re.search(r'<span dir=auto style="[^"]*"[^>]*>שלום</span>', source)


def test_names_of_controls():
    assert visible("a\nb") == "a⏎b"
    assert visible("\0\t\x7f") == "␀␉␡"
    assert visible("") == "∅"
    assert visible("\u0301x") == "◌\u0301x"
    assert visible("\ud800") == "⟨U+D800⟩"
    assert "\u202e" not in visible("\u202e") + clean("\u202e")
    assert clean("a\n\tb\0") == "a\n\tb␀"
    assert visible("👩‍👩‍👧") == "👩‍👩‍👧"
    assert esc("<a b='c'>&") == "&lt;a b=&#x27;c&#x27;&gt;&amp;"
    assert bundle("\0", "")["text/plain"] == "␀"


@pytest.mark.parametrize(
    "report",
    [
        fakes.training("training", steps=0),
        fakes.training("training", steps=1),
        fakes.training("finished", steps=1),
        fakes.training("failed", steps=2, by_time=False),
        fakes.training("restored", steps=3, by_time=False),
    ],
    ids=["none", "one", "one done", "failed", "restored"],
)
def test_short_runs_draw(report):
    Page(still(report))
    report.train = [(step, seconds, float("nan")) for step, seconds, _ in report.train]
    report.val = []
    Page(still(report))


def test_empty_results_draw():
    for result in (
        fakes.generation(n=0),
        fakes.attention(["a"], 1, 1),
        fakes.Listing(title="runs", columns=["name"], rows=[]),
        fakes.Generations(name="bard", prompts=["a", "b"], done=False),
        fakes.asked(values=(), done=False),
        fakes.Tokenization(text="", trained_on="", rows=[fakes.TokenizationRow("char", [], 0, 0.0, 0, 10, "exact")]),
        fakes.Evaluation(models=["bard"], data="", scores=[]),
        fakes.ModelReport(
            name="m", title="", config={}, parts=[], parameters=0, flops=0, memory=0, batch_size=1, notes=["?"]
        ),
    ):
        Page(still(result))


def test_views_import_nothing_heavy():
    code = (
        "import sys\nfrom tests.views import fakes\n"
        "for r in fakes.everything().values(): r._repr_mimebundle_(); str(r)\n"
        "heavy = {'torch', 'pandas', 'plotly', 'IPython', 'ipywidgets', 'anywidget', 'traitlets', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    root = str(fakes.__file__).rsplit("/tests/", 1)[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
