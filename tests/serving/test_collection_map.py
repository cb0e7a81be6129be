from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.servers import problem, serving
from wingbar.index.index import Index
from wingbar.serving import collection_map
from wingbar.serving.collection_map import lay_out
from wingbar.serving.settings import Settings


def test_alike_pictures_are_near_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((16, 24))
    group = np.repeat(np.arange(16), 20)
    features = middles[group] + 0.3 * rng.standard_normal((320, 24))
    features /= np.linalg.norm(features, axis=1, keepdims=True)

    def share() -> float:
        """Of the ten nearest on the map that are of the same group."""
        places = lay_out(features)
        away = np.linalg.norm(places[:, None] - places, axis=2)
        near = np.argsort(away, axis=1)[:, 1:11]
        return float((group[near] == group[:, None]).mean())

    assert share() > 0.9
    places = lay_out(features)
    assert (places.min(), places.max()) == (0, 1)
    assert (lay_out(features) == places).all()
    monkeypatch.setattr(collection_map, "MOST_COMPARED", 0)
    assert 0.2 < share() < 0.8  # two directions alone
    assert lay_out(features[:2]).tolist() == [[0.5, 0.5]] * 2


def test_the_map_over_http(client: httpx.Client, tmp_path: Path) -> None:
    found = client.get("/api/map").json()
    assert len(found["ids"]) == len(found["x"]) == len(found["y"]) == 60
    assert found["labels"] == ["blue", "green", "red"]
    labels = [found["labels"][i] for i in found["label"]]
    assert labels == [client.get(f"/api/items/{id_}").json()["label"] for id_ in found["ids"]]
    some = client.get("/api/items", params={"id": [5, 999, 3, 5]}).json()
    assert ([item["id"] for item in some["items"]], some["total"]) == ([5, 3], 2)
    Index.create(tmp_path / "empty.wb").close()
    with serving(Settings(index=tmp_path / "empty.wb")) as empty:
        problem(empty.get("/api/map"), 409)
