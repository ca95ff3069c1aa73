"""Makes the verbs magics of a running IPython; parses, calls, shows once, binds: all else belongs below."""

from __future__ import annotations

import weakref
from collections import ChainMap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from IPython.core.magic import needs_local_scope, no_var_expand
from IPython.display import display
from traitlets import Dict, validate
from traitlets.config import Configurable

from llm_lab.errors import BadType, LabError, Stopped, show, suggestion
from llm_lab.magics import help as help_pages
from llm_lab.magics.complete import add_matcher
from llm_lab.magics.parse import Call, parse
from llm_lab.magics.transform import CellTransformer, ShowOnce
from llm_lab.results import BackgroundRun
from llm_lab.verbs import VERBS, Verb


class LLMLab(Configurable):  # type: ignore[misc]  # traitlets is untyped here
    """Settings of the magics."""

    defaults = Dict(help="Values for options that a cell does not give, as in {'device': 'cpu', 'seed': 1}.").tag(
        config=True
    )

    _good: Mapping[str, Any] = MappingProxyType({})

    @validate("defaults")  # type: ignore[untyped-decorator]
    def _check(self, proposal: Any) -> dict[str, Any]:
        values = dict(proposal["value"])
        try:
            for name, value in values.items():
                _check_default(name, value)
            self._good = values
        except LabError as error:  # raised, it would leave half a setting behind, or stop %load_ext
            print(f"LLMLab.defaults stays as it was: {error}")
        return dict(self._good)


def _check_default(name: str, value: Any) -> None:
    declared = [verb.specs[name] for verb in VERBS.values() if name in verb.specs]
    if not declared:
        known = {option for verb in VERBS.values() for option in verb.specs}
        raise BadType(f"there is no option {show(name)}{suggestion(name, known)}; %VERB? lists them")
    declared[0].check(value)


def make_magic(ip: Any, verb: Verb, settings: LLMLab) -> Any:
    """The magic of one verb, for lines and cells."""

    def magic(line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        current = VERBS[verb.name]
        call = parse(current, line, cell, ChainMap(local_ns or {}, ip.user_ns), settings.defaults)
        return perform(ip, call)

    magic.__name__, magic.__doc__ = verb.name, help_pages.text(verb)
    return no_var_expand(needs_local_scope(magic))


def perform(ip: Any, call: Call) -> Any:
    """Run a call, show its result exactly once, and bind it to the names it asks for."""
    if call.help:
        return display(help_pages.HelpPage(call.verb))
    for note in call.notes:
        print(note)
    try:
        result, to_show = call.run()
    except KeyboardInterrupt:
        raise Stopped(f"{call.verb.name}: interrupted, and nothing of it is kept") from None
    if result is not None:
        ip.push(dict.fromkeys(call.binds, result))
    if to_show:
        print(result) if isinstance(result, str) else display(result)
    report: Any = None if isinstance(result, BackgroundRun) else getattr(result, "report", None)
    if getattr(report, "status", "") in ("paused", "failed"):
        # An error is what keeps the cells queued behind this one from running on an unfinished model.
        raise Stopped(f"{report.name}: {report.notes[-1]}")
    return result


class _Loaded:
    """What was added to one IPython, so that it can be taken away again."""

    def __init__(self, ip: Any) -> None:
        self.settings = LLMLab(parent=ip)
        self.transformer, self.show_once = CellTransformer(VERBS), ShowOnce(VERBS)
        self.replaced = {
            kind: {name: ip.magics_manager.magics[kind].get(name) for name in VERBS} for kind in ("line", "cell")
        }
        for verb in VERBS.values():
            ip.register_magic_function(
                make_magic(ip, verb, self.settings), magic_kind="line_cell", magic_name=verb.name
            )
        ip.input_transformers_cleanup.append(self.transformer)
        ip.ast_transformers.append(self.show_once)
        ip.configurables.append(self.settings)
        self.remove_matcher = add_matcher(ip)

    def remove(self, ip: Any) -> None:
        for kind, before in self.replaced.items():
            for name, function in before.items():
                ip.magics_manager.magics[kind].pop(name, None)
                if function is not None:
                    ip.magics_manager.magics[kind][name] = function
        for place, thing in (
            (ip.input_transformers_cleanup, self.transformer),
            (ip.ast_transformers, self.show_once),
            (ip.configurables, self.settings),
        ):
            if thing in place:
                place.remove(thing)
        self.remove_matcher()


_loaded: weakref.WeakKeyDictionary[Any, _Loaded] = weakref.WeakKeyDictionary()


def load(ip: Any) -> None:
    """Add the verbs to an IPython; a second time changes nothing."""
    if ip not in _loaded:
        _loaded[ip] = _Loaded(ip)


def unload(ip: Any) -> None:
    """Take the verbs away again."""
    if ip in _loaded:
        _loaded.pop(ip).remove(ip)
