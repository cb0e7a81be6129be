from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import picture
from tests.runs import SMALL
from wingbar import images
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images
from wingbar.errors import DataError
from wingbar.parallel import no_progress
from wingbar.training import pictures
from wingbar.training.pictures import Pictures
from wingbar.training.run import Run
from wingbar.training.versions import version


def test_what_is_held_out_is_seeded_by_class_and_never_trained_on(data: Path) -> None:
    parts = pictures.split(read_images(data), replace(SMALL, held_out=0.25), no_progress)
    assert np.bincount(parts.held_labels).tolist() == [3, 3, 3]
    assert not set(parts.held_paths) & set(parts.paths)
    assert len(parts.paths) + len(parts.held_paths) == 36
    again = pictures.split(read_images(data), replace(SMALL, held_out=0.25), no_progress)
    assert again.held_paths == parts.held_paths
    none = pictures.split(read_images(data), replace(SMALL, held_out=0.0), no_progress)
    assert not none.held_paths


def test_images_of_several_classes_are_marked_in_each_of_them(data: Path) -> None:
    several = [
        replace(entry, label="a|b" if i % 3 == 0 else "bc"[i % 2])
        for i, entry in enumerate(read_images(data))
    ]
    found = Images(several, "several", multi_label=True)
    parts = pictures.split(found, replace(SMALL, held_out=0.25), no_progress)
    assert parts.classes == ["a", "b", "c"]
    assert (parts.labels.dtype, parts.labels.shape, parts.held_labels.shape) == (
        np.dtype(bool),
        (27, 3),
        (9, 3),
    )
    of = {str(entry.path): entry.label for entry in several}
    for paths, labels in ((parts.paths, parts.labels), (parts.held_paths, parts.held_labels)):
        for path, own in zip(paths, labels, strict=True):
            assert "|".join(c for c, is_own in zip("abc", own, strict=True) if is_own) == of[path]
    # 12 images of a and b, 12 of c and 12 of b: three of each are held out
    assert sorted(np.unique(parts.held_labels, axis=0, return_counts=True)[1]) == [3, 3, 3]
    label = Pictures(parts, SMALL)[0, 1][1]
    assert isinstance(label, torch.Tensor)
    assert label.tolist() == parts.labels[1].tolist()
    one = pictures.split(replace(found, multi_label=False), SMALL, no_progress)
    assert one.classes == ["a|b", "b", "c"]


def test_as_instances_each_image_is_a_class_and_some_are_held_out(data: Path) -> None:
    unlabelled = Images([Entry(entry.path) for entry in read_images(data)], "no labels")
    run = replace(SMALL, held_out=0.25, instances=True)
    parts = pictures.split(unlabelled, run, no_progress)
    assert (len(parts.paths), len(parts.held_paths)) == (27, 9)
    assert list(parts.labels) == list(range(27))
    assert list(parts.held_labels) == list(range(27, 36))
    assert list(parts.classes) == [Path(path).name for path in parts.paths]
    assert not set(parts.held_paths) & set(parts.paths)
    assert pictures.split(unlabelled, run, no_progress).held_paths == parts.held_paths


def test_as_instances_a_view_is_a_version_that_seed_epoch_and_row_determine(data: Path) -> None:
    run = replace(SMALL, instances=True)
    parts = pictures.split(read_images(data), run, no_progress)
    varied, plain = Pictures(parts, run), Pictures(parts, replace(run, instances=False))
    for row in range(8):
        view, label, _ = varied[(0, row)]
        assert label == row
        assert view.equal(Pictures(parts, run)[(0, row)][0])
        assert not view.equal(varied[(1, row)][0])
        rng = np.random.default_rng([run.seed, 0, row])
        altered = version(images.upright(parts.paths[row]), rng)
        expected = images.augment(altered, plain.preprocessing, plain.augmentation, rng)
        np.testing.assert_array_equal(view, expected)
    assert any(not varied[(0, row)][0].equal(plain[(0, row)][0]) for row in range(8))


def test_batches_cover_an_epoch_once_and_are_shared_out() -> None:
    run = Run(batch=6, seed=1)
    whole = pictures.batches(run, 20, 2, 0, 0, 1)
    rows = [row for batch in whole for _, row in batch]
    assert [len(batch) for batch in whole] == [6, 6, 6]
    assert len(set(rows)) == 18
    assert {epoch for batch in whole for epoch, _ in batch} == {2}
    shares = [pictures.batches(run, 20, 2, 0, rank, 2) for rank in (0, 1)]
    for i, batch in enumerate(whole):
        assert sorted(shares[0][i] + shares[1][i]) == sorted(batch)
    assert pictures.batches(run, 20, 2, 2, 0, 1) == whole[2:]
    assert pictures.batches(run, 20, 3, 0, 0, 1) != whole
    few = pictures.batches(run, 4, 0, 0, 0, 1)  # fewer images than a batch
    assert [len(batch) for batch in few] == [4]


def test_pictures_in_memory_are_read_once_and_varied_alike(data: Path) -> None:
    parts = pictures.split(read_images(data), SMALL, no_progress)
    held = pictures.decoded(parts.paths, 72, no_progress)  # pictures are 96 x 72
    assert {array.shape for array in held} == {(72, 96, 3)}
    assert {array.shape for array in pictures.decoded(parts.paths[:2], 36, no_progress)} == {
        (36, 48, 3)
    }
    from_files, from_memory = Pictures(parts, SMALL), Pictures(parts, SMALL, held)
    for row in (0, 7):
        given, expected = from_memory[1, row], from_files[1, row]
        assert given[1:] == expected[1:]
        difference = (given[0].int() - expected[0].int()).abs().float().mean()
        assert difference < 4  # JPEGs are decoded at a fraction where that is enough


def test_data_that_nothing_can_be_learned_from_are_told_apart(tmp_path: Path) -> None:
    for found, said in (
        (Images([], "a list"), r"no images to train on \(a list\)"),
        (Images([], "a folder", root=tmp_path), f"no images to train on in {tmp_path}"),
        (Images([Entry(tmp_path / "a.jpg")], "p"), "none of 1 image has one: sort them into"),
    ):
        with pytest.raises(DataError, match=said):
            pictures.split(found, SMALL, no_progress)
    gone = Images([Entry(tmp_path / f"{i}.jpg", str(i)) for i in range(3)], "moved since")
    with pytest.raises(DataError, match=r"none of 3 images is there, the first is .*0\.jpg: put"):
        pictures.split(gone, SMALL, no_progress)
    path = tmp_path / "red" / "a.jpg"
    path.parent.mkdir()
    picture(0).save(path)
    with pytest.raises(DataError, match=r"two classes, these have 1 \(red\)$"):
        pictures.split(read_images(tmp_path), SMALL, no_progress)
