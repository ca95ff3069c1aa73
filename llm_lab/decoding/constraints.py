"""What a text must be. Each constraint is a filter that also knows how many tokens are left, so that the text is finished
in time: tokens are allowed only where a way to the end fits into those that remain."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llm_lab.decoding.filters import Past
from llm_lab.decoding.options import ConstraintOptions
from llm_lab.decoding.spelling import Spelling
from llm_lab.errors import BadValue, listing, show
from llm_lab.tokenizers.tokenizer import Tokenizer


class Constraint:
    """Base: states of a text, the tokens that lead on from each, and how many tokens the nearest end is away."""

    def __init__(self, budget: int, stop: Sequence[int], size: int) -> None:
        self.budget, self.stop, self.size = budget, list(stop), size
        self._states: dict[tuple[int, ...], Any] = {}
        self.forget()
        self._allowed: dict[tuple[Any, int], Tensor] = {}
        self._settled = self.farthest()  # with so many tokens left nothing is out of reach

    def first(self) -> Any:
        """The state of an empty text."""
        raise NotImplementedError

    def farthest(self) -> int:
        """The largest distance to an end that any allowed token can lead to."""
        raise NotImplementedError

    def follow(self, state: Any, token: int) -> Any:
        """The state after one more token; None where the token is not allowed."""
        raise NotImplementedError

    def distances(self, state: Any) -> Float[Tensor, " V"]:
        """For each token, how many more the nearest end is away after it; infinite where it is not allowed."""
        raise NotImplementedError

    def met(self, state: Any) -> bool:
        """Whether a text may end here."""
        raise NotImplementedError

    def __call__(self, logits: Float[Tensor, "R V"], past: Past) -> Float[Tensor, "R V"]:
        left = self.budget - past.written.shape[1]
        allowed = torch.stack([self.allowed(self.state(tuple(row)), left) for row in past.written.tolist()])
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)

    def forget(self) -> None:
        """Let go of what is known of the texts so far: others come."""
        self._states = {(): self.first()}

    def state(self, ids: tuple[int, ...]) -> Any:
        """The state after these tokens; None behind a text that has ended, or is none of the allowed."""
        if ids not in self._states:
            before = self.state(ids[:-1])
            self._states[ids] = None if before is None or ids[-1] in self.stop else self.follow(before, ids[-1])
        return self._states[ids]

    def allowed(self, state: Any, left: int) -> Bool[Tensor, " V"]:
        """The tokens that may come next, `left` being how many may."""
        key = state, min(left, self._settled + 1)
        if key not in self._allowed:
            found = torch.zeros(self.size, dtype=torch.bool)
            if state is not None:
                found = self.distances(state) <= left - 1
                found[self.stop] = self.met(state)
            # A row that has ended is filled up with anything, which is no part of it.
            self._allowed[key] = found if bool(found.any()) else ~found
        return self._allowed[key]

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether a text is complete and nothing that could follow would be in time."""
        state, left = self.state(tuple(ids)), self.budget - len(ids)
        return state is not None and self.met(state) and not bool((self.distances(state) <= left - 1).any())


_END = "\U0010fffd"  # a character of nobody's


class Automaton(Constraint):
    """A regular expression, as an automaton over tokens (outlines-core; Willard and Louf 2023)."""

    def __init__(self, pattern: str, said: str, spelling: Spelling, budget: int, stop: Sequence[int]) -> None:
        from outlines_core import Index, Vocabulary

        size = len(spelling.spelled)
        by_bytes: dict[bytes, list[int]] = {}
        for i, token in enumerate(spelling.spelled):
            if token:
                by_bytes.setdefault(token, []).append(i)
        # The library (0.2.14) loses ways that lead on from an accepting state. So that none lies on the way, a text ends
        # with a sign of its own, and may end where that sign may come.
        by_bytes[_END.encode()] = [size]
        try:
            index = Index(f"(?:{pattern}){_END}", Vocabulary(size + 1, by_bytes))
        except Exception as error:  # the library names no class of its own
            raise BadValue(f'{said}: {_first_line(error)}; for example --regex "[0-9]+"') from None
        self._start = index.get_initial_state()
        found = index.get_transitions()
        self._finals = {state for state, ways in found.items() if size in ways}
        self._ways = {state: {token: to for token, to in ways.items() if token < size} for state, ways in found.items()}
        self._left = self._distances_to_end()
        if self._left.get(self._start, budget + 1) > budget:
            needed = self._left.get(self._start)
            raise BadValue(
                f"{said}: its shortest text takes {needed} tokens, and max_new_tokens is {budget}; use --max_new_tokens {needed}"
                if needed is not None
                else f"{said}: no text of this model's tokens meets it; the tokenizer may lack characters of it"
            )
        super().__init__(budget, stop, size)

    def _distances_to_end(self) -> dict[int, int]:
        """For each state the number of tokens of the shortest way to an accepting one, by breadth-first search."""
        back: dict[int, list[int]] = {}
        for state, ways in self._ways.items():
            for to in set(ways.values()):
                back.setdefault(to, []).append(state)
        found = dict.fromkeys(self._finals, 0)
        queue = deque(self._finals)
        while queue:
            state = queue.popleft()
            for before in back.get(state, ()):
                if before not in found:
                    found[before] = found[state] + 1
                    queue.append(before)
        return found

    def first(self) -> int:
        return self._start

    def farthest(self) -> int:
        return max(self._left.values(), default=0)

    def follow(self, state: int, token: int) -> int | None:
        return self._ways.get(state, {}).get(token)

    def distances(self, state: int) -> Float[Tensor, " V"]:
        found = torch.full((self.size,), torch.inf)
        ways = {token: self._left[to] for token, to in self._ways.get(state, {}).items() if to in self._left}
        if ways:
            found[list(ways)] = torch.tensor(list(ways.values()), dtype=torch.float)
        return found

    def met(self, state: int) -> bool:
        return state in self._finals


class Words(Constraint):
    """Texts that are written somewhere, in any order: free until so many tokens are left as they take.

    A state is what is still missing, the last bytes of the text, and the word that is being written token by token with
    how many of its tokens are there.
    """

    def __init__(
        self, words: Sequence[str], tokenizer: Tokenizer, spelling: Spelling, budget: int, stop: Sequence[int]
    ) -> None:
        self._spelling = spelling
        self._ids = {word.encode(): tokenizer.encode(word) for word in words}
        wrong = [word for word in words if spelling.text(self._ids[word.encode()]) != word.encode()]
        if wrong:
            raise BadValue(f"must: this model's tokenizer cannot write {listing(map(show, wrong))}")
        needed = sum(map(len, self._ids.values()))
        if needed > budget:
            raise BadValue(
                f"must: the texts take {needed} tokens, and max_new_tokens is {budget}; use --max_new_tokens {needed} or more"
            )
        self._longest = max(map(len, self._ids))
        self._free = torch.tensor([0.0 if token else torch.inf for token in spelling.spelled])
        super().__init__(budget, stop, len(spelling.spelled))

    def first(self) -> tuple[tuple[bytes, ...], bytes, tuple[bytes, int] | None]:
        return tuple(self._ids), b"", None

    def farthest(self) -> int:
        return sum(map(len, self._ids.values())) + 1

    def follow(self, state: Any, token: int) -> Any:
        missing, tail, plan = state
        text = tail + self._spelling.spelled[token]
        begun = [(word, 1) for word in missing if self._ids[word][0] == token]
        if plan is not None and self._next(plan) == token:
            begun.insert(0, (plan[0], plan[1] + 1))
        still = tuple(word for word in missing if word not in text)
        going = next((one for one in begun if one[0] in still and one[1] < len(self._ids[one[0]])), None)
        return still, text[-(self._longest - 1) :] if self._longest > 1 else b"", going

    def _next(self, plan: tuple[bytes, int]) -> int:
        word, there = plan
        return self._ids[word][there]

    def distances(self, state: Any) -> Float[Tensor, " V"]:
        missing, _, plan = state
        need = sum(len(self._ids[word]) for word in missing)
        found = self._free + need
        for word in missing:
            found[self._ids[word][0]] = need - 1
        if plan is not None:
            found[self._next(plan)] = need - plan[1] - 1
        return found

    def met(self, state: Any) -> bool:
        return not state[0]

    def ended(self, ids: Sequence[int]) -> bool:
        return False


def constraint(
    options: ConstraintOptions, tokenizer: Tokenizer, budget: int, stop: Sequence[int], size: int
) -> Constraint | None:
    """The constraint that is asked for, for texts of at most `budget` tokens; None where there is none."""
    name = next((name for name, value in options.to_dict().items() if value is not None), None)
    if name is None:
        return None
    spelling = spelled(tokenizer, size, name)
    if options.must is not None:
        return Words(options.must, tokenizer, spelling, budget, stop)
    if options.regex is not None:
        return Automaton(options.regex, f"regex: {show(options.regex)}", spelling, budget, stop)
    return Automaton(schema_pattern(options.json_schema), "json_schema", spelling, budget, stop)


def spelled(tokenizer: Tokenizer, size: int, name: str) -> Spelling:
    """What each of the model's `size` tokens writes; BadValue where that depends on where it stands."""
    found = tokenizer.spelled
    if found is None:
        raise BadValue(
            f"{name}: what a token of this {tokenizer.kind} tokenizer writes depends on where it stands; a model with a char, byte, bpe or unigram tokenizer would do"
        )
    return Spelling([*found, *[b""] * (size - len(found))])


def schema_pattern(schema: Any) -> str:
    """A JSON schema, as text or as a dict, as a regular expression."""
    from outlines_core.json_schema import build_regex_from_schema

    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise BadValue(f"json_schema: {show(schema)} is not JSON: {error}") from None
    if not isinstance(schema, Mapping | bool):
        raise BadValue(
            f'json_schema: {show(schema)} is {type(schema).__name__}; a dict would do, for example {{"type": "integer"}}'
        )
    try:
        return build_regex_from_schema(json.dumps(schema))
    except Exception as error:  # the library names no class of its own
        raise BadValue(f"json_schema: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
