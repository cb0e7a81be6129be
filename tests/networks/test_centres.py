from __future__ import annotations

import pytest
import torch

from wingbar.networks.centres import (
    hadamard,
    hadamard_codes,
    hash_centres,
    random_codes,
    spread_codes,
    telling_bits,
)


def test_half_of_the_bits_of_hadamard_centres_differ() -> None:
    for bits in (1, 2, 16, 64):
        rows = hadamard(bits)
        assert torch.equal(rows @ rows.T, bits * torch.eye(bits))
    centres = hash_centres(32, 16, spread=False)
    assert len({tuple(row) for row in centres.tolist()}) == 32
    assert set((centres @ centres.T).flatten().tolist()) == {-16.0, 0.0, 16.0}


@pytest.mark.parametrize(
    ("classes", "bits"), [(8, 16), (10, 16), (10, 32), (16, 16), (20, 64), (56, 64), (128, 64)]
)
def test_every_bit_of_hadamard_centres_tells_classes_apart(classes: int, bits: int) -> None:
    torch.manual_seed(0)
    centres = hash_centres(classes, bits, spread=True)
    columns = {tuple(bit) for bit in (centres * centres[:1]).T.tolist()}
    assert len(columns) == bits  # none is another one or its opposite
    assert (1.0,) * classes not in columns  # none is the same for all classes
    assert set((centres @ centres.T).flatten().tolist()) <= {-bits, 0.0, bits}
    assert (centres @ centres.T).fill_diagonal_(0).max() == 0
    assert len({tuple(row) for row in centres.tolist()}) == classes


def test_few_classes_have_as_many_telling_bits_as_they_can() -> None:
    torch.manual_seed(0)
    assert telling_bits(hadamard_codes(2, hadamard(16))) == 1
    assert telling_bits(hadamard_codes(4, hadamard(16))) == 7  # 2 ** 3 patterns, one constant
    assert telling_bits(hash_centres(8, 16, spread=False)) == 7  # as published


@pytest.mark.parametrize("bits", [1, 12, 16, 48])
@pytest.mark.parametrize(("classes", "share"), [(2, 1), (3, 2 / 3), (4, 2 / 3)])
def test_no_bit_of_few_classes_is_the_same_for_all(classes: int, bits: int, share: float) -> None:
    torch.manual_seed(0)
    centres = hash_centres(classes, bits, spread=True)
    assert centres.shape == (classes, bits)
    assert set(centres.flatten().tolist()) <= {-1.0, 1.0}
    assert (centres.sum(0).abs() < classes).all()
    apart = (bits - centres @ centres.T) / 2 + bits * torch.eye(classes)
    assert apart.min() >= int(share * bits)  # as far as codes can be (Plotkin's bound)
    assert telling_bits(centres) == min(bits, {2: 1, 3: 3, 4: 3}[classes])


@pytest.mark.parametrize("classes", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("bits", [12, 16, 32, 48, 64, 100, 128])
def test_no_bit_of_some_more_classes_is_either(classes: int, bits: int) -> None:
    torch.manual_seed(0)
    centres = hash_centres(classes, bits, spread=True)
    assert centres.shape == (classes, bits)
    assert (centres.sum(0).abs() < classes).all()
    apart = (bits - centres @ centres.T) / 2 + bits * torch.eye(classes)
    assert apart.min() >= (bits // 2 if bits & (bits - 1) == 0 else bits // 3)


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
