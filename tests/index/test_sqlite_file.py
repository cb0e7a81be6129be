from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from wingbar.index import sqlite_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.wb"
    with closing(sqlite_file.connect(found, "rwc")) as db:
        db.execute("CREATE TABLE meta (name TEXT, value TEXT)")
        db.execute("INSERT INTO meta VALUES ('id', '1'), ('created', '2'), ('other', '3')")
    return found


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "cannot be written: No space left"),
        (sqlite3.OperationalError("disk I/O error"), "free some space"),
        (sqlite3.OperationalError("database is locked"), "written by another process"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only: copy it"),
        (sqlite3.DatabaseError("file is not a database"), "is not a wingbar index"),
        (sqlite3.OperationalError("unable to open database file"), "is its folder there"),
        (sqlite3.DatabaseError("malformed"), "damaged (malformed): wingbar verify --repair"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), "damaged (a text is not UTF-8)"),
    ],
)
def test_what_happened_and_what_to_do(error: Exception, told: str) -> None:
    text = str(sqlite_file.explained(error, Path("a.wb")))
    assert text.startswith("a.wb ")
    assert told in text
    assert "\n" not in text


@pytest.mark.parametrize("has_links", [True, False])
def test_nothing_is_replaced(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def link(*_: object) -> None:
        raise PermissionError

    if not has_links:  # as on some file systems
        monkeypatch.setattr(os, "link", link)
    new = tmp_path / "new"
    new.write_bytes(b"new")
    with pytest.raises(FileExistsError):
        sqlite_file.put_in_place(new, path)
    assert path.read_bytes() != b"new"
    sqlite_file.put_in_place(new, tmp_path / "b.wb")
    assert (tmp_path / "b.wb").read_bytes() == b"new"


def test_a_state_tells_a_file_from_its_replacement(path: Path, tmp_path: Path) -> None:
    before = sqlite_file.state_of(path)
    assert sqlite_file.state_of(path) == before
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    assert sqlite_file.state_of(path) != before
    path.unlink()
    assert sqlite_file.state_of(path) is None


def test_an_identity_is_two_rows_or_nothing(path: Path) -> None:
    with closing(sqlite_file.connect(path, "ro")) as db:
        assert sqlite_file.identity_of(db) == [("created", "2"), ("id", "1")]
        assert not sqlite_file.is_immutable(db)
    with closing(sqlite3.connect(":memory:")) as db:
        assert sqlite_file.identity_of(db) == []


def test_a_strangers_file_calls_no_functions_and_opens_no_others(path: Path) -> None:
    with closing(sqlite_file.connect(path, "rw")) as db:
        assert db.execute("PRAGMA trusted_schema").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="too many attached"):
            db.execute("ATTACH ':memory:' AS other")


def test_an_index_is_removed_with_its_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").write_bytes(b"12")
    assert sqlite_file.log_size(path) == 2
    sqlite_file.remove_index(path)
    sqlite_file.remove_index(path)  # what is not there is no error
    assert list(path.parent.iterdir()) == []
    assert sqlite_file.log_size(path) == 0


def test_the_log_of_a_file_that_is_there_is_left(path: Path) -> None:
    log = Path(f"{path}-wal")
    log.write_bytes(b"12")
    sqlite_file.empty_stale_log(path)
    assert log.read_bytes() == b"12"
    path.unlink()
    sqlite_file.empty_stale_log(path)
    assert log.read_bytes() == b""
