from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.methods.by_hand import Array, Given, check
from wingbar.errors import TrainingError
from wingbar.methods import hashnet
from wingbar.networks import backbones

RNG = np.random.default_rng(0)


def by_hand(relaxed: Array, classes: list[set[int]], alpha: float) -> float:
    pairs = [(i, j) for i in range(len(relaxed)) for j in range(len(relaxed)) if i != j]
    similar = [pair for pair in pairs if classes[pair[0]] & classes[pair[1]]]
    total = 0.0
    for i, j in pairs:
        product = alpha * (relaxed[i] @ relaxed[j])
        if (i, j) in similar:
            share = len(classes[i] & classes[j]) / len(classes[i] | classes[j])
            weight = share * len(pairs) / len(similar)
            total += weight * (math.log(1 + math.exp(product)) - product)
        else:
            weight = len(pairs) / (len(pairs) - len(similar))
            total += weight * math.log(1 + math.exp(product))
    return total / len(pairs)


@pytest.mark.parametrize(
    "classes",
    [[{0}, {1}, {0}, {2}, {1}], [{0, 1}, {1}, {0, 1, 2}, {2}, {3}], [{0}, {1}, {2}, {3}, {4}]],
    ids=["one class", "several classes", "no similar pair"],
)
def test_the_loss_and_its_gradient_by_hand(classes: list[set[int]]) -> None:
    labels = torch.zeros(5, 5, dtype=torch.float64)
    for i, own in enumerate(classes):
        labels[i, list(own)] = 1
    check(
        lambda h: hashnet.pair_loss(h, labels, 0.8),
        lambda h: by_hand(h, classes, 0.8),
        RNG.uniform(-1, 1, (5, 4)),
    )


def test_beta_grows_and_a_batch_of_one_has_no_pairs() -> None:
    torch.manual_seed(0)
    config = hashnet.Config(bits=4, similarity=6.0, growth=0.5)
    loss = hashnet.Loss(backbones.create("resnet8"), config, 3, 9)
    logits, labels = torch.randn(4, 4), torch.tensor([0, 2, 2, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    for step in range(3):
        beta = math.sqrt(1 + 0.5 * step)
        found = loss(Given(logits), torch.empty(0), labels, torch.arange(4))
        expected = hashnet.pair_loss(torch.tanh(beta * logits), one_hot, 1.5)
        assert found["total"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert hashnet.pair_loss(torch.ones(1, 4), torch.ones(1, 2), 1.0) == 0
    with pytest.raises(TrainingError, match="similarity must be above 0"):
        hashnet.Config(similarity=0.0)
