"""A prompt with its slots marked and filled; and what models made of it: each metric, and the answers row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_lab.results import Answer, Prompt, PromptResults, PromptScore
from llm_lab.views.card import HAIR, MONO, MUTED, bundle, card, clip, esc, number, small, table, visible

ROWS = 10  # shown; .to_pandas() has all
KINDS = 4  # columns of answers: templates times models
LENGTH = 300  # characters of an answer or a value
PROMPT = 4000  # characters of a whole prompt
_RIGHT, _WRONG = "✓", "✗"


def prompt(result: Prompt) -> dict[str, str]:
    """The templates, and what the first rows make of the first."""
    count = len(result.templates)
    facts = ["prompt", f"{count} templates" if count > 1 else "", _fields(result)]
    body = _templates(result)
    if result.preview:
        body += small(f"the first {len(result.preview)} rows, filled{' (template 1)' if count > 1 else ''}", 10)
        body += "".join(_block(text, PROMPT) for text in result.preview)
    caption = f"{esc(result.name)}(df, model=lm) asks a model for every row; {esc(result.name)}.fill(row) is the text."
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    plain = [" · ".join([result.name, *(fact for fact in facts if fact)])]
    plain += [f"  {line}" for text in (t.text for t in result.templates) for line in ["---", *text.split("\n")]][1:]
    plain += [f"  → {visible(clip(text, 300))}" for text in result.preview]
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), card(result.name, facts, body, caption=caption))


def results(result: PromptResults) -> dict[str, str]:
    """The templates, a table of metrics, the first rows with their answers."""
    asked, scores, done = result.prompt, result.scores, _done(result)
    count, rows = len(asked.templates), len(result.labels)
    facts = ["prompt", f"{count} templates" if count > 1 else "", ", ".join(result.models), f"{rows:,} rows"]
    facts += [*result.facts, *([f"seed {result.seed}"] if result.seed is not None else [])]
    body = _templates(asked)
    if scores:
        body += '<div style="margin-top:10px"></div>' + _scores(result, scores)
    body += _answers(result)
    if asked.preview and result.labels:
        body += (
            f'<details style="margin-top:8px"><summary style="{MUTED};font-size:12px">the whole prompt of row '
            f"{esc(clip(result.labels[0], 40))}</summary>{_block(asked.preview[0], PROMPT)}</details>"
        )
    caption = "".join(f"{esc(note)}<br>" for note in result.notes)
    if scores:
        caption = (
            "± is half of the 95 % confidence interval of the mean over rows. Δ is the difference to the first line, taken "
            f"row by row. More is better everywhere; the best value of a column is bold.<br>{caption}"
            if len({(s.template, s.model) for s in scores}) > 1
            else f"± is half of the 95 % confidence interval of the mean over rows.<br>{caption}"
        )
    hint = "" if result.done else f"asking… {done:,} of {result.wanted:,}"
    page = card(asked.name, facts, body, caption=caption.removesuffix("<br>"), hint=hint)
    return bundle(_plain(result, scores, [fact for fact in facts if fact], hint), page)


def _fields(result: Prompt) -> str:
    return f"fields {', '.join(clip(name, 40) for name in result.fields)}" if result.fields else "no slots"


def _done(result: PromptResults) -> int:
    return len({(answer.model, answer.template, answer.row) for answer in result.answers})


def _templates(result: Prompt) -> str:
    """Each template with its slots shaded; the braces say the same where nothing is."""
    page = ""
    for i, template in enumerate(result.templates, 1):
        head = small(f"template {i}", 8 if i > 1 else 0) if len(result.templates) > 1 else ""
        page += head + _pre("".join(map(_part, template.parts)))
    return page


def _part(part: Any) -> str:
    if isinstance(part, str):
        return esc(_lines(clip(part, PROMPT)))
    name = esc(visible(clip(part.field, 60)))
    return (
        f'<b style="background:rgba(61,125,230,.22);border-radius:3px;padding:0 2px;font-weight:400">{{{{{name}}}}}</b>'
    )


def _pre(content: str) -> str:
    """Text with its breaks (HTML already), a rule at its left."""
    style = f"{MONO};font-size:12px;line-height:1.6;margin:2px 0;border-left:2px solid {HAIR};padding:0 0 0 8px"
    return f'<pre dir="auto" style="{style}">\n{content}</pre>'


def _block(text: str, limit: int) -> str:
    return _pre(esc(_lines(clip(text, limit)))).replace("margin:2px 0", "margin:6px 0", 1)


def _lines(text: str) -> str:
    return "\n".join(visible(line) if line else "" for line in text.split("\n"))


def _kinds(result: PromptResults) -> list[tuple[int, int]]:
    """(model, template) of every kind of answer."""
    return [(m, t) for m in range(len(result.models)) for t in range(1, len(result.prompt.templates) + 1)]


def _kind(result: PromptResults, template: int, model: str) -> str:
    several = len(result.prompt.templates) > 1
    return " · ".join([*([f"template {template}"] if several else []), *([model] if len(result.models) > 1 else [])])


def _scores(result: PromptResults, scores: Sequence[PromptScore]) -> str:
    """A row for each template and model, a column for each metric: value ± interval, and the difference to the first."""
    metrics = list(dict.fromkeys(score.metric for score in scores))
    lines = list(dict.fromkeys((score.model, score.template) for score in scores))
    found = {(score.metric, score.model, score.template): score for score in scores}
    values = {metric: {score.value for score in scores if score.metric == metric} for metric in metrics}
    best = {metric: max(some) for metric, some in values.items() if len(some) > 1}
    rows = []
    for model, template in lines:
        own = [found.get((metric, model, template)) for metric in metrics]
        cells = [_score(score, score is not None and score.value == best.get(score.metric)) for score in own]
        n = next((score.n for score in own if score is not None), 0)
        rows.append([_named(_kind(result, template, model) or result.models[0]), *cells, f"{n:,}"])
    heads = [
        esc(clip(name, 40).replace("_", " ")) + (f" {_unit(unit)}" if (unit := result.metrics.get(name)) else "")
        for name in metrics
    ]
    return table(["", *heads, "rows"], rows)


def _unit(unit: str) -> str:
    return f'<span style="white-space:nowrap">({esc(unit)})</span>'


def _named(kind: str) -> str:
    """A name that stays on one line."""
    return esc(clip(kind, 60)).replace(" ", "&nbsp;")


def _score(score: PromptScore | None, best: bool) -> str:
    if score is None:
        return "–"
    value = f"<b>{number(score.value, 3)}</b>" if best else number(score.value, 3)
    text = value + _plus_minus(score.interval)
    if score.difference is not None:
        sign = "+" if score.difference > 0 else ""
        text += f'<br><span style="{MUTED};font-size:12px">Δ {sign}{number(score.difference, 2)}{_plus_minus(score.difference_interval)}</span>'
    return text


def _plus_minus(interval: float | None) -> str:
    return f'&nbsp;<span style="{MUTED}">±&nbsp;{number(interval, 2)}</span>' if interval is not None else ""


def _answers(result: PromptResults) -> str:
    """The first rows: their values, what is right, what each kind of answer says."""
    kinds = _kinds(result)[:KINDS]
    found: dict[tuple[int, int, int], list[Answer]] = {}
    for answer in result.answers:
        found.setdefault((answer.model, answer.template, answer.row), []).append(answer)
    shown = sorted({row for _, _, row in found})[:ROWS]
    if not shown:
        return small("no row is done yet", 8)
    fields = result.prompt.fields
    heads = ["row", *(clip(name, 40) for name in fields), *(["target"] if result.targets else [])]
    heads += [_kind(result, template, result.models[model]) or "answer" for model, template in kinds]
    judged = _judge(result)
    rows = [
        [
            esc(visible(clip(result.labels[row], 40))),
            *(_text(result.values[row][name]) for name in fields),
            *([_text(result.targets[row])] if result.targets else []),
            *("".join(_answer(one, judged) for one in found.get((m, t, row), ())) or "–" for m, t in kinds),
        ]
        for row in shown
    ]
    head = f"the first {len(shown):,} of {len(result.labels):,} rows" if len(result.labels) > len(shown) else "the rows"
    if judged:
        head += f", {_RIGHT} right and {_WRONG} wrong by {judged.replace('_', ' ')}"
    more = "" if len(_kinds(result)) <= KINDS else f"; the first {KINDS} of {len(_kinds(result))} kinds of answer"
    return small(esc(head + more), 12) + table([esc(name) for name in heads], rows, left=range(len(heads)))


def _judge(result: PromptResults) -> str:
    """The first metric that says right or wrong."""
    for name in result.metrics:
        values = {answer.scores[name] for answer in result.answers if name in answer.scores}
        if values and values <= {0.0, 1.0}:
            return name
    return ""


def _answer(answer: Answer, judged: str) -> str:
    right = bool(answer.scores.get(judged))
    mark = f'<span title="{"right" if right else "wrong"}">{_RIGHT if right else _WRONG}</span> ' if judged else ""
    return f'<div title="log-prob {number(answer.logprob, 3)} per token">{mark}{_text(answer.text)}</div>'


def _text(text: str) -> str:
    """A text on lines of its own, or – where there is none."""
    shown = esc(_lines(clip(text, LENGTH))).replace("\n", "<br>") if text else "–"
    return f'<span dir="auto" style="overflow-wrap:anywhere">{shown}</span>'


def _plain(result: PromptResults, scores: Sequence[PromptScore], facts: Sequence[str], hint: str) -> str:
    lines = [" · ".join([result.prompt.name, *facts, *([hint] if hint else [])])]
    for score in scores:
        interval = "" if score.interval is None else f" ± {number(score.interval, 2)}"
        kind = _kind(result, score.template, score.model)
        lines.append(
            f"  {f'{kind}  ' if kind else ''}{score.metric}  {number(score.value, 3)}{interval}  ({score.n:,} rows)"
        )
    for answer in result.answers[:ROWS]:
        kind = _kind(result, answer.template, result.models[answer.model])
        target = f" ({visible(clip(result.targets[answer.row], 60))})" if result.targets else ""
        lines.append(
            f"  {f'{kind} · ' if kind else ''}row {result.labels[answer.row]}: {visible(clip(answer.text, 120))}{target}"
        )
    return "\n".join([*lines, *(f"  {note}" for note in result.notes)])
