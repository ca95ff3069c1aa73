"""trackio: its own local database, or where TRACKIO_SPACE_ID and TRACKIO_SERVER_URL say."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from llm_lab.loggers.logger import PROJECT, Logger, Names, library, sampled, settings, verbatim


class Trackio(Logger):
    look = f"trackio show --project {PROJECT}"

    def __init__(self) -> None:
        self.trackio = library("trackio")

    def start(self, about: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
        self.names, self.step = Names(about), int(about["step"])
        name = f"{about['name']}-{about['id']}"
        with _quiet():
            self.run = self.trackio.init(
                project=PROJECT, name=name, config=settings(about), resume="allow" if kept else "never", embed=False
            )
        self.there = getattr(self.run, "_next_step", 0)  # of a run that goes on: the first step that it has not
        return {"run": name}

    def tell(self, event: Mapping[str, Any]) -> None:
        found: dict[str, Any] = dict(self.names.numbers(event))
        if text := sampled(event):
            found["sample"] = self.trackio.Markdown(verbatim(text))
        self.step = event.get("step", self.step)
        if found and self.step >= self.there:
            self.run.log(found, step=self.step)

    def close(self, status: str, final: Mapping[str, float]) -> None:
        if final:
            self.run.log({f"final/{name}": value for name, value in final.items()}, step=self.step)
        with _quiet():
            self.run.finish()


class _OthersOnly:
    """A stream that what this thread prints does not reach."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.thread else int(self.stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library tells on stdout what the card says already."""
    with contextlib.redirect_stdout(_OthersOnly(sys.stdout)):  # type: ignore[type-var]  # it has what a stream has
        yield
