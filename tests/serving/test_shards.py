"""Several indexes served as one, over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_classes
from tests.databases import Server
from tests.model.test_model import trained_model
from tests.servers import ask, jpeg, problem, serving
from wingbar.index import shards
from wingbar.index.copy import copy
from wingbar.index.engine import place_of
from wingbar.index.index import Index
from wingbar.index.shards import global_id
from wingbar.serving.settings import Settings


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, ...]:
    """Two shards of one model and an index of all their items, all.wb."""
    photos = write_classes(tmp_path / "photos", 4)
    paths = [tmp_path / name for name in ("a.wb", "b.wb", "all.wb")]
    parts = [["red"], ["green", "blue"], ["red", "green", "blue"]]
    for path, labels in zip(paths, parts, strict=True):
        files = [file for label in labels for file in sorted((photos / label).iterdir())]
        with Index.create(path, trained_model()) as index:
            index.add(files, labels=[file.parent.name for file in files])
    return tuple(paths)


def test_shards_answer_as_one_index(places: tuple[Path, ...]) -> None:
    data = jpeg(7)
    with serving(Settings(index=places[2])) as one, serving(Settings(index=places[:2])) as many:
        for fine in ("none", "ties", "pool", "asymmetric"):
            expected = ask(one, data, k=12, fine=fine).json()
            answer = ask(many, data, k=12, fine=fine).json()
            assert answer["failed"] == []
            assert sorted((hit["distance"], hit["name"]) for hit in answer["hits"]) == sorted(
                (hit["distance"], hit["name"]) for hit in expected["hits"]
            )
            assert [hit["distance"] for hit in answer["hits"]] == [
                hit["distance"] for hit in expected["hits"]
            ]
            assert {len(hit["code"]) for hit in answer["hits"]} == {20}
        info = many.get("/api/info").json()
        assert (info["name"], info["items"], info["writable"]) == ("a + b", 12, False)
        assert info["label_counts"] == {"red": 4, "green": 4, "blue": 4}
        assert info["shards"] == [
            {"name": "a.wb", "items": 4, "failed": None},
            {"name": "b.wb", "items": 8, "failed": None},
        ]
        second = global_id(1, 3)
        assert many.get(f"/api/items/{second}").json()["id"] == second
        assert many.get(f"/api/thumbs/{second}").status_code == 200
        found = many.post("/api/search", json={"id": second, "k": 1}).json()
        assert [(hit["id"], hit["distance"]) for hit in found["hits"]] == [(second, 0)]
        page = many.get("/api/items", params={"offset": 3, "limit": 2}).json()
        assert ([item["id"] for item in page["items"]], page["total"]) == ([4, global_id(1, 1)], 12)
        problem(many.get(f"/api/items/{global_id(5, 1)}"), 404)
        problem(many.delete(f"/api/items/{second}"), 403, "several")
        assert many.get("/readyz").status_code == 200
        assert "failed" not in ask(one, data).json()


def test_a_failed_shard_is_named_in_the_answer(
    places: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "DOWN_SECONDS", 0.0)
    with serving(Settings(index=places[:2])) as client:
        places[1].write_bytes(b"nothing that can be read" * 1000)
        answer = ask(client, jpeg(7), k=12).json()
        assert len(answer["hits"]) == 4
        [failed] = answer["failed"]
        assert failed["name"] == "b.wb"
        assert str(places[1].parent) not in failed["reason"]
        detail = problem(client.get("/readyz"), 503, "b.wb")
        assert str(places[1].parent) not in detail
        assert client.get("/healthz").status_code == 200
        [first, second] = client.get("/api/info").json()["shards"]
        assert first["failed"] is None
        assert second["items"] is None
        assert second["failed"]
        page = client.get("/api/items").json()
        assert page["total"] == 4
        assert [one["name"] for one in page["failed"]] == ["b.wb"]
        problem(client.get(f"/api/items/{global_id(1, 3)}"), 503, "b.wb")
        assert client.get("/api/items/3").status_code == 200


def test_a_url_alone_is_served(places: tuple[Path, ...], postgres_server: Server) -> None:
    url = postgres_server.url("served")
    copy(places[2], url)
    with (
        serving(Settings(index=places[2])) as one,
        serving(Settings(index=(place_of(url),))) as client,
    ):
        for fine in ("none", "ties"):
            expected, answer = (ask(c, jpeg(7), k=8, fine=fine).json() for c in (one, client))
            assert [(hit["id"], hit["distance"]) for hit in answer["hits"]] == [
                (hit["id"], hit["distance"]) for hit in expected["hits"]
            ]
