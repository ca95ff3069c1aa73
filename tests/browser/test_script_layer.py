"""The script layer in a real browser: it mounts, answers pointer and keys, and runs no hostile text."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from llm_lab.views import attention, attention_widget
from llm_lab.views.bundle import css, esm
from tests.views import fakes

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(chromium):
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    yield page
    page.close()


@pytest.fixture
def visit(page, tmp_path):
    """Opens results as one saved page; what its scripts complain of, or say aloud, is collected."""
    said: list[str] = []

    def hear(dialog):
        said.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("dialog", hear)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)

    def go(*results, width=1200):
        path = results[0].save_html(tmp_path / "page.html")
        more = "".join(result._repr_mimebundle_()["text/html"] for result in results[1:])
        path.write_text(path.read_text("utf-8").replace("</body>", more + "</body>"), "utf-8")
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_function("!document.querySelector('[class*=llm-lab-]:not(.llm-lab-card, [data-live])')")
        assert not said
        return page

    yield go
    assert not said
    page.remove_listener("dialog", hear)


def test_every_view_mounts_and_every_image_decodes(visit):
    page = visit(*fakes.everything().values(), *fakes.everything(hostile=True).values())
    page.wait_for_timeout(300)
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    static = "[...document.querySelectorAll('.llm-lab[data-live] img')].filter((one) => !one.closest('.lab-written, .lab-pictured, .lab-table, .lab-still')).length"
    assert page.evaluate(static) == 0


@pytest.mark.parametrize("width", [480, 1600])
def test_nothing_scrolls_sideways(visit, width):
    page = visit(*fakes.everything().values(), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_attention_by_pointer_and_keys(visit):
    maps = fakes.attention()
    page = visit(maps)
    page.locator("button.lab-head[data-layer='2'][data-head='3']").click()
    chosen = page.locator("button.lab-head[aria-pressed=true]")
    assert chosen.get_attribute("aria-label") == "layer 2 head 3"
    page.keyboard.press("ArrowUp")
    assert chosen.get_attribute("aria-label") == "layer 1 head 3"
    cells = page.locator(".lab-cells")
    cells.focus()
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    said = page.locator(".lab-value").inner_text()
    assert said.startswith("query 2 “,” reads from key 1 “ be”: ")
    assert float(said.split(": ")[1].split(" ±")[0]) == pytest.approx(maps.pattern(1, 3)[2, 1], abs=0.003)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "comes later" in page.locator(".lab-value").inner_text()


def test_attention_as_lines_products_and_heads_together(visit):
    maps = fakes.attention()
    page = visit(maps)
    page.locator("button.lab-head[data-layer='1'][data-head='2']").click()
    choose = lambda label, value: page.locator(f"label:has-text('{label}') select").first.select_option(value)  # noqa: E731
    choose("as", "lines")
    pattern = maps.pattern(1, 2)
    lines = page.locator("path.lab-line-of")
    assert lines.count() == pytest.approx((pattern >= 0.03).sum(), abs=2)
    page.locator("svg.lab-lines text[data-q='5']").hover()
    said = page.locator(".lab-value").inner_text()
    assert said.startswith(f"query 5 “ to” reads most from “{maps.pieces[int(pattern[5].argmax())].text}” 0.69")
    assert page.locator("path.lab-line-of:not(.lab-dim)").count() == pytest.approx((pattern[5] >= 0.03).sum(), abs=1)
    choose("query", "5")
    assert page.locator("path.lab-line-of").count() == pytest.approx((pattern[5] >= 0.03).sum(), abs=1)
    choose("as", "products")
    rows = page.locator(".lab-products tbody tr")
    assert rows.count() == 1 + 6
    cells = [row.split("\t") for row in rows.all_inner_texts()[1:]]
    scores = [float(cell[4].replace("−", "-")) for cell in cells]
    wanted = [maps.products(1, 2, 5, k).sum() * maps.scale for k in range(6)]
    assert scores == pytest.approx(wanted, abs=0.2)
    page.locator(".lab-products").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    said = page.locator(".lab-value").inner_text()
    assert said.startswith("number 2 of key 1 “ be”: q ")
    product = float(said.split(" = ")[1].replace("−", "-"))
    assert product == pytest.approx(maps.products(1, 2, 5, 1)[2], abs=0.05)
    choose("as", "map")
    for how, expected in (
        ("layer mean", maps.select(layers=[1]).aggregate("mean")),
        ("all largest", maps.aggregate("max")),
        ("rollout", maps.aggregate("rollout")),
    ):
        choose("of", how)
        cells = page.locator(".lab-cells")
        cells.focus()
        for key in ("Home", "ArrowDown", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        said = page.locator(".lab-value").inner_text()
        assert float(said.split(": ")[1].split(" ±")[0]) == pytest.approx(expected[2, 1], abs=0.006)
        page.keyboard.press("Escape")


def test_attention_of_several_heads_together(visit):
    maps = fakes.attention()
    page = visit(maps)
    head = "button.lab-head[data-layer='{}'][data-head='{}']".format
    page.locator(head(1, 2)).click()
    page.locator(head(2, 3)).click(modifiers=["Shift"])
    page.locator(head(1, 2)).focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+Enter")
    pressed = [one.get_attribute("title") for one in page.locator("button.lab-head[aria-pressed=true]").all()]
    assert pressed == ["layer 1 · head 1", "layer 1 · head 2", "layer 2 · head 3"]
    patterns = [maps.pattern(1, 2), maps.pattern(2, 3), maps.pattern(1, 1)]
    of = page.locator("label:has-text('of') select").first
    for how, expected in (("mean", np.mean(patterns, axis=0)), ("largest", np.max(patterns, axis=0))):
        of.select_option(how)
        page.locator(".lab-cells").focus()
        for key in ("Home", "ArrowDown", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        said = page.locator(".lab-value").inner_text()
        assert float(said.split(": ")[1].split(" ±")[0]) == pytest.approx(expected[2, 1], abs=0.006)
        page.keyboard.press("Escape")
    of.select_option("mean")
    page.locator("label:has-text('as') select").select_option("lines")
    assert page.locator("path.lab-line-of[data-q]").count() == pytest.approx(
        sum((p >= 0.03).sum() for p in patterns), abs=3
    )
    dashes = page.locator(".lab-strand path").evaluate_all(
        "all => all.map((one) => one.getAttribute('stroke-dasharray'))"
    )
    assert len(set(dashes)) == 3
    page.locator(head(2, 3)).click(modifiers=["Shift"])
    assert page.locator(".lab-strand").count() == 2
    page.locator(".lab-tall").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator(".lab-value").inner_text().startswith("query 1 “ be” reads most from ")
    page.keyboard.press("ArrowRight")
    assert page.locator(".lab-value").inner_text().startswith("key ")
    page.keyboard.press("Escape")
    assert page.locator("path.lab-dim").count() == 0
    page.locator(head(0, 0)).click()
    assert page.locator("button.lab-head[aria-pressed=true]").count() == 1


@pytest.fixture
def live(page, tmp_path):
    """Mounts the widget's module with a kernel that answers; gives the page and what was asked."""
    asked: list[dict] = []

    def go(maps):
        data, buffers = attention.payload(maps)

        def answer(message):
            asked.append(message)
            told, values = attention_widget.ANSWERS[message["kind"]](maps, message)
            packed = [] if values is None else [base64.b64encode(values.tobytes()).decode()]
            return {**message, **told, "packed": packed}

        page.goto("about:blank")
        if not asked:
            page.expose_function(f"kernel{id(asked)}", answer)
        state = data | {"asks": True, "title": "bard", "subtitle": "attention"}
        bytes_of = {name: base64.b64encode(value).decode() for name, value in buffers.items()}
        page.evaluate(MOUNT, [esm("attending"), css() + css("export"), state, bytes_of, f"kernel{id(asked)}"])
        page.wait_for_selector("button.lab-head")
        return page, asked

    return go


MOUNT = """async ([esm, css, state, packed, kernel]) => {
  const unpack = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  for (const [name, text] of Object.entries(packed)) state[name] = unpack(text);
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const view = (await import(url)).default;
  let hear = () => {};
  const model = { get: (name) => state[name], set() {}, on: (_, f) => (hear = f), off() {}, save_changes() {},
    send: (message) => window[kernel](message).then(({ packed, ...told }) => hear(told, packed.map(unpack))) };
  document.body.replaceChildren(Object.assign(document.createElement("style"), { textContent: css }));
  const el = document.body.appendChild(document.createElement("div"));
  view.render({ model, el });
}"""


def test_attention_asks_the_kernel_for_what_it_shows(live, monkeypatch):
    monkeypatch.setattr(attention, "EXACT", 1000)
    maps = fakes.attention([f"w{i}" for i in range(300)], 4, 8)
    page, asked = live(maps)
    says = page.locator(".lab-value")
    page.locator("button.lab-head[data-layer='2'][data-head='3']").click()
    page.wait_for_timeout(400)
    assert {"kind": "layer", "layer": 2} in asked
    page.locator(".lab-cells").focus()
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_function("!/cells|±/.test(document.querySelector('.lab-value').textContent)")
    assert float(says.inner_text().split(": ")[1]) == pytest.approx(maps.pattern(2, 3)[2, 1], abs=1e-4)
    choose = lambda label, value: page.locator(f"label:has-text('{label}') select").first.select_option(value)  # noqa: E731
    choose("of", "rollout")
    page.wait_for_timeout(600)
    assert {"kind": "together", "how": "rollout", "layer": None} in asked
    page.locator(".lab-cells").focus()
    for key in ("Home", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    assert says.inner_text().startswith("query 4 “w4” reads from key 0 “w0”: ")
    found = float(says.inner_text().split(": ")[1].split(" at most")[0])
    assert found == pytest.approx(maps.aggregate("rollout")[4, 0], abs=0.003)  # no other query shares its row
    choose("as", "lines")
    page.wait_for_selector(".lab-lines")
    assert {"kind": "row", "layer": 2, "head": 3, "query": 299} in asked
    row = maps.row(2, 3, 299)
    assert page.locator("svg.lab-lines text[data-k]").count() == min((row >= 0.01).sum(), 24)
    assert page.locator("path.lab-line-of").count() == (row >= 0.03).sum()
    choose("as", "products")
    page.wait_for_selector(".lab-products")
    assert page.locator(".lab-products tbody tr").count() == 1 + 12
    cells = [line.split("\t") for line in page.locator(".lab-products tbody tr").all_inner_texts()[1:]]
    wanted = [maps.products(2, 3, 299, int(cell[1])).sum() * maps.scale for cell in cells]
    assert [float(cell[4].replace("−", "-")) for cell in cells] == pytest.approx(wanted, rel=6e-3, abs=6e-3)


def test_attention_between_two_texts(visit):
    page = visit(fakes.everything()["two texts"])
    assert "Of each token's attention: 1→1" in page.locator(".lab-big").inner_text()
    page.locator("label:has-text('texts') select").select_option("3")
    cells = page.locator(".lab-cells")
    cells.focus()
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert ": 0.000 " in page.locator(".lab-value").inner_text()


def test_a_reduced_map_tells_the_largest_of_the_cell_that_is_pointed_at(visit):
    maps = fakes.attention([f"w{i}" for i in range(90)], 2, 2)
    maps.thumbnails = attention.pooled(attention.quantised(maps.numpy()), 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "EXACT", 1000)
        page = visit(maps)
    layer, head = 1 - attention.opening(maps)[0], 0
    page.locator(f"button.lab-head[data-layer='{layer}'][data-head='{head}']").click()
    cells = page.locator(".lab-cells")
    cells.focus()
    edges = [i * 90 // 7 for i in range(8)]
    page.keyboard.press("Home")
    for query in range(1, 90):
        page.keyboard.press("ArrowDown")
        said = float(page.locator(".lab-value").inner_text().split(": ")[1].split(" at most")[0])
        row = max(r for r in range(7) if edges[r] <= query)
        largest = maps.pattern(layer, head)[edges[row] : edges[row + 1], : edges[1]].max()
        assert said == pytest.approx(largest, abs=0.003), query


def test_long_attention_names_tokens_on_hover(visit):
    page = visit(fakes.attention([f"w{i}" for i in range(200)], 6, 8))
    page.locator(".lab-cells").hover(position={"x": 90, "y": 300})
    assert "“w1" in page.locator(".lab-value").inner_text()
    assert page.locator(".lab-keys .lab-name").count() == 0


def test_tokens_by_pointer_and_keys(visit):
    made = fakes.generation(n=2)
    page = visit(made)
    page.locator(".lab-token").nth(3).hover()
    detail = page.locator(".lab-detail")
    assert detail.inner_text().startswith("“")
    assert f"{2.718281828 ** made.logprob[0][3]:.3f}" in detail.inner_text()
    page.locator(".lab-text").nth(1).focus()
    page.keyboard.press("Home")
    assert "position\n1 of" in detail.inner_text()
    page.keyboard.press("ArrowRight")
    assert "position\n2 of" in detail.inner_text()
    (known, _) = made.statistics
    assert f"rank\n{known.rank[1]}" in detail.inner_text()
    others = page.locator(".lab-detail dt.lab-mono")
    assert others.count() == 10
    assert others.first.inner_text() == made.pieces[0][int(known.top[1][0])].text.strip().replace("\n", "⏎")
    ink = "node => node.style.getPropertyValue('--ink')"
    page.locator("select").select_option("rank")
    token = page.locator(".lab-token").nth(5)
    assert float(token.evaluate(ink)) == pytest.approx(0.62 * min(math.log2(known.rank[5]) / 6, 1), abs=1e-6)
    page.locator("select").select_option("none")
    assert token.evaluate(ink) == "0"


def test_chart_reads_single_steps(visit):
    report = fakes.training()
    page = visit(report)
    page.locator("svg.lab-chart").focus()
    page.keyboard.press("Home")
    says = page.locator(".lab-bar > div")
    assert says.inner_text().startswith(f"step 1 · 0:00 · training {report.train[0][2]:.3f}")
    page.locator("select").select_option("step")
    page.locator("input[type=checkbox]").check()
    page.keyboard.press("Tab")
    assert "steps" in page.locator("svg.lab-chart").text_content()


def test_a_heat_map_by_pointer_and_keys(visit):
    made = fakes.heatmap()
    page = visit(made)
    says = page.locator(".lab-value")
    box = page.locator(".lab-pictured")
    box.nth(0).focus()
    for key in ("Home", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert says.inner_text() == f"To: layer 1 · ,: {made.panels[0].values[1, 2]:.4g} nats bard".replace("-", "−")
    frame = page.locator(".lab-cursor-cell").nth(0).bounding_box()
    page.keyboard.press("Escape")
    assert says.inner_text().startswith("Point at a cell")
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    assert says.inner_text().startswith("To: layer 1 · ,: ")
    box.nth(1).focus()
    page.keyboard.press("ArrowDown")
    assert "be: layer 0 · To: “To” " in says.inner_text()
    assert page.locator(".lab-note").inner_text() == "To"


def test_scores_by_pointer_keys_and_method(visit):
    made = fakes.scores()
    page = visit(made)
    detail = page.locator(".lab-detail")
    assert detail.inner_text().startswith("Point at a token")
    page.locator(".lab-token").nth(1).hover()
    assert "−0.25" in detail.inner_text() and "position\n1" in detail.inner_text()
    page.locator(".lab-text").focus()
    page.keyboard.press("End")
    assert "one bard\n2.000\nother\n−2.000\nposition\n4" in detail.inner_text()
    token = page.locator(".lab-token").nth(4)
    assert token.evaluate("node => node.style.background") == "rgba(61, 125, 230, 0.62)"
    page.locator("select").select_option("1")
    assert token.evaluate("node => node.style.background") == "rgba(224, 123, 26, 0.62)"


def test_a_walk_by_layer_head_and_keys(visit):
    made = fakes.walk()
    page = visit(made)
    rows = page.locator(".lab-step")
    assert rows.count() == len(made.steps)
    page.locator("select").nth(0).select_option("0")
    page.locator("select").nth(1).select_option("1")
    shown = rows.nth(2).locator("td").all_inner_texts()
    wanted = made["attn.pattern"][0, 1]
    assert [float(value) for value in shown[2::3]] == pytest.approx(wanted, abs=1e-3)
    page.locator(".lab-strip").nth(0).focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    said = rows.nth(0).locator("[aria-live]").inner_text()
    assert said.startswith("number 2: ")
    assert float(said.split(": ")[1].replace("−", "-")) == pytest.approx(made["embed"][2], abs=2e-3)


def test_a_lens_by_pointer_keys_shade_and_window(visit):
    made = fakes.lens(tuple(f"w{i}" for i in range(60)))
    page = visit(made)
    cell = "td[data-layer='{}'][data-token='{}']".format
    page.locator(cell(1, 3)).hover()
    detail = page.locator(".lab-detail")
    shown = detail.locator("dd").all_inner_texts()
    wanted = [*np.exp(made.top_logprob[1, 3]), np.exp(made.true_logprob[1, 3])]
    assert [float(value) for value in shown[:11]] == pytest.approx(wanted, abs=6e-4)
    assert shown[11] == str(made.rank[1, 3])
    assert [float(value) for value in shown[12:]] == pytest.approx([made.kl[1, 3], made.entropy[1, 3]], rel=6e-3)
    assert detail.inner_text().startswith("after layer 0, token 3 “w3”")
    page.locator("td[tabindex='0']").focus()
    page.keyboard.press("ArrowUp")
    assert detail.inner_text().startswith("after layer 1, token 3")
    first = page.locator(cell(3, 0))
    assert "lab-right" in first.get_attribute("class")  # every layer has the first truth
    page.keyboard.press("End")
    assert detail.inner_text().startswith("after layer 1, token 59")
    assert page.locator(cell(1, 59)).is_visible() and not first.is_visible()
    before = page.locator(cell(0, 59)).get_attribute("style")
    page.get_by_label("shade").select_option("kl")
    assert page.locator(cell(0, 59)).get_attribute("style") != before
    page.get_by_label("earlier tokens").click()
    assert not page.locator(cell(1, 59)).is_visible()
    assert detail.inner_text().startswith("Point at a cell")


STRATEGIES = ("greedy", "top_p:p=0.5", "top_k", "min_p")


def order(page):
    """The rows as they stand: strategy and prompt."""
    cells = "rows => rows.filter(r => !r.hidden).map(r => [...r.cells].slice(0, 2).map(c => c.querySelector('bdi').textContent))"
    return [tuple(row) for row in page.locator("tr.lab-row").evaluate_all(cells)]


def heading(page, name):
    return page.locator("th", has=page.get_by_role("button", name=name, exact=True))


def test_comparison_sorts_by_mouse_and_by_keys(visit):
    made = fakes.compared(strategies=STRATEGIES)
    page = visit(made)
    names = ["greedy", "top_p, p 0.5", "top_k", "min_p"]
    prompts = made.prompts[0], made.prompts[1]
    asked = [(name, prompt) for name in names for prompt in prompts]
    assert order(page) == asked
    likely = page.get_by_role("button", name="log\u2011prob", exact=True)
    likely.click()  # likelier is better
    assert order(page) == asked
    assert heading(page, "log\u2011prob").get_attribute("aria-sort") == "descending"
    assert likely.inner_text().endswith("↓")
    page.keyboard.press("Enter")
    assert order(page) == asked[::-1]
    assert heading(page, "log\u2011prob").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert order(page) == asked
    # Less alike is better; a text alone has no self-BLEU, and stands last both ways.
    alike = page.get_by_role("button", name="self\u2011BLEU", exact=True)
    alike.focus()
    page.keyboard.press("Enter")
    known = [(name, prompts[1]) for name in names]
    missing = [(name, prompts[0]) for name in names]
    assert order(page) == [*known[::-1], *missing]
    page.keyboard.press("Enter")
    assert order(page) == [*known, *missing]
    assert page.locator("th[aria-sort]").count() == 1
    page.get_by_role("button", name="strategy", exact=True).click()
    assert [name for name, _ in order(page)] == sorted([*names, *names])


def test_comparison_shows_the_texts_of_the_row_chosen(visit):
    made = fakes.compared(strategies=STRATEGIES, tree=fakes.beams())
    page = visit(made)
    written = page.locator(".lab-written")
    assert "bad_words  to be, or not, seed 0, 2 texts, 28 tokens" in written.text_content()
    assert written.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert "returned" not in written.inner_text() and "“ to be, or" in written.locator("img").get_attribute("alt")
    page.locator("tr.lab-row").nth(4).click()
    assert written.inner_text().startswith("top_k after “ROMEO:”")
    assert written.locator(".lab-text").all_text_contents() == made.cells[4].texts
    assert written.locator("img").count() == 0
    pressed = page.locator("button.lab-pick[aria-pressed=true]")
    pressed.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert written.inner_text().startswith("min_p after “ROMEO:”")
    assert pressed.evaluate("node => node === document.activeElement")
    page.keyboard.press("Home")
    assert written.inner_text().startswith("greedy")
    # The order that a sorting made is the one that the keys go by.
    page.get_by_role("button", name="log\u2011prob", exact=True).click()
    page.keyboard.press("Enter")
    pressed.focus()
    page.keyboard.press("ArrowUp")
    assert written.inner_text().startswith("greedy after “ to be, or not”")


def test_comparison_points_and_rows_light_each_other(visit):
    page = visit(fakes.compared(strategies=STRATEGIES))
    lit = "nodes => nodes.map((node, i) => [node, i]).filter(([node]) => node.classList.contains('lab-lit')).map(([, i]) => i)"
    rows, spots = page.locator("tr.lab-row"), page.locator(".lab-spot")
    label = "nodes => nodes.filter((node) => node.classList.contains('lab-lit')).map((node) => node.getAttribute('aria-label'))"
    rows.nth(5).hover()
    (said,) = spots.evaluate_all(label)
    assert said == "top_k after “ to be, or not”: distinct\u20112 0.65, log\u2011prob −3.30"
    spots.filter(has=page.locator("text", has_text="greedy")).first.hover()
    assert rows.evaluate_all(lit) in ([0], [1])
    page.mouse.move(2, 2)
    assert rows.evaluate_all(lit) == []
    page.locator(".lab-spot[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert rows.evaluate_all(lit) == [1]
    page.keyboard.press("Enter")
    assert page.locator(".lab-written").inner_text().startswith("greedy after “ to be, or not”")
    assert page.locator(".lab-spot[aria-pressed=true]").count() == 1
    page.get_by_label("up", exact=True).select_option(label="entropy")
    assert "entropy 1.50" in page.locator(".lab-spot").first.get_attribute("aria-label")


def test_comparison_filters_and_mounts_twice(visit):
    made = fakes.compared(models=2)
    page = visit(made, made)
    first, second = (page.locator(".llm-lab-card").nth(i) for i in range(2))
    first.get_by_label("model", exact=True).select_option("bard2")
    first.get_by_label("prompt", exact=True).select_option("1")
    assert first.locator("tr.lab-row:visible").count() == 2
    assert first.locator(".lab-spot").count() == 2
    assert first.locator(".lab-written").inner_text().startswith("greedy · bard2 after “ to be, or not”")
    assert second.locator("tr.lab-row:visible").count() == 8
    assert second.locator(".lab-spot").count() == 8


def test_hostile_texts_stay_texts(visit):
    """What the page would run in them leaves a mark on its window, or opens a dialog, which `visit` hears."""
    evil = [
        '<img src=x onerror="window.ran = 1">',
        "</textarea></pre><script>window.ran = 1</script>",
        "\u202e\0\x1b[31m",
        "\ud83d",
    ]
    made = fakes.compared(evil, (evil[0], evil[1]), evil[1], models=2, tree=fakes.beams(evil))
    page = visit(made, fakes.searched(evil, evil[1]), fakes.runs(evil[1], evil[0]))
    for row in page.locator("tr.lab-row").all():
        row.click()
    for button in page.locator("button.lab-sort").all():
        button.click()
    page.wait_for_timeout(300)
    assert page.evaluate("window.ran") is None
    shown = page.locator(".lab-written .lab-text").all_text_contents()
    assert shown[0] == evil[0] and shown[1] == evil[1]
    assert shown[2] == "⟨RLO⟩␀␛[31m" and shown[3] == "⟨U+D83D⟩"


def test_runs_sort(visit):
    page = visit(fakes.runs())
    names = "rows => rows.map((row) => row.cells[0].textContent)"
    rows = page.locator(".lab-table tbody tr")
    assert rows.evaluate_all(names) == ["bard", "bard1", "bard2"]
    page.get_by_role("button", name="val loss", exact=True).click()
    assert rows.evaluate_all(names) == ["bard1", "bard", "bard2"]
    page.keyboard.press("Enter")
    assert rows.evaluate_all(names) == ["bard", "bard1", "bard2"]


def test_two_views_of_one_output(visit):
    maps = fakes.attention()
    page = visit(maps, maps)
    assert page.locator(".lab-heads").count() == 2


def test_static_stays_where_the_view_fails(page, tmp_path):
    path = fakes.training().save_html(tmp_path / "broken.html")
    source = path.read_text("utf-8").replace("DecompressionStream", "NoSuchStream")
    path.write_text(source, "utf-8")
    page.goto(path.as_uri())
    page.wait_for_timeout(300)
    assert page.locator(".llm-lab[data-live]").count() == 0
    assert page.locator(".llm-lab img").is_visible()
    assert not page.locator(".llm-lab-card button").count()


@pytest.mark.parametrize(("theme", "blue"), [("dark", "#6ea2ff"), ("light", "#2563cf")])
@pytest.mark.parametrize(
    "place", ['<body data-jp-theme-light="{light}"><p class="llm-lab">', '<p class="llm-lab" data-theme="{theme}">']
)
def test_hues_follow_the_theme(page, place, theme, blue):
    inside = place.format(theme=theme, light=str(theme == "light").lower())
    page.set_content(f'<style>{css()}</style>{inside}<b class="llm-lab lab-play">x</b>')
    for selector in ("p", "b"):
        value = page.locator(selector).evaluate("it => getComputedStyle(it).getPropertyValue('--lab-blue')")
        assert value.strip() == blue


def test_a_film_of_tokens_by_keys_and_pointer(visit):
    film = fakes.projection(frames=3, dims=2)
    page = visit(film)
    canvas = page.locator("canvas.lab-cloud")
    page.locator("input[type=search]").fill("To")
    assert page.locator(".lab-value").inner_text().startswith("To: capital")
    near = page.locator(".lab-near dt").all_inner_texts()
    assert near == ["␣be", "be", ","] and "bard@2" in page.locator(".lab-near").inner_text()
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert not page.locator(".lab-value").inner_text().startswith("To:")
    slider = page.locator(".lab-film input")
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator(".lab-film b").inner_text() == "bard@0"
    page.get_by_role("button", name="play all models").click()
    page.wait_for_function("document.querySelector('.lab-film b').textContent === 'bard@2'", timeout=5000)


def test_a_cloud_turns(visit):
    page = visit(fakes.projection(dims=3))
    canvas = page.locator("canvas.lab-cloud")
    pixels = "canvas => canvas.toDataURL()"
    before = canvas.evaluate(pixels)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    turned = canvas.evaluate(pixels)
    assert turned != before
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 130)
    page.mouse.up()
    assert canvas.evaluate(pixels) != turned


def test_weights_sort_and_are_found(visit):
    page = visit(fakes.weight_table())
    page.get_by_role("button", name="std").click()
    names = page.locator("td.lab-mono").all_inner_texts()
    assert sorted(names) == ["bard.0", "bard.1", "bard.2"]
    assert names[0] == "bard.1"  # whose spread is infinite
    page.locator("input[type=search]").fill("d.2")
    assert page.locator("tbody tr:visible").count() == 1
    assert "1 of 3 weights" in page.locator(".lab-bar").inner_text()


def test_units_are_chosen_by_click_and_keys_and_sorted(visit):
    page = visit(fakes.units())
    named = page.locator(".lab-passages b")
    names = [unit.name for unit in fakes.units().units]
    assert named.inner_text() == names[0] and page.locator(".lab-passages .lab-sample").count() == 4
    page.locator("tr.lab-row").nth(1).click()
    assert named.inner_text() == names[1] and page.locator(".lab-passages mark").count() == 1
    page.locator(".lab-pick[aria-pressed=true]").focus()
    page.keyboard.press("ArrowUp")
    assert named.inner_text() == names[0]
    page.keyboard.press("End")
    assert named.inner_text() == names[2] and page.locator(".lab-passages .lab-sample").count() == 0
    page.get_by_role("button", name="largest").click()
    page.get_by_role("button", name="largest").click()
    assert page.locator("tr.lab-row .lab-pick bdi").first.inner_text() == names[2]
