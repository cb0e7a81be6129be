"""Learn the codes of a label-free index again from the images that it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ImageError, ModelError, StoreError
from wingbar.index.averaging import averages
from wingbar.index.engine import NO_FILE, AnyStore, Item
from wingbar.index.settings import require_labels
from wingbar.model import proof
from wingbar.model.fitting import FitOptions
from wingbar.model.model import SAMPLE, Model
from wingbar.parallel import BATCH, Progress, batched, cores, in_order, no_progress

ROUNDS = 10  # in which a refit encodes what was added during the one before
LAST_ROUND = 64  # images that it encodes inside the transaction, while others wait, once it can


@dataclass(frozen=True)
class RefitReport:
    """What a refit changed.

    items: number of images in the index.
    sample: number of images that the codes were learned from.
    bits_before, bits: length of the codes before and after.
    codes_changed: number of items whose code is another one now.
    fingerprint_before, fingerprint: the model's, as sha256 in hexadecimal digits.
    fitted: how the codes were learned, as model.json says it.
    """

    items: int
    sample: int
    bits_before: int
    bits: int
    codes_changed: int
    fingerprint_before: str
    fingerprint: str
    fitted: Mapping[str, Any]


def refit(
    store: AnyStore,
    model: Model,
    *,
    bits: int,
    seed: int,
    threads: int | None,
    progress: Progress | None,
    options: FitOptions | None = None,
) -> tuple[RefitReport, Model]:
    """Learn the codes of a label-free index again from its images, as if it were new, in one
    transaction. Returns the model with the new codes as well.

    What other processes add meanwhile is encoded too, in rounds that get shorter, the last of them
    inside the transaction. What `options` leave open is as it was asked for before.

    Raises ModelError for a trained model, and StoreError when a file is no
    longer what was indexed or another process has refitted the index; then nothing is changed.
    """
    if not model.is_label_free:
        raise ModelError(
            f"{model.name} was trained with {model.method}: its codes are not fitted to an index"
        )
    if not 1 <= bits <= model.longest_code:
        raise ModelError(
            f"bits must be from 1 to {model.longest_code} for {model.name}, not {bits}: give "
            "--bits N"
        )
    items = dict(store.all_items())
    if not items:
        raise StoreError(f"{store.path} holds no images: there is nothing to fit on")
    if model.has_network and (problem := proof.problem(model)) is not None:
        raise ModelError(
            f"{store.path} was not changed: {problem}; refit it on a machine that passes, or make "
            "a new index here"
        )
    by_path = sorted(items, key=lambda id_: items[id_].path)
    sample = {by_path[place]: items[by_path[place]] for place in sample_of(len(items), seed)}
    options = (options or FitOptions()).or_as(model.record.get("fitted", {}))
    require_labels(options.adapt, (item.label for item in sample.values()))
    report = progress or no_progress
    again = _Again(store, model, threads or cores(), report)
    emptied = StoreError(f"{store.path} was emptied by another process: there is nothing to refit")
    read = list(again.outputs(sample, "reading"))
    if not read:
        raise emptied
    raw = np.concatenate([rows for _, rows in read])
    labels = [sample[id_].label for ids, _ in read for id_ in ids]
    report("learning codes", 0, len(sample))
    fitted = model.fitted(raw, bits, seed, options, labels)
    report("learning codes", len(sample), len(sample))
    encoded: dict[int, _Encoded] = {}
    for _ in range(ROUNDS):
        again.encode(fitted, items, encoded)
        items = dict(store.all_items())
        if len(_left(items, encoded)) <= LAST_ROUND:
            break
    with store.writing():
        if store.model_fingerprint() != model.fingerprint:
            raise StoreError(
                f"{store.path} was refitted by another process meanwhile: nothing was changed, "
                "try again"
            )
        items = dict(store.all_items())
        again.encode(fitted, items, encoded)
        if not items:
            raise emptied
        ids = np.array(sorted(items), np.int64)
        packed = np.stack([encoded[id_].code for id_ in ids.tolist()])
        features = np.stack([encoded[id_].feature for id_ in ids.tolist()]).astype(np.float32)
        if fitted.averages:
            rows = np.arange(len(ids))
            packed, features = averages(fitted, features.astype(np.float16), rows)
        _, old = store.codes(model.bits)  # by ascending id
        store.set_model(fitted.files)
        store.clear_codes()
        store.replace_embeddings(packed, features, ids, bits)
    changed = int((packed != old).any(1).sum()) if old.shape == packed.shape else len(ids)
    return RefitReport(
        len(ids),
        len(sample),
        model.bits,
        bits,
        changed,
        model.fingerprint,
        fitted.fingerprint,
        fitted.record["fitted"],
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


class _Encoded(NamedTuple):
    """An item, and what the fitted model makes of its file."""

    item: Item
    code: NDArray[np.uint64]
    feature: NDArray[np.float16]


def _left(items: Mapping[int, Item], encoded: Mapping[int, _Encoded]) -> dict[int, Item]:
    """The items that are not encoded as they are now."""
    return {
        id_: item for id_, item in items.items() if id_ not in encoded or encoded[id_].item != item
    }


@dataclass(frozen=True)
class _Again:
    """Reads the files of indexed images and encodes them again."""

    store: AnyStore
    model: Model
    threads: int
    progress: Progress

    def encode(
        self, fitted: Model, items: Mapping[int, Item], encoded: dict[int, _Encoded]
    ) -> None:
        """Bring `encoded` up to date with `items`."""
        left = _left(items, encoded)
        for ids, raw in self.outputs(left, "encoding"):
            made = fitted.embed(raw)
            features = made.features.astype(np.float16)
            for id_, code, feature in zip(ids, made.codes, features, strict=True):
                encoded[id_] = _Encoded(left[id_], code, feature)

    def outputs(
        self, items: Mapping[int, Item], stage: str
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Ids and raw network outputs [B, r] of items, batch by batch, without those that another
        process has changed or removed meanwhile. Raises StoreError where a file is not what was
        indexed."""
        done = 0
        if not self.model.has_network:  # the vectors are the features themselves
            for ids in batched(items, 4096):
                here = self.store.existing(ids)
                yield here, self.store.features(here, self.model.dim).astype(np.float32)
                done += len(ids)
                self.progress(stage, done, len(items))
            return
        for batch in batched(in_order(items.items(), self._read, self.threads), BATCH):
            read: list[int] = []
            pixels: list[images.Pixels] = []
            for id_, found in batch:
                if isinstance(found, ImageError):
                    self._require_changed(id_, items[id_], found)
                else:
                    read.append(id_)
                    pixels.append(found)
            if read:
                yield read, self.model.run(pixels)
            done += len(batch)
            self.progress(stage, done, len(items))

    def _read(self, one: tuple[int, Item]) -> tuple[int, images.Pixels | ImageError]:
        """In a thread: pixels of an item's file, or why there are none."""
        id_, item = one
        try:
            if item.size == NO_FILE:
                raise ImageError("it was added as an array and has no file")
            data = images.read(item.path)
            if hashlib.sha256(data).digest() != item.content:
                raise ImageError("the file has changed")
            return id_, images.load(data, self.model.preprocessing)
        except ImageError as error:
            return id_, error

    def _require_changed(self, id_: int, item: Item, reason: ImageError) -> None:
        """Raise StoreError for a file that cannot be used unless its item was changed or removed
        since it was read."""
        if self.store.existing([id_]) and self.store.items([id_])[0] == item:
            raise StoreError(
                f"{item.path} is not what was indexed ({reason}), so nothing was refitted: "
                "run wingbar index on its folder first, or make a new index"
            )
