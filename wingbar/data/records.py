"""The records that describe images and data sets."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from wingbar.errors import DataError
from wingbar.images import Box, Failure

BETWEEN_LABELS = "|"


@dataclass(frozen=True)
class Entry:
    """One image of a data set.

    path: absolute path of the file
    label: its class, None if it has none; in Unicode's composed form (NFC), so that a name is one
        class however its folder is written. Where images have several labels, all of them,
        sorted, with BETWEEN_LABELS between them
    columns: the other columns of a CSV by name, as text; they are stored with the item
    box: x, y, width, height in pixels of the upright picture. A query is cropped to its box; in a
        gallery the box is ignored
    """

    path: Path
    label: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.label is not None and not self.label.isascii():
            object.__setattr__(self, "label", unicodedata.normalize("NFC", self.label))


@dataclass(frozen=True)
class Images(Sequence[Entry]):
    """A list of images.

    entries: the images, in their order
    protocol: one line that says where they come from and which part they are
    root: the folder that was listed; None for a list that names its files, and for a slice
    others: files below `root` that are not images by their names
    unreadable: folders below `root` that could not be listed
    labelled: whether the source has a place for labels and columns; if not, an index keeps those
        that it has for these files
    skipped: folders and files below `root` that were left out by name
    failed: rows of a list that name no image, and why
    notes: sentences on what was read in another way than one might expect
    named: whether someone named each of the images, rather than a folder or a list that holds it
    multi_label: whether an image can have several labels, so that two match when they share one
    """

    entries: Sequence[Entry]
    protocol: str
    root: Path | None = None
    others: Sequence[Path] = ()
    unreadable: Sequence[Path] = ()
    labelled: bool = True
    skipped: Sequence[Path] = ()
    failed: Sequence[Failure] = ()
    notes: Sequence[str] = ()
    named: bool = False
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> Images: ...
    def __getitem__(self, i: int | slice) -> Entry | Images:
        if isinstance(i, slice):
            return replace(self, entries=self.entries[i], root=None)
        return self.entries[i]

    @property
    def paths(self) -> list[Path]:
        """The path of every image."""
        return [entry.path for entry in self.entries]

    @property
    def labels(self) -> list[str | None]:
        """The label of every image."""
        return [entry.label for entry in self.entries]


def labels_of(label: str) -> frozenset[str]:
    """The labels in the label of an image that can have several."""
    return frozenset(filter(None, (name.strip() for name in label.split(BETWEEN_LABELS))))


def joined_labels(labels: Iterable[str]) -> str:
    """Several labels as one, in the form that `labels_of` reads."""
    return BETWEEN_LABELS.join(sorted(set(labels)))


@dataclass(frozen=True)
class Truth:
    """The ground truth of one query of revisited Oxford or Paris: rows of the gallery, counted from
    0. Rows in none of the three are wrong.

    easy: right, and easy to recognise
    hard: right, and hard to recognise
    junk: neither right nor wrong; they are taken out of the ranking
    """

    easy: Collection[int]
    hard: Collection[int]
    junk: Collection[int]


@dataclass(frozen=True)
class Parts:
    """A data set as it was found, before a protocol makes train, query and gallery of it.

    kind: what it is: "folder", "csv", "lists", or the name of a known data set
    all: all of its images
    named: the images of each of its own parts: "train", "val", "test", "query" or "gallery"; empty
        if it has none
    truth: one Truth per query, for revisited Oxford and Paris only
    """

    kind: str
    all: Images
    named: Mapping[str, Sequence[Entry]]
    truth: Sequence[Truth] = ()

    def images(self, name: str) -> Images:
        """The images of a named part. Raises KeyError if there is no such part."""
        return replace(self.all, entries=self.named[name], protocol=f"{self.kind}: {name}")


@dataclass(frozen=True)
class Dataset:
    """A data set split for training and evaluation.

    train: what a method may learn from
    query: the images that are searched for
    gallery: the images that are searched; often the same as `train`
    val: a part that is none of these, None if the data set has no such part
    protocol: one line that says which parts these are and where they come from
    truth: one Truth per query, for revisited Oxford and Paris only; they have no labels
    """

    train: Images
    query: Images
    gallery: Images
    val: Images | None
    protocol: str
    truth: Sequence[Truth] = ()


def as_labels(labels: Iterable[str | None]) -> list[str | None]:
    """Labels as a list, also those of a NumPy array. Raises DataError for one that is no text."""
    listed = [str(label) if isinstance(label, str) else label for label in labels]
    if odd := [label for label in listed if label is not None and not isinstance(label, str)]:
        raise DataError(
            f"a label is a text or None, not {odd[0]!r} ({type(odd[0]).__name__}): give "
            "labels=[str(label) for label in labels]"
        )
    return listed


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path by which an index knows a file: links in its folder are resolved, the file's own
    name is kept even if it is a link."""
    full = os.path.abspath(path)
    return Path(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
