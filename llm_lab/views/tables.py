"""Views that are tables: a corpus, an evaluation, and any listing."""

from __future__ import annotations

import numbers
from typing import Any

from llm_lab.results import CorpusReport, Evaluation, Listing, Score
from llm_lab.views.card import (
    MUTED,
    bar,
    bundle,
    card,
    clean,
    clip,
    columns,
    esc,
    figures,
    number,
    si,
    size,
    small,
    table,
    verbatim,
    visible,
)

WORDS = 10


def corpus(result: CorpusReport) -> dict[str, str]:
    """What a text is made of, its most frequent words, and how it begins."""
    unit = result.duplicate_unit
    whole = max(result.train_chars + result.val_chars, 1)
    rows = [
        ("documents", f"{result.n_documents:,}"),
        ("characters", f"{result.n_chars:,} ({result.n_distinct_chars:,} distinct)"),
        ("size in UTF-8", size(result.n_bytes)),
        ("words", f"{result.n_words:,} ({result.n_distinct_words:,} distinct)"),
        (f"repeated {unit}", f"{result.n_duplicates:,}"),
        ("training part", f"{result.train_chars:,} characters ({result.train_chars / whole:.0%})"),
        ("held-out part", f"{result.val_chars:,} characters ({result.val_chars / whole:.0%})"),
        ("fingerprint", result.fingerprint[:16]),
    ]
    if result.entropy is not None:
        rows.insert(3, ("entropy, exactly", f"{result.entropy:.4f} nats/byte"))
    facts = ["corpus", result.source, f"{si(result.n_chars)} characters"]
    words = result.top_words[:WORDS]
    top = max((count for _, count in words), default=1)
    counted = table(
        ["most frequent words", "times"],
        [
            [f'<span dir="auto">{esc(visible(clip(word, 40)))}</span>', (f"{count:,}", bar(count / top))]
            for word, count in words
        ],
    )
    beginning = clip(result.sample, 700, 12)
    body = columns(
        ("1 1 260px", figures(rows)),
        ("1 1 200px", counted if words else ""),
        ("1 1 260px", small("sample") + verbatim(beginning)),
    )
    caption = (
        "The beginning of the text trains, its end is held out, unless told otherwise. "
        "A bar is a word's count against the first's."
    )
    if result.entropy is not None:
        caption += " No model can get below the entropy, on average."
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    plain = [" · ".join([result.name, *facts]), *(f"  {name:<21} {value}" for name, value in rows)]
    plain += ["  most frequent: " + ", ".join(f"{visible(word)} {count:,}" for word, count in words)]
    plain += ["  sample:", *(f"    {line}" for line in clip(result.sample, 300, 4).split("\n"))]
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), card(result.name, facts, body, caption=caption))


def evaluation(result: Evaluation) -> dict[str, str]:
    """A row a metric, a column a model: value ± interval, unit, and which way is better."""
    found = {(score.metric, score.model): score for score in result.scores}
    metrics = list(dict.fromkeys(score.metric for score in result.scores))
    models = [name for name in result.models if any(s.model == name for s in result.scores)]
    rows = []
    for metric in metrics:
        scores = [found.get((metric, model)) for model in models]
        known = [score for score in scores if score is not None]
        best = (max if known[0].better == "higher" else min)(score.value for score in known)
        cells = [
            _score(score, len(models) > 1 and result.comparable and score is not None and score.value == best)
            for score in scores
        ]
        arrow = "↑ higher" if known[0].better == "higher" else "↓ lower"
        rows.append(
            [
                esc(metric.replace("_", " ")),
                *cells,
                esc(known[0].unit),
                arrow,
                " / ".join(f"{n:,}" for n in dict.fromkeys(s.n for s in known)),
            ]
        )
    titles = ["metric", *(["value"] if len(models) == 1 else map(esc, models)), "unit", "better", "n"]
    caption = "± is half of the 95 % confidence interval; n counts the blocks of text that it rests on."
    caption += " The better value is bold." if len(models) > 1 and result.comparable else ""
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    width = len(models)
    page = card(
        ", ".join(result.models),
        ["evaluate", result.data],
        table(titles, rows, left=(0, width + 1, width + 2)),
        caption=caption,
    )
    plain = [" · ".join([", ".join(result.models), "evaluate", result.data])]
    for score in result.scores:
        interval = f" ± {_interval(score)}" if score.interval is not None else ""
        name = f"{score.model}  " if len(models) > 1 else ""
        value = f"{number(score.value)}{interval} {score.unit} ({score.better} is better)"
        plain.append(f"  {name}{score.metric.replace('_', ' '):<18} {value}")
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), page)


def listing(result: Listing) -> dict[str, str]:
    """Any table: titles of numbers align right. Long cells are cut but in the last column, whose lines are copied."""
    titles = [str(name) for name in result.columns]
    last = len(titles) - 1
    values = [[row[i] if i < len(row) else None for i in range(len(titles))] for row in result.rows]
    right = {
        i
        for i in range(len(titles))
        if (col := [v[i] for v in values if v[i] not in (None, "")]) and all(map(_is_number, col))
    }
    rows = [
        [esc(_cell(v) if i == last else clip(_cell(v), 400)).replace("\n", "<br>") for i, v in enumerate(row)]
        for row in values
    ]
    body = table([esc(name) for name in titles], rows, left=set(range(len(titles))) - right) if rows else ""
    page = card(result.title, result.facts, body, caption=esc(result.caption))
    texts = [
        titles,
        *(
            [clean(_cell(v) if i == last else clip(_cell(v), 60)).replace("\n", " ") for i, v in enumerate(row)]
            for row in values
        ),
    ]
    widths = [max(len(row[i]) for row in texts) for i in range(len(titles))]
    lines = [
        "  "
        + "  ".join(t.rjust(w) if i in right else t.ljust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True)))
        for row in texts
    ]
    head = " · ".join([result.title, *result.facts])
    plain = [
        head,
        *(line.rstrip() for line in (lines if rows else [])),
        *([result.caption] if result.caption else []),
    ]
    return bundle("\n".join(plain), page)


def _interval(score: Score) -> str:
    """The interval to the places that two of its digits need."""
    return number(score.interval, 2)


def _score(score: Score | None, best: bool) -> str:
    if score is None:
        return "–"
    value = f"<b>{number(score.value)}</b>" if best else number(score.value)
    return value + (f' <span style="{MUTED}">±&nbsp;{_interval(score)}</span>' if score.interval is not None else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _short(value: float) -> str:
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if _is_number(value):
        return f"{value:,}" if isinstance(value, numbers.Integral) else _short(float(value))
    return str(value)
