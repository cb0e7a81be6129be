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
from pathlib import Path

import numpy as np
from PIL import Image

from wingbar import images
from wingbar.data.alterations import (
    Change,
    blurred,
    compressed,
    covered,
    cropped,
    perspective,
    rotated,
    scaled,
)
from wingbar.model.itq import unit
from wingbar.model.model import Model

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
