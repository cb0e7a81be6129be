from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.methods.by_hand import Array, Given, check
from wingbar.errors import TrainingError
from wingbar.methods import csq
from wingbar.networks import backbones

RNG = np.random.default_rng(0)


def test_the_central_loss_and_its_gradient_by_hand() -> None:
    centres = np.where(RNG.random((4, 6)) < 0.5, -1.0, 1.0)

    def by_hand(logits: Array) -> float:
        total = 0.0
        for u, c in zip(logits.ravel(), centres.ravel(), strict=True):
            h, bit = (math.tanh(u) + 1) / 2, (c + 1) / 2
            total -= bit * math.log(h) + (1 - bit) * math.log(1 - h)
        return total / logits.size

    check(
        lambda u: csq.central_loss(u, torch.tensor(centres)), by_hand, RNG.standard_normal((4, 6))
    )
    far = torch.full((1, 2), 100.0, requires_grad=True)  # log 0 of the formula as it stands
    [slope] = torch.autograd.grad(csq.central_loss(far, -torch.ones(1, 2)), far)
    assert slope.isfinite().all()
    assert (slope > 0.5).all()


def test_the_quantization_loss_and_its_gradient_by_hand() -> None:
    def by_hand(logits: Array) -> float:
        return float(np.mean([math.log(math.cosh(abs(math.tanh(u)) - 1)) for u in logits.ravel()]))

    check(csq.quantization_loss, by_hand, RNG.standard_normal((3, 5)))


def test_an_image_has_the_bits_of_most_of_its_classes() -> None:
    centres = torch.tensor([[1.0, 1, -1, -1], [1.0, -1, -1, 1], [-1.0, -1, -1, 1]])
    ties = torch.tensor([-1.0, 1, 1, -1])
    assert csq.centroids(torch.tensor([2, 0]), centres, ties).tolist() == [
        [-1, -1, -1, 1],
        [1, 1, -1, -1],
    ]
    several = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    assert csq.centroids(several, centres, ties).tolist() == [
        [1, -1, -1, 1],
        [-1, 1, -1, -1],  # the classes disagree on bits 0, 1 and 3
        [1, -1, -1, 1],
    ]


def test_the_loss_adds_them_up() -> None:
    torch.manual_seed(0)
    config = csq.Config(bits=8, quantization=0.3)
    loss = csq.Loss(backbones.create("resnet8"), config, 5, 9)
    logits, labels = torch.randn(4, 8), torch.tensor([0, 4, 4, 2])
    found = loss(Given(logits), torch.empty(0), labels, torch.arange(4))
    assert found["central"] == csq.central_loss(logits, loss.centres[labels])
    assert found["quantization"] == 0.3 * csq.quantization_loss(logits)
    assert found["total"] == found["central"] + found["quantization"]
    assert set((loss.centres @ loss.centres.T).fill_diagonal_(0).flatten().tolist()) == {0.0}


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(TrainingError, match="bits must be at least 1"):
        csq.Config(bits=0)
    with pytest.raises(TrainingError, match="quantization must be at least 0, not -1"):
        csq.Config(quantization=-1.0)
