from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import write_classes
from tests.servers import LONG, ask, jpeg, problem, serving, small_index
from wingbar.errors import StoreError
from wingbar.index.index import Index, store_of
from wingbar.index.sqlite_file import remove_index
from wingbar.serving.service import Service
from wingbar.serving.settings import Limits, Settings


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


def test_the_fine_mode_that_was_chosen_answers_what_names_none(
    shared_index_path: Path, shared_photos: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(shared_index_path, tmp_path / "a.wb"))
    with Index.open(path) as index:
        chosen = {"for": "copies", "name": "general", "reason": "it rains", "candidates": []}
        store = store_of(index)
        with store.writing():
            store.set_model(index.model.as_chosen({**chosen, "fine": "ties"}).files)
    picture = (shared_photos / "blue" / "002.jpg").read_bytes()
    with serving(Settings(index=path)) as client:
        assert client.get("/api/info").json()["fine"] == "ties"
        assert ask(client, picture).json()["fine"] == "ties"
        assert ask(client, picture, fine="pool").json()["fine"] == "pool"


def test_a_batch_has_an_answer_for_each_query(client: httpx.Client, shared_photos: Path) -> None:
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


def test_items_are_listed(client: httpx.Client) -> None:
    page = client.get("/api/items", params={"offset": 5, "limit": 3}).json()
    assert page["total"] == 60
    assert [item["id"] for item in page["items"]] == [6, 7, 8]
    for item in page["items"]:
        assert item.pop("copies") == []
        assert item.items() <= client.get(f"/api/items/{item['id']}").json().items()
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


def test_paths_and_sizes_are_told_only_where_nobody_else_can_ask(
    client: httpx.Client, shared_index_path: Path
) -> None:
    def answers(one: httpx.Client) -> list[dict[str, Any]]:
        hit = one.post("/api/search", json={"id": 3, "k": 1, "sizes": True}).json()["hits"][0]
        row = one.get("/api/items", params={"limit": 1, "sizes": True}).json()["items"][0]
        return [hit, row, one.get("/api/items/3").json()]

    found = answers(client)
    assert all((one["width"], one["height"]) == (96, 72) for one in found)
    assert all(Path(one["path"]).is_file() for one in found)
    assert (found[2]["taken"], found[2]["camera"]) == (None, None)
    assert "width" not in client.post("/api/search", json={"id": 3}).json()["hits"][0]
    for settings in (
        Settings(index=shared_index_path, public=True),
        Settings(index=shared_index_path, cors=("https://photos.example.org",)),
    ):
        with serving(settings) as other:
            assert all({"path", "taken", "camera"}.isdisjoint(one) for one in answers(other))


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
        "k": 10_000,
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


def test_an_index_that_is_gone_is_not_ready(own: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "own.wb").rename(tmp_path / "elsewhere.wb")
    detail = problem(own.get("/readyz"), 503, "gone")
    assert str(tmp_path) not in detail


def test_an_index_that_was_replaced_by_another_file(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "own.wb"
    small_index(path, photos)
    with serving(Settings(index=path)) as client:
        remove_index(path)
        path.write_text("not an index")
        problem(client.get("/readyz"), 503, "own.wb was replaced")
        for _ in range(3):  # what is open can still be searched
            assert client.post("/api/search", json={"id": 1}).status_code == 200
        problem(client.get("/readyz"), 503, "own.wb was replaced")


@pytest.mark.slow
def test_an_index_that_replaces_the_file_is_opened(tmp_path: Path, photos: Path) -> None:
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
            client.post("/api/search", json={"id": 1}), 503, "another model: restart the server"
        )


def _start_process(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys\nfrom wingbar.index.index import Index\n{script}",
            *map(str, arguments),
        ]
    )


@pytest.mark.slow
def test_changes_by_another_process_show_up(tmp_path: Path) -> None:
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
            _start_process("Index.open(sys.argv[1]).add(sys.argv[2], bits=16)", path, folder).wait()
            == 0
        )
        assert seen(18, 16)
        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            write_classes(folder, 9)
            assert (
                _start_process("Index.open(sys.argv[1]).add(sys.argv[2])", path, folder).wait() == 0
            )
            assert seen(27, 16)
            assert _start_process("Index.open(sys.argv[1]).delete([3, 4, 5])", path).wait() == 0
            assert seen(24, 16)
            assert _start_process("Index.open(sys.argv[1]).refit(bits=12)", path).wait() == 0
            assert seen(24, 12)
        finally:
            stop.set()
            asking.join()
        assert set(asked) == {200}
        assert client.get("/api/info").json()["items"] == 24


def test_a_server_that_cannot_start_leaves_no_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(StoreError):
        Service(tmp_path / "none.wb", Limits()).start()
    assert threading.active_count() == before


def test_copies_are_folded_on_request(client: httpx.Client, shared_photos: Path) -> None:
    picture = (shared_photos / "red" / "003.jpg").read_bytes()
    plain = ask(client, picture, k=60).json()["hits"]
    assert [hit["copies"] for hit in plain] == [[]] * 60
    distinct = ask(client, picture, k=60, distinct=True).json()["hits"]
    seen = [hit["id"] for hit in distinct] + [one for hit in distinct for one in hit["copies"]]
    assert sorted(seen) == sorted(hit["id"] for hit in plain)
    assert distinct[0]["id"] == plain[0]["id"]
