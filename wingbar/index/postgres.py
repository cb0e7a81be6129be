"""An index in PostgreSQL with pgvector: codes are bit(n), `<~>` is the Hamming distance.

An index is a schema of the database, with the tables

    meta      name, value: fingerprint of the model, length of codes and features, identity
    model     the model's files in pieces
    items     key, id, path, label, columns, numbers, size, mtime, content, crc
    codes     id, code bit(n): narrow, since every search without an index scans it
    features  id, feature halfvec(d), crc

The last three are partitioned by hash, so that they can be spread over disks, and servers. A search
is one statement: coarse stage, filters and the scores of the fine stage. Writers of one index take
turns by an advisory lock; each change is one transaction. A statement outside of a transaction, and
a `retried` piece of work, is repeated with growing pauses when the connection is lost.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import ModelError, QueryError, StoreError, one_line
from wingbar.hamming.codes import Nearest, Packed, agreement, unpack, words
from wingbar.index.engine import (
    NO_FILE,
    Item,
    Removed,
    Row,
    Shortlist,
    StoreInfo,
    Url,
    require_model,
)
from wingbar.index.filters import NEAR_AMONG, Condition, NoColumnError, parse_where
from wingbar.index.memory import CHUNK
from wingbar.index.postgres_sql import (
    bit_text,
    can_be_stored,
    embedding_crc,
    int8,
    item_fields,
    item_of,
    key_of,
    packed_of,
    record_crc,
    where_sql,
)
from wingbar.index.ranking import TIE_CAP, Fine, SearchOptions
from wingbar.index.remote import BLOCK, RemoteStore
from wingbar.model.model import Embeddings, Model

try:
    import psycopg
    from psycopg import errors
except ImportError as error:
    raise StoreError(
        f"an index in PostgreSQL needs {error.name}: run pip install 'wingbar[postgres]'"
    ) from None

T = TypeVar("T")

FORMAT = 1
OLDEST_SERVER = 13
OLDEST_PGVECTOR = (0, 8, 4)  # 0.8.3 and 0.8.4 mend damaged indexes and failing vacuums
PARTITIONS = 8  # of each table, where the URL does not say ?partitions=
PAUSES: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)  # seconds before a lost connection is tried again
CONNECT_SECONDS = 10
_PIECE = 2**20  # bytes of a row of `model`
_COPY_BYTES = 2**20  # that are sent at a time

_ITEM = "path, label, columns, size, mtime, content"
_REMOVED_AGAIN = (
    "ON CONFLICT (key) DO UPDATE SET size = excluded.size, mtime = excluded.mtime, "
    "content = excluded.content"
)
_SHAPED = ("codes", "features")  # tables whose columns have the model's lengths

_SCHEMA = """
CREATE SCHEMA {s};
CREATE TABLE {s}.meta (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE {s}.model (name text, piece int, data bytea NOT NULL, PRIMARY KEY (name, piece));
CREATE SEQUENCE {s}.ids;
CREATE TABLE {s}.items (
    key uuid PRIMARY KEY,          -- of the path, which may be too long for an index
    id bigint NOT NULL,
    path text NOT NULL,
    label text,
    columns jsonb NOT NULL,        -- object of text
    numbers jsonb NOT NULL,        -- those of them that are numbers, as filters read them
    size bigint NOT NULL,
    mtime bigint NOT NULL,
    content bytea NOT NULL,
    crc bigint NOT NULL
) PARTITION BY HASH (key);
CREATE TABLE {s}.removed (
    key uuid PRIMARY KEY,          -- of the path of an item that was removed by hand
    path text NOT NULL,
    size bigint NOT NULL,          -- and its file, as it was then
    mtime bigint NOT NULL,
    content bytea NOT NULL
);
CREATE INDEX ON {s}.items (id);
CREATE INDEX ON {s}.items (label)
"""
_SHAPED_SCHEMA = """
CREATE TABLE {s}.codes (id bigint PRIMARY KEY, code bit({bits}) NOT NULL) PARTITION BY HASH (id);
CREATE TABLE {s}.features (id bigint PRIMARY KEY, feature halfvec({dim}) NOT NULL,
                           crc bigint NOT NULL) PARTITION BY HASH (id)
"""


class LostConnectionError(StoreError):
    """The connection was lost inside of a transaction."""


class UnreachableError(StoreError):
    """The server could not be reached, though it was tried for some seconds."""


class PostgresStore(RemoteStore):
    """An index in PostgreSQL, on one connection. Every error leaves as a StoreError with the next
    step."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._schema = f'"{url.name}"'
        self._depth = 0  # of transactions and snapshots
        self._writes = False
        self._identity = ""
        self._db = self._connect()

    # -- open and close

    @classmethod
    def create(cls, url: Url, model_files: Mapping[str, bytes]) -> Self:
        """A new index that holds the model. Raises StoreError when there is one of that name."""
        partitions = _partitions(url)
        store = cls(url)
        try:
            with store._explaining():
                store._require_extension(create=True)
                if store._is_there():
                    raise StoreError(
                        f"{url} exists already: name another index, or run DROP SCHEMA "
                        f'"{url.name}" CASCADE first'
                    )
                with store._db.transaction():
                    store._lock_writers()
                    store._run_script(_SCHEMA)
                    store._make_partitions(["items"], partitions)
                    store._set_meta("format", str(FORMAT))
                    store._set_meta("id", uuid.uuid4().hex)
                    store._set_meta("created", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
                    store._set_meta("partitions", str(partitions))
                    store._set_meta("version", "0")
                    store.set_model(model_files)
        except errors.DuplicateSchema:
            raise StoreError(f"{url} exists already: name another index") from None
        finally:
            store.close()
        return cls.open(url)

    @classmethod
    def open(cls, url: Url) -> Self:
        """The index at `url`. Raises StoreError when there is none."""
        store = cls(url)
        try:
            with store._explaining():
                store._require_extension(create=False)
                if not store._is_there():
                    raise StoreError(f"no index at {url}: make one with wingbar index {url} IMAGES")
            found = int(store._meta("format"))
            if found > FORMAT:
                raise StoreError(
                    f"{url} has format {found}, this wingbar reads {FORMAT}: upgrade wingbar"
                )
            store._identity = store._meta("id")
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def exists(cls, url: Url) -> bool:
        """Whether there is an index at `url`."""
        store = cls(url)
        try:
            with store._explaining():
                return store._is_there()
        finally:
            store.close()

    def close(self) -> None:
        """Close the connection."""
        super().close()
        with self._lock, suppress(psycopg.Error):
            self._db.close()

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            connection = psycopg.connect(
                self.path.server,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name="wingbar",
                client_encoding="utf8",
            )
        except psycopg.Error as error:
            raise self._unreachable(error) from None
        if connection.info.server_version // 10_000 < OLDEST_SERVER:
            version = connection.info.server_version // 10_000
            connection.close()
            raise StoreError(
                f"{self.path} is on PostgreSQL {version}: wingbar needs {OLDEST_SERVER} or newer"
            )
        # Compiling a plan takes longer than a search.
        connection.execute("SET jit = off")
        return connection

    def _require_extension(self, *, create: bool) -> None:
        """Raise StoreError unless pgvector is there in a version that can be trusted."""
        version = self._extension_version()
        if version is None and create:
            try:
                self._db.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except errors.InsufficientPrivilege:
                raise StoreError(
                    f"{self.path}: the database lacks the extension pgvector, and you may not add "
                    "it: have an administrator run CREATE EXTENSION vector"
                ) from None
            except (errors.FeatureNotSupported, errors.UndefinedFile):
                major = self._db.info.server_version // 10_000
                raise StoreError(
                    f"{self.path}: the server has no pgvector: install it there (Debian: "
                    f"apt-get install postgresql-{major}-pgvector)"
                ) from None
            version = self._extension_version()
        if version is None:
            raise StoreError(
                f"{self.path}: the database lacks the extension pgvector: run CREATE EXTENSION "
                "vector"
            )
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers < OLDEST_PGVECTOR:
            oldest = ".".join(map(str, OLDEST_PGVECTOR))
            raise StoreError(
                f"{self.path} has pgvector {version}: wingbar needs {oldest} or newer; install it "
                "and run ALTER EXTENSION vector UPDATE"
            )

    def _extension_version(self) -> str | None:
        row = self._db.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        return None if row is None else str(row[0])

    def _is_there(self) -> bool:
        found = self._db.execute(
            "SELECT to_regclass(%s) IS NOT NULL", (f"{self._schema}.meta",)
        ).fetchone()
        return bool(found and found[0])

    # -- transactions

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that excludes other writers of this index: all of it is stored, or
        nothing."""
        with self._transaction(b"BEGIN"):
            outer, self._writes = self._writes, True
            try:
                if not outer:
                    self._lock_writers()
                    if self._meta("id") != self._identity:
                        raise StoreError(
                            f"{self.path} was replaced by another index while it was open: nothing "
                            "was written; run the same command again for the new one"
                        )
                yield
                if not outer:
                    self._run(
                        "UPDATE {s}.meta SET value = (value::bigint + 1)::text "
                        "WHERE name = 'version'"
                    )
            finally:
                self._writes = outer

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A consistent read snapshot."""
        with self._transaction(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            yield

    @contextmanager
    def _transaction(self, begin: bytes) -> Iterator[None]:
        with self._lock, self._explaining():
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            self._again(lambda: self._db.execute(begin))
            self._depth = 1
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def retried(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is begun anew when the connection is lost under it, after
        the pauses that its first statement makes."""
        if self._depth:
            return work()
        for _ in PAUSES:
            try:
                return work()
            except LostConnectionError:
                continue
        return work()

    def _lock_writers(self) -> None:
        self._db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"wingbar {self._schema}",))

    def _again(self, statement: Callable[[], T]) -> T:
        """The result of a statement; outside of a transaction, repeated on a new connection when
        the old one is lost."""
        if self._depth:
            return statement()
        for pause in (*PAUSES, None):
            try:
                if self._db.closed:
                    self._db = self._connect()
                return statement()
            except (psycopg.OperationalError, UnreachableError) as error:
                if pause is None or not _is_lost(error):
                    raise
                with suppress(psycopg.Error):
                    self._db.close()
                time.sleep(pause)
        raise AssertionError  # the last turn returned or raised

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except errors.InvalidRegularExpression as error:
            raise QueryError(
                f"a pattern of the filter cannot be read ({one_line(error)})"
            ) from None
        except psycopg.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: psycopg.Error) -> StoreError:
        """The StoreError for an error of PostgreSQL: what happened and what to do."""
        text = one_line(error)
        if isinstance(error, errors.InsufficientPrivilege):
            return StoreError(
                f"{self.path}: no rights ({text}): ask the owner of the database for them, or "
                "connect as another user"
            )
        if isinstance(error, (errors.UndefinedTable, errors.InvalidSchemaName)):
            return StoreError(
                f"{self.path} is gone or damaged ({text}): make it again with wingbar index"
            )
        if isinstance(error, errors.DiskFull):
            return StoreError(f"{self.path} cannot be written ({text}): free some space there")
        if isinstance(error, errors.ReadOnlySqlTransaction):
            return StoreError(
                f"{self.path} is on a server that is read-only, such as a standby: name the primary"
            )
        if isinstance(error, psycopg.OperationalError) and _is_lost(error):
            return LostConnectionError(
                f"the connection to {self.path} was lost ({text}): run the same command again"
            )
        if isinstance(error, (errors.UntranslatableCharacter, errors.CharacterNotInRepertoire)):
            return StoreError(
                f"{self.path}: PostgreSQL cannot store a text with a NUL character ({text})"
            )
        if isinstance(error, errors.DuplicateSchema):
            return StoreError(
                f"{self.path} cannot be made: a schema of that name holds something else; name the "
                "index otherwise"
            )
        return StoreError(f"{self.path}: PostgreSQL refused ({text})")

    def _unreachable(self, error: psycopg.Error) -> StoreError:
        """The StoreError for a connection that could not be made: what happened and what to do."""
        text = one_line(error)
        if "authentication failed" in text or "no password supplied" in text:
            return StoreError(
                f"{self.path}: {text}: check the user and the password (or ~/.pgpass)"
            )
        if "does not exist" in text:
            return StoreError(f"{self.path}: {text}: make the database with createdb")
        if "no pg_hba.conf entry" in text or "permission denied" in text:
            return StoreError(f"{self.path}: no rights ({text}): ask the server's administrator")
        if "invalid" in text and ("dsn" in text or "URI" in text or "option" in text):
            return StoreError(f"{self.path}: the URL cannot be read ({text})")
        if "starting up" in text or "recovery" in text or "shutting down" in text:
            return UnreachableError(f"{self.path} cannot be reached yet ({text}): try again soon")
        return UnreachableError(
            f"{self.path} cannot be reached ({text}): is the server running, and the address right?"
        )

    # -- statements

    def _sql(self, text: str) -> bytes:
        """A statement of this module with the schema's checked name in place of {s}."""
        return text.replace("{s}", self._schema).encode()

    def _run(self, text: str, values: object = None) -> psycopg.Cursor[Any]:
        with self._lock, self._explaining():
            statement = self._sql(text)
            return self._again(lambda: self._db.execute(statement, cast(Any, values)))

    def _rows(self, text: str, values: object = None) -> list[tuple[Any, ...]]:
        return self._run(text, values).fetchall()

    def _run_script(self, text: str) -> None:
        for statement in text.split(";\n"):
            self._db.execute(self._sql(statement))

    def _meta(self, name: str) -> str:
        value = self._meta_or_none(name)
        if value is None:
            raise StoreError(f"{self.path} is damaged (no {name} in it): make it again")
        return value

    def _meta_or_none(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM {s}.meta WHERE name = %s", (name,))
        return str(rows[0][0]) if rows else None

    def _set_meta(self, name: str, value: str) -> None:
        self._run(
            "INSERT INTO {s}.meta VALUES (%s, %s) ON CONFLICT (name) DO UPDATE "
            "SET value = excluded.value",
            (name, value),
        )

    def version(self) -> tuple[int, ...]:
        """Changes whenever something was written."""
        return (int(self._meta("version")),)

    def identity(self) -> str:
        """A random number from when the index was made."""
        return self._identity

    def copied_from(self) -> str | None:
        """What this index is a copy of, by the mark that `copy` left."""
        return self._meta_or_none("copied_from")

    def set_copied_from(self, source: str) -> None:
        """Leave that mark. Inside `writing`."""
        self._set_meta("copied_from", source)

    def is_half_copied(self) -> bool:
        """Whether this is a copy that was begun and not finished."""
        return self._meta_or_none("half_copied") == "1"

    def set_half_copied(self, is_half: bool) -> None:
        """Say so, or that it is whole. Inside `writing`."""
        self._set_meta("half_copied", "1" if is_half else "0")

    # -- the model

    def model_files(self) -> dict[str, bytes]:
        """The files of the model by name."""
        pieces: dict[str, list[bytes]] = {}
        for name, data in self._rows("SELECT name, data FROM {s}.model ORDER BY name, piece"):
            pieces.setdefault(name, []).append(data)
        return {name: b"".join(parts) for name, parts in pieces.items()}

    def model_fingerprint(self) -> str:
        """sha256 of model.json, as it was stored beside it."""
        return self._meta("fingerprint")

    def set_model(self, files: Mapping[str, bytes]) -> None:
        """Replace the model, and the tables of codes and features where it gives others than the
        model before. Inside `writing`."""
        self._run("DELETE FROM {s}.model")
        with self._db.cursor() as cursor:
            cursor.executemany(
                self._sql("INSERT INTO {s}.model VALUES (%s, %s, %s)"),
                [
                    (name, place // _PIECE, data[place : place + _PIECE])
                    for name, data in sorted(files.items())
                    for place in range(0, max(len(data), 1), _PIECE)
                ],
            )
        self._set_meta("fingerprint", hashlib.sha256(files["model.json"]).hexdigest())
        try:
            model = Model(files)
        except ModelError:
            return  # what is no model gives no codes
        if not model.gives_codes:
            return
        shape = f"{model.bits} {model.dim}"
        rows = self._rows("SELECT value FROM {s}.meta WHERE name = 'shape'")
        if rows and rows[0][0] == shape:
            return
        self.shape(model.bits, model.dim)

    def shape(self, bits: int, dim: int) -> None:
        """New, empty tables for codes of `bits` bits and features of `dim` numbers. Inside
        `writing`."""
        for table in _SHAPED:
            self._run(f"DROP TABLE IF EXISTS {{s}}.{table}")
        self._run_script(_SHAPED_SCHEMA.replace("{bits}", str(bits)).replace("{dim}", str(dim)))
        self._make_partitions(_SHAPED, int(self._meta("partitions")))
        self._set_meta("shape", f"{bits} {dim}")

    def _make_partitions(self, tables: Iterable[str], count: int) -> None:
        for table in tables:
            for i in range(count):
                self._run(
                    f"CREATE TABLE {{s}}.{table}_{i} PARTITION OF {{s}}.{table} "
                    f"FOR VALUES WITH (MODULUS {count}, REMAINDER {i})"
                )
        if "features" in tables:
            for i in range(count):  # a feature is random bits: trying to compress it is in vain
                self._run(
                    f"ALTER TABLE {{s}}.features_{i} ALTER COLUMN feature SET STORAGE EXTERNAL"
                )

    # -- write items

    def add(
        self,
        items: Sequence[Item],
        packed: Packed,
        features: NDArray[np.floating],
        bits: int,
        ids: Sequence[int] | None = None,
    ) -> None:
        """Store items with their codes [N, w] and features [N, d], replacing items of the same
        path; with `ids`, under these ids, replacing what has them. Inside `writing`.

        An item that is stored already with the same path and content keeps its id, so that adding
        twice is adding once.
        """
        if not items:
            return
        last = {item.path: i for i, item in enumerate(items)}  # of equal paths, the last one
        chosen = sorted(last.values())
        keys = [key_of(items[i].path) for i in chosen]
        stored = self._rows(
            "SELECT key, id, content FROM {s}.items WHERE key = ANY(%s::uuid[])",
            ([key.hex() for key in keys],),
        )
        if ids is None:
            kept = {(key.bytes, bytes(content)): id_ for key, id_, content in stored}
            pairs = [(key, items[i].content) for key, i in zip(keys, chosen, strict=True)]
            new = iter(self._new_ids(sum(pair not in kept for pair in pairs)))
            wanted = [kept[pair] if pair in kept else next(new) for pair in pairs]
        else:
            wanted = [int(ids[i]) for i in chosen]
            self._rows(
                "SELECT setval('{s}.ids', greatest(%s::bigint, (SELECT last_value FROM {s}.ids)))",
                (max(wanted),),
            )
        self.delete(self.existing({*wanted, *(id_ for _, id_, _ in stored)}))
        self._copy(
            "items (key, id, path, label, columns, numbers, size, mtime, content, crc)",
            (
                item_fields(id_, key, items[i])
                for id_, key, i in zip(wanted, keys, chosen, strict=True)
            ),
        )
        self._copy_embeddings(wanted, packed[chosen], features[chosen], bits)
        self.forget(items[i].path for i in chosen)

    def _new_ids(self, count: int) -> list[int]:
        rows = self._rows("SELECT nextval('{s}.ids') FROM generate_series(1, %s)", (count,))
        return sorted(row[0] for row in rows)

    def _copy_embeddings(
        self, ids: Sequence[int], packed: Packed, features: NDArray[np.floating], bits: int
    ) -> None:
        codes = np.packbits(unpack(packed, bits), axis=1)
        halves = features.astype(">f2")
        head = struct.pack(">i", bits)
        self._copy(
            "codes (id, code)",
            ([int8(id_), head + code.tobytes()] for id_, code in zip(ids, codes, strict=True)),
        )
        dim = struct.pack(">HH", halves.shape[1], 0)
        self._copy(
            "features (id, feature, crc)",
            (
                [int8(id_), dim + half.tobytes(), int8(embedding_crc(code, half))]
                for id_, code, half in zip(ids, codes, halves, strict=True)
            ),
        )

    def _copy(self, table: str, rows: Iterable[Sequence[bytes | None]]) -> None:
        """Bulk load: rows of fields in PostgreSQL's binary form, None for NULL."""
        with self._explaining(), self._db.cursor() as cursor:
            statement = self._sql(f"COPY {{s}}.{table} FROM STDIN (FORMAT BINARY)")
            with cursor.copy(statement) as copy:
                buffer = bytearray(b"PGCOPY\n\xff\r\n\0" + bytes(8))
                for row in rows:
                    buffer += struct.pack(">h", len(row))
                    for field in row:
                        if field is None:
                            buffer += b"\xff\xff\xff\xff"
                        else:
                            buffer += struct.pack(">i", len(field)) + field
                    if len(buffer) > _COPY_BYTES:
                        copy.write(bytes(buffer))
                        buffer.clear()
                copy.write(bytes(buffer) + b"\xff\xff")

    def update(self, changes: Mapping[int, Item]) -> None:
        """Replace the records of items by id; code and feature stay. Inside `writing`."""
        if not changes:
            return
        known = self.existing(changes)
        self._run("DELETE FROM {s}.items WHERE id = ANY(%s)", (known,))
        self._copy(
            "items (key, id, path, label, columns, numbers, size, mtime, content, crc)",
            (item_fields(id_, key_of(changes[id_].path), changes[id_]) for id_ in known),
        )
        self.forget(changes[id_].path for id_ in known)

    def delete(self, ids: Iterable[int], by_hand: bool = False) -> int:
        """Remove items by id and return their number; unknown ids are skipped. `by_hand` keeps in
        mind which files they had. Inside `writing`."""
        wanted = sorted(id_ for id_ in ids if -(2**63) <= id_ < 2**63)
        if not wanted:
            return 0
        if by_hand:
            self._run(
                "INSERT INTO {s}.removed SELECT key, path, size, mtime, content FROM {s}.items "
                "WHERE id = ANY(%s) AND size <> %s " + _REMOVED_AGAIN,
                (wanted, NO_FILE),
            )
        removed = self._run("DELETE FROM {s}.items WHERE id = ANY(%s)", (wanted,)).rowcount
        if self._has_shape():
            for table in _SHAPED:
                self._run(f"DELETE FROM {{s}}.{table} WHERE id = ANY(%s)", (wanted,))
        return removed

    def removed(self) -> dict[str, Removed]:
        """What was removed by hand, by path."""
        rows = self._rows(
            'SELECT path, size, mtime, content FROM {s}.removed ORDER BY path COLLATE "C"'
        )
        return {path: Removed(size, mtime, bytes(content)) for path, size, mtime, content in rows}

    def remember(self, removed: Mapping[str, Removed]) -> None:
        """Keep in mind that the items of these paths were removed by hand. Inside `writing`."""
        for path, one in removed.items():
            self._run(
                "INSERT INTO {s}.removed VALUES (%s::uuid, %s, %s, %s, %s) " + _REMOVED_AGAIN,
                (key_of(path).hex(), path, one.size, one.mtime, one.content),
            )

    def forget(self, paths: Iterable[str]) -> None:
        """No longer keep in mind that items of these paths were removed. Inside `writing`."""
        if self._rows("SELECT 1 FROM {s}.removed LIMIT 1"):
            keys = [key_of(path).hex() for path in paths]
            self._run("DELETE FROM {s}.removed WHERE key = ANY(%s::uuid[])", (keys,))

    def ids_below(self, folder: str) -> list[int]:
        """Ids of the items below a folder, ascending."""
        rows = self._rows(
            "SELECT id FROM {s}.items WHERE starts_with(path, %s) ORDER BY id",
            (folder.rstrip(os.sep) + os.sep,),
        )
        return [row[0] for row in rows]

    def _has_shape(self) -> bool:
        return bool(self._rows("SELECT 1 FROM {s}.meta WHERE name = 'shape'"))

    def clear_codes(self) -> None:
        """Drop all codes, before `replace_embeddings` writes others. Inside `writing`."""
        self._run("DELETE FROM {s}.codes")

    def replace_embeddings(
        self, packed: Packed, features: NDArray[np.float32], ids: NDArray[np.int64], bits: int
    ) -> None:
        """New codes [N, w] and features [N, d] for the items `ids` [N]. Inside `writing`."""
        for table in _SHAPED:
            self._run(f"DELETE FROM {{s}}.{table} WHERE id = ANY(%s)", (ids.tolist(),))
        self._copy_embeddings(ids.tolist(), packed, features, bits)

    # -- search

    def search_codes(
        self, queries: Sequence[Embeddings], options: SearchOptions, fine: Fine
    ) -> list[Shortlist]:
        """Both stages of a search, in one statement per query; see `Engine.search_codes`. Its time
        counts as that of the coarse stage."""
        conditions = parse_where(options.where)
        return [self._search(query, options, fine, conditions) for query in queries]

    def _search(
        self,
        query: Embeddings,
        options: SearchOptions,
        fine: Fine,
        conditions: Sequence[Condition],
    ) -> Shortlist:
        start = time.perf_counter()
        values: dict[str, object] = {"code": bit_text(query.codes, query.bits)}
        clauses = ["true"]
        if options.radius is not None:
            clauses.append("c.code <~> %(code)s <= %(radius)s")
            values["radius"] = options.radius
        if conditions:
            self._require_columns(conditions)
            clauses.append(where_sql(conditions, values))
        want = options.k if fine == "none" else max(options.k, options.shortlist)
        limit = want if fine == "none" else TIE_CAP * want
        values |= {"most": limit + 1, "place": want - 1}
        extra = "NULL::float8, NULL::text"
        joined = ""
        if fine in ("ties", "pool"):
            extra = "-(f.feature::vector <#> %(feature)s::vector), NULL::text"
            joined = "JOIN {s}.features f USING (id)"
            values["feature"] = "[" + ",".join(map(repr, query.features[0].tolist())) + "]"
        elif fine == "asymmetric":
            extra = "NULL::float8, near.code::text"
        # One row more than the limit tells whether something was left out. The fingerprint comes
        # with every row, and alone where nothing is found.
        text = f"""
            WITH near AS MATERIALIZED (
                SELECT c.id, c.code, (c.code <~> %(code)s)::int AS distance
                FROM {{s}}.codes c {"JOIN {s}.items i ON i.id = c.id" if conditions else ""}
                WHERE {" AND ".join(clauses)}
                ORDER BY distance, id LIMIT %(most)s
            ), edge AS (
                SELECT distance FROM near ORDER BY distance, id OFFSET %(place)s LIMIT 1
            )
            SELECT meta.value, found.* FROM {{s}}.meta LEFT JOIN (
                SELECT near.id, near.distance, {extra} FROM near {joined}
                WHERE distance <= coalesce((SELECT distance FROM edge), 2147483647)
            ) found ON true
            WHERE meta.name = 'fingerprint' ORDER BY found.distance, found.id
        """.replace("%(code)s", f"%(code)s::bit({query.bits})")
        try:
            rows = self._rows(text, values)
        except StoreError:  # perhaps because codes of another model have another length
            require_model(self, [query], self.model_fingerprint())
            raise
        require_model(self, [query], str(rows[0][0]))
        found = [row[1:] for row in rows if row[1] is not None]
        kept = found[:limit]
        cut = len(found) > limit and found[limit][1] == kept[-1][1]
        ids = np.array([row[0] for row in kept], np.int64)
        near = Nearest(ids, np.array([row[1] for row in kept], np.int64), cut)
        scores: NDArray[np.float32] | None = None
        if fine in ("ties", "pool"):
            scores = np.array([row[2] for row in kept], np.float32)
        elif fine == "asymmetric":
            codes = packed_of([row[3] for row in kept], query.bits)
            scores = agreement(query.logits[0], codes, query.bits)
        return Shortlist(near, scores, (time.perf_counter() - start) * 1000, 0.0)

    def info(self, bits: int | None) -> StoreInfo:
        """What the schema holds."""
        [(items, labels)] = self._rows("SELECT count(*), count(DISTINCT label) FROM {s}.items")
        unique = 0
        if bits is not None and self._has_shape():
            [(unique,)] = self._rows("SELECT count(DISTINCT code) FROM {s}.codes")
        [(size,)] = self._rows(
            "SELECT sum(pg_total_relation_size(c.oid))::bigint "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relkind = 'r'",
            (self.path.name,),
        )
        return StoreInfo(items, labels, unique, 0, int(size or 0))

    @property
    def engine(self) -> str:
        """The versions of the server and of pgvector."""
        [(server, vector)] = self._rows(
            "SELECT current_setting('server_version'), extversion FROM pg_extension "
            "WHERE extname = 'vector'"
        )
        return f"PostgreSQL {str(server).split()[0]}, pgvector {vector}"

    # -- read

    def codes(
        self, bits: int, chunks: Iterable[int] | None = None
    ) -> tuple[NDArray[np.int64], Packed]:
        """Ids [N], ascending, and codes [N, w] of all items, or of those in `chunks`."""
        if not self._has_shape():
            return np.empty(0, np.int64), np.empty((0, words(bits)), np.uint64)
        parts: list[tuple[NDArray[np.int64], Packed]] = []
        spans = [None] if chunks is None else sorted(chunks)
        for chunk in spans:
            span = (0, 2**63 - 1) if chunk is None else (chunk * CHUNK, (chunk + 1) * CHUNK)
            rows = self._rows(
                "SELECT id, code::text FROM {s}.codes WHERE id >= %s AND id < %s ORDER BY id", span
            )
            parts.append(
                (
                    np.array([row[0] for row in rows], np.int64),
                    packed_of([row[1] for row in rows], bits),
                )
            )
        ids = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
        none = np.empty((0, words(bits)), np.uint64)
        return ids, np.concatenate([none, *(part[1] for part in parts)])

    def codes_of(self, ids: Sequence[int], bits: int) -> Packed:
        """Codes [N, w] of the items `ids`, in their order. Raises StoreError for an id that is not
        there."""
        rows = dict(
            self._rows("SELECT id, code::text FROM {s}.codes WHERE id = ANY(%s)", (list(ids),))
        )
        return packed_of([self._known(rows, id_) for id_ in ids], bits)

    def _known(self, rows: Mapping[int, T], id_: int) -> T:
        if id_ not in rows:
            raise StoreError(f"{self.path} holds no item {id_}")
        return rows[id_]

    def features(self, ids: Sequence[int], dim: int) -> NDArray[np.float16]:
        """Features [N, d] of the items `ids`, in their order. Raises StoreError when one has
        none."""
        rows = dict(
            self._binary(
                "SELECT id, feature::halfvec FROM {s}.features WHERE id = ANY(%s)", (list(ids),)
            )
        )
        return self._halves([self._known(rows, id_) for id_ in ids], dim)

    def _binary(self, text: str, values: object) -> list[tuple[Any, ...]]:
        """Rows whose halfvecs are bytes."""
        with self._lock, self._explaining():
            statement = self._sql(text)

            def run() -> list[tuple[Any, ...]]:
                with self._db.cursor(binary=True) as cursor:
                    return cursor.execute(statement, cast(Any, values)).fetchall()

            return self._again(run)

    def _halves(self, blobs: Sequence[bytes], dim: int) -> NDArray[np.float16]:
        if any(len(blob) != 4 + 2 * dim for blob in blobs):
            raise StoreError(f"{self.path} is damaged (a feature has not {dim} numbers)")
        joined = b"".join([bytes(blob[4:]) for blob in blobs])
        return np.frombuffer(joined, ">f2").astype(np.float16).reshape(len(blobs), dim)

    def feature_blocks(self, dim: int, size: int) -> Iterator[NDArray[np.float16]]:
        """Features of all items by ascending id, in blocks [at most size, d]."""
        last = -(2**63)
        while self._has_shape():
            rows = self._binary(
                "SELECT id, feature FROM {s}.features WHERE id > %s ORDER BY id LIMIT %s",
                (last, size),
            )
            if not rows:
                return
            last = rows[-1][0]
            yield self._halves([row[1] for row in rows], dim)

    def rows(self, above: int, size: int, bits: int, dim: int) -> list[Row]:
        """Up to `size` items with greater ids than `above`, by ascending id."""
        if not self._has_shape():
            return []
        found = self._binary(
            "SELECT i.id, path, label, columns::text, size, mtime, content, code::text, feature "
            "FROM {s}.items i JOIN {s}.codes c ON c.id = i.id JOIN {s}.features f ON f.id = i.id "
            "WHERE i.id > %s ORDER BY i.id LIMIT %s",
            (above, size),
        )
        packed = packed_of([row[7] for row in found], bits)
        halves = self._halves([row[8] for row in found], dim)
        return [Row(row[0], item_of(row[1:7]), packed[i], halves[i]) for i, row in enumerate(found)]

    def items(self, ids: Sequence[int]) -> list[Item]:
        """The items `ids`, in their order. Raises StoreError when one is not there."""
        rows = self._rows(f"SELECT id, {_ITEM} FROM {{s}}.items WHERE id = ANY(%s)", (list(ids),))
        by_id = {row[0]: item_of(row[1:]) for row in rows}
        return [self._known(by_id, id_) for id_ in ids]

    def all_items(self) -> Iterator[tuple[int, Item]]:
        """Every item with its id, by ascending id, read block by block."""
        last = -(2**63)
        while True:
            rows = self._rows(
                f"SELECT id, {_ITEM} FROM {{s}}.items WHERE id > %s ORDER BY id LIMIT %s",
                (last, BLOCK),
            )
            if not rows:
                return
            last = rows[-1][0]
            for row in rows:
                yield row[0], item_of(row[1:])

    def ids(self) -> NDArray[np.int64]:
        """The ids [N] of all items, ascending."""
        rows = self._rows("SELECT id FROM {s}.items ORDER BY id")
        return np.array([row[0] for row in rows], np.int64)

    def ids_of_paths(self, paths: Iterable[str]) -> dict[str, int]:
        """Ids of those `paths` that are in the index."""
        keys = {path: key_of(path) for path in paths if can_be_stored(path)}
        rows = self._rows(
            "SELECT key, id FROM {s}.items WHERE key = ANY(%s::uuid[])",
            ([key.hex() for key in keys.values()],),
        )
        ids = {key.bytes: id_ for key, id_ in rows}
        return {path: ids[key] for path, key in keys.items() if key in ids}

    def existing(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are in the index."""
        wanted = [id_ for id_ in ids if -(2**63) <= id_ < 2**63]
        rows = self._rows("SELECT id FROM {s}.items WHERE id = ANY(%s)", (wanted,))
        there = {row[0] for row in rows}
        return [id_ for id_ in wanted if id_ in there]

    def count(self) -> int:
        """The number of items."""
        return int(self._rows("SELECT count(*) FROM {s}.items")[0][0])

    def is_empty(self) -> bool:
        """Whether the index has no items."""
        return not self._rows("SELECT 1 FROM {s}.items LIMIT 1")

    def label_counts(self) -> dict[str, int]:
        """The number of items of each label; items without a label are left out."""
        rows = self._rows(
            "SELECT label, count(*) FROM {s}.items WHERE label IS NOT NULL GROUP BY label "
            'ORDER BY label COLLATE "C"'
        )
        return dict(rows)

    # -- filters

    def matching(self, conditions: Sequence[Condition]) -> NDArray[np.int64]:
        """Ids [N], ascending, of the items that pass the filter, as `filters.matching`."""
        self._require_columns(conditions)
        values: dict[str, object] = {}
        test = where_sql(conditions, values)
        rows = self._rows(f"SELECT i.id FROM {{s}}.items i WHERE {test} ORDER BY i.id", values)
        return np.array([row[0] for row in rows], np.int64)

    def values_of(self, field: str) -> list[str]:
        """Different values of a field other than the path, at most NEAR_AMONG of them."""
        values = {"field": field, "most": NEAR_AMONG}
        column = "label" if field == "label" else "columns ->> %(field)s"
        rows = self._rows(f"SELECT DISTINCT {column} FROM {{s}}.items LIMIT %(most)s", values)
        return [str(value) for (value,) in rows if value not in (None, "")]

    def _require_columns(self, conditions: Sequence[Condition]) -> None:
        """Raise QueryError for a column that no item has."""
        for name in {c.field for c in conditions} - {"label", "path"}:
            if not self._rows("SELECT 1 FROM {s}.items WHERE columns ? %s LIMIT 1", (name,)):
                rows = self._rows("SELECT DISTINCT jsonb_object_keys(columns) FROM {s}.items")
                raise NoColumnError(name, sorted(row[0] for row in rows))

    # -- checks

    def problems(self) -> Iterator[str]:
        """What is wrong with the rows of the index, one line each."""
        try:
            model = Model(self.model_files())
        except ModelError as error:
            yield f"model: {error}"
            return
        if self.model_fingerprint() != model.fingerprint:
            yield "model: model.json is not the one that was stored"
        with_item = []
        rows = self._in_blocks(f"SELECT id, {_ITEM}, crc FROM {{s}}.items", "id")
        for row in rows:
            with_item.append(row[0])
            if record_crc(item_of(row[1:7])) != row[7]:
                yield f"item {row[0]} ({row[1]}): wrong checksum"
        if not model.gives_codes:
            if with_item:
                yield f"{len(with_item)} items without a code"
            return
        with_code, with_feature = [], []
        for id_, text, blob, crc in self._in_blocks(
            "SELECT id, code::text, feature, crc FROM {s}.codes FULL JOIN {s}.features USING (id)",
            "id",
        ):
            if text is not None:
                with_code.append(id_)
            if blob is None or text is None:
                continue
            with_feature.append(id_)
            code = np.packbits(np.frombuffer(text.encode(), np.uint8) == ord("1"))
            half = np.frombuffer(bytes(blob[4:]), ">f2")
            if len(text) != model.bits:
                yield f"code of item {id_}: not {model.bits} bits"
            if embedding_crc(code, half) != crc:
                yield f"code or feature of item {id_}: wrong checksum"
            elif len(half) != model.dim or not np.isfinite(half).all():
                yield f"feature of item {id_}: not {model.dim} finite numbers"
        for name, there in (("code", with_code), ("feature", with_feature)):
            if odd := set(with_item) ^ set(there):
                yield f"{len(odd)} items without a {name}, or {name}s without an item"

    def _in_blocks(self, text: str, key: str) -> Iterator[tuple[Any, ...]]:
        last = -(2**63)
        while rows := self._binary(
            f"SELECT * FROM ({text}) AS part WHERE {key} > %s ORDER BY {key} LIMIT %s",
            (last, BLOCK),
        ):
            last = rows[-1][0]
            yield from rows


def _partitions(url: Url) -> int:
    text = url.settings.get("partitions", str(PARTITIONS))
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise StoreError(f"{url}: partitions must be from 1 to 1024, not {text!r:.20}")
    return int(text)


def _is_lost(error: Exception) -> bool:
    """Whether it can help to try again in a while: the server went away, is starting, or has ended
    a transaction in favour of another one."""
    code = getattr(error, "sqlstate", None)
    return code is None or str(code).startswith(("08", "57P", "40", "53300"))
