"""The magics in a real kernel: what a front end receives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

import llm_lab

SETUP = """
import dataclasses, sys, types
from llm_lab.verbs import VERBS
class Shown:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "<shown>"}
class Model(Shown):
    model = tokenizer = 1
Shown.__module__ = Model.__module__ = "llm_lab.x"
fake = types.ModuleType("fake_lab")
fake.probe = lambda **kwargs: Shown()
fake.build = lambda **kwargs: Model()
fake.evaluate = lambda **kwargs: 1 / 0
sys.modules["fake_lab"] = fake
for name in ("probe", "build", "evaluate"):
    VERBS[name] = dataclasses.replace(VERBS[name], target="fake_lab:" + name, draws=False)
bard = Model()
%load_ext llm_lab
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    root = str(Path(llm_lab.__file__).parents[1])
    folder = tmp_path_factory.mktemp("kernel")
    env = os.environ | {"PYTHONPATH": root, "IPYTHONDIR": str(folder / "ipython")}
    manager, client = start_new_kernel(kernel_name="python3", env=env, cwd=str(folder))
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(client, cell):
    """The reply's status, and the outputs that a front end would draw."""
    found = []

    def hook(message):
        if message["msg_type"] in ("display_data", "execute_result", "stream", "error"):
            found.append((message["msg_type"], message["content"]))

    reply = client.execute_interactive(cell, output_hook=hook, timeout=60, store_history=True)
    return reply["content"]["status"], found


def test_what_a_front_end_receives(kernel):
    assert outputs(kernel, SETUP) == ("ok", [])
    for cell in (
        '%probe bard "x"',
        'r = %probe bard "x"',
        '%probe bard "x"\ny = 1',
        "%%probe bard\nx",
        '%%probe bard "x" --as r',
        "# note\n%%build tiny",
    ):
        status, found = outputs(kernel, cell)
        assert (status, [kind for kind, _ in found]) == ("ok", ["display_data"]), (cell, found)
        assert found[0][1]["data"]["text/plain"] == "<shown>"
    assert (
        outputs(
            kernel,
            "assert type(r) is Shown and type(tiny) is Model and not any(type(v) is Shown for v in Out.values())",
        )[0]
        == "ok"
    )

    status, found = outputs(kernel, "%%pretrain tiny\nsteps = -5")
    assert status == "error"
    assert [kind for kind, _ in found] == ["error"]
    assert found[0][1]["traceback"] == [
        "steps: -5 is out of range; it takes a whole number, at least 1, for example --steps 2000"
    ]

    status, found = outputs(kernel, "%evaluate bard")
    assert status == "error"
    assert found[-1][1]["ename"] == "ZeroDivisionError"
    assert len(found[-1][1]["traceback"]) > 1, "a fault of ours keeps its traceback"


def test_an_error_stops_the_cells_behind_it(kernel):
    outputs(kernel, SETUP)
    first = kernel.execute("%pretrain tiny --steps 0", stop_on_error=True)
    second = kernel.execute("after = 1")
    replies = {}
    while len(replies) < 2:
        message = kernel.get_shell_msg(timeout=30)
        replies[message["parent_header"]["msg_id"]] = message["content"]["status"]
    assert replies[first] == "error"
    assert replies[second] in ("aborted", "error")


def test_tab_over_the_wire(kernel):
    outputs(kernel, SETUP)
    cell = "%%pretrain tiny --n-la"
    reply = kernel.complete(cell, len(cell), reply=True, timeout=30)["content"]
    assert reply["matches"] == ["--n_layer"]
    assert (reply["cursor_start"], reply["cursor_end"]) == (cell.index("--n"), len(cell))
