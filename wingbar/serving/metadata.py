"""Picture files without what they say beside their pixels: places, times, names, thumbnails of the
uncropped picture, second pictures, anything after the end.

Only the parts of a file that a decoder needs for the pixels are kept, by lists of what is known;
they are copied as they are, so nothing is lost by encoding again. What a list does not name is left
out, and with it what nobody has thought of yet.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

# JPEG: tables, frames and scans. Application segments are handled one by one.
_JPEG_KEPT = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDD))
_JPEG_DROPPED = frozenset((*range(0xE0, 0xF0), 0xFE))
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # the next marker that is not part of a scan
_JFIF_BYTES = 14  # of an APP0 segment without a thumbnail
_ADOBE_BYTES = 12
_ICC = b"ICC_PROFILE\0"

_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks of PNG and the most bytes that each may have, None for any number.
_PNG_KEPT: dict[bytes, int | None] = {
    b"IHDR": 13,
    b"PLTE": 768,
    b"IDAT": None,
    b"IEND": 0,
    b"tRNS": 256,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"cICP": 4,
    b"sBIT": 4,
    b"bKGD": 6,
    b"pHYs": 9,
    b"acTL": 8,
    b"fcTL": 26,
    b"fdAT": None,
}

_WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"))
_WEBP_FIXED = {b"VP8X": 10, b"ANIM": 6}  # bytes
_FRAME_HEADER = 16  # bytes at the start of an ANMF chunk
_WEBP_ALPHA_AND_ANIMATION = 0x12  # flags of VP8X; the others announce what is left out


class Bare(NamedTuple):
    """A picture file without metadata.

    data: the file.
    media_type: its media type, as "image/jpeg".
    has_profile: whether a colour profile was left out, without which colours look different.
    """

    data: bytes
    media_type: str
    has_profile: bool


class _MalformedError(Exception):
    """The file is not built as its format says."""


def without_metadata(data: bytes) -> Bare | None:
    """A JPEG, PNG or WebP file without metadata; None for another format, or one that is not built
    as its format says."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_PNG):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (_MalformedError, struct.error, IndexError):
        pass
    return None


def _jpeg(data: bytes) -> Bare:
    parts, place, has_profile, seen = [b"\xff\xd8"], 2, False, set()
    while True:
        if data[place] != 0xFF:
            raise _MalformedError
        while data[place] == 0xFF:  # any number of them may stand before a marker
            place += 1
        marker = data[place]
        if marker == 0xD9:
            return Bare(b"".join([*parts, b"\xff\xd9"]), "image/jpeg", has_profile)
        end = place + 1 + int.from_bytes(data[place + 1 : place + 3], "big")
        body = data[place + 3 : end]
        if end < place + 3 or end > len(data):
            raise _MalformedError
        if marker == 0xDA:
            next_marker = _AFTER_SCAN.search(data, end)
            if next_marker is None:
                raise _MalformedError
            end = next_marker.start()
        if marker in _JPEG_KEPT:
            parts.append(b"\xff" + data[place:end])
        elif marker not in _JPEG_DROPPED:
            raise _MalformedError
        elif marker not in seen:  # of each of these, the first counts
            kept = _jpeg_segment(marker, body)
            if kept is not None:
                seen.add(marker)
                parts.append(struct.pack(">BBH", 0xFF, marker, len(kept) + 2) + kept)
        has_profile |= marker == 0xE2 and body.startswith(_ICC)
        place = end


def _jpeg_segment(marker: int, body: bytes) -> bytes | None:
    """What is kept of an application segment: the density of the pixels without a thumbnail, and
    how colours are stored."""
    if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= _JFIF_BYTES:
        return body[: _JFIF_BYTES - 2] + b"\0\0"
    if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= _ADOBE_BYTES:
        return body[:_ADOBE_BYTES]
    return None


def _png(data: bytes) -> Bare:
    parts, place, has_profile, has_pixels = [_PNG], len(_PNG), False, False
    while True:
        length, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        if len(body) != length:
            raise _MalformedError
        place += 12 + length
        has_profile |= kind == b"iCCP"
        has_pixels |= kind == b"IDAT"
        if kind == b"eXIf" and has_pixels:
            raise _MalformedError  # it may turn the picture, and comes too late to be seen at once
        if kind in _PNG_KEPT:
            most = _PNG_KEPT[kind]
            if most is not None and length > most:
                raise _MalformedError
            crc = struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
            if data[place - 4 : place] != crc:
                raise _MalformedError
            parts.append(struct.pack(">I4s", length, kind) + body + crc)
        elif kind[:1].isupper():  # a chunk without which the picture cannot be decoded
            raise _MalformedError
        if kind == b"IEND":
            return Bare(b"".join(parts), "image/png", has_profile)


def _webp(data: bytes) -> Bare:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise _MalformedError
    kinds = [kind for kind, _ in _riff(data[12:end])]
    body = b"WEBP" + _webp_chunks(data[12:end], is_frame=False)
    if not {b"VP8 ", b"VP8L", b"ANMF"} & set(kinds):
        raise _MalformedError
    return Bare(b"RIFF" + struct.pack("<I", len(body)) + body, "image/webp", b"ICCP" in kinds)


def _webp_chunks(data: bytes, *, is_frame: bool) -> bytes:
    parts = []
    for kind, body in _riff(data):
        if kind not in _WEBP_KEPT or (is_frame and kind in (b"VP8X", b"ANIM", b"ANMF")):
            continue
        if len(body) != _WEBP_FIXED.get(kind, len(body)):
            raise _MalformedError
        kept = body
        if kind == b"VP8X":
            kept = bytes([body[0] & _WEBP_ALPHA_AND_ANIMATION, 0, 0, 0]) + body[4:]
        elif kind == b"ANMF":
            head = body[:_FRAME_HEADER]
            kept = head + _webp_chunks(body[_FRAME_HEADER:], is_frame=True)
        parts.append(kind + struct.pack("<I", len(kept)) + kept + b"\0" * (len(kept) % 2))
    return b"".join(parts)


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a RIFF file: name and content."""
    place = 0
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        body = data[place + 8 : place + 8 + length]
        if len(body) != length:
            raise _MalformedError
        yield kind, body
        place += 8 + length + length % 2
