"""Does `p_chance` hold what it promises? Of all pairs of a query and an item of the gallery, the
share whose p_chance is at most p should be p at most, or a threshold means nothing.

    python benchmarks/p_chance.py butterflies clothing digits --cache features/ -o docs/p-chance.svg

The first folder is a gallery (train) with queries of its own (val); each other one holds pictures
of something else, val if there is one, which have nothing to find there. An index of 48 bits is
fitted to the gallery as `wingbar index` does. Queries of the gallery's own kind have true hits:
they are left out in a line of their own, where pairs of one label are not counted. Printed are the
shares, and with -o drawn, by feature and by code. Everything is encoded once and kept in --cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import label_free  # type: ignore[import-not-found,unused-ignore]  # beside this file
import numpy as np
from numpy.typing import NDArray

from wingbar.model.model import Model

THRESHOLDS = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
DRAWN = np.sort(np.concatenate([np.logspace(-4, 0, 41), [0.03, 3e-3, 3e-4]]))
BITS = 48
NAMES = ("by feature", "by code")

Shares = Mapping[str, tuple[NDArray[np.float64], ...]]  # by feature and by code


def p_chances(
    model: Model, gallery: label_free.Found, raw: label_free.Raw
) -> list[NDArray[np.float64]]:
    """The p_chance [Q, N] of all pairs of queries and items, by feature and by code."""
    asked, pairs = label_free.queries_of(model, raw, gallery), model.random_pairs
    assert pairs is not None
    cosines = asked.features @ gallery.features.T
    distances = (model.bits - asked.signs @ gallery.signs.T) / 2
    return [pairs.of_cosines(cosines), pairs.of_distances(distances)]


def shares(p: NDArray[np.float64], counted: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """The share of the counted pairs whose p is at most each of DRAWN."""
    ordered = np.sort(p.ravel() if counted is None else p[counted])
    return np.searchsorted(ordered, DRAWN * (1 + 1e-9), "right") / len(ordered)


def measured(folders: list[Path], cache: Path | None) -> Shares:
    """The shares of each kind of query, by its name."""
    own, others = folders[0], folders[1:]
    gallery, queries = label_free.part(own, "train", cache), label_free.part(own, "val", cache)
    sample = np.sort(np.random.default_rng(0).permutation(len(gallery.raw))[:4096])
    model = Model.load().fitted(gallery.raw[sample], BITS, 0)
    stored = label_free.gallery_of(model, gallery.raw)
    found = p_chances(model, stored, queries.raw)
    differ = queries.labels[:, None] != gallery.labels[None]
    out = {
        f"{own.name}, of the same kind": tuple(map(shares, found)),
        f"{own.name}, other labels only": tuple(shares(p, differ) for p in found),
    }
    for folder in others:
        kept = cache is not None and (cache / f"{folder.name}_val.npz").exists()
        has_val = kept or (folder / "val").is_dir()
        raw = (
            label_free.part(folder, "val", cache).raw
            if has_val
            else label_free.strangers(folder, cache)
        )
        out[folder.name] = tuple(map(shares, p_chances(model, stored, raw)))
    return out


def draw(found: Shares, path: Path) -> None:
    """Observed against promised shares, on logarithmic axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    grey = "#808080"
    pyplot.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "wingbar",
            "font.family": "sans-serif",
            "font.size": 9,
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), grey),
            **dict.fromkeys(("xtick.color", "ytick.color"), grey),
        }
    )
    figure, both = pyplot.subplots(1, 2, figsize=(7.2, 3.6), sharey=True, layout="constrained")
    for i, (axes, name) in enumerate(zip(both, NAMES, strict=True)):
        axes.plot([1e-4, 1], [1e-4, 1], color=grey, linewidth=1, label="as promised")
        for label, share in found.items():
            seen = share[i] > 0
            axes.plot(DRAWN[seen], share[i][seen], linewidth=1.6, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1e-4, 1)
        axes.set_ylim(1e-6, 1)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("p")
        axes.grid(color=grey, alpha=0.2)
    both[0].set_ylabel("share of pairs with p_chance at most p")
    both[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    found = measured(args.folders, args.cache)
    for i, name in enumerate(NAMES):
        print(f"{name}: share of pairs with p_chance of at most")
        print(" " * 36, *(f"{p:8g}" for p in THRESHOLDS))
        for label, share in found.items():
            at = [share[i][np.abs(DRAWN - p).argmin()] for p in THRESHOLDS]
            print(f"  {label:34}", *(f"{value:8.5f}" for value in at))
    if args.output:
        draw(found, args.output)


if __name__ == "__main__":
    main()
