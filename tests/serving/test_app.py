from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import ask, jpeg, metrics, problem, service_of, serving
from wingbar.index.index import Index
from wingbar.index.ranking import Hits
from wingbar.serving import app, connections
from wingbar.serving.settings import Limits, Settings


def test_health_readiness_and_metrics(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    ask(client, jpeg())
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")
    counted = metrics(client)
    assert counted['wingbar_requests_total{method="POST",route="/api/search",status="200"}'] >= 1
    assert counted['wingbar_search_stage_seconds_count{stage="encode"}'] >= 1
    assert counted["wingbar_items"] == 60
    assert counted["wingbar_encodes_waiting"] == 0
    assert counted["wingbar_encode_batch_count"] >= 1


def test_paths_and_methods_that_do_not_exist(client: httpx.Client) -> None:
    problem(client.get("/nothing"), 404, "/openapi.json")
    problem(client.put("/api/search"), 405, "PUT")
    assert client.put("/api/items/1").headers["allow"]
    problem(client.get("/docs"), 404)
    problem(client.get("/static/../server.py"), 404)
    problem(client.get("/static/%2e%2e/server.py"), 404)
    problem(client.get("/static/"), 404)
    long = problem(client.get("/" + "x" * 9000), 404, "see /openapi.json")
    assert len(long) <= 2000


def test_a_bug_is_answered_with_a_problem(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(service_of(client), "row", broken)
    assert "secret" not in problem(client.get("/api/items/1"), 500, "ZeroDivisionError")


def test_the_page_and_its_files(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = tmp_path / "web"
    web.mkdir()
    monkeypatch.setattr(app, "WEB", web)
    with serving(Settings(index=service_of(client).path)) as other:
        missing = other.get("/")
        assert (missing.status_code, missing.headers["content-type"]) == (
            200,
            "text/plain; charset=utf-8",
        )
        assert "/openapi.json" in missing.text
        (web / "index.html").write_text("<!doctype html>")
        (web / "main.js").write_text("export {};")
        (web / "look.css").write_text("a{}")
        (web / "icon.svg").write_text("<svg/>")
        types = {
            "/": "text/html",
            "/static/main.js": "text/javascript",
            "/static/look.css": "text/css",
        }
        for path, kind in types.items():
            answer = other.get(path)
            assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
            assert answer.headers["cache-control"] == "no-cache"
            again = other.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert other.get("/static/icon.svg").headers["content-type"] == "image/svg+xml"
        assert other.head("/").status_code == 200


def test_the_page_is_compressed_and_can_be_installed(client: httpx.Client) -> None:
    style = client.get("/static/style.css", headers={"Accept-Encoding": "gzip"})
    assert style.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in client.get("/api/items").headers
    manifest = client.get("/static/app.webmanifest")
    assert manifest.headers["content-type"].startswith("application/manifest+json")
    assert manifest.json()["share_target"]["action"] == "/share"
    worker = client.get("/share.js")  # in charge of the folder that it comes from
    assert worker.headers["content-type"] == "text/javascript; charset=utf-8"


def test_a_hostile_filter_is_answered_at_once(client: httpx.Client) -> None:
    blank = {"where": [" " * 900] * 8}
    problem(client.get("/api/items", params=blank), 422, "cannot read the filter")
    assert client.get("/api/items", params=blank).elapsed.total_seconds() < 5  # it was 40 s


def test_filters_that_take_too_long_are_cut_off(shared_index_path: Path) -> None:
    limits = Limits(filter_seconds=0)
    many = [f"path=*a*b{i}*" for i in range(32)]
    with serving(Settings(index=shared_index_path, limits=limits)) as client:
        connections.STEPS, steps = 10, connections.STEPS
        try:
            problem(client.get("/api/items", params={"where": many}), 422, "32 filters", "0 s")
            problem(client.post("/api/search", json={"id": 1, "where": many}), 422, "32 filters")
        finally:
            connections.STEPS = steps
        assert client.get("/api/items").json()["total"] == 60


def test_large_answers_are_written_outside_the_event_loop(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    write = json.dumps

    def noted(record: Any, **options: Any) -> str:
        threads.add(threading.current_thread())
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return write(record, **options)

    alone = client.post("/api/search", json={"id": 2, "k": 60}).json()
    monkeypatch.setattr(json, "dumps", noted)
    batch = client.post(
        "/api/search/batch",
        content=b'{"ids": [1, 2, 1000], "k": 60}',
        headers={"Content-Type": "application/json"},
    )
    monkeypatch.undo()
    found, wrong = batch.json()["results"][1:]
    assert threads
    assert (found["hits"], wrong["status"]) == (alone["hits"], 404)


def test_answers_have_no_nan(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    find = Index.find

    def damaged(index: Index, *arguments: Any) -> list[Hits]:
        return [
            Hits([replace(hit, score=float("nan")) for hit in hits], 1, False, hits.milliseconds)
            for hits in find(index, *arguments)
        ]

    monkeypatch.setattr(Index, "find", damaged)
    answer = client.post("/api/search", json={"id": 1})
    assert b"NaN" not in answer.content
    assert answer.json()["hits"][0]["score"] is None
