from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wingbar import files
from wingbar.errors import WingbarError
from wingbar.files import (
    LEFTOVER_SECONDS,
    SILENT_SECONDS,
    partial_path,
    remove_leftovers,
    require_folder,
    require_own,
    write_whole,
)


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    return ended.pid


@pytest.mark.parametrize("age", [LEFTOVER_SECONDS + 60, -86_400.0])
def test_what_a_killed_process_left_is_removed_whatever_the_clock_says(
    tmp_path: Path, gone: int, age: float
) -> None:
    """A file from tomorrow was left before the clock was set back."""
    path, now = tmp_path / "a.npz", time.time()
    left = tmp_path / f".a.npz.{gone}.partial"
    mine = partial_path(path)
    for one in (left, mine):
        one.write_bytes(b"half")
        os.utime(one, (now - age, now - age))
    remove_leftovers(path)
    assert not left.exists()
    assert mine.exists()  # its process runs


def test_a_young_file_is_left_alone(tmp_path: Path, gone: int) -> None:
    left = tmp_path / f".a.{gone}.partial"
    left.write_bytes(b"half")
    remove_leftovers(tmp_path / "a")
    assert left.exists()


def test_the_logs_of_an_index_that_a_killed_process_made_are_removed_too(
    tmp_path: Path, gone: int
) -> None:
    """Also where their file is gone already; while one of them is young, all are left."""
    now = time.time()
    for name, age in (("a", 60), ("b", 0)):
        for log in ("-wal", "-shm", "-journal"):
            left = tmp_path / f".{name}.wb.{gone}.partial{log}"
            left.touch()
            os.utime(left, (now - 60, now - 60) if log != "-wal" else (now - age, now - age))
        remove_leftovers(tmp_path / f"{name}.wb")
        assert len(list(tmp_path.iterdir())) == (0 if name == "a" else 3)
    other = tmp_path / f".b.wb.{gone}.partial.txt"
    other.touch()
    remove_leftovers(tmp_path / "b.wb")
    assert other.exists()


def test_what_a_process_left_that_was_killed_on_this_machine_is_removed_at_once(
    tmp_path: Path, gone: int
) -> None:
    mine = partial_path(tmp_path / "a")
    left = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{gone}."))
    for one in (mine, left):
        one.touch()
    remove_leftovers(tmp_path / "a")
    assert list(tmp_path.iterdir()) == [mine]
    assert partial_path(mine) == mine


def test_a_process_of_another_container_is_gone_when_it_was_silent_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is often that of a process here: in a container both are 1."""
    left = partial_path(tmp_path / "a")
    monkeypatch.setattr(files, "_process_space", lambda: "another")
    for age, stays in ((SILENT_SECONDS - 60, True), (SILENT_SECONDS + 60, False)):
        left.touch()
        os.utime(left, (time.time() - age,) * 2)
        remove_leftovers(tmp_path / "a")
        assert left.exists() == stays
    monkeypatch.setattr(files, "_process_space", lambda: "")  # nothing tells where it ran
    assert partial_path(tmp_path / "a").name == f".a.{os.getpid()}.partial"


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old \udce9")  # of a file name that is not UTF-8

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as full_disk:
            write_whole(path, "new")
    assert full_disk.value.filename == str(path)
    assert path.read_text() == "old \\xe9"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_slip_of_the_keyboard_replaces_nothing(tmp_path: Path) -> None:
    begins = b"<!doctype html"
    page = tmp_path / "a.html"
    require_own(page, begins)  # nothing is there
    for content in (b"", b"<!DOCTYPE HTML><p>"):
        page.write_bytes(content)
        require_own(page, begins)
    page.write_bytes(b"0123<!doctype html")
    require_own(page, begins, at=4)
    (tmp_path / "link").symlink_to(page)
    database = b"SQLite format 3\0" + bytes(52)
    (tmp_path / "index.wb").write_bytes(database + b"wbar")
    (tmp_path / "other.db").write_bytes(database + b"text")
    (tmp_path / "a.npz").write_bytes(b"PK\3\4")
    os.mkfifo(tmp_path / "pipe")
    for name, told in (
        ("index.wb", "is there and is a wingbar index, which is not what"),
        ("other.db", "is there and is a database of another program, which"),
        ("a.npz", "is there and is a .npz or .zip file, which"),
        ("pipe", "is a device or pipe and no file"),
        (".", "is a folder: name a file in it"),
        ("link", "is a link"),
        ("none/a.html", "there is no folder"),
    ):
        with pytest.raises(WingbarError, match=told):
            require_own(tmp_path / name, begins)


def test_a_folder_to_write_to_is_one_or_can_be_made(tmp_path: Path) -> None:
    require_folder(tmp_path)
    require_folder(tmp_path / "new" / "deeper")
    page = tmp_path / "a.html"
    page.write_text("<!doctype html>")
    for folder in (page, page / "below"):
        with pytest.raises(WingbarError, match=f"^{page} is a page, not a folder: name a folder"):
            require_folder(folder)


def test_a_folder_that_may_not_be_written_to_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(WingbarError, match="you may not write into the folder"):
        require_own(tmp_path / "a.html", b"")
