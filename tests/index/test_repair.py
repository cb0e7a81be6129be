from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import picture
from tests.index.test_vectors import DIM, keys, vectors
from wingbar.errors import StoreError
from wingbar.files import partial_path
from wingbar.index import repair as repairs
from wingbar.index.checks import verify
from wingbar.index.index import Index
from wingbar.index.repair import ascending, repair
from wingbar.model import proof
from wingbar.model.model import Model

COUNT = 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small index of vectors, which no test may change."""
    path = tmp_path_factory.mktemp("whole") / "a.wb"
    with Index.create(path, Model.of_vectors(DIM)) as index:
        index.add(vectors=vectors(COUNT), keys=keys(COUNT), labels=["a", "b", None] * 100, bits=16)
        index.delete([5, 6])
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "a.wb"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An index of six pictures."""
    (tmp_path / "p").mkdir()
    for i in range(6):
        picture(i).save(tmp_path / "p" / f"{i}.png")
    with Index.create(tmp_path / "i.wb") as index:
        index.add(tmp_path / "p", bits=16)
    return tmp_path / "i.wb"


def damage(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def contents(path: Path) -> dict[int, tuple[object, ...]]:
    with Index.open(path) as index:
        rows = zip(
            index.ids().tolist(),
            index.items(),
            index.codes().tolist(),
            index.features().tolist(),
            strict=True,
        )
        return {id_: tuple(rest) for id_, *rest in rows}


def test_what_is_whole_stays_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    done = repair(path)
    assert (done.damaged, done.items, done.dropped) == (None, COUNT - 2, ())
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["a.wb"]


@pytest.mark.parametrize(
    ("statement", "lost", "said"),
    [
        ("UPDATE items SET label = 'dog' WHERE id = 9", {9}, "item 9 (array:k8): its row is dam"),
        ("UPDATE items SET size = 'x', crc = 0 WHERE id = 9", {9}, "item 9 (array:k8)"),
        ("UPDATE features SET data = zeroblob(12) WHERE id = 9", {9}, "item 9 (array:k8): its vec"),
        ("DELETE FROM features WHERE id > 298", {299, 300}, "item 299 (array:k298): its vector"),
        ("DELETE FROM items WHERE id = 9", {9}, ""),
        ("UPDATE removed SET size = 1 WHERE path = 'x'", set(), ""),
        ("UPDATE meta SET value = 'x' WHERE name = 'created'", set(), ""),
    ],
)
def test_rows_that_are_damaged_are_dropped_and_nothing_else(
    path: Path, whole: Path, statement: str, lost: set[int], said: str
) -> None:
    damage(path, statement)
    if not verify(path):
        return
    done = repair(path)
    assert verify(path) == []
    expected = {id_: row for id_, row in contents(whole).items() if id_ not in lost}
    assert contents(path) == expected
    assert done.items == len(expected)
    assert any(line.startswith(said) for line in done.dropped) or not said
    assert Path(str(done.damaged)).name == "a.wb.damaged"
    assert verify(str(done.damaged)) != []


def test_codes_are_made_again_from_vectors(path: Path, whole: Path) -> None:
    damage(path, "UPDATE codes SET data = zeroblob(length(data))")
    done = repair(path)
    assert (done.items, done.made_again, done.dropped) == (COUNT - 2, COUNT - 2, ())
    before, after = contents(whole), contents(path)
    assert before.keys() == after.keys()
    changed = sum(before[id_][1] != after[id_][1] for id_ in before)
    assert changed <= 3  # a logit of nearly 0 can change sign, as features are stored in 16 bits
    with Index.open(path) as index:
        assert index.search(vectors(COUNT)[20], 1)[0].path == "array:k20"


def test_codes_and_features_are_made_again_from_pictures(images: Path, tmp_path: Path) -> None:
    before = contents(images)
    damage(
        images,
        "UPDATE codes SET crc = crc + 1",
        "UPDATE features SET crc = 0 WHERE id IN (1, 2)",
    )
    (tmp_path / "p" / "1.png").unlink()  # of item 2
    picture(99).save(tmp_path / "p" / "2.png")  # of item 3, which has its feature
    done = repair(images)
    assert (done.items, done.made_again, done.unchecked) == (5, 4, 1)
    assert len(done.dropped) == 1
    assert done.dropped[0].startswith(f"item 2 ({tmp_path / 'p' / '1.png'}): its code or feature")
    after = contents(images)
    assert after.keys() == before.keys() - {2}
    for id_, (item, code, feature) in after.items():
        assert (item, code) == before[id_][:2]
        np.testing.assert_allclose(np.array(feature), np.array(before[id_][2]), atol=2e-3)


def test_a_damaged_network_is_that_of_the_built_in_model(images: Path) -> None:
    before = contents(images)
    damage(images, "UPDATE model SET data = zeroblob(9) WHERE name = 'model.onnx'")
    assert repair(images).dropped == ()
    assert contents(images) == before
    damage(images, "UPDATE model SET data = zeroblob(9) WHERE name = 'proof.npz'")
    assert repair(images).dropped == ()
    assert contents(images) == before


def test_nothing_is_made_again_on_a_machine_that_computes_otherwise(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "problem", lambda model: "this machine computes other features")
    damage(images, "UPDATE features SET crc = 0 WHERE id IN (1, 2)")
    done = repair(images)
    assert (done.items, done.made_again) == (4, 0)
    assert done.dropped[0].endswith("is damaged, and this machine computes other features")


def test_a_lost_model_is_said_in_one_line(path: Path) -> None:
    damage(path, "UPDATE model SET data = zeroblob(9) WHERE name = 'model.json'")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"since its model is lost .*make a new index") as caught:
        repair(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [
        one.name for one in path.parent.iterdir() if "wal" not in one.name and "shm" not in one.name
    ] == ["a.wb"]


def test_what_was_removed_by_hand_is_still_known(images: Path, tmp_path: Path) -> None:
    with Index.open(images) as index:
        index.delete([1])
    damage(images, "UPDATE items SET label = 'x' WHERE id = 2")
    repair(images)
    with Index.open(images) as index:
        report = index.add(tmp_path / "p")
        assert (report.added, report.left_out, len(index)) == (1, 1, 5)  # 2 is back


def test_damaged_files_of_earlier_repairs_are_kept(path: Path) -> None:
    for number in ("damaged", "damaged2"):
        damage(path, "UPDATE items SET label = 'x' WHERE id = (SELECT max(id) FROM items)")
        assert str(repair(path).damaged).endswith(number)
    assert len(contents(path)) == COUNT - 4


def flipped(rng: np.random.Generator, data: bytes) -> bytes:
    damaged = bytearray(data)
    for place in rng.integers(100, len(data), 3).tolist():
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def torn(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data) // 2, len(data)))]


def zeroed(rng: np.random.Generator, data: bytes) -> bytes:
    page = int(rng.integers(1, len(data) // 4096)) * 4096
    return data[:page] + bytes(4096) + data[page + 4096 :]


@pytest.mark.parametrize("harm", [flipped, torn, zeroed])
@pytest.mark.slow
def test_random_damage(
    path: Path, whole: Path, harm: Callable[[np.random.Generator, bytes], bytes]
) -> None:
    """Whatever is kept is what was stored, and where nothing can be kept one line says why."""
    data, before = whole.read_bytes(), contents(whole)
    rng = np.random.default_rng(0)
    kept = refused = 0
    for _ in range(12):
        for one in path.parent.iterdir():
            one.unlink()
        path.write_bytes(harm(rng, data))
        damaged = path.read_bytes()
        try:
            done = repair(path)
        except StoreError as error:
            refused += 1
            said = str(error)
            assert ("\n" in said, path.read_bytes() == damaged) == (False, True)
            continue
        assert verify(path) == []
        after = contents(path)
        assert done.items == len(after)
        for id_, (item, _, feature) in after.items():
            assert (item, feature) == (before[id_][0], before[id_][2])
        lost = len(before) - len(after)
        assert lost == 0 or done.dropped, "items went and nobody said so"
        kept += len(after)
    assert kept > len(before)
    assert refused < 12


def test_a_full_disk_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(path, "UPDATE items SET label = 'x' WHERE id = 9")
    before = path.read_bytes()
    code = (
        "import sys\nfrom wingbar.index.repair import repair, StoreError\n"
        "try: repair(sys.argv[1])\n"
        "except StoreError as error: print(error); sys.exit(2)"
    )

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, preexec_fn=restrict
    )
    assert (done.returncode, "free some space" in done.stdout) == (2, True), done
    assert path.read_bytes() == before
    assert not path.with_name("a.wb.damaged").exists()
    assert not partial_path(path).exists()


def test_a_kill_before_the_exchange_leaves_the_damaged_index(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(path, "UPDATE items SET label = 'x' WHERE id = 9")
    before = path.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repairs, "_exchange", killed)
        with pytest.raises(KeyboardInterrupt):
            repair(path)
    assert path.read_bytes() == before
    of_another = path.with_name("a.wb.repaired")  # whatever it is, it stays
    of_another.write_text("mine")
    shutil.copy(path, partial_path(path))  # as a kill leaves it
    assert repair(path).items == COUNT - 3
    assert of_another.read_text() == "mine"
    assert not partial_path(path).exists()


@pytest.mark.slow
def test_an_index_that_is_written_to(path: Path) -> None:
    damage(path, "UPDATE items SET label = 'x' WHERE id = 9")
    told = pytest.raises(StoreError, match="is being written by another process")
    with Index.open(path) as index, index._store.writing(), told:
        repair(path)


@given(st.lists(st.integers(1, 30), max_size=25))
def test_ids_that_ascend(ids: list[int]) -> None:
    kept = [ids[place] for place in ascending(ids)]
    assert kept == sorted(set(kept))
    assert all(ids.count(id_) == 1 for id_ in kept)
    once = [id_ for id_ in ids if ids.count(id_) == 1]
    longest = [1] * len(once)
    for i in range(len(once)):
        longest[i] = 1 + max((longest[j] for j in range(i) if once[j] < once[i]), default=0)
    assert len(kept) == max(longest, default=0)


def test_what_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "text.wb").write_text("words " * 1000)
    with pytest.raises(StoreError, match="cannot be repaired, since its first page is lost"):
        repair(tmp_path / "text.wb")
    with pytest.raises(StoreError, match="no index at"):
        repair(tmp_path / "none.wb")
