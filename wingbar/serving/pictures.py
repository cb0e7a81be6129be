"""Pictures that the server sends: thumbnails, stored ones, overlays of where the model looked."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Lock
from typing import Literal, TypeVar

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from wingbar import images
from wingbar.errors import ImageError
from wingbar.index.store import NO_FILE, Item
from wingbar.model import saliency
from wingbar.model.model import Model
from wingbar.serving.connections import AnyReader, NotFoundError, ReaderThread
from wingbar.serving.encoder import Encoder, TooLargeError, read_header
from wingbar.serving.metadata import without_metadata
from wingbar.serving.settings import Limits

T = TypeVar("T")
Side = Literal["query", "item"]

LONGEST_OVERLAY = 1600  # pixels of the longer side of an overlay


@dataclass(frozen=True)
class Picture:
    """A picture to send.

    data: its bytes.
    media_type: their media type, as "image/jpeg".
    tag: a text that changes when the bytes do.
    """

    data: bytes
    media_type: str
    tag: str


class Pictures:
    """Pictures of items, read from their files, and overlays. A picture is sent only while its file
    is what was indexed."""

    def __init__(
        self,
        encoder_of: Callable[[str | None], Encoder],
        limits: Limits,
        lookups: ReaderThread[AnyReader],
        pool: Executor,
    ) -> None:
        self._encoder_of, self._limits = encoder_of, limits
        self._lookups, self._pool = lookups, pool
        self._thumbnails = ThumbnailCache(limits.cache_bytes)

    async def thumbnail(self, id_: int, side: int) -> Picture:
        """A small JPEG of an item's picture without metadata, its longer side at most `side`
        pixels. Raises NotFoundError."""
        item = await self._item(id_)
        key = item.content, side
        picture = self._thumbnails.get(key)
        if picture is None:
            picture = await self._read(lambda: self._make_thumbnail(item, side))
            self._thumbnails.put(key, picture)
        return picture

    async def image(self, id_: int) -> Picture:
        """An item's picture in full size, without metadata: its file if browsers show the format,
        the picture is upright and has no colour profile, else a JPEG. Raises NotFoundError."""
        item = await self._item(id_)
        return await self._read(lambda: self._make_image(item))

    async def file(self, id_: int) -> bytes:
        """The bytes of an item's file. Raises NotFoundError."""
        item = await self._item(id_)
        return await self._read(lambda: _read_indexed(item))

    async def explain(
        self, query: bytes | int, box: images.Box | None, encoder: str | None = None
    ) -> bytes:
        """A PNG of where the model of an encoder, the first by default, looked in a picture, an
        item's picture, or a part of either.

        Raises NotFoundError when there is no item or the model has nothing to show, QueryError for
        an unknown encoder, ImageError, TooLargeError.
        """
        asked = self._encoder_of(encoder)
        if not asked.explains:
            raise NotFoundError(
                "this model has no attention to show: DOLG models have attention maps, CMBH models "
                "regions"
            )
        data = await self.file(query) if isinstance(query, int) else query
        return await self._in_pool(lambda: self._make_overlay(asked.model, data, box))

    async def match(
        self,
        query: bytes | int,
        box: images.Box | None,
        item: int,
        on: Side,
        encoder: str | None = None,
    ) -> bytes:
        """A PNG of which parts make a picture and an item alike for an encoder, the first by
        default: parts of the query (a picture, an item's picture, or a part of either) or of the
        item. Raises NotFoundError, QueryError, ImageError, TooLargeError."""
        network = self._encoder_of(encoder).model
        data = await self.file(query) if isinstance(query, int) else query
        shown = await self.file(item) if on == "item" else data
        by_id = query if on == "item" else item

        def read(reader: AnyReader) -> tuple[Model, NDArray[np.floating] | None]:
            reader = reader.by(encoder)
            known = isinstance(by_id, int) and (on == "query" or box is None)
            feature = reader.embedding(int(by_id)).features[0] if known else None
            return reader.model, feature

        def draw() -> bytes:
            other = feature
            if other is None:
                read_header(data, self._limits)
                part = images.Part(data, box) if box else data
                pixels = images.load(part, model.preprocessing)
                other = model.embed(network.run([pixels])).features[0]
            part_of = box if on == "query" else None
            return self._make_match(shown, part_of, model, network, other)

        model, feature = await self._lookups.run(read)
        if not model.has_network:
            raise NotFoundError(
                "this index holds vectors that were made elsewhere: no network of "
                "it can say what matches"
            )
        return await self._in_pool(draw)

    async def regions(self, query: bytes | int, encoder: str | None = None) -> list[list[int]]:
        """Parts of a picture, or of an item's picture, that the model of an encoder, the first by
        default, finds strong: x, y, width, height of each in pixels. None where nothing stands out,
        or for a network that has no map of where it answers.

        Raises NotFoundError, QueryError, ImageError, TooLargeError.
        """
        asked = self._encoder_of(encoder)
        if not asked.model.has_network:
            return []
        data = await self.file(query) if isinstance(query, int) else query
        return await self._in_pool(lambda: self._find_regions(asked, data))

    async def _item(self, id_: int) -> Item:
        return await self._lookups.run(lambda reader: reader.item(id_))

    async def _read(self, work: Callable[[], T]) -> T:
        """`work` on an item's picture, in a thread. Errors become NotFoundError, since the caller
        cannot correct the picture."""
        try:
            return await self._in_pool(work)
        except (ImageError, TooLargeError) as error:
            raise NotFoundError(f"the picture of this item cannot be shown: {error}") from None

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _find_regions(self, asked: Encoder, data: bytes) -> list[list[int]]:
        read_header(data, self._limits)
        if asked.explains:
            boxes = saliency.suggested_regions(saliency.look(asked.model, data))
        else:
            boxes = saliency.standing_out(asked.model, data)
        return [[round(value) for value in box] for box in boxes]

    def _make_match(
        self,
        data: bytes,
        box: images.Box | None,
        model: Model,
        network: Model,
        other: NDArray[np.floating],
    ) -> bytes:
        read_header(data, self._limits)
        picture = images.upright(data)
        part = images.Part(picture, box) if box else picture
        found = saliency.match(model, network, part, other)
        left, top = (max(0.0, value) for value in box[:2]) if box else (0.0, 0.0)
        x, y, width, height = found.area
        scale = min(1.0, LONGEST_OVERLAY / max(picture.size))
        picture.thumbnail((LONGEST_OVERLAY, LONGEST_OVERLAY))
        area = (scale * (left + x), scale * (top + y), scale * width, scale * height)
        return _bare(images.overlay(picture, found.heat, area))

    def _make_thumbnail(self, item: Item, side: int) -> Picture:
        data = _read_indexed(item)
        read_header(data, self._limits)
        return Picture(_bare(images.thumbnail(data, side)), "image/jpeg", f"{_tag(item)}-{side}")

    def _make_image(self, item: Item) -> Picture:
        data = _read_indexed(item)
        read_header(data, self._limits)
        bare = without_metadata(data)
        if bare is not None and not bare.has_profile and _is_upright(data):
            return Picture(bare.data, bare.media_type, f"{_tag(item)}-bare")
        return Picture(_as_jpeg(data), "image/jpeg", f"{_tag(item)}-jpeg")

    def _make_overlay(self, model: Model, data: bytes, box: images.Box | None) -> bytes:
        read_header(data, self._limits)
        picture = images.upright(images.Part(data, box) if box else data)
        picture.thumbnail((LONGEST_OVERLAY, LONGEST_OVERLAY))
        look = saliency.look(model, picture)
        return _bare(images.overlay(picture, look.heat, look.area, look.regions))


class ThumbnailCache:
    """The pictures used last, up to `max_bytes` of them, by content hash and side. Any thread may
    use it."""

    def __init__(self, max_bytes: int) -> None:
        self._pictures: LRUCache[tuple[bytes, int], Picture] = LRUCache(
            max_bytes, getsizeof=lambda picture: len(picture.data)
        )
        self._lock = Lock()

    def get(self, key: tuple[bytes, int]) -> Picture | None:
        """The picture at `key`, if it is still there."""
        with self._lock:
            return self._pictures.get(key)

    def put(self, key: tuple[bytes, int], picture: Picture) -> None:
        """Keep a picture, and drop those not used for the longest time. One that is larger than the
        whole cache is not kept."""
        with self._lock:
            if len(picture.data) <= self._pictures.maxsize:
                self._pictures[key] = picture


def _read_indexed(item: Item) -> bytes:
    """The file of an item, if it is still what was indexed. Raises ImageError."""
    if item.size == NO_FILE:
        raise ImageError("it was added as an array and has no file")
    data = images.read(item.path)
    if hashlib.sha256(data).digest() != item.content:
        raise ImageError("the file has changed since it was indexed: index it again")
    return data


def _is_upright(data: bytes) -> bool:
    """Whether a picture looks the same without its EXIF orientation."""
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as picture:
            # that of PNG would decode the picture first, to find EXIF behind the pixels
            return Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # broken EXIF raises many things: what can be decoded is encoded again
        return False


def _as_jpeg(data: bytes) -> bytes:
    """A picture encoded again: upright, with the colours of its profile as sRGB."""
    picture = _in_srgb(data, images.upright(data))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92)
    return _bare(out.getvalue())


def _in_srgb(data: bytes, picture: Image.Image) -> Image.Image:
    """The pixels of an RGB picture as sRGB, which is what a file without a colour profile holds."""
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as stored:
            given, mode = stored.info.get("icc_profile"), stored.mode
        if given is None or mode not in ("RGB", "RGBA", "P"):
            return picture
        srgb = ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(given)), srgb
        )
    except Exception:  # a broken profile raises many things, and the picture is still good
        return picture
    return picture if turned is None else turned


def _bare(data: bytes) -> bytes:
    """A picture that was encoded here, without what Pillow copied from the original, such as a
    comment."""
    bare = without_metadata(data)
    assert bare is not None
    return bare.data


def _tag(item: Item) -> str:
    return item.content.hex()[:32]
