"""What the steps of a search cost on this machine: measured once, and kept with the compiled loops.

A scan reads all codes, probing looks up buckets; which of them is faster depends on the CPU, its
caches and its memory. On one with AVX2 a byte costs twice as much to compare as on one with
AVX-512, and a bucket four times as much.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from wingbar import files
from wingbar.hamming.part import Part
from wingbar.hamming.records import ALL_ROWS, PROBE, SCAN, TYPICAL, Asked, Costs, Request

_CODES = 1 << 20  # that are measured with
_SPREAD = 1 << 24  # 64 MiB of 4 bytes: more than a cache holds
_BITS = {4: 32, 8: 48, 16: 128}  # of the codes that are measured with, by their bytes
_RADIUS = {4: 4, 8: 8, 16: 10}  # of the probing that is measured: tables x 2 + 2 or less
_QUERIES = 16
_ROUNDS = 7  # of which the fastest counts, as the others were disturbed
_UNLIMITED = 2**62


def of_machine(bits: int) -> Costs:
    """The costs for codes of `bits` bits: those on file, or measured, which takes a second."""
    return _of_words(4 if bits <= 32 else 8 if bits <= 64 else 16)


@lru_cache
def _of_words(size: int) -> Costs:
    """The costs for codes that are kept in `size` bytes."""
    path = _path(size)
    if path is not None:
        with suppress(OSError, ValueError):
            return decoded(path.read_text(encoding="utf-8"))
    costs = measure(size)
    if path is not None:
        with suppress(OSError):  # measured again the next time
            files.write_whole(path, encoded(costs))
    return costs


def encoded(costs: Costs) -> str:
    """Costs as JSON."""
    return json.dumps(costs._asdict())


def decoded(text: str) -> Costs:
    """The costs that `encoded` wrote. Raises ValueError for anything else."""
    record = json.loads(text)
    if not isinstance(record, dict) or set(record) != set(Costs._fields):
        raise ValueError("these are no costs")
    record["bucket"] = tuple(record["bucket"])
    numbers = [*record["bucket"], *(v for k, v in record.items() if k != "bucket")]
    if len(record["bucket"]) != 3 or not all(
        isinstance(number, float) and math.isfinite(number) and number > 0 for number in numbers
    ):
        raise ValueError("costs are positive numbers")
    return Costs(**record)


def measure(size: int) -> Costs:
    """Measure the costs for codes of 32 bits (`size` 4 bytes), 48 (8 bytes) or 128 (16 bytes).

    Scans and the rows of a filter are measured as they are. Probing is measured as a whole: the
    costs of its steps are TYPICAL's, times what it takes here in relation to them.
    """
    from wingbar.hamming import kernels
    from wingbar.hamming.planes import pay

    bits = _BITS[size]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2 ** min(bits, 64), (_CODES, -(-bits // 64)), np.uint64)
    part = Part.build(drawn, bits, np.arange(_CODES), True, pay())
    table, there = part.table, part.in_memory
    queries = rng.integers(0, 2 ** min(bits, 64), (_QUERIES, drawn.shape[1]), np.uint64)
    scan = Asked.of(Request(10, 10, bits, SCAN))
    listed = np.sort(rng.choice(_CODES, _CODES // 16, replace=False)).astype(np.int64)
    scanned = _ns(lambda: part.searched(queries[0], scan, ALL_ROWS, 0, part.size))
    shared = _ns(lambda: kernels.nearest_many(*there, queries, scan.numbers, ALL_ROWS, 1 << 16))
    by_row = _ns(lambda: kernels.nearest_listed(*there, queries[0], scan.numbers, listed))
    probe = Asked.of(Request(_UNLIMITED, _UNLIMITED, _RADIUS[size], PROBE))
    probed = _ns(
        *(partial(part.searched, query, probe, ALL_ROWS, 0, part.size) for query in queries)
    )
    slower = probed / _QUERIES / expected(_RADIUS[size], table.heads.shape[0])
    near = _ns_elsewhere(table.sketches.reshape(-1), rng)
    far = _ns_elsewhere(np.resize(table.sketches, _SPREAD), rng)
    bucket = TYPICAL.bucket[1] * slower
    nbytes = table.unique.nbytes
    return Costs(
        scanned_byte=scanned / nbytes,
        shared_byte=shared / _QUERIES / nbytes,
        bucket=(bucket, bucket, bucket * max(1.0, far / near)),
        candidate=TYPICAL.candidate * slower,
        noted=TYPICAL.noted * slower,
        listed_row=by_row / len(listed),
    )


def expected(radius: int, tables: int) -> float:
    """Nanoseconds of probing uniform codes up to a radius, by TYPICAL costs: steps (s, t) up to
    tables s + t = radius, as `probing` says."""
    in_bucket = _CODES / 2**16 * TYPICAL.candidate
    steps = (divmod(step, tables)[0] for step in range(radius + 1))
    return sum(math.comb(16, s) * (TYPICAL.bucket[1] + in_bucket) for s in steps)


def _ns(*works: Callable[[], object]) -> float:
    """Nanoseconds of all of these, the fastest round of each, after one round that may compile
    them. Time of this thread where that is known finely enough, as a busy machine must not have its
    costs wrong for ever."""
    fine = time.get_clock_info("thread_time").resolution < 1e-6
    clock = time.thread_time_ns if fine else time.perf_counter_ns
    times: list[list[int]] = [[] for _ in works]
    for work in works:
        work()
    for _ in range(_ROUNDS):
        for work, taken in zip(works, times, strict=True):
            start = clock()
            work()
            taken.append(clock() - start)
    return float(max(1, sum(min(taken) for taken in times)))


def _ns_elsewhere(codes: np.ndarray, rng: np.random.Generator) -> float:
    """Nanoseconds to read a code anywhere among these."""
    places = rng.integers(0, len(codes), 1 << 17)
    return _ns(lambda: codes.take(places)) / len(places)


def _path(size: int) -> Path | None:
    """Where the costs are kept: beside the compiled loops, one file for each CPU they are compiled
    for. None where those are not kept."""
    from numba.core.registry import cpu_target

    from wingbar.hamming import compiling, kernels

    folder = getattr(getattr(kernels.nearest, "_cache", None), "cache_path", None)
    if not isinstance(folder, str):
        return None
    key = repr((cpu_target.target_context.codegen().magic_tuple(), compiling.SOURCES))
    return Path(folder) / f"costs-{hashlib.sha256(key.encode()).hexdigest()[:16]}-{size}.json"
