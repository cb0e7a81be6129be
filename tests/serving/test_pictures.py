from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tests.servers import jpeg, models_of, problem, serving, small_index
from wingbar.serving.encoder import Encoder
from wingbar.serving.pictures import Picture, ThumbnailCache
from wingbar.serving.settings import Settings


def test_thumbnails(client: httpx.Client) -> None:
    answer = client.get("/api/thumbs/1", params={"size": 48})
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert (shown.size, dict(shown.getexif())) == ((48, 36), {})
    assert answer.headers["cache-control"].startswith("private, max-age=")
    tag = answer.headers["etag"]
    again = client.get("/api/thumbs/1", params={"size": 48}, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/api/thumbs/1", headers={"If-None-Match": tag}).headers["etag"] != tag
    problem(client.get("/api/thumbs/1000"), 404)
    problem(client.get("/api/thumbs/1", params={"size": 5000}), 422, "size")


def test_a_picture_is_sent_as_stored_unless_it_has_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}  # GPS
    picture(1).save(folder / "plain.jpg")
    picture(2).save(folder / "place.jpg", exif=exif)
    picture(3).save(folder / "plain.png")
    picture(4).save(folder / "place.webp", exif=exif)
    picture(5).save(folder / "old.bmp")
    small_index(tmp_path / "a.wb", folder)
    with serving(Settings(index=tmp_path / "a.wb")) as client:
        shown = {}
        for item in client.get("/api/items").json()["items"]:
            answer = client.get(item["image"])
            as_stored = answer.content == (folder / item["name"]).read_bytes()
            with Image.open(io.BytesIO(answer.content)) as image:
                assert not image.getexif()
                assert "exif" not in image.info
                shown[item["name"]] = (answer.headers["content-type"], as_stored, image.size)
            with Image.open(io.BytesIO(client.get(item["thumb"]).content)) as image:
                assert not image.getexif()
    assert shown == {
        "plain.jpg": ("image/jpeg", True, (96, 72)),
        "place.jpg": ("image/jpeg", False, (72, 96)),
        "plain.png": ("image/png", True, (96, 72)),
        "place.webp": ("image/jpeg", False, (72, 96)),
        "old.bmp": ("image/jpeg", False, (96, 72)),
    }


def test_only_what_was_indexed_is_sent(photos: Path, tmp_path: Path) -> None:
    small_index(tmp_path / "a.wb", photos)
    with serving(Settings(index=tmp_path / "a.wb")) as client:
        _changed_files_are_not_sent(client, photos, tmp_path)


def _changed_files_are_not_sent(own: httpx.Client, photos: Path, tmp_path: Path) -> None:
    items = {
        item["name"]: item
        for item in own.get("/api/items", params={"where": "label=red"}).json()["items"]
    }
    secret = tmp_path / "secret.jpg"
    picture(77).save(secret)
    changed, gone = photos / "red" / "000.jpg", photos / "red" / "001.jpg"
    changed.unlink()
    changed.symlink_to(secret)
    gone.unlink()
    for kind in ("thumb", "image"):
        problem(own.get(items["000.jpg"][kind]), 404, "changed")
        problem(own.get(items["001.jpg"][kind]), 404, "cannot be shown")
    problem(
        own.post("/api/search", json={"id": items["001.jpg"]["id"], "fine": "asymmetric"}),
        404,
        "cannot be shown",
    )
    hits = own.post("/api/search", json={"id": items["001.jpg"]["id"], "k": 24}).json()["hits"]
    assert {hit["name"]: hit["available"] for hit in hits if hit["label"] == "red"}[
        "001.jpg"
    ] is False
    assert hits[0]["available"] is False
    assert own.get(f"/api/items/{items['001.jpg']['id']}").json()["available"] is False


def test_pictures_that_are_not_files(tmp_path: Path) -> None:
    small_index(tmp_path / "a.wb", [np.asarray(picture(i)) for i in range(4)])
    with serving(Settings(index=tmp_path / "a.wb")) as client:
        item = client.get("/api/items/1").json()
        assert (item["size"], item["available"]) == (-1, False)
        problem(client.get(item["thumb"]), 404, "array")
        assert client.post("/api/search", json={"id": 1}).json()["hits"][0]["available"] is False


def test_a_model_without_attention_explains_nothing(client: httpx.Client) -> None:
    problem(client.post("/api/explain", json={"id": 1}), 404, "DOLG")
    problem(
        client.post("/api/explain", content=jpeg(), headers={"Content-Type": "image/jpeg"}),
        404,
        "CMBH",
    )


def test_where_a_model_looked_is_drawn(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = np.linspace(0, 1, 49, dtype=np.float32).reshape(7, 7)
    monkeypatch.setattr(Encoder, "explains", True)
    monkeypatch.setattr(
        models_of(client).all_cores,
        "auxiliary_outputs",
        lambda source: {"attention": attention},
        raising=False,
    )
    by_id = client.post("/api/explain", json={"id": 1})
    assert by_id.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(by_id.content)) as drawn:
        assert drawn.size == (96, 72)
    part = client.post(
        "/api/explain",
        content=jpeg(),
        params={"box": "0,0,40,30"},
        headers={"Content-Type": "image/jpeg"},
    )
    with Image.open(io.BytesIO(part.content)) as drawn:
        assert drawn.size == (40, 30)
    problem(client.post("/api/explain", content=b"x", headers={"Content-Type": "image/jpeg"}), 422)


def test_regions_are_suggested(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.post("/api/regions", json={"id": 1}).json() == {"regions": []}
    with monkeypatch.context() as patch:  # a network that has a map of where it answers
        strength = np.full((11, 4, 4), 10, np.float32)
        strength[:10, 1, 1] = strength[:10, 2, 1] = 100
        patch.setattr(models_of(client).all_cores, "activation", lambda pixels: strength)
        assert client.post("/api/regions", json={"id": 1}).json()["regions"]
    attention = np.zeros((6, 8), np.float32)
    attention[1:3, 1:4] = 1
    monkeypatch.setattr(Encoder, "explains", True)
    monkeypatch.setattr(
        models_of(client).all_cores,
        "auxiliary_outputs",
        lambda source: {"attention": attention},
        raising=False,
    )
    regions = client.post("/api/regions", json={"id": 1}).json()["regions"]
    x, y, width, height = regions[0]
    assert 0 <= x < x + width <= 96
    assert 0 <= y < y + height <= 72
    headers = {"Content-Type": "image/jpeg"}
    assert client.post("/api/regions", content=jpeg(), headers=headers).json()["regions"]
    problem(client.post("/api/regions", content=b"x", headers=headers), 422)


def test_what_makes_a_pair_alike_is_drawn(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/jpeg"}
    for on in ("item", "query"):
        by_id = client.post("/api/match", json={"id": 1}, params={"item": 2, "on": on})
        assert by_id.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(by_id.content)) as drawn:
            assert drawn.size == (96, 72)
        sent = client.post(
            "/api/match",
            content=jpeg(size=(120, 80)),
            params={"item": 2, "on": on, "box": "60,0,60,80"},
            headers=headers,
        )
        with Image.open(io.BytesIO(sent.content)) as drawn:
            assert drawn.size == ((96, 72) if on == "item" else (120, 80))
            pixels = np.asarray(drawn.convert("RGB")).astype(int)
        if on == "query":  # outside of the box it is grey
            assert np.ptp(pixels[:, :58], axis=2).max() == 0
    problem(client.post("/api/match", json={"id": 1}, params={"item": 999}), 404)
    problem(client.post("/api/match", json={"id": 1}), 422, "item")
    problem(client.post("/api/match", content=b"x", params={"item": 2}, headers=headers), 422)


def test_thumbnails_used_last_are_kept() -> None:
    cache = ThumbnailCache(100)
    one, two, three = (Picture(bytes(40), "image/jpeg", tag) for tag in "abc")
    cache.put((b"one", 48), one)
    cache.put((b"two", 48), two)
    assert cache.get((b"one", 48)) is one
    cache.put((b"three", 48), three)  # there is no room for three: the one unused longest goes
    kept = [cache.get((key, 48)) for key in (b"one", b"two", b"three")]
    assert kept == [one, None, three]
    cache.put((b"large", 48), Picture(bytes(101), "image/jpeg", "d"))
    assert cache.get((b"large", 48)) is None
    assert cache.get((b"one", 48)) is one
    assert cache.get((b"one", 64)) is None


def test_a_thumbnail_is_made_once(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.get("/api/thumbs/2", params={"size": 31}).content

    def broken(*arguments: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("wingbar.images.thumbnail", broken)
    assert client.get("/api/thumbs/2", params={"size": 31}).content == first
