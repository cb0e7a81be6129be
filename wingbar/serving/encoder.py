"""Checks the pictures of requests, decodes them in parallel and encodes them in batches."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from wingbar import images
from wingbar.errors import ImageError, ModelError, StoreError, WingbarError
from wingbar.hamming import codes
from wingbar.model import runtime
from wingbar.model.model import NOT_FINITE, Embeddings, Float32, Model
from wingbar.model.text import TOKENIZER, TOWER
from wingbar.parallel import BATCH, cores
from wingbar.serving.batching import Answered, Batcher, BusyError
from wingbar.serving.connections import AnyReader
from wingbar.serving.settings import Limits

if TYPE_CHECKING:
    import onnxruntime

HEIC = "HEIF"  # Pillow's name; it opens such files only with the extra `heic`
# The formats that are accepted, as Pillow names them, and the ending of a stored file.
SUFFIXES = {
    "AVIF": ".avif",
    "BMP": ".bmp",
    "DIB": ".bmp",
    "GIF": ".gif",
    HEIC: ".heic",
    "JPEG": ".jpg",
    "JPEG2000": ".jp2",
    "PNG": ".png",
    "PPM": ".ppm",
    "TIFF": ".tiff",
    "WEBP": ".webp",
}
OPENED = tuple(name for name in SUFFIXES if name != HEIC)  # by Pillow itself


class TooLargeError(WingbarError):
    """A picture or request with more bytes or pixels than the server accepts."""


class Header(NamedTuple):
    """What the header of a picture says.

    format: Pillow's name of the format, a key of SUFFIXES.
    size: width and height of the upright picture, in pixels.
    """

    format: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """A picture after the network.

    raw: output [r] float32 of the network.
    embedding: what the model of that moment made of `raw`; None if it gave no codes yet.
    header: format and size of the picture.
    """

    raw: Float32
    embedding: Embeddings | None
    header: Header

    def embed(self, model: Model) -> Embeddings:
        """Code and feature by `model`, computed again if the index was refitted since the picture
        was encoded; `model` must have the same network. Raises ImageError when the network's
        outputs are not finite."""
        if not np.isfinite(self.raw).all():
            raise ImageError(NOT_FINITE)
        if self.embedding is not None and self.embedding.fingerprint == model.fingerprint:
            return self.embedding
        return model.embed(self.raw[None])


class SingleCoreModel(Model):
    """A model whose runs use one core each, so that several threads can run it at the same time.

    Together they encode more pictures than one run on all cores, whose threads spin while they wait
    for each other at every layer. A single picture is encoded sooner by all cores.
    """

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return runtime.open_session(self.files["model.onnx"], 1, self.name)


class SharedPicture:
    """A picture `data` that several encoders encode, and that is decoded once for all of them. Any
    thread may use it."""

    def __init__(self, data: bytes, encoders: Sequence[Encoder]) -> None:
        self._data = data
        self._preprocessings = [one.model.preprocessing for one in encoders]
        self._lock = Lock()
        self._decoded: tuple[Header, list[images.Pixels]] | None = None

    def decoded(self, preprocessing: images.Preprocessing, limits: Limits) -> _Decoded:
        """What one of the encoders sees; the first call decodes it for all. Raises ImageError and
        TooLargeError."""
        with self._lock:
            if self._decoded is None:
                header = read_header(self._data, limits)
                self._decoded = header, images.load_each(self._data, self._preprocessings)
        header, pixels = self._decoded
        return _Decoded(pixels[self._preprocessings.index(preprocessing)], header)


class Models(NamedTuple):
    """The model of an index in the forms that a server runs, ready to run.

    all_cores: for a picture that comes alone.
    single_core: for several batches at the same time.
    explains: whether the model has attention or regions to show.
    """

    all_cores: Model
    single_core: SingleCoreModel
    explains: bool


_Given = bytes | images.Part | SharedPicture  # a picture to encode


class Encoder:
    """Encodes pictures as indexing does, in batches of those that arrive at the same time.

    `path` is the index, for messages; `decoders` are the threads that decode; `on_batch` is called
    with the number of pictures in every batch.
    """

    def __init__(
        self,
        path: Path,
        models: Models,
        limits: Limits,
        decoders: Executor,
        on_batch: Callable[[int], object],
    ) -> None:
        self._path, self._models, self._limits, self._on_batch = path, models, limits, on_batch
        self._model: Model = models.all_cores  # fits the latest codes of the index
        self._batcher = Batcher(
            "wingbar-encode",
            self._decode,
            self._run,
            decoders,
            batch_size=BATCH,
            gather_seconds=limits.gather_ms / 1000,
            limit=limits.waiting,
            workers=cores(),
        )

    @property
    def waiting(self) -> int:
        """Number of pictures that were accepted and are not encoded yet."""
        return len(self._batcher)

    @property
    def model(self) -> Model:
        """The model that it runs, on all cores; its codes are those of the index at the start."""
        return self._models.all_cores

    @property
    def explains(self) -> bool:
        """Whether the model has attention or regions to show."""
        return self._models.explains

    @property
    def fine(self) -> str:
        """The model's own fine mode."""
        return self._models.all_cores.fine

    @property
    def knows_texts(self) -> bool:
        """Whether the model encodes texts."""
        return self._models.all_cores.has_text

    def admit(self, pictures: int) -> None:
        """Raises BusyError when the queue has no room for all of so many `pictures`."""
        if pictures and self.waiting + pictures > self._limits.waiting:
            raise BusyError(f"{self.waiting} pictures are waiting already: try again in a moment")

    def encode(self, picture: _Given) -> asyncio.Future[Answered[Encoded]]:
        """Queue the bytes of a picture, or a part of one, to be encoded. Raises BusyError; awaiting
        the result raises ImageError and TooLargeError."""
        return asyncio.wrap_future(self._batcher.submit(picture))

    def encode_text(self, text: str) -> Float32:
        """In any thread: the vector [r] of a text. Raises QueryError and ModelError as
        `Model.encode_text` does."""
        return self._models.all_cores.encode_text(text)

    def use(self, model: Model) -> None:
        """Fit the codes of pictures encoded from now on to `model`, the index's latest one. Raises
        StoreError when its network is not the one that this encoder runs."""
        self.check(model)
        self._model = model

    def check(self, model: Model) -> None:
        """Raises StoreError when the network of `model` is not the one that this encoder runs."""
        ours, theirs = self._models.all_cores.record["files"], model.record["files"]
        if any(theirs.get(name) != ours.get(name) for name in ("model.onnx", TOWER, TOKENIZER)):
            raise StoreError(
                f"{self._path} was replaced by an index of another model: restart the server"
            )

    def close(self) -> None:
        """Stop accepting pictures, encode those in the queue, join the threads."""
        self._batcher.close()

    def _decode(self, picture: _Given) -> _Decoded:
        """In a decoder's thread: pixels for the network."""
        preprocessing = self._models.all_cores.preprocessing
        if isinstance(picture, SharedPicture):
            return picture.decoded(preprocessing, self._limits)
        data = picture.of if isinstance(picture, images.Part) else picture
        assert isinstance(data, bytes)
        header = read_header(data, self._limits)
        return _Decoded(images.load(picture, preprocessing), header)

    def _run(self, batch: list[_Decoded]) -> list[Encoded]:
        """In one of the encoder's threads: the network, then code and feature."""
        self._on_batch(len(batch))
        network = self._models.single_core if self.waiting > 1 else self._models.all_cores
        model = self._model
        raw = network.run([one.pixels for one in batch])
        embeddings = model.embed(raw) if model.gives_codes else None
        return [
            Encoded(raw[i], None if embeddings is None else embeddings[i], one.header)
            for i, one in enumerate(batch)
        ]


def warm_up(reader: AnyReader) -> Models:
    """The models of an index, after a first run of everything that a first search would otherwise
    wait for."""
    model = reader.model
    if not model.has_network:
        raise ModelError(
            "this index has no network to encode pictures with, only vectors that were made "
            "elsewhere: search it with wingbar search, or from Python"
        )
    single_core = SingleCoreModel(model.files)
    side = model.preprocessing.size
    grey = images.load(np.full((side, side, 3), 128, np.uint8), model.preprocessing)
    for one in (model, single_core):
        one.run([grey])
    if reader.refresh() >= codes.COMPILED_FROM:
        codes.warm_up(model.bits)
    return Models(model, single_core, bool(model.auxiliary_outputs(grey)))


def read_header(data: bytes, limits: Limits) -> Header:
    """Format and upright size of a picture, without decoding it. Raises TooLargeError above the
    limits, ImageError when it is not a picture."""
    if not data:
        raise ImageError("the picture is empty: it has no bytes")
    if len(data) > limits.upload_bytes:
        raise TooLargeError(
            f"{len(data):,} bytes; this server accepts {limits.upload_bytes:,}: send a smaller "
            "picture"
        )
    try:
        if images.is_heic(data):
            name, (width, height), is_turned = HEIC, images.heic_header(data)[0], False
        else:
            with Image.open(io.BytesIO(data), formats=OPENED) as picture:
                name, (width, height) = picture.format or "", picture.size
                is_turned = orientation(picture) >= 5
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise TooLargeError(
            f"more than the {limits.pixels:,} pixels that this server accepts: scale it down"
        ) from None
    except Exception:  # Pillow raises many things on a broken header; `images` explains them
        images.upright(data)
        raise ImageError("the header cannot be read: save the picture again") from None
    if width * height > limits.pixels:
        raise TooLargeError(
            f"{width} x {height} is more than the {limits.pixels:,} pixels that this server "
            "accepts: scale it down"
        )
    return Header(name, (height, width) if is_turned else (width, height))


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8 and 1 by default; from 5 on, width and height are swapped."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # broken EXIF raises many things, and the picture is still good
        return 1


@dataclass(frozen=True)
class _Decoded:
    """A picture before the network."""

    pixels: images.Pixels
    header: Header
