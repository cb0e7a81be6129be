"""Index: a file of images that can be searched by image."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data import readers
from wingbar.errors import DataError, ImageError, ModelError, QueryError, StoreError, WingbarError
from wingbar.hamming import codes
from wingbar.index import sync
from wingbar.index.store import CHUNK, Condition, Store
from wingbar.index.sync import AddReport, Progress, RefitReport
from wingbar.model.model import Embeddings, Model, check_same

Fine = Literal["none", "ties", "pool", "asymmetric"]
FINE: tuple[Fine, ...] = ("none", "ties", "pool", "asymmetric")
SHORTLIST = 200
MERGED_FROM = 20_000  # items that came or went, from which codes are sorted anew
TIE_CAP = 10  # a shortlist grows by ties to at most so many times what was asked for

Where = str | Sequence[str]


@dataclass(frozen=True)
class Hit:
    """One search result. `distance` counts differing bits. `score`, in [-1, 1], is what the fine stage ranked by:
    the cosine of the features, or for "asymmetric" the agreement of logits and bits; None without a fine stage.
    `rank` starts at 1."""

    rank: int
    id: int
    path: str
    label: str | None
    distance: int
    score: float | None
    columns: Mapping[str, str]


class Hits(list[Hit]):
    """The hits of one query, best first, and how they were found.

    `shortlist` is how many items the fine stage looked at, `cut` whether items tied with its last one were left out.
    `milliseconds` has the time of each stage: decode, encode, coarse, fine, fetch.
    """

    def __init__(self, hits: Iterable[Hit], shortlist: int, cut: bool, milliseconds: Mapping[str, float]) -> None:
        super().__init__(hits)
        self.shortlist = shortlist
        self.cut = cut
        self.milliseconds = milliseconds


@dataclass(frozen=True)
class IndexInfo:
    """What an index is: numbers of items and labels, code and feature length, its model; `bytes` are those of the file,
    `search_bytes` those that a search keeps in memory for the codes."""

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
class Ranked:
    """The order of one query: ids [n], distances [n] and, with a fine stage, the scores [n] it ranked by."""

    ids: codes.Ids
    distances: codes.Distances
    scores: NDArray[np.float32] | None
    shortlist: int
    cut: bool


@dataclass(frozen=True)
class _Loaded:
    """Codes in memory and the state of the file they are from: a checksum by chunk, and its version where known."""

    codes: codes.Codes
    marks: Mapping[int, int]
    version: tuple[int, int] | None


class Index:
    """An index file and its model. Make one with `create`, open one with `open`; use it in a `with` block or `close` it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.model = Model(store.model_files())
        self._loaded: _Loaded | None = None
        self._merging: tuple[_Loaded, Future[codes.Codes]] | None = None
        self._background = ThreadPoolExecutor(1, "wingbar-merge")

    @classmethod
    def create(cls, path: str | os.PathLike[str], model: Model | str | os.PathLike[str] = "general") -> Index:
        """A new index at `path` for images encoded by `model`: a Model, a model directory, or "general".

        Raises StoreError when something is at `path` already, ModelError when the model cannot be loaded.
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self._store.count()

    # -- change

    def add(
        self,
        source: str
        | os.PathLike[str]
        | readers.Images
        | NDArray[np.uint8]
        | Sequence[images.Source]
        | Sequence[readers.Entry]
        | Sequence[readers.Images],
        *,
        bits: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Add images, or bring the index up to date with them.

        `source` is a folder, a CSV file, an image file, a data set's part or several of them, a list of paths, or
        images that are no files: bytes, PIL images, arrays [H, W, 3] or one array [N, H, W, 3], all uint8. Files with
        unchanged size and time are skipped. For a folder, items whose files are gone from it are removed and moved files
        keep their id.

        A label-free index learns its codes of `bits` bits (default 64) from the first images it gets, drawn with
        `seed`, and never again by itself. Bad files are listed in the report and stop nothing.
        Raises DataError for a source that holds nothing to read, ModelError when `bits` is not what the index has,
        StoreError when the file cannot be written; what was stored before stays.
        """
        self._refresh_model()
        if self.model.gives_codes and bits not in (None, self.model.bits):
            raise ModelError(
                f"{self.path} has codes of {self.model.bits} bits, not {bits}: leave --bits out, or use --refit to change it"
            )
        if bits is not None and not 1 <= bits <= self.model.longest_code:
            raise ModelError(f"bits must be from 1 to {self.model.longest_code}, not {bits}")
        report, self.model = sync.add(
            self._store,
            self.model,
            _batch(source),
            bits=bits,
            seed=seed,
            threads=threads,
            progress=progress,
        )
        return report

    def delete(self, items: Iterable[int | str | os.PathLike[str]]) -> int:
        """Remove items by id or by path; what is not there is passed over. Returns how many were removed."""
        ids, paths = [], []
        for item in items:
            if isinstance(item, int):
                ids.append(item)
            else:
                paths += [os.fspath(item), os.path.abspath(item), str(readers.absolute(item))]
        with self._store.writing():
            return self._store.delete({*ids, *self._store.ids_of_paths(paths).values()})

    def refit(
        self, *, bits: int | None = None, seed: int = 0, threads: int | None = None, progress: Progress | None = None
    ) -> RefitReport:
        """Learn the codes of a label-free index anew from the images it holds now, as a new index would.

        All files are read again; the index changes in one transaction or not at all.
        Raises StoreError when a file is no longer what was indexed, ModelError for a trained model.
        """
        self._refresh_model()
        report, self.model = sync.refit(
            self._store, self.model, bits=self.model.bits if bits is None else bits, seed=seed, threads=threads, progress=progress
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
        """The `k` images most like `query`: a path, bytes, a PIL image, an array, or an embedding by this index's model.

        Coarse stage: the nearest codes by Hamming distance, at most `radius` bits away. Fine stage, by `fine`:
        "none" keeps that order; "ties" orders items of equal distance by the cosine of their features; "pool" orders
        a `shortlist` of the nearest (all that are tied with its last one included) by that cosine; "asymmetric" orders
        it by the agreement of the query's real-valued logits with the stored bits, which reads no feature. None means
        the model's own choice. Equal results keep the order of their ids.

        `where` filters before anything is ranked: "label=monarch", "path=blue/*", "price<20"; several on one field
        with = are alternatives, otherwise all must hold. Of the query image only `box` (x, y, width, height in pixels of
        the upright picture) is looked at.
        Raises QueryError when the index is empty or an argument is out of range, ImageError when the query image
        cannot be read.
        """
        if box is not None:
            if isinstance(query, (Embeddings, images.Part)):
                raise QueryError("a box is cut out of an image: it cannot be given beside an embedding or a part")
            query = images.Part(query, box)
        one = query if isinstance(query, Embeddings) else [query]
        return self.search_many(one, k, radius=radius, fine=fine, shortlist=shortlist, where=where)[0]

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
        """`search` for many queries: one Hits each, in their order. Stage times are shares of the whole batch."""
        conditions = parse_where(where)
        given = queries if isinstance(queries, Embeddings) else list(queries)
        while True:
            self._refresh_model()
            mode = self._checked(k, radius, fine, shortlist)
            embeddings, times = self._embed_queries(given)
            with self.snapshot() as unchanged:
                if not unchanged and not isinstance(given, Embeddings):
                    continue  # refitted by another process while the queries were encoded: encode them again
                check_same(embeddings, self.model, str(self.path))
                searchable = self.searchable()
                among = searchable.among(self._store.matching(conditions)) if conditions else None
                start = time.perf_counter()
                nearest = self.coarse(searchable, embeddings, k, mode, shortlist, radius=radius, among=among)
                times["coarse"] = (time.perf_counter() - start) * 1000 / max(len(nearest), 1)
                found = []
                for i, near in enumerate(nearest):
                    clock = Clock(times)
                    ranked = self.rank(searchable, embeddings[i], near, mode, k)
                    clock.lap("fine")
                    hits = self._fetch(ranked)
                    clock.lap("fetch")
                    found.append(Hits(hits, ranked.shortlist, ranked.cut, clock.milliseconds))
                return found

    @contextmanager
    def snapshot(self) -> Iterator[bool]:
        """One state of the file for everything that is read inside, whatever other processes write.

        Gives whether the model is still the one that was loaded; where it is not, the new one is taken over.
        """
        with self._store.reading():
            before = self.model.fingerprint
            self._refresh_model()
            yield self.model.fingerprint == before

    def coarse(
        self,
        searchable: codes.Codes,
        queries: Embeddings,
        k: int,
        fine: Fine,
        shortlist: int,
        *,
        radius: int | None = None,
        among: codes.Filter | None = None,
    ) -> list[codes.Nearest]:
        """The first stage of each query, by Hamming distance: `k` items, or for a fine stage its `shortlist` with what ties."""
        if fine == "none":
            return searchable.nearest_many(queries.codes, k, radius=radius, among=among)
        want = max(k, shortlist)
        return searchable.nearest_many(queries.codes, want, radius=radius, among=among, ties="include", limit=TIE_CAP * want)

    def rank(self, searchable: codes.Codes, query: Embeddings, near: codes.Nearest, fine: Fine, k: int | None = None) -> Ranked:
        """The second stage of one query: the first `k` (None for all) of what `coarse` found, in the order of the fine mode.

        `search` and evaluation both come through here.
        """
        if fine == "none":
            return Ranked(near.ids[:k], near.distances[:k], None, 0, False)
        if fine == "asymmetric":
            scores = codes.agreement(query.logits[0], searchable.of(near.ids), self.model.bits)
        else:
            scores = self._store.features(near.ids.tolist(), self.model.dim).astype(np.float32) @ query.features[0]
        keys = (near.ids, -scores, near.distances) if fine == "ties" else (near.ids, -scores)
        order = np.lexsort(keys)[:k]
        return Ranked(near.ids[order], near.distances[order], scores[order], len(near.ids), near.cut)

    def searchable(self) -> codes.Codes:
        """The codes in memory, brought up to date when this or another process has changed the file.

        What came and went since the last call is taken over in milliseconds; the large part is made anew in the background
        once that has grown.
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
            return _Loaded(codes.Codes(packed, self.model.bits, ids), marks, version)
        changed = [chunk for chunk in {*marks, *before.marks} if marks.get(chunk) != before.marks.get(chunk)]
        ids, packed = self._store.codes(self.model.bits, changed)
        places = np.concatenate([np.arange(c * CHUNK, (c + 1) * CHUNK) for c in sorted(changed)]) if changed else ids[:0]
        new = ~before.codes.has(ids)
        gone = places[before.codes.has(places) & ~np.isin(places, ids, assume_unique=True)]
        if not new.any() and not len(gone):
            return replace(before, marks=marks, version=version)
        return _Loaded(before.codes.changed(ids[new], packed[new], gone), marks, version)

    def checked(self, fine: Fine | None, shortlist: int) -> Fine:
        """The fine mode to use; raises QueryError as `search` does."""
        return self._checked(1, None, fine, shortlist)

    def _checked(self, k: int, radius: int | None, fine: Fine | None, shortlist: int) -> Fine:
        """The fine mode to use. Raises QueryError for arguments that cannot be meant."""
        if not self.model.gives_codes or self._store.is_empty():
            raise QueryError(f"{self.path} holds no images yet: add some with wingbar index {self.path} IMAGES")
        if k < 1 or shortlist < 1:
            raise QueryError(f"k and shortlist must be at least 1, not {k} and {shortlist}")
        if radius is not None and not 0 <= radius <= self.model.bits:
            raise QueryError(f"radius must be from 0 to {self.model.bits}, the bits of a code, not {radius}")
        mode = self.model.fine if fine is None else fine
        if mode not in FINE:
            raise QueryError(f"fine must be one of {', '.join(FINE)}, not {mode!r}")
        return mode

    def _embed_queries(self, queries: Iterable[images.Source] | Embeddings) -> tuple[Embeddings, dict[str, float]]:
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
            return images.load(query, self.model.preparation)
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

    def label_counts(self) -> dict[str, int]:
        """How many items each label has."""
        return self._store.label_counts()

    def labels(self) -> list[str | None]:
        """The label of every item, by ascending id, as in `Codes.ids`."""
        return self._store.labels()

    def paths(self) -> list[str]:
        """The path of every item, by ascending id."""
        return self._store.paths()

    def contents(self) -> list[bytes]:
        """The sha256 of every item's file, by ascending id."""
        return self._store.contents()

    def features(self) -> NDArray[np.float16]:
        """The features [N, d] float16 of all items, by ascending id."""
        return self._store.all_features(self.model.dim)

    def feature_blocks(self, size: int = 65_536) -> Iterator[NDArray[np.float16]]:
        """The same in blocks [at most size, d], for indexes whose features should not all be in memory."""
        return self._store.feature_blocks(self.model.dim, size)

    def verify(self) -> list[str]:
        """Check every byte that matters: checksums of all rows, the model, and that the parts agree.

        Returns what is wrong, one line each; an empty list means that the index is whole.
        """
        return verify(self.path)

    def _refresh_model(self) -> None:
        """Take over the model when another process has fitted or refitted it."""
        if self._store.model_fingerprint() != self.model.fingerprint:
            self.model = Model(self._store.model_files())
            self._loaded = self._merging = None


def _batch(source: object) -> sync.Batch:
    """Anything that `Index.add` takes."""
    if isinstance(source, (str, os.PathLike)):
        source = readers.read_images(source)
    if isinstance(source, readers.Images):
        return sync.files([source])
    if isinstance(source, np.ndarray) and source.ndim < 4:
        return sync.arrays([source])  # one picture
    listed = list(source)  # type: ignore[call-overload]
    kinds = {_kind(item) for item in listed}
    if len(kinds) > 1:
        raise DataError(f"add takes one kind of thing at a time, not {' and '.join(sorted(kinds))} in one list")
    if kinds == {"paths"}:
        entries = [readers.Entry(readers.absolute(path)) for path in listed]
        return sync.files([readers.Images(entries, "paths", labelled=False)])
    if kinds == {"entries"}:
        return sync.files([readers.Images(listed, "entries")])
    if kinds == {"data sets"}:
        return sync.files(listed)
    return sync.arrays(listed)


def _kind(item: object) -> str:
    if isinstance(item, (str, os.PathLike)):
        return "paths"
    if isinstance(item, readers.Entry):
        return "entries"
    return "data sets" if isinstance(item, readers.Images) else "pictures"


class Clock:
    """Milliseconds of the stages of a search."""

    def __init__(self, times: Mapping[str, float]) -> None:
        self.milliseconds = {**times, "fine": 0.0, "fetch": 0.0}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap, or since the start, for `stage`."""
        now = time.perf_counter()
        self.milliseconds[stage] += (now - self._last) * 1000
        self._last = now


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Everything that is wrong with the index at `path`, one line each, even where it cannot be opened as an index.

    Raises StoreError only when there is no file.
    """
    try:
        store = Store.open(Path(path))
    except StoreError as error:
        if not Path(path).is_file():
            raise
        return [str(error)]
    try:
        with store.reading():
            return _problems(store)
    except StoreError as error:
        return [str(error)]
    finally:
        store.close()


def _problems(store: Store) -> list[str]:
    try:
        model = Model(store.model_files())
    except WingbarError as error:
        return [f"model: {error}"]
    wrong = []
    try:
        if store.model_fingerprint() != model.fingerprint:
            wrong.append("model: model.json is not the one that was stored")
    except StoreError as error:
        wrong.append(f"model: {error}")
    return wrong + store.problems(model.bits if model.gives_codes else None, model.dim)


def parse_where(where: Where) -> list[Condition]:
    """Conditions from "field=value" and the like. Raises QueryError with an example for anything else."""
    conditions = []
    for text in [where] if isinstance(where, str) else where:
        match = re.fullmatch(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", text, re.DOTALL)
        if match is None:
            raise QueryError(f"cannot read the filter {text!r}: write label=monarch, path=blue/* or price<20")
        field, operator, value = match.groups()
        if operator not in ("=", "!="):
            try:
                float(value)
            except ValueError:
                raise QueryError(f"{text!r}: {operator} compares numbers, and {value!r} is none") from None
            if field in ("label", "path"):
                raise QueryError(f"{text!r}: {field} is text; use = or !=")
        conditions.append(Condition(field, operator, value))
    return conditions
