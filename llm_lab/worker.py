"""The process that trains one run in the background: `python -m llm_lab.worker FOLDER`. It outlives whoever began it."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

from llm_lab import machine
from llm_lab.errors import LabError
from llm_lab.store.runs import Run


def main(folder: str) -> int:
    """Carry the run out, or go on with it; its folder tells how it went. Returns the exit status."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever began it may have ignored interrupts
    # Who shuts a machine down asks so first: it is an interrupt, and an interrupt is a pause.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    run = Run(Path(folder))
    try:
        with machine.uninterrupted():
            from llm_lab.pretraining import carry_on

        carry_on(run)
    except LabError as error:
        print(f"llm_lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        state = run.read("status")
        if state.get("status") == "training" and state.get("pid") == os.getpid():  # while it still imported
            run.set_status("paused" if run.states else "failed", why="it was asked to end before its first step")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
