"""What the tests of losses share: slow gradients, and a backbone that is no network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from wingbar.methods import Output

Array = NDArray[np.float64]


def gradient(function: Callable[[Array], float], x: Array, step: float = 1e-5) -> Array:
    """The gradient of a function of x at x, by central differences."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[place] = step
        found[place] = (function(x + shift) - function(x - shift)) / (2 * step)
    return found


def check(
    loss: Callable[[torch.Tensor], torch.Tensor],
    by_hand: Callable[[Array], float],
    x: Array,
    tolerance: float = 1e-7,
) -> None:
    """`loss` and its gradient at x are those of the formula `by_hand`, in float64."""
    given = torch.tensor(x, requires_grad=True)
    value = loss(given)
    [slope] = torch.autograd.grad(value, given)
    np.testing.assert_allclose(value.item(), by_hand(x), rtol=1e-6)
    np.testing.assert_allclose(slope.numpy(), gradient(by_hand, x), rtol=1e-5, atol=tolerance)


class Given(torch.nn.Module):
    """A Net whose outputs are given."""

    def __init__(self, code: torch.Tensor, feature: torch.Tensor | None = None) -> None:
        super().__init__()
        self.output = Output(code, code if feature is None else feature)

    def forward(self, pixels: torch.Tensor) -> Output:
        return self.output
