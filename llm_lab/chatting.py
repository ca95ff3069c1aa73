"""A conversation with a model: what each side said, written by the model's template, the oldest left out where it is too
long for the context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_lab.decoding.choosing import choose
from llm_lab.decoding.writing import before_end, stream
from llm_lab.errors import BadType, BadValue, show
from llm_lab.results import Chat, Message
from llm_lab.store.lm import LM
from llm_lab.tokenizers.template import ChatTemplate


def chat(lm: LM, options: Mapping[str, Any], template: str | None, system: str | None) -> Chat:
    """A conversation that has not begun; `options` are of generate, for every answer. Raises BadValue for a model that
    has no template, or does not write on."""
    if not lm.supports & {"next_token", "seq2seq"}:
        raise BadValue(f"chat: {lm.name} does not write on; a model trained with objective clm would do")
    source = template if template is not None else lm.chat_template
    if source is None:
        raise BadValue(
            f'template: {lm.name} has none of its own; say how a conversation is written in what it was trained on, for example --template "Q: {{{{user}}}}\\nA: {{{{assistant}}}}"'
        )
    written = ChatTemplate(source, lm.tokenizer)
    first = [] if not system else [Message("system", system)]
    made = Chat(
        name=lm.name,
        template=written.source,
        facts=[f"context {lm.max_seq_len:,} tokens", lm.tokenizer.kind],
        messages=first,
    )

    def say(text: str, more: Mapping[str, Any]) -> Iterator[Chat]:
        if not isinstance(text, str):
            raise BadType(f'message: {show(text)} is {type(text).__name__}, not text; for example "Who art thou?"')
        asked = {**options, **more}
        general = choose(asked).general
        if general.n != 1:
            raise BadValue(f"n: {general.n} answers cannot go on as one conversation; leave it out")
        before = list(made.messages)
        said = [*before, Message("user", text)]
        prompt, ids, left_out = _fitting(lm, written, said, general.max_new_tokens)
        texts, ends = written.endings
        stop = (*texts, *(general.stop or ()))
        made.done = False
        made.notes = (
            [f"the first {left_out} messages are out of the model's sight: the context is full"] if left_out else []
        )
        try:
            for found in stream(lm, prompt, ids=ids, ends=ends, **{**asked, "stop": stop or None}):
                answer = before_end(found.continuations[0] if found.texts else "", stop).strip()
                made.messages = [*said, Message("assistant", answer, found)]
                made.done = found.done
                if found.done:
                    made.notes += [note for note in dict.fromkeys(found.notes) if note not in made.notes]
                yield made
        except BaseException:
            if not made.done:  # half an exchange would be read as a whole one
                made.messages, made.done = before, True
            raise

    def undo() -> None:
        if not made.done:
            raise BadValue("undo: an answer is being written; stop it first")
        last = max((i for i, one in enumerate(made.messages) if one.role == "user"), default=None)
        if last is None:
            raise BadValue("undo: nothing was said yet")
        made.messages = made.messages[:last]

    made.actions |= {"say": say, "undo": undo}
    return made


def _fitting(lm: LM, template: ChatTemplate, said: list[Message], new: int) -> tuple[str, list[int] | None, int]:
    """(text, tokens, messages left out): as much of the conversation as fits with the answer, the newest first."""
    system = [one for one in said if one.role == "system"]
    rest = [one for one in said if one.role != "system"]
    context = lm.max_seq_len
    room = max(context - new, context // 2)
    for first in range(0, len(rest), 2):
        kept = [*system, *rest[first:]]
        ids = template.ids(kept)
        if len(ids) <= room or (first == len(rest) - 1 and len(ids) < context):
            return template.text(kept), ids, first
    raise BadValue(
        f"message: with its template it takes {len(ids)} tokens, and the context is {context}; say it shorter"
    )
