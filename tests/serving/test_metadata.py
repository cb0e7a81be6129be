"""A marker is hidden wherever a file can say something beside its pixels; no answer may have it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.conftest import picture
from tests.servers import serving, small_index
from wingbar.serving.metadata import without_metadata
from wingbar.serving.settings import Settings

SECRET = b"48.2082N 16.3738E"
EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + SECRET


def _saved(form: str, seed: int = 1, **options: Any) -> bytes:
    out = io.BytesIO()
    picture(seed).save(out, form, **options)
    return out.getvalue()


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _jpeg_with(*segments: bytes, **options: Any) -> bytes:
    data = _saved("JPEG", **options)
    return data[:20] + b"".join(segments) + data[20:]  # behind the JFIF segment


def _chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def _png_with(before: bytes = b"", after: bytes = b"") -> bytes:
    data = _saved("PNG")
    return data[:33] + before + data[33:-12] + after + data[-12:]


def _webp_with(chunk: bytes, **options: Any) -> bytes:
    data = _saved("WEBP", **options) + chunk
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def _mpo() -> bytes:
    out = io.BytesIO()
    picture(1).save(out, "MPO", save_all=True, append_images=[picture(2)])
    return out.getvalue()


HIDDEN = {
    "exif.jpg": _jpeg_with(_segment(0xE1, EXIF)),
    "xmp.jpg": _jpeg_with(_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + SECRET)),
    "comment.jpg": _jpeg_with(_segment(0xFE, SECRET)),
    "meta.jpg": _jpeg_with(_segment(0xE3, b"Meta\0\0" + SECRET)),
    "c2pa.jpg": _jpeg_with(_segment(0xEB, b"JP\0\1\0\0\0\1" + SECRET)),
    "ducky.jpg": _jpeg_with(_segment(0xEC, b"Ducky\0" + SECRET)),
    "iptc.jpg": _jpeg_with(_segment(0xED, b"Photoshop 3.0\0" + SECRET)),
    "jfxx.jpg": _jpeg_with(_segment(0xE0, b"JFXX\0\x10" + SECRET)),
    "jfif.jpg": _jpeg_with(_segment(0xE0, b"JFIF\0" + b"\0" * 9 + SECRET)),
    "adobe.jpg": _jpeg_with(_segment(0xEE, b"Adobe\0\x64\0\0\0\0\1" + SECRET)),
    "progressive.jpg": _jpeg_with(_segment(0xFE, SECRET), progressive=True),
    "after.jpg": _saved("JPEG") + b"....ftypmp42" + SECRET,
    "second.jpg": _mpo() + SECRET,
    "unknown.jpg": _jpeg_with(_segment(0xF0, SECRET)),
    "endless.jpg": _saved("JPEG")[:-2] + _segment(0xFE, SECRET),
    "text.png": _png_with(_chunk(b"tEXt", b"Location\0" + SECRET)),
    "private.png": _png_with(_chunk(b"caBX", SECRET)),
    "late.png": _png_with(after=_chunk(b"eXIf", EXIF[6:])),
    "after.png": _saved("PNG") + SECRET,
    "long.png": _png_with(_chunk(b"bKGD", b"\0" * 6 + SECRET)),
    "exif.webp": _webp_with(b"", exif=EXIF),
    "xmp.webp": _webp_with(b"", xmp=SECRET),
    "private.webp": _webp_with(b"C2PA" + struct.pack("<I", 20) + SECRET + b"..."),
    "after.webp": _saved("WEBP") + SECRET,
    "comment.gif": _saved("GIF", comment=SECRET),
    "tag.tiff": _saved("TIFF", description=SECRET.decode()),
}


def test_no_answer_says_more_than_its_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in HIDDEN.items():
        assert SECRET in data, name
        (folder / name).write_bytes(data)
    small_index(tmp_path / "a.wb", folder)
    plain = np.asarray(picture(1)).astype(int)
    with serving(Settings(index=tmp_path / "a.wb")) as client:
        items = {item["name"]: item for item in client.get("/api/items").json()["items"]}
        # broken ones may be refused, and then have no answer at all
        assert set(HIDDEN) - set(items) <= {"unknown.jpg", "endless.jpg", "long.png"}
        for name, item in items.items():
            whole, thumb = client.get(item["image"]), client.get(item["thumb"])
            assert SECRET not in whole.content, name
            assert SECRET not in thumb.content, name
            with Image.open(io.BytesIO(whole.content)) as shown:
                assert not shown.getexif(), name
                assert getattr(shown, "n_frames", 1) == 1, name
                pixels = np.asarray(shown.convert("RGB")).astype(int)
            assert np.abs(pixels - plain).mean() < 12, name  # of lossy formats


@pytest.mark.parametrize(
    "name",
    [
        "exif.jpg",
        "comment.jpg",
        "jfxx.jpg",
        "progressive.jpg",
        "after.jpg",
        "text.png",
        "after.png",
    ],
)
def test_pixels_are_copied_as_they_are(name: str) -> None:
    bare = without_metadata(HIDDEN[name])
    options: dict[str, Any] = {"progressive": True} if name.startswith("prog") else {}
    assert bare is not None
    assert bare.data == _saved("PNG" if name.endswith("png") else "JPEG", **options)


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {}), ("PNG", {"dpi": (300, 300)}), ("WEBP", {})]
)
def test_a_file_of_pixels_alone_stays_the_same(form: str, options: dict[str, Any]) -> None:
    data = _saved(form, **options)
    assert without_metadata(data) == (data, f"image/{form.lower()}", False)


def test_an_animation_stays_one() -> None:
    frames: dict[str, Any] = {
        "save_all": True,
        "append_images": [picture(2), picture(3)],
        "duration": 50,
    }
    for form in ("WEBP", "PNG"):
        bare = without_metadata(_saved(form, **frames))
        assert bare is not None
        with Image.open(io.BytesIO(bare.data)) as shown:
            assert getattr(shown, "n_frames", 1) == 3
    hidden = without_metadata(_saved("WEBP", **frames, exif=EXIF))
    assert hidden is not None
    assert SECRET not in hidden.data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_ends_anywhere_is_no_bug(form: str) -> None:
    data = _saved(form)
    for end in range(0, len(data) - 1, 7):
        assert without_metadata(data[:end]) is None
    assert without_metadata(b"GIF89a") is None


def test_a_colour_profile_is_left_out_and_its_colours_stay(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    bgr = bytearray(profile)  # red and blue change places: a profile that shows
    tags = {bytes(bgr[i : i + 4]): i for i in range(132, 132 + 12 * bgr[131], 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    bgr[red : red + 4], bgr[blue : blue + 4] = b"bXYZ", b"rXYZ"
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 64), (250, 10, 10)).save(folder / "a.png", icc_profile=bytes(bgr))
    small_index(tmp_path / "a.wb", folder)
    with serving(Settings(index=tmp_path / "a.wb")) as client:
        answer = client.get("/api/images/1")
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert "icc_profile" not in shown.info
        red_level, _, blue_level = shown.convert("RGB").getpixel((32, 32))  # type: ignore[misc]
    assert blue_level > 200 > 100 > red_level
