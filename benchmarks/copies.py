"""How well do models' features find the original of an altered image?

    python benchmarks/copies.py butterflies/val general MODEL ... --images 300

Each image of the folder is a class of its own. The queries are altered copies of it, drawn with a
seed: cropped to 30 % of the area, scaled to 0.4, rotated, distorted in perspective, partly covered,
blurred, and saved as JPEG of quality 20. The gallery is the folder as it is. Each line is a model
and an alteration: the mean reciprocal rank of the original by the cosine of features (which is MAP
with one relevant item), and in brackets how often the original came first. The models must not be
trained on these images.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from wingbar import images
from wingbar.model.itq import unit
from wingbar.model.model import Model

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """30 % of the area, at a random place, with the image's aspect ratio."""
    share = np.sqrt(0.3)
    width, height = image.width * share, image.height * share
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.crop((int(left), int(top), int(left + width), int(top + height)))


def scaled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """0.4 of each side."""
    return image.resize(
        (max(1, int(image.width * 0.4)), max(1, int(image.height * 0.4))), Image.Resampling.BICUBIC
    )


def rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """By 10 to 40 degrees in either direction, on grey."""
    angle = rng.uniform(10, 40) * rng.choice([-1, 1])
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))


def perspective(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Each corner moved inwards by up to a fifth of the width and height."""
    width, height = image.size
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], float)
    inwards = (
        np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
        * rng.uniform(0, 0.2, (4, 2))
        * [width, height]
    )
    quad = (corners + inwards).ravel().tolist()
    return image.transform(image.size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


def covered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A quarter of the area covered by a rectangle of one colour."""
    out = image.copy()
    width, height = image.width // 2, image.height // 2
    left, top = (
        int(rng.integers(0, image.width - width + 1)),
        int(rng.integers(0, image.height - height + 1)),
    )
    out.paste(tuple(rng.integers(0, 256, 3).tolist()), (left, top, left + width, top + height))
    return out


def blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian, with a standard deviation of 2 % of the short side."""
    return image.filter(ImageFilter.GaussianBlur(0.02 * min(image.size)))


def compressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG of quality 20."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=20)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


CHANGES: dict[str, Change] = {
    "crop to 30 %": cropped,
    "scale x 0.4": scaled,
    "rotation": rotated,
    "perspective": perspective,
    "occlusion": covered,
    "blur": blurred,
    "JPEG q20": compressed,
}


def features(model: Model, pictures: list[Image.Image]) -> np.ndarray:
    """Unit features [n, d]; of a label-free model the raw ones, which are fitted to no folder."""
    if model.gives_codes:
        return model.encode(pictures).features
    raw = model.run([images.load(picture, model.preprocessing) for picture in pictures])
    return unit(raw)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("models", nargs="+", help="model directories, or general")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    found = images.find(args.folder).images
    paths = [found[i] for i in np.sort(rng.permutation(len(found))[: args.images])]
    originals = [Image.open(path).convert("RGB") for path in paths]
    changed = {
        name: [
            change(image, np.random.default_rng([args.seed, i]))
            for i, image in enumerate(originals)
        ]
        for name, change in CHANGES.items()
    }
    print(
        f"{len(paths)} images of {Path(args.folder).name}, seed {args.seed}: mean reciprocal rank "
        "(share of first places)"
    )
    for name in args.models:
        model = Model.load(name)
        gallery = features(model, originals)
        means = []
        for change, queries in changed.items():
            cosine = features(model, queries) @ gallery.T
            own = np.diag(cosine)[:, None]
            # the mean place among equal ones
            rank = (cosine > own).sum(1) + 1 + ((cosine == own).sum(1) - 1) / 2
            means.append(float((1 / rank).mean()))
            print(
                f"  {model.name:24} {change:14} {means[-1]:.3f} ({(rank == 1).mean():.3f})",
                flush=True,
            )
        print(f"  {model.name:24} {'mean':14} {np.mean(means):.3f}", flush=True)


if __name__ == "__main__":
    main()
