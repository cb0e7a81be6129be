"""A server of an index with two encoders: searches name one, and uploads reach both."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import picture
from tests.servers import problem, serving
from tests.small_network import small_general
from wingbar import images
from wingbar.index.index import Index, store_of
from wingbar.model import saliency
from wingbar.serving.settings import Settings


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def path(shared_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "both.wb"
    with Index.create(path, small_general("one", 1), also=small_general("two", 2)) as index:
        index.add(shared_photos, bits=16)
    return path


@pytest.fixture(scope="module")
def client(path: Path) -> Iterator[httpx.Client]:
    with serving(Settings(index=path)) as client:
        yield client


def test_a_search_names_its_encoder(client: httpx.Client, path: Path) -> None:
    assert client.get("/api/info").json()["encoders"] == ["one", "two"]
    query = jpeg(picture(3, hue=(200, 40, 30)))
    found = {}
    with Index.open(path) as index:
        for name in ("one", "two"):
            for where in ([], ["label!=green"]):
                expected = [
                    (hit.id, hit.distance)
                    for hit in index.search(query, 5, encoder=name, where=where)
                ]
                answer = client.post(
                    "/api/search",
                    params={"k": 5, "where": where, "encoder": name},
                    content=query,
                    headers={"Content-Type": "image/jpeg"},
                ).json()
                assert answer["encoder"] == name
                hits = [(hit["id"], hit["distance"]) for hit in answer["hits"]]
                assert hits == expected
            found[name] = [hit["id"] for hit in answer["hits"]]
            by_id = client.post("/api/search", json={"id": 7, "k": 1, "encoder": name}).json()
            assert (by_id["hits"][0]["id"], by_id["encoder"]) == (7, name)
    assert found["one"] != found["two"]
    assert client.post("/api/search", json={"id": 7}).json()["encoder"] == "one"
    batch = client.post("/api/search/batch", json={"ids": [7, 8], "encoder": "two"}).json()
    assert [one["encoder"] for one in batch["results"]] == ["two", "two"]


def test_what_is_refused(client: httpx.Client) -> None:
    wrong = client.post("/api/search", json={"id": 7, "encoder": "three"})
    assert "there is no encoder 'three' here: name one or two" in problem(wrong, 422)
    for route in ("explain", "match?item=3", "regions"):
        unknown = client.post(f"/api/{route}", json={"id": 7, "encoder": "three"})
        assert "there is no encoder 'three' here" in problem(unknown, 422)
    nothing = client.post("/api/explain", json={"id": 7, "encoder": "two"})
    assert "no attention to show" in problem(nothing, 404)


def test_what_each_of_them_sees(client: httpx.Client, path: Path) -> None:
    facts = client.get("/api/info").json()["by_encoder"]
    each = {"bits": 16, "fine": "pool", "explains": False, "knows_texts": False}
    assert facts == {"one": each, "two": each}
    data = jpeg(picture(5, (160, 120), (30, 60, 200)))
    jpeg_type = {"Content-Type": "image/jpeg"}
    seen = {}
    for name in ("one", "two"):
        with Index.open(path) as index:
            expected = saliency.standing_out(index.encoder(name).model, data)
        params = {"encoder": name}
        answer = client.post("/api/regions", params=params, content=data, headers=jpeg_type)
        assert answer.json()["regions"] == [[round(one) for one in box] for box in expected]
        params |= {"item": "3"}
        sent = client.post("/api/match", params=params, content=data, headers=jpeg_type)
        by_id = client.post("/api/match?item=3&on=query", json={"id": 7, "encoder": name})
        seen[name] = sent.content, by_id.content
        assert all(one.startswith(b"\x89PNG") for one in seen[name])
    assert all(one != two for one, two in zip(*seen.values(), strict=True))
    first = client.post("/api/match?item=3&on=query", json={"id": 7})
    assert first.content == seen["one"][1]


def test_uploads_reach_both_and_deletions_too(client: httpx.Client, path: Path) -> None:
    data = jpeg(picture(99))
    form = [("image", ("new.jpg", data, "image/jpeg"))]
    stored = client.post("/api/items", files=form).json()
    id_ = stored["items"][0]["id"]
    with Index.open(path) as index:
        assert len(index) == len(index.encoder("two")) == 61
        assert index.verify() == []
        hit = index.search(data, 1, encoder="two")[0]
        assert (hit.id, hit.distance) == (id_, 0)
        assert client.delete(f"/api/items/{id_}").status_code in (200, 204)
        assert len(index) == len(index.encoder("two")) == 60
        assert index.verify() == []


def test_an_encoder_that_comes_after_the_start(shared_index_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.wb"
    path.write_bytes(shared_index_path.read_bytes())
    with serving(Settings(index=path)) as client, Index.open(path) as index:

        def waiting_after(upload: int) -> int:
            form = [("image", ("new.jpg", jpeg(picture(upload)), "image/jpeg"))]
            assert client.post("/api/items", files=form).status_code == 201
            also = store_of(index).also
            assert also is not None
            return len(also.waiting())

        index.add_encoder(small_general("two", 2))
        assert waiting_after(98) == len(index) == 61  # it has no codes yet
        assert client.get("/api/info").json()["by_encoder"]["two"]["bits"] is None
        index.add([])
        assert waiting_after(97) == 0
        found = client.post("/api/search", json={"id": 7, "k": 1, "encoder": "two"}).json()
        assert found["hits"][0]["id"] == 7
        assert index.verify() == []


def test_an_upload_is_decoded_once(
    client: httpx.Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []

    def decode(data: bytes, side: int | None) -> Image.Image:
        opened.append(data)
        return really(data, side)

    really = images._decode
    monkeypatch.setattr(images, "_decode", decode)
    pictures = [jpeg(picture(seed)) for seed in (95, 96)]
    form = [("image", ("new.jpg", data, "image/jpeg")) for data in (*pictures, b"no picture")]
    answer = client.post("/api/items", files=form).json()
    assert sorted(filter(pictures.__contains__, opened)) == sorted(pictures)
    assert [one["name"] for one in answer["failed"]] == ["new.jpg"]
    monkeypatch.undo()
    ids = [one["id"] for one in answer["items"]]
    with Index.open(path) as index:
        for name, (id_, data) in itertools.product(("one", "two"), zip(ids, pictures, strict=True)):
            hit = index.search(data, 1, encoder=name)[0]
            assert (hit.id, hit.distance) == (id_, 0)
    client.delete("/api/items", params={"id": ids})
