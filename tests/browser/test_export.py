"""Views saved as pictures: every one by its own buttons, from the keyboard, as an SVG that any program reads and a PNG of it."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from llm_lab.views import attention
from llm_lab.views.bundle import css, esm
from tests.browser.test_script_layer import MOUNT
from tests.views import fakes
from tests.views.test_pages import GROWING

pytestmark = pytest.mark.browser

SIZE = {"width": 1160, "height": 900}
SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
DRAWN = {"svg", "title", "defs", "g", "rect", "path", "circle", "line", "polyline", "text", "tspan", "image", "use"}
DRAWN |= {"linearGradient", "stop", "clipPath"}
RESULTS = {name: result for name, result in fakes.everything().items() if name not in GROWING}
HOSTILE = {name: result for name, result in fakes.everything(hostile=True).items() if name not in GROWING}
# What the picture of a view must tell in text that can be searched and copied.
TOLD = {
    "training": ["1.655 nats/char", "1.712 nats/char", "20.6 k tokens/s", "30 s", "And the world I say, my lord,"],
    "watched": ["1.655 nats/char", "induction_score"],
    "sides": ["bard, bard@100", "logit_lens of 2 models", "layer 2"],
    "generation": ["surprisal: 0", "What", "king", "0.244"],
    "chat": ["you", "Template:"],
    "attention": ["layer 3", "head 5", "question", "entropy 1.1 bits"],
    "tokenization": ["char", "0.732", "[UNK]"],
    "model": ["attention", "4 heads, rotary", "2.12 M", "1.05 M"],
    "corpus": ["1,115,394 (65 distinct)", "5,437"],
    "listing": ["3f2a9c", "1.712", "Loss in nats per token over the whole held-out split."],
    "compared": ["greedy", "−1.20", "tokens/s", "likelier →"],
    "heads": ["induction, first token", "0.81", "4.32"],
    "weights": ["64 × 16", "0.270", "noise scale", "300"],
    "map": ["axis 1: 20.0 % →", "capital 1", "To"],
    "lens": ["true token", "embedding", "3.96", "layer 0"],
    "linear": ["blocks.2.resid_post", "accuracy"],
    "units": ["bard"],
    "done in the background": ["trained"],
}

# The files that buttons give are caught as they go; the tests of a real download are below.
CATCH = """() => {
  window.saved = [];
  const click = HTMLAnchorElement.prototype.click;
  HTMLAnchorElement.prototype.click = function () {
    if (!this.download) return click.call(this);
    saved.push(fetch(this.href).then((r) => r.arrayBuffer()).then((bytes) => {
      let text = "";
      for (const byte of new Uint8Array(bytes)) text += String.fromCharCode(byte);
      return [this.download, btoa(text)];
    }));
  };
}"""
# The layout that a picture is made of: what scrolls spread, what works the view away.
SPREAD = """async (card, source) => {
  const { spread } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  spread(card);
}"""


@pytest.fixture(scope="module")
def pages(chromium):
    contexts = {one: chromium.new_context(viewport=SIZE, color_scheme=one) for one in ("light", "dark")}
    yield {one: context.new_page() for one, context in contexts.items()}
    for context in contexts.values():
        context.close()


@pytest.fixture
def visit(pages, tmp_path):
    """Opens results as one page; what its scripts complain of, or say aloud, is collected."""
    said: list[str] = []

    def hear(dialog):
        said.append(dialog.message)
        dialog.dismiss()

    listeners = {
        "dialog": hear,
        "pageerror": lambda error: said.append(str(error)),
        "console": lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
    }
    for page in pages.values():
        page.set_viewport_size(SIZE)
        for name, listener in listeners.items():
            page.on(name, listener)

    def go(*results, scheme="light"):
        page = pages[scheme]
        path = results[0].save_html(tmp_path / "page.html")
        more = "".join(result._repr_mimebundle_()["text/html"] for result in results[1:])
        path.write_text(path.read_text("utf-8").replace("</body>", more + "</body>"), "utf-8")
        page.goto(path.as_uri())
        page.wait_for_function("!document.querySelector('[class*=llm-lab-]:not(.llm-lab-card, [data-live])')")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.evaluate(CATCH)
        return page

    go.said = said
    yield go
    for page in pages.values():
        for name, listener in listeners.items():
            page.remove_listener(name, listener)
    assert not said


def save(page, kind, n=0):
    """The n-th card's file of a kind, by the keyboard alone: (name, bytes)."""
    button = page.get_by_role("button", name=f"save this view as {kind}").nth(n)
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("saved.length")
    name, content = page.evaluate("saved.pop()")
    return name, base64.b64decode(content)


def read(content):
    """The SVG as a tree; only what any program draws may be in it, and nothing from outside."""
    tree = ET.fromstring(content.decode())
    for node in tree.iter():
        assert node.tag.removeprefix(SVG) in DRAWN, node.tag
        for name, value in node.attrib.items():
            assert not name.lower().startswith("on")
            assert value.startswith("data:") or not re.search(
                r"\bnan\b|undefined|var\(|javascript:alert|currentcolor", value, re.I
            ), (name, value)
            if "url(" in value:
                named = re.fullmatch(r"url\(#([\w-]+)\)", value)[1]
                assert tree.find(f".//*[@id='{named}']") is not None
            if name.endswith("href"):
                assert name == HREF and (value.startswith("data:image/png;base64,") or node.tag == f"{SVG}use")
            if node.tag == f"{SVG}use" and name == HREF:
                assert tree.find(f".//*[@id='{value[1:]}']") is not None
    return tree


def words(tree):
    return " ".join(" ".join(node.itertext()) for node in tree.iter() if node.tag in (f"{SVG}text", f"{SVG}title"))


def looks(content, times=1):
    """Its pixels, (h, w, 3), one to one of the page; `times` of the file's stand for it at a side."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").reduce(times)).astype(np.float32)


IN_DARK = ["training", "generation", "attention", "model", "heads", "map", "weights", "compared", "lens", "chat"]


@pytest.mark.parametrize(
    ("name", "scheme"), [(name, "light") for name in RESULTS] + [(name, "dark") for name in IN_DARK]
)
def test_every_view_is_saved_as_it_looks(visit, name, scheme):
    """Of 255 levels, the mean difference between a PNG and the screenshot of its card is under 5, mostly of how letters are
    smoothed, and no place as large as a letter differs by much."""
    page = visit(RESULTS[name], scheme=scheme)
    file, content = save(page, "SVG")
    tree = read(content)
    text = " ".join(words(tree).split())
    assert re.fullmatch(r"[\w-]+\.svg", file)
    card = page.locator(".llm-lab-card:has(> .llm-lab > div > .lab-saves)").first
    for told in [card.locator("b").first.inner_text(), *TOLD.get(name, [])]:
        assert " ".join(told.split()) in text, told
    _, png = save(page, "PNG")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    saved = looks(png, 2)
    width, height = (float(tree.get(side)) for side in ("width", "height"))
    assert saved.shape[:2] == (pytest.approx(height, abs=1.1), pytest.approx(width, abs=1.1))
    ground = saved[1, saved.shape[1] // 2].mean()
    assert ground > 250 if scheme == "light" else ground < 40
    if name in ("map", "film"):  # its canvas is drawn anew for another layout
        return
    card.evaluate(SPREAD, esm("export").replace("export default", "export { spread };\nexport default"))
    out = 12 if name == "sides" else 0  # around what has no border
    shot = looks(card.screenshot())
    assert shot.shape[:2] == (pytest.approx(height - 2 * out, abs=2), pytest.approx(width - 2 * out, abs=2))
    saved = saved[out : out + shot.shape[0], out : out + shot.shape[1]]
    off = np.abs(saved - shot[: saved.shape[0], : saved.shape[1]]).mean(2)
    assert off.mean() < 5
    rows, columns = (size // 16 for size in off.shape)
    assert off[: 16 * rows, : 16 * columns].reshape(rows, 16, columns, 16).mean((1, 3)).max() < 70


def test_hostile_text_is_drawn_not_obeyed(visit):
    page = visit(*HOSTILE.values())
    for n in range(page.get_by_role("button", name="save this view as SVG").count()):
        file, content = save(page, "SVG", n)
        assert re.fullmatch(r"[^\s<>:/\\|?*\"'.\0-\x1f\u202a-\u202e]{1,105}\.svg", file)
        assert "alert(1)" in words(read(content)), file
        assert not re.search("[\0-\x08\u202a-\u202e\ufffe]", content.decode())
    assert n >= len(HOSTILE)


def test_what_scrolls_is_saved_whole_and_left_as_it_was(visit):
    page = visit(fakes.weight_table())
    page.set_viewport_size({"width": 600, "height": 900})
    box = page.locator(".lab-scroll")
    box.evaluate("(box) => (box.scrollLeft = 55)")
    state = "[...document.querySelectorAll('.llm-lab-card *')].map((node) => [node.getAttribute('style') || '', node.scrollLeft, node.scrollTop])"
    before = page.evaluate(state)
    tree = read(save(page, "SVG")[1])
    assert page.evaluate(state) == before
    assert page.locator(".lab-scroll").evaluate("(box) => box.scrollLeft") == 55
    texts = [(node.text, float(node.get("x"))) for node in tree.iter(f"{SVG}text")]
    assert dict(texts)["noise scale"] > 900
    assert float(tree.get("width")) > max(x for _, x in texts) + 14


def test_what_works_a_view_is_not_saved_but_what_it_is_set_to(visit):
    page = visit(fakes.training())
    text = words(read(save(page, "SVG")[1]))
    assert "against time" in text
    for away in ("log x", "steps", "SVG", "PNG", "The the shat"):  # of these the last is closed
        assert away not in text.split("Repeats")[0]
    page.get_by_label("against").select_option("step")
    page.get_by_label("log x").check()
    page.get_by_text("earlier samples").click()
    text = words(read(save(page, "SVG")[1]))
    assert all(now in text for now in ("against step", "log x", "The the shat"))


def test_a_text_that_is_cut_on_the_page_is_cut_in_the_picture(visit):
    page = visit(fakes.compared(["a very long beginning of a text that has no end " * 9]))
    tree = read(save(page, "SVG")[1])
    (cut, *_) = [node for node in tree.iter(f"{SVG}text") if (node.text or "").endswith("…")]
    assert cut.text.startswith("a very long beg")
    (above, *_) = [node for node in tree.iter(f"{SVG}text") if node.text == "greedy" and node.get("x") == cut.get("x")]
    assert float(above.get("y")) < float(cut.get("y"))
    after = min(float(node.get("x")) for node in tree.iter(f"{SVG}text") if node.text == "prompt" and node is not cut)
    assert float(cut.get("x")) + 6.62 * len(cut.text) < after  # of 11 px monospace


def test_a_map_of_tokens_is_shapes(visit):
    made = fakes.projection()
    page = visit(made)
    tree = read(save(page, "SVG")[1])
    assert not tree.findall(f".//{SVG}image")
    (cloud,) = [node for node in tree.iter(f"{SVG}g") if "translate" in node.get("transform", "")]
    marks = [node for node in cloud if node.tag == f"{SVG}path"]
    assert len(marks) == len(made.pieces) + 1  # and the axes
    drawn = page.evaluate("document.querySelector('canvas.lab-cloud').toDataURL()")
    save(page, "SVG")
    assert page.evaluate("document.querySelector('canvas.lab-cloud').toDataURL()") == drawn


def test_a_part_that_cannot_be_drawn_is_left_out(visit):
    page = visit(fakes.attention())
    page.evaluate("() => { HTMLCanvasElement.prototype.toDataURL = () => { throw new Error('tainted'); }; }")
    tree = read(save(page, "SVG")[1])
    assert not tree.findall(f".//{SVG}image")
    assert "layer 1 · head 2" in words(tree)
    assert visit.said
    assert all("left out of the picture" in line for line in visit.said)
    visit.said.clear()


def test_no_file_is_no_harm(visit):
    page = visit(fakes.listing())
    page.evaluate("() => { XMLSerializer.prototype.serializeToString = () => { throw new Error('no'); }; }")
    page.get_by_role("button", name="save this view as PNG").press("Enter")
    page.wait_for_timeout(100)
    assert len(visit.said) == 1
    assert "no PNG was made" in visit.said.pop()
    assert page.evaluate("saved.length") == 0


@pytest.mark.parametrize("kind", ["SVG", "PNG"])
def test_a_file_is_downloaded(visit, kind, tmp_path):
    page = visit(fakes.listing())
    page.reload()
    button = page.get_by_role("button", name=f"save this view as {kind}")
    with page.expect_download() as download:
        button.press("Space")
    assert download.value.suggested_filename == f"runs-2-in-llm-lab.{kind.lower()}"
    download.value.save_as(tmp_path / "file")
    assert (tmp_path / "file").read_bytes().startswith(b"<?xml" if kind == "SVG" else b"\x89PNG")


def test_a_view_with_a_kernel_is_saved(visit):
    page = visit(fakes.listing())
    state = {"title": "bard", "facts": ["chat", "tiny"], "template": "{{user}}", "notes": [], "left_out": 0}
    state["messages"] = [{"who": "you", "role": "user", "text": fakes.EVIL, "tokens": False}]
    page.evaluate(MOUNT, [esm("chat"), css() + css("export"), state, {}, "nobody"])
    file, content = save(page, "SVG")
    assert file == "bard-chat.svg"
    text = words(read(content))
    assert fakes.EVIL in text
    assert "freeze" not in text
    maps = fakes.attention()
    data, buffers = attention.payload(maps)
    packed = {name: base64.b64encode(value).decode() for name, value in buffers.items()}
    state = data | {"asks": True, "title": "bard", "subtitle": "attention · tiny"}
    page.evaluate(MOUNT, [esm("attending"), css() + css("export"), state, packed, "nobody"])
    file, content = save(page, "SVG")
    assert file == "bard-attention.svg"
    tree = read(content)
    layers, heads, *_ = maps.shape
    assert len(tree.findall(f".//{SVG}image")) == layers * heads + 1
    assert "freeze" not in words(tree)
