"""What the server does, without HTTP: start, search, list items, stop.

A SQLite connection belongs to one thread at a time, so each kind of work has a thread with a
connection of its own: searches, slow searches and lists, lookups of single items, and changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import (
    ImageError,
    MachineWarning,
    ModelError,
    QueryError,
    StoreError,
    WingbarError,
)
from wingbar.hamming import codes
from wingbar.index.engine import Place
from wingbar.index.feedback import moved
from wingbar.index.ranking import Hits, SearchOptions
from wingbar.index.shards import shard_names
from wingbar.index.tables import FORMAT
from wingbar.index.text_search import Text, check_options, embedded
from wingbar.model import proof
from wingbar.model.model import Embeddings
from wingbar.parallel import BATCH, cores
from wingbar.serving.batching import Answered
from wingbar.serving.connections import (
    AnyReader,
    ItemSort,
    NotFoundError,
    Page,
    Reader,
    ReaderThread,
    Row,
    is_available,
    spread_out,
)
from wingbar.serving.encoder import Encoded, Encoder, Models, TooLargeError, warm_up
from wingbar.serving.facts import PhotoFacts, Sizes, photo_facts
from wingbar.serving.indexing import FolderIndexing
from wingbar.serving.overview import (
    MOST,
    Gallery,
    Overview,
    fits,
    from_text,
    survey,
    to_text,
    updated,
)
from wingbar.serving.pictures import Pictures
from wingbar.serving.settings import Limits
from wingbar.serving.shards import ShardsReader
from wingbar.serving.uploads import Uploads

log = logging.getLogger(__name__)

T = TypeVar("T")
Sort = Literal["spread", "novelty", ItemSort]

SLOW_FROM = 1000  # a search for more hits, or with a longer shortlist, counts as slow
OVERVIEW = "overview"  # its name in the index
LABELS = 200  # labels listed with their counts, the most frequent ones
EMPTY = "the index holds no images yet: upload some, or run wingbar index"


class EmptyError(WingbarError):
    """The index has nothing to search yet."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    hits: the hits, best first.
    hit_codes: their codes [K, w] uint64.
    code: the query's code [1, w] uint64.
    bits: length of a code.
    fine: the fine mode that was used.
    encoder: name of the encoder that answered.
    available: for each hit, whether its file exists.
    """

    hits: Hits
    hit_codes: codes.Packed
    code: codes.Packed
    bits: int
    fine: str
    encoder: str
    available: Sequence[bool]


class Answer(NamedTuple):
    """What a search found, and what it took.

    found: hits and codes.
    milliseconds: time of each stage, of waiting ("queue") and in all ("total").
    size: width and height of the upright query picture, in pixels; None for a query that was not
        decoded.
    """

    found: Found
    milliseconds: dict[str, float]
    size: tuple[int, int] | None


class Service:
    """An index being served. Its methods may be called concurrently, from one event loop, between
    `start` and `stop`.

    name: what is served, without folders.
    path: the index file; of several indexes, their names.
    limits: how much work is accepted.
    writable: whether the index and its folder can be written; never where several are served as
        one, or one on a server.
    count: number of items when the index was last read.
    on_batch: is called with the number of pictures of every encoded batch; set it before `start`.
    encoders: encode the pictures of queries and uploads, by name.
    pictures: reads thumbnails, pictures and overlays.
    uploads: adds and deletes items; there are none where nothing is writable.
    indexing: indexes folders of this machine; None where none may be.
    """

    encoders: Mapping[str, Encoder]
    pictures: Pictures
    uploads: Uploads

    def __init__(
        self,
        index: Path | Sequence[Place],
        limits: Limits,
        index_folders: Sequence[Path] = (),
    ) -> None:
        self.limits = limits
        self.indexing: FolderIndexing | None = None
        self._places: tuple[Place, ...] = (index,) if isinstance(index, Path) else tuple(index)
        self.name = shard_names(self._places)
        self.path = index if isinstance(index, Path) else Path(self.name)
        self._uploads_folder = Path(f"{os.path.abspath(self.path)}.uploads")
        self.count = 0
        self.on_batch: Callable[[int], object] = lambda pictures: None
        self._searches: ReaderThread[AnyReader]
        self._slow: ReaderThread[AnyReader]
        self._lookups: ReaderThread[AnyReader]
        self._writes: ReaderThread[Reader] | None
        if isinstance(index, Path):
            self.writable = os.access(index, os.W_OK) and os.access(
                self._uploads_folder.parent, os.W_OK
            )
            self._searches = ReaderThread(lambda: Reader(index, limits.feature_bytes), "search")
            self._slow = ReaderThread(lambda: Reader(index), "slow")
            self._lookups = ReaderThread(lambda: Reader(index), "lookup")
            self._writes = ReaderThread(lambda: Reader(index), "write")
            if index_folders:
                self.indexing = FolderIndexing(index, index_folders)
        else:
            self.writable = False  # nobody has said into which of the shards
            self._searches = ReaderThread(lambda: ShardsReader(self._places), "search")
            self._slow = ReaderThread(lambda: ShardsReader(self._places), "slow")
            self._lookups = ReaderThread(lambda: ShardsReader(self._places, False), "lookup")
            self._writes = None
        self._decoders = ThreadPoolExecutor(cores(), "wingbar-decode")
        self._senders = ThreadPoolExecutor(cores(), "wingbar-show")
        self._queue: deque[_Asked] = deque()  # searches that are not slow
        self._sizes = Sizes()
        self._overview: tuple[tuple[int, ...], Overview] | None = None
        self._overview_lock = asyncio.Lock()
        self._noticing = asyncio.Lock()
        self._unusable: set[str] = set()  # encoders that came after the start and cannot run
        self._orders: dict[str, tuple[tuple[int, ...], NDArray[np.int64]]] = {}
        self._facts: tuple[AnyReader, tuple[int, ...], dict[str, Any]] | None = None
        self._started = False

    def start(self) -> None:
        """Open the index and warm up everything that a first search would wait for. Warns when this
        machine does not pass the proof of the index. Raises StoreError."""
        if self._started:
            return
        try:
            models = self._searches.submit(
                lambda reader: {name: warm_up(reader.by(name)) for name in reader.encoders}
            ).result()
            self.count = self._slow.submit(lambda reader: reader.refresh()).result()
            self._lookups.submit(lambda reader: reader.check()).result()
            if self._writes is not None:
                self._writes.submit(Reader.check).result()
            # of an index without items, the first picture makes this machine the one it goes by
            found = [proof.problem(one.all_cores) for one in models.values()] if self.count else []
            problem = next((one for one in found if one is not None), None)
        except BaseException:
            self._close_threads()
            raise
        if problem is not None:
            warnings.warn(f"{problem}: searches are less exact", MachineWarning, stacklevel=2)
        self.encoders = {
            name: Encoder(self.path, one, self.limits, self._decoders, self.on_batch)
            for name, one in models.items()
        }
        self.pictures = Pictures(self.encoder, self.limits, self._lookups, self._senders)
        if self._writes is not None:
            self.uploads = Uploads(
                self._uploads_folder,
                self.limits,
                list(self.encoders.values()),
                self._writes,
                self._decoders,
            )
            self.uploads.refusal = _refusal(problem)
        self.clear_partial()
        self._started = True

    def stop(self) -> None:
        """Stop accepting pictures, drain the queues, join the threads, release the index."""
        if self._started:
            self._started = False
            if self.indexing is not None:
                self.indexing.close()
            for encoder in self.encoders.values():
                encoder.close()
            if self._writes is not None:
                self.uploads.close()
            self._close_threads()

    def _close_threads(self) -> None:
        for pool in (self._decoders, self._senders):
            pool.shutdown(wait=True, cancel_futures=True)
        for thread in (self._searches, self._slow, self._lookups):
            thread.close()
        if self._writes is not None:
            self._writes.close()

    @property
    def knows_texts(self) -> bool:
        """Whether a text can be searched for."""
        knowing = any(encoder.knows_texts for encoder in self.encoders.values())
        return knowing and not self.is_sharded

    def encoder(self, name: str | None = None) -> Encoder:
        """One of the encoders, the first for None. Raises QueryError for an unknown name."""
        if name is None:
            return next(iter(self.encoders.values()))
        if name not in self.encoders:
            raise QueryError(
                f"there is no encoder {name!r:.60} here: name {' or '.join(self.encoders)}"
            )
        return self.encoders[name]

    def _for_texts(self, name: str | None) -> str:
        """The name of the encoder that a text goes to."""
        if name is not None:
            return name
        knowing = (one for one, encoder in self.encoders.items() if encoder.knows_texts)
        return next(knowing, next(iter(self.encoders)))

    @property
    def is_sharded(self) -> bool:
        """Whether several indexes are served as one, or one on a server."""
        return self._writes is None

    def clear_partial(self) -> None:
        """Remove what killed servers have left of uploads."""
        if self._writes is not None:
            self.uploads.clear_partial()

    def public(self, text: str) -> str:
        """A text with the names of indexes in the place of their paths, as folders are never
        shown."""
        for place in self._places:
            text = text.replace(str(place), place.name)
        return text

    async def refresh(self) -> None:
        """Apply what other processes changed, so that no search has to."""
        self.count = await self._searches.run(lambda reader: reader.refresh())
        await self._slow.run(lambda reader: reader.refresh())
        await self.notice_encoders()

    async def notice_encoders(self) -> None:
        """Let a second encoder take part that was added to the index after the start. One that
        cannot run is named in the log, once."""
        async with self._noticing:
            names = await self._lookups.run(lambda reader: reader.encoders)
            new = [name for name in names if name not in self.encoders]
            if not new or new[0] == names[0] or new[0] in self._unusable:
                return
            [name] = new

            def load(reader: AnyReader) -> tuple[Models, str | None]:
                models = warm_up(reader.by(name))
                return models, proof.problem(models.all_cores)

            try:
                models, problem = await self._slow.run(load)
            except ModelError as error:
                self._unusable.add(name)
                log.warning("the encoder %s of %s takes no part: %s", name, self.name, error)
                return
            encoder = Encoder(self.path, models, self.limits, self._decoders, self.on_batch)
            self.encoders = {**self.encoders, name: encoder}
            if self._writes is not None:
                self.uploads.encoders = list(self.encoders.values())
                self.uploads.refusal = self.uploads.refusal or _refusal(problem)

    async def check(self) -> None:
        """Raises StoreError when the index, or one of several, cannot be read or is gone."""
        await self._lookups.run(lambda reader: reader.check())

    @property
    def waiting(self) -> int:
        """Number of pictures that were accepted and are not encoded yet."""
        return sum(one.waiting for one in self.encoders.values()) if self._started else 0

    # -- search

    async def search(
        self,
        query: bytes | int | Text,
        options: SearchOptions,
        like: Sequence[bytes | int] = (),
        unlike: Sequence[bytes | int] = (),
    ) -> Answer:
        """The hits of a picture, a text, or an item by its id, as `Index.search` finds them; with
        further pictures and ids that are right or wrong, those of `feedback.moved`.

        Raises QueryError, ImageError, NotFoundError, TooLargeError, EmptyError, BusyError,
        StoreError.
        """
        pictures = sum(isinstance(one, bytes) for one in (query, *like, *unlike))
        self.encoder(options.encoder).admit(pictures)
        if isinstance(query, Text):
            if like or unlike:
                raise QueryError("marks belong to pictures: search for a text without them")
            return await self._answer_text(query, options)
        return await self._answer(query, options, like, unlike)

    async def search_many(
        self, queries: Sequence[bytes | int], options: SearchOptions
    ) -> list[Answer | WingbarError]:
        """`search` for several queries; in the place of an answer, the error of a query whose
        picture or item cannot be used. Raises the other errors of `search`."""
        pictures = sum(isinstance(query, bytes) for query in queries)
        self.encoder(options.encoder).admit(pictures)
        answers = await asyncio.gather(
            *(self._answer(query, options) for query in queries), return_exceptions=True
        )
        return [_answer_or_its_error(answer) for answer in answers]

    async def _answer(
        self,
        query: bytes | int,
        options: SearchOptions,
        like: Sequence[bytes | int] = (),
        unlike: Sequence[bytes | int] = (),
    ) -> Answer:
        start = time.perf_counter()
        whole = replace(options, box=None)
        encoded, *others = await asyncio.gather(
            self._encode(query, options),
            *(self._encode(one, whole) for one in (*like, *unlike)),
        )
        first, *rest = (one if isinstance(one, int) else one.answer for one in (encoded, *others))
        asked = _Asked(first, rest[: len(like)], rest[len(like) :], options, Future())
        if options.where or max(options.k, options.shortlist) > SLOW_FROM:
            self._slow.submit(lambda reader: self._find(reader, [asked]))
        else:
            self._queue.append(asked)
            self._searches.submit(self._find_queued)
        found = await asyncio.wrap_future(asked.future)
        return _timed(found, encoded, (time.perf_counter() - start) * 1000)

    async def _answer_text(self, text: Text, options: SearchOptions) -> Answer:
        start = time.perf_counter()
        check_options(options)
        name = self._for_texts(options.encoder)
        encoder = self.encoder(name)
        vector = await self._in_pool(lambda: encoder.encode_text(text.text))
        encode_ms = (time.perf_counter() - start) * 1000

        def find(whole: AnyReader) -> Found:
            with whole.snapshot():
                reader = self._seen_by(whole, name)
                if reader.is_empty:
                    raise EmptyError(EMPTY)
                encoder.use(reader.model)
                hits = reader.find_vector(vector, options, self.limits.filter_seconds)
                hit_codes = reader.codes_of([hit.id for hit in hits])
                code = embedded(reader.model, vector).codes
                available = [is_available(hit.path) for hit in hits]
                return Found(hits, hit_codes, code, reader.model.bits, "pool", name, available)

        found = await self._slow.run(find)
        stages = {**found.hits.milliseconds, "encode": encode_ms}
        total = (time.perf_counter() - start) * 1000
        queue = max(0.0, total - sum(stages.values()))
        return Answer(found, {"queue": queue, **stages, "total": total}, None)

    async def _encode(self, query: bytes | int, options: SearchOptions) -> Answered[Encoded] | int:
        """A query after the network. An item stays an id unless the search needs its picture: to
        cut out a part, or to compute its logits, which are not stored."""
        encoder = self.encoder(options.encoder)
        if isinstance(query, int):
            fine = options.fine or encoder.fine
            if options.box is None and fine != "asymmetric":
                return query
            query = await self.pictures.file(query)
        return await encoder.encode(images.Part(query, options.box) if options.box else query)

    def _find_queued(self, reader: AnyReader) -> None:
        """In a reader's thread: answer the searches in the queue. Each search submits this once;
        the first call answers several, so a later one may find the queue empty."""
        batch: list[_Asked] = []
        with suppress(IndexError):
            while len(batch) < BATCH:
                batch.append(self._queue.popleft())
        if batch:
            self._find(reader, batch)

    def _find(self, reader: AnyReader, batch: Sequence[_Asked]) -> None:
        """In a reader's thread: answer several searches from one read snapshot."""
        batch = [asked for asked in batch if asked.future.set_running_or_notify_cancel()]
        try:
            with reader.snapshot():
                for asked in batch:
                    try:
                        asked.future.set_result(self._found(reader, asked))
                    except WingbarError as error:
                        asked.future.set_exception(error)
        except Exception as error:  # of the snapshot, or a bug: nobody may wait for ever
            for asked in batch:
                if not asked.future.done():
                    asked.future.set_exception(error)

    def _found(self, reader: AnyReader, asked: _Asked) -> Found:
        """Inside a snapshot: from an encoded picture or an id to hits."""
        query, options = asked.query, asked.options
        reader = self._seen_by(reader, options.encoder)
        if reader.is_empty:
            raise EmptyError(EMPTY)
        model = reader.model
        self.encoder(options.encoder).use(model)

        def embedding(one: Encoded | int) -> Embeddings:
            return reader.embedding(one) if isinstance(one, int) else one.embed(model)

        one = moved(
            embedding(query), list(map(embedding, asked.like)), list(map(embedding, asked.unlike))
        )
        one = reader.expanded(one, options)  # so that distances are those to the code that is shown
        name = options.encoder or next(iter(self.encoders))
        options = replace(options, box=None, expand=0, encoder=None)
        hits = reader.find(one, options, self.limits.filter_seconds)
        hit_codes = reader.codes_of([hit.id for hit in hits])
        available = [is_available(hit.path) for hit in hits]
        fine = options.fine or model.fine
        return Found(hits, hit_codes, one.codes, model.bits, fine, name, available)

    def _seen_by(self, reader: AnyReader, name: str | None) -> AnyReader:
        """The reader by one of the encoders that take part."""
        return reader if name in (None, next(iter(self.encoders))) else reader.by(name)

    # -- items

    async def row(self, id_: int) -> Row:
        """An item and its code. Raises NotFoundError."""

        def read(reader: AnyReader) -> Row:
            with reader.snapshot():
                return reader.row(id_)

        return await self._lookups.run(read)

    async def page(
        self, offset: int, limit: int, where: Sequence[str], spread: bool = False
    ) -> Page:
        """A page of the items that match all filters, and the number of all that match; by
        ascending id, or `spread` over the index. Raises QueryError."""
        seconds = self.limits.filter_seconds
        return await self._slow.run(
            lambda reader: reader.page(offset, limit, where, spread, seconds)
        )

    async def sizes(self, paths: Sequence[str]) -> list[tuple[int, int] | None]:
        """Width and height of the upright pictures of items; None for what cannot be read."""
        return await self._in_pool(lambda: [self._sizes.of(path) for path in paths])

    async def rows(self, ids: Sequence[int]) -> list[Row]:
        """Those of several items that there are, with their codes."""

        def read(reader: AnyReader) -> list[Row]:
            with reader.snapshot():
                rows = []
                for id_ in dict.fromkeys(ids):
                    with suppress(NotFoundError):
                        rows.append(reader.row(id_))
                return rows

        return await self._slow.run(read)

    async def arranged(
        self, offset: int, limit: int, where: Sequence[str], sort: Sort, distinct: bool
    ) -> Page:
        """A page of the items that match all filters, sorted, and with `distinct` without copies of
        items before them. Raises QueryError; NotFoundError where several indexes are served as
        one."""
        overview = await self.overview() if distinct or sort == "novelty" else None
        stacks = None
        if overview is not None and distinct:
            stacks = dict(zip(overview.ids.tolist(), overview.stacks.tolist(), strict=True))
        seconds = self.limits.filter_seconds

        def read(reader: AnyReader) -> Page:
            one = _one_index(reader)
            if sort == "novelty":
                assert overview is not None
                order = overview.ids[np.argsort(-overview.novelty, kind="stable")]
            elif sort == "spread":
                order = spread_out(one.store.ids())
            else:
                order = self._order(one, sort)
            return one.arranged(offset, limit, where, order, stacks, seconds)

        return await self._slow.run(read)

    def _order(self, reader: Reader, sort: ItemSort) -> NDArray[np.int64]:
        """In the slow reader's thread: all ids, sorted; again after a change."""
        version = reader.version()
        if sort not in self._orders or self._orders[sort][0] != version:
            self._orders[sort] = version, reader.sorted_ids(sort)
        return self._orders[sort][1]

    async def overview(self) -> Overview:
        """The overview of the collection, from the index if it is there; brought up to date after a
        change, and kept in the index once much has changed. Raises EmptyError, and NotFoundError
        where several indexes are served as one."""

        def read(reader: AnyReader) -> tuple[tuple[int, ...], Overview | None, Gallery | None]:
            one = _one_index(reader)
            if one.is_empty:
                raise EmptyError("the index holds no images yet: upload some, or run wingbar index")
            with one.snapshot():
                version, fingerprint = one.version(), one.model.fingerprint
                if self._overview is not None and self._overview[0] == version:
                    return version, self._overview[1], None
                all_ids = one.index.ids()
                rows = slice(None, None, -(-len(all_ids) // MOST))
                ids = all_ids[rows]
                text = one.store.derived(OVERVIEW)
                known = None if text is None else from_text(text)
                if known is not None and not fits(known, fingerprint, ids):
                    known = None
                if known is not None and np.array_equal(known.ids, ids):
                    return version, known, None
                features = one.index.features(ids.tolist())
                contents, copy_score = one.index.contents()[rows], one.index.chance().copy_score
                return version, known, Gallery(fingerprint, ids, features, contents, copy_score)

        def compute(known: Overview | None, gallery: Gallery) -> Overview:
            return survey(gallery) if known is None else updated(known, gallery)

        async with self._overview_lock:  # several that ask at once wait for one
            version, known, gallery = await self._slow.run(read)
            found = known
            if gallery is not None:
                found = await self._in_pool(lambda: compute(known, gallery))
                if known is None:
                    self._keep(found)
            assert found is not None
            self._overview = version, found
            return found

    def _keep(self, overview: Overview) -> None:
        """Have an overview written into the index, if that can be written."""

        def write(reader: Reader) -> None:
            if reader.store.format < FORMAT:
                return  # a look at the map is no reason for another format
            with suppress(StoreError), reader.store.writing():
                reader.store.keep_derived(OVERVIEW, to_text(overview))

        if self.writable and self._writes is not None:
            self._writes.submit(write)

    async def map(self) -> tuple[Overview, Sequence[str | None]]:
        """The overview of the collection, and the label of each of its items. Raises EmptyError,
        and NotFoundError where several indexes are served as one."""
        overview = await self.overview()

        def read(reader: AnyReader) -> list[str | None]:
            one = _one_index(reader)
            with one.snapshot():
                of = dict(zip(one.index.ids().tolist(), one.index.labels(), strict=True))
            return [of.get(id_) for id_ in overview.ids.tolist()]

        return overview, await self._slow.run(read)

    async def photo_facts(self, path: str) -> PhotoFacts:
        """What EXIF says about an item's picture."""
        return await self._in_pool(lambda: photo_facts(path))

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._senders, work)

    async def id_of_path(self, path: str) -> int:
        """The id of the item with this path. Raises NotFoundError."""
        found = await self._lookups.run(lambda reader: reader.ids_of_paths([path]))
        if path not in found:
            raise NotFoundError("no item has this path: give the absolute path that was indexed")
        return found[path]

    async def facts(self) -> dict[str, Any]:
        """Numbers about the index, its labels and columns; counted again after a change."""
        return await self._slow.run(self._count)

    async def encoder_facts(self) -> dict[str, dict[str, Any]]:
        """What differs from one encoder to the other, by its name."""
        known = self.encoders

        def read(reader: AnyReader) -> dict[str, dict[str, Any]]:
            with reader.snapshot():
                models = {
                    name: self._seen_by(reader, name).model
                    for name in known
                    if name in reader.encoders
                }
            return {
                name: {
                    "bits": model.bits if model.gives_codes else None,
                    "fine": model.fine,
                    "explains": known[name].explains,
                    "knows_texts": known[name].knows_texts and not self.is_sharded,
                }
                for name, model in models.items()
            }

        return await self._slow.run(read)

    def _count(self, reader: AnyReader) -> dict[str, Any]:
        version = reader.version()
        if self._facts is None or self._facts[:2] != (reader, version):
            with reader.snapshot():
                info = reader.info()
                labels = Counter(reader.label_counts())
                columns = reader.columns()
                shards = reader.shards()
            facts: dict[str, Any] = {
                "name": self.name,
                "items": info.items,
                "labels": info.labels,
                "bits": info.bits,
                "dim": info.dim,
                "unique_codes": info.unique_codes,
                "model": info.model,
                "method": info.method,
                "fine": info.fine,
                "fingerprint": info.fingerprint,
                "label_counts": dict(labels.most_common(LABELS)),
                "columns": columns,
            }
            if shards is not None:
                facts["shards"] = [
                    {
                        "name": self.public(name),
                        "items": items,
                        "failed": reason and self.public(reason),
                    }
                    for name, items, reason in shards
                ]
            self._facts = reader, version, facts
        return self._facts[2]


@dataclass(frozen=True)
class _Asked:
    """A search for an encoded picture or an id, with further ones that are right or wrong, and the
    future of what it finds."""

    query: Encoded | int
    like: Sequence[Encoded | int]
    unlike: Sequence[Encoded | int]
    options: SearchOptions
    future: Future[Found]


def _one_index(reader: AnyReader) -> Reader:
    if not isinstance(reader, Reader):
        raise NotFoundError("several indexes have no map and no order: serve one of them")
    return reader


def _timed(found: Found, encoded: Answered[Encoded] | int, total_ms: float) -> Answer:
    """With the time of each stage; what remains of the total is the time in the queue."""
    stages, size = {**found.hits.milliseconds}, None
    if not isinstance(encoded, int):
        stages |= {"decode": encoded.prepare_ms, "encode": encoded.work_ms}
        size = encoded.answer.header.size
    queue_ms = max(0.0, total_ms - sum(stages.values()))
    return Answer(found, {"queue": queue_ms, **stages, "total": total_ms}, size)


def _refusal(problem: str | None) -> str | None:
    """Why nothing can be added, if the proof of a model has a problem."""
    return problem and f"nothing can be added here: {problem}"


def _answer_or_its_error(answer: Answer | BaseException) -> Answer | WingbarError:
    """Raises errors that concern more than one query."""
    if isinstance(answer, (ImageError, TooLargeError, NotFoundError)):
        return answer
    if isinstance(answer, BaseException):
        raise answer
    return answer
