"""Where the lab keeps its files, and what is said where they cannot be kept. It knows no run and no torch."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from llm_lab.errors import BadValue, show

FOLDER = ".llm_lab"
_CHANGE = "change to one that can be written (%cd in a notebook, cd in a shell)"


def home(make: bool = False) -> Path:
    """The store: `.llm_lab` in the working folder or the nearest one above that has it. BadValue where there can be none."""
    try:
        here = Path.cwd()
    except OSError:
        raise BadValue(f"the working folder{_gone()} is no longer there; {_CHANGE}") from None
    for folder in (here, *here.parents):
        if os.path.isdir(folder / FOLDER):
            return folder / FOLDER
    store = here / FOLDER
    if make:
        with writing(store):
            store.mkdir(parents=True, exist_ok=True)
            (store / ".gitignore").write_text("*\n")
    return store


def _gone() -> str:
    """The name of a working folder that was deleted, where the system still tells."""
    try:
        return f" {os.readlink('/proc/self/cwd').removesuffix(' (deleted)')!r}"
    except OSError:
        return ""


def secret() -> bytes:
    """What only this user has, outside of every store: by it a file that a process may act on is told from one that a stranger
    put there, were it with a whole store."""
    import platformdirs

    path = platformdirs.user_data_path("llm_lab") / "secret"
    with writing(path):
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".secret.{secrets.token_hex(4)}")
        beside.touch(0o600)
        beside.write_bytes(secrets.token_bytes(32))
        try:
            os.link(beside, path)  # of two that make one at once, the first one's holds
        except FileExistsError:
            pass
        except OSError:  # a disk without hard links
            if not path.exists():
                os.replace(beside, path)
        beside.unlink(missing_ok=True)
        return path.read_bytes()


def cache(make: bool = True) -> Path:
    """Where tokenised corpora are kept."""
    folder = home(make) / "data"
    if make:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    return folder


def stores() -> list[Path]:
    """Our own store, then the read-only ones that LLM_LAB_PATH names, each once."""
    named = [Path(part) for part in os.environ.get("LLM_LAB_PATH", "").split(os.pathsep) if part]
    found: dict[str, Path] = {}
    for store in (home(), *(p / FOLDER if os.path.isdir(p / FOLDER) else p for p in named)):
        found.setdefault(os.path.realpath(store), store)
    return list(found.values())


def is_pack(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a zip that is here."""
    return os.fspath(path).lower().endswith(".zip") and os.path.isfile(path)


def packs() -> list[Path]:
    """The zips that LLM_LAB_PATH names, and those in the folders that it names."""
    found: dict[str, Path] = {}
    for part in filter(None, os.environ.get("LLM_LAB_PATH", "").split(os.pathsep)):
        with contextlib.suppress(OSError):
            inside = [Path(part, name) for name in sorted(os.listdir(part))] if os.path.isdir(part) else [Path(part)]
            found |= {os.path.realpath(path): path for path in inside if is_pack(path)}
    return list(found.values())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, what keeps `path` from being written is a BadValue of one line that says what would work."""
    try:
        yield
    except OSError as error:
        raise BadValue(why(path, error)) from None


def why(path: Path, error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return f"name: {show(path.name)} is too long for a folder here; a name of at most 64 letters would do"
    file = next((p for p in (path, *path.parents) if os.path.isfile(p)), None)
    if isinstance(error, FileExistsError | NotADirectoryError) and file is not None:
        return f"{str(file)!r} is a file, and the lab needs a folder of that name; rename the file, or work in another folder"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"{str(path)!r} cannot be written: the disk is full; free some space (%lab runs shows the runs' sizes)"
    reason = error.strerror or type(error).__name__
    return f"{str(path)!r} cannot be written ({reason}), and the lab keeps its files in the working folder; {_CHANGE}"
