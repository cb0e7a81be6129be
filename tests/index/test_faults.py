"""What happens when the machine does not play along: kill -9, a full disk, two writers, flipped
bytes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import picture, write_classes
from wingbar.errors import StoreError
from wingbar.index.checks import verify
from wingbar.index.index import Index
from wingbar.index.store import Store
from wingbar.model.model import GENERAL

MODEL_BYTES = sum((GENERAL / name).stat().st_size for name in ("model.onnx", "proof.npz"))

# `wingbar` with small transactions, so that a short run has many of them
WINGBAR = (
    "import sys; from wingbar.cli import main; from wingbar.index import refit, sync; "
    "sync.COMMIT_IMAGES = 16; refit.SAMPLE = 32; "
    "sys.exit(main.main(sys.argv[1:]))"
)


def start(*arguments: object, limit: int | None = None) -> subprocess.Popen[str]:
    """wingbar in a process of its own, allowed to write files of at most `limit` bytes."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-c", WINGBAR, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restrict
    )


def paths_in(index_path: Path) -> list[str]:
    with Index.open(index_path) as index:
        assert index.verify() == []
        return [item.path for item in index.items()]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("many") / "photos", 100)


@pytest.mark.slow
@pytest.mark.usefixtures("built_in_network")
def test_killed_again_and_again_it_ends_complete(many: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    expected = sorted(str(p) for p in many.rglob("*.jpg"))
    rng = np.random.default_rng(0)
    stored: list[int] = []
    for _ in range(5):
        process = start("index", path, many, "--bits", 16)
        deadline = time.monotonic() + 60
        goal = (stored[-1] if stored else 0) + 1
        while (
            process.poll() is None and time.monotonic() < deadline
        ):  # until it has stored something new
            if path.exists() and (len(paths_in(path)) >= goal):
                break
            time.sleep(0.02)
        time.sleep(float(rng.random() * 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = paths_in(path)
        assert len(now) == len(set(now))
        stored.append(len(now))
    assert stored[0] < len(expected), "the first run finished before it was killed"
    finished = start("index", path, many, "--json")
    report = json.loads(finished.communicate()[0])
    assert finished.returncode == 0
    assert report["added"] + report["unchanged"] == len(expected)
    assert report["unchanged"] == stored[-1]
    assert sorted(paths_in(path)) == expected
    with Index.create(
        tmp_path / "b.wb"
    ) as whole:  # and the codes are those of a run that was not disturbed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("wingbar.index.refit.SAMPLE", 32)
            whole.add(many, bits=16)
        with Index.open(path) as index:
            assert index.model.fingerprint == whole.model.fingerprint
            rows = [
                dict(zip([it.path for it in i.items()], i.features().tolist(), strict=True))
                for i in (index, whole)
            ]
            assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_stored(many: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        index.add(many / "red", bits=16)
        before = len(index)
    process = start(
        "index", path, many, limit=150_000
    )  # the write-ahead log reaches that after a few transactions
    output, error = process.communicate(timeout=120)
    assert process.returncode == 2, output + error
    assert "free some space and run the same command again" in error
    assert error.count("\n") == 1
    stored = paths_in(path)
    assert before <= len(stored) < 300
    again = start("index", path, many)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert len(paths_in(path)) == 300


@pytest.mark.parametrize("limit", [1_000_000, MODEL_BYTES - 27_000])
def test_a_full_disk_leaves_no_half_made_index(many: Path, tmp_path: Path, limit: int) -> None:
    """Not even the model fits, or just not."""
    process = start("index", tmp_path / "a.wb", many, limit=limit)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert "free some space" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_full_right_after_the_making(many: Path, tmp_path: Path) -> None:
    """The model fits, the first images do not."""
    process = start("index", tmp_path / "a.wb", many, limit=MODEL_BYTES + 94_000)
    error = process.communicate(timeout=120)[1]
    assert (process.returncode, "free some space" in error) in ((0, False), (2, True)), error
    assert verify(tmp_path / "a.wb") == []


@pytest.mark.slow
def test_two_writers_at_once(many: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    Index.create(path).close()
    writers = [start("index", path, many, "--bits", 16) for _ in range(2)]
    for writer in writers:
        _, error = writer.communicate(timeout=240)
        assert writer.returncode == 0, error
    assert sorted(paths_in(path)) == sorted(str(p) for p in many.rglob("*.jpg"))
    with Index.open(path) as index:
        hits = index.search(many / "red" / "050.jpg", 3)
        assert hits[0].distance == 0
        one = index.model.encode(
            [hit.path for hit in hits]
        )  # every stored feature is of the model that is stored
        features = dict(zip([it.path for it in index.items()], index.features(), strict=True))
        for i, hit in enumerate(hits):
            np.testing.assert_allclose(features[hit.path], one.features[i], atol=2e-3)


@pytest.mark.slow
def test_searching_while_another_writes(many: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        index.add(many / "red", bits=16)
        writer = start("index", path, many)
        counts = []
        while writer.poll() is None:
            hits = index.search(many / "red" / "001.jpg", 1000, fine="none")
            assert len({hit.path for hit in hits}) == len(hits)
            counts.append(len(hits))
            time.sleep(0.02)  # or the writer waits for the processor
        writer.communicate()
        assert counts == sorted(counts)
        assert len(index.search(many / "red" / "001.jpg", 1000, fine="none")) == 300


def everything(path: Path) -> object:
    """All content of an index, as far as it can be read."""
    with Index.open(path) as index, closing(Store.open(path)) as store:
        ids, packed = store.codes(index.model.bits)
        return (
            store.model_files(),
            store.model_fingerprint(),
            list(store.all_items()),
            ids.tolist(),
            packed.tolist(),
            store.all_features(index.model.dim).tolist(),
        )


@pytest.mark.slow
def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    """Wherever a byte is flipped, verify says so, or nothing that can be read has changed (unused
    space)."""
    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        index.add([np.asarray(picture(i)) for i in range(40)], bits=16)
    whole = path.read_bytes()
    expected = everything(path)
    rng = np.random.default_rng(0)
    model_bytes = whole.find(
        b"\x08"
    )  # somewhere in the first pages; the loop below takes places from everywhere
    places = [model_bytes, *range(100), *rng.integers(0, len(whole), 150).tolist()]
    tail = len(whole) - 200_000  # items, features and codes lie behind the model
    places += rng.integers(tail, len(whole), 150).tolist()
    found = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        problems = verify(path)
        found += bool(problems)
        if not problems:
            assert everything(path) == expected, f"byte {place} was flipped and nobody noticed"
        for side in (Path(f"{path}-wal"), Path(f"{path}-shm")):
            side.unlink(missing_ok=True)
    assert found > 150


@pytest.mark.slow
def test_a_damaged_index_does_not_answer_with_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        index.add([np.asarray(picture(i)) for i in range(10)], bits=16)
    whole = path.read_bytes()
    query = tmp_path / "q.jpg"
    picture(3).save(query)
    for cut in (50, 5000, len(whole) // 2, len(whole) - 3000):
        path.write_bytes(whole[:cut])
        process = start("search", path, query)
        output, error = process.communicate(timeout=60)
        if process.returncode == 0:
            continue  # what was cut off was not needed
        assert process.returncode == 2, output + error
        assert error.startswith("wingbar: ")
        assert error.count("\n") == 1
        assert "bug" not in error
        checked = start("verify", path)
        checked.communicate(timeout=60)
        assert checked.returncode == 1


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StoreError, match="cannot be"):
        Index.create(blocked / "a.wb")
    assert os.listdir(tmp_path) == ["file"]
