"""The file of an index as SQLite's: how it is opened, told from another, put in its place and
removed."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from wingbar.errors import StoreError, WingbarError
from wingbar.files import INDEX, LOGS, kind_of
from wingbar.index.engine import Url
from wingbar.index.filters import as_number
from wingbar.model.model import PROOF, Model

BROKEN = (sqlite3.Error, UnicodeDecodeError, OverflowError)  # what a damaged file raises
MODEL_SECONDS = 5  # for reading the model of a damaged file, which may send SQLite round and round
BUSY_MS = 60_000  # how long a writer waits for another one's transaction


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file with a mode of SQLite's URIs: "ro", "rw", or "rwc" to make it. Raises
    sqlite3.Error."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    db = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False
    )
    if mode == "ro":
        try:
            db.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            # a log needs a folder that can be written; where nobody can write, none is needed
            db.close()
            db = sqlite3.connect(
                f"{uri}&immutable=1",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                factory=_Immutable,
            )
    db.execute("PRAGMA trusted_schema = OFF")  # a stranger's file must not call functions
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    db.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1)
    if mode == "rwc":  # a new file is renamed once it is complete: a log would be left behind
        db.execute("PRAGMA journal_mode = MEMORY")
    db.create_function("number", 1, as_number, deterministic=True)
    return db


class _Immutable(sqlite3.Connection):
    """A connection that takes no locks, where nobody may write: it does not notice changes."""


def is_immutable(connection: sqlite3.Connection) -> bool:
    """Whether a connection takes no locks."""
    return isinstance(connection, _Immutable)


def to_disk(path: Path) -> None:
    """Make the file of an index that was closed survive a power cut. Raises OSError, also where
    SQLite could not merge the log into it, so that the file alone is not the index."""
    if log_size(path):
        raise OSError(errno.EIO, "its log could not be merged into it")
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(partial: Path, path: Path) -> None:
    """Give the finished file its name. Raises FileExistsError when another process was faster."""
    try:
        os.link(partial, path)  # unlike a rename, never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError from None
        partial.rename(path)


State = tuple[int, int, int, int]  # device, inode, bytes, nanoseconds of the last change


def state_of(path: Path) -> State | None:
    """What changes when the file is replaced or written; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def log_size(path: Path) -> int:
    """Bytes of the write-ahead log beside the file, 0 without one."""
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0


def is_writable(path: Path) -> bool:
    """Whether this process may write the file, and logs beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def identity_of(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """What tells an index from any other."""
    try:
        return connection.execute(
            "SELECT name, value FROM meta WHERE name IN ('id', 'created') ORDER BY name"
        ).fetchall()
    except sqlite3.Error:
        return []


def empty_stale_log(path: Path) -> None:
    """Empty the log of an index that was deleted, which must not be replayed into a new one. Raises
    StoreError when a process still has that index open: then its log is all that it has."""
    if not path.exists():
        _empty_unused_log(path)


def put_over(partial: Path, path: Path) -> None:
    """Give the finished file the name of an index that is or was there, whose log must not be
    replayed into it. Raises OSError, and StoreError while a process needs what that log holds."""
    if log_size(path):
        with suppress(sqlite3.Error), closing(connect(path, "rw")) as old:  # unless it is damaged
            old.execute("PRAGMA busy_timeout = 0")
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    _empty_unused_log(path)
    partial.replace(path)


def _empty_unused_log(path: Path) -> None:
    if not log_size(path):
        return
    if os.name == "posix":
        import fcntl  # only there on POSIX

        with suppress(FileNotFoundError), open(f"{path}-shm", "r+b") as shared:
            try:  # the byte that every connection of SQLite holds a lock on
                fcntl.lockf(shared, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
            except OSError:
                raise StoreError(
                    f"{path}-wal holds what a process that has this index open still needs: end "
                    "that process, or name another file"
                ) from None
            os.truncate(f"{path}-wal", 0)
            return
    os.truncate(f"{path}-wal", 0)


def remove_index(path: Path) -> None:
    """Delete the index at `path`, or what is left of one: the file and SQLite's logs beside it."""
    path.unlink(missing_ok=True)
    _remove_logs(path)


def _remove_logs(path: Path) -> None:
    for suffix in LOGS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def explained(error: Exception, path: Path) -> StoreError:
    """The StoreError for an error of SQLite or the file system: what happened and what to do."""
    text = "a text is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    if isinstance(error, OSError):
        return StoreError(f"{path} cannot be written: {error.strerror or text}")
    if "disk is full" in text or "disk I/O error" in text:
        return StoreError(
            f"{path} cannot be written ({text}): free some space and run the same command again"
        )
    if "locked" in text or "busy" in text:
        return StoreError(
            f"{path} is being written by another process: try again when that has finished"
        )
    if "readonly" in text or "read-only" in text:
        return StoreError(f"{path} is read-only: copy it to a place where you may write")
    if "not a database" in text:
        return not_an_index(path)
    if "unable to open" in text:
        return StoreError(f"{path} cannot be opened: is its folder there, and may you write to it?")
    return StoreError(f"{path} is damaged ({text}): {repair_of(path)}")


def not_an_index(path: Path) -> StoreError:
    """The StoreError for a file that is something else."""
    kind = kind_of(path)
    what = "" if kind == INDEX else f", but {kind}"
    return StoreError(
        f"{path} is not a wingbar index{what}: name another file, or make one with wingbar index "
        "NEW.wb IMAGES"
    )


def repair_of(place: Path | Url) -> str:
    """What to do about a damaged index."""
    if isinstance(place, Url):
        return "restore a copy of it"
    if _has_lost_its_model(place):
        return (
            "its model is lost, so that it cannot be repaired: make a new index with wingbar "
            "index, or restore a backup"
        )
    return f"wingbar verify --repair {place} keeps what can be read; or restore a backup"


def _has_lost_its_model(path: Path) -> bool:
    """Whether a damaged file has no model that can be read; False where that cannot be told."""
    end = time.monotonic() + MODEL_SECONDS
    try:
        # one that only reads would look at a file that was cut before it is let
        with closing(connect(path, "rw" if is_writable(path) else "ro")) as connection:
            connection.execute("PRAGMA writable_schema = ON")  # or a file that was cut is refused
            connection.set_progress_handler(lambda: time.monotonic() > end, 100_000)
            names, files = model_rows(connection)
    except BROKEN as error:
        return not isinstance(error, sqlite3.OperationalError)  # as when it is locked
    if time.monotonic() > end:
        return False
    try:
        whole_model(names, files)
    except (WingbarError, TypeError):
        return True
    return False


def whole_model(names: Sequence[str], files: Mapping[str, bytes]) -> Model:
    """The model of what `model_rows` read; a damaged file of it is taken from the built-in model if
    that has it. Raises WingbarError or TypeError where it is lost."""
    there = dict(files)
    with suppress(WingbarError, TypeError):
        return Model(there)
    built_in = Model.load().files
    there["model.onnx"] = built_in["model.onnx"]
    with suppress(WingbarError, TypeError):
        return Model(there)
    if PROOF in names:
        there[PROOF] = built_in[PROOF]
    return Model(there)


def model_rows(connection: sqlite3.Connection) -> tuple[list[str], dict[str, bytes]]:
    """The names of the model's files in a damaged index, and the files that can be read."""
    files: dict[str, bytes] = {}
    names: list[str] = []
    with suppress(*BROKEN):
        names = [name for (name,) in connection.execute("SELECT name FROM model")]
        for name in names:
            with suppress(*BROKEN):
                [files[name]] = connection.execute(
                    "SELECT data FROM model WHERE name = ?", (name,)
                ).fetchone()
    return names, files
