"""Weights & Biases: as its own environment variables say; nobody is asked for a login."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llm_lab.loggers.logger import PROJECT, Logger, Names, library, relative, sampled, settings


class WandB(Logger):
    def __init__(self) -> None:
        self.wandb = library("wandb")

    def start(self, about: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
        self.names = Names(about)
        mode = os.environ.get("WANDB_MODE") or "online"
        if mode in ("online", "shared") and not self._has_key():
            mode, self.note = (
                "offline",
                "wandb has no key here (WANDB_API_KEY, or `wandb login`), so it keeps the run offline",
            )
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=f"{about['name']}-{about['id']}",
            id=kept.get("run") or f"{about['name']}-{about['id']}",
            dir=os.environ.get("WANDB_DIR") or str(about["folder"]),
            config=settings(about),
            resume="allow" if mode == "online" else None,  # offline there is nobody to ask
            mode=mode,
            reinit="create_new",  # a run that the notebook has open stays as it is
            settings=self.wandb.Settings(silent=True, console="off"),
        )
        if mode != "disabled":
            here = f"wandb sync {shlex.quote(relative(Path(self.run.dir).parent))}"
            self.look = here if self.run.offline else str(self.run.url)
        return {"run": self.run.id}

    def _has_key(self) -> bool:
        found = self.wandb.setup().settings
        if os.environ.get("WANDB_API_KEY") or found.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
            return True
        try:
            return netrc(os.environ.get("NETRC")).authenticators(urlsplit(found.base_url).hostname or "") is not None
        except (OSError, NetrcParseError):
            return False

    def tell(self, event: Mapping[str, Any]) -> None:
        found: dict[str, Any] = dict(self.names.numbers(event))
        if text := sampled(event):
            found["sample"] = text
        if found and event["step"] >= self.run.step:  # what the server has already is not taken again
            self.run.log(found, step=event["step"])

    def close(self, status: str, final: Mapping[str, float]) -> None:
        self.run.summary.update({f"final/{name}": value for name, value in final.items()} | {"status": status})
        self.run.finish(exit_code=int(status == "failed"))
