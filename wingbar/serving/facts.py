"""What the header of a picture's file says: its size, and when and with what it was taken."""

from __future__ import annotations

import os
import stat
from threading import Lock
from typing import NamedTuple

from cachetools import LRUCache
from PIL import ExifTags, Image

from wingbar import images
from wingbar.serving.encoder import OPENED, orientation

KEPT = 200_000  # sizes, of 100 bytes each
LONGEST_TEXT = 100  # characters of what EXIF says


class PhotoFacts(NamedTuple):
    """What EXIF says about a photo.

    taken: date and time without a time zone, as "2026-11-26T09:30:00"; None if it does not say.
    camera: its maker and model; None if it does not say.
    """

    taken: str | None
    camera: str | None


class Sizes:
    """Sizes of pictures, each read from the header of its file once. Safe to use from several
    threads."""

    def __init__(self) -> None:
        self._known: LRUCache[tuple[str, int, int], tuple[int, int] | None] = LRUCache(KEPT)
        self._lock = Lock()

    def of(self, path: str) -> tuple[int, int] | None:
        """Width and height in pixels of the upright picture in a file; None if it cannot be read
        or holds no picture."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        key = path, status.st_mtime_ns, status.st_size
        with self._lock:
            if key in self._known:
                return self._known[key]
        size = _read_size(path)
        with self._lock:
            self._known[key] = size
        return size


def photo_facts(path: str) -> PhotoFacts:
    """What EXIF says about the photo in a file; nothing where it says nothing that can be read."""
    try:
        exif = _exif(path)
        taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        taken = taken or exif.get(ExifTags.Base.DateTime)
        maker, model = (_text(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    except Exception:  # broken headers raise many things
        return PhotoFacts(None, None)
    if model.lower().startswith(maker.lower()):
        maker = ""
    return PhotoFacts(_date(_text(taken)), f"{maker} {model}".strip() or None)


def _read_size(path: str) -> tuple[int, int] | None:
    try:
        if _is_heic(path):
            return images.heic_header(images.read(path))[0]
        with Image.open(path, formats=OPENED) as picture:
            width, height = picture.size
            return (height, width) if orientation(picture) >= 5 else (width, height)
    except Exception:  # broken headers raise many things
        return None


def _exif(path: str) -> Image.Exif:
    if _is_heic(path):
        exif = Image.Exif()
        exif.load(images.heic_header(images.read(path))[1])
        return exif
    with Image.open(path, formats=OPENED) as picture:
        exif = picture.getexif()
        exif.get_ifd(ExifTags.IFD.Exif)  # while the file is open
        return exif


def _is_heic(path: str) -> bool:
    with open(path, "rb") as file:
        return images.is_heic(file.read(12))


def _text(value: object) -> str:
    """A text of EXIF without what cannot be shown."""
    shown = "".join(c for c in value if c.isprintable()) if isinstance(value, str) else ""
    return " ".join(shown[:LONGEST_TEXT].split())


def _date(text: str) -> str | None:
    """ "2026:11:26 09:30:00" as "2026-11-26T09:30:00"; None if it is no date."""
    date, _, time = text.partition(" ")
    parts = date.split(":")
    is_date = len(parts) == 3 and all(part.isdigit() for part in parts) and int(parts[0]) > 0
    return f"{'-'.join(parts)}T{time}" if is_date and time else None
