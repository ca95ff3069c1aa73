"""A run that is trained in the background, in a real JupyterLab: its card grows, its controls work by mouse and by keyboard,
and neither a restarted kernel nor a closed tab takes anything from it."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import pytest

from llm_lab.store import control
from llm_lab.store.runs import Run
from tests.browser.lab import Notebook, refuse_kernels, server, write_notebook
from tests.browser.test_playing import saved_outputs, until
from tests.small import TEXT

pytestmark = pytest.mark.browser
LOAD = "%load_ext llm_lab\nimport llm_lab as lab"
TRAIN = """%%pretrain {name} text.txt --background
seconds = 240
n_layer = 1
n_head = 2
d_model = 32
max_seq_len = 64
batch_size = 8
threads = 1"""
WHOLE = """train = lab.attach("{name}").report.train
"no gap in" if [step for step, _, _ in train] == list(range(1, len(train) + 1)) else "a gap in", len(train)"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with server(folder, home) as address:
        try:
            yield folder, home, address
        finally:
            for run in (Run(path.parent) for path in (folder / ".llm_lab" / "runs").glob("*/status.json")):
                if run.status == "training":
                    control.ask(run, "stop")
                    with contextlib.suppress(TimeoutError):
                        until(lambda run=run: run.status != "training")
                if run.status == "training":
                    os.kill(run.read("status")["pid"], signal.SIGKILL)


def run_of(place, name):
    (path,) = (place[0] / ".llm_lab" / "runs").glob(f"{name}-*")
    return Run(path)


def events(place, name, kind):
    return [event for event in run_of(place, name).events() if event["kind"] == kind]


def begun(page, place, name, *cells):
    """A notebook whose second cell trains NAME in the background, run up to there; the card's output."""
    write_notebook(place[0] / f"{name}.ipynb", [LOAD, TRAIN.format(name=name), *cells])
    book = Notebook(page, place[2], f"{name}.ipynb")
    book.kernel_ready()
    book.run(0)
    book.run(1)
    until(lambda: steps(book.output(1)) > 0, 60)
    return book, book.output(1)


def steps(output):
    """The step that the card says."""
    row = output.locator("tr", has=output.page.locator("th", has_text="step"))
    text = row.first.locator("td").inner_text() if row.count() else "0"
    return int(text.split()[0].replace(",", ""))


def grows(output):
    """The card goes on, and so does the picture of its curve."""
    before, image = steps(output), output.locator("img").first.get_attribute("src")
    until(lambda: steps(output) > before and output.locator("img").first.get_attribute("src") != image)


def press(output, name):
    output.get_by_role("button", name=name, exact=True).click()


def says(output, text):
    until(lambda: text in output.get_by_role("status").inner_text())


def test_controls_by_mouse_and_by_keys_leave_their_traces(place, page):
    book, output = begun(page, place, "tiny", "import time\ntime.sleep(30)", "run = tiny.status, tiny.lm.name\nrun")
    grows(output)

    # By mouse, while another cell runs: the page has a thread of its own in the kernel.
    book.start(2)
    press(output, "pause")
    says(output, "paused at step")
    assert book.cell(2).locator(".jp-InputPrompt").first.inner_text().strip() == "[*]:"
    assert run_of(place, "tiny").status == "paused"
    paused = steps(output)
    assert events(place, "tiny", "control")[-1]["do"] == "pause"
    assert output.get_by_role("slider").is_disabled()
    press(output, "resume")
    until(lambda: steps(output) > paused, 60)
    says(output, "it goes on")
    book.interrupt()

    # By keys: three factors down, and back to the schedule.
    output.get_by_role("slider").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    says(output, "learning rate × 0.5 of its schedule")
    at = events(place, "tiny", "control")[-1]
    assert (at["do"], at["scale"]) == ("lr", 0.5)
    assert "× 0.5 =" in output.get_by_role("slider").get_attribute("aria-valuetext")
    grows(output)
    press(output, "× 1")
    says(output, "learning rate × 1 of its schedule")
    box = output.get_by_role("slider").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    says(output, "learning rate × 10 of its schedule")
    grows(output)

    # Stopped for good: asked once more, taken back, and done, by keys alone.
    output.get_by_role("button", name="stop", exact=True).focus()
    page.keyboard.press("Enter")
    assert "for good" in output.inner_text()
    page.keyboard.press("Escape")
    assert output.get_by_role("button", name="stop", exact=True).evaluate("it => it === document.activeElement")
    assert run_of(place, "tiny").status == "training"
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    until(lambda: run_of(place, "tiny").status == "finished", 60)
    until(lambda: output.get_by_role("button", name="pause").count() == 0)
    output.locator("[data-live]").last.wait_for()
    assert "training in the background" not in output.inner_text()
    book.wait(2)
    book.run(3)
    assert "('finished', 'tiny')" in book.output(3).inner_text()

    # The trace: what was asked, and the learning rates of the steps after it.
    told = [(event["do"], event.get("scale")) for event in events(place, "tiny", "control")]
    assert told == [("pause", None), ("lr", 0.5), ("lr", 1.0), ("lr", 10.0), ("stop", None)]
    assert len(events(place, "tiny", "resume")) == 1
    rates = {event["step"]: event["lr"] for event in events(place, "tiny", "step")}
    assert list(rates) == list(range(1, len(rates) + 1))
    at = [event["step"] for event in events(place, "tiny", "control") if event["do"] == "lr"]
    ratios = [rates[step + 1] / rates[step] for step in at]  # a step further on the schedule changes little
    assert ratios == pytest.approx([0.5, 2.0, 10.0], rel=0.02)


def test_a_kernel_that_restarts_and_a_tab_that_closes_take_nothing(place, page, chromium):
    book, output = begun(page, place, "lasting", "%attach lasting", WHOLE.format(name="lasting"))
    grows(output)
    worker = run_of(place, "lasting").read("status")["pid"]
    page.keyboard.press("Escape")
    page.keyboard.type("00")
    page.locator(".jp-Dialog").get_by_role("button", name="Confirm Kernel Restart").click()
    before = steps(output)
    until(lambda: len(events(place, "lasting", "step")) > before + 50, 60)
    book.kernel_ready()
    # What the old kernel's controls ask is heard by nobody, and they say so.
    press(output, "pause")
    until(lambda: "%attach lasting brings the controls back" in output.inner_text())
    book.run(0)
    book.run(2)
    attached = book.output(2)
    assert steps(attached) > before
    grows(attached)
    book.run(3)
    assert "no gap in" in book.output(3).inner_text()
    assert run_of(place, "lasting").read("status")["pid"] == worker
    book.save()

    # The tab is closed and opened again: the same output goes on, with its controls; attaching anew works too.
    page.close(run_before_unload=False)
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(20_000)
    book = Notebook(page, place[2], "lasting.ipynb")
    attached = book.output(2)
    grows(attached)
    until(lambda: attached.get_by_role("button", name="pause").count() == 1)
    book.kernel_ready()
    book.run(2)
    grows(book.output(2))
    book.run(3)
    assert "no gap in" in book.output(3).inner_text()
    press(book.output(2), "detach")
    until(lambda: "detached; the run goes on" in book.output(2).inner_text())
    seen = steps(book.output(2))
    page.wait_for_timeout(1500)
    assert steps(book.output(2)) == seen
    assert run_of(place, "lasting").status == "training"
    page.close()


def test_saved_while_it_trains_and_opened_without_a_kernel(place, page):
    book, output = begun(page, place, "saved", "%attach saved --wait", "1 + 1")
    grows(output)
    # A cell may watch too; interrupted, it leaves the run alone, and no error.
    book.start(2)
    grows(book.output(2))
    book.interrupt()
    until(lambda: "detached; the run goes on; %attach saved watches it again" in book.output(2).inner_text())
    book.run(3)
    assert "Traceback" not in book.output(2).inner_text() and "KeyboardInterrupt" not in book.output(2).inner_text()
    grows(output)
    book.save()
    outputs = saved_outputs(place[0], "saved.ipynb")[1]
    assert "application/vnd.jupyter.widget-view+json" not in json.dumps(outputs)
    with server(place[0], place[1]) as address:
        refuse_kernels(page)
        again = Notebook(page, address, "saved.ipynb")
        again.output(1).locator("img").first.wait_for()
        page.wait_for_timeout(1500)
        text = again.page.locator(".jp-Notebook").inner_text()
        assert "training in the background" in text and "%attach saved shows this again" in text
        assert "Error displaying widget" not in text
        assert again.output(1).get_by_role("button").count() == 0
        assert page.request.get(f"{address}/api/kernels").json() == []
    assert run_of(place, "saved").status == "training"
