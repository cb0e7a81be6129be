"""Open or create the store that a path or a URL names."""

from __future__ import annotations

import os
from collections.abc import Mapping

from wingbar.errors import StoreError
from wingbar.index.engine import AnyStore, Place, Url, place_of
from wingbar.index.kept import Kept
from wingbar.index.remote import RemoteStore
from wingbar.index.store import Store


def open_store(place: str | os.PathLike[str] | Url) -> AnyStore:
    """The store at a path or URL. Raises StoreError when there is none."""
    found = place_of(place)
    return open_remote(found) if isinstance(found, Url) else Store.open(found)


def create_store(
    place: str | os.PathLike[str] | Url, model_files: Mapping[str, bytes], kept: Kept = "float16"
) -> AnyStore:
    """A new store that holds the model and keeps features as `kept`. Raises StoreError when
    something is there already, and for a server, which keeps them as float16 only."""
    found = place_of(place)
    require_kept(found, kept)
    if not isinstance(found, Url):
        return Store.create(found, model_files, kept)
    return _kind(found).create(found, model_files)


def require_kept(place: Place, kept: Kept) -> None:
    """Raise StoreError where a new store cannot keep features as `kept`."""
    if isinstance(place, Url) and kept != "float16":
        raise StoreError(
            f"{place} can keep features as float16 only: leave --features {kept} out, or name a "
            "file"
        )


def open_remote(url: Url) -> RemoteStore:
    """The store at a URL. Raises StoreError when there is none."""
    return _kind(url).open(url)


def exists(place: str | os.PathLike[str] | Url) -> bool:
    """Whether there is something at a path, or an index at a URL. Raises StoreError when its
    server cannot be reached."""
    found = place_of(place)
    return _kind(found).exists(found) if isinstance(found, Url) else found.exists()


def _kind(url: Url) -> type[RemoteStore]:
    """The class of stores for a URL; only its own module imports a client library."""
    if url.scheme == "milvus":
        from wingbar.index.milvus import MilvusStore

        return MilvusStore
    from wingbar.index.postgres import PostgresStore

    return PostgresStore
