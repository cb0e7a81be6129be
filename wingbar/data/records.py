"""The records that describe images and data sets."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from wingbar.images import Box


@dataclass(frozen=True)
class Entry:
    """One image of a data set: an absolute path, a label or None, and the other columns of a CSV.

    As a query only what is inside `box` is looked at; in a gallery all of it.
    """

    path: Path
    label: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    box: Box | None = None


@dataclass(frozen=True)
class Images(Sequence[Entry]):
    """A list of images. `root` is the folder that was listed, None for a list that names files;
    `others` are its files that are no images and `unreadable` the folders below it that could not
    be listed. `labelled` is false where the source has no place for labels, so that having none
    says nothing."""

    entries: Sequence[Entry]
    protocol: str
    root: Path | None = None
    others: Sequence[Path] = ()
    unreadable: Sequence[Path] = ()
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> Images: ...
    def __getitem__(self, i: int | slice) -> Entry | Images:
        return (
            replace(self, entries=self.entries[i], root=None)
            if isinstance(i, slice)
            else self.entries[i]
        )

    @property
    def paths(self) -> list[Path]:
        """The path of every image."""
        return [entry.path for entry in self.entries]

    @property
    def labels(self) -> list[str | None]:
        """The label of every image."""
        return [entry.label for entry in self.entries]


@dataclass(frozen=True)
class Dataset:
    """The parts of a data set. `protocol` says in one line which they are and where they come from.

    `train` is what a method may learn from, `gallery` what is searched, `query` what is searched
    for. `val` is a part that is neither, when the data set has one. `truth`, for revisited Oxford
    and Paris only, says for each query which rows of `gallery` are easy, hard or junk; there are no
    labels then.
    """

    train: Images
    query: Images
    gallery: Images
    val: Images | None
    protocol: str
    truth: Sequence[Truth] = ()


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path by which an index knows a file: its folder without links, and its own name."""
    full = os.path.abspath(path)
    return Path(os.path.realpath(os.path.dirname(full)), os.path.basename(full))


@dataclass(frozen=True)
class Parts:
    """What was found: all images, and those of each named part ("train", "val", "test", "query",
    "gallery"). `kind` is what it is; `truth` is as in Dataset."""

    kind: str
    all: Images
    named: Mapping[str, Sequence[Entry]]
    truth: Sequence[Truth] = ()

    def images(self, name: str) -> Images:
        """The images of a named part."""
        return replace(self.all, entries=self.named[name], protocol=f"{self.kind}: {name}")


@dataclass(frozen=True)
class Truth:
    """What is in the gallery of a query: rows that are easy, hard or junk; all others are wrong."""

    easy: Collection[int]
    hard: Collection[int]
    junk: Collection[int]
