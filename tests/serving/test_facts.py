from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ExifTags, Image

from tests.conftest import picture
from wingbar.serving import facts
from wingbar.serving.facts import PhotoFacts, Sizes, photo_facts


def photo(path: Path, tags: dict[int, object], taken: str | None = None) -> Path:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    if taken is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    picture(1).save(path, exif=exif)
    return path


def test_sizes_are_those_of_upright_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes()
    turned = str(photo(tmp_path / "turned.jpg", {ExifTags.Base.Orientation: 6}))
    assert sizes.of(turned) == (72, 96)
    (tmp_path / "text.jpg").write_text("no picture")
    missing = [tmp_path / "text.jpg", tmp_path / "none.jpg", tmp_path, "array:abc", "a\0b"]
    assert [sizes.of(str(path)) for path in missing] == [None] * 5
    monkeypatch.setattr(facts, "_read_size", lambda path: (1, 1))
    assert sizes.of(turned) == (72, 96)  # it is read once
    picture(2, (40, 50)).save(turned)
    assert sizes.of(turned) == (1, 1)  # unless the file changes


def test_date_and_camera(tmp_path: Path) -> None:
    base = ExifTags.Base
    tags: dict[int, object] = {
        base.Make: "Canon",
        base.Model: "Canon EOS 5D\n",
        base.DateTime: "2020:01:01 00:00:00",
    }
    path = photo(tmp_path / "a.jpg", tags, "2026:11:26 09:30:00")
    assert photo_facts(str(path)) == PhotoFacts("2026-11-26T09:30:00", "Canon EOS 5D")
    path = photo(tmp_path / "b.jpg", {base.Make: "Fuji", base.Model: "X100"}, "some time")
    assert photo_facts(str(path)) == PhotoFacts(None, "Fuji X100")
    picture(1).save(tmp_path / "c.png")
    for name in ("c.png", "none.jpg"):
        assert photo_facts(str(tmp_path / name)) == PhotoFacts(None, None)
