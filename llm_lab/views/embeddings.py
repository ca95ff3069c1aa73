"""Tokens as points of a map, flat or in space, one frame or a film; it computes no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llm_lab.results import Piece, Projection
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import bundle, card, columns, esc, fitting, picture, small, visible

if TYPE_CHECKING:
    import numpy as np

WIDTH, HEIGHT, BESIDE = 760, 500, 500
PAD, LEGEND = 18.0, 26.0
SPOT = 3.2  # radius of a point
LABELS = 260  # tokens that are tried to be named in a picture
LISTED = 8  # tokens whose nearest are told in words
TURN, TILT = 0.6, 0.35  # radians from which a space is seen first

# In the order of the legend: the class of its ink and its sign, so that no colour says anything alone.
KINDS = {
    "lower case": ("bf", "disc"),
    "capital": ("b", "ring"),
    "other letter": ("bf", "triangle"),
    "digit": ("of", "square"),
    "punctuation": ("o", "diamond"),
    "space": ("d", "ring"),
    "bytes": ("m", "square"),
    "special": ("d", "cross"),
}


def embeddings(result: Projection) -> dict[str, str]:
    """The map, of several models the first's and the last's side by side, and some tokens' nearest in words."""
    frames, n, _ = result.points.shape
    what = "positions" if result.positions else "tokens"
    facts = ["embeddings", result.source, _method(result), f"{n:,} {what}", f"{result.width[-1]:,} numbers in a vector"]
    if frames > 1:
        facts.append(f"{frames} models")
    name = result.frames[-1] if frames == 1 else f"{result.frames[0]} … {result.frames[-1]}"
    chosen = [0, frames - 1] if frames > 1 else [0]
    pictures = []
    for frame in chosen:
        image = picture(*_picture(result, frame, BESIDE if frames > 1 else WIDTH))
        pictures.append(("0 1 auto", (small(f"<b>{esc(result.frames[frame])}</b>") if frames > 1 else "") + image))
    words = _words(result)
    near = small("nearest: " + "; ".join(f"<b>{esc(a)}</b> {esc(', '.join(b))}" for a, b in words), 4) if words else ""
    still = columns(*pictures) + near

    def pages() -> Iterator[str]:
        for kept in dict.fromkeys((frames, 1, 0)):
            yield card(name, facts, live("embeddings", still, *_payload(result, kept)), caption=_caption(result))
        yield card(name, facts, still, caption=_caption(result))

    plain = [" · ".join([name, *facts])]
    plain += [f"  {a}: {', '.join(b)}" for a, b in words]
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), fitting(pages()))


def _method(result: Projection) -> str:
    named = {"pca": "PCA", "tsne": "t-SNE"}[result.projection]
    return f"{named} in {result.points.shape[2]} dimensions"


def _explained(result: Projection, frame: int) -> list[str]:
    return [] if result.explained is None else [f"{100 * share:.1f} %" for share in result.explained[frame]]


def _caption(result: Projection) -> str:
    shares = _explained(result, -1)
    if shares:
        whole = f"{100 * float(result.explained[-1].sum()):.0f} %" if result.explained is not None else ""
        text = f"The axes are the directions in which the vectors differ most: {', '.join(shares)} of their variance, together {whole}; the rest is not seen."
    else:
        text = "t-SNE keeps near what is near: how far groups are apart, how large and how dense they are means nothing, and another seed may give another map."
    if len(result.frames) > 1:
        text += {
            "basis": f" All models stand on the axes of {esc(result.frames[-1])}.",
            "procrustes": " Each model's map is turned and mirrored onto the next one's, so that only what changed moves.",
        }[result.align]
    if result.colour == "frequency":
        text += " The fuller a point, the more frequent the token."
    among = ", of the tokens that the counted text has" if result.counts is not None else ""
    text += f" Nearest are those of the largest cosine between whole vectors, not on the map{among}."
    return text + "".join(f"<br>{esc(note)}" for note in result.notes)


def names(result: Projection) -> tuple[list[str], dict[int, str]]:
    """The points, and all that may be near one, as they stand on the map: without the space that parts a token from the
    word before, unless there is one without it too."""
    texts = {piece.text for piece in [*result.pieces, *result.names.values()]}

    def named(piece: Piece) -> str:
        bare = piece.text.removeprefix(" ")
        return visible(f"␣{bare}" if bare != piece.text and (not bare or bare in texts) else bare)

    return [named(piece) for piece in result.pieces], {i: named(piece) for i, piece in result.names.items()}


def _words(result: Projection) -> list[tuple[str, list[str]]]:
    """Some tokens of the latest frame with their nearest; the most frequent letters first."""
    telling = [i for i, kind in enumerate(result.kinds) if kind in ("lower case", "capital", "other letter")]
    own, others = names(result)
    return [
        (own[i], [others[int(j)] for j in result.near[-1, i, :4] if j >= 0])
        for i in (telling or range(len(result.pieces)))[:LISTED]
    ]


# --- the static picture ---------------------------------------------------------------------------------------------


def seen(points: np.ndarray, turn: float = TURN, tilt: float = TILT) -> np.ndarray:
    """Points (N, 3) as they are seen from far away: right, up, towards the eye. Flat ones (N, 2) as they are."""
    import numpy as np

    if points.shape[1] < 3:
        return np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    x, y, z = points.T
    x, z = x * math.cos(turn) + z * math.sin(turn), z * math.cos(turn) - x * math.sin(turn)
    return np.stack([x, y * math.cos(tilt) - z * math.sin(tilt), y * math.sin(tilt) + z * math.cos(tilt)], axis=1)


def _picture(result: Projection, frame: int, width: int) -> tuple[str, str, int, int]:
    """One frame as a picture on its own ground."""
    import numpy as np

    height = round(HEIGHT * min(1.0, width / WIDTH + 0.15))
    solid = result.points.shape[2] == 3
    view = seen(result.points[frame].astype(float))
    every = np.concatenate([seen(points.astype(float)) for points in result.points[[0, frame, -1]]])
    size = _fit(every if result.align == "basis" else view, width, height - LEGEND, solid)
    middle = np.zeros(2) if solid else _middle(every if result.align == "basis" else view)
    x = width / 2 + size * (view[:, 0] - middle[0])
    y = (height - LEGEND) / 2 - size * (view[:, 1] - middle[1])
    deep = view[:, 2] / (np.abs(view[:, 2]).max() or 1.0) if solid else np.zeros(len(view))
    body = _axes(result, frame, width, height - LEGEND, size, middle)
    ink = shades(result)
    for i in np.argsort(deep):
        kind, sign = KINDS[result.kinds[i]] if result.colour == "kind" else ("bf", "disc")
        body += _mark(x[i], y[i], SPOT * (1 + 0.3 * deep[i]), kind, sign, ink[i] * (0.75 + 0.25 * deep[i]))
    own, _ = names(result)
    for i, left, base in placed(own, x, y, width, height - LEGEND):
        body += svg.text(left, base, svg.short(own[i], 16), "t k", "start", 'style="font-size:10px"')
    body += _legend(result, width, height)
    where = "in space" if solid else "on a plane"
    alt = f"{len(x)} tokens of {result.frames[frame]} {where} by {_method(result)}: " + ", ".join(own[:12])
    return svg.document(width, height, body), alt, width, height


def _middle(view: np.ndarray) -> np.ndarray:
    return (view[:, :2].max(axis=0) + view[:, :2].min(axis=0)) / 2


def _fit(view: np.ndarray, width: float, height: float, solid: bool) -> float:
    """Pixels of one unit, so that all is in the picture; in space also however it is turned."""
    import numpy as np

    if solid:
        return (min(width, height) / 2 - PAD) / (float(np.linalg.norm(view, axis=1).max()) or 1.0)
    across, up = view[:, :2].max(axis=0) - view[:, :2].min(axis=0)
    return min((width - 4 * PAD) / (across or 1e-9), (height - 2 * PAD) / (up or 1e-9), 1e9)


def _axes(result: Projection, frame: int, width: float, height: float, size: float, middle: np.ndarray) -> str:
    """The lines of zero, named with their share of the variance."""
    import numpy as np

    shares = _explained(result, frame)
    if result.points.shape[2] == 3:
        far = (min(width, height) / 2 - 4) / size
        ends = seen(np.eye(3) * far)
        body = ""
        for i, (across, up, _) in enumerate(ends):
            x, y = width / 2 + size * across, height / 2 - size * up
            body += f'<path class="l" d="M{width - x:.1f} {height - y:.1f}L{x:.1f} {y:.1f}"/>'
            body += svg.text(x, y, f"{i + 1}: {shares[i]}" if shares else str(i + 1), "m", "middle")
        return body
    if not shares:
        return ""
    x, y = width / 2 - size * middle[0], height / 2 + size * middle[1]
    body = f'<path class="l" d="M{x:.1f} 0V{height:g}"/>' if 0 < x < width else ""
    body += f'<path class="l" d="M0 {y:.1f}H{width:g}"/>' if 0 < y < height else ""
    body += svg.text(width - 6, height - 5, f"axis 1: {shares[0]} →", "m", "end")
    return body + svg.text(6, 14, f"axis 2: {shares[1]} ↑", "m")


def shades(result: Projection) -> np.ndarray:
    """How strongly each point is inked: all alike, or by the logarithm of its count."""
    import numpy as np

    if result.colour != "frequency" or result.counts is None:
        return np.ones(len(result.pieces))
    level = np.log1p(result.counts.astype(float))
    return 0.12 + 0.88 * level / (level.max() or 1.0)


def _mark(x: float, y: float, r: float, kind: str, sign: str, ink: float) -> str:
    faint = f' opacity="{ink:.2f}"' if ink < 0.995 else ""
    more = f'class="{kind}"{faint}'
    if sign in ("disc", "ring"):
        return f'<circle {more} cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
    if sign == "cross":
        return f'<path {more} d="M{x - r:.1f} {y - r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}"/>'
    if sign == "square":
        return (
            f'<rect {more} x="{x - r * 0.9:.1f}" y="{y - r * 0.9:.1f}" width="{1.8 * r:.1f}" height="{1.8 * r:.1f}"/>'
        )
    if sign == "triangle":
        return f'<path {more} d="M{x:.1f} {y - 1.2 * r:.1f}l{1.15 * r:.1f} {2 * r:.1f}h{-2.3 * r:.1f}z"/>'
    return f'<path {more} d="M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.1f} {1.3 * r:.1f}l{-1.3 * r:.1f} {1.3 * r:.1f}l{-1.3 * r:.1f} {-1.3 * r:.1f}z"/>'


def placed(
    names: Sequence[str], x: np.ndarray, y: np.ndarray, width: float, height: float
) -> list[tuple[int, float, float]]:
    """Which names find room beside their points, earlier ones first, and where each begins: none covers another, nor a
    point."""
    found: list[tuple[int, float, float]] = []
    boxes: list[tuple[float, float, float, float]] = []
    cells: dict[tuple[int, int], list[int]] = {}
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        cells.setdefault((int(a // 40), int(b // 40)), []).append(i)

    def free(left: float, top: float, right: float, bottom: float, own: int) -> bool:
        if left < 2 or right > width - 2 or top < 2 or bottom > height - 2:
            return False
        if any(left < r and right > l and top < d and bottom > u for l, u, r, d in boxes):  # noqa: E741
            return False
        near = [
            j
            for p in range(int((left - 4) // 40), int((right + 4) // 40) + 1)
            for q in range(int((top - 4) // 40), int((bottom + 4) // 40) + 1)
            for j in cells.get((p, q), ())
        ]
        return not any(j != own and left - 3 < x[j] < right + 3 and top - 3 < y[j] < bottom + 3 for j in near)

    for i, name in enumerate(names[:LABELS]):
        wide = svg.width_of(svg.short(name, 16), 6.1)
        for left, base in (
            (x[i] + 5, y[i] + 3.5),
            (x[i] - 5 - wide, y[i] + 3.5),
            (x[i] - wide / 2, y[i] - 6),
            (x[i] - wide / 2, y[i] + 13),
        ):
            box = (left - 1, base - 8.5, left + wide + 1, base + 2.5)
            if free(*box, i):
                boxes.append(box)
                found.append((i, float(left), float(base)))
                break
    return found


def _legend(result: Projection, width: float, height: float) -> str:
    """What the signs mean, in one line below."""
    y = height - LEGEND / 2 + 2
    body = f'<path class="l" d="M0 {height - LEGEND:g}H{width:g}"/>'
    if result.colour == "frequency":
        body += svg.text(10, y + 4, "rare")
        for i in range(8):
            body += _mark(44 + 11 * i, y, SPOT + 0.6, "bf", "disc", 0.12 + 0.88 * i / 7)
        return body + svg.text(136, y + 4, "frequent")
    x = 12.0
    for kind in [kind for kind in KINDS if kind in result.kinds]:
        label = f"{kind} {result.kinds.count(kind)}"
        wide = len(label) * (6.0 if width >= WIDTH else 5.2)
        if x + wide + 12 > width:
            break
        body += _mark(x, y, SPOT + 0.6, *KINDS[kind], 1.0) + svg.text(x + 8, y + 4, label, "m", "start", 'style="font-size:10px"')  # fmt: skip
        x += wide + 22
    return body


# --- what the script needs --------------------------------------------------------------------------------------------


def _payload(result: Projection, kept: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Names and numbers for static/embeddings.js; of the last `kept` frames also which tokens are nearest."""
    import numpy as np

    frames, _, dims = result.points.shape
    far = float(np.abs(result.points).max()) or 1.0
    places = np.round(result.points / far * 32767).astype("<i2")
    near, cosine = result.near[frames - kept :], result.cosine[frames - kept :]
    ids = np.unique(near[near >= 0])
    rows = np.where(near >= 0, np.searchsorted(ids, near), 65535).astype("<u2")
    level = np.clip(np.nan_to_num(cosine, neginf=-1.0), -1, 1)
    own = {piece.id if not result.positions else i: i for i, piece in enumerate(result.pieces)}
    kinds = [kind for kind in KINDS if kind in result.kinds]
    tokens, others = names(result)
    data = {
        "frames": [visible(frame) for frame in result.frames],
        "tokens": tokens,
        "kinds": [{"name": kind, "sign": KINDS[kind][1], "ink": KINDS[kind][0]} for kind in kinds],
        "kind": [kinds.index(kind) for kind in result.kinds],
        "counts": None if result.counts is None else [int(count) for count in result.counts],
        "colour": result.colour,
        "dims": dims,
        "shares": [_explained(result, frame) for frame in range(frames)],
        "shared": result.align == "basis",
        "turn": [TURN, TILT],
        "names": [others[int(i)] for i in ids],
        "point": [own.get(int(i), -1) for i in ids],
        "kept": kept,
        "many": near.shape[2],
    }
    return data, {
        "places": places.tobytes(),
        "near": rows.tobytes(),
        "cosine": np.round(level * 127).astype(np.int8).tobytes(),
    }
