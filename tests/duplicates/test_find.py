from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.duplicates.test_pixels import jpeg, scaled, scene
from wingbar.duplicates import find
from wingbar.duplicates.find import DuplicateOptions, Duplicates, find_duplicates
from wingbar.errors import QueryError
from wingbar.hamming.codes import hamming
from wingbar.index.index import Index
from wingbar.model.model import Model


def write_copies(folder: Path, pictures: int = 24) -> Path:
    """Different pictures, and copies of the first four of them."""
    folder.mkdir()
    for i in range(pictures):
        scene(i).save(folder / f"{i:02}.png")
    shutil.copy(folder / "00.png", folder / "00 again.png")
    scaled(scene(1), 0.5).save(folder / "01 small.png")
    jpeg(scene(1), 50).save(folder / "01 recompressed.jpg", quality=90)
    scene(2).crop((20, 20, 280, 200)).save(folder / "02 part.png")
    scaled(scene(3), 1.5).save(folder / "03 large.png")
    return folder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that no test may change."""
    folder = write_copies(tmp_path_factory.mktemp("copies") / "p")
    with Index.create(folder.parent / "a.wb") as index:
        index.add(folder, bits=64)
    return folder.parent / "a.wb"


@pytest.fixture(scope="module")
def found(path: Path) -> Duplicates:
    with Index.open(path) as index:
        return find_duplicates(index)


def names(found: Duplicates) -> list[list[tuple[str, str | None]]]:
    return sorted([(Path(copy.path).name, copy.how) for copy in group] for group in found.groups)


@pytest.mark.slow
def test_copies_of_every_kind_are_grouped_and_the_largest_is_kept(found: Duplicates) -> None:
    assert names(found) == [
        [("00 again.png", None), ("00.png", "same file")],
        [
            ("01.png", None),
            ("01 recompressed.jpg", "same picture"),
            ("01 small.png", "same picture"),
        ],
        [("02.png", None), ("02 part.png", "part")],
        [("03 large.png", None), ("03.png", "same picture")],
    ]
    assert [len(group) for group in found.groups] == [3, 2, 2, 2]
    assert found.items == 29
    assert [copy.how for copy in found.to_drop].count("part") == 1
    large, small = next(group for group in found.groups if "large" in group[0].path)
    assert (large.size, small.size) == ((450, 330), (300, 220))
    assert (large.distance, large.agreement) == (0, None)
    assert small.agreement is not None
    assert small.agreement > find.LEAST_AGREEMENT
    assert small.score > 0.5
    assert found.compared >= 4
    assert (found.unread, found.own_codes) == (0, False)


def test_the_same_copies_are_found_again(path: Path, found: Duplicates) -> None:
    with Index.open(path) as index:
        again = find_duplicates(index, threads=1)
    assert again.groups == found.groups


def test_exact_copies_only(path: Path) -> None:
    with Index.open(path) as index:
        exact = find_duplicates(index, DuplicateOptions(exact=True))
    assert names(exact) == [[("00 again.png", None), ("00.png", "same file")]]
    assert (exact.radius, exact.min_score, exact.compared) == (None, None, 0)


def test_limits_that_are_given(path: Path) -> None:
    with Index.open(path) as index:
        none = find_duplicates(index, DuplicateOptions(radius=0, min_score=1.0))
        found = [copy for group in none.groups for copy in group]
        assert {copy.distance for copy in found} == {0}
        assert len(found) < sum(map(len, find_duplicates(index).groups))
        assert (none.radius, none.min_score) == (0, 1.0)
        blind = find_duplicates(index, DuplicateOptions(radius=64, min_score=0.9, pixels=False))
        assert blind.compared == 0
        assert {copy.how for copy in blind.to_drop} <= {"same file", "by feature"}
        with pytest.raises(QueryError, match="radius must be from 0 to 64"):
            find_duplicates(index, DuplicateOptions(radius=65))
    with pytest.raises(QueryError, match="radius must be at least 0, not -1"):
        DuplicateOptions(radius=-1)
    with pytest.raises(QueryError, match="min-score must be from -1 to 1"):
        DuplicateOptions(min_score=1.5)


@pytest.mark.slow
def test_files_that_are_gone_are_compared_by_feature(path: Path, tmp_path: Path) -> None:
    """Nothing is called a copy on weak evidence because its picture cannot be read."""
    folder = write_copies(tmp_path / "p")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(folder, bits=64)
        index.add([np.asarray(scene(i)) for i in (0, 7)], keys=["a", "b"])
        shutil.rmtree(folder)
        found = find_duplicates(index)
        assert found.compared == 0
        assert found.unread > 0
        groups = {frozenset(Path(copy.path).name for copy in group) for group in found.groups}
        assert any({"00 again.png", "00.png", "array:a"} <= group for group in groups)
        for group in groups:  # and never pictures of different scenes
            assert len({name[:2] for name in group if not name.startswith("array")}) <= 1
        assert all(copy.size is None for group in found.groups for copy in group)


@pytest.mark.parametrize("most", [0, find.LARGEST_FLOAT32])
def test_pairs_by_feature_are_those_of_all_pairs(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "LARGEST_FLOAT32", most)
    monkeypatch.setattr(find, "BLOCK", 37)
    monkeypatch.setattr(find, "AT_ONCE", 100)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 16)).astype(np.float32)
    vectors[200:260] = vectors[:60] + 0.1 * rng.standard_normal((60, 16))
    with Index.create(tmp_path / "a.wb", Model.of_vectors(16)) as index:
        index.add(vectors=vectors, keys=[str(i) for i in range(300)], bits=16)
        index.delete(range(50, 70))  # so that ids are no rows
        found = find_duplicates(index, DuplicateOptions(radius=4, min_score=0.9, pixels=False))
        ids, features = index.ids(), index.features().astype(np.float32)
        packed = index.codes(ids)
    near = np.stack([hamming(code, packed) for code in packed]) <= 4
    linked = near & (features @ features.T >= 0.9)
    groups = set()
    for row in range(len(ids)):
        group, size = linked[row], 0
        while group.sum() > size:
            size, group = group.sum(), linked[group].any(0)
        if size > 1:
            groups.add(frozenset(ids[group].tolist()))
    assert len(groups) > 30
    assert {frozenset(copy.id for copy in group) for group in found.groups} == groups


def test_an_empty_index(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index, pytest.raises(QueryError, match="no images yet"):
        find_duplicates(index)


@pytest.mark.slow
def test_codes_that_only_tell_classes_apart(
    path: Path, found: Duplicates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where most items share a code, codes of the features find the candidates."""
    monkeypatch.setattr(find, "COARSE", -1)
    with Index.open(path) as index:
        finer = find_duplicates(index)
        assert finer.own_codes
        assert [group for group in names(found) if "part" not in str(group)] == [
            group for group in names(finer) if "part" not in str(group)
        ]
        assert not find_duplicates(index, DuplicateOptions(radius=20)).own_codes


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=30))
@settings(deadline=None)
def test_groups_are_the_connected_parts(links: list[tuple[int, int]]) -> None:
    groups = find._Groups(16)
    expected = [{i} for i in range(16)]
    for one, other in links:
        groups.join(one, other)
        a, b = (next(s for s in expected if i in s) for i in (one, other))
        if a is not b:
            expected.remove(b)
            a |= b
    assert sorted(map(sorted, groups.several())) == sorted(
        sorted(part) for part in expected if len(part) > 1
    )
    assert all(groups.are_joined(one, other) for one, other in links)
