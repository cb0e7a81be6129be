from __future__ import annotations

import pytest
import torch

from wingbar.networks.centres import hadamard, hash_centres, random_codes, spread_codes


def test_half_of_the_bits_of_hadamard_centres_differ() -> None:
    for bits in (1, 2, 16, 64):
        rows = hadamard(bits)
        assert torch.equal(rows @ rows.T, bits * torch.eye(bits))
    centres = hash_centres(32, 16, spread=False)
    assert len({tuple(row) for row in centres.tolist()}) == 32
    assert set((centres @ centres.T).flatten().tolist()) == {-16.0, 0.0, 16.0}


@pytest.mark.parametrize(("classes", "bits"), [(33, 16), (75, 12)])
def test_other_centres_are_drawn(classes: int, bits: int) -> None:
    torch.manual_seed(0)
    drawn = hash_centres(classes, bits, spread=False)
    torch.manual_seed(0)
    assert torch.equal(drawn, random_codes(classes, bits))
    torch.manual_seed(0)
    spread = hash_centres(classes, bits, spread=True)
    torch.manual_seed(0)
    assert torch.equal(spread, spread_codes(classes, bits))
    assert set(spread.flatten().tolist()) == {-1.0, 1.0}
    closest = [
        ((bits - codes @ codes.T) / 2 + bits * torch.eye(classes)).min().item()
        for codes in (drawn, spread)
    ]
    assert closest[0] < closest[1]


@pytest.mark.parametrize(
    ("classes", "bits", "apart"), [(75, 12, 3), (8, 4, 2), (20, 4, 0), (1, 1, 0)]
)
def test_spread_codes_are_far_apart(classes: int, bits: int, apart: int) -> None:
    torch.manual_seed(0)
    found = spread_codes(classes, bits)
    assert found.shape == (classes, bits)
    assert set(found.flatten().tolist()) <= {-1.0, 1.0}
    distance = (bits - found @ found.T) / 2 + bits * torch.eye(classes)
    assert distance.min() >= apart
    assert len({tuple(code) for code in found.tolist()}) == min(classes, 2**bits)
