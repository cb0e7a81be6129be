from __future__ import annotations

import os
import re
import shutil
import types
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import HUES, picture, write_classes
from tests.model.test_model import trained_model
from wingbar import images
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images
from wingbar.errors import DataError, StoreError
from wingbar.index import refit, sync, unfinished
from wingbar.index.index import Index
from wingbar.model.model import NOT_FINITE, Model


def counts(report: sync.AddReport) -> tuple[int, ...]:
    return (
        report.added,
        report.updated,
        report.unchanged,
        report.moved,
        report.removed,
        len(report.failed),
    )


def content(index: Index) -> dict[str, tuple[object, ...]]:
    """Path -> label, code and feature of every item."""
    packed = index.codes()
    rows = zip(index.items(), packed.tolist(), index.features().tolist(), strict=True)
    return {item.path: (item.label, tuple(code), tuple(feature)) for item, code, feature in rows}


def test_a_second_run_does_nothing(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        first = index.add(photos, bits=16)
        assert counts(first) == (24, 0, 0, 0, 0, 0)
        assert first.fitted_on == 24
        before = content(index)
        assert counts(index.add(photos)) == (0, 0, 24, 0, 0, 0)
        assert content(index) == before


def test_what_changed_is_noticed(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        ids = dict(zip(index.paths(), index.ids().tolist(), strict=True))
        before = content(index)
        picture(500).save(photos / "red" / "000.jpg")  # another picture
        os.utime(photos / "red" / "001.jpg", (1, 1))  # only touched
        (photos / "red" / "002.jpg").unlink()  # gone
        (photos / "blue" / "000.jpg").rename(photos / "blue" / "moved.jpg")  # moved
        (photos / "blue" / "001.jpg").rename(
            photos / "green" / "crossed.jpg"
        )  # moved to another label
        shutil.copy(
            photos / "green" / "000.jpg", photos / "green" / "copy.jpg"
        )  # a copy is a new item
        picture(501).save(photos / "green" / "new.jpg")
        assert counts(index.add(photos)) == (2, 1, 20, 2, 1, 0)
        after = content(index)
        assert len(after) == 25

        def path(name: str) -> str:
            return str(photos / name)

        assert after[path("blue/moved.jpg")] == before[path("blue/000.jpg")]
        assert after[path("green/crossed.jpg")] == ("green", *before[path("blue/001.jpg")][1:])
        assert after[path("green/copy.jpg")] == after[path("green/000.jpg")]
        assert after[path("red/000.jpg")][2] != before[path("red/000.jpg")][2]
        now = dict(zip(index.paths(), index.ids().tolist(), strict=True))
        assert now[path("blue/moved.jpg")] == ids[path("blue/000.jpg")]  # the id stays
        assert index.verify() == []
        assert counts(index.add(photos)) == (0, 0, 25, 0, 0, 0)


def test_a_renamed_folder_is_all_moves(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        photos.rename(tmp_path / "pictures")
        assert counts(index.add(tmp_path / "pictures")) == (0, 0, 0, 24, 0, 0)
        assert all(path.startswith(str(tmp_path / "pictures")) for path in content(index))


@pytest.mark.slow
def test_two_copies_of_a_file_that_left(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "p" / f"{i}.jpg")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(tmp_path / "p", bits=8)
        data = (tmp_path / "p" / "0.jpg").read_bytes()
        (tmp_path / "p" / "0.jpg").unlink()
        for name in ("x.jpg", "y.jpg"):
            (tmp_path / "p" / name).write_bytes(data)
        assert counts(index.add(tmp_path / "p")) == (1, 0, 2, 1, 0, 0)


def test_a_list_of_paths_removes_nothing(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        (photos / "red" / "000.jpg").unlink()
        assert counts(index.add([photos / "red" / "001.jpg", photos / "red" / "000.jpg"])) == (
            0,
            0,
            1,
            0,
            0,
            1,
        )
        assert len(index) == 24


def test_an_empty_folder_does_not_empty_the_index(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        shutil.rmtree(photos)
        photos.mkdir()
        with pytest.raises(DataError, match="is a disk not mounted"):
            index.add(photos)
        assert len(index) == 24


def test_a_folder_that_cannot_be_listed_keeps_its_items(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        real_scan, real_stat = os.scandir, os.lstat

        def scandir(path: str) -> object:
            if str(path).endswith("red"):
                raise PermissionError(13, "Permission denied", str(path))
            return real_scan(path)

        def lstat(path: str) -> object:
            if "/red/" in str(path):
                raise FileNotFoundError(2, "No such file or directory", str(path))
            return real_stat(path)

        monkeypatch.setattr(os, "scandir", scandir)
        monkeypatch.setattr(os, "lstat", lstat)
        report = index.add(photos)
        assert report.removed == 0
        assert report.failed == (
            images.Failure(str(photos / "red"), "the folder cannot be listed (Permission denied)"),
        )
        assert len(index) == 24


def test_every_kind_of_bad_file_is_named_and_stops_nothing(photos: Path, tmp_path: Path) -> None:
    bad = photos / "red"
    (bad / "empty.jpg").touch()
    (bad / "words.png").write_text("not a picture")
    whole = (bad / "000.jpg").read_bytes()
    (bad / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (bad / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    (bad / "folder.jpg").mkdir()
    os.mkfifo(bad / "pipe.jpg")
    (bad / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    Path(os.fsdecode(os.fsencode(bad) + b"/latin\xe9.jpg")).write_bytes(whole)
    (bad / "notes.txt").write_text("bring milk")
    with Index.create(tmp_path / "a.wb") as index:
        report = index.add(photos, bits=16)
        assert counts(report) == (24, 0, 0, 0, 0, 7)
        reasons = {Path(failure.path).name: failure.reason for failure in report.failed}
        assert reasons["empty.jpg"] == "the file is empty"
        assert "not an image" in reasons["words.png"]
        assert "truncated" in reasons["cut.jpg"]
        if find_spec("pillow_heif") is None:
            assert "HEIC" in reasons["phone.heic"]
        assert reasons["pipe.jpg"] == "not a regular file"
        assert reasons["dangling.jpg"] == "No such file or directory"
        assert reasons["latin\\xe9.jpg"] == "the file name is not valid UTF-8: rename it"
        assert [Path(path).name for path in report.ignored] == ["notes.txt"]
        assert index.verify() == []
        assert len(index.add(photos).failed) == 7  # named again, every time


def test_a_file_that_broke_keeps_its_last_good_entry(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        before = content(index)
        (photos / "red" / "000.jpg").write_bytes(b"overwritten by accident")
        assert counts(index.add(photos)) == (0, 0, 23, 0, 0, 1)
        assert content(index) == before


def test_nothing_but_bad_files(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for i in range(3):
        (tmp_path / "p" / f"{i}.jpg").write_text("no")
    with Index.create(tmp_path / "a.wb") as index:
        assert counts(index.add(tmp_path / "p")) == (0, 0, 0, 0, 0, 3)
        assert not index.model.gives_codes
        picture(1).save(tmp_path / "p" / "good.jpg")
        assert counts(index.add(tmp_path / "p", bits=8)) == (1, 0, 0, 0, 0, 3)


def test_a_sample_of_bad_files_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "SAMPLE", 2)
    (tmp_path / "p").mkdir()
    for i in range(9):
        (tmp_path / "p" / f"{i}.jpg").write_text("no")
    picture(1).save(tmp_path / "p" / "z.jpg")
    with Index.create(tmp_path / "a.wb") as index:
        report = index.add(tmp_path / "p", bits=8)
        assert counts(report) == (1, 0, 0, 0, 0, 9)


def test_codes_are_learnt_once_and_advice_is_given(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        first = index.add([photos / "red" / "000.jpg", photos / "red" / "001.jpg"], bits=16)
        assert first.advice is None
        fingerprint = index.model.fingerprint
        report = index.add(photos)
        assert report.fitted_on == 0
        assert index.model.fingerprint == fingerprint
        assert report.advice is not None
        assert "learned from 2 images and the index now holds 24" in report.advice


@pytest.mark.slow
def test_a_refitted_index_is_a_fresh_one(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index, Index.create(tmp_path / "b.wb") as fresh:
        index.add(photos / "red", bits=16)
        index.add(photos / "green")
        index.add(photos)
        old = index.model.fingerprint
        report = index.refit(bits=24)
        fresh.add(photos, bits=24)
        assert {path: row[1:] for path, row in content(index).items()} == {
            p: row[1:] for p, row in content(fresh).items()
        }
        assert index.model.fingerprint == fresh.model.fingerprint == report.fingerprint
        assert (
            report.items,
            report.sample,
            report.bits_before,
            report.bits,
            report.codes_changed,
        ) == (24, 24, 16, 24, 24)
        assert report.fingerprint_before == old
        again = index.refit()
        assert (again.codes_changed, again.fingerprint) == (0, report.fingerprint)
        assert index.verify() == []


@pytest.mark.slow
def test_a_refit_that_cannot_read_everything_changes_nothing(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        before, fingerprint = content(index), index.model.fingerprint
        picture(9).save(photos / "red" / "000.jpg")
        with pytest.raises(
            StoreError, match=r"000\.jpg is not what was indexed \(the file has changed\)"
        ):
            index.refit()
        (photos / "red" / "000.jpg").unlink()
        with pytest.raises(StoreError, match="No such file"):
            index.refit()
        assert (content(index), index.model.fingerprint) == (before, fingerprint)


@pytest.mark.slow
def test_a_refit_takes_in_what_changes_meanwhile(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process adds, changes and removes images while a refit encodes, and even when it
    looks what is left; the index is then that of a refit afterwards."""
    path, run, calls = tmp_path / "a.wb", Model.run, 0

    def meanwhile(model: Model, pixels: Iterable[images.Pixels]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls <= 6:
            with monkeypatch.context() as patch:
                patch.setattr(Model, "run", run)
                picture(100 + calls).save(photos / "red" / f"new{calls}.jpg")
                (photos / "blue" / f"00{calls}.jpg").unlink()
                picture(200 + calls).save(photos / "green" / f"00{calls}.jpg")
                with Index.open(path) as other:
                    assert counts(other.add(photos)) == (1, 1, 22, 0, 1, 0)
        return run(model, pixels)

    with Index.create(path) as index:
        index.add(photos, bits=16)
        monkeypatch.setattr(Model, "run", meanwhile)
        monkeypatch.setattr(refit, "LAST_ROUND", 1)
        report = index.refit(bits=12)
        assert calls > 6
        assert (report.items, report.bits, index.verify()) == (24, 12, [])
        model = index.model
        again = model.encode([item.path for item in index.items()])
        np.testing.assert_array_equal(index.codes(), again.codes)
        np.testing.assert_allclose(index.features(), again.features, atol=1e-3)


def test_labels_and_columns_of_a_csv_follow_it(photos: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text(
        "path,label,price\nphotos/red/000.jpg,apple,3\nphotos/red/001.jpg,cherry,20\n"
    )
    with Index.create(tmp_path / "a.wb") as index:
        assert counts(index.add(listing, bits=8)) == (2, 0, 0, 0, 0, 0)
        assert [hit.label for hit in index.search(picture(1), where="price<10")] == ["apple"]
        listing.write_text(
            "path,label,price\nphotos/red/000.jpg,apple,30\nphotos/red/001.jpg,cherry,20\n"
        )
        assert counts(index.add(listing)) == (0, 1, 1, 0, 0, 0)
        assert index.search(picture(1), where="price<10") == []
        assert index.verify() == []


@pytest.mark.slow
def test_the_order_of_commits_does_not_matter(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "SAMPLE", 6)
    contents = []
    for commit in (1, 7, 1000):
        monkeypatch.setattr(sync, "COMMIT_IMAGES", commit)
        with Index.create(tmp_path / f"{commit}.wb") as index:
            assert index.add(photos, bits=16).fitted_on == 6
            contents.append(list(zip(index.paths(), index.features(), strict=True)))
    for other in contents[1:]:
        assert [path for path, _ in other] == [path for path, _ in contents[0]]
        np.testing.assert_array_equal([f for _, f in other], [f for _, f in contents[0]])


def test_ctrl_c_keeps_what_was_done(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(photos, 20, first_seed=50)
    with Index.create(tmp_path / "a.wb") as index:
        index.add([photos / "red" / "000.jpg"], bits=8)

        def interrupt(stage: str, done: int, total: int) -> None:
            if done == 40:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index.add(photos, progress=interrupt)
        stored = len(index)
        assert 1 < stored < 61
        report = index.add(photos)
        assert report.added == 60 - stored
        assert index.verify() == []


def test_progress_counts_to_the_end(photos: Path, tmp_path: Path) -> None:
    seen = []
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=8, progress=lambda *step: seen.append(step))
    learning = [("learning codes", 0, 24), ("learning codes", 24, 24)]
    assert seen == [("indexing", i + 1, 24) for i in range(24)] + learning


def test_two_pictures_of_one_palette_index_are_two(tmp_path: Path) -> None:
    pictures = []
    for colour in ((255, 0, 0), (0, 0, 255)):
        pictures.append(Image.new("P", (20, 20), 0))
        pictures[-1].putpalette([*colour] * 256)
    with Index.create(tmp_path / "a.wb") as index:
        assert index.add(pictures, bits=8).added == 2
        assert index.add(np.zeros((30, 40, 3), np.uint8)).added == 1  # one picture, not thirty
        assert len(index) == 3


def test_parts_and_slices_of_a_data_set(photos: Path, tmp_path: Path) -> None:
    everything = read_images(photos)
    with Index.create(tmp_path / "a.wb") as index:
        assert index.add(everything[:4], bits=8).added == 4
        assert index.add(list(everything)[4:6]).added == 2
        assert index.add([everything[:4], everything[6:10]]).added == 4


def test_a_path_listed_twice_with_two_labels_is_reported(photos: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text(
        "path,label\nphotos/red/000.jpg,a\nphotos/red/000.jpg,b\nphotos/red/000.jpg,a\n"
    )
    with Index.create(tmp_path / "a.wb") as index:
        report = index.add(listing, bits=8)
        assert (report.added, len(report.failed)) == (1, 1)
        assert "the first (a) was taken" in report.failed[0].reason


@pytest.mark.slow
def test_a_label_can_be_taken_away_by_a_list_of_labels(photos: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text("path,label\nphotos/red/000.jpg,a\n")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(listing, bits=8)
        index.add([photos / "red" / "000.jpg"])
        assert index.label_counts() == {"a": 1}  # a bare path says nothing about labels
        listing.write_text("path,label\nphotos/red/000.jpg,\n")
        assert index.add(listing).updated == 1
        assert index.label_counts() == {}


def test_a_move_between_folders_that_are_indexed_together(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        both = [read_images(photos / "red"), read_images(photos / "blue")]
        index.add(both, bits=8)
        (photos / "red" / "000.jpg").rename(photos / "blue" / "new.jpg")
        report = index.add([read_images(photos / "red"), read_images(photos / "blue")])
        assert (report.moved, report.removed, report.added) == (1, 0, 0)


def test_files_gone_from_a_part_are_removed(photos: Path, tmp_path: Path) -> None:
    (photos / "red").rename(tmp_path / "red")
    data = tmp_path / "data"
    (data / "val").mkdir(parents=True)
    photos.rename(data / "train")
    (tmp_path / "red").rename(data / "val" / "red")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(data, bits=8)
        (data / "train" / "blue" / "000.jpg").unlink()
        report = index.add(read_images(data, "train"))
        assert (report.unchanged, report.removed) == (15, 1)
        assert len(index) == 23


def test_a_file_that_another_process_found_again_is_not_removed(
    photos: Path, tmp_path: Path
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=8)
        (tmp_path / "out").mkdir()
        (photos / "red" / "000.jpg").rename(tmp_path / "out" / "000.jpg")
        picture(900).save(photos / "red" / "new.jpg")
        with Index.open(tmp_path / "a.wb") as other:
            index.add(
                photos, progress=lambda stage, done, total: (other.add(tmp_path / "out"), None)[1]
            )
        assert len(index) == 25
        assert str(tmp_path / "out" / "000.jpg") in content(index)


def test_moves_are_stored_as_they_go(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "COMMIT_IMAGES", 5)
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=8)
        photos.rename(tmp_path / "pictures")

        def killed(stage: str, done: int, total: int) -> None:
            if done == 20:
                raise SystemExit

        with pytest.raises(SystemExit):
            index.add(tmp_path / "pictures", progress=killed)
        assert sum(path.startswith(str(tmp_path / "pictures")) for path in content(index)) == 15


@pytest.mark.parametrize("names", [["a.jpg", "a.jpg"], ["a.jpg", "./a.jpg"]])
def test_a_path_named_twice_is_one_item(
    tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(1).save("a.jpg")
    with Index.create("i.wb") as index:
        assert index.add(names, bits=8).added == 1


def test_an_unmounted_disk_below_the_root_keeps_its_items(tmp_path: Path) -> None:
    library, nas = tmp_path / "library", tmp_path / "nas"
    for folder in (library / "local", library / "disk", nas / "deep"):
        folder.mkdir(parents=True)
    for i in range(3):
        picture(i).save(library / "local" / f"{i}.jpg")
        picture(10 + i).save(library / "disk" / f"{i}.jpg")
        picture(20 + i).save(nas / "deep" / f"{i}.jpg")
    (library / "nas").symlink_to(nas)
    with Index.create(tmp_path / "a.wb") as index:
        assert index.add(library, bits=8).added == 9
        before = content(index)
        (library / "disk").rename(tmp_path / "away")
        (library / "disk").mkdir()  # the mount point is an empty folder
        nas.rename(tmp_path / "away too")  # the link leads nowhere
        (library / "local" / "0.jpg").unlink()  # while a file that is deleted goes, as ever
        report = index.add(library)
        assert (report.removed, report.kept, report.unchanged) == (1, 6, 2)
        [note] = report.notes
        assert f"{library}/disk and 1 more cannot be reached or holds no images now, but 6" in note
        (library / "disk").rmdir()
        (tmp_path / "away").rename(library / "disk")
        (tmp_path / "away too").rename(nas)
        report = index.add(library)
        assert (report.unchanged, report.added, report.kept, report.notes) == (8, 0, 0, ())
        assert content(index) == {
            path: row for path, row in before.items() if not path.endswith("local/0.jpg")
        }


@pytest.mark.slow
def test_a_deleted_folder_is_given_up_and_an_emptied_one_is_not(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=8)
        for path in (photos / "red").iterdir():
            path.unlink()
        report = index.add(photos)
        assert (report.removed, report.kept) == (0, 8)
        (photos / "red").rmdir()
        report = index.add(photos)
        assert (report.removed, report.kept) == (8, 0)
        # where systems make the folder of a disk when it is plugged in, its absence says nothing
        monkeypatch.setattr(sync, "_MOUNT_POINT", re.compile(".*/photos/[^/]+"))
        shutil.rmtree(photos / "blue")
        report = index.add(photos)
        assert (report.removed, report.kept) == (0, 8)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/media/anna/STICK", True),
        ("/run/media/anna/STICK", True),
        ("/mnt/nas", True),
        ("/Volumes/Photos", True),
        ("/home/anna/photos/2019", False),
        ("/media/anna/STICK/2019", False),
    ],
)
def test_where_systems_mount_disks(path: str, is_one: bool) -> None:
    assert (sync._MOUNT_POINT.fullmatch(path) is not None) == is_one


@pytest.mark.slow
def test_everything_moved_out_of_a_folder_is_not_kept_back(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=8)
        for path in (photos / "red").iterdir():
            path.rename(photos / "blue" / f"red{path.name}")
        report = index.add(photos)
        assert (report.moved, report.removed, report.kept, report.notes) == (8, 0, 0, ())


def test_a_missing_file_of_another_part_is_removed(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part in ("train", "val"):
        write_classes(data / part, 2, first_seed=len(part))
    with Index.create(tmp_path / "a.wb") as index:
        index.add(data, bits=8)
        (data / "val" / "red" / "000.jpg").unlink()
        report = index.add(read_images(data, "train"))  # val still holds images, though not asked
        assert (report.removed, report.kept) == (1, 0)


@pytest.mark.slow
def test_an_error_of_the_disk_is_no_proof_that_a_file_is_gone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=8)
        (photos / "red").rename(tmp_path / "red")
        real = os.lstat

        def stale(path: str) -> os.stat_result:
            if str(path).startswith(str(photos / "red")):
                raise OSError(116, "Stale file handle", str(path))
            return real(path)

        monkeypatch.setattr(os, "lstat", stale)
        assert index.add(photos).removed == 0
        assert len(index) == 24


def test_outputs_go_on_where_another_run_has_removed_the_file(tmp_path: Path) -> None:
    model, raw = Model.load("general"), np.ones((1, 3), np.float32)
    unfinished.Outputs(tmp_path / "a.wb", model).append([b"a" * 32], raw)
    second = unfinished.Outputs(tmp_path / "a.wb", model)
    unfinished.remove_outputs(tmp_path / "a.wb")
    second.append([b"b" * 32], 2 * raw)
    assert second.of(b"a" * 32) is not None
    again = unfinished.Outputs(tmp_path / "a.wb", model)
    assert (len(again), again.of(b"b" * 32) is not None) == (1, True)


def test_outputs_that_a_kill_left_after_the_codes_were_stored_are_removed(
    photos: Path, tmp_path: Path
) -> None:
    left = [tmp_path / "a.wb-sample", tmp_path / "a.wb-also-sample"]
    with Index.create(tmp_path / "a.wb", also=Model.load("general")) as index:
        index.add(photos, bits=8)
        for path in left:
            path.write_bytes(b"wbraw001 and more")
        index.add(photos)
        assert not any(path.exists() for path in left)
        left[0].write_bytes(b"of somebody else")
        index.add(photos)
        assert left[0].exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_first_run_is_continued(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    write_classes(photos, 20)
    encoded: list[int] = []
    run = Model.run

    def noted(model: Model, pixels: list[images.Pixels]) -> object:
        encoded.append(len(pixels))
        return run(model, pixels)

    monkeypatch.setattr(Model, "run", noted)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 40:
            raise stop

    beside = tmp_path / "a.wb-sample"
    with Index.create(tmp_path / "a.wb") as index, pytest.raises(stop):
        index.add(photos, bits=8, progress=interrupt)
    assert sum(encoded) == 32  # two batches; the third was being gathered
    assert beside.exists()
    with beside.open("ab") as file:  # as a kill in the middle of a write leaves it
        file.write(b"half a record")
    encoded.clear()
    with Index.open(tmp_path / "a.wb") as index, Index.create(tmp_path / "b.wb") as other:
        assert len(index) == 0
        report = index.add(photos)
        assert (report.added, report.continued, report.fitted_on) == (60, 32, 60)
        assert sum(encoded) == 28
        assert not beside.exists()
        other.add(photos)
        assert content(index) == content(other)
        assert index.verify() == []


def test_what_an_interrupted_run_left_fits_its_network_and_pictures_only(tmp_path: Path) -> None:
    general, other = Model.load("general"), trained_model()
    outputs = unfinished.Outputs(tmp_path / "a.wb", general)
    raw = np.arange(6, dtype=np.float32).reshape(2, 3)
    outputs.append([b"a" * 32, b"b" * 32], raw)
    outputs.append([b"c" * 32], raw[:1])
    path = tmp_path / "a.wb-sample"
    assert len(unfinished.Outputs(tmp_path / "a.wb", other)) == 0
    again = unfinished.Outputs(tmp_path / "a.wb", general)
    assert len(again) == 3
    np.testing.assert_array_equal(again.of(b"b" * 32), raw[1])
    data = bytearray(path.read_bytes())
    data[-50] ^= 1  # in the second record, or its sum
    path.write_bytes(data[:-1])  # and the last one cut off
    again = unfinished.Outputs(tmp_path / "a.wb", general)
    assert [again.of(c * 32) is not None for c in (b"a", b"b", b"c")] == [True, False, False]
    again.append([b"d" * 32], raw[:1])
    again = unfinished.Outputs(tmp_path / "a.wb", general)
    np.testing.assert_array_equal(again.of(b"d" * 32), raw[0])
    path.write_bytes(b"short")
    assert len(unfinished.Outputs(tmp_path / "a.wb", general)) == 0


def test_uploads_inside_the_folder_keep_labels_and_columns(photos: Path) -> None:
    uploads = photos / "a.wb.uploads"
    uploads.mkdir()
    picture(1).save(uploads / "1.jpg")
    with Index.create(photos / "a.wb") as index:
        index.add([Images([Entry(uploads / "1.jpg", "mine", {"file": "me.jpg"})], "up")], bits=8)
        report = index.add(photos)
        assert (report.added, report.skipped) == (24, (str(uploads),))
        item = next(item for item in index.items() if item.path == str(uploads / "1.jpg"))
        assert (item.label, dict(item.columns)) == ("mine", {"file": "me.jpg"})
        assert set(index.label_counts()) == {"red", "green", "blue", "mine"}


@pytest.mark.slow
def test_a_picture_reached_by_several_links_is_one_item(tmp_path: Path) -> None:
    real, library = tmp_path / "real", tmp_path / "library"
    real.mkdir()
    library.mkdir()
    picture(1).save(real / "a.jpg")
    picture(2).save(library / "b.jpg")
    (library / "one").symlink_to(real)
    (library / "two").symlink_to(real)
    (library / "c.jpg").symlink_to(library / "b.jpg")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(library, bits=8)
        paths = {str(library / "b.jpg"), str(library / "one" / "a.jpg")}
        assert set(index.paths()) == paths
        ids = index.ids().tolist()
        # nor by another way in a later run, or in a list
        assert counts(index.add(real)) == (0, 0, 1, 0, 0, 0)
        assert counts(index.add([library / "two" / "a.jpg", library / "c.jpg"])) == (
            0,
            0,
            2,
            0,
            0,
            0,
        )
        assert (set(index.paths()), index.ids().tolist()) == (paths, ids)
        (library / "one").unlink()  # the picture is still there by the other link
        report = index.add(library)
        assert (len(index), report.removed + report.moved) == (2, 1)
    with Index.create(tmp_path / "b.wb") as index:
        assert index.add([library / "c.jpg"], bits=8).added == 1
        assert counts(index.add([library / "b.jpg"])) == (0, 0, 1, 0, 0, 0)
        assert index.paths() == [str(library / "c.jpg")]


@pytest.mark.parametrize("seconds", [-1, -5_000_000_000, 9_300_000_000, 15_032_300_000])
@pytest.mark.slow
def test_a_file_of_any_date(photos: Path, tmp_path: Path, seconds: int) -> None:
    """1969, 1811, 2264 and 2446; SQLite's integers hold nanoseconds up to 2262."""
    path = photos / "red" / "000.jpg"
    real = os.stat

    def dated(name: object, **options: bool) -> os.stat_result:
        status = real(name, **options)  # type: ignore[arg-type]
        if str(name) != str(path):
            return status
        values = {key: getattr(status, key) for key in dir(status) if key.startswith("st_")}
        return types.SimpleNamespace(**values | {"st_mtime_ns": seconds * 10**9})  # type: ignore[return-value]

    with Index.create(tmp_path / "a.wb") as index, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", dated)
        assert counts(index.add(photos, bits=8)) == (24, 0, 0, 0, 0, 0)
        assert counts(index.add(photos)) == (0, 0, 24, 0, 0, 0)
        assert index.verify() == []


def test_a_class_folder_by_itself_does_not_relabel(tmp_path: Path) -> None:
    root = tmp_path / "C"
    for name in ("cat/outdoors/1", "cat/2", "dog/3"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(int(name[-1])).save(root / f"{name}.jpg")
    (root / "cat" / "2.jpg").rename(root / "cat" / "outdoors" / "2.jpg")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(root, bits=8)
        assert index.label_counts() == {"cat": 2, "dog": 1}
        picture(9).save(root / "cat" / "outdoors" / "9.jpg")
        report = index.add(root / "cat")
        assert (report.added, report.updated, report.unchanged) == (1, 0, 2)
        assert index.label_counts() == {"cat": 3, "dog": 1}
    # a folder that is named like its only class has given that label itself
    same = tmp_path / "owl"
    (same / "owl").mkdir(parents=True)
    picture(20).save(same / "owl" / "1.jpg")
    with Index.create(tmp_path / "b.wb") as index:
        index.add(same, bits=8)
        (same / "hawk").mkdir()
        picture(21).save(same / "hawk" / "1.jpg")
        index.add(same)
        assert index.label_counts() == {"hawk": 1, "owl": 1}


def test_pictures_from_memory_have_keys_and_labels(tmp_path: Path) -> None:
    red, blue, green = (picture(i, hue=hue) for i, hue in enumerate(HUES.values()))
    with Index.create(tmp_path / "a.wb") as index:
        report = index.add([red, blue], keys=["sku-1", "sku-2"], labels=["a", None], bits=8)
        assert report.added == 2
        assert index.paths() == ["array:sku-1", "array:sku-2"]
        assert index.labels() == ["a", None]
        assert counts(index.add([red, blue], keys=["sku-1", "sku-2"])) == (0, 0, 2, 0, 0, 0)
        assert index.labels() == ["a", None]  # no labels were given, so none are taken away
        assert counts(index.add([red, green], keys=["sku-1", "sku-2"], labels=["b", "c"])) == (
            0,
            2,
            0,
            0,
            0,
            0,
        )
        assert index.search(green, k=1)[0].path == "array:sku-2"
        assert sorted(index.label_counts()) == ["b", "c"]
        assert index.delete(["array:sku-2"]) == 1
        assert index.verify() == []
        path = tmp_path / "a.jpg"
        red.save(path)
        index.add([path], labels=["mine"])
        assert index.label_counts() == {"b": 1, "mine": 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"keys": ["a"]}, "2 pictures and 1 keys: give one each"),
        ({"labels": ["a", "b", "c"]}, "2 pictures and 3 labels: give one each"),
        ({"keys": ["a", "a"]}, "the key 'a' is given twice"),
        ({"keys": ["a", ""]}, "a key is a text that is not empty, not ''"),
    ],
)
def test_keys_and_labels_that_do_not_fit(
    tmp_path: Path, options: dict[str, list[str]], reason: str
) -> None:
    pictures = [picture(1), picture(2)]
    with Index.create(tmp_path / "a.wb") as index:
        with pytest.raises(DataError, match=reason):
            index.add(pictures, **options)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="a file is known by its path"):
            index.add(["a.jpg", "b.jpg"], keys=["a", "b"])
        with pytest.raises(DataError, match="has labels of its own"):
            index.add([Entry(tmp_path / "a.jpg")], labels=["a"])


def test_an_image_for_which_the_network_gives_no_numbers_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, given = Model.run, 0

    def broken(model: Model, pixels: Iterable[images.Pixels]) -> NDArray[np.float32]:
        nonlocal given
        found = run(model, pixels)
        if given == 0:
            found[3, 0] = np.nan
        given += len(found)
        return found

    monkeypatch.setattr(Model, "run", broken)
    with Index.create(tmp_path / "a.wb") as index:
        report = index.add(photos, bits=8)
        assert (report.added, len(index)) == (23, 23)
        assert [failure.reason for failure in report.failed] == [NOT_FINITE]
        assert np.isfinite(index.features()).all()
        assert index.add(photos).added == 1
        assert index.verify() == []


# -- removed by hand, the whole truth, and files whose time lies


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder of four pictures."""
    (tmp_path / "few").mkdir()
    for i in range(4):
        picture(i).save(tmp_path / "few" / f"{i}.jpg")
    return tmp_path / "few"


def names(index: Index) -> list[str]:
    return sorted(Path(path).name for path in index.paths())


def test_what_was_removed_by_hand_stays_out_until_its_file_changes(
    few: Path, tmp_path: Path
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        index.delete([few / "0.jpg", few / "1.jpg"])
        report = index.add(few)
        assert (counts(report), report.left_out) == ((0, 0, 2, 0, 0, 0), 2)
        os.utime(few / "0.jpg", (5, 5))  # touched, not changed
        picture(100).save(few / "1.jpg")  # changed
        report = index.add(few)
        assert (counts(report), report.left_out) == ((1, 0, 2, 0, 0, 0), 1)
        assert names(index) == ["1.jpg", "2.jpg", "3.jpg"]
        assert index.add(few).left_out == 1  # and its new time is known now
        assert index.verify() == []


def test_what_stays_out_is_not_read(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or removing a hundred thousand pictures would make every run slow."""
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        index.delete(few / "0.jpg")
        with monkeypatch.context() as patch:
            patch.setattr(images, "read", lambda _: pytest.fail("it was read"))
            assert index.add(few).left_out == 1
        status = os.stat(few / "0.jpg")
        data = (few / "1.jpg").read_bytes().ljust(status.st_size, b"\0")
        (few / "0.jpg").write_bytes(data[: status.st_size])
        os.utime(few / "0.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert index.add(few).left_out == 1
        report = index.add(few, rehash=True)
        assert (report.left_out, report.added + len(report.failed)) == (0, 1)


def test_a_removed_file_that_moves_stays_out(few: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        shutil.copy(few / "0.jpg", few / "copy.jpg")
        index.add(few)
        index.delete([few / "copy.jpg"])
        (few / "copy.jpg").rename(few / "renamed.jpg")
        report = index.add(few)
        assert (report.added, report.left_out) == (0, 1)
        assert index.add(few, rehash=True).left_out == 1
        shutil.copy(few / "0.jpg", few / "another.jpg")  # the removed one is still there
        assert index.add(few).added == 1
        assert names(index) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "another.jpg"]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A folder with one picture in `dress` and in `hat`, and others beside it."""
    folder = tmp_path / "f"
    for i, path in enumerate(("dress/X.jpg", "dress/other.jpg", "hat/a.jpg")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / path)
    shutil.copy(folder / "dress" / "X.jpg", folder / "hat" / "copy.jpg")
    return folder


def rename_folders(folder: Path) -> Path:
    (folder / "dress").rename(folder / "gowns")
    (folder / "hat").rename(folder / "hats")
    return folder


def rename_all(folder: Path) -> Path:
    return folder.rename(folder.with_name("g"))


def below(index: Index, folder: Path) -> list[str]:
    return sorted(Path(path).relative_to(folder).as_posix() for path in index.paths())


@pytest.mark.parametrize("rename", [rename_folders, rename_all])
@pytest.mark.parametrize("rehash", [False, True])
def test_what_was_kept_of_two_copies_moves_and_the_other_stays_out(
    copies: Path, tmp_path: Path, rename: Callable[[Path], Path], rehash: bool
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(copies, bits=8)
        index.delete(copies / "hat" / "copy.jpg")
        ids = index.ids().tolist()
        folder = rename(copies)
        report = index.add(folder, rehash=rehash)
        assert (counts(report), report.left_out) == ((0, 0, 0, 3, 0, 0), 1)
        dress, hat = ("gowns", "hats") if rename is rename_folders else ("dress", "hat")
        kept = [f"{dress}/X.jpg", f"{dress}/other.jpg", f"{hat}/a.jpg"]
        assert (below(index, folder), index.ids().tolist()) == (kept, ids)
        for again in (False, True):  # both are known by their new paths
            report = index.add(folder, rehash=again, is_whole=True)
            assert (counts(report), report.left_out) == ((0, 0, 3, 0, 0, 0), 1)
        assert (below(index, folder), index.verify()) == (kept, [])


def test_copies_that_move_are_told_apart_by_name(copies: Path, tmp_path: Path) -> None:
    """Though the order of their paths says otherwise, and one has a new name."""
    for new in ("copy.jpg", "a_new_name.jpg"):
        shutil.copytree(copies, tmp_path / new / "f")
        folder = tmp_path / new / "f"
        with Index.create(tmp_path / new / "a.wb") as index:
            index.add(folder, bits=8)
            index.delete(folder / "dress" / "X.jpg")
            (folder / "dress" / "X.jpg").rename(folder / "hat" / "X.jpg")
            (folder / "hat" / "copy.jpg").rename(folder / "dress" / new)
            report = index.add(folder)
            assert (counts(report), report.left_out) == ((0, 0, 2, 1, 0, 0), 1)
            assert below(index, folder) == sorted([f"dress/{new}", "dress/other.jpg", "hat/a.jpg"])


def test_copies_that_move_and_change_names_keep_their_order(copies: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(copies, bits=8)
        index.delete(copies / "dress" / "X.jpg")
        (copies / "dress" / "X.jpg").rename(copies / "dress" / "y.jpg")
        (copies / "hat" / "copy.jpg").rename(copies / "hat" / "z.jpg")
        report = index.add(copies)
        assert (counts(report), report.left_out) == ((0, 0, 2, 1, 0, 0), 1)
        assert below(index, copies) == ["dress/other.jpg", "hat/a.jpg", "hat/z.jpg"]


@pytest.mark.parametrize("rename", [rename_folders, rename_all])
def test_two_of_three_copies_are_kept(
    copies: Path, tmp_path: Path, rename: Callable[[Path], Path]
) -> None:
    """And no more files stay out than were removed: a fourth is new."""
    shutil.copy(copies / "dress" / "X.jpg", copies / "hat" / "X.jpg")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(copies, bits=8)
        index.delete(copies / "hat" / "X.jpg")
        folder = rename(copies)
        dress, hat = ("gowns", "hats") if rename is rename_folders else ("dress", "hat")
        shutil.copy(folder / dress / "X.jpg", folder / hat / "new.jpg")
        report = index.add(folder)
        assert (counts(report), report.left_out) == ((1, 0, 0, 4, 0, 0), 1)
        here = [f"{dress}/X.jpg", f"{dress}/other.jpg", *(f"{hat}/{n}.jpg" for n in ("a", "copy"))]
        assert below(index, folder) == [*here, f"{hat}/new.jpg"]
        assert index.verify() == []
        assert index.add(folder).left_out == 1


def test_what_is_left_of_copies_that_are_gone_is_the_item(copies: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(copies, bits=8)
        index.delete(copies / "hat" / "copy.jpg")
        (copies / "hat" / "copy.jpg").unlink()
        (copies / "dress" / "X.jpg").rename(copies / "hat" / "Y.jpg")
        report = index.add(copies)
        assert (counts(report), report.left_out) == ((0, 0, 2, 1, 0, 0), 0)
        assert below(index, copies) == ["dress/other.jpg", "hat/Y.jpg", "hat/a.jpg"]


def test_only_the_removed_copy_moves(copies: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(copies, bits=8)
        index.delete(copies / "hat" / "copy.jpg")
        (copies / "hat").rename(copies / "hats")
        report = index.add(copies)
        assert (counts(report), report.left_out) == ((0, 0, 2, 1, 0, 0), 1)
        assert below(index, copies) == ["dress/X.jpg", "dress/other.jpg", "hats/a.jpg"]


@pytest.mark.parametrize("rename", [rename_folders, rename_all])
def test_a_removed_copy_that_moved_can_be_restored(
    copies: Path, tmp_path: Path, rename: Callable[[Path], Path]
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(copies, bits=8)
        index.delete(copies / "hat" / "copy.jpg")
        folder = rename(copies)
        report = index.add(folder, restore=True)
        assert (counts(report), report.left_out) == ((1, 0, 0, 3, 0, 0), 0)
        index.delete(next(path for path in index.paths() if path.endswith("copy.jpg")))
        assert index.add(folder).left_out == 1
        assert index.add(folder, restore=True).added == 1
        assert counts(index.add(folder)) == (0, 0, 4, 0, 0, 0)


def test_what_brings_a_removed_item_back(few: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        for source, more in (
            ([few / "0.jpg"], {}),
            (few / "0.jpg", {}),
            (few, {"restore": True}),
        ):
            index.delete(few / "0.jpg")
            assert index.add(few).added == 0
            assert index.add(source, **more).added == 1  # type: ignore[arg-type]
            assert index.add(few).unchanged == 4  # and it stays
        index.delete(index.ids())
        assert index.add(few).left_out == 4
        index.add([np.asarray(picture(7))], keys=["k"])
        index.delete(index.ids())
        assert index.add([np.asarray(picture(7))], keys=["k"]).added == 1  # it has no file


def test_a_list_that_is_the_whole_truth(few: Path, tmp_path: Path) -> None:
    listed = tmp_path / "shop.csv"
    listed.write_text("path,label\nfew/0.jpg,a\nfew/2.jpg,b\n")
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        index.add([np.asarray(picture(7))], keys=["k"])
        assert counts(index.add(listed)) == (0, 2, 0, 0, 0, 0)  # a list alone removes nothing
        report = index.add(listed, is_whole=True)
        assert counts(report) == (0, 0, 2, 0, 3, 0)
        assert names(index) == ["0.jpg", "2.jpg"]
        # what a list gave up may come back with a list
        listed.write_text("path,label\nfew/0.jpg,a\nfew/1.jpg,b\n")
        assert counts(index.add(listed, is_whole=True)) == (1, 0, 1, 0, 1, 0)
        listed.write_text("path,label\n")
        with pytest.raises(DataError, match="whole truth names no images: nothing was removed"):
            index.add(listed, is_whole=True)
        assert names(index) == ["0.jpg", "1.jpg"]


def test_folders_that_are_the_whole_truth(few: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "disk").mkdir(parents=True)
    picture(20).save(other / "x.jpg")
    picture(21).save(other / "disk" / "y.jpg")
    os.symlink(few, tmp_path / "link")
    with Index.create(tmp_path / "a.wb") as index:
        index.add([read_images(few), read_images(other)], bits=8)
        # the same folder by another name, and a disk that is not mounted
        (other / "disk" / "y.jpg").unlink()
        linked = [read_images(tmp_path / "link"), read_images(other)]
        report = index.add(linked, is_whole=True)
        assert (counts(report), report.kept) == ((0, 0, 5, 0, 0, 0), 1)
        report = index.add(few, is_whole=True)
        assert counts(report) == (0, 0, 4, 0, 2, 0)
        assert names(index) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_a_change_that_size_and_time_do_not_show(few: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        status = os.stat(few / "0.jpg")
        data = bytearray((few / "0.jpg").read_bytes())
        other = bytearray((few / "1.jpg").read_bytes())
        size = max(len(data), len(other))
        for name, content in (("0.jpg", data), ("1.jpg", other)):  # padded behind the picture
            (few / name).write_bytes(content.ljust(size, b"\0"))
        index.add(few)
        before = index.contents()
        status = os.stat(few / "0.jpg")
        (few / "0.jpg").write_bytes(other.ljust(size, b"\0"))
        os.utime(few / "0.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert counts(index.add(few)) == (0, 0, 4, 0, 0, 0)
        assert counts(index.add(few, rehash=True)) == (0, 1, 3, 0, 0, 0)
        assert sorted(index.contents()) != sorted(before)
        assert index.contents().count(index.contents()[0]) == 2 or len(set(index.contents())) == 3


def test_reading_everything_again_takes_new_labels(few: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        listed = tmp_path / "l.csv"
        listed.write_text("path,label\nfew/0.jpg,a\nfew/1.jpg,b\n")
        assert counts(index.add(listed, rehash=True)) == (0, 2, 0, 0, 0, 0)
        assert index.label_counts() == {"a": 1, "b": 1}


def test_the_clock_goes_back(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written after the clock was set back is older than what was indexed."""
    with Index.create(tmp_path / "a.wb") as index:
        index.add(few, bits=8)
        monkeypatch.setattr("time.time", lambda: 1e9)
        picture(100).save(few / "0.jpg")
        os.utime(few / "0.jpg", (1e9, 1e9))
        os.utime(few / "1.jpg", (2**33, 2**33))  # and one from the future
        report = index.add(few)
        assert counts(report) == (0, 1, 3, 0, 0, 0)
        assert report.seconds >= 0
        index.delete(few / "0.jpg")
        os.utime(few / "0.jpg", (1, 1))
        assert index.add(few).left_out == 1
        assert counts(index.add(few)) == (0, 0, 3, 0, 0, 0)
