"""One look inside: the kind that was asked for, its options and texts checked, and what it found with the line that repeats it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from llm_lab.errors import BadType, BadValue, listing
from llm_lab.options import distribute, specs
from llm_lab.probes.options import PROBES, KindOptions
from llm_lab.probes.reading import Reading
from llm_lab.registry import Entry
from llm_lab.results import Result, SideBySide
from llm_lab.store.lm import LM

_COUNT = {0: "none", 1: "one", 2: "two"}


def probe(lms: Sequence[LM], texts: Sequence[str], kind: str, options: Mapping[str, Any]) -> Iterator[Result]:
    """What the probe finds, as it finds it; the last result is whole. Of a kind that takes one model, several give a
    result each, side by side."""
    entry = PROBES.entry(kind)
    own = chosen(entry, options)
    each = own.models == (1, 1) and len(lms) > 1
    if each and getattr(own, "live", False):
        raise BadValue(f"live: it takes one model at a time, and {len(lms)} were given; leave it out, or give one")
    for what, there, (least, most) in (("model", len(lms), own.models), ("text", len(texts), own.texts)):
        if not least <= there <= most and not (each and what == "model"):
            need = _COUNT.get(least, str(least)) if least == most else f"{least} to {most}"
            raise BadValue(
                f"{what}: {there} {what}{'s were' if there != 1 else ' was'} given, and {kind} takes {need}; {_example(entry)}"
            )
    for lm in lms:
        for ability in entry.supports:
            lm.need(
                ability,
                f"probe {kind}",
                "a model of the lab's own parts would do (%build), or lab.record for module outputs",
            )
    if each:
        return _side_by_side(entry, lms, texts, own)
    return _states(entry, Reading(tuple(lms), tuple(texts)), own)


def _states(entry: Entry, reading: Reading, own: KindOptions) -> Iterator[Result]:
    found = entry.load()(reading, own)
    return found if isinstance(found, Iterator) else iter([found])


def _side_by_side(
    entry: Entry, lms: Sequence[LM], texts: Sequence[str], own: KindOptions
) -> Generator[SideBySide, None, None]:
    """One model after the other, the last result as it grows. An interrupt ends the probe that runs, and begins no other."""
    sides = SideBySide(kind=entry.name, names=[lm.name for lm in lms])
    for i, lm in enumerate(lms):
        states = _states(entry, Reading((lm,), tuple(texts)), own)
        for state in states:
            sides.results[i:] = [state]
            try:
                yield sides
            except KeyboardInterrupt:
                if not isinstance(states, Generator):
                    raise
                with contextlib.suppress(KeyboardInterrupt, StopIteration):  # it was whole, and had none to hand back
                    sides.results[i:] = [states.throw(KeyboardInterrupt())]
                yield sides
                return


def chosen(entry: Entry, options: Mapping[str, Any]) -> KindOptions:
    """The options of a kind; BadType for one that it does not have, with the kinds that have it."""
    kind: Any = entry.options
    for name in options:
        others = [other.name for other in PROBES.values() if other.options and name in specs(other.options)]
        if name not in specs(kind) and others:
            raise BadType(
                f"probe {entry.name} has no option {name!r}: it is one of {listing(others)}; leave it out, or use kind {others[0]}"
            )
    (own,) = distribute((kind,), options, "probe")
    return own


def _example(entry: Entry) -> str:
    kind: Any = entry.options
    words = {0: "", 1: '"To be, or not to be"'}.get(
        kind.texts[0], " ".join(f'"text {i + 1}"' for i in range(kind.texts[0]))
    )
    names = ",".join(f"model{i + 1}" for i in range(kind.models[0])) if kind.models[0] > 1 else "bard"
    return f"for example %probe {names} {entry.name} {words}".rstrip()
