"""Hash centres: binary codes, one for each class, that images of the class are pulled to.

Codes are +1 and -1 in float32, [y, b] for y classes and b bits, drawn from PyTorch's generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 4  # classes, at most, whose codes take all even splits in turn
DRAWS = 64  # of rows of a Hadamard matrix; the first few have all they can


def hash_centres(classes: int, bits: int, spread: bool) -> Tensor:
    """Algorithm 1 of CSQ (Yuan et al., CVPR 2020): the first rows of a Hadamard matrix and of its
    negative, any two of which differ in half of their bits or in all, where b is a power of 2 and y
    is at most 2 b; fair coins elsewhere.

    With `spread` those of `hadamard_codes` and of `spread_codes`, in which bits that are the same
    for all classes are replaced by such as split them evenly; of up to FEW classes all bits do.
    """
    has_rows = bits & (bits - 1) == 0 and classes <= 2 * bits
    if not spread:
        rows = hadamard(bits)
        return torch.cat([rows, -rows])[:classes] if has_rows else random_codes(classes, bits)
    if 2 <= classes <= FEW:
        return even_codes(classes, bits)
    codes = hadamard_codes(classes, hadamard(bits)) if has_rows else spread_codes(classes, bits)
    for bit in (codes == codes[:1]).all(0).nonzero().flatten().tolist():
        codes[:, bit] = even_split(classes)
    return codes


def even_codes(classes: int, bits: int) -> Tensor:
    """Codes of few classes that are as far apart as codes can be: the ways to split the classes as
    evenly as possible follow each other, bit by bit in a drawn order."""
    splits = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * classes)
    splits = splits[splits.sum(1).abs() <= 1]
    return splits[torch.randperm(bits) % len(splits)].T.contiguous()


def even_split(classes: int) -> Tensor:
    """A drawn bit [y] that splits the classes as evenly as possible."""
    half = torch.ones(classes)
    half[: classes // 2] = -1
    return half[torch.randperm(classes)]


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
