"""Text as tokens: cut by tokenizers, or written by a model and coloured by how surprising each token was."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from llm_lab.results import Generation, Piece, Tokenization, mean
from llm_lab.views import beams
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    BREAK,
    HAIR,
    MONO,
    MUTED,
    bundle,
    card,
    clean,
    clip,
    esc,
    fitting,
    is_rtl,
    number,
    readable,
    si,
    table,
    visible,
)

PRE = f"{MONO};font-size:13px;line-height:1.75;margin:2px 0 8px;padding:0"
MAX_TOKENS = 3000  # drawn one by one; what is longer is cut, and says so
MAX_TEXTS = 100
STREAMED = 600  # tokens, while they are written
PROMPT = 4000  # characters of prompts, over all texts
MAX_RUNNERS_UP = 6000  # sent along with texts; the longer they are, the fewer each token has, and at last none
TOP_BITS = 7.0  # surprisal inked in full
LEVELS = 8


def tokenization(result: Tokenization) -> dict[str, str]:
    """Each tokenizer's pieces on alternating grounds, and a table of what each needed."""
    counts = table(
        ["tokenizer", "tokens", "characters per token", "unknown", "vocabulary", "round trip"],
        [
            [
                f"<b>{esc(row.kind)}</b>",
                f"{row.n_tokens:,}",
                number(row.chars_per_token, 3),
                f"{row.n_unknown:,}",
                f"{row.vocab_size:,}",
                esc(row.round_trip),
            ]
            for row in result.rows
        ],
        left=(0, 5),
    )
    room = max(MAX_TOKENS // 2 // max(len(result.rows), 1), 50)  # an id stands beside each, so half as many
    cuts = "".join(_cut(row.kind, row.pieces, room, len(result.rows) > 1) for row in result.rows)
    trained = f"vocabularies learned from {result.trained_on}" if result.trained_on else ""
    facts = [f"{len(result.text):,} characters", f"{len(result.text.encode(errors='replace')):,} bytes", trained]
    caption = "One shaded piece is one token, its id small beside it. Dotted grounds mark special and unknown tokens."
    if len(result.rows) > 1:
        caption = "Fewer tokens fit more text into the same context; a larger vocabulary pays for it. " + caption
    plain = [" · ".join(["tokenize", *(fact for fact in facts if fact)])]
    plain += [
        f"  {row.kind:<10} {row.n_tokens:>6,} tokens  {number(row.chars_per_token, 3):>5} characters per token  "
        f"{row.n_unknown} unknown  vocabulary {row.vocab_size:,}  {row.round_trip}\n    "
        + "|".join(visible(piece.text) for piece in row.pieces[:60])
        + ("…" if len(row.pieces) > 60 else "")
        for row in result.rows
    ]
    return bundle("\n".join(plain), card("tokenize", facts, counts + cuts, caption=caption))


def generation(result: Generation) -> dict[str, str]:
    """What a model wrote: the prompt plain, each token inked by its surprisal in bits."""
    plain = "\n---\n".join(result.texts)
    page = fitting(_page(result, _fit(result, part)) for part in (1.0, 0.5, 0.25, 0.1, 0.03))
    return bundle("\n".join([plain, *result.notes]), page)


def _page(result: Generation, fit: _Fit) -> str:
    own = [logprob[_begins(result, i) :] for i, logprob in enumerate(result.logprob)]
    bits = -mean(x for logprobs in own for x in logprobs) / math.log(2)
    body = f'<div style="overflow:hidden">{_samples(result, fit)}</div>'
    if any(own):
        ramp = "".join(f'<span style="background:{_orange(level)}">&nbsp;&nbsp;</span>' for level in range(LEVELS + 1))
        legend = f"Ground: surprisal, 0&nbsp;{ramp}&nbsp;{TOP_BITS:g} bits and more"
        legend += "" if math.isnan(bits) else f" · mean {number(bits, 2)} bits per token"
        body += f'<div style="{MUTED};font-size:12px">{legend}</div>'
        body = live("tokens", body, page_of(result, fit)) if result.done else body
    body += beams.tree(result.beams)
    notes = [*result.notes, *(_left_out(result, fit) if result.done else [])]
    hint = "" if result.done else "writing…"
    return card(result.name, _facts(result), body, caption="<br>".join(map(esc, notes)), hint=hint, done=result.done)


def told(result: Generation) -> dict[str, Any]:
    """What stands around the texts: facts, notes and the line that repeats them, all plain text, and the search."""
    search = beams.picture(result.beams)
    return {
        "facts": [clean(fact) for fact in _facts(result)],
        "notes": [clean(note) for note in [*result.notes, *_left_out(result, _fit(result))]],
        "code": clean(result.code),
        "beams": None if search is None else vars(search),
        "regrows": "regrow" in result.actions,
    }


def _left_out(result: Generation, fit: _Fit) -> list[str]:
    """What is not drawn."""
    longest = max((len(sample) - _begins(result, i) for i, sample in enumerate(result.pieces)), default=0)
    found = []
    if longest > fit.room:
        found.append(f"Only the first {fit.room:,} tokens of each text are drawn; .texts has all.")
    if len(result.pieces) > fit.texts:
        found.append(f"Only {fit.texts:,} of {len(result.pieces):,} texts are drawn; .texts has all.")
    return found


def _facts(result: Generation) -> list[str]:
    words = [_option(result.strategy, key, value) for key, value in result.options.items()]
    # The option that a strategy is named after comes first and names it too: top_p 0.95, temperature 1.
    options = ", ".join(sorted(words, key=lambda word: not word.startswith(f"{result.strategy} ")))
    count = sum(len(sample) - _begins(result, i) for i, sample in enumerate(result.pieces))
    facts = [
        "generate",
        options if options.startswith(f"{result.strategy} ") else f"{result.strategy} {options}".strip(),
        f"{count:,} tokens",
        f"{si(result.tokens_per_second)} tokens/s" if result.tokens_per_second else "",
        f"seed {result.seed}",
    ]
    return [fact for fact in facts if fact]


def _option(strategy: str, key: str, value: Any) -> str:
    """An option in words; the one that a strategy is named after goes by the strategy's name: top_p 0.9."""
    name = strategy if strategy == key or strategy.endswith(f"_{key}") else key
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _span(shown: str, style: str, title: str = "", rtl: bool = False) -> str:
    tip = f' title="{esc(title)}"' if title else ""
    return f'<span{" dir=auto" if rtl else ""} style="{style}"{tip}>{esc(shown)}</span>'


def _cut(kind: str, pieces: Sequence[Piece], room: int, named: bool) -> str:
    grounds = ("rgba(61,125,230,.20)", "rgba(224,123,26,.20)")
    spans = []
    for i, piece in enumerate(pieces[:room]):
        edge = f"border:1px dotted {HAIR};" if piece.special or piece.unknown else ""
        kind_of = "special" if piece.special else "unknown" if piece.unknown else ""
        style = f"background:{grounds[i % 2]};{edge}border-radius:3px"
        token = _span(visible(piece.text), style, kind_of, is_rtl(piece.text))
        label = f'<sub style="font-size:9px;line-height:1;{MUTED}">{piece.id}</sub>'
        spans.append(f"{token}{label} " + ("\n" if "\n" in piece.text else ""))
    more = f" … {len(pieces) - room:,} more tokens" if len(pieces) > room else ""
    head = f'<div style="{MUTED};font-size:12px;margin-top:8px">{esc(kind)}</div>' if named else ""
    return f'{head}<pre style="{PRE}">\n{"".join(spans)}{more}</pre>'


def _level(logprob: float) -> int:
    if math.isnan(logprob):  # a token that was given
        return 0
    if math.isinf(logprob):
        return LEVELS
    return min(max(round(-logprob / math.log(2) / TOP_BITS * LEVELS), 0), LEVELS)


def _orange(level: int) -> str:
    return f"rgba(224,123,26,{level / LEVELS * 0.62:.2f})" if level else "none"


class _Fit(NamedTuple):
    """How much is drawn."""

    room: int  # tokens of each text
    texts: int


def _fit(result: Generation, part: float = 1.0) -> _Fit:
    """What is drawn of it, or a part of that."""
    texts = max(1, round(min(len(result.pieces), MAX_TEXTS) * part**0.5))
    tokens = (MAX_TOKENS if result.done else STREAMED) * part
    return _Fit(max(round(tokens / texts), 20), texts)


def _begins(result: Generation, sample: int) -> int:
    """The first token that a text does not share with the one it left."""
    return result.forks[sample].at if sample in result.forks else 0


def _tree(result: Generation) -> list[tuple[int, int]]:
    """(sample, depth): every text, each followed by those that left it, the earliest first."""

    def below(sample: int, depth: int) -> list[tuple[int, int]]:
        left = [i for i, fork in result.forks.items() if fork.sample == sample]
        found = [(sample, depth)]
        for i in sorted(left, key=lambda i: (result.forks[i].at, i)):
            found += below(i, depth + 1)
        return found

    return [one for i in range(len(result.pieces)) if i not in result.forks for one in below(i, 0)]


def _samples(result: Generation, fit: _Fit) -> str:
    room = fit.room
    prompt = esc(_prompt(result, PROMPT // fit.texts + 100))
    page = ""
    for i, depth in _tree(result)[: fit.texts]:
        begins = _begins(result, i)
        pieces, logprobs = result.pieces[i][begins:], result.logprob[i][begins:]
        # While it streams the beginning may scroll out of the picture, so that every redraw stays small.
        skip = 0 if result.done else max(len(pieces) - room, 0)
        shown = list(zip(pieces, logprobs, strict=True))[skip : skip + room]
        heading = _heading(result, i)
        head = f'<div style="{MUTED};font-size:12px">{esc(heading)}</div>' if heading else ""
        before = prompt
        if i in result.forks:
            before = f'<span style="{MUTED}">{esc(_shared(result, i))}</span>'
        body = _inked(shown, merge=not result.done)
        more = "…" if len(pieces) > skip + room else ""
        text = f'{head}<pre style="{PRE}">\n{before}{"…" if skip else ""}{body}{more}</pre>'
        edge = f"margin-left:{14 * depth}px;border-left:2px solid {HAIR};padding-left:10px"
        page += f'<div style="{edge}">{text}</div>' if depth else text
    return page or f'<pre style="{PRE}">\n{prompt}</pre>'


def _heading(result: Generation, sample: int) -> str:
    """Which text this is, and where it left another."""
    if sample not in result.forks:
        return f"sample {sample + 1} of {len(result.pieces)}" if len(result.pieces) > 1 else ""
    fork = result.forks[sample]
    old, new = (visible(result.pieces[i][fork.at].text) for i in (fork.sample, sample))
    instead = f"“{new}” in place of “{old}”" if new != old else f"“{new}” again"
    return f"sample {sample + 1} · leaves sample {fork.sample + 1} at token {fork.at + 1}: {instead} · seed {fork.seed}"


def _shared(result: Generation, sample: int) -> str:
    """The end of what a text shares with the one it left, as one line."""
    text = "".join(piece.text for piece in result.pieces[sample][: _begins(result, sample)][-60:])
    line = "".join(visible(char) if char != " " else " " for char in (result.prompt + text)[-48:])
    return ("…" if len(result.prompt + text) > 48 else "") + line


def _inked(shown: Iterable[tuple[Piece, float]], merge: bool) -> str:
    page, run, run_level = "", "", -1
    for piece, logprob in shown:
        level, text = _level(logprob), _token(piece)
        if not merge:
            bits = -logprob / math.log(2)
            tip = "" if math.isnan(bits) else f' title="{number(bits, 2)} bits"'
            direction = " dir=auto" if is_rtl(piece.text) else ""
            page += f'<span{direction} style="background:{_orange(level)}"{tip}>{text}</span>'
        elif level == run_level:
            run += text
        else:
            page += f'<span style="background:{_orange(run_level)}">{run}</span>' if run else ""
            run, run_level = text, level
    return page + (f'<span style="background:{_orange(run_level)}">{run}</span>' if run else "")


def _token(piece: Piece) -> str:
    """A token's text where it stands in running text: ⏎ and the break itself, other controls by name."""
    return esc(_shown(piece))


def _shown(piece: Piece) -> str:
    return readable(piece.text, BREAK) or "∅"


def _prompt(result: Generation, limit: int) -> str:
    return readable(clip(result.prompt, limit), BREAK) if result.continues else ""


def page_of(
    result: Generation, fit: _Fit | None = None, only: Collection[int] | None = None, most: int = MAX_RUNNERS_UP
) -> dict[str, Any]:
    """What the script layer draws the texts from; of those that are `only` asked for, where others are known. `most` are the
    runners-up that may be sent."""
    room, texts = fit or _fit(result)
    tree = _tree(result)[:texts]
    drawn = [(i, depth) for i, depth in tree if only is None or i in only]
    statistics = _thoughts(result, room, [i for i, _ in drawn], most) if result.done else {}
    prompt = _prompt(result, PROMPT // texts + 100)

    def numbers(values: Sequence[float], low: float, write: Callable[[float], str]) -> list[float | None]:
        return [float(write(v)) if math.isfinite(v) else None if math.isnan(v) else low for v in values]

    def sample(i: int, depth: int) -> dict[str, Any]:
        forked = _begins(result, i)
        # While it streams the beginning may scroll out of the picture, so that every redraw stays small.
        begins = forked if result.done else max(forked, len(result.pieces[i]) - room)
        part = slice(begins, begins + room)
        pieces = result.pieces[i][part]
        before = _shared(result, i) if i in result.forks else prompt
        return {
            "sample": i,
            "depth": depth,
            "begins": begins,
            "length": len(result.pieces[i]),
            "head": _heading(result, i),
            "before": before + ("…" if begins > forked else ""),
            "text": [_shown(p) for p in pieces],
            "name": [visible(p.text) for p in pieces],
            "rtl": [t for t, p in enumerate(pieces) if is_rtl(p.text)],
            "id": [p.id for p in pieces],
            "logprob": numbers(result.logprob[i][part], -100.0, "{:.4f}".format),
            "chosen": numbers(result.chosen_prob[i][part], 0.0, "{:.4g}".format),
            "cut": len(result.pieces[i]) > begins + room,
            "thoughts": statistics.get(i),
        }

    return {"samples": [sample(i, depth) for i, depth in drawn], "order": [i for i, _ in tree], "top": TOP_BITS}


def _thoughts(result: Generation, room: int, drawn: Sequence[int], most: int) -> dict[int, dict[str, Any]]:
    """For each of the texts what else there was at each token of its own, where that is known."""
    count = sum(min(len(result.pieces[i]) - _begins(result, i), room) for i in drawn)
    each = min(10, most // max(count, 1))
    known = result.statistics
    if each < 3 or len(known) < len(result.pieces):
        return {}
    found = {}
    for i in drawn:
        one = known[i]
        part = slice(_begins(result, i), _begins(result, i) + room)
        ids = one.top[part, :each].astype(int)
        found[i] = {
            "entropy": [round(float(x), 3) for x in one.entropy[part]],
            "rank": [int(x) for x in one.rank[part]],
            "names": {t: visible(one.names.get(t, "?")).strip(" ") or "␣" for t in sorted(set(ids.ravel().tolist()))},
            "ids": ids.tolist(),
            "probs": [[float(f"{math.exp(x):.3g}") for x in row] for row in one.top_logprob[part, :each]],
        }
    return found
