"""Pictures as the server shows them: as stored, thumbnails, overlays."""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from PIL import Image

AS_STORED = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
}  # what every browser shows
# What a file may say beside its pixels to be sent as it is; all else, such as EXIF with the place,
# is left out by encoding anew.
HARMLESS = frozenset(
    "jfif jfif_version jfif_unit jfif_density dpi icc_profile progressive progression adobe "
    "adobe_transform gamma srgb "
    "chromaticity transparency aspect interlace loop background timestamp duration "
    "default_image".split()
)
LONGEST_SHOWN = 1600  # pixels of the longer side of an explained picture


@dataclass(frozen=True)
class Shown:
    """A picture to send: its bytes, their media type, and a tag that changes with them."""

    data: bytes
    media_type: str
    tag: str


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


def _says_only_pixels(data: bytes) -> bool:
    """Whether a picture says nothing more, such as where it was taken."""
    with Image.open(io.BytesIO(data), formats=tuple(AS_STORED)) as picture:
        try:
            picture.load()  # a PNG may say more after its pixels
        except Exception:  # cut off or broken: what can be decoded of it is sent
            return False
        return set(picture.info) <= HARMLESS
