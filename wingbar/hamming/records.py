"""The records that the search structure and the compiled loops share. Importing them needs no
compiler.

Shapes: N rows, U distinct codes, Q queries, K results, b bits, w = ceil(b / 64) words, m tables of
substrings.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Packed = NDArray[np.uint64]
Ids = NDArray[np.int64]
Rows = NDArray[np.int64]
Distances = NDArray[np.int64]
Bitmap = NDArray[np.uint64]
Path = Literal["auto", "numpy", "scan", "words", "planes", "probe"]

AUTO, NUMPY, SCAN, WORDS, PLANES, PROBE, TRY_PROBE = range(7)  # Request.path
PATHS: dict[Path, int] = {
    "auto": AUTO,
    "numpy": NUMPY,
    "scan": SCAN,
    "words": WORDS,
    "planes": PLANES,
    "probe": PROBE,
}

ALL_ROWS: Bitmap = np.empty(0, np.uint64)  # the bitmap that allows every row


class Table(NamedTuple):
    """The distinct codes of a set in ascending order, and the rows that have each of them.

    bits: b, the length of a code.
    unique: the distinct codes: [U] uint32 up to 32 bits, [U] uint64 up to 64, else [w, U] uint64.
    starts: [U + 1] uint32; code u belongs to rows[starts[u]:starts[u + 1]].
    rows: [N] uint32, the rows of code 0, then those of code 1 and so on; ascending for each code.
    places: [N] uint32, the index in `unique` of the code of each row.
    heads: [m, 2^16 + 1] uint32, where the codes with each 16-bit substring begin in the order of
        table t; substring t is the bits from b - 16 (t + 1) up. m is 0 where nothing is probed.
    order: [m - 1, U] uint32, indices in `unique` sorted by substring 1, 2, ...; sorted by
        substring 0 they are already.
    sketches: [m, U] uint32, 32 bits of each code beside its substring t, in the order of table t.
    planes: [ceil(U / 256), b', 4] uint64, the bits of 256 codes at a time: plane j has bit
        b - 1 - j of each; b' is a multiple of 16. It is [0, 0, 4] where words are scanned.
    """

    bits: int
    unique: NDArray[Any]
    starts: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    places: NDArray[np.uint32]
    heads: NDArray[np.uint32]
    order: NDArray[np.uint32]
    sketches: NDArray[np.uint32]
    planes: NDArray[np.uint64]

    def addresses(self) -> NDArray[np.int64]:
        """Where the arrays are, which the compiled loops take over in a third of the time of the
        arrays: [20], `bits`, then of each array after `unique` its address and its shape. They hold
        for as long as the table is kept."""
        numbers = [self.bits]
        for array in self[2:]:
            if not array.flags.c_contiguous:
                raise ValueError("the loops read arrays that lie in one piece")
            numbers += [array.ctypes.data, *array.shape]
        return np.array(numbers, np.int64)


class Costs(NamedTuple):
    """What the steps of a search cost on a machine, in nanoseconds: they decide between a scan and
    probing, and change the speed of a search, never its result. `costs.py` measures them.

    scanned_byte: reading a byte of codes in order.
    shared_byte: the same in a batch, whose queries share what was read.
    bucket: looking up a bucket, in tables of up to 4 MiB, up to 16 MiB and beyond.
    candidate: comparing a code in it.
    noted: noting a code that is within the threshold.
    listed_row: comparing one of the listed rows.
    """

    scanned_byte: float
    shared_byte: float
    bucket: tuple[float, float, float]
    candidate: float
    noted: float
    listed_row: float


# Of the machine of docs/hamming.md, an Intel Xeon with AVX-512: for where nothing is measured.
TYPICAL = Costs(0.025, 0.009, (8.0, 16.0, 24.0), 0.8, 25.0, 2.0)


class Request(NamedTuple):
    """What is asked of every query of a search.

    k: number of items wanted, at least 1; everything that ties with the k-th is wanted too.
    limit: largest number of items returned, at least k.
    radius: largest distance of an item in bits, from 0 to b; nothing is found for -1.
    path: how to search: AUTO, NUMPY, SCAN (by planes where a table has them), WORDS, PLANES, PROBE,
        or TRY_PROBE, which probes if that is likely to be cheap and otherwise gives up.
    costs: by which AUTO and TRY_PROBE choose.
    """

    k: int
    limit: int
    radius: int
    path: int
    costs: Costs = TYPICAL


class Asked(NamedTuple):
    """A request, and the same as the compiled loops take it.

    numbers: [12] float64, its fields and those of its costs in their order; what is beyond 2^53 is
        rounded.
    """

    request: Request
    numbers: NDArray[np.float64]

    @classmethod
    def of(cls, request: Request) -> Asked:
        """The request in both forms."""
        costs = request.costs
        first = (costs.scanned_byte, costs.shared_byte, *costs.bucket)
        last = (costs.candidate, costs.noted, costs.listed_row)
        return cls(request, np.array([*request[:4], *first, *last]))


class Nearest(NamedTuple):
    """The items found for one query, ordered by (distance, id).

    ids: [K] int64.
    distances: [K] int64, in bits.
    cut: whether items at the last distance were left out.
    """

    ids: Ids
    distances: Distances
    cut: bool
