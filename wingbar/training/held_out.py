"""Measure each fine mode on images that were held out of training, so that a model records which
one suits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.evaluation.metrics import REFUSED_FROM, Health, expected_ap, health
from wingbar.hamming import codes
from wingbar.index.ranking import FINE, SHORTLIST, TIE_CAP, Fine, fine_places
from wingbar.model import itq
from wingbar.model.itq import Rotation, unit
from wingbar.model.model import over_views
from wingbar.parallel import Progress, batched, cores, in_order
from wingbar.training.pictures import Labels, Split
from wingbar.training.run import Run
from wingbar.training.versions import version

GALLERY_SAMPLE = 5000  # training images that the held-out ones are searched in, at most
_BATCH = 32

Float32 = NDArray[np.float32]
# the network alone: pixels [B, H, W, 3] -> unit features [B, d] and code logits [B, b], if any
Network = Callable[[NDArray[np.uint8]], tuple[Float32, Float32 | None]]


@dataclass(frozen=True)
class Side:
    """Network outputs of n images.

    logits: code logits, [n, b] float32; a bit is 1 where its logit is >= 0.
    features: [n, d] float32, of any length.
    labels: class numbers, [n] int64, or which classes each is of, [n, y] bool.
    """

    logits: Float32
    features: Float32
    labels: Labels


class Searches(NamedTuple):
    """How many held-out images were searched for, in how many images, and of how many classes these
    are; 0 where each is one by itself."""

    queries: int
    images: int
    classes: int


@dataclass(frozen=True)
class Measured:
    """What the held-out images say about a net.

    scores: MAP in [0, 1] by fine mode; {} when nothing was held out.
    searches: how many queries the scores are of, in how many images of how many classes; None
        when nothing was held out.
    usage: of the codes that were searched; None of fewer than REFUSED_FROM.
    rotation: makes codes of the features of a net that has none of its own; None for other nets.
    """

    scores: Mapping[str, float]
    rotation: Rotation | None
    searches: Searches | None = None
    usage: Health | None = None

    def fine(self, is_of_classes: bool) -> Fine:
        """The fine mode with the highest score. Where nothing was held out, the one that can be
        expected: "ties" for codes that were trained to tell classes apart, as features often know
        less of the classes than such codes; "pool" for codes that are fitted to the features, and
        where images were to be told apart (not `is_of_classes`)."""
        if self.scores:
            return max(FINE, key=lambda mode: self.scores[mode])
        return "ties" if is_of_classes and self.rotation is None else "pool"


def measure(network: Network, split: Split, run: Run, bits: int, progress: Progress) -> Measured:
    """MAP of each fine mode for the held-out images as queries, searched in a seeded sample of at
    most GALLERY_SAMPLE training images; where each image is a class of its own, of altered copies
    of the held-out images, searched in these. For a network without codes, codes of `bits` bits are
    fitted to the features of the sample (ITQ)."""
    rng = np.random.default_rng(run.seed)
    rows = np.sort(rng.permutation(len(split.paths))[:GALLERY_SAMPLE])
    blank = np.zeros((1, run.size, run.size, 3), np.uint8)
    has_codes = network(blank)[1] is not None
    if has_codes and not split.held_paths:
        return Measured({}, None)

    raw = _raw_outputs(network, [split.paths[row] for row in rows], run, progress)
    rotation = None if has_codes else itq.fit_codes(raw, bits, np.random.default_rng(run.seed))
    if not split.held_paths:
        return Measured({}, rotation)
    held = _raw_outputs(network, split.held_paths, run, progress)
    query = _side(held, split.held_labels, bits, rotation)
    if run.instances:
        copies = [
            version(images.upright(path), np.random.default_rng([run.seed, i]))
            for i, path in enumerate(split.held_paths)
        ]
        altered = _raw_outputs(network, copies, run, progress)
        altered_side = _side(altered, split.held_labels, bits, rotation)
        return _measured(altered_side, query, rotation, is_of_classes=False)
    gallery = _side(raw, split.labels[rows], bits, rotation)
    return _measured(query, gallery, rotation, is_of_classes=True)


def _measured(
    query: Side, gallery: Side, rotation: Rotation | None, is_of_classes: bool
) -> Measured:
    several = gallery.labels.ndim == 2
    known = np.asarray(gallery.labels.any(0) if several else np.unique(gallery.labels))
    scored = np.logical_and(query.labels, known).any(1) if several else np.isin(query.labels, known)
    classes = int(known.sum()) if several else len(known)
    enough = len(gallery.labels) >= REFUSED_FROM
    return Measured(
        fine_scores(query, gallery),
        rotation,
        Searches(int(scored.sum()), len(gallery.labels), classes if is_of_classes else 0),
        health(gallery.logits >= 0) if enough else None,
    )


def _raw_outputs(
    network: Network, pictures: Sequence[images.Source], run: Run, progress: Progress
) -> Float32:
    """Features of images, followed by their code logits where the network has them: [n, r]."""
    preprocessing = run.preprocessing
    pixels = in_order(pictures, lambda source: images.load(source, preprocessing), cores())
    raw = []
    for batch in batched(pixels, _BATCH):
        raw.append(over_views(network, batch, preprocessing))
        progress("measuring", min(len(raw) * _BATCH, len(pictures)), len(pictures))
    return np.concatenate(raw)


def _side(raw: Float32, labels: Labels, bits: int, rotation: Rotation | None) -> Side:
    """Raw outputs [n, r] as a Side, with code logits by `rotation` where the network has none."""
    if rotation is not None:
        return Side(rotation.apply(raw)[0].astype(np.float32), raw, labels)
    features, logits = np.split(raw, [raw.shape[1] - bits], axis=1)
    return Side(logits, features, labels)


def fine_scores(query: Side, gallery: Side, shortlist: int = SHORTLIST) -> dict[str, float]:
    """MAP in [0, 1] over the whole gallery by fine mode, expected over ties. An item is relevant
    when it is of the query's class or, of several, shares one with it; queries without a relevant
    item are left out, and the MAP of no query is 0."""
    packed = codes.pack(gallery.logits >= 0)
    bits = gallery.logits.shape[1]
    searchable = codes.Codes(packed, bits)
    query_units, gallery_units = unit(query.features), unit(gallery.features)
    aps: dict[str, list[float]] = {mode: [] for mode in FINE}
    for i in range(len(query.labels)):
        own = query.labels[i]
        relevant = (
            (gallery.labels & own).any(1) if query.labels.ndim == 2 else gallery.labels == own
        )
        if not relevant.any():
            continue
        code = codes.pack(query.logits[i : i + 1] >= 0)[0]
        hamming = searchable.distances(code).astype(np.float64)
        [near] = searchable.nearest(
            code[None], shortlist, ties="include", limit=TIE_CAP * shortlist
        )
        agreement = codes.agreement(query.logits[i], packed, bits)
        cosine = gallery_units @ query_units[i]
        for mode in FINE:
            scores = agreement if mode == "asymmetric" else cosine
            place = hamming.copy()
            place[near.ids] = fine_places(mode, near.distances, scores[near.ids])
            aps[mode].append(expected_ap(place, relevant))
    return {mode: float(np.mean(values)) if values else 0.0 for mode, values in aps.items()}
