"""Exact Hamming search beside FAISS, usearch and NumPy on synthetic codes, in one run."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import DataError
from wingbar.hamming import codes
from wingbar.hamming.codes import Codes, Packed

PEERS = ("flat", "multihash", "ivf", "hnsw", "usearch", "numpy")
ROUNDS = 5
QUERIES = 32  # asked one by one in each round
BATCH_QUERIES = 1000  # asked at once in each round
CHECKED = 16  # queries whose answers are compared with brute force
FILTERED = 100  # one of this many items passes the filter
INSERTED = 1000  # items
HNSW_UP_TO = 2_000_000  # items; its graph takes 20 s per million


@dataclass(frozen=True)
class _Contestant:
    """What one contestant can do. Searches return what it returns; `distances` reads that.

    single: the k nearest of one query [w]
    many: the k nearest of queries [Q, w]; None if it has no batches
    within: everything within the radius of one query [w]; None if it cannot
    build: seconds that building its structure took
    distances: the distances in the answer of a single or radius search, nearest first
    """

    single: Callable[[Packed], Any]
    many: Callable[[Packed], Any] | None
    within: Callable[[Packed], Any] | None
    build: float
    distances: Callable[[Any], list[int]] = lambda found: found.distances.tolist()


@dataclass
class _Times:
    """Median times of one contestant; None for what it cannot do.

    single: seconds per query, one by one
    qps: queries per second in a batch
    radius: seconds per radius search
    """

    single: float | None = None
    qps: float | None = None
    radius: float | None = None


class _LeftOutError(Exception):
    """A peer does not take part in this case. The message says why."""


def hamming(
    items: int,
    bits: int,
    *,
    centres: int = 0,
    flip: float = 0.05,
    k: int = 10,
    radius: int = 2,
    threads: int = 1,
    path: codes.Path = "auto",
    peers: tuple[str, ...] = PEERS,
    seed: int = 0,
) -> dict[str, Any]:
    """Exact Hamming search beside its peers on synthetic codes, all in one run on `threads`
    threads.

    With `centres` > 0 the codes lie around that many random codes, each bit flipped with
    probability `flip`, as learned codes do; with 0 they are uniform. Queries are drawn in the same
    way. In each of ROUNDS rounds every contestant answers the same QUERIES queries one by one and
    BATCH_QUERIES at once; times are medians over all rounds, per query.

    `path` forces one way to search; `paths` says how many of the queries ran by which, one by one
    and in a batch. Peers get codes padded to 4 bytes or a multiple of 8, which FAISS needs to be
    fast. `exact` is whether all answers that were checked, of every path, with a filter and after
    inserts, are those of brute force. `bandwidth_gb_s` is what the scan compares, 4 or 8 bytes a
    code for each 64 bits, and `bandwidth_share` its share of what one core reads from memory (above
    1 if the codes fit in a cache). `single_ms` includes probing. Raises DataError for fewer items
    than `k` or FILTERED, a `flip` outside 0 to 1, or an unknown peer.
    """
    unknown = sorted(set(peers) - set(PEERS))
    if unknown:
        raise DataError(f"no peer is named {', '.join(unknown)}: have {', '.join(PEERS)}")
    if items < max(k, FILTERED) or not 0 <= flip <= 1:
        raise DataError(f"items must be at least {max(k, FILTERED)} and flip from 0 to 1")
    with _faiss_threads(threads):
        return _hamming(items, bits, centres, flip, k, radius, threads, path, peers, seed)


def synthetic_codes(
    items: int, bits: int, centres: int, flip: float, seed: int
) -> tuple[Packed, Packed]:
    """Codes [items + INSERTED, w] and queries [BATCH_QUERIES, w], both uint64, drawn as `hamming`
    says."""
    count = items + INSERTED + BATCH_QUERIES
    rng = np.random.default_rng(seed)
    around = rng.random((centres, bits)) < 0.5
    parts = []
    for first in range(0, count, 1_000_000):
        size = min(1_000_000, count - first)
        if centres:
            centre = rng.integers(centres, size=size)
            drawn = around[centre] ^ (rng.random((size, bits), np.float32) < flip)
        else:
            drawn = rng.integers(0, 2, (size, bits), np.uint8).astype(bool)
        parts.append(codes.pack(drawn))
    packed = np.concatenate(parts)
    return packed[: items + INSERTED], packed[items + INSERTED :]


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """Let FAISS use this many threads; restored afterwards, as PyTorch shares OpenMP's setting."""
    if find_spec("faiss") is None:
        yield
        return
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _hamming(
    items: int,
    bits: int,
    centres: int,
    flip: float,
    k: int,
    radius: int,
    threads: int,
    path: codes.Path,
    peers: tuple[str, ...],
    seed: int,
) -> dict[str, Any]:
    """`hamming` with checked arguments."""
    packed, queries = synthetic_codes(items, bits, centres, flip, seed)
    warm_up = codes.warm_up(bits) if items >= codes.COMPILED_FROM else 0.0
    start = time.perf_counter()
    engine = Codes(packed[:items], bits, threads=threads, planes=True if path == "planes" else None)
    build = time.perf_counter() - start
    some = queries[:QUERIES]
    allowed = engine.only(
        np.sort(np.random.default_rng(seed).choice(items, max(1, items // FILTERED), replace=False))
    )
    contestants = {
        "wingbar": _Contestant(
            lambda query: engine.nearest(query[None], k, path=path),
            lambda many: engine.nearest(many, k, path=path),
            lambda query: engine.within(query[None], radius, path=path),
            build,
        )
    }
    skipped: dict[str, str] = {}
    for peer in peers:
        try:
            contestants[peer] = _peer(peer, packed[:items], bits, k, radius, threads)
        except (ImportError, _LeftOutError) as error:
            skipped[peer] = str(error)
    scan = _Contestant(lambda query: engine.nearest(query[None], k, path="scan"), None, None, 0.0)
    filtered = _Contestant(
        lambda query: engine.nearest(query[None], k, allowed=allowed), None, None, 0.0
    )
    times = _race({**contestants, "scan": scan, "filter": filtered}, some, queries)
    start = time.perf_counter()
    more = np.arange(items, items + INSERTED)
    grown = engine.changed(more, packed[items : items + INSERTED], more[:0])
    grown.nearest(some[:1], k)
    insert = time.perf_counter() - start
    mine = times["wingbar"]
    flat = times.get("flat", _Times())
    read = _read_bandwidth()
    scanned = engine.unique * _bytes_stored(bits) / (times["scan"].single or 1.0) / 1e9
    return {
        "items": items,
        "bits": bits,
        "centres": centres,
        "flip": flip if centres else None,
        "k": k,
        "radius": radius,
        "threads": threads,
        "path": path,
        "paths": {
            "one": Counter(name for q in some for name in engine.paths(q[None], k, path=path)),
            "batch": Counter(engine.paths(queries, k, path=path)),
        },
        "cpu": f"{platform.machine()}, {_vector_unit()}",
        "unique": engine.unique,
        "build_s": build,
        "warm_up_s": warm_up,
        "bytes_per_code": engine.nbytes / items,
        "single_ms": _ms(mine.single),
        "scan_ms": _ms(times["scan"].single),
        "batch_qps": mine.qps,
        "radius_us": _us(mine.radius),
        "filter_ms": _ms(times["filter"].single),
        "insert_ms": insert * 1e3,
        "faiss_single_ms": _ms(flat.single),
        "faiss_batch_qps": flat.qps,
        "faiss_radius_us": _us(flat.radius),
        "ratio_single": _ratio(flat.single, mine.single),
        "ratio_scan": _ratio(flat.single, times["scan"].single),
        "ratio_batch": _ratio(mine.qps, flat.qps),
        "ratio_radius": _ratio(flat.radius, mine.radius),
        "read_gb_s": read,
        "bandwidth_gb_s": scanned,
        "bandwidth_share": scanned / read,
        "exact": _all_exact(engine, grown, allowed, packed, queries[:CHECKED], items, k, radius),
        "peers": {
            name: _peer_record(
                name, contestants[name], times[name], packed[:items], queries[:CHECKED], k, radius
            )
            for name in contestants
            if name != "wingbar"
        },
        "skipped": skipped,
    }


def _race(contestants: dict[str, _Contestant], some: Packed, queries: Packed) -> dict[str, _Times]:
    """The times of all contestants. They take turns in every round, so that a busy moment of the
    machine hits all of them."""
    single: dict[str, list[float]] = {name: [] for name in contestants}
    within: dict[str, list[float]] = {name: [] for name in contestants}
    batch: dict[str, list[float]] = {name: [] for name in contestants}
    sizes = {name: _affordable(contestant, queries) for name, contestant in contestants.items()}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            single[name] += _each(contestant.single, some)
        for name, contestant in contestants.items():
            if contestant.within:
                within[name] += _each(contestant.within, some)
        for name, contestant in contestants.items():
            if contestant.many:
                start = time.perf_counter()
                contestant.many(queries[: sizes[name]])
                batch[name].append((time.perf_counter() - start) / sizes[name])
    return {
        name: _Times(
            median(single[name]),
            1 / median(batch[name]) if batch[name] else None,
            median(within[name]) if within[name] else None,
        )
        for name in contestants
    }


def _each(ask: Callable[[Packed], Any], queries: Packed) -> list[float]:
    """Seconds of each query [w] on its own."""
    seconds = []
    for query in queries:
        start = time.perf_counter()
        ask(query)
        seconds.append(time.perf_counter() - start)
    return seconds


def _affordable(contestant: _Contestant, queries: Packed) -> int:
    """The size of a batch that takes about a second; the trial batch also warms up."""
    few = 32
    for ask in (contestant.single, contestant.within):
        if ask:
            ask(queries[0])
    if contestant.many is None:
        return few
    start = time.perf_counter()
    contestant.many(queries[:few])
    each = (time.perf_counter() - start) / few
    return int(np.clip(1.0 / each, few, BATCH_QUERIES))


def _peer(name: str, packed: Packed, bits: int, k: int, radius: int, threads: int) -> _Contestant:
    """A peer over the same codes. Raises ImportError if it is not installed, _LeftOutError if it
    does not take part."""
    if name == "numpy":
        rows = packed[:, 0].astype(np.uint32) if bits <= 32 else packed

        def by_numpy(query: Packed) -> Any:
            distance = np.bitwise_count(rows ^ query.astype(rows.dtype))
            distance = distance if distance.ndim == 1 else distance.sum(1, dtype=np.uint16)
            near = np.argpartition(distance, min(k, len(distance)) - 1)[:k]
            return near[np.lexsort((near, distance[near]))], np.sort(distance[near])

        return _Contestant(by_numpy, None, None, 0.0, lambda found: found[1].tolist())
    as_bytes = _padded(packed, bits)
    start = time.perf_counter()
    if name == "usearch":
        from usearch.index import MetricKind, search  # type: ignore[attr-defined,unused-ignore]

        if len(packed) > 1_000_000:
            raise _LeftOutError("more than a second per query")

        def by_usearch(many: Packed) -> Any:
            rows = _padded(np.atleast_2d(many), bits)
            return search(as_bytes, rows, k, MetricKind.Hamming, exact=True, threads=threads)

        return _Contestant(
            by_usearch,
            by_usearch,
            None,
            0.0,
            lambda found: np.sort(found.distances.ravel()).astype(int).tolist(),
        )
    import faiss

    length = as_bytes.shape[1] * 8
    if name == "flat":
        index: Any = faiss.IndexBinaryFlat(length)
    elif name == "multihash":
        if bits < 32:
            raise _LeftOutError("fewer than two tables of 16 bits")
        index = faiss.IndexBinaryMultiHash(length, min(bits, 64) // 16, 16)
        index.nflip = 0 if radius < bits // 16 else 1
    elif name == "ivf":
        quantiser = faiss.IndexBinaryFlat(length)
        index = faiss.IndexBinaryIVF(quantiser, length, max(1, min(1024, len(packed) // 100)))
        index.quantiser = quantiser  # kept alive
        index.train(as_bytes[:: max(1, len(as_bytes) // 50_000)])
        index.nprobe = 32
    else:
        if len(packed) > HNSW_UP_TO:
            raise _LeftOutError("minutes to build")
        index = faiss.IndexBinaryHNSW(length, 16)
        index.hnsw.efSearch = 64
    index.add(as_bytes)
    ranged = name in ("flat", "multihash", "ivf")
    return _Contestant(
        lambda query: index.search(_padded(query[None], bits), k),
        lambda many: index.search(_padded(many, bits), k),
        (lambda query: index.range_search(_padded(query[None], bits), radius + 1))
        if ranged
        else None,  # FAISS excludes it
        time.perf_counter() - start,
        lambda found: (found[0][0] if len(found) == 2 else np.sort(found[1])).astype(int).tolist(),
    )


def _padded(packed: Packed, bits: int) -> NDArray[np.uint8]:
    """Codes as bytes [n, 4 or a multiple of 8], the lengths for which FAISS has fast loops."""
    return np.ascontiguousarray(packed.astype("<u4") if bits <= 32 else packed.astype("<u8")).view(
        np.uint8
    )


def _peer_record(
    name: str,
    peer: _Contestant,
    times: _Times,
    packed: Packed,
    queries: Packed,
    k: int,
    radius: int,
) -> dict[str, Any]:
    """A peer's times and its recall: the share of the true distances that it found, tied items
    being equally good."""
    found = want = inside = all_inside = 0
    for query in queries:
        true = np.sort(codes.hamming(query, packed))
        last = true[min(k, len(true)) - 1]
        found += sum(0 <= distance <= last for distance in peer.distances(peer.single(query))[:k])
        want += min(k, len(true))
        if peer.within:
            inside += len(peer.distances(peer.within(query)))
            all_inside += int((true <= radius).sum())
    return {
        "build_s": peer.build,
        "single_ms": _ms(times.single),
        "batch_qps": times.qps,
        "radius_us": _us(times.radius),
        "recall": found / want,
        "radius_recall": (inside / all_inside if all_inside else 1.0) if peer.within else None,
    }


def _all_exact(
    engine: Codes,
    grown: Codes,
    allowed: codes.Filter,
    packed: Packed,
    queries: Packed,
    items: int,
    k: int,
    radius: int,
) -> bool:
    """Whether every kind of search returns the ids and distances of brute force."""
    inside = np.zeros(items, bool)
    inside[np.concatenate([part.rows for part in allowed.parts])] = True
    many = engine.nearest(queries, k)
    for i, query in enumerate(queries):
        distance = codes.hamming(query, packed)
        mine = distance[:items]
        expected = _brute_force(mine, np.arange(items), k)
        answers = [
            (engine.nearest(query[None], k), expected),
            (engine.nearest(query[None], k, path="scan"), expected),
            (engine.nearest(query[None], k, path="words"), expected),
            (engine.nearest(query[None], k, path="probe"), expected),
            ([many[i]], expected),
            (
                engine.within(query[None], radius),
                _brute_force(mine, np.flatnonzero(mine <= radius), items),
            ),
            (
                engine.nearest(query[None], k, allowed=allowed),
                _brute_force(mine, np.flatnonzero(inside), k),
            ),
            (grown.nearest(query[None], k), _brute_force(distance, np.arange(len(distance)), k)),
        ]
        for [found], (ids, distances) in answers:
            if not (np.array_equal(found.ids, ids) and np.array_equal(found.distances, distances)):
                return False
    return True


def _brute_force(
    distance: NDArray[np.int64], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first k of `rows` by (distance, row), and their distances."""
    if len(rows) > k:
        rows = rows[distance[rows] <= np.partition(distance[rows], k - 1)[k - 1]]
    order = rows[np.argsort(distance[rows], kind="stable")][:k]
    return order, distance[order]


def _read_bandwidth() -> float:
    """GB/s at which one core reads memory: the median of seven passes of a compiled sum over
    512 MiB."""
    from wingbar.hamming import kernels

    many = np.ones(64 << 20, np.uint64)
    kernels.total(many)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        kernels.total(many)
        seconds.append(time.perf_counter() - start)
    return many.nbytes / median(seconds) / 1e9


def _vector_unit() -> str:
    """The vector instructions that count bits on this CPU, by LLVM's list of its features."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    named = {"avx512vpopcntdq": "AVX-512 VPOPCNTDQ", "avx2": "AVX2", "neon": "NEON"}
    return next((name for feature, name in named.items() if features.get(feature)), "no vectors")


def _bytes_stored(bits: int) -> int:
    """Bytes of one code in the engine's memory."""
    return 4 if bits <= 32 else 8 * codes.words(bits)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b
