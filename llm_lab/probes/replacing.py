"""A user's own intervention: what a function of an activation makes of a prediction."""

from __future__ import annotations

import torch

from llm_lab.errors import BadType, show
from llm_lab.models.sites import matching
from llm_lab.probes.answers import answer, ask, quoted
from llm_lab.probes.contrast import run
from llm_lab.probes.options import ReplaceOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Listing

TOP = 8


def replacing(reading: Reading, options: ReplaceOptions) -> Listing:
    """The likeliest tokens of an answer before and while each activation x at the sites becomes `function(x)`.

    Raises BadType without a site or a function, and BadValue where the function returns another shape, dtype or device.
    """
    if options.site is None or not callable(options.function):
        missing = "a site" if options.site is None else f"a function, and {show(options.function)} is none"
        raise BadType(
            f"probe replace needs {missing}; for example --site blocks.0.attn.z --function @halve, with def halve(z): return z / 2"
        )
    lm, asked = reading.lm, ask(reading, options)
    sites = matching(options.site, lm.sites())
    plain, _ = run(lm, asked, 1, {})
    changed, _ = run(lm, asked, 1, dict.fromkeys(sites, options.function))
    before, after = (logits[0].double().log_softmax(dim=-1) for logits in (plain, changed))
    target = answer(reading, options, plain[0]).target
    known = reading.tokenizer.vocab_size
    chosen = dict.fromkeys(
        [
            target.id,
            *before[:known].topk(min(TOP, known)).indices.tolist(),
            *after[:known].topk(min(TOP, known)).indices.tolist(),
        ]
    )
    rank = [(logs[:known].argsort(descending=True).argsort() + 1).tolist() for logs in (before, after)]
    rows = [
        [piece.text, float(before[i].exp()), float(after[i].exp()), float(after[i] - before[i]), rank[0][i], rank[1][i]]
        for i, piece in zip(chosen, reading.tokenizer.pieces(chosen), strict=True)
    ]
    name = getattr(options.function, "__name__", "the function")
    return Listing(
        title=lm.name,
        facts=[
            "replace",
            options.site if len(sites) == 1 else f"{options.site} ({len(sites)} sites)",
            name,
            f"KL {float(torch.sum(before.exp() * (before - after))):.3g} nats",
        ],
        columns=["token", "p before", "p with it", "change of log p, nats", "rank before", "rank with it"],
        rows=sorted(rows, key=lambda row: -row[1]),
        caption=f"Each activation at the sites became {name}(activation) while the model read the text; the tokens are the likeliest at position {asked.position} before and with it, and {quoted(target)}. KL is of the distribution before to the one with it.",
    )
