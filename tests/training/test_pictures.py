from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.runs import SMALL
from wingbar.data.readers import read_images
from wingbar.parallel import no_progress
from wingbar.training import pictures
from wingbar.training.run import Run


def test_what_is_held_out_is_seeded_by_class_and_never_trained_on(data: Path) -> None:
    parts = pictures.split(read_images(data), replace(SMALL, held_out=0.25), no_progress)
    assert np.bincount(parts.held_labels).tolist() == [3, 3, 3]
    assert not set(parts.held_paths) & set(parts.paths)
    assert len(parts.paths) + len(parts.held_paths) == 36
    again = pictures.split(read_images(data), replace(SMALL, held_out=0.25), no_progress)
    assert again.held_paths == parts.held_paths
    none = pictures.split(read_images(data), replace(SMALL, held_out=0.0), no_progress)
    assert not none.held_paths


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
