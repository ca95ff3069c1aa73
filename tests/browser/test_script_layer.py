"""The script layer in a real browser: it mounts, answers pointer and keys, and runs no hostile text."""

from __future__ import annotations

import math

import pytest

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
        count = page.locator("body > .llm-lab-card script").count()
        page.wait_for_function(f"document.querySelectorAll('.llm-lab[data-live]').length === {count}")
        assert not said
        return page

    yield go
    assert not said
    page.remove_listener("dialog", hear)


def test_every_view_mounts_and_every_image_decodes(visit):
    page = visit(*fakes.everything().values(), *fakes.everything(hostile=True).values())
    page.wait_for_timeout(300)
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    static = "[...document.querySelectorAll('.llm-lab[data-live] img')].length"
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
