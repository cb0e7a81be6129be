"""A second encoder beside the first: it encodes the items that were there before it.

New images are encoded by both (`sync.py`). Where an index has items already, those follow: each
file is read again and encoded by the second encoder alone, which learns its codes from a sample of
all of them, if it is label-free. Work is stored every few seconds, so that a run that is killed
continues; until then an item is there for the first encoder, and waits for the second.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ImageError, ModelError, StoreError, printable
from wingbar.images import Failure
from wingbar.index.engine import NO_FILE, AnyStore, Item
from wingbar.index.refit import sample_of
from wingbar.index.sources import content_of
from wingbar.index.unfinished import Outputs
from wingbar.model.model import NOT_FINITE, Embeddings, Model
from wingbar.parallel import BATCH, Progress, batched, in_order

COMMIT_IMAGES = 1024  # images that are stored in one transaction at most
COMMIT_SECONDS = 5.0  # time after which what is encoded is stored

Fit = Callable[[Model, NDArray[np.float32], Sequence[str | None]], Model]
"""Gives a label-free model codes, learned from outputs [N, r] and labels."""


@dataclass(frozen=True)
class AlsoReport:
    """What one `add` did for the second encoder.

    name: its name.
    encoded: number of items that were there before and that it has now encoded.
    waiting: number of items that it has not encoded yet.
    fitted_on: number of images that its codes were learned from in this run; 0 if known before.
    fitted: how they were learned, as model.json says it; empty if known before.
    """

    name: str
    encoded: int = 0
    waiting: int = 0
    fitted_on: int = 0
    fitted: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Followed:
    """The second encoder after it has encoded what waited for it: its model, the images that it
    could not encode, and the number of those that it has learned its codes from."""

    model: Model
    failed: Sequence[Failure] = ()
    fitted_on: int = 0


def adopted(store: AnyStore, model: Model, bits: int | None, new_model: bool) -> Model:
    """The model to write codes of into `store`: what is stored there, if another process has fitted
    it meanwhile, else `model`, which is stored where it is a `new_model`. Inside `writing`.

    Raises StoreError where the store was given another network, ModelError where its codes are not
    of `bits` bits.
    """
    if store.model_fingerprint() == model.fingerprint:
        return model
    theirs = Model(store.model_files())
    if theirs.files.get("model.onnx") != model.files.get("model.onnx"):
        raise StoreError(
            f"{store.path} was given another model by another process: run the same command again"
        )
    if theirs.gives_codes and bits not in (None, theirs.bits):
        raise ModelError(
            f"{store.path} was given codes of {theirs.bits} bits by another process meanwhile, not "
            f"{bits}: leave --bits out"
        )
    if theirs.gives_codes:
        return theirs
    if new_model:
        store.set_model(model.files)
    return model


def add_by_second(store: AnyStore, items: Sequence[Item], made: Embeddings) -> None:
    """Store what the second encoder of `store` has made of items that were just added, in the same
    transaction."""
    assert store.also is not None
    given = store.ids_of_paths(item.path for item in items)
    ids = np.array([given[item.path] for item in items], np.int64)
    store.also.replace_embeddings(made.codes, made.features, ids, made.bits)


def encode_waiting(
    store: AnyStore,
    model: Model,
    *,
    fit: Fit,
    pictures: Mapping[str, images.Whole],
    outputs: Outputs | None,
    bits: int | None,
    seed: int,
    threads: int,
    progress: Progress,
) -> Followed:
    """Have the second encoder of `store`, whose model is `model`, encode all that waits for it.

    fit: makes its codes, where it has none yet.
    pictures: those of items that have no file, as far as they are known, by path.
    outputs: what its network has given in a run that was interrupted before it had codes.
    bits, seed: as for `sync.add`.

    Items whose file is not what was indexed go on waiting. Raises StoreError and ModelError as
    `adopted` does.
    """
    ids = _by_path(store)
    job = _Following(store, model, outputs, pictures, bits, threads, progress, len(ids))
    fitted_on = 0
    if not model.gives_codes:
        sample = [ids[place] for place in sample_of(len(ids), seed)]
        fitted_on = job.fit_on(sample, fit)
        if not job.model.gives_codes:  # not one could be used
            return Followed(model, job.failed)
        chosen = set(sample)
        ids = [id_ for id_ in ids if id_ not in chosen]
    job.encode(ids)
    return Followed(job.model, job.failed, fitted_on)


def _by_path(store: AnyStore) -> list[int]:
    """The ids that wait, by their paths, so that a sample is that of a new index."""
    assert store.also is not None
    ids = store.also.waiting().tolist()
    pairs = zip(store.items(ids), ids, strict=True)
    return [id_ for _, id_ in sorted(pairs, key=lambda pair: pair[0].path)]


class _Following:
    """The state of one `encode_waiting`."""

    def __init__(
        self,
        store: AnyStore,
        model: Model,
        outputs: Outputs | None,
        pictures: Mapping[str, images.Whole],
        bits: int | None,
        threads: int,
        progress: Progress,
        total: int,
    ) -> None:
        self.store, self.model, self.outputs, self.pictures = store, model, outputs, pictures
        self.bits, self.threads, self.progress, self.total = bits, threads, progress, total
        self.failed: list[Failure] = []
        self._done = 0
        self._made: list[tuple[list[tuple[int, Item]], NDArray[np.float32]]] = []
        self._stored_at = time.monotonic()

    def fit_on(self, sample: Sequence[int], fit: Fit) -> int:
        """Learn the codes from the items `sample`, and store those. Returns the number that was
        learned from, 0 where another process was faster."""
        for _ in self._outputs_of(sample):
            pass
        if not self._made:
            return 0
        raw = np.concatenate([rows for _, rows in self._made])
        labels = [item.label for pairs, _ in self._made for _, item in pairs]
        self.progress("learning codes", 0, len(raw))
        mine = self.model = fit(self.model, raw, labels)
        self._commit(new_model=True)
        self.progress("learning codes", len(raw), len(raw))
        if self.outputs is not None:
            self.outputs.discard()
        return len(raw) if self.model.fingerprint == mine.fingerprint else 0

    def encode(self, ids: Sequence[int]) -> None:
        """Encode and store items."""
        try:
            for _ in self._outputs_of(ids):
                waiting = sum(len(pairs) for pairs, _ in self._made)
                is_late = time.monotonic() - self._stored_at > COMMIT_SECONDS
                if waiting >= COMMIT_IMAGES or is_late:
                    self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise
        self._commit()

    def _outputs_of(self, ids: Sequence[int]) -> Iterator[None]:
        """Read items in threads, run the network in batches and queue the results for storing;
        yields after each batch."""
        pairs = zip(ids, self.store.items(ids), strict=True)
        for batch in batched(in_order(pairs, self._read, self.threads), BATCH):
            there = [(one, given) for one, given in batch if not isinstance(given, ImageError)]
            for (_, item), given in batch:
                if isinstance(given, ImageError):
                    self._fail(item, str(given))
            if there:
                raw = self._raw_of([(item.content, given) for (_, item), given in there])
                finite = np.isfinite(raw).all(1)
                for row in np.flatnonzero(~finite).tolist():
                    self._fail(there[row][0][1], NOT_FINITE)
                rows = np.flatnonzero(finite).tolist()
                self._made.append(([there[row][0] for row in rows], raw[rows]))
            self._done += len(batch)
            self.progress(f"encoding by {self.model.name}", self._done, self.total)
            yield

    def _fail(self, item: Item, reason: str) -> None:
        self.failed.append(
            Failure(printable(item.path), f"not encoded by {self.model.name}: {reason}")
        )

    def _read(
        self, one: tuple[int, Item]
    ) -> tuple[tuple[int, Item], images.Pixels | NDArray[np.float32] | ImageError]:
        """In a thread: the pixels of an item, what the network made of them in an earlier run, or
        why there are none."""
        item = one[1]
        try:
            if self.outputs is not None and (raw := self.outputs.of(item.content)) is not None:
                return one, raw
            if item.size == NO_FILE:
                source = self.pictures.get(item.path)
                if source is None or not _is_of(source, item):
                    raise ImageError("it has no file: add the same picture again")
                return one, images.load(source, self.model.preprocessing)
            data = images.read(item.path)
            if hashlib.sha256(data).digest() != item.content:
                raise ImageError("its file has changed: index its folder again")
            return one, images.load(data, self.model.preprocessing)
        except ImageError as error:
            return one, error

    def _raw_of(
        self, given: Sequence[tuple[bytes, images.Pixels | NDArray[np.float32]]]
    ) -> NDArray[np.float32]:
        """The network's outputs [B, r]; new ones are kept while there are no codes."""
        new = [content for content, one in given if _are_pixels(one)]
        made: Iterator[NDArray[np.float32]] = iter(())
        if new:
            raw = self.model.run([one for _, one in given if _are_pixels(one)])
            if self.outputs is not None and not self.model.gives_codes:
                self.outputs.append(new, raw)
            made = iter(raw)
        rows = [next(made) if _are_pixels(one) else one for _, one in given]
        return np.stack(rows).astype(np.float32)

    def _commit(self, new_model: bool = False) -> None:
        """Store what is encoded, in one transaction; not for items that were removed or changed
        meanwhile."""
        also = self.store.also
        if not self._made or also is None or not (new_model or self.model.gives_codes):
            return
        with self.store.writing():
            self.model = adopted(also, self.model, self.bits, new_model)
            for pairs, raw in self._made:
                there = self.store.existing(id_ for id_, _ in pairs)
                now = dict(zip(there, self.store.items(there), strict=True))
                rows = [
                    row
                    for row, (id_, item) in enumerate(pairs)
                    if id_ in now and now[id_].content == item.content
                ]
                if rows:
                    made = self.model.embed(raw[rows])
                    ids = np.array([pairs[row][0] for row in rows], np.int64)
                    also.replace_embeddings(made.codes, made.features, ids, self.model.bits)
        self._made = []
        self._stored_at = time.monotonic()


def _are_pixels(one: images.Pixels | NDArray[np.float32]) -> TypeGuard[images.Pixels]:
    return one.ndim == 3


def _is_of(source: images.Whole, item: Item) -> bool:
    """Whether a picture that is no file is the one that was indexed."""
    try:
        return content_of(source) == item.content
    except (TypeError, ValueError):  # no picture
        return False
