"""Several indexes of one model that are searched as one: the exact merge of what each finds.

An item of shard s with the id i there has the id s * 2^40 + i here, so that ids stay what they are
while shards are appended, and fit the numbers of JavaScript. Equal distances are ordered by that
id: by shard, then by id.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError, StoreError, WingbarError
from wingbar.hamming.codes import Nearest, Packed, merge_nearest
from wingbar.index.averaging import expanded, first_search
from wingbar.index.engine import Item, Place, Shortlist, Url, place_of
from wingbar.index.filters import NoColumnError, without_column
from wingbar.index.index import Index, IndexInfo
from wingbar.index.ranking import (
    TIE_CAP,
    Clock,
    FailedShard,
    Fine,
    Hit,
    Hits,
    Ranked,
    SearchOptions,
    rank,
    with_chances,
)
from wingbar.model.model import Embeddings, Model, check_same
from wingbar.model.random_pairs import RandomPairs

T = TypeVar("T")

ID_BITS = 40  # of an item's id in its shard
MOST_SHARDS = 2**12
SECONDS = 20.0  # after which a shard that has not answered counts as failed
DOWN_SECONDS = 2.0  # for which a shard that failed is not asked again


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What the shards answered, by their numbers, and which of them failed."""

    of: Mapping[int, T]
    failed: tuple[FailedShard, ...]


@dataclass(frozen=True)
class _Lists:
    """The shortlists of all queries in one shard, how near its items are to each other by chance,
    and the column of the filter that it lacks."""

    fine: Fine
    shortlists: list[Shortlist]
    random_pairs: RandomPairs | None = None
    missing: NoColumnError | None = None


class Shards:
    """Indexes of one model as one, for reading. Each has a thread, so that they search side by
    side.

    places: the files and URLs, in their order.
    model: the model of all of them.
    """

    def __init__(self, places: Sequence[str | os.PathLike[str] | Url]) -> None:
        """Raises StoreError when a shard cannot be opened, or is of another model than the first
        one."""
        self.places: tuple[Place, ...] = tuple(place_of(place) for place in places)
        if not 0 < len(self.places) <= MOST_SHARDS:
            raise StoreError(f"name from 1 to {MOST_SHARDS:,} shards, not {len(self.places):,}")
        names = list(map(str, self.places))
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise StoreError(f"{twice[0]} is named twice: every shard would be found twice")
        self._shards = [_Shard(i, place) for i, place in enumerate(self.places)]
        try:
            models = [shard.ask(lambda index: index.model).result() for shard in self._shards]
        except BaseException:
            self.close()
            raise
        self.model: Model = models[0]
        for name, model in zip(names, models, strict=True):
            if model.fingerprint != self.model.fingerprint:
                self.close()
                raise StoreError(
                    f"{name} is of {model}, {names[0]} of {self.model}: shards need one model; "
                    f"make {name} again with wingbar index {name} IMAGES --model {names[0]}"
                )

    def close(self) -> None:
        """Release all shards."""
        for shard in self._shards:
            shard.close()

    # -- search

    def find(self, queries: Sequence[Embeddings], options: SearchOptions) -> list[Hits]:
        """The hits of queries, one embedding each, as one index of all items would have them;
        `Hits.failed` names the shards that did not answer.

        Raises QueryError as `Index.find` does, StoreError when no shard answers.
        """
        if options.distinct:
            raise QueryError("copies are folded in one index only: leave distinct out")
        if options.encoder not in (None, self.model.name):
            raise QueryError(
                f"shards are searched by their first encoder, {self.model.name}, and not by "
                f"{options.encoder!r:.60}"
            )
        for query in queries:
            check_same(query, self.model, shard_names(self.places))
        queries = self.expanded(queries, options)
        for attempt in (1, 2, 3):  # an item may be deleted between its being found and read
            found = self._each(lambda index: self._shortlists(index, queries, options))
            _require_columns(found.of.values())
            lists = {i: one for i, one in found.of.items() if isinstance(one, _Lists)}
            fine: Fine = next(iter(lists.values())).fine if lists else "none"
            merged = [
                _merged({i: one.shortlists[q] for i, one in lists.items()}, options, fine)
                for q in range(len(queries))
            ]
            known = (one.random_pairs for one in lists.values())
            by_chance = next((one for one in known if one is not None), None)
            hits = self._hits(
                queries, merged, options, fine, by_chance, found.failed, last=attempt == 3
            )
            if hits is not None:
                return hits
        raise AssertionError  # the last turn returned

    def expanded(self, queries: Sequence[Embeddings], options: SearchOptions) -> list[Embeddings]:
        """The queries averaged with their neighbours in all shards, as `Index.expanded` does."""
        first = first_search(options, self.model)
        if first is None:
            return list(queries)
        found = self._each(lambda index: self._shortlists(index, queries, first))
        lists = {i: one for i, one in found.of.items() if isinstance(one, _Lists)}
        out = []
        for q, query in enumerate(queries):
            one = _merged({i: some.shortlists[q] for i, some in lists.items()}, first, "pool")
            ranked = rank(one.near, "pool", one.scores, first.k)
            near = self._owners(ranked.ids.tolist(), _stored)
            kept = [i for i, id_ in enumerate(ranked.ids.tolist()) if _has(near.of, id_)]
            if ranked.scores is None or not kept:
                out.append(query)
                continue
            rows = [near.of[id_ >> ID_BITS][local_id(id_)] for id_ in ranked.ids[kept].tolist()]
            features, packed = (np.stack(part) for part in zip(*rows, strict=True))
            out.append(expanded(query, features, packed, ranked.scores[kept]))
        return out

    def _shortlists(
        self, index: Index, queries: Sequence[Embeddings], options: SearchOptions
    ) -> _Lists | NoColumnError | None:
        """In a shard's thread: its own shortlists. None where it has nothing to search, or nothing
        of it can pass the filter because it lacks a column, which another shard may have."""
        self._require_same(index)
        missing: NoColumnError | None = None
        while not index.is_empty:
            try:
                fine, shortlists = index.shortlists(queries, options)
                return _Lists(fine, shortlists, index.random_pairs(), missing)
            except NoColumnError as error:
                missing = error
                left = without_column(options.where, error.column)
                if left is None:
                    return missing
                options = replace(options, where=left)
        return None

    def _require_same(self, index: Index) -> None:
        with index.snapshot():
            if index.model.fingerprint != self.model.fingerprint:
                raise StoreError(
                    f"it was given another model, {index.model}, than the shards had at the start "
                    f"({self.model}): restart the server"
                )

    def _hits(
        self,
        queries: Sequence[Embeddings],
        merged: Sequence[Shortlist],
        options: SearchOptions,
        fine: Fine,
        random_pairs: RandomPairs | None,
        failed: tuple[FailedShard, ...],
        last: bool,
    ) -> list[Hits] | None:
        """The records of what was found; None when one is gone, and it was not the last try."""
        ranked: list[Ranked] = []
        clocks: list[Clock] = []
        for query, one in zip(queries, merged, strict=True):
            clock = Clock({"coarse": one.coarse_ms})
            order = rank(one.near, fine, one.scores, options.k)
            ranked.append(with_chances(order, random_pairs, fine, query.logits[0], options.cut))
            clock.lap("fine")
            clock.milliseconds["fine"] += one.fine_ms
            clocks.append(clock)
        start = time.perf_counter()
        wanted = np.unique(np.concatenate([np.empty(0, np.int64), *(one.ids for one in ranked)]))
        items, missing, lost = self.items_there(wanted.tolist())
        if missing and not last and not lost:
            return None
        fetch_ms = (time.perf_counter() - start) * 1000 / max(len(merged), 1)
        every = failed + tuple(one for one in lost if one not in failed)
        return [
            Hits(
                _hits_of(order, items),
                order.shortlist,
                order.cut,
                {**clock.milliseconds, "fetch": fetch_ms},
                every,
            )
            for order, clock in zip(ranked, clocks, strict=True)
        ]

    # -- items

    def items(self, ids: Sequence[int]) -> list[Item]:
        """The items `ids`, in their order. Raises StoreError when one is not there, or its shard
        does not answer."""
        items, missing, failed = self.items_there(ids)
        if failed:
            raise StoreError(f"the shard {failed[0].name} does not answer: {failed[0].reason}")
        if missing:
            raise StoreError(f"there is no item {missing[0]}")
        return [items[id_] for id_ in ids]

    def items_there(
        self, ids: Sequence[int]
    ) -> tuple[dict[int, Item], list[int], tuple[FailedShard, ...]]:
        """The items that there are, the ids that there are not, and shards that did not answer."""

        def read(index: Index, local: Sequence[int]) -> dict[int, Item]:
            with index.snapshot():
                there = index.existing(local)
                return dict(zip(there, index.items(there), strict=True))

        found = self._owners(ids, read)
        items = {
            global_id(shard, id_): item
            for shard, some in found.of.items()
            for id_, item in some.items()
        }
        missing = [id_ for id_ in ids if id_ not in items]
        return items, missing, found.failed

    def some_items(self, count: int) -> list[Item]:
        """The first items of all shards that answer, about `count` in all."""
        each = -(-count // len(self._shards))

        def first(index: Index) -> list[Item]:
            with index.snapshot():
                return index.first_items(each)

        return [item for some in self._each(first).of.values() for item in some]

    def codes_of(self, ids: Sequence[int]) -> Packed:
        """The codes [n, w] of the items `ids`; zeros where an item is gone or its shard does not
        answer."""

        def read(index: Index, local: Sequence[int]) -> dict[int, NDArray[np.uint64]]:
            with index.snapshot():
                there = index.existing(local)
                return dict(zip(there, index.codes(there), strict=True))

        found = self._owners(ids, read)
        out = np.zeros((len(ids), -(-self.model.bits // 64)), np.uint64)
        for place, id_ in enumerate(ids):
            code = found.of.get(id_ >> ID_BITS, {}).get(local_id(id_))
            if code is not None:
                out[place] = code
        return out

    def embedding(self, id_: int) -> Embeddings:
        """What its shard stores of an item, as a query. Raises QueryError when there is none."""
        shard = self._shard_of(id_)
        return shard.ask(lambda index: index.embedding(local_id(id_))).result(SECONDS)

    def ids_of_paths(self, paths: Sequence[str]) -> dict[str, int]:
        """Ids of those `paths` that one of the shards holds, the first of them."""
        found = self._each(lambda index: index.ids_of_paths(paths))
        return {
            path: global_id(i, id_)
            for i, ids in sorted(found.of.items(), reverse=True)
            for path, id_ in ids.items()
        }

    def page(
        self, offset: int, limit: int, where: Sequence[str]
    ) -> tuple[list[tuple[int, Item]], int, tuple[FailedShard, ...]]:
        """Items that match all filters, by ascending id, from the `offset`-th; the number of all
        that match; and the shards that did not answer."""
        found = self._each(lambda index: _matching(index, where))
        _require_columns(found.of.values())
        none = np.empty(0, np.int64)
        lists = {i: ids if isinstance(ids, np.ndarray) else none for i, ids in found.of.items()}
        counts = {i: len(ids) for i, ids in lists.items()}
        page: list[int] = []
        before = 0
        for i in sorted(counts):
            first = max(0, offset - before)
            local = lists[i][first : first + limit - len(page)] if limit > len(page) else none
            page += [global_id(i, int(id_)) for id_ in local]
            before += counts[i]
        items, _, failed = self.items_there(page)
        every = found.failed + tuple(one for one in failed if one not in found.failed)
        return [(id_, items[id_]) for id_ in page if id_ in items], before, every

    # -- numbers

    def infos(self) -> Answers[IndexInfo]:
        """What each shard holds."""
        return self._each(lambda index: index.info())

    def label_counts(self) -> dict[str, int]:
        """How many items of all shards that answer have each label."""
        counts: Counter[str] = Counter()
        for some in self._each(lambda index: index.label_counts()).of.values():
            counts.update(some)
        return dict(sorted(counts.items()))

    def refresh(self, keep_codes: bool) -> Answers[int]:
        """The number of items of each shard. With `keep_codes`, files bring the codes in memory up
        to date, so that no search has to."""

        def count(index: Index) -> int:
            self._require_same(index)
            if keep_codes and not isinstance(index.path, Url) and not index.is_empty:
                index.searchable()
            return len(index)

        return self._each(count)

    def version(self) -> tuple[int, ...]:
        """Changes whenever something was written into a shard, or one fails or comes back."""
        found = self._each(lambda index: index.version())
        parts = [(i, *found.of.get(i, (-1,))) for i in range(len(self._shards))]
        return tuple(number for part in parts for number in part)

    # -- inside

    def _shard_of(self, id_: int) -> _Shard:
        number = id_ >> ID_BITS
        if not 0 <= number < len(self._shards):
            raise QueryError(f"there is no item {id_}: no shard has the number {number}")
        return self._shards[number]

    def _owners(self, ids: Sequence[int], work: Callable[[Index, Sequence[int]], T]) -> Answers[T]:
        """`work` with the ids of each shard, as it knows them; only shards of `ids` are asked."""
        local: dict[int, list[int]] = {}
        for id_ in ids:
            number = id_ >> ID_BITS
            if 0 <= number < len(self._shards):
                local.setdefault(number, []).append(local_id(id_))
        return self._gather({i: _with_ids(work, some) for i, some in local.items()})

    def _each(self, work: Callable[[Index], T]) -> Answers[T]:
        """`work` in the thread of every shard. Raises StoreError when none of them answers, and
        the QueryError that one of them raises."""
        found = self._gather(dict.fromkeys(range(len(self._shards)), work))
        if not found.of:
            first = found.failed[0]
            more = f" (and {len(found.failed) - 1} more)" if len(found.failed) > 1 else ""
            raise StoreError(f"no shard answers: {first.name}: {first.reason}{more}")
        return found

    def _gather(self, works: Mapping[int, Callable[[Index], T]]) -> Answers[T]:
        deadline = time.monotonic() + SECONDS
        asked: dict[int, Future[T] | FailedShard] = {}
        for i, work in works.items():
            reason = self._shards[i].reason_not_to_ask()
            asked[i] = (
                self._shards[i].ask(work)
                if reason is None
                else FailedShard(str(self.places[i]), reason)
            )
        answers: dict[int, T] = {}
        failed: list[FailedShard] = []
        for i, one in asked.items():
            if isinstance(one, FailedShard):
                failed.append(one)
                continue
            try:
                answers[i] = one.result(max(0.0, deadline - time.monotonic()))
            except QueryError:
                raise  # of the query, not of the shard
            except (WingbarError, FutureTimeoutError, OSError) as error:
                late = isinstance(error, FutureTimeoutError)
                reason = f"it has not answered for {SECONDS:g} s" if late else str(error)
                self._shards[i].failed(reason)
                failed.append(FailedShard(str(self.places[i]), reason))
        return Answers(answers, tuple(failed))


class _Shard:
    """One index in a thread of its own, opened there, and opened anew after it has failed."""

    def __init__(self, number: int, place: Place) -> None:
        self.number, self.place = number, place
        self._pool = ThreadPoolExecutor(1, f"wingbar-shard-{number}")
        self._index: Index | None = None
        self._down: tuple[float, str] = (0.0, "")

    def ask(self, work: Callable[[Index], T]) -> Future[T]:
        """The result of `work` in the thread."""
        return self._pool.submit(self._do, work)

    def reason_not_to_ask(self) -> str | None:
        """Why there is no point in asking it now, if there is none."""
        until, reason = self._down
        return reason if time.monotonic() < until else None

    def failed(self, reason: str) -> None:
        """Ask it no more for a while."""
        self._down = time.monotonic() + DOWN_SECONDS, reason

    def close(self) -> None:
        """Release it when its work is done."""

        def release() -> None:
            if self._index is not None:
                self._index.close()
                self._index = None

        self._pool.submit(release)
        self._pool.shutdown(wait=True)

    def _do(self, work: Callable[[Index], T]) -> T:
        try:
            if self._index is None:
                self._index = Index.open(self.place)
            return work(self._index)
        except QueryError:
            raise
        except WingbarError:
            index, self._index = self._index, None  # what is there now may be another file
            if index is not None:
                index.close()
            raise


def _with_ids(
    work: Callable[[Index, Sequence[int]], T], ids: Sequence[int]
) -> Callable[[Index], T]:
    return lambda index: work(index, ids)


def _matching(index: Index, where: Sequence[str]) -> NDArray[np.int64] | NoColumnError:
    """The ids of a shard's items that pass a filter; the error of a column that it lacks, if none
    of them can."""
    while True:
        try:
            return index.matching(where)
        except NoColumnError as error:
            left = without_column(where, error.column)
            if left is None:
                return error
            where = left


def _stored(
    index: Index, local: Sequence[int]
) -> dict[int, tuple[NDArray[np.float16], NDArray[np.uint64]]]:
    """In a shard's thread: feature and code of those items that are still there."""
    with index.snapshot():
        there = index.existing(local)
        rows = zip(index.features(there), index.codes(there), strict=True)
        return dict(zip(there, rows, strict=True))


def _has(found: Mapping[int, Mapping[int, object]], id_: int) -> bool:
    return local_id(id_) in found.get(id_ >> ID_BITS, {})


def global_id(shard: int, id_: int) -> int:
    """The id of an item among all shards."""
    return (shard << ID_BITS) + id_


def local_id(id_: int) -> int:
    """The id of an item in its shard."""
    return id_ & ((1 << ID_BITS) - 1)


def _merged(lists: Mapping[int, Shortlist], options: SearchOptions, fine: Fine) -> Shortlist:
    """The shortlist of one query among all shards: exactly that of one index of all items."""
    if not lists:
        none = np.empty(0, np.int64)
        scored = None if fine == "none" else np.empty(0, np.float32)
        return Shortlist(Nearest(none, none, False), scored, 0.0, 0.0)
    found = [
        Nearest(one.near.ids + (i << ID_BITS), one.near.distances, one.near.cut)
        for i, one in lists.items()
    ]
    want = options.k if fine == "none" else max(options.k, options.shortlist)
    near = merge_nearest(found, want, want if fine == "none" else TIE_CAP * want)
    scores = None
    if fine != "none":
        ids = np.concatenate([one.ids for one in found])
        every = np.concatenate([_scores(one) for one in lists.values()])
        order = np.argsort(ids)
        scores = every[order][np.searchsorted(ids[order], near.ids)]
    slowest = max(lists.values(), key=lambda one: one.coarse_ms + one.fine_ms)
    return Shortlist(near, scores, slowest.coarse_ms, slowest.fine_ms)


def _hits_of(order: Ranked, items: Mapping[int, Item]) -> list[Hit]:
    """The hits of one query whose items could be read."""
    scores: list[float | None] = [None] * len(order.ids)
    if order.scores is not None:
        scores = list(np.clip(order.scores, -1, 1).tolist())
    found = zip(
        order.ids.tolist(), order.distances.tolist(), scores, order.p_chances(), strict=True
    )
    there = [one for one in found if one[0] in items]
    return [
        Hit(
            place,
            id_,
            items[id_].path,
            items[id_].label,
            distance,
            score,
            items[id_].columns,
            p_chance,
        )
        for place, (id_, distance, score, p_chance) in enumerate(there, start=1)
    ]


def _scores(one: Shortlist) -> NDArray[np.float32]:
    assert one.scores is not None  # of a fine mode
    return one.scores


def _require_columns(answers: Iterable[object]) -> None:
    """Raise the NoColumnError of a column that every shard with items lacks."""
    given = [one for one in answers if one is not None]
    errors = [one.missing if isinstance(one, _Lists) else one for one in given]
    first = next((error for error in errors if isinstance(error, NoColumnError)), None)
    if first is not None and all(isinstance(error, NoColumnError) for error in errors):
        raise first


def shard_names(places: Iterable[Place]) -> str:
    """What the shards together are called."""
    return " + ".join(place.stem for place in places)
