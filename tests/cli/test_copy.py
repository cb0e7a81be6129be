from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import run
from tests.databases import Server
from tests.model.test_model import trained_model
from wingbar.index.index import Index


@pytest.fixture
def index_path(photos: Path, tmp_path: Path) -> Path:
    with Index.create(tmp_path / "a.wb", trained_model()) as index:
        index.add(photos)
    return tmp_path / "a.wb"


def test_copy_says_what_was_copied(
    index_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "b.wb"
    code, out, _ = run(capsys, "copy", index_path, target)
    assert code == 0
    assert f"{target} is a copy of {index_path}: 24 images (24 copied) in " in out
    assert "rounded" not in out
    assert "Number and checksum are the same on both sides: " in out
    code, out, _ = run(capsys, "copy", index_path, target, "--json")
    record = json.loads(out)
    assert (record["items"], record["copied"], record["present"]) == (24, 0, 24)
    small = tmp_path / "small.wb"
    code, out, _ = run(capsys, "copy", index_path, small, "--features", "int8")
    assert f"Features were rounded to int8, as {small} keeps them, and compared as rounded" in out
    code, out, _ = run(capsys, "copy", index_path, small)  # which is int8 already
    assert (code, "(0 copied, 24 there already)" in out, "rounded to int8" in out) == (
        0,
        True,
        True,
    )
    code, _, err = run(capsys, "copy", index_path, target, "--features", "int8")
    assert (code, f"{target} is there already and keeps features as float16" in err) == (2, True)
    code, _, err = run(capsys, "copy", target, index_path)
    assert code == 2
    assert "exists already, and is no copy of" in err


def test_backup(index_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "saved.wb"
    code, out, _ = run(capsys, "backup", index_path, target)
    assert code == 0
    assert f"{target}: 24 images of {index_path}, " in out
    assert "every checksum right" in out
    code, _, err = run(capsys, "backup", index_path, target)
    assert (code, "add --replace" in err) == (2, True)
    code, out, _ = run(capsys, "backup", index_path, target, "--replace", "--json")
    assert json.loads(out)["items"] == 24
    assert run(capsys, "verify", target)[0] == 0


def test_every_verb_takes_a_url(
    photos: Path,
    index_path: Path,
    tmp_path: Path,
    postgres_server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = postgres_server.url("from_the_shell") + "?partitions=2"
    shown = postgres_server.url("from_the_shell")
    trained_model().save(tmp_path / "model")
    query = photos / "red" / "003.jpg"
    code, out, err = run(capsys, "index", url, photos, "--model", tmp_path / "model")
    assert (code, err) == (0, "")
    assert f"{shown}: 24 images (24 added)" in out
    assert "24 unchanged" in run(capsys, "index", url, photos)[1]
    for verb in (
        ["search", query, "-k", "5"],
        ["search", query, "--where", "label=blue", "--fine", "none"],
        ["evaluate", photos, "--keep-constant-bits", "--json"],
        ["explain", query, "-k", "2", "--json"],
        ["info", "--json"],
    ):
        name, *rest = verb
        answers = [run(capsys, name, place, *rest) for place in (url, index_path)]
        assert [code for code, _, _ in answers] == [0, 0]
        if name == "info":
            ours, theirs = (json.loads(out) for _, out, _ in answers)
            same = ("items", "labels", "bits", "dim", "unique_codes", "fingerprint", "fine")
            assert [ours[key] for key in same] == [theirs[key] for key in same]
        elif name == "evaluate":
            ours, theirs = (json.loads(out) for _, out, _ in answers)
            assert ours["map"] == pytest.approx(theirs["map"])
            assert ours["rerank_map"] == pytest.approx(theirs["rerank_map"])
        else:
            assert [(h["id"], h["distance"]) for h in hits_of(answers[0][1])] == [
                (h["id"], h["distance"]) for h in hits_of(answers[1][1])
            ]
    assert run(capsys, "verify", url)[1].strip() == f"{shown} is intact"
    assert "in PostgreSQL " in run(capsys, "info", url)[1]
    code, _, err = run(capsys, "search", postgres_server.url("nothing_here"), query)
    assert code == 2
    assert "make one with wingbar index" in err


def hits_of(out: str) -> list[dict[str, object]]:
    records = [json.loads(line) for line in out.splitlines()]
    found = records[0].get("hits", records)
    assert isinstance(found, list)
    return found


def test_a_second_shard_takes_the_model_of_the_first(
    photos: Path, index_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "b.wb"
    code, _, err = run(capsys, "index", second, photos / "red", "--model", index_path)
    assert (code, err) == (0, "")
    with Index.open(second) as index, Index.open(index_path) as first:
        assert index.model.fingerprint == first.model.fingerprint


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["search", "mysql://server/db", "q.jpg"], "no index can be kept at mysql://"),
        (["info", "postgresql://server/db/Bad-Name"], "cannot name an index on a server"),
        (["info", "postgresql:server"], "with two slashes"),
        (["info", "postgresql://a:secret@server/b/c/d"], "postgresql://a@server/... has more"),
        (["info", "milvus:"], "write milvus://HOST/NAME, or milvus:FILE.db"),
        (["copy", "a.wb", "b.wb"], "no index at a.wb"),
        (["backup", "a.wb", "b.wb"], "no index at a.wb"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert "secret" not in err
