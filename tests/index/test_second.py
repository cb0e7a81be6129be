"""Two encoders in one index: each item has the codes of both, as two separate indexes would."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import picture, write_classes
from tests.model.test_model import trained_model
from tests.small_network import small_general
from wingbar import images
from wingbar.errors import ModelError, QueryError, StoreError, WingbarError
from wingbar.images import Preprocessing
from wingbar.index import second
from wingbar.index.checks import verify
from wingbar.index.copy import backup, copy
from wingbar.index.index import Index, store_of
from wingbar.index.repair import repair
from wingbar.index.store import Store
from wingbar.index.transfer import export
from wingbar.model.model import Model

FIRST, SECOND = small_general("one", 1), small_general("two", 2, edge=40)
BITS = 16


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders that no test may change."""
    return write_classes(tmp_path_factory.mktemp("two") / "photos", 8)


@pytest.fixture(scope="module")
def made(photos: Path) -> Path:
    """An index by both that no test may change."""
    path = photos.parent / "both.wb"
    with Index.create(path, FIRST, also=SECOND) as index:
        index.add(photos, bits=BITS)
    return path


@pytest.fixture(scope="module")
def separate(photos: Path) -> tuple[Path, Path]:
    """An index of each."""
    paths = photos.parent / "one.wb", photos.parent / "two.wb"
    for path, model in zip(paths, (FIRST, SECOND), strict=True):
        with Index.create(path, model) as index:
            index.add(photos, bits=BITS)
    return paths


def second_of(index: Index) -> Store:
    """The store as the second encoder sees it."""
    also = store_of(index).also
    assert isinstance(also, Store)
    return also


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "a.wb"))


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    with Index.open(path) as opened:
        yield opened


@pytest.fixture
def late(separate: tuple[Path, Path], tmp_path: Path) -> Path:
    """The index of the first, to which the second was added, and has encoded nothing yet."""
    path = Path(shutil.copy(separate[0], tmp_path / "late.wb"))
    with Index.open(path) as index:
        index.add_encoder(SECOND)
    return path


def contents(index: Index) -> dict[str, tuple[bytes, bytes]]:
    """Code and feature of every item, by path."""
    codes, features = index.codes(), index.features()
    return {
        path: (codes[i].tobytes(), features[i].tobytes()) for i, path in enumerate(index.paths())
    }


def require_same(index: Index, separate: tuple[Path, Path]) -> None:
    for name, path in zip(("one", "two"), separate, strict=True):
        with Index.open(path) as alone:
            assert index.encoder(name).model.fingerprint == alone.model.fingerprint
            assert contents(index.encoder(name)) == contents(alone)
    assert index.verify() == []


def require_in_step(index: Index) -> None:
    """Both have encoded all items, as their models do today."""
    assert index.verify() == []
    for name in index.encoders:
        view = index.encoder(name)
        assert view.ids().tolist() == index.ids().tolist()
        files = [item.path for item in view.items() if item.size >= 0]
        made = view.model.encode(files)
        assert (view.codes(list(view.ids_of_paths(files).values())) == made.codes).all()


# -- adding


def test_both_encode_as_if_each_were_alone_and_each_picture_is_decoded_once(
    photos: Path, separate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    original = images._open

    def counted(source: images.Source, side: int | None) -> Any:
        opened.append(source)
        return original(source, side)

    monkeypatch.setattr(images, "_open", counted)
    with Index.create(tmp_path / "a.wb", FIRST, also=SECOND) as index:
        report = index.add(photos, bits=BITS)
        assert len(opened) == report.added == 24
        assert report.also is not None
        assert (report.also.name, report.also.encoded, report.also.waiting) == ("two", 0, 0)
        assert (report.fitted_on, report.also.fitted_on) == (24, 24)
        require_same(index, separate)
    assert sorted(os.listdir(tmp_path)) == ["a.wb"]


def test_a_search_names_its_encoder(index: Index, separate: tuple[Path, Path]) -> None:
    assert index.encoders == ("one", "two")
    query = picture(5, hue=(200, 40, 30))
    found = []
    for name, path in zip(index.encoders, separate, strict=True):
        with Index.open(path) as alone:
            expected = [(hit.path, hit.distance) for hit in alone.search(query, 9)]
        hits = index.search(query, 9, encoder=name)
        assert [(hit.path, hit.distance) for hit in hits] == expected
        assert list(index.search_many([query], 9, encoder=name)[0]) == list(hits)
        found.append(hits)
    assert list(index.search(query, 9)) == list(found[0]) != list(found[1])
    first = index.items()[0]
    assert index.search(first.path, 1, encoder="two")[0].distance == 0
    assert index.search(1, 1, encoder="two")[0].id == 1
    embedded = SECOND.fitted(np.eye(24, 160, dtype=np.float32), BITS, 0).encode([query])
    with pytest.raises(QueryError, match="two"):
        index.search(embedded, encoder="two")
    with pytest.raises(QueryError, match=r"a\.wb has no encoder 'three': it has one and two"):
        index.search(query, encoder="three")


def test_later_changes_keep_both_in_step(index: Index, photos: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(photos, tmp_path / "own"))
    index.delete(list(index.ids()))
    index.add(own)
    first, other = sorted((own / "red").iterdir())[:2]
    picture(77).save(first)  # changed
    other.rename(own / "green" / "moved.jpg")
    (own / "blue" / "000.jpg").unlink()
    picture(78).save(own / "blue" / "new.jpg")
    report = index.add(own)
    assert (report.added, report.updated, report.moved, report.removed) == (1, 1, 1, 1)
    require_in_step(index)
    assert index.delete(int(index.ids()[3])) == 1
    assert index.add(own, rehash=True).left_out == 1
    index.add([np.asarray(picture(9))], keys=["k"])
    index.add([np.asarray(picture(10))], keys=["k"])
    require_in_step(index)
    assert len(index.encoder("two")) == len(index) == 24


def test_a_trained_and_a_label_free_model_stand_side_by_side(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", trained_model(), also=SECOND) as index:
        report = index.add(photos, bits=BITS)
        assert report.fitted_on == 0
        assert report.also is not None
        assert report.also.fitted_on == 24
        assert [index.encoder(name).model.bits for name in index.encoders] == [20, BITS]
        require_in_step(index)
    with Index.create(tmp_path / "b.wb", SECOND, also=trained_model()) as index:
        index.add(photos, bits=BITS)
        require_in_step(index)


# -- an encoder that comes later


def test_it_waits_until_the_next_add_and_then_is_what_it_would_have_been(
    late: Path, photos: Path, separate: tuple[Path, Path]
) -> None:
    with Index.open(late) as index:
        view = index.encoder("two")
        assert (len(view), view.is_empty, len(index)) == (0, True, 24)
        assert index.info().also == view.info()
        assert index.verify() == []
        with pytest.raises(QueryError, match="holds no images yet"):
            index.search(1, encoder="two")
        report = index.add(photos, bits=BITS)
        assert report.unchanged == 24
        assert report.also is not None
        assert (report.also.encoded, report.also.waiting, report.also.fitted_on) == (24, 0, 24)
        require_same(index, separate)
        again = index.add(photos)
        assert again.also == second.AlsoReport("two")


def test_what_waits_is_not_there_for_the_second(late: Path, photos: Path) -> None:
    with Index.open(late) as index:
        index.add(photos, bits=BITS)
        with index._store.writing():
            assert index._store.also is not None
            second_of(index).drop_embeddings([2, 3])
        view, missing = index.encoder("two"), index.items([2, 3])
        assert index.verify() == []
        assert view.ids().tolist() == [i for i in range(1, 25) if i not in (2, 3)]
        assert len(view) == len(view.items()) == len(view.labels()) == len(view.codes()) == 22
        assert view.existing([1, 2, 3]) == [1]
        assert view.ids_of_paths([one.path for one in missing]) == {}
        assert view._store.ids_below(str(photos)) == view.ids().tolist()
        assert sum(view.label_counts().values()) == 22
        label = missing[0].label
        assert set(view.matching(f"label={label}")) == {*index.matching(f"label={label}")} - {2, 3}
        assert {hit.id for hit in view.search(1, 24, where=f"label={label}")}.isdisjoint({2, 3})
        assert [row.id for row in view._store.rows(0, 2, BITS, view.model.dim)] == [1, 4]
        info = index.info()
        assert info.also is not None
        assert (info.items, info.also.items) == (24, 22)
        index.add(photos)
        require_in_step(index)


def test_new_images_while_others_wait(late: Path, photos: Path, tmp_path: Path) -> None:
    write_classes(tmp_path / "more", 2, first_seed=50)
    with Index.open(late) as index:
        report = index.add(tmp_path / "more", bits=BITS)  # and not the folder of the others
        assert report.added == 6
        assert report.also is not None
        assert (report.also.encoded, report.also.fitted_on) == (30, 30)
        require_in_step(index)


def interrupted(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """A Ctrl-C at a later run of a network."""
    left = iter(range(calls))
    run = Model.run

    def limited(self: Model, pixels: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return run(self, pixels)

    monkeypatch.setattr(Model, "run", limited)


@pytest.mark.parametrize(("calls", "left"), [(1, 24), (3, 12)])
def test_it_continues_after_an_interruption(
    late: Path,
    photos: Path,
    separate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
    left: int,
) -> None:
    """In the sample, whose outputs are kept beside the index, and after it."""
    monkeypatch.setattr(second, "BATCH", 5)
    monkeypatch.setattr("wingbar.index.refit.SAMPLE", 7)
    with monkeypatch.context() as patched, Index.open(late) as index:
        interrupted(patched, calls)
        with pytest.raises(KeyboardInterrupt):
            index.add(photos, bits=BITS)
        assert index.verify() == []
        assert len(second_of(index).waiting()) == left
    beside = late.with_name("late.wb-also-sample")
    assert beside.exists() == (left == 24)
    ran: list[int] = []
    with Index.open(late) as index:
        run = Model.run

        def counted(self: Model, pixels: Any) -> Any:
            ran.append(len(pixels))
            return run(self, pixels)

        monkeypatch.setattr(Model, "run", counted)
        report = index.add(photos, bits=BITS)
        assert report.also is not None
        assert report.also.waiting == 0
        assert sum(ran) == (19 if left == 24 else left)
        assert not beside.exists()
        require_in_step(index)


def test_what_cannot_be_read_goes_on_waiting(late: Path, tmp_path: Path, photos: Path) -> None:
    own = write_classes(tmp_path / "own", 3)
    array = np.asarray(picture(4))
    path = tmp_path / "b.wb"
    with Index.create(path, FIRST) as index:
        index.add(own, bits=BITS)
        index.add([array], keys=["k"])
        gone, changed = own / "red" / "000.jpg", own / "red" / "001.jpg"
        gone.unlink()
        picture(8).save(changed)
        index.add_encoder(SECOND)
        report = index.add(own / "green", bits=8)
        assert report.also is not None
        assert (report.also.encoded, report.also.waiting) == (7, 3)
        reasons = {Path(one.path).name: one.reason for one in report.failed}
        assert reasons["001.jpg"].startswith("not encoded by two: its file has changed")
        assert "it has no file: add the same picture again" in reasons["array:k"]
        assert index.verify() == []
        index.add([array], keys=["k"])
        index.add(own)
        assert len(index) == len(index.encoder("two")) == 9
        require_in_step(index)


def test_what_another_process_has_fitted_meanwhile_is_used(
    late: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = SECOND.fitted(SECOND.run([images.load(picture(i), SECOND.preprocessing)
                                       for i in range(30)]), BITS, 3)  # fmt: skip
    with Index.open(late) as index:
        original = Model.fitted

        def slower(self: Model, *args: Any, **kwargs: Any) -> Model:
            mine = original(self, *args, **kwargs)
            with Index.open(late) as other, other._store.writing():
                assert other._store.also is not None
                other._store.also.set_model(fitted.files)
            return mine

        monkeypatch.setattr(Model, "fitted", slower)
        report = index.add(photos)
        assert report.also is not None
        assert (report.also.fitted_on, report.also.waiting) == (0, 0)
        assert index.encoder("two").model.fingerprint == fitted.fingerprint
        require_in_step(index)


# -- what is refused


def test_a_third_encoder_is_refused_and_the_same_again_is_nothing(index: Index) -> None:
    index.add_encoder(SECOND)
    index.add_encoder(index.encoder("two").model)
    with pytest.raises(StoreError, match=r"two encoders, one and two, .* --with one$"):
        index.add_encoder(small_general("three", 3))
    with pytest.raises(StoreError, match="for both of its encoders at once"):
        index.encoder("two").add([picture(1)])
    with pytest.raises(StoreError, match="a Ray cluster encodes for one"):
        index.add([picture(1)], ray="local")
    with pytest.raises(ModelError, match="one with codes of 16 bits and two with codes of 16 bit"):
        index.add([picture(1)], bits=8)


def test_an_encoder_that_comes_with_images_is_there_only_if_nothing_is_refused(
    separate: tuple[Path, Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(shutil.copy(separate[0], tmp_path / "a.wb"))
    short = small_general("short", 3, dim=48)
    (tmp_path / "empty").mkdir()
    before = path.read_bytes()
    refused: list[tuple[Any, Model, dict[str, Any], str]] = [
        (photos, short, {}, "from 1 to 48 for short, .* not 64, the default: give --bits N, or"),
        (photos, short, {"bits": 49}, "not 49: give --bits N, or leave short out"),
        (photos, SECOND, {"codes": "lsh", "purpose": "classes"}, "leave --codes or --for"),
        (photos, SECOND, {"ray": "local"}, "a Ray cluster encodes for one: leave --ray out"),
        (photos, Model.of_vectors(4), {}, "made elsewhere"),
        (tmp_path / "empty", SECOND, {}, "has no images"),
        ([], SECOND, {"is_whole": True}, "names no images"),
    ]
    with Index.open(path) as index:
        for source, also, options, why in refused:
            with pytest.raises(WingbarError, match=why):
                index.add(source, also=also, **options)
        picture(7).save(tmp_path / "new.png")
        with monkeypatch.context() as patch:
            patch.setattr("wingbar.model.proof.problem", lambda model: "it computes otherwise")
            with pytest.raises(ModelError, match="was not changed: it computes otherwise"):
                index.add([tmp_path / "new.png"], also=SECOND)
        assert index.encoders == ("one",)
    assert path.read_bytes() == before
    with Index.open(path) as index:
        report = index.add(photos, also=SECOND, bits=BITS)
        assert report.also is not None
        assert (report.also.encoded, report.also.waiting) == (24, 0)
        require_same(index, separate)
        assert index.add(photos, also=SECOND, bits=BITS).unchanged == 24


def test_a_second_that_is_trained_encodes_what_is_new_at_once(
    separate: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(separate[0], tmp_path / "a.wb"))
    picture(7).save(tmp_path / "new.png")
    with Index.open(path) as index:
        report = index.add([tmp_path / "new.png"], also=trained_model(), bits=BITS)
        assert report.also is not None
        assert (report.added, report.also.encoded) == (1, 24)
        require_in_step(index)


def test_where_no_second_can_be(tmp_path: Path) -> None:
    for url in ("postgresql://nowhere/db/name", "milvus://nowhere/name"):
        with pytest.raises(StoreError, match="only a file those of two: leave --also out"):
            Index.create(url, FIRST, also=SECOND)
    with pytest.raises(StoreError, match="vectors that were made elsewhere"):
        Index.create(tmp_path / "a.wb", Model.of_vectors(4), also=SECOND)
    assert not (tmp_path / "a.wb").exists()


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", FIRST, also=small_general("one", 9)) as index:
        index.add([np.asarray(picture(i)) for i in range(5)], bits=8)
        assert index.encoders == ("one", "one-2")
        assert index.encoder("one-2") is not index
        assert index.encoder("one") is index


# -- what else is done with an index


def test_refit_is_for_one_and_leaves_the_other(index: Index, tmp_path: Path) -> None:
    before = contents(index)
    changed = index.encoder("two").refit(bits=24, purpose="classes")
    assert changed.bits == 24
    assert contents(index) == before
    assert index.verify() == []
    view = index.encoder("two")
    assert view.model.averages
    picture(3).save(tmp_path / "new.jpg")
    index.add([tmp_path / "new.jpg"])
    assert not (view.features()[:, :160].astype(np.float32) == 0).all(1).any()  # has its average
    two = contents(view)
    index.refit(bits=8)
    assert (contents(index) != before, contents(index.encoder("two"))) == (True, two)
    assert index.verify() == []


def test_copies_have_both_or_the_one_that_is_named(index: Index, tmp_path: Path) -> None:
    report = copy(index.path, tmp_path / "b.wb")
    with Index.open(tmp_path / "b.wb") as there:
        for name in index.encoders:
            assert contents(there.encoder(name)) == contents(index.encoder(name))
        assert there.verify() == []
    index.delete([1])
    index.add([np.asarray(picture(2))])
    with index._store.writing():
        second_of(index).drop_embeddings([5])
    again = copy(index.path, tmp_path / "b.wb")
    assert (again.copied, again.removed, again.present) == (1, 1, 23)
    assert again.checksum != report.checksum
    with Index.open(tmp_path / "b.wb") as there:
        assert contents(there.encoder("two")) == contents(index.encoder("two"))
        assert len(there.encoder("two")) == 23
    for name in index.encoders:
        copy(index.path, tmp_path / f"{name}.wb", encoder=name)
        with Index.open(tmp_path / f"{name}.wb") as there:
            assert there.encoders == (name,)
            assert contents(there) == contents(index.encoder(name))
    with pytest.raises(StoreError, match="a copy with other encoders"):
        copy(index.path, tmp_path / "one.wb")
    with pytest.raises(StoreError, match="has two encoders, and postgresql://h/d/n can hold"):
        copy(index.path, "postgresql://h/d/n")
    backup(index.path, tmp_path / "c.wb")
    with Index.open(tmp_path / "c.wb") as there:
        assert contents(there.encoder("two")) == contents(index.encoder("two"))
    export(index.encoder("two"), tmp_path / "two.npz")
    assert len(np.load(tmp_path / "two.npz")["feature"]) == 23


def damage(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE also_features SET data = zeroblob(length(data)) WHERE id = 4",
        "UPDATE also_codes SET data = zeroblob(length(data))",
        "DELETE FROM also_features WHERE id = 4",
        "INSERT INTO also_features SELECT 99, data, crc FROM also_features WHERE id = 4",
        "UPDATE meta SET value = 'x' WHERE name = 'also:fingerprint'",
        "DELETE FROM meta WHERE name = 'also:fingerprint'",
        "UPDATE also_model SET data = zeroblob(9) WHERE name = 'rotation.npz'",
    ],
)
def test_damage_to_the_second_is_found_and_repaired(
    path: Path, separate: tuple[Path, Path], statement: str
) -> None:
    damage(path, statement)
    assert any(line.startswith(("second encoder: ", "meta also")) for line in verify(path))
    done = repair(path)
    assert done.items == 24
    assert verify(path) == []
    with Index.open(path) as index:
        if "also_model" in statement:
            assert index.encoders == ("one",)
            assert "the second encoder (" in done.dropped[0]
        else:
            assert done.dropped == ()
            require_same(index, separate)


def test_what_a_repair_cannot_make_again_waits(path: Path, photos: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(photos, tmp_path / "own"))
    with Index.open(path) as index:
        index.delete(list(index.ids()))
        index.add(own)
        some = index.items()[3]
    Path(some.path).unlink()
    damage(path, "UPDATE also_features SET crc = 0 WHERE id = (SELECT min(id) + 3 FROM items)")
    done = repair(path)
    assert len(done.dropped) == 1
    assert done.dropped[0].startswith("what the second encoder made of item")
    with Index.open(path) as index:
        assert (len(index), len(index.encoder("two"))) == (24, 23)
        assert index.verify() == []


def test_another_index_in_its_place_is_followed(
    path: Path, separate: tuple[Path, Path], photos: Path
) -> None:
    with Index.open(path) as index:
        view = index.encoder("two")
        view.search(1)
        shutil.copy(separate[0], path.with_name("new.wb"))
        path.with_name("new.wb").replace(path)
        assert index.encoders == ("one",)
        with pytest.raises(StoreError, match="no second encoder any more"):
            view.search(1)
        with pytest.raises(QueryError, match="no encoder 'two'"):
            index.search(1, encoder="two")


def test_a_change_by_another_process_is_seen_by_both(path: Path, tmp_path: Path) -> None:
    with Index.open(path) as index, Index.open(path) as other:
        query = str(tmp_path / "new.png")
        picture(123).save(query)
        assert index.search(query, 1, encoder="two")[0].path != query
        other.add([query])
        assert index.search(query, 1, encoder="two")[0].path == query
        other.encoder("two").refit(bits=8)
        assert query in [hit.path for hit in index.search(query, 9, encoder="two")]
        assert index.encoder("two").model.bits == 8


# -- one decoding for two


def test_pictures_for_two_models_are_those_for_each(tmp_path: Path) -> None:
    for size in [(300, 200), (640, 480), (90, 700), (40, 30)]:
        path = tmp_path / f"{size[0]}.jpg"
        picture(1, size).save(path)
        several = [
            Preprocessing(size=32),
            Preprocessing(size=32, edge=64),
            Preprocessing(size=48, whole=True),
        ]
        for source in (str(path), path.read_bytes(), picture(1, size)):
            for one, pixels in zip(several, images.load_each(source, several), strict=True):
                assert np.array_equal(pixels, images.load(source, one))
