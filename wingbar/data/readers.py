"""Read the data sets that people have: class folders, plain folders, CSV files, hashing lists, and
known data sets straight from the unpacked archive."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wingbar import images
from wingbar.data import layouts
from wingbar.data.protocols import Protocol, apply_protocol
from wingbar.data.records import Dataset, Entry, Images, Parts, absolute
from wingbar.errors import DataError, ImageError

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
    path: str | os.PathLike[str], *, protocol: Protocol = "own", seed: int = 0
) -> Dataset:
    """The data set at `path`: a folder, a CSV file, a folder of hashing lists, or a known data set
    straight from the unpacked archive.

    - Folder: one folder per class, with or without `train/ val/ test/ query/ gallery/` (or
      `database/`) above them. With images directly in it, it is a plain folder without labels.
    - CSV: a column `path` and optionally `label`, `split` and `box`; further columns are kept for
      filters. Paths are relative to the file.
    - Lists: `train.txt test.txt database.txt`, each line a path and a one-hot label.
    - Known data sets, such as CUB-200-2011 or CIFAR-10: see docs/data.md. Pictures that are stored
      in arrays are unpacked once into `wingbar-images/` beside them.

    `protocol`, one of PROTOCOLS, says how train, query and gallery are made; `seed` draws what it
    leaves to chance. Without a split of its own, 20 % of each class become queries, at least one
    image of a class of two. Raises DataError if nothing is there, a line cannot be read or the data
    set does not fit the protocol.
    """
    return apply_protocol(read_parts(Path(path)), Path(path), protocol, seed)


def read_images(
    path: str | os.PathLike[str], split: str = "all", *, protocol: Protocol = "own", seed: int = 0
) -> Images:
    """The images at `path` as one list: all of them, or one part ("train", "query", "gallery",
    "val", "test").

    `path` is what `read_dataset` takes, or a single image file. A `protocol` other than "own" has
    the parts train, query and gallery. Raises DataError.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() not in (".csv", ".txt"):
        if split != "all" or protocol != "own":
            raise DataError(f"{path} is one image and has no part {split!r}")
        return Images([Entry(absolute(path))], protocol="one file", labelled=False)
    parts = read_parts(path)
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
    raise DataError(f"{path} has no part {split!r}: it has {have}")


def has_part(path: str | os.PathLike[str], part: str) -> bool:
    """Whether the data set at `path` has a part of its own of this name ("train", "val", "test",
    "query" or "gallery")."""
    return part in read_parts(Path(path)).named


def read_parts(path: Path) -> Parts:
    """The data set at `path` with the parts of its own, before a protocol. Raises DataError."""
    if not path.exists():
        raise DataError(f"there is no {path}")
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _read_csv(path)
        raise DataError(
            f"{path} is not a data set: name a folder, a CSV file, or a folder with train.txt and "
            "test.txt"
        )
    known = layouts.find(path)
    if known is not None:
        return layouts.read(known)
    if lists := _list_files(path):
        return _read_lists(lists)
    return _read_folder(path)


# -- folders


def _read_folder(root: Path) -> Parts:
    root = Path(os.path.realpath(root))
    try:
        found = images.find(root)
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
    if rest or not parts:
        entries = _labelled(root, found.images)
        labelled = any(entry.label is not None for entry in entries)
    else:
        for top in sorted(tops):
            below = [path for path in found.images if path.relative_to(root).parts[0] == top]
            by_part.setdefault(_PARTS[top.lower()], []).extend(_labelled(root / top, below))
        entries = sorted((e for part in by_part.values() for e in part), key=lambda e: e.path)
        labelled = True
    everything = Images(
        entries, "folder: all", root, found.others, found.unreadable, labelled=labelled
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
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = {name.strip().lower(): name for name in reader.fieldnames or []}
            if "path" not in header:
                raise DataError(
                    f"{path} needs a column named path; it has {', '.join(header) or 'none'}"
                )
            if odd := [name for name in header if '"' in name or not name]:
                raise DataError(
                    f"{path}: a column is named {odd[0]!r}; give it a name without quotes"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                entry, part = _csv_entry(row, header, path.parent, where)
                everything.append(entry)
                if part:
                    by_part.setdefault(part, []).append(entry)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from None
    if by_part and sum(map(len, by_part.values())) < len(everything):
        raise DataError(
            f"{path}: some rows have a split and some have none; fill the column or remove it"
        )
    labelled = bool(set(header) - {"path", "split", "box"})
    return Parts("csv", Images(everything, "csv: all", labelled=labelled), by_part)


def _csv_entry(
    row: Mapping[str, str | None], header: Mapping[str, str], folder: Path, where: str
) -> tuple[Entry, str]:
    """One row of a CSV: its entry, and its part or "". `header` maps column names in lower case to
    those of the file; `where` names the row in error messages."""
    if None in row:
        raise DataError(f"{where}: more values than the header has names")
    values = {name: (row[original] or "").strip() for name, original in header.items()}
    if not values["path"]:
        raise DataError(f"{where}: the path is empty")
    if "\0" in values["path"]:
        raise DataError(f"{where}: the path has a NUL byte in it")
    split = values.get("split", "").lower()
    if split and split not in _PARTS:
        raise DataError(f"{where}: no part is named {split!r}; use {', '.join(_PARTS)}")
    try:
        box = images.parse_box(values["box"]) if values.get("box") else None
    except ImageError as error:
        raise DataError(f"{where}: {error}") from None
    columns = {
        original.strip(): values[name]
        for name, original in header.items()
        if name not in _OWN_COLUMNS
    }
    path = absolute(folder / values["path"])
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
    """Whether the first line is a path and a one-hot label; text files of other kinds may lie
    beside images."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(100_000)
    return _ONE_HOT.fullmatch(first.strip()) is not None


def _read_lists(lists: Mapping[str, Path]) -> Parts:
    named = {part: list(_read_list(path)) for part, path in sorted(lists.items())}
    unique = {entry.path: entry for entries in named.values() for entry in entries}
    everything = sorted(unique.values(), key=lambda entry: entry.path)
    return Parts("lists", Images(everything, "lists: all"), named)


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
                f"{where}: expected a path and a one-hot label, as in images/1.jpg 0 0 1"
            )
        name, one_hot = match[1], match[2].split()
        classes = classes or len(one_hot)
        if len(one_hot) != classes:
            raise DataError(f"{where}: {len(one_hot)} classes, the first line has {classes}")
        if one_hot.count("1") != 1:
            raise DataError(
                f"{where}: {one_hot.count('1')} classes are marked; lists with several labels per "
                "image are not supported"
            )
        yield Entry(absolute(path.parent / name), str(one_hot.index("1")))
