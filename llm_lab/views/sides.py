"""Several results of one kind, each on its own card, side by side where there is room."""

from __future__ import annotations

from llm_lab.results import SideBySide
from llm_lab.views.card import HAIR, bundle, clip, esc, small


def sides(result: SideBySide) -> dict[str, str]:
    """Two in a row; more, or without styles, one below the other."""
    shown = [one._repr_mimebundle_() for one in result.results]
    head = f"{clip(', '.join(result.names), 120)} · {result.kind} of {len(result.names)} models"
    missing = result.names[len(shown) :]
    wait = small(esc(f"still to come: {', '.join(missing)}"), 4) if missing else ""
    pages = "".join(f'<div style="flex:1 1 480px;min-width:0">{one["text/html"]}</div>' for one in shown)
    pages += '<div style="flex:1 1 480px"></div>' * (len(shown) % 2 and len(shown) > 1)  # so that all are as wide
    body = f'<div style="display:flex;flex-wrap:wrap;gap:0 12px;align-items:flex-start">{pages}</div>'
    page = f'<div style="max-width:1720px;border-top:1px solid {HAIR}">{small(esc(head), 4)}{body}{wait}</div>'
    return bundle("\n\n".join([head, *(one["text/plain"] for one in shown), *(["…"] if missing else [])]), page)
