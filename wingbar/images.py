"""Files to pixels: find, read, decode, turn upright, cut and scale. The only module that knows
pixels.

Training-time evaluation, indexing and queries all pass through `load`, so a file and its bytes give
the same pixels.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, UnidentifiedImageError

from wingbar.errors import ImageError, one_line

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the upright picture, from its upper left corner."""


@dataclass(frozen=True)
class Part:
    """The part of a picture inside a box, as a picture of its own."""

    of: Whole
    box: Box


Whole = str | os.PathLike[str] | bytes | Image.Image | Pixels
Source = Whole | Part

# Twice Pillow's own warning level, which is where Pillow itself refuses: 178,956,970 pixels, 0.5 GB
# as RGB.
MAX_PIXELS = 178_956_970
MAX_BYTES = 256 * 2**20

# Pillow also opens formats that start other programs (EPS) or that nobody photographs in; those are
# left out.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "PPM", "TIFF", "AVIF", "JPEG2000")
_SUFFIXES = frozenset(
    (
        ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .ppm .pgm .pnm .tif .tiff "
        ".avif "
        ".jp2 .j2k .heic .heif"
    ).split()
)
_READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or PPM"
_ORIENTATION = 0x0112  # the EXIF tag
# sides of whole pictures are multiples of it: the stride of the last stage of every backbone
STEP = 32
LONGEST = 2.0  # the longest side of a whole picture, times the size


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants its pixels; recorded in model.json. `size` is the side of the square, in
    pixels.

    The central square that keeps `keep` of the short side (0 < keep <= 1) is scaled to `size`,
    bilinear with antialiasing. With `whole` nothing is cut off: the picture keeps its shape and has
    the area of that square, no side being longer than LONGEST times `size` and each a multiple of
    STEP. Then it may be looked at in several `scales` of that size, the outputs being averaged.
    """

    size: int = 224
    keep: float = 1.0
    whole: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.keep <= 1:
            raise ValueError(f"a Preprocessing needs size >= 1 and 0 < keep <= 1, not {self}")
        if not self.scales or not all(0 < scale <= 4 for scale in self.scales):
            raise ValueError(f"scales are above 0 and at most 4, not {self.scales}")
        if self.scales != (1.0,) and not self.whole:
            raise ValueError("several scales are for whole pictures: set whole too")


@dataclass(frozen=True)
class Found:
    """What a folder holds, each sorted by path: `images`, `others`, and folders below it that
    cannot be listed."""

    images: list[Path]
    others: list[Path]
    unreadable: list[Path]


def find(folder: str | os.PathLike[str]) -> Found:
    """The files below `folder`, links followed, hidden files and folders left out.

    A file counts as an image by its ending, or, where it has none, by its first bytes.
    Raises NotADirectoryError when `folder` is not one, PermissionError when it cannot be listed.
    """
    folder = Path(folder)
    os.listdir(folder)  # a folder that cannot be read must not look like an empty one
    images: list[Path] = []
    others: list[Path] = []
    unreadable: list[Path] = []
    for path in _walk(folder, lambda error: unreadable.append(Path(error.filename))):
        (images if _looks_like_image(path) else others).append(path)
    return Found(sorted(images), sorted(others), sorted(unreadable))


def load(source: Source, preprocessing: Preprocessing) -> Pixels:
    """The pixels that a model sees: [size, size, 3] uint8, RGB, 0..255; or, whole, [H, W, 3] at the
    greatest scale.

    `source` is a path, the bytes of a file, a PIL image, an array [H, W, 3], [H, W, 4] or [H, W] of
    uint8, or a Part of one of these, of which what lies outside of the picture is left out. Raises
    ImageError with the reason when it cannot be decoded or is over the limits, or when a box holds
    nothing of it.
    """
    return _fit(
        _open(source, round(2 * preprocessing.size * max(preprocessing.scales))), preprocessing
    )


def parse_box(text: str) -> Box:
    """A Box from "x,y,width,height". Raises ImageError for anything else."""
    try:
        x, y, width, height = map(float, text.split(","))
    except ValueError:
        raise ImageError(
            f"a box is x,y,width,height in pixels, as 10,20,300,200, not {text!r}"
        ) from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ImageError(f"a box has finite numbers, not {text!r}")
    return x, y, width, height


def at_scales(pixels: Pixels, preprocessing: Preprocessing) -> list[Pixels]:
    """Pixels as `load` gives them, once for each different size that the preprocessing's scales
    come to."""
    if not preprocessing.whole:
        return [pixels]
    greatest, (height, width) = max(preprocessing.scales), pixels.shape[:2]
    sizes = {
        _steps(width * scale / greatest, height * scale / greatest): None
        for scale in preprocessing.scales
    }
    image = Image.fromarray(pixels)
    return [
        pixels
        if size == (width, height)
        else np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        for size in sizes
    ]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training varies pictures: a random box of at least `area` of the picture (0 < area <= 1)
    with sides of 3:4 to 4:3 is scaled to the square, and mirrored half of the time with `mirror`.
    `lighting` is the deviation of a random change along the principal colours of ImageNet
    (Krizhevsky, Sutskever & Hinton 2012, Section 4.1)."""

    area: float = 0.35
    mirror: bool = True
    lighting: float = 0.0


def augment(
    source: Source,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Pixels:
    """A varied view of a training picture: [size, size, 3] uint8. Raises ImageError as `load`
    does."""
    image = _open(source, 2 * preprocessing.size)
    box = _random_box(image.size, augmentation.area, rng)
    square = (preprocessing.size, preprocessing.size)
    view = image.resize(square, Image.Resampling.BILINEAR, box, reducing_gap=3.0)
    if augmentation.mirror and rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return (
        _lit(np.asarray(view), augmentation.lighting, rng)
        if augmentation.lighting
        else np.asarray(view)
    )


# Principal directions of ImageNet's colours, the columns of RGB, and their deviations in bytes.
_COLOURS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_DEVIATIONS = 255 * np.array([0.2175, 0.0188, 0.0045])


def _lit(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """The same pixels [H, W, 3] under other light: one colour added everywhere."""
    change = _COLOURS @ (_DEVIATIONS * rng.normal(scale=deviation, size=3))
    return np.clip(pixels + change, 0, 255).round().astype(np.uint8)


def _random_box(
    size: tuple[int, int], area: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A box (left, top, right, bottom) inside a picture; the whole short side squared where ten
    draws do not fit."""
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


def read(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file. Raises ImageError when it is missing, empty, too large or not a
    plain file."""
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


def thumbnail(source: Source, side: int) -> bytes:
    """A small upright picture for pages, as the bytes of a JPEG without EXIF: longer side at most
    `side` pixels."""
    image = _open(source, side)
    image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def upright(source: Source) -> Image.Image:
    """The picture as people see it, RGB, in full size. Raises ImageError as `load` does."""
    return _open(source, None)


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """What of a picture of (width, height) a model sees: all of it, or the central square."""
    width, height = size
    if preprocessing.whole:
        return 0, 0, width, height
    side = max(1.0, min(width, height) * preprocessing.keep)
    return (width - side) / 2, (height - side) / 2, side, side


def overlay(
    picture: Image.Image, heat: NDArray[np.floating] | None, area: Box, boxes: Sequence[Box] = ()
) -> bytes:
    """A PNG of an upright picture under the colours of `heat` [h, w], which lies on the part `area`
    of it and is shown from its least value (none) to its greatest (yellow), with numbered
    `boxes`."""
    shown = picture.convert("RGB")
    x, y, width, height = (round(value) for value in area)
    if heat is not None:
        spread = float(heat.max() - heat.min())
        scaled = (heat - heat.min()) / spread if spread > 0 else np.zeros(heat.shape)
        grey = Image.fromarray((255 * scaled).astype(np.uint8)).resize(
            (max(1, width), max(1, height)), Image.Resampling.BICUBIC
        )
        level = np.asarray(grey) / 255
        colours = np.stack(
            [np.interp(level, _HEAT[:, 0], _HEAT[:, i]) for i in (1, 2, 3)], axis=2
        ).astype(np.uint8)
        strength = Image.fromarray((190 * np.sqrt(level)).astype(np.uint8))
        shown.paste(Image.fromarray(colours), (x, y), strength)
    pen = ImageDraw.Draw(shown)
    line = max(2, round(max(picture.size) / 200))
    for number, box in enumerate(boxes, start=1):
        corners = [
            box[0],
            box[1],
            max(box[0], box[0] + box[2] - 1),
            max(box[1], box[1] + box[3] - 1),
        ]
        pen.rectangle(corners, outline=(255, 255, 255), width=line)
        pen.text(
            (box[0] + 2 * line, box[1] + line),
            str(number),
            fill=(255, 255, 255),
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )
    out = io.BytesIO()
    shown.save(out, "PNG")
    return out.getvalue()


# From dark violet over red to yellow: level, red, green, blue.
_HEAT = np.array([[0, 40, 10, 90], [0.35, 150, 30, 120], [0.65, 235, 80, 50], [1, 255, 230, 80]])


def _walk(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not _leads_back(Path(parent, name), folder)
        ]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _leads_back(path: Path, root: Path) -> bool:
    """Whether a folder is a link to one that it lies in, which would go on for ever."""
    if not path.is_symlink():
        return False
    real = os.path.realpath(path)
    above = path.parent
    while True:
        if os.path.realpath(above) == real:
            return True
        if above in (root, above.parent):
            return os.path.realpath(root).startswith(real.rstrip(os.sep) + os.sep)
        above = above.parent


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


def _open(source: Source, side: int | None) -> Image.Image:
    """An upright RGB picture from any source; a large JPEG is decoded at a fraction of its size,
    not under `side`, if any."""
    if isinstance(source, Part):
        return _cut(_open(source.of, None), source.box)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        _check_pixels(source.size)
        return _upright_rgb(source)
    data = source if isinstance(source, bytes) else read(source)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image.size)
            if side is not None:
                image.draft(
                    None, (side, side)
                )  # JPEG only; picks 1/2, 1/4 or 1/8 where that keeps both sides >= side
            image.load()
            return _upright_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_why_unreadable(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except (
        Exception
    ) as error:  # on hostile bytes Pillow's decoders raise nearly every built-in exception
        raise ImageError(f"truncated or corrupt ({one_line(error)})") from None


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{size[0]} x {size[1]} is more than {MAX_PIXELS:,} pixels")


def _why_unreadable(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in (
        b"heic",
        b"heix",
        b"heif",
        b"mif1",
        b"hevc",
        b"msf1",
    ):
        return "HEIC is not supported: convert it to JPEG"
    if data.startswith(b"%PDF"):
        return "a PDF, not an image: save its pages as PNG"
    if b"<svg" in data[:1000]:
        return "an SVG drawing: save it as PNG"
    return f"not an image in a format that can be read ({_READABLE}), or its header is corrupt"


def _from_array(array: Pixels) -> Image.Image:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
    ):
        raise ImageError(
            f"an array must be uint8 [H, W, 3], [H, W, 4] or [H, W], not {array.dtype} "
            f"{array.shape}"
        )
    if not array.size:
        raise ImageError("an array without pixels")
    _check_pixels((array.shape[1], array.shape[0]))
    return _upright_rgb(Image.fromarray(array))


def _upright_rgb(image: Image.Image) -> Image.Image:
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; unreadable EXIF counts as none."""
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
    except Exception:  # broken EXIF raises many things, and the picture is still good
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency over white, 16-bit and float scaled to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits is divided by 257; wider integers and floats are stretched from their least
    to their greatest value."""
    values = np.asarray(image).astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, values[finite].min(initial=0))
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def _cut(image: Image.Image, box: Box) -> Image.Image:
    """The part of an upright picture inside a box."""
    x, y, width, height = box
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(image.width, round(x + width)), min(image.height, round(y + height))
    if right <= left or bottom <= top:
        raise ImageError(
            f"the box {x:g},{y:g},{width:g},{height:g} holds nothing of a picture of "
            f"{image.width} x {image.height}"
        )
    return image.crop((left, top, right, bottom))


def _fit(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    if preprocessing.whole:
        size = _whole_size(image.size, preprocessing.size * max(preprocessing.scales))
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
    left, top, side, _ = crop_box(image.size, preprocessing)
    box = (left, top, left + side, top + side)
    square = (preprocessing.size, preprocessing.size)
    return np.asarray(image.resize(square, Image.Resampling.BILINEAR, box, reducing_gap=3.0))


def _whole_size(shape: tuple[int, int], side: float) -> tuple[int, int]:
    """Width and height of a picture of this shape that has the area of a square of `side`."""
    width, height = shape
    factor = min(side / (width * height) ** 0.5, LONGEST * side / max(width, height))
    return _steps(width * factor, height * factor)


def _steps(width: float, height: float) -> tuple[int, int]:
    """The nearest multiples of STEP, at least one."""
    return max(1, round(width / STEP)) * STEP, max(1, round(height / STEP)) * STEP


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, and why."""

    path: str
    reason: str


def printable(path: object) -> str:
    """A path as text that can be shown and stored: bytes that are not UTF-8 become backslash
    escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()
