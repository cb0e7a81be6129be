"""Encoding on Ray: what a worker does, in this process; and a cluster of two nodes against one
process, with a worker and a driver that are killed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import picture, write_classes
from tests.databases import skip_or_fail
from tests.model.test_model import trained_model
from wingbar.cli import main
from wingbar.errors import DataError, StoreError
from wingbar.index import bulk, encoded, sync
from wingbar.index.bulk import Encoder
from wingbar.index.encoded import Encoded, schema
from wingbar.index.index import Index
from wingbar.index.place import open_store
from wingbar.model.model import Model
from wingbar.parallel import Progress, no_progress

BITS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures, two of the same content, and a broken one."""
    made = write_classes(tmp_path_factory.mktemp("bulk") / "photos", 20)
    (made / "blue" / "copy.jpg").write_bytes((made / "red" / "003.jpg").read_bytes())
    (made / "green" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (made / "green" / "empty.png").touch()
    return made


@contextmanager
def few_to_fit() -> Iterator[None]:
    """Codes are learned from 32 pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wingbar.index.refit.SAMPLE", 32)
        yield


@pytest.fixture(scope="module")
def expected(folder: Path) -> object:
    """What one process makes of them."""
    path = folder.parent / "one.wb"
    with few_to_fit(), Index.create(path) as index:
        report = index.add(folder, bits=BITS)
    assert (report.added, len(report.failed)) == (61, 2)
    return everything(path), sorted(report.failed, key=str)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wingbar.index.refit.SAMPLE", 32)
    monkeypatch.setattr(bulk, "PICTURES", 4)
    monkeypatch.setattr(encoded, "ROWS", 8)


def everything(path: Path) -> object:
    with Index.open(path) as index, closing(open_store(path)) as store:
        assert index.verify() == []
        return (
            store.model_files(),
            list(store.all_items()),
            index.ids().tolist(),
            index.codes().tobytes(),
            index.features().tobytes(),
        )


# -- without Ray


def encoder(model: Model, known: Sequence[bytes] = ()) -> Encoder:
    return Encoder(model.files, bulk._versions(), frozenset(known), 1)


def paths_table(*paths: object) -> pa.Table:
    return pa.table({"path": [str(path) for path in paths]})


def test_a_worker_gives_what_the_model_gives(folder: Path) -> None:
    model = trained_model()
    paths = sorted((folder / "red").iterdir())
    table = encoder(model)(paths_table(*paths))
    assert table["path"].to_pylist() == [str(path) for path in paths]
    raw = np.array([np.frombuffer(row, "<f4") for row in table["raw"].to_pylist()])
    embedded, wanted = model.embed(raw), model.encode(paths)
    assert embedded.codes.tobytes() == wanted.codes.tobytes()
    assert embedded.features.tobytes() == wanted.features.tobytes()
    assert table["content"].to_pylist() == [
        hashlib.sha256(path.read_bytes()).digest() for path in paths
    ]
    assert table["size"].to_pylist() == [path.stat().st_size for path in paths]
    assert table["mtime"].to_pylist() == [path.stat().st_mtime_ns for path in paths]
    for name in ("failure", "unread", "problem"):
        assert table[name].null_count == len(paths)


def test_what_a_worker_cannot_use(folder: Path) -> None:
    first = folder / "red" / "000.jpg"
    known = hashlib.sha256(first.read_bytes()).digest()
    paths = (folder / "green" / "broken.jpg", folder / "none.jpg", first)
    rows = encoder(trained_model(), [known])(paths_table(*paths)).to_pylist()
    assert [row["raw"] for row in rows] == [None] * 3
    assert "cannot" in rows[0]["failure"] or "image" in rows[0]["failure"]
    assert (rows[0]["unread"], rows[1]["failure"], rows[2]["failure"]) == (None, None, None)
    assert "No such file" in rows[1]["unread"]
    assert rows[2]["content"] == known


def test_a_worker_of_no_use_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    path = folder / "red" / "000.jpg"
    other = Encoder(trained_model().files, {**bulk._versions(), "numpy": "0.1"}, frozenset(), 1)
    with pytest.raises(StoreError, match=r"cannot encode: it has numpy .* 0\.1: install the same"):
        bulk._check(other(paths_table(path)))
    far = encoder(trained_model())(paths_table(tmp_path / "later.jpg"))
    bulk._check(far)  # nobody can read it: an ordinary failure
    (tmp_path / "later.jpg").write_bytes(path.read_bytes())
    with pytest.raises(StoreError, match="every node needs the pictures under the same paths"):
        bulk._check(far)


def in_this_process(
    address: str,
    model: Model,
    paths: Sequence[str],
    stored: Sequence[bytes],
    kept: Encoded,
    threads: int,
    progress: Progress,
) -> int:
    """`encode_on_ray` without Ray, last pictures first."""
    work = encoder(model, [*stored, *kept.contents()])
    made = 0
    for path in reversed(paths):
        table = work(paths_table(path))
        kept.add(table.filter(table["content"].is_valid()).select(schema().names))
        made += 1 - table["raw"].null_count
    kept.flush()
    return made


def test_the_index_is_that_of_one_process(
    folder: Path, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*arguments: object) -> int:
        made = in_this_process(*arguments)  # type: ignore[arg-type]
        monkeypatch.delattr(Model, "run")  # the network need not run any more
        return made

    monkeypatch.setattr(sync, "encode_on_ray", encode)
    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        report = index.add(folder, bits=BITS, ray="local")
    assert (everything(path), sorted(report.failed, key=str)) == expected
    assert (report.added, report.continued, report.fitted_on) == (61, 0, 32)


@pytest.fixture(scope="module")
def for_classes(folder: Path) -> object:
    """What one process makes of them for classes: averages of neighbours."""
    path = folder.parent / "classes.wb"
    with few_to_fit(), Index.create(path) as index:
        index.add(folder, bits=BITS, purpose="classes")
        assert index.model.averages
    return everything(path)


def test_an_index_for_classes_is_that_of_one_process(
    folder: Path, for_classes: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "encode_on_ray", in_this_process)
    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        index.add(folder, bits=BITS, purpose="classes", ray="local")
    assert everything(path) == for_classes


def test_touched_and_moved_files_are_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_classes(tmp_path / "photos", 4)
    with Index.create(tmp_path / "a.wb", trained_model()) as index:
        index.add(photos)
        os.utime(photos / "red" / "000.jpg")
        (photos / "red" / "001.jpg").rename(photos / "red" / "moved.jpg")
        picture(99).save(photos / "red" / "new.jpg")
        made: list[int] = []

        def counted(*arguments: object) -> int:
            made.append(in_this_process(*arguments))  # type: ignore[arg-type]
            return made[-1]

        monkeypatch.setattr(sync, "encode_on_ray", counted)
        report = index.add(photos, ray="local")
    assert made == [1]
    assert (report.added, report.moved, report.unchanged) == (1, 1, 11)


def test_without_ray_and_for_its_client(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "a.wb", trained_model()) as index:
        with pytest.raises(StoreError, match="run wingbar on a node of the cluster"):
            index.add(folder, ray="ray://far:10001")
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(StoreError, match=r"pip install 'wingbar\[ray\]'"):
            index.add(folder, ray="far:6379")
        assert len(index) == 0


def test_what_ray_is_not_for(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    with (
        Index.create(tmp_path / "v.wb", Model.of_vectors(3)) as index,
        pytest.raises(DataError, match="encoded already"),
    ):
        index.add(vectors=vectors, keys=["a", "b", "c"], ray="local")


# -- a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes of one core on 127.0.0.1."""
    if importlib.util.find_spec("ray") is None:
        skip_or_fail("Ray is not installed: pip install 'wingbar[ray]'", "WINGBAR_RAY")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # stay on 127.0.0.1
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # or other tests get all of the cores
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {
        "num_cpus": 1,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,  # of the autoscaler
        "object_store_memory": 100 * 2**20,
    }
    nodes: Any = Cluster(initialize_head=True, head_node_args=node)
    try:
        nodes.add_node(**node)
        yield nodes.address
    finally:
        nodes.shutdown()


def workers() -> list[int]:
    """The processes of encoders."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in path.read_bytes() and b"Encoder" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_that_is_killed(
    cluster: str, folder: Path, expected: object, tmp_path: Path
) -> None:
    """Two nodes against one process, and one of the two workers dies on the way."""
    killed: list[int] = []

    def kill_one(stage: str, done: int, total: int) -> None:
        if stage == bulk.STAGE and 0 < done < total and not killed:
            killed.extend(workers()[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    path = tmp_path / "a.wb"
    with Index.create(path) as index:
        report = index.add(folder, bits=BITS, ray=cluster, progress=kill_one)
    assert killed
    assert (everything(path), sorted(report.failed, key=str)) == expected
    assert report.added == 61
    assert not (tmp_path / "a.wb-ray").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_an_index_for_classes_on_two_nodes(cluster: str, folder: Path, tmp_path: Path) -> None:
    """The command line, which chooses codes by the labels first."""
    one, two = tmp_path / "one.wb", tmp_path / "two.wb"
    options = [folder, "--bits", BITS, "--for", "classes"]
    assert main.main(list(map(str, ["index", one, *options]))) == 0
    assert main.main(list(map(str, ["index", two, *options, "--ray", cluster]))) == 0
    with Index.open(two) as index:
        assert index.model.averages
        assert index.model.chosen["for"] == "classes"
    assert everything(two) == everything(one)


DRIVER = (
    "import sys; from wingbar.cli import main; from wingbar.index import bulk, encoded, refit; "
    "refit.SAMPLE, bulk.PICTURES, encoded.ROWS = 32, 4, 8; sys.exit(main.main(sys.argv[1:]))"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_driver_that_is_killed(
    cluster: str, folder: Path, expected: object, small_network: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.wb"
    command = [
        sys.executable,
        "-c",
        DRIVER,
        "index",
        path,
        folder,
        "--bits",
        BITS,
        "--model",
        small_network,
        "--ray",
        cluster,
    ]
    driver = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("a.wb-ray/*.parquet")):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.communicate()
    kept = sum(1 for _ in tmp_path.glob("a.wb-ray/*.parquet"))
    with Index.open(path) as index:
        assert len(index) == 0
        report = index.add(folder, bits=BITS, ray=cluster, progress=no_progress)
    assert 0 < report.continued < 62
    assert kept
    assert (everything(path), sorted(report.failed, key=str)) == expected
