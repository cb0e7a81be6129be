"""The same codes in a file, PostgreSQL and Milvus Lite, beside sqlite-vec and FAISS: load, search.

    python benchmarks/stores.py --items 100000 --json

Codes are drawn around centres, as learned codes are; features are random unit vectors. A server of
PostgreSQL is started for the run, as the tests do it, but with the durable settings; --postgres
names another one. What is not installed is left out. Recall counts a hit as right when it is as
near as the k-th of an exact search, whatever the order of ties.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.databases import postgres
from tests.index.galleries import model_of
from wingbar.hamming.codes import Codes, pack
from wingbar.index.engine import AnyStore, Item
from wingbar.index.place import create_store
from wingbar.index.ranking import SearchOptions
from wingbar.model.model import Embeddings, Model, with_record

BATCH = 5000
Found = list[tuple[Sequence[int], Sequence[int]]]  # ids and distances of each query


class Data:
    """Items, codes, features and queries."""

    def __init__(self, count: int, bits: int, dim: int, queries: int) -> None:
        rng = np.random.default_rng(0)
        centres = rng.random((max(count // 100, 1), bits)) < 0.5
        place = rng.integers(len(centres), size=count)
        self.bits, self.dim = bits, dim
        self.as_bits = centres[place] ^ (rng.random((count, bits)) < 0.06)
        self.packed = pack(self.as_bits)
        features = rng.standard_normal((count, dim)).astype(np.float32)
        self.features = features / np.linalg.norm(features, axis=1, keepdims=True)
        asked = rng.integers(count, size=queries)
        self.query_bits = self.as_bits[asked] ^ (rng.random((queries, bits)) < 0.05)
        self.items = [
            Item(f"/photos/{i:09}.jpg", f"class {p % 100}", {}, i, i, i.to_bytes(32, "big"))
            for i, p in enumerate(place.tolist())
        ]
        plain = model_of(bits)
        record = {k: v for k, v in plain.record.items() if k not in ("format", "files")}
        network = {"model.onnx": plain.files["model.onnx"]}
        self.model = Model(with_record(network, {**record, "dim": dim}))
        self.queries = [
            Embeddings(
                pack(self.query_bits[i : i + 1]),
                self.features[j : j + 1],
                np.where(self.query_bits[i : i + 1], 1, -1).astype(np.float32),
                bits,
                self.model.name,
                self.model.fingerprint,
            )
            for i, j in enumerate(asked.tolist())
        ]

    def __len__(self) -> int:
        return len(self.items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--postgres", metavar="URL", help="postgresql://HOST/DATABASE/NAME")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data = Data(args.items, args.bits, args.dim, args.queries)
    exact = Codes(data.packed, data.bits, np.arange(1, len(data) + 1))
    expected = [exact.nearest(query.codes, args.k)[0] for query in data.queries]
    edges = [int(near.distances[-1]) for near in expected]
    lists = [list(zip(near.distances, near.ids, strict=True)) for near in expected]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in contenders(Path(folder), args):
            try:
                row = measure(data, args.k)
            except (Exception, pytest.skip.Exception) as error:
                print(f"{name}: left out ({error})", file=sys.stderr)
                continue
            found: Found = row.pop("found")
            right = [
                sum(distance <= edge for distance in distances[: args.k]) / args.k
                for (_, distances), edge in zip(found, edges, strict=True)
            ]
            same = [
                list(zip(distances, ids, strict=True)) == wanted
                for (ids, distances), wanted in zip(found, lists, strict=True)
            ]
            row |= {"recall": statistics.mean(right), "same_lists": statistics.mean(same)}
            rows.append({"store": name, **row})
    if args.json:
        print(json.dumps({"arguments": vars(args), "rows": rows}, indent=1))
        return
    print(f"{len(data):,} codes of {data.bits} bits, features of {data.dim}, k={args.k}")
    names = ("load s", "MB", "coarse ms", "p95", "pool 200 ms", "p95", "recall", "same lists")
    print(f"{'':28}" + "".join(f"{name:>12}" for name in names))
    keys = ("load_s", "mb", "coarse_ms", "coarse_p95", "fine_ms", "fine_p95", "recall")
    for row in rows:
        values = [row.get(key) for key in (*keys, "same_lists")]
        cells = ["-" if value is None else f"{value:,.3f}" for value in values]
        print(f"{row['store']:28}" + "".join(f"{cell:>12}" for cell in cells))


Measure = Callable[[Data, int], dict[str, Any]]


def contenders(folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, Measure]]:
    """What is measured, by name."""
    yield "file", lambda data, k: of_store(str(folder / "a.wb"), data, k)
    yield "PostgreSQL", lambda data, k: of_postgres(args.postgres, data, k)
    yield "Milvus Lite", lambda data, k: of_store(f"milvus:{folder / 'm.db'}", data, k)
    yield "sqlite-vec", lambda data, k: of_sqlite_vec(folder / "v.db", data, k)
    yield "FAISS, binary flat", of_faiss


@contextmanager
def server_url(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with postgres({"shared_buffers": "256MB"}) as server:
        yield server.url("stores")


def of_postgres(given: str | None, data: Data, k: int) -> dict[str, Any]:
    with server_url(given) as url:
        return of_store(url, data, k)


def of_store(place: str, data: Data, k: int) -> dict[str, Any]:
    start = time.perf_counter()
    with closing(create_store(place, data.model.files)) as store:
        for at in range(0, len(data), BATCH):
            part = slice(at, at + BATCH)
            with store.writing():
                store.add(data.items[part], data.packed[part], data.features[part], data.bits)
        load_s = time.perf_counter() - start
        store.search_codes(data.queries[:1], SearchOptions(k=k), "none")  # what is done once
        coarse_ms, found = timed(store, data, SearchOptions(k=k), "none")
        fine_ms, _ = timed(store, data, SearchOptions(k=k, shortlist=200), "pool")
        size = store.info(data.bits).bytes / 1e6
        return {
            "engine": store.engine,
            "load_s": load_s,
            "mb": size or None,
            **percentiles("coarse", coarse_ms),
            **percentiles("fine", fine_ms),
            "found": found,
        }


def timed(
    store: AnyStore, data: Data, options: SearchOptions, fine: Any
) -> tuple[list[float], Found]:
    times, found = [], []
    for query in data.queries:
        start = time.perf_counter()
        [one] = store.search_codes([query], options, fine)
        times.append((time.perf_counter() - start) * 1000)
        found.append((one.near.ids.tolist(), one.near.distances.tolist()))
    return times, found


def percentiles(name: str, times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        f"{name}_ms": statistics.median(ordered),
        f"{name}_p95": ordered[int(len(ordered) * 0.95)],
    }


def bytes_of(packed_bits: np.ndarray) -> np.ndarray:
    """Bits [N, b] as whole bytes [N, ceil(b / 8)], padded with zeros."""
    return np.packbits(packed_bits, axis=1)


def of_sqlite_vec(path: Path, data: Data, k: int) -> dict[str, Any]:
    import sqlite_vec

    driver: Any = sqlite3
    if not hasattr(sqlite3.Connection, "enable_load_extension"):  # left out of some builds
        driver = importlib.import_module("pysqlite3")
    start = time.perf_counter()
    connection = driver.connect(str(path))
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    rows = bytes_of(data.as_bits)
    bits = 8 * rows.shape[1]
    connection.execute(f"CREATE VIRTUAL TABLE codes USING vec0(code bit[{bits}])")
    connection.execute("CREATE TABLE features (id INTEGER PRIMARY KEY, data BLOB)")
    with connection:
        connection.executemany(
            "INSERT INTO codes (rowid, code) VALUES (?, vec_bit(?))",
            ((i + 1, row.tobytes()) for i, row in enumerate(rows)),
        )
        halves = data.features.astype(np.float16)
        connection.executemany(
            "INSERT INTO features VALUES (?, ?)",
            ((i + 1, half.tobytes()) for i, half in enumerate(halves)),
        )
    load_s = time.perf_counter() - start
    times, found = [], []
    for query in bytes_of(data.query_bits):
        start = time.perf_counter()
        hits = connection.execute(
            "SELECT rowid, distance FROM codes WHERE code MATCH vec_bit(?) AND k = ?",
            (query.tobytes(), k),
        ).fetchall()
        times.append((time.perf_counter() - start) * 1000)
        found.append(([hit[0] for hit in hits], [int(hit[1]) for hit in hits]))
    connection.close()
    size = path.stat().st_size / 1e6
    return {"load_s": load_s, "mb": size, **percentiles("coarse", times), "found": found}


def of_faiss(data: Data, k: int) -> dict[str, Any]:
    import faiss

    start = time.perf_counter()
    rows = bytes_of(data.as_bits)
    index = faiss.IndexBinaryFlat(8 * rows.shape[1])
    index.add(rows)
    load_s = time.perf_counter() - start
    times, found = [], []
    for query in bytes_of(data.query_bits):
        start = time.perf_counter()
        distances, places = index.search(query[None], k)
        times.append((time.perf_counter() - start) * 1000)
        found.append(((places[0] + 1).tolist(), distances[0].tolist()))
    return {
        "load_s": load_s,
        "mb": rows.nbytes / 1e6,
        **percentiles("coarse", times),
        "found": found,
    }


if __name__ == "__main__":
    main()
