"""Where a published model lies: in a folder, in the local cache of the Hugging Face hub, or on the hub itself."""

from __future__ import annotations

from pathlib import Path

from llm_lab.errors import BadValue, show

PREFIX = "hf:"
_WANTED = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
]


def find(name: str) -> Path:
    """The folder of a model named by a path, or as on the hub (`openai-community/gpt2`), which is asked last.

    BadValue where it is nowhere to be had.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if not name or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise BadValue(
            f"name: there is no folder {show(name)}; hf: takes a folder, or a name on the hub such as hf:openai-community/gpt2"
        )
    from huggingface_hub import snapshot_download

    try:
        cached = Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True))
        if (cached / "config.json").is_file() and weights(cached):
            return cached
    except Exception:  # it is not in the cache, whatever the library calls that
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as error:  # offline, unknown, closed: the library has a dozen classes for it
        why = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise BadValue(
            f"name: hf:{name} is no folder here, not in the local cache, and could not be fetched ({show(why[0], 160)}); give a folder that has it, or try again with a network"
        ) from None


def weights(folder: Path) -> list[Path]:
    """The files that hold a published model's weights, whole or in parts; none where there are none."""
    from llm_lab.store.files import read_json

    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    about = read_json(index)
    parts = about.get("weight_map") if isinstance(about, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(one, str) and Path(one).name == one for one in parts.values()):
        raise BadValue(
            f"{index} cannot be used: weight_map does not name files beside it; a whole copy of its folder would do"
        )
    return [folder / one for one in sorted(set(parts.values()))]
