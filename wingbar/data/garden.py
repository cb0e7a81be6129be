"""Draw the demo's picture set: birds of a garden, twelve species that people know at sight.

Unlike the birds of `toy`, which differ in one or two small marks, these differ as birds do: in the
colours of their parts, in bill, tail and crest. Place, size, posture, season and format vary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from wingbar.parallel import Progress, cores, no_progress

TRAIN, QUERIES = 30, 6  # pictures of each species
SIZE = 320  # pixels of the longer side
RATIOS = (1.0, 1.33, 0.8, 1.5, 1.25, 1.0)  # width over height

_OVERSAMPLING = 2  # birds are drawn this many times larger, so that edges are smooth

Point = tuple[float, float]


class Bird(NamedTuple):
    """What tells a species from the others; colours are RRGGBB.

    back, wing, tail, crown, cheek, breast, belly, bill: colours of the parts.
    bar: colour of the wing bar, or none. panel: colour of the patch at the edge of the wing.
    mask: colour of a stripe through the eye. bib: colour of the chin.
    bill_length, bill_depth, tail_length: in units of half the body's length.
    crest: whether feathers stand up behind the crown.
    """

    back: str
    wing: str
    tail: str
    crown: str
    cheek: str
    breast: str
    belly: str
    bill: str = "3a3430"
    bar: str = ""
    panel: str = ""
    mask: str = ""
    bib: str = ""
    bill_length: float = 0.24
    bill_depth: float = 0.13
    tail_length: float = 0.62
    crest: bool = False


BIRDS = {
    "blackbird": Bird(
        *("23211f", "1b1a19", "191817", "262422", "262422", "2a2826", "2a2826"),
        bill="f0a01e",
        bill_length=0.30,
        tail_length=0.80,
    ),
    "blue tit": Bird(
        *("7d9a5c", "4a83c4", "4579b8", "3f8edb", "f6f4ea", "f4d948", "f7e684"),
        bar="f4f4ee",
        mask="24375c",
        bib="24375c",
        bill_length=0.15,
    ),
    "bullfinch": Bird(
        *("8d929c", "2b2a31", "201f25", "19181d", "e0685a", "e5705f", "ec8a78"),
        bar="dcd8d8",
        bib="19181d",
        bill="1d1b20",
        bill_length=0.15,
        bill_depth=0.20,
    ),
    "chaffinch": Bird(
        *("8a5a45", "3d3836", "38383c", "7f97ad", "cf8768", "d08c6e", "e8bfa8"),
        bar="f5f2ea",
        panel="e6dfa0",
        bill="8996a2",
        bill_depth=0.16,
    ),
    "goldfinch": Bird(
        *("b58a5c", "1f1c1c", "1f1c1c", "1f1c1c", "f3efe6", "d9b78e", "f6f0e4"),
        panel="f7cd2c",
        mask="cc2a2a",
        bib="cc2a2a",
        bill="e8d4bc",
        bill_length=0.25,
    ),
    "great tit": Bird(
        *("74894a", "5d7689", "4b6378", "1a1b20", "f7f6f0", "f2d83c", "f2dc58"),
        bar="f4f4ee",
        bib="1a1b20",
        bill_length=0.18,
    ),
    "greenfinch": Bird(
        *("7f9440", "67763c", "4c5330", "8da048", "94a84e", "a9b953", "c6cc6a"),
        panel="f1d531",
        bill="ecc9b0",
        bill_length=0.19,
        bill_depth=0.20,
    ),
    "kingfisher": Bird(
        *("1ca4c8", "14799e", "1590b8", "15809f", "ef8c32", "ee8a2e", "f19a45"),
        bill="26262a",
        bib="faf4e8",
        bill_length=0.70,
        bill_depth=0.15,
        tail_length=0.30,
    ),
    "magpie": Bird(
        *("1c1e26", "27538a", "15594f", "1a1b22", "1a1b22", "1c1d25", "f6f5f2"),
        bar="f6f5f2",
        bill_length=0.28,
        tail_length=1.25,
    ),
    "oriole": Bird(
        *("f6c81e", "1e1c1c", "24211f", "f8d02a", "f8d02a", "f8cf28", "f9d848"),
        panel="f6c81e",
        mask="1e1c1c",
        bill="c4553a",
        bill_length=0.30,
    ),
    "robin": Bird(
        *("8c7048", "7d6340", "735b3b", "8f744c", "ec6f2a", "ec6a24", "f0ead9"),
        bill_length=0.20,
        bill_depth=0.10,
    ),
    "waxwing": Bird(
        *("b08d78", "5c5356", "46434a", "c08f70", "c89a80", "c29f8c", "d6bca8"),
        panel="f5d63a",
        bar="d4342e",
        mask="17161a",
        bib="17161a",
        bill_length=0.17,
        crest=True,
    ),
}
"""The species, in the order of the alphabet."""


class _Season(NamedTuple):
    """Colours of the air above and below, of lights in it, of the branch; and what grows there."""

    above: str
    below: str
    lights: tuple[str, ...]
    branch: str
    growth: str


_SEASONS = (
    _Season("cfe8e2", "9fcfa6", ("ffffff", "e3f3c8", "bfe5c4"), "6b5138", "blossom"),
    _Season("9cc9a4", "4f8f63", ("d9efb0", "87bf86", "f4f3c4"), "5c4632", "leaf"),
    _Season("f0d6a4", "c98e56", ("f8e8bc", "eab26c", "d98a4c"), "57412f", "berry"),
    _Season("d9e6f0", "aebfd2", ("ffffff", "eef4fa", "c6d6e6"), "5f5348", "snow"),
    _Season("f5cdb8", "a990b4", ("fde3cc", "e8b4b8", "c7a4c4"), "4f4038", "leaf"),
)


def write_garden(
    folder: str | os.PathLike[str],
    *,
    train: int = TRAIN,
    queries: int = QUERIES,
    progress: Progress = no_progress,
) -> Path:
    """Draw `train` and `queries` pictures of each species as JPEG files into folder/train/SPECIES
    and folder/query/SPECIES, keeping files that exist; returns `folder`. Raises OSError if the
    folder cannot be written."""
    root = Path(folder)
    wanted = [
        (root / part / name / f"{name.replace(' ', '-')}-{i:02}.jpg", name, i)
        for name in BIRDS
        for part, of in (("train", range(train)), ("query", range(train, train + queries)))
        for i in of
    ]
    missing = [one for one in wanted if not one[0].exists()]

    def write(one: tuple[Path, str, int]) -> None:
        path, name, i = one
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_garden_bird(name, i)).save(path, quality=90)

    with ThreadPoolExecutor(cores()) as pool:
        for done, _ in enumerate(pool.map(write, missing), start=1):
            progress("drawing birds", done, len(missing))
    return root


def draw_garden_bird(name: str, seed: int, size: int = SIZE) -> NDArray[np.uint8]:
    """A picture [h, w, 3] of a bird of the species BIRDS[name], `size` pixels on its longer side.
    Raises KeyError for a species that is not drawn."""
    bird = BIRDS[name]
    rng = np.random.default_rng([seed, list(BIRDS).index(name)])
    ratio = RATIOS[rng.integers(len(RATIOS))]
    width, height = (size, round(size / ratio)) if ratio > 1 else (round(size * ratio), size)
    season = _SEASONS[rng.integers(len(_SEASONS))]
    air = _air(rng, season, width // 2, height // 2)  # it is out of focus
    picture = air.resize((width * _OVERSAMPLING, height * _OVERSAMPLING), Image.Resampling.BILINEAR)
    unit = min(picture.size) * rng.uniform(0.30, 0.36)
    x = picture.width * rng.uniform(0.46, 0.54)
    y = picture.height * rng.uniform(0.44, 0.50)
    tilt = rng.uniform(-0.22, 0.16)
    cos, sin = np.cos(tilt), np.sin(tilt)

    def level(point: Point) -> Point:
        """A place of the scene, which is not tilted."""
        return x + unit * point[0], y + unit * point[1]

    def on_bird(point: Point) -> Point:
        return level((cos * point[0] - sin * point[1], sin * point[0] + cos * point[1]))

    _draw_branch(picture, rng, season, level, unit)
    _draw_bird(picture, rng, bird, on_bird, unit)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture.reduce(_OVERSAMPLING))


# -- the scene


def _air(rng: np.random.Generator, season: _Season, width: int, height: int) -> Image.Image:
    """Colours that run into each other, with discs of light out of focus."""
    ends = np.array([_rgb(season.above), _rgb(season.below)], np.float64) * rng.uniform(0.92, 1.05)
    blobs = np.linspace(ends[0], ends[1], 4)[:, None] + rng.normal(scale=9, size=(4, 4, 3))
    air = Image.fromarray(np.clip(blobs, 0, 255).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    discs = Image.new("RGBA", (width, height), (255, 255, 255, 0))
    pen = ImageDraw.Draw(discs)
    for _ in range(rng.integers(8, 18)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = max(width, height) * rng.uniform(0.02, 0.09)
        colour = _rgb(season.lights[rng.integers(len(season.lights))])
        pen.ellipse(
            [x - radius, y - radius, x + radius, y + radius],
            fill=(*colour, int(rng.integers(40, 110))),
        )
    discs = discs.filter(ImageFilter.GaussianBlur(0.8))
    air.paste(discs, mask=discs)
    return air


def _draw_branch(
    picture: Image.Image,
    rng: np.random.Generator,
    season: _Season,
    at: Callable[[Point], Point],
    unit: float,
) -> None:
    pen = ImageDraw.Draw(picture)
    rise, bend = rng.uniform(-0.14, 0.14), rng.uniform(-0.03, 0.03)
    thick = rng.uniform(0.03, 0.05)
    across = np.linspace(-2.8, 2.8, 29).tolist()

    def height(x: float) -> float:
        return 0.80 + rise * x + bend * x * x

    upper = [(x, height(x) - thick * (1 + 0.2 * x)) for x in across]
    lower = [(x, height(x) + thick * (1 + 0.2 * x)) for x in reversed(across)]
    pen.polygon([at(p) for p in upper + lower], fill=_rgb(season.branch))
    if season.growth == "snow":
        snow = [(x, y - 0.04 - 0.02 * np.sin(9 * x)) for x, y in upper]
        pen.polygon([at(p) for p in [*snow, *reversed(upper)]], fill=(251, 253, 255))
        return
    for _ in range(rng.integers(4, 9)):
        x = float(rng.choice([-1, 1]) * rng.uniform(0.55, 2.2))
        side = float(rng.choice([-1, 1]))
        _draw_growth(pen, rng, season.growth, at, unit, (x, height(x) + side * thick / 2), side)


def _draw_growth(
    pen: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    growth: str,
    at: Callable[[Point], Point],
    unit: float,
    place: Point,
    side: float,
) -> None:
    """A leaf, a blossom or a berry."""
    x, y = place
    if growth == "leaf":
        length, turn = rng.uniform(0.26, 0.42), rng.uniform(-0.8, 0.8)
        across, along = 0.32 * length, np.array([np.sin(turn), side * np.cos(turn)]) * length
        normal = np.array([-along[1], along[0]]) / length * across
        middle = np.array(place) + along / 2
        tip = np.array(place) + along
        points = [place, tuple(middle + normal), tuple(tip), tuple(middle - normal)]
        green = rng.uniform(0.75, 1.15) * np.array([88, 140, 74])
        pen.polygon([at(p) for p in _curve(points, 0.35)], fill=tuple(green.astype(int)))
    elif growth == "blossom":
        for k in range(5):
            angle = 2 * np.pi * k / 5
            _disc(pen, at, unit, x + 0.07 * np.cos(angle), y + 0.07 * np.sin(angle), 0.06, "fbdfe6")
        _disc(pen, at, unit, x, y, 0.045, "e9b84a")
    else:
        for dx in (-0.07, 0.0, 0.07):
            _disc(pen, at, unit, x + dx, y + 0.05 + abs(dx) / 2, 0.055, "b8322c")


# -- the bird, which looks to the right


_OUTLINE = (
    *((0.69, -0.36), (0.60, -0.55), (0.40, -0.64), (0.19, -0.53), (0.02, -0.34), (-0.30, -0.20)),
    *((-0.62, 0.04), (-0.72, 0.20), (-0.50, 0.36), (-0.12, 0.53), (0.26, 0.50), (0.54, 0.26)),
    *((0.64, 0.00), (0.63, -0.20)),
)


def _draw_bird(
    picture: Image.Image,
    rng: np.random.Generator,
    bird: Bird,
    at: Callable[[Point], Point],
    unit: float,
) -> None:
    pen = ImageDraw.Draw(picture)
    light = rng.uniform(0.92, 1.08)

    def colour(name: str, by: float = 1.0) -> tuple[int, int, int]:
        red, green, blue = (min(255, int(value * light * by)) for value in _rgb(name))
        return red, green, blue

    def shape(on: ImageDraw.ImageDraw, points: Sequence[Point], fill: object) -> None:
        on.polygon([at(p) for p in _curve(points)], fill=fill)  # type: ignore[arg-type]

    for x in (-0.02, 0.14):
        pen.line([at((x, 0.40)), at((x + 0.03, 0.80))], (112, 84, 66), round(unit * 0.045))
    end = -0.62 - bird.tail_length
    drop = 0.10 + 0.30 * bird.tail_length
    shape(
        pen,
        [
            (-0.50, -0.04),
            (end, drop),
            (end - 0.02, drop + 0.13),
            (end + 0.1, drop + 0.16),
            (-0.4, 0.3),
        ],
        colour(bird.tail),
    )
    if bird.crest:
        shape(
            pen,
            [(0.50, -0.60), (0.30, -0.62), (-0.06, -0.82), (0.10, -0.56), (0.2, -0.45)],
            colour(bird.crown, 0.92),
        )
    low, deep = -0.29, bird.bill_depth
    tip = (0.62 + bird.bill_length, low + 0.04)
    pen.polygon(
        [at((0.60, low - deep / 2)), at(tip), at((0.60, low + deep / 2))], colour(bird.bill)
    )
    pen.polygon([at((0.60, low)), at(tip), at((0.60, low + deep / 2))], colour(bird.bill, 0.8))

    plumage = Image.new("RGB", picture.size, colour(bird.back))
    on = ImageDraw.Draw(plumage)
    shape(
        on,
        [(-0.8, 0.16), (-0.2, 0.10), (0.30, 0.0), (0.8, -0.1), (0.8, 0.7), (-0.6, 0.7)],
        colour(bird.belly),
    )
    shape(
        on,
        [(0.20, -0.12), (0.50, -0.26), (0.8, -0.2), (0.75, 0.2), (0.46, 0.40), (0.24, 0.26)],
        colour(bird.breast),
    )
    shape(on, [(0.17, -0.40), (0.44, -0.46), (0.75, -0.40), (0.75, -0.18), (0.52, -0.07),
               (0.26, -0.14)], colour(bird.cheek))  # fmt: skip
    shape(on, [(0.02, -0.30), (0.24, -0.45), (0.48, -0.47), (0.80, -0.44), (0.60, -0.80),
               (0.10, -0.70)], colour(bird.crown))  # fmt: skip
    if bird.bib:
        shape(
            on,
            [(0.52, -0.22), (0.64, -0.25), (0.80, -0.20), (0.66, -0.02), (0.54, -0.08)],
            colour(bird.bib),
        )
    if bird.mask:
        shape(
            on,
            [(0.28, -0.36), (0.50, -0.44), (0.80, -0.36), (0.80, -0.24), (0.48, -0.31)],
            colour(bird.mask),
        )
    inside = Image.new("L", picture.size)
    shape(ImageDraw.Draw(inside), _OUTLINE, 255)
    picture.paste(plumage, mask=inside)

    wing = [(0.26, -0.12), (0.22, 0.08), (-0.10, 0.24), (-0.50, 0.26), (-1.02, 0.30), (-0.60, 0.04),
            (-0.22, -0.16), (0.08, -0.24)]  # fmt: skip
    shape(pen, wing, colour(bird.wing))
    shape(pen, [(-0.30, 0.14), (-0.62, 0.22), (-1.0, 0.29), (-0.60, 0.13)], colour(bird.wing, 0.75))
    if bird.panel:
        shape(
            pen,
            [(-0.02, 0.21), (-0.34, 0.25), (-0.78, 0.27), (-0.42, 0.17), (-0.10, 0.13)],
            colour(bird.panel),
        )
    if bird.bar:
        shape(
            pen,
            [(0.10, -0.16), (0.08, 0.02), (-0.06, 0.18), (-0.12, 0.13), (0.00, -0.02)],
            colour(bird.bar),
        )
    _disc(pen, at, unit, 0.49, -0.36, 0.062, "121012")
    _disc(pen, at, unit, 0.51, -0.38, 0.018, "ffffff")


# -- geometry and colours


def _curve(points: Sequence[Point], round_by: float = 0.5, steps: int = 8) -> list[Point]:
    """A closed smooth curve through points (Catmull-Rom), as a polygon; its last `steps` points
    lead back to the first one."""
    p = np.asarray(points, np.float64)
    before, after = np.roll(p, 1, 0), np.roll(p, -1, 0)
    slope = (after - before) * round_by
    t = (np.arange(steps) / steps)[:, None, None]
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * p
        + (t**3 - 2 * t**2 + t) * slope
        + (3 * t**2 - 2 * t**3) * after
        + (t**3 - t**2) * np.roll(slope, -1, 0)
    )
    return [(float(x), float(y)) for x, y in curve.transpose(1, 0, 2).reshape(-1, 2)]


def _disc(
    pen: ImageDraw.ImageDraw,
    at: Callable[[Point], Point],
    unit: float,
    x: float,
    y: float,
    radius: float,
    colour: str,
) -> None:
    cx, cy = at((x, y))
    r = unit * radius
    pen.ellipse([cx - r, cy - r, cx + r, cy + r], fill=_rgb(colour))


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour)
    return red, green, blue
