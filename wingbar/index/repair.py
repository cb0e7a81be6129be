"""Make a whole index of a damaged one: everything that can still be read, and a list of the rest.

The damaged file is only read. What its checksums confirm goes into a new file beside it: items
with codes and features, the model, what was removed by hand. A code or feature that is lost is made
again from the picture, if its file is still what was indexed. What a second encoder has lost and
cannot make again waits for it, as if it had just been added. The new file is verified, then it
takes the place of the damaged one, which stays beside it under another name.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ImageError, ModelError, StoreError, WingbarError, counted, printable
from wingbar.files import (
    DATABASE,
    INDEX,
    UNKNOWN,
    kind_of,
    partial_path,
    remove_leftovers,
    sync_folder,
    with_own_name,
)
from wingbar.hamming.codes import words
from wingbar.index.checks import verify
from wingbar.index.kept import KEPT, Kept, are_finite, from_disk, to_disk, width
from wingbar.index.sqlite_file import BROKEN, model_rows, not_an_index, remove_index, whole_model
from wingbar.index.store import CHUNK, NO_FILE, Item, Removed, Store
from wingbar.index.tables import (
    FIRST,
    ITEM_FIELDS,
    SECOND,
    Tables,
    alive_from_disk,
    codes_from_disk,
    disk_bytes,
    item_crc,
    item_of_row,
    meta_crc,
    removed_crc,
)
from wingbar.model import proof
from wingbar.model.model import Model
from wingbar.parallel import BATCH, Progress, batched, cores, in_order, no_progress


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    index: the index that is whole now.
    damaged: where the damaged file is now; None when nothing was wrong.
    items: number of items that were kept.
    dropped: what could not be saved, one line each.
    made_again: number of items whose code and feature were made again from their pictures.
    unchecked: number of items whose code stands in a damaged column and could not be made again: at
        least one bit of one of them is wrong, the others are as they were.
    half_copied: whether it was a copy that was stopped, and is an index of what it has now.
    """

    index: str
    damaged: str | None
    items: int
    dropped: Sequence[str] = ()
    made_again: int = 0
    unchecked: int = 0
    half_copied: bool = False


@dataclass
class _Encoded:
    """What could be read of one encoder, by the ids of the items."""

    model: Model
    features: dict[int, bytes] = field(default_factory=dict)
    codes: dict[int, NDArray[np.uint64]] = field(default_factory=dict)
    doubtful: dict[int, NDArray[np.uint64]] = field(default_factory=dict)


@dataclass
class _Saved:
    """What could be read of a damaged index."""

    first: _Encoded
    second: _Encoded | None
    kept: Kept
    items: dict[int, Item] = field(default_factory=dict)
    removed: dict[str, Removed] = field(default_factory=dict)
    copied_from: str | None = None
    half_copied: bool = False
    dropped: list[str] = field(default_factory=list)


def repair(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Repair the index at `path`; one that is whole stays as it is. One that is whole but for what
    a stopped copy did not bring is taken for an index of what it has.

    Raises StoreError when there is no file, when another process writes to it, when it is no index
    or its model is lost, and when the new file cannot be written; then nothing is changed.
    """
    place = Path(path)
    if place.is_file() and kind_of(place) not in (INDEX, DATABASE, UNKNOWN):
        raise not_an_index(place)
    if not verify(place):
        with closing(Store.open(place)) as store:
            is_half = store.is_half_copied()
            if is_half:
                with store.writing():
                    store.set_half_copied(False)
            return Repaired(str(place), None, store.count(), half_copied=is_half)
    target = partial_path(place)
    remove_leftovers(place)
    try:
        remove_index(target)  # of a killed process that had the same number
        with closing(_opened(place)) as connection:
            saved = _read(connection, place)
            again, unchecked = _complete(saved, threads or cores(), progress or no_progress)
            _write(target, saved)
            if left := verify(target):
                raise StoreError(f"{place} could not be repaired ({left[0]}): make a new index")
            damaged = _exchange(place, target)
    except StoreError as error:
        raise StoreError(with_own_name(str(error), place)) from error
    finally:
        with suppress(OSError):
            remove_index(target)
    return Repaired(
        str(place), str(damaged), len(saved.items), tuple(saved.dropped), again, unchecked
    )


def _opened(path: Path) -> sqlite3.Connection:
    """A connection that only reads, and keeps writers away as far as the damage allows. Raises
    StoreError."""
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=5
        )
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA writable_schema = ON")  # or SQLite refuses a file that was cut
        connection.execute("BEGIN IMMEDIATE" if mode == "rw" else "BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise StoreError(
                f"{path} is being written by another process: end it, then repair"
            ) from None
        if "disk I/O" in str(error) or "full" in str(error):
            raise StoreError(
                f"{path} cannot be repaired ({error}): free some space and try again"
            ) from None
        raise StoreError(
            f"{path} cannot be repaired, since its first page is lost ({error}): make a new index "
            "with wingbar index, or restore a backup"
        ) from None
    return connection


# -- read


def _read(connection: sqlite3.Connection, path: Path) -> _Saved:
    first = _Encoded(_model_of(connection, path))
    saved = _Saved(first, None, _kept(connection, first.model.dim))
    top = _top(connection)
    columns = f"id, {ITEM_FIELDS}, crc"
    for id_, row in _rows(connection, "items", columns, top, saved.dropped):
        if item_crc(row[:-1]) != row[-1] or (item := item_of_row(tuple(row[:-1]))) is None:
            saved.dropped.append(f"item {id_} ({printable(row[0])}): its row is damaged")
        elif _listed_id(connection, item.path) not in (id_, None):
            saved.dropped.append(f"item {id_} ({printable(row[0])}): its number is damaged")
        else:
            saved.items[id_] = item
    _read_encoded(connection, FIRST, first, saved, top)
    saved.second = _second_of(connection, saved)
    if saved.second is not None:
        _read_encoded(connection, SECOND, saved.second, saved, top)
    _read_copy_marks(connection, saved)
    with suppress(*BROKEN):
        for name, *rest, crc in connection.execute(
            "SELECT path, size, mtime, content, crc FROM removed"
        ):
            one = Removed(*rest)
            if removed_crc(name, one) == crc:
                saved.removed[name] = one
            else:
                saved.dropped.append(f"the removal of {printable(name)}: its row is damaged")
    return saved


def _read_copy_marks(connection: sqlite3.Connection, saved: _Saved) -> None:
    """What this is a copy of, and whether it was finished: a damaged mark says that it was not."""
    query = "SELECT value, crc FROM meta WHERE name = ?"
    with suppress(*BROKEN):
        for value, crc in connection.execute(query, ("copied_from",)):
            saved.copied_from = value if meta_crc("copied_from", value) == crc else None
    with suppress(*BROKEN):
        for value, crc in connection.execute(query, ("half_copied",)):
            saved.half_copied = value == "1" or meta_crc("half_copied", value) != crc


def _second_of(connection: sqlite3.Connection, saved: _Saved) -> _Encoded | None:
    """The second encoder without what it has encoded; None where there is none, or its model is
    lost."""
    files: dict[str, bytes] = {}
    is_there = False
    with suppress(*BROKEN):
        query = "SELECT 1 FROM meta WHERE name = ?"
        is_there = connection.execute(query, (SECOND.fingerprint,)).fetchone() is not None
    with suppress(*BROKEN):
        files = dict(connection.execute(f"SELECT name, data FROM {SECOND.model}"))
    if not is_there and not files:
        return None
    try:
        return _Encoded(Model(files))
    except (WingbarError, TypeError) as error:
        saved.dropped.append(
            f"the second encoder ({error}): add it again with wingbar index --also"
        )
        return None


def _read_encoded(
    connection: sqlite3.Connection, tables: Tables, into: _Encoded, saved: _Saved, top: int
) -> None:
    """The features and codes of one encoder."""
    bits = into.model.bits if into.model.gives_codes else 0
    for id_, row in _rows(connection, tables.features, "id, data, crc", top, saved.dropped):
        if _is_feature(row[0], row[1], into.model.dim, saved.kept):
            into.features[id_] = row[0]
    for chunk in range(top // CHUNK + 1 if bits else 0):
        _read_codes(connection, tables, chunk, bits, into)


def _listed_id(connection: sqlite3.Connection, path: str) -> int | None:
    """The id that SQLite's own list of paths has for a path; None where it cannot be read."""
    with suppress(*BROKEN):
        row = connection.execute("SELECT id FROM items WHERE path = ?", (path,)).fetchone()
        return row and int(row[0])
    return None


def _kept(connection: sqlite3.Connection, dim: int) -> Kept:
    """How features are kept; where the row that says so is damaged, by the length of most."""
    with suppress(*BROKEN):
        rows = connection.execute("SELECT value, crc FROM meta WHERE name = 'features'").fetchall()
        for kept in KEPT:
            if (kept, meta_crc("features", kept)) in rows:
                return kept
    lengths: Counter[object] = Counter()
    with suppress(*BROKEN):
        for (length,) in connection.execute("SELECT length(data) FROM features"):
            lengths[length] += 1
    return "int8" if lengths[width(dim, "int8")] > lengths[width(dim, "float16")] else "float16"


def _is_feature(data: object, crc: object, dim: int, kept: Kept) -> bool:
    """Whether this is what was stored as a feature of `dim` numbers."""
    return (
        isinstance(data, bytes)
        and zlib.crc32(data) == crc
        and len(data) == width(dim, kept)
        and are_finite([data], kept)
    )


def _model_of(connection: sqlite3.Connection, path: Path) -> Model:
    """The model of the index (`whole_model`). Raises StoreError where it is lost."""
    try:
        return whole_model(*model_rows(connection))
    except (WingbarError, TypeError) as error:
        reason = str(error).split(":")[0]  # without what to do about the folder of a model
        raise StoreError(
            f"{path} cannot be repaired, since its model is lost ({reason}): make a new index with "
            "wingbar index, or restore a backup"
        ) from None


def _top(connection: sqlite3.Connection) -> int:
    """A number that no id of an item exceeds."""
    top = 0
    for query in (
        "SELECT seq FROM sqlite_sequence WHERE name = 'items'",
        "SELECT max(id) FROM items",
        "SELECT max(id) FROM features",
        f"SELECT max(chunk) * {CHUNK} + {CHUNK - 1} FROM codes",
    ):
        with suppress(*BROKEN):
            row = connection.execute(query).fetchone()
            if row and isinstance(row[0], int):
                top = max(top, row[0])
    return min(top, 2**32)


def _rows(
    connection: sqlite3.Connection, table: str, columns: str, top: int, dropped: list[str]
) -> Iterator[tuple[int, Sequence[Any]]]:
    """The rows of a table that SQLite can still read: ids and the other columns, by ascending id.

    All are read in the order of the tree, as far as that goes; the ids beyond are looked for one by
    one. The checksum of a row does not hold its id, but ids ascend, so a damaged one stands out.
    """
    found: list[tuple[Any, ...]] = []
    lost: list[int] = []
    try:
        found.extend(connection.execute(f"SELECT {columns} FROM {table} NOT INDEXED"))
    except BROKEN:
        found = _rows_before_the_damage(connection, table, columns)
        last = max((row[0] for row in found), default=0)
        for id_ in range(last + 1, top + 1):
            try:
                query = f"SELECT {columns} FROM {table} WHERE id = ?"
                found += connection.execute(query, (id_,)).fetchall()[:1]
            except BROKEN:
                lost.append(id_)
    kept = ascending([row[0] for row in found])
    for place in kept:
        id_, *row = found[place]
        yield id_, row
    if len(kept) < len(found):
        dropped.append(f"{table}: {counted(len(found) - len(kept), 'row')} whose number is damaged")
    if lost and len(lost) == top + 1 - lost[0]:  # up to what may be far beyond the last item
        dropped.append(f"{table}: nothing from number {lost[0]} on can be read")
    elif lost:
        dropped.append(
            f"{table}: {counted(len(lost), 'place')} from {lost[0]} to {lost[-1]} cannot be read"
        )


def _rows_before_the_damage(
    connection: sqlite3.Connection, table: str, columns: str
) -> list[tuple[Any, ...]]:
    found = []
    with suppress(*BROKEN):
        for row in connection.execute(f"SELECT {columns} FROM {table} NOT INDEXED"):
            found.append(row)
    return found


def ascending(ids: Sequence[object]) -> list[int]:
    """The places of the longest part of a sequence that ascends strictly, without ids that are
    there twice and what is no id."""
    often = Counter(id_ for id_ in ids if isinstance(id_, int))
    ends: list[int] = []  # of the best part of each length: its last id
    at: list[int] = []  # and its place
    before: dict[int, int | None] = {}
    for place, id_ in enumerate(ids):
        if not isinstance(id_, int) or often[id_] > 1 or not 0 < id_ < 2**47:
            continue
        length = bisect_left(ends, id_)
        before[place] = at[length - 1] if length else None
        ends[length : length + 1] = [id_]
        at[length : length + 1] = [place]
    out: list[int] = []
    last = at[-1] if at else None
    while last is not None:
        out.append(last)
        last = before[last]
    return out[::-1]


def _read_codes(
    connection: sqlite3.Connection, tables: Tables, chunk: int, bits: int, saved: _Encoded
) -> None:
    """The codes of one chunk. Where its checksum is wrong but it has the right shape, they are
    doubtful: few of them can be wrong, and nobody knows which."""
    try:
        row = connection.execute(
            f"SELECT data, alive, crc FROM {tables.codes} WHERE chunk = ?", (chunk,)
        ).fetchone()
    except BROKEN:
        return
    if row is None or not isinstance(row[0], bytes) or not isinstance(row[1], bytes):
        return
    data, alive, crc = row
    if len(alive) != CHUNK // 8 or len(data) % disk_bytes(bits):
        return
    packed = codes_from_disk(data, bits)[:CHUNK]
    places = np.flatnonzero(alive_from_disk(alive)[: len(packed)])
    into = saved.codes if zlib.crc32(alive, zlib.crc32(data)) == crc else saved.doubtful
    into.update(zip((places + chunk * CHUNK).tolist(), packed[places], strict=True))


# -- complete


def _complete(saved: _Saved, threads: int, progress: Progress) -> tuple[int, int]:
    """Make lost codes and features again, and drop the items for which that is impossible. Returns
    how many were made again, and how many codes could not be checked."""
    model = saved.first.model
    if not model.has_network and model.gives_codes:
        return _complete_vectors(saved), 0
    made, unchecked, reasons = _completed(saved.first, saved, saved.items, threads, progress)
    for id_, why in reasons.items():
        item = saved.items.pop(id_)
        saved.dropped.append(
            f"item {id_} ({printable(item.path)}): its code or feature is damaged, and {why}"
        )
    if saved.second is not None:
        there = {*saved.second.features, *saved.second.codes, *saved.second.doubtful}
        items = {id_: item for id_, item in saved.items.items() if id_ in there}
        again, doubted, waiting = _completed(saved.second, saved, items, threads, progress)
        made, unchecked = made + again, unchecked + doubted
        for id_, why in waiting.items():
            saved.second.features.pop(id_, None)
            saved.second.codes.pop(id_, None)
            saved.dropped.append(
                f"what the second encoder made of item {id_} ({printable(items[id_].path)}): it is "
                f"damaged, and {why}"
            )
    return made, unchecked


def _completed(
    encoded: _Encoded,
    saved: _Saved,
    items: Mapping[int, Item],
    threads: int,
    progress: Progress,
) -> tuple[int, int, dict[int, str]]:
    """Make the lost codes and features of one encoder again. Returns how many were made again, how
    many codes could not be checked, and why the others are lost, by id."""
    model = encoded.model
    lost = {
        id_: item
        for id_, item in items.items()
        if id_ not in encoded.codes or id_ not in encoded.features
    }
    made = done = 0
    other = proof.problem(model) if lost and model.has_network else None
    reasons = {} if other is None else dict.fromkeys(lost, other)
    again = lost if other is None else {}
    for batch in batched(in_order(again.items(), lambda one: _pixels(model, one), threads), BATCH):
        read = [(id_, pixels) for id_, pixels in batch if not isinstance(pixels, ImageError)]
        reasons.update((id_, str(why)) for id_, why in batch if isinstance(why, ImageError))
        if read and model.gives_codes:
            embedded = model.embed(model.run([pixels for _, pixels in read]))
            for (id_, _), code, feature in zip(
                read, embedded.codes, embedded.features, strict=True
            ):
                encoded.codes[id_] = code
                [encoded.features[id_]] = to_disk(feature[None], saved.kept)
                made += 1
        done += len(batch)
        progress("encoding again", done, len(lost))
    unchecked = 0
    for id_ in sorted(reasons):
        if id_ in encoded.features and id_ in encoded.doubtful:
            encoded.codes[id_] = encoded.doubtful[id_]
            unchecked += 1
    whole = encoded.codes.keys() & encoded.features.keys()
    return made, unchecked, {i: why for i, why in sorted(reasons.items()) if i not in whole}


def _pixels(model: Model, one: tuple[int, Item]) -> tuple[int, images.Pixels | ImageError]:
    """In a thread: the pixels of an item whose file is still what was indexed."""
    id_, item = one
    try:
        if item.size == NO_FILE:
            raise ImageError("it has no file")
        data = images.read(item.path)
        if hashlib.sha256(data).digest() != item.content:
            raise ImageError("its file has changed")
        return id_, images.load(data, model.preprocessing)
    except ImageError as error:
        return id_, error


def _complete_vectors(saved: _Saved) -> int:
    """Codes of vectors are made again from the features, which are the vectors."""
    made, of = 0, saved.first
    for id_, item in list(saved.items.items()):
        if id_ in of.codes and id_ in of.features:
            continue
        if id_ in of.features:
            vector = from_disk([of.features[id_]], of.model.dim, saved.kept)
            of.codes[id_] = of.model.embed(vector.astype(np.float32)).codes[0]
            made += 1
        else:
            del saved.items[id_]
            saved.dropped.append(f"item {id_} ({printable(item.path)}): its vector is damaged")
    return made


# -- write


def _write(target: Path, saved: _Saved) -> None:
    first, second = saved.first, saved.second
    store = Store.create(target, first.model.files, saved.kept)
    try:
        with store.writing():
            if saved.copied_from is not None:
                store.set_copied_from(saved.copied_from)
            store.set_half_copied(saved.half_copied)
            if second is not None:
                store.set_also(second.model.files)
            for part in batched(sorted(saved.items), CHUNK):
                packed, features = _columns(first, part, saved.kept)
                items = [saved.items[id_] for id_ in part]
                store.add(items, packed, features, first.model.bits, part)
                there = [] if second is None else [id_ for id_ in part if id_ in second.codes]
                if second is not None and store.also is not None and there:
                    packed, features = _columns(second, there, saved.kept)
                    ids = np.array(there, np.int64)
                    store.also.replace_embeddings(packed, features, ids, second.model.bits)
            store.remember(saved.removed)
    except (ModelError, sqlite3.IntegrityError) as error:
        raise StoreError(f"{target} could not be made ({error}): make a new index") from None
    finally:
        store.close()


def _columns(
    encoded: _Encoded, ids: Sequence[int], kept: Kept
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Codes [N, w] and features [N, d] of items."""
    model = encoded.model
    packed = np.stack([encoded.codes[id_] for id_ in ids])
    features = from_disk([encoded.features[id_] for id_ in ids], model.dim, kept)
    return packed.reshape(len(ids), words(model.bits)), features.astype(np.float32)


def _exchange(path: Path, target: Path) -> Path:
    """Put the new file in the place of the damaged one, which gets another name. At no moment is
    there no index at `path`."""
    number = 1
    damaged = path.with_name(f"{path.name}.damaged")
    while damaged.exists():
        number += 1
        damaged = path.with_name(f"{path.name}.damaged{number}")
    try:
        os.link(path, damaged)
    except OSError:  # a file system without hard links
        damaged.write_bytes(path.read_bytes())
    for suffix in ("-wal", "-shm"):  # they belong to the damaged file
        with suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{damaged}{suffix}")
    os.replace(target, path)
    sync_folder(path.parent)
    return damaged
