"""A conversation: who said what, and how surprising each token of an answer was to the model that gave it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llm_lab.errors import LabError
from llm_lab.results import Chat, Message
from llm_lab.views import tokens
from llm_lab.views.bundle import esm
from llm_lab.views.card import HAIR, MONO, MUTED, bundle, card, clip, esc, is_rtl, readable, small
from llm_lab.views.widget import kernel_widget

_LENGTH = 4000  # characters of one message that are shown
_BUDGET = 240_000  # bytes of all messages that are shown, as HTML and as text
_NAMES = {"user": "you", "system": "system"}


def chat(result: Chat) -> dict[str, str]:
    """Message below message, the model's set apart by its name and a line in blue."""
    out, kept = _newest(result)
    page = "".join(_message(one, result.name) for one in kept)
    if out:
        page = small(f"{out:,} older messages are left out here; .messages has all.") + page
    if not page:
        page = (
            f'<div style="{MUTED}">Nothing is said yet. In a notebook with a kernel there is a box to write in.</div>'
        )
    template = esc(_line(result.template))
    notes = "".join(f"<br>{esc(note)}" for note in result.notes)
    count = sum(one.role == "user" for one in result.messages)
    facts = ["chat", *result.facts, f"{count} exchange{'s' if count != 1 else ''}"]
    body = card(result.name, facts, page, caption=f"Template: {template}{notes}")
    plain = [f"chat · {result.name}", *([f"… {out:,} older messages"] if out else [])]
    plain += [f"{_who(one, result.name)}: {clip(one.text, _LENGTH)}" for one in kept]
    return bundle("\n".join([*plain, *result.notes]), body)


def _newest(result: Chat) -> tuple[int, list[Message]]:
    """(messages left out, those that are shown): the last one, and as many before it as there is room for."""
    room = _BUDGET
    for i in range(len(result.messages) - 1, -1, -1):
        one = result.messages[i]
        room -= len(_message(one, result.name).encode()) + len(clip(one.text, _LENGTH).encode(errors="replace"))
        if room < 0 and i < len(result.messages) - 1:
            return i + 1, result.messages[i + 1 :]
    return 0, result.messages


def _who(message: Message, name: str) -> str:
    return _NAMES.get(message.role, name)


def _message(message: Message, name: str) -> str:
    edge = "2px solid #3d7de6" if message.role == "assistant" else f"2px solid {HAIR}"
    rtl = " dir=auto" if is_rtl(message.text) else ""
    text = esc(_shown(message.text))
    return (
        f'<div style="border-left:{edge};padding:0 0 0 10px;margin:0 0 9px">'
        f'<div style="{MUTED};font-size:12px">{esc(_who(message, name))}</div>'
        f'<div{rtl} style="{MONO};font-size:13px;line-height:1.55">{text}</div></div>'
    )


def _shown(text: str) -> str:
    return readable(clip(text, _LENGTH))


def _line(template: str) -> str:
    return readable(clip(template, 400), "⏎")


def chat_widget(result: Chat) -> Any:
    """The conversation with a box to write in; `.freeze()` leaves the form that is saved."""
    return _widget_class()(result)


@cache
def _widget_class() -> type:
    import traitlets as t

    class ChatWidget(kernel_widget()):  # type: ignore[misc]
        _esm = esm("chat")
        title, template = (t.Unicode().tag(sync=True) for _ in range(2))
        facts, messages, notes = (t.List().tag(sync=True) for _ in range(3))
        left_out = t.Int().tag(sync=True)  # messages before the first one that is shown

        def __init__(self, result: Chat) -> None:
            super().__init__(
                lambda: chat(result), title=result.name, facts=["chat", *result.facts], template=_line(result.template)
            )
            self._result = result
            self.settled()

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            if kind == "say" and isinstance(message.get("text"), str):
                self.go(message.get("id"), self._result.actions["say"](message["text"], {}))
            elif kind == "undo":
                try:
                    self._result.undo()
                except LabError as error:
                    self.send({"kind": "error", "text": str(error)})
                else:
                    self.settled()
            elif kind == "tokens" and message.get("message") in (there := dict(enumerate(self._result.messages))):
                written = there[message["message"]].generation
                if written is not None and written.done:
                    self.send({"kind": "tokens", "message": message["message"], "page": tokens.page_of(written)})

        def halt(self) -> None:
            for one in self._result.messages[-1:]:
                if one.generation is not None:
                    one.generation.request_stop()

        def drawn(self, state: Chat) -> dict[str, Any] | None:
            return None if state.done else {"messages": self._lines(state.messages[-2:])}

        def settled(self) -> None:
            self.notes = self._result.notes
            self.left_out, kept = _newest(self._result)
            self.messages = self._lines(kept)

        def _lines(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
            """What the page draws; how an answer is made of tokens it asks for where that is wanted."""
            return [
                {
                    "who": _who(one, self._result.name),
                    "role": one.role,
                    "text": _shown(one.text),
                    "tokens": one.generation is not None and one.generation.done,
                }
                for one in messages
            ]

    return ChatWidget
