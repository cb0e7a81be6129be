"""The formulas of benchmarks/crovca.py, one number at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def crovca(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import crovca  # type: ignore[import-not-found,unused-ignore]  # a script

    yield crovca
    sys.modules.pop("crovca")


def test_the_loss_is_what_is_published(crovca: Any) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal((1, 0, 0, 0), 1, (2, 10, 4))

    def entropy(z: np.ndarray, target: np.ndarray) -> float:
        sigma = 1 / (1 + np.exp(-z))
        return float(-np.mean(target * np.log(sigma) + (1 - target) * np.log(1 - sigma)))

    def rate(z: np.ndarray) -> float:
        rows, bits = z.shape
        v = z / np.sqrt((z**2).sum(0))
        values = np.linalg.eigvalsh(np.eye(bits) + bits / (rows * 0.05) * v.T @ v)
        return float(np.log(values).sum() / 2 * (bits + rows) / (bits * rows))

    expected = (entropy(first, second > 0) + entropy(second, first > 0)) / 2
    expected -= 0.1 * (rate(first) + rate(second)) / 2
    found = crovca.loss(torch.tensor(first), torch.tensor(second))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_views_of_a_picture_get_like_codes(crovca: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    near = (x + 0.05 * rng.standard_normal(x.shape)).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    network = crovca.fit(x, near, bits=8, epochs=20)
    a, b = crovca.signs(network, x), crovca.signs(network, near)
    assert set(np.unique(a)) == {-1, 1}
    assert (a == b).mean() > 0.85
    assert np.abs(a.mean(0)).max() < 0.4  # each bit tells something
    assert (crovca.signs(network, x[:3]) == a[:3]).all()
