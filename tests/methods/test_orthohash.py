from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.methods.by_hand import Array, Given, check
from wingbar.errors import TrainingError
from wingbar.methods import orthohash
from wingbar.networks import backbones

RNG = np.random.default_rng(0)
CENTRES = np.where(RNG.random((5, 6)) < 0.5, -1.0, 1.0)


def by_hand(logits: Array, of: list[list[int]]) -> float:
    """The mean over images, each an equal mean over its classes."""
    total = 0.0
    for z, own in zip(logits, of, strict=True):
        scores = []
        for c, code in enumerate(CENTRES):
            cosine = z @ code / (math.sqrt(z @ z) * math.sqrt(code @ code))
            scores.append(8 * (cosine - (0.2 if c in own else 0)))
        whole = math.log(sum(math.exp(score) for score in scores))
        total += sum(whole - scores[c] for c in own) / len(own)
    return total / len(logits)


def test_the_loss_and_its_gradient_by_hand() -> None:
    labels = torch.tensor([4, 0, 0])
    check(
        lambda z: orthohash.cosine_loss(z, labels, torch.tensor(CENTRES), 8, 0.2),
        lambda z: by_hand(z, [[4], [0], [0]]),
        RNG.standard_normal((3, 6)),
        tolerance=1e-6,
    )


def test_classes_share_the_target_of_an_image() -> None:
    labels = torch.tensor([[True, False, True, False, False], [False, False, True, True, True]])
    check(
        lambda z: orthohash.cosine_loss(z, labels, torch.tensor(CENTRES), 8, 0.2),
        lambda z: by_hand(z, [[0, 2], [2, 3, 4]]),
        RNG.standard_normal((2, 6)),
        tolerance=1e-6,
    )


def test_every_bit_is_on_in_half_of_a_batch() -> None:
    torch.manual_seed(0)
    config = orthohash.Config(bits=12)
    net = orthohash.Net(backbones.create("resnet8"), config, 5)
    found = net(torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)).code
    assert found is not None
    np.testing.assert_allclose(found.mean(0).detach().numpy(), 0, atol=1e-5)
    assert net.hash.bias is None
    assert net.hash.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_the_loss_uses_its_settings() -> None:
    torch.manual_seed(0)
    config = orthohash.Config(bits=12, scale=3.0, margin=0.4)
    loss = orthohash.Loss(backbones.create("resnet8"), config, 5, 9)
    logits, labels = torch.randn(4, 12), torch.tensor([0, 4, 4, 2])
    found = loss(Given(logits), torch.empty(0), labels, torch.arange(4))
    assert found["total"] == orthohash.cosine_loss(logits, labels, loss.centres, 3.0, 0.4)
    with pytest.raises(TrainingError, match="scale must be above 0"):
        orthohash.Config(scale=0.0)
