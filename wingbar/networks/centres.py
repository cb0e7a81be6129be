"""Hash centres: binary codes, one for each class, that images of the class are pulled to.

Codes are +1 and -1 in float32, [y, b] for y classes and b bits, drawn from PyTorch's generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 4  # classes for which rows of a Hadamard matrix waste bits
DRAWS = 64  # of rows of a Hadamard matrix; the first few have all they can


def hash_centres(classes: int, bits: int, spread: bool) -> Tensor:
    """Algorithm 1 of CSQ (Yuan et al., CVPR 2020): rows of a Hadamard matrix and of its negative,
    half of whose bits differ or all, where b is a power of 2 and y is at most 2 b; random bits
    elsewhere. These are the first rows and fair coins; with `spread` those of `hadamard_codes` and
    of `spread_codes`, and of few classes `even_codes`."""
    if spread and 2 <= classes <= FEW:
        return even_codes(classes, bits)
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        rows = hadamard(bits)
        return hadamard_codes(classes, rows) if spread else torch.cat([rows, -rows])[:classes]
    return spread_codes(classes, bits) if spread else random_codes(classes, bits)


def even_codes(classes: int, bits: int) -> Tensor:
    """Codes of 2, 3 or 4 classes, each bit of which splits them as evenly as it can, with a drawn
    sign: no codes are farther apart, and no bit is the same for all. The ways to split them follow
    each other in a drawn order."""
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * (classes - 1)).reshape(
        -1, classes - 1
    )
    splits = torch.cat([torch.ones(len(signs), 1), signs], 1)
    splits = splits[splits.sum(1).abs() <= 1]
    order = torch.randperm(bits) % len(splits)
    return (splits[order] * random_codes(bits, 1)).T.contiguous()


def hadamard_codes(classes: int, matrix: Tensor) -> Tensor:
    """Rows of a Hadamard matrix [b, b] with drawn signs and, of more than b, negatives of some.

    Drawn such that few bits are the same for all classes or say the same as another bit: the first
    rows of the matrix are all alike in their first bit, and few of them in many more.
    """
    bits = len(matrix)
    best, least = torch.empty(0), bits + 1
    for _ in range(DRAWS):
        signs = torch.randint(0, 2, (bits, 1)) * 2 - 1
        rows = (signs * matrix)[torch.randperm(bits)]
        codes = torch.cat([rows, -rows])[:classes]
        wasted = bits - telling_bits(codes)
        if wasted < least:
            best, least = codes, wasted
        if not wasted:
            break
    return best


def telling_bits(codes: Tensor) -> int:
    """How many bits of codes [y, b] differ between classes, and each in its own way: bits that are
    equal or opposite for all classes count once."""
    patterns = {tuple(bit) for bit in (codes * codes[:1]).T.tolist()}
    return len(patterns - {(1.0,) * len(codes)})


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
