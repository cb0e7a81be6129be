"""The codes of a store in memory, brought up to date when the store has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.codes import Codes, Packed

MERGED_FROM = 20_000  # items that came or went, from which codes are sorted anew
CHUNK = 65_536  # ids per chunk of codes


class Source(Protocol):
    """Where codes come from."""

    @property
    def epoch(self) -> int:
        """Grows when another index is found in the place of this one."""

    def version(self) -> tuple[int, ...]:
        """Changes whenever something was written."""

    def model_fingerprint(self) -> str:
        """Of the model that the codes are of."""

    def code_marks(self) -> Mapping[int, int] | None:
        """A checksum of every chunk of codes; None where only the whole can be read again."""

    def codes(
        self, bits: int, chunks: Iterable[int] | None = None
    ) -> tuple[NDArray[np.int64], Packed]:
        """Ids [N], ascending, and codes [N, w] of all items, or of those in `chunks`."""


class _Loaded(NamedTuple):
    """Codes in memory and the state of the store they are from: what index and model they are of, a
    checksum by chunk, and its version where known."""

    codes: Codes
    origin: tuple[int, str]
    marks: Mapping[int, int]
    version: tuple[int, ...] | None


class CodesInMemory:
    """The codes of one store. Its methods are called by one thread at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._loaded: _Loaded | None = None
        self._merging: tuple[_Loaded, Future[Codes]] | None = None
        self._background = ThreadPoolExecutor(1, "wingbar-merge")

    def close(self) -> None:
        """Give up what is being sorted."""
        self._background.shutdown(wait=False, cancel_futures=True)

    def searchable(self, bits: int) -> Codes:
        """The codes of `bits` bits, up to date. Inside a read snapshot of the store.

        Inserts and deletes since the last call are applied in milliseconds; the large part is
        rebuilt in the background once they have grown in number.
        """
        origin = self._source.epoch, self._source.model_fingerprint()
        if self._loaded is not None and self._loaded.origin != origin:
            self._loaded = self._merging = None
        if self._merging is not None and self._merging[1].done():
            before, merged = self._merging
            self._merging = None
            self._loaded = before._replace(codes=merged.result(), version=None)
        version = self._source.version()
        if self._loaded is None or self._loaded.version != version:
            self._loaded = self._up_to_date(self._loaded, bits, origin, version)
            now = self._loaded.codes
            if self._merging is None and now.unmerged > max(MERGED_FROM, len(now) // 16):
                self._merging = self._loaded, self._background.submit(now.merged)
        return self._loaded.codes

    def _up_to_date(
        self, before: _Loaded | None, bits: int, origin: tuple[int, str], version: tuple[int, ...]
    ) -> _Loaded:
        marks = self._source.code_marks()
        if before is None or marks is None:
            ids, packed = self._source.codes(bits)
            return _Loaded(Codes(packed, bits, ids), origin, marks or {}, version)
        changed = [
            chunk
            for chunk in {*marks, *before.marks}
            if marks.get(chunk) != before.marks.get(chunk)
        ]
        ids, packed = self._source.codes(bits, changed)
        places = (
            np.concatenate([np.arange(c * CHUNK, (c + 1) * CHUNK) for c in sorted(changed)])
            if changed
            else ids[:0]
        )
        new = ~before.codes.has(ids)
        if (before.codes.of(ids[~new]) != packed[~new]).any():  # a copy was put back: start anew
            return self._up_to_date(None, bits, origin, version)
        gone = places[before.codes.has(places) & ~np.isin(places, ids, assume_unique=True)]
        if not new.any() and not len(gone):
            return before._replace(marks=marks, version=version)
        changed_codes = before.codes.changed(ids[new], packed[new], gone)
        return _Loaded(changed_codes, origin, marks, version)
