"""Hash centres: binary codes, one for each class, that images of the class are pulled to.

Codes are +1 and -1 in float32, [y, b] for y classes and b bits, drawn from PyTorch's generator.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hash_centres(classes: int, bits: int, spread: bool) -> Tensor:
    """Algorithm 1 of CSQ (Yuan et al., CVPR 2020): rows of a Hadamard matrix and of its negative,
    half of whose bits differ or all, where b is a power of 2 and y is at most 2 b; random bits
    elsewhere, with `spread` those of `spread_codes`."""
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        rows = hadamard(bits)
        return torch.cat([rows, -rows])[:classes]
    return spread_codes(classes, bits) if spread else random_codes(classes, bits)


def hadamard(bits: int) -> Tensor:
    """Sylvester's Hadamard matrix [b, b]: any two of its rows differ in half of their entries.
    `bits` is a power of 2."""
    matrix = torch.ones(1, 1)
    while len(matrix) < bits:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def random_codes(count: int, bits: int) -> Tensor:
    """Fair coins: [count, b]. Two of them can be equal."""
    return torch.randint(0, 2, (count, bits)).float() * 2 - 1


def spread_codes(classes: int, bits: int) -> Tensor:
    """Of random candidates, each code is the one farthest from those chosen before."""
    candidates = random_codes(max(4096, 4 * classes), bits)
    chosen, nearest = [candidates[0]], candidates @ candidates[0]
    while len(chosen) < classes:
        chosen.append(candidates[nearest.argmin()])
        nearest = torch.maximum(nearest, candidates @ chosen[-1])
    return torch.stack(chosen)
