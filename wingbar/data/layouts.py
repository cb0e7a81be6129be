"""Known data sets straight from the unpacked archive: recognised by their lists, read with their
official split.

Each reader gives Parts whose `kind` is the name of the data set; if the number of images is not the
official one, `kind` says so, because results on a part of a data set cannot be compared. Pictures
that are stored in arrays (CIFAR-10, MNIST) are unpacked once into `wingbar-images/` beside them.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wingbar import images
from wingbar.data.records import Entry, Images, Parts, Truth
from wingbar.data.unpickle import numbers, read_pickle
from wingbar.errors import DataError, one_line
from wingbar.parallel import Progress, no_progress

IMAGES: dict[str, int] = {
    "CUB-200-2011": 5_994 + 5_794,
    "NABirds": 23_929 + 24_633,
    "FGVC-Aircraft": 6_667 + 3_333,
    "Food-101": 75_750 + 25_250,
    "VegFru": 29_200 + 116_931 + 14_600,
    "Stanford Dogs": 12_000 + 8_580,
    "CIFAR-10": 50_000 + 10_000,
    "MNIST": 60_000 + 10_000,
    "Fashion-MNIST": 60_000 + 10_000,
    "ROxford5k": 70 + 4_993,
    "RParis6k": 70 + 6_322,
    "GLDv2-clean": 1_580_470,
}
"""The official number of images of each: train, test and validation, or queries and gallery."""

PICTURES = "wingbar-images"  # the folder into which pictures stored in arrays are unpacked
_WRAPPERS = 2  # folders that an archive may have around its content
_STALE = 3600.0  # seconds after which the remains of a killed run are removed


@dataclass(frozen=True)
class Layout:
    """How a known data set is recognised and read.

    looks_like: whether a folder holds it
    read: all of it, from such a folder
    unpack: writes its pictures into PICTURES and gives that folder; None if they are files already
    """

    looks_like: Callable[[Path], bool]
    read: Callable[[Path], Parts]
    unpack: Callable[[Path, Progress], Path] | None = None


@dataclass(frozen=True)
class Found:
    """A known data set on the disk.

    name: its key in LAYOUTS
    folder: the folder with its lists, links resolved
    """

    name: str
    folder: Path


def find(folder: Path) -> Found | None:
    """The known data set in `folder`, or in the only folder inside it, as archives often have one;
    None if there is none."""
    try:
        for _ in range(_WRAPPERS + 1):
            for name, layout in LAYOUTS.items():
                if layout.looks_like(folder):
                    return Found(name, Path(os.path.realpath(folder)))
            inside = [
                path
                for path in folder.iterdir()
                if path.is_dir() and not images.is_skipped(path.name)
            ]
            if len(inside) != 1:
                return None
            folder = inside[0]
    except OSError:  # whoever reads the folder next reports it
        return None
    return None


def read(found: Found) -> Parts:
    """All of a known data set. Raises DataError, with the next step, if lists contradict each other
    or images are missing."""
    return LAYOUTS[found.name].read(found.folder)


def prepare(found: Found, progress: Progress = no_progress) -> None:
    """Unpack pictures that are stored in arrays, unless that was done before; nothing to do for
    data sets whose pictures are files. Without this the first `read` unpacks them.

    `progress` counts pictures. Raises DataError.
    """
    unpack = LAYOUTS[found.name].unpack
    if unpack is not None:
        unpack(found.folder, progress)


# -- what the readers share


def _has(folder: Path, *names: str) -> bool:
    return all((folder / name).is_file() for name in names)


def _parts(
    name: str,
    named: Mapping[str, Sequence[Entry]],
    truth: Sequence[Truth] = (),
    labelled: bool = True,
) -> Parts:
    """The Parts of the data set `name`; all of its images in the order of their paths."""
    unique = {entry.path: entry for entries in named.values() for entry in entries}
    everything = sorted(unique.values(), key=lambda entry: str(entry.path))
    official = IMAGES.get(name, len(everything))
    kind = (
        name
        if len(everything) == official
        else f"{name} ({len(everything):,} of {official:,} images)"
    )
    return Parts(kind, Images(everything, f"{kind}: all", labelled=labelled), named, truth)


def _complete(folder: Path, named: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """`named` as it is. Raises DataError if a part is empty or an image is missing."""
    if empty := [part for part, entries in named.items() if not entries]:
        raise DataError(
            f"{folder}: the list of its {empty[0]} images is empty: unpack the archive again"
        )
    entries = [entry for part in named.values() for entry in part]
    missing = [entry.path for entry in entries if not os.path.isfile(entry.path)]
    if missing:
        raise DataError(
            f"{folder}: {len(missing):,} of {len(entries):,} listed images are missing, the first "
            f"is {missing[0]}: unpack the whole archive here"
        )
    return named


def _lines(path: Path) -> list[tuple[str, str]]:
    """The lines of a list that are not empty, each with its place for error messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 ({error}): unpack the archive again"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): unpack the archive again"
        ) from None
    return [
        (line.strip(), f"{path}, line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]


def _pairs(path: Path) -> dict[str, str]:
    """The values of a list by name; each line is a name, a space and a value."""
    found: dict[str, str] = {}
    for line, where in _lines(path):
        name, _, value = line.partition(" ")
        if not value.strip():
            raise DataError(f"{where}: expected a name and a value, not {line[:80]!r}")
        if name in found:
            raise DataError(f"{where}: {name} appears a second time")
        found[name] = value.strip()
    return found


# -- CUB-200-2011 (Wah et al. 2011), and NABirds (Van Horn et al., CVPR 2015), which adds a
# hierarchy to the same lists

_BIRD_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


def _looks_like_cub(folder: Path) -> bool:
    return _has(folder, "images.txt", "train_test_split.txt") and not _has(folder, "hierarchy.txt")


def _looks_like_nabirds(folder: Path) -> bool:
    return _has(folder, "images.txt", "train_test_split.txt", "hierarchy.txt")


def _read_cub(folder: Path) -> Parts:
    return _parts("CUB-200-2011", _read_birds(folder))


def _read_nabirds(folder: Path) -> Parts:
    return _parts("NABirds", _read_birds(folder))


def _read_birds(folder: Path) -> dict[str, list[Entry]]:
    paths, class_of, is_train, names = (_pairs(folder / name) for name in _BIRD_LISTS)
    boxes = _pairs(folder / "bounding_boxes.txt") if _has(folder, "bounding_boxes.txt") else {}
    for name, values in (("image_class_labels.txt", class_of), ("train_test_split.txt", is_train)):
        if values.keys() != paths.keys():
            raise DataError(
                f"{folder}: images.txt has {len(paths):,} images and {name} {len(values):,}, or "
                "different ones: unpack the archive again"
            )
    labels = _class_names(names, set(class_of.values()))
    named: dict[str, list[Entry]] = {"train": [], "test": []}
    for image, path in paths.items():
        if class_of[image] not in labels:
            raise DataError(
                f"{folder}: image {image} is of class {class_of[image]}, which classes.txt does "
                "not have"
            )
        if is_train[image] not in ("0", "1"):
            raise DataError(
                f"{folder / 'train_test_split.txt'}: image {image} has {is_train[image]!r}, not 0 "
                "or 1"
            )
        columns = {"bounding_box": ",".join(boxes[image].split())} if image in boxes else {}
        part = "train" if is_train[image] == "1" else "test"
        named[part].append(Entry(folder / "images" / path, labels[class_of[image]], columns))
    return _complete(folder, named)


def _class_names(names: Mapping[str, str], used: set[str]) -> dict[str, str]:
    """The names of the classes in use by number; classes that share a name (NABirds has ages and
    sexes) keep their number in it."""
    counts: dict[str, int] = {}
    for number, name in names.items():
        if number in used:
            counts[name] = counts.get(name, 0) + 1
    return {
        number: name if counts[name] == 1 else f"{name} ({number})"
        for number, name in names.items()
        if number in used
    }


# -- FGVC-Aircraft (Maji et al. 2013), by variant


def _looks_like_aircraft(folder: Path) -> bool:
    return _has(folder / "data", "images_variant_test.txt") or _has(
        folder, "images_variant_test.txt"
    )


def _read_aircraft(folder: Path) -> Parts:
    data = folder / "data" if _has(folder / "data", "images_variant_test.txt") else folder
    parts = {"train": "trainval", "test": "test"}
    named = {
        part: [
            Entry(data / "images" / f"{image}.jpg", variant)
            for image, variant in _pairs(data / file).items()
        ]
        for part, file in ((part, f"images_variant_{name}.txt") for part, name in parts.items())
    }
    return _parts("FGVC-Aircraft", _complete(folder, named))


# -- Food-101 (Bossard et al., ECCV 2014)


def _looks_like_food(folder: Path) -> bool:
    lists = (folder / "meta" / "train.json", folder / "meta" / "train.txt")
    return _has(folder / "meta", "classes.txt") and any(file.is_file() for file in lists)


def _read_food(folder: Path) -> Parts:
    named = {part: _read_food_part(folder, part) for part in ("train", "test")}
    return _parts("Food-101", _complete(folder, named))


def _read_food_part(folder: Path, part: str) -> list[Entry]:
    file = folder / "meta" / f"{part}.json"
    if file.is_file():
        try:
            names = [
                str(name)
                for of_class in json.loads(file.read_bytes()).values()
                for name in of_class
            ]
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{file} cannot be read ({error}): unpack the archive again") from None
    else:
        names = [line for line, _ in _lines(file.with_suffix(".txt"))]
    for name in names:
        if name.count("/") != 1:
            raise DataError(
                f"{folder / 'meta'}, {part}: expected class/image, not {name[:80]!r}: unpack the "
                "archive again"
            )
    return [Entry(folder / "images" / f"{name}.jpg", name.split("/")[0]) for name in names]


# -- VegFru (Hou et al., ICCV 2017), by its 292 subordinate classes


def _looks_like_vegfru(folder: Path) -> bool:
    return _has(folder / "vegfru_list", "vegfru_train.txt")


def _read_vegfru(folder: Path) -> Parts:
    root = folder / "images" if (folder / "images").is_dir() else folder
    named: dict[str, list[Entry]] = {}
    for part in ("train", "val", "test"):
        file = folder / "vegfru_list" / f"vegfru_{part}.txt"
        if part != "val" or file.is_file():
            named[part] = [_vegfru_entry(root, line, where) for line, where in _lines(file)]
    return _parts("VegFru", _complete(folder, named))


def _vegfru_entry(root: Path, line: str, where: str) -> Entry:
    path, _, number = line.rpartition(" ")
    if path.count("/") != 2 or not number.isdecimal():
        raise DataError(
            f"{where}: expected veg200_images/class/image.jpg and a number, not {line[:80]!r}"
        )
    return Entry(root / path, path.split("/")[1])


# -- Stanford Dogs (Khosla et al. 2011)


def _looks_like_dogs(folder: Path) -> bool:
    return _has(folder, "train_list.mat")


def _read_dogs(folder: Path) -> Parts:
    named = {part: _read_dogs_part(folder, f"{part}_list.mat") for part in ("train", "test")}
    return _parts("Stanford Dogs", _complete(folder, named))


def _read_dogs_part(folder: Path, name: str) -> list[Entry]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f"{folder / name} needs SciPy to be read: run pip install 'wingbar[train]' or pip "
            "install scipy"
        ) from None
    try:
        values = loadmat(folder / name, squeeze_me=True, variable_names=["file_list", "labels"])
        files = [str(file) for file in np.atleast_1d(values["file_list"])]
        count = np.atleast_1d(values["labels"]).size
    except Exception as error:  # SciPy raises many kinds on foreign bytes
        raise DataError(
            f"{folder / name} cannot be read ({one_line(error)}): unpack lists.tar again"
        ) from None
    if count != len(files) or not all(file.count("/") == 1 for file in files):
        raise DataError(
            f"{folder / name} has {len(files):,} files and {count:,} labels, or unknown paths: "
            "unpack lists.tar again"
        )
    return [Entry(folder / "Images" / file, file.split("/")[0]) for file in files]


# -- revisited Oxford and Paris (Radenovic et al., CVPR 2018)

_REVISITED = {"ROxford5k": "gnd_roxford5k.pkl", "RParis6k": "gnd_rparis6k.pkl"}


def _looks_like_oxford(folder: Path) -> bool:
    return _has(folder, _REVISITED["ROxford5k"])


def _looks_like_paris(folder: Path) -> bool:
    return _has(folder, _REVISITED["RParis6k"])


def _read_oxford(folder: Path) -> Parts:
    return _read_revisited(folder, "ROxford5k")


def _read_paris(folder: Path) -> Parts:
    return _read_revisited(folder, "RParis6k")


def _read_revisited(folder: Path, name: str) -> Parts:
    """Queries with their boxes, the gallery, and the Truth of each query; there are no labels."""
    file = folder / _REVISITED[name]
    given = read_pickle(file)
    try:
        gallery, queries, truths = list(given["imlist"]), list(given["qimlist"]), list(given["gnd"])
        boxes = [_box([float(value) for value in numbers(truth["bbx"])]) for truth in truths]
        rows = [
            {key: [int(row) for row in numbers(truth[key])] for key in ("easy", "hard", "junk")}
            for truth in truths
        ]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(
            f"{file} is not the ground truth of {name} ({one_line(error)}): fetch it again"
        ) from None
    if len(queries) != len(truths):
        raise DataError(
            f"{file} has {len(queries)} queries and {len(truths)} ground truths: fetch it again"
        )
    if wrong := [
        row
        for truth in rows
        for part in truth.values()
        for row in part
        if not 0 <= row < len(gallery)
    ]:
        raise DataError(
            f"{file} names image {wrong[0]}, its gallery has {len(gallery):,}: fetch it again"
        )
    by_stem = {path.stem: path for path in reversed(images.find(folder).images)}
    paths = [by_stem.get(str(name).removesuffix(".jpg")) for name in (*queries, *gallery)]
    found = [path for path in paths if path is not None]
    if len(found) < len(paths):
        missing = next(
            name for name, path in zip((*queries, *gallery), paths, strict=True) if path is None
        )
        raise DataError(
            f"{folder}: {len(paths) - len(found):,} of {len(paths):,} images are missing, the "
            f"first is {missing}.jpg: unpack the images into {folder / 'jpg'}"
        )
    named = {
        "query": [Entry(path, box=box) for path, box in zip(found, boxes, strict=False)],
        "gallery": [Entry(path) for path in found[len(queries) :]],
    }
    return _parts(name, named, [Truth(**truth) for truth in rows], labelled=False)


def _box(corners: Sequence[float]) -> images.Box:
    """x, y, width, height in whole pixels from left, top, right, bottom; clipped to the picture on
    its left and upper side."""
    left, top, right, bottom = (max(0, round(value)) for value in corners)
    return left, top, max(0, right - left), max(0, bottom - top)


# -- Google Landmarks v2, the cleaned training set (Yokoo et al. 2020)


def _looks_like_landmarks(folder: Path) -> bool:
    return _has(folder, "train_clean.csv")


def _read_landmarks(folder: Path) -> Parts:
    """Images are at a/b/c/abc….jpg below train/, or below the folder itself."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    file = folder / "train_clean.csv"
    entries: list[Entry] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            for row in csv.DictReader(opened):
                for image in row["images"].split():
                    entries.append(
                        Entry(
                            root / image[0] / image[1] / image[2] / f"{image}.jpg",
                            row["landmark_id"],
                        )
                    )
    except (csv.Error, UnicodeDecodeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(
            f"{file} needs the columns landmark_id and images ({one_line(error)}): fetch it again"
        ) from None
    return _parts("GLDv2-clean", _complete(folder, {"train": entries}))


# -- CIFAR-10 (Krizhevsky 2009), the version for Python

_CIFAR = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def _looks_like_cifar(folder: Path) -> bool:
    return _has(folder, "batches.meta", "data_batch_1")


def _read_cifar(folder: Path) -> Parts:
    return _parts("CIFAR-10", _read_pictures(_unpack_cifar(folder, no_progress)))


def _unpack_cifar(folder: Path, progress: Progress) -> Path:
    if (folder / PICTURES).is_dir():
        return folder / PICTURES
    try:
        names = [str(name) for name in read_pickle(folder / "batches.meta")["label_names"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'batches.meta'} has no label_names ({one_line(error)}): unpack the "
            "archive again"
        ) from None
    batches = {
        part: [_cifar_batch(folder / file) for file in files] for part, files in _CIFAR.items()
    }
    total = sum(len(pixels) for of_part in batches.values() for pixels, _ in of_part)

    def pictures() -> Iterator[_Picture]:
        for part, of_part in batches.items():
            number = 0
            for pixels, labels in of_part:
                for picture, label in zip(pixels, labels, strict=True):
                    yield _Picture(part, _name_of(names, label, folder), number, picture)
                    number += 1

    return _unpack_pictures(folder, pictures(), total, progress)


def _cifar_batch(file: Path) -> tuple[NDArray[np.uint8], list[int]]:
    """Pixels [n, 32, 32, 3] uint8 and n labels of one batch; a row of it is the red, the green and
    the blue plane."""
    batch = read_pickle(file)
    try:
        rows, labels = (
            np.asarray(numbers(batch["data"])),
            [int(label) for label in numbers(batch["labels"])],
        )
        if (
            rows.dtype != np.uint8
            or rows.ndim != 2
            or rows.shape[1] != 3072
            or len(rows) != len(labels)
        ):
            raise ValueError(f"{len(labels)} labels and data {rows.shape} of {rows.dtype}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{file} is not a batch of CIFAR-10 ({one_line(error)}): unpack the archive again"
        ) from None
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _name_of(names: Sequence[str], label: int, folder: Path) -> str:
    """The name of class `label`, which becomes a folder."""
    name = names[label] if 0 <= label < len(names) else ""
    if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|\0'):
        raise DataError(
            f"{folder / 'batches.meta'}: {name!r}, the name of class {label}, cannot be a folder's"
        )
    return name


# -- MNIST (LeCun et al. 1998), Fashion-MNIST (Xiao et al. 2017) and others in the same four idx
# files

_IDX = {"train": "train", "test": "t10k"}
# The files have the same names; the first labels of the test part tell the data sets apart.
_FIRST_LABELS = {
    (7, 2, 1, 0, 4, 1, 4, 9, 5, 9): "MNIST",
    (9, 2, 1, 1, 6, 1, 4, 6, 5, 7): "Fashion-MNIST",
}


def _idx_file(folder: Path, part: str, what: str) -> Path | None:
    """The file of a part's images ("images-idx3") or labels ("labels-idx1"): as published, as some
    unpackers rename it, or gzipped."""
    stem = f"{_IDX[part]}-{what}-ubyte"
    names = [stem, stem.replace("-idx", ".idx")]
    return next(
        (
            folder / name
            for base in names
            for name in (base, f"{base}.gz")
            if (folder / name).is_file()
        ),
        None,
    )


def _looks_like_idx(folder: Path) -> bool:
    return _idx_file(folder, "train", "images-idx3") is not None


def _read_idx(folder: Path) -> Parts:
    first = tuple(_idx(folder, "test", "labels-idx1")[:10].tolist())
    name = _FIRST_LABELS.get(first, "idx")
    return _parts(name, _read_pictures(_unpack_idx(folder, no_progress)))


def _unpack_idx(folder: Path, progress: Progress) -> Path:
    if (folder / PICTURES).is_dir():
        return folder / PICTURES
    content = {
        part: (_idx(folder, part, "images-idx3"), _idx(folder, part, "labels-idx1"))
        for part in _IDX
    }
    for part, (pixels, labels) in content.items():
        if len(pixels) != len(labels):
            raise DataError(
                f"{folder}: {len(pixels):,} images and {len(labels):,} labels of part {part}: "
                "fetch them again"
            )

    def pictures() -> Iterator[_Picture]:
        for part, (pixels, labels) in content.items():
            for number, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
                yield _Picture(part, str(label), number, picture)

    return _unpack_pictures(
        folder, pictures(), sum(len(labels) for _, labels in content.values()), progress
    )


def _idx(folder: Path, part: str, what: str) -> NDArray[np.uint8]:
    """The array of an idx file of bytes. Its header is two zeros, 8 for bytes, the number of axes
    and their lengths."""
    file = _idx_file(folder, part, what)
    axes = int(what[-1])
    if file is None:
        raise DataError(
            f"{folder} has no {_IDX[part]}-{what}-ubyte: put all four files of the data set into "
            "one folder"
        )
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            head = opened.read(4 + 4 * axes)
            shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4)]
            size = int(np.prod(shape, dtype=np.float64)) if len(shape) == axes else 0
            values = opened.read(min(size, images.MAX_BYTES) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read ({one_line(error)}): fetch it again") from None
    if head[:4] != bytes([0, 0, 8, axes]) or len(values) != size or not size:
        raise DataError(
            f"{file} should have {size:,} bytes after its header and does not: fetch it again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


# -- pictures that are stored in arrays


@dataclass(frozen=True)
class _Picture:
    """One picture to unpack: pixels [H, W] or [H, W, 3] uint8, its part, its class, and its number
    in the official part."""

    part: str
    label: str
    number: int
    pixels: NDArray[np.uint8]


def _unpack_pictures(
    folder: Path, pictures: Iterator[_Picture], total: int, progress: Progress
) -> Path:
    """Write all pictures as PART/LABEL/NUMBER.png into a temporary folder, and rename it to
    PICTURES when it is complete."""
    target = folder / PICTURES
    try:
        _remove_leftovers(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{PICTURES}-", dir=folder))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written to ({error.strerror}), and its pictures have to be "
            f"unpacked once into {target}: copy the data set to a folder that you can write to"
        ) from None
    try:
        made: set[str] = set()
        for done, picture in enumerate(pictures, 1):
            place = f"{temporary}/{picture.part}/{picture.label}"
            if place not in made:
                os.makedirs(place)
                made.add(place)
            Image.fromarray(picture.pixels).save(
                f"{place}/{picture.number:05}.png", compress_level=1
            )
            if done % 1000 == 0 or done == total:
                os.utime(
                    temporary
                )  # shows _remove_leftovers of other processes that this one lives
                progress("writing pictures", done, total)
        os.chmod(temporary, 0o755)
        os.rename(temporary, target)
    except OSError as error:
        if not target.is_dir():  # otherwise another process was faster
            raise DataError(
                f"the pictures of {folder} cannot be unpacked into {target} ({error.strerror})"
            ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of killed runs: those unchanged for an hour."""
    for path in folder.glob(f".{PICTURES}-*"):
        if time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


def _read_pictures(folder: Path) -> dict[str, list[Entry]]:
    named: dict[str, list[Entry]] = {"train": [], "test": []}
    try:
        for part, entries in named.items():
            for label in sorted(os.listdir(folder / part)):
                place = folder / part / label
                entries += [
                    Entry(place / name, label)
                    for name in sorted(os.listdir(place))
                    if name.endswith(".png")
                ]
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be listed ({error.strerror}): remove {folder} to have it "
            "rebuilt"
        ) from None
    return named


# The first that matches wins.
LAYOUTS: dict[str, Layout] = {
    "CUB-200-2011": Layout(_looks_like_cub, _read_cub),
    "NABirds": Layout(_looks_like_nabirds, _read_nabirds),
    "FGVC-Aircraft": Layout(_looks_like_aircraft, _read_aircraft),
    "Food-101": Layout(_looks_like_food, _read_food),
    "VegFru": Layout(_looks_like_vegfru, _read_vegfru),
    "Stanford Dogs": Layout(_looks_like_dogs, _read_dogs),
    "CIFAR-10": Layout(_looks_like_cifar, _read_cifar, _unpack_cifar),
    "MNIST": Layout(_looks_like_idx, _read_idx, _unpack_idx),
    "ROxford5k": Layout(_looks_like_oxford, _read_oxford),
    "RParis6k": Layout(_looks_like_paris, _read_paris),
    "GLDv2-clean": Layout(_looks_like_landmarks, _read_landmarks),
}
