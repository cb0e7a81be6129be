"""What stores on a server share: all that follows from a few reads."""

from __future__ import annotations

import hashlib
import os
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import StoreError
from wingbar.hamming.codes import Codes
from wingbar.index import filters
from wingbar.index.engine import AnyStore, Url
from wingbar.index.filters import Condition
from wingbar.index.kept import Kept
from wingbar.index.memory import CodesInMemory

BLOCK = 4096  # rows that are read at a time


class RemoteStore(AnyStore):
    """The part of `AnyStore` that is the same on every server.

    Safe to use from several threads, which take turns.
    """

    epoch = 0
    kept: Kept = "float16"
    is_second = False
    also = None

    def __init__(self, url: Url) -> None:
        self._url = url
        self._lock = threading.RLock()
        self._memory = CodesInMemory(self)

    @classmethod
    @abstractmethod
    def create(cls, url: Url, model_files: Mapping[str, bytes]) -> Self:
        """A new index that holds the model. Raises StoreError when there is one of that name."""

    @classmethod
    @abstractmethod
    def open(cls, url: Url) -> Self:
        """The index at `url`. Raises StoreError when there is none."""

    @classmethod
    @abstractmethod
    def exists(cls, url: Url) -> bool:
        """Whether there is an index at `url`."""

    @property
    def path(self) -> Url:
        """The URL."""
        return self._url

    def set_also(self, files: Mapping[str, bytes]) -> None:
        """Raises StoreError: only a file holds the codes of two encoders."""
        raise StoreError(
            f"{self.path} holds the codes of one encoder, and only a file those of two: leave "
            "--also out, or name a file"
        )

    def waiting(self) -> NDArray[np.int64]:
        """Of no item: there is one encoder."""
        return np.empty(0, np.int64)

    @property
    def scratch(self) -> Path:
        """In the user's cache folder, by the URL."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(cache) / "wingbar"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made ({error.strerror})") from None
        digest = hashlib.sha256(self._url.shown.encode()).hexdigest()[:16]
        return folder / f"{self._url.name}-{digest}"

    def close(self) -> None:
        """Release what is in memory."""
        self._memory.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A change that takes several transactions; each of them looks whether the index is still
        the same."""
        yield

    @abstractmethod
    def values_of(self, field: str) -> list[str]:
        """Different values of a field, at most `filters.NEAR_AMONG` of them."""

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """What is wrong with the index, one line each."""

    # -- what follows from the reads of `AnyStore`

    def code_marks(self) -> None:
        """A server tells only whether anything has changed."""
        return

    def searchable(self, bits: int) -> Codes:
        """All codes in memory, read again when anything has changed."""
        with self._lock:
            return self._memory.searchable(bits)

    def all_features(self, dim: int) -> NDArray[np.float16]:
        """Features [N, d] of all items, by ascending id."""
        none = np.empty((0, dim), np.float16)
        return np.concatenate([none, *self.feature_blocks(dim, BLOCK)])

    def ids(self) -> NDArray[np.int64]:
        """The ids [N] of all items, ascending."""
        return np.fromiter((id_ for id_, _ in self.all_items()), np.int64)

    def labels(self) -> list[str | None]:
        """The label of every item, by ascending id."""
        return [item.label for _, item in self.all_items()]

    def paths(self) -> list[str]:
        """The path of every item, by ascending id."""
        return [item.path for _, item in self.all_items()]

    def contents(self) -> list[bytes]:
        """The sha256 of every item's file, by ascending id."""
        return [item.content for _, item in self.all_items()]

    def label_counts(self) -> dict[str, int]:
        """The number of items of each label; items without a label are left out."""
        labels = (item.label for _, item in self.all_items() if item.label is not None)
        return dict(sorted(Counter(labels).items()))

    def why_nothing_passes(self, conditions: Sequence[Condition]) -> str:
        """Why the filter lets nothing pass, as `filters.why_nothing_passes`."""
        return filters.why_nothing_passes(
            conditions, lambda some: len(self.matching(some)) > 0, self.values_of
        )
