"""Attention where a kernel answers: the same module in a widget, which asks Python for exact values, finer maps and products."""

from __future__ import annotations

from functools import cache
from typing import Any

from llm_lab.results import AttentionMaps
from llm_lab.views import attention
from llm_lab.views.bundle import esm
from llm_lab.views.widget import kernel_widget

LISTED = 12  # keys whose products are sent


def attention_widget(result: AttentionMaps) -> Any:
    """A widget of these maps. The value under the pointer is exact, from q and k. `.freeze()`, or the
    button of that name, leaves the view that is saved with the notebook."""
    return _widget_class()(result)


@cache
def _widget_class() -> type:
    import traitlets as t

    class AttentionWidget(kernel_widget()):  # type: ignore[misc]
        _esm = esm("attention")
        layers, heads, down, across, levels = (t.Int().tag(sync=True) for _ in range(5))
        layer, head, labelled, width, shared, sent = (t.Int().tag(sync=True) for _ in range(6))
        causal, cross, rolled_in, vectors_in = (t.Bool().tag(sync=True) for _ in range(4))
        asks = t.Bool(True).tag(sync=True)
        scale = t.Float().tag(sync=True)
        title = t.Unicode().tag(sync=True)
        subtitle = t.Unicode().tag(sync=True)
        tokens, facts, scales = (t.List().tag(sync=True) for _ in range(3))
        source, parts, between = (t.List(allow_none=True, default_value=None).tag(sync=True) for _ in range(3))
        maps, rolled, vectors = (t.Bytes().tag(sync=True) for _ in range(3))

        def __init__(self, result: AttentionMaps) -> None:
            data, buffers = attention.payload(result)
            subtitle = " · ".join(["attention", *attention.facts(result)])
            super().__init__(
                lambda: attention.maps(result),
                title=result.name,
                subtitle=subtitle,
                sent=attention.SENT,
                **data,
                **buffers,
            )
            self._result = result

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            if kind == "exact":
                value = exact(self._result, [message.get(name) for name in ("layer", "head", "q", "k")])
                if value is not None:
                    self.send({"kind": "exact", "id": message.get("id"), "value": value})
            elif kind == "layer" and inside(self._result, [message.get("layer"), 0, 0, 0]):
                cells, down, across = attention.layer_bytes(self._result, message["layer"])
                self.send({"kind": "layer", "layer": message["layer"], "down": down, "across": across}, buffers=[cells])
            elif kind == "products":
                where: list[Any] = [message.get(name) for name in ("layer", "head", "query")]
                if inside(self._result, [*where, 0]):
                    told, values = products(self._result, *where)
                    self.send(
                        {"kind": "products", **dict(zip(("layer", "head", "query"), where, strict=True)), **told},
                        buffers=[values],
                    )

    return AttentionWidget


def inside(result: AttentionMaps, where: list[Any]) -> bool:
    """Whether layer, head, query and key are in the maps."""
    return all(type(i) is int and 0 <= i < n for i, n in zip(where, result.shape, strict=True))


def exact(result: AttentionMaps, where: list[Any]) -> float | None:
    """One attention weight; None where the four indices are not in the maps."""
    if not inside(result, where):
        return None
    layer, head, query, key = where
    return float(result.rows(layer, head, query, query + 1)[0, key])


def products(result: AttentionMaps, layer: int, head: int, query: int) -> tuple[dict[str, Any], bytes]:
    """The keys that a query reads most from, their weights, and as floats the query and its products with each key."""
    import numpy as np

    row = result.rows(layer, head, query, query + 1)[0]
    keys = sorted(int(k) for k in np.argsort(-row, kind="stable")[:LISTED] if row[k] > 0)
    values = [result.q[layer, head, query], *(result.products(layer, head, query, key) for key in keys)]
    told = {"keys": keys, "weights": [float(row[key]) for key in keys]}
    return told, np.stack(values).astype("<f4").tobytes()
