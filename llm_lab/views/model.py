"""A model before it is trained: its diagram, and beside it what each part costs; it builds nothing."""

from __future__ import annotations

from itertools import groupby

from llm_lab.results import ModelPart, ModelReport
from llm_lab.views.card import MUTED, bar, bundle, card, clip, columns, esc, picture, si, size, table
from llm_lab.views.diagram import diagram


def report(result: ModelReport) -> dict[str, str]:
    """The diagram and the table of parts."""
    totals = (result.parameters, result.flops, result.memory)
    rows: list[list[str | tuple[str, str]]] = []
    stack = ""
    for part in result.parts:
        if part.stack != stack:
            stack = part.stack
            rows.append([f"<b>{esc(stack)}</b>" if stack else "<b>out</b>", "", "", ""])
        name = f'{esc(_named(part))}<br><span style="{MUTED};font-size:12px">{esc(part.detail)}</span>'
        values = zip((part.parameters, part.flops, part.memory), totals, (si, si, size), strict=True)
        rows.append([name, *((write(v), bar(v / whole if whole else 0)) for v, whole, write in values)])
    rows.append(["<b>all</b>", *(f"<b>{text}</b>" for text in (si(totals[0]), si(totals[1]), size(totals[2])))])
    facts = [
        result.title,
        f"{si(result.parameters)} parameters",
        f"{si(result.flops)} FLOPs per token",
        f"{size(result.memory)} to train at batch {result.batch_size}",
    ]
    image, width, height = diagram(result)
    flows = [(stack, " → ".join(map(_named, parts))) for stack, parts in groupby(result.parts, lambda part: part.stack)]
    alt = "Data flows down: " + "; ".join(f"{stack}: {flow}" if stack else flow for stack, flow in flows)
    costs = table(["part", "parameters", "FLOPs per token", "training memory"], rows, total=True)
    body = columns((f"0 1 {width}px", picture(image, clip(alt, 600), width, height)), ("1 1 380px", costs))
    caption = (
        "A bar is a part's share of the column. FLOPs: forward, a multiply-add is 2. Memory: weights, gradients, "
        f"optimiser state and kept activations, at {result.batch_size} sequences a step."
    )
    if any(part.stack for part in result.parts):
        caption += " A token here is one that is read and one that is written."
    if result.config.get("share_layers"):
        caption += " The block's parameters are counted once, and its FLOPs each time that it runs."
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    plain = [" · ".join([result.name, *facts])]
    plain += [
        f"  {f'{p.stack} {_named(p)}'.strip():<30} {si(p.parameters):>9} parameters "
        f"{si(p.flops):>9} FLOPs {size(p.memory):>9}  {p.detail}"
        for p in result.parts
    ]
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), card(result.name, facts, body, caption=caption))


def _named(part: ModelPart) -> str:
    return f"{part.name} × {part.count}" if part.count > 1 else part.name
