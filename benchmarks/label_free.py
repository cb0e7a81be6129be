"""Label-free codes and features beside each other, on pictures whose labels only measure.

    python benchmarks/label_free.py butterflies clothing --cache features/

A data set is a folder with two parts, of which the first is the gallery and the second holds the
queries: train and val, or train and test. Codes of each kind are fitted to the gallery as `wingbar
index` does. Each line is a kind of code at one length: MAP of the codes, expected over ties; MAP of
the features and how often the nearest feature is right; and the copies of benchmarks/copies.py,
altered pictures of 300 queries, which have to find the original among these: the mean reciprocal
rank by feature and by code. "averaged" are the codes and features of an index for classes, with
queries averaged, too; its last word is what `wingbar index` chooses among itq and whitened codes.
"crovca" is what crovca.py learns, which needs PyTorch, and encodes the sample once more.
--train splits the gallery instead of looking at the queries, to choose by. With --strangers, a
folder of pictures of something else, the last lines say how `p_chance` does on the queries, and on
pictures of that folder and of the other data sets, which have nothing to find.

Everything is encoded once, and kept in the folder --cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import copies  # type: ignore[import-not-found,unused-ignore]  # beside this file
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wingbar import images
from wingbar.data.readers import read_images
from wingbar.evaluation.metrics import expected_ap
from wingbar.hamming.codes import pack, unpack
from wingbar.index.averaging import averages, expanded
from wingbar.model import averaging
from wingbar.model.fitting import FitOptions
from wingbar.model.itq import unit
from wingbar.model.model import SAMPLE, Embeddings, Model
from wingbar.parallel import BATCH, batched, cores, in_order

Raw = NDArray[np.float32]
Signs = Callable[[Raw], Raw]  # codes as -1 and 1 [N, b] of raw features [N, r]
CROVCA = "crovca"
KINDS: Mapping[str, FitOptions] = {
    "lsh": FitOptions(codes="lsh"),
    "pca": FitOptions(codes="pca"),
    "itq": FitOptions(codes="itq"),
    "whitened": FitOptions(codes="whitened"),
    "averaged": FitOptions(purpose="classes"),
    CROVCA: FitOptions(codes="itq"),  # for its features
}
ALTERED = 300  # queries whose copies are looked for
SHARES = (0.1, 0.01, 0.001)


class Pictures(NamedTuple):
    """Raw features [N, r] and labels [N]."""

    raw: Raw
    labels: NDArray[np.str_]


class Found(NamedTuple):
    """Codes as -1 and 1 [N, b], and features [N, d]."""

    signs: NDArray[np.float32]
    features: NDArray[np.float32]


# -- pictures


def encode(sources: Iterable[images.Source]) -> Raw:
    """The raw features of the built-in model."""
    model = Model.load()
    pixels = in_order(sources, lambda one: images.load(one, model.preprocessing), cores())
    return np.concatenate([model.run(batch) for batch in batched(pixels, BATCH)])


def part(folder: Path, name: str, cache: Path | None) -> Pictures:
    """The pictures of folder/name."""
    kept = None if cache is None else cache / f"{folder.name}_{name}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            labels = [Path(path).parent.name for path in file["paths"]]
            return Pictures(unit(file["raw"].astype(np.float32)), np.array(labels))
    found = read_images(folder / name)
    paths = [str(path) for path in found.paths]
    raw = encode(paths)
    if kept is not None:
        np.savez(kept, raw=raw, paths=paths)
    return Pictures(raw, np.array([Path(path).parent.name for path in paths]))


def strangers(folder: Path, cache: Path | None) -> Raw:
    """The raw features of all pictures below a folder."""
    kept = None if cache is None else cache / f"{folder.name}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            return unit(file["raw"].astype(np.float32))
    raw = encode(images.find(folder).images)
    if kept is not None:
        np.savez(kept, raw=raw)
    return raw


def altered(folder: Path, name: str, cache: Path | None) -> dict[str, Raw]:
    """Raw features of some pictures as they are, "original", and as benchmarks/copies.py alters
    them."""
    kept = None if cache is None else cache / f"{folder.name}_{name}_copies.npz"
    if kept is None or not kept.exists():
        paths = images.find(folder / name).images
        rows = np.sort(np.random.default_rng(0).permutation(len(paths))[:ALTERED])
        originals = [Image.open(paths[row]).convert("RGB") for row in rows]
        made = {"original": encode(originals)}
        for change, function in copies.CHANGES.items():
            made[change] = encode(
                [function(one, np.random.default_rng([0, i])) for i, one in enumerate(originals)]
            )
        if kept is None:
            return made
        np.savez(kept, allow_pickle=False, **made)
    with np.load(kept) as file:
        return {key: unit(file[key].astype(np.float32)) for key in file if key != "paths"}


def crops(folder: Path, name: str, rows: NDArray[np.int64], cache: Path | None) -> Raw:
    """The raw features of a random part of each of the pictures `rows` of folder/name, from 30 to
    100 % of its area, half of them mirrored: another view of them, to learn codes from."""
    kept = None if cache is None else cache / f"{folder.name}_{name}_{len(rows)}_crops.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            return unit(file["raw"].astype(np.float32))
    whole = None if cache is None else cache / f"{folder.name}_{name}.npz"
    if whole is not None and whole.exists():
        with np.load(whole) as file:
            paths = [folder / path for path in file["paths"]]  # in the order of its features
    else:
        paths = read_images(folder / name).paths
    raw = encode(_crop(str(paths[row]), np.random.default_rng([1, int(row)])) for row in rows)
    if kept is not None:
        np.savez(kept, raw=raw)
    return raw


def _crop(path: str, rng: np.random.Generator) -> Image.Image:
    picture = images.upright(path)
    share, ratio = rng.uniform(0.3, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(1.0, float(np.sqrt(share * ratio))) * picture.width
    height = min(1.0, float(np.sqrt(share / ratio))) * picture.height
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    part = picture.convert("RGB").crop(
        (round(left), round(top), round(left + width), round(top + height))
    )
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


# -- measures


def found_by(embedded: Embeddings) -> Found:
    """What is searched."""
    signs = np.where(unpack(embedded.codes, embedded.bits), np.float32(1), np.float32(-1))
    return Found(signs, embedded.features)


def gallery_of(model: Model, raw: Raw) -> Found:
    """Codes and features as an index of these pictures stores them."""
    embedded = model.embed(raw)
    if not model.averages:
        return found_by(embedded)
    packed, features = averages(model, embedded.features, np.arange(len(raw)))
    signs = np.where(unpack(packed, model.bits), np.float32(1), np.float32(-1))
    return Found(signs, features)


def queries_of(model: Model, raw: Raw, gallery: Found) -> Found:
    """Codes and features of queries, averaged with their neighbours where the index does so."""
    embedded = model.embed(raw)
    if not model.expand:
        return found_by(embedded)
    near = averaging.nearest(embedded.features, gallery.features, None, model.expand)
    out = [
        found_by(expanded(one, gallery.features[rows], pack(gallery.signs[rows] > 0), cosines))
        for one, rows, cosines in zip(embedded, near.rows, near.cosines, strict=True)
    ]
    return Found(*(np.concatenate(column) for column in zip(*out, strict=True)))


def mean_ap(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    query_labels: NDArray[np.str_],
    labels: NDArray[np.str_],
) -> tuple[float, float]:
    """MAP expected over ties by the product of rows, and how often the first is right."""
    aps, right = [], []
    for query, label in zip(queries, query_labels, strict=True):
        score, relevant = gallery @ query, labels == label
        if relevant.any():
            aps.append(expected_ap(-score.astype(np.float64), relevant))
            right.append(relevant[score.argmax()])
    return float(np.mean(aps)), float(np.mean(right))


def reciprocal_rank(
    model: Model, pictures: Mapping[str, Raw], signs: Signs | None
) -> tuple[float, float]:
    """Of altered pictures, the mean of 1 / rank of the original, by feature and by code."""
    gallery = with_codes(gallery_of(model, pictures["original"]), pictures["original"], signs)
    out = []
    for change, raw in pictures.items():
        if change == "original":
            continue
        queries = with_codes(queries_of(model, raw, gallery), raw, signs)
        for one, other in zip(queries, gallery, strict=True):
            score = one @ other.T
            own = np.diag(score)[:, None]
            rank = (score > own).sum(1) + 1 + ((score == own).sum(1) - 1) / 2
            out.append(float((1 / rank).mean()))
    return float(np.mean(out[1::2])), float(np.mean(out[::2]))


def with_codes(found: Found, raw: Raw, signs: Signs | None) -> Found:
    """With other codes of the raw features [N, r], where there are any."""
    return found if signs is None else found._replace(signs=signs(raw))


def line(
    model: Model,
    gallery: Pictures,
    queries: Pictures,
    made: Mapping[str, Raw],
    signs: Signs | None = None,
) -> str:
    """The figures of one kind of code: of the model's own, or of `signs`."""
    stored = with_codes(gallery_of(model, gallery.raw), gallery.raw, signs)
    asked = with_codes(queries_of(model, queries.raw, stored), queries.raw, signs)
    by_code, _ = mean_ap(asked.signs, stored.signs, queries.labels, gallery.labels)
    by_feature, right = mean_ap(asked.features, stored.features, queries.labels, gallery.labels)
    copy_feature, copy_code = reciprocal_rank(model, made, signs)
    return f"{by_code:.3f} {by_feature:.3f} {right:.3f} {copy_feature:.3f} {copy_code:.3f}"


def chance_lines(
    model: Model, gallery: Pictures, queries: Pictures, others: Mapping[str, Raw]
) -> list[str]:
    """The share of pairs of query and item whose p_chance is at most each of SHARES, and of queries
    with a hit at 0.01."""
    stored, pairs = gallery_of(model, gallery.raw), model.random_pairs
    assert pairs is not None
    lines = []
    for name, raw in {"its own queries": queries.raw, **others}.items():
        asked = queries_of(model, raw, stored)
        by_feature = pairs.of_cosines((asked.features @ stored.features.T).ravel())
        by_code = pairs.of_distances((model.bits - asked.signs @ stored.signs.T).ravel() / 2)
        for kind, p in (("features", by_feature), ("codes", by_code)):
            shares = " ".join(f"{(p <= share).mean():.5f}" for share in SHARES)
            some = (p.reshape(len(raw), -1) <= 0.01).any(1).mean()
            lines.append(f"  {name:16} {kind:8} {shares}  {some:.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--bits", type=int, nargs="+", default=[12, 24, 48, 64])
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=[kind for kind in KINDS if kind != CROVCA]
    )
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="pictures to learn from")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--strangers", type=Path)
    args = parser.parse_args()
    if CROVCA in args.kinds and args.train:
        parser.error("crovca is measured on the queries only: leave it or --train out")
    tests: dict[str, tuple[Pictures, Pictures, dict[str, Raw]]] = {}
    views: dict[str, Raw] = {}
    for folder in args.folders:
        name = "test" if (folder / "test").is_dir() else "val"
        gallery, queries = part(folder, "train", args.cache), part(folder, name, args.cache)
        if args.train:
            order = np.random.default_rng(0).permutation(len(gallery.raw))
            fifth, rest = np.array_split(order, [len(order) // 5])
            queries = Pictures(gallery.raw[fifth], gallery.labels[fifth])
            gallery = Pictures(gallery.raw[rest], gallery.labels[rest])
        tests[folder.name] = gallery, queries, altered(folder, name, args.cache)
        if CROVCA in args.kinds:
            rows = np.sort(np.random.default_rng(0).permutation(len(gallery.raw))[: args.sample])
            views[folder.name] = crops(folder, "train", rows, args.cache)
    for folder_name, (gallery, queries, made) in tests.items():
        sample = np.sort(np.random.default_rng(0).permutation(len(gallery.raw))[: args.sample])
        print(f"{folder_name}: {len(queries.raw)} queries, {len(gallery.raw)} items")
        print("kind      bits  codes features nearest  copies: features codes")
        for bits in args.bits:
            for kind in args.kinds:
                model = Model.load().fitted(gallery.raw[sample], bits, 0, KINDS[kind])
                chosen = model.record["fitted"]["codes"]
                signs: Signs | None = None
                if kind == CROVCA:
                    import crovca  # type: ignore[import-not-found,unused-ignore]  # needs PyTorch

                    network = crovca.fit(gallery.raw[sample], views[folder_name], bits)
                    chosen, signs = kind, partial(crovca.signs, network)
                figures = line(model, gallery, queries, made, signs)
                print(f"{kind:9} {bits:4}  {figures}  {chosen}", flush=True)
        if args.strangers:
            model = Model.load().fitted(gallery.raw[sample], 48, 0)
            others = {name: one[1].raw for name, one in tests.items() if name != folder_name}
            others[args.strangers.name] = strangers(args.strangers, args.cache)
            print(f"  p_chance at most {SHARES}, and queries with a hit at 0.01")
            print("\n".join(chance_lines(model, gallery, queries, others)), flush=True)


if __name__ == "__main__":
    main()
