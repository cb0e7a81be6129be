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
from functools import lru_cache
from pathlib import Path

import numpy as np

from wingbar import files
from wingbar.hamming.part import Part
from wingbar.hamming.records import ALL_ROWS, PROBE, SCAN, TYPICAL, Costs, Request

_CODES = 1 << 20  # that are measured with
_SPREAD = 1 << 23  # 64 MiB of codes: more than a cache holds
_RADIUS = {4: 4, 8: 8}  # of the probing that is measured, by the bytes of a code: tables x 2 + 2
_QUERIES = 16
_ROUNDS = 7  # of which the fastest counts, as the others were disturbed
_UNLIMITED = 2**62


def of_machine(bits: int) -> Costs:
    """The costs for codes of `bits` bits: those on file, or measured, which takes a second.

    Codes of several words are not probed and have TYPICAL ones.
    """
    return TYPICAL if bits > 64 else _of_words(4 if bits <= 32 else 8)


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
    record["scattered"] = tuple(record["scattered"])
    numbers = [*record["scattered"], *(v for k, v in record.items() if k != "scattered")]
    if len(record["scattered"]) != 3 or not all(
        isinstance(number, float) and math.isfinite(number) and number > 0 for number in numbers
    ):
        raise ValueError("costs are positive numbers")
    return Costs(**record)


def measure(size: int) -> Costs:
    """Measure the costs for codes of 32 bits (`size` 4 bytes) or 48 (8 bytes).

    Scans and the rows of a filter are measured as they are. Probing is measured as a whole: the
    costs of its steps are TYPICAL's, times what it takes here in relation to them.
    """
    from wingbar.hamming import kernels

    bits = {4: 32, 8: 48}[size]
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**bits, (_CODES, 1), np.uint64)
    part = Part.build(codes, bits, np.arange(_CODES), True)
    table = part.table
    queries = rng.integers(0, 2**bits, (_QUERIES, 1), np.uint64).astype(table.unique.dtype)
    scan = Request(10, 10, bits, SCAN)
    listed = np.sort(rng.choice(_CODES, _CODES // 16, replace=False)).astype(np.int64)
    scanned = _ns(lambda: kernels.nearest(table, queries[0], scan, ALL_ROWS, 0, part.size))
    shared = _ns(lambda: kernels.nearest_many(table, queries, scan, ALL_ROWS, 1 << 16))
    by_row = _ns(lambda: kernels.nearest_listed(table, queries[0], scan, listed))
    probe = Request(_UNLIMITED, _UNLIMITED, _RADIUS[size], PROBE)
    probed = _ns(
        lambda: [kernels.nearest(table, q, probe, ALL_ROWS, 0, part.size) for q in queries]
    )
    slower = probed / _QUERIES / expected(probe.radius, table.heads.shape[0])
    near, far = (_ns_elsewhere(codes, rng) for codes in (table.unique, _spread(table.unique)))
    nbytes = table.unique.nbytes
    return Costs(
        scanned_byte=scanned / nbytes,
        shared_byte=shared / _QUERIES / nbytes,
        bucket=TYPICAL.bucket * slower,
        adjacent=TYPICAL.adjacent * slower,
        scattered=(
            TYPICAL.scattered[0] * slower,
            TYPICAL.scattered[1] * slower,
            TYPICAL.scattered[1] * slower * max(1.0, far / near),
        ),
        noted=TYPICAL.noted * slower,
        listed_row=by_row / len(listed),
    )


def expected(radius: int, tables: int) -> float:
    """Nanoseconds of probing uniform codes up to a radius, by TYPICAL costs: steps (s, t) up to
    tables s + t = radius, as `kernels` says."""
    ns, in_bucket = 0.0, _CODES / 2**16
    for step in range(radius + 1):
        s, t = divmod(step, tables)
        candidate = TYPICAL.adjacent if t == 0 else TYPICAL.scattered[1]
        ns += math.comb(16, s) * (TYPICAL.bucket + in_bucket * candidate)
    return ns


def _ns(work: Callable[[], object]) -> float:
    """Nanoseconds of `work`, after one call that may compile it."""
    work()
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return float(max(1, min(times)))


def _spread(codes: np.ndarray) -> np.ndarray:
    """More codes of the same type than a cache holds."""
    return np.resize(codes, _SPREAD * 8 // codes.itemsize)


def _ns_elsewhere(codes: np.ndarray, rng: np.random.Generator) -> float:
    """Nanoseconds to read a code anywhere among these."""
    places = rng.integers(0, len(codes), 1 << 17)
    return _ns(lambda: codes.take(places)) / len(places)


def _path(size: int) -> Path | None:
    """Where the costs are kept: beside the compiled loops, one file for each CPU they are compiled
    for. None where those are not kept."""
    from numba.core.registry import cpu_target

    from wingbar.hamming import kernels

    folder = getattr(getattr(kernels.nearest, "_cache", None), "cache_path", None)
    if not isinstance(folder, str):
        return None
    cpu = repr(cpu_target.target_context.codegen().magic_tuple())
    return Path(folder) / f"costs-{hashlib.sha256(cpu.encode()).hexdigest()[:16]}-{size}.json"
