"""A prompt with its slots marked and filled; and what models made of it: each metric, and the answers row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llm_lab.results import Answer, Prompt, PromptResults, PromptScore
from llm_lab.templates import Slot, Template
from llm_lab.views.card import (
    HAIR,
    MONO,
    MUTED,
    bundle,
    card,
    clip,
    esc,
    fitting,
    number,
    readable,
    small,
    table,
    visible,
)

ROWS = 10  # shown; .to_pandas() has all
KINDS = 4  # columns of answers: templates times models
FIELDS = 6  # columns of values
TEMPLATES = 30
LINES = 60  # of the table of metrics
SAMPLES = 8  # of one answer
LENGTH = 300  # characters of an answer or a value
PROMPT = 4000  # characters of a whole prompt or a template
SHARES = (1, 2, 4, 8, 16, 32)  # of all these, until the page is small enough
_RIGHT, _WRONG = "✓", "✗"


def prompt(result: Prompt) -> dict[str, str]:
    """The templates, and what the first rows make of the first."""
    count = len(result.templates)
    facts = ["prompt", f"{count} templates" if count > 1 else "", _fields(result)]
    plain = [" · ".join([result.name, *(fact for fact in facts if fact)])]
    each = [clip(t.text, PROMPT // min(count, 10)) for t in result.templates[:TEMPLATES]]
    plain += [f"  {line}" for text in each for line in ["---", *text.split("\n")]][1:]
    plain += [f"  the first {TEMPLATES} of {count} templates"] if count > TEMPLATES else []
    plain += [f"  → {visible(clip(text, 300))}" for text in result.preview]
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), fitting(_prompt_page(result, facts, share) for share in SHARES))


def _prompt_page(result: Prompt, facts: Sequence[str], share: int) -> str:
    body = _templates(result, share)
    if result.preview:
        head = f"the first {len(result.preview)} rows, filled{' (template 1)' if len(result.templates) > 1 else ''}"
        body += small(head + _cut(result.preview, PROMPT // share), 10)
        body += "".join(_block(text, PROMPT // share) for text in result.preview)
    caption = f"{esc(result.name)}(df, model=lm) asks a model for every row; {esc(result.name)}.fill(row) is the text."
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    return card(result.name, facts, body, caption=caption)


def results(result: PromptResults) -> dict[str, str]:
    """The templates, a table of metrics, the first rows with their answers."""
    scores, done = result.scores, _done(result)
    count, rows = len(result.prompt.templates), len(result.labels)
    facts = ["prompt", f"{count} templates" if count > 1 else "", ", ".join(result.models), f"{rows:,} rows"]
    facts += [clip(fact, 200) for fact in result.facts]
    facts += [f"seed {result.seed}"] if result.seed is not None else []
    hint = "" if result.done else f"asking… {done:,} of {result.wanted:,}"
    page = fitting(_results_page(result, scores, facts, hint, share) for share in SHARES)
    return bundle(_plain(result, scores, [fact for fact in facts if fact], hint), page)


def _results_page(
    result: PromptResults, scores: Sequence[PromptScore], facts: Sequence[str], hint: str, share: int
) -> str:
    asked, length = result.prompt, PROMPT // share
    body = _templates(asked, share)
    if scores:
        body += '<div style="margin-top:10px"></div>' + _scores(result, scores, share)
    body += _answers(result, share)
    if asked.preview and result.labels:
        body += (
            f'<details style="margin-top:8px"><summary style="{MUTED};font-size:12px">the prompt of row '
            f"{esc(clip(result.labels[0], 40))}{_cut(asked.preview[:1], length)}</summary>"
            f"{_block(asked.preview[0], length)}</details>"
        )
    caption = "".join(f"{esc(note)}<br>" for note in result.notes)
    if scores:
        caption = (
            "± is half of the 95 % confidence interval of the mean over rows, – where it cannot be told. Δ is the difference to the first line, taken "
            f"row by row. More is better everywhere; the best value of a column is bold.<br>{caption}"
            if len({(s.template, s.model) for s in scores}) > 1
            else f"± is half of the 95 % confidence interval of the mean over rows, – where it cannot be told.<br>{caption}"
        )
    return card(asked.name, facts, body, caption=caption.removesuffix("<br>"), hint=hint, done=result.done)


def _fields(result: Prompt) -> str:
    return f"fields {', '.join(clip(name, 40) for name in result.fields)}" if result.fields else "no slots"


def _done(result: PromptResults) -> int:
    return len({(answer.model, answer.template, answer.row) for answer in result.answers})


def _cut(texts: Sequence[str], length: int) -> str:
    """What is to be said where texts are drawn to that length alone."""
    return f", the first {length:,} characters" if any(len(text) > length for text in texts) else ""


def _templates(result: Prompt, share: int) -> str:
    """Each template with its slots shaded; the braces say the same where nothing is."""
    page, count, shown = "", len(result.templates), max(TEMPLATES // share, 2)
    for i, template in enumerate(result.templates[:shown], 1):
        name = f"template {i}" if count > 1 else ""
        head = (name + _cut([template.text], PROMPT // share)).removeprefix(", ")
        page += (small(head, 8 if i > 1 else 0) if head else "") + _pre(_parts(template, PROMPT // share))
    return page + (small(f"the first {shown} of {count} templates", 8) if count > shown else "")


def _parts(template: Template, room: int) -> str:
    page = ""
    for part in template.parts:
        page += esc(readable(clip(part, room))) if isinstance(part, str) else _slot(part)
        room -= len(part) if isinstance(part, str) else len(part.field) + 4
        if room <= 0:
            return page if page.endswith("…") else page + "…" * (part is not template.parts[-1])
    return page


def _slot(part: Slot) -> str:
    name = esc(visible(clip(part.field, 60)))
    return (
        f'<b style="background:rgba(61,125,230,.22);border-radius:3px;padding:0 2px;font-weight:400">{{{{{name}}}}}</b>'
    )


def _pre(content: str) -> str:
    """Text with its breaks (HTML already), a rule at its left."""
    style = f"{MONO};font-size:12px;line-height:1.6;margin:2px 0;border-left:2px solid {HAIR};padding:0 0 0 8px"
    return f'<pre dir="auto" style="{style}">\n{content}</pre>'


def _block(text: str, limit: int) -> str:
    return _pre(esc(readable(clip(text, limit)))).replace("margin:2px 0", "margin:6px 0", 1)


def _kind(result: PromptResults, template: int, model: int) -> str:
    several = len(result.prompt.templates) > 1
    named = [result.models[model]] if len(result.models) > 1 else []
    return " · ".join([*([f"template {template}"] if several else []), *named])


def _scores(result: PromptResults, scores: Sequence[PromptScore], share: int) -> str:
    """A row for each template and model, a column for each metric: value ± interval, and the difference to the first."""
    metrics = list(dict.fromkeys(score.metric for score in scores))
    answered = {(answer.model, answer.template): set[int]() for answer in result.answers}
    for answer in result.answers:
        answered[answer.model, answer.template].add(answer.row)
    lines = [kind for kind in result.kinds if kind in answered]
    shown = lines[: max(LINES // share, 2)]
    found = {(score.metric, score.model, score.template): score for score in scores}
    values = {metric: {score.value for score in scores if score.metric == metric} for metric in metrics}
    best = {metric: max(some) for metric, some in values.items() if len(some) > 1}
    rows = []
    for model, template in shown:
        own, n = [found.get((metric, model, template)) for metric in metrics], len(answered[model, template])
        cells = [_score(score, n, score is not None and score.value == best.get(score.metric)) for score in own]
        rows.append([_named(_kind(result, template, model) or result.models[0]), *cells, f"{n:,}"])
    heads = [
        esc(clip(name, 40).replace("_", " ")) + (f" {_unit(unit)}" if (unit := result.metrics.get(name)) else "")
        for name in metrics
    ]
    more = small(f"the first {len(shown)} of {len(lines)} lines; .summary has all") if len(lines) > len(shown) else ""
    return table(["", *heads, "rows"], rows) + more


def _unit(unit: str) -> str:
    return f'<span style="white-space:nowrap">({esc(unit)})</span>'


def _named(kind: str) -> str:
    """A name that stays on one line."""
    return esc(clip(kind, 60)).replace(" ", "&nbsp;")


def _score(score: PromptScore | None, rows: int, best: bool) -> str:
    if score is None:
        return "–"
    value = f"<b>{number(score.value, 3)}</b>" if best else number(score.value, 3)
    text = value + _plus_minus(score.interval)
    if score.n < rows:
        text += f'<br><span style="{MUTED};font-size:12px">of {score.n:,} rows</span>'
    if score.difference is not None:
        sign = "+" if score.difference > 0 else ""
        text += f'<br><span style="{MUTED};font-size:12px">Δ {sign}{number(score.difference, 2)}{_plus_minus(score.difference_interval)}</span>'
    return text


def _plus_minus(interval: float | None) -> str:
    return f'&nbsp;<span style="{MUTED}">±&nbsp;{number(interval, 2)}</span>'


def _answers(result: PromptResults, share: int) -> str:
    """The first rows: their values, what is right, what each kind of answer says."""
    kinds, length, samples = result.kinds[:KINDS], LENGTH // share, max(SAMPLES // share, 1)
    found: dict[tuple[int, int, int], list[Answer]] = {}
    for answer in result.answers:
        found.setdefault((answer.model, answer.template, answer.row), []).append(answer)
    shown = sorted({row for _, _, row in found})[:ROWS]
    if not shown:
        return small("no row is done yet", 8)
    fields = result.prompt.fields[:FIELDS]
    heads = ["row", *(clip(name, 40) for name in fields), *(["target"] if result.targets else [])]
    heads += [_kind(result, template, model) or "answer" for model, template in kinds]
    judged = _judge(result)
    rows = [
        [
            esc(visible(clip(result.labels[row], 40))),
            *(_text(result.values[row][name], length) for name in fields),
            *([_text(result.targets[row], length)] if result.targets else []),
            *(
                "".join(_answer(one, judged, length) for one in found.get((m, t, row), ())[:samples]) or "–"
                for m, t in kinds
            ),
        ]
        for row in shown
    ]
    head = f"the first {len(shown):,} of {len(result.labels):,} rows" if len(result.labels) > len(shown) else "the rows"
    if judged:
        head += f", {_RIGHT} right and {_WRONG} wrong by {judged.replace('_', ' ')}"
    more = "".join(
        f"; the first {shown:,} of {count:,} {what}"
        for shown, count, what in (
            (KINDS, len(result.kinds), "kinds of answer"),
            (FIELDS, len(result.prompt.fields), "fields"),
            (samples, max(map(len, found.values())), "texts for each"),
        )
        if count > shown
    )
    more += f"; of a text {length} characters" if share > 1 else ""
    return small(esc(head + more), 12) + table([esc(name) for name in heads], rows, left=range(len(heads)))


def _judge(result: PromptResults) -> str:
    """The first metric that says right or wrong."""
    for name in result.metrics:
        values = {answer.scores[name] for answer in result.answers if name in answer.scores}
        values = {value for value in values if not math.isnan(value)}
        if values and values <= {0.0, 1.0}:
            return name
    return ""


def _answer(answer: Answer, judged: str, length: int) -> str:
    value = answer.scores.get(judged, math.nan)
    right = bool(value)
    mark = f'<span title="{"right" if right else "wrong"}">{_RIGHT if right else _WRONG}</span> '
    mark = "" if math.isnan(value) else mark
    return f'<div title="log-prob {number(answer.logprob, 3)} per token">{mark}{_text(answer.text, length)}</div>'


def _text(text: str, length: int) -> str:
    """A text on lines of its own, or – where there is none."""
    shown = esc(readable(clip(text, length))).replace("\n", "<br>") if text else "–"
    return f'<span dir="auto" style="overflow-wrap:anywhere">{shown}</span>'


def _plain(result: PromptResults, scores: Sequence[PromptScore], facts: Sequence[str], hint: str) -> str:
    lines = [" · ".join([result.prompt.name, *facts, *([hint] if hint else [])])]
    for score in scores[:LINES]:
        interval = f" ± {number(score.interval, 2)}"
        kind = _kind(result, score.template, score.model)
        lines.append(
            f"  {f'{kind}  ' if kind else ''}{score.metric}  {number(score.value, 3)}{interval}  ({score.n:,} rows)"
        )
    lines += [f"  the first {LINES} of {len(scores)} numbers; .summary has all"] if len(scores) > LINES else []
    for answer in result.answers[:ROWS]:
        kind = _kind(result, answer.template, answer.model)
        target = f" ({visible(clip(result.targets[answer.row], 60))})" if result.targets else ""
        lines.append(
            f"  {f'{kind} · ' if kind else ''}row {clip(result.labels[answer.row], 40)}: {visible(clip(answer.text, 120))}{target}"
        )
    return "\n".join([*lines, *(f"  {note}" for note in result.notes)])
