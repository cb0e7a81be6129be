"""Reading several indexes as one, or one on a server, for the HTTP API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError, StoreError
from wingbar.hamming import codes
from wingbar.index.engine import Item, Place
from wingbar.index.index import IndexInfo
from wingbar.index.ranking import Hits, SearchOptions
from wingbar.index.shards import Shards
from wingbar.model.model import Embeddings, Model
from wingbar.serving.connections import (
    COLUMN_SAMPLE,
    NotFoundError,
    Page,
    Row,
    is_available,
    useful_columns,
)


class ShardsReader:
    """Several indexes as one, as `connections.AnyReader` has it; an answer names the shards that
    failed. Raises StoreError when one cannot be opened at the start."""

    def __init__(self, places: Sequence[Place], keeps_codes: bool = True) -> None:
        self._shards = Shards(places)
        self._keeps_codes = keeps_codes
        self.is_empty = False

    @property
    def encoders(self) -> Sequence[str]:
        """The first one's name: shards are searched by no other."""
        return (self._shards.model.name,)

    def by(self, encoder: str | None) -> ShardsReader:
        """Itself. Raises QueryError for another encoder than the first."""
        if encoder not in (None, *self.encoders):
            raise QueryError(
                f"several indexes are searched by their first encoder, {self.encoders[0]}: leave "
                "encoder out"
            )
        return self

    @property
    def model(self) -> Model:
        """The model of all shards."""
        return self._shards.model

    def close(self) -> None:
        """Release all shards."""
        self._shards.close()

    def check(self) -> None:
        """Raises StoreError, naming it, when one of the shards cannot be read."""
        found = self._shards.refresh(keep_codes=False)
        if found.failed:
            one = found.failed[0]
            raise StoreError(f"the shard {one.name} does not answer: {one.reason}")

    def snapshot(self) -> AbstractContextManager[object]:
        """Each shard has snapshots of its own."""
        return nullcontext()

    def find(self, query: Embeddings, options: SearchOptions, seconds: float) -> Hits:
        """The hits of one embedding. Filters are not cut off after `seconds`: a shard that takes
        long is named as failed."""
        return self._shards.find([query], options)[0]

    def find_vector(
        self, vector: NDArray[np.float32], options: SearchOptions, seconds: float
    ) -> Hits:
        """Raises QueryError: texts are searched for in one index file."""
        raise QueryError(
            "texts are searched for in one index file only: serve one of them, or use wingbar "
            "search --text"
        )

    def expanded(self, query: Embeddings, options: SearchOptions) -> Embeddings:
        """The query averaged with its neighbours in all shards, where the options or the model say
        so."""
        return self._shards.expanded([query], options)[0]

    def item(self, id_: int) -> Item:
        """An item. Raises NotFoundError, or StoreError when its shard does not answer."""
        items, missing, failed = self._shards.items_there([id_])
        if failed:
            raise StoreError(f"the shard {failed[0].name} does not answer: {failed[0].reason}")
        if missing:
            raise NotFoundError(f"there is no item {id_}: it may have been deleted")
        return items[id_]

    def embedding(self, id_: int) -> Embeddings:
        """What its shard stores of an item, as a query. Raises NotFoundError."""
        self.item(id_)
        try:
            return self._shards.embedding(id_)
        except QueryError:
            raise NotFoundError(f"there is no item {id_}: it may have been deleted") from None

    def codes_of(self, ids: Sequence[int]) -> codes.Packed:
        """The codes [n, w] uint64 of existing items."""
        return self._shards.codes_of(ids)

    def row(self, id_: int) -> Row:
        """An item with its code. Raises NotFoundError."""
        return self._rows([(id_, self.item(id_))])[0]

    def page(
        self, offset: int, limit: int, where: Sequence[str], spread: bool, seconds: float
    ) -> Page:
        """A page of the items that match all filters, by shard and ascending id, also with
        `spread`; the number of all that match; and the shards that did not answer."""
        items, total, failed = self._shards.page(offset, limit, where)
        return Page(self._rows(items), total, failed)

    def _rows(self, items: Sequence[tuple[int, Item]]) -> list[Row]:
        packed = self._shards.codes_of([id_ for id_, _ in items])
        bits = self.model.bits
        return [
            Row(id_, item, packed[i : i + 1], bits, is_available(item.path))
            for i, (id_, item) in enumerate(items)
        ]

    def ids_of_paths(self, paths: Sequence[str]) -> dict[str, int]:
        """Ids of those `paths` that one of the shards holds."""
        return self._shards.ids_of_paths(paths)

    def refresh(self) -> int:
        """Bring the codes of files in memory up to date. Returns the number of items of the shards
        that answer."""
        counts = self._shards.refresh(self._keeps_codes).of
        self.is_empty = not any(counts.values())
        return sum(counts.values())

    def version(self) -> tuple[int, ...]:
        """Changes whenever something in a shard has, or one fails or comes back."""
        return self._shards.version()

    def info(self) -> IndexInfo:
        """Numbers about all shards that answer, added up; a code that two shards have counts
        twice."""
        infos = list(self._shards.infos().of.values())
        model = self.model
        return IndexInfo(
            items=sum(info.items for info in infos),
            labels=len(self.label_counts()),
            bits=model.bits if model.gives_codes else None,
            dim=model.dim,
            unique_codes=sum(info.unique_codes for info in infos),
            search_bytes=sum(info.search_bytes for info in infos),
            bytes=sum(info.bytes for info in infos),
            fingerprint=model.fingerprint,
            model=model.name,
            method=model.method,
            fine=model.fine,
            features=" and ".join(sorted({info.features for info in infos})),
            half_copied=any(info.half_copied for info in infos),
        )

    def label_counts(self) -> dict[str, int]:
        """How many items of the shards that answer have each label."""
        return self._shards.label_counts()

    def columns(self) -> dict[str, list[str]]:
        """The most frequent values of each column among the first items of each shard."""
        counts: dict[str, Counter[str]] = {}
        for item in self._shards.some_items(COLUMN_SAMPLE):
            for name, value in item.columns.items():
                counts.setdefault(name, Counter())[value] += 1
        return useful_columns(counts)

    def shards(self) -> Sequence[tuple[str, int | None, str | None]]:
        """The name of each shard, its number of items, and why it does not answer."""
        found = self._shards.refresh(keep_codes=False)
        reasons = {one.name: one.reason for one in found.failed}
        return [
            (str(place), found.of.get(i), reasons.get(str(place)))
            for i, place in enumerate(self._shards.places)
        ]
