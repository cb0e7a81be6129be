"""What the server does, without HTTP: encode queries in batches, search, show and store pictures,
each in threads of its own.

An index is one SQLite connection, which one thread may use at a time. So each kind of work has a
lane: a thread with a connection of its own. Searches have one, what can take longer another,
looking items up a third and writing a fourth.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from wingbar import images
from wingbar.data.records import Entry, Images
from wingbar.errors import ImageError, StoreError, WingbarError
from wingbar.files import sync_folder
from wingbar.hamming import codes
from wingbar.index.ranking import Hits, SearchOptions
from wingbar.index.store import Item
from wingbar.model import saliency
from wingbar.model.model import Model
from wingbar.parallel import BATCH, cores
from wingbar.serving.batching import Answered, Batcher, BusyError
from wingbar.serving.connections import Lane, NotFoundError, Reader, Row, is_available
from wingbar.serving.encoder import (
    SUFFIXES,
    EmptyError,
    Encoded,
    T,
    TooLargeError,
    _Decoded,
    _indexed_bytes,
    _orientation,
    _warmed,
)
from wingbar.serving.pictures import AS_STORED, LONGEST_SHOWN, Shown, _Cache, _says_only_pixels
from wingbar.serving.settings import Limits
from wingbar.serving.uploads import Upload, _hashed, _put, _Ready

MANY = 1000  # hits or items of a shortlist from which a search is a slow one
LABELS = 200  # labels that are counted by name


@dataclass(frozen=True)
class Found:
    """The hits of a query; `theirs` are their codes [K, w] and `code` the query's own [1, w], of
    `bits` bits. `fine` is the second stage that was used, and `available` says of which hits the
    file is there."""

    hits: Hits
    theirs: codes.Packed
    code: codes.Packed
    bits: int
    fine: str
    available: Sequence[bool]


class Answer(NamedTuple):
    """What a search found, the milliseconds of its stages, and the size of the upright picture
    where there was one."""

    found: Found
    milliseconds: dict[str, float]
    size: tuple[int, int] | None


@dataclass(frozen=True)
class _Asked:
    """An encoded picture or an id to search for, and who waits for what is found."""

    query: Encoded | int
    options: SearchOptions
    future: Future[Found]


class Service:
    """An index being served. Its methods may be called at the same time, from one event loop."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.uploads = Path(f"{os.path.abspath(path)}.uploads")
        self.writable = os.access(path, os.W_OK) and os.access(self.uploads.parent, os.W_OK)
        self.count = 0  # items, as of the last look
        self.on_batch: Callable[[int], object] = (
            int  # is told how many pictures are encoded together
        )
        self._searches, self._slow = Lane(path, "search", limits.feature_bytes), Lane(path, "slow")
        self._lookups, self._writes = Lane(path, "lookup"), Lane(path, "write")
        self._decoders = ThreadPoolExecutor(cores(), "wingbar-decode")
        self._showers = ThreadPoolExecutor(cores(), "wingbar-show")
        self._line: deque[_Asked] = deque()  # who waits for a quick search
        self._thumbs = _Cache(limits.cache_bytes)
        self._facts: tuple[Reader, tuple[int, int], dict[str, Any]] | None = None
        self._started = False

    def start(self) -> None:
        """Open the index and make everything ready that a first search would wait for. Raises
        StoreError."""
        if self._started:
            return
        try:
            self._alone, self._network, self.explains = self._searches.submit(_warmed).result()
            self._model = (
                self._alone
            )  # as of the last look: a refit gives another one, of the same network
            self.count = self._slow.submit(Reader.refresh).result()
            for lane in (self._lookups, self._writes):
                lane.submit(Reader.check).result()
        except BaseException:
            self._close_threads()
            raise
        wait, limit = self.limits.gather_ms / 1000, self.limits.waiting
        self.encoder = Batcher(
            "wingbar-encode",
            self._decode,
            self._encode,
            self._decoders,
            most=BATCH,
            wait=wait,
            limit=limit,
            workers=cores(),
        )
        self.writer = Batcher(
            "wingbar-store", _hashed, self._store, self._decoders, most=64, wait=wait, limit=limit
        )
        self._clear_partial()
        self._started = True

    def stop(self) -> None:
        """Finish what was begun and release the index."""
        if self._started:
            self._started = False
            self.encoder.close()
            self.writer.close()
            self._close_threads()

    def _close_threads(self) -> None:
        for pool in (self._decoders, self._showers):
            pool.shutdown(wait=True, cancel_futures=True)
        for lane in (self._searches, self._slow, self._lookups, self._writes):
            lane.close()

    async def refresh(self) -> None:
        """Take over what other processes changed, so that no search has to."""
        self.count = await self._searches.run(Reader.refresh)
        await self._slow.run(Reader.refresh)

    async def check(self) -> None:
        """Raises StoreError when the index cannot be read or is gone."""
        await self._lookups.run(Reader.check)

    @property
    def waiting(self) -> int:
        """Pictures that were taken on and are not encoded yet."""
        return len(self.encoder) if self._started else 0

    # -- search

    async def search(self, query: bytes | int, options: SearchOptions) -> Answer:
        """The hits of a picture or of an item, as `Index.search` finds them.

        Raises QueryError, ImageError, NotFoundError, TooLargeError, EmptyError, BusyError,
        StoreError.
        """
        self._admit(isinstance(query, bytes))
        return await self._answer(query, options)

    async def search_many(
        self, queries: Sequence[bytes | int], options: SearchOptions
    ) -> list[Answer | WingbarError]:
        """`search` for several, with an error in the place of a picture or item that is none."""
        self._admit(sum(isinstance(query, bytes) for query in queries))
        answers = await asyncio.gather(
            *(self._answer(query, options) for query in queries), return_exceptions=True
        )
        return [_answer_or_its_error(answer) for answer in answers]

    async def _answer(self, query: bytes | int, options: SearchOptions) -> Answer:
        start = time.perf_counter()
        encoded = await self._encoded(query, options)
        asked = _Asked(encoded if isinstance(encoded, int) else encoded.answer, options, Future())
        if options.where or max(options.k, options.shortlist) > MANY:
            self._slow.submit(lambda reader: self._find(reader, [asked]))
        else:
            self._line.append(asked)
            self._searches.submit(self._find_all)
        found = await asyncio.wrap_future(asked.future)
        return _timed(found, encoded, (time.perf_counter() - start) * 1000)

    def _admit(self, pictures: int) -> None:
        """Raises BusyError when so many more at once are too many, rather than to take on some of
        them."""
        if pictures and self.waiting + pictures > self.limits.waiting:
            raise BusyError(f"{self.waiting} pictures are waiting already: try again in a moment")

    async def _encoded(self, query: bytes | int, options: SearchOptions) -> Answered[Encoded] | int:
        """What the network makes of a picture; an item stays an id where all that is asked of it is
        stored."""
        if isinstance(query, int):
            if options.box is None and (options.fine or self._network.fine) != "asymmetric":
                return query
            query = await self._bytes_of(query)  # neither a part of it nor its logits are stored
        return await asyncio.wrap_future(
            self.encoder.submit(images.Part(query, options.box) if options.box else query)
        )

    def _decode(self, source: bytes | images.Part) -> _Decoded:
        """In the pool: pixels for the network."""
        data = source.of if isinstance(source, images.Part) else source
        assert isinstance(data, bytes)
        kind, size = self._measured(data)
        return _Decoded(images.load(source, self._network.preprocessing), kind, size)

    def _encode(self, batch: list[_Decoded]) -> list[Encoded]:
        """In a thread of the encoder."""
        self.on_batch(len(batch))
        network, model = self._network if self.waiting > 1 else self._alone, self._model
        raw = network.run([one.pixels for one in batch])
        embeddings = model.embed(raw) if model.gives_codes else None
        return [
            Encoded(raw[i], None if embeddings is None else embeddings[i], one.kind, one.size)
            for i, one in enumerate(batch)
        ]

    def _find_all(self, reader: Reader) -> None:
        """In a lane: answer all who are in line; those who came after the first find that it is
        done."""
        batch: list[_Asked] = []
        with suppress(IndexError):
            while len(batch) < BATCH:
                batch.append(self._line.popleft())
        if batch:
            self._find(reader, batch)

    def _find(self, reader: Reader, batch: Sequence[_Asked]) -> None:
        """In a lane: answer several, all in one state of the index."""
        batch = [asked for asked in batch if asked.future.set_running_or_notify_cancel()]
        try:
            with reader.index.snapshot():
                for asked in batch:
                    try:
                        asked.future.set_result(self._found(reader, asked))
                    except WingbarError as error:
                        asked.future.set_exception(error)
        except Exception as error:  # of the snapshot, or a bug: nobody may wait for ever
            for asked in batch:
                if not asked.future.done():
                    asked.future.set_exception(error)

    def _found(self, reader: Reader, asked: _Asked) -> Found:
        """Inside a snapshot: from an encoded picture or an id to hits."""
        if reader.is_empty:
            raise EmptyError("the index holds no images yet: upload some, or run wingbar index")
        query, options = asked.query, asked.options
        self._model = model = reader.index.model
        self._check_network(model)
        one = reader.embedding(query) if isinstance(query, int) else query.by(model)
        [hits] = reader.index.find(one, replace(options, box=None))
        theirs = reader.codes_of([hit.id for hit in hits])
        there = [is_available(hit.path) for hit in hits]
        return Found(hits, theirs, one.codes, model.bits, options.fine or model.fine, there)

    def _check_network(self, model: Model) -> None:
        """Raises StoreError when pictures were encoded by another network than the index has
        now."""
        if model.record["files"]["model.onnx"] != self._network.record["files"]["model.onnx"]:
            raise StoreError(
                f"{self.path} was replaced by an index of another model: start the server again"
            )

    def _measured(self, data: bytes) -> tuple[str, tuple[int, int]]:
        """Format and upright size of a picture, from its header. Raises TooLargeError, or
        ImageError when it is none."""
        if not data:
            raise ImageError("the picture is empty: it has no bytes")
        if len(data) > self.limits.upload_bytes:
            raise TooLargeError(
                f"{len(data):,} bytes; this server takes {self.limits.upload_bytes:,}: send a "
                "smaller picture"
            )
        try:
            with Image.open(io.BytesIO(data), formats=tuple(SUFFIXES)) as picture:
                kind, (width, height) = picture.format or "", picture.size
                turned = _orientation(picture) >= 5
        except Image.DecompressionBombError:
            raise TooLargeError(
                f"more than the {self.limits.pixels:,} pixels that this server takes: scale it down"
            ) from None
        except Exception:  # whatever a broken header does to Pillow: `images` knows how to say it
            images.upright(data)
            raise ImageError("the header cannot be read: save the picture anew") from None
        if width * height > self.limits.pixels:
            raise TooLargeError(
                f"{width} x {height} is more than the {self.limits.pixels:,} pixels that this "
                "server takes: scale it down"
            )
        return kind, (height, width) if turned else (width, height)

    # -- look

    async def row(self, id_: int) -> Row:
        """An item and its code. Raises NotFoundError."""

        def read(reader: Reader) -> Row:
            with reader.index.snapshot():
                return reader.row(id_)

        return await self._lookups.run(read)

    async def rows(
        self, offset: int, limit: int, where: Sequence[str], spread: bool = False
    ) -> tuple[list[Row], int]:
        """A page of the items by ascending id or `spread`, and how many there are in all. Raises
        QueryError."""

        def read(reader: Reader) -> tuple[list[Row], int]:
            with reader.index.snapshot():
                return reader.rows(offset, limit, where, spread)

        return await self._slow.run(read)

    async def id_of_path(self, path: str) -> int:
        """The id of an indexed path. Raises NotFoundError."""
        found = await self._lookups.run(lambda reader: reader.store.ids_of_paths([path]))
        if path not in found:
            raise NotFoundError("no item has this path: paths are absolute, as they were indexed")
        return found[path]

    async def facts(self) -> dict[str, Any]:
        """Numbers about the index, its labels and columns; counted anew when it has changed."""
        return await self._slow.run(self._counted)

    def _counted(self, reader: Reader) -> dict[str, Any]:
        version = reader.store.version()
        if self._facts is None or self._facts[:2] != (reader, version):
            with reader.index.snapshot():
                info, labels, columns = (
                    reader.index.info(),
                    reader.index.label_counts(),
                    reader.columns(),
                )
            names = (
                "items",
                "labels",
                "bits",
                "dim",
                "unique_codes",
                "model",
                "method",
                "fine",
                "fingerprint",
            )
            facts: dict[str, Any] = {
                "name": self.path.stem,
                **{name: getattr(info, name) for name in names},
            }
            facts["label_counts"] = dict(Counter(labels).most_common(LABELS))
            facts["columns"] = columns
            self._facts = reader, version, facts
        return self._facts[2]

    async def thumbnail(self, id_: int, side: int) -> Shown:
        """A small JPEG of an item's picture without EXIF. Raises NotFoundError."""
        item = await self._lookups.run(lambda reader: reader.item(id_))
        key = item.content, side
        shown = self._thumbs.get(key)
        if shown is None:
            shown = await self._shower(lambda: self._thumbnail(item, side))
            self._thumbs.put(key, shown)
        return shown

    def _thumbnail(self, item: Item, side: int) -> Shown:
        data = _indexed_bytes(item)
        self._measured(data)
        return Shown(
            images.thumbnail(data, side), "image/jpeg", f"{item.content.hex()[:32]}-{side}"
        )

    async def image(self, id_: int) -> Shown:
        """An item's picture for a browser: as stored where it can be shown and says nothing but its
        pixels, else as a JPEG."""
        item = await self._lookups.run(lambda reader: reader.item(id_))
        return await self._shower(lambda: self._image(item))

    def _image(self, item: Item) -> Shown:
        data = _indexed_bytes(item)
        kind, _ = self._measured(data)
        tag = item.content.hex()[:32]
        if kind in AS_STORED and _says_only_pixels(data):
            return Shown(data, AS_STORED[kind], tag)
        out = io.BytesIO()
        images.upright(data).save(out, "JPEG", quality=92)
        return Shown(out.getvalue(), "image/jpeg", f"{tag}-jpeg")

    async def explain(self, query: bytes | int, box: images.Box | None) -> bytes:
        """A PNG of what the model saw in a picture. Raises NotFoundError when it shows nothing,
        ImageError, TooLargeError."""
        if not self.explains:
            raise NotFoundError(
                "this model shows no places: models of DOLG have attention, of CMBH regions"
            )
        data = await self._bytes_of(query) if isinstance(query, int) else query
        return await asyncio.get_running_loop().run_in_executor(
            self._showers, lambda: self._overlay(data, box)
        )

    def _overlay(self, data: bytes, box: images.Box | None) -> bytes:
        self._measured(data)
        picture = images.upright(images.Part(data, box) if box else data)
        picture.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
        look = saliency.look(self._alone, picture)
        return images.overlay(picture, look.heat, look.area, look.regions)

    async def _bytes_of(self, id_: int) -> bytes:
        """The file of an item. Raises NotFoundError."""
        item = await self._lookups.run(lambda reader: reader.item(id_))
        return await self._shower(lambda: _indexed_bytes(item))

    async def _shower(self, work: Callable[[], T]) -> T:
        """`work` on the picture of an item, in a thread. What is wrong with it is nothing that a
        caller could mend."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._showers, work)
        except (ImageError, TooLargeError) as error:
            raise NotFoundError(f"the picture of this item cannot be shown: {error}") from None

    # -- change

    async def add(
        self, uploads: Sequence[Upload]
    ) -> tuple[list[tuple[int, str]], list[tuple[str, str]]]:
        """Store pictures and index them. Returns id and name of each once they are safe, and name
        and reason of the others.

        Raises BusyError when too many are waiting, StoreError when the index or its folder cannot
        be written.
        """
        self._admit(len(uploads))
        futures = [asyncio.wrap_future(self.encoder.submit(upload.data)) for upload in uploads]
        encoded = await asyncio.gather(*futures, return_exceptions=True)
        ready, failed = [], []
        for upload, one in zip(uploads, encoded, strict=True):
            if isinstance(one, (ImageError, TooLargeError)):
                failed.append((upload.name, str(one)))
            elif isinstance(one, BaseException):
                raise one
            else:
                ready.append(
                    (upload, one.answer)
                )  # in the order in which they came: of equal pictures the last one counts
        stored = await asyncio.gather(
            *(asyncio.wrap_future(self.writer.submit(one)) for one in ready)
        )
        return [
            (one.answer, upload.name) for one, (upload, _) in zip(stored, ready, strict=True)
        ], failed

    def _store(self, batch: list[_Ready]) -> list[int]:
        """In the writer's thread: the ids of uploads that came at the same time."""
        return self._writes.submit(lambda reader: self._stored(reader, batch)).result()

    def _stored(self, reader: Reader, batch: list[_Ready]) -> list[int]:
        """Files first, then their items in one transaction: an item is never without its file."""
        named = {
            self.uploads / one.file: one for one in batch
        }  # of equal pictures the last one counts
        new: list[Path] = []
        try:
            self.uploads.mkdir(exist_ok=True)
            new += [path for path, one in named.items() if _put(path, one.upload.data)]
            sync_folder(self.uploads)
            sync_folder(self.uploads.parent)
            self._index(reader, named)
        except OSError as error:
            raise StoreError(
                f"{self.uploads.name} cannot be written ({error.strerror}): free some space, try "
                "again"
            ) from error
        finally:
            ids = reader.store.ids_of_paths(map(str, named))
            for path in new:
                if str(path) not in ids:
                    path.unlink(missing_ok=True)
        return [ids[str(self.uploads / one.file)] for one in batch]

    def _index(self, reader: Reader, named: Mapping[Path, _Ready]) -> None:
        """Index files that are in place.

        `Index.add` learns the codes of an index that has none. Later it would do as well, but it
        first reads the records of all items, which takes a second where there are 100,000.
        """
        with reader.index.snapshot():
            fitted = reader.index.model.gives_codes
        if fitted:
            self._insert(reader, named)
        else:
            entries = [Entry(path, one.upload.label, one.columns) for path, one in named.items()]
            reader.index.add([Images(entries, "uploads")], threads=1)

    def _insert(self, reader: Reader, named: Mapping[Path, _Ready]) -> None:
        """Store items. A picture that was uploaded before keeps its id, and its label unless a new
        one was given."""
        store = reader.store
        with store.writing(), reader.index.snapshot():
            model = reader.index.model
            self._check_network(model)
            known = store.ids_of_paths(map(str, named))
            fresh = {path: one for path, one in named.items() if str(path) not in known}
            updates = {}
            for path, one in named.items():
                if path not in fresh:
                    before, now = store.items([known[str(path)]])[0], one.item(path)
                    updates[known[str(path)]] = replace(
                        now, label=before.label if now.label is None else now.label
                    )
            store.update(updates)
            if fresh:
                embeddings = model.embed(np.stack([one.encoded.raw for one in fresh.values()]))
                items = [one.item(path) for path, one in fresh.items()]
                store.add(items, embeddings.codes, embeddings.features, model.bits)

    async def delete(self, id_: int) -> None:
        """Remove an item, and its file when that was uploaded here. Raises NotFoundError,
        StoreError."""
        await self._writes.run(lambda reader: self._delete(reader, id_))

    def _delete(self, reader: Reader, id_: int) -> None:
        item = reader.item(id_)
        reader.index.delete([id_])
        if Path(item.path).parent == self.uploads:
            Path(item.path).unlink(missing_ok=True)
            sync_folder(self.uploads)

    def _clear_partial(self) -> None:
        """Remove what a killed server had begun to write."""
        with suppress(OSError):
            for path in self.uploads.glob(".*.partial"):
                if (
                    time.time() - path.stat().st_mtime > 600
                ):  # not what another server is writing now
                    path.unlink()


def _timed(found: Found, encoded: Answered[Encoded] | int, total: float) -> Answer:
    """With milliseconds of the stages; `queue` is the time in which nothing was done for this
    search."""
    stages, size = {**found.hits.milliseconds}, None
    if not isinstance(encoded, int):
        stages |= {"decode": encoded.prepared, "encode": encoded.worked}
        size = encoded.answer.size
    return Answer(
        found, {"queue": max(0.0, total - sum(stages.values())), **stages, "total": total}, size
    )


def _answer_or_its_error(answer: Answer | BaseException) -> Answer | WingbarError:
    """Raises what concerns not only this one."""
    if isinstance(answer, (ImageError, TooLargeError, NotFoundError)) or not isinstance(
        answer, BaseException
    ):
        return answer
    raise answer
