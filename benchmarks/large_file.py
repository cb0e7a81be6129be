"""How fast one large index file is: opening it, adding to it, reading the features of a shortlist.

    python benchmarks/large_file.py WORK --items 1000000 --dim 512 --bits 48

Makes WORK/ITEMS-DIM.wb where it is missing, of random features and of codes around centres, as
learned codes are. Each figure is from a process of its own with the file in the page cache: seconds
by the clock and of the CPU, the least of a few runs, since other work may be beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.index.galleries import model_of
from wingbar.hamming.codes import pack, warm_up
from wingbar.index.index import Index
from wingbar.index.sqlite_file import remove_index
from wingbar.index.store import Item, Store
from wingbar.model.model import Embeddings, Model, with_record

BLOCK = 16_384  # items of a transaction while making
RUNS = 5
BATCH = 1024  # items of a transaction of `wingbar index`
SHORTLIST = 1000


def model(bits: int, dim: int) -> Model:
    """A model of these lengths whose network is never run."""
    plain = model_of(bits)
    record = {k: v for k, v in plain.record.items() if k not in ("format", "files")}
    return Model(with_record({"model.onnx": plain.files["model.onnx"]}, {**record, "dim": dim}))


class Drawn:
    """Items, codes and features, block by block."""

    def __init__(self, bits: int, dim: int) -> None:
        self.rng = np.random.default_rng(0)
        self.centres = self.rng.random((10_000, bits)) < 0.5
        self.bits, self.dim = bits, dim

    def add_to(self, store: Store, first: int, count: int) -> float:
        """Store items with the numbers from `first`. Returns the seconds of storing."""
        rows = self.rng.integers(len(self.centres), size=count)
        flipped = self.centres[rows] ^ (self.rng.random((count, self.bits)) < 0.06)
        features = self.rng.standard_normal((count, self.dim), np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        items = [
            Item(f"/photos/{i:09}.jpg", f"class {row % 100}", {}, i, i, i.to_bytes(32, "big"))
            for i, row in zip(range(first, first + count), rows.tolist(), strict=True)
        ]
        packed = pack(flipped)
        start = time.perf_counter()
        with store.writing():
            store.add(items, packed, features, self.bits)
        return time.perf_counter() - start


def make(path: Path, items: int, bits: int, dim: int) -> None:
    """An index at `path`."""
    partial = path.with_suffix(".partial.wb")
    remove_index(partial)
    drawn = Drawn(bits, dim)
    with closing(Store.create(partial, model(bits, dim).files)) as store:
        for first in range(0, items, BLOCK):
            drawn.add_to(store, first, min(BLOCK, items - first))
    partial.replace(path)


def opening(path: Path, bits: int, dim: int) -> dict[str, float]:
    """Milliseconds from opening to the first answer. Before it, everything is imported that numba
    imports with its first compiled loop."""
    query = _query(path, bits, dim)
    laps = [time.perf_counter()]
    warm_up(bits)
    laps.append(time.perf_counter())
    with Index.open(path) as index:
        laps.append(time.perf_counter())
        index.searchable()
        laps.append(time.perf_counter())
        index.search(query, 10, fine="none")
        laps.append(time.perf_counter())
        index.search(query, 10, fine="pool")
        laps.append(time.perf_counter())
    names = ("compiled loops", "open", "codes into memory", "answer", "answer re-ranked")
    took = dict(zip(names, (np.diff(laps) * 1000).tolist(), strict=True))
    return {**took, "open to first answer": (laps[4] - laps[1]) * 1000}


def _query(path: Path, bits: int, dim: int) -> Embeddings:
    """A query near to the codes of the centres."""
    code = np.random.default_rng(0).random((10_000, bits))[:1] < 0.5
    feature = np.zeros((1, dim), np.float32)
    feature[0, 0] = 1
    with closing(Store.open(path)) as store:
        loaded = Model(store.model_files())
    return Embeddings(
        pack(code),
        feature,
        np.where(code, 1, -1).astype(np.float32),
        bits,
        loaded.name,
        loaded.fingerprint,
    )


def shortlist(path: Path, bits: int, dim: int) -> dict[str, float]:
    """Milliseconds to read the features of a shortlist at random places."""
    with closing(Store.open(path)) as store:
        ids = store.ids()
        rng = np.random.default_rng(1)
        chosen = [rng.choice(ids, SHORTLIST, replace=False).tolist() for _ in range(20)]
        for some in chosen:
            store.features(some, dim)  # into the page cache
        took, again = [], []
        for some in chosen:
            laps = [time.perf_counter()]
            for _ in range(2):
                store.features(some, dim)
                laps.append(time.perf_counter())
            took.append((laps[1] - laps[0]) * 1000)
            again.append((laps[2] - laps[1]) * 1000)
        return {f"{SHORTLIST:,} features": min(took), "the same ones again": min(again)}


def adding(path: Path, bits: int, dim: int) -> dict[str, float]:
    """Milliseconds an item for storing a batch, in a file that holds the last chunk's codes."""
    with closing(Store.open(path)) as store:
        first = store.count()
        drawn = Drawn(bits, dim)
        took = min(drawn.add_to(store, first + i * BATCH, BATCH) for i in range(RUNS))
        last = store.ids()[-RUNS * BATCH :].tolist()
        with store.writing():
            store.delete(last)
    return {"adding, an item": took * 1000 / BATCH}


MEASURED = {"opening": opening, "shortlist": shortlist, "adding": adding}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--only", choices=MEASURED, help="measure this, once, and print JSON")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / f"{args.items}-{args.dim}.wb"
    if not path.exists():
        make(path, args.items, args.bits, args.dim)
    if args.only:
        print(json.dumps(MEASURED[args.only](path, args.bits, args.dim)))
        return
    print(f"{path}: {path.stat().st_size / 1e6:,.0f} MB")
    for name in MEASURED:
        runs = [
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--only", name],
                    check=True,
                    stdout=subprocess.PIPE,
                ).stdout
            )
            for _ in range(RUNS)
        ]
        for key in runs[0]:
            print(f"{key:>24} {min(run[key] for run in runs):9.2f} ms")


if __name__ == "__main__":
    main()
