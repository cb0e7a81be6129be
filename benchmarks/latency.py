"""How long one query takes, stage by stage, and a whole cold process.

    python benchmarks/latency.py INDEX FOLDER

Medians over 100 images of FOLDER searched one by one with the model warm, then over 7 cold
processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from wingbar import images
from wingbar.index.index import Index


def cold(*arguments: str) -> float:
    """Median seconds of `wingbar ARGUMENTS` as a new process, start to end."""
    command = [str(Path(sys.executable).parent / "wingbar"), *arguments]
    times = []
    for _ in range(8):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))  # the first fills the page cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    found = images.find(args.folder).images
    queries = [found[i] for i in np.random.default_rng(0).permutation(len(found))[:101]]
    with Index.open(args.index) as index:
        index.search(queries[0])
        stages = [index.search(query).milliseconds for query in queries[1:]]
        print(f"{len(index):,} items of {index.model.bits} bits, {len(stages)} single queries")
    for stage in stages[0]:
        print(f"{stage:>8} {np.median([times[stage] for times in stages]):7.2f} ms")
    print(f"{'all':>8} {np.median([sum(times.values()) for times in stages]):7.2f} ms")
    print(f"wingbar search as a cold process: {cold('search', args.index, str(queries[0])):.2f} s")
    print(f"wingbar --help as a cold process: {cold('--help'):.3f} s")


if __name__ == "__main__":
    main()
