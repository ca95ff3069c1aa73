"""`python -m llm_lab.bench`: the parts that are named, a line at a time, then the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llm_lab.bench.options import PARTS, BenchOptions
from llm_lab.errors import LabError
from llm_lab.results import BenchLine


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with one line on standard error. A missed goal is no error."""
    listed = "\n".join(f"  {name:<10} {entry.help}" for name, entry in PARTS.items())
    parser = argparse.ArgumentParser(
        "python -m llm_lab.bench",
        description="How fast llm_lab is here, as ratios taken in one run.",
        epilog=f"parts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", help="all but the long ones where none is named")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each comparison (default: 5)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args(argv)
    target = given.json.resolve() if given.json else None
    try:
        options = BenchOptions(parts=tuple(given.parts), rounds=given.rounds)
        from llm_lab.bench.measuring import run

        result = run(options, _tell)
    except LabError as error:
        print(f"llm_lab: {error}", file=sys.stderr)
        return 2
    print(result)
    if target:
        print(f"\nwritten to {result.save_json(target)}")
    return 0


def _tell(line: BenchLine) -> None:
    """A line as it comes, to whoever waits."""
    value = "–" if line.value is None else f"{line.value:.4g}"
    print(f"{line.part}: {line.what}: {value} {line.unit}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
