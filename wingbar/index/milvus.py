"""An index in Milvus, or in a file of Milvus Lite: codes are BINARY_VECTOR with the metric HAMMING.

An index is two collections:

    NAME_meta  key, value: the model's files in pieces, its fingerprint, counters
    NAME       id, key, record (JSON), code, feature; made when the model gives codes

Codes are padded with zeros to whole bytes, which changes no distance. Milvus gives at most 16,384
results, in any order among ties, so a search asks twice: for the distance of the last one that is
wanted, and then for everything up to that distance, by ranges of ids where that is too much. It
cannot rank by a second vector, so the fine stage reads the features of the shortlist.

Milvus has no transactions and no snapshots: a change that is cut off is completed by the same call
again, and only one process may write at a time.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import re
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import ModelError, StoreError, one_line
from wingbar.hamming.codes import Nearest, Packed, agreement, merge_nearest, pack, unpack, words
from wingbar.images import is_utf8
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
from wingbar.index.filters import NEAR_AMONG, Condition, NoColumnError, parse_where, passes
from wingbar.index.memory import CHUNK
from wingbar.index.ranking import TIE_CAP, Fine, SearchOptions
from wingbar.index.remote import BLOCK, RemoteStore
from wingbar.model.model import Embeddings, Model

try:
    import pymilvus
    from pymilvus import DataType, MilvusClient
except ImportError as error:
    raise StoreError(
        f"an index in Milvus needs {error.name}: run pip install 'wingbar[milvus]'"
    ) from None

T = TypeVar("T")

FORMAT = 1
MOST = 16_000  # results that are asked for at a time; Milvus gives 16,384
PAUSES = (0.1, 0.3, 1.0, 3.0)  # seconds before a lost connection is tried again
LITE_SECONDS = 60  # in which the process of a file must have started
_PIECE = 45_000  # bytes of a value, which is text of at most 65,535 characters in base64
_PIECES = 50  # values that are read or written at a time
_ROWS = 1000  # that are written or read by id at a time
_LAST = 2**62
_RECORD = ("id", "record")


class MilvusStore(RemoteStore):
    """An index in Milvus. Every error leaves as a StoreError with the next step."""

    def __init__(self, url: Url, make_file: bool = False) -> None:
        """Connect. A file of Milvus Lite that is not there is made only with `make_file`; without,
        StoreError is raised."""
        super().__init__(url)
        self._meta_name, self._name = f"{url.name}_meta", url.name
        self._require_binary_vectors()
        if not make_file and _lacks_file(url):
            raise StoreError(_no_index(url))
        self._client = self._connect()
        self._made: bool | None = None  # whether the collection of items is there

    # -- open and close

    @classmethod
    def create(cls, url: Url, model_files: Mapping[str, bytes]) -> Self:
        """A new index that holds the model. Raises StoreError when there is one of that name."""
        store = cls(url, make_file=True)
        try:
            if store._is_there():
                raise StoreError(f"{url} exists already: name another index, or drop it first")
            store._make_meta()
            store._set_meta("format", str(FORMAT))
            store._set_meta("id", uuid.uuid4().hex)
            store._set_meta("next", "1")
            store._set_meta("version", "0")
            store.set_model(model_files)
            store._set_meta("complete", "yes")  # last: what was cut off is no index
        finally:
            store.close()
        return cls.open(url)

    @classmethod
    def open(cls, url: Url) -> Self:
        """The index at `url`. Raises StoreError when there is none."""
        store = cls(url)
        try:
            if not store._is_there():
                raise StoreError(_no_index(url))
            store._run(lambda client: client.load_collection(store._meta_name))
            if store._has_items():
                store._run(lambda client: client.load_collection(store._name))
            found = int(store._meta("format"))
            if found > FORMAT:
                raise StoreError(
                    f"{url} has format {found}, this wingbar reads {FORMAT}: upgrade wingbar"
                )
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def exists(cls, url: Url) -> bool:
        """Whether there is an index at `url`."""
        if _lacks_file(url):
            return False
        store = cls(url)
        try:
            return store._is_there()
        finally:
            store.close()

    def close(self) -> None:
        """Close the connection."""
        super().close()
        with self._lock, suppress(Exception):
            self._client.close()

    def _connect(self) -> MilvusClient:
        url = self._url
        try:
            if "lite" in url.settings:
                with warnings.catch_warnings():  # it uses pkg_resources, which is outdated
                    warnings.simplefilter("ignore")
                    return MilvusClient(url.server, timeout=LITE_SECONDS)
            return MilvusClient(
                url.server,
                token=url.settings.get("token", ""),
                db_name=url.settings.get("database", ""),
                timeout=10,
            )
        except Exception as error:  # pymilvus has many kinds, and some of gRPC
            text = one_line(error)
            if "lite" in url.settings:
                raise StoreError(
                    f"{url} cannot be opened ({text}): Milvus Lite needs pip install "
                    "'milvus-lite>=2.5.1,<3' 'setuptools<82', and one process has a file open"
                ) from None
            raise StoreError(
                f"{url} cannot be reached ({text}): is the server running, and the address right?"
            ) from None

    def _require_binary_vectors(self) -> None:
        """Raise StoreError for Milvus Lite 3, which was written anew without binary vectors."""
        if "lite" not in self._url.settings:
            return
        try:
            version = importlib.metadata.version("milvus-lite")
        except importlib.metadata.PackageNotFoundError:
            return
        if int(version.split(".")[0]) >= 3:
            raise StoreError(
                f"milvus-lite {version} has no binary vectors: install 'milvus-lite>=2.5.1,<3', "
                "or name a Milvus server"
            )

    def _is_there(self) -> bool:
        if not self._run(lambda client: client.has_collection(self._meta_name)):
            return False
        self._run(lambda client: client.load_collection(self._meta_name))
        return self._meta_or_none("complete") is not None

    # -- collections

    def _make_meta(self) -> None:
        def make(client: MilvusClient) -> None:
            if client.has_collection(self._meta_name):
                client.drop_collection(self._meta_name)
            schema = client.create_schema(auto_id=False)
            schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=200)
            schema.add_field("value", DataType.VARCHAR, max_length=65_535)
            schema.add_field("none", DataType.FLOAT_VECTOR, dim=2)  # Milvus demands a vector
            index = client.prepare_index_params()
            index.add_index("none", index_type="FLAT", metric_type="L2")
            client.create_collection(
                self._meta_name, schema=schema, index_params=index, consistency_level="Strong"
            )

        self._run(make)

    def _make_items(self, bits: int, dim: int) -> None:
        def make(client: MilvusClient) -> None:
            if client.has_collection(self._name):
                client.drop_collection(self._name)
            schema = client.create_schema(auto_id=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("key", DataType.VARCHAR, max_length=32)
            schema.add_field("record", DataType.JSON)
            schema.add_field("code", DataType.BINARY_VECTOR, dim=8 * _bytes_of(bits))
            schema.add_field("feature", DataType.FLOAT_VECTOR, dim=max(dim, 2))
            index = client.prepare_index_params()
            index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
            index.add_index("feature", index_type="FLAT", metric_type="IP")
            client.create_collection(
                self._name, schema=schema, index_params=index, consistency_level="Strong"
            )

        self._run(make)
        self._made = True

    def _has_items(self) -> bool:
        """Whether there is a collection of items, which the first model with codes makes."""
        if self._made is None or not self._made:
            self._made = bool(self._run(lambda client: client.has_collection(self._name)))
        return self._made

    def _run(self, work: Callable[[MilvusClient], T]) -> T:
        """The result of a call, repeated with growing pauses when the connection is lost."""
        with self._lock:
            for pause in (*PAUSES, None):
                try:
                    return work(self._client)
                except Exception as error:  # pymilvus has many kinds, and some of gRPC
                    if isinstance(error, StoreError):
                        raise
                    if pause is None or not _is_lost(error):
                        raise self._explained(error) from error
                    time.sleep(pause)
        raise AssertionError  # the last turn returned or raised

    def _explained(self, error: Exception) -> StoreError:
        text = one_line(error)
        if re.search(r"permission|privilege|auth", text, re.IGNORECASE):
            return StoreError(f"{self.path}: no rights ({text}): connect as another user")
        if re.search(r"binary|BinaryVector", text):
            return StoreError(
                f"{self.path} has no binary vectors ({text}): install 'milvus-lite>=2.5.1,<3', or "
                "name a Milvus server"
            )
        if _is_lost(error):
            return StoreError(f"{self.path} cannot be reached ({text}): is the server running?")
        return StoreError(f"{self.path}: Milvus refused ({text})")

    # -- meta

    def _meta_or_none(self, key: str) -> str | None:
        return self._metas([key]).get(key)

    def _metas(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of those keys that there are."""
        found = self._run(
            lambda client: client.query(
                self._meta_name,
                filter=f"key in {json.dumps(list(keys))}",
                output_fields=["key", "value"],
                limit=len(keys),
            )
        )
        return {str(row["key"]): str(row["value"]) for row in found}

    def _meta(self, key: str) -> str:
        value = self._meta_or_none(key)
        if value is None:
            raise StoreError(f"{self.path} is damaged (no {key} in it): make it again")
        return value

    def _set_meta(self, key: str, value: str) -> None:
        self._set_metas({key: value})

    def _set_metas(self, values: Mapping[str, str]) -> None:
        rows = [{"key": key, "value": value, "none": [0.0, 0.0]} for key, value in values.items()]
        self._run(lambda client: client.upsert(self._meta_name, rows))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A change by this process; Milvus has no transactions."""
        with self._lock:
            yield
            self._set_meta("version", str(int(self._meta("version")) + 1))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Milvus has no snapshots: nothing is held back."""
        with self._lock:
            yield

    def retried(self, work: Callable[[], T]) -> T:
        """Every call is repeated by itself."""
        return work()

    def version(self) -> tuple[int, ...]:
        """Changes whenever something was written."""
        return (int(self._meta("version")),)

    def identity(self) -> str:
        """A random number from when the index was made."""
        return self._meta("id")

    def copied_from(self) -> str | None:
        """What this index is a copy of, by the mark that `copy` left."""
        return self._meta_or_none("copied_from")

    def set_copied_from(self, source: str) -> None:
        """Leave that mark."""
        self._set_meta("copied_from", source)

    def is_half_copied(self) -> bool:
        """Whether this is a copy that was begun and not finished."""
        return self._meta_or_none("half_copied") == "1"

    def set_half_copied(self, is_half: bool) -> None:
        """Say so, or that it is whole."""
        self._set_meta("half_copied", "1" if is_half else "0")

    @property
    def engine(self) -> str:
        """The versions of the server and of the client."""
        if "lite" in self._url.settings:
            lite = importlib.metadata.version("milvus-lite")
            return f"Milvus Lite {lite}, pymilvus {pymilvus.__version__}"
        version = self._run(lambda client: client.get_server_version())
        return f"Milvus {version}, pymilvus {pymilvus.__version__}"

    # -- the model

    def model_files(self) -> dict[str, bytes]:
        """The files of the model by name."""
        sizes: dict[str, int] = json.loads(self._meta("files"))
        files = {}
        for name, size in sizes.items():
            keys = [f"file {name} {i}" for i in range(-(-size // _PIECE))]
            found: dict[str, str] = {}
            for some in _parts(keys, _PIECES):
                found.update(self._metas(some))
            if missing := [key for key in keys if key not in found]:
                raise StoreError(f"{self.path} is damaged (no {missing[0]} in it): make it again")
            files[name] = b"".join(base64.b64decode(found[key]) for key in keys)
        return files

    def model_fingerprint(self) -> str:
        """sha256 of model.json, as it was stored beside it."""
        return self._meta("fingerprint")

    def set_model(self, files: Mapping[str, bytes]) -> None:
        """Replace the model. Raises StoreError, and changes nothing, where there are items and the
        model gives codes or features of other lengths than theirs."""
        try:
            model = Model(files)
            shape = f"{model.bits} {model.dim}" if model.gives_codes else None
        except ModelError:
            shape = None  # what is no model gives no codes
        changes = shape is not None and self._meta_or_none("shape") != shape
        if changes and self._has_items() and not self.is_empty():
            raise StoreError(
                f"{self.path}: Milvus cannot change the length of codes in place: make a new index "
                "with --bits"
            )
        pieces = {
            f"file {name} {place // _PIECE}": base64.b64encode(
                data[place : place + _PIECE]
            ).decode()
            for name, data in files.items()
            for place in range(0, len(data), _PIECE)
        }
        for some in _parts(list(pieces), _PIECES):
            self._set_metas({key: pieces[key] for key in some})
        self._set_meta("files", json.dumps({name: len(data) for name, data in files.items()}))
        if changes and shape is not None:
            self._make_items(*map(int, shape.split()))
            self._set_meta("shape", shape)
        self._set_meta("fingerprint", hashlib.sha256(files["model.json"]).hexdigest())

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
        known = self._of_keys([_key(items[i].path) for i in chosen])
        next_id = int(self._meta("next"))
        wanted = []
        for i in chosen:
            old = known.get(items[i].path)
            if ids is not None:
                wanted.append(int(ids[i]))
            elif old is not None and old[1].content == items[i].content:
                wanted.append(old[0])
            else:
                wanted.append(next_id)
                next_id += 1
        self._set_meta("next", str(max(next_id, max(wanted) + 1)))  # first: no id is used twice
        halves = features.astype(np.float16).astype(np.float32)
        rows = [
            {
                "id": id_,
                "key": _key(items[i].path),
                "record": _record(items[i], packed[i], halves[i]),
                "code": _code_bytes(packed[i : i + 1], bits),
                "feature": _padded(halves[i]),
            }
            for id_, i in zip(wanted, chosen, strict=True)
        ]
        self._upsert(rows)
        gone = {id_ for id_, _ in known.values()} - set(wanted)
        self.delete(gone)
        self.forget(items[i].path for i in chosen)

    def _upsert(self, rows: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(rows), _ROWS):
            self._upsert_part(list(rows[start : start + _ROWS]))

    def _upsert_part(self, rows: list[dict[str, Any]]) -> None:
        self._run(lambda client: client.upsert(self._name, rows))

    def update(self, changes: Mapping[int, Item]) -> None:
        """Replace the records of items by id; code and feature stay. Inside `writing`."""
        rows = self._get(list(changes), ("id", "record", "code", "feature"))
        self._upsert(
            [
                {
                    "id": row["id"],
                    "key": _key(changes[row["id"]].path),
                    "record": {
                        **_fields(changes[row["id"]]),
                        "embedding": row["record"]["embedding"],
                    },
                    "code": _bytes(row["code"]),
                    "feature": list(row["feature"]),
                }
                for row in rows
            ]
        )
        self.forget(item.path for item in changes.values())

    def delete(self, ids: Iterable[int], by_hand: bool = False) -> int:
        """Remove items by id and return their number; unknown ids are skipped. `by_hand` keeps in
        mind which files they had. Inside `writing`."""
        wanted = self.existing(ids)
        if by_hand:
            gone = [item for item in self.items(wanted) if item.size != NO_FILE]
            self.remember(
                {item.path: Removed(item.size, item.mtime, item.content) for item in gone}
            )
        for start in range(0, len(wanted), _ROWS):
            self._delete_part(wanted[start : start + _ROWS])
        return len(wanted)

    def _delete_part(self, ids: list[int]) -> None:
        self._run(lambda client: client.delete(self._name, ids=ids))

    def removed(self) -> dict[str, Removed]:
        """What was removed by hand, by path."""
        found = self._run(
            lambda client: client.query(
                self._meta_name,
                filter='key like "removed %"',
                output_fields=["value"],
                limit=MOST,
            )
        )
        rows = sorted(json.loads(row["value"]) for row in found)
        return {
            path: Removed(int(size), int(mtime), bytes.fromhex(content))
            for path, size, mtime, content in rows
        }

    def remember(self, removed: Mapping[str, Removed]) -> None:
        """Keep in mind that the items of these paths were removed by hand. Inside `writing`."""
        if removed:
            self._set_metas(
                {
                    f"removed {_key(path)}": json.dumps(
                        [path, str(one.size), str(one.mtime), one.content.hex()]
                    )
                    for path, one in removed.items()
                }
            )

    def forget(self, paths: Iterable[str]) -> None:
        """No longer keep in mind that items of these paths were removed. Inside `writing`."""
        keys = [f"removed {_key(path)}" for path in paths]
        for some in _parts(keys, _ROWS):
            if there := list(self._metas(some)):
                self._forget_keys(there)

    def _forget_keys(self, keys: list[str]) -> None:
        self._run(lambda client: client.delete(self._meta_name, ids=keys))

    def ids_below(self, folder: str) -> list[int]:
        """Ids of the items below a folder, ascending."""
        start = folder.rstrip(os.sep) + os.sep
        return [id_ for id_, item in self.all_items() if item.path.startswith(start)]

    def clear_codes(self) -> None:
        """Nothing: `replace_embeddings` replaces all codes."""

    def replace_embeddings(
        self, packed: Packed, features: NDArray[np.float32], ids: NDArray[np.int64], bits: int
    ) -> None:
        """New codes [N, w] and features [N, d] for the items `ids` [N]. Inside `writing`."""
        items = self.items(ids.tolist())
        self.add(items, packed, features, bits, ids.tolist())

    # -- search

    def search_codes(
        self, queries: Sequence[Embeddings], options: SearchOptions, fine: Fine
    ) -> list[Shortlist]:
        """Both stages of a search; see `Engine.search_codes`."""
        require_model(self, queries, self.model_fingerprint())
        conditions = parse_where(options.where)
        filters = self._filters(conditions) if conditions else [""]
        return [self._search(query, options, fine, filters) for query in queries]

    def _search(
        self, query: Embeddings, options: SearchOptions, fine: Fine, filters: Sequence[str]
    ) -> Shortlist:
        start = time.perf_counter()
        want = options.k if fine == "none" else max(options.k, options.shortlist)
        limit = want if fine == "none" else TIE_CAP * want
        radius = query.bits if options.radius is None else min(options.radius, query.bits)
        found = [self._nearest(query, want, limit, radius, text) for text in filters]
        near = merge_nearest(found, want, limit)
        lap = time.perf_counter()
        scores: NDArray[np.float32] | None = None
        ids = near.ids.tolist()
        if fine == "asymmetric":
            scores = agreement(query.logits[0], self.codes_of(ids, query.bits), query.bits)
        elif fine != "none":
            features = self.features(ids, query.features.shape[1]).astype(np.float32)
            scores = features @ query.features[0]
        end = time.perf_counter()
        return Shortlist(near, scores, (lap - start) * 1000, (end - lap) * 1000)

    def _nearest(self, query: Embeddings, want: int, limit: int, radius: int, test: str) -> Nearest:
        """The nearest codes among the items that pass a test, with all ties at the last distance
        up to `limit`."""
        code = _code_bytes(query.codes, query.bits)
        none = np.empty(0, np.int64)
        if not self._has_items():
            return Nearest(none, none, False)
        if want < MOST:
            first = self._hits(code, want, radius, test)
            if not first:
                return Nearest(none, none, False)
            if len(first) == want:
                radius = first[-1][0]
        pairs = self._within(code, radius, test, 0, _LAST)
        pairs.sort()
        distances = np.array([distance for distance, _ in pairs], np.int64)
        ids = np.array([id_ for _, id_ in pairs], np.int64)
        return merge_nearest([Nearest(ids, distances, False)], want, limit)

    def _within(
        self, code: bytes, radius: int, test: str, low: int, high: int
    ) -> list[tuple[int, int]]:
        """All (distance, id) pairs up to a radius with ids from `low` to `high`, by halves where
        there are too many for one answer."""
        span = "" if (low, high) == (0, _LAST) else f"id >= {low} and id < {high}"
        both = " and ".join(f"({part})" for part in (span, test) if part)
        found = self._hits(code, MOST, radius, both)
        if len(found) < MOST:
            return found
        if high == _LAST:
            high = int(self._meta("next")) + 1
        middle = (low + high) // 2
        return self._within(code, radius, test, low, middle) + self._within(
            code, radius, test, middle, high
        )

    def _hits(self, code: bytes, limit: int, radius: int, test: str) -> list[tuple[int, int]]:
        [found] = self._run(
            lambda client: client.search(
                self._name,
                data=[code],
                anns_field="code",
                filter=test,
                limit=limit,
                # the radius is exclusive in Milvus
                search_params={"metric_type": "HAMMING", "params": {"radius": radius + 1}},
            )
        )
        return [(round(hit["distance"]), int(hit["id"])) for hit in found]

    def info(self, bits: int | None) -> StoreInfo:
        """What the collection holds; Milvus does not tell its size."""
        unique = 0
        if bits is not None:
            packed = self.codes(bits)[1]
            unique = len(np.unique(packed, axis=0)) if len(packed) else 0
        return StoreInfo(self.count(), len(self.label_counts()), unique, 0, 0)

    # -- read

    def _get(self, ids: Sequence[int], fields: Sequence[str]) -> list[dict[str, Any]]:
        """Rows by id, in any order; ids that are not there are left out."""
        out: list[dict[str, Any]] = []
        if not self._has_items():
            return out
        for start in range(0, len(ids), _ROWS):
            part = list(ids[start : start + _ROWS])
            out += self._query(f"id in {part}", fields, len(part))
        return out

    def _query(self, test: str, fields: Sequence[str], limit: int) -> list[dict[str, Any]]:
        return list(
            self._run(
                lambda client: client.query(
                    self._name, filter=test, output_fields=list(fields), limit=limit
                )
            )
        )

    def _above(
        self, above: int, size: int, fields: Sequence[str], test: str = ""
    ) -> list[dict[str, Any]]:
        """Up to `size` rows with greater ids than `above`, by ascending id, that pass a test.

        Milvus gives rows in any order, so the range of ids is widened until it holds enough.
        """
        if not self._has_items():
            return []
        rows: list[dict[str, Any]] = []
        last, low = int(self._meta("next")), max(above, 0)
        while low + 1 < last and len(rows) < size:
            high = min(low + size, last)
            both = f"id > {low} and id <= {high}" + (f" and ({test})" if test else "")
            found = self._query(both, fields, size)
            rows += sorted(found, key=lambda row: int(row["id"]))
            low = high
        return rows[:size]

    def _all(self, fields: Sequence[str], test: str = "") -> Iterator[dict[str, Any]]:
        above = 0
        while rows := self._above(above, BLOCK, fields, test):
            above = int(rows[-1]["id"])
            yield from rows

    def _of_keys(self, keys: Sequence[str]) -> dict[str, tuple[int, Item]]:
        """Ids and items by path."""
        out: dict[str, tuple[int, Item]] = {}
        if not self._has_items():
            return out
        for start in range(0, len(keys), _ROWS):
            part = json.dumps(list(keys[start : start + _ROWS]))
            for row in self._query(f"key in {part}", _RECORD, MOST):
                item = _item(row["record"])
                out[item.path] = int(row["id"]), item
        return out

    def _in_order(self, ids: Sequence[int], fields: Sequence[str]) -> list[dict[str, Any]]:
        rows = {int(row["id"]): row for row in self._get(ids, ("id", *fields))}
        for id_ in ids:
            if id_ not in rows:
                raise StoreError(f"{self.path} holds no item {id_}")
        return [rows[id_] for id_ in ids]

    def codes(
        self, bits: int, chunks: Iterable[int] | None = None
    ) -> tuple[NDArray[np.int64], Packed]:
        """Ids [N], ascending, and codes [N, w] of all items, or of those in `chunks`."""
        wanted = None if chunks is None else set(chunks)
        rows = [
            (int(row["id"]), _bytes(row["code"]))
            for row in self._all(("id", "code"))
            if wanted is None or int(row["id"]) // CHUNK in wanted
        ]
        ids = np.array([row[0] for row in rows], np.int64)
        return ids, _packed([row[1] for row in rows], bits)

    def codes_of(self, ids: Sequence[int], bits: int) -> Packed:
        """Codes [N, w] of the items `ids`, in their order. Raises StoreError for an id that is not
        there."""
        return _packed([_bytes(row["code"]) for row in self._in_order(ids, ("code",))], bits)

    def features(self, ids: Sequence[int], dim: int) -> NDArray[np.float16]:
        """Features [N, d] of the items `ids`, in their order. Raises StoreError when one has
        none."""
        rows = [row["feature"][:dim] for row in self._in_order(ids, ("feature",))]
        return np.array(rows, np.float32).astype(np.float16).reshape(len(ids), dim)

    def feature_blocks(self, dim: int, size: int) -> Iterator[NDArray[np.float16]]:
        """Features of all items by ascending id, in blocks [at most size, d]."""
        above = 0
        while rows := self._above(above, min(size, BLOCK), ("id", "feature")):
            above = int(rows[-1]["id"])
            block = np.array([row["feature"][:dim] for row in rows], np.float32)
            yield block.astype(np.float16)

    def rows(self, above: int, size: int, bits: int, dim: int) -> list[Row]:
        """Up to `size` items with greater ids than `above`, by ascending id."""
        found = self._above(above, min(size, BLOCK), ("id", "record", "code", "feature"))
        packed = _packed([_bytes(row["code"]) for row in found], bits)
        return [
            Row(
                int(row["id"]),
                _item(row["record"]),
                packed[i],
                np.array(row["feature"][:dim], np.float32).astype(np.float16),
            )
            for i, row in enumerate(found)
        ]

    def items(self, ids: Sequence[int]) -> list[Item]:
        """The items `ids`, in their order. Raises StoreError when one is not there."""
        return [_item(row["record"]) for row in self._in_order(ids, ("record",))]

    def all_items(self) -> Iterator[tuple[int, Item]]:
        """Every item with its id, by ascending id."""
        for row in self._all(_RECORD):
            yield int(row["id"]), _item(row["record"])

    def ids(self) -> NDArray[np.int64]:
        """The ids [N] of all items, ascending."""
        return np.array([int(row["id"]) for row in self._all(("id",))], np.int64)

    def ids_of_paths(self, paths: Iterable[str]) -> dict[str, int]:
        """Ids of those `paths` that are in the index."""
        wanted = list(paths)
        keys = [_key(path) for path in wanted if is_utf8(path)]
        found = self._of_keys(keys)
        return {path: found[path][0] for path in wanted if path in found}

    def existing(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are in the index."""
        wanted = [id_ for id_ in ids if 0 < id_ < 2**63]
        there = {int(row["id"]) for row in self._get(wanted, ("id",))}
        return [id_ for id_ in wanted if id_ in there]

    def count(self) -> int:
        """The number of items."""
        if not self._has_items():
            return 0
        found = self._run(
            lambda client: client.query(self._name, filter="", output_fields=["count(*)"])
        )
        return int(found[0]["count(*)"])

    def is_empty(self) -> bool:
        """Whether the index has no items."""
        return self.count() == 0

    # -- filters

    def matching(self, conditions: Sequence[Condition]) -> NDArray[np.int64]:
        """Ids [N], ascending, of the items that pass the filter, as `filters.matching`: every
        record is read, and looked at here."""
        self._require_columns(conditions)
        ids = [id_ for id_, item in self.all_items() if passes(item, conditions)]
        return np.array(ids, np.int64)

    def _filters(self, conditions: Sequence[Condition]) -> list[str]:
        """The filter as tests that Milvus understands, of which an item passes one: labels and
        texts as they are; for all else the ids of the items that pass, a thousand at a time."""
        if all(c.field == "label" and c.operator == "=" for c in conditions):
            labels = json.dumps([c.value for c in conditions], ensure_ascii=False)
            return [f'record["label"] in {labels}']
        ids = self.matching(conditions).tolist()
        return [f"id in {ids[i : i + _ROWS]}" for i in range(0, len(ids), _ROWS)] or ["id < 0"]

    def values_of(self, field: str) -> list[str]:
        """Different values of a field other than the path, at most NEAR_AMONG of them."""
        values: set[str] = set()
        for _, item in self.all_items():
            value = item.label if field == "label" else item.columns.get(field)
            if value and len(values) < NEAR_AMONG:
                values.add(value)
        return sorted(values)

    def _require_columns(self, conditions: Sequence[Condition]) -> None:
        """Raise NoColumnError for a column that no item has."""
        wanted = {c.field for c in conditions} - {"label", "path"}
        if not wanted:
            return
        columns: set[str] = set()
        for _, item in self.all_items():
            columns.update(item.columns)
            if wanted <= columns:
                return
        raise NoColumnError(sorted(wanted - columns)[0], sorted(columns))

    # -- checks

    def problems(self) -> Iterator[str]:
        """What is wrong with the index, one line each."""
        try:
            model = Model(self.model_files())
        except ModelError as error:
            yield f"model: {error}"
            return
        if self.model_fingerprint() != model.fingerprint:
            yield "model: model.json is not the one that was stored"
        if not model.gives_codes:
            return
        count = 0
        for row in self._all(("id", "record", "code", "feature")):
            count += 1
            item, record = _item(row["record"]), row["record"]
            half = np.array(row["feature"][: model.dim], np.float32)
            packed = _packed([_bytes(row["code"])], model.bits)[0]
            if record["crc"] != _crc(_plain(item)):
                yield f"item {row['id']} ({item.path}): wrong checksum"
            if record["embedding"] != _embedding_crc(packed, half):
                yield f"code or feature of item {row['id']}: wrong checksum"
            elif not np.isfinite(half).all():
                yield f"feature of item {row['id']}: not {model.dim} finite numbers"
        if count != self.count():
            yield f"{abs(count - self.count())} items cannot be listed"


def _lacks_file(url: Url) -> bool:
    """Whether this is Milvus Lite without its file, which connecting would make."""
    return "lite" in url.settings and not os.path.exists(url.server)


def _no_index(url: Url) -> str:
    """What to say where there is none."""
    return f"no index at {url}: make one with wingbar index {url} IMAGES"


def _is_lost(error: Exception) -> bool:
    """Whether the server may be there again in a while."""
    text = str(error)
    return bool(re.search(r"UNAVAILABLE|DEADLINE_EXCEEDED|connect failed|not ready", text))


# -- forms of values


def _parts(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _bytes_of(bits: int) -> int:
    return -(-bits // 8)


def _code_bytes(packed: Packed, bits: int) -> bytes:
    """A code [1, w] as whole bytes, padded with zeros."""
    return np.packbits(unpack(packed.reshape(1, -1), bits), axis=1).tobytes()


def _packed(codes: Sequence[bytes], bits: int) -> Packed:
    if not codes:
        return np.empty((0, words(bits)), np.uint64)
    rows = np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), _bytes_of(bits))
    return pack(np.unpackbits(rows, axis=1)[:, :bits].astype(bool))


def _bytes(code: object) -> bytes:
    """A binary vector as pymilvus gives it: bytes, or a list of bytes."""
    if isinstance(code, (list, tuple)):
        return b"".join(part if isinstance(part, bytes) else bytes([part]) for part in code)
    assert isinstance(code, bytes)
    return code


def _padded(feature: NDArray[np.float32]) -> list[float]:
    """Milvus has no vectors of one number."""
    return [*feature.tolist(), *([0.0] * (2 - len(feature)))]


def _key(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:32]


def _plain(item: Item) -> list[Any]:
    content = item.content.hex()
    columns = dict(sorted(item.columns.items()))
    return [item.path, item.label, columns, str(item.size), str(item.mtime), content]


def _fields(item: Item) -> dict[str, Any]:
    names = ("path", "label", "columns", "size", "mtime", "content")
    plain = _plain(item)
    return {**dict(zip(names, plain, strict=True)), "crc": _crc(plain)}


def _record(item: Item, packed: NDArray[np.uint64], half: NDArray[np.float32]) -> dict[str, Any]:
    return {**_fields(item), "embedding": _embedding_crc(packed, half)}


def _crc(plain: Sequence[Any]) -> int:
    return zlib.crc32(json.dumps(plain, ensure_ascii=False).encode())


def _embedding_crc(packed: NDArray[np.uint64], half: NDArray[np.float32]) -> int:
    code = packed.astype("<u8").tobytes()
    return zlib.crc32(half.astype("<f2").tobytes(), zlib.crc32(code))


def _item(record: object) -> Item:
    fields = json.loads(record) if isinstance(record, (str, bytes)) else record
    assert isinstance(fields, dict)
    return Item(
        fields["path"],
        fields["label"],
        fields["columns"],
        int(fields["size"]),
        int(fields["mtime"]),
        bytes.fromhex(fields["content"]),
    )
