"""Joins a view's static HTML with the script that makes it interactive where a notebook is trusted.

It knows how modules, styles and data travel inside a page; it does not know what they show. Everything is deflated and
base64: no data ever stands inside code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"


@cache
def esm(name: str) -> str:
    """The ES module of a view in one piece: the modules that it imports, each once and without exports, before its own."""
    parts: dict[str, str] = {}
    _collect(name, parts)
    *others, own = parts.values()
    return "\n".join(
        [*(_EXPORT.sub("", part) for part in others), re.sub(r"^export \{[^}]*\};\n", "", own, flags=re.M)]
    )


_IMPORT = re.compile(r'^import [^;]*? from "\./(\w+)\.js";\n', re.M)
_EXPORT = re.compile(r"^export (?=(async )?(function|const|class)\b)|^export (default )?\{[^}]*\};\n", re.M)


def _collect(name: str, parts: dict[str, str]) -> None:
    """Add a module behind all that it imports."""
    source = _slim((STATIC / f"{name}.js").read_text(encoding="utf-8"))
    for other in _IMPORT.findall(source):
        if other not in parts:
            _collect(other, parts)
    parts[name] = _IMPORT.sub("", source)


@cache
def css(name: str = "lab") -> str:
    """The styles of the interactive layer, all under the class `llm-lab`; or, as `export`, of a card's own buttons."""
    source = (STATIC / f"{name}.css").read_text(encoding="utf-8")
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"/\*.*?\*/", "", source, flags=re.S))


@cache
def loader() -> str:
    """The classic script that unpacks a view and mounts it in its own container."""
    return _slim((STATIC / "loader.js").read_text(encoding="utf-8")).strip().rstrip(";")


def live(name: str, still: str, data: Mapping[str, Any], buffers: Mapping[str, bytes] | None = None) -> str:
    """HTML that rests as `still` and becomes the view NAME where scripts run; `buffers` reach it as DataViews."""
    key, script = _packed(name, css(), data, buffers or {})
    return f'<div class="llm-lab llm-lab-{key}">{still}</div>{script}'


@cache
def saving() -> tuple[str, str]:
    """(the empty place in a card that the buttons to save it as a picture come to, the script that brings them there).

    They are the same in every output, which carries the script once, whatever stands in it.
    """
    key, script = _packed("export", css("export"), {}, {})
    return f'<div class="llm-lab llm-lab-{key}" style="float:right"></div>', script


def _packed(name: str, styles: str, data: Mapping[str, Any], buffers: Mapping[str, bytes]) -> tuple[str, str]:
    """(the key of a view's containers, the script that mounts it in each of them)."""
    page = {"esm": esm(name), "css": styles, "data": dict(data), "buffers": list(buffers)}
    parts = [json.dumps(page, allow_nan=False).encode(), *buffers.values()]
    packed = [base64.b64encode(zlib.compress(part, 9)).decode() for part in parts]
    # The same content gives the same key, so that a notebook run again does not change; each container is mounted once.
    key = hashlib.sha256("".join(packed).encode()).hexdigest()[:16]
    return key, f"<script>({loader()})({json.dumps(key)},{json.dumps(packed)})</script>"


def _slim(source: str) -> str:
    """Source without the comments, types and indents that only its readers need (`//` stands on lines of its own)."""
    source = re.sub(r"^[ \t]*/\*\*(?:(?!\*/).)*\*/\n|/\*\* @(?:(?!\*/).)*\*/ ?", "", source, flags=re.M | re.S)
    return re.sub(r"^[ \t]*(//[^\n]*\n)?", "", source, flags=re.M)
