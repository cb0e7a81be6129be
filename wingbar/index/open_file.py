"""The open file of an index: its transactions, and what becomes of it when the file is replaced or
changed under it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from wingbar.errors import StoreError
from wingbar.files import INDEX_MARK
from wingbar.index.sqlite_file import (
    BUSY_MS,
    State,
    connect,
    explained,
    identity_of,
    is_immutable,
    is_writable,
    log_size,
    not_an_index,
    state_of,
)
from wingbar.index.tables import FORMAT, check_schema, step_up

APPLICATION = int.from_bytes(INDEX_MARK, "big")
# A damaged name makes Python fail at the text of the error itself.
_SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
_CHECK_STEPS = 1_000_000  # of SQLite's machine, between two looks at how many a statement took
_STEPS, _STEPS_PER_PAGE = 20_000_000, 20_000  # that a statement takes at most, in a sound file
_CACHE_KIB = 16_384  # of pages in memory: the shortlists of the last searches among them


class OpenFile:
    """A connection to an index file, for threads that take turns. Every error of SQLite leaves as a
    StoreError with the next step.

    path: of the file.
    db: SQLite's connection; another one after the file was opened anew.
    epoch: grows when another index is found in the place of the open one.
    reopened: how often the file was opened anew.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, is_new: bool = False) -> None:
        """`is_new` is for a file that is being made, and not in its place yet."""
        self.path = path
        self.epoch = 0
        self.reopened = 0
        self._lock = threading.RLock()
        self._depth = 0  # of transactions, which belong to the thread that has the lock
        self._held: int | None = None  # the epoch of a longer change, see `held`
        self._is_new = is_new
        self._use(connection, state_of(path))

    def _use(self, connection: sqlite3.Connection, state: State | None) -> None:
        self.db = connection
        self._seen = state
        self._identity = identity_of(connection)
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._steps = self._most_steps = 0
        self._end_long_statements(connection)

    def _end_long_statements(self, connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(self._takes_too_long, _CHECK_STEPS)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The file at `path`, for reading and, where the file system allows it, writing. Raises
        StoreError for what is no index, or of a newer format."""
        return cls(path, _opened(path))

    def close(self) -> None:
        """Merge the write-ahead log into the file, so that one file is the index, and close it.

        Where another process reads or the file cannot be written, the log stays, and stays valid.
        """
        with self._lock:
            self._empty_log()
            self.db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that excludes other writers: all of it is stored, or nothing.

        A file of an older format is brought up to FORMAT in the same transaction. Raises
        StoreError, and stores nothing, when the file is gone or was replaced meanwhile.
        """
        with self._transaction():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                self._require_place()
                if not self._is_new:
                    self._upgrade()
                yield
                self._require_place()
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """A change that takes several transactions: `writing` raises StoreError when another index
        has come in the place of this one since it began."""
        with self.explaining():
            before, self._held = self._held, self.epoch
        try:
            yield
        finally:
            self._held = before

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A consistent read snapshot of the file."""
        with self._transaction():
            nested = self.db.in_transaction
            if not nested:
                self.db.execute("BEGIN")
                # the snapshot starts with the first read, not with BEGIN
                self.db.execute("SELECT 1 FROM meta").fetchone()
            try:
                yield
            finally:
                if not nested:
                    self.db.execute("ROLLBACK")
            if not nested and is_immutable(self.db) and state_of(self.path) != self._seen:
                raise StoreError(f"{self.path} was changed while it was read: try again")

    def version(self) -> tuple[int, ...]:
        """Changes whenever this or another process has written to the file."""
        with self.explaining():
            data = self.db.execute("PRAGMA data_version").fetchone()[0]
            return self.epoch, self.reopened, data, self.db.total_changes

    @property
    def format(self) -> int:
        """The format of the file now; another process may bring it up to FORMAT at any time."""
        with self.explaining():
            return int(self.db.execute("PRAGMA user_version").fetchone()[0])

    def is_replaced(self) -> bool:
        """Whether another file is at the path now than the one that is open."""
        with self._lock:
            now = state_of(self.path)
            return now is not None and self._is_another(now)

    # -- the place of the file

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self.explaining():
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and not self.db.in_transaction:
                    self._empty_log()

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """The connection for one thread, of the file that is at the path now; errors of SQLite
        become StoreErrors."""
        with self._lock:
            try:
                if self._depth == 0:
                    self._look()
                self._steps = 0
                yield
            except sqlite3.ProgrammingError:
                raise  # a bug of ours, which no user can fix
            except _SQLITE_ERRORS as error:
                raise explained(error, self.path) from error

    def _look(self) -> None:
        """Open the file anew when it was replaced, or changed by anything but this connection: what
        SQLite has in memory may be of another file."""
        now = state_of(self.path)
        if now is None or now == self._seen or self._is_new:
            return
        moved = self._is_another(now)
        if moved and not self._leave_old():
            return
        try:
            connection = _opened(self.path)
        except StoreError:
            if moved:
                return  # what is open can still be read
            raise
        if moved or self._identity != identity_of(connection):
            self.epoch += 1
        self.reopened += 1
        old = self.db
        self._use(connection, now)
        old.close()

    def _is_another(self, now: State) -> bool:
        """Whether this is the state of another file than the one that is open."""
        return self._seen is not None and now[:2] != self._seen[:2]

    def _leave_old(self) -> bool:
        """Merge the log into the file that was moved away, so that it is not replayed into the one
        that is there now."""
        if self._seen is not None and log_size(self.path):
            self._checkpoint()
        return not log_size(self.path)

    def _require_place(self) -> None:
        """Raise StoreError unless the open file is the one at the path."""
        if self._is_new:
            return
        now = state_of(self.path)
        if now is None:
            raise StoreError(f"{self.path} is gone: nothing was written; put it back and try again")
        if self._is_another(now) or self._held not in (None, self.epoch):
            raise StoreError(
                f"{self.path} was replaced by another file while it was open: nothing was written; "
                "run the same command again for the new one"
            )

    def _empty_log(self) -> None:
        """Merge the log into the file as soon as nobody uses it: the file is complete then."""
        if not self._is_new and log_size(self.path) and not self.is_replaced():
            self._checkpoint()
            self._seen = state_of(self.path) or self._seen

    def _checkpoint(self) -> None:
        with suppress(sqlite3.Error):
            self.db.execute("PRAGMA busy_timeout = 0")  # a reader elsewhere is no reason to wait
            try:
                self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self.db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    @contextmanager
    def ended_at(self, deadline: float, steps: int) -> Iterator[None]:
        """End the statements of this context that run at `deadline`, in seconds of
        `time.monotonic`, which is looked at every `steps` steps of SQLite."""
        connection = self.db
        connection.set_progress_handler(lambda: time.monotonic() > deadline, steps)
        try:
            yield
        finally:
            self._end_long_statements(connection)

    def _takes_too_long(self) -> bool:
        """Whether to end a statement, for SQLite: a crafted file can send it round and round."""
        self._steps += _CHECK_STEPS
        if self._steps == _CHECK_STEPS:
            size = 0 if self._seen is None else self._seen[2] + log_size(self.path)
            self._most_steps = _STEPS + _STEPS_PER_PAGE * (size // 4096)
        return self._steps > self._most_steps

    def _upgrade(self) -> None:
        """Bring the file up to FORMAT, step by step."""
        for format_ in range(self.format, FORMAT):
            for statement in step_up(format_):
                self.db.execute(statement)
            self.db.execute(f"PRAGMA user_version = {format_ + 1}")


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to an index file, to write it where that is possible. Raises StoreError."""
    try:
        writable = is_writable(path)
        connection = connect(path, "rw" if writable else "ro")
        connection.execute("BEGIN")  # the format and the tables are of one moment
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except (*_SQLITE_ERRORS, OSError) as error:
        raise explained(error, path) from error
    if application != APPLICATION:
        connection.close()
        raise not_an_index(path)
    if version > FORMAT:
        connection.close()
        raise StoreError(
            f"{path} has format {version}, this wingbar reads {FORMAT}: upgrade wingbar"
        )
    try:
        check_schema(connection, path, version)
        connection.execute("ROLLBACK")
        if writable:  # only now: a file that is not an index stays untouched
            connection.execute("PRAGMA journal_mode = WAL")
            # what was reported as stored survives a power cut
            connection.execute("PRAGMA synchronous = FULL")
    except _SQLITE_ERRORS as error:
        connection.close()
        raise explained(error, path) from error
    except StoreError:
        connection.close()
        raise
    return connection
