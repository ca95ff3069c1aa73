"""Attention where a kernel answers: the same module in a widget, which asks Python for the exact value."""

from __future__ import annotations

from functools import cache
from typing import Any

from llm_lab.results import AttentionMaps
from llm_lab.views import attention
from llm_lab.views.bundle import esm
from llm_lab.views.widget import kernel_widget


def attention_widget(result: AttentionMaps) -> Any:
    """A widget of these maps. The value under the pointer is exact, from q and k. `.freeze()`, or the
    button of that name, leaves the view that is saved with the notebook."""
    return _widget_class()(result)


@cache
def _widget_class() -> type:
    import traitlets as t

    class AttentionWidget(kernel_widget()):  # type: ignore[misc]
        _esm = esm("attention")
        layers, heads, side, levels = (t.Int().tag(sync=True) for _ in range(4))
        layer, head, labelled = (t.Int().tag(sync=True) for _ in range(3))
        causal = t.Bool().tag(sync=True)
        asks = t.Bool(True).tag(sync=True)
        title = t.Unicode().tag(sync=True)
        subtitle = t.Unicode().tag(sync=True)
        tokens = t.List().tag(sync=True)
        facts = t.List().tag(sync=True)
        maps = t.Bytes().tag(sync=True)

        def __init__(self, result: AttentionMaps) -> None:
            data, buffers = attention.payload(result)
            layers, heads, tokens, _ = result.shape
            subtitle = f"attention · {tokens:,} tokens · {layers} layers × {heads} heads"
            super().__init__(lambda: attention.maps(result), title=result.name, subtitle=subtitle, **data, **buffers)
            self._result = result

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            if kind == "exact":
                where = [message.get(name) for name in ("layer", "head", "q", "k")]
                value = exact(self._result, where)
                if value is not None:
                    self.send({"kind": "exact", "id": message.get("id"), "value": value})

    return AttentionWidget


def exact(result: AttentionMaps, where: list[Any]) -> float | None:
    """One attention weight; None where the four indices are not in the maps."""
    inside = all(type(i) is int and 0 <= i < n for i, n in zip(where, result.shape, strict=True))
    if not inside:
        return None
    layer, head, q, k = where
    return float(result.pattern(layer, head)[q, k])
