"""Algorithm 1 of CMBH (see methods/cmbh.py): the regions of a picture that a network looks at most. Training learns from them,
`wingbar explain` shows them; it does so without PyTorch, which is why this is a file of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def find_regions(activation: NDArray[np.floating], count: int) -> list[tuple[int, int, int, int]]:
    """Algorithm 1: the cells x1, y1, x2, y2 (inclusive) of `count` regions of A [h, w], the strongest first.

    For m = 1 .. M: what is above a (0.9 - 0.05 m), a being the greatest value, and of it the largest connected part (cells
    that share a side; the first of equal ones) gives the box. Then every value A above the threshold becomes a - A. Where
    nothing is above it, which only values that are not positive can bring about, the box is the whole map.
    """
    values = activation.astype(np.float64)
    height, width = values.shape
    boxes = []
    for m in range(1, count + 1):
        greatest = values.max()
        above = values > greatest * (0.9 - 0.05 * m)
        parts, number = ndimage.label(above)
        if number == 0:
            boxes.append((0, 0, width - 1, height - 1))
            continue
        largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
        rows, columns = np.nonzero(parts == largest)
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())))
        values = np.where(above, greatest - values, values)
    return boxes


def in_image(box: tuple[int, int, int, int], map_size: tuple[int, int], size: tuple[int, int]) -> tuple[float, ...]:
    """Cells x1, y1, x2, y2 of a map of (height, width) -> x1, y1, x2, y2 in pixels of a picture of (height, width)."""
    across, down = size[1] / map_size[1], size[0] / map_size[0]
    return box[0] * across, box[1] * down, (box[2] + 1) * across, (box[3] + 1) * down
