"""Read what people have: class folders, plain folders, CSV files, hashing lists and official layouts of known data sets, as
train, query and gallery; and draw the splits of the literature from them, by name."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np

from wingbar import images
from wingbar.errors import DataError, ImageError
from wingbar.evaluation.metrics import Truth
from wingbar.images import Box, parse_box

# Names that people give to the parts of a data set, and what wingbar calls them.
_OWN_COLUMNS = ("path", "label", "split", "box")  # of a CSV; all others are kept with the items
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
_ONE_HOT = re.compile(r"(.+?)((?:\s+[01])+)")  # a path, and zeros and ones
QUERY_SHARE = 0.2  # of each class, where a data set has no split of its own
UNSEEN_SHARE = 0.25  # of the classes, which `unseen` never trains on
QUERIES_EACH, TRAIN_EACH = 100, 500  # of each class, in 1k-5k-54k and 1k-5k-59k

Protocol = Literal["own", "10k-50k", "1k-5k-54k", "1k-5k-59k", "unseen"]
"""own: the data set's own parts, or a seeded draw where it has none.

10k-50k: its test images are queries, its training images both train and gallery (CIFAR-10 as DLBHC has it).
1k-5k-54k: of each class 100 images of train and test together are queries and 500 are for training; the others are the gallery.
1k-5k-59k: the same, with the training images in the gallery too.
unseen: a quarter of the classes is never trained on; their test images are searched for among their training images
(Sablayrolles et al., ICASSP 2017).
"""
PROTOCOLS: tuple[str, ...] = get_args(Protocol)


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
    """A list of images. `root` is the folder that was listed, None for a list that names files; `others` are its files
    that are no images and `unreadable` the folders below it that could not be listed. `labelled` is false where the
    source has no place for labels, so that having none says nothing."""

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
        return replace(self, entries=self.entries[i], root=None) if isinstance(i, slice) else self.entries[i]

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

    `train` is what a method may learn from, `gallery` what is searched, `query` what is searched for. `val` is a part
    that is neither, when the data set has one. `truth`, for revisited Oxford and Paris only, says for each query which rows
    of `gallery` are easy, hard or junk; there are no labels then.
    """

    train: Images
    query: Images
    gallery: Images
    val: Images | None
    protocol: str
    truth: Sequence[Truth] = ()


def read_dataset(path: str | os.PathLike[str], *, protocol: Protocol = "own", seed: int = 0) -> Dataset:
    """The data set at `path`: a folder, a CSV file, a folder of hashing lists, or a known data set as it is unpacked.

    - Folder: one folder a class, with or without `train/ val/ test/ query/ gallery/` (or `database/`) above them.
      Images lying directly in it make it a plain folder without labels.
    - CSV: columns `path` and, where there are, `label` and `split`; further columns are kept for filters.
      Paths are relative to the file.
    - Lists: `train.txt test.txt database.txt`, each line a path and a one-hot label.
    - Known data sets, such as CUB-200-2011 or CIFAR-10: see docs/data.md. Those whose pictures are not files are unpacked once
      into `wingbar-images/` beside them.

    Where there is no split, 20 % of each class, at least one image of a class of two, become queries, drawn with `seed`.
    `protocol` is how the parts are made of it, one of PROTOCOLS; `seed` also draws those that are random.
    Raises DataError when nothing is there, a line cannot be read or the protocol cannot be had of this data.
    """
    return _by_protocol(_read_parts(Path(path)), Path(path), protocol, seed)


def read_images(path: str | os.PathLike[str], split: str = "all", *, protocol: Protocol = "own", seed: int = 0) -> Images:
    """The images at `path` as one list: all of them, or one part ("train", "query", "gallery", "val", "test").

    `path` is what `read_dataset` takes, or a single image file. A `protocol` has the parts train, query and gallery.
    Raises DataError.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() not in (".csv", ".txt"):
        if split != "all" or protocol != "own":
            raise DataError(f"{path} is one image and has no part {split!r}")
        return Images([Entry(absolute(path))], protocol="one file", labelled=False)
    parts = _read_parts(path)
    if protocol == "own" and split == "all":
        return parts.all
    if protocol == "own" and split in parts.named:
        return parts.images(split)
    dataset = _by_protocol(parts, path, protocol, seed)
    chosen = {"train": dataset.train, "query": dataset.query, "gallery": dataset.gallery, "val": dataset.val}.get(split)
    if chosen is None and protocol != "own":
        raise DataError(f"protocol {protocol} makes the parts train, query and gallery: choose one of them, not {split!r}")
    if chosen is None:
        have = ", ".join(parts.named) or "no parts of its own; train, query and gallery can be drawn from it"
        raise DataError(f"{path} has no part {split!r}: it has {have}")
    return chosen


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path by which an index knows a file: its folder without links, and its own name."""
    full = os.path.abspath(path)
    return Path(os.path.realpath(os.path.dirname(full)), os.path.basename(full))


def has_part(path: str | os.PathLike[str], part: str) -> bool:
    """Whether the data set at `path` has a part of this name ("train", "val", "test", "query" or "gallery")."""
    return part in _read_parts(Path(path)).named


@dataclass(frozen=True)
class Parts:
    """What was found: all images, and those of each named part ("train", "val", "test", "query", "gallery"). `kind` is what
    it is; `truth` is as in Dataset."""

    kind: str
    all: Images
    named: Mapping[str, Sequence[Entry]]
    truth: Sequence[Truth] = ()

    def images(self, name: str) -> Images:
        """The images of a named part."""
        return replace(self.all, entries=self.named[name], protocol=f"{self.kind}: {name}")


def _read_parts(path: Path) -> Parts:
    if not path.exists():
        raise DataError(f"there is no {path}")
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _read_csv(path)
        raise DataError(f"{path} is not a data set: name a folder, a CSV file, or a folder with train.txt and test.txt")
    from wingbar.data import layouts  # which needs what is defined here

    official = layouts.find(path)
    if official is not None:
        return layouts.read(official)
    if _list_files(path):
        return _read_lists(path)
    return _read_folder(path)


def _as_dataset(parts: Parts, path: Path, seed: int) -> Dataset:
    named = parts.named
    query = next((name for name in ("query", "test", "val") if name in named), None)
    if not len(parts.all):
        raise DataError(f"{path} holds no images")
    if query is None or set(named) == {query}:
        return _drawn(parts, path, seed)
    gallery = next(name for name in ("gallery", "train", "val", "test") if name in named and name != query)
    train = "train" if "train" in named else gallery
    protocol = f"{parts.kind}: query={query}, gallery={gallery}"
    val = parts.images("val") if "val" in named and "val" not in (query, gallery) else None
    return Dataset(parts.images(train), parts.images(query), parts.images(gallery), val, protocol, parts.truth)


def _drawn(parts: Parts, path: Path, seed: int) -> Dataset:
    """A seeded split of a data set that has none: QUERY_SHARE of each class are queries, the rest train and gallery."""
    entries = parts.all.entries
    if len(entries) < 2:
        raise DataError(f"{path} holds one image: two are needed, a query and a gallery")
    by_label: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        by_label.setdefault(entry.label or "", []).append(i)
    rng = np.random.default_rng(seed)
    queries: set[int] = set()
    for label in sorted(by_label):
        members = by_label[label]
        count = min(max(1, round(QUERY_SHARE * len(members))), len(members) - 1)
        queries.update(np.array(members)[rng.permutation(len(members))[:count]].tolist())
    protocol = f"{parts.kind}: no split, {QUERY_SHARE:.0%} of each class drawn as queries (seed {seed})"
    rest = replace(parts.all, entries=[e for i, e in enumerate(entries) if i not in queries], protocol=protocol)
    drawn = replace(parts.all, entries=[e for i, e in enumerate(entries) if i in queries], protocol=protocol)
    return Dataset(rest, drawn, rest, None, protocol)


# -- protocols by name


def _by_protocol(parts: Parts, path: Path, protocol: str, seed: int) -> Dataset:
    if protocol == "own":
        return _as_dataset(parts, path, seed)
    if protocol not in PROTOCOLS:
        raise DataError(f"no protocol is named {protocol!r}: have {', '.join(PROTOCOLS)}")
    if not any(entry.label is not None for entry in parts.all):
        raise DataError(f"{path} has no labels: protocol {protocol} is made of classes")
    if protocol == "10k-50k":
        return _test_against_train(parts, path)
    if protocol == "unseen":
        return _unseen(parts, path, seed)
    return _drawn_of_each_class(parts, path, protocol, seed)


def _test_against_train(parts: Parts, path: Path) -> Dataset:
    """The official test images against the official training images, whatever other parts there are."""
    if not {"train", "test"} <= parts.named.keys():
        raise DataError(f"{path} needs a train and a test part for protocol 10k-50k: it has {', '.join(parts.named) or 'none'}")
    train, test = parts.named["train"], parts.named["test"]
    protocol = f"{parts.kind}: 10k-50k, its {len(test):,} test images as queries, its {len(train):,} training images as gallery"
    return _dataset(parts, protocol, train, test, train)


def _drawn_of_each_class(parts: Parts, path: Path, protocol: str, seed: int) -> Dataset:
    """QUERIES_EACH queries and TRAIN_EACH training images of each class, drawn from all images; the gallery is the rest."""
    entries = [entry for entry in parts.all if entry.label is not None]
    by_label: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        by_label.setdefault(str(entry.label), []).append(i)
    rng = np.random.default_rng(seed)
    queries: set[int] = set()
    train: set[int] = set()
    for label in sorted(by_label):
        members = by_label[label]
        if len(members) <= QUERIES_EACH + TRAIN_EACH:
            raise DataError(
                f"protocol {protocol} takes {QUERIES_EACH} queries and {TRAIN_EACH} training images of each class and searches "
                f"the rest: {path} has only {len(members)} of {label!r}"
            )
        order = np.array(members)[rng.permutation(len(members))]
        queries.update(order[:QUERIES_EACH].tolist())
        train.update(order[QUERIES_EACH : QUERIES_EACH + TRAIN_EACH].tolist())
    without = protocol == "1k-5k-54k"
    gallery = [e for i, e in enumerate(entries) if i not in queries and not (without and i in train)]
    words = (
        f"{parts.kind}: {protocol} (seed {seed}), {QUERIES_EACH} queries and {TRAIN_EACH} training images of each of "
        f"{len(by_label)} classes drawn from all images, gallery the {len(gallery):,} that are no queries"
        f"{' and not trained on' if without else ', those trained on too'}"
    )
    chosen = [[e for i, e in enumerate(entries) if i in part] for part in (train, queries)]
    return _dataset(parts, words, chosen[0], chosen[1], gallery)


def _unseen(parts: Parts, path: Path, seed: int) -> Dataset:
    """A seeded share of the classes is for searching only, the others for training only."""
    own = _as_dataset(parts, path, seed)
    labels = sorted({entry.label for entry in parts.all if entry.label is not None})
    count = max(1, round(UNSEEN_SHARE * len(labels)))
    if count == len(labels):
        raise DataError(f"{path} has one class: protocol unseen needs some to train on and others to search for")
    unseen = {labels[i] for i in np.random.default_rng(seed).permutation(len(labels))[:count]}
    train = [entry for entry in own.train if entry.label is not None and entry.label not in unseen]
    query = [entry for entry in own.query if entry.label in unseen]
    gallery = [entry for entry in own.gallery if entry.label in unseen]
    words = (
        f"{own.protocol}; unseen (seed {seed}): queries and gallery of {count} of {len(labels)} classes, "
        f"training on the {len(labels) - count} others only"
    )
    return _dataset(parts, words, train, query, gallery)


def _dataset(parts: Parts, protocol: str, train: Sequence[Entry], query: Sequence[Entry], gallery: Sequence[Entry]) -> Dataset:
    """A data set of these entries. Each list keeps the protocol's line and says which part it is."""
    made: dict[str, Images] = {}
    for name, entries in (("train", train), ("query", query), ("gallery", gallery)):
        if not entries:
            raise DataError(f"nothing would be left for {name} ({protocol})")
        made[name] = replace(parts.all, entries=entries, protocol=f"{protocol}: {name}")
    return Dataset(made["train"], made["query"], made["gallery"], None, protocol)


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
            f"{root} has {' and '.join(sorted(parts))}, which are parts of a data set, beside {', '.join(rest[:3])}"
            f"{' and more' if len(rest) > 3 else ''}: move those away, or name the folders one by one"
        )
    if rest or not parts:
        everything = _labelled(root, found.images)
        labelled = any(entry.label is not None for entry in everything)
        return Parts("folder", Images(everything, "folder: all", root, found.others, found.unreadable, labelled), {})
    by_part: dict[str, list[Entry]] = {}
    for top in sorted(tops):
        below = [path for path in found.images if path.relative_to(root).parts[0] == top]
        by_part.setdefault(_PARTS[top.lower()], []).extend(_labelled(root / top, below))
    everything = sorted((e for entries in by_part.values() for e in entries), key=lambda e: e.path)
    return Parts("folder", Images(everything, "folder: all", root, found.others, found.unreadable), by_part)


def _labelled(root: Path, paths: Iterable[Path]) -> list[Entry]:
    """Entries labelled with the first folder below `root`; without labels when an image lies directly in `root`."""
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
                raise DataError(f"{path} needs a column named path; it has {', '.join(header) or 'none'}")
            if odd := [name for name in header if '"' in name or not name]:
                raise DataError(f"{path}: a column is named {odd[0]!r}; give it a name without quotes")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                entry, part = _csv_entry(row, header, path.parent, where)
                everything.append(entry)
                if part:
                    by_part.setdefault(part, []).append(entry)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from None
    if by_part and sum(map(len, by_part.values())) < len(everything):
        raise DataError(f"{path}: some rows have a split and some have none; fill the column or remove it")
    labelled = bool(set(header) - {"path", "split", "box"})
    return Parts("csv", Images(everything, "csv: all", labelled=labelled), by_part)


def _csv_entry(row: Mapping[str, str | None], header: Mapping[str, str], folder: Path, where: str) -> tuple[Entry, str]:
    """One row of a CSV: its entry, and its part or ""."""
    if None in row:
        raise DataError(f"{where}: more values than the header has names")
    values = {name: (row[original] or "").strip() for name, original in header.items()}
    if not values["path"]:
        raise DataError(f"{where}: the path is empty")
    split = values.get("split", "").lower()
    if split and split not in _PARTS:
        raise DataError(f"{where}: no part is named {split!r}; use {', '.join(_PARTS)}")
    columns = {original.strip(): values[name] for name, original in header.items() if name not in _OWN_COLUMNS}
    if "\0" in values["path"]:
        raise DataError(f"{where}: the path has a NUL byte in it")
    path = absolute(folder / values["path"])
    try:
        box = parse_box(values["box"]) if values.get("box") else None
    except ImageError as error:
        raise DataError(f"{where}: {error}") from None
    return Entry(path, values.get("label") or None, columns, box), _PARTS.get(split, "")


# -- hashing lists


def _list_files(folder: Path) -> dict[str, Path]:
    """The list files of a folder by part, when it has a test.txt or query.txt and one to search, and they look like it."""
    files = {_PARTS[p.stem.lower()]: p for p in folder.glob("*.txt") if p.stem.lower() in _PARTS}
    if not all(_looks_like_list(path) for path in files.values()):
        return {}
    return files if {"test", "query"} & files.keys() and {"train", "gallery"} & files.keys() else {}


def _looks_like_list(path: Path) -> bool:
    """Whether the first line ends as a line of a list does. Lists of another kind may lie beside images."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(100_000)
    return _ONE_HOT.fullmatch(first.strip()) is not None


def _read_lists(folder: Path) -> Parts:
    named = {part: list(_read_list(path)) for part, path in sorted(_list_files(folder).items())}
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
            raise DataError(f"{where}: expected a path and a one-hot label, as in images/1.jpg 0 0 1")
        name, one_hot = match[1], match[2].split()
        classes = classes or len(one_hot)
        if len(one_hot) != classes:
            raise DataError(f"{where}: {len(one_hot)} classes, the first line has {classes}")
        if one_hot.count("1") != 1:
            raise DataError(f"{where}: {one_hot.count('1')} classes are marked; lists of several labels are not supported")
        yield Entry(absolute(path.parent / name), str(one_hot.index("1")))
