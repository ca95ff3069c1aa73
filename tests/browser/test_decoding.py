"""The views of decoding in a real JupyterLab: used by mouse and keyboard, saved, and opened again without a kernel."""

from __future__ import annotations

import pytest

from tests.browser.lab import Notebook, refuse_kernels, server, write_notebook
from tests.small import TEXT

pytestmark = pytest.mark.browser
FIRST = f"""%load_ext llm_lab
import llm_lab as lab
tiny = lab.pretrain([{TEXT!r}], name="tiny", steps=20, n_layer=1, n_head=2, d_model=16, max_seq_len=32, threads=1, display=False)"""
COMPARE = (
    '%compare tiny "1 green" --strategies greedy,top_k,temperature:temperature=2,beam --seed 0 --max_new_tokens 12'
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder of notebooks, and a JupyterLab over it."""
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    with server(folder, home) as address:
        yield folder, home, address


def numbers(output, column):
    """A column of the table as it stands."""
    texts = output.locator("tr.lab-row").evaluate_all(f"rows => rows.map((row) => row.cells[{column}].textContent)")
    return [float(text.replace("−", "-").replace(",", "")) for text in texts]


def sorts(output, page):
    """Sort by a click and by keys, choose a row by keys, and read what it wrote."""
    output.locator("[data-live]").last.wait_for()
    output.scroll_into_view_if_needed()
    output.get_by_role("button", name="log\u2011prob", exact=True).click()
    likely = numbers(output, 1)
    assert likely == sorted(likely, reverse=True)
    varied = output.get_by_role("button", name="distinct\u20112", exact=True)
    varied.focus()
    page.keyboard.press("Enter")
    found = numbers(output, 4)
    assert found == sorted(found, reverse=True)
    page.keyboard.press("Space")
    assert numbers(output, 4) == found[::-1]
    assert output.locator("th[aria-sort=ascending]").inner_text().startswith("distinct\u20112")
    output.locator("button.lab-pick[aria-pressed=true]").focus()
    page.keyboard.press("Home")
    seen = []
    for _ in range(4):
        seen.append(output.locator(".lab-written b").inner_text())
        page.keyboard.press("ArrowDown")
    assert sorted(seen) == ["beam", "greedy", "temperature 2", "top_k"]
    output.locator("tr.lab-row", has_text="beam").click()
    assert "num_beams 5" in output.locator(".lab-written").inner_text()
    assert output.locator(".lab-written img").evaluate("image => image.complete && image.naturalWidth > 0")


def test_a_comparison_sorts_and_stays(lab, page):
    folder, home, address = lab
    write_notebook(folder / "compare.ipynb", [FIRST, COMPARE])
    book = Notebook(page, address, "compare.ipynb")
    book.kernel_ready()
    book.run(0)
    book.run(1)
    sorts(book.output(1), page)
    # The keys were the view's: the notebook kept its cells, and none was edited or run.
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2
    assert page.locator(".jp-Notebook .jp-InputPrompt").nth(1).inner_text().strip() == "[2]:"
    book.save()
    refuse_kernels(page)
    for own, reader in ((True, home), (False, home.parent / "a stranger")):
        with server(folder, reader) as again:
            book = Notebook(page, again, "compare.ipynb")
            output = book.output(1)
            if own:
                sorts(output, page)
            else:  # untrusted: the static form, its pictures and texts
                output.locator("img").first.wait_for()
                assert output.locator("[data-live]").count() == 0
                assert output.locator("img").count() == 2
                for image in output.locator("img").all():
                    assert image.evaluate("image => image.complete && image.naturalWidth > 0")
                assert "num_beams 5, length_penalty 1" in output.inner_text()
            assert page.request.get(f"{again}/api/kernels").json() == []


def test_an_interrupted_comparison_keeps_its_cells(lab, page):
    folder, _, address = lab
    slow = '%compare tiny "1" --strategies greedy,top_k,top_p --max_new_tokens 100000 --n 1 --as kept'
    write_notebook(folder / "stop.ipynb", [FIRST, slow, "print(kept.notes, len(kept.cells))"])
    book = Notebook(page, address, "stop.ipynb")
    book.kernel_ready()
    book.run(0)
    book.start(1)
    page.wait_for_timeout(3000)
    book.interrupt()
    book.wait(1, 40)
    text = book.output(1).inner_text()
    assert "interrupted after 0 of 3; the last is unfinished" in text
    assert "Traceback" not in text
    book.run(2)
    assert "1" in book.output(2).inner_text()
