"""Files to pixels: find, read, decode, turn upright, crop and scale.

Training, indexing and queries all go through `load`, so a file and its bytes give the same pixels.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from wingbar.errors import ImageError, one_line

Pixels = NDArray[np.uint8]
"""[H, W, 3] uint8, RGB, 0 to 255."""

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the upright picture; x and y of its upper left corner."""


@dataclass(frozen=True)
class Part:
    """The part of a picture inside a box, as a picture of its own.

    of: the whole picture
    box: x, y, width, height in pixels of the upright picture; what lies outside the picture is cut
        off
    """

    of: Whole
    box: Box


Whole = str | os.PathLike[str] | bytes | Image.Image | Pixels
"""A path, the bytes of a file, a PIL image, or an array [H, W, 3], [H, W, 4] or [H, W] of uint8."""

Source = Whole | Part
"""Everything that `load` accepts."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "PPM", "TIFF", "AVIF", "JPEG2000")
"""What is decoded, by Pillow's names. Left out are formats that start other programs, such as EPS,
and those that no photograph has."""

MAX_PIXELS = 178_956_970  # where Pillow itself refuses: twice its warning level, 0.5 GB as RGB
MAX_BYTES = 256 * 2**20  # of a file
MAX_PANORAMA = 4 * MAX_PIXELS  # of a JPEG that is decoded at a fraction of its size
MAX_SCANS = 100  # of a JPEG; progressive ones have about 10, and each costs a pass over all pixels
MAX_SCANNED = 4 * 10**9  # pixels times scans of a JPEG
STEP = 32  # sides of whole pictures are multiples: the stride of the last stage of every backbone
LONGEST_SCALED = (
    8  # shape of a picture, long side by short, that is scaled as a whole for its centre
)
LONGEST = 2.0  # the longest side of a whole picture, in multiples of `size`

SKIPPED_FOLDERS = frozenset(
    (
        "@eadir #recycle #snapshot @recycle @recently-snapshot @sharesnap @tmp $recycle.bin "
        "recycler recycled __macosx lost+found"
    ).split()
) | {"system volume information", "network trash folder", "temporary items"}
"""Folders that file servers and operating systems keep beside people's files, in lower case:
thumbnails, recycle bins, snapshots."""

_UPLOADS = ".uploads"  # what the folder of uploads has behind the name of its index
_SUFFIXES = frozenset(
    (
        ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .ppm .pgm .pnm .tif .tiff "
        ".avif .jp2 .j2k .heic .heif"
    ).split()
)
_READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or PPM"
_HEIC_BRANDS = (b"heic", b"heix", b"heif", b"mif1", b"hevc", b"msf1")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Of a JPEG: the marker of a segment that has a length, or of the end. In the data of a scan, other
# markers follow 0xFF.
_SEGMENT = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")
_ORIENTATION = 0x0112  # the EXIF tag
_STRIP = 2**20  # pixels that are converted at a time, so that copies stay small
_NEAR_WHITE = 230.0  # mean brightness from which a picture does not show on white

# Principal directions of ImageNet's colours, one per column, rows RGB; and their standard
# deviations in bytes.
_COLOURS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_DEVIATIONS = 255 * np.array([0.2175, 0.0188, 0.0045])

_HEAT = (255, 170, 30)  # the one colour of heat maps, which lies over a grey picture


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants its pixels; recorded in model.json.

    size: side of the square in pixels, at least 1
    keep: the share of the short side that the central square keeps, 0 < keep <= 1; it is scaled to
        `size` with antialiasing
    edge: if not 0, the short side is scaled to `edge` pixels and the long one to whole pixels, and
        the square is cut from the centre of that, edge >= size: the habit of most published
        encoders, which differs from `keep` by less than a pixel
    squash: the whole picture is squeezed into the square, and its shape is lost
    bicubic: whether scaling is bicubic, and not bilinear
    mirrored: whether the mirror image of a picture is encoded too; the outputs of both are averaged
    whole: keep the whole picture and its shape instead, scaled to the area of that square; no side
        is longer than LONGEST * size, and each is a multiple of STEP
    scales: multiples of `size` at which a whole picture is encoded, each 0 < scale <= 4; the
        outputs are averaged
    """

    size: int = 224
    keep: float = 1.0
    whole: bool = False
    scales: tuple[float, ...] = (1.0,)
    edge: int = 0
    squash: bool = False
    bicubic: bool = False
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.keep <= 1:
            raise ValueError(f"a Preprocessing needs size >= 1 and 0 < keep <= 1, not {self}")
        if not self.scales or not all(0 < scale <= 4 for scale in self.scales):
            raise ValueError(f"scales are above 0 and at most 4, not {self.scales}")
        if self.scales != (1.0,) and not self.whole:
            raise ValueError("several scales are for whole pictures: set whole too, or one scale")
        if self.edge and self.edge < self.size:
            raise ValueError(f"edge is at least size, not {self.edge}")
        if self.whole + self.squash + (self.edge > 0) + (self.keep < 1) > 1:
            raise ValueError("one of keep, edge, squash and whole says what is seen, not several")

    @property
    def filter(self) -> Image.Resampling:
        """How Pillow scales the picture."""
        return Image.Resampling.BICUBIC if self.bicubic else Image.Resampling.BILINEAR


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training varies pictures.

    area: least share of the picture that a random box keeps, 0 < area <= 1; its sides are 3:4 to
        4:3, and it is scaled to the square
    mirror: whether half of the pictures are mirrored
    lighting: standard deviation of a random change along the principal colours of ImageNet, 0 for
        none (Krizhevsky, Sutskever & Hinton 2012, Section 4.1)
    """

    area: float = 0.35
    mirror: bool = True
    lighting: float = 0.0


class Found(NamedTuple):
    """What a folder holds, each list sorted by path.

    images: files that are images by their names or first bytes
    others: all other files
    unreadable: folders below it that cannot be listed
    skipped: what was left out by name: folders that other software keeps, folders of uploads beside
        their index, and what `exclude` matches
    """

    images: list[Path]
    others: list[Path]
    unreadable: list[Path]
    skipped: list[Path]


@dataclass(frozen=True)
class Failure:
    """An image that could not be used.

    path: its path or name, printable
    reason: why, in one line
    """

    path: str
    reason: str


def find(folder: str | os.PathLike[str], exclude: Sequence[str] = ()) -> Found:
    """The files below `folder`. Links are followed, and a folder or file that is reached in several
    ways is found once: under its own path, or where only links lead to it, under the first of them.

    Left out are hidden files and folders, folders that other software keeps (SKIPPED_FOLDERS),
    folders `NAME.uploads` beside a file `NAME`, and everything whose name or path below `folder`
    matches one of the patterns `exclude`, as in "*.thumb.jpg" or "2019/drafts". A file counts as an
    image by its suffix or, without a suffix, by its first bytes. Raises FileNotFoundError,
    NotADirectoryError or PermissionError if `folder` cannot be listed.
    """
    folder = Path(folder)
    os.listdir(folder)  # a folder that cannot be read must not look like an empty one
    walk = _Walk(folder, exclude)
    images: list[Path] = []
    others: list[Path] = []
    for path in walk.files():
        (images if _looks_like_image(path) else others).append(path)
    once = _each_once(images, walk.links)
    return Found(once, sorted(others), sorted(walk.unreadable), sorted(walk.skipped))


def is_skipped(name: str) -> bool:
    """Whether a folder of this name is left out: a hidden one, or one that other software keeps."""
    return name.startswith(".") or name.casefold() in SKIPPED_FOLDERS


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a relative path or its last part matches one of `patterns` (*, ? and [...])."""
    name = path.rsplit("/", 1)[-1]
    wanted = [pattern.removeprefix("./").rstrip("/") for pattern in patterns]
    return any(fnmatchcase(name, one) or fnmatchcase(path, one) for one in wanted)


def read(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file. Raises ImageError if it is missing, empty, larger than
    `max_bytes` or not a regular file."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        if status.st_size > max_bytes:
            raise ImageError(f"{status.st_size:,} bytes, over the limit of {max_bytes:,}")
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None
    except ValueError as error:  # a path with a NUL byte
        raise ImageError(str(error)) from None
    if not data:
        raise ImageError("the file is empty")
    if len(data) > max_bytes:
        raise ImageError(f"over the limit of {max_bytes:,} bytes")
    return data


def load(source: Source, preprocessing: Preprocessing) -> Pixels:
    """The pixels that a model sees, uint8 RGB: the central square [size, size, 3], or the whole
    picture [H, W, 3] at the largest scale.

    Raises ImageError with the reason if `source` cannot be decoded or exceeds MAX_BYTES or
    MAX_PIXELS, or if the box of a Part lies outside the picture.
    """
    return _scale(_open(source, _side_of(preprocessing)), preprocessing)


def load_each(source: Source, preprocessings: Sequence[Preprocessing]) -> list[Pixels]:
    """`load` for several models, pixel for pixel, with one decoding of the picture; a JPEG is
    decoded again for a model that sees it at another fraction of its size. Raises ImageError."""
    given = read(source) if isinstance(source, (str, os.PathLike)) else source
    sides = [_side_of(one) for one in preprocessings]
    differ = len(set(sides)) > 1
    opened: dict[tuple[int, int] | None, Image.Image] = {}
    pixels = []
    for side, preprocessing in zip(sides, preprocessings, strict=True):
        size = _decoded_size(given, side) if differ and isinstance(given, bytes) else None
        if size not in opened:
            opened[size] = _open(given, side)
        pixels.append(_scale(opened[size], preprocessing))
    return pixels


def views(pixels: Pixels, preprocessing: Preprocessing) -> list[Pixels]:
    """What a model sees of the pixels of `load`, each [H, W, 3] uint8: them at every scale, and
    where it is `mirrored` the mirror image of each. Scales that round to the same size appear
    once."""
    scaled = _at_scales(pixels, preprocessing) if preprocessing.whole else [pixels]
    return scaled + [view[:, ::-1] for view in scaled if preprocessing.mirrored]


def _at_scales(pixels: Pixels, preprocessing: Preprocessing) -> list[Pixels]:
    largest, (height, width) = max(preprocessing.scales), pixels.shape[:2]
    sizes = {
        _in_steps(width * scale / largest, height * scale / largest): None
        for scale in preprocessing.scales
    }
    image = Image.fromarray(pixels)

    def scaled(size: tuple[int, int]) -> Pixels:
        return np.asarray(image.resize(size, preprocessing.filter))

    return [pixels if size == (width, height) else scaled(size) for size in sizes]


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The part that a model sees of a picture of `size` (width, height): all of it, or the central
    square."""
    width, height = size
    if preprocessing.whole or preprocessing.squash:
        return 0, 0, width, height
    if preprocessing.edge:
        scaled = _scaled_size(size, preprocessing.edge)
        left, top = ((length - preprocessing.size) // 2 for length in scaled)
        across, down = width / scaled[0], height / scaled[1]
        square = preprocessing.size
        return left * across, top * down, square * across, square * down
    side = max(1.0, min(width, height) * preprocessing.keep)
    return (width - side) / 2, (height - side) / 2, side, side


def augment(
    source: Source,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Pixels:
    """A random view [size, size, 3] uint8 of a training picture. Raises ImageError as `load`
    does."""
    image = _open(source, 2 * preprocessing.size)
    box = _random_box(image.size, augmentation.area, rng)
    square = (preprocessing.size, preprocessing.size)
    view = image.resize(square, Image.Resampling.BILINEAR, box, reducing_gap=3.0)
    if augmentation.mirror and rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(view)
    return _relight(pixels, augmentation.lighting, rng) if augmentation.lighting else pixels


def upright(source: Source) -> Image.Image:
    """The picture as people see it, RGB, in full size. Raises ImageError as `load` does."""
    return _open(source, None)


def small(source: Source, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The upright picture, RGB, with its longer side `side`, and the width and height that it has
    in full. Raises ImageError as `load` does."""
    given = read(source) if isinstance(source, (str, os.PathLike)) else source
    image = _open(given, side)
    size = _upright_size(given) if isinstance(given, bytes) else image.size
    scale = side / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(shape, Image.Resampling.BILINEAR, reducing_gap=3.0), size or image.size


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of the upright picture in a file. Raises ImageError as `load` does."""
    data = read(path)
    return _upright_size(data) or _open(data, None).size


def is_heic(data: bytes) -> bool:
    """Whether the bytes of a file begin as those of HEIC."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def heic_header(data: bytes) -> tuple[tuple[int, int], bytes]:
    """Width and height of the upright picture of a HEIC file, and its EXIF, without decoding it.
    Raises ImageError, also where the extra `heic` is not installed."""
    opened = _open_heic(data)
    return opened.size, opened.info.get("exif") or b""


def thumbnail(source: Source, side: int) -> bytes:
    """A small upright picture for web pages: a JPEG without EXIF, its longer side at most `side`
    pixels. Raises ImageError as `load` does."""
    image = _open(source, side)
    image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    image.info.clear()  # Pillow would copy a comment
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def overlay(
    picture: Image.Image, heat: NDArray[np.floating] | None, area: Box, boxes: Sequence[Box] = ()
) -> bytes:
    """An upright picture under a heat map and numbered boxes, as a PNG.

    `heat` [h, w] covers the part `area` of the picture, which is grey then, from its minimum
    (transparent) to its maximum (orange); None for no heat map.
    """
    shown = picture.convert("RGB")
    if heat is not None:
        shown = shown.convert("L").convert("RGB")
        _paste_heat(shown, heat, area)
    _draw_boxes(shown, boxes)
    out = io.BytesIO()
    shown.save(out, "PNG")
    return out.getvalue()


def parse_box(text: str) -> Box:
    """The Box that "x,y,width,height" describes. Raises ImageError for anything else."""
    try:
        x, y, width, height = map(float, text.split(","))
    except ValueError:
        raise ImageError(
            f"a box is x,y,width,height in pixels, as in 10,20,300,200, not {text!r}"
        ) from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ImageError(f"a box has finite numbers, not {text!r}")
    return x, y, width, height


def is_utf8(text: str) -> bool:
    """Whether a text is valid UTF-8, as every path and label of an index is. A file name of other
    bytes comes as a text with surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


# -- finding files


class _Walk:
    """The files below a folder. Folders come before links to folders, each real folder once."""

    def __init__(self, root: Path, exclude: Sequence[str]) -> None:
        self.root, self._exclude = str(root), exclude
        self.unreadable: list[Path] = []
        self.skipped: list[Path] = []
        self.links: set[Path] = set()  # files that are links
        self._seen = {_identity(self.root)}
        self._folders = [self.root]
        self._linked: list[str] = []

    def files(self) -> Iterator[Path]:
        real_root = os.path.realpath(self.root)
        while self._folders or self._linked:
            if self._folders:
                yield from self._files_in(self._folders.pop())
                continue
            self._linked.sort(reverse=True)
            link = self._linked.pop()
            target = os.path.realpath(link)
            # a link to a folder that contains the root leads outside of what was asked for
            if not f"{real_root}{os.sep}".startswith(target.rstrip(os.sep) + os.sep):
                self._enter(link)

    def _enter(self, folder: str) -> None:
        try:
            identity = _identity(folder)
        except OSError:
            self.unreadable.append(Path(folder))
            return
        if identity not in self._seen:
            self._seen.add(identity)
            self._folders.append(folder)

    def _files_in(self, folder: str) -> Iterator[Path]:
        try:
            with os.scandir(folder) as listed:
                entries = [entry for entry in listed if not entry.name.startswith(".")]
        except OSError:
            self.unreadable.append(Path(folder))
            return
        names = {entry.name for entry in entries}
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # links that lead in a circle, a path that is too long
                is_folder = False
            if self._is_left_out(entry, is_folder, names):
                self.skipped.append(Path(entry.path))
            elif not is_folder:
                if entry.is_symlink():
                    self.links.add(Path(entry.path))
                yield Path(entry.path)
            elif entry.is_symlink():
                self._linked.append(entry.path)
            else:
                self._enter(entry.path)

    def _is_left_out(
        self, entry: os.DirEntry[str], is_folder: bool, names: Collection[str]
    ) -> bool:
        if is_folder and (
            is_skipped(entry.name)
            or (entry.name.endswith(_UPLOADS) and entry.name.removesuffix(_UPLOADS) in names)
        ):
            return True
        return bool(self._exclude) and is_excluded(
            os.path.relpath(entry.path, self.root).replace(os.sep, "/"), self._exclude
        )


def _identity(folder: str) -> object:
    """What tells whether two paths lead to the same folder. Raises OSError."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _each_once(paths: list[Path], links: Collection[Path]) -> list[Path]:
    """The paths, sorted, without links to files that are among them under another name."""
    if not links:
        return sorted(paths)
    real_folder = {parent: os.path.realpath(parent) for parent in {path.parent for path in paths}}
    real = {
        path: os.path.realpath(path)
        if path in links
        else os.path.join(real_folder[path.parent], path.name)
        for path in paths
    }
    first: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path in links, path)):
        first.setdefault(real[path], path)
    return sorted(first.values())


def _looks_like_image(path: Path) -> bool:
    if path.suffix:
        return path.suffix.lower() in _SUFFIXES
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    magic = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
    return head.startswith(magic) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


# -- decoding


def _side_of(preprocessing: Preprocessing) -> int:
    """The side that a picture needs at least, before it is scaled."""
    return round(2 * max(preprocessing.size * max(preprocessing.scales), preprocessing.edge))


def _decoded_size(data: bytes, side: int) -> tuple[int, int] | None:
    """Width and height that `_decode` gives a JPEG, by its header; None for any other file, which
    is always decoded whole."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        with _opened(data, side) as image:
            image.draft(None, (side, side))
            return image.size
    except Exception:  # of nearly every kind; decoding says why
        return None


def _open(source: Source, side: int | None) -> Image.Image:
    """The upright RGB picture of any source. A large JPEG is decoded at a fraction of its size with
    both sides at least `side`; None for full size."""
    if isinstance(source, Part):
        return _crop(_open(source.of, None), source.box)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        _check_pixels(source.size)
        return _to_rgb(_upright(source))
    return _decode(source if isinstance(source, bytes) else read(source), side)


def _decode(data: bytes, side: int | None) -> Image.Image:
    """The upright RGB picture that the bytes of a file hold."""
    try:
        with _opened(data, side) as image:
            if side is not None:
                image.draft(None, (side, side))  # JPEG only: 1/2, 1/4 or 1/8 of the size
            _check_pixels(image.size)
            image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        if is_heic(data):
            return _decode_heic(data)
        raise ImageError(_why_unreadable(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except Exception as error:  # Pillow raises nearly every built-in exception on hostile bytes
        # Pillow refuses pictures beside which much text unpacks; the picture may be good.
        bare = _without_texts(data) if isinstance(error, ValueError) else data
        if len(bare) < len(data):
            return _decode(bare, side)
        raise ImageError(f"truncated or corrupt ({one_line(error)})") from None


def _opened(data: bytes, side: int | None) -> Image.Image:
    """A picture whose header has been read. Its size may exceed MAX_PIXELS only where decoding at
    a fraction of it can help."""
    is_jpeg = data.startswith(b"\xff\xd8")
    scans = _scans(data) if is_jpeg else 1
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        whole = image.size
    except Image.DecompressionBombError:
        # Pillow refuses before a fraction can be asked for. With several scans the coefficients
        # of all pixels are kept in memory, whatever the fraction.
        if not is_jpeg or side is None or scans > 1:
            raise
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        whole = image.size
        if whole[0] * whole[1] > MAX_PANORAMA:
            raise ImageError(
                f"{whole[0]} x {whole[1]} is more than {MAX_PANORAMA:,} pixels"
            ) from None
        return image
    _check_pixels(whole)
    if scans > MAX_SCANS or scans * whole[0] * whole[1] > MAX_SCANNED:
        raise ImageError(
            f"a JPEG of {whole[0]} x {whole[1]} in {scans:,} scans, which take too long to decode: "
            "save it anew"
        )
    return image


def _scans(data: bytes) -> int:
    """The number of scans of a JPEG, counted before any is decoded."""
    if data.count(b"\xff\xda") <= 1:  # nearly all; the count may include metadata
        return 1
    count, at = 0, 2
    while (found := _SEGMENT.search(data, at)) and found[1] != b"\xd9":  # more pictures may follow
        at = found.end()
        count += found[1] == b"\xda"
        at += int.from_bytes(data[at : at + 2], "big")
    return count


def _without_texts(data: bytes) -> bytes:
    """A PNG without its chunks of text; anything else as it is."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _PNG_TEXTS:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _decode_heic(data: bytes) -> Image.Image:
    """The upright RGB picture of a HEIC file, which needs the extra `heic`."""
    opened = _open_heic(data)
    try:
        _check_pixels(opened.size)
        return _to_rgb(_upright(opened.to_pillow()))
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except Exception as error:  # as with Pillow
        raise ImageError(f"truncated or corrupt ({one_line(error)})") from None


def _open_heic(data: bytes) -> Any:
    """A HEIC file whose header has been read, upright by itself. Raises ImageError."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(
            "HEIC needs pillow-heif: run pip install 'wingbar[heic]', or convert it to JPEG"
        ) from None
    try:
        return pillow_heif.open_heif(io.BytesIO(data))
    except Exception as error:  # as with Pillow
        raise ImageError(f"truncated or corrupt ({one_line(error)})") from None


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{size[0]} x {size[1]} is more than {MAX_PIXELS:,} pixels")


def _why_unreadable(data: bytes) -> str:
    if data.startswith(b"%PDF"):
        return "a PDF, not an image: save its pages as PNG"
    if b"<svg" in data[:1000]:
        return "an SVG drawing: save it as PNG"
    return f"not an image in a format that can be read ({_READABLE}), or its header is corrupt"


def _from_array(array: Pixels) -> Image.Image:
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] in (3, 4)
    if array.dtype != np.uint8 or not (grey or colour):
        raise ImageError(
            f"an array must be uint8 [H, W, 3], [H, W, 4] or [H, W], not {array.dtype} "
            f"{array.shape}"
        )
    if not array.size:
        raise ImageError("an array without pixels")
    _check_pixels((array.shape[1], array.shape[0]))
    return _to_rgb(Image.fromarray(array))


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation; unreadable EXIF counts as none."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF raises many kinds, and the picture is still good
        turn = None
    return image if turn is None else image.transpose(turn)


def _upright_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the upright picture that the bytes of a file hold, from its header; None
    if Pillow does not read it."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            is_turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # as in _decode; the picture itself was read in another way
        return None
    return (height, width) if is_turned else (width, height)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency over white, or black where only that shows what is
    visible; integers and floats scaled to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return _on_ground(image if image.mode == "RGBA" else image.convert("RGBA"))
    return image.convert("RGB")


def _on_ground(image: Image.Image) -> Image.Image:
    """An RGBA picture over white, or over black if what is visible of it is nearly white."""
    light = visible = 0
    for _, strip in _strips(image):
        alpha = np.asarray(strip.getchannel("A"), np.int64)
        light += int((np.asarray(strip.convert("RGB").convert("L")) * alpha).sum())
        visible += int(alpha.sum())
    ground = "black" if visible and light > _NEAR_WHITE * visible else "white"
    shown = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        over = Image.alpha_composite(Image.new("RGBA", strip.size, ground), strip)
        shown.paste(over.convert("RGB"), (0, top))
    return shown


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 8, 10, 12, 14 or 16 bits, whichever is the least that holds the greatest value, has
    its range mapped to 8 bits; wider integers and floats are stretched from their minimum to their
    maximum."""
    low, high = np.inf, -np.inf
    is_finite = True
    for _, strip in _strips(image):
        values = np.asarray(strip).astype(np.float64)
        finite = values[np.isfinite(values)]
        is_finite &= finite.size == values.size
        low, high = min(low, finite.min(initial=np.inf)), max(high, finite.max(initial=-np.inf))
    if low > high:  # no finite value at all
        low = high = 0.0
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, next(2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    grey = Image.new("L", image.size)
    for top, strip in _strips(image):
        values = np.asarray(strip).astype(np.float64)
        if not is_finite:
            values = np.where(np.isfinite(values), values, low)
        scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
        grey.paste(Image.fromarray(np.round(scaled).astype(np.uint8)), (0, top))
    return grey


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in strips of whole rows and about _STRIP pixels, each with its first row."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


# -- cropping and scaling


def _crop(image: Image.Image, box: Box) -> Image.Image:
    """The part of an upright picture inside a box."""
    x, y, width, height = box
    left, top = max(0, round(x)), max(0, round(y))
    # clamped first, since sums of huge numbers are infinite
    right = round(max(0.0, min(image.width, x + width)))
    bottom = round(max(0.0, min(image.height, y + height)))
    if right <= left or bottom <= top:
        raise ImageError(
            f"the box {x:g},{y:g},{width:g},{height:g} holds nothing of a picture of "
            f"{image.width} x {image.height}"
        )
    return image.crop((left, top, right, bottom))


def _scale(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """The whole picture at the largest scale, or its central square."""
    if preprocessing.whole:
        size = _whole_size(image.size, preprocessing.size * max(preprocessing.scales))
        return np.asarray(image.resize(size, preprocessing.filter, reducing_gap=3.0))
    side = preprocessing.size
    # without shortcuts, as the encoders that want these were trained
    if preprocessing.squash:
        return np.asarray(image.resize((side, side), preprocessing.filter))
    scaled = _scaled_size(image.size, preprocessing.edge)
    if 0 < max(scaled) <= LONGEST_SCALED * preprocessing.edge:
        left, top = ((length - side) // 2 for length in scaled)
        whole = image.resize(scaled, preprocessing.filter)
        return np.asarray(whole.crop((left, top, left + side, top + side)))
    x, y, width, height = crop_box(image.size, preprocessing)
    box = (x, y, x + width, y + height)
    square = (side, side)
    return np.asarray(image.resize(square, preprocessing.filter, box, reducing_gap=3.0))


def _scaled_size(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Width and height of a picture whose short side is scaled to `edge`; the long one is rounded
    down to whole pixels."""
    width, height = size
    short = min(size)
    return edge * width // short, edge * height // short


def _whole_size(shape: tuple[int, int], side: float) -> tuple[int, int]:
    """Width and height that give a picture of this shape the area of a square of `side`, at most
    LONGEST * side."""
    width, height = shape
    factor = min(side / (width * height) ** 0.5, LONGEST * side / max(width, height))
    return _in_steps(width * factor, height * factor)


def _in_steps(width: float, height: float) -> tuple[int, int]:
    """The nearest multiples of STEP, at least STEP each."""
    return max(1, round(width / STEP)) * STEP, max(1, round(height / STEP)) * STEP


# -- training views


def _random_box(
    size: tuple[int, int], area: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random box (left, top, right, bottom) inside a picture of (width, height); the central
    square if ten draws do not fit."""
    width, height = size
    for _ in range(10):
        wanted = rng.uniform(area, 1) * width * height
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(wanted * aspect), np.sqrt(wanted / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return float(left), float(top), float(left + w), float(top + h)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _relight(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """The same pixels [H, W, 3] in different light: one random colour added everywhere."""
    change = _COLOURS @ (_DEVIATIONS * rng.normal(scale=deviation, size=3))
    return np.clip(pixels + change, 0, 255).round().astype(np.uint8)


# -- overlays


def _paste_heat(shown: Image.Image, heat: NDArray[np.floating], area: Box) -> None:
    """Blend the colour of heat into the part `area` of a picture, the greater `heat` [h, w] the
    stronger."""
    x, y, width, height = (round(value) for value in area)
    spread = float(heat.max() - heat.min())
    scaled = (heat - heat.min()) / spread if spread > 0 else np.zeros(heat.shape)
    grey = Image.fromarray((255 * scaled).astype(np.uint8)).resize(
        (max(1, width), max(1, height)), Image.Resampling.BICUBIC
    )
    colour = Image.new("RGB", grey.size, _HEAT)
    shown.paste(colour, (x, y), grey.point(lambda level: 0.8 * level))


def _draw_boxes(shown: Image.Image, boxes: Sequence[Box]) -> None:
    """Draw white outlines numbered from 1."""
    from PIL import ImageDraw

    pen = ImageDraw.Draw(shown)
    line = max(2, round(max(shown.size) / 200))
    white, black = (255, 255, 255), (0, 0, 0)
    for number, (x, y, width, height) in enumerate(boxes, start=1):
        right, bottom = max(x, x + width - 1), max(y, y + height - 1)
        pen.rectangle((x, y, right, bottom), outline=white, width=line)
        corner = (x + 2 * line, y + line)
        pen.text(corner, str(number), fill=white, stroke_width=1, stroke_fill=black)
