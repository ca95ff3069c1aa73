"""Workers that begin at once: a process with everything imported, which forks one for each line it reads (a run's folder).

    python -m tests.lives

It answers each line with the new worker's number. States are saved as often as they can be, so that a kill at a random moment
often falls into the writing of one.
"""

from __future__ import annotations

import os
import sys

import torch._dynamo  # noqa: F401  # optimisers need it; imported here, so that workers need not

from llm_lab import pretraining  # noqa: F401  # likewise
from llm_lab.store import states
from llm_lab.worker import main


def serve() -> None:
    states.COST = 1e9
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            os._exit(main(line.strip()))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("over", flush=True)


if __name__ == "__main__":
    serve()
