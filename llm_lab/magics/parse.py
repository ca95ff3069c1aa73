"""A verb's line and body as a checked call; runs nothing, shows nothing, and needs no notebook."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_lab.corpora.options import CORPORA
from llm_lab.errors import BadType, BadValue, listing, show, suggestion
from llm_lab.machine import uninterrupted
from llm_lab.magics import names
from llm_lab.magics.body import NONE, read_options, read_pieces
from llm_lab.magics.scan import Word, scan
from llm_lab.options import Spec, distribute
from llm_lab.registry import load
from llm_lab.training.options import BUDGETS
from llm_lab.verbs import Arg, Verb

_TEXTS = ("text", "texts")


@dataclass(frozen=True)
class Call:
    """A verb with its arguments, checked and ready to run."""

    verb: Verb
    kwargs: dict[str, Any] = field(default_factory=dict)
    bind_as: str | None = None  # of `--as x`
    notes: tuple[str, ...] = ()  # what was chosen for the user, one line each
    help: bool = False  # only the verb's help is wanted

    @property
    def binds(self) -> tuple[str, ...]:
        """The variables that the result becomes."""
        takers = [arg for arg in self.verb.args if arg.takes in ("new", "run") and not self.help]
        made = [name for name in (self.kwargs[arg.name] for arg in takers) if names.can_be_variable(name)]
        return tuple(dict.fromkeys([*made, *([self.bind_as] if self.bind_as else [])]))

    def run(self) -> tuple[Any, bool]:
        """The result, and whether it is still to be shown."""
        if any(arg.takes in ("new", "run", "model", "models") for arg in self.verb.args):
            with uninterrupted():
                load("llm_lab.store.lm:LM")  # and torch with it
        result = self.verb.load()(**self.kwargs, **({"display": True} if self.verb.draws else {}))
        return result, result is not None and not self.verb.draws


def parse(
    verb: Verb,
    line: str,
    body: str | None = None,
    namespace: names.Namespace | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Call:
    """The call that a magic's line and body ask for; BadValue or BadType in one line where they cannot be read."""
    if not verb.target and "--help" not in line.split():
        verb.load()
    return parse_words(verb, scan(verb.name, line), body, namespace or {}, defaults or {})


def parse_words(
    verb: Verb,
    words: Sequence[Word],
    body: str | None,
    namespace: names.Namespace,
    defaults: Mapping[str, Any],
    *,
    shell: bool = False,
) -> Call:
    """As `parse`, from words. In a shell a bare word may stand for a text, since the shell took the quotes."""
    if any(word.flag == "help" and word.text is None for word in words):
        return Call(verb, help=True)
    reader = _Reader(verb, namespace, shell)
    reader.read_words(words)
    reader.read_body(body)
    return reader.call(defaults)


class _Reader:
    """What has been given so far of one call."""

    def __init__(self, verb: Verb, namespace: names.Namespace, shell: bool) -> None:
        self.verb, self.namespace, self.shell = verb, namespace, shell
        self.specs = verb.specs
        self.args = {arg.name: arg for arg in verb.args}
        self.aliases = {spec.word: name for name, spec in self.specs.items()}
        self.given: dict[str, Any] = {}
        self.bind_as: str | None = None
        self.notes: list[str] = []

    # the line -----------------------------------------------------------------------------------------------------

    def read_words(self, words: Sequence[Word]) -> None:
        bare: list[Word] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word.flag is None:
                bare.append(word)
            else:
                self._flag(word, rest)
        self._positional(bare)

    def _flag(self, word: Word, rest: list[Word]) -> None:
        """Take a flag and, where it has none by `=`, the value from the front of `rest`."""
        name = word.flag or ""
        name = next((arg.name for arg in self.args.values() if arg.also and arg.also == name), name)
        name = self.aliases.get(name, name)
        spec = self.specs.get(name)
        if name != "as" and name not in self.args and spec is None:
            self._refuse_flag(name)
        value = word
        if word.text is None:
            following = rest[0] if rest and rest[0].flag is None else None
            if spec is not None and spec.type is bool:
                said = following and not following.quoted and str(following.text).lower() in ("true", "false")
                value = rest.pop(0) if said else Word("true")
            elif following is None:
                example = spec.show_example() if spec else f"--{name} {'result' if name == 'as' else name.upper()}"
                raise BadType(f"{self.verb.name}: {name} needs a value, for example {example}")
            else:
                value = rest.pop(0)
        if value.text == "=" and not value.quoted:
            raise BadType(f"{self.verb.name}: --{name} = … has spaces around =; write --{name} VALUE or --{name}=VALUE")
        if name == "as":
            self._bind(str(value.text))
        elif spec is not None:
            self._give(name, self._option_value(spec, value))
        else:
            self._give_argument(self.args[name], value)

    def _refuse_flag(self, name: str) -> None:
        near = suggestion(name, self.args)
        if near and not suggestion(name, self.specs):
            raise BadType(f"{self.verb.name} has no option {name!r}{near}")
        distribute(self.verb.options, {name: None}, self.verb.name)  # it names the nearest option

    def _bind(self, name: str) -> None:
        if self.bind_as is not None:
            raise BadType(f"{self.verb.name}: as is given twice: {self.bind_as} and {name}; keep one")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise BadValue(
                f"{self.verb.name}: as {show(name)} cannot be a variable; it takes a name, for example --as result"
            )
        self.bind_as = name

    def _option_value(self, spec: Spec, word: Word) -> Any:
        text = str(word.text)
        if word.quoted:
            return text
        if spec.optional and text.lower() == "none":
            return None
        if text.endswith(",") and spec.many:
            raise BadValue(
                f"{self.verb.name}: {spec.name} {text!r} ends in a comma; write the items without spaces: a,b"
            )
        if spec.many and "," in text:
            return [self._expand(Word(item)) for item in text.split(",")]
        return self._expand(word)

    def _expand(self, word: Word) -> Any:
        return word.text if word.quoted or self.shell else names.expand(word.text, self.namespace)

    def _give(self, name: str, value: Any) -> None:
        if name in self.given:
            raise BadType(
                f"{self.verb.name}: {name} is given twice: {show(self.given[name], 30)} and {show(value, 30)}; keep one"
            )
        self.given[name] = value

    def _give_argument(self, arg: Arg, word: Word) -> None:
        """Names stay as they are written; every other word may be an `@var`."""
        value = word.text if arg.takes in ("new", "run", "model", "models") else self._expand(word)
        if arg.takes == "texts":
            self.given.setdefault(arg.name, []).extend(value if isinstance(value, list | tuple) else [value])
        else:
            self._give(arg.name, _choice(self.verb, arg, value) if arg.takes == "choice" else value)

    def _positional(self, words: list[Word]) -> None:
        """Give each word without a flag to the next argument that can take it."""
        slots = list(self.verb.args)
        for index, word in enumerate(words):
            while slots and self._passes(slots[0], slots[1:], word):
                slots.pop(0)
            if not slots:
                self._refuse_word(word)
            arg = slots[0]
            if arg.takes in _TEXTS:
                self._refuse_bare_text(arg, word, words[index:])
            self._give_argument(arg, word)
            if arg.takes != "texts":
                slots.pop(0)

    def _passes(self, arg: Arg, later: Sequence[Arg], word: Word) -> bool:
        """Whether a word goes to a later argument: a quoted text past the name of a model, a choice past it, …"""
        if later and arg.name in self.given and arg.takes != "texts":
            return word.quoted or word.text not in arg.choices  # a second choice is refused as given twice
        text_follows = any(other.takes in _TEXTS for other in later)
        if arg.takes in ("model", "models"):
            return (word.quoted and text_follows) or self._is_choice(word, later)
        if arg.takes == "choice" and text_follows:
            value = self._expand(word)
            return not self._is_bare(word) and not (isinstance(value, str) and value in arg.choices)
        return False

    def _is_bare(self, word: Word) -> bool:
        return not word.quoted and not self.shell and not str(word.text).startswith("@")

    def _is_choice(self, word: Word, later: Sequence[Arg]) -> bool:
        """Whether the word in a model's place is what may follow one: `%probe attention "…"` with one model there."""
        if word.quoted or not later or word.text not in later[0].choices or word.text in self.namespace:
            return False
        return bool(names.models(self.namespace)) and word.text not in names.run_names()

    def _refuse_word(self, word: Word) -> None:
        verb, text = self.verb, str(word.text)
        name = text.split("=")[0].replace("-", "_")
        if not word.quoted and (name in self.specs or name in self.args):
            raise BadType(f"{verb.name}: {show(text)} stands alone; an option reads --{text}")
        takes = listing(arg.name for arg in verb.args) or "nothing but flags"
        raise BadType(f"{verb.name}: {show(text)} is one word too many; it takes {takes}, for example {verb.example}")

    def _refuse_bare_text(self, arg: Arg, word: Word, rest: list[Word]) -> None:
        if not self._is_bare(word):
            return
        name = str(word.text).split("=")[0].replace("-", "_")
        if "=" in str(word.text) and name in self.specs:
            self._refuse_word(word)
        said = " ".join(str(other.text) for other in rest)[:60].replace('"', '\\"')
        raise BadValue(f'{self.verb.name}: {arg.name} must stand in quotes; write "{said}"')

    # the body -----------------------------------------------------------------------------------------------------

    def read_body(self, body: str | None) -> None:
        if body is None or not body.strip():
            return
        kind = self.verb.body
        if not kind:
            raise BadType(f"{self.verb.name} takes no body; keep only the first line, for example {self.verb.example}")
        if kind == "options":
            for name, value in read_options(self.verb.name, body).items():
                self._give(
                    self.aliases.get(name, name),
                    None if value == NONE else names.expand(_without_none(value), self.namespace),
                )
            return
        if kind in self.given:
            raise BadType(f"{self.verb.name}: {kind} is given twice, on the line and in the body; keep one")
        arg = self.args.get(kind)
        if arg is not None and arg.takes == "corpus":
            self.given[kind] = [body.removesuffix("\n")]
            return
        pieces = read_pieces(self.verb.name, body)
        self.given[kind] = pieces if len(pieces) > 1 or (arg and arg.takes == "texts") else pieces[0]

    # the call -----------------------------------------------------------------------------------------------------

    def call(self, defaults: Mapping[str, Any]) -> Call:
        unknown = {
            name: value for name, value in self.given.items() if name not in self.args and name not in self.specs
        }
        distribute(self.verb.options, unknown, self.verb.name) if unknown else None
        arguments = {name: self._argument(arg) for name, arg in self.args.items() if self._present(arg)}
        options = {name: value for name, value in self.given.items() if name in self.specs}
        budget = any(name in options for name in BUDGETS)
        for name, value in defaults.items():
            if name in self.specs and name not in options and not (budget and name in BUDGETS):
                options[name] = value
        for name in ("model", "init_from"):
            if name in options:
                options[name] = names.model(options[name], self.namespace)
        for name in ("model", "corpus"):
            if isinstance(value := options.get(name), str) and value not in CORPORA:
                names.refuse_bare_variable(self.verb.name, name, value, self.namespace)
        checked: dict[str, Any] = {}
        for made in distribute(self.verb.options_for(options), options, self.verb.name):
            checked |= {name: value for name, value in made.to_dict().items() if name in options}
        return Call(self.verb, {**arguments, **checked}, self.bind_as, tuple(self.notes))

    def _present(self, arg: Arg) -> bool:
        """Whether the argument has a value; the one model of a notebook needs no name."""
        if arg.name in self.given:
            return arg.name not in self.specs
        if not arg.required:
            return False
        if arg.takes in ("model", "models"):
            name, value = names.only_model(self.verb.name, self.namespace, self.verb.example)
            self.given[arg.name] = value
            self.notes.append(f"{self.verb.name}: the model is {name}, the only one here")
            return True
        what = "a name" if arg.takes == "new" else f"a {arg.name}"
        raise BadType(f"{self.verb.name} needs {what}: {arg.help}, for example {self.verb.example}")

    def _argument(self, arg: Arg) -> Any:
        """The value of an argument, checked for its kind."""
        verb, value = self.verb.name, self.given[arg.name]
        if arg.takes == "new" or (arg.takes == "run" and names.can_be_variable(value)):
            self._refuse_choice_as_name(value)
            return names.new_name(verb, value, self.namespace, self.verb.example)
        if arg.takes in ("model", "models"):
            return self._models(arg, value)
        if arg.takes in _TEXTS:
            return _text_value(verb, arg, value)
        if arg.takes == "choice":
            return _choice(self.verb, arg, value)
        if arg.takes == "corpus" and isinstance(value, str) and value not in arg.choices:
            names.refuse_bare_variable(verb, arg.name, value, self.namespace)
        return value

    def _models(self, arg: Arg, value: Any) -> Any:
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        if "" in [item.strip() for item in items if isinstance(item, str)]:
            raise BadValue(f"{self.verb.name}: {arg.name} {show(value)} has an empty name; write a,b without spaces")
        if arg.takes == "model" and len(items) != 1:
            raise BadValue(
                f"{self.verb.name}: {arg.name} {show(value)} is several; it takes one, for example {self.verb.example}"
            )
        found = [
            names.model(self._expand(Word(item)) if isinstance(item, str) else item, self.namespace) for item in items
        ]
        for item in found:
            if isinstance(item, str) and item not in names.run_names():
                names.refuse_bare_variable(self.verb.name, arg.name, item, self.namespace)
        return found if len(found) > 1 else found[0]

    def _refuse_choice_as_name(self, value: Any) -> None:
        for arg in self.verb.args:
            if arg.name not in self.given and isinstance(value, str) and value in arg.choices:
                raise BadValue(
                    f"{self.verb.name}: name {value!r} is a {arg.name}; the name of the new model comes first, "
                    f"for example %{self.verb.name} bard {value}"
                )


def _text_value(verb: str, arg: Arg, value: Any) -> Any:
    items = list(value) if isinstance(value, list | tuple) else [value]
    for item in items:
        if not isinstance(item, str):
            raise BadValue(f"{verb}: {arg.name} {show(item)} is {type(item).__name__}, not text; write it in quotes")
    return items if arg.takes == "texts" or isinstance(value, list | tuple) else value


def _choice(verb: Verb, arg: Arg, value: Any) -> Any:
    if isinstance(value, str) and value in arg.choices:
        return value
    near = suggestion(value, arg.choices)
    texts = [other for other in verb.args if other.takes in _TEXTS]
    hint = f'; a {texts[0].name} stands in quotes: "{str(value)[:40]}"' if texts and not near else ""
    raise BadValue(f"{verb.name}: {arg.name} {show(value)} is unknown{near}; there is: {listing(arg.choices)}{hint}")


def _without_none(value: Any) -> Any:
    return [_without_none(item) for item in value if item != NONE] if isinstance(value, list) else value
