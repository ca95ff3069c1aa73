"""Chat templates: a conversation as the text that a model goes on from, and what ends its answer.

A template is Jinja, as published models bring one, or short: an exchange with `{{user}}` and `{{assistant}}` in it, such as
`Q: {{user}}` and on the next line `A: {{assistant}}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llm_lab.errors import BadType, BadValue, show
from llm_lab.results import Message
from llm_lab.tokenizers.tokenizer import Tokenizer

_SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_ANSWER = "\ue000answer\ue001"  # stands for an answer where the text around one is looked for
_WORKS = 'an exchange such as "Q: {{user}}\\nA: {{assistant}}"'


class Template:
    """How a conversation is written for one model. Raises BadValue where the template cannot be used."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        if not isinstance(source, str):
            raise BadType(f"template: {show(source)} is {type(source).__name__}, not text; {_WORKS} would do")
        self.source, self.tokenizer = source, tokenizer
        self.is_jinja = "{%" in source or "messages" in source
        if not self.is_jinja:
            self.source = source.replace("\\n", "\n")  # as it stands in quotes on a line
            slots = _SLOT.findall(source)
            if slots != ["user", "assistant"]:
                raise BadValue(
                    f"template: {show(source)} has the slots {slots or 'nothing'}; it takes {{{{user}}}} and then {{{{assistant}}}}, once each: {_WORKS}"
                )
        self.endings = self._endings()

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the answer begins."""
        return self._jinja(messages, True) if self.is_jinja else self._short(messages)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The same as tokens. Reserved tokens are the template's alone: in a message they are text."""
        names = self._reserved
        said = [name for name in names if any(name in message.text for message in messages)]
        if not said:
            return self.tokenizer.encode_markup(self.text(messages))
        hidden = {name: f"\ue000{i}\ue001" for i, name in enumerate(said)}
        quoted = [Message(one.role, _swap(one.text, hidden)) for one in messages]
        back = {sign: name for name, sign in hidden.items()}
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, names))})", self.text(quoted)):
            ids += [names[part]] if part in names else self.tokenizer.encode(_swap(part, back)) if part else []
        return ids

    def _endings(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """(texts, reserved tokens) that end an answer: what follows one in the template."""
        ends = tuple(one for one in [self.tokenizer.end] if one is not None)
        if self.is_jinja:
            said = [Message("user", "x"), Message("assistant", _ANSWER)]
            _, found, after = self._jinja(said, False).rpartition(_ANSWER)
            if not found:
                raise BadValue("template: it leaves out what the assistant said; a chat template of messages would do")
            names = self._reserved
            first = next((name for name in names if after.lstrip().startswith(name)), None)
            if first is not None:
                return (), tuple(dict.fromkeys([names[first], *ends]))
            for name in names:
                after = after.partition(name)[0]
            return ((after,) if after.strip() or "\n" in after else ()), ends
        after = self.source.rpartition("}}")[2]
        return (after + self._between,), ends

    @property
    def _between(self) -> str:
        """What stands between two exchanges, where the template does not end in it."""
        if self.source.endswith("\n"):
            return ""
        return "\n\n" if "\n\n" in self.source else "\n"

    @cached_property
    def _reserved(self) -> dict[str, int]:
        """The reserved tokens by how a template writes them, the longest first."""
        names = {self.tokenizer.backend.id_to_token(i): i for i in self.tokenizer.special_ids}
        return dict(sorted(((name, i) for name, i in names.items() if name), key=lambda pair: -len(pair[0])))

    def _short(self, messages: Sequence[Message]) -> str:
        system = [one.text for one in messages if one.role == "system"]
        page = "".join(f"{text}{self._between or chr(10)}" for text in system)
        said = [one for one in messages if one.role != "system"]
        for user, answer in zip(said[::2], [*said[1::2], None], strict=False):
            if answer is None:
                page += self._fill(self.source.rpartition("{{")[0], user.text, "").rstrip(" ")
            else:
                page += self._fill(self.source, user.text, answer.text) + self._between
        return page

    def _fill(self, text: str, user: str, assistant: str) -> str:
        return _SLOT.sub(lambda slot: {"user": user, "assistant": assistant}[slot[1]], text)

    def _jinja(self, messages: Sequence[Message], begins: bool) -> str:
        """As transformers renders it: in a sandbox, blocks without the lines that they stand on."""
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(why: str) -> None:
            raise jinja2.TemplateError(why)

        names = {name: self.tokenizer.backend.id_to_token(i) for name, i in self.tokenizer.specials.items()}
        given: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
        given |= {"messages": [{"role": one.role, "content": one.text} for one in messages]}
        room = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        room.globals["raise_exception"] = refuse
        try:
            return room.from_string(self.source).render(add_generation_prompt=begins, **given)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise BadValue(f"template: it cannot be rendered: {error}; give another, {_WORKS}") from None


def _swap(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text
