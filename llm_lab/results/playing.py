"""What a person plays with: the controls of decoding, and a conversation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.registry import load
from llm_lab.results.base import Result, in_notebook
from llm_lab.results.decoding import Generation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Control:
    """One option as a person may move it: a slider with its ends, a list of names, a switch, a box for text or a number."""

    name: str
    kind: str  # slider | number | choice | switch | text
    help: str
    unit: str = ""
    value: Any = None  # what it stands at
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    whole: bool = False
    choices: list[str] = field(default_factory=list)
    optional: bool = False  # off unless it is wanted
    on: bool = True


@dataclass(frozen=True, kw_only=True)
class StrategyControls:
    """A strategy in a list to choose from, with what can be moved of it."""

    name: str
    help: str
    draws: bool
    own: list[Control]
    without: list[str]  # filters that say what one of its own options says, or that have no meaning for it


@dataclass(eq=False, kw_only=True)
class Playground(Result):
    """A prompt and every control of decoding, moved while the model writes. Shows itself as a widget until it is frozen.

    `.generation` is what was written last, or None. `actions`: `write(prompt, options)` gives it as it grows.
    """

    renderer: ClassVar[str] = "llm_lab.views.playground:playground"
    name: str
    facts: list[str] = field(default_factory=list)
    prompt: str = ""
    strategy: str = ""
    strategies: list[StrategyControls] = field(default_factory=list)
    filters: list[Control] = field(default_factory=list)
    general: list[Control] = field(default_factory=list)
    generation: Generation | None = None
    notes: list[str] = field(default_factory=list)

    def write(self, prompt: str | None = None, **options: Any) -> Generation:
        """Write once with these options, as a movement of the controls does."""
        for found in self.actions["write"](self.prompt if prompt is None else prompt, options):
            self.generation = found
        assert self.generation is not None, "at least one state is given"
        return self.generation

    def widget(self) -> Any:
        """The controls with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.playground:playground_widget")(self)

    def _ipython_display_(self) -> None:
        if not in_notebook():
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()


@dataclass(frozen=True, eq=False)
class Message:
    """What one side of a conversation said."""

    role: str  # user | assistant | system
    text: str
    generation: Generation | None = None  # how a model wrote it


@dataclass(eq=False, kw_only=True)
class Chat(Result):
    """A conversation with a model. Shows itself as a widget until it is frozen.

    `actions`: `say(text, options)` gives the chat as the answer grows, `undo()` takes the last exchange away.
    """

    renderer: ClassVar[str] = "llm_lab.views.chat:chat"
    name: str
    template: str
    facts: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    done: bool = True  # False while an answer is written
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The last answer."""
        return next((one.text for one in reversed(self.messages) if one.role == "assistant"), "")

    def say(self, text: str, **options: Any) -> Chat:
        """Say something, and let the model answer; options of generate are for this answer alone."""
        for _ in self.actions["say"](text, options):
            pass
        return self

    def undo(self) -> Chat:
        """Take the last exchange away."""
        self.actions["undo"]()
        return self

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([{"role": one.role, "text": one.text} for one in self.messages], columns=["role", "text"])

    def widget(self) -> Any:
        """The conversation with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.chat:chat_widget")(self)

    def _ipython_display_(self) -> None:
        if not in_notebook() or "say" not in self.actions:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()
