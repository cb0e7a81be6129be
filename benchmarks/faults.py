"""Kill an index, or the PostgreSQL server under it, hundreds of times, and count what was lost.

    python benchmarks/faults.py file postgres copy refit also --rounds 200

Seeded: the changes and the moments of the kills are drawn with --seed. What a round does is in
`tests/index/fault_rounds.py`. PostgreSQL is started for the run with its durable settings. Exit
code 1 when anything was lost or torn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.databases import postgres
from tests.index.fault_rounds import (
    Counts,
    also_rounds,
    change_rounds,
    copy_rounds,
    printed,
    refit_rounds,
)

KINDS = ("file", "postgres", "copy", "refit", "also")


def run(kind: str, folder: Path, rounds: int, seed: int) -> Counts:
    """The rounds of one kind, in a folder of their own."""
    if kind == "file":
        return change_rounds(str(folder / "a.wb"), folder, rounds, seed)
    if kind == "copy":
        return copy_rounds(folder, rounds, seed)
    if kind == "refit":
        return refit_rounds(folder, rounds, seed)
    if kind == "also":
        return also_rounds(folder, rounds, seed)
    with postgres({}) as server:
        return change_rounds(server.url("rounds"), folder, rounds, seed, server)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bad = 0
    for kind in args.kinds:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="wingbar-faults-") as folder:
            counts = run(kind, Path(folder), args.rounds, args.seed)
        bad += counts.lost + counts.torn
        print(f"{kind}: {printed(counts)} ({time.monotonic() - start:.0f} s)", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
