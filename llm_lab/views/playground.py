"""The playground, and a text that can be regrown: views in which the kernel writes while a person plays."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from llm_lab.errors import LabError
from llm_lab.results import Generation, Playground
from llm_lab.views import tokens
from llm_lab.views.bundle import esm
from llm_lab.views.card import bundle, card, esc, figures
from llm_lab.views.widget import kernel_widget

_REST = 0.005  # seconds between two states in which the kernel hears what the page says


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
            self._turn = 0  # of what is being written; a later turn ends an earlier one
            self._task: asyncio.Task[None] | None = None
            self._settle()

        def freeze(self) -> None:
            self._turn += 1
            super().freeze()
            self._actions.pop("keep", None)

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            if kind == "stop" and self._generation is not None:
                self._generation.request_stop()
            elif kind == "write":
                prompt, options = message.get("prompt"), message.get("options")
                if isinstance(prompt, str) and isinstance(options, Mapping):
                    self._go(message, self._actions["write"](prompt, options))
            elif kind == "regrow" and self._generation is not None and "regrow" in self._generation.actions:
                where = [message.get(name) for name in ("sample", "at", "token")]
                self._go(message, self._generation.actions["regrow"](*where, None))

        def _go(self, message: Mapping[str, Any], states: Iterator[Generation]) -> None:
            """Write on the loop that the message came in by, so that the next one is heard meanwhile."""
            self._turn += 1
            writing = self._write(self._turn, message.get("id"), states, self._task)
            try:
                self._task = asyncio.get_running_loop().create_task(writing)
            except RuntimeError:
                asyncio.run(writing)

        async def _write(
            self, turn: int, id: Any, states: Iterator[Generation], before: asyncio.Task[None] | None
        ) -> None:
            if before is not None:
                await before
            try:
                for found in states:
                    self._generation = found
                    if not found.done:
                        self.send({"kind": "state", "id": id, "page": tokens.page_of(found)})
                    await asyncio.sleep(_REST)
                    if self._turn != turn:
                        break
            except LabError as error:
                self.send({"kind": "error", "id": id, "text": str(error)})
            except Exception as error:
                self.send({"kind": "error", "id": id, "text": f"{type(error).__name__}: {error}"})
            finally:
                states.close()  # type: ignore[attr-defined]  # a generator
            if self._turn == turn:
                self._settle()
                self.send({"kind": "done", "id": id})

        def _settle(self) -> None:
            """What was written last becomes part of the widget's state, for every view of it."""
            if self._generation is not None:
                self.told = tokens.told(self._generation)
                self.page = tokens.page_of(self._generation)

    return WritingWidget
