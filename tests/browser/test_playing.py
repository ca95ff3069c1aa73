"""Text that a person plays with, in a real JupyterLab: regrown, moved by sliders, talked with; by mouse and by keyboard;
frozen, saved, and opened again without a kernel. And hostile text in all of it."""

from __future__ import annotations

import json
import time

import pytest

from tests.browser.lab import Notebook, close_dialogs, refuse_kernels, server, write_notebook
from tests.small import TEXT

pytestmark = pytest.mark.browser
LOAD = "%load_ext llm_lab\nimport llm_lab as lab"
TRAIN = (
    "tiny = lab.pretrain({corpus}, name='tiny', steps={steps}, n_layer=2, n_head=2, d_model=32, max_seq_len=64, "
    "batch_size=8, threads=1, seed=0, display=False)"
)
EVIL = "<script>window.pwned=1</script><img src=x onerror=window.pwned=2></textarea></pre>\x1b[31m\u202e\x00👩‍👩‍👧'\"&{{7*7}} "


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    with server(folder, home) as address:
        yield folder, home, address


def until(true, seconds=20.0):
    """Wait for something on the page."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.05)
    raise TimeoutError


def opened(page, place, name, cells, last=None):
    """A notebook of these cells, run, the last one excepted where one is given."""
    folder, _, address = place
    write_notebook(folder / name, [*cells, *([last] if last else [])])
    book = Notebook(page, address, name)
    book.kernel_ready()
    for index in range(len(cells)):
        book.run(index)
    return book


def saved_outputs(folder, name):
    book = json.loads((folder / name).read_text(encoding="utf-8"))
    return [
        [{mime: "".join(text) for mime, text in o.get("data", {}).items()} for o in cell["outputs"]]
        for cell in book["cells"]
    ]


def texts(output):
    return output.locator(".lab-text").count()


def written(output):
    return "writing…" not in output.inner_text()


def frozen(book, index):
    output = book.output(index)
    output.get_by_role("button", name="freeze").click()
    output.locator(".llm-lab-card").wait_for()
    return output


def test_a_text_is_regrown_by_mouse_and_by_keys(place, page):
    make = '%generate tiny "1 green" --max_new_tokens 40 --seed 0 --live --as gen'
    book = opened(page, place, "regrow.ipynb", [LOAD, TRAIN.format(corpus=repr([TEXT]), steps=60), make, "gen.forks"])
    output = book.output(2)
    output.locator(".lab-token").nth(10).click()
    assert "write on with another token" in output.inner_text()
    output.locator(".lab-other").nth(1).click()
    until(lambda: texts(output) == 2 and written(output))
    assert "leaves sample 1 at token 11" in output.inner_text()
    # The keyboard stands in the new text: two tokens on, keep it, take the first of its runners-up.
    for key in ("ArrowRight", "ArrowRight", "Enter", "1"):
        page.keyboard.press(key)
    until(lambda: texts(output) == 3 and written(output))
    assert "leaves sample 2 at token 13" in output.inner_text()
    # And by Tab to a button of the kept token.
    for key in ("ArrowRight", "Enter", "Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    until(lambda: texts(output) == 4 and written(output))
    # What explains a token stands beside it, and saving works from inside the card.
    token, panel = (output.locator(f".{name}").first.bounding_box() for name in ("lab-chosen", "lab-detail"))
    assert panel["y"] - 60 < token["y"] < panel["y"] + panel["height"] + 60
    before = (place[0] / "regrow.ipynb").stat().st_mtime_ns
    page.keyboard.press("Control+s")
    until(lambda: (place[0] / "regrow.ipynb").stat().st_mtime_ns > before)
    book.run(3)
    assert "Fork(sample=0, at=10" in book.output(3).inner_text()
    frozen(book, 2)
    book.save()
    data = saved_outputs(place[0], "regrow.ipynb")[2][-1]
    assert "application/vnd.jupyter.widget-view+json" not in data
    assert len(data["text/html"]) < 300_000
    with server(place[0], place[1]) as address:
        refuse_kernels(page)
        again = Notebook(page, address, "regrow.ipynb")
        output = again.output(2)
        output.locator("[data-live]").last.wait_for()
        assert texts(output) == 4
        assert output.locator(".lab-branch").count() >= 3
        output.locator(".lab-text").nth(1).focus()
        page.keyboard.press("Home")
        assert "position\n11 of 40" in output.inner_text()
        assert "Error displaying widget" not in again.page.locator(".jp-Notebook").inner_text()
        assert page.request.get(f"{address}/api/kernels").json() == []


def test_the_playground_streams_as_controls_move(place, page):
    make = '%playground tiny "1 green" --max_new_tokens 900 --as play'
    book = opened(
        page,
        place,
        "play.ipynb",
        [LOAD, TRAIN.format(corpus=repr([TEXT]), steps=60), make, "play.generation.options, play.prompt"],
    )
    output = book.output(2)
    until(lambda: output.locator(".lab-token").count() == 900 and written(output))
    assert output.get_by_label("p", exact=True).input_value() == "0.95"

    # by keys: the text grows before it is whole
    output.get_by_label("p", exact=True).focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    counts = set()
    end = time.monotonic() + 10
    while time.monotonic() < end and not (len(counts) > 2 and max(counts) == 900):
        counts.add(output.locator(".lab-token").count())
        page.wait_for_timeout(30)
    assert [n for n in counts if 0 < n < 900], counts
    until(lambda: written(output))
    assert "top_p 0.75" in output.inner_text()

    # by mouse: a slider at its left end, while it writes still; the last movement counts
    length = output.get_by_label("max_new_tokens", exact=True)
    box = length.bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    until(lambda: written(output) and output.locator(".lab-token").count() < 40)

    # another strategy has other controls; a filter is switched on; a mistake costs a line
    output.get_by_label("strategy").select_option("beam")
    assert output.get_by_label("num_beams", exact=True).input_value() == "5"
    until(lambda: written(output) and "beam num_beams 5" in output.inner_text())
    output.get_by_text("filters and constraints").click()
    output.get_by_label("use repetition_penalty").check()
    until(lambda: written(output) and "repetition_penalty 1.2" in output.inner_text())
    output.get_by_label("regex", exact=True).fill("[")
    page.keyboard.press("Enter")
    until(lambda: "regex:" in output.locator(".lab-wrong").inner_text())
    output.get_by_label("regex", exact=True).fill("[0-9 ]+")
    page.keyboard.press("Tab")
    until(lambda: written(output) and "regex [0-9 ]+" in output.inner_text())

    # the prompt writes too, and Ctrl+Enter at once
    output.get_by_label("prompt").fill("7 green")
    page.keyboard.press("Control+Enter")
    until(lambda: written(output) and "7 green" in output.locator(".lab-text").first.inner_text())
    book.run(3)
    assert "'num_beams': 5" in book.output(3).inner_text()
    assert "'7 green'" in book.output(3).inner_text()
    frozen(book, 2)
    book.save()
    assert "application/vnd.jupyter.widget-view+json" not in saved_outputs(place[0], "play.ipynb")[2][-1]
    with server(place[0], place[1]) as address:
        refuse_kernels(page)
        again = Notebook(page, address, "play.ipynb")
        again.output(2).locator("[data-live]").last.wait_for()
        assert "7 green" in again.output(2).inner_text()
        assert page.request.get(f"{address}/api/kernels").json() == []


def test_the_writing_can_be_stopped_by_its_button(place, page):
    make = "%playground tiny --max_new_tokens 20000"
    book = opened(page, place, "stop.ipynb", [LOAD, TRAIN.format(corpus=repr([TEXT]), steps=5), make])
    output = book.output(2)
    output.get_by_label("prompt").fill("1 green")
    until(lambda: output.locator(".lab-token").count() > 0)
    output.get_by_role("button", name="stop").click()
    until(lambda: "interrupted after" in output.inner_text())
    assert written(output)


def test_cards_say_that_their_kernel_is_gone(place, page):
    make = '%generate tiny "1 green" --max_new_tokens 30 --seed 0 --live'
    talk = '%chat tiny --template "Q: {{user}}\\nA: {{assistant}}"'
    book = opened(
        page,
        place,
        "gone.ipynb",
        [LOAD, TRAIN.format(corpus=repr([TEXT]), steps=30), make, talk],
        "import os; os._exit(1)",
    )
    close_dialogs(page)
    book.start(4)  # the server starts another kernel
    page.wait_for_timeout(6000)
    live = book.output(2)
    live.locator(".lab-token").nth(4).click()
    live.locator(".lab-other").nth(1).click()
    until(lambda: "run the cell again" in live.inner_text())
    box = book.output(3).get_by_label("message")
    box.fill("hello")
    page.keyboard.press("Enter")
    until(lambda: "run the cell again" in book.output(3).inner_text())
    assert box.input_value() == "hello"


def test_a_conversation_by_mouse_and_by_keys(place, page):
    talk = "".join(f"Q: {i % 10}?\nA: {i * 7 % 10}.\n" for i in range(600))
    make = '%chat tiny --template "Q: {{user}}\\nA: {{assistant}}" --strategy greedy --max_new_tokens 20 --as talk'
    book = opened(
        page, place, "chat.ipynb", [LOAD, TRAIN.format(corpus=repr([talk]), steps=60), make, "talk.to_pandas()"]
    )
    output = book.output(2)
    box = output.get_by_label("message")
    box.fill("3?")
    page.keyboard.press("Enter")
    box.fill("4?")  # typed while it answers, and kept
    until(lambda: output.locator(".lab-answer").count() == 1 and output.get_by_role("button", name="stop").count() == 0)
    assert box.input_value() == "4?"
    output.get_by_role("button", name="say").click()
    until(lambda: output.locator(".lab-answer").count() == 2 and box.input_value() == "")
    output.get_by_text("token by token").first.click()
    output.locator(".lab-token").first.wait_for()
    output.get_by_role("button", name="undo").click()
    until(lambda: output.locator(".lab-answer").count() == 1)
    book.run(3)
    assert "3?" in book.output(3).inner_text()
    assert "4?" not in book.output(3).inner_text()
    frozen(book, 2)
    book.save()
    data = saved_outputs(place[0], "chat.ipynb")[2][-1]
    assert "application/vnd.jupyter.widget-view+json" not in data
    assert "3?" in data["text/html"]


def test_hostile_text_is_shown_and_runs_nowhere(place, page):
    """A model that has learned nothing else, and prompts, messages and templates full of it."""
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    cells = [
        f"{LOAD}\nevil = {EVIL!r}",
        TRAIN.format(corpus="[evil * 60]", steps=120).replace("seq_len=64", "seq_len=512"),
        "%generate tiny @evil --max_new_tokens 90 --strategy greedy --live --as gen",
        "%playground tiny @evil --max_new_tokens 90",
        '%chat tiny @evil --template "Q: {{user}}\\nA: {{assistant}}" --system @evil --max_new_tokens 60',
        "%compare tiny @evil --strategies greedy,beam --max_new_tokens 40 --n 1",
        "%generate tiny @evil --max_new_tokens 90 --strategy greedy",
    ]
    book = opened(page, place, "evil.ipynb", cells)
    live = book.output(2)
    live.locator(".lab-token").nth(4).click()
    live.locator(".lab-other").nth(1).click()
    until(lambda: texts(live) == 2 and written(live))
    until(lambda: book.output(3).locator(".lab-token").count() > 60 and written(book.output(3)))
    box = book.output(4).get_by_label("message")
    box.fill(EVIL.replace("\x00", ""))
    page.keyboard.press("Enter")
    until(lambda: book.output(4).locator(".lab-answer").count() == 2)
    for index in range(2, 7):
        shown = book.output(index)
        assert "<script>window" in shown.inner_text().replace("\n", ""), index
        assert shown.locator("script:not(:scope > script)").filter(has_text="window.pwned").count() == 0
    for index in (2, 3, 4):
        frozen(book, index)
    page.wait_for_timeout(500)
    assert page.evaluate("window.pwned") is None
    assert not dialogs
