from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wingbar.data import garden
from wingbar.data.readers import read_dataset


def test_a_seed_gives_the_same_bird_in_every_size() -> None:
    robin = garden.draw_garden_bird("robin", 3, 80)
    np.testing.assert_array_equal(robin, garden.draw_garden_bird("robin", 3, 80))
    assert robin.dtype == np.uint8
    assert max(robin.shape) == 80
    larger = garden.draw_garden_bird("robin", 3, 160)
    assert abs(larger.shape[0] / larger.shape[1] - robin.shape[0] / robin.shape[1]) < 0.02
    with pytest.raises(KeyError):
        garden.draw_garden_bird("dodo", 0)


def test_no_two_species_are_alike() -> None:
    assert len(set(garden.BIRDS.values())) == len(garden.BIRDS) == 12


def test_the_names_are_in_order() -> None:
    assert list(garden.BIRDS) == sorted(garden.BIRDS)


def test_birds_are_written_as_a_data_set_and_kept(tmp_path: Path) -> None:
    told = []
    root = garden.write_garden(
        tmp_path / "g", train=1, queries=1, progress=lambda *step: told.append(step)
    )
    data = read_dataset(root)
    assert (len(data.train), len(data.query), len(data.gallery)) == (12, 12, 12)
    assert {entry.label for entry in data.query} == set(garden.BIRDS)
    assert told[-1] == ("drawing birds", 24, 24)
    kept = root / "train" / "robin" / "robin-00.jpg"
    kept.write_bytes(b"mine")
    garden.write_garden(root, train=1, queries=1)
    assert kept.read_bytes() == b"mine"
    kept.unlink()
    garden.write_garden(root, train=1, queries=1)
    assert kept.stat().st_size > 1000
