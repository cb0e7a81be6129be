from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import picture
from tests.model.text_towers import CLIP, FORM, image_tower, text_tower, texts, write_text
from tests.servers import problem, serving
from wingbar.index.index import Index
from wingbar.model.imported import from_onnx
from wingbar.serving.settings import Settings


def test_a_text_over_http(tmp_path: Path) -> None:
    text = write_text(tmp_path / "t.onnx", text_tower(causal=True), "text_embeds")
    image = image_tower(tmp_path / "i.onnx")
    model = from_onnx(image, FORM, "small", texts=texts(tmp_path, text, CLIP))
    path = tmp_path / "a.wb"
    with Index.create(path, model) as index:
        index.add([np.asarray(picture(i)) for i in range(5)], labels=list("aabbb"), bits=3)
        expected = index.search(text="a red dress", k=3)
    with serving(Settings(index=path)) as client:
        assert client.get("/api/info").json()["knows_texts"] is True
        found = client.post("/api/search", json={"text": "a red dress", "k": 3}).json()
        assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]
        assert [hit["score"] for hit in found["hits"]] == pytest.approx(
            [hit.score for hit in expected]
        )
        assert (found["fine"], found["query"], found["shortlist"]) == ("pool", None, 5)
        assert {"encode", "fine", "total"} <= found["milliseconds"].keys()
        filtered = client.post("/api/search", json={"text": "x", "where": ["label=a"]}).json()
        assert {hit["label"] for hit in filtered["hits"]} == {"a"}
        for wrong, reason in [
            ({"text": "x", "id": 1}, "give id, path or text"),
            ({"text": "x", "like": [1]}, "marks belong to pictures"),
            ({"text": "x", "radius": 2}, "without a radius"),
            ({"text": " "}, "is empty"),
            ({"text": ""}, "text: string should have at least 1 character"),
        ]:
            problem(client.post("/api/search", json=wrong), 422, reason)
        problem(client.post("/api/regions", json={"text": "x"}), 422, "a text has no parts")


def test_a_model_without_texts(client: httpx.Client) -> None:
    assert client.get("/api/info").json()["knows_texts"] is False
    problem(client.post("/api/search", json={"text": "x"}), 422, "general knows no texts")
