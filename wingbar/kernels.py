"""The compiled loops of `codes.py`, apart so that small indexes never wait for the compiler to be imported.

numba keeps the machine code beside this file (or in NUMBA_CACHE_DIR), so a machine compiles once.
"""

from __future__ import annotations

from typing import Any

import numba
from numba.core import types
from numba.extending import intrinsic


@intrinsic
def _popcount(typing: Any, word: Any) -> Any:
    """Count the ones of a 64-bit word: LLVM's ctpop, which is one instruction on CPUs that have it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), emit


def _compiled(function: Any) -> Any:
    """Compiled on first use and kept for the next process, where there is a place that can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor a home can be written
        return numba.njit(nogil=True)(function)


@_compiled
def scan(codes: Any, query: Any, out: Any) -> None:
    """Hamming distances: codes [U, w] uint64, query [w] uint64 -> out [U] uint16, filled in place."""
    if codes.shape[1] == 1:
        q = query[0]
        for i in range(codes.shape[0]):
            out[i] = _popcount(codes[i, 0] ^ q)  # type: ignore[call-arg]
        return
    for i in range(codes.shape[0]):
        distance = types.uint64(0)
        for j in range(codes.shape[1]):
            distance += _popcount(codes[i, j] ^ query[j])  # type: ignore[call-arg]
        out[i] = distance
