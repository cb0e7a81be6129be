"""Changes over HTTP: pictures that are uploaded, stored as files beside the index and indexed;
items that are labelled or deleted."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wingbar import images
from wingbar.data.records import Entry, Images
from wingbar.errors import ImageError, StoreError
from wingbar.files import LEFTOVER_SECONDS, sync_folder, write_whole, writer_runs
from wingbar.index.averaging import average_new
from wingbar.index.second import add_by_second
from wingbar.index.store import Item
from wingbar.model.model import NOT_FINITE
from wingbar.parallel import batched
from wingbar.serving.batching import Batcher
from wingbar.serving.connections import FILE_COLUMN, Reader, ReaderThread
from wingbar.serving.encoder import SUFFIXES, Encoded, Encoder, SharedPicture, TooLargeError
from wingbar.serving.settings import Limits

TRANSACTION = 64  # uploads that are stored together at most
PARTIAL_SECONDS = 600  # age from which a partial file is a leftover, and not being written


@dataclass(frozen=True)
class Upload:
    """A picture to store.

    name: original name of its file.
    data: bytes of its file.
    label: its class, if any.
    """

    name: str
    data: bytes
    label: str | None


class Added(NamedTuple):
    """What became of the pictures of a request, each list in their order.

    stored: id and name of those that are stored and indexed.
    failed: name of the others, and the reason.
    """

    stored: list[tuple[int, str]]
    failed: list[tuple[str, str]]


class Uploads:
    """Adds uploaded pictures to an index, labels and deletes items; the files go to `folder`.

    encoders: encode what is uploaded; a second one may join them, and none leaves.
    refusal: if not None, nothing is added, and it says why.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        encoders: Sequence[Encoder],
        writes: ReaderThread[Reader],
        hashers: Executor,
    ) -> None:
        self.encoders = encoders
        self.refusal: str | None = None
        self._folder, self._writes = folder, writes
        self._batcher = Batcher(
            "wingbar-store",
            _hash,
            self._store,
            hashers,
            batch_size=TRANSACTION,
            gather_seconds=limits.gather_ms / 1000,
            limit=limits.waiting,
        )

    async def add(self, uploads: Sequence[Upload]) -> Added:
        """Encode pictures, store their files and index them. They are on disk when this returns.

        Raises BusyError when too many pictures are waiting, StoreError when the index or its folder
        cannot be written, or this machine encodes otherwise than the one that made the index.
        """
        if self.refusal is not None:
            raise StoreError(self.refusal)
        encoders = self.encoders
        for encoder in encoders:
            encoder.admit(len(uploads))
        pictures = [SharedPicture(upload.data, encoders) for upload in uploads]
        # all of them by one encoder after the other, so that no thread waits for another's decoding
        queued = [encoder.encode(one) for encoder in encoders for one in pictures]
        results = await asyncio.gather(*queued, return_exceptions=True)
        by_encoder = batched(results, len(uploads))
        encoded: list[tuple[Upload, Sequence[Encoded]]] = []
        failed: list[tuple[str, str]] = []
        for upload, *several in zip(uploads, *by_encoder, strict=True):
            answers: list[Encoded] = []
            for result in several:
                if isinstance(result, (ImageError, TooLargeError)):
                    failed.append((upload.name, str(result)))
                    break
                if isinstance(result, BaseException):
                    raise result
                if not np.isfinite(result.answer.raw).all():
                    failed.append((upload.name, NOT_FINITE))
                    break
                answers.append(result.answer)
            else:
                encoded.append((upload, answers))
        # submitted in the order of the request: of equal pictures, the last one counts
        stored = await asyncio.gather(
            *(asyncio.wrap_future(self._batcher.submit(one)) for one in encoded)
        )
        ids = [one.answer for one in stored]
        names = [upload.name for upload, _ in encoded]
        return Added(list(zip(ids, names, strict=True)), failed)

    async def delete(self, id_: int) -> None:
        """Remove an item, and its file if that was uploaded. Raises NotFoundError, StoreError."""
        await self._writes.run(lambda reader: self._delete(reader, [reader.item(id_)], [id_]))

    async def delete_many(self, ids: Sequence[int]) -> int:
        """Remove those of several items that there are, and the files that were uploaded; returns
        how many. Raises StoreError."""

        def delete(reader: Reader) -> int:
            there = reader.store.existing(set(ids))
            self._delete(reader, reader.store.items(there), there)
            return len(there)

        return await self._writes.run(delete)

    async def label(self, ids: Sequence[int], label: str | None) -> int:
        """Give those of several items that there are a label, or take it away; returns how many.
        Raises StoreError."""

        def relabel(reader: Reader) -> int:
            with reader.store.writing():
                there = reader.store.existing(set(ids))
                items = reader.store.items(there)
                reader.store.update(
                    {
                        id_: replace(item, label=label)
                        for id_, item in zip(there, items, strict=True)
                    }
                )
            return len(there)

        return await self._writes.run(relabel)

    def clear_partial(self) -> None:
        """Remove the unfinished files of servers that were killed, and leave those of servers that
        are writing."""
        with suppress(OSError):
            for path in self._folder.glob(".*.partial"):
                # one from the future is old too: the clock was set back
                age = abs(time.time() - path.stat().st_mtime)
                if age > PARTIAL_SECONDS or (age > LEFTOVER_SECONDS and not writer_runs(path)):
                    path.unlink()

    def close(self) -> None:
        """Stop accepting pictures, store those in the queue, join the thread."""
        self._batcher.close()

    def _store(self, batch: list[_Hashed]) -> list[int]:
        """In the batcher's thread: the ids of uploads that came at the same time."""
        return self._writes.submit(lambda reader: self._store_files(reader, batch)).result()

    def _store_files(self, reader: Reader, batch: list[_Hashed]) -> list[int]:
        """Files first, then their items in one transaction, so that no item lacks its file."""
        by_path = {self._folder / one.file_name: one for one in batch}  # of equals, the last one
        new: list[Path] = []
        try:
            self._folder.mkdir(exist_ok=True)
            new += [path for path, one in by_path.items() if _write(path, one.upload.data)]
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
            self._index(reader, by_path, new)
        except OSError as error:
            raise StoreError(
                f"{self._folder.name} cannot be written ({error.strerror}): free some space, then "
                "try again"
            ) from error
        finally:
            ids = reader.store.ids_of_paths(map(str, by_path))
            for path in new:
                if str(path) not in ids:
                    path.unlink(missing_ok=True)
        try:
            return [ids[str(self._folder / one.file_name)] for one in batch]
        except KeyError:  # another server deleted it at this moment
            raise StoreError(
                "an uploaded picture was deleted at the same time: try again"
            ) from None

    def _index(self, reader: Reader, by_path: Mapping[Path, _Hashed], new: list[Path]) -> None:
        """Index files that are in place; those that have to be written again are added to `new`.

        `Index.add` learns the codes of an index that has none yet. It would also add items later,
        but it reads the records of all items first, which takes a second for 100,000 of them.
        """
        with reader.index.snapshot():
            gives_codes = reader.index.model.gives_codes
        if gives_codes:
            self._insert(reader, by_path, new)
        else:
            entries = [Entry(path, one.upload.label, one.columns) for path, one in by_path.items()]
            reader.index.add([Images(entries, "uploads", named=True)], threads=1)
            with reader.store.writing():
                self._restore(by_path, new)

    def _insert(self, reader: Reader, by_path: Mapping[Path, _Hashed], new: list[Path]) -> None:
        """Store items. A picture that is in the index already keeps its id, and its label unless it
        comes with a new one."""
        store = reader.store
        with store.writing(), reader.index.snapshot():
            model = reader.index.model
            self.encoders[0].check(model)
            self._restore(by_path, new)
            known = store.ids_of_paths(map(str, by_path))
            updates: dict[int, Item] = {}
            unknown: list[tuple[Path, _Hashed]] = []
            for path, one in by_path.items():
                id_ = known.get(str(path))
                if id_ is None:
                    unknown.append((path, one))
                    continue
                item = one.item(path)
                label = store.items([id_])[0].label if item.label is None else item.label
                updates[id_] = replace(item, label=label)
            store.update(updates)
            if unknown:
                embeddings = model.embed(np.stack([one.encoded[0].raw for _, one in unknown]))
                items = [one.item(path) for path, one in unknown]
                store.add(items, embeddings.codes, embeddings.features, model.bits)
                average_new(store, model)
                self._insert_by_second(reader, items, [one for _, one in unknown])

    def _insert_by_second(
        self, reader: Reader, items: Sequence[Item], uploads: Sequence[_Hashed]
    ) -> None:
        """What the second encoder has made of new items. Where it has no codes yet, where it came
        while they were being encoded, or is another one than the server runs, they wait for it."""
        rows = [row for row, one in enumerate(uploads) if len(one.encoded) > 1]
        if not rows or len(names := reader.index.encoders) < 2:
            return
        view = reader.by(names[1])
        try:
            self.encoders[1].check(view.model)
        except StoreError:
            return
        if view.model.gives_codes:
            made = view.model.embed(np.stack([uploads[row].encoded[1].raw for row in rows]))
            add_by_second(reader.store, [items[row] for row in rows], made)
            average_new(view.store, view.model)

    def _restore(self, by_path: Mapping[Path, _Hashed], new: list[Path]) -> None:
        """Inside `writing`: write files again that another server has just deleted with an earlier
        item of the same picture. It deletes inside `writing` too, and only files without an item.
        """
        gone = [path for path in by_path if not path.exists()]
        for path in gone:
            _write(path, by_path[path].upload.data)
            new.append(path)
        if gone:
            sync_folder(self._folder)

    def _delete(self, reader: Reader, items: Sequence[Item], ids: Sequence[int]) -> None:
        reader.index.delete(ids)
        paths = [Path(item.path) for item in items]
        uploaded = [path for path in paths if path.parent == self._folder]
        if uploaded:
            with reader.store.writing():
                # meanwhile another server may have stored the same picture as a new item
                again = reader.store.ids_of_paths(map(str, uploaded))
                for path in uploaded:
                    if str(path) not in again:
                        path.unlink(missing_ok=True)
            sync_folder(self._folder)


@dataclass(frozen=True)
class _Hashed:
    """An upload as every encoder has encoded it, and the sha256 of its bytes, ready to be
    stored."""

    upload: Upload
    encoded: Sequence[Encoded]
    content: bytes

    @property
    def columns(self) -> dict[str, str]:
        """The columns of its item."""
        return {FILE_COLUMN: self.upload.name}

    @property
    def file_name(self) -> str:
        """The name of its file in the folder of uploads."""
        return f"{self.content.hex()[:32]}{SUFFIXES.get(self.encoded[0].header.format, '.jpg')}"

    def item(self, path: Path) -> Item:
        """Its item, as `Index.add` would make it from the file at `path`."""
        status = path.stat()
        label, columns = self.upload.label, self.columns
        size, time_ns = status.st_size, status.st_mtime_ns
        return Item(str(path), label, columns, size, time_ns, self.content)


def _hash(one: tuple[Upload, Sequence[Encoded]]) -> _Hashed:
    upload, encoded = one
    return _Hashed(upload, encoded, hashlib.sha256(upload.data).digest())


def _write(path: Path, data: bytes) -> bool:
    """Write a file whole or not at all; False if it exists already with the same content. Raises
    OSError."""
    with suppress(ImageError):
        if images.read(path, len(data)) == data:
            return False
    write_whole(path, data)
    return True
