from __future__ import annotations

import io
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import picture
from tests.servers import ask, problem


def heic() -> bytes:
    """A photo of a phone on its side."""
    pillow_heif = pytest.importorskip("pillow_heif")
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112], exif[0x0110] = 6, "Phone 3"
    pillow_heif.from_pillow(picture(3, (96, 64))).save(out, exif=exif.tobytes(), quality=95)
    return out.getvalue()


def test_heic_is_searched_stored_and_shown(own: httpx.Client, tmp_path: Path) -> None:
    data = heic()
    assert ask(own, data).json()["query"] == {"width": 64, "height": 96}
    files = {"image": ("IMG_1.HEIC", data)}
    [item] = own.post("/api/items", files=files).json()["items"]
    known = own.get(f"/api/items/{item['id']}").json()
    assert (known["width"], known["height"], known["camera"]) == (64, 96, "Phone 3")
    assert known["path"].endswith(".heic")
    for kind in ("thumbs", "images"):
        sent = own.get(f"/api/{kind}/{item['id']}")
        assert sent.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(sent.content)) as shown:
            assert shown.size == (64, 96)
            assert not shown.getexif()


def test_heic_without_its_extra(own: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic" + b"\0" * 20
    problem(ask(own, data), 422, "HEIC needs pillow-heif: run pip install 'wingbar[heic]'")
    files = {"image": ("IMG_1.HEIC", data)}
    problem(own.post("/api/items", files=files), 422, "IMG_1.HEIC: HEIC needs pillow-heif")
