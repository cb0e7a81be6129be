"""Copy an index from one store to another, or back a file up while it is in use.

A copy goes by ascending id, block by block, from one read snapshot of the source. What is in the
target already, and the same, is left alone, so that a copy that was stopped continues, and one that
is run again brings the target up to date. At the end the target is read again, and its number of
items and the checksum over all of them must be those of the source.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wingbar.errors import StoreError, WingbarError
from wingbar.files import (
    INDEX_MARK,
    partial_path,
    remove_leftovers,
    require_own,
    sync_folder,
    with_own_name,
)
from wingbar.index.checks import verify
from wingbar.index.engine import AnyStore, Row, Url, place_of
from wingbar.index.kept import Kept, as_kept
from wingbar.index.place import create_store, exists, open_store
from wingbar.index.sqlite_file import explained, put_over, remove_index, to_disk
from wingbar.index.store import Store
from wingbar.model.model import Model
from wingbar.parallel import Progress, no_progress

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 4096  # items that are copied in one transaction
PAGES = 4096  # of SQLite, between two reports of a backup

PlaceText = str | os.PathLike[str] | Url


@dataclass(frozen=True)
class CopyReport:
    """What a copy did.

    items: number of items in the source, and now in the target.
    copied: number of items that were written.
    present: number of items that were in the target already, and the same.
    removed: number of items of the target that are no longer in the source.
    checksum: sha256 over all items, codes and features in hexadecimal digits, the same on both
        sides.
    seconds: duration, with the reading of the target at the end.
    rounded: whether the target keeps features as int8 and the source does not, so that those of the
        copy were rounded; the checksum is then of the rounded ones.
    half_copied: whether the source is a copy that was stopped itself, so that both may lack items.
    """

    items: int
    copied: int
    present: int
    removed: int
    checksum: str
    seconds: float
    rounded: bool = False
    half_copied: bool = False


@dataclass(frozen=True)
class BackupReport:
    """What a backup wrote.

    items: number of items in it.
    bytes: size of the file.
    seconds: duration, with the check of every checksum in it.
    half_copied: whether the index is a copy that was stopped, so that both may lack items.
    """

    items: int
    bytes: int
    seconds: float
    half_copied: bool = False


@dataclass
class _Tally:
    copied: int = 0
    present: int = 0
    removed: int = 0


def copy(
    source: PlaceText,
    target: PlaceText,
    *,
    features: Kept | None = None,
    encoder: str | None = None,
    progress: Progress | None = None,
) -> CopyReport:
    """Make `target` a copy of the index `source`: the same models, ids, records, codes and
    features. Either is a file or a URL; the source may be in use.

    Of an index with two encoders, the copy has both, and its `checksum` is over both; or only the
    one called `encoder`, with the items that it has encoded. A server takes one.

    A new file keeps features as the source does, or as `features` says; where that is int8 and the
    source has float16, those of the copy are rounded to int8.

    Raises StoreError when `target` is something else than an unfinished or older copy of `source`,
    when one of them cannot be read or written, and when they are not the same at the end.
    """
    start = time.monotonic()
    with closing(open_store(source)) as whole:
        ours = whole if encoder is None else _seen_by(whole, encoder)
        model = Model(ours.model_files())
        also = None if encoder is not None or ours.also is None else Model(ours.also.model_files())
        if also is not None and isinstance(place_of(target), Url):
            raise StoreError(
                f"{ours.path} has two encoders, and {place_of(target)} can hold the codes of one: "
                f"choose it, as with --with {model.name}"
            )
        with closing(_opened_target(ours, model, also, target, features)) as theirs:
            report = progress or no_progress
            tally, count, checksum, is_half = ours.retried(
                lambda: _transfer(ours, theirs, model, also, report)
            )
            found, theirs_checksum = _digest_of(theirs, model, also, count, report)
            if (found, theirs_checksum) != (count, checksum):
                raise StoreError(
                    f"{theirs.path} is not the same as {ours.path}: {found:,} items with the "
                    f"checksum {theirs_checksum[:12]}, not {count:,} with {checksum[:12]}; is "
                    "something else writing to it? Run the same command again"
                )
            theirs.retried(lambda: _finish(theirs, is_half))
            rounded = theirs.kept != ours.kept and theirs.kept == "int8"
    seconds = time.monotonic() - start
    return CopyReport(
        items=count,
        copied=tally.copied,
        present=tally.present,
        removed=tally.removed,
        checksum=checksum,
        seconds=seconds,
        rounded=rounded,
        half_copied=is_half,
    )


def backup(
    source: PlaceText,
    target: str | os.PathLike[str],
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> BackupReport:
    """Write the index `source` into the new file `target`, as it is at one moment, while it may be
    in use, and check every checksum in it. A file is copied by SQLite's backup, an index on a
    server by `copy`.

    With `replace`, a file that is there is replaced once the new one is complete. Raises StoreError
    otherwise, and when something cannot be read or written.
    """
    start = time.monotonic()
    path = Path(target)
    remove_leftovers(path)
    if path.exists() and not replace:
        raise StoreError(f"{path} exists already: name another file, or add --replace")
    place = place_of(source)
    if isinstance(place_of(target), Url):
        raise StoreError(f"a backup is a file, not {target}: use wingbar copy")
    if isinstance(place, Path) and path.exists() and place.exists() and path.samefile(place):
        raise StoreError(f"{path} is the index itself: name another file")
    try:
        require_own(path, b"SQLite format 3\0")
        require_own(path, INDEX_MARK, at=68)  # no database of another program
    except WingbarError as error:
        raise StoreError(str(error)) from None
    partial = partial_path(path)
    try:
        remove_index(partial)  # of a killed process that had the same number
        if isinstance(place, Url):
            copy(place, partial, progress=progress)
        else:
            with closing(Store.open(place)) as store:
                _write_backup(store, path, progress or no_progress)
        if problems := verify(partial):
            raise StoreError(
                f"the backup of {place} is not whole ({problems[0]}): run wingbar verify {place}"
            )
        with closing(Store.open(partial)) as written:
            items, is_half = written.count(), written.is_half_copied()
        to_disk(partial)
        put_over(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}): free some space, or name another folder"
        ) from error
    except StoreError as error:
        raise StoreError(with_own_name(str(error), path)) from error
    finally:
        with suppress(OSError):
            remove_index(partial)
    return BackupReport(items, path.stat().st_size, time.monotonic() - start, is_half)


def _write_backup(store: Store, path: Path, progress: Progress) -> None:
    """Copy the pages of one read snapshot into the partial file of `path`."""

    def report(status: int, remaining: int, total: int) -> None:
        progress("copying", total - remaining, total)

    with store.reading():
        try:
            with closing(sqlite3.connect(partial_path(path))) as target:
                store.connection.backup(target, pages=PAGES, progress=report, sleep=0)
        except sqlite3.Error as error:
            of_source = getattr(error, "sqlite_errorcode", None) in (
                sqlite3.SQLITE_CORRUPT,
                sqlite3.SQLITE_NOTADB,
            )
            raise explained(error, store.path if of_source else path) from error


def _seen_by(whole: AnyStore, encoder: str) -> AnyStore:
    """The store as one of its encoders sees it. Raises QueryError for an unknown name."""
    from wingbar.index.index import Index, store_of

    return store_of(Index(whole).encoder(encoder))


def _opened_target(
    ours: AnyStore, model: Model, also: Model | None, target: PlaceText, features: Kept | None
) -> AnyStore:
    """The target, made where there is none. Raises StoreError for one that is no copy of the
    source, or keeps features in another way than wanted."""
    own = "float16" if isinstance(place_of(target), Url) else ours.kept
    theirs = (
        open_store(target) if exists(target) else create_store(target, model.files, features or own)
    )
    try:
        if str(theirs.path) == str(ours.path) or theirs.identity() == ours.identity():
            raise StoreError(f"{theirs.path} is the index to be copied itself: name another place")
        if features not in (None, theirs.kept):
            raise StoreError(
                f"{theirs.path} is there already and keeps features as {theirs.kept}: leave "
                "--features out, or name another place"
            )
        same_model = theirs.model_fingerprint() == model.fingerprint
        there = None if theirs.also is None else theirs.also.model_fingerprint()
        wanted = None if also is None else also.fingerprint
        # new, or left by a copy that was killed at once
        is_new = theirs.is_empty() and theirs.copied_from() is None and there in (None, wanted)
        if same_model and is_new:
            with theirs.writing():
                theirs.set_copied_from(ours.identity())
                theirs.set_half_copied(True)
                if also is not None and there is None:
                    theirs.set_also(also.files)
                    there = wanted
        if theirs.copied_from() != ours.identity():
            raise StoreError(
                f"{theirs.path} exists already, and is no copy of {ours.path}: name another place"
            )
        if not same_model:
            raise StoreError(
                f"{theirs.path} is a copy from before {ours.path} was given the model {model}: "
                "delete it and run the same command again"
            )
        if there != wanted:
            raise StoreError(
                f"{theirs.path} is a copy with other encoders than {ours.path} has now: delete it "
                "and run the same command again"
            )
    except BaseException:
        theirs.close()
        raise
    return theirs


def _transfer(
    ours: AnyStore, theirs: AnyStore, model: Model, also: Model | None, progress: Progress
) -> tuple[_Tally, int, str, bool]:
    """Bring the target in line with one snapshot of the source. Returns what was done, the number
    and the checksum of the source's items, and whether it is a half copy itself."""
    tally, digest, done = _Tally(), hashlib.sha256(), 0
    with ours.reading():
        is_half = ours.is_half_copied()
        _require_unchanged(ours, model)
        total = ours.count()
        for fresh, gone, present, size in _differences(ours, theirs, model, digest):
            _write(theirs, fresh, gone, model)
            tally.present += present
            tally.copied += len(fresh)
            tally.removed += len(gone)
            done += size
            progress("copying", done, total)
        if also is not None and ours.also is not None and isinstance(theirs.also, Store):
            _require_unchanged(ours.also, also)
            for fresh, gone, _, _ in _differences(ours.also, theirs.also, also, digest):
                _write_also(theirs.also, fresh, gone, also)
        _copy_removals(ours, theirs)
    return tally, done, digest.hexdigest(), is_half


def _require_unchanged(ours: AnyStore, model: Model) -> None:
    if ours.model_fingerprint() != model.fingerprint:
        raise StoreError(f"{ours.path} was given another model meanwhile: run it again")


class _Difference(NamedTuple):
    """In a block of ids: rows that the target lacks or has otherwise, ids that only it has, how
    many rows are the same, and how many the source has."""

    fresh: list[Row]
    gone: list[int]
    present: int
    size: int


def _differences(
    ours: AnyStore, theirs: AnyStore, model: Model, digest: _Hash
) -> Iterator[_Difference]:
    """What the target has to take over, block by block; the marks of the source's rows go into
    `digest`."""
    there = None if theirs.is_empty() else _Blocks(_rows(theirs, model))
    for block in _blocks(ours, model, theirs.kept):
        old = {} if there is None else there.up_to(block[-1].id)
        fresh, present = [], 0
        for row in block:
            mark = _mark(row)
            digest.update(mark)
            if old.pop(row.id, None) == mark:
                present += 1
            else:
                fresh.append(row)
        yield _Difference(fresh, list(old), present, len(block))
    if there is not None:
        yield _Difference([], list(there.up_to(2**63 - 1)), 0, 0)


def _copy_removals(ours: AnyStore, theirs: AnyStore) -> None:
    """What was removed by hand stays out of the copy as well."""
    wanted, there = ours.removed(), theirs.removed()

    def write() -> None:
        with theirs.writing():
            theirs.forget(path for path in there if path not in wanted)
            theirs.remember(wanted)

    if wanted != there:
        theirs.retried(write)


def _mark_half(theirs: AnyStore) -> None:
    """Say that the target still lacks something. Inside `writing`."""
    if not theirs.is_half_copied():
        theirs.set_half_copied(True)


def _finish(theirs: AnyStore, is_half: bool) -> None:
    """Say so at the end; nothing is written where it is said already."""
    if theirs.is_half_copied() != is_half:
        with theirs.writing():
            theirs.set_half_copied(is_half)


def _write(theirs: AnyStore, fresh: Sequence[Row], gone: Sequence[int], model: Model) -> None:
    """One transaction of the target."""

    def write() -> None:
        with theirs.writing():
            _mark_half(theirs)
            theirs.delete(gone)
            if fresh:
                theirs.add(
                    [row.item for row in fresh],
                    np.stack([row.code for row in fresh]),
                    np.stack([row.feature for row in fresh]),
                    model.bits,
                    [row.id for row in fresh],
                )

    if fresh or gone:
        theirs.retried(write)


def _write_also(theirs: Store, fresh: Sequence[Row], gone: Sequence[int], model: Model) -> None:
    """One transaction of the target, of what its second encoder has."""
    if fresh or gone:
        with theirs.writing():
            _mark_half(theirs)
            theirs.drop_embeddings(gone)
            if fresh:
                theirs.replace_embeddings(
                    np.stack([row.code for row in fresh]),
                    np.stack([row.feature for row in fresh]).astype(np.float32),
                    np.array([row.id for row in fresh], np.int64),
                    model.bits,
                )


class _Blocks:
    """The marks of the target's rows, read in step with the source."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next: Row | None = next(rows, None)

    def up_to(self, id_: int) -> dict[int, bytes]:
        """The marks of the rows from the last call up to this id, by id."""
        found = {}
        while self._next is not None and self._next.id <= id_:
            found[self._next.id] = _mark(self._next)
            self._next = next(self._rows, None)
        return found


def _blocks(store: AnyStore, model: Model, kept: Kept = "float16") -> Iterator[list[Row]]:
    """All rows by ascending id, in blocks, with features as a store would have them that keeps them
    as `kept`."""
    if not model.gives_codes:
        return  # an index without codes has no items
    above = -(2**63)
    while block := store.rows(above, BLOCK, model.bits, model.dim):
        features = as_kept(np.stack([row.feature for row in block]), kept)
        yield [row._replace(feature=feature) for row, feature in zip(block, features, strict=True)]
        above = block[-1].id


def _rows(store: AnyStore, model: Model) -> Iterator[Row]:
    return chain.from_iterable(_blocks(store, model))


def _digest_of(
    store: AnyStore, model: Model, also: Model | None, total: int, progress: Progress
) -> tuple[int, str]:
    """The number of rows and their checksum, with that of what a second encoder has."""
    digest, count = hashlib.sha256(), 0
    for row in _rows(store, model):
        digest.update(_mark(row))
        count += 1
        if count % BLOCK == 0 or count == total:
            progress("checking", count, max(count, total))
    if also is not None and store.also is not None:
        for row in _rows(store.also, also):
            digest.update(_mark(row))
    return count, digest.hexdigest()


def _mark(row: Row) -> bytes:
    """What tells a row from any other: sha256 of all that it holds."""
    item = row.item
    columns = json.dumps(dict(item.columns), ensure_ascii=False, sort_keys=True)
    record = (row.id, item.path, item.label, columns, item.size, item.mtime, item.content)
    digest = hashlib.sha256(repr(record).encode("utf-8", "surrogatepass"))
    digest.update(row.code.astype("<u8").tobytes())
    digest.update(row.feature.astype("<f2").tobytes())
    return digest.digest()
