"""The quickstart in a real JupyterLab: run, used, saved, and opened again without a kernel, with one, and untrusted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest

import llm_lab
from tests.browser.lab import Notebook, refuse_kernels, server, write_notebook
from tests.conftest import DATA
from tests.small import TEXT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (DATA / "tinyshakespeare.txt").is_file(), reason=f"tinyshakespeare.txt is not in {DATA}; set LLM_LAB_DATA"
    ),
]
QUICKSTART = Path(llm_lab.__file__).parents[1] / "notebooks" / "00_quickstart.ipynb"
# The weight that the test asks for through the widget, of the head that the widget opens with.
WHERE = """from llm_lab.views.attention import payload
opened = payload(maps)[0]
float(maps.pattern(opened["layer"], opened["head"])[4, 0])"""
RUN = ("load", "corpus", "tokenize", "build", "pretrain", "generate", "probe", "evaluate", "runs")


@pytest.fixture(scope="module", autouse=True)
def data():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_LAB_DATA", str(DATA))
        yield


@pytest.fixture(scope="module")
def lab(tmp_path_factory, data):
    """A folder with a small quickstart in it, and a JupyterLab over it."""
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    book = nbformat.read(QUICKSTART, as_version=4)
    for cell in book.cells:
        cell.source = cell.source.replace("--seconds 60", "--seconds 10 --threads 1")
    nbformat.write(book, folder / "quickstart.ipynb")
    with server(folder, home) as address:
        yield folder, home, address


@pytest.fixture(scope="module")
def cells(lab):
    book = nbformat.read(lab[0] / "quickstart.ipynb", as_version=4)
    return {cell.id: index for index, cell in enumerate(book.cells)}


@pytest.fixture(scope="module")
def ran(lab, cells, chromium):
    """The quickstart, run cell by cell as a reader does, and saved; what was seen on the way."""
    _, _, address = lab
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    book = Notebook(page, address, "quickstart.ipynb")
    book.kernel_ready()
    seen = {}
    for name in RUN:
        if name == "pretrain":
            book.start(cells[name])
            chart = book.output(cells[name]).locator("img").first
            chart.wait_for(timeout=60_000)
            frames = set()
            for _ in range(16):
                frames.add(chart.get_attribute("src"))
                page.wait_for_timeout(500)
            seen["frames"] = len(frames)
        book.run(cells[name]) if name != "pretrain" else book.wait(cells[name])
    book.save()
    yield book, seen
    page.close()


def test_the_chart_moves_while_it_trains(ran):
    assert ran[1]["frames"] >= 4


def test_generated_text_and_attention_appear(ran, cells):
    book, _ = ran
    assert "ROMEO:" in book.output(cells["generate"]).inner_text()
    assert "surprisal" in book.output(cells["generate"]).inner_text()
    assert book.output(cells["probe"]).locator("canvas, img").count() > 0
    assert "bits per byte" in book.output(cells["evaluate"]).inner_text()
    for name in RUN:
        assert "Traceback" not in book.output(cells[name]).inner_text() if name != "load" else True


def choose_another_head(book, index):
    """Click a head of the grid and say which heads the caption named before and after."""
    output = book.output(index)
    output.scroll_into_view_if_needed()
    caption = re.compile(r"layer (\d+) · head (\d+)")
    before = caption.search(output.inner_text()).groups()
    layer, head = ("1", "1") if before != ("1", "1") else ("0", "1")  # however few there are
    output.get_by_role("button", name=f"layer {layer} head {head}", exact=True).click()
    return before, caption.search(output.inner_text()).groups()


def test_a_click_chooses_a_head(ran, cells):
    before, after = choose_another_head(ran[0], cells["probe"])
    assert before != after
    ran[0].page.keyboard.press("ArrowLeft")
    assert f"layer {after[0]} · head {int(after[1]) - 1}" in ran[0].output(cells["probe"]).inner_text()


def test_tab_completes_a_flag(ran):
    book, _ = ran
    page = book.page
    page.locator(".jp-Notebook .jp-Cell .cm-content").last.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.type('%generate bard "x" --temp')
    page.keyboard.press("Tab")
    editor = page.locator(".jp-Notebook .jp-Cell.jp-mod-active .cm-content")
    menu = page.locator(".jp-Completer")
    for _ in range(50):
        page.wait_for_timeout(100)
        if "--temperature" in editor.inner_text():
            break
        if menu.count() and menu.is_visible():
            page.keyboard.press("Enter")
    assert '%generate bard "x" --temperature' in editor.inner_text()


def holds(book, cells, interactive):
    """What a reopened notebook must still show."""
    index = cells["probe"]
    if interactive:  # the scripts put their views in place of the static ones
        book.output(index).locator("[data-live]").last.wait_for()
    book.page.wait_for_timeout(1500)
    assert "ROMEO:" in book.output(cells["generate"]).inner_text()
    for name in ("pretrain", "probe", "build"):
        picture = book.output(cells[name]).locator("img, canvas, svg").first
        picture.wait_for()
        assert picture.bounding_box()["width"] > 40
    assert "bits per byte" in book.output(cells["evaluate"]).inner_text()
    assert "Error displaying widget" not in book.page.locator(".jp-Notebook").inner_text()
    live = book.output(index).locator("[data-live]").count()
    if interactive:
        before, after = choose_another_head(book, index)
        assert before != after
    else:
        assert live == 0


def test_reopened_with_a_new_kernel(ran, lab, cells, page):
    folder, home, _ = lab
    with server(folder, home) as address:
        book = Notebook(page, address, "quickstart.ipynb")
        book.kernel_ready()
        holds(book, cells, interactive=True)


def test_reopened_without_a_kernel_and_untrusted(ran, lab, cells, page):
    """Without a kernel in the reader's own JupyterLab; then in somebody else's, who has signed nothing."""
    folder, home, _ = lab
    refuse_kernels(page)
    for own, reader in ((True, home), (False, home.parent / "stranger")):
        with server(folder, reader) as address:
            book = Notebook(page, address, "quickstart.ipynb")
            holds(book, cells, interactive=own)
            assert page.request.get(f"{address}/api/kernels").json() == []


def test_every_static_view_holds_without_styles_and_scripts(ran, lab, cells, chromium):
    """As GitHub shows it: no style, no script; figures are pictures that decode, numbers are tables."""
    notebook = nbformat.read(lab[0] / "quickstart.ipynb", as_version=4)
    context = chromium.new_context(java_script_enabled=False)
    plain = context.new_page()
    for name in RUN[1:]:
        bundle = next(o.data for o in notebook.cells[cells[name]].outputs if "data" in o and "text/html" in o.data)
        html = re.sub(r"<script.*?</script>", "", bundle["text/html"], flags=re.S)
        html = re.sub(r"\sstyle=\"[^\"]*\"", "", html)
        assert "style=" not in html
        plain.set_content(f"<body>{html}</body>")
        text = plain.locator("body").inner_text()
        assert len(text) > 60, name
        for picture in plain.locator("img").all():
            assert picture.get_attribute("alt"), name
            box = picture.bounding_box()
            assert box["width"] > 16, name
            assert box["height"] > 16, name
        assert len(bundle["text/html"]) < 300_000, name
    context.close()


def test_an_interrupt_keeps_the_model_and_stops_the_cells_behind(lab, page):
    folder, _, address = lab
    first = "%load_ext llm_lab\ncorpus = " + repr([TEXT])
    sizes = "--n_layer 1 --d_model 16 --n_head 2 --max_seq_len 16 --batch_size 2 --threads 1"
    train = f"%%pretrain tiny @corpus --seconds 90 {sizes}"
    write_notebook(
        folder / "stop.ipynb", [first, train, "print('ran anyway')", '%generate tiny "1" --max_new_tokens 5']
    )
    book = Notebook(page, address, "stop.ipynb")
    book.kernel_ready()
    book.run(0)
    book.start(1)
    book.output(1).locator("img").first.wait_for(timeout=60_000)
    book.start(2)
    page.wait_for_timeout(1000)
    book.interrupt()
    book.wait(1, 40)
    text = book.output(1).inner_text()
    assert "paused at step" in text
    assert "Traceback" not in text
    page.wait_for_timeout(500)
    assert "ran anyway" not in page.locator(".jp-Notebook").inner_text().replace("print('ran anyway')", "")
    book.run(3)
    assert "tiny" in book.output(3).inner_text()


def test_the_live_probe_asks_the_kernel_and_freezes(lab, page):
    folder, _, address = lab
    first = "%load_ext llm_lab\nimport llm_lab as lab\ncorpus = " + repr([TEXT])
    train = "tiny = lab.pretrain(corpus, name='tiny', steps=5, n_layer=2, n_head=2, d_model=16, max_seq_len=32, display=False)"
    write_notebook(folder / "live.ipynb", [first, train, '%probe tiny "1 green bottle" --live --as maps', WHERE])
    book = Notebook(page, address, "live.ipynb")
    book.kernel_ready()
    for index in range(3):
        book.run(index)
    output = book.output(2)
    output.locator("canvas").first.wait_for()
    big = output.locator(".lab-cells").first
    big.scroll_into_view_if_needed()
    big.focus()
    for _ in range(5):
        page.keyboard.press("ArrowDown")
    page.wait_for_timeout(1500)
    said = re.search(r"query 4 .* reads from key 0 .*: ([\d.]+)(?! ±)", output.inner_text())
    book.run(3)
    exact = float(re.search(r"\d\.\d+(e-\d+)?", book.output(3).inner_text()).group())
    assert said, output.inner_text()
    assert float(said.group(1)) == pytest.approx(exact, rel=1e-3)
    output.get_by_role("button", name=re.compile("freeze", re.I)).click()
    page.wait_for_timeout(1500)
    book.save()
    saved = json.loads((folder / "live.ipynb").read_text(encoding="utf-8"))
    data = saved["cells"][2]["outputs"][0]["data"]
    assert "text/html" in data
    assert "application/vnd.jupyter.widget-view+json" not in data
    assert "widgets" not in saved["metadata"]
