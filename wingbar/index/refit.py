"""Learn the codes of a label-free index again from the images that it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ImageError, ModelError, StoreError
from wingbar.index.store import NO_FILE, Item, Store
from wingbar.model.model import SAMPLE, Model
from wingbar.parallel import BATCH, Progress, batched, cores, in_order, no_progress


@dataclass(frozen=True)
class RefitReport:
    """What a refit changed.

    items: number of images in the index.
    sample: number of images that the codes were learned from.
    bits_before, bits: length of the codes before and after.
    codes_changed: number of items whose code is another one now.
    fingerprint_before, fingerprint: the model's, as sha256 in hexadecimal digits.
    """

    items: int
    sample: int
    bits_before: int
    bits: int
    codes_changed: int
    fingerprint_before: str
    fingerprint: str


def refit(
    store: Store,
    model: Model,
    *,
    bits: int,
    seed: int,
    threads: int | None,
    progress: Progress | None,
) -> tuple[RefitReport, Model]:
    """Learn the codes of a label-free index again from its images, as if it were new, in one
    transaction. Returns the model with the new codes as well.

    Raises ModelError for a trained model, and StoreError when a file is no longer what was indexed;
    then nothing is changed.
    """
    if model.method != "itq":
        raise ModelError(
            f"{model.name} was trained with {model.method}: its codes are not fitted to an index"
        )
    before = dict(store.all_items())
    ids = sorted(before, key=lambda id_: before[id_].path)
    if not ids:
        raise StoreError(f"{store.path} holds no images: there is nothing to fit on")
    report = progress or no_progress
    sample = sample_of(len(ids), seed)
    raw = list(_encoded_again(model, [before[ids[i]] for i in sample], threads, "reading", report))
    report("learning codes", 0, len(sample))
    fitted = model.fitted(np.concatenate(raw), bits, seed)
    report("learning codes", len(sample), len(sample))
    embedded = [
        fitted.embed(batch)
        for batch in _encoded_again(model, [before[i] for i in ids], threads, "encoding", report)
    ]
    packed = np.concatenate([e.codes for e in embedded])
    features = np.concatenate([e.features.astype(np.float16) for e in embedded])
    with store.writing():
        if store.model_fingerprint() != model.fingerprint or dict(store.all_items()) != before:
            raise StoreError(
                f"{store.path} was changed by another process meanwhile: nothing was refitted, "
                "try again"
            )
        _, old = store.codes(model.bits)  # by ascending id
        store.set_model(fitted.files)
        store.clear_codes()
        store.replace_embeddings(packed, features, np.array(ids, np.int64), bits)
    new = packed[np.argsort(ids)]
    changed = int((new != old).any(1).sum()) if old.shape == new.shape else len(ids)
    return RefitReport(
        len(ids), len(sample), model.bits, bits, changed, model.fingerprint, fitted.fingerprint
    ), fitted


def sample_of(count: int, seed: int) -> NDArray[np.int64]:
    """Which of `count` images codes are learned from: their positions, ascending; all of them, or
    SAMPLE drawn with the seed."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLE])


def advice(model: Model, items: int) -> str | None:
    """A sentence for an index of `items` images whose codes were learned from far fewer."""
    sample = model.record.get("fitted", {}).get("sample", SAMPLE)
    if sample < SAMPLE and items >= 4 * sample:
        return (
            f"the codes were learned from {sample:,} images and the index now holds {items:,}: "
            "index --refit learns them again"
        )
    return None


def _encoded_again(
    model: Model, items: Sequence[Item], threads: int | None, stage: str, progress: Progress
) -> Iterator[NDArray[np.float32]]:
    """Raw network outputs [B, r] of indexed images, read again from their files, batch by batch.
    Raises StoreError where a file has changed."""

    def pixels(item: Item) -> images.Pixels:
        try:
            if item.size == NO_FILE:
                raise ImageError("it was added as an array and has no file")
            data = images.read(item.path)
            if hashlib.sha256(data).digest() != item.content:
                raise ImageError("the file has changed")
            return images.load(data, model.preprocessing)
        except ImageError as error:
            raise StoreError(
                f"{item.path} is not what was indexed ({error}), so nothing was refitted: "
                "run wingbar index on its folder first, or make a new index"
            ) from None

    done = 0
    for batch in batched(in_order(items, pixels, threads or cores()), BATCH):
        yield model.run(batch)
        done += len(batch)
        progress(stage, done, len(items))
