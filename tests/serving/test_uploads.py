from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import picture, write_classes
from tests.index.test_averaging import label_free_model
from tests.model.test_proof import small_model
from tests.servers import LONG, ask, jpeg, problem, process, serving, small_index
from wingbar.errors import MachineWarning, StoreError
from wingbar.index.index import Index
from wingbar.model import proof
from wingbar.model.averaging import without_average
from wingbar.serving.settings import Settings
from wingbar.serving.uploads import Uploads


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


@pytest.mark.slow
def test_an_empty_index_learns_its_codes_from_uploads(tmp_path: Path) -> None:
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


def test_several_items_are_labelled_and_deleted(
    own: httpx.Client, shared_photos: Path, tmp_path: Path
) -> None:
    (item,) = own.post("/api/items", files={"image": ("a.jpg", jpeg(906))}).json()["items"]
    ids = [2, item["id"], 999]
    assert own.patch("/api/items", json={"ids": ids, "label": " rare "}).json() == {"count": 2}
    assert [own.get(f"/api/items/{id_}").json()["label"] for id_ in ids[:2]] == ["rare"] * 2
    assert own.get("/api/info").json()["label_counts"]["rare"] == 2
    composed, apart = "H\u00e4her", "Ha\u0308her"  # one name, as two systems write it
    assert own.patch("/api/items", json={"ids": [3], "label": apart}).json() == {"count": 1}
    picture = {"image": ("b.jpg", jpeg(907))}
    (second,) = own.post("/api/items", files=picture, data={"label": apart}).json()["items"]
    for name in (composed, apart):
        found = own.get("/api/items", params={"where": f"label={name}"}).json()
        assert (found["total"], found["items"][0]["label"]) == (2, composed)
    assert own.delete(f"/api/items/{second['id']}").status_code == 204
    assert own.patch("/api/items", json={"ids": [2], "label": ""}).json() == {"count": 1}
    assert own.get("/api/items/2").json()["label"] is None
    problem(own.patch("/api/items", json={"ids": [], "label": "x"}), 422, "ids")
    problem(own.patch("/api/items", json={"ids": [2]}), 422, "label")
    problem(own.patch("/api/items", content=b"x", headers={"Content-Type": "text/plain"}), 415)
    files = sorted(shared_photos.glob("*/*.jpg"))
    assert own.delete("/api/items", params={"id": ids}).json() == {"count": 2}
    assert not list((tmp_path / "own.wb.uploads").iterdir())
    assert sorted(shared_photos.glob("*/*.jpg")) == files
    assert own.get("/api/items").json()["total"] == 59
    problem(own.delete("/api/items"), 422, "id")
    with Index.open(tmp_path / "own.wb") as index:
        assert index.verify() == []


def test_a_full_disk_is_reported_and_leaves_nothing(
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


def test_unfinished_files_of_killed_servers_are_removed(tmp_path: Path, photos: Path) -> None:
    small_index(tmp_path / "a.wb", photos)
    uploads = tmp_path / "a.wb.uploads"
    uploads.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, now = os.getpid(), time.time()
    ages = {
        f".old.jpg.{mine}.partial": 10_000,
        f".killed.jpg.{ended.pid}.partial": 60,
        f".new.jpg.{ended.pid}.partial": 0,
        f".written.jpg.{mine}.partial": 60,
        ".odd.partial": 60,
        "c.jpg": 10_000,
    }
    for name, age in ages.items():
        (uploads / name).write_bytes(b"half")
        os.utime(uploads / name, (now - age, now - age))
    with serving(Settings(index=tmp_path / "a.wb")):
        left = {path.name for path in uploads.iterdir()}
    assert left == {
        f".new.jpg.{ended.pid}.partial",
        f".written.jpg.{mine}.partial",
        ".odd.partial",
        "c.jpg",
    }


def test_an_upload_over_a_damaged_file_mends_it(own: httpx.Client, tmp_path: Path) -> None:
    data = jpeg(908)
    (item,) = own.post("/api/items", files={"image": ("a.jpg", data)}).json()["items"]
    (stored,) = (tmp_path / "own.wb.uploads").iterdir()
    stored.write_bytes(data[:-50] + bytes(50))  # of equal size
    problem(own.get(f"/api/images/{item['id']}"), 404, "changed")
    again = own.post("/api/items", files={"image": ("a.jpg", data)})
    assert again.json()["items"][0]["id"] == item["id"]
    assert stored.read_bytes() == data
    assert own.get(f"/api/images/{item['id']}").content == data


def test_deleting_here_and_uploading_there_leaves_no_item_without_its_file(
    own: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(909)
    delete, index_them = Index.delete, Uploads._index

    def upload_there() -> int:
        answer = there.post("/api/items", files={"image": ("a.jpg", data)})
        return int(answer.json()["items"][0]["id"])

    def whole(id_: int) -> bool:
        return own.get(f"/api/images/{id_}").content == data

    with serving(Settings(index=tmp_path / "own.wb")) as there:
        # the upload comes between the end of the item and that of its file
        first = upload_there()
        second = []

        def delete_then_upload(index: Index, ids: list[int]) -> int:
            removed = delete(index, ids)
            second.append(upload_there())
            return removed

        monkeypatch.setattr(Index, "delete", delete_then_upload)
        assert own.delete(f"/api/items/{first}").status_code == 204
        monkeypatch.undo()
        assert second[0] != first
        assert whole(second[0])

        # the item and its file end between the upload's look at the file and its item
        def delete_then_index(self: Uploads, *arguments: Any) -> None:
            monkeypatch.undo()
            assert own.delete(f"/api/items/{second[0]}").status_code == 204
            index_them(self, *arguments)

        monkeypatch.setattr(Uploads, "_index", delete_then_index)
        # no new file is written, and the one that was there goes
        third = upload_there()
        assert whole(third)
    with Index.open(tmp_path / "own.wb") as index:
        assert index.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 9])
def test_acknowledged_uploads_survive_kill_9(tmp_path: Path, after: int) -> None:
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
        stored = dict(zip(index.ids().tolist(), index.items(), strict=True))
    for item in stored.values():  # no half item: its file is there and whole
        assert hashlib.sha256(Path(item.path).read_bytes()).digest() == item.content
    with process(path) as (_, client):
        for id_, data in acknowledged.items():
            assert stored[id_].content == hashlib.sha256(data).digest()
            assert id_ in [hit["id"] for hit in ask(client, data, k=1000, radius=0).json()["hits"]]
            assert client.get(f"/api/images/{id_}").content == data
        assert client.post("/api/items", files={"image": ("after.jpg", jpeg(1))}).status_code == 201


def test_a_server_on_a_machine_that_computes_otherwise(tmp_path: Path) -> None:
    """It says so when it starts, searches, and adds nothing."""
    made = proof.proven(small_model())
    there = small_model(order=(2, 1, 0)).files["model.onnx"]
    path = tmp_path / "a.wb"
    with Index.create(path, made) as index:
        index.add([picture(1)])
        with index._store.writing():  # as if it came from another machine
            index._store.set_model(made.altered({"model.onnx": there}).files)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", MachineWarning)
        with serving(Settings(index=path)) as client:
            answer = client.post("/api/items", files={"image": ("b.jpg", jpeg(2))})
            problem(answer, 503, "nothing can be added here: this machine computes other features")
            assert ask(client, jpeg(2), k=1).status_code == 200
    [warning] = [one for one in said if issubclass(one.category, MachineWarning)]
    assert str(warning.message).endswith("clear bits are others: searches are less exact")


def test_an_upload_into_an_index_for_classes_is_averaged(tmp_path: Path) -> None:
    path = tmp_path / "classes.wb"
    with Index.create(path, label_free_model()) as index:
        index.add(write_classes(tmp_path / "photos", 12), bits=16, purpose="classes")
        before = index.features()
    with serving(Settings(index=path)) as client:
        stored = client.post("/api/items", files={"image": ("a.jpg", jpeg(77))})
        assert stored.status_code == 201
        one = ask(client, jpeg(5), k=37).json()
        assert one["hits"] == ask(client, jpeg(5), k=37, expand=10).json()["hits"]
        plain = ask(client, jpeg(5), k=37, expand=0).json()["hits"]
        assert [hit["score"] for hit in one["hits"]] != [hit["score"] for hit in plain]
        for hit in one["hits"]:  # the code that is shown is the one that was searched for
            assert hit["distance"] == sum(
                a != b for a, b in zip(hit["code"], one["code"], strict=True)
            )
        chances = [hit["p_chance"] for hit in one["hits"]]
        assert chances == sorted(chances)
        cut = ask(client, jpeg(5), k=37, cut=chances[9]).json()["hits"]
        assert cut == [hit for hit in one["hits"] if hit["p_chance"] <= chances[9]]
        problem(ask(client, jpeg(5), cut=0), 422)
    with Index.open(path) as index:
        assert len(index) == 37
        assert not len(without_average(index.features()))
        np.testing.assert_array_equal(index.features()[:36], before)
