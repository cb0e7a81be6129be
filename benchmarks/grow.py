"""A large index from a small one, for load tests: its own items over and over, each with a few bits
of its code turned over.

    python benchmarks/grow.py INDEX --items 100000 -o BIG

Features get noise of a tenth of their length and are unit vectors again. Labels stay; the paths of
the copies are made up, so the page shows no picture of them. Searches take as long as among as many
different pictures, but what they find means nothing.
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

TURNED = 0.04  # of the bits of a code


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
        searchable, features = index.searchable(), index.features().astype(np.float32)
        codes = unpack(searchable.of(searchable.ids), bits)
    shutil.copyfile(args.index, args.output)
    store = Store.open(args.output)
    items = [item for _, item in store.all_items()]
    for copy in range(1, -(-args.items // len(items))):
        some = items[: args.items - copy * len(items)]
        turned = codes[: len(some)] ^ (rng.random((len(some), bits)) < TURNED)
        moved = features[: len(some)] + rng.normal(0, 0.1 / np.sqrt(dim), (len(some), dim)).astype(
            np.float32
        )
        moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        paths = [f"{item.path}#{copy}" for item in some]
        with store.writing():
            store.add(
                [replace(item, path=path) for item, path in zip(some, paths, strict=True)],
                pack(turned),
                moved,
                bits,
            )
    print(f"{store.count():,} items: {args.output}")
    store.close()


if __name__ == "__main__":
    main()
