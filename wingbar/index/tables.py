"""The tables of an index file, and the form of their rows."""

from __future__ import annotations

import json
import re
import sqlite3
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import StoreError
from wingbar.hamming.codes import Packed, words
from wingbar.index.engine import Item, Removed
from wingbar.index.sqlite_file import repair_of

FORMAT = 3
ITEM_FIELDS = "path, label, columns, size, mtime, content"  # of the table `items`, under its crc

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE model (name TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used twice: it is the place in the code columns
    path TEXT NOT NULL UNIQUE,
    label TEXT,
    columns TEXT NOT NULL,                  -- JSON object of text
    size INTEGER NOT NULL,                  -- bytes, or -1 for an image that is no file
    mtime INTEGER NOT NULL,                 -- nanoseconds
    content BLOB NOT NULL,                  -- sha256
    crc INTEGER NOT NULL
);
CREATE INDEX items_by_label ON items (label);
CREATE TABLE features (
    id INTEGER PRIMARY KEY,
    data BLOB NOT NULL,                     -- as `kept.py` says
    crc INTEGER NOT NULL
);
CREATE TABLE codes (
    chunk INTEGER PRIMARY KEY,
    data BLOB NOT NULL,
    alive BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE INDEX codes_by_crc ON codes (chunk, crc)  -- tells which chunks changed without their blobs
"""
# What makes a file of format n one of format n + 1. A step is never changed once it was released.
STEPS_UP = {
    1: """
CREATE TABLE removed (
    path TEXT PRIMARY KEY,                  -- of an item that was removed by hand
    size INTEGER NOT NULL,                  -- and its file, as it was then
    mtime INTEGER NOT NULL,
    content BLOB NOT NULL,
    crc INTEGER NOT NULL
)
""",
    # features may be int8: an older wingbar must not take such a file for a damaged one
    2: "INSERT INTO meta VALUES ('features', 'float16', 863359982)",
}

ItemFields = tuple[str, str | None, str, int, int, bytes]  # the values of ITEM_FIELDS


def schema(format_: int) -> list[str]:
    """The statements that make the tables of a format."""
    return [*_SCHEMA.split(";\n"), *(STEPS_UP[step] for step in range(1, format_))]


def check_schema(connection: sqlite3.Connection, path: Path, format_: int) -> None:
    """Raise StoreError for tables, views and triggers other than those of an index of this
    format."""
    if format_ < 1:
        raise StoreError(f"{path} is damaged (its format is {format_}): {repair_of(path)}")
    found = {}
    for kind, name, table, text in connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema LIMIT 100"
    ):
        if not (kind == "table" and name in ("sqlite_stat1", "sqlite_stat4")):
            found[kind, name, table] = _plain_sql(text)
    expected = _expected_schema(format_)
    if odd := [key for key in found if key not in expected]:
        raise StoreError(
            f"{path} holds a {odd[0][0]} {odd[0][1]!r:.40} that wingbar did not make: it is no "
            "index to be trusted, make a new one"
        )
    for key, text in expected.items():
        if found.get(key, 0) != text:
            raise StoreError(
                f"{path} is damaged (its {key[0]} {key[1]} is not that of an index): wingbar index "
                "makes a new one"
            )


@cache
def _expected_schema(format_: int) -> dict[tuple[str, str, str], str | None]:
    fresh = sqlite3.connect(":memory:")
    try:
        for statement in schema(format_):
            fresh.execute(statement)
        return {
            (kind, name, table): _plain_sql(text)
            for kind, name, table, text in fresh.execute(
                "SELECT type, name, tbl_name, sql FROM sqlite_schema"
            )
        }
    finally:
        fresh.close()


def _plain_sql(text: object) -> str | None:
    """SQL without comments and white space."""
    return (
        None if text is None else re.sub(r"--[^\n]*|/\*.*?\*/|\s+", "", str(text), flags=re.DOTALL)
    )


# -- rows


def item_crc(row: Sequence[object]) -> int:
    """The checksum of a row: its values for ITEM_FIELDS, in their order."""
    return zlib.crc32(repr(tuple(row)).encode("utf-8", "surrogatepass"))


def meta_crc(name: object, value: object) -> int:
    """The checksum of a row of the table `meta`."""
    return zlib.crc32(f"{name}={value}".encode("utf-8", "surrogatepass"))


def removed_crc(path: object, one: Removed) -> int:
    """The checksum of a row of the table `removed`."""
    return zlib.crc32(
        repr((path, one.size, one.mtime, one.content)).encode("utf-8", "surrogatepass")
    )


def item_of_row(fields: tuple[object, ...]) -> Item | None:
    """The item of the ITEM_FIELDS of a row; None where they are of other kinds than those of an
    item."""
    if not are_item_fields(fields):
        return None
    path, label, text, size, mtime, content = fields
    try:
        columns = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(columns, dict) or not all(isinstance(v, str) for v in columns.values()):
        return None
    return Item(path, label, columns, size, mtime, content)


def are_item_fields(fields: tuple[object, ...]) -> TypeGuard[ItemFields]:
    """Whether the values of a row are of the kinds of an item's."""
    kinds: Sequence[type | tuple[type, ...]] = (str, (str, type(None)), str, int, int, bytes)
    return len(fields) == len(kinds) and all(
        isinstance(value, kind) for value, kind in zip(fields, kinds, strict=True)
    )


def row_of_item(item: Item) -> tuple[object, ...]:
    """An item as a row of the table: the fields of ITEM_FIELDS and their checksum."""
    columns = json.dumps(dict(item.columns), ensure_ascii=False, sort_keys=True)
    row = (item.path, item.label, columns, item.size, item.mtime, item.content)
    return (*row, item_crc(row))


def disk_bytes(bits: int) -> int:
    """Bytes of a code in the file: 4 up to 32 bits, whole 64-bit words above."""
    return 4 if bits <= 32 else 8 * words(bits)


def codes_to_disk(packed: Packed, bits: int) -> bytes:
    """A column of codes [N, w], `disk_bytes` each."""
    return packed.astype("<u4" if bits <= 32 else "<u8").tobytes()


def codes_from_disk(data: bytes, bits: int) -> Packed:
    """The codes [N, w] of a column, whole ones of `disk_bytes` each."""
    flat = np.frombuffer(data, "<u4" if bits <= 32 else "<u8").astype(np.uint64)
    return flat.reshape(-1, words(bits))


def alive_from_disk(data: bytes) -> NDArray[np.bool_]:
    """Which places of a chunk are taken: [CHUNK] bool."""
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(bool)
