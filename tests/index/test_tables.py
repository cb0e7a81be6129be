from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingbar.errors import StoreError
from wingbar.hamming import codes
from wingbar.index import tables
from wingbar.index.engine import Item, Removed


def made(format_: int) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    for statement in tables.schema(format_):
        db.execute(statement)
    return db


def test_there_is_a_step_from_every_format() -> None:
    assert sorted(tables.STEPS_UP) == list(range(1, tables.FORMAT))


@pytest.mark.parametrize("format_", range(1, tables.FORMAT + 1))
def test_the_tables_of_each_format_are_known_and_no_others(format_: int) -> None:
    path = Path("a.wb")
    with closing(made(format_)) as db:
        tables.check_schema(db, path, format_)
        db.execute("CREATE VIEW seen AS SELECT 1")
        with pytest.raises(StoreError, match="holds a view 'seen' that wingbar did not make"):
            tables.check_schema(db, path, format_)
        db.execute("DROP VIEW seen")
        db.execute("DROP TABLE features")
        with pytest.raises(StoreError, match="its table features is not that of an index"):
            tables.check_schema(db, path, format_)


text = st.text(st.characters(codec="utf-8"), max_size=20)


@given(text, st.none() | text, st.dictionaries(text, text, max_size=3), st.integers(-1, 2**40))
def test_an_item_comes_back_from_its_row_and_any_change_is_noticed(
    path: str, label: str | None, columns: dict[str, str], size: int
) -> None:
    item = Item(path, label, columns, size, 7, b"c" * 32)
    *fields, crc = tables.row_of_item(item)
    assert tables.item_of_row(tuple(fields)) == item
    assert tables.item_crc(fields) == crc
    for i, other in enumerate(("x" + path, f"x{label}", "{}x", size + 1, 8, b"d" * 32)):
        assert tables.item_crc([*fields[:i], other, *fields[i + 1 :]]) != crc


@pytest.mark.parametrize("columns", ["", "[", "[]", '{"a": 1}', "[" * 100_000])
def test_columns_that_are_no_text_are_no_item(columns: str) -> None:
    assert tables.item_of_row(("a", None, columns, 1, 2, b"")) is None


def test_rows_of_other_kinds_are_no_item() -> None:
    assert tables.item_of_row(("a", None, "{}", "1", 2, b"")) is None
    assert tables.item_of_row(("a", None, "{}", 1, 2)) is None


def test_checksums_cover_every_value() -> None:
    one = Removed(1, 2, b"c")
    others = (("b", one), ("a", Removed(3, 2, b"c")), ("a", Removed(1, 3, b"c")))
    found = {tables.removed_crc("a", one), *(tables.removed_crc(*other) for other in others)}
    assert len(found) == 4
    assert len({tables.meta_crc(*pair) for pair in (("a", "b"), ("a", "c"), ("c", "b"))}) == 3


@pytest.mark.parametrize("bits", [1, 32, 33, 64, 65, 200])
def test_columns_of_codes_come_back(bits: int) -> None:
    packed = codes.pack(np.random.default_rng(bits).random((5, bits)) < 0.5)
    data = tables.codes_to_disk(packed, bits)
    assert len(data) == 5 * tables.disk_bytes(bits)
    np.testing.assert_array_equal(tables.codes_from_disk(data, bits), packed)


def test_places_that_are_taken() -> None:
    taken = tables.alive_from_disk(bytes([0b101]))
    assert taken.tolist() == [True, False, True, *[False] * 5]
