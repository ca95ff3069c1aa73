"""A Chromium to drive: skipped with a reason where there is none, unless LLM_LAB_BROWSER says that it is required."""

from __future__ import annotations

import os

import pytest

from tests.browser.lab import FLAGS, find_browser


@pytest.fixture(scope="session")
def chromium():
    executable = find_browser()
    if executable is None:
        if os.environ.get("LLM_LAB_BROWSER") == "required":
            pytest.fail("no Chromium was found, and LLM_LAB_BROWSER=required says that the browser tests must run")
        pytest.skip("no Chromium was found; install one, or name it in LLM_LAB_BROWSER")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(20_000)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    assert not [line for line in said if "llm" in line.lower()]
    page.close()
