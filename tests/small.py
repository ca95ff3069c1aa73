"""Small texts and models that train in about a second, for the tests of every room."""

from __future__ import annotations

from typing import Any

import llm_lab as lab

TEXT = "".join(f"{i} green bottles stood upon the wall, and {i * 7 % 10} of them fell. " for i in range(400))
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n" * 120
SIZES: dict[str, Any] = dict(n_layer=2, n_head=2, d_model=16, max_seq_len=32, batch_size=4, threads=1)


def train(name: str = "tiny", text: Any = None, **options: Any) -> lab.LM:
    """A two-layer model on a small text, twelve steps unless told."""
    budget = {} if {"seconds", "tokens", "epochs", "steps", "replay"} & set(options) else {"steps": 12}
    return lab.pretrain([TEXT] if text is None else text, name=name, display=False, **{**SIZES, **budget, **options})
