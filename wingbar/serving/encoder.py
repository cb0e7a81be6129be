"""Decode pictures of requests and encode them in batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import ExifTags, Image

from wingbar import images
from wingbar.errors import ImageError, WingbarError
from wingbar.hamming import codes
from wingbar.index.store import NO_FILE, Item
from wingbar.model.model import Embeddings, Float32, Model
from wingbar.serving.connections import Reader

if TYPE_CHECKING:
    import onnxruntime


T = TypeVar("T")
SUFFIXES = {
    "AVIF": ".avif",
    "BMP": ".bmp",
    "DIB": ".bmp",
    "GIF": ".gif",
    "JPEG": ".jpg",
    "JPEG2000": ".jp2",
    "PNG": ".png",
    "PPM": ".ppm",
    "TIFF": ".tiff",
    "WEBP": ".webp",
}


class TooLargeError(WingbarError):
    """A picture with more bytes or pixels than the server takes."""


class EmptyError(WingbarError):
    """The index holds nothing yet."""


@dataclass(frozen=True)
class Encoded:
    """A picture after the network: its raw output [r] float32, what a model made of that, the
    picture's format, and its upright size."""

    raw: Float32
    embedding: Embeddings | None
    kind: str
    size: tuple[int, int]

    def by(self, model: Model) -> Embeddings:
        """Code and feature by `model`, of the same network: made anew when the index was refitted
        while it was encoded."""
        if self.embedding is not None and self.embedding.fingerprint == model.fingerprint:
            return self.embedding
        return model.embed(self.raw[None])


@dataclass(frozen=True)
class _Decoded:
    """A picture before the network."""

    pixels: images.Pixels
    kind: str
    size: tuple[int, int]


# -- the whole


class Network(Model):
    """A model that many threads run at the same time, each on a batch of its own by itself.

    Together they encode more than one run by all cores, whose threads wait for each other at every
    layer, and do so by spinning. A picture that comes alone is sooner encoded by all cores.
    """

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            self.files["model.onnx"], options, providers=["CPUExecutionProvider"]
        )


def _warmed(reader: Reader) -> tuple[Model, Network, bool]:
    """The model for pictures that come alone and the one for many, which have run once, and whether
    it has something to show."""
    alone = reader.index.model
    network = Network(alone.files)
    side = alone.preprocessing.size
    grey = images.load(np.full((side, side, 3), 128, np.uint8), alone.preprocessing)
    for model in (alone, network):
        model.run([grey])
    if reader.refresh() >= codes.COMPILED_FROM:
        codes.warm_up(alone.bits)
    return alone, network, bool(alone.auxiliary_outputs(grey))


def _orientation(picture: Image.Image) -> int:
    """The turn that EXIF asks for, 1 for none; from 5 on sides are swapped."""
    try:
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
    except Exception:  # broken EXIF raises many things, and the picture is still good
        return 1


def _indexed_bytes(item: Item) -> bytes:
    """The file of an item, provided that it is still what was indexed. Raises ImageError."""
    if item.size == NO_FILE:
        raise ImageError("it was added as an array and has no file")
    data = images.read(item.path)
    if hashlib.sha256(data).digest() != item.content:
        raise ImageError("the file has changed since it was indexed: index it again")
    return data
