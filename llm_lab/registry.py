"""The visible tables of plug-ins: a name, where its implementation lives, which options it takes, what it supports.

A table holds entry strings ("llm_lab.decoding.samplers:top_p"), so that help and completion cost no import of torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_lab.errors import BadValue, listing, show, suggestion


def load(entry: str) -> Any:
    """The object that an entry string `"module:attribute"` names."""
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    name: str
    target: Any  # "module:attribute", or the object itself where a user added it
    help: str = ""
    options: type | None = None  # the dataclass of its own options
    supports: frozenset[str] = frozenset()  # what it needs or offers, in the table's own words

    def load(self) -> Any:
        return load(self.target) if isinstance(self.target, str) else self.target


class Table(Mapping[str, Entry]):
    """Name -> entry, in the order written. An unknown name is an error that lists what there is."""

    def __init__(self, kind: str, entries: Iterable[Entry]) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> Entry:
        """The line of that name; BadValue with the nearest spelling where there is none."""
        if not isinstance(name, str) or name not in self._entries:
            raise BadValue(f"{self.kind} {show(name)} is unknown{suggestion(name, self)}; there is: {listing(self)}")
        return self._entries[name]

    def load(self, name: str) -> Any:
        """The implementation of that name."""
        return self.entry(name).load()

    def add(self, entry: Entry) -> None:
        """Add a line while the program runs, in place of one of the same name: how a user's own part joins."""
        self._entries[entry.name] = entry
