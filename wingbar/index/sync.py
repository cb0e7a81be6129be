"""Bring an index up to date with a folder or a list: read what is new, move what moved, drop what
is gone.

Work is stored every few seconds in whole transactions. A run that is killed loses at most the last
of them, and the next run goes on from there, because files that are stored are recognised by size
and time, then by content.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wingbar import images
from wingbar.data import readers, records
from wingbar.data.records import Images
from wingbar.errors import DataError, ImageError, ModelError, StoreError
from wingbar.images import Failure, printable
from wingbar.index import sync
from wingbar.index.store import Item, Store
from wingbar.model.model import SAMPLE, Model
from wingbar.parallel import BATCH, Progress, batched, cores, in_order, no_progress


def batch_of(source: object) -> sync.Batch:
    """Anything that `Index.add` takes."""
    if isinstance(source, (str, os.PathLike)):
        source = readers.read_images(source)
    if isinstance(source, records.Images):
        return sync.files([source])
    if isinstance(source, np.ndarray) and source.ndim < 4:
        return sync.arrays([source])  # one picture
    listed = list(source)  # type: ignore[call-overload]
    kinds = {_kind(item) for item in listed}
    if len(kinds) > 1:
        raise DataError(
            f"add takes one kind of thing at a time, not {' and '.join(sorted(kinds))} in one list"
        )
    if kinds == {"paths"}:
        entries = [records.Entry(records.absolute(path)) for path in listed]
        return sync.files([records.Images(entries, "paths", labelled=False)])
    if kinds == {"entries"}:
        return sync.files([records.Images(listed, "entries")])
    if kinds == {"data sets"}:
        return sync.files(listed)
    return sync.arrays(listed)


def _kind(item: object) -> str:
    if isinstance(item, (str, os.PathLike)):
        return "paths"
    if isinstance(item, records.Entry):
        return "entries"
    return "data sets" if isinstance(item, records.Images) else "pictures"


BITS = 64  # of a label-free index that was not told otherwise
COMMIT_IMAGES = 1024
COMMIT_SECONDS = 5.0
NO_FILE = -1  # the size of an item that came as an array


@dataclass(frozen=True)
class AddReport:
    """What one `add` did, in images. `ignored` are files that are no images by name; `fitted_on` is
    how many images the codes were learnt from in this run, 0 when they were known before."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    failed: tuple[Failure, ...] = ()
    ignored: tuple[str, ...] = ()
    fitted_on: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    advice: str | None = None


@dataclass(frozen=True)
class RefitReport:
    """What a refit changed: `codes_changed` of `items` got another code; the old and the new
    fingerprint."""

    items: int
    sample: int
    bits_before: int
    bits: int
    codes_changed: int
    fingerprint_before: str
    fingerprint: str


@dataclass(frozen=True)
class Wanted:
    """One image that should be in the index. `source` is its path, or the pixels of an image that
    is no file."""

    path: str
    label: str | None
    columns: Mapping[str, str]
    source: images.Whole
    labelled: bool = (
        False  # whether label and columns were given, so that none means to take them away
    )


@dataclass(frozen=True)
class _Read:
    """A Wanted after reading: its item and, unless that was enough, its pixels; or the reason why
    not."""

    wanted: Wanted
    item: Item | None = None
    pixels: images.Pixels | None = None
    failure: str | None = None
    moved_from: Sequence[int] = ()


@dataclass
class _Tally:
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    moved: int = 0
    failed: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """What one `add` is asked to bring in. `roots` are the folders that were listed for it; the
    rest is what was seen on the way there."""

    wanted: Sequence[Wanted]
    roots: Sequence[str] = ()
    ignored: Sequence[str] = ()
    unreadable: Sequence[str] = ()


def files(parts: Sequence[Images]) -> Batch:
    """The images of data sets as an index wants them."""
    return Batch(
        [
            Wanted(str(e.path), e.label, e.columns, str(e.path), part.labelled)
            for part in parts
            for e in part
        ],
        sorted({str(part.root) for part in parts if part.root is not None}),
        [printable(path) for part in parts for path in part.others],
        [str(path) for part in parts for path in part.unreadable],
    )


def arrays(pictures: Iterable[images.Whole]) -> Batch:
    """Pictures that are no files, named by what they show: array:<first 16 digits of the sha256 of
    their pixels>."""
    return Batch(
        [Wanted(f"array:{_content(picture).hex()[:16]}", None, {}, picture) for picture in pictures]
    )


def add(
    store: Store,
    model: Model,
    batch: Batch,
    *,
    bits: int | None,
    seed: int,
    threads: int | None,
    progress: Progress | None,
) -> tuple[AddReport, Model]:
    """Make the index hold what `batch` wants, and of its roots nothing whose file is gone. Returns
    the model then used.

    Raises StoreError when it cannot be written (what was stored stays), DataError when there is
    nothing to bring in.
    """
    start = time.monotonic()
    job = _Job(store, model, bits, seed, threads or cores(), progress or no_progress)
    gone = job.gone_from(batch)
    todo = job.plan(batch)
    try:
        if not job.model.gives_codes and todo:
            todo = job.fit_on_sample(todo)
        job.process(todo)
    except KeyboardInterrupt:
        job.commit()
        raise
    removed = job.remove(gone)
    seconds = time.monotonic() - start
    tally = job.tally
    report = AddReport(
        added=tally.added,
        updated=tally.updated,
        unchanged=tally.unchanged,
        moved=tally.moved,
        removed=removed,
        failed=tuple(tally.failed),
        ignored=tuple(batch.ignored),
        fitted_on=job.fitted_on,
        seconds=seconds,
        images_per_second=job.encoded / seconds if seconds > 0 else 0.0,
        advice=_advice(job.model, store),
    )
    return report, job.model


def refit(
    store: Store,
    model: Model,
    *,
    bits: int,
    seed: int,
    threads: int | None,
    progress: Progress | None,
) -> tuple[RefitReport, Model]:
    """Learn the codes of a label-free index anew from its images, as if it had just been made, in
    one transaction.

    Raises StoreError, and changes nothing, when an image is no longer what was indexed.
    """
    if model.method != "itq":
        raise ModelError(
            f"{model.name} was trained with {model.method}: its codes are not fitted to an index"
        )
    before = dict(store.all_items())
    ids = sorted(before, key=lambda id_: before[id_].path)
    if not ids:
        raise StoreError(f"{store.path} holds no images: there is nothing to fit on")
    report = progress or no_progress
    sample = _sample(len(ids), seed)
    raw = list(_raw_again(model, [before[ids[i]] for i in sample], threads, "fitting", report))
    fitted = model.fitted(np.concatenate(raw), bits, seed)
    embedded = [
        fitted.embed(batch)
        for batch in _raw_again(model, [before[i] for i in ids], threads, "encoding", report)
    ]
    packed = np.concatenate([e.codes for e in embedded])
    features = np.concatenate([e.features.astype(np.float16) for e in embedded])
    with store.writing():
        if store.model_fingerprint() != model.fingerprint or dict(store.all_items()) != before:
            raise StoreError(
                f"{store.path} was changed by another process meanwhile: nothing was refitted, "
                "try again"
            )
        _, old = store.codes(model.bits)  # by ascending id
        store.set_model(fitted.files)
        store.clear_codes()
        store.replace_embeddings(packed, features, np.array(ids, np.int64), bits)
    new = packed[np.argsort(ids)]
    changed = int((new != old).any(1).sum()) if old.shape == new.shape else len(ids)
    return RefitReport(
        len(ids), len(sample), model.bits, bits, changed, model.fingerprint, fitted.fingerprint
    ), fitted


class _Job:
    """The state of one `add`: what is known, what waits to be stored, what was counted."""

    def __init__(
        self,
        store: Store,
        model: Model,
        bits: int | None,
        seed: int,
        threads: int,
        progress: Progress,
    ) -> None:
        self.store, self.model, self.bits, self.seed, self.threads, self.progress = (
            store,
            model,
            bits,
            seed,
            threads,
            progress,
        )
        self.known = {item.path: (id_, item) for id_, item in store.all_items()}
        self.by_content: dict[bytes, list[int]] = {}
        for id_, item in self.known.values():
            self.by_content.setdefault(item.content, []).append(id_)
        self.path_of = {id_: path for path, (id_, _) in self.known.items()}
        self.tally = _Tally()
        self.encoded = self.fitted_on = 0
        self._done, self._total = 0, 0
        self._claimed: set[int] = set()
        self._changes: dict[int, Item] = {}
        self._waiting: list[
            tuple[list[Item], NDArray[np.float32]]
        ] = []  # encoded batches that are not stored yet
        self._stored_at = time.monotonic()

    def gone_from(self, batch: Batch) -> dict[int, str]:
        """Ids and paths of items below the batch's roots whose files are not there any more."""
        here = {w.path for w in batch.wanted}
        gone = {}
        for root in batch.roots:
            below = {path: id_ for path, (id_, _) in self.known.items() if _is_below(path, root)}
            if not any(_is_below(path, root) for path in here):
                if below:
                    raise DataError(
                        f"{root} has no images now, but {len(below):,} of them are indexed: is a "
                        "disk not mounted? "
                        "Nothing was removed; to give them up, delete the index"
                    )
                others = f", only {len(batch.ignored):,} other files" if batch.ignored else ""
                raise DataError(f"{root} has no images{others}")
            unseen = [path for path in batch.unreadable if _is_below(path, root)]
            for path, id_ in below.items():
                if (
                    path not in here
                    and not os.path.lexists(path)
                    and not any(_is_below(path, u) for u in unseen)
                ):
                    gone[id_] = path
        return gone

    def plan(self, batch: Batch) -> list[Wanted]:
        """What has to be read: everything that is not stored with the same size and time."""
        self.tally.failed += [
            Failure(printable(path), "the folder cannot be listed") for path in batch.unreadable
        ]
        todo = []
        seen: dict[str, Wanted] = {}
        for w in batch.wanted:
            first = seen.setdefault(w.path, w)
            if first is not w:
                if (first.label, first.columns) != (w.label, w.columns):
                    reason = (
                        "listed again with another label or columns; the first "
                        f"({first.label}) was taken"
                    )
                    self.tally.failed.append(Failure(printable(w.path), reason))
                continue
            if not w.labelled and w.path in self.known:  # a bare path takes away no label
                w = replace(
                    w, label=self.known[w.path][1].label, columns=self.known[w.path][1].columns
                )
            if _has_surrogates(w.path):
                self.tally.failed.append(
                    Failure(printable(w.path), "the file name is not valid UTF-8: rename it")
                )
            elif not self._is_unchanged(w):
                todo.append(w)
        self._total = len(todo)
        return todo

    def _is_unchanged(self, w: Wanted) -> bool:
        if w.path not in self.known:
            return False
        id_, item = self.known[w.path]
        if item.size != NO_FILE:
            try:
                status = os.stat(w.path)
            except OSError:
                return False
            if (status.st_size, status.st_mtime_ns) != (item.size, item.mtime):
                return False
        if (item.label, dict(item.columns)) == (w.label, dict(w.columns)):
            self.tally.unchanged += 1
        else:
            self._changes[id_] = replace(item, label=w.label, columns=w.columns)
            self.tally.updated += 1
        return True

    def fit_on_sample(self, todo: Sequence[Wanted]) -> list[Wanted]:
        """Read a seeded sample, learn the codes from it, store it; returns what is left to do."""
        chosen = set(_sample(len(todo), self.seed).tolist())
        for _ in self._take(w for i, w in enumerate(todo) if i in chosen):
            pass  # nothing can be stored yet: codes come out of the whole sample
        if self._waiting:
            raw = np.concatenate([raw for _, raw in self._waiting])
            mine = self.model = self.model.fitted(
                raw, BITS if self.bits is None else self.bits, self.seed
            )
            self.commit(new_model=True)
            if self.model.fingerprint == mine.fingerprint:
                self.fitted_on = len(raw)
            return [w for i, w in enumerate(todo) if i not in chosen]
        if len(chosen) < len(todo):  # a sample of nothing but bad files: try the rest
            return self.fit_on_sample([w for i, w in enumerate(todo) if i not in chosen])
        return []

    def process(self, todo: Sequence[Wanted]) -> None:
        """Read, encode and store the rest."""
        for _ in self._take(todo):
            self._commit_if_due()
        self.commit()

    def _commit_if_due(self) -> None:
        waiting = sum(len(items) for items, _ in self._waiting) + len(self._changes)
        if waiting >= COMMIT_IMAGES or time.monotonic() - self._stored_at > COMMIT_SECONDS:
            self.commit()

    def commit(self, new_model: bool = False) -> None:
        """Store what waits, in one transaction. Where another process fitted the model meanwhile,
        its codes are used."""
        if not self._waiting and not self._changes:
            return
        if self._waiting and not self.model.gives_codes:
            return  # interrupted before the codes were known
        with self.store.writing():
            self._adopt_or_write_model(new_model)
            for items, raw in self._waiting:
                embeddings = self.model.embed(raw)
                self.store.add(items, embeddings.codes, embeddings.features, self.model.bits)
            taken = self.store.ids_of_paths(item.path for item in self._changes.values())
            self.store.update(
                {i: item for i, item in self._changes.items() if taken.get(item.path, i) == i}
            )
        self._waiting, self._changes = [], {}
        self._stored_at = time.monotonic()

    def remove(self, gone: Mapping[int, str]) -> int:
        """Delete the items of files that are gone, unless they were found to have moved."""
        left = {path: id_ for id_, path in gone.items() if id_ not in self._claimed}
        if not left:
            return 0
        with self.store.writing():  # another process may have recorded that one of them moved
            still = self.store.ids_of_paths(left)
            return self.store.delete(id_ for path, id_ in still.items() if left[path] == id_)

    def _adopt_or_write_model(self, new_model: bool) -> None:
        stored = self.store.model_files()
        theirs = Model(stored)
        if theirs.files["model.onnx"] != self.model.files["model.onnx"]:
            raise StoreError(
                f"{self.store.path} was given another model by another process: run the same "
                "command again"
            )
        if theirs.gives_codes and self.bits not in (None, theirs.bits):
            raise ModelError(
                f"{self.store.path} was given codes of {theirs.bits} bits by another process "
                f"meanwhile, not {self.bits}: "
                "leave --bits out"
            )
        if theirs.gives_codes:
            self.model = theirs if theirs.fingerprint != self.model.fingerprint else self.model
        elif new_model:
            self.store.set_model(self.model.files)

    def _take(self, todo: Iterable[Wanted]) -> Iterator[None]:
        """Read images with threads, run the network in batches, and put the outcome in line; yields
        after each batch."""
        fresh = (
            new
            for new in map(self._settled, in_order(todo, self._read, self.threads))
            if new is not None
        )
        for batch in batched(fresh, BATCH):
            raw = self.model.run([read.pixels for read in batch if read.pixels is not None])
            self._waiting.append(([read.item for read in batch if read.item is not None], raw))
            known = sum(read.wanted.path in self.known for read in batch)
            self.tally.updated += known
            self.tally.added += len(batch) - known
            self.encoded += len(batch)
            yield

    def _read(self, w: Wanted) -> _Read:
        """In a thread: bytes, hash and, for new content, pixels."""
        try:
            if not isinstance(w.source, str):
                item = Item(w.path, w.label, w.columns, NO_FILE, 0, _content(w.source))
                return _Read(w, item, images.load(w.source, self.model.preprocessing))
            status = os.stat(w.path)
            data = images.read(w.path)
            item = Item(
                w.path,
                w.label,
                w.columns,
                len(data),
                status.st_mtime_ns,
                hashlib.sha256(data).digest(),
            )
            if w.path in self.known and self.known[w.path][1].content == item.content:
                return _Read(w, item)
            old = [] if w.path in self.known else self._files_that_left(item.content)
            return _Read(
                w,
                item,
                None if old else images.load(data, self.model.preprocessing),
                moved_from=old,
            )
        except ImageError as error:
            return _Read(w, failure=str(error))
        except OSError as error:
            return _Read(w, failure=error.strerror or str(error))
        except ValueError as error:  # a path with a NUL byte
            return _Read(w, failure=str(error))

    def _files_that_left(self, content: bytes) -> list[int]:
        """Items of this content whose file is not at its place any more."""
        ids = self.by_content.get(content, [])
        return [
            i
            for i in ids
            if self.known[self.path_of[i]][1].size != NO_FILE
            and not os.path.exists(self.path_of[i])
        ]

    def _settled(self, read: _Read) -> _Read | None:
        """Deal with what needs no network: failures, untouched content, moved files. Returns what
        is left to encode."""
        self._done += 1
        self.progress("indexing", self._done, self._total)
        if read.item is not None and read.pixels is None:
            id_ = self._same_image(read)
            if id_ is not None:
                self._changes[id_] = read.item
                self._commit_if_due()
                return None
            read = self._decoded(read)  # a second copy of a file that moved once: it is new
        if read.item is None:
            self.tally.failed.append(
                Failure(printable(read.wanted.path), read.failure or "unknown reason")
            )
            return None
        return read

    def _same_image(self, read: _Read) -> int | None:
        """The item that already has this content: at the same path, or at a path that its file has
        left."""
        if read.wanted.path in self.known:
            self.tally.unchanged += 1
            return self.known[read.wanted.path][0]
        for id_ in read.moved_from:
            if id_ not in self._claimed:
                self._claimed.add(id_)
                self.tally.moved += 1
                return id_
        return None

    def _decoded(self, read: _Read) -> _Read:
        try:
            return replace(read, pixels=images.load(read.wanted.source, self.model.preprocessing))
        except ImageError as error:
            return _Read(read.wanted, failure=str(error))


def _raw_again(
    model: Model, items: Sequence[Item], threads: int | None, stage: str, progress: Progress
) -> Iterator[NDArray[np.float32]]:
    """Raw outputs of indexed images, read again from their files, a batch at a time. Raises
    StoreError where one changed."""

    def pixels(item: Item) -> images.Pixels:
        try:
            if item.size == NO_FILE:
                raise ImageError("it was added as an array and has no file")
            data = images.read(item.path)
            if hashlib.sha256(data).digest() != item.content:
                raise ImageError("the file has changed")
            return images.load(data, model.preprocessing)
        except ImageError as error:
            raise StoreError(
                f"{item.path} is not what was indexed ({error}), so nothing was refitted: "
                "run wingbar index on its folder first, or make a new index"
            ) from None

    done = 0
    for batch in batched(in_order(items, pixels, threads or cores()), BATCH):
        yield model.run(batch)
        done += len(batch)
        progress(stage, done, len(items))


def _sample(count: int, seed: int) -> NDArray[np.int64]:
    """Places of the images that a model is fitted on, ascending: all of them, or SAMPLE drawn with
    the seed."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLE])


def _advice(model: Model, store: Store) -> str | None:
    sample = model.record.get("fitted", {}).get("sample", SAMPLE)
    count = store.count()
    if sample < SAMPLE and count >= 4 * sample:
        return (
            f"the codes were learnt from {sample:,} images and the index now holds {count:,}: "
            "index --refit learns them anew"
        )
    return None


def _content(source: images.Whole) -> bytes:
    """sha256 of an image that is no file: of its bytes, or of its shape and pixels."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    array = np.asarray(source)
    described = f"{array.shape} {array.dtype}"
    if isinstance(source, Image.Image) and source.mode in ("P", "PA"):
        # the same numbers in other colours
        described += f" {source.getpalette()} {source.info.get('transparency')}"
    return hashlib.sha256(described.encode() + array.tobytes()).digest()


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
