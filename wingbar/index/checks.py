"""Everything that can be wrong with an index."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from wingbar.errors import StoreError, WingbarError
from wingbar.index.engine import Url, place_of
from wingbar.index.kept import Kept, are_finite, width
from wingbar.index.place import open_remote
from wingbar.index.store import CHUNK, Removed, Store
from wingbar.index.tables import (
    FIRST,
    ITEM_FIELDS,
    SECOND,
    SECOND_FROM,
    Tables,
    alive_from_disk,
    disk_bytes,
    item_crc,
    meta_crc,
    removed_crc,
)
from wingbar.model.model import Model


def verify(path: str | os.PathLike[str] | Url) -> list[str]:
    """Everything that is wrong with the index at a path or URL, one line each, even where a file
    cannot be opened as an index.

    Raises StoreError only when there is none, or its server cannot be reached.
    """
    place = place_of(path)
    if isinstance(place, Url):
        store_there = open_remote(place)
        try:
            with store_there.reading():
                return list(store_there.problems())
        finally:
            store_there.close()
    try:
        store = Store.open(place)
    except StoreError as error:
        if not place.is_file():
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
    wrong, model = _model_problems(store)
    if model is None:
        return wrong
    try:
        kept = store.kept
    except StoreError as error:
        return [*wrong, f"features: {error}"]
    bits = model.bits if model.gives_codes else None
    wrong += row_problems(store.connection, bits, model.dim, kept)
    try:
        also = _also_problems(store, kept)
    except sqlite3.Error as error:
        also = [f"SQLite cannot read the file: {error}"]
    return wrong + [f"second encoder: {line}" for line in also]


def _also_problems(store: Store, kept: Kept) -> list[str]:
    """What is wrong with what a second encoder has of its own."""
    if store.format < SECOND_FROM:
        return []
    also = store.also
    if also is None:
        rows = sum(
            store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in (SECOND.model, SECOND.features, SECOND.codes)
        )
        return ["model: there is no fingerprint of it"] if rows else []
    wrong, model = _model_problems(also)
    if model is None:
        return wrong
    bits = model.bits if model.gives_codes else None
    ids = store.ids().tolist()
    return wrong + list(_faulty_embeddings(store.connection, SECOND, ids, bits, model.dim, kept))


def _model_problems(store: Store) -> tuple[list[str], Model | None]:
    """What is wrong with the model of one encoder, and the model, if it can be used."""
    try:
        model = Model(store.model_files())
    except WingbarError as error:
        return [f"model: {error}"], None
    try:
        if store.model_fingerprint() != model.fingerprint:
            return ["model: model.json is not the one that was stored"], model
    except StoreError as error:
        return [f"model: {error}"], model
    return [], model


def row_problems(
    connection: sqlite3.Connection, bits: int | None, dim: int, kept: Kept = "float16"
) -> list[str]:
    """Everything that is wrong in the tables of an index of codes of `bits` bits, None while it has
    none, and of features of `dim` numbers, kept as `kept`: one line each, empty when they are
    whole."""
    try:
        return list(_faulty_rows(connection, bits, dim, kept))
    except sqlite3.Error as error:
        return [f"SQLite cannot read the file: {error}"]


def _faulty_rows(
    connection: sqlite3.Connection, bits: int | None, dim: int, kept: Kept
) -> Iterator[str]:
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield f"SQLite: {line}"
    for name, value, crc in connection.execute("SELECT name, value, crc FROM meta"):
        if meta_crc(name, value) != crc:
            yield f"meta {name}: wrong checksum"
    ids = []
    for row in connection.execute(f"SELECT id, {ITEM_FIELDS}, crc FROM items ORDER BY id"):
        ids.append(row[0])
        if item_crc(row[1:-1]) != row[-1]:
            yield f"item {row[0]} ({row[1]}): wrong checksum"
    yield from _faulty_embeddings(connection, FIRST, ids, bits, dim, kept)
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'removed'").fetchone():
        for path, size, mtime, content, crc in connection.execute(
            "SELECT path, size, mtime, content, crc FROM removed"
        ):
            if removed_crc(path, Removed(size, mtime, content)) != crc:
                yield f"removal of {path}: wrong checksum"


def _faulty_embeddings(
    connection: sqlite3.Connection,
    tables: Tables,
    ids: Sequence[int],
    bits: int | None,
    dim: int,
    kept: Kept,
) -> Iterator[str]:
    """What is wrong with the features and codes of one encoder, in an index of the items `ids`. All
    of them have the first one's; those that wait for the second have neither of its."""
    with_feature = []
    for id_, data, crc in connection.execute(
        f"SELECT id, data, crc FROM {tables.features} ORDER BY id"
    ):
        with_feature.append(id_)
        if not isinstance(data, bytes):
            yield f"feature of item {id_}: {type(data).__name__} in place of bytes"
        elif zlib.crc32(data) != crc:
            yield f"feature of item {id_}: wrong checksum"
        elif len(data) != width(dim, kept) or not are_finite([data], kept):
            yield f"feature of item {id_}: not {dim} finite numbers"
    with_code: list[int] = []
    for chunk, data, alive_bytes, crc in connection.execute(
        f"SELECT chunk, data, alive, crc FROM {tables.codes} ORDER BY chunk"
    ):
        if not isinstance(data, bytes) or not isinstance(alive_bytes, bytes):
            yield f"codes {chunk * CHUNK} to {(chunk + 1) * CHUNK - 1}: no bytes"
            continue
        if zlib.crc32(alive_bytes, zlib.crc32(data)) != crc:
            yield f"codes {chunk * CHUNK} to {(chunk + 1) * CHUNK - 1}: wrong checksum"
            continue
        if len(alive_bytes) != CHUNK // 8:
            yield f"codes {chunk * CHUNK} to {(chunk + 1) * CHUNK - 1}: not {CHUNK} places"
            continue
        with_code += (np.flatnonzero(alive_from_disk(alive_bytes)) + chunk * CHUNK).tolist()
        if bits and len(data) % disk_bytes(bits):
            yield (
                f"codes {chunk * CHUNK} to {(chunk + 1) * CHUNK - 1}: not whole codes of {bits} "
                "bits"
            )
    wanted = list(ids)
    if tables is SECOND:
        wanted = sorted(set(ids) & {*with_feature, *with_code})
    if wanted != with_feature:
        yield (
            f"{len(set(wanted) ^ set(with_feature))} items without a feature, or features without "
            "an item"
        )
    if wanted != with_code:
        yield f"{len(set(wanted) ^ set(with_code))} items without a code, or codes without an item"
