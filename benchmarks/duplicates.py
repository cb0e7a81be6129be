"""How many copies does `wingbar duplicates` find, how many of them are wrong, and how long does it
take?

    python benchmarks/duplicates.py quality butterflies/train clothing/train --images 300
    python benchmarks/duplicates.py size --items 100000 1000000

`quality` draws images of each folder with a seed, makes the altered copies of benchmarks/copies.py
of each, and looks for copies among all of them. Recall is the share of originals that are in one
group with their altered copy; precision the share of the pairs found that are of one original.
Beside it, on the same files: imagededup's pHash (at most 10 bits) and CNN (cosine of at least 0.9),
which are its defaults, and ImageHash's pHash (at most 10 bits), as far as they are installed. Peers
are scored by the pairs that they name. Folders can hold copies of their own, so pairs of different
originals are counted by themselves.

`size` makes vectors around many centres, in which one item of a hundred is a near copy of another
one, and looks for copies by code and feature; there are no pixels to compare.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from copies import CHANGES  # type: ignore[import-not-found]  # the script beside this one
from PIL import Image

from wingbar import images
from wingbar.duplicates.find import DuplicateOptions, find_duplicates
from wingbar.index.index import Index
from wingbar.model.itq import unit
from wingbar.model.model import Model

Pairs = set[tuple[str, str]]  # of file names, in order
COPIES = 0.01  # share of the items of `size` that are copies
NOISE = 0.1  # length of what is added to a unit vector to make its copy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    quality = modes.add_parser("quality")
    quality.add_argument("folders", nargs="+")
    quality.add_argument("--images", type=int, default=300)
    quality.add_argument("--seed", type=int, default=0)
    quality.add_argument("--no-peers", action="store_true")
    size = modes.add_parser("size")
    size.add_argument("--items", type=int, nargs="+", default=[100_000])
    size.add_argument("--dim", type=int, default=64)
    size.add_argument("--bits", type=int, default=64)
    size.add_argument("--centres", type=int, default=1000)
    size.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.mode == "size":
        for items in args.items:
            measure_size(items, args.dim, args.bits, args.centres, args.seed)
        return
    for folder in args.folders:
        measure_quality(Path(folder), args.images, args.seed, not args.no_peers)


# -- quality


def measure_quality(folder: Path, count: int, seed: int, with_peers: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "files"
        written = write_copies(folder, files, count, seed)
        print(f"{written} images of {folder}, {len(CHANGES)} copies of each, seed {seed}")
        path = Path(place) / "a.wb"
        with Index.create(path) as index:
            start = time.perf_counter()
            index.add(files)
            indexed = time.perf_counter() - start
            start = time.perf_counter()
            found = find_duplicates(index)
            seconds = time.perf_counter() - start
        groups = [[Path(copy.path).name for copy in group] for group in found.groups]
        print(
            f"  indexed in {indexed:.0f} s; radius {found.radius}, min score "
            f"{found.min_score:.2f}, {found.compared:,} pairs of pixels compared"
        )
        show("wingbar", pairs_of(groups), written, seconds)
        if with_peers:
            for name, peer in PEERS.items():
                start = time.perf_counter()
                try:
                    pairs = peer(files)
                except (ImportError, RuntimeError, OSError) as error:  # OSError: no weights
                    print(f"  {name}: cannot be used ({error})")
                    continue
                show(name, pairs, written, time.perf_counter() - start)


def write_copies(folder: Path, target: Path, count: int, seed: int) -> int:
    """Originals "12 original.png" and copies "12 JPEG q20.png"; returns the number of originals."""
    target.mkdir()
    found = images.find(folder).images
    rng = np.random.default_rng(seed)
    chosen = [found[i] for i in np.sort(rng.permutation(len(found))[:count])]
    for i, path in enumerate(chosen):
        original = Image.open(path).convert("RGB")
        original.save(target / f"{i} original.png")
        for name, change in CHANGES.items():
            changed = change(original, np.random.default_rng([seed, i]))
            changed.save(target / f"{i} {name.replace('%', 'percent')}.png")
    return len(chosen)


def pairs_of(groups: Iterable[list[str]]) -> Pairs:
    return {pair for group in groups for pair in combinations(sorted(group), 2)}


def show(name: str, pairs: Pairs, originals: int, seconds: float) -> None:
    """One line for each alteration, and the precision."""
    right = sum(one.split()[0] == other.split()[0] for one, other in pairs)
    both = sum(
        one.endswith("original.png") and other.endswith("original.png") for one, other in pairs
    )
    precision = right / len(pairs) if pairs else float("nan")
    print(
        f"  {name}: precision {precision:.4f} of {len(pairs):,} pairs ({both} of two originals), "
        f"{seconds:.0f} s"
    )
    for change in CHANGES:
        text = change.replace("%", "percent")
        hit = sum(
            tuple(sorted((f"{i} original.png", f"{i} {text}.png"))) in pairs
            for i in range(originals)
        )
        print(f"    {change:14} recall {hit / originals:.3f}", flush=True)


@cache
def _operators() -> Any:
    """What torchvision from PyPI, which is built for CUDA, looks for when it is imported, and does
    not find beside a PyTorch for CPUs. imagededup uses none of it."""
    import torch

    torch_library: Any = torch.library
    library = torch_library.Library("torchvision", "FRAGMENT")
    if torch.version.cuda is None:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def phash_of_imagededup(files: Path) -> Pairs:
    _operators()
    from imagededup.methods import PHash

    found = PHash(verbose=False).find_duplicates(image_dir=str(files), max_distance_threshold=10)
    return _listed(found)


def cnn_of_imagededup(files: Path) -> Pairs:
    _operators()
    from imagededup.methods import CNN

    found = CNN(verbose=False).find_duplicates(image_dir=str(files), min_similarity_threshold=0.9)
    return _listed(found)


def phash_of_imagehash(files: Path) -> Pairs:
    import imagehash

    names = sorted(path.name for path in files.iterdir())
    bits = np.stack(
        [imagehash.phash(Image.open(files / name)).hash.ravel() for name in names]
    ).astype(np.int16)
    distances = (bits[:, None, :] != bits[None]).sum(2) if len(names) < 500 else _distances(bits)
    rows, columns = np.nonzero(np.triu(distances <= 10, 1))
    return {(names[i], names[j]) for i, j in zip(rows.tolist(), columns.tolist(), strict=True)}


def _distances(bits: np.ndarray) -> np.ndarray:
    signs = 1.0 - 2.0 * bits
    return (bits.shape[1] - signs @ signs.T) / 2


def _listed(found: dict[str, list[str]]) -> Pairs:
    return {(min(one, other), max(one, other)) for one, others in found.items() for other in others}


PEERS = {
    "imagededup pHash": phash_of_imagededup,
    "imagededup CNN": cnn_of_imagededup,
    "ImageHash pHash": phash_of_imagehash,
}


# -- size


def measure_size(items: int, dim: int, bits: int, centres: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    planted = int(items * COPIES)
    middles = unit(rng.standard_normal((centres, dim)))
    # each item is as far from its centre as two centres are from each other
    vectors = middles[rng.integers(0, centres, items)] + unit(rng.standard_normal((items, dim)))
    vectors = unit(vectors).astype(np.float32)
    noise = NOISE * unit(rng.standard_normal((planted, dim)))
    vectors[-planted:] = unit(vectors[:planted] + noise)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.wb"
        with Index.create(path, Model.of_vectors(dim)) as index:
            start = time.perf_counter()
            index.add(vectors=vectors, keys=[str(i) for i in range(items)], bits=bits)
            stored = time.perf_counter() - start
            del vectors
            start = time.perf_counter()
            found = find_duplicates(index, DuplicateOptions(pixels=False))
            seconds = time.perf_counter() - start
    groups = [[int(copy.path.split(":")[1]) for copy in group] for group in found.groups]
    pairs = {pair for group in groups for pair in combinations(sorted(group), 2)}
    right = sum((i, items - planted + i) in pairs for i in range(planted))
    steps = ", ".join(f"{name} {value:.1f} s" for name, value in found.seconds.items())
    print(
        f"{items:,} items, {bits} bits, {dim}-d: stored in {stored:.0f} s, copies in "
        f"{seconds:.1f} s ({steps}); radius {found.radius}, cosine {found.min_score:.3f}; "
        f"{right:,} of {planted:,} planted copies, {len(pairs) - right:,} other pairs",
        flush=True,
    )


if __name__ == "__main__":
    main()
