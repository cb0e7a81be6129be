"""`Hit.p_chance` and the cut of a list of hits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands import run
from tests.index.test_vectors import keys, vectors
from tests.model.test_model import trained_model
from wingbar.errors import QueryError
from wingbar.index.index import Index
from wingbar.index.ranking import FINE, Ranked, SearchOptions, with_chances
from wingbar.index.shards import Shards
from wingbar.index.store import Store
from wingbar.model.model import Model
from wingbar.model.random_pairs import measure, sample_of

DIM = 24


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "a.wb", Model.of_vectors(DIM))
    made.add(vectors=vectors(300), keys=keys(300), bits=16)
    return made


def test_it_is_measured_on_what_the_index_stores(index: Index) -> None:
    rows = sample_of(300)
    expected = measure(index.codes()[rows], index.features()[rows], 16)
    found = index.random_pairs()
    assert found is not None
    assert expected is not None
    assert found.within == expected.within
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-3)  # float16
    with Index.open(index.path) as again:
        assert again.random_pairs() == found  # it is kept


def test_measuring_it_reads_a_sample_only(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first search of a large file must not wait for all of its items."""
    monkeypatch.setattr("wingbar.model.random_pairs.SAMPLE", 30)
    asked: list[int] = []
    plain = Store.features
    with Index.open(index.path) as again:
        monkeypatch.setattr(Model, "random_pairs", None)  # as of a model that does not know it
        monkeypatch.delattr(Store, "ids")
        monkeypatch.delattr(Store, "_item_rows")

        def counted(self: Store, ids: list[int], dim: int) -> object:
            asked.extend(ids)
            return plain(self, ids, dim)

        monkeypatch.setattr(Store, "features", counted)
        assert again.random_pairs() is not None
    assert len(asked) == 30


def test_every_hit_has_its_chance_and_the_list_ends_at_the_cut(index: Index) -> None:
    pairs = index.random_pairs()
    assert pairs is not None
    query = vectors(1, seed=8)[0]
    for fine in FINE:
        hits = index.search(query, 300, fine=fine, shortlist=300)
        chances = [hit.p_chance or 2 for hit in hits]
        assert chances == sorted(chances)
        by_distance = pairs.of_distances(np.array([hit.distance for hit in hits])).tolist()
        by_cosine = pairs.of_cosines(np.array([hit.score or 0 for hit in hits])).tolist()
        if fine in ("none", "ties"):
            assert chances == by_distance
        if fine == "pool":
            assert chances == pytest.approx(by_cosine, rel=1e-4)
        cut = index.search(query, 300, fine=fine, shortlist=300, cut=0.2)
        assert list(cut) == [hit for hit in hits if (hit.p_chance or 2) <= 0.2]
        assert 0 < len(cut) < 300
    assert (index.search(7, 1)[0].p_chance or 2) < 0.001
    assert index.search_many([7], 1, cut=1e-9) == [[]]


@pytest.mark.parametrize("cut", [0, -1, 1.5, float("nan")])
def test_a_cut_out_of_range(index: Index, cut: float) -> None:
    with pytest.raises(QueryError, match="cut must be above 0 and at most 1"):
        index.search(1, cut=cut)


def test_an_index_of_a_few_items_does_not_know(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", Model.of_vectors(DIM)) as few:
        few.add(vectors=vectors(5), keys=keys(5), bits=8)
        assert [hit.p_chance for hit in few.search(1, 5)] == [None] * 5
        with pytest.raises(QueryError, match="from 20 items on, and these are fewer: leave cut"):
            few.search(1, 5, cut=0.5)
    nothing = Ranked(np.array([1]), np.array([0]), None, 0, False)
    assert with_chances(nothing, None, "none", np.ones(8), None) is nothing


def test_of_a_trained_model_it_is_measured_when_it_is_wanted(
    tmp_path: Path, shared_photos: Path
) -> None:
    with Index.create(tmp_path / "t.wb", trained_model()) as trained:
        trained.add(sorted((shared_photos / "red").iterdir())[:10])
        assert trained.search(1, 1)[0].p_chance is None
        trained.add(shared_photos)
        expected = measure(trained.codes(), trained.features(), 20)
        assert trained.random_pairs() == expected
        assert trained.search(1, 1)[0].p_chance is not None
        assert trained.random_pairs() is trained.random_pairs()
    shards = Shards([tmp_path / "t.wb"])
    try:
        query = shards.embedding(1)
        [hits] = shards.find([query], SearchOptions(k=60, cut=0.1))
        with Index.open(tmp_path / "t.wb") as trained:
            assert list(hits) == list(trained.search(1, 60, cut=0.1))
    finally:
        shards.close()


def test_the_command_cuts(
    shared_index_path: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = shared_photos / "red" / "000.jpg"
    _, out, _ = run(capsys, "search", shared_index_path, image, "-k", 60)
    assert len(out.splitlines()) == 60
    assert '"p_chance": ' in out
    _, out, _ = run(capsys, "search", shared_index_path, image, "-k", 60, "--cut")
    assert 1 <= len(out.splitlines()) < 10
    code, _, err = run(capsys, "search", shared_index_path, image, "--cut", 7)
    assert (code, err.count("\n")) == (2, 1)
