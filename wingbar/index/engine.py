"""What an index is kept in: a file, or a store on a server, behind the same few verbs.

The five verbs of `Engine` are what a search needs: add, delete, search_codes, features, info. The
records that `Index` brings up to date are in `AnyStore`. Three stores have both: `store.py` (one
SQLite file), `postgres.py` (PostgreSQL with pgvector) and `milvus.py`.

Shapes: N items, P of them in a shortlist, w words per code, d dim.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import StoreError
from wingbar.hamming.codes import Codes, Nearest, Packed
from wingbar.index.filters import Condition
from wingbar.index.kept import Kept
from wingbar.index.ranking import Fine, SearchOptions
from wingbar.model.model import Embeddings, Model, check_same

T = TypeVar("T")

NO_FILE = -1  # the size of an item that is no file
NAME = "wingbar"  # of an index on a server, where the URL gives none
_SCHEMES = {"postgres": "postgresql", "postgresql": "postgresql", "milvus": "milvus"}
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")


@dataclass(frozen=True)
class Item:
    """One image of an index as it is stored, without code and feature.

    path: absolute path, or array:HASH for a picture that is no file.
    label: its class, if any.
    columns: further columns of its row in a CSV file.
    size: bytes of the file, or NO_FILE.
    mtime: time of its last change in nanoseconds since 1970.
    content: sha256 of the file.
    """

    path: str
    label: str | None
    columns: Mapping[str, str] = field(hash=False)
    size: int
    mtime: int
    content: bytes


class Removed(NamedTuple):
    """The file of an item that was removed by hand, as it was then; its fields are as in Item."""

    size: int
    mtime: int
    content: bytes


@dataclass(frozen=True)
class Url:
    """An index on a server.

    scheme: "postgresql" or "milvus".
    server: what the client library connects to, with the password: a connection URI of PostgreSQL,
        or the address of a Milvus server or the path of a Milvus Lite file.
    name: of the index there.
    shown: the URL without the password, for messages.
    settings: what stood behind the "?" and is wingbar's own, such as partitions.
    """

    scheme: str
    server: str
    name: str
    shown: str
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.shown

    @property
    def stem(self) -> str:
        """The name of the index, as a file's name without its ending."""
        return self.name


Place = Path | Url


def place_of(text: str | os.PathLike[str] | Url) -> Place:
    """The file or the URL that `text` names. Raises StoreError for a URL that no store has."""
    if isinstance(text, Url):
        return text
    plain = os.fspath(text)
    scheme, colon, rest = plain.partition(":")
    if colon and scheme in _SCHEMES:
        return _postgresql(rest) if _SCHEMES[scheme] == "postgresql" else _milvus(rest)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", plain):
        raise StoreError(
            f"no index can be kept at {scheme}://: name a file, postgresql://HOST/DATABASE/NAME "
            "or milvus://HOST/NAME"
        )
    return Path(plain)


def _postgresql(rest: str) -> Url:
    if not rest.startswith("//"):
        raise StoreError("write postgresql://USER@HOST/DATABASE/NAME, with two slashes")
    address, _, query = rest[2:].partition("?")
    netloc, *parts = address.split("/")
    if len(parts) > 2:
        raise StoreError(f"postgresql://{_public(netloc)}/... has more parts than DATABASE/NAME")
    database = parts[0] if parts else ""
    name = _checked_name(unquote(parts[1]) if len(parts) > 1 and parts[1] else NAME)
    given = parse_qsl(query, keep_blank_values=True)
    own = {key: value for key, value in given if key == "partitions"}
    others = urlencode([pair for pair in given if pair[0] not in own])
    server = f"postgresql://{netloc}/{database}" + (f"?{others}" if others else "")
    return Url("postgresql", server, name, f"postgresql://{_public(netloc)}/{database}/{name}", own)


def _milvus(rest: str) -> Url:
    if rest.startswith("///") or not rest.startswith("//"):  # a file
        path = unquote(rest[2:] if rest.startswith("///") else rest)
        if not path:
            raise StoreError("write milvus://HOST/NAME, or milvus:FILE.db for Milvus Lite")
        return Url("milvus", path, NAME, f"milvus:{path}", {"lite": "yes"})
    address, _, query = rest[2:].partition("?")
    netloc, *parts = address.split("/")
    parts = [unquote(part) for part in parts if part]
    if len(parts) > 2:
        raise StoreError(f"milvus://{_public(netloc)}/... has more parts than DATABASE/NAME")
    name = _checked_name(parts[-1] if parts else NAME)
    settings = dict(parse_qsl(query))
    settings["database"] = parts[0] if len(parts) == 2 else ""
    user, _, host = netloc.rpartition("@")
    settings["token"] = unquote(user)
    secure = settings.get("secure") in ("true", "yes", "1")
    server = ("https://" if secure else "http://") + (
        host if re.search(r":\d+$", host) else f"{host}:19530"
    )
    shown = "/".join([f"milvus://{_public(netloc)}", *parts[:-1], name])
    return Url("milvus", server, name, shown, settings)


def _public(netloc: str) -> str:
    """USER@HOST without the password."""
    user, at, host = netloc.rpartition("@")
    return f"{user.partition(':')[0]}{at}{host}"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"{name!r:.60} cannot name an index on a server: use at most 48 of a to z, 0 to 9 and "
            "_, and start with a letter"
        )
    return name


class Shortlist(NamedTuple):
    """What a store found for one query.

    near: the nearest codes, as `ranking.coarse` defines them.
    scores: what the fine mode orders them by, [P] float32 in [-1, 1]; None for "none".
    coarse_ms, fine_ms: milliseconds of the two stages.
    """

    near: Nearest
    scores: NDArray[np.float32] | None
    coarse_ms: float
    fine_ms: float


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    items: number of items.
    labels: number of distinct labels.
    unique_codes: number of distinct codes.
    search_bytes: memory that a search keeps for the codes in this process, in bytes.
    bytes: what the store takes on its disk, in bytes; 0 where that cannot be told.
    """

    items: int
    labels: int
    unique_codes: int
    search_bytes: int
    bytes: int


class Engine(Protocol):
    """The five verbs of a store: what searching it needs."""

    def add(
        self,
        items: Sequence[Item],
        packed: Packed,
        features: NDArray[np.floating],
        bits: int,
        ids: Sequence[int] | None = None,
    ) -> None:
        """Store items with their codes [N, w] and features [N, d], replacing items of the same
        path; with `ids`, under these ids, replacing what has them. Inside `writing`."""

    def delete(self, ids: Iterable[int], by_hand: bool = False) -> int:
        """Remove items by id and return their number; unknown ids are skipped. `by_hand` keeps in
        mind which files they had. Inside `writing`."""

    def search_codes(
        self, queries: Sequence[Embeddings], options: SearchOptions, fine: Fine
    ) -> list[Shortlist]:
        """Both stages of a search, up to the order of the shortlist, which is `ranking.rank`'s.

        Exact: the nearest by (distance, id), at most `options.radius` bits away, of those that pass
        `options.where`; for a fine mode, with all that tie with the last of the shortlist. Raises
        QueryError, naming both, when a query is of another model than the store."""

    def features(self, ids: Sequence[int], dim: int) -> NDArray[np.float16]:
        """Features [N, d] of the items `ids`, in their order. Raises StoreError when one has
        none."""

    def info(self, bits: int | None) -> StoreInfo:
        """What the store holds; `bits` is the length of its codes, None while it has none."""


class Row(NamedTuple):
    """An item as it moves from one store to another: its id, record, code [w] and feature [d]."""

    id: int
    item: Item
    code: NDArray[np.uint64]
    feature: NDArray[np.float16]


class AnyStore(Engine, Protocol):
    """A store with the records of its items and its model."""

    @property
    def path(self) -> Place:
        """The file or the URL."""

    @property
    def epoch(self) -> int:
        """Grows when another index is found in the place of this one."""

    @property
    def engine(self) -> str:
        """What it is, with versions."""

    @property
    def kept(self) -> Kept:
        """How features are kept."""

    @property
    def is_second(self) -> bool:
        """Whether this is the view of a second encoder."""

    @property
    def also(self) -> AnyStore | None:
        """The same items by the second encoder, in the same transactions: those that it has
        encoded. None where there is none."""

    def set_also(self, files: Mapping[str, bytes]) -> None:
        """Take in the model of a second encoder, where there is none. Inside `writing`. Raises
        StoreError where none can be."""

    def waiting(self) -> NDArray[np.int64]:
        """The ids [N], ascending, of the items that this encoder has not encoded yet."""

    @property
    def scratch(self) -> Path:
        """A path on this machine, beside which files that wait for the store are kept."""

    def close(self) -> None:
        """Release it."""

    def writing(self) -> AbstractContextManager[None]:
        """A change that excludes other writers: all of it is stored, or nothing where the store
        has transactions."""

    def held(self) -> AbstractContextManager[None]:
        """A change that takes several transactions."""

    def reading(self) -> AbstractContextManager[None]:
        """A consistent read snapshot, where the store has them."""

    def retried(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is begun anew, after a while, when the connection is lost
        under it."""

    def version(self) -> tuple[int, ...]:
        """Changes whenever something was written."""

    def model_files(self) -> dict[str, bytes]:
        """The files of the model by name."""

    def model_fingerprint(self) -> str:
        """sha256 of model.json."""

    def set_model(self, files: Mapping[str, bytes]) -> None:
        """Replace the model. Inside `writing`."""

    def update(self, changes: Mapping[int, Item]) -> None:
        """Replace the records of items by id; code and feature stay. Inside `writing`."""

    def clear_codes(self) -> None:
        """Drop all codes, before `replace_embeddings` writes others. Inside `writing`."""

    def replace_embeddings(
        self, packed: Packed, features: NDArray[np.float32], ids: NDArray[np.int64], bits: int
    ) -> None:
        """New codes [N, w] and features [N, d] for the items `ids` [N]. Inside `writing`."""

    def searchable(self, bits: int) -> Codes:
        """All codes in memory, brought up to date."""

    def codes(
        self, bits: int, chunks: Iterable[int] | None = None
    ) -> tuple[NDArray[np.int64], Packed]:
        """Ids [N], ascending, and codes [N, w] of all items, or of those in `chunks` of CHUNK
        ids."""

    def codes_of(self, ids: Sequence[int], bits: int) -> Packed:
        """Codes [N, w] of the items `ids`, in their order. Raises StoreError for an id that is not
        there."""

    def all_features(self, dim: int) -> NDArray[np.float16]:
        """Features [N, d] of all items, by ascending id."""

    def feature_blocks(self, dim: int, size: int) -> Iterator[NDArray[np.float16]]:
        """The same in blocks [at most size, d]."""

    def rows(self, above: int, size: int, bits: int, dim: int) -> list[Row]:
        """Up to `size` items with greater ids than `above`, by ascending id."""

    def items(self, ids: Sequence[int]) -> list[Item]:
        """The items `ids`, in their order. Raises StoreError when one is not there."""

    def all_items(self) -> Iterator[tuple[int, Item]]:
        """Every item with its id, by ascending id."""

    def ids(self) -> NDArray[np.int64]:
        """The ids [N] of all items, ascending."""

    def labels(self) -> list[str | None]:
        """The label of every item, by ascending id."""

    def paths(self) -> list[str]:
        """The path of every item, by ascending id."""

    def contents(self) -> list[bytes]:
        """The sha256 of every item's file, by ascending id."""

    def ids_of_paths(self, paths: Iterable[str]) -> dict[str, int]:
        """Ids of those `paths` that are in the index."""

    def ids_below(self, folder: str) -> list[int]:
        """Ids of the items below a folder, ascending."""

    def removed(self) -> dict[str, Removed]:
        """What was removed by hand, by path."""

    def remember(self, removed: Mapping[str, Removed]) -> None:
        """Keep in mind that the items of these paths were removed by hand. Inside `writing`."""

    def forget(self, paths: Iterable[str]) -> None:
        """No longer keep in mind that items of these paths were removed. Inside `writing`."""

    def existing(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are in the index."""

    def count(self) -> int:
        """The number of items."""

    def is_empty(self) -> bool:
        """Whether the index has no items."""

    def label_counts(self) -> dict[str, int]:
        """The number of items of each label; items without a label are left out."""

    def matching(self, conditions: Sequence[Condition]) -> NDArray[np.int64]:
        """Ids [N], ascending, of the items that pass the filter, as `filters.matching`."""

    def why_nothing_passes(self, conditions: Sequence[Condition]) -> str:
        """A sentence on why the filter lets nothing pass, as `filters.why_nothing_passes`."""

    def copied_from(self) -> str | None:
        """What this store is a copy of, by the mark that `copy` left; None if it is none."""

    def set_copied_from(self, source: str) -> None:
        """Leave that mark. Inside `writing`."""

    def is_half_copied(self) -> bool:
        """Whether this is a copy that was begun and not finished."""

    def set_half_copied(self, is_half: bool) -> None:
        """Say so, or that it is whole. Inside `writing`."""

    def identity(self) -> str:
        """A text that no other index has."""


def require_model(store: AnyStore, queries: Sequence[Embeddings], fingerprint: str) -> None:
    """Raise QueryError, naming both models, unless all queries are of the model of the store, which
    has this fingerprint."""
    for query in queries:
        if query.fingerprint != fingerprint:
            check_same(query, Model(store.model_files()), str(store.path))
