"""A bar for what takes long before there is a card to show it on; nothing is drawn of what takes less than two seconds."""

from __future__ import annotations

import warnings
from typing import Any

DELAY = 2.0  # seconds


def progress(total: int, what: str, unit: str = "B") -> Any:
    """A bar over `total` units, gone when it is closed: in a notebook, or on a terminal. `update(n)` moves it on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no ipywidgets, and so no bar in a notebook
        from tqdm.auto import tqdm

    # Where standard error is a file, as of a run in the background, None keeps it free of bars.
    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, delay=DELAY, leave=False, disable=None)
