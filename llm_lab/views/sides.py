"""Several results of one kind, each on its own card, side by side where there is room."""

from __future__ import annotations

from llm_lab.results import SideBySide
from llm_lab.views.bundle import saving
from llm_lab.views.card import HAIR, bundle, clip, esc, small


def sides(result: SideBySide) -> dict[str, str]:
    """Two in a row; more, or without styles, one below the other."""
    shown = [one._repr_mimebundle_() for one in result.results]
    names, kind = clip(", ".join(result.names), 120), f" · {result.kind} of {len(result.names)} models"
    missing = result.names[len(shown) :]
    wait = small(esc(f"still to come: {', '.join(missing)}"), 4) if missing else ""
    pages = "".join(f'<div style="flex:1 1 480px;min-width:0">{one["text/html"]}</div>' for one in shown)
    pages += '<div style="flex:1 1 480px"></div>' * (len(shown) % 2 and len(shown) > 1)  # so that all are as wide
    body = f'<div style="display:flex;flex-wrap:wrap;gap:0 12px;align-items:flex-start">{pages}</div>'
    head = small(f'<b style="font-weight:400">{esc(names)}</b><span>{esc(kind)}</span>', 4)
    inside = ("" if missing else saving()[0]) + head + body + wait
    page = (
        f'<div class="llm-lab-card" style="max-width:1720px;border-top:1px solid {HAIR};padding-top:4px">{inside}</div>'
    )
    return bundle("\n\n".join([names + kind, *(one["text/plain"] for one in shown), *(["…"] if missing else [])]), page)
