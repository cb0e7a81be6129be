"""Evaluate an index of a million items with ten thousand queries: time and memory, beside a plain
evaluation in NumPy.

    python benchmarks/scale.py cifar10 WORK --items 1000000 --queries 10000

The queries are real pictures, encoded and searched as always. The gallery repeats the codes and
features of 5,000 training pictures, with 5 % of the bits flipped, for want of a million labelled
pictures. Features are not compared exhaustively. NumPy ranks the same codes for a few of the
queries: xor, popcount, stable sort, average precision, one order of ties; its time is scaled up to
all queries.
"""

from __future__ import annotations

import argparse
import resource
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from wingbar.data.readers import read_dataset
from wingbar.evaluation.labelled import evaluate
from wingbar.hamming import codes
from wingbar.index.index import Index
from wingbar.index.sqlite_file import remove_index
from wingbar.index.store import Item, Store

BITS, FLIP, SAMPLE, PEER = 48, 0.05, 5000, 50


def filled(path: Path, data: str, items: int) -> Index:
    """An index of `items` items at `path`."""
    rng = np.random.default_rng(0)
    train = read_dataset(data).train
    some = [train[int(i)] for i in np.sort(rng.permutation(len(train))[:SAMPLE])]
    remove_index(path)
    index = Index.create(path)
    index.add(some, bits=BITS)
    bits = codes.unpack(index.codes(), BITS)
    features, labels = index.features().astype(np.float32), index.labels()
    while (missing := items - len(index)) > 0:
        rows = rng.integers(0, len(bits), min(missing, 50_000))
        packed = codes.pack(bits[rows] ^ (rng.random((len(rows), BITS)) < FLIP))
        start = len(index)
        made = [
            Item(f"made/{start + i}", labels[row], {}, 0, 0, rng.bytes(32))
            for i, row in enumerate(rows.tolist())
        ]
        with closing(Store.open(path)) as store, store.writing():
            store.add(made, packed, features[rows], BITS)
    return index


def by_numpy(index: Index, queries: list[np.ndarray], labels: list[str]) -> float:
    """Seconds per query of ranking in plain NumPy."""
    packed, own = index.codes(), np.array(index.labels())
    start = time.perf_counter()
    for code, label in zip(queries, labels, strict=True):
        order = np.argsort(np.bitwise_count(packed ^ code).sum(1), kind="stable")
        places = np.flatnonzero((own == label)[order]) + 1
        (np.arange(1, len(places) + 1) / places).mean()
    return (time.perf_counter() - start) / len(queries)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("work", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    index = filled(args.work / "scale.wb", args.data, args.items)
    index.close()
    queries = read_dataset(args.data).query[: args.queries]
    with Index.open(args.work / "scale.wb") as index:
        codes.warm_up(BITS)
        start = time.perf_counter()
        encoded = index.model.encode(queries.paths)
        encoding = time.perf_counter() - start
        start = time.perf_counter()
        result = evaluate(index, queries, fine="none", exhaustive=False, keep_constant_bits=True)
        seconds = time.perf_counter() - start
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{result.gallery:,} items, {result.queries:,} queries, {BITS} bits, "
            f"{result.unique_codes:,} distinct codes"
        )
        print(
            f"evaluate: {seconds:.0f} s, of which about {encoding:.0f} s are decoding and "
            f"encoding; peak memory {most:.2f} GiB"
        )
        print(f"expected MAP {result.map:.4f} ({result.map_low:.4f} to {result.map_high:.4f})")
        plain = by_numpy(
            index, list(encoded.codes[:PEER]), [str(label) for label in queries.labels[:PEER]]
        )
        print(
            f"NumPy, ranking alone: {plain * 1000:.0f} ms per query, {plain * len(queries):.0f} s "
            f"for all (from {PEER})"
        )


if __name__ == "__main__":
    main()
