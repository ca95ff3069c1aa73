"""A model before it is trained: its diagram, and beside it what each part costs; it builds nothing."""

from __future__ import annotations

from collections.abc import Sequence

from llm_lab.results import ModelPart, ModelReport
from llm_lab.views import svg
from llm_lab.views.card import MUTED, bar, bundle, card, clip, columns, esc, picture, si, size, table

WIDTH, MIDDLE, BOX, THIN, GAP = 250, 118, 28, 20, 12


def report(result: ModelReport) -> dict[str, str]:
    """The diagram and the table of parts."""
    totals = (result.parameters, result.flops, result.memory)
    rows: list[list[str | tuple[str, str]]] = []
    for part in result.parts:
        times = f" × {part.count}" if part.count > 1 else ""
        name = f'{esc(part.name)}{times}<br><span style="{MUTED};font-size:12px">{esc(part.detail)}</span>'
        values = zip((part.parameters, part.flops, part.memory), totals, (si, si, size), strict=True)
        rows.append([name, *((write(v), bar(v / whole if whole else 0)) for v, whole, write in values)])
    rows.append(["<b>all</b>", *(f"<b>{text}</b>" for text in (si(totals[0]), si(totals[1]), size(totals[2])))])
    facts = [
        result.title,
        f"{si(result.parameters)} parameters",
        f"{si(result.flops)} FLOPs per token",
        f"{size(result.memory)} to train at batch {result.batch_size}",
    ]
    image, height = _diagram(result)
    alt = "Data flows down: " + " → ".join(f"{p.name}{f' × {p.count}' if p.count > 1 else ''}" for p in result.parts)
    costs = table(["part", "parameters", "FLOPs per token", "training memory"], rows, total=True)
    body = columns((f"0 1 {WIDTH}px", picture(image, clip(alt, 600), WIDTH, height)), ("1 1 380px", costs))
    caption = (
        "A bar is a part's share of the column. FLOPs: forward, a multiply-add is 2. Memory: weights, gradients, "
        f"optimiser state and kept activations, at {result.batch_size} sequences a step."
    )
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    plain = [" · ".join([result.name, *facts])]
    plain += [
        f"  {f'{p.name} × {p.count}' if p.count > 1 else p.name:<22} {si(p.parameters):>9} parameters "
        f"{si(p.flops):>9} FLOPs {size(p.memory):>9}  {p.detail}"
        for p in result.parts
    ]
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), card(result.name, facts, body, caption=caption))


def block_of(result: ModelReport) -> tuple[int, int]:
    """(first, last + 1): the parts that repeat together; an empty range where none do."""
    parts = result.parts
    repeats = [i for i, part in enumerate(parts) if part.count > 1]
    if not repeats and result.config.get("n_layer") == 1:
        repeats = [i for i, part in enumerate(parts) if part.name.startswith(("attention", "mlp"))]
    return (repeats[0], repeats[-1] + 1) if repeats else (0, 0)


def _diagram(result: ModelReport) -> tuple[str, int]:
    first, last = block_of(result)
    parts, body, y = result.parts, "", 24.0
    body += svg.text(MIDDLE, 16, "token ids", anchor="middle")
    i = 0
    while i < len(parts):
        if i == first < last:
            drawn, end = _block(parts[first:last], y + GAP)
            count = parts[first].count
            frame = f'x="26" y="{y + GAP:g}" width="{WIDTH - 62}" height="{end - y - GAP:g}" rx="7"'
            body += _wire(y, y + GAP) + f'<rect class="bt" {frame}/>' + drawn
            body += svg.text(WIDTH - 31, (y + end) / 2 + 8, f"× {count}", "t")
            y, i = end, last
        else:
            drawn, y = _part(parts[i], y)
            body += drawn
            i += 1
    body += _wire(y, y + GAP) + svg.text(MIDDLE, y + GAP + 13, "logits", anchor="middle")
    height = round(y + GAP + 24)
    return svg.document(WIDTH, height, body), height


def _wire(top: float, bottom: float) -> str:
    return f'<path class="d" stroke-width="1.3" d="M{MIDDLE} {top:g}V{bottom:g}"/>'


def _part(part: ModelPart, y: float) -> tuple[str, float]:
    """A wire and a box below y; and where it ends. Parts without a weight of their own to speak of are thin."""
    thin = "norm" in part.name
    tall = THIN if thin else BOX
    top = y + GAP
    box = f'<rect class="g" x="52" y="{top:g}" width="132" height="{tall}" rx="4"/>'
    box += f'<rect class="{"l" if thin else "b"}" x="52" y="{top:g}" width="132" height="{tall}" rx="4"/>'
    name = svg.text(MIDDLE, top + tall / 2 + 4, clip(part.name, 20), "m" if thin else "t", "middle")
    return _wire(y, top) + box + name, top + tall


def _block(parts: Sequence[ModelPart], y: float) -> tuple[str, float]:
    """The parts that repeat; each attention and MLP, with the norms before it, is bridged by its residual line."""
    body, start = "", y
    for part in parts:
        drawn, y = _part(part, y)
        body += drawn
        if part.name in ("attention", "mlp"):
            join, fork = y + GAP + 6, start + 5
            body += _wire(y, join - 6)
            body += f'<path class="d" stroke-width="1.3" d="M{MIDDLE} {fork:g}H38V{join:g}H{MIDDLE - 6}"/>'
            body += f'<circle class="d" stroke-width="1.3" cx="{MIDDLE}" cy="{join:g}" r="6"/>'
            body += f'<path class="d" stroke-width="1.3" d="M{MIDDLE - 4} {join:g}h8M{MIDDLE} {join - 4:g}v8"/>'
            y = start = join + 6
    return body + _wire(y, y + GAP), y + GAP
