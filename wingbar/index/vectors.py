"""Add vectors that another program made to an index of a model without a network."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data.records import Entry, absolute
from wingbar.errors import DataError, ImageError, ModelError
from wingbar.index.engine import NO_FILE, AnyStore, Item
from wingbar.index.kept import as_kept
from wingbar.index.refit import advice, sample_of
from wingbar.index.second import COMMIT_IMAGES
from wingbar.index.sync import AddReport
from wingbar.model.fitting import BITS, FitOptions
from wingbar.model.itq import unit
from wingbar.model.model import Model


def add_vectors(
    store: AnyStore,
    model: Model,
    vectors: NDArray[np.floating],
    keys: Sequence[str] | None,
    labels: Sequence[str | None] | None,
    *,
    bits: int | None,
    seed: int,
    options: FitOptions | None = None,
) -> tuple[AddReport, Model]:
    """Store vectors [N, d] as items of their `keys`, the features scaled to unit length. Returns
    the report and the model, which has codes now.

    Raises ModelError for a model with a network, DataError for vectors, keys or labels that do not
    fit each other, and StoreError when the index cannot be written; what was stored stays.
    """
    start = time.monotonic()
    if model.has_network:
        raise ModelError(
            f"{store.path} is an index of images by {model}: make one for vectors with "
            "Index.create(path, Model.of_vectors(dim)), or with wingbar import"
        )
    rows = checked_vectors(vectors, model.dim)
    if keys is None:
        raise DataError("vectors need keys=, one each: the path of a picture, or any other text")
    for name, values in (("keys", keys), ("labels", labels)):
        if values is not None and len(values) != len(rows):
            raise DataError(f"{len(rows):,} vectors and {len(values):,} {name}: give one each")
    items = list(_items(rows, keys, labels))
    fitted_on = 0
    if not model.gives_codes and len(rows):
        chosen = sample_of(len(rows), seed)
        sample = rows[chosen]
        length = min(BITS, model.dim) if bits is None else bits
        known_labels = [items[row].label for row in chosen]
        model = model.fitted(sample, length, seed, options, known_labels)
        fitted_on = len(sample)
    known = {item.path: (id_, item) for id_, item in store.all_items()}
    same = _unchanged(store, model, items, rows, known)
    changed = [row for row in range(len(items)) if row not in same]
    relabelled = {
        known[items[row].path][0]: items[row]
        for row in same
        if labels is not None and known[items[row].path][1].label != items[row].label
    }
    for begin in range(0, max(len(changed), 1), COMMIT_IMAGES):
        part = changed[begin : begin + COMMIT_IMAGES]
        with store.writing():
            stored = Model(store.model_files())
            if stored.gives_codes:  # by another process, maybe at this moment
                model = stored
            elif part:
                store.set_model(model.files)
            if begin == 0:
                store.update(relabelled)
            if part:
                embeddings = model.embed(rows[part])
                store.add(
                    [items[row] for row in part],
                    embeddings.codes,
                    embeddings.features,
                    model.bits,
                )
    updated = sum(items[row].path in known for row in changed)
    report = AddReport(
        added=len(changed) - updated,
        updated=updated + len(relabelled),
        unchanged=len(items) - len(changed) - len(relabelled),
        fitted_on=fitted_on,
        fitted=model.record["fitted"] if fitted_on else {},
        seconds=time.monotonic() - start,
        advice=advice(model, store.count()),
    )
    return report, model


def _unchanged(
    store: AnyStore,
    model: Model,
    items: Sequence[Item],
    rows: NDArray[np.float32],
    known: Mapping[str, tuple[int, Item]],
) -> set[int]:
    """The rows of the vectors [N, d] that are stored already, for the same picture."""
    there = [
        row
        for row, item in enumerate(items)
        if item.path in known and known[item.path][1].content == item.content
    ]
    ids = [known[items[row].path][0] for row in there]
    stored = store.features(ids, model.dim) if there else np.empty((0, model.dim), np.float16)
    given = unit(rows[there]).astype(np.float16)  # as Rotation.apply does
    equal = (stored == as_kept(given, store.kept)).all(1)
    return {row for row, is_equal in zip(there, equal, strict=True) if is_equal}


def checked_vectors(vectors: NDArray[np.floating], dim: int) -> NDArray[np.float32]:
    """Vectors as float32 [N, dim] of unit length. Raises DataError for another shape, and for what
    is no vector: numbers that are not finite, or nothing but zeros."""
    rows = np.asarray(vectors)
    if rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] != dim:
        raise DataError(
            f"vectors are an array [N, {dim}] of numbers here, not {list(rows.shape)} of "
            f"{rows.dtype}"
        )
    rows = as_float32(rows)
    bad = np.flatnonzero(~np.isfinite(rows).all(1) | ~rows.any(1))
    if len(bad):
        raise DataError(
            f"vector {bad[0]} is not finite as float32 or nothing but zeros, as {len(bad):,} of "
            f"{len(rows):,} are: leave them out"
        )
    return unit(rows)


def as_float32(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers as float32; those beyond its range become infinite, which is for the caller to
    refuse."""
    with np.errstate(over="ignore"):
        return vectors.astype(np.float32, copy=False)


def _items(
    rows: NDArray[np.float32], keys: Sequence[str], labels: Sequence[str | None] | None
) -> Iterator[Item]:
    if odd := [key for key in keys if not isinstance(key, (str, os.PathLike)) or not str(key)]:
        raise DataError(f"a key is a text that is not empty, not {odd[0]!r}")
    texts = [os.fspath(key) for key in keys]
    if twice := [key for key, count in Counter(texts).items() if count > 1]:
        raise DataError(f"the key {twice[0]!r} is given twice: keys tell vectors apart")
    given = [None] * len(texts) if labels is None else labels
    for row, key, label in zip(rows, texts, given, strict=True):
        digest = hashlib.sha256(row.tobytes()).digest()
        yield item_of(key, Entry(Path(), label).label, digest)


def item_of(key: str, label: str | None, vector: bytes) -> Item:
    """The item of a vector with this sha256. A key that is the path of a file names that
    picture."""
    path = str(absolute(key)) if os.path.isfile(key) else ""
    if not path:
        return Item(key if os.path.isabs(key) else f"array:{key}", label, {}, NO_FILE, 0, vector)
    try:
        data = images.read(path)
        status = os.stat(path)
    except (ImageError, OSError):
        return Item(path, label, {}, NO_FILE, 0, vector)
    return Item(path, label, {}, len(data), status.st_mtime_ns, hashlib.sha256(data).digest())
