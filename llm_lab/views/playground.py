"""The playground, and a text that can be regrown: views in which the kernel writes while a person plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

from llm_lab.results import Generation, Playground
from llm_lab.views import tokens
from llm_lab.views.bundle import esm
from llm_lab.views.card import bundle, card, esc, figures
from llm_lab.views.widget import kernel_widget

_RUNNERS_UP = 40_000  # sent along while a kernel answers: they are not saved


def playground(result: Playground) -> dict[str, str]:
    """The form that is saved: what was written last with all that was set, or where the controls stand."""
    if result.generation is not None:
        return tokens.generation(result.generation)
    chosen = next(one for one in result.strategies if one.name == result.strategy)
    rows = [("strategy", f"{chosen.name}: {chosen.help}")]
    rows += [(control.name, str(control.value)) for control in [*chosen.own, *result.general] if control.on]
    caption = "Nothing is written yet. In a notebook with a kernel these are controls."
    page = card(result.name, ["playground", *result.facts], figures(rows), caption=esc(caption))
    plain = "\n".join([f"playground · {result.name}", *(f"  {name:<16} {value}" for name, value in rows), caption])
    return bundle(plain, page)


def playground_widget(result: Playground) -> Any:
    """A prompt, controls, and the text as it is written; `.freeze()` leaves the form that is saved."""
    return _widget_class()(
        lambda: playground(result),
        result.actions,
        result.generation,
        title=result.name,
        facts=["playground", *result.facts],
        prompt=result.prompt,
        strategy=result.strategy,
        strategies=[dataclasses.asdict(one) for one in result.strategies],
        filters=[dataclasses.asdict(one) for one in result.filters],
        general=[dataclasses.asdict(one) for one in result.general],
    )


def regrow_widget(result: Generation) -> Any:
    """A text in which a token can be chosen and another one put in its place; `.freeze()` leaves the form that is saved."""
    return _widget_class()(lambda: tokens.generation(result), result.actions, result, title=result.name)


@cache
def _widget_class() -> type:
    import traitlets as t

    class WritingWidget(kernel_widget()):  # type: ignore[misc]
        _esm = esm("playground")
        title, prompt, strategy = (t.Unicode().tag(sync=True) for _ in range(3))
        facts, strategies, filters, general = (t.List().tag(sync=True) for _ in range(4))
        page = t.Dict().tag(sync=True)
        told = t.Dict().tag(sync=True)  # of what was written last: facts, notes, code

        def __init__(self, still: Any, actions: dict[str, Any], generation: Generation | None, **state: Any) -> None:
            super().__init__(still, **state)
            self._actions, self._generation = actions, generation
            self.settled()

        def halt(self) -> None:
            if self._generation is not None:
                self._generation.request_stop()

        def frozen(self) -> None:
            self._actions.pop("keep", None)

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            if kind == "write":
                prompt, options = message.get("prompt"), message.get("options")
                if isinstance(prompt, str) and isinstance(options, Mapping):
                    self.go(message.get("id"), self._actions["write"](prompt, options, True))
            elif kind == "regrow" and self._generation is not None and "regrow" in self._generation.actions:
                where = [message.get(name) for name in ("sample", "at", "token")]
                self.go(message.get("id"), self._generation.actions["regrow"](*where, None))

        def drawn(self, state: Generation) -> dict[str, Any] | None:
            # Of a text that is regrown only the new one changes.
            only = {len(state.pieces) - 1} if state is self._generation and state.forks else None
            self._generation = state
            return None if state.done else {"page": tokens.page_of(state, only=only)}

        def settled(self) -> None:
            if self._generation is not None and self._generation.done:
                self.told = tokens.told(self._generation)
                self.page = tokens.page_of(self._generation, most=_RUNNERS_UP)

    return WritingWidget
