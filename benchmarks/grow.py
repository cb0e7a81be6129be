"""Make a large index from a small one, for load tests: its items over and over, a few bits of each
code flipped.

    python benchmarks/grow.py INDEX --items 100000 -o BIG

Features get noise of a tenth of their length and are normalised again. Labels stay the same; the
paths of the copies lead to the same files by a detour, as /./home/me/cat.jpg, so that the page can
show them. Searches take as long as with as many real pictures, but their results mean nothing.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from wingbar.hamming.codes import pack, unpack
from wingbar.index.index import Index
from wingbar.index.store import Store

FLIPPED = 0.04  # share of the bits of a code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists: name another -o")
    rng = np.random.default_rng(0)
    with Index.open(args.index) as index:
        bits, dim = index.model.bits, index.model.dim
        codes, features = unpack(index.codes(), bits), index.features().astype(np.float32)
        items = index.items()
    shutil.copyfile(args.index, args.output)
    store = Store.open(args.output)
    for copy in range(1, -(-args.items // len(items))):
        some = items[: args.items - copy * len(items)]
        flipped = codes[: len(some)] ^ (rng.random((len(some), bits)) < FLIPPED)
        moved = features[: len(some)] + rng.normal(0, 0.1 / np.sqrt(dim), (len(some), dim)).astype(
            np.float32
        )
        moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        paths = [f"{'/.' * copy}{item.path}" for item in some]
        with store.writing():
            store.add(
                [replace(item, path=path) for item, path in zip(some, paths, strict=True)],
                pack(flipped),
                moved,
                bits,
            )
    print(f"{store.count():,} items: {args.output}")
    store.close()


if __name__ == "__main__":
    main()
