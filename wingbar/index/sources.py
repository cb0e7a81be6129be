"""What `Index.add` is given, as a list of images that the index should hold."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wingbar import images
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images, absolute
from wingbar.errors import DataError, ImageError, printable
from wingbar.images import Failure, Preprocessing
from wingbar.parallel import Progress, in_order

Addable = (
    str
    | os.PathLike[str]
    | Images
    | NDArray[np.uint8]
    | Sequence[images.Source]
    | Sequence[Entry]
    | Sequence[Images]
)
"""What `Index.add` takes: a folder or a list file, images, paths or entries, several collections,
or pictures as arrays."""


@dataclass(frozen=True)
class Wanted:
    """One image that should be in the index.

    path: absolute path, or array:HASH for a picture that is no file.
    label: its class, if any.
    columns: further columns of its row in a CSV file.
    source: its path, or the picture itself.
    labelled: whether label and columns were given: if so, missing ones are removed from the item.
    root: the folder that was listed to find it; None for a list.
    named: whether someone named this image, so that it comes back even if it was removed.
    """

    path: str
    label: str | None
    columns: Mapping[str, str]
    source: images.Whole
    labelled: bool = False
    root: str | None = None
    named: bool = False


@dataclass(frozen=True)
class Batch:
    """What one `add` is asked to bring in.

    wanted: the images.
    roots: folders that were listed; items below them whose files are gone are removed.
    ignored: files there that are not images, by their names.
    unreadable: folders there that could not be listed.
    skipped: folders and files there that were left out by name.
    failed: rows of a list that name no image, and why.
    notes: sentences on what was read in another way than one might expect.
    """

    wanted: Sequence[Wanted]
    roots: Sequence[str] = ()
    ignored: Sequence[str] = ()
    unreadable: Sequence[str] = ()
    skipped: Sequence[str] = ()
    failed: Sequence[Failure] = ()
    notes: Sequence[str] = ()


def batch_of(
    source: object,
    keys: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
) -> Batch:
    """The batch of anything that `Index.add` takes. `keys` name pictures that are no files, one
    each; `labels` give pictures or paths their classes, one each.

    Raises DataError for a list of mixed kinds, and for keys or labels that do not fit it.
    """
    if isinstance(source, (str, os.PathLike)):
        source = read_images(source)
    if isinstance(source, Images):
        source = [source]
    elif isinstance(source, np.ndarray) and source.ndim < 4:
        source = [source]  # one picture
    listed = list(source)  # type: ignore[call-overload]
    kinds = {_kind(item) for item in listed}
    if len(kinds) > 1:
        raise DataError(
            f"add takes one kind of thing at a time, not {' and '.join(sorted(kinds))} in one list"
        )
    if keys is not None and not kinds <= {"pictures"}:
        raise DataError("keys name pictures that are no files; a file is known by its path")
    if labels is not None and not kinds <= {"pictures", "paths"}:
        raise DataError(
            "labels are for pictures or paths; an Entry or a data set has labels of its own"
        )
    for name, values in (("keys", keys), ("labels", labels)):
        if values is not None and len(values) != len(listed):
            raise DataError(f"{len(listed):,} pictures and {len(values):,} {name}: give one each")
    if kinds == {"paths"}:
        given = [None] * len(listed) if labels is None else labels
        entries = [Entry(absolute(path), label) for path, label in zip(listed, given, strict=True)]
        return files([Images(entries, "paths", labelled=labels is not None, named=True)])
    if kinds == {"entries"}:
        return files([Images(listed, "entries", named=True)])
    if kinds == {"data sets"}:
        return files(listed)
    return arrays(listed, keys, labels)


def files(parts: Sequence[Images]) -> Batch:
    """The images of data sets."""
    return Batch(
        [
            Wanted(
                str(e.path),
                e.label,
                e.columns,
                str(e.path),
                part.labelled,
                None if part.root is None else str(part.root),
                part.named,
            )
            for part in parts
            for e in part
        ],
        sorted({str(part.root) for part in parts if part.root is not None}),
        [printable(path) for part in parts for path in part.others],
        [str(path) for part in parts for path in part.unreadable],
        [str(path) for part in parts for path in part.skipped],
        [failure for part in parts for failure in part.failed],
        [note for part in parts for note in part.notes],
    )


def arrays(
    pictures: Sequence[images.Whole],
    keys: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
) -> Batch:
    """Pictures that are no files, named by their keys, array:KEY, or by their content: array:<16
    digits of its sha256>. Raises DataError for a key that is empty or given twice."""
    if keys is not None:
        if odd := [key for key in keys if not isinstance(key, str) or not key]:
            raise DataError(f"a key is a text that is not empty, not {odd[0]!r}")
        if twice := [key for key, count in Counter(keys).items() if count > 1]:
            raise DataError(f"the key {twice[0]!r} is given twice: keys tell pictures apart")
    names = [content_of(picture).hex()[:16] for picture in pictures] if keys is None else keys
    given = [None] * len(pictures) if labels is None else labels
    entries = [Entry(Path(), label) for label in given]  # an Entry writes labels in one form
    return Batch(
        [
            Wanted(f"array:{name}", entry.label, {}, picture, labels is not None)
            for name, entry, picture in zip(names, entries, pictures, strict=True)
        ]
    )


def why_none(parts: Sequence[Images], threads: int, progress: Progress) -> list[Failure]:
    """Why no image of data sets can be read, one reason each; empty as soon as one is read."""
    paths = [str(entry.path) for part in parts for entry in part]
    failed = [failure for part in parts for failure in part.failed]

    def reason(path: str) -> str | None:
        try:
            images.load(path, Preprocessing())
        except ImageError as error:
            return str(error)
        return None

    for i, (path, why) in enumerate(zip(paths, in_order(paths, reason, threads), strict=True)):
        if why is None:
            return []
        failed.append(Failure(printable(path), why))
        progress("reading", i + 1, len(paths))
    return failed


def content_of(picture: images.Whole) -> bytes:
    """sha256 of a picture that is no file: of its bytes, or of its shape and pixels."""
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).digest()
    array = np.asarray(picture)
    described = f"{array.shape} {array.dtype}"
    if isinstance(picture, Image.Image) and picture.mode in ("P", "PA"):
        # equal indices mean other colours with another palette
        described += f" {picture.getpalette()} {picture.info.get('transparency')}"
    return hashlib.sha256(described.encode() + array.tobytes()).digest()


def time_of(status: os.stat_result) -> int:
    """When a file changed, in nanoseconds since 1970, as far as SQLite's integers reach: the years
    1677 to 2262."""
    return max(-(2**63), min(status.st_mtime_ns, 2**63 - 1))


def _kind(item: object) -> str:
    if isinstance(item, (str, os.PathLike)):
        return "paths"
    if isinstance(item, Entry):
        return "entries"
    return "data sets" if isinstance(item, Images) else "pictures"
