"""What the server does, without HTTP: encode queries in batches, search, show and store pictures, each in threads of its own.

An index is one SQLite connection, which one thread may use at a time. So each kind of work has a lane: a thread with a
connection of its own. Searches have one, what can take longer another, looking items up a third and writing a fourth.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image

from wingbar import codes, explain, images
from wingbar.adding import NO_FILE
from wingbar.batching import Answered, Batcher, BusyError
from wingbar.datasets import Entry, Images
from wingbar.errors import ImageError, StoreError, WingbarError
from wingbar.index import SHORTLIST, Fine, Hits, Index, parse_where
from wingbar.model import BATCH, Embeddings, Float32, Model, cores
from wingbar.store import CHUNK, Item, Store

if TYPE_CHECKING:
    import onnxruntime

T = TypeVar("T")

LOOK_SECONDS = 0.5  # how often a lane looks whether another index was put in the place of its own
MANY = 1000  # hits or items of a shortlist from which a search is a slow one
COLUMN_VALUES = 20  # values of a column that are named, the most frequent ones
LABELS = 200  # labels that are counted by name
SAMPLED = 5000  # items whose columns are looked at for that
NAME = "file"  # the column with the name that an uploaded file had
SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "DIB": ".bmp", "PPM": ".ppm", "TIFF": ".tiff",
    "AVIF": ".avif", "JPEG2000": ".jp2",
}  # fmt: skip
AS_STORED = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}  # what every browser shows
# What a file may say beside its pixels to be sent as it is; all else, such as EXIF with the place, is left out by encoding anew.
HARMLESS = frozenset(
    "jfif jfif_version jfif_unit jfif_density dpi icc_profile progressive progression adobe adobe_transform gamma srgb "
    "chromaticity transparency aspect interlace loop background timestamp duration default_image".split()
)
LONGEST_SHOWN = 1600  # pixels of the longer side of an explained picture


class NotFoundError(WingbarError):
    """There is no such item, or nothing to show of it."""


class TooLargeError(WingbarError):
    """A picture with more bytes or pixels than the server takes."""


class EmptyError(WingbarError):
    """The index holds nothing yet."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a server takes on.

    A picture has at most `upload_bytes` and `pixels`, a request at most `pictures`, `k` hits and a `shortlist`; `waiting`
    pictures are encoded or wait for it, one at most `gather_ms` for others to be encoded with; a request takes at most
    `seconds`. At most `requests` with `body_bytes` in all are in work. `cache_bytes` of thumbnails are kept.
    """

    upload_bytes: int = 32 * 2**20
    pixels: int = 64_000_000
    pictures: int = 64
    k: int = 1000
    shortlist: int = 10_000
    waiting: int = 8 * BATCH
    gather_ms: float = 5.0
    seconds: float = 30.0
    requests: int = 512
    body_bytes: int = 2**30
    cache_bytes: int = 64 * 2**20


@dataclass(frozen=True)
class Ranking:
    """How to search, as in `Index.search`."""

    k: int = 20
    radius: int | None = None
    fine: Fine | None = None
    shortlist: int = SHORTLIST
    where: tuple[str, ...] = ()
    box: images.Box | None = None


@dataclass(frozen=True)
class Encoded:
    """A picture after the network: its raw output [r] float32, its format, and the size of the upright picture."""

    raw: Float32
    kind: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """The hits of a query; `theirs` are their codes [K, w] and `code` the query's own [1, w], of `bits` bits. `fine` is the
    second stage that was used, and `available` says of which hits the file is there."""

    hits: Hits
    theirs: codes.Packed
    code: codes.Packed
    bits: int
    fine: str
    available: Sequence[bool]


class Answer(NamedTuple):
    """What a search found, the milliseconds of its stages, and the size of the upright picture where there was one."""

    found: Found
    milliseconds: dict[str, float]
    size: tuple[int, int] | None


class Row(NamedTuple):
    """An item with its id and its code [1, w] of `bits` bits; `available` says whether its file is there."""

    id: int
    item: Item
    code: codes.Packed
    bits: int
    available: bool


@dataclass(frozen=True)
class Shown:
    """A picture to send: its bytes, their media type, and a tag that changes with them."""

    data: bytes
    media_type: str
    tag: str


@dataclass(frozen=True)
class Upload:
    """A picture to be stored, the name of its file, and its label."""

    name: str
    data: bytes
    label: str | None


@dataclass(frozen=True)
class _Decoded:
    """A picture before the network."""

    pixels: images.Pixels
    kind: str
    size: tuple[int, int]


@dataclass(frozen=True)
class _Ready:
    """An upload after the network: all that is left is to store it."""

    upload: Upload
    encoded: Encoded

    @property
    def columns(self) -> dict[str, str]:
        """What is stored beside its label."""
        return {NAME: self.upload.name}


# -- reading


class Reader:
    """An index on a connection of its own, for one thread. Raises StoreError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        status = path.stat() if path.exists() else None
        self.store = Store.open(path)
        self.index = Index(self.store)
        self._file = None if status is None else (status.st_dev, status.st_ino)

    def is_current(self) -> bool:
        """Whether the file is still the one that was opened, and not another that was made in its place."""
        try:
            status = self.index.path.stat()
        except OSError:
            return True  # gone, or not to be reached for a moment: what is open can still be read
        return (status.st_dev, status.st_ino) == self._file

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be found yet."""
        return not self.index.model.gives_codes or self.store.is_empty()

    def item(self, id_: int) -> Item:
        """An item. Raises NotFoundError when there is none."""
        try:
            return self.store.items([id_])[0]
        except StoreError:
            raise NotFoundError(f"there is no item {id_}: it may have been deleted") from None

    def embedding(self, id_: int) -> Embeddings:
        """What the index knows of an item, as a query. Logits are not stored: these only say what the bits say."""
        self.item(id_)
        model = self.index.model
        packed = self.codes_of([id_])
        features = self.store.features([id_], model.dim).astype(np.float32)
        logits = np.where(codes.unpack(packed, model.bits), np.float32(1), np.float32(-1))
        return Embeddings(packed, features, logits, model.bits, model.name, model.fingerprint)

    def codes_of(self, ids: Sequence[int]) -> codes.Packed:
        """The codes [n, w] of items that are there."""
        return self.index.searchable().of(np.array(ids, np.int64))

    def row(self, id_: int) -> Row:
        """An item with its code, which is read from the file: for a lane that does not keep the codes. Raises NotFoundError."""
        item, bits = self.item(id_), self.index.model.bits
        ids, packed = self.store.codes(bits, [id_ // CHUNK])
        place = int(np.searchsorted(ids, id_))
        return Row(id_, item, packed[place : place + 1], bits, _is_available(item.path))

    def rows(self, offset: int, limit: int, where: Sequence[str]) -> tuple[list[Row], int]:
        """A page of the items that fulfil the filters, by ascending id, and how many there are in all."""
        conditions = parse_where(where)
        if self.is_empty:
            return [], 0
        ids = self.store.matching(conditions) if conditions else self.index.searchable().ids
        page = ids[offset : offset + limit].tolist()
        bits, packed = self.index.model.bits, self.codes_of(page)
        items = self.store.items(page)
        rows = [Row(id_, items[i], packed[i : i + 1], bits, _is_available(items[i].path)) for i, id_ in enumerate(page)]
        return rows, len(ids)

    def columns(self) -> dict[str, list[str]]:
        """The most frequent values of each column, of up to SAMPLED items; columns that name every item apart are left out."""
        if self.is_empty:
            return {}
        ids = self.index.searchable().ids
        counts: dict[str, Counter[str]] = {}
        for item in self.store.items(ids[:: -(-len(ids) // SAMPLED)].tolist()):
            for name, value in item.columns.items():
                if name != NAME:
                    counts.setdefault(name, Counter())[value] += 1
        useful = {name: count for name, count in counts.items() if len(count) <= COLUMN_VALUES or len(count) < count.total()}
        return {name: [value for value, _ in count.most_common(COLUMN_VALUES)] for name, count in sorted(useful.items())}

    def refresh(self) -> int:
        """Take over what other processes changed. Returns how many items there are."""
        with self.index.snapshot():
            if not self.is_empty:
                self.index.searchable()
            return len(self.index)


class Lane:
    """A thread with a Reader of its own, which does one thing after the other."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, f"wingbar-{name}")
        self._reader: Reader | None = None
        self._looked = 0.0

    async def run(self, work: Callable[[Reader], T]) -> T:
        """`work` with the lane's reader, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work)

    def wait(self, work: Callable[[Reader], T]) -> T:
        """The same for a thread that has nothing else to do."""
        return self._pool.submit(self._do, work).result()

    def close(self) -> None:
        """Finish what is in line and release the file."""
        self._pool.shutdown(wait=True)
        if self._reader is not None:
            self._reader.index.close()

    def _do(self, work: Callable[[Reader], T]) -> T:
        if self._reader is None:
            self._reader = Reader(self._path)
        elif time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            if not self._reader.is_current():
                before, self._reader = self._reader, Reader(self._path)
                before.index.close()
        return work(self._reader)


# -- the whole


class Network(Model):
    """A model that many threads run at the same time, each on a batch of its own by itself.

    Together they encode more than one run by all cores, whose threads wait for each other at every layer, and do so by
    spinning. A picture that comes alone is sooner encoded by all cores.
    """

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(self.files["model.onnx"], options, providers=["CPUExecutionProvider"])


class Service:
    """An index being served. Its methods may be called at the same time, from one event loop."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.uploads = Path(f"{os.path.abspath(path)}.uploads")
        self.writable = os.access(path, os.W_OK) and os.access(self.uploads.parent, os.W_OK)
        self.count = 0  # items, as of the last look
        self.on_batch: Callable[[int], object] = int  # is told how many pictures are encoded together
        self._searches, self._slow = Lane(path, "search"), Lane(path, "slow")
        self._lookups, self._writes = Lane(path, "lookup"), Lane(path, "write")
        self._decoders = ThreadPoolExecutor(cores(), "wingbar-decode")
        self._showers = ThreadPoolExecutor(cores(), "wingbar-show")
        self._thumbs = _Cache(limits.cache_bytes)
        self._facts: tuple[Reader, tuple[int, int], dict[str, Any]] | None = None
        self._started = False

    def start(self) -> None:
        """Open the index and make everything ready that a first search would wait for. Raises StoreError."""
        if self._started:
            return
        try:
            self._alone, self._network, self.explains = self._searches.wait(_warmed)
            self.count = self._slow.wait(Reader.refresh)
        except BaseException:
            self._close_threads()
            raise
        wait, limit = self.limits.gather_ms / 1000, self.limits.waiting
        self.encoder = Batcher(
            "wingbar-encode", self._decode, self._encode, self._decoders, most=BATCH, wait=wait, limit=limit, workers=cores()
        )
        self.writer = Batcher("wingbar-store", _as_it_is, self._store, self._decoders, most=64, wait=wait, limit=limit)
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
        if not self.path.exists():
            raise StoreError(f"{self.path} is gone: bring it back, or start the server with another index")
        await self._lookups.run(lambda reader: reader.store.model_fingerprint())

    @property
    def waiting(self) -> int:
        """Pictures that were taken on and are not encoded yet."""
        return len(self.encoder) if self._started else 0

    # -- search

    async def search(self, query: bytes | int, ranking: Ranking) -> Answer:
        """The hits of a picture or of an item, as `Index.search` finds them.

        Raises QueryError, ImageError, NotFoundError, TooLargeError, EmptyError, BusyError, StoreError.
        """
        (answer,), _ = await self.search_many([query], ranking)
        if isinstance(answer, WingbarError):
            raise answer
        return answer

    async def search_many(
        self, queries: Sequence[bytes | int], ranking: Ranking
    ) -> tuple[list[Answer | WingbarError], dict[str, float]]:
        """`search` for several, with an error in the place of a query that cannot be answered, and the time of them all."""
        start = time.perf_counter()
        self._admit(sum(isinstance(query, bytes) for query in queries))
        encoded = await asyncio.gather(*(self._encoded(query, ranking) for query in queries), return_exceptions=True)
        good = [one for one in encoded if isinstance(one, (Answered, int))]
        asked = [one if isinstance(one, int) else one.answer for one in good]
        slow = ranking.where or max(ranking.k, ranking.shortlist) > MANY
        found = iter(await (self._slow if slow else self._searches).run(lambda reader: self._found(reader, asked, ranking)))
        total = (time.perf_counter() - start) * 1000
        answers: list[Answer | WingbarError] = []
        for one in encoded:
            if isinstance(one, WingbarError):
                answers.append(one)
            elif isinstance(one, BaseException):
                raise one
            else:
                answer = next(found)
                answers.append(answer if isinstance(answer, WingbarError) else _timed(answer, one, total))
        return answers, {"total": total}

    def _admit(self, pictures: int) -> None:
        """Raises BusyError when so many more at once are too many, rather than to take on some of them."""
        if pictures and self.waiting + pictures > self.limits.waiting:
            raise BusyError(f"{self.waiting} pictures are waiting already: try again in a moment")

    async def _encoded(self, query: bytes | int, ranking: Ranking) -> Answered[Encoded] | int:
        """What the network makes of a picture; an item stays an id where all that is asked of it is stored."""
        if isinstance(query, int):
            if ranking.box is None and (ranking.fine or self._network.fine) != "asymmetric":
                return query
            query = await self._bytes_of(query)  # neither a part of it nor its logits are stored
        return await asyncio.wrap_future(self.encoder.submit(images.Part(query, ranking.box) if ranking.box else query))

    def _decode(self, source: bytes | images.Part) -> _Decoded:
        """In the pool: pixels for the network."""
        data = source.of if isinstance(source, images.Part) else source
        assert isinstance(data, bytes)
        kind, size = self._measured(data)
        return _Decoded(images.load(source, self._network.preparation), kind, size)

    def _encode(self, batch: list[_Decoded]) -> list[Encoded]:
        """In a thread of the encoder. Codes come later, in the lane: a refit changes them, but not the network."""
        self.on_batch(len(batch))
        network = self._network if self.waiting > 1 else self._alone
        raw = network.run([one.pixels for one in batch])
        return [Encoded(row, one.kind, one.size) for row, one in zip(raw, batch, strict=True)]

    def _found(self, reader: Reader, queries: Sequence[Encoded | int], ranking: Ranking) -> list[Found | WingbarError]:
        """In a lane: from encoded pictures or ids to hits, in one state of the index."""
        with reader.index.snapshot():
            if reader.is_empty:
                raise EmptyError("the index holds no images yet: upload some, or run wingbar index")
            model = reader.index.model
            self._check_network(model)
            found: list[Found | WingbarError] = []
            for query in queries:
                try:
                    one = reader.embedding(query) if isinstance(query, int) else model.embed(query.raw[None])
                except NotFoundError as error:
                    found.append(error)
                    continue
                hits = reader.index.search_many(
                    one, ranking.k, radius=ranking.radius, fine=ranking.fine, shortlist=ranking.shortlist, where=ranking.where
                )[0]
                theirs = reader.codes_of([hit.id for hit in hits])
                there = [_is_available(hit.path) for hit in hits]
                found.append(Found(hits, theirs, one.codes, model.bits, ranking.fine or model.fine, there))
            return found

    def _check_network(self, model: Model) -> None:
        """Raises StoreError when pictures were encoded by another network than the index has now."""
        if model.record["files"]["model.onnx"] != self._network.record["files"]["model.onnx"]:
            raise StoreError(f"{self.path} was replaced by an index of another model: start the server again")

    def _measured(self, data: bytes) -> tuple[str, tuple[int, int]]:
        """Format and upright size of a picture, from its header. Raises TooLargeError, or ImageError when it is none."""
        if not data:
            raise ImageError("the picture is empty: it has no bytes")
        if len(data) > self.limits.upload_bytes:
            raise TooLargeError(f"{len(data):,} bytes; this server takes {self.limits.upload_bytes:,}: send a smaller picture")
        try:
            with Image.open(io.BytesIO(data), formats=tuple(SUFFIXES)) as picture:
                kind, (width, height) = picture.format or "", picture.size
                turned = _orientation(picture) >= 5
        except Image.DecompressionBombError:
            raise TooLargeError(f"more than the {self.limits.pixels:,} pixels that this server takes: scale it down") from None
        except Exception:  # whatever a broken header does to Pillow: `images` knows how to say it
            images.upright(data)
            raise ImageError("the header cannot be read: save the picture anew") from None
        if width * height > self.limits.pixels:
            raise TooLargeError(
                f"{width} x {height} is more than the {self.limits.pixels:,} pixels that this server takes: scale it down"
            )
        return kind, (height, width) if turned else (width, height)

    # -- look

    async def row(self, id_: int) -> Row:
        """An item and its code. Raises NotFoundError."""

        def read(reader: Reader) -> Row:
            with reader.index.snapshot():
                return reader.row(id_)

        return await self._lookups.run(read)

    async def rows(self, offset: int, limit: int, where: Sequence[str]) -> tuple[list[Row], int]:
        """A page of the items by ascending id, and how many there are in all. Raises QueryError."""

        def read(reader: Reader) -> tuple[list[Row], int]:
            with reader.index.snapshot():
                return reader.rows(offset, limit, where)

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
                info, labels, columns = reader.index.info(), reader.index.label_counts(), reader.columns()
            names = ("items", "labels", "bits", "dim", "unique_codes", "model", "method", "fine", "fingerprint")
            facts = {"name": self.path.stem, **{name: getattr(info, name) for name in names}}
            self._facts = (
                reader,
                version,
                {**facts, "label_counts": dict(Counter(labels).most_common(LABELS)), "columns": columns},
            )
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
        return Shown(images.thumbnail(data, side), "image/jpeg", f"{item.content.hex()[:32]}-{side}")

    async def image(self, id_: int) -> Shown:
        """An item's picture for a browser: as stored where it can be shown and says nothing but its pixels, else as a JPEG."""
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
        """A PNG of what the model saw in a picture. Raises NotFoundError when it shows nothing, ImageError, TooLargeError."""
        if not self.explains:
            raise NotFoundError("this model shows no places: models of DOLG have attention, of CMBH regions")
        data = await self._bytes_of(query) if isinstance(query, int) else query
        return await asyncio.get_running_loop().run_in_executor(self._showers, lambda: self._overlay(data, box))

    def _overlay(self, data: bytes, box: images.Box | None) -> bytes:
        self._measured(data)
        picture = images.upright(images.Part(data, box) if box else data)
        picture.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
        look = explain.look(self._alone, picture)
        return images.overlay(picture, look.heat, look.area, look.regions)

    async def _bytes_of(self, id_: int) -> bytes:
        """The file of an item. Raises NotFoundError."""
        item = await self._lookups.run(lambda reader: reader.item(id_))
        return await self._shower(lambda: _indexed_bytes(item))

    async def _shower(self, work: Callable[[], T]) -> T:
        """`work` on the picture of an item, in a thread. What is wrong with it is nothing that a caller could mend."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._showers, work)
        except (ImageError, TooLargeError) as error:
            raise NotFoundError(f"the picture of this item cannot be shown: {error}") from None

    # -- change

    async def add(self, uploads: Sequence[Upload]) -> tuple[list[tuple[int, str]], list[tuple[str, str]]]:
        """Store pictures and index them. Returns id and name of each once they are safe, and name and reason of the others.

        Raises BusyError when too many are waiting, StoreError when the index or its folder cannot be written.
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
                ready.append(_Ready(upload, one.answer))
        stored = await asyncio.gather(*(asyncio.wrap_future(self.writer.submit(one)) for one in ready))
        return [(one.answer, item.upload.name) for one, item in zip(stored, ready, strict=True)], failed

    def _store(self, batch: list[_Ready]) -> list[int]:
        """In the writer's thread: the ids of uploads that came at the same time."""
        return self._writes.wait(lambda reader: self._stored(reader, batch))

    def _stored(self, reader: Reader, batch: list[_Ready]) -> list[int]:
        """Files first, then their items in one transaction: an item is never without its file."""
        named = {self._place(one): one for one in batch}  # of equal pictures the last one counts
        new: list[Path] = []
        try:
            self.uploads.mkdir(exist_ok=True)
            new += [path for path, one in named.items() if _put(path, one.upload.data)]
            _sync(self.uploads)
            _sync(self.uploads.parent)
            self._index(reader, named)
        except OSError as error:
            raise StoreError(f"{self.uploads.name} cannot be written ({error.strerror}): free some space, try again") from error
        finally:
            ids = reader.store.ids_of_paths(map(str, named))
            for path in new:
                if str(path) not in ids:
                    path.unlink(missing_ok=True)
        return [ids[str(self._place(one))] for one in batch]

    def _index(self, reader: Reader, named: Mapping[Path, _Ready]) -> None:
        """Index files that are in place.

        `Index.add` learns the codes of an index that has none. Later it would do as well, but it first reads the records of
        all items, which takes a second where there are 100,000.
        """
        with reader.index.snapshot():
            fitted = reader.index.model.gives_codes
        if fitted:
            self._insert(reader, named)
        else:
            entries = [Entry(path, one.upload.label, one.columns) for path, one in named.items()]
            reader.index.add([Images(entries, "uploads")], threads=1)

    def _insert(self, reader: Reader, named: Mapping[Path, _Ready]) -> None:
        """Store items. A picture that was uploaded before keeps its id, and its label unless a new one was given."""
        store = reader.store
        with store.writing(), reader.index.snapshot():
            model = reader.index.model
            self._check_network(model)
            known = store.ids_of_paths(map(str, named))
            fresh = {path: one for path, one in named.items() if str(path) not in known}
            updates = {}
            for path, one in named.items():
                if path not in fresh:
                    before, now = store.items([known[str(path)]])[0], _record(path, one)
                    updates[known[str(path)]] = replace(now, label=before.label if now.label is None else now.label)
            store.update(updates)
            if fresh:
                embeddings = model.embed(np.stack([one.encoded.raw for one in fresh.values()]))
                items = [_record(path, one) for path, one in fresh.items()]
                store.add(items, embeddings.codes, embeddings.features, model.bits)

    def _place(self, one: _Ready) -> Path:
        """Where an upload is kept: under a name made of its content."""
        return self.uploads / f"{hashlib.sha256(one.upload.data).hexdigest()[:32]}{SUFFIXES.get(one.encoded.kind, '.jpg')}"

    async def delete(self, id_: int) -> None:
        """Remove an item, and its file when that was uploaded here. Raises NotFoundError, StoreError."""
        await self._writes.run(lambda reader: self._delete(reader, id_))

    def _delete(self, reader: Reader, id_: int) -> None:
        item = reader.item(id_)
        reader.index.delete([id_])
        if Path(item.path).parent == self.uploads:
            Path(item.path).unlink(missing_ok=True)
            _sync(self.uploads)

    def _clear_partial(self) -> None:
        """Remove what a killed server had begun to write."""
        with suppress(OSError):
            for path in self.uploads.glob(".*.partial"):
                if time.time() - path.stat().st_mtime > 600:  # not what another server is writing now
                    path.unlink()


def _warmed(reader: Reader) -> tuple[Model, Network, bool]:
    """The model for pictures that come alone and the one for many, which have run once, and whether it has something to show."""
    alone = reader.index.model
    network = Network(alone.files)
    side = alone.preparation.size
    grey = images.load(np.full((side, side, 3), 128, np.uint8), alone.preparation)
    for model in (alone, network):
        model.run([grey])
    if reader.refresh() >= codes.COMPILED_FROM:
        codes.warm_up(alone.bits)
    return alone, network, bool(alone.shows(grey))


def _as_it_is(ready: _Ready) -> _Ready:
    return ready


def _timed(found: Found, encoded: Answered[Encoded] | int, total: float) -> Answer:
    """With milliseconds of the stages; `queue` is the time in which nothing was done for this search."""
    stages, size = {**found.hits.milliseconds}, None
    if not isinstance(encoded, int):
        stages |= {"decode": encoded.prepared, "encode": encoded.worked}
        size = encoded.answer.size
    return Answer(found, {"queue": max(0.0, total - sum(stages.values())), **stages, "total": total}, size)


# -- pictures and files


class _Cache:
    """Pictures up to so many bytes; what was not asked for the longest goes first."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._kept: OrderedDict[tuple[bytes, int], Shown] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[bytes, int]) -> Shown | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[bytes, int], shown: Shown) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = shown
                self._held += len(shown.data)
            while self._held > self._most:
                self._held -= len(self._kept.popitem(last=False)[1].data)


def _orientation(picture: Image.Image) -> int:
    """The turn that EXIF asks for, 1 for none; from 5 on sides are swapped."""
    try:
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
    except Exception:  # broken EXIF raises many things, and the picture is still good
        return 1


def _says_only_pixels(data: bytes) -> bool:
    """Whether a picture says nothing more, such as where it was taken."""
    with Image.open(io.BytesIO(data), formats=tuple(AS_STORED)) as picture:
        try:
            picture.load()  # a PNG may say more after its pixels
        except Exception:  # cut off or broken: what can be decoded of it is sent
            return False
        return set(picture.info) <= HARMLESS


def _is_available(path: str) -> bool:
    return not path.startswith("array:") and os.path.exists(path)


def _indexed_bytes(item: Item) -> bytes:
    """The file of an item, provided that it is still what was indexed. Raises ImageError."""
    if item.size == NO_FILE:
        raise ImageError("it was added as an array and has no file")
    data = images.read(item.path)
    if hashlib.sha256(data).digest() != item.content:
        raise ImageError("the file has changed since it was indexed: index it again")
    return data


def _record(path: Path, one: _Ready) -> Item:
    """The item of an uploaded file, as `Index.add` would make it."""
    status = path.stat()
    content = hashlib.sha256(one.upload.data).digest()
    return Item(str(path), one.upload.label, one.columns, status.st_size, status.st_mtime_ns, content)


def _put(path: Path, data: bytes) -> bool:
    """Write a file so that it is whole or not there, whatever happens. False when it is there already. Raises OSError."""
    if path.exists() and path.stat().st_size == len(data):
        return False
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return True


def _sync(folder: Path) -> None:
    """Make new names in a folder survive a power cut. Raises OSError."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
