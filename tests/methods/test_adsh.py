from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.methods.by_hand import Array, Given, check
from wingbar.errors import TrainingError
from wingbar.methods import adsh
from wingbar.networks import backbones

RNG = np.random.default_rng(0)
OF_CODES = np.array([0, 0, 1, 2, 2, 2, 1, 0, 2])


def signs(n: int, bits: int) -> Array:
    return np.where(RNG.random((n, bits)) < 0.5, -1.0, 1.0)


def similarity(labels: Array, of_codes: Array) -> Array:
    """S for images of `labels` and of `of_codes`; the ratio is that of all pairs of `of_codes`."""
    every = of_codes[:, None] == of_codes[None]
    ratio = every.sum() / (~every).sum()
    return np.where(labels[:, None] == of_codes[None], 1.0, -ratio)


def test_the_loss_and_its_gradient_by_hand() -> None:
    codes, own, labels = signs(9, 4), signs(3, 4), np.array([2, 0, 2])
    s = similarity(labels, OF_CODES)

    def by_hand(relaxed: Array) -> float:
        total = 0.0
        for i in range(3):
            for j in range(9):
                total += (4 * s[i, j] - relaxed[i] @ codes[j]) ** 2
            total += 50 * ((relaxed[i] - own[i]) ** 2).sum()
        return 12 / 4 * total / (3 * 9)

    check(
        lambda f: adsh.asymmetric_loss(
            f,
            torch.tensor(own),
            torch.tensor(labels),
            torch.tensor(codes),
            torch.tensor(OF_CODES),
            50.0,
        ),
        by_hand,
        RNG.uniform(-1, 1, (3, 4)),
        tolerance=1e-5,
    )


def test_b_is_updated_bit_by_bit_and_the_objective_falls() -> None:
    codes, u = signs(9, 4), RNG.uniform(-1, 1, (9, 4))
    s = similarity(OF_CODES, OF_CODES)
    q = 4 * s.T @ u + 50 * u
    expected = codes.copy()
    for k in range(4):
        rest = [j for j in range(4) if j != k]
        expected[:, k] = np.where(
            q[:, k] - expected[:, rest] @ (u[:, rest].T @ u[:, k]) >= 0, 1, -1
        )
    found = adsh.updated(torch.tensor(codes), torch.tensor(u), torch.tensor(OF_CODES), 50.0).numpy()
    np.testing.assert_array_equal(found, expected)

    def objective(b: Array) -> float:
        return float(((4 * s - u @ b.T) ** 2).sum() + 50 * ((u - b) ** 2).sum())

    assert objective(found) < objective(codes)


def test_b_begins_with_classes_and_goes_on_with_images() -> None:
    torch.manual_seed(2)  # for which it matters what the codes begin with
    loss = adsh.Loss(backbones.create("resnet8"), adsh.Config(bits=4, gamma=1.0), 3, 6)
    logits, labels, rows = torch.randn(4, 4), torch.tensor([0, 2, 2, 1]), torch.tensor([5, 0, 1, 3])
    relaxed = torch.tanh(logits)
    first = loss(Given(logits), torch.empty(0), labels, rows)["total"]
    expected = adsh.asymmetric_loss(
        relaxed, loss.classes[labels], labels, loss.classes, torch.arange(3), 0.5
    )
    assert first == expected
    loss.end_epoch()
    assert loss.known.nonzero().flatten().tolist() == [0, 1, 3, 5]
    order = torch.tensor([1, 2, 3, 0])  # the batch by row
    begun = torch.where(relaxed >= 0, 1.0, -1.0)
    of_rows = adsh.updated(begun[order], relaxed[order], labels[order], 1.0)
    assert torch.equal(loss.codes[loss.known], of_rows)
    ones = torch.ones_like(begun)
    assert not torch.equal(of_rows, adsh.updated(ones, relaxed[order], labels[order], 1.0))
    # row 2 is new: it has no code of its own yet
    rows = torch.tensor([5, 2, 1, 3])
    second = loss(Given(-logits), torch.empty(0), labels, rows)["total"]
    own = loss.codes[rows].clone()
    own[1] = torch.where(-relaxed[1] >= 0, 1.0, -1.0)
    assert second == adsh.asymmetric_loss(
        -relaxed, own, labels, of_rows, torch.tensor([2, 2, 1, 0]), 1.0
    )
    with pytest.raises(TrainingError, match="gamma must be at least 0"):
        adsh.Config(gamma=-1.0)
