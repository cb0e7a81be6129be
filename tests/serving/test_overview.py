from __future__ import annotations

import os
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.servers import problem, service_of, serving
from wingbar.index.index import Index
from wingbar.index.store import Store
from wingbar.serving import overview, service
from wingbar.serving.overview import Gallery, fits, from_text, lay_out, survey, to_text, updated
from wingbar.serving.settings import Settings


def gallery(count: int = 320, groups: int = 16) -> Gallery:
    """Features in groups, which are far from each other."""
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((groups, 24))
    features = middles[np.arange(count) % groups] + 0.3 * rng.standard_normal((count, 24))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    contents = [f"content {i}".encode() for i in range(count)]
    return Gallery("model", np.arange(1, count + 1) * 3, features, contents, 0.999)


def without(all_: Gallery, *rows: int) -> Gallery:
    kept = np.setdiff1d(np.arange(len(all_.ids)), rows)
    contents = [all_.contents[row] for row in kept]
    return all_._replace(ids=all_.ids[kept], features=all_.features[kept], contents=contents)


def test_alike_pictures_are_near_each_other() -> None:
    some = gallery()
    group = np.arange(320) % 16

    def share(places: np.ndarray) -> float:
        """Of the ten nearest on the map that are of the same group."""
        away = np.linalg.norm(places[:, None] - places, axis=2)
        near = np.argsort(away, axis=1)[:, 1:11]
        return float((group[near] == group[:, None]).mean())

    places = survey(some).places
    assert share(places) > 0.9
    assert (places.min(), places.max()) == (0, 1)
    assert (survey(some).places == places).all()
    assert 0.2 < share(lay_out(some.features)) < 0.8  # two directions alone
    assert lay_out(some.features[:2]).tolist() == [[0.5, 0.5]] * 2


def test_novelty_and_stacks_by_a_slow_computation() -> None:
    some = gallery()
    some.features[7] = some.features[5]  # copies by feature,
    some.features[9] = -some.features[9]  # one unlike all others,
    contents = list(some.contents)
    contents[11] = contents[2]  # and copies by content
    found = survey(some._replace(contents=contents))
    for row in (0, 9, 100):
        cosines = np.delete(some.features @ some.features[row], row)
        assert found.novelty[row] == pytest.approx(1 - np.sort(cosines)[-15:].mean(), abs=1e-5)
    assert found.novelty.argmax() == 9
    copies = {
        row: int(found.stacks[row]) for row in range(320) if found.stacks[row] != some.ids[row]
    }
    assert copies == {7: some.ids[5], 11: some.ids[2]}


def test_large_collections_are_compared_with_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MOST_COMPARED", 100)
    monkeypatch.setattr(overview, "SAMPLE", 64)
    some = gallery()
    found = survey(some)
    assert (found.places == lay_out(some.features)).all()
    assert np.corrcoef(found.novelty, survey(without(some)).novelty)[0, 1] == pytest.approx(1)
    assert (found.stacks == some.ids).all()


def test_an_overview_survives_as_text() -> None:
    found = survey(gallery(20))
    again = from_text(to_text(found))
    assert again is not None
    assert again.fingerprint == "model"
    for one, other in zip(found[1:], again[1:], strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    for bad in ("", "7", "[]", '["a", "!"]', '["a", "AAAA"]', '[1, ""]', '{"a": 1, "b": 2}'):
        assert from_text(bad) is None


def test_new_pictures_come_between_their_neighbours() -> None:
    all_ = gallery()
    all_.features[300] = all_.features[20]
    known = survey(without(all_, 16, 300))
    assert fits(known, "model", all_.ids)
    assert not fits(known, "other", all_.ids)
    assert not fits(survey(without(all_, *range(100))), "model", all_.ids)
    assert not fits(known, "model", np.array([9001, 9002]))  # all others are gone
    now = updated(known, without(all_, 40))
    assert (now.ids == without(all_, 40).ids).all()
    row = {id_: i for i, id_ in enumerate(now.ids.tolist())}
    before = dict(zip(known.ids.tolist(), known.places.tolist(), strict=True))
    assert all(now.places[row[id_]].tolist() == before[id_] for id_ in row if id_ in before)
    new = int(all_.ids[16])
    cosines = without(all_, 40).features @ all_.features[16]
    cosines[[row[new], row[int(all_.ids[300])]]] = -2  # itself, and what is new too
    near = np.argsort(-cosines)[:15]
    assert now.places[row[new]] == pytest.approx(now.places[near].mean(0), abs=1e-5)
    assert now.stacks[row[int(all_.ids[300])]] == all_.ids[20]
    gone = updated(survey(all_), without(all_, 20))  # the first of a stack
    assert gone.stacks[gone.ids.tolist().index(all_.ids[300])] == all_.ids[300]


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


def test_the_overview_is_computed_once(
    shared_index_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(shared_index_path, tmp_path / "own.wb"))
    store = Store.open(path)
    with store.writing():
        store.keep_derived("overview", "")  # another test may have looked at the map
    store.close()
    computed: list[int] = []

    def counted(some: Gallery) -> overview.Overview:
        computed.append(len(some.ids))
        return survey(some)

    monkeypatch.setattr(service, "survey", counted)
    with serving(Settings(index=path)) as client:
        first = client.get("/api/map").json()
        writes = service_of(client)._writes
        assert writes is not None
        assert writes.submit(lambda reader: reader.store.derived("overview")).result()
        assert client.delete("/api/items/7").status_code == 204
        assert len(client.get("/api/map").json()["ids"]) == 59
    with serving(Settings(index=path)) as client:
        again = client.get("/api/map").json()
    assert computed == [60]
    place = dict(zip(first["ids"], first["x"], strict=True))
    assert [place[id_] for id_ in again["ids"]] == again["x"]
    with Index.open(path) as index:
        assert index.verify() == []


def listed(client: httpx.Client, **parameters: object) -> list[dict[str, object]]:
    items: list[dict[str, object]] = client.get("/api/items", params=parameters).json()["items"]  # type: ignore[arg-type]
    return items


def test_items_are_sorted(own: httpx.Client, tmp_path: Path) -> None:
    names = [item["name"] for item in listed(own, sort="name")]
    assert names == sorted(names, key=lambda name: str(name).casefold())
    assert len(names) == 60
    labels = [str(item["label"]) for item in listed(own, sort="label")]
    assert labels == sorted(labels)
    paths = {item["id"]: str(item["path"]) for item in listed(own)}
    times = [os.stat(paths[item["id"]]).st_mtime_ns for item in listed(own, sort="date")]
    assert times == sorted(times, reverse=True)
    found = listed(own, sort="novelty", limit=3, offset=2)
    assert found == listed(own, sort="novelty")[2:5]
    of = own.get("/api/items", params={"sort": "name", "where": "label=red", "limit": 2}).json()
    assert (len(of["items"]), of["total"]) == (2, 20)
    problem(own.get("/api/items", params={"sort": "colour"}), 422, "sort")


def test_copies_are_stacked(own: httpx.Client) -> None:
    [item] = listed(own, limit=1)
    data = own.get(f"/api/images/{item['id']}").content
    files = {"image": ("again.png", data)}
    [added] = own.post("/api/items", files=files).json()["items"]
    found = own.get("/api/items", params={"distinct": True, "sort": "name"}).json()
    assert found["total"] < 61
    copies = {one["id"]: one["copies"] for one in found["items"]}
    assert added["id"] in [id_ for ids in copies.values() for id_ in ids] + list(copies)
    assert sum(1 + len(ids) for ids in copies.values()) == 61
    assert added["id"] not in copies or item["id"] not in copies
