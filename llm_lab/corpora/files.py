"""Files and downloads as text: UTF-8 or a clear refusal; it does not know what a corpus is made of."""

from __future__ import annotations

import codecs
import glob
import hashlib
import logging
import re
from pathlib import Path

from llm_lab.errors import BadValue, suggestion

BOM = codecs.BOM_UTF8
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, what: str = "") -> str:
    """A file's text: UTF-8, without its byte-order mark, every line end (`\\r\\n`, `\\r`) as `\\n`."""
    what = what or str(path)
    if path.is_dir():
        raise BadValue(f"corpus: {what} is a folder; name the files in it, for example {str(path / '*.txt')!r}")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        near = suggestion(
            path.name, (p.name for p in path.parent.glob("*") if p.is_file()) if path.parent.is_dir() else ()
        )
        raise BadValue(
            f"corpus: the file {what!r} does not exist{near}; look in the folder {str(path.absolute().parent)!r}"
            + ("; for the words themselves, put text: before them" if " " in what else "")
        ) from None
    except (OSError, ValueError) as error:
        raise unreadable(what, error) from None
    mark = len(BOM) if data.startswith(BOM) else 0
    return plain(decoded(data[mark:], what, mark, data))


def plain(text: str) -> str:
    """Every line end as `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(data: bytes, what: str, offset: int = 0, whole: bytes | None = None) -> str:
    """Bytes from `offset` of a file on as text; BadValue where they are not UTF-8, with what the `whole` may be instead."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadValue(
            f"corpus: {what!r} is not UTF-8 (byte 0x{data[error.start]:02X} at offset {offset + error.start:,}); {_remedy(whole or data, what)}"
        ) from None


def unreadable(what: str, error: Exception) -> BadValue:
    return BadValue(
        f"corpus: {what!r} cannot be read ({getattr(error, 'strerror', None) or error}); choose another file"
    )


def _remedy(data: bytes, what: str) -> str:
    """What would make text of bytes that are not UTF-8."""
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "")
    if not encoding and b"\0" in data[:65536]:
        return "it is not text at all; choose a text file"
    encoding = encoding or _likely(data)
    call = f"lab.corpus([open({what!r}, encoding={encoding!r}).read()])"
    return f"it looks like {encoding}: {call} reads it so, or save it as UTF-8"


def _likely(data: bytes) -> str:
    """The likeliest of the old encodings: Chinese where most of what is not ASCII reads as common Chinese."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return "latin-1"
    foreign = re.findall(r"[^\x00-\x7f]", text)
    # 0x4e00–0x9fff holds nearly any pair of high bytes; only GB 2312's own rows are words that people write
    common = sum(_in_gb2312(char) for char in foreign)
    return "gb18030" if common > 0.9 * len(foreign) else "latin-1"


def _in_gb2312(char: str) -> bool:
    try:
        return bool(char.encode("gb2312"))
    except UnicodeEncodeError:
        return False


def expand(pattern: str) -> list[Path]:
    """The files that a glob finds, sorted by path."""
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
    if not found:
        raise BadValue(f"corpus: no file matches {pattern!r}, seen from the folder {str(Path.cwd())!r}")
    return found


def download(url: str, sha256: str | None = None, name: str | None = None) -> Path:
    """A URL's file in the cache, fetched if it is not there yet; checked where its hash is known.

    Raises BadValue in one line when it cannot be had.
    """
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # its notes about hashes are not for our reader
    folder = pooch.os_cache("llm-lab")
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}" if sha256 else None, fname=name, path=folder))
    except Exception as error:  # requests, urllib3, the disk and the hash check raise each their own
        raise BadValue(
            f"corpus: {url} cannot be had ({reason(error)}); check the address and the network, or give a file instead"
        ) from error


def reason(error: BaseException) -> str:
    """Why a download failed, in a few words."""
    known = {"ConnectionError": "no connection", "ConnectTimeout": "no answer", "ReadTimeout": "no answer"}
    text = known.get(type(error).__name__) or " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:159] + "…"


def check_sha256(path: Path, expected: str) -> None:
    """BadValue unless the file has that hash."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise BadValue(
            f"corpus: {str(path)!r} is not the file it should be (SHA-256 {found[:12]}…, not {expected[:12]}…); "
            "put the right one there, or take this one away"
        )
