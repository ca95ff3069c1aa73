"""Starts a real JupyterLab and drives it in Chromium, as a user would: open, run, look, reopen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """The Chromium to drive: the one LLM_LAB_BROWSER names, else one on the path."""
    named = os.environ.get("LLM_LAB_BROWSER", "")
    if named and named != "required":
        return named
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def server(folder: Path, home: Path, settings: dict[str, Any] | None = None) -> Iterator[str]:
    """A JupyterLab over `folder` whose own files live in `home`; yields its address."""
    (home / "labconfig").mkdir(parents=True, exist_ok=True)
    overrides = {
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
        **(settings or {}),
    }
    (home / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(overrides))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    env = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
    command += ["--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    with open(home / "server.log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api", timeout=1).close()
                break
            if process.poll() is not None:
                raise RuntimeError(f"JupyterLab did not start: {(home / 'server.log').read_text()[-2000:]}")
            time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


class Notebook:
    """One notebook open in a page."""

    def __init__(self, page: Any, address: str, name: str) -> None:
        self.page, self.address, self.name = page, address, name
        page.goto(f"{address}/lab/tree/{name}?reset", wait_until="domcontentloaded")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)

    def cell(self, index: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Any:
        return self.cell(index).locator(".jp-OutputArea").first

    def run(self, index: int, timeout: float = 120) -> None:
        """Run a cell and wait until it is done."""
        self.start(index)
        self.wait(index, timeout)

    def start(self, index: int) -> None:
        """Run a cell; once more where the page was still settling and took no notice."""
        prompt = self.cell(index).locator(".jp-InputPrompt").first
        before = prompt.inner_text()
        for _ in range(10):
            self.cell(index).locator(".cm-content").first.click()
            self.page.keyboard.press("Control+Enter")
            for _ in range(15):
                if prompt.inner_text() != before:
                    return
                self.page.wait_for_timeout(100)
        raise TimeoutError(f"cell {index} did not start")

    def wait(self, index: int, timeout: float = 120) -> None:
        prompt = self.cell(index).locator(".jp-InputPrompt").first
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            text = prompt.inner_text().strip()
            if text.strip("[]:").isdigit():
                return
            self.page.wait_for_timeout(100)
        raise TimeoutError(f"cell {index} was still running after {timeout} s: {prompt.inner_text()!r}")

    def interrupt(self) -> None:
        """Press the toolbar's ■."""
        self.page.keyboard.press("Escape")
        button = "[data-command='notebook:interrupt-kernel'], jp-button[title*='Interrupt'], button[title*='Interrupt']"
        self.page.locator(button).first.click()

    def kernel_ready(self, timeout: float = 60) -> None:
        status = self.page.locator(".jp-Notebook-ExecutionIndicator")
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if status.count() and status.first.get_attribute("data-status") == "idle":
                return
            self.page.wait_for_timeout(200)
        raise TimeoutError("the kernel was not ready")

    def save(self) -> None:
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Control+s")
        self.page.wait_for_timeout(1500)


def close_dialogs(page: Any) -> None:
    """Close whatever JupyterLab asks about kernels, whenever it comes."""
    page.add_locator_handler(
        page.locator(".jp-Dialog"),
        lambda dialog: dialog.locator(".jp-Dialog-button").first.click(),
        no_wait_after=True,  # one dialog may follow another
    )


def refuse_kernels(page: Any) -> None:
    """From now on this page gets no kernel, as in a viewer that has none; JupyterLab's dialogs about it are closed."""

    def refuse(route: Any) -> None:
        route.abort() if route.request.method == "POST" else route.continue_()

    page.route(re.compile("/api/(sessions|kernels)"), refuse)
    close_dialogs(page)


def write_notebook(path: Path, cells: list[str]) -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)
