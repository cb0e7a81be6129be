from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import HUES, picture
from tests.model.test_model import trained_model
from tests.servers import problem, serving
from tests.small_network import small_general
from wingbar.errors import QueryError, WingbarError
from wingbar.index import sync
from wingbar.index.index import Index
from wingbar.model import fitting
from wingbar.serving import indexing
from wingbar.serving.indexing import FolderIndexing
from wingbar.serving.settings import Settings


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine: an empty index, a folder that may be indexed with eight pictures, a broken one and
    links out of it, and a private folder."""
    root = tmp_path_factory.mktemp("machine")
    Index.create(root / "own.wb", trained_model()).close()
    for i in range(8):
        folder = root / "allowed" / ("red" if i < 4 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        picture(i, hue=HUES[folder.name]).save(folder / f"{i}.jpg")
    (root / "allowed" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "private").mkdir()
    picture(9).save(root / "private" / "secret.jpg")
    (root / "allowed" / "red" / "out.jpg").symlink_to(root / "private" / "secret.jpg")
    (root / "allowed" / "way-out").symlink_to(root / "private")
    return root


@pytest.fixture(scope="module")
def asked(machine: Path) -> Iterator[httpx.Client]:
    """A server that may index the folder `allowed` of the machine."""
    settings = Settings(index=machine / "own.wb", index_folders=(machine / "allowed",))
    with serving(settings) as client:
        yield client


def start(client: httpx.Client, folder: Path | str, **headers: str) -> httpx.Response:
    return client.post("/api/indexing", json={"folder": str(folder)}, headers=headers)


def events(client: httpx.Client) -> list[dict[str, Any]]:
    """All that a stream of events tells."""
    with client.stream("GET", "/api/indexing") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def ended(work: FolderIndexing) -> str:
    """How a run ended."""
    assert work._thread is not None
    work._thread.join()
    return work.run.state


def test_a_folder_is_indexed_and_watched(asked: httpx.Client, machine: Path) -> None:
    info = asked.get("/api/info").json()
    assert (info["index_folders"], info["indexing"]) == ([str(machine / "allowed")], False)
    assert start(asked, machine / "allowed").status_code == 202
    last = events(asked)[-1]
    assert (last["state"], last["stage"], last["done"]) == ("done", "indexing", last["total"])
    assert (last["counts"]["added"], last["failures"]) == (8, 2)
    reasons = {Path(one["name"]).name: one["reason"] for one in last["failed"]}
    assert "corrupt" in reasons.pop("broken.jpg")
    assert list(reasons.values()) == [indexing.ODD_LINK]  # by the first of the two links
    assert asked.get("/api/info").json()["label_counts"] == {"blue": 4, "red": 4}
    assert start(asked, machine / "allowed" / "red" / "..").status_code == 202
    assert events(asked)[-1]["counts"]["unchanged"] == 8


@pytest.mark.parametrize(
    ("folder", "status", "word"),
    [
        ("{root}/private", 403, "is not inside"),
        ("{root}/allowed/../private", 403, "is not inside"),
        ("{root}/allowed/way-out", 403, "is not inside"),
        ("{root}/allowed-too", 403, "is not inside"),
        ("{root}/nowhere", 403, "is not inside"),  # whether it exists is not told
        ("{root}/allowed/nowhere", 422, "there is no folder"),
        ("{root}/allowed/red/0.jpg", 422, "there is no folder"),
        ("allowed", 422, "whole path"),
        ("\0", 422, "whole path"),
    ],
)
def test_other_folders_are_refused(
    asked: httpx.Client, machine: Path, folder: str, status: int, word: str
) -> None:
    problem(start(asked, folder.format(root=machine)), status, word)


def test_pages_elsewhere_cannot_index(asked: httpx.Client, machine: Path) -> None:
    problem(start(asked, machine / "allowed", Origin="https://evil.example"), 403, "may not use")
    body = json.dumps({"folder": str(machine / "allowed")})
    as_form = {"Content-Type": "text/plain"}  # what a form elsewhere can send without asking
    problem(asked.post("/api/indexing", content=body, headers=as_form), 415, "JSON with a folder")
    problem(asked.request("DELETE", "/api/indexing", headers={"Origin": "https://e.example"}), 403)


def test_a_server_that_was_not_asked_to(client: httpx.Client, tmp_path: Path) -> None:
    problem(start(client, tmp_path), 403, "--allow-index FOLDER")
    problem(client.get("/api/indexing"), 403)
    assert "index_folders" not in client.get("/api/info").json()
    with pytest.raises(WingbarError, match="nobody but this machine"):
        Settings(index=tmp_path / "a.wb", token="long-enough", index_folders=(tmp_path,))
    with pytest.raises(WingbarError, match="no such folder"):
        Settings(index=tmp_path / "a.wb", index_folders=(tmp_path / "none",))


def test_a_run_is_stopped_and_another_waits(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Index.create(tmp_path / "own.wb", trained_model()).close()
    work = FolderIndexing(tmp_path / "own.wb", [machine / "allowed"])
    progress = work._progress

    def stopping(stage: str, done: int, total: int) -> None:
        if done == 3:
            with pytest.raises(indexing.RunningError, match="is being indexed"):
                work.start(str(machine / "allowed"))
            work.stop()
        progress(stage, done, total)

    monkeypatch.setattr(sync, "BATCH", 2)
    monkeypatch.setattr(work, "_progress", stopping)
    work.start(str(machine / "allowed"))
    assert ended(work) == "stopped"
    counts = dict(work.run.counts)
    with Index.open(tmp_path / "own.wb") as index:
        assert counts["added"] == len(index) > 0
    assert counts["removed"] == 0
    monkeypatch.setattr(work, "_progress", progress)
    work.start(str(machine / "allowed"))
    assert ended(work) == "done"
    with Index.open(tmp_path / "own.wb") as index:
        assert len(index) == 8


def test_a_stop_does_not_wait_for_the_codes_to_be_learned(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Index.create(tmp_path / "a.wb", small_general("small", 0)).close()
    work = FolderIndexing(tmp_path / "a.wb", [machine / "allowed"])
    gate, begun = threading.Event(), threading.Event()

    def endless(*arguments: object, **options: object) -> None:
        begun.set()
        gate.wait(30)

    monkeypatch.setattr(fitting, "fit", endless)
    work.start(str(machine / "allowed"))
    assert begun.wait(20)
    work.stop()
    assert work._thread is not None
    work._thread.join(10)
    gate.set()
    assert work.run.state == "stopped"


def test_a_folder_that_is_gone_is_a_message(tmp_path: Path) -> None:
    Index.create(tmp_path / "own.wb", trained_model()).close()
    (tmp_path / "photos").mkdir()
    work = FolderIndexing(tmp_path / "own.wb", [tmp_path])
    work.start(str(tmp_path / "photos"))
    assert ended(work) == "failed"
    assert "no images" in work.run.message
    os.rmdir(tmp_path / "photos")
    with pytest.raises(QueryError, match="there is no folder"):
        work.start(str(tmp_path / "photos"))
