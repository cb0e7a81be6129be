"""Training images: which are held out, how each is varied, and how they form batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wingbar import images
from wingbar.data.records import Images, labels_of
from wingbar.errors import DataError, ImageError, counted
from wingbar.images import Augmentation, Failure, Preprocessing
from wingbar.parallel import Progress, cores, in_order
from wingbar.training.run import Run
from wingbar.training.versions import version

Labels = NDArray[np.int64] | NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """The images that a run learns from, and those held out of them.

    paths: the n training images.
    labels: their class numbers, [n] int64, from 0; where images have several labels, which classes
        each is of, [n, y] bool.
    held_paths: the m held-out images.
    held_labels: the same of the held-out images, [m] or [m, y].
    classes: the names of the classes, by number; where each image is a class, of their files.
    protocol: how the data set was read and what was held out, in words.
    failed: images that cannot be read, with the reason; they are in neither part.
    """

    paths: Sequence[str]
    labels: Labels
    held_paths: Sequence[str]
    held_labels: Labels
    classes: Sequence[str]
    protocol: str
    failed: Sequence[Failure]


def split(data: Images, run: Run, progress: Progress) -> Split:
    """Leave out images that cannot be read, number the classes, and hold out a seeded share of each
    class; a class keeps at least one training image. Of images with several labels, those with the
    same ones count as a class when a share is held out. With `run.instances` each image is a class,
    and a share of all images is held out.

    Raises DataError when fewer than two classes are left.
    """
    good: list[tuple[str, str]] = []
    failed: list[Failure] = []
    labelled = [
        (str(entry.path), str(entry.path if run.instances else entry.label))
        for entry in data
        if run.instances or entry.label is not None
    ]
    paths = [path for path, _ in labelled]
    reasons = in_order(paths, lambda path: _reason_not_to_use(path, run.size), cores())
    for i, (entry, reason) in enumerate(zip(labelled, reasons, strict=True)):
        progress("checking images", i + 1, len(labelled))
        if reason is None:
            good.append(entry)
        else:
            failed.append(Failure(entry[0], reason))
    several = data.multi_label and not run.instances
    of = [sorted(labels_of(label)) if several else [label] for _, label in good]
    classes = sorted({label for own in of for label in own})
    if len(classes) < 2:
        unread = (
            f"; {counted(len(failed), 'image')} could not be read, the first: {failed[0].path}: "
            f"{failed[0].reason}"
            if failed
            else ""
        )
        if not len(data):
            place = f"in {data.root}" if data.root else f"({data.protocol})"
            raise DataError(f"there are no images to train on {place}")
        if not labelled:
            raise DataError(
                f"training needs labels, and none of {counted(len(data), 'image')} has one: sort "
                "them into a folder for each class, name a CSV with a label column, or add "
                "--instances"
            )
        if failed and not good and not any(Path(failure.path).exists() for failure in failed):
            raise DataError(
                f"none of {counted(len(failed), 'image')} is there, the first is {failed[0].path}: "
                "put them where they were, or begin another run with where they are"
            )
        which = f" ({classes[0]})" if classes else ""
        raise DataError(
            "training needs labelled images of at least two classes, these have "
            f"{len(classes)}{which}{unread}"
        )
    number = {label: i for i, label in enumerate(classes)}
    combinations = np.array([number[own[0]] for own in of])
    labels: Labels = combinations
    if several:
        labels = np.zeros((len(of), len(classes)), bool)
        for row, own in enumerate(of):
            labels[row, [number[label] for label in own]] = True
        combinations = np.unique(labels, axis=0, return_inverse=True)[1]
    good_paths = np.array([path for path, _ in good], object)
    if run.instances:
        # a share of the images, whose class numbers follow those of the training images
        held = _held_out(np.zeros_like(labels), run)
        classes = [Path(path).name for path in good_paths[~held]]
        labels[~held], labels[held] = range(len(classes)), range(len(classes), len(labels))
    else:
        held = _held_out(combinations, run)
    return Split(
        paths=good_paths[~held].tolist(),
        labels=labels[~held],
        held_paths=good_paths[held].tolist(),
        held_labels=labels[held],
        classes=classes,
        protocol=f"{data.protocol}; {held.sum()} of {len(good)} training images held out "
        f"(seed {run.seed})",
        failed=failed,
    )


def _reason_not_to_use(path: str, size: int) -> str | None:
    """Why the image at `path` cannot be trained on; None when it can be."""
    try:
        images.load(path, Preprocessing(size=size))
    except ImageError as error:
        return str(error)
    return None


def _held_out(labels: NDArray[np.int64], run: Run) -> NDArray[np.bool_]:
    """Which images of labels [n] are held out, [n] bool: `run.held_out` of each class, rounded, and
    at least one unless that share is 0."""
    rng = np.random.default_rng(run.seed)
    least = 1 if run.held_out else 0
    held = np.zeros(len(labels), bool)
    for c in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == c)
        count = min(max(round(run.held_out * len(members)), least), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return held


def decoded(paths: Sequence[str], side: int, progress: Progress) -> list[images.Pixels]:
    """The upright pictures at `paths`, [H, W, 3] uint8, made smaller where their short side exceeds
    `side` pixels. Raises ImageError as `images.load` does."""

    def read(path: str) -> images.Pixels:
        picture = images.upright(path)
        scale = side / min(picture.size)
        if scale < 1:
            shape = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(shape, Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.asarray(picture)

    found = []
    for pixels in in_order(paths, read, cores()):
        found.append(pixels)
        progress("decoding images", len(found), len(paths))
    return found


class Pictures(Dataset[tuple[Tensor, int | Tensor, int]]):
    """The training images of a split, varied at random: indexed by (epoch, row), each is pixels
    [size, size, 3] uint8; its class number or, of several labels, [y] bool; and its row."""

    def __init__(
        self, split: Split, run: Run, sources: Sequence[images.Source] | None = None
    ) -> None:
        """`sources` are what is read in place of the split's paths: pictures decoded before."""
        self.sources = split.paths if sources is None else sources
        self.split, self.seed, self.instances = split, run.seed, run.instances
        self.preprocessing = Preprocessing(size=run.size)
        self.augmentation = Augmentation(area=run.area, mirror=run.mirror, lighting=run.lighting)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int | Tensor, int]:
        """The image of a row; its variation depends on (seed, epoch, row) alone."""
        epoch, row = place
        rng = np.random.default_rng([self.seed, epoch, row])
        source: images.Source = self.sources[row]
        if self.instances:
            source = version(images.upright(source), rng)
        pixels = images.augment(source, self.preprocessing, self.augmentation, rng)
        of = self.split.labels[row]
        label = torch.from_numpy(of) if isinstance(of, np.ndarray) else int(of)
        return torch.from_numpy(pixels.copy()), label, row


def batches(
    run: Run, items: int, epoch: int, first_step: int, rank: int, world: int
) -> list[list[tuple[int, int]]]:
    """The batches of an epoch over `items` images from `first_step` on, as (epoch, row) pairs: of
    each batch the share of process `rank` of `world`.

    The order depends on (seed, epoch) alone. The last, smaller batch is left out, unless it is the
    only one.
    """
    order = np.random.default_rng([run.seed, epoch]).permutation(items)
    count = max(items // run.batch, 1)
    shares = [
        order[i * run.batch : (i + 1) * run.batch][rank::world].tolist() for i in range(count)
    ]
    return [[(epoch, row) for row in share] for share in shares[first_step:]]
