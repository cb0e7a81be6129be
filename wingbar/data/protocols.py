"""Protocols: how a data set is split into training images, queries and gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from wingbar.data.records import Dataset, Entry, Images, Parts
from wingbar.errors import DataError

Protocol = Literal["own", "10k-50k", "1k-5k-54k", "1k-5k-59k", "unseen"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
"""own: the data set's own parts, or a seeded draw if it has none.

10k-50k: the test images are the queries, the training images are both train and gallery, as DLBHC
has it for CIFAR-10 (Lin et al., CVPRW 2015).

1k-5k-54k: of each class, 100 images drawn from training and test images together are queries, and
500 are for training; the gallery is the rest.

1k-5k-59k: the same, with the training images in the gallery too.

unseen: a quarter of the classes is held out of training; their test images are searched among their
training images (Sablayrolles et al., ICASSP 2017).
"""

QUERY_SHARE = 0.2  # of each class, for a data set without a split of its own
UNSEEN_SHARE = 0.25  # of the classes, held out of training by `unseen`
QUERIES_EACH, TRAIN_EACH = 100, 500  # images of each class, in 1k-5k-54k and 1k-5k-59k


def apply_protocol(parts: Parts, path: Path, protocol: str, seed: int) -> Dataset:
    """Split `parts`, read from `path`, into train, query and gallery by `protocol`; `seed` draws
    what the protocol leaves to chance.

    Raises DataError for an unknown protocol, or one that this data set cannot provide.
    """
    if protocol not in PROTOCOLS:
        raise DataError(f"no protocol is named {protocol!r}: have {', '.join(PROTOCOLS)}")
    if protocol == "own":
        return _own(parts, path, seed)
    if not any(entry.label is not None for entry in parts.all):
        raise DataError(f"{path} has no labels: protocol {protocol} splits by class")
    if parts.all.multi_label and protocol != "10k-50k":
        raise DataError(
            f"protocol {protocol} splits by class, and images of {path} have several labels: "
            "choose own or 10k-50k"
        )
    if protocol == "10k-50k":
        return _test_against_train(parts, path)
    if protocol == "unseen":
        return _unseen(parts, path, seed)
    return _drawn_from_each_class(parts, path, protocol, seed)


def _own(parts: Parts, path: Path, seed: int) -> Dataset:
    """The parts that the data set has; a drawn split if it has no queries, or nothing else."""
    named = parts.named
    query = next((name for name in ("query", "test", "val") if name in named), None)
    if not len(parts.all):
        raise DataError(f"{path} holds no images")
    if query is None or set(named) == {query}:
        return _drawn(parts, path, seed)
    gallery = next(
        name for name in ("gallery", "train", "val", "test") if name in named and name != query
    )
    return Dataset(
        train=parts.images("train" if "train" in named else gallery),
        query=parts.images(query),
        gallery=parts.images(gallery),
        val=parts.images("val") if "val" in named and "val" not in (query, gallery) else None,
        protocol=f"{parts.kind}: query={query}, gallery={gallery}",
        truth=parts.truth,
    )


def _drawn(parts: Parts, path: Path, seed: int) -> Dataset:
    """A seeded split: QUERY_SHARE of each class as queries, the rest as train and gallery."""
    entries = parts.all.entries
    if len(entries) < 2:
        raise DataError(f"{path} holds one image: two are needed, a query and a gallery")
    rng = np.random.default_rng(seed)
    queries: set[int] = set()
    for members in _rows_by_label(entries).values():
        count = min(max(1, round(QUERY_SHARE * len(members))), len(members) - 1)
        queries.update(np.array(members)[rng.permutation(len(members))[:count]].tolist())
    protocol = (
        f"{parts.kind}: no split, {QUERY_SHARE:.0%} of each class drawn as queries (seed {seed})"
    )
    query = [entry for i, entry in enumerate(entries) if i in queries]
    rest = [entry for i, entry in enumerate(entries) if i not in queries]
    gallery = replace(parts.all, entries=rest, protocol=protocol)
    return Dataset(
        train=gallery,
        query=replace(parts.all, entries=query, protocol=protocol),
        gallery=gallery,
        val=None,
        protocol=protocol,
    )


def _test_against_train(parts: Parts, path: Path) -> Dataset:
    """The official test images as queries against the official training images."""
    if not {"train", "test"} <= parts.named.keys():
        raise DataError(
            f"{path} needs a train and a test part for protocol 10k-50k: it has "
            f"{', '.join(parts.named) or 'none'}"
        )
    train, test = parts.named["train"], parts.named["test"]
    protocol = (
        f"{parts.kind}: 10k-50k, its {len(test):,} test images as queries, its "
        f"{len(train):,} training images as gallery"
    )
    return _dataset(parts, protocol, train, test, train)


def _drawn_from_each_class(parts: Parts, path: Path, protocol: str, seed: int) -> Dataset:
    """QUERIES_EACH queries and TRAIN_EACH training images of each class, drawn from all images; the
    gallery is the rest, in 1k-5k-59k with the training images."""
    entries = [entry for entry in parts.all if entry.label is not None]
    rng = np.random.default_rng(seed)
    by_label = _rows_by_label(entries)
    queries: set[int] = set()
    train: set[int] = set()
    for label, members in by_label.items():
        if len(members) <= QUERIES_EACH + TRAIN_EACH:
            raise DataError(
                f"protocol {protocol} takes {QUERIES_EACH} queries and {TRAIN_EACH} training "
                f"images of each class and searches the rest: {path} has only {len(members)} of "
                f"{label!r}"
            )
        order = np.array(members)[rng.permutation(len(members))]
        queries.update(order[:QUERIES_EACH].tolist())
        train.update(order[QUERIES_EACH : QUERIES_EACH + TRAIN_EACH].tolist())
    without_train = protocol == "1k-5k-54k"
    outside = queries | train if without_train else queries
    gallery = [entry for i, entry in enumerate(entries) if i not in outside]
    line = (
        f"{parts.kind}: {protocol} (seed {seed}), {QUERIES_EACH} queries and {TRAIN_EACH} "
        f"training images of each of {len(by_label)} classes drawn from all images, gallery the "
        f"{len(gallery):,} that are no queries"
        f"{' and not trained on' if without_train else ', those trained on too'}"
    )
    return _dataset(
        parts,
        line,
        [entry for i, entry in enumerate(entries) if i in train],
        [entry for i, entry in enumerate(entries) if i in queries],
        gallery,
    )


def _unseen(parts: Parts, path: Path, seed: int) -> Dataset:
    """A seeded share of the classes for searching only, the other classes for training only."""
    own = _own(parts, path, seed)
    labels = sorted({entry.label for entry in parts.all if entry.label is not None})
    count = max(1, round(UNSEEN_SHARE * len(labels)))
    if count == len(labels):
        raise DataError(
            f"{path} has one class: protocol unseen needs some to train on and others to search for"
        )
    unseen = {labels[i] for i in np.random.default_rng(seed).permutation(len(labels))[:count]}
    line = (
        f"{own.protocol}; unseen (seed {seed}): queries and gallery of {count} of {len(labels)} "
        f"classes, the {len(labels) - count} others for training"
    )
    return _dataset(
        parts,
        line,
        [entry for entry in own.train if entry.label is not None and entry.label not in unseen],
        [entry for entry in own.query if entry.label in unseen],
        [entry for entry in own.gallery if entry.label in unseen],
    )


def _rows_by_label(entries: Sequence[Entry]) -> dict[str, list[int]]:
    """The rows of each class, classes in the order of their names, so that draws are reproducible;
    images without a label are a class of their own."""
    by_label: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        by_label.setdefault(entry.label or "", []).append(i)
    return dict(sorted(by_label.items()))


def _dataset(
    parts: Parts,
    protocol: str,
    train: Sequence[Entry],
    query: Sequence[Entry],
    gallery: Sequence[Entry],
) -> Dataset:
    """A data set of these entries; the protocol line of each list also names its part. Raises
    DataError if one is empty."""
    made: dict[str, Images] = {}
    for name, entries in (("train", train), ("query", query), ("gallery", gallery)):
        if not entries:
            raise DataError(f"nothing would be left for {name} ({protocol})")
        made[name] = replace(parts.all, entries=entries, protocol=f"{protocol}: {name}")
    return Dataset(made["train"], made["query"], made["gallery"], None, protocol)
