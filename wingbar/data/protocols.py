"""Protocols: how a data set is split into training images, queries and gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from wingbar.data.records import Dataset, Entry, Images, Parts
from wingbar.errors import DataError

QUERY_SHARE = 0.2  # of each class, where a data set has no split of its own
UNSEEN_SHARE = 0.25  # of the classes, which `unseen` never trains on
QUERIES_EACH, TRAIN_EACH = 100, 500  # of each class, in 1k-5k-54k and 1k-5k-59k

Protocol = Literal["own", "10k-50k", "1k-5k-54k", "1k-5k-59k", "unseen"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)


def _as_dataset(parts: Parts, path: Path, seed: int) -> Dataset:
    named = parts.named
    query = next((name for name in ("query", "test", "val") if name in named), None)
    if not len(parts.all):
        raise DataError(f"{path} holds no images")
    if query is None or set(named) == {query}:
        return _drawn(parts, path, seed)
    gallery = next(
        name for name in ("gallery", "train", "val", "test") if name in named and name != query
    )
    train = "train" if "train" in named else gallery
    protocol = f"{parts.kind}: query={query}, gallery={gallery}"
    val = parts.images("val") if "val" in named and "val" not in (query, gallery) else None
    return Dataset(
        parts.images(train), parts.images(query), parts.images(gallery), val, protocol, parts.truth
    )


def _drawn(parts: Parts, path: Path, seed: int) -> Dataset:
    """A seeded split of a data set that has none: QUERY_SHARE of each class are queries, the rest
    train and gallery."""
    entries = parts.all.entries
    if len(entries) < 2:
        raise DataError(f"{path} holds one image: two are needed, a query and a gallery")
    by_label: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        by_label.setdefault(entry.label or "", []).append(i)
    rng = np.random.default_rng(seed)
    queries: set[int] = set()
    for label in sorted(by_label):
        members = by_label[label]
        count = min(max(1, round(QUERY_SHARE * len(members))), len(members) - 1)
        queries.update(np.array(members)[rng.permutation(len(members))[:count]].tolist())
    protocol = (
        f"{parts.kind}: no split, {QUERY_SHARE:.0%} of each class drawn as queries (seed {seed})"
    )
    rest = replace(
        parts.all, entries=[e for i, e in enumerate(entries) if i not in queries], protocol=protocol
    )
    drawn = replace(
        parts.all, entries=[e for i, e in enumerate(entries) if i in queries], protocol=protocol
    )
    return Dataset(rest, drawn, rest, None, protocol)


# -- protocols by name


def _by_protocol(parts: Parts, path: Path, protocol: str, seed: int) -> Dataset:
    if protocol == "own":
        return _as_dataset(parts, path, seed)
    if protocol not in PROTOCOLS:
        raise DataError(f"no protocol is named {protocol!r}: have {', '.join(PROTOCOLS)}")
    if not any(entry.label is not None for entry in parts.all):
        raise DataError(f"{path} has no labels: protocol {protocol} is made of classes")
    if protocol == "10k-50k":
        return _test_against_train(parts, path)
    if protocol == "unseen":
        return _unseen(parts, path, seed)
    return _drawn_of_each_class(parts, path, protocol, seed)


def _test_against_train(parts: Parts, path: Path) -> Dataset:
    """The official test images against the official training images, whatever other parts there
    are."""
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


def _drawn_of_each_class(parts: Parts, path: Path, protocol: str, seed: int) -> Dataset:
    """QUERIES_EACH queries and TRAIN_EACH training images of each class, drawn from all images; the
    gallery is the rest."""
    entries = [entry for entry in parts.all if entry.label is not None]
    by_label: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        by_label.setdefault(str(entry.label), []).append(i)
    rng = np.random.default_rng(seed)
    queries: set[int] = set()
    train: set[int] = set()
    for label in sorted(by_label):
        members = by_label[label]
        if len(members) <= QUERIES_EACH + TRAIN_EACH:
            raise DataError(
                f"protocol {protocol} takes {QUERIES_EACH} queries and {TRAIN_EACH} training "
                "images of each class and searches "
                f"the rest: {path} has only {len(members)} of {label!r}"
            )
        order = np.array(members)[rng.permutation(len(members))]
        queries.update(order[:QUERIES_EACH].tolist())
        train.update(order[QUERIES_EACH : QUERIES_EACH + TRAIN_EACH].tolist())
    without = protocol == "1k-5k-54k"
    gallery = [
        e for i, e in enumerate(entries) if i not in queries and not (without and i in train)
    ]
    words = (
        f"{parts.kind}: {protocol} (seed {seed}), {QUERIES_EACH} queries and {TRAIN_EACH} "
        "training images of each of "
        f"{len(by_label)} classes drawn from all images, gallery the {len(gallery):,} that are no "
        "queries"
        f"{' and not trained on' if without else ', those trained on too'}"
    )
    chosen = [[e for i, e in enumerate(entries) if i in part] for part in (train, queries)]
    return _dataset(parts, words, chosen[0], chosen[1], gallery)


def _unseen(parts: Parts, path: Path, seed: int) -> Dataset:
    """A seeded share of the classes is for searching only, the others for training only."""
    own = _as_dataset(parts, path, seed)
    labels = sorted({entry.label for entry in parts.all if entry.label is not None})
    count = max(1, round(UNSEEN_SHARE * len(labels)))
    if count == len(labels):
        raise DataError(
            f"{path} has one class: protocol unseen needs some to train on and others to search for"
        )
    unseen = {labels[i] for i in np.random.default_rng(seed).permutation(len(labels))[:count]}
    train = [entry for entry in own.train if entry.label is not None and entry.label not in unseen]
    query = [entry for entry in own.query if entry.label in unseen]
    gallery = [entry for entry in own.gallery if entry.label in unseen]
    words = (
        f"{own.protocol}; unseen (seed {seed}): queries and gallery of {count} of {len(labels)} "
        "classes, "
        f"training on the {len(labels) - count} others only"
    )
    return _dataset(parts, words, train, query, gallery)


def _dataset(
    parts: Parts,
    protocol: str,
    train: Sequence[Entry],
    query: Sequence[Entry],
    gallery: Sequence[Entry],
) -> Dataset:
    """A data set of these entries. Each list keeps the protocol's line and says which part it
    is."""
    made: dict[str, Images] = {}
    for name, entries in (("train", train), ("query", query), ("gallery", gallery)):
        if not entries:
            raise DataError(f"nothing would be left for {name} ({protocol})")
        made[name] = replace(parts.all, entries=entries, protocol=f"{protocol}: {name}")
    return Dataset(made["train"], made["query"], made["gallery"], None, protocol)
