"""How data flows through a model, as a picture: stacks side by side, blocks in frames; it knows parts, not modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from llm_lab.results import ModelPart, ModelReport
from llm_lab.views import svg
from llm_lab.views.card import clip

BOX, HALF, TALL, LOW, THIN, GAP = 168.0, 84.0, 36.0, 26.0, 19.0, 11.0
RAIL, EDGE = 14.0, 26.0  # of residual lines and of frames, from a box's side
SINGLE, PAIR = 260, 500
_SMALL = 'style="font-size:10px"'
_NORMS = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}
_ADDED = ("position", "segment")


def diagram(result: ModelReport) -> tuple[str, int, int]:
    """(SVG, width, height)."""
    stacks = [name for name, _ in groupby(part.stack for part in result.parts) if name]
    body, width, height = _pair(result) if len(set(stacks)) == 2 else _single(result)
    return svg.document(width, height, body), width, height


def block_of(parts: Sequence[ModelPart]) -> tuple[int, int]:
    """(first, last + 1): the parts that repeat together; an empty range where none do."""
    repeats = [i for i, part in enumerate(parts) if part.block or (not part.kind and part.count > 1)]
    return (repeats[0], repeats[-1] + 1) if repeats else (0, 0)


@dataclass
class _Column:
    """A picture growing downwards. Each lane is a wire: a model of two streams has two, the second one dashed."""

    x: float
    lanes: list[float]
    y: float
    rails: tuple[float, ...] = (-1.0,)  # on which side each lane's residual lines run
    half: float = HALF
    body: list[str] = field(default_factory=list)
    crossed: list[float] = field(default_factory=list)  # where cross attention stands

    def wire(self, down: float = GAP) -> None:
        for i, lane in enumerate(self.lanes):
            self.body.append(_line(f"M{lane:g} {self.y:g}V{self.y + down:g}", dashed=i > 0))
        self.y += down

    def text(self, content: str, dx: float = 0.0, anchor: str = "middle") -> None:
        self.y += 14
        self.body.append(svg.text(self.x + dx, self.y, content, anchor=anchor))
        self.y += 5

    def box(self, title: str, second: str = "", thin: bool = False, tint: bool = False) -> None:
        """A wire and a box; with a second, quieter line where there is one."""
        self.wire()
        tall = THIN if thin else TALL if second else LOW
        self.body.append(_rect(self.x - self.half, self.y, 2 * self.half, tall, quiet=thin, tint=tint))
        middle = self.y + tall / 2 + 4 - (7 if second else 0)
        title, second = clip(title, int(self.half / 3.2)), clip(second, int(self.half / 2.8))
        self.body.append(svg.text(self.x, middle, title, "m" if thin else "t", "middle"))
        if second:
            self.body.append(svg.text(self.x, middle + 14, second, anchor="middle", more=_SMALL))
        self.y += tall

    def plus(self, label: str = "") -> None:
        """Where something is added to the stream; the label says what, where no residual line does."""
        self.wire()
        self.y += 6
        for lane in self.lanes:
            self.body.append(f'<circle class="d" stroke-width="1.3" cx="{lane:g}" cy="{self.y:g}" r="6"/>')
            self.body.append(_line(f"M{lane - 4:g} {self.y:g}h8M{lane:g} {self.y - 4:g}v8"))
        if label:
            end = self.lanes[-1]
            self.body.append(_line(f"M{end + 6:g} {self.y:g}h9") + svg.text(end + 19, self.y + 4, clip(label, 22), "t"))
        self.y += 6

    def beside(self, start: float) -> None:
        """A plus, and the residual lines that lead to it from `start`."""
        self.plus()
        y = self.y - 6
        for i, (lane, side) in enumerate(zip(self.lanes, self.rails, strict=True)):
            rail = self.x + side * (self.half + RAIL)
            self.body.append(_line(f"M{lane:g} {start:g}H{rail:g}V{y:g}H{lane + side * 6:g}", dashed=i > 0))

    def experts(self, count: int, active: int) -> None:
        """A router, and boxes of which it picks some for each token."""
        self.box("router", f"{active} of {count} experts for each token")
        shown = list(range(1, count + 1)) if count <= 4 else [1, 2, 0, count]
        top, bottom, wide = self.y + 14, self.y + 14 + LOW, 2 * self.half / len(shown)
        for i, number in enumerate(shown):
            x, picked = self.x - self.half + wide * (i + 0.5), i < min(active, len(shown))
            if number:
                lines = f"M{self.x:g} {self.y:g}L{x:g} {top:g}M{x:g} {bottom:g}L{self.x:g} {bottom + 12:g}"
                self.body.append(_line(lines, dashed=not picked))
                self.body.append(_rect(x - wide / 2 + 3, top, wide - 6, LOW, quiet=not picked, tint=picked))
            self.body.append(
                svg.text(x, top + 17, f"mlp {number}" if number else "…", "t" if picked else "m", "middle")
            )
        self.y = bottom + 12

    def part(self, part: ModelPart, config: dict[str, Any]) -> None:
        if part.kind == "norm":
            self.box(_NORMS.get(part.detail, part.name), thin=True)
        elif part.kind in _ADDED:
            if part.name != "position bias":  # that one acts inside attention, which names it
                self.plus(f"{part.name}, {part.detail.split(',')[0]}" if part.kind == "position" else part.name)
        elif part.kind == "experts":
            self.experts(config.get("n_expert") or 2, config.get("n_active") or 1)
        else:
            self.box(part.name, _second(part, config), "norm" in part.name and not part.kind, tint=part.block)
            if part.kind == "cross":
                self.crossed.append(self.y - TALL / 2)

    def block(self, parts: Sequence[ModelPart], config: dict[str, Any]) -> None:
        """A frame, and in it the parts that repeat, each with its norms and its residual line."""
        # Where norms stand can be seen from the first part and the last.
        place = "post" if parts[0].kind != "norm" else "sandwich" if parts[-1].kind == "norm" else "pre"
        self.wire(8)
        self.y += 13
        top, at = self.y, len(self.body)
        for lane in self.lanes:
            self.body.append(_line(f"M{lane:g} {top - 13:g}V{top:g}"))
        self.wire(4)
        start = self.y
        for i, part in enumerate(parts):
            self.part(part, config)
            main = part.kind not in ("", "norm")
            after = part.kind == "norm" and i > 0 and parts[i - 1].kind != "norm"  # of the part before it
            if (main and place != "sandwich") or (after and place == "sandwich"):
                self.beside(start)
            if (main and place == "pre") or (after and place != "pre"):
                self.wire(3)
                start = self.y
        self.wire(8)
        left, right = self.x - self.half - EDGE, self.x + self.half + EDGE
        frame = f'<rect class="bt" x="{left:g}" y="{top:g}" width="{right - left:g}" height="{self.y - top:g}" rx="7"/>'
        self.body.insert(at, frame)
        times = f"one block, {parts[0].count} times" if config.get("share_layers") else f"× {parts[0].count}"
        self.body.append(svg.text(right, top - 4, times, "t", "end", _SMALL))

    def run(self, parts: Sequence[ModelPart], config: dict[str, Any]) -> None:
        first, last = block_of(parts)
        for part in parts[:first]:
            self.part(part, config)
        if first < last:
            self.block(parts[first:last], config)
        for part in parts[last:]:
            self.part(part, config)

    def end(self, word: str) -> None:
        self.wire()
        self.text(word)


def _single(result: ModelReport) -> tuple[str, int, int]:
    parts, config = list(result.parts), result.config
    column = _Column(SINGLE / 2, [SINGLE / 2], 8.0)
    tail = [part for part in parts if part.kind in ("pooler", "head", "output")]
    flow = [part for part in parts if part not in tail and part.kind != "query"]
    if any(part.kind == "query" for part in parts):
        flow = flow[1:]
        _two_streams(column, parts[0], config)
    else:
        column.text("token ids")
    column.run(flow, config)
    if len(column.lanes) == 2:  # the tokens' own stream ends: what is predicted is the other one's
        column.body.append(_line(f"M{column.lanes[1]:g} {column.y:g}v8H{column.x:g}", dashed=True))
        column.lanes, column.y = [column.x], column.y + 8
    height = _tail(column, tail, config) if tail or not parts or parts[0].kind else _ended(column, "logits")
    return "".join(column.body), SINGLE, round(height + 6)


def _two_streams(column: _Column, embedding: ModelPart, config: dict[str, Any]) -> None:
    """Two lanes into the same blocks: the tokens', and the dashed one of who has yet to be told them."""
    lanes = [column.x - HALF / 2 - 3, column.x + HALF / 2 + 3]
    ends = []
    for lane, above, title, second in (
        (lanes[0], "token ids", "embedding", embedding.detail.split(" ")[0] + " tokens"),
        (lanes[1], "places", "query vector", "for each place"),
    ):
        part = _Column(lane, [lane], column.y, half=HALF / 2 - 3)
        part.text(above)
        part.box(title, second)
        column.body += part.body
        ends.append(part.y)
    column.y, column.lanes, column.rails = max(ends), lanes, (-1.0, 1.0)
    column.wire(4)
    for lane, word in zip(lanes, ("content", "query"), strict=True):
        column.body.append(svg.text(lane + 5, column.y + 9, word, more=_SMALL))


def _tail(column: _Column, tail: Sequence[ModelPart], config: dict[str, Any]) -> float:
    """The output, and beside it the pooler where there is one; where all of it ends."""
    pooler = [part for part in tail if part.kind == "pooler"]
    chain = [part for part in tail if part.kind != "pooler"]
    if not pooler:
        for part in chain:
            column.part(part, config)
        return _ended(column, "logits" if chain else "hidden states")
    x, y = column.x, column.y + 8
    left, right = x - HALF - EDGE + 60, x + HALF + EDGE - 40
    column.body.append(_line(f"M{x:g} {column.y:g}V{y:g}M{left:g} {y:g}H{right:g}"))
    main = _Column(left, [left], y, half=60)
    for part in chain:
        main.part(part, config)
    side = _Column(right, [right], y, half=40)
    side.box("pooler", "first token")
    ends = [_ended(main, "logits" if chain else "hidden states"), _ended(side, "one vector")]
    column.body += main.body + side.body
    return max(ends)


def _ended(column: _Column, word: str) -> float:
    column.end(word)
    return column.y


def _pair(result: ModelReport) -> tuple[str, int, int]:
    """Two stacks: the encoder at the left, whose output every block of the decoder reads."""
    config = result.config
    left, right = HALF + EDGE + 12, PAIR - HALF - EDGE - 12
    shared = [part for part in result.parts if not part.stack]
    inside = [part for part in shared if part.kind == "embedding"]
    columns = {
        "encoder": _Column(left, [left], 8.0),
        "decoder": _Column(right, [right], 8.0, rails=(1.0,)),  # so that the encoder's lines arrive freely
    }
    body = ""
    for column, word in zip(columns.values(), ("source ids", "target ids"), strict=True):
        column.text(word)
        column.wire()
    for part in inside:
        top = columns["encoder"].y
        body += _rect(left - HALF, top, right - left + 2 * HALF, LOW)
        label = f"{part.name}, {part.detail}, one for both"
        body += svg.text(PAIR / 2, top + 17, clip(label, 66), "t", "middle")
        for column in columns.values():
            column.y = top + LOW
    for name, column in columns.items():
        column.run([part for part in result.parts if part.stack == name], config)
    encoder, decoder = columns["encoder"], columns["decoder"]
    for part in shared:
        if part not in inside:
            decoder.part(part, config)
    decoder.end("logits")
    gutter, down = PAIR / 2, encoder.y + 14
    lines = f"M{left:g} {encoder.y:g}V{down:g}H{gutter:g}V{min(decoder.crossed, default=down):g}"
    for y in decoder.crossed:
        end = right - HALF
        lines += f"M{gutter:g} {y:g}H{end - 1:g}M{end - 6:g} {y - 4:g}L{end - 1:g} {y:g}L{end - 6:g} {y + 4:g}"
    body += f'<path class="o" stroke-width="1.8" stroke-linejoin="round" d="{lines}"/>'
    body += svg.text(left - HALF - EDGE, down + 15, "the encoder's output: keys and", anchor="start")
    body += svg.text(left - HALF - EDGE, down + 29, "values for each block's cross attention", anchor="start")
    height = max(decoder.y, down + 34)
    return body + "".join(encoder.body + decoder.body), PAIR, round(height + 6)


def _second(part: ModelPart, config: dict[str, Any]) -> str:
    """What a box says of its part besides the name, in a few words."""
    if part.kind == "attention" and config:
        acts = {"rotary": "rotary", "alibi": "ALiBi", "t5": "position bias"}.get(config.get("position", ""))
        sparse = config.get("attention", "full")
        return ", ".join(filter(None, [f"{config.get('n_head')} heads", acts, sparse if sparse != "full" else ""]))
    if part.kind == "cross" and config:
        return f"{config.get('n_head')} heads read the encoder"
    if part.kind == "output" and config.get("tie_embeddings"):
        return "tied to the embedding"
    return part.detail


def _line(path: str, dashed: bool = False) -> str:
    broken = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<path class="d" stroke-width="1.3"{broken} d="{path}"/>'


def _rect(x: float, y: float, width: float, height: float, quiet: bool = False, tint: bool = False) -> str:
    """A box on its own ground, so that wires end at it."""
    at = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"'
    made = f'<rect class="g" {at}/>' + (f'<rect class="bt" {at}/>' if tint else "")
    return made + f'<rect class="{"l" if quiet else "b"}" {at}/>'
