"""What the names on a line stand for: variables of the notebook, models, finished runs."""

from __future__ import annotations

import builtins
import keyword
import os
import unicodedata
from collections.abc import Mapping
from typing import Any

from llm_lab.errors import BadType, BadValue, LabError, listing, show, suggestion
from llm_lab.results import BackgroundRun

Namespace = Mapping[str, Any]


def is_ours(value: object) -> bool:
    """Whether we made it, so that a maker may put another in its place."""
    return type(value).__module__.split(".")[0] == "llm_lab"


def can_be_variable(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)


def is_model(value: object) -> bool:
    """Whether it is a language model: ours, a run in the background, or anything that has a model and a tokenizer."""
    if isinstance(value, BackgroundRun):
        return True
    try:
        return not isinstance(value, type) and hasattr(value, "model") and hasattr(value, "tokenizer")
    except Exception:  # a foreign object's attributes may do anything when asked for
        return False


def models(namespace: Namespace) -> dict[str, Any]:
    """The models among the notebook's variables; one that has two names counts once."""
    found: dict[int, tuple[str, Any]] = {}
    for name, value in list(namespace.items()):
        if not name.startswith("_") and is_model(value):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def run_names() -> list[str]:
    """The names of finished runs, without loading any of them."""
    try:
        from llm_lab.store import runs

        return runs.names()
    except OSError:
        return []


def steps(name: str, namespace: Namespace) -> list[int]:
    """The steps whose checkpoints a model's name, or a run's, may have behind an @."""
    try:
        from llm_lab.store import runs

        run: Any = getattr(namespace.get(name), "run", None) or runs.find(name)
        return list(getattr(run, "checkpoints", ()))
    except (OSError, LabError):
        return []


def variable(name: str, namespace: Namespace) -> Any:
    """What `@name` stands for; BadValue with the nearest name where there is no such variable."""
    if name in namespace:
        return namespace[name]
    if not name.isidentifier():
        raise BadValue(
            f"@{name}: only the name of a variable can follow @; for a text that starts with @ write @@{name}"
        )
    near = suggestion(name, [known for known in namespace if not known.startswith("_")])
    raise BadValue(f"@{name}: there is no variable {name!r}{near}; for a text that starts with @ write @@{name}")


def expand(value: Any, namespace: Namespace) -> Any:
    """`@var` as its object, `@@x` as the text "@x", a list item by item, anything else as it is."""
    if isinstance(value, list):
        return [expand(item, namespace) for item in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    return value[1:] if value.startswith("@@") else variable(value[1:], namespace)


def model(value: Any, namespace: Namespace) -> Any:
    """The variable of that name where it is ours; else the name itself, which the lab looks up among the runs. Of
    `bard@500`, where bard is a variable, the checkpoint of the very run that made it."""
    if isinstance(value, str) and value not in namespace and "@" in value:
        base, _, step = value.rpartition("@")
        held = namespace.get(base)
        if held is None or not is_model(held):
            return value
        folder = getattr(getattr(held, "run", None), "path", None)
        if folder is None:
            raise BadValue(
                f"model: {base} has no run, so no checkpoint {show(value)}; a model made by pretrain has one"
            )
        return f"{folder.name}@{step}"
    if not isinstance(value, str) or value not in namespace:
        return value
    held = namespace[value]
    return held if is_ours(held) or is_model(held) else value


def refuse_bare_variable(verb: str, name: str, value: Any, namespace: Namespace) -> None:
    """BadValue where a word names a variable but lacks its @ and nothing else goes by that name."""
    if isinstance(value, str) and value.isidentifier() and value in namespace and not os.path.exists(value):
        raise BadValue(f"{verb}: {name} {value!r} is a variable of this notebook; write @{value}")


def new_name(verb: str, value: Any, namespace: Namespace, example: str) -> str:
    """A name for a new variable: an identifier whose present holder, if any, is ours."""
    works = f"it takes a name such as bard, for example {example}"
    if not isinstance(value, str) or value.startswith("@"):
        raise BadType(f"{verb}: name {show(value)} cannot be used; {works}")
    name = unicodedata.normalize("NFKC", value)
    if not name.isidentifier() or keyword.iskeyword(name) or len(name) > 64:
        why = (
            "is a word of Python"
            if keyword.iskeyword(name)
            else "is too long"
            if len(name) > 64
            else "cannot be a variable"
        )
        raise BadValue(f"{verb}: name {show(value)} {why}; {works}")
    if name in namespace and not is_ours(namespace[name]):
        kind = type(namespace[name]).__name__
        raise BadValue(
            f"{verb}: name {name!r} is a variable of this notebook ({kind}) that would be lost; choose another name"
        )
    if name not in namespace and hasattr(builtins, name):
        raise BadValue(f"{verb}: name {name!r} is a function of Python that would be hidden; choose another name")
    return name


def only_model(verb: str, namespace: Namespace, example: str) -> tuple[str, Any]:
    """The one model of this notebook; BadType that lists the names where there are several or none."""
    found = models(namespace)
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        raise BadType(f"{verb} needs the name of a model; there is: {listing(found)}, for example {example}")
    runs = run_names()
    has = (
        f"the finished runs are: {listing(runs)}"
        if runs
        else "there is none yet: %%pretrain bard shakespeare trains one"
    )
    raise BadType(f"{verb} needs the name of a model; {has}")
