"""Attention where a kernel answers: the same module in a widget, which asks Python for exact values, finer maps and products."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from llm_lab.results import AttentionMaps
from llm_lab.results.attention import AGGREGATES
from llm_lab.views import attention
from llm_lab.views.bundle import esm
from llm_lab.views.widget import kernel_widget

if TYPE_CHECKING:
    import numpy as np

LISTED = 12  # keys whose products are sent


def attention_widget(result: AttentionMaps) -> Any:
    """A widget of these maps. The value under the pointer is exact, from q and k. `.freeze()`, or the
    button of that name, leaves the view that is saved with the notebook."""
    return _widget_class()(result)


@cache
def _widget_class() -> type:
    import traitlets as t

    class AttentionWidget(kernel_widget()):  # type: ignore[misc]
        _esm = esm("attending")
        down, across, levels, layer, head, labelled, width, shared = (t.Int().tag(sync=True) for _ in range(8))
        causal, cross, rolls = (t.Bool().tag(sync=True) for _ in range(3))
        asks = t.Bool(True).tag(sync=True)
        scale = t.Float().tag(sync=True)
        title = t.Unicode().tag(sync=True)
        subtitle = t.Unicode().tag(sync=True)
        layers, heads, tokens, facts, scales, sent = (t.List().tag(sync=True) for _ in range(6))
        source, parts, between, fine_shape = (
            t.List(allow_none=True, default_value=None).tag(sync=True) for _ in range(4)
        )
        maps, rolled, vectors, fine = (t.Bytes().tag(sync=True) for _ in range(4))

        def __init__(self, result: AttentionMaps) -> None:
            data, buffers = attention.payload(result)
            subtitle = " · ".join(["attention", *attention.facts(result)])
            super().__init__(lambda: attention.maps(result), title=result.name, subtitle=subtitle, **data, **buffers)
            self._result = result

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            if kind in ANSWERS and (answer := ANSWERS[kind](self._result, message)) is not None:
                told, values = answer
                asked = {name: message.get(name) for name in ("id", "layer", "head", "query", "how")}
                buffers = [] if values is None else [values.tobytes()]
                self.send({"kind": kind, **asked, **told}, buffers=buffers)

    return AttentionWidget


Answer = tuple[dict[str, Any], "np.ndarray | None"]


def inside(result: AttentionMaps, message: dict[str, Any], *names: str) -> bool:
    """Whether the layer, head, query and key that a message names are in the maps."""
    sizes = dict(zip(("layer", "head", "query", "key"), result.shape, strict=True))
    return all(type(message.get(name)) is int and 0 <= message[name] < sizes[name] for name in names)


def exact(result: AttentionMaps, message: dict[str, Any]) -> Answer | None:
    """One attention weight."""
    if not inside(result, message, "layer", "head", "query", "key"):
        return None
    return {"value": float(_row(result, message)[message["key"]])}, None


def row(result: AttentionMaps, message: dict[str, Any]) -> Answer | None:
    """The weights of one query, (S,)."""
    if not inside(result, message, "layer", "head", "query"):
        return None
    return {}, _row(result, message).astype("<f4")


def layer(result: AttentionMaps, message: dict[str, Any]) -> Answer | None:
    """The maps of one layer, (H, t, s) bytes."""
    if not inside(result, message, "layer"):
        return None
    cells = attention.layer_cells(result, message["layer"])
    return {"down": cells.shape[1], "across": cells.shape[2]}, cells


def together(result: AttentionMaps, message: dict[str, Any]) -> Answer | None:
    """Heads as one map, (t, s) bytes; of all layers where none is named."""
    every = message.get("layer") is None
    if message.get("how") not in AGGREGATES or not (every or inside(result, message, "layer")):
        return None
    cells = attention.together(result, message["how"], None if every else message["layer"])
    return None if cells is None else ({"down": cells.shape[0], "across": cells.shape[1]}, cells)


def products(result: AttentionMaps, message: dict[str, Any]) -> Answer | None:
    """The keys that a query reads most from with their weights, and as floats, (1 + n, d), the query and those keys."""
    import numpy as np

    if not inside(result, message, "layer", "head", "query"):
        return None
    i, j, query = (message[name] for name in ("layer", "head", "query"))
    weights = _row(result, message)
    keys = sorted(int(k) for k in np.argsort(-weights, kind="stable")[:LISTED] if weights[k] > 0)
    own = result.k[i, j * result.k.shape[1] // result.q.shape[1], keys]
    values = np.concatenate([result.q[i, j, query][None], own]).astype("<f4")
    return {"keys": keys, "weights": [float(weights[key]) for key in keys]}, values


def _row(result: AttentionMaps, message: dict[str, Any]) -> np.ndarray:
    return result.row(result.layers[message["layer"]], result.heads[message["head"]], message["query"])


# What a page may ask, by the kind of its message.
ANSWERS = {"exact": exact, "row": row, "layer": layer, "together": together, "products": products}
