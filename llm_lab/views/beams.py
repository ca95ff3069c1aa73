"""A beam search as a tree: what was taken up at each step, what was pruned, and the way to the text; it knows no card."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from llm_lab.results import BeamNode, BeamTree
from llm_lab.views import svg
from llm_lab.views.card import clip, esc, number, small, visible

COLUMNS, ROWS, NODES = 40, 12, 400  # that are drawn at most
LABEL = 10  # characters of a token
TALL, GAP, LEFT, TOP = 18, 22, 8, 16
# From what matters least to what matters most: (class and look of its lines, of its labels).
KINDS = {
    "pruned": ('class="d" stroke-opacity=".35"', 'class="k m" fill-opacity=".6"'),
    "kept": ('class="d" stroke-opacity=".8"', 'class="k t"'),
    "best": ('class="b" stroke-width="2.2"', 'class="k bf" font-weight="700"'),
}


@dataclass(frozen=True)
class Picture:
    """A search as an image that stands for itself."""

    svg: str
    alt: str
    width: int
    height: int
    caption: str


def tree(beams: BeamTree | None) -> str:
    """The picture, in a box that scrolls, and how to read it (HTML); nothing where there was no search."""
    found = picture(beams)
    return "" if found is None else boxed(found)


def boxed(found: Picture) -> str:
    """A picture in its box, its caption under it (HTML)."""
    src = f"data:image/svg+xml;base64,{base64.b64encode(found.svg.encode()).decode()}"
    size = f'width="{found.width}" height="{found.height}"'
    style = f"width:{found.width}px;max-width:none;height:auto;margin:0"
    image = f'<img src="{src}" alt="{esc(found.alt)}" {size} style="{style}">'
    return f'<div style="overflow-x:auto;margin-top:8px">{image}</div>{small(esc(found.caption))}'


def picture(beams: BeamTree | None) -> Picture | None:
    """The tree drawn: a column a step, a row a beam."""
    if beams is None or not beams.steps:
        return None
    rows = [_rows(step, beams.best[t] if t < len(beams.best) else None) for t, step in enumerate(beams.steps)]
    tall = max(map(len, rows[:COLUMNS]))
    wide = min(len(rows), COLUMNS, max(NODES // tall, 1))
    last = wide - 1
    lines, labels, dots = dict.fromkeys(KINDS, ""), dict.fromkeys(KINDS, ""), ""
    x = LEFT + svg.width_of("prompt") + GAP
    ends: dict[int, tuple[float, int]] = {-1: (x - GAP + 4, TOP)}  # where the lines to the next step begin
    for t in range(wide):
        places: dict[int, tuple[float, int]] = {}
        right = x
        for row, i in enumerate(rows[t]):
            node, y = beams.steps[t][i], TOP + row * TALL
            on = t < len(beams.best) and beams.best[t] == i
            kind = "best" if on else "kept" if node.kept else "pruned"
            label = _label(node)
            end = x + svg.width_of(label)
            labels[kind] += f'<tspan x="{x:.0f}" y="{y + 4}">{esc(label)}</tspan>'
            if node.parent in ends:
                (x0, y0), half = ends[node.parent], GAP // 2
                lines[kind] += f"M{x0:.0f} {y0}C{x - half:.0f} {y0} {x - half:.0f} {y} {x - 4:.0f} {y}"
            places[i] = (end + 4, y)
            if node.finished:
                dots += f'<circle cx="{end + 8:.0f}" cy="{y}" r="3.5"/>'
            if node.finished or (node.kept and t == last):
                total = number(node.total, 3)
                end += 15 if node.finished else 8
                labels[kind] += f'<tspan x="{end:.0f}" y="{y + 4}">{total}</tspan>'
                end += svg.width_of(total)
            right = max(right, end)
        x, ends = right + GAP, places
    width, height = round(x - GAP + LEFT), TOP + (tall - 1) * TALL + 12
    body = svg.text(LEFT, TOP + 4, "prompt", "k m")
    body += "".join(f'<path {look} d="{lines[kind]}"/>' for kind, (look, _) in KINDS.items() if lines[kind])
    body += "".join(f"<text {look}>{labels[kind]}</text>" for kind, (_, look) in KINDS.items() if labels[kind])
    body += f'<g class="of">{dots}</g>' if dots else ""
    return Picture(svg.document(width, height, body), _alt(beams), width, height, _caption(beams, wide, tall))


def _rows(step: list[BeamNode], best: int | None) -> list[int]:
    """The nodes of a step that are drawn: the first ones, and the one that the best text went through."""
    shown = list(range(min(len(step), ROWS)))
    if best is not None and best >= len(shown):
        shown[-1] = best
    return shown


def _label(node: BeamNode) -> str:
    return clip(visible(node.piece.text).replace(" ", "␣"), LABEL)


def _alt(beams: BeamTree) -> str:
    nodes = [node for step in beams.steps for node in step]
    way = [beams.steps[t][i] for t, i in enumerate(beams.best)]
    text = clip("".join(visible(node.piece.text) for node in way), 120)
    total = f", log-probability {number(way[-1].total, 4)} nats" if way and len(beams.steps) == beams.n_steps else ""
    ended, pruned = sum(node.finished for node in nodes), sum(not node.kept for node in nodes)
    return f"search with {beams.n_beams} beams over {beams.n_steps} steps: “{text}”{total}; {ended} texts ended, {pruned} branches were pruned"


def _caption(beams: BeamTree, wide: int, tall: int) -> str:
    words = "How the beams searched: steps across, beams down. Bold blue leads to the first text; faded was pruned; "
    words += "● ends a text. A number is the log-probability of all tokens up to there, in nats."
    most = max(map(len, beams.steps[:wide]))
    cut = [f"the first {wide} of {beams.n_steps:,} steps"] if wide < beams.n_steps else []
    cut += [f"{tall} of up to {most} continuations a step"] if tall < most else []
    return f"{words} Drawn: {', '.join(cut)}." if cut else words
