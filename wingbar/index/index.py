"""Index: a file of images that can be searched by image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data.records import Entry, Images, absolute
from wingbar.errors import ImageError, ModelError, QueryError, StoreError
from wingbar.hamming.codes import Codes, Nearest, Packed, agreement, unpack
from wingbar.index.checks import verify
from wingbar.index.filters import Where, parse_where
from wingbar.index.ranking import (
    FINE,
    SHORTLIST,
    Clock,
    Fine,
    Hit,
    Hits,
    Ranked,
    SearchOptions,
    coarse,
    rank,
)
from wingbar.index.refit import RefitReport, refit
from wingbar.index.sources import batch_of
from wingbar.index.store import CHUNK, Item, Store
from wingbar.index.sync import AddReport, add
from wingbar.model.model import Embeddings, Model, check_same
from wingbar.model.saliency import Look, look
from wingbar.parallel import Progress

MERGED_FROM = 20_000  # items that came or went, from which codes are sorted anew


@dataclass(frozen=True)
class IndexInfo:
    """What an index is.

    items: number of images.
    labels: number of distinct labels.
    bits: length of the codes; None before the first image of a label-free index.
    dim: length of the features.
    unique_codes: number of distinct codes.
    search_bytes: memory that a search keeps for the codes, in bytes.
    bytes: size of the file and of its write-ahead log.
    fingerprint: sha256 of the model's model.json, in hexadecimal digits.
    model: name of the model.
    method: how it was made: "itq" for label-free codes, or the training method.
    fine: the fine mode of searches that name none.
    """

    items: int
    labels: int
    bits: int | None
    dim: int
    unique_codes: int
    search_bytes: int
    bytes: int
    fingerprint: str
    model: str
    method: str
    fine: str


@dataclass(frozen=True)
class _Loaded:
    """Codes in memory and the state of the file they are from: a checksum by chunk, and its version
    where known."""

    codes: Codes
    marks: Mapping[int, int]
    version: tuple[int, int] | None


class Index:
    """An index file and its model: `create` or `open` one, then use it in a `with` block or `close`
    it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.model = Model(store.model_files())
        self._loaded: _Loaded | None = None
        self._merging: tuple[_Loaded, Future[Codes]] | None = None
        self._background = ThreadPoolExecutor(1, "wingbar-merge")

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], model: Model | str | os.PathLike[str] = "general"
    ) -> Index:
        """A new index at `path` for images encoded by `model`: a Model, a model directory, or
        "general".

        Raises StoreError when something is at `path` already, ModelError when the model cannot be
        loaded.
        """
        loaded = model if isinstance(model, Model) else Model.load(model)
        return cls(Store.create(Path(path), loaded.files))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Index:
        """The index at `path`. Raises StoreError when there is none or it is damaged."""
        store = Store.open(Path(path))
        try:
            return cls(store)
        except ModelError as error:
            raise StoreError(f"{path} is damaged ({error}): run wingbar verify {path}") from None

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._store.path

    def close(self) -> None:
        """Release the file. Afterwards it is complete in itself and can be copied."""
        self._background.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._store.count()

    # -- change

    def add(
        self,
        source: str
        | os.PathLike[str]
        | Images
        | NDArray[np.uint8]
        | Sequence[images.Source]
        | Sequence[Entry]
        | Sequence[Images],
        *,
        bits: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Add images, or bring the index up to date with them.

        `source` is a folder, a CSV file, an image file, a part of a data set or several of them, a
        list of paths, or pictures that are not files: bytes, PIL images, arrays [H, W, 3] or one
        array [N, H, W, 3], all uint8. Files of unchanged size and time are skipped. For a folder,
        items whose files are gone are removed, and moved files keep their id.

        A label-free index learns its codes of `bits` bits (default 64) from the first images that
        it gets, drawn with `seed`; later only `refit` changes them. Images that cannot be used are
        listed in the report and stop nothing. `threads` decode pictures (default: one per core).
        Raises DataError for a source that holds nothing to read, ModelError when `bits` is not what
        the index has, StoreError when the file cannot be written; what was stored before stays.
        """
        self._refresh_model()
        if self.model.gives_codes and bits not in (None, self.model.bits):
            raise ModelError(
                f"{self.path} has codes of {self.model.bits} bits, not {bits}: leave --bits out, "
                "or use --refit to change it"
            )
        if bits is not None and not 1 <= bits <= self.model.longest_code:
            raise ModelError(f"bits must be from 1 to {self.model.longest_code}, not {bits}")
        report, self.model = add(
            self._store,
            self.model,
            batch_of(source),
            bits=bits,
            seed=seed,
            threads=threads,
            progress=progress,
        )
        return report

    def delete(self, items: Iterable[int | str | os.PathLike[str]]) -> int:
        """Remove items by id or by path and return their number; unknown ones are skipped."""
        ids, paths = [], []
        for item in items:
            if isinstance(item, int):
                ids.append(item)
            else:
                paths += [os.fspath(item), os.path.abspath(item), str(absolute(item))]
        with self._store.writing():
            return self._store.delete({*ids, *self._store.ids_of_paths(paths).values()})

    def refit(
        self,
        *,
        bits: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> RefitReport:
        """Learn the codes of a label-free index again from the images it holds now, as a new index
        would.

        All files are read again; the index changes in one transaction or not at all.
        Raises StoreError when a file is no longer what was indexed, ModelError for a trained model.
        """
        self._refresh_model()
        report, self.model = refit(
            self._store,
            self.model,
            bits=self.model.bits if bits is None else bits,
            seed=seed,
            threads=threads,
            progress=progress,
        )
        return report

    # -- search

    def search(
        self,
        query: images.Source | Embeddings,
        k: int = 10,
        *,
        radius: int | None = None,
        fine: Fine | None = None,
        shortlist: int = SHORTLIST,
        where: Where = (),
        box: images.Box | None = None,
    ) -> Hits:
        """The `k` images most like `query`: a path, bytes, a PIL image, an array, or an embedding
        by this index's model.

        Coarse stage: the nearest codes by Hamming distance, at most `radius` bits away. Fine stage,
        by `fine`: "none" keeps that order; "ties" orders items of equal distance by the cosine of
        their features; "pool" orders a `shortlist` of the nearest (all that are tied with its last
        one included) by that cosine; "asymmetric" orders it by the agreement of the query's
        real-valued logits with the stored bits, which reads no feature. None means the model's own
        choice. Equal results keep the order of their ids.

        `where` filters before anything is ranked: "label=monarch", "path=blue/*", "price<20";
        several on one field with = are alternatives, otherwise all must hold. Of the query image
        only `box` (x, y, width, height in pixels of the upright picture) is looked at. Raises
        QueryError when the index is empty or an argument is out of range, ImageError when the query
        image cannot be read.
        """
        options = SearchOptions(
            k=k, radius=radius, fine=fine, shortlist=shortlist, where=where, box=box
        )
        return self.find(query if isinstance(query, Embeddings) else [query], options)[0]

    def search_many(
        self,
        queries: Iterable[images.Source] | Embeddings,
        k: int = 10,
        *,
        radius: int | None = None,
        fine: Fine | None = None,
        shortlist: int = SHORTLIST,
        where: Where = (),
    ) -> list[Hits]:
        """`search` for many queries: one Hits each, in their order. Stage times are shares of the
        whole batch."""
        return self.find(
            queries, SearchOptions(k=k, radius=radius, fine=fine, shortlist=shortlist, where=where)
        )

    def find(
        self, queries: Iterable[images.Source] | Embeddings, options: SearchOptions
    ) -> list[Hits]:
        """`search_many` with its arguments as one record; a `box` is cut out of every query.

        Raises QueryError when the index is empty, for a radius beyond the length of a code, or for
        a box beside embeddings or parts of pictures.
        """
        given = _boxed(queries, options.box)
        conditions = parse_where(options.where)
        while True:
            self._refresh_model()
            fine = self.fine_of(options)
            embeddings, times = self._embed_queries(given)
            with self.snapshot() as unchanged:
                if not unchanged and not isinstance(given, Embeddings):
                    # refitted by another process while the queries were encoded: encode them again
                    continue
                check_same(embeddings, self.model, str(self.path))
                searchable = self.searchable()
                allowed = searchable.only(self._store.matching(conditions)) if conditions else None
                start = time.perf_counter()
                nearest = coarse(searchable, embeddings.codes, options, fine, allowed)
                times["coarse"] = (time.perf_counter() - start) * 1000 / max(len(nearest), 1)
                found = []
                for i, near in enumerate(nearest):
                    clock = Clock(times)
                    ranked = rank(
                        near, fine, self.scores(searchable, embeddings[i], near, fine), options.k
                    )
                    clock.lap("fine")
                    hits = self._fetch(ranked)
                    clock.lap("fetch")
                    found.append(Hits(hits, ranked.shortlist, ranked.cut, clock.milliseconds))
                return found

    @contextmanager
    def snapshot(self) -> Iterator[bool]:
        """A consistent read snapshot of the file, whatever other processes write.

        Gives whether the model is still the one that was loaded; where it is not, the new one has
        replaced it.
        """
        with self._store.reading():
            before = self.model.fingerprint
            self._refresh_model()
            yield self.model.fingerprint == before

    def fine_of(self, options: SearchOptions) -> Fine:
        """The fine mode of a search with these options. Raises QueryError when this index cannot
        answer it."""
        if not self.model.gives_codes or self._store.is_empty():
            raise QueryError(
                f"{self.path} holds no images yet: add some with wingbar index {self.path} IMAGES"
            )
        if options.radius is not None and options.radius > self.model.bits:
            raise QueryError(
                f"radius must be from 0 to {self.model.bits}, the bits of a code, not "
                f"{options.radius}"
            )
        for fine in FINE:
            if fine == (self.model.fine if options.fine is None else options.fine):
                return fine
        raise QueryError(
            f"{self.path} has a model with the fine mode {self.model.fine!r}: name one of "
            f"{', '.join(FINE)}"
        )

    def scores(
        self, searchable: Codes, query: Embeddings, near: Nearest, fine: Fine
    ) -> NDArray[np.float32] | None:
        """What a fine mode orders a shortlist of one query by: [P] in [-1, 1]; None for "none"."""
        if fine == "none":
            return None
        if fine == "asymmetric":
            return agreement(query.logits[0], searchable.of(near.ids), self.model.bits)
        return (
            self._store.features(near.ids.tolist(), self.model.dim).astype(np.float32)
            @ query.features[0]
        )

    def searchable(self) -> Codes:
        """The codes in memory, brought up to date when this or another process has changed the
        file.

        Inserts and deletes since the last call are applied in milliseconds; the large part is
        rebuilt in the background once they have grown in number.
        """
        if self._merging is not None and self._merging[1].done():
            before, merged = self._merging
            self._merging = None
            if self._loaded is not None:  # not refitted meanwhile
                self._loaded = replace(before, codes=merged.result(), version=None)
        version = self._store.version()
        if self._loaded is None or self._loaded.version != version:
            self._loaded = self._up_to_date(self._loaded, version)
            now = self._loaded.codes
            if self._merging is None and now.unmerged > max(MERGED_FROM, len(now) // 16):
                self._merging = self._loaded, self._background.submit(now.merged)
        return self._loaded.codes

    def _up_to_date(self, before: _Loaded | None, version: tuple[int, int]) -> _Loaded:
        marks = self._store.code_marks()
        if before is None:
            ids, packed = self._store.codes(self.model.bits)
            return _Loaded(Codes(packed, self.model.bits, ids), marks, version)
        changed = [
            chunk
            for chunk in {*marks, *before.marks}
            if marks.get(chunk) != before.marks.get(chunk)
        ]
        ids, packed = self._store.codes(self.model.bits, changed)
        places = (
            np.concatenate([np.arange(c * CHUNK, (c + 1) * CHUNK) for c in sorted(changed)])
            if changed
            else ids[:0]
        )
        new = ~before.codes.has(ids)
        gone = places[before.codes.has(places) & ~np.isin(places, ids, assume_unique=True)]
        if not new.any() and not len(gone):
            return replace(before, marks=marks, version=version)
        return _Loaded(before.codes.changed(ids[new], packed[new], gone), marks, version)

    def _embed_queries(
        self, queries: Iterable[images.Source] | Embeddings
    ) -> tuple[Embeddings, dict[str, float]]:
        """The queries encoded, and milliseconds a query for decoding and encoding."""
        if isinstance(queries, Embeddings):
            embeddings, times = queries, {"decode": 0.0, "encode": 0.0}
        else:
            given = list(queries)
            start = time.perf_counter()
            pixels = [self._pixels(query) for query in given]
            decoded = time.perf_counter()
            embeddings = self.model.encode_pixels(pixels)
            encoded = time.perf_counter()
            each = 1000 / max(len(given), 1)
            times = {"decode": (decoded - start) * each, "encode": (encoded - decoded) * each}
        return embeddings, times

    def _pixels(self, query: images.Source) -> images.Pixels:
        try:
            return images.load(query, self.model.preprocessing)
        except ImageError as error:
            whole = query.of if isinstance(query, images.Part) else query
            if isinstance(whole, (str, os.PathLike)):
                raise ImageError(f"{os.fspath(whole)}: {error}") from None
            raise

    def _fetch(self, ranked: Ranked) -> list[Hit]:
        ids = ranked.ids.tolist()
        scores = [None] * len(ids) if ranked.scores is None else ranked.scores.tolist()
        items = self._store.items(ids)
        return [
            Hit(rank, id_, item.path, item.label, distance, score, item.columns)
            for rank, (id_, item, distance, score) in enumerate(
                zip(ids, items, ranked.distances.tolist(), scores, strict=True), start=1
            )
        ]

    # -- look

    def info(self) -> IndexInfo:
        """Numbers about the index; see IndexInfo."""
        self._refresh_model()
        fitted = self.model.gives_codes
        searchable = self.searchable().merged() if fitted else None
        beside = [self.path, Path(f"{self.path}-wal")]
        return IndexInfo(
            items=len(self),
            labels=len(self._store.label_counts()),
            bits=self.model.bits if fitted else None,
            dim=self.model.dim,
            unique_codes=searchable.unique if searchable else 0,
            search_bytes=searchable.nbytes if searchable else 0,
            bytes=sum(path.stat().st_size for path in beside if path.exists()),
            fingerprint=self.model.fingerprint,
            model=self.model.name,
            method=self.model.method,
            fine=self.model.fine,
        )

    # -- read what is stored; everything is ordered by ascending id

    def ids(self) -> NDArray[np.int64]:
        """The ids [N] int64 of all items, ascending."""
        return self._store.ids()

    def items(self, ids: Iterable[int] | None = None) -> list[Item]:
        """The items `ids`, in their order; None for all. Raises StoreError for an id that is not
        there."""
        return (
            [item for _, item in self._store.all_items()]
            if ids is None
            else self._store.items(list(ids))
        )

    def codes(self, ids: Iterable[int] | None = None) -> Packed:
        """The codes [N, w] uint64 of the items `ids`, in their order; None for all.

        Raises QueryError while the index has no codes, StoreError for an id that is not there.
        """
        if not self.model.gives_codes:
            raise QueryError(
                f"{self.path} has no codes yet: add images with wingbar index {self.path} IMAGES"
            )
        if ids is None:
            return self._store.codes(self.model.bits)[1]
        wanted = np.array(list(ids), np.int64)
        stored, packed = self._store.codes(self.model.bits, np.unique(wanted // CHUNK).tolist())
        missing = wanted[~np.isin(wanted, stored)]
        if missing.size:
            raise StoreError(f"{self.path} holds no item {missing[0]}")
        return packed[np.searchsorted(stored, wanted)]

    def features(self, ids: Iterable[int] | None = None) -> NDArray[np.float16]:
        """The features [N, d] float16 of the items `ids`, in their order; None for all.

        Raises StoreError for an id that is not there.
        """
        dim = self.model.dim
        return (
            self._store.all_features(dim) if ids is None else self._store.features(list(ids), dim)
        )

    def feature_blocks(self, size: int = 65_536) -> Iterator[NDArray[np.float16]]:
        """All features in blocks [at most size, d], for indexes whose features should not all be in
        memory."""
        return self._store.feature_blocks(self.model.dim, size)

    def labels(self) -> list[str | None]:
        """The label of every item."""
        return self._store.labels()

    def paths(self) -> list[str]:
        """The path of every item."""
        return self._store.paths()

    def contents(self) -> list[bytes]:
        """The sha256 of every item's file."""
        return self._store.contents()

    def label_counts(self) -> dict[str, int]:
        """How many items each label has."""
        return self._store.label_counts()

    def verify(self) -> list[str]:
        """Check every byte that matters: checksums of all rows, the model, and that the parts
        agree.

        Returns what is wrong, one line each; an empty list means that the index is whole.
        """
        return verify(self.path)

    def _refresh_model(self) -> None:
        """Load the model again when another process has fitted or refitted it."""
        if self._store.model_fingerprint() != self.model.fingerprint:
            self.model = Model(self._store.model_files())
            self._loaded = self._merging = None


def _boxed(
    queries: Iterable[images.Source] | Embeddings, box: images.Box | None
) -> list[images.Source] | Embeddings:
    """The queries, or with a `box` that part of each."""
    given = queries if isinstance(queries, Embeddings) else list(queries)
    if box is None:
        return given
    boxed: list[images.Source] = []
    if not isinstance(given, Embeddings):
        boxed = [images.Part(query, box) for query in given if not isinstance(query, images.Part)]
    if isinstance(given, Embeddings) or len(boxed) < len(given):
        raise QueryError(
            "a box is cut out of an image: it cannot be given beside an embedding or a part"
        )
    return boxed


@dataclass(frozen=True)
class Explained:
    """Why hits were found.

    code: the query's code [b] bool.
    query: what the model saw in the query.
    hits: the hits.
    agree: for each hit, which bits agree with the query's [b] bool.
    looks: for each hit, what the model saw in it; None where its file cannot be read any more.
    """

    code: NDArray[np.bool_]
    query: Look
    hits: Sequence[Hit]
    agree: Sequence[NDArray[np.bool_]]
    looks: Sequence[Look | None]


def explain(index: Index, query: images.Source, hits: Sequence[Hit]) -> Explained:
    """Why these `hits` of `index.search(query)` were found. Raises ImageError when the query cannot
    be read."""
    code = unpack(index.model.encode([query]).codes, index.model.bits)[0]
    ids = np.array([hit.id for hit in hits], np.int64)
    theirs = (
        unpack(index.searchable().of(ids), index.model.bits)
        if len(ids)
        else np.empty((0, len(code)), bool)
    )
    looks: list[Look | None] = []
    for hit in hits:
        try:
            looks.append(look(index.model, hit.path))
        except ImageError:
            looks.append(None)
    return Explained(code, look(index.model, query), hits, list(theirs == code), looks)
