"""The ways to look inside a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

PROBES = Table(
    "probe",
    [
        Entry(
            "attention",
            "llm_lab.probes.attention:attention",
            "which token reads from which, every head",
            supports=frozenset({"sites"}),
        ),
        Entry(
            "experts",
            "llm_lab.probes.experts:experts",
            "which experts take which token, every layer",
            supports=frozenset({"sites"}),
        ),
        Entry(
            "neighbours",
            "llm_lab.probes.vectors:neighbours",
            "the tokens whose vectors are nearest to each word's",
            supports=frozenset({"embeddings"}),
        ),
        Entry(
            "analogies",
            "llm_lab.probes.vectors:analogies",
            "man is to king as woman is to …, for every three words",
            supports=frozenset({"embeddings"}),
        ),
    ],
)


@dataclass(frozen=True)
class ProbeOptions(Options):
    room: ClassVar[str] = "probe"
    kind: str = option("attention", "what to look at", choices=lambda: PROBES)
    live: bool = option(
        False, "keep the kernel in the loop: the value under the pointer is exact (a widget while the kernel lives)"
    )
