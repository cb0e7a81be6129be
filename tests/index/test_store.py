from __future__ import annotations

import os
import re
import sqlite3
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingbar.errors import QueryError, StoreError
from wingbar.hamming import codes
from wingbar.index import checks, open_file, sqlite_file, store, tables
from wingbar.index.filters import Condition
from wingbar.index.store import Item, Store

BITS, DIM = 40, 6
MODEL = {"model.json": b"{}", "model.onnx": b"network"}


def item(name: str, label: str | None = None, **columns: str) -> Item:
    return Item(f"/photos/{name}", label, columns, 10, 20, name.encode().ljust(32, b"."))


def embeddings(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return codes.pack(rng.random((n, BITS)) < 0.5), rng.standard_normal((n, DIM)).astype(np.float32)


def add(opened: Store, items: list[Item], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    packed, features = embeddings(len(items), seed)
    with opened.writing():
        opened.add(items, packed, features, BITS)
    return packed, features


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    opened = Store.create(tmp_path / "a.wb", MODEL)
    yield opened
    opened.close()


def test_what_was_stored_comes_back(empty: Store) -> None:
    items = [item("a.jpg", "cat", price="3"), item("b.jpg"), item("ü%20.jpg", "dog")]
    packed, features = add(empty, items)
    ids, stored = empty.codes(BITS)
    assert ids.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(stored, packed)
    np.testing.assert_array_equal(empty.features([3, 1], DIM), features[[2, 0]].astype(np.float16))
    np.testing.assert_array_equal(empty.all_features(DIM), features.astype(np.float16))
    assert empty.items([2, 3]) == items[1:]
    assert list(empty.all_items()) == list(zip([1, 2, 3], items, strict=True))
    assert empty.model_files() == MODEL
    assert empty.label_counts() == {"cat": 1, "dog": 1}
    assert checks.row_problems(empty.connection, BITS, DIM) == []


@pytest.mark.parametrize("bits", [1, 12, 32, 33, 64, 65, 200])
def test_codes_of_every_length_and_across_columns(
    tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK", 64)
    monkeypatch.setattr(checks, "CHUNK", 64)
    rng = np.random.default_rng(bits)
    opened = Store.create(tmp_path / "a.wb", MODEL)
    packed = codes.pack(rng.random((150, bits)) < 0.5)
    features = np.zeros((150, DIM), np.float32)
    for part in np.split(np.arange(150), [10, 70, 71]):
        with opened.writing():
            opened.add([item(str(i)) for i in part], packed[part], features[part], bits)
    with opened.writing():
        assert opened.delete([1, 64, 65, 150, 999]) == 4
    ids, stored = opened.codes(bits)
    kept = np.setdiff1d(np.arange(1, 151), [1, 64, 65, 150])
    assert ids.tolist() == kept.tolist()
    np.testing.assert_array_equal(stored, packed[kept - 1])
    assert checks.row_problems(opened.connection, bits, DIM) == []
    opened.close()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=25))
def test_any_order_of_adding_and_deleting(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]]
) -> None:
    opened = Store.create(tmp_path_factory.mktemp("s") / "a.wb", MODEL)
    model: dict[str, int] = {}
    for seed, (adding, number) in enumerate(steps):
        path = f"/photos/{number}"
        if adding:
            packed, _ = add(opened, [item(str(number))], seed)
            model[path] = int(packed[0, 0])
        else:
            with opened.writing():
                opened.delete(opened.ids_of_paths([path]).values())
            model.pop(path, None)
    ids, packed = opened.codes(BITS)
    found = {
        it.path: int(code[0]) for (_, it), code in zip(opened.all_items(), packed, strict=True)
    }
    assert found == model
    assert ids.tolist() == [id_ for id_, _ in opened.all_items()]
    assert checks.row_problems(opened.connection, BITS, DIM) == []
    opened.close()


def test_a_failed_transaction_leaves_nothing(empty: Store) -> None:
    add(empty, [item("a")])
    packed, features = embeddings(1)

    def broken() -> None:
        with empty.writing():
            empty.add([item("b")], packed, features, BITS)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        broken()
    assert empty.count() == 1
    assert len(empty.codes(BITS)[0]) == 1


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([("label", "=", "cat")], "ac"),
        ([("label", "=", "cat"), ("label", "=", "dog")], "abc"),
        ([("label", "!=", "cat")], "bd"),
        ([("path", "=", "*/a")], "a"),
        ([("path", "=", "sub/*")], "d"),
        ([("path", "!=", "sub/*")], "abc"),
        ([("price", "<", "10")], "a"),
        ([("price", ">=", "10")], "bc"),
        ([("price", "=", "10")], "b"),
        ([("price", "<", "50"), ("label", "=", "cat")], "ac"),
        ([("price", "<=", "99999")], "abc"),
        ([("colour", "=", "re'd\"")], "c"),
        ([("label", "=", "nobody")], ""),
    ],
)
def test_filters(empty: Store, filters: list[tuple[str, str, str]], expected: str) -> None:
    add(
        empty,
        [
            item("a", "cat", price="9.5"),
            item("b", "dog", price="10"),
            item("c", "cat", price="11", colour="re'd\""),
            item("sub/d", price="1,200 or n/a"),
        ],
    )
    ids = empty.matching([Condition(*parts) for parts in filters])
    assert "".join(it.path[-1] for it in empty.items(ids.tolist())) == expected


def test_a_filter_on_an_unknown_column_says_what_there_is(empty: Store) -> None:
    add(empty, [item("a", price="1", colour="red")])
    for name in ("prise", 'pr"ice'):
        with pytest.raises(QueryError, match="filter on label, path, colour, price"):
            empty.matching([Condition(name, "=", "1")])


def test_another_connection_is_noticed(empty: Store) -> None:
    before = empty.version()
    other = Store.open(empty.path)
    add(other, [item("a")])
    other.close()
    assert empty.version() != before
    assert empty.count() == 1


def test_a_snapshot_does_not_move(empty: Store) -> None:
    add(empty, [item("a")])
    other = Store.open(empty.path)
    with empty.reading():
        add(other, [item("b")])
        assert empty.count() == 1
    assert empty.count() == 2
    other.close()


def test_a_second_writer_waits_and_then_gives_up_with_one_line(
    empty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_MS", 50)
    other = Store.open(empty.path)
    with (
        empty.writing(),
        pytest.raises(StoreError, match="being written by another process"),
        other.writing(),
    ):
        pass
    other.close()


def test_closed_it_is_one_file(tmp_path: Path) -> None:
    opened = Store.create(tmp_path / "a.wb", MODEL)
    add(opened, [item("a")])
    opened.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.wb"]


def test_create_replaces_nothing(empty: Store) -> None:
    with pytest.raises(StoreError, match="exists already"):
        Store.create(empty.path, MODEL)


def test_the_log_of_a_deleted_index_is_not_replayed_into_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    opened = Store.create(path, MODEL)
    other = Store.open(path)
    with other.reading():  # which keeps the log from being emptied
        add(opened, [item("old")])
        log = Path(f"{path}-wal").read_bytes()
    assert log
    other.close()
    opened.close()
    path.unlink()
    Path(f"{path}-wal").write_bytes(log)  # as a killed process leaves it
    fresh = Store.create(path, MODEL)
    assert fresh.count() == 0
    assert checks.row_problems(fresh.connection, BITS, DIM) == []
    fresh.close()


def test_closing_does_not_wait_for_readers(empty: Store) -> None:
    add(empty, [item("a")])
    with empty.reading():
        other = Store.open(empty.path)
        add(other, [item("b")])
        start = time.monotonic()
        other.close()
        assert time.monotonic() - start < 5


def test_opening_changes_nothing_in_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    (tmp_path / "empty.db").touch()
    for name in ("other.db", "empty.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(StoreError, match="not a wingbar index"):
            Store.open(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no index at"):
        Store.open(tmp_path / "nowhere.wb")
    (tmp_path / "text.wb").write_text("these are words, not an index, and many of them " * 100)
    with pytest.raises(StoreError, match="not a wingbar index"):
        Store.open(tmp_path / "text.wb")
    other = sqlite3.connect(tmp_path / "other.wb")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(StoreError, match="not a wingbar index"):
        Store.open(tmp_path / "other.wb")
    with pytest.raises(StoreError, match="cannot be"):
        Store.create(tmp_path / "no" / "folder.wb", MODEL)


def test_a_later_format_is_refused(empty: Store) -> None:
    other = sqlite3.connect(empty.path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StoreError, match="upgrade wingbar"):
        Store.open(empty.path)


def test_read_only_media_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.create(tmp_path / "a.wb", MODEL)
    add(opened, [item("a")])
    opened.close()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    fixed = Store.open(tmp_path / "a.wb")
    assert fixed.count() == 1
    with pytest.raises(StoreError, match="read-only"):
        add(fixed, [item("b")])
    fixed.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE items SET label = 'dog' WHERE id = 1", "item 1 .*wrong checksum"),
        (
            "UPDATE features SET data = zeroblob(12) WHERE id = 2",
            "feature of item 2: wrong checksum",
        ),
        ("UPDATE codes SET data = zeroblob(length(data))", "codes 0 to 65535: wrong checksum"),
        ("UPDATE meta SET value = 'x' WHERE name = 'created'", "meta created: wrong checksum"),
        ("DELETE FROM features WHERE id = 1", "1 items without a feature"),
        ("DELETE FROM items WHERE id = 1", "without"),
        ("DELETE FROM codes", "2 items without a code"),
    ],
)
def test_problems_are_named(empty: Store, damage: str, reason: str) -> None:
    add(empty, [item("a", "cat"), item("b")])
    assert checks.row_problems(empty.connection, BITS, DIM) == []
    other = sqlite3.connect(empty.path)
    other.execute(damage)
    other.commit()
    other.close()
    found = checks.row_problems(empty.connection, BITS, DIM)
    assert found

    assert any(re.search(reason, line) for line in found), found


def replacement(folder: Path) -> Path:
    """Another index, with one item."""
    other = Store.create(folder / "other.wb", MODEL)
    add(other, [item("other")], seed=9)
    other.close()
    return other.path


@pytest.mark.parametrize("how", ["mv", "cp"])
def test_an_index_in_the_place_of_an_open_one_is_followed_and_stays_whole(
    tmp_path: Path, how: str
) -> None:
    path = tmp_path / "a.wb"
    opened = Store.create(path, MODEL)
    add(opened, [item("a"), item("b")])
    other = replacement(tmp_path)
    expected = other.read_bytes()
    if how == "mv":
        other.replace(path)
    else:
        path.write_bytes(expected)
    assert opened.paths() == ["/photos/other"]
    assert path.read_bytes() == expected
    add(opened, [item("c")])
    opened.close()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("a.wb")] == ["a.wb"]
    fresh = Store.open(path)
    assert fresh.paths() == ["/photos/other", "/photos/c"]
    assert checks.row_problems(fresh.connection, BITS, DIM) == []
    fresh.close()


@pytest.mark.parametrize("how", ["mv", "cp"])
def test_a_change_under_way_writes_nothing_into_a_file_that_was_replaced(
    tmp_path: Path, how: str
) -> None:
    path = tmp_path / "a.wb"
    opened = Store.create(path, MODEL)
    add(opened, [item("a")])
    other = replacement(tmp_path)
    expected = other.read_bytes()
    with opened.held():
        add(opened, [item("b")])
        if how == "mv":
            other.replace(path)
        else:
            path.write_bytes(expected)
        with pytest.raises(StoreError, match="replaced by another file"):
            add(opened, [item("c")])
    opened.close()
    assert path.read_bytes() == expected


def test_a_file_that_is_gone_takes_no_more(empty: Store) -> None:
    empty.path.unlink()
    with pytest.raises(StoreError, match="is gone: nothing was written"):
        add(empty, [item("a")])


def test_an_index_that_was_moved_away_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    opened = Store.create(path, MODEL)
    add(opened, [item("a")])
    path.rename(tmp_path / "old.wb")
    fresh = Store.create(path, MODEL)
    assert fresh.count() == 0
    assert opened.count() == 0  # it follows
    opened.close()
    fresh.close()
    old = Store.open(tmp_path / "old.wb")
    assert old.paths() == ["/photos/a"]
    old.close()


def test_an_idle_open_index_can_be_copied(empty: Store, tmp_path: Path) -> None:
    add(empty, [item("a")])
    copy = tmp_path / "copy.wb"
    copy.write_bytes(empty.path.read_bytes())
    with empty.reading():
        other = Store.open(empty.path)
        add(other, [item("b")])
    for path, count in ((copy, 1), (tmp_path / "later.wb", 2)):
        if not path.exists():  # the reader has emptied the log that the writer could not
            path.write_bytes(empty.path.read_bytes())
        opened = Store.open(path)
        assert opened.count() == count
        opened.close()
    other.close()


def test_who_may_only_read_sees_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.create(tmp_path / "a.wb", MODEL)
    add(opened, [item("a")])
    opened.close()
    with monkeypatch.context() as patched:
        patched.setattr(open_file, "is_writable", lambda path: False)
        reader = Store.open(tmp_path / "a.wb")
        assert reader.count() == 1
    opened = Store.open(tmp_path / "a.wb")
    add(opened, [item("b")])
    opened.close()
    monkeypatch.setattr(open_file, "is_writable", lambda path: False)
    assert reader.paths() == ["/photos/a", "/photos/b"]
    reader.close()


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("UPDATE items SET label = 'dog' WHERE id = 1", "items"),
        ("UPDATE items SET label = 'dog' WHERE id = 1", "labels"),
        ("UPDATE items SET label = 'dog' WHERE id = 1", "matching"),
        ("UPDATE features SET data = zeroblob(12) WHERE id = 1", "features"),
        ("UPDATE features SET data = zeroblob(12) WHERE id = 1", "all_features"),
        ("UPDATE features SET data = 'text' WHERE id = 1", "features"),
        ("UPDATE codes SET data = zeroblob(length(data))", "codes"),
        ("UPDATE codes SET alive = 'x'", "codes"),
        ("UPDATE meta SET value = 'x'", "model_fingerprint"),
        (f"UPDATE features SET data = x'{'007e' * 6}', crc = NAN WHERE id = 1", "features"),
    ],
)
def test_damaged_rows_are_noticed_when_they_are_read(empty: Store, damage: str, read: str) -> None:
    add(empty, [item("a", "cat"), item("b")])
    nan = zlib.crc32(bytes.fromhex("007e" * 6))
    with sqlite3.connect(empty.path) as other:
        other.execute(damage.replace("NAN", str(nan)))
    other.close()
    reads = {
        "items": lambda: empty.items([1]),
        "labels": empty.labels,
        "matching": lambda: empty.matching([Condition("label", "=", "cat")]),
        "features": lambda: empty.features([1], DIM),
        "all_features": lambda: empty.all_features(DIM),
        "codes": lambda: empty.codes(BITS),
        "model_fingerprint": empty.model_fingerprint,
    }
    with pytest.raises(StoreError, match="is damaged"):
        reads[read]()
    assert checks.row_problems(empty.connection, BITS, DIM)


@pytest.mark.parametrize(
    "hostile",
    [
        "CREATE TRIGGER t AFTER INSERT ON items BEGIN DELETE FROM items; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE more (x)",
        "DROP TABLE features; CREATE VIEW features AS WITH RECURSIVE n(id) AS "
        "(SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id, x'00' AS data, 1 AS crc FROM n",
        "DROP TABLE features",
        "DROP INDEX items_by_label; CREATE INDEX items_by_label ON items (label) WHERE label > 'b'",
    ],
)
def test_what_wingbar_did_not_make_is_refused(empty: Store, hostile: str) -> None:
    with sqlite3.connect(empty.path) as other:
        other.executescript(hostile)
    other.close()
    with pytest.raises(StoreError, match=r"that wingbar did not make|is damaged"):
        Store.open(empty.path)


def test_leftovers_of_killed_creates_are_removed(tmp_path: Path) -> None:
    left, mine, young = (
        tmp_path / f".a.wb.{number}.partial" for number in (99999999, os.getpid(), 99999998)
    )
    for path in (left, mine, young):
        path.touch()
        os.utime(path, (0, 0) if path != young else None)
    Store.create(tmp_path / "a.wb", MODEL).close()
    assert not left.exists()
    assert young.exists()


def test_threads_share_a_store(empty: Store) -> None:
    add(empty, [item(str(i)) for i in range(20)])

    def work(i: int) -> int:
        if i % 10 == 0:
            add(empty, [item(f"more{i}")], i)
        with empty.reading():
            return int(len(empty.codes(BITS)[0]) == empty.count() == len(empty.paths()))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(100))) == 100
    assert checks.row_problems(empty.connection, BITS, DIM) == []


def test_damaged_names_of_tables_are_told_in_one_line(empty: Store, tmp_path: Path) -> None:
    empty.close()
    data, told = (tmp_path / "a.wb").read_bytes(), 0
    for at in (at for at in range(100, 4096, 3) if chr(data[at]).isalpha()):
        damaged = bytearray(data)
        damaged[at] ^= 0x99
        (tmp_path / "b.wb").write_bytes(damaged)
        try:
            Store.open(tmp_path / "b.wb").close()
        except StoreError as error:
            told += "\n" not in str(error)
    assert told > 160


# -- formats


def older(path: Path, format_: int) -> Path:
    """An index as a wingbar of an older format made it."""
    db = sqlite3.connect(path)
    for statement in tables.schema(format_):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {format_}")
    db.execute(f"PRAGMA application_id = {open_file.APPLICATION}")
    value = "0" * 64
    for name in ("fingerprint", "created", "id"):
        db.execute("INSERT INTO meta VALUES (?, ?, ?)", (name, value, tables.meta_crc(name, value)))
    db.commit()
    db.close()
    return path


@pytest.mark.parametrize("format_", range(1, tables.FORMAT))
def test_an_older_format_is_read_as_it_is_and_brought_up_by_the_first_change(
    tmp_path: Path, format_: int
) -> None:
    path = older(tmp_path / "old.wb", format_)
    opened, another = Store.open(path), Store.open(path)
    assert opened.format == format_
    assert (opened.removed(), opened.count()) == ({}, 0)
    assert opened.format == format_  # reading changes nothing
    with suppress(KeyboardInterrupt), opened.writing():
        opened.remember({"/a": store.Removed(1, 2, b"x" * 32)})
        raise KeyboardInterrupt
    assert (opened.format, opened.removed()) == (format_, {})  # nor does a change that failed
    add(opened, [item("a")])
    assert opened.format == another.format == tables.FORMAT
    assert another.removed() == {}
    add(another, [item("b")])  # which was open all the while
    assert opened.count() == 2
    opened.close()
    another.close()
    with closing(Store.open(path)) as again:
        assert (again.format, again.count()) == (tables.FORMAT, 2)
        assert checks.row_problems(again.connection, BITS, DIM) == []


def test_a_format_that_never_was_is_damage(empty: Store) -> None:
    empty.close()
    other = sqlite3.connect(empty.path)
    other.execute("PRAGMA user_version = 0")
    other.close()
    with pytest.raises(StoreError, match=r"damaged \(its format is 0\)"):
        Store.open(empty.path)


def test_what_was_removed_by_hand_is_kept_in_mind(empty: Store) -> None:
    add(empty, [item("a"), item("b"), item("c"), Item("array:k", None, {}, -1, 0, b"k" * 32)])
    with empty.writing():
        assert empty.delete([1, 4, 99], by_hand=True) == 2
        assert empty.delete([2]) == 1
    a = item("a")
    assert empty.removed() == {"/photos/a": store.Removed(a.size, a.mtime, a.content)}
    assert checks.row_problems(empty.connection, BITS, DIM) == []
    with empty.writing():
        empty.update({3: item("d")})
        empty.forget(["/photos/z"])
    assert list(empty.removed()) == ["/photos/a"]
    add(empty, [item("a")])  # it is back
    assert empty.removed() == {}


def test_damage_of_what_was_removed_is_found(empty: Store) -> None:
    add(empty, [item("a")])
    with empty.writing():
        empty.delete([1], by_hand=True)
        empty.connection.execute("UPDATE removed SET size = 11")
    assert checks.row_problems(empty.connection, BITS, DIM) == [
        "removal of /photos/a: wrong checksum"
    ]
    with pytest.raises(StoreError, match="removal of /photos/a has a wrong checksum"):
        empty.removed()
