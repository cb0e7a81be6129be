"""Hamming search over many sizes and kinds of codes: does probing pay, how fast is what, how soon
is an insert visible.

    python benchmarks/hamming.py paths               # `auto` beside the plain scan
    python benchmarks/hamming.py figure latency.svg  # one query against N, beside FAISS
    python benchmarks/hamming.py insert WORK         # 1,000 inserts into a million items
    python benchmarks/hamming.py large 100000000     # so many codes of 48 bits in one set
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np

from wingbar.bench import hamming
from wingbar.hamming import codes
from wingbar.hamming.codes import Codes
from wingbar.index.index import Index
from wingbar.index.store import Item, Store
from wingbar.model.model import Model


def paths() -> None:
    """The ratio of the chosen path to the plain scan, over codes from well clustered to uniform."""
    print("items bits centres flip k | auto us, scan us, ratio")
    worst = 0.0
    for items in (100_000, 1_000_000):
        for bits in (24, 32, 48, 64):
            for centres, flip in (
                (200, 0.02),
                (10_000, 0.05),
                (10_000, 0.1),
                (10_000, 0.15),
                (10_000, 0.2),
                (0, 0.0),
            ):
                packed, queries = hamming.synthetic_codes(items, bits, centres, flip, seed=0)
                engine = Codes(packed[:items], bits, threads=1)
                for k in (1, 10, 100, 1000):
                    times: dict[str, list[float]] = {"auto": [], "scan": []}
                    for _ in range(3):
                        for path in ("auto", "scan"):
                            for query in queries[:32]:
                                start = time.perf_counter()
                                engine.nearest(query[None], k, path=path)
                                times[path].append(time.perf_counter() - start)
                    auto, scan = (1e6 * median(times[path]) for path in ("auto", "scan"))
                    worst = max(worst, auto / scan)
                    print(
                        f"{items} {bits} {centres} {flip} {k} | {auto:.0f} {scan:.0f} "
                        f"{auto / scan:.2f}",
                        flush=True,
                    )
    print(f"worst ratio {worst:.2f}")


def figure(out: Path) -> None:
    """Median latency of one query, k = 10, 48 bits, one thread."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    sizes = [10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7]
    pyplot.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "wingbar",
        }
    )
    drawing, axes = pyplot.subplots(figsize=(6.4, 4.2))
    read = 0.0
    for centres, colour, kind in (
        (0, "#1b6ca8", "uniform"),
        (10_000, "#c1440e", "10,000 centres, flip 0.05"),
    ):
        found = [hamming.hamming(n, 48, centres=centres, peers=("flat",)) for n in sizes]
        for record in found:
            print(
                {
                    key: record[key]
                    for key in (
                        "items",
                        "centres",
                        "single_ms",
                        "scan_ms",
                        "faiss_single_ms",
                        "exact",
                    )
                },
                flush=True,
            )
        read = max(read, found[-1]["read_gb_s"])
        axes.loglog(
            sizes, [r["single_ms"] for r in found], "o-", color=colour, label=f"wingbar, {kind}"
        )
        axes.loglog(
            sizes,
            [r["faiss_single_ms"] for r in found],
            "s--",
            color=colour,
            alpha=0.5,
            label=f"FAISS flat, {kind}",
        )
        if not centres:
            axes.loglog(
                sizes,
                [r["scan_ms"] for r in found],
                "^:",
                color=colour,
                label="wingbar's plain scan, uniform",
            )
    line = [8 * n / read / 1e6 for n in sizes]
    axes.loglog(
        sizes,
        line,
        "-",
        color="#999999",
        linewidth=1,
        label=f"reading the codes from memory, {read:.0f} GB/s",
    )
    axes.set_xlabel("codes of 48 bits")
    axes.set_ylabel("one query, k = 10, in ms (median)")
    axes.legend(frameon=False, fontsize=8)
    drawing.tight_layout()
    drawing.savefig(out, metadata={"Date": None})


def insert(work: Path) -> None:
    """From the commit of 1,000 new items by one handle to the first exact answer of another."""
    rng = np.random.default_rng(0)
    path = work / "million.wb"
    model = Model.load("general").fitted(rng.normal(size=(300, 1280)).astype(np.float32), 48, 0)
    count, dim = 1_000_000, model.dim
    packed = codes.pack(rng.random((count + 1000, 48)) < 0.5)
    feature = np.zeros((1, dim), np.float32)

    def items(first: int, last: int) -> list[Item]:
        return [Item(f"/nowhere/{i:07}.jpg", None, {}, 1, 1, b"") for i in range(first, last)]

    Index.create(path, model).close()
    with closing(Store.open(path)) as store, Index.open(path) as reader:
        for first in range(0, count, 50_000):
            with store.writing():
                some = packed[first : first + 50_000]
                store.add(items(first, first + 50_000), some, feature.repeat(50_000, 0), 48)
        start = time.perf_counter()
        reader.searchable().nearest(packed[:1], 10)
        print(f"codes loaded and searched the first time: {time.perf_counter() - start:.2f} s")
        reader.searchable().nearest(packed[:1], 10)
        with store.writing():
            store.add(items(count, count + 1000), packed[count:], feature.repeat(1000, 0), 48)
        start = time.perf_counter()
        [found] = reader.searchable().nearest(packed[count + 7 : count + 8], 10)
        seen = time.perf_counter() - start
        expected = codes.hamming(packed[count + 7], packed)
        order = np.lexsort((np.arange(len(packed)), expected))[:10]
        exact = bool((found.ids == order + 1).all() and (found.distances == expected[order]).all())
        print(f"1,000 inserts into {count:,}: visible in {seen * 1e3:.1f} ms, exact: {exact}")
        print(f"info: {reader.info()}")


def large(items: int) -> None:
    """One set of very many codes of 48 bits, clustered and uniform, on one thread: build, memory,
    time of one query and of a batch, and whether the answers are those of a plain scan by NumPy."""
    k, checked = 10, 8
    codes.warm_up(48)
    for centres in (0, 10_000):
        packed, queries = _many_codes(items, centres), _many_codes(hamming.BATCH_QUERIES, centres)
        start = time.perf_counter()
        engine = Codes(packed, 48, threads=1)
        build = time.perf_counter() - start
        for query in queries[:32]:
            engine.nearest(query[None], k)
        each = []
        for query in queries[32:132]:
            start = time.perf_counter()
            engine.nearest(query[None], k)
            each.append(time.perf_counter() - start)
        start = time.perf_counter()
        engine.nearest(queries[:100], k)
        batch = (time.perf_counter() - start) / 100
        start = time.perf_counter()
        engine.nearest(queries[:1], k, path="scan")
        scan = time.perf_counter() - start
        exact = 0
        for query in queries[:checked]:
            [found] = engine.nearest(query[None], k)
            ids, distances = _plainly_nearest(query, packed, k)
            exact += np.array_equal(found.ids, ids) and np.array_equal(found.distances, distances)
        print(
            {
                "items": items,
                "centres": centres,
                "distinct": engine.unique,
                "build_s": round(build, 1),
                "bytes_per_code": round(engine.nbytes / items, 1),
                "one_ms": round(1e3 * median(each), 3),
                "one_ms_p95": round(1e3 * float(np.percentile(each, 95)), 3),
                "batch_ms": round(1e3 * batch, 3),
                "scan_ms": round(1e3 * scan, 1),
                "paths": dict(Counter(engine.paths(q[None], k)[0] for q in queries[32:132])),
                "exact": f"{exact} of {checked}",
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1),
            },
            flush=True,
        )
        del engine, packed


def _many_codes(items: int, centres: int) -> codes.Packed:
    """Codes of 48 bits [items, 1] drawn as `hamming.synthetic_codes` does, in a tenth of the time:
    around one of the centres, if any, with each bit flipped with probability 13 / 256. The same
    centres for any number of items."""
    rng, ones = np.random.default_rng(items), 2**48
    around = np.random.default_rng(0).integers(0, ones, max(1, centres), np.uint64)
    packed = np.empty((items, 1), np.uint64)
    for first in range(0, items, 1_000_000):
        size = min(1_000_000, items - first)
        drawn = rng.integers(0, ones, size, np.uint64)
        if centres:
            for bit in (0, 1, 1, 0, 0, 0, 0):  # halves the probability; 1 adds a half
                more = rng.integers(0, ones, size, np.uint64)
                drawn = drawn | more if bit else drawn & more
            drawn ^= around[rng.integers(centres, size=size)]
        packed[first : first + size, 0] = drawn
    return packed


def _plainly_nearest(
    query: codes.Packed, packed: codes.Packed, k: int
) -> tuple[codes.Ids, codes.Distances]:
    """Ids and distances of the k nearest by (distance, id), compared a million at a time."""
    ids, distances = np.empty(0, np.int64), np.empty(0, np.int64)
    for first in range(0, len(packed), 1_000_000):
        some = codes.hamming(query, packed[first : first + 1_000_000])
        near = np.flatnonzero(some <= np.partition(some, k - 1)[k - 1])
        ids = np.concatenate([ids, near + first])
        distances = np.concatenate([distances, some[near]])
        order = np.lexsort((ids, distances))[:k]
        ids, distances = ids[order], distances[order]
    return ids, distances


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["paths", "figure", "insert", "large"])
    parser.add_argument("to", nargs="?", help="a file, a folder, or a number of codes")
    args = parser.parse_args()
    if args.what == "paths":
        paths()
    elif args.what == "figure":
        figure(Path(args.to or "latency.svg"))
    elif args.what == "insert":
        insert(Path(args.to or "."))
    else:
        large(int(args.to or 10**8))


if __name__ == "__main__":
    main()
