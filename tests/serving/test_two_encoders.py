"""A server of an index with two encoders: searches name one, and uploads reach both."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import picture
from tests.servers import problem, serving
from tests.small_network import small_general
from wingbar.index.index import Index, store_of
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
    shown = client.post("/api/explain", json={"id": 7, "encoder": "two"})
    assert "leave encoder out" in problem(shown, 422)


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


def test_an_encoder_that_came_after_the_start_waits_for_uploads(
    shared_index_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "own.wb"
    path.write_bytes(shared_index_path.read_bytes())
    with serving(Settings(index=path)) as client, Index.open(path) as index:
        index.add_encoder(small_general("two", 2))
        form = [("image", ("new.jpg", jpeg(picture(98)), "image/jpeg"))]
        assert client.post("/api/items", files=form).status_code in (200, 201)
        also = store_of(index).also
        assert also is not None
        assert len(also.waiting()) == len(index) == 61
        assert "no encoder 'two' here" in problem(
            client.post("/api/search", json={"id": 7, "encoder": "two"}), 422
        )
