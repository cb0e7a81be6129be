from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.index.test_vectors import DIM, keys, vectors
from wingbar.errors import DataError, ModelError, StoreError, WingbarError
from wingbar.index import sqlite_file, transfer
from wingbar.index.index import Index
from wingbar.index.transfer import export, import_file
from wingbar.model.model import Model


@pytest.fixture(params=[".npz", ".parquet"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Vectors with gaps in their ids, labels and keys of many kinds."""
    made = Index.create(tmp_path / "a.wb", Model.of_vectors(DIM))
    names = [*keys(40), 'ü "quoted"', "/no/such/file.jpg"]
    made.add(
        vectors=vectors(42), keys=names, labels=["a", None, "é", ""] * 10 + [None, "a"], bits=20
    )
    made.delete([1, 17])
    return made


def everything(path: Path) -> list[Any]:
    with Index.open(path) as index:
        return [
            index.model.fingerprint,
            index.ids().tolist(),
            index.items(),
            index.codes().tolist(),
            index.features().tolist(),
        ]


def test_what_goes_out_comes_back_the_same(index: Index, tmp_path: Path, kind: str) -> None:
    file = tmp_path / os.fsdecode(b"not UTF-8 \xe9" + kind.encode())
    done = export(index, file)
    assert (done.items, done.bits, done.dim) == (40, 20, DIM)
    again = import_file(file, tmp_path / "b.wb", model=tmp_path / "a.wb")
    assert (again.items, again.bits, again.kept_codes, again.notes) == (40, 20, True, ())
    assert everything(tmp_path / "b.wb") == everything(tmp_path / "a.wb")
    with Index.open(tmp_path / "b.wb") as other:
        assert other.verify() == []
        other.add(vectors=vectors(1, seed=8), keys=["new"])
        assert other.ids()[-1] == 43
        assert [h.id for h in other.search(vectors(42)[5], 9)] == [
            h.id for h in index.search(vectors(42)[5], 9)
        ]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_an_index_of_images_goes_out_and_back(
    shared_index_path: Path, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / f"out{kind}"
    with Index.open(shared_index_path) as images:
        export(images, file)
    import_file(file, tmp_path / "same.wb", model=shared_index_path)
    assert everything(tmp_path / "same.wb") == everything(shared_index_path)
    own = import_file(file, tmp_path / "own.wb", bits=12)
    assert (own.items, own.bits, own.kept_codes) == (60, 12, False)
    assert "--model keeps those of" in own.notes[0]
    with Index.open(tmp_path / "own.wb") as index, Index.open(shared_index_path) as images:
        assert index.items() == images.items()
        assert index.model.method == "vectors"
        assert index.search(3, 1)[0].id == 3
    with pytest.raises(ModelError, match="is of the model general"):
        import_file(file, tmp_path / "c.wb", model="general")
    with pytest.raises(DataError, match="leave out --model or --bits"):
        import_file(file, tmp_path / "c.wb", model=shared_index_path, bits=8)
    assert not (tmp_path / "c.wb").exists()


def write(path: Path, columns: dict[str, Any]) -> Path:
    """A file as another program writes it."""
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: np.asarray(values) for name, values in columns.items()}
        np.savez(path, **arrays)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(
            pa.table(
                {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in columns.items()}
            ),
            path,
        )
    return path


def test_embeddings_of_ones_own(tmp_path: Path, kind: str) -> None:
    own = {"embedding": vectors(30), "key": keys(30), "label": ["x", "y"] * 15}
    done = import_file(write(tmp_path / f"own{kind}", own), tmp_path / "a.wb", bits=8)
    assert (done.items, done.bits, done.notes) == (30, 8, [])
    with Index.open(tmp_path / "a.wb") as index:
        assert index.label_counts() == {"x": 15, "y": 15}
        assert index.search(vectors(30)[4], 1)[0].path == "array:k4"
        assert str(index.model).startswith("own (vectors, 8 bits")
    bare = write(tmp_path / f"bare{kind}", {"feature": vectors(5)})
    done = import_file(bare, tmp_path / "b.wb")
    assert "items are called row 0" in done.notes[0]
    assert done.bits == DIM  # no more bits than numbers


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"path": keys(3)}, "'feature': it holds path"),
        ({"feature": vectors(3), "path": ["a", "b", "a"]}, "the path 'a' is there twice"),
        ({"feature": vectors(3) * np.nan}, "feature of row 0 is not finite"),
        ({"feature": np.full((3, 4), 1e300)}, "feature of row 0 is not finite as float32"),
        ({"feature": vectors(3) * 0}, "nothing but zeros"),
        ({"feature": vectors(0)}, "holds no items|no vectors of one length"),
        ({"feature": ["a", "b"]}, "one vector of numbers an item|no vectors of one length"),
    ],
)
def test_files_that_do_not_hold_what_is_needed(
    tmp_path: Path, kind: str, columns: dict[str, Any], reason: str
) -> None:
    file = write(tmp_path / f"x{kind}", columns)
    with pytest.raises(DataError, match=reason) as caught:
        import_file(file, tmp_path / "a.wb")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.wb").exists()


def test_ids_are_taken_from_an_export_only(index: Index, tmp_path: Path, kind: str) -> None:
    own = {"feature": vectors(3), "path": keys(3), "id": [-7, -7, -7]}
    done = import_file(write(tmp_path / f"own{kind}", own), tmp_path / "own.wb")
    assert done.notes == ["the ids of the file were not taken: items are numbered in its order"]
    with Index.open(tmp_path / "own.wb") as made:
        assert made.ids().tolist() == [1, 2, 3]
    for ids in ([5] * 40, [-1 - i for i in range(40)]):
        file = tmp_path / f"out{kind}"
        export(index, file)
        if kind == ".npz":
            with np.load(file) as arrays:
                np.savez(file, **{**arrays, "id": np.array(ids)})
        else:
            from pyarrow import parquet

            table = parquet.read_table(file)
            parquet.write_table(table.set_column(0, "id", [ids]), file)
        with pytest.raises(DataError, match="ids are numbers from 1 up, each once"):
            import_file(file, tmp_path / "b.wb", model=tmp_path / "a.wb")


def test_lists_of_several_lengths(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    file = write(tmp_path / "x.parquet", {"feature": [[1.0, 2.0], [1.0]]})
    with pytest.raises(DataError, match="no vectors of one length"):
        import_file(file, tmp_path / "a.wb")


def test_other_files(index: Index, tmp_path: Path, kind: str) -> None:
    broken = tmp_path / f"x{kind}"
    broken.write_bytes(b"PK\x03\x04 nothing of the kind")
    with pytest.raises(DataError, match="cannot be read as"):
        import_file(broken, tmp_path / "b.wb")
    with pytest.raises(DataError, match="there is no file"):
        import_file(tmp_path / f"none{kind}", tmp_path / "b.wb")
    with pytest.raises(DataError, match=r"ends in \.parquet or \.npz"):
        import_file(tmp_path / "a.wb", tmp_path / "b.wb")
    with pytest.raises(DataError, match=r"ends in \.parquet or \.npz"):
        export(index, tmp_path / "out.csv")
    with pytest.raises(StoreError, match="exists already"):
        import_file(broken, tmp_path / "a.wb")
    with pytest.raises(WingbarError, match="there is no folder"):
        export(index, tmp_path / "no" / f"out{kind}")
    assert len(index) == 40


def test_every_byte_of_an_export_is_read_or_refused(index: Index, tmp_path: Path) -> None:
    """Damaged files end in one line, or give what they say they hold."""
    file = tmp_path / "out.npz"
    export(index, file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 40).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        target = tmp_path / "b.wb"
        with suppress(WingbarError):
            import_file(file, target, model=tmp_path / "a.wb")
        refused += not target.exists()
        target.unlink(missing_ok=True)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as"):
        import_file(file, tmp_path / "b.wb")
    assert refused > 20


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, feature=vectors(2), path=np.array(["a", "b"], object))
    with pytest.raises(DataError, match="texts as arrays of str and not of objects"):
        import_file(file, tmp_path / "a.wb")


def test_parquet_without_pyarrow(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'wingbar\[parquet\]'"):
        export(index, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*partial*"))


def test_a_full_disk_leaves_the_old_export(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.npz"
    export(index, file)
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
        export(index, file)
    assert file.read_bytes() == before
    assert not list(tmp_path.glob("*partial*"))


def test_the_note_says_whose_codes_they_are(index: Index, tmp_path: Path) -> None:
    export(index, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        note = json.loads(str(archive["wingbar"]))
        assert archive["code"].shape == (40, 3)
        assert archive["feature"].dtype == np.float16
    assert note == {
        "bits": 20,
        "dim": DIM,
        "model": "vectors",
        "method": "vectors",
        "fingerprint": index.model.fingerprint,
    }


KILLED = """
import os, signal, sys
from pathlib import Path
from wingbar.index import index, store, transfer

call, how, *arguments = sys.argv[1:]
owner, name = {"add": (store.Store, "add"), "savez": (transfer.np, "savez")}[call]
work = getattr(owner, name)

def killed(*given, **more):
    work(*given, **more)
    os.kill(os.getpid(), getattr(signal, how))

setattr(owner, name, killed)
if call == "savez":
    transfer.export(index.Index.open(arguments[0]), arguments[1])
else:
    transfer.import_file(arguments[0], arguments[1], model=(arguments[2:] or [None])[0])
"""


def kill_in(call: str, how: str, *arguments: object) -> None:
    """Run an import or an export in a process that ends itself by the signal `how` in the middle:
    once `call` is done."""
    command = [sys.executable, "-c", KILLED, call, how, *map(str, arguments)]
    code = subprocess.run(command, timeout=60, check=False).returncode
    assert code == -signal.Signals[how]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_killed_import_leaves_no_half_index(
    index: Index, tmp_path: Path, how: str, whole: bool
) -> None:
    file, folder = tmp_path / "out.npz", tmp_path / "made"
    folder.mkdir()
    export(index, file)
    model = [tmp_path / "a.wb"] if whole else []
    for _ in range(2):
        kill_in("add", how, file, folder / "b.wb", *model)
        names = [path.name for path in folder.iterdir()]
        assert "b.wb" not in names
        assert sum(name.endswith(".partial") for name in names) == 1  # not the one before
    import_file(file, folder / "b.wb", model=tmp_path / "a.wb")
    assert [path.name for path in folder.iterdir()] == ["b.wb"]
    assert everything(folder / "b.wb") == everything(tmp_path / "a.wb")


def test_what_a_killed_export_left_is_removed_by_the_next(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    kill_in("savez", "SIGKILL", tmp_path / "a.wb", folder / "b.npz")
    [left] = folder.iterdir()
    assert left.name.endswith(".partial")
    export(index, folder / "b.npz")
    assert [path.name for path in folder.iterdir()] == ["b.npz"]


@pytest.mark.parametrize("limit", [1_000, 500_000, 800_000])
def test_a_full_disk_leaves_nothing_of_an_import(tmp_path: Path, limit: int) -> None:
    """Neither the new file nor its logs, which SQLite would replay into another one of that name.
    Not even the empty index fits, the log of later items does not, or it cannot be merged."""
    file, folder = tmp_path / "x.npz", tmp_path / "made"
    folder.mkdir()
    np.savez(file, feature=np.random.default_rng(0).standard_normal((3000, 64), np.float32))
    code = (
        "import resource; from wingbar.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        f"files = [{str(file)!r}, '-o', {str(folder / 'b.wb')!r}]; "
        "raise SystemExit(main.main(['import', *files, '--bits', '8']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert f"{folder / 'b.wb'} cannot be written" in ended.stderr
    assert "free some space" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_an_import_replaces_nothing_that_came_meanwhile(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, target, put = tmp_path / "out.npz", tmp_path / "b.wb", sqlite_file.put_in_place
    export(index, file)

    def late(partial: Path, path: Path) -> None:
        path.write_text("mine")
        put(partial, path)

    monkeypatch.setattr(transfer, "put_in_place", late)
    with pytest.raises(StoreError, match=r"b\.wb exists already"):
        import_file(file, target)
    assert target.read_text() == "mine"
    assert not list(tmp_path.glob(".b.wb*"))


def test_an_index_whose_log_could_not_be_merged_is_not_put_in_place(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.npz"
    export(index, file)
    fill = transfer._fill

    def unmerged(target: Path, *given: Any) -> None:
        fill(target, *given)
        Path(f"{target}-wal").write_bytes(b"more")

    monkeypatch.setattr(transfer, "_fill", unmerged)
    with pytest.raises(StoreError, match=r"b\.wb cannot be written \(its log could not be merged"):
        import_file(file, tmp_path / "b.wb", model=tmp_path / "a.wb")
    assert not list(tmp_path.glob("*b.wb*"))
