from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wingbar.data import toy
from wingbar.data.readers import read_dataset


@pytest.mark.slow
def test_species_differ_in_under_2_percent_of_the_pixels() -> None:
    for seed in range(30):
        drawn = [toy.draw_bird(species, seed).astype(int) for species in range(8)]
        for i in range(8):
            for j in range(i):
                differ = (np.abs(drawn[i] - drawn[j]).max(2) > 8).mean()
                marks = sum(
                    a != b
                    for a, b in zip(
                        toy.SPECIES[i].split("-"), toy.SPECIES[j].split("-"), strict=True
                    )
                )
                assert 0 < differ < 0.02, (seed, toy.SPECIES[i], toy.SPECIES[j])
                assert differ < 0.011 * marks


def test_a_seed_gives_the_same_bird() -> None:
    np.testing.assert_array_equal(toy.draw_bird(3, 5), toy.draw_bird(3, 5))
    assert (np.abs(toy.draw_bird(3, 5).astype(int) - toy.draw_bird(3, 6)).max(2) > 8).mean() > 0.3
    assert toy.draw_bird(0, 1, 48).shape == (48, 48, 3)
    with pytest.raises(IndexError):
        toy.draw_bird(8, 0)


def test_birds_are_written_as_a_data_set(tmp_path: Path) -> None:
    data = read_dataset(toy.write_birds(tmp_path / "birds", train=3, test=2, size=32))
    assert (len(data.train), len(data.query), len(data.gallery)) == (24, 16, 24)
    assert {entry.label for entry in data.query} == set(toy.SPECIES)
    contents = {path.read_bytes() for path in (tmp_path / "birds").rglob("*.png")}
    assert len(contents) == 40
