from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture, write_classes
from tests.servers import (
    LONG,
    ask,
    jpeg,
    metrics,
    problem,
    process,
    service_of,
    serving,
    small_index,
)
from wingbar import images
from wingbar.cli import main
from wingbar.errors import StoreError
from wingbar.index.index import Index
from wingbar.index.store import remove_index
from wingbar.serving import app, connections, run
from wingbar.serving.encoder import SUFFIXES
from wingbar.serving.service import Service
from wingbar.serving.settings import Limits, Settings

TOKEN = "the-writing-token"


@pytest.fixture(scope="module")
def client(shared_index_path: Path) -> Iterator[httpx.Client]:
    """A server of an index that no test may change."""
    with serving(Settings(index=shared_index_path)) as client:
        yield client


@pytest.fixture
def own(shared_index_path: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server of an index of 60 photos that a test may change, but not the photos."""
    path = Path(shutil.copy(shared_index_path, tmp_path / "own.wb"))
    with serving(Settings(index=path)) as client:
        yield client


# -- search


def test_a_picture_is_searched_for(
    client: httpx.Client, shared_photos: Path, shared_index_path: Path
) -> None:
    path = shared_photos / "red" / "003.jpg"
    answer = ask(client, path.read_bytes(), k=5)
    assert answer.status_code == 200
    found = answer.json()
    with Index.open(shared_index_path) as index:
        expected = index.search(path, 5)
    assert [(hit["id"], hit["distance"]) for hit in found["hits"]] == [
        (hit.id, hit.distance) for hit in expected
    ]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected])
    first = found["hits"][0]
    assert (first["rank"], first["name"], first["label"], first["available"]) == (
        1,
        "003.jpg",
        "red",
        True,
    )
    assert first["code"] == found["code"]
    assert set(found["code"]) == {"0", "1"}
    assert len(found["code"]) == found["bits"] == 24
    assert found["query"] == {"width": 96, "height": 72}
    assert (found["fine"], found["shortlist"], found["cut"]) == (
        "pool",
        expected.shortlist,
        expected.cut,
    )
    stages = found["milliseconds"]
    assert set(stages) == {"queue", "decode", "encode", "coarse", "fine", "fetch", "total"}
    assert stages["encode"] > 0
    assert sum(stages.values()) == pytest.approx(2 * stages["total"], rel=0.01)


def test_raw_form_and_json_give_the_same_hits(client: httpx.Client, shared_photos: Path) -> None:
    path = shared_photos / "green" / "001.jpg"
    data = path.read_bytes()
    raw = ask(client, data, k=4).json()
    id_ = raw["hits"][0]["id"]
    as_form = client.post("/api/search", files={"image": ("x.jpg", data)}, params={"k": 4}).json()
    by_id = client.post("/api/search", json={"id": id_, "k": 4}).json()
    by_path = client.post("/api/search", json={"path": str(path)}, params={"k": 4}).json()
    as_bytes = client.post(
        "/api/search",
        content=data,
        params={"k": 4},
        headers={"Content-Type": "application/octet-stream"},
    )
    for other in (as_form, by_id, by_path, as_bytes.json()):
        assert [hit["id"] for hit in other["hits"]] == [hit["id"] for hit in raw["hits"]]
        assert other["code"] == raw["code"]
    assert by_id["query"] is None


@pytest.mark.parametrize("fine", ["none", "ties", "pool", "asymmetric"])
def test_every_fine_stage_by_picture_and_by_id(
    client: httpx.Client, shared_photos: Path, fine: str
) -> None:
    raw = ask(client, (shared_photos / "blue" / "002.jpg").read_bytes(), fine=fine, k=30).json()
    by_id = client.post(
        "/api/search", json={"id": raw["hits"][0]["id"], "fine": fine, "k": 30}
    ).json()
    assert raw["fine"] == by_id["fine"] == fine
    assert [hit["id"] for hit in raw["hits"]] == [hit["id"] for hit in by_id["hits"]]


def test_parameters_do_what_they_say(client: httpx.Client, shared_photos: Path) -> None:
    data = (shared_photos / "blue" / "000.jpg").read_bytes()
    assert {hit["label"] for hit in ask(client, data, where="label=red", k=50).json()["hits"]} == {
        "red"
    }
    both = ask(client, data, where=["label=red", "label=green", "path!=*/003.jpg"], k=60).json()[
        "hits"
    ]
    assert {hit["label"] for hit in both} == {"red", "green"}
    assert len(both) == 38
    assert {hit["distance"] for hit in ask(client, data, radius=0, k=50).json()["hits"]} == {0}
    whole = ask(client, data, k=3).json()
    part = ask(client, data, k=3, box="0,0,40,30").json()
    assert part["code"] != whole["code"]
    assert part["query"] == {"width": 96, "height": 72}
    by_json = {"id": whole["hits"][0]["id"], "box": [0, 0, 40, 30], "k": 3}
    assert client.post("/api/search", json=by_json).json()["code"] == part["code"]
    assert len(ask(client, data, k=1000, shortlist=10_000).json()["hits"]) == 60


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"k": 0}, "k:"),
        ({"k": 1001}, "k:"),
        ({"k": "many"}, "k:"),
        ({"radius": -1}, "radius"),
        ({"radius": 25}, "radius must be from 0 to 24"),
        ({"fine": "best"}, "fine"),
        ({"shortlist": 10_001}, "shortlist"),
        ({"where": "label"}, "label=monarch"),
        ({"where": "price<20"}, "no item has a column 'price'"),
        ({"where": "path=*a*b*c*d*"}, "where"),
        ({"box": "1,2,3"}, "x,y,width,height"),
        ({"box": "500,500,5,5"}, "holds nothing"),
        ({"box": "nan,0,1,1"}, "finite"),
        ({"shortlst": 5}, "shortlst"),
    ],
)
def test_parameters_that_cannot_be_meant(
    client: httpx.Client, parameters: dict[str, Any], word: str
) -> None:
    problem(ask(client, jpeg(), **parameters), 422, word)
    if "box" not in parameters:
        problem(
            client.post("/api/search", json={"id": 1, **parameters} | _listed(parameters)),
            422,
            word,
        )


def _listed(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"where": [parameters["where"]]} if "where" in parameters else {}


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ("{", 400, "JSON"),
        ('{"id": NaN}', 422, "id"),
        ("[1]", 422, "one object"),
        ("{}", 422, "either id or path"),
        ('{"id": 1, "path": "a"}', 422, "either id or path"),
        ('{"id": 100000}', 404, "no item 100000"),
        ('{"id": 0}', 422, "id"),
        ('{"id": 9223372036854775808}', 422, "id"),
        ('{"id": "7.5"}', 422, "id"),
        ('{"path": "/etc/passwd"}', 404, "no item has this path"),
        ('{"path": "../../etc/passwd"}', 404, "no item has this path"),
        ('{"path": "a\\u0000b"}', 404, "no item has this path"),
        ('{"path": "\\ud800"}', 422, "unicode"),
        ('{"id": 1, "box": [1, 2]}', 422, "x,y,width,height"),
        ('{"id": 1, "colour": "red"}', 422, "colour"),
        ("[" * 5000, 400, "JSON"),
    ],
)
def test_json_that_cannot_be_meant(client: httpx.Client, body: str, status: int, word: str) -> None:
    problem(
        client.post("/api/search", content=body, headers={"Content-Type": "application/json"}),
        status,
        word,
    )


def test_pictures_that_cannot_be_read(client: httpx.Client, shared_photos: Path) -> None:
    whole = (shared_photos / "red" / "000.jpg").read_bytes()
    problem(ask(client, b""), 422, "empty")
    problem(ask(client, b"hello"), 422, "JPEG, PNG")
    problem(ask(client, whole[: len(whole) // 2]), 422, "truncated")
    problem(ask(client, b"<svg></svg>"), 422, "SVG")
    problem(ask(client, b"%PDF-1.4"), 422, "PDF")


def test_content_types_are_strict(client: httpx.Client) -> None:
    problem(client.post("/api/search", content=jpeg()), 415, "without Content-Type")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        problem(
            client.post("/api/search", content=jpeg(), headers={"Content-Type": kind}), 415, kind
        )
        problem(
            client.post("/api/search/batch", content=jpeg(), headers={"Content-Type": kind}),
            415,
            kind,
        )
        problem(
            client.post("/api/items", content=jpeg(), headers={"Content-Type": kind}), 415, kind
        )
    problem(ask(client, b'{"id": 1}'), 422, "not an image")


def test_forms_that_are_none(client: httpx.Client) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(client.post("/api/search", content=b"hello", headers=form), 400)
    problem(client.post("/api/search", content=b"--x--", headers=form), 422, "image")
    problem(client.post("/api/search", content=b"--x\r\nhello", headers=form), 422, "image")
    problem(
        client.post("/api/search", content=b"--x\r\nhello: x\r\n\r\nhello\r\n--x--", headers=form),
        400,
        "name",
    )
    problem(
        client.post(
            "/api/search", content=b"hello", headers={"Content-Type": "multipart/form-data"}
        ),
        400,
        "boundary",
    )
    problem(client.post("/api/search", files={"photo": ("x.jpg", jpeg())}), 422, "photo")
    problem(client.post("/api/search", files={"image": (None, "text")}), 422, "file name")
    two = [("image", ("a.jpg", jpeg())), ("image", ("b.jpg", jpeg()))]
    problem(client.post("/api/search", files=two), 400, "files")


def test_a_batch_has_an_answer_for_each(client: httpx.Client, shared_photos: Path) -> None:
    one, two = ((shared_photos / "red" / f"00{i}.jpg").read_bytes() for i in (1, 2))
    files = [("image", (f"{i}.jpg", data)) for i, data in enumerate((one, b"hello", two))]
    found = client.post("/api/search/batch", files=files, params={"k": 2}).json()
    assert set(found) == {"results", "milliseconds"}
    first, second, third = found["results"]
    assert (first["hits"][0]["name"], third["hits"][0]["name"]) == ("001.jpg", "002.jpg")
    assert (second["status"], second["type"]) == (422, "about:blank")
    ids = [first["hits"][0]["id"], 100_000, third["hits"][0]["id"]]
    by_ids = client.post("/api/search/batch", json={"ids": ids, "k": 2}).json()["results"]
    assert [one.get("status") for one in by_ids] == [None, 404, None]
    assert by_ids[2]["hits"][0]["id"] == ids[2]
    problem(client.post("/api/search/batch", json={"ids": []}), 422, "ids")
    problem(client.post("/api/search/batch", json={"ids": [1] * 65}), 422, "ids")
    problem(client.post("/api/search/batch", files=[("image", ("a.jpg", one))] * 65), 400, "64")


def test_an_empty_index_says_so_and_learns_from_uploads(tmp_path: Path) -> None:
    path = tmp_path / "new.wb"
    Index.create(path).close()
    with serving(Settings(index=path)) as client:
        problem(ask(client, jpeg()), 409, "no images yet")
        problem(client.post("/api/search", json={"id": 1}), 409, "no images yet")
        assert client.get("/api/items").json() == {"items": [], "total": 0}
        info = client.get("/api/info").json()
        assert (
            info["items"],
            info["bits"],
            info["writable"],
            info["label_counts"],
            info["columns"],
        ) == (0, None, True, {}, {})
        problem(client.get("/api/items/1"), 404)
        files = [("image", (f"{i}.jpg", jpeg(i))) for i in range(3)]
        stored = client.post("/api/items", files=files, data={"label": "new"})
        assert stored.status_code == 201
        assert [item["name"] for item in stored.json()["items"]] == ["0.jpg", "1.jpg", "2.jpg"]
        found = ask(client, jpeg(1)).json()["hits"]
        assert (found[0]["distance"], found[0]["name"], found[0]["label"]) == (0, "1.jpg", "new")
        info = client.get("/api/info").json()
        assert (info["items"], info["bits"], info["label_counts"], info["columns"]) == (
            3,
            64,
            {"new": 3},
            {},
        )


# -- look


def test_items_are_listed_and_shown(client: httpx.Client) -> None:
    page = client.get("/api/items", params={"offset": 5, "limit": 3}).json()
    assert page["total"] == 60
    assert [item["id"] for item in page["items"]] == [6, 7, 8]
    for item in page["items"]:
        assert client.get(f"/api/items/{item['id']}").json() == item
    assert (
        client.get("/api/items", params={"where": "label=red", "limit": 1000}).json()["total"] == 20
    )
    assert client.get("/api/items", params={"offset": 1000}).json() == {"items": [], "total": 60}
    spread = client.get("/api/items", params={"spread": True, "limit": 1000}).json()["items"]
    assert sorted(item["id"] for item in spread) == list(range(1, 61))
    problem(client.get("/api/items", params={"limit": 1001}), 422, "limit")
    problem(client.get("/api/items", params={"where": "x"}), 422, "label=monarch")
    problem(client.get("/api/items/61"), 404, "no item 61")
    for wrong in ("0", "-1", "abc", "9223372036854775808"):
        problem(client.get(f"/api/items/{wrong}"), 422, "id")
    problem(client.get("/api/items/../../etc/passwd"), 404)


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


def test_a_picture_is_sent_as_stored_unless_it_says_more_than_pixels(tmp_path: Path) -> None:
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


def test_pictures_that_are_no_files(tmp_path: Path) -> None:
    small_index(tmp_path / "a.wb", [np.asarray(picture(i)) for i in range(4)])
    with serving(Settings(index=tmp_path / "a.wb")) as client:
        item = client.get("/api/items/1").json()
        assert (item["size"], item["available"]) == (-1, False)
        problem(client.get(item["thumb"]), 404, "array")
        assert client.post("/api/search", json={"id": 1}).json()["hits"][0]["available"] is False


def test_info(client: httpx.Client, shared_index_path: Path) -> None:
    info = client.get("/api/info").json()
    with Index.open(shared_index_path) as index:
        expected = index.info()
    for name in (
        "items",
        "labels",
        "bits",
        "dim",
        "unique_codes",
        "model",
        "method",
        "fine",
        "fingerprint",
    ):
        assert info[name] == getattr(expected, name)
    assert (info["name"], info["label_counts"]) == ("shared", {"red": 20, "green": 20, "blue": 20})
    assert (info["explains"], info["writable"]) == (False, True)
    assert info["limits"] == {
        "upload_bytes": 33_554_432,
        "pixels": 64_000_000,
        "pictures": 64,
        "k": 1000,
        "shortlist": 10_000,
    }


def test_columns_that_can_be_filtered_by(tmp_path: Path, photos: Path) -> None:
    rows = [f"{path},{i % 2},{i}" for i, path in enumerate(sorted(photos.glob("*/*.jpg")))]
    (tmp_path / "list.csv").write_text("\n".join(["path,shelf,number", *rows]))
    small_index(tmp_path / "a.wb", tmp_path / "list.csv")
    with serving(Settings(index=tmp_path / "a.wb")) as client:
        assert client.get("/api/info").json()["columns"] == {"shelf": ["0", "1"]}
        assert (
            client.get("/api/items", params={"where": ["shelf=1", "number<5"]}).json()["total"] == 2
        )


def test_a_model_that_explains_nothing_says_so(client: httpx.Client) -> None:
    problem(client.post("/api/explain", json={"id": 1}), 404, "DOLG")
    problem(
        client.post("/api/explain", content=jpeg(), headers={"Content-Type": "image/jpeg"}),
        404,
        "CMBH",
    )


def test_what_a_model_saw_is_drawn(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_of(client)
    attention = np.linspace(0, 1, 49, dtype=np.float32).reshape(7, 7)
    monkeypatch.setattr(service, "explains", True)
    monkeypatch.setattr(
        service._alone, "auxiliary_outputs", lambda source: {"attention": attention}, raising=False
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


def test_health_readiness_and_metrics(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    ask(client, jpeg())
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")
    counted = metrics(client)
    assert counted['wingbar_requests_total{method="POST",route="/api/search",status="200"}'] >= 1
    assert counted['wingbar_search_stage_seconds_count{stage="encode"}'] >= 1
    assert counted["wingbar_items"] == 60
    assert counted["wingbar_encodes_waiting"] == 0
    assert counted["wingbar_encode_batch_count"] >= 1


def test_an_index_that_is_gone_is_not_ready(own: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "own.wb").rename(tmp_path / "elsewhere.wb")
    detail = problem(own.get("/readyz"), 503, "gone")
    assert str(tmp_path) not in detail


def test_an_index_that_was_replaced_by_something_else(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "own.wb"
    small_index(path, photos)
    with serving(Settings(index=path)) as client:
        remove_index(path)
        path.write_text("not an index")
        problem(client.get("/readyz"), 503, "own.wb was replaced")
        time.sleep(connections.LOOK_SECONDS)
        for _ in range(3):  # what is open can still be searched
            assert client.post("/api/search", json={"id": 1}).status_code == 200
        problem(client.get("/readyz"), 503, "own.wb was replaced")


def test_the_formats_are_those_that_can_be_indexed() -> None:
    assert set(SUFFIXES) == set(images._FORMATS)


def test_an_index_that_was_put_in_its_place_is_taken_over(tmp_path: Path, photos: Path) -> None:
    small_index(tmp_path / "own.wb", photos)
    with serving(Settings(index=tmp_path / "own.wb")) as client:
        assert client.get("/api/info").json()["items"] == 24
        remove_index(tmp_path / "own.wb")
        assert client.get("/api/info").json()["items"] == 24  # what is open can still be read
        small_index(tmp_path / "own.wb", write_classes(tmp_path / "others", 2, first_seed=500))
        until = time.monotonic() + LONG
        while client.get("/api/info").json()["items"] != 6 and time.monotonic() < until:
            time.sleep(0.1)
        hits = client.post("/api/search", json={"id": 1, "k": 1000}).json()["hits"]
        assert len(hits) == 6
        remove_index(tmp_path / "own.wb")
        with Index.create(tmp_path / "own.wb") as index:
            index.add([jpeg(i) for i in range(3)], bits=2)
        while (
            client.post("/api/search", json={"id": 1}).status_code == 200
            and time.monotonic() < until
        ):
            time.sleep(0.1)
        problem(
            client.post("/api/search", json={"id": 1}), 503, "another model: start the server again"
        )


# -- change


def test_uploads_are_stored_and_found(own: httpx.Client, tmp_path: Path) -> None:
    data = jpeg(901, hue=(90, 20, 160))
    answer = own.post(
        "/api/items", files={"image": ("../../Violet one.JPG", data)}, data={"label": " violet "}
    )
    assert answer.status_code == 201
    (item,) = answer.json()["items"]
    assert (item["name"], answer.json()["failed"]) == ("Violet one.JPG", [])
    stored = tmp_path / "own.wb.uploads" / f"{hashlib.sha256(data).hexdigest()[:32]}.jpg"
    assert stored.read_bytes() == data
    found = ask(own, data, k=1).json()["hits"][0]
    assert (found["id"], found["distance"], found["label"], found["name"]) == (
        item["id"],
        0,
        "violet",
        "Violet one.JPG",
    )
    assert own.get(found["image"]).content == data
    with Index.open(tmp_path / "own.wb") as index:
        assert index.verify() == []
        again = index.add(tmp_path / "own.wb.uploads")  # as wingbar index would: nothing is new
        assert (again.added, again.removed) == (0, 0)


def test_an_upload_is_encoded_as_indexing_does(own: httpx.Client, tmp_path: Path) -> None:
    data = jpeg(902)
    (item,) = own.post("/api/items", files={"image": ("a.jpg", data)}).json()["items"]
    (tmp_path / "a.jpg").write_bytes(data)
    with Index.open(tmp_path / "own.wb") as index:
        index.add([tmp_path / "a.jpg"])
        ids = index.searchable().ids
        mine, theirs = index.searchable().of(ids[-2:])
        assert ids[-2] == item["id"]
        assert np.array_equal(mine, theirs)
        assert np.array_equal(index.features()[-1], index.features()[-2])


def test_the_same_picture_twice_is_one_item(own: httpx.Client) -> None:
    data = jpeg(903)
    first = own.post("/api/items", files={"image": ("a.jpg", data)}, data={"label": "one"}).json()[
        "items"
    ][0]["id"]
    again = own.post("/api/items", files={"image": ("b.jpg", data)}).json()["items"][0]["id"]
    item = own.get(f"/api/items/{first}").json()
    assert (again, item["label"], item["name"]) == (first, "one", "b.jpg")
    own.post(
        "/api/items",
        files=[("image", ("c.jpg", data)), ("image", ("d.jpg", data))],
        data={"label": "two"},
    )
    item = own.get(f"/api/items/{first}").json()
    assert (item["label"], item["name"]) == ("two", "d.jpg")
    assert own.get("/api/items").json()["total"] == 61


def test_bad_uploads_are_named_and_leave_nothing(own: httpx.Client, tmp_path: Path) -> None:
    answer = own.post(
        "/api/items", files=[("image", ("good.jpg", jpeg(904))), ("image", ("bad.jpg", b"hello"))]
    )
    assert answer.status_code == 201
    assert [item["name"] for item in answer.json()["items"]] == ["good.jpg"]
    assert answer.json()["failed"][0]["name"] == "bad.jpg"
    problem(
        own.post("/api/items", files={"image": ("bad.jpg", b"hello")}),
        422,
        "bad.jpg",
        "not an image",
    )
    problem(own.post("/api/items", files={"image": ("a.jpg", b"")}), 422, "a.jpg")
    problem(own.post("/api/items", data={"label": "x"}), 415)
    problem(
        own.post("/api/items", files={"image": ("a.jpg", jpeg())}, data={"label": "x" * 1001}),
        422,
        "label",
    )
    problem(
        own.post("/api/items", files={"image": ("a.jpg", jpeg())}, data={"lable": "x"}),
        422,
        "lable",
    )
    assert len(list((tmp_path / "own.wb.uploads").iterdir())) == 1


def test_uploads_at_the_same_time(own: httpx.Client, tmp_path: Path) -> None:
    def upload(i: int) -> int:
        answer = own.post(
            "/api/items", files={"image": (f"{i}.jpg", jpeg(2000 + i % 12))}, data={"label": str(i)}
        )
        assert answer.status_code == 201
        return int(answer.json()["items"][0]["id"])

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(upload, range(24)))
    assert len(set(ids)) == 12
    assert own.get("/api/items").json()["total"] == 72
    with Index.open(tmp_path / "own.wb") as index:
        assert index.verify() == []


def test_items_are_deleted_and_only_uploaded_files_with_them(
    own: httpx.Client, shared_photos: Path, tmp_path: Path
) -> None:
    data = jpeg(905)
    (item,) = own.post("/api/items", files={"image": ("a.jpg", data)}).json()["items"]
    assert list((tmp_path / "own.wb.uploads").glob("*.jpg"))
    deleted = own.delete(f"/api/items/{item['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert not list((tmp_path / "own.wb.uploads").iterdir())
    problem(own.get(f"/api/items/{item['id']}"), 404)
    problem(own.delete(f"/api/items/{item['id']}"), 404)
    files = sorted(shared_photos.glob("*/*.jpg"))
    assert own.delete("/api/items/1").status_code == 204
    assert sorted(shared_photos.glob("*/*.jpg")) == files
    problem(own.post("/api/search", json={"id": 1}), 404)
    assert own.get("/api/items").json()["total"] == 59


def test_a_full_disk_is_said_and_leaves_nothing(
    own: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    problem(own.post("/api/items", files={"image": ("a.jpg", jpeg(906))}), 503, "No space left")
    monkeypatch.undo()
    assert not list((tmp_path / "own.wb.uploads").glob("*.jpg"))
    assert own.get("/api/items").json()["total"] == 60
    assert own.post("/api/items", files={"image": ("a.jpg", jpeg(906))}).status_code == 201


def test_an_index_that_fails_leaves_no_file(
    own: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def locked(*arguments: object) -> None:
        raise StoreError(
            f"{tmp_path / 'own.wb'} is being written by another process: try again when that has "
            "finished"
        )

    monkeypatch.setattr("wingbar.index.store.Store.add", locked)
    detail = problem(
        own.post("/api/items", files={"image": ("a.jpg", jpeg(907))}),
        503,
        "own.wb is being written",
    )
    assert str(tmp_path) not in detail
    assert not list((tmp_path / "own.wb.uploads").iterdir())


# -- the page


def test_the_page_and_its_files(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = tmp_path / "web"
    web.mkdir()
    monkeypatch.setattr(app, "WEB", web)
    with serving(Settings(index=service_of(client).path)) as other:
        missing = other.get("/")
        assert (missing.status_code, missing.headers["content-type"]) == (
            200,
            "text/plain; charset=utf-8",
        )
        assert "/openapi.json" in missing.text
        (web / "index.html").write_text("<!doctype html>")
        (web / "main.js").write_text("export {};")
        (web / "look.css").write_text("a{}")
        (web / "icon.svg").write_text("<svg/>")
        types = {
            "/": "text/html",
            "/static/main.js": "text/javascript",
            "/static/look.css": "text/css",
        }
        for path, kind in types.items():
            answer = other.get(path)
            assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
            assert answer.headers["cache-control"] == "no-cache"
            again = other.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert other.get("/static/icon.svg").headers["content-type"] == "image/svg+xml"
        assert other.head("/").status_code == 200


# -- live


def _in_another_process(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys\nfrom wingbar.index.index import Index\n{script}",
            *map(str, arguments),
        ]
    )


def test_what_another_process_changes_shows_up(tmp_path: Path) -> None:
    path, folder = tmp_path / "live.wb", write_classes(tmp_path / "photos", 6)
    Index.create(path).close()
    asked: list[int] = []
    stop = threading.Event()
    with serving(Settings(index=path)) as client:

        def keep_asking() -> None:
            while not stop.is_set():
                asked.append(ask(client, jpeg(), k=3).status_code)
                asked.append(client.post("/api/search", json={"id": 2}).status_code)

        def seen(items: int, bits: int) -> bool:
            until = time.monotonic() + 2.0
            while time.monotonic() < until:
                found = ask(client, jpeg(), k=1000)
                if (
                    found.status_code == 200
                    and len(found.json()["hits"]) == items
                    and found.json()["bits"] == bits
                ):
                    return True
            return False

        problem(ask(client, jpeg()), 409)
        assert (
            _in_another_process(
                "Index.open(sys.argv[1]).add(sys.argv[2], bits=16)", path, folder
            ).wait()
            == 0
        )
        assert seen(18, 16)
        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            write_classes(folder, 9)
            assert (
                _in_another_process("Index.open(sys.argv[1]).add(sys.argv[2])", path, folder).wait()
                == 0
            )
            assert seen(27, 16)
            assert (
                _in_another_process("Index.open(sys.argv[1]).delete([3, 4, 5])", path).wait() == 0
            )
            assert seen(24, 16)
            assert _in_another_process("Index.open(sys.argv[1]).refit(bits=12)", path).wait() == 0
            assert seen(24, 12)
        finally:
            stop.set()
            asking.join()
        assert set(asked) == {200}
        assert client.get("/api/info").json()["items"] == 24


# -- a real process


@pytest.mark.parametrize("after", [1, 9])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, after: int) -> None:
    path = tmp_path / "killed.wb"
    Index.create(path).close()
    acknowledged: dict[int, bytes] = {}
    with process(path) as (running, client):

        def upload(who: int) -> None:
            for i in range(100):
                data = jpeg(10_000 * who + i)
                try:
                    answer = client.post("/api/items", files={"image": (f"{i}.jpg", data)})
                except httpx.TransportError:
                    return  # killed
                assert answer.status_code == 201
                acknowledged[answer.json()["items"][0]["id"]] = data

        threads = [threading.Thread(target=upload, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + LONG
        while len(acknowledged) < after and time.monotonic() < until:
            time.sleep(0.001)
        running.kill()
        for thread in threads:
            thread.join()
    assert len(acknowledged) >= after
    with Index.open(path) as index:
        assert index.verify() == []
        stored = dict(index._store.all_items())
    for item in stored.values():  # no half item: its file is there and whole
        assert hashlib.sha256(Path(item.path).read_bytes()).digest() == item.content
    with process(path) as (_, client):
        for id_, data in acknowledged.items():
            assert stored[id_].content == hashlib.sha256(data).digest()
            assert id_ in [hit["id"] for hit in ask(client, data, k=1000, radius=0).json()["hits"]]
            assert client.get(f"/api/images/{id_}").content == data
        assert client.post("/api/items", files={"image": ("after.jpg", jpeg(1))}).status_code == 201


def test_half_a_file_of_a_killed_server_is_cleared(tmp_path: Path, photos: Path) -> None:
    small_index(tmp_path / "a.wb", photos)
    uploads = tmp_path / "a.wb.uploads"
    uploads.mkdir()
    old, new, other = uploads / ".a.jpg.1.partial", uploads / ".b.jpg.2.partial", uploads / "c.jpg"
    for path in (old, new, other):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with serving(Settings(index=tmp_path / "a.wb")):
        assert sorted(uploads.iterdir()) == sorted([new, other])


def test_the_command_says_where_and_stops_when_asked(shared_index_path: Path) -> None:
    with process(shared_index_path, "--token", TOKEN) as (running, client):
        assert client.get("/healthz").json() == {"status": "ok"}
        problem(client.delete("/api/items/1"), 401)
        running.terminate()
        assert running.wait(LONG) in (0, -15)


def test_the_command_says_in_one_line_what_is_wrong(
    shared_index_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: object) -> str:
        assert main.main(["serve", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "make one with wingbar index" in said(tmp_path / "none.wb")
    assert "--token" in said(shared_index_path, "--host", "0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"try --port {port + 1 if port < 65535 else port - 1}" in said(
            shared_index_path, "--port", port
        )
    assert "cannot listen" in said(shared_index_path, "--host", "no.such.host.invalid", "--public")


@pytest.mark.parametrize(
    ("flags", "terminal", "served"),
    [
        ([], True, True),
        ([], False, False),
        (["--no-serve"], True, False),
        (["--json"], True, False),
    ],
)
def test_the_demo_ends_in_the_server_on_a_terminal(
    flags: list[str],
    terminal: bool,
    served: bool,
    shared_index_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = SimpleNamespace(index=shared_index_path, report=SimpleNamespace(failed=()))
    monkeypatch.setattr("wingbar.demo.run", lambda *arguments, **named: shown)
    monkeypatch.setattr("wingbar.demo.record", lambda shown: {})
    monkeypatch.setattr("wingbar.demo.text", lambda shown: "done")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    serving = []
    monkeypatch.setattr(run, "run", lambda settings, started: serving.append(settings.index))
    assert main.main(["demo", *flags]) == 0
    assert serving == ([shared_index_path] if served else [])


def test_the_page_is_opened_when_asked(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(run, "run", lambda settings, started: started("http://127.0.0.1:5/"))
    assert main.main(["serve", str(shared_index_path), "--open"]) == 0
    assert opened == ["http://127.0.0.1:5/"]
    assert "http://127.0.0.1:5/" in capsys.readouterr().out


def test_tokens_may_come_from_the_environment(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []
    monkeypatch.setattr(run, "run", lambda settings, started: given.append(settings))
    monkeypatch.setenv("WINGBAR_TOKEN", TOKEN)
    monkeypatch.setenv("WINGBAR_READ_TOKEN", "the-reading-token")
    assert (
        main.main(
            ["serve", str(shared_index_path), "--host", "0.0.0.0", "--cors", "https://a.example"]
        )
        == 0
    )
    assert (given[0].token, given[0].read_token, given[0].cors) == (
        TOKEN,
        "the-reading-token",
        ("https://a.example",),
    )


def test_serving_without_its_extra_says_what_to_install(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("wingbar.serving.app")
    monkeypatch.setitem(sys.modules, "wingbar.serving.app", None)
    assert main.main(["serve", str(shared_index_path)]) == 2
    assert "pip install 'wingbar[serve]'" in capsys.readouterr().err


def test_a_server_that_cannot_start_leaves_no_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(StoreError):
        Service(tmp_path / "none.wb", Limits()).start()
    assert threading.active_count() == before
