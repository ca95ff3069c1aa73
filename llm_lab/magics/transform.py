"""What a cell's text needs before IPython reads it, so that our verbs reach us as they were written.

IPython refuses a cell magic without a body, takes a comment above `%%` for the cell's first line, and a `?` at the end
of a line for a request for help. Cells without one of our verbs are returned untouched.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

_ASSIGN = r"(?:[\w.]+[ \t]*(?:,[ \t]*[\w.]+[ \t]*)*=[ \t]*)?"


class CellTransformer:
    """For `ip.input_transformers_cleanup`: the lines of a cell in, the lines that IPython is to read out."""

    def __init__(self, verbs: Iterable[str]) -> None:
        verb = f"(?P<verb>{'|'.join(map(re.escape, verbs))})"
        self._cell = re.compile(rf"[ \t]*%%{verb}(?P<rest>(?!\w).*)", re.DOTALL)
        self._help = re.compile(rf"(?P<lead>[ \t]*)(?=.*\?)\?{{0,2}}[ \t]*%{{1,2}}{verb}[ \t]*\?{{0,2}}\s*", re.DOTALL)
        self._line = re.compile(rf"(?P<lead>[ \t]*{_ASSIGN})%{verb}(?P<rest>[^\S\n].*)", re.DOTALL)

    def __call__(self, lines: list[str]) -> list[str]:
        first = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), None)
        if first is None:
            return lines
        if lines[first].lstrip().startswith("%%"):
            return self._cell_magic(lines, first)
        return self._line_magics(lines)

    def _cell_magic(self, lines: list[str], first: int) -> list[str]:
        if match := self._help.fullmatch(lines[first]):
            return [f"%{match['verb']} --help\n"]
        match = self._cell.fullmatch(lines[first])
        if not match:
            return lines
        # IPython splits the verb from its arguments at a plain space only, and refuses an empty body
        head = f"%%{match['verb']} {match['rest'].strip()}".rstrip() + "\n"
        body = lines[first + 1 :]
        return [head, *body] if "".join(body) else [head, "\n"]

    def _line_magics(self, lines: list[str]) -> list[str]:
        wanted = [i for i, line in enumerate(lines) if self._rewrite(line) is not None]
        if not wanted:
            return lines
        starts = _logical_starts(lines)
        return [(self._rewrite(line) or line) if i in starts and i in wanted else line for i, line in enumerate(lines)]

    def _rewrite(self, line: str) -> str | None:
        """The line in a form that IPython passes on verbatim; None where it does so anyway."""
        if match := self._help.fullmatch(line):
            return f"{match['lead']}%{match['verb']} --help\n"
        match = self._line.fullmatch(line)
        if not match or not (match["rest"].rstrip().endswith("?") or match["rest"][0] != " "):
            return None
        return f"{match['lead']}get_ipython().run_line_magic({match['verb']!r}, {match['rest'].strip()!r})\n"


def _logical_starts(lines: list[str]) -> set[int]:
    """The lines that start a statement: a line inside a string or an open bracket is text, not a magic."""
    from IPython.core.inputtransformer2 import make_tokens_by_line

    return {tokens[0].start[0] - 1 for tokens in make_tokens_by_line(lines) if tokens}


class ShowOnce(ast.NodeTransformer):
    """For `ip.ast_transformers`: a verb that stands alone shows its own result, and `Out` not once more."""

    def __init__(self, verbs: Iterable[str]) -> None:
        self._verbs = frozenset(verbs)

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:  # named by ast
        match node.value:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Call(func=ast.Name("get_ipython")), attr="run_line_magic" | "run_cell_magic"
                ),
                args=[ast.Constant(str(verb)), *_],
            ) if verb in self._verbs:
                both = ast.Tuple([node.value, ast.Constant(None)], ast.Load())
                return ast.Expr(ast.Subscript(both, ast.Constant(1), ast.Load()))
        return node
