from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.methods.by_hand import Given, check
from wingbar.errors import TrainingError
from wingbar.methods import crh, orthohash
from wingbar.networks import backbones

RNG = np.random.default_rng(0)


def made(classes: int = 4, **config: float) -> crh.Loss:
    torch.manual_seed(0)
    settings = crh.Config(**config)  # type: ignore[arg-type]
    return crh.Loss(backbones.create("resnet8"), settings, classes, 9)


def test_the_quantization_loss_and_its_gradient_by_hand() -> None:
    check(
        crh.quantization_loss,
        lambda z: float(np.mean([(abs(math.tanh(v)) - 1) ** 2 for v in z.ravel()])),
        RNG.standard_normal((3, 5)),
    )


@pytest.mark.parametrize(
    ("bits", "codes", "length"), [(48, 150, 8), (12, 150, 12), (32, 16, 4), (7, 20, 7), (7, 2, 1)]
)
def test_heads_are_as_short_as_their_codes_allow(bits: int, codes: int, length: int) -> None:
    assert crh.head_length(bits, codes) == length


def test_each_class_has_a_code_of_its_own_in_every_head() -> None:
    loss = made(classes=20, bits=12)  # 40 codes a head, of 6 bits
    assert loss.codebooks.shape == (2, 40, 6)
    for head in loss.codebooks.tolist():
        assert len({tuple(code) for code in head}) == 40
    centres = loss.centres()
    for c in range(20):
        parts = [loss.codebooks[h, loss.assigned[h, c]] for h in range(2)]
        assert torch.equal(centres[c], torch.cat(parts))
    assert made(classes=12, bits=4).codebooks.shape == (1, 16, 4)  # no 24 codes of 4 bits
    with pytest.raises(TrainingError, match="17 classes cannot have different codes of 4 bits"):
        made(classes=17, bits=4)


def test_the_cheapest_pair_is_assigned_first() -> None:
    costs = RNG.integers(0, 9, (4, 6)).astype(float)
    left = {(c, m) for c in range(4) for m in range(6)}
    expected = {}
    while left:
        c, m = min(left, key=lambda pair: (costs[pair], pair))
        expected[c] = m
        left = {pair for pair in left if pair[0] != c and pair[1] != m}
    assert crh.assignment(torch.tensor(costs)).tolist() == [expected[c] for c in range(4)]


def test_classes_get_the_codes_that_their_images_are_closest_to() -> None:
    loss = made(bits=12, quantization=0.3, every_epoch=1, interval=3)
    logits, labels = (
        torch.tensor(RNG.standard_normal((6, 12))).float(),
        torch.tensor([0, 0, 1, 1, 3, 3]),
    )
    found = loss(Given(logits), torch.empty(0), labels, torch.arange(6))
    first = loss.centres()
    assert found["classification"] == orthohash.cosine_loss(logits, labels, first, 8.0, 0.2)
    assert found["quantization"] == 0.3 * crh.quantization_loss(logits)
    signs = np.where(logits.numpy() >= 0, 1, -1)
    heads, size, length = loss.codebooks.shape
    expected = []
    for h in range(heads):
        costs = np.full((4, size), 2.0 * length)  # of a class without images
        for c in (0, 1, 3):
            own = signs[labels.numpy() == c][:, h * length : (h + 1) * length]
            for m in range(size):
                costs[c, m] = np.mean(((own - loss.codebooks[h, m].numpy()) ** 2).sum(1))
        expected.append(crh.assignment(torch.tensor(costs)).tolist())
    loss.end_epoch()
    assert loss.assigned.tolist() == expected
    assert not loss.sums.any()
    assert not loss.counts.any()
    assert not torch.equal(loss.centres(), first)
    for epoch in (2, 3):
        loss(Given(-logits), torch.empty(0), labels, torch.arange(6))
        loss.end_epoch()
        assert (loss.assigned.tolist() == expected) == (epoch == 2)


@pytest.mark.parametrize("wrong", [{"codebook": 0.5}, {"interval": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="at least 1"):
        crh.Config(**wrong)  # type: ignore[arg-type]
