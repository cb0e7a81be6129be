from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.servers import Stuck, ask, jpeg, metrics, problem, serving
from wingbar import images
from wingbar.serving.encoder import HEIC, SUFFIXES
from wingbar.serving.settings import Limits, Settings


def test_pictures_that_cannot_be_read(client: httpx.Client, shared_photos: Path) -> None:
    whole = (shared_photos / "red" / "000.jpg").read_bytes()
    problem(ask(client, b""), 422, "empty")
    problem(ask(client, b"hello"), 422, "JPEG, PNG")
    problem(ask(client, whole[: len(whole) // 2]), 422, "truncated")
    problem(ask(client, b"<svg></svg>"), 422, "SVG")
    problem(ask(client, b"%PDF-1.4"), 422, "PDF")


def test_the_accepted_formats_are_those_that_can_be_indexed() -> None:
    assert set(SUFFIXES) == {*images.FORMATS, HEIC}


def test_a_picture_that_would_fill_the_memory(client: httpx.Client) -> None:
    out = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(out, "PNG")
    assert len(out.getvalue()) < 100_000
    problem(ask(client, out.getvalue()), 413, "pixels")


def test_pictures_beyond_the_limit_get_429(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serving(Settings(index=shared_index_path, limits=Limits(waiting=3))) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        stuck = Stuck(client, monkeypatch)
        futures = [pool.submit(ask, client, jpeg()) for _ in range(8)]
        while sum(future.done() for future in futures) < 5:
            time.sleep(0.01)
        by_id = client.post("/api/search", json={"id": 1})
        waiting = metrics(client)["wingbar_encodes_waiting"]
        stuck.go_on.set()
        answers = [future.result() for future in futures]
        assert (by_id.status_code, waiting) == (200, 3)  # what needs no network is still done
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 5
        for answer in answers:
            if answer.status_code == 429:
                problem(answer, 429, "waiting already")
        problem(
            client.post(
                "/api/search/batch", files=[("image", (f"{i}.jpg", jpeg())) for i in range(4)]
            ),
            429,
        )
        assert ask(client, jpeg()).status_code == 200


@pytest.mark.slow
def test_concurrent_searches_are_encoded_together(
    client: httpx.Client, shared_photos: Path
) -> None:
    files = [path.read_bytes() for path in sorted(shared_photos.glob("*/*.jpg"))]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda data: ask(client, data, k=1).json(), files))
    assert [answer["hits"][0]["distance"] for answer in answers] == [0] * len(files)
    assert [answer["hits"][0]["name"] for answer in answers] == [
        path.name for path in sorted(shared_photos.glob("*/*.jpg"))
    ]
    counted = metrics(client)
    assert counted["wingbar_encode_batch_sum"] > counted["wingbar_encode_batch_count"]
