"""Features as int8: what they are, and a file of them through all that is done with files."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.commands import run
from tests.conftest import picture
from tests.index.test_vectors import keys, vectors
from wingbar.errors import StoreError
from wingbar.index import kept
from wingbar.index.checks import verify
from wingbar.index.copy import backup, copy
from wingbar.index.index import Index
from wingbar.index.repair import repair
from wingbar.index.tables import meta_crc
from wingbar.index.transfer import export, import_file
from wingbar.model.model import Model

DIM, COUNT = 24, 60


@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
@pytest.mark.parametrize("dim", [1, 2, 7, 512])
def test_int8_is_the_nearest_of_255_shares_of_the_greatest(dim: int, scale: float) -> None:
    features = (np.random.default_rng(dim).standard_normal((9, dim)) * scale).astype(np.float32)
    features[3] = 0
    blobs = kept.to_disk(features, "int8")
    assert {len(blob) for blob in blobs} == {kept.width(dim, "int8")} == {dim + 2}
    read = kept.from_disk(blobs, dim, "int8")
    assert read.shape == (9, dim)
    assert read.dtype == np.float16
    halves = features.astype(np.float16).astype(np.float64)
    for row, got in zip(halves, read.astype(np.float64), strict=True):
        greatest = np.abs(row).max()
        shares = np.arange(-127, 128) / 127 * greatest
        nearest = shares[np.abs(shares[None] - row[:, None]).argmin(1)]
        np.testing.assert_allclose(got, nearest, rtol=2**-11, atol=2**-25)
    np.testing.assert_array_equal(kept.as_kept(read, "int8"), read)  # again changes nothing
    assert kept.to_disk(read, "int8") == blobs


def test_float16_is_the_numbers_themselves() -> None:
    features = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float16)
    blobs = kept.to_disk(features, "float16")
    assert blobs == [row.astype("<f2").tobytes() for row in features]
    assert kept.from_disk(blobs, 5, "float16").tobytes() == features.tobytes()
    assert kept.as_kept(features, "float16") is features


@pytest.mark.parametrize("how", kept.KEPT)
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_seen(how: kept.Kept, wrong: float) -> None:
    blobs = kept.to_disk(np.ones((3, 4)), how)
    assert kept.are_finite(blobs, how)
    assert not kept.are_finite([*blobs, np.full(4, wrong, "<f2").tobytes()], how)
    assert kept.are_finite([], how)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Index.create(tmp_path / "a.wb", Model.of_vectors(DIM), features="int8") as index:
        index.add(vectors=vectors(COUNT), keys=keys(COUNT), bits=12)
    return tmp_path / "a.wb"


def everything(path: Path) -> object:
    with Index.open(path) as index:
        return (index.kept, index.ids().tolist(), index.items(), index.features().tobytes())


def test_a_search_ranks_by_what_is_kept(path: Path) -> None:
    plain = vectors(COUNT) / np.linalg.norm(vectors(COUNT), axis=1, keepdims=True)
    with Index.open(path) as index:
        assert index.info().features == "int8"
        np.testing.assert_array_equal(
            index.features(), kept.as_kept(plain.astype(np.float32), "int8")
        )
        query = vectors(1, seed=5)[0]
        hits = index.search(query, COUNT, fine="pool", shortlist=COUNT)
        scores = index.features().astype(np.float32) @ (query / np.linalg.norm(query))
        assert [hit.id for hit in hits] == (np.argsort(-scores, kind="stable") + 1).tolist()
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1], abs=1e-6)
    assert verify(path) == []


def test_the_same_vectors_are_unchanged(path: Path) -> None:
    with Index.open(path) as index:
        report = index.add(vectors=vectors(COUNT), keys=keys(COUNT))
        assert (report.unchanged, report.updated) == (COUNT, 0)
        index.refit(bits=16)
        assert index.kept == "int8"
    assert verify(path) == []


def test_copies_of_it_are_equal(path: Path, tmp_path: Path) -> None:
    copy(path, tmp_path / "b.wb")
    backup(path, tmp_path / "c.wb")
    with Index.open(path) as index:
        export(index, tmp_path / "d.npz")
    import_file(tmp_path / "d.npz", tmp_path / "d.wb", model=path, features="int8")
    expected = everything(path)
    for name in "bcd":
        assert everything(tmp_path / f"{name}.wb") == expected
        assert verify(tmp_path / f"{name}.wb") == []
    copy(path, tmp_path / "e.wb", features="float16")
    with Index.open(path) as index, Index.open(tmp_path / "e.wb") as wide:
        assert (wide.kept, verify(tmp_path / "e.wb")) == ("float16", [])
        assert wide.features().tobytes() == index.features().tobytes()


def test_a_copy_may_round_and_is_brought_up_to_date(tmp_path: Path) -> None:
    wide, narrow = tmp_path / "wide.wb", tmp_path / "narrow.wb"
    with Index.create(wide, Model.of_vectors(DIM)) as index:
        index.add(vectors=vectors(COUNT)[:40], keys=keys(COUNT)[:40], bits=12)
    assert copy(wide, narrow, features="int8").copied == 40
    with Index.open(wide) as index:
        index.add(vectors=vectors(COUNT), keys=keys(COUNT))
    report = copy(wide, narrow)
    assert (report.copied, report.present) == (20, 40)
    with Index.open(wide) as index, Index.open(narrow) as rounded:
        expected = kept.as_kept(index.features(), "int8")
        assert rounded.features().tobytes() == expected.tobytes()
    with pytest.raises(StoreError, match="is there already and keeps features as int8"):
        copy(wide, narrow, features="float16")


def test_a_repair_keeps_it(path: Path) -> None:
    before = everything(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = 'int4' WHERE name = 'features'")
        db.execute("UPDATE features SET data = zeroblob(26) WHERE id = 7")
    db.close()
    assert any("features" in problem for problem in verify(path))
    assert len(repair(path).dropped) == 1
    assert verify(path) == []
    with Index.open(path) as index:
        assert (index.kept, len(index)) == ("int8", COUNT - 1)
    assert before != everything(path)


@pytest.mark.parametrize(
    ("value", "crc", "match"),
    [("int8", 1, "features has a wrong checksum"), ("int4", None, "features as 'int4'")],
)
def test_what_is_kept_must_be_known(path: Path, value: str, crc: int | None, match: str) -> None:
    with sqlite3.connect(path) as db:
        right = meta_crc("features", value) if crc is None else crc
        db.execute("UPDATE meta SET value = ?, crc = ? WHERE name = 'features'", (value, right))
    db.close()
    with Index.open(path) as index, pytest.raises(StoreError, match=match):
        index.features([1])
    assert verify(path)


def test_a_server_keeps_float16(path: Path) -> None:
    for url in ("postgresql://nobody@127.0.0.1:1/a/b", "milvus://127.0.0.1:1/b"):
        with pytest.raises(StoreError, match="as float16 only: leave --features int8 out"):
            Index.create(url, features="int8")


def test_the_commands(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, image = tmp_path / "new.wb", tmp_path / "one.png"
    picture(1).save(image)
    run(capsys, "index", made, image, "--features", "int8")
    _, out, _ = run(capsys, "info", made, "--json")
    assert json.loads(out)["features"] == "int8"
    assert "numbers as int8;" in run(capsys, "info", path)[1]
    code, _, err = run(capsys, "index", made, image, "--features", "float16")
    assert (code, err.count("\n")) == (2, 1)
    assert f"wingbar copy {made} NEW.wb --features float16" in err
    assert run(capsys, "copy", path, tmp_path / "w.wb", "--features", "float16")[0] == 0
    assert run(capsys, "export-codes", path, "-o", tmp_path / "v.npz")[0] == 0
    imported = tmp_path / "v.wb"
    assert run(capsys, "import", tmp_path / "v.npz", "-o", imported, "--features", "int8")[0] == 0
    assert everything(imported)[0] == "int8"  # type: ignore[index]
