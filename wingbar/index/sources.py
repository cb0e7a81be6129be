"""What `Index.add` is given, as a list of images that the index should hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wingbar import images
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images, absolute
from wingbar.errors import DataError
from wingbar.images import printable


@dataclass(frozen=True)
class Wanted:
    """One image that should be in the index.

    path: absolute path, or array:HASH for a picture that is no file.
    label: its class, if any.
    columns: further columns of its row in a CSV file.
    source: its path, or the picture itself.
    labelled: whether label and columns were given: if so, missing ones are removed from the item.
    """

    path: str
    label: str | None
    columns: Mapping[str, str]
    source: images.Whole
    labelled: bool = False


@dataclass(frozen=True)
class Batch:
    """What one `add` is asked to bring in.

    wanted: the images.
    roots: folders that were listed; items below them whose files are gone are removed.
    ignored: files there that are not images, by their names.
    unreadable: folders there that could not be listed.
    """

    wanted: Sequence[Wanted]
    roots: Sequence[str] = ()
    ignored: Sequence[str] = ()
    unreadable: Sequence[str] = ()


def batch_of(source: object) -> Batch:
    """The batch of anything that `Index.add` takes. Raises DataError for a list of mixed kinds."""
    if isinstance(source, (str, os.PathLike)):
        source = read_images(source)
    if isinstance(source, Images):
        return files([source])
    if isinstance(source, np.ndarray) and source.ndim < 4:
        return arrays([source])  # one picture
    listed = list(source)  # type: ignore[call-overload]
    kinds = {_kind(item) for item in listed}
    if len(kinds) > 1:
        raise DataError(
            f"add takes one kind of thing at a time, not {' and '.join(sorted(kinds))} in one list"
        )
    if kinds == {"paths"}:
        entries = [Entry(absolute(path)) for path in listed]
        return files([Images(entries, "paths", labelled=False)])
    if kinds == {"entries"}:
        return files([Images(listed, "entries")])
    if kinds == {"data sets"}:
        return files(listed)
    return arrays(listed)


def files(parts: Sequence[Images]) -> Batch:
    """The images of data sets."""
    return Batch(
        [
            Wanted(str(e.path), e.label, e.columns, str(e.path), part.labelled)
            for part in parts
            for e in part
        ],
        sorted({str(part.root) for part in parts if part.root is not None}),
        [printable(path) for part in parts for path in part.others],
        [str(path) for part in parts for path in part.unreadable],
    )


def arrays(pictures: Iterable[images.Whole]) -> Batch:
    """Pictures that are no files, named by their content: array:<16 digits of its sha256>."""
    return Batch(
        [
            Wanted(f"array:{content_of(picture).hex()[:16]}", None, {}, picture)
            for picture in pictures
        ]
    )


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


def _kind(item: object) -> str:
    if isinstance(item, (str, os.PathLike)):
        return "paths"
    if isinstance(item, Entry):
        return "entries"
    return "data sets" if isinstance(item, Images) else "pictures"
