from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.servers import ask, jpeg, problem
from wingbar.serving import requests


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


def test_pictures_that_are_right_or_wrong(client: httpx.Client, shared_photos: Path) -> None:
    paths = [shared_photos / name / "001.jpg" for name in ("red", "green", "blue")]
    red, green, blue = (("x.jpg", path.read_bytes()) for path in paths)
    by_path = [
        client.post("/api/search", json={"path": str(path), "k": 1}).json() for path in paths
    ]
    ids = [found["hits"][0]["id"] for found in by_path]
    as_files = client.post(
        "/api/search",
        files=[("image", red), ("like", green), ("unlike", blue)],
        params={"k": 60, "fine": "pool"},
    ).json()["hits"]
    asked = {"id": ids[0], "like": [ids[1]], "unlike": [ids[2]], "k": 60, "fine": "pool"}
    by_id = client.post("/api/search", json=asked).json()["hits"]
    in_url = client.post(
        "/api/search",
        files=[("image", red)],
        params={"k": 60, "fine": "pool", "like": ids[1], "unlike": ids[2]},
    ).json()["hits"]
    # stored features are float16, and stored logits are only signs
    scores = [{hit["id"]: hit["score"] for hit in hits} for hits in (as_files, by_id, in_url)]
    assert all(abs(scores[0][id_] - other[id_]) < 0.01 for other in scores[1:] for id_ in ids)
    assert min(scores[0][ids[0]], scores[0][ids[1]]) > scores[0][ids[2]]
    problem(client.post("/api/search", files=[("image", red), ("image", blue)]), 422, "like")
    problem(client.post("/api/search", files=[("image", red)], data={"like": "1"}), 422, "URL")
    problem(client.post("/api/search", json={"id": 1, "like": [999]}), 404, "999")
    problem(client.post("/api/search/batch", json={"ids": [1], "like": [2]}), 422, "one query")
    problem(client.post("/api/search/batch", json={"ids": [1] * 64, "k": 2000}), 422, "64,000")


def test_parameters_change_the_search(client: httpx.Client, shared_photos: Path) -> None:
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
        ({"k": 10_001}, "k:"),
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
        ({"box": "1e308,0,1e308,1"}, "1e+308"),
        ({"box": "-1e308,0,-1e308,1"}, "-1e+308"),
        ({"shortlst": 5}, "shortlst"),
    ],
)
def test_invalid_parameters(client: httpx.Client, parameters: dict[str, Any], word: str) -> None:
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
        ("{}", 422, "give id, path or text"),
        ('{"id": 1, "path": "a"}', 422, "give id, path or text"),
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
def test_invalid_json(client: httpx.Client, body: str, status: int, word: str) -> None:
    problem(
        client.post("/api/search", content=body, headers={"Content-Type": "application/json"}),
        status,
        word,
    )


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


def test_invalid_forms(client: httpx.Client) -> None:
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
    problem(client.post("/api/search", files=two), 422, "like")


@pytest.mark.parametrize(
    "body", ["[" + "[]," * 100_000 + "[]]", '{"id": 1, "k": ' + "1" * 300_000 + "}"]
)
def test_large_json_is_refused_before_it_is_parsed(
    client: httpx.Client, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    parser = SimpleNamespace(loads=lambda text: pytest.fail("parsed"))
    monkeypatch.setattr(requests, "json", parser)
    for route in ("/api/search", "/api/search/batch", "/api/explain"):
        problem(client.post(route, content=body, headers=headers), 413, "262,144 bytes")


def test_many_unknown_keys_are_one_short_problem(client: httpx.Client) -> None:
    body = {"id": 1, **{f"key{i}": 1 for i in range(15_000)}}
    assert (
        len(problem(client.post("/api/search", json=body), 422, "'key0': the body takes k, ")) < 200
    )


@pytest.mark.parametrize(
    ("method", "url", "said"),
    [
        (
            "GET",
            "/api/items?were=label=red",
            "there is no parameter 'were': /api/items takes offset, limit, where, spread, sort, "
            "distinct, id, sizes",
        ),
        ("GET", "/api/thumbs/1?width=9", "'width': /api/thumbs/{id} takes size"),
        ("GET", "/api/info?all=1", "'all': /api/info takes no parameters"),
        ("DELETE", "/api/items?ids=1", "'ids': /api/items takes id"),
        ("POST", "/api/match?item=1&itm=2", "'itm': /api/match takes k, radius, "),
        ("POST", "/api/items?label=red", "'label': /api/items takes no parameters"),
        (
            "GET",
            "/api/items?sort=bogus",
            "sort: must be 'spread', 'novelty', 'name', 'label' or 'date', not 'bogus'",
        ),
        ("GET", "/api/items?limit=1&limit=2&offset=x", "offset: "),
    ],
)
def test_parameters_that_a_route_does_not_have(
    client: httpx.Client, method: str, url: str, said: str
) -> None:
    problem(client.request(method, url), 422, said)


@pytest.mark.parametrize(
    ("method", "url", "example"),
    [
        ("POST", "/api/search", '{"id": 17}'),
        ("POST", "/api/search/batch", '{"ids": [17, 18]}'),
        ("PATCH", "/api/items", '{"ids": [17, 18], "label": "monarch"}'),
        ("POST", "/api/indexing", '{"folder": "/home/me/Pictures"}'),
    ],
)
def test_what_is_no_json_gets_an_example_that_fits(
    client: httpx.Client, method: str, url: str, example: str
) -> None:
    for body, status in (("{", 400), ("[]", 422)):
        headers = {"Content-Type": "application/json"}
        answer = client.request(method, url, content=body, headers=headers)
        problem(answer, status, f"one object, as {example}")
