"""How values and filters look in PostgreSQL: fields in its binary form, codes as bit(n), filters as
SQL."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.codes import Packed, pack, unpack
from wingbar.images import is_utf8
from wingbar.index.engine import Item
from wingbar.index.filters import Condition, as_number, glob_regex


def key_of(path: str) -> bytes:
    """What an item is found by: 16 bytes of the sha256 of its path."""
    return hashlib.sha256(path.encode()).digest()[:16]


def can_be_stored(text: str) -> bool:
    """Whether PostgreSQL can hold a text."""
    return "\0" not in text and is_utf8(text)


def int8(value: int) -> bytes:
    """A bigint in binary form."""
    return struct.pack(">q", value)


def item_fields(id_: int, key: bytes, item: Item) -> list[bytes | None]:
    """An item as a row of the table, in PostgreSQL's binary form."""
    numbers = {
        name: repr(number)
        for name, value in item.columns.items()
        if (number := as_number(value)) is not None and number == number
    }
    return [
        key,
        int8(id_),
        item.path.encode(),
        None if item.label is None else item.label.encode(),
        _jsonb(item.columns),
        _jsonb(numbers),
        int8(item.size),
        int8(item.mtime),
        item.content,
        int8(record_crc(item)),
    ]


def _jsonb(record: Mapping[str, str]) -> bytes:
    return b"\x01" + json.dumps(dict(record), ensure_ascii=False, sort_keys=True).encode()


def item_of(row: Sequence[Any]) -> Item:
    """An item of its columns path, label, columns, size, mtime, content."""
    path, label, columns, size, mtime, content = row
    if isinstance(columns, str):
        columns = json.loads(columns)
    return Item(path, label, columns, size, mtime, bytes(content))


def record_crc(item: Item) -> int:
    """The checksum of an item without code and feature."""
    columns = json.dumps(dict(item.columns), ensure_ascii=False, sort_keys=True)
    record = (item.path, item.label, columns, item.size, item.mtime, item.content)
    return zlib.crc32(repr(record).encode("utf-8", "surrogatepass"))


def embedding_crc(code: NDArray[np.uint8], half: NDArray[np.float16]) -> int:
    """The checksum of the bytes of a code and a feature."""
    return zlib.crc32(half.astype("<f2").tobytes(), zlib.crc32(code.tobytes()))


def bit_text(packed: Packed, bits: int) -> str:
    """The first of the codes [N, w] as a text of 0 and 1."""
    return (unpack(packed, bits)[0].astype(np.uint8) + ord("0")).tobytes().decode()


def packed_of(texts: Sequence[str], bits: int) -> Packed:
    """Texts of 0 and 1 as packed codes [N, w]."""
    digits = np.frombuffer("".join(texts).encode(), np.uint8) == ord("1")
    return pack(digits.reshape(len(texts), bits))


# -- filters


def where_sql(conditions: Sequence[Condition], values: dict[str, object]) -> str:
    """SQL over `items i` for a filter: = on one field are alternatives, all else must hold. What it
    compares with is added to `values`."""
    alternatives: dict[str, list[str]] = {}
    clauses = []
    for condition in conditions:
        if condition.operator == "=":
            test = _clause_sql(condition, values)
            alternatives.setdefault(condition.field, []).append(test)
        else:
            clauses.append(_clause_sql(condition, values))
    clauses += [f"({' OR '.join(tests)})" for tests in alternatives.values()]
    return " AND ".join(clauses)


def _clause_sql(condition: Condition, values: dict[str, object]) -> str:
    def named(value: object) -> str:
        name = f"v{len(values)}"
        values[name] = value
        return f"%({name})s"

    if condition.field == "path":
        pattern = glob_regex(condition.value)
        test = "false"
        if pattern is not None:
            test = f"""(i.path COLLATE "C" ~ {named(f"^(.*/)?(?:{pattern})$")})"""
        return test if condition.operator == "=" else f"NOT {test}"
    column = (
        "i.label" if condition.field == "label" else f"(i.columns ->> {named(condition.field)})"
    )
    number = None if condition.field == "label" else as_number(condition.value)
    compared = ""
    if number is not None:
        field = named(condition.field)
        compared = f"((i.numbers ->> {field})::float8 {{}} {named(repr(number))}::float8)"
    if condition.operator in ("=", "!="):
        test = f"({column} IS NOT DISTINCT FROM {named(condition.value)}::text)"
        if number is not None:
            test = f"({test} OR coalesce({compared.format('=')}, false))"
        return test if condition.operator == "=" else f"NOT {test}"
    return compared.format(condition.operator)
