"""The process that trains one run in the background: `python -m llm_lab.worker FOLDER`. It outlives whoever began it."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

from llm_lab.errors import LabError
from llm_lab.store.runs import Run


def main(folder: str) -> int:
    """Carry the run out, or go on with it; its folder tells how it went. Returns the exit status."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever began it may have ignored interrupts
    # Who shuts a machine down asks so first: it is an interrupt, and an interrupt is a pause.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    from llm_lab.pretraining import carry_on

    try:
        carry_on(Run(Path(folder)))
    except LabError as error:
        print(f"llm_lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
