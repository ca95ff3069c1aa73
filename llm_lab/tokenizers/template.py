"""Chat templates: a conversation as the text that a model goes on from, and what ends its answer.

A template is Jinja, as published models bring one, or short: an exchange with `{{user}}` and `{{assistant}}` in it, such as
`Q: {{user}}` and on the next line `A: {{assistant}}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

from llm_lab.errors import BadType, BadValue, show
from llm_lab.results import Message
from llm_lab.templates import Slot, Template
from llm_lab.tokenizers.tokenizer import Tokenizer

_JINJA = re.compile(r"\{%|\{\{(?:(?!\}\}).)*\bmessages\b", re.DOTALL)
_ANSWER = "\ue000"  # stands for an answer where the text around one is looked for
_PRIVATE = 0xF0000  # characters that stand for those of a message begin here
_WORKS = 'an exchange such as "Q: {{user}}\\nA: {{assistant}}"'


def is_jinja(source: str) -> bool:
    """Whether a template is Jinja: it has a block, or writes something of `messages`."""
    return _JINJA.search(source) is not None


class ChatTemplate:
    """How a conversation is written for one model. Raises BadValue where the template cannot be used.

    `endings` are (texts, reserved tokens) that end an answer: what follows one in the template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        if not isinstance(source, str):
            raise BadType(f"template: {show(source)} is {type(source).__name__}, not text; {_WORKS} would do")
        self.source, self.tokenizer = source, tokenizer
        self.is_jinja = is_jinja(source)
        if not self.is_jinja:
            self.source = source.replace("\\n", "\n")  # as it stands in quotes on a line
            slots = [part.field for part in self._exchange.parts if isinstance(part, Slot)]
            if slots != ["user", "assistant"]:
                raise BadValue(
                    f"template: {show(source)} has the slots {slots or 'nothing'}; it takes {{{{user}}}} and then {{{{assistant}}}}, once each: {_WORKS}"
                )
        self.endings = self._endings()

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the answer begins."""
        return self._rendered(messages, True) if self.is_jinja else self._short(messages)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The same as tokens. Reserved tokens are the template's alone: in a message they are text, and so is what only
        a message and the template together make one."""
        text, names = self.text(messages), self._reserved
        own = self._own(text, messages)
        ids = self.tokenizer.encode_markup(text)
        if [i for i in ids if i in self._written] == [names[one[0]] for one in own]:
            return ids
        ids, at = [], 0
        for one in own:
            ids += [*self._plain(text[at : one.start()]), names[one[0]]]
            at = one.end()
        return ids + self._plain(text[at:])

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text) if text else []

    def _own(self, text: str, messages: Sequence[Message]) -> list[re.Match[str]]:
        """The reserved tokens in a rendered text that are the template's.

        It is rendered once more, with other characters in the messages for those that reserved tokens have. Where a
        template does not look into messages, the rest is the same, and what stands there is its own. Else it has
        as many as it would have then.
        """
        found = list(self._names.finditer(text))
        if not found:
            return []
        apart = {ord(char): _PRIVATE + i for i, char in enumerate(sorted(set("".join(self._reserved))))}
        back = {other: char for char, other in apart.items()}
        other = self.text([Message(one.role, one.text.translate(apart)) for one in messages])
        own = list(self._names.finditer(other))
        if len(other) == len(text) and all(a == b or ord(b) in back for a, b in zip(text, other, strict=True)):
            return own
        if [one[0] for one in own] == [one[0] for one in found]:
            return found
        # Every other piece is reserved.
        a, b = ([(i % 2, p.translate(back)) for i, p in enumerate(self._names.split(one))] for one in (text, other))
        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        return [found[i // 2] for block in blocks for i in range(block.a, block.a + block.size) if i % 2]

    @cached_property
    def _reserved(self) -> dict[str, int]:
        """The reserved tokens by how a template writes them, the longest first."""
        names = {self.tokenizer.backend.id_to_token(i): i for i in self.tokenizer.special_ids}
        return dict(sorted(((name, i) for name, i in names.items() if name), key=lambda pair: -len(pair[0])))

    @cached_property
    def _names(self) -> re.Pattern[str]:
        return re.compile(f"({'|'.join(map(re.escape, self._reserved)) or '(?!)'})")

    @cached_property
    def _written(self) -> set[int]:
        """The ids that stand for nothing but reserved tokens: what is unknown has one that text may have too."""
        return set(self._reserved.values()) - {self.tokenizer.specials.get("unk")}

    def _endings(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        if self.is_jinja:
            said = [Message("user", "x"), Message("assistant", _ANSWER)]
            _, found, after = self._rendered(said, False).rpartition(_ANSWER)
            if not found:
                raise BadValue("template: it leaves out what the assistant said; a chat template of messages would do")
        else:
            after = self._short([Message("user", "x"), Message("assistant", _ANSWER)]).rpartition(_ANSWER)[2]
        before, *reserved = self._names.split(after)
        if reserved and not before.strip():
            return (), (self._reserved[reserved[0]],)
        return ((before,) if before.strip() or "\n" in before else ()), ()

    @cached_property
    def _exchange(self) -> Template:
        return Template.read(self.source) if self.source.strip() else Template("", ())

    @property
    def _between(self) -> str:
        """What stands between two exchanges, where the template does not end in it."""
        if self.source.endswith("\n"):
            return ""
        return "\n\n" if "\n\n" in self.source else "\n"

    def _short(self, messages: Sequence[Message]) -> str:
        system = [one.text for one in messages if one.role == "system"]
        page = "".join(f"{text}{self._between or chr(10)}" for text in system)
        said = [one for one in messages if one.role != "system"]
        whole = self._exchange
        begun = Template(whole.text, whole.parts[: whole.parts.index(Slot("assistant"))])
        for user, answer in zip(said[::2], [*said[1::2], None], strict=False):
            if answer is None:
                page += begun.fill({"user": user.text}).rstrip(" ")
            else:
                page += whole.fill({"user": user.text, "assistant": answer.text}) + self._between
        return page

    def _rendered(self, messages: Sequence[Message], begins: bool) -> str:
        """As transformers renders it."""
        names = {name: self.tokenizer.backend.id_to_token(i) for name, i in self.tokenizer.specials.items()}
        given: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
        given |= {"messages": [{"role": one.role, "content": one.text} for one in messages]}
        try:
            return self._jinja.render(**given, tools=None, documents=None, add_generation_prompt=begins)
        except Exception as error:  # a template is a program, and may fail in any way
            why = str(error)[:200] or type(error).__name__
            raise BadValue(f"template: it cannot be rendered: {why}; give another, {_WORKS}") from None

    @cached_property
    def _jinja(self) -> Any:
        from llm_lab.tokenizers.jinja import Jinja

        return Jinja(self.source)
