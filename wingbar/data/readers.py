"""Read the data sets that people have: class folders, plain folders, CSV files, hashing lists, and
known data sets straight from the unpacked archive."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wingbar import images
from wingbar.data import layouts
from wingbar.data.protocols import Protocol, apply_protocol
from wingbar.data.records import (
    BETWEEN_LABELS,
    Dataset,
    Entry,
    Images,
    Parts,
    absolute,
    joined_labels,
    labels_of,
)
from wingbar.errors import DataError, ImageError, printable
from wingbar.images import Failure

# The names that people give to the parts of a data set, and what wingbar calls them.
_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "query": "query",
    "queries": "query",
    "gallery": "gallery",
    "database": "gallery",
}
_OWN_COLUMNS = ("path", "label", "split", "box")  # of a CSV; all others are kept with the items
_ONE_HOT = re.compile(r"(.+?)((?:\s+[01])+)")  # a line of a list: a path, then zeros and ones


def read_dataset(
    path: str | os.PathLike[str],
    *,
    protocol: Protocol = "own",
    seed: int = 0,
    multi_label: bool = False,
) -> Dataset:
    """The data set at `path`: a folder, a CSV file, a folder of hashing lists, or a known data set
    straight from the unpacked archive.

    - Folder: one folder per class, with or without `train/ val/ test/ query/ gallery/` (or
      `database/`) above them. With images directly in it, it is a plain folder without labels, and
      a note says so.
    - CSV: a column `path` and optionally `label`, `split` and `box`; further columns are kept for
      filters. Paths are relative to the file. Commas, semicolons or tabs between values; UTF-8,
      UTF-16 or Windows-1252. A row without a usable path is listed in `Images.failed`.
    - Lists: `train.txt test.txt database.txt`, each line a path and 0 or 1 for every class.
    - Known data sets, such as CUB-200-2011 or CIFAR-10: see docs/data.md. Pictures that are stored
      in arrays are unpacked once into `wingbar-images/` beside them.

    `protocol`, one of PROTOCOLS, says how train, query and gallery are made; `seed` draws what it
    leaves to chance. Without a split of its own, 20 % of each class become queries, at least one
    image of a class of two. With `multi_label` a label such as `cat|dog` is two labels; lists in
    which an image has several need no such word. Raises DataError if nothing is there, a line
    cannot be read or the data set does not fit the protocol.
    """
    parts = read_parts(Path(path), multi_label=multi_label)
    return apply_protocol(parts, Path(path), protocol, seed)


def read_images(
    path: str | os.PathLike[str],
    split: str = "all",
    *,
    protocol: Protocol = "own",
    seed: int = 0,
    exclude: Sequence[str] = (),
    multi_label: bool = False,
) -> Images:
    """The images at `path` as one list: all of them, or one part ("train", "query", "gallery",
    "val", "test").

    `path` is what `read_dataset` takes, or a single image file. A `protocol` other than "own" has
    the parts train, query and gallery. What matches a pattern of `exclude` by its name, or by its
    path below a folder, is left out: see `images.find`. Raises DataError.
    """
    path = Path(path)
    if not all(pattern.strip("./") for pattern in exclude):
        raise DataError("a pattern to exclude is not empty: write *.thumb.jpg or drafts")
    if path.is_file() and path.suffix.lower() not in (".csv", ".txt"):
        if split != "all" or protocol != "own":
            raise DataError(f"{path} is one image and has no part {split!r}")
        return Images([Entry(absolute(path))], protocol="one file", labelled=False, named=True)
    parts = read_parts(path, exclude, multi_label)
    if protocol == "own" and split == "all":
        return parts.all
    if protocol == "own" and split in parts.named:
        return parts.images(split)
    dataset = apply_protocol(parts, path, protocol, seed)
    chosen = {
        "train": dataset.train,
        "query": dataset.query,
        "gallery": dataset.gallery,
        "val": dataset.val,
    }.get(split)
    if chosen is not None:
        return chosen
    if protocol != "own":
        raise DataError(
            f"protocol {protocol} makes the parts train, query and gallery: choose one of them, "
            f"not {split!r}"
        )
    have = (
        ", ".join(parts.named)
        or "no parts of its own; train, query and gallery can be drawn from it"
    )
    raise DataError(f"{path} has no part {split!r}: it has {have}; all is every image")


def has_part(path: str | os.PathLike[str], part: str) -> bool:
    """Whether the data set at `path` has a part of its own of this name ("train", "val", "test",
    "query" or "gallery")."""
    return part in read_parts(Path(path)).named


def read_parts(path: Path, exclude: Sequence[str] = (), multi_label: bool = False) -> Parts:
    """The data set at `path` with the parts of its own, before a protocol, without what matches
    `exclude`; with `multi_label`, labels are split into several. Raises DataError."""
    parts = _read_parts(path, exclude)
    return _with_several_labels(parts) if multi_label and not parts.all.multi_label else parts


def _with_several_labels(parts: Parts) -> Parts:
    """The data set with each label read as one or several."""

    def split(entry: Entry) -> Entry:
        return replace(entry, label=joined_labels(labels_of(entry.label or "")) or None)

    everything = replace(parts.all, entries=[split(e) for e in parts.all], multi_label=True)
    named = {name: [split(e) for e in entries] for name, entries in parts.named.items()}
    return replace(parts, all=everything, named=named)


def _read_parts(path: Path, exclude: Sequence[str]) -> Parts:
    if not path.exists():
        raise DataError(f"there is no {path}")
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _without(_read_csv(path), path.parent, exclude)
        raise DataError(
            f"{path} is not a data set: name a folder, a CSV file, or a folder with train.txt and "
            "test.txt"
        )
    known = layouts.find(path)
    if known is not None:
        return _without(layouts.read(known), path, exclude)
    if lists := _list_files(path):
        return _without(_read_lists(lists), path, exclude)
    return _read_folder(path, exclude)


def _without(parts: Parts, folder: Path, exclude: Sequence[str]) -> Parts:
    """The data set without the files that match `exclude` by name or by path below `folder`."""
    if not exclude:
        return parts
    root = os.path.realpath(folder)

    def kept(entry: Entry) -> bool:
        below = Path(os.path.relpath(entry.path, root))
        names = [str(Path(*below.parts[: i + 1])) for i in range(len(below.parts))]
        return not any(images.is_excluded(name.replace(os.sep, "/"), exclude) for name in names)

    named = {name: list(filter(kept, entries)) for name, entries in parts.named.items()}
    everything = replace(
        parts.all,
        entries=list(filter(kept, parts.all)),
        skipped=[entry.path for entry in parts.all if not kept(entry)],
    )
    return replace(parts, all=everything, named=named)


# -- folders


def _read_folder(root: Path, exclude: Sequence[str]) -> Parts:
    root = Path(os.path.realpath(root))
    try:
        found = images.find(root, exclude)
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror}") from None
    tops = {path.relative_to(root).parts[0] for path in found.images}
    parts = {top for top in tops if top.lower() in _PARTS and (root / top).is_dir()}
    rest = sorted(tops - parts)
    if rest and len(parts) > 1:
        raise DataError(
            f"{root} has {' and '.join(sorted(parts))}, which are parts of a data set, beside "
            f"{', '.join(rest[:3])}{' and more' if len(rest) > 3 else ''}: move those away, or "
            "name the folders one by one"
        )
    by_part: dict[str, list[Entry]] = {}
    notes = []
    if rest or not parts:
        entries = _labelled(root, found.images)
        loose = [path for path in found.images if path.parent == root]
        if loose and len(tops) > len(loose):
            notes.append(
                f"{root} has images beside its folders (the first is {loose[0].name}), so the "
                "folders were not taken as classes and give no labels; to have them, move these "
                "images into a folder"
            )
        labelled = any(entry.label is not None for entry in entries)
    else:
        for top in sorted(tops):
            below = [path for path in found.images if path.relative_to(root).parts[0] == top]
            by_part.setdefault(_PARTS[top.lower()], []).extend(_labelled(root / top, below))
        entries = sorted((e for part in by_part.values() for e in part), key=lambda e: e.path)
        labelled = True
    everything = Images(
        entries,
        "folder: all",
        root,
        found.others,
        found.unreadable,
        labelled=labelled,
        skipped=found.skipped,
        notes=notes,
    )
    return Parts("folder", everything, by_part)


def _labelled(root: Path, paths: Iterable[Path]) -> list[Entry]:
    """Entries labelled with the first folder below `root`; without labels if an image lies directly
    in `root`."""
    relative = [(path, path.relative_to(root).parts) for path in paths]
    plain = any(len(parts) == 1 for _, parts in relative)
    return [Entry(path, None if plain else parts[0]) for path, parts in relative]


# -- CSV


def _read_csv(path: Path) -> Parts:
    by_part: dict[str, list[Entry]] = {}
    everything: list[Entry] = []
    failed: list[Failure] = []
    try:
        text, encoding = _text_of(path)
        notes = [] if encoding == "utf-8" else [f"{path} was read as {encoding}: it is not UTF-8"]
        first = text.partition("\n")[0].strip()
        if first.lower().startswith("sep=") and len(first) == 5:  # Excel's own first line
            text, separator = text.partition("\n")[2], first[4]
        else:
            separator = _separator(first)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        columns = _Columns(path, [name.strip() for name in next(rows, [])])
        for row in rows:
            if not row:
                continue
            where = f"{path}, line {rows.line_num}"
            values = columns.values(row, where)
            if reason := _no_path(values["path"]):
                failed.append(Failure(printable(where), reason))
                continue
            entry, part = _csv_entry(values, columns.own, path.parent, where)
            everything.append(entry)
            if part:
                by_part.setdefault(part, []).append(entry)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from None
    if failed and not everything:
        raise DataError(f"{failed[0].path}: {failed[0].reason}")
    if by_part and sum(map(len, by_part.values())) < len(everything):
        raise DataError(
            f"{path}: some rows have a split and some have none; fill the column or remove it"
        )
    labelled = bool(set(columns.names) - {"path", "split", "box"})
    notes += columns.notes
    listed = Images(everything, "csv: all", labelled=labelled, failed=failed, notes=notes)
    return Parts("csv", listed, by_part)


def _text_of(path: Path) -> tuple[str, str]:
    """The text of a CSV and the encoding it was in: UTF-8, UTF-16 with its mark, or what Windows
    writes in Western Europe. Raises UnicodeDecodeError, csv.Error."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16"), "utf-8"
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        if b"\0" in data:
            raise
        return data.decode("cp1252"), "Windows-1252"


def _separator(header: str) -> str:
    """What separates the values: the first of , ; tab | that gives a column named path."""
    for separator in ",;\t|":
        [names] = [*csv.reader([header], delimiter=separator)] or [[]]
        if "path" in (name.strip().lower() for name in names):
            return separator
    return ","


class _Columns:
    """The columns of a CSV.

    names: the name of each, in order; those that wingbar reads itself in lower case, "" for a
        column without a name.
    own: the names that are kept with the items.
    notes: sentences on names that are easily confused.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.names = [name.lower() if name.lower() in _OWN_COLUMNS else name for name in header]
        if "path" not in self.names:
            raise DataError(
                f"{path} needs a column named path; it has "
                f"{', '.join(filter(None, header)) or 'none'}"
            )
        if odd := [name for name in self.names if '"' in name]:
            raise DataError(f"{path}: a column is named {odd[0]!r}; give it a name without quotes")
        named = [name for name in self.names if name]
        if twice := [name for name, count in Counter(named).items() if count > 1]:
            raise DataError(f"{path}: two columns are named {twice[0]}; rename or remove one")
        self.own = [name for name in named if name not in _OWN_COLUMNS]
        by_lower: dict[str, list[str]] = {}
        for name in self.own:
            by_lower.setdefault(name.lower(), []).append(name)
        self.notes = [
            f"{path} has columns {' and '.join(alike)}: filters tell them apart by their case"
            for alike in by_lower.values()
            if len(alike) > 1
        ]

    def values(self, row: Sequence[str], where: str) -> dict[str, str]:
        """The values of a row by column; missing ones are empty. Raises DataError for too many."""
        if any(value.strip() for value in row[len(self.names) :]):
            raise DataError(f"{where}: more values than the header has names")
        filled = [*row, *[""] * len(self.names)]
        return {name: value.strip() for name, value in zip(self.names, filled, strict=False)}


def _no_path(path: str) -> str | None:
    """Why the path of a row names no file; None if it may."""
    if not path:
        return "the path is empty"
    if "\0" in path:
        return "the path has a NUL byte in it"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        return f"{path}: URLs are not fetched; download the images and list their files"
    return None


def _csv_entry(
    values: Mapping[str, str], own: Sequence[str], folder: Path, where: str
) -> tuple[Entry, str]:
    """One row of a CSV: its entry, and its part or "". `own` names the columns that are kept;
    `where` names the row in error messages."""
    split = values.get("split", "").lower()
    if split and split not in _PARTS:
        raise DataError(f"{where}: no part is named {split!r}; use {', '.join(_PARTS)}")
    try:
        box = images.parse_box(values["box"]) if values.get("box") else None
    except ImageError as error:
        raise DataError(f"{where}: {error}") from None
    path = absolute(folder / values["path"])
    if "\\" in values["path"] and not os.path.lexists(path):  # as Windows writes paths
        path = absolute(folder / values["path"].replace("\\", "/"))
    columns = {name: values[name] for name in own}
    return Entry(path, values.get("label") or None, columns, box), _PARTS.get(split, "")


# -- hashing lists


def _list_files(folder: Path) -> dict[str, Path]:
    """The lists in a folder by part; empty unless there is one of queries and one to search, and
    all of them look like hashing lists."""
    files = {_PARTS[p.stem.lower()]: p for p in folder.glob("*.txt") if p.stem.lower() in _PARTS}
    if not all(_looks_like_list(path) for path in files.values()):
        return {}
    return files if {"test", "query"} & files.keys() and {"train", "gallery"} & files.keys() else {}


def _looks_like_list(path: Path) -> bool:
    """Whether the first line is a path and zeros and ones; text files of other kinds may lie
    beside images."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(100_000)
    return _ONE_HOT.fullmatch(first.strip()) is not None


def _read_lists(lists: Mapping[str, Path]) -> Parts:
    named = {part: list(_read_list(path)) for part, path in sorted(lists.items())}
    unique = {entry.path: entry for entries in named.values() for entry in entries}
    everything = sorted(unique.values(), key=lambda entry: entry.path)
    several = any(BETWEEN_LABELS in (entry.label or "") for entry in everything)
    return Parts("lists", Images(everything, "lists: all", multi_label=several), named)


def _read_list(path: Path) -> Iterator[Entry]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error})") from None
    classes = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        match = _ONE_HOT.fullmatch(line.strip())
        if match is None:
            raise DataError(
                f"{where}: expected a path and 0 or 1 for every class, as in images/1.jpg 0 0 1"
            )
        name, one_hot = match[1], match[2].split()
        classes = classes or len(one_hot)
        if len(one_hot) != classes:
            raise DataError(f"{where}: {len(one_hot)} classes, the first line has {classes}")
        marked = [str(i) for i, mark in enumerate(one_hot) if mark == "1"]
        if not marked:
            raise DataError(f"{where}: no class is marked; mark one with 1, or leave the line out")
        yield Entry(absolute(path.parent / name), joined_labels(marked))
