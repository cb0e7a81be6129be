"""CroVCA (CVPR workshops 2026): codes that are learned from two views of each picture, without
labels, on the features of a frozen encoder; what `label_free.py --kinds crovca` compares.

A network of two layers, d -> d -> b, with batch normalisation at its end, is trained so that the
bits of one view tell those of the other, and that the codes of a batch use all of their directions:

    L = 1/2 [BCE(z1, 1(z2 > 0)) + BCE(z2, 1(z1 > 0))]
        - 0.1 mean over views of 1/2 logdet(I + b / (B eps) V'V) (b + B) / (b B)

with eps = 0.05 and V the logits [B, b] of a view, its columns of unit length. 5 epochs of AdamW
with a learning rate of 1e-3, as published. Not published, as far as could be seen, and chosen here:
ReLU between the layers, batches of 256, weight decay 0.01, features scaled to entries of mean
square 1. The views are each picture as it is, and a
random part of it (`label_free.crops`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

EPOCHS, BATCH, RATE, EPS, WEIGHT = 5, 256, 1e-3, 0.05, 0.1

Raw = NDArray[np.float32]


def coding_rate(z: Tensor) -> Tensor:
    """1/2 logdet(I + b / (B eps) V'V) (b + B) / (b B) of logits [B, b]."""
    rows, bits = z.shape
    v = normalize(z, dim=0)
    gram = torch.eye(bits) + bits / (rows * EPS) * v.T @ v
    return 0.5 * torch.logdet(gram) * (bits + rows) / (bits * rows)


def loss(z1: Tensor, z2: Tensor) -> Tensor:
    """L for the logits [B, b] of two views."""
    agree = binary_cross_entropy_with_logits(
        z1, (z2 > 0).float()
    ) + binary_cross_entropy_with_logits(z2, (z1 > 0).float())
    return agree / 2 - WEIGHT * (coding_rate(z1) + coding_rate(z2)) / 2


def fit(first: Raw, second: Raw, bits: int, seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """The network that was trained on two views [n, d] of the same pictures."""
    torch.manual_seed(seed)
    width = first.shape[1]
    network = nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, bits), nn.BatchNorm1d(bits)
    )
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    views = _scaled(first), _scaled(second)
    for _ in range(epochs):
        order = torch.randperm(len(first))
        for begin in range(0, len(first) - 1, BATCH):  # one row has no variance
            rows = order[begin : begin + BATCH]
            z1, z2 = (network(view[rows]) for view in views)
            optimizer.zero_grad()
            loss(z1, z2).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


def signs(network: nn.Module, raw: Raw) -> Raw:
    """The codes of features [N, d] as -1 and 1 [N, b]."""
    with torch.no_grad():
        z = network(_scaled(raw)).numpy()
    return np.where(z >= 0, np.float32(1), np.float32(-1))


def _scaled(raw: Raw) -> Tensor:
    """Unit features [N, d] with entries of mean square 1."""
    return torch.from_numpy(raw * np.float32(raw.shape[1] ** 0.5))
