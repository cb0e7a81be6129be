"""Training images: the split, decoding, augmentation, batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from wingbar import images
from wingbar.data.records import Images
from wingbar.errors import DataError, ImageError
from wingbar.images import Augmentation, Failure, Preprocessing
from wingbar.parallel import Progress, cores, in_order
from wingbar.training.run import Run


@dataclass(frozen=True)
class Parts:
    """Training images of a run and those held out of them: paths, label numbers [n] int64, names of
    the classes."""

    paths: Sequence[str]
    labels: NDArray[np.int64]
    held_paths: Sequence[str]
    held_labels: NDArray[np.int64]
    classes: Sequence[str]
    protocol: str
    failed: Sequence[Failure]


def split(data: Images, run: Run, progress: Progress) -> Parts:
    """The training images that can be read, numbered by class, a seeded share of each class held
    out."""
    labelled = [(str(entry.path), entry.label) for entry in data if entry.label is not None]
    failed: list[Failure] = []
    good: list[tuple[str, str]] = []
    preprocessing = Preprocessing(size=run.size)

    def readable(entry: tuple[str, str]) -> str | None:
        try:
            images.load(entry[0], preprocessing)
        except ImageError as error:
            return str(error)
        return None

    for i, (entry, reason) in enumerate(
        zip(labelled, in_order(labelled, readable, cores()), strict=True)
    ):
        progress("checking images", i + 1, len(labelled))
        if reason is None:
            good.append(entry)
        else:
            failed.append(Failure(entry[0], reason))
    classes = sorted({label for _, label in good})
    if len(classes) < 2:
        raise DataError(
            f"training needs labelled images of at least two classes, these have {len(classes)}"
        )
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[label] for _, label in good])
    rng = np.random.default_rng(run.seed)
    held: list[int] = []
    for c in range(len(classes)):
        members = np.flatnonzero(labels == c)
        count = min(
            max(round(run.held_out * len(members)), 1 if run.held_out else 0), len(members) - 1
        )
        held += rng.permutation(members)[:count].tolist()
    is_held = np.zeros(len(labels), bool)
    is_held[held] = True
    paths = np.array([path for path, _ in good], object)
    protocol = (
        f"{data.protocol}; {len(held)} of {len(good)} training images held out (seed {run.seed})"
    )
    return Parts(
        paths[~is_held].tolist(),
        labels[~is_held],
        paths[is_held].tolist(),
        labels[is_held],
        classes,
        protocol,
        failed,
    )


class Pictures(Dataset[tuple[Tensor, int, int]]):
    """Training pictures by (epoch, row): pixels [size, size, 3] uint8, label, row."""

    def __init__(self, parts: Parts, run: Run) -> None:
        self.parts, self.seed = parts, run.seed
        self.preprocessing = Preprocessing(size=run.size)
        self.augmentation = Augmentation(area=run.area, mirror=run.mirror, lighting=run.lighting)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int, int]:
        """The picture of `row`, varied as `epoch` wants it."""
        epoch, row = place
        rng = np.random.default_rng([self.seed, epoch, row])
        pixels = images.augment(self.parts.paths[row], self.preprocessing, self.augmentation, rng)
        return torch.from_numpy(pixels.copy()), int(self.parts.labels[row]), row


def batches(
    run: Run, items: int, epoch: int, first_step: int, rank: int, world: int
) -> list[list[tuple[int, int]]]:
    """The batches of an epoch from `first_step` on, this process's share of each: (epoch, row)
    pairs.

    The last, smaller batch is left out, unless it is the only one.
    """
    order = np.random.default_rng([run.seed, epoch]).permutation(items)
    count = max(items // run.batch, 1)
    shares = [
        order[i * run.batch : (i + 1) * run.batch][rank::world].tolist() for i in range(count)
    ]
    return [[(epoch, row) for row in share] for share in shares[first_step:]]
