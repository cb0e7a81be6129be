"""Copies between stores, and backups of an index that is in use."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.databases import Server
from tests.index.galleries import DIM, Gallery, gallery, model_of
from wingbar.cli import main
from wingbar.errors import StoreError
from wingbar.hamming.codes import pack
from wingbar.index import copy as copy_module
from wingbar.index.checks import verify
from wingbar.index.copy import backup, copy
from wingbar.index.engine import AnyStore, Row
from wingbar.index.index import Index
from wingbar.index.place import create_store, open_store
from wingbar.index.sqlite_file import log_size
from wingbar.index.store import Store


@pytest.fixture(scope="module")
def made() -> Gallery:
    return gallery(300, 48)


@pytest.fixture
def source(made: Gallery, tmp_path: Path) -> Path:
    """An index with gaps in its ids."""
    with closing(create_store(tmp_path / "a.wb", made.model.files)) as store:
        made.add_to(store)
        with store.writing():
            store.delete([3, 4, 290])
    return tmp_path / "a.wb"


def rows(store: AnyStore) -> list[tuple[object, ...]]:
    found = store.rows(0, 1000, 48, DIM)
    return [(row.id, row.item, row.code.tolist(), row.feature.tolist()) for row in found]


def contents(place: object) -> list[tuple[object, ...]]:
    with closing(open_store(place)) as store:  # type: ignore[arg-type]  # a path or a URL
        return rows(store)


def test_there_and_back(
    source: Path, made: Gallery, tmp_path: Path, postgres_server: Server
) -> None:
    url = postgres_server.url("copied") + "?partitions=2"
    there = copy(source, url)
    back = copy(url, tmp_path / "b.wb")
    assert (there.items, there.copied, there.present, there.removed) == (297, 297, 0, 0)
    assert there.checksum == back.checksum
    assert contents(source) == contents(url) == contents(tmp_path / "b.wb")
    assert verify(tmp_path / "b.wb") == []
    [query] = made.queries(1)
    hits = []
    for place in (source, url, tmp_path / "b.wb"):
        with Index.open(place) as index:
            assert index.model.fingerprint == made.model.fingerprint
            hits.append([(h.distance, h.id, h.path) for h in index.search(query, 20)])
    assert hits[0] == hits[1] == hits[2]
    with closing(open_store(url)) as store, store.writing():  # its ids go on above the copied ones
        store.add(made.items[2:3], pack(made.bits[2:3]), made.features[2:3], 48)
        assert store.ids_of_paths([made.items[2].path])[made.items[2].path] > 300


def test_a_copy_that_is_run_again_brings_the_target_up_to_date(
    source: Path, made: Gallery, tmp_path: Path
) -> None:
    target = tmp_path / "b.wb"
    copy(source, target)
    again = copy(source, target)
    assert (again.copied, again.present, again.removed) == (0, 297, 0)
    with closing(open_store(source)) as store, store.writing():
        store.delete([1])
        store.delete([300], by_hand=True)
        store.update({5: made.items[2]})
        store.add(made.items[3:4], pack(made.bits[3:4]), made.features[3:4], 48)
    report = copy(source, target)
    assert (report.items, report.copied, report.present, report.removed) == (296, 2, 294, 2)
    assert contents(source) == contents(target)
    assert verify(target) == []
    with closing(open_store(source)) as ours, closing(open_store(target)) as theirs:
        assert list(theirs.removed()) == [made.items[299].path]
        assert theirs.removed() == ours.removed()


def half_copied(place: object) -> bool:
    with Index.open(place) as index:  # type: ignore[arg-type]  # a path or a URL
        return index.info().half_copied


def stopped_copy(source: Path, target: Path, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is stopped after `blocks` blocks of 50 items."""
    write = copy_module._write
    written: list[tuple[Any, ...]] = []

    def stopped(*arguments: Any) -> None:
        if len(written) == blocks:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(copy_module, "BLOCK", 50)
        patch.setattr(copy_module, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            copy(source, target)


def test_a_copy_that_was_stopped_continues(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped_copy(source, tmp_path / "b.wb", 3, monkeypatch)
    assert len(contents(tmp_path / "b.wb")) == 150
    assert half_copied(tmp_path / "b.wb")
    assert main.main(["verify", str(tmp_path / "b.wb")]) == 1
    assert "is intact, but it is a copy that was stopped" in capsys.readouterr().out
    assert main.main(["info", str(tmp_path / "b.wb")]) == 0
    assert "Warning: it is a copy that was stopped" in capsys.readouterr().out
    report = copy(source, tmp_path / "b.wb")
    assert (report.copied, report.present) == (147, 150)
    assert not half_copied(tmp_path / "b.wb")
    assert main.main(["verify", str(tmp_path / "b.wb")]) == 0
    assert contents(source) == contents(tmp_path / "b.wb")


@pytest.fixture
def half(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that was stopped after 150 of 297 items."""
    stopped_copy(source, tmp_path / "half.wb", 3, monkeypatch)
    return tmp_path / "half.wb"


def test_a_copy_of_a_half_copy_is_half_until_that_is_whole(
    source: Path, half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third, kept = tmp_path / "third.wb", tmp_path / "backup.wb"
    assert copy(half, third).half_copied
    assert half_copied(third)
    assert copy(half, third).half_copied, "with nothing to do"
    assert half_copied(third)
    assert main.main(["backup", str(half), str(kept)]) == 0
    assert "half.wb is a copy that was stopped itself" in capsys.readouterr().out
    assert half_copied(kept)
    assert not copy(source, kept).half_copied, "a backup goes on as the copy would have"
    assert not half_copied(kept)
    copy(source, half)
    assert not copy(half, third).half_copied
    assert not half_copied(third)


def test_a_half_copy_can_be_kept_as_it_is(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["verify", "--repair", str(half)]) == 0
    said = capsys.readouterr().out
    assert "is an index of its own now, with the 150 images that the stopped copy brought" in said
    assert main.main(["verify", str(half)]) == 0


@pytest.mark.parametrize("damage", ["item", "mark"])
def test_a_repaired_half_copy_can_be_finished(source: Path, half: Path, damage: str) -> None:
    with closing(sqlite3.connect(half)) as connection, connection:
        connection.execute(
            "UPDATE items SET label = 'zz' WHERE id = 5"
            if damage == "item"
            else "UPDATE meta SET value = '0' WHERE name = 'half_copied'"
        )
    assert main.main(["verify", "--repair", str(half)]) == 0
    assert half_copied(half)
    assert copy(source, half).items == 297
    assert not half_copied(half)
    assert contents(source) == contents(half)


def test_a_refused_copy_leaves_no_mark(made: Gallery, tmp_path: Path, source: Path) -> None:
    """An empty index of two encoders is no target for a copy of one."""
    with closing(create_store(tmp_path / "own.wb", made.model.files)) as store, store.writing():
        store.set_also(model_of(32, "other").files)
    with pytest.raises(StoreError):
        copy(source, tmp_path / "own.wb")
    assert not half_copied(tmp_path / "own.wb")


def test_a_copy_is_of_one_moment(
    source: Path, made: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source changes after every block: the copy is what the source was at the start."""
    monkeypatch.setattr(copy_module, "BLOCK", 50)
    before = contents(source)
    write = copy_module._write

    def and_change(theirs: AnyStore, fresh: list[Row], *rest: object) -> None:
        write(theirs, fresh, *rest)  # type: ignore[arg-type]
        with closing(Store.open(source)) as other, other.writing():
            other.delete([int(other.ids()[-1]), int(other.ids()[0])])

    monkeypatch.setattr(copy_module, "_write", and_change)
    report = copy(source, tmp_path / "b.wb")
    assert report.items == 297
    assert contents(tmp_path / "b.wb") == before
    assert len(contents(source)) < 297


def test_a_target_that_is_no_copy_is_left_alone(
    source: Path, made: Gallery, tmp_path: Path
) -> None:
    with closing(create_store(tmp_path / "b.wb", made.model.files)) as store:
        made.add_to(store, [7])
    with pytest.raises(StoreError, match=r"b\.wb exists already, and is no copy of .*a\.wb"):
        copy(source, tmp_path / "b.wb")
    assert len(contents(tmp_path / "b.wb")) == 1
    with pytest.raises(StoreError, match="is the index to be copied itself"):
        copy(source, source)
    with pytest.raises(StoreError, match=r"no index at .*none\.wb"):
        copy(tmp_path / "none.wb", tmp_path / "c.wb")
    copy(source, tmp_path / "c.wb")
    with closing(open_store(source)) as store, store.writing():
        store.set_model(model_of(48, "newer").files)
    with pytest.raises(StoreError, match=r"from before .*a\.wb was given the model newer"):
        copy(source, tmp_path / "c.wb")


def test_a_copy_that_is_not_the_same_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = copy_module._transfer

    def meddled(ours: AnyStore, theirs: AnyStore, *rest: object) -> object:
        done = transfer(ours, theirs, *rest)  # type: ignore[arg-type]
        with theirs.writing():
            theirs.delete([10])
        return done

    monkeypatch.setattr(copy_module, "_transfer", meddled)
    with pytest.raises(StoreError, match=r"is not the same as .* 296 items .* not 297"):
        copy(source, tmp_path / "b.wb")


def test_an_empty_index_is_copied(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb"):
        pass
    report = copy(tmp_path / "a.wb", tmp_path / "b.wb")
    assert (report.items, report.copied) == (0, 0)
    with Index.open(tmp_path / "b.wb") as index:
        assert not index.model.gives_codes


def test_a_backup_while_another_process_writes(source: Path, made: Gallery, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        with closing(Store.open(source)) as other:
            while not stop.is_set():
                with other.writing():
                    other.delete([10])
                    other.add(
                        made.items[9:10], pack(made.bits[9:10]), made.features[9:10], 48, [10]
                    )

    thread = threading.Thread(target=write)
    with closing(Store.open(source)):
        thread.start()
        try:
            for i in range(3):
                report = backup(source, tmp_path / f"{i}.wb")
                assert report.items == 297
                assert report.bytes == (tmp_path / f"{i}.wb").stat().st_size
        finally:
            stop.set()
            thread.join()
    assert contents(tmp_path / "2.wb") == contents(source)
    with pytest.raises(StoreError, match="exists already: name another file, or add --replace"):
        backup(source, tmp_path / "2.wb")
    backup(source, tmp_path / "2.wb", replace=True)
    with pytest.raises(StoreError, match="is the index itself"):
        backup(source, source, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.wb", "1.wb", "2.wb", "a.wb"]


def test_what_a_killed_backup_left_is_removed_by_the_next(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    code = (
        "import os, sys; from wingbar.index import copy; copy.PAGES = 8; "
        "copy.backup(*sys.argv[1:], progress=lambda *_: os.kill(os.getpid(), 9))"
    )
    command = [sys.executable, "-c", code, str(source), str(folder / "b.wb")]
    for _ in range(2):
        assert subprocess.run(command, timeout=60, check=False).returncode == -9
        endings = sorted(path.name.rpartition(".")[2] for path in folder.iterdir())
        assert endings == ["partial", "partial-journal"]  # of this one, none of the one before
    backup(source, folder / "b.wb")
    assert [path.name for path in folder.iterdir()] == ["b.wb"]


def test_a_backup_of_a_damaged_index_is_refused(source: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(source)
    with connection:
        connection.execute("UPDATE items SET label = 'other' WHERE id = 7")
    connection.close()
    yesterdays = source.read_bytes()
    (tmp_path / "old.wb").write_bytes(yesterdays)
    with pytest.raises(StoreError, match=r"is not whole .*item 7"):
        backup(source, tmp_path / "old.wb", replace=True)
    assert (tmp_path / "old.wb").read_bytes() == yesterdays
    with pytest.raises(StoreError, match="there is no folder"):
        backup(source, tmp_path / "no" / "such" / "folder.wb")
    with pytest.raises(StoreError, match="a backup is a file"):
        backup(source, "postgresql://nowhere/a/b")


def test_a_backup_of_an_index_on_a_server(
    source: Path, tmp_path: Path, postgres_server: Server
) -> None:
    url = postgres_server.url("saved") + "?partitions=2"
    copy(source, url)
    assert backup(url, tmp_path / "b.wb").items == 297
    assert contents(tmp_path / "b.wb") == contents(source)


def test_messages_blame_the_target_and_name_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, connect = tmp_path / "b.wb", sqlite3.connect

    def closed(*place: Any, **more: Any) -> sqlite3.Connection:
        if not place or "partial" in str(place[0]):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(*place, **more)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", closed)
        with pytest.raises(StoreError, match=f"^{target} cannot be opened"):
            backup(source, target)
    with monkeypatch.context() as patch:
        patch.setattr(copy_module, "verify", lambda partial: [f"{partial} is damaged"])
        with pytest.raises(StoreError, match=f"is not whole \\({target} is damaged"):
            backup(source, target)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "set_model", lambda store, files: closed())
        with pytest.raises(StoreError, match=f"^{target} cannot be opened"):
            copy(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wb"]


def test_a_backup_replaces_nothing_but_an_index(source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE history (url TEXT)")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    for name, told in (
        ("pipe", "is a device or pipe and no file"),
        ("other.db", "is there and is a database of another program"),
        ("a.jpg", "is there and is a picture"),
        (".", "is a folder: name a file in it"),
    ):
        with pytest.raises(StoreError, match=f"^{tmp_path / name} {told}"):
            backup(source, tmp_path / name, replace=True)
    for place, told in ((tmp_path / "pipe", "is no file"), (tmp_path, "is a folder, not an index")):
        with pytest.raises(StoreError, match=f"^{place} {told}"):
            copy(source, place)
    (tmp_path / "old.wb").write_bytes(source.read_bytes()[:5000])  # of an index, cut off
    assert backup(source, tmp_path / "old.wb", replace=True).items == 297


READ_AND_WRITE = """
import sys
from contextlib import closing
from pathlib import Path
from wingbar.index.sqlite_file import connect
with closing(connect(Path(sys.argv[1]), "ro")) as reader:
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM items").fetchone()  # which keeps the log
    with closing(connect(Path(sys.argv[1]), "rw")) as writer:
        writer.execute("DELETE FROM items WHERE id < 200")
        print(flush=True)
        sys.stdin.read()
"""


def test_no_log_of_a_replaced_index_gets_into_the_backup(source: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.wb"
    for gone in (False, True):
        backup(source, old, replace=True)
        command = [sys.executable, "-c", READ_AND_WRITE, str(old)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if gone:
                old.unlink()
            with pytest.raises(StoreError, match=r"old\.wb-wal holds what a process that has this"):
                backup(source, old, replace=True)
            process.kill()
            process.wait()
        assert log_size(old)
        assert backup(source, old, replace=True).items == 297
        assert log_size(old) == 0
        assert contents(old) == contents(source)


def test_a_copy_that_was_killed_before_it_left_its_mark(source: Path, tmp_path: Path) -> None:
    with closing(open_store(source)) as ours:
        create_store(tmp_path / "b.wb", ours.model_files()).close()
    assert copy(source, tmp_path / "b.wb").copied == 297
    create_store(tmp_path / "c.wb", model_of(12).files).close()  # another index, empty as it is
    with pytest.raises(StoreError, match="is no copy of"):
        copy(source, tmp_path / "c.wb")
