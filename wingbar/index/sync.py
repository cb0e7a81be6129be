"""Bring an index up to date with folders or a list of images: add, update, move, remove.

Work is stored every few seconds in whole transactions. A run that is killed loses at most the last
of them, and the next run continues from there: stored files are recognised by size and time, then
by content. Before a label-free index has codes, the network's outputs are kept beside it instead
(`unfinished.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import DataError, ImageError, ModelError, counted, printable
from wingbar.images import Failure, is_utf8
from wingbar.index.averaging import average_new
from wingbar.index.bulk import encode_on_ray
from wingbar.index.encoded import Encoded, Made
from wingbar.index.engine import NO_FILE, AnyStore, Item, Removed
from wingbar.index.refit import advice, sample_of
from wingbar.index.second import (
    COMMIT_IMAGES,
    COMMIT_SECONDS,
    AlsoReport,
    add_by_second,
    adopted,
    encode_waiting,
)
from wingbar.index.settings import default_bits, require_labels
from wingbar.index.sources import Batch, Wanted, content_of, time_of
from wingbar.index.unfinished import Outputs, network_of, remove_outputs
from wingbar.model import proof
from wingbar.model.fitting import FitOptions
from wingbar.model.model import NOT_FINITE, Model
from wingbar.parallel import BATCH, Progress, batched, cores, in_order, no_progress

# Where systems make the folder of a disk when it is plugged in, and remove it afterwards.
_MOUNT_POINT = re.compile(r"/(media|mnt|Volumes|media/[^/]+|run/media/[^/]+)/[^/]+")


@dataclass(frozen=True)
class AddReport:
    """What one `add` did.

    added: number of new items.
    updated: number of items with new content, label or columns.
    unchanged: number of items that were already up to date.
    moved: number of items whose file was found at another path.
    removed: number of items whose file is gone, or that a source which is the whole truth does not
        name.
    failed: images that could not be used, and why.
    ignored: files that are not images, by their names.
    skipped: folders and files that were left out by name, such as a file server's thumbnails.
    kept: number of items whose file is not there, but may come back: its folder holds no images now
        or cannot be reached, as when a disk is not mounted.
    left_out: number of images that stay out, since their items were removed by hand and the files
        have not changed since.
    continued: number of images whose encoding an interrupted first run had left.
    fitted_on: number of images that the codes were learned from in this run; 0 if known before.
    fitted: how they were learned, as model.json says it; empty if known before.
    seconds: duration of the run.
    images_per_second: encoded images per second, decoding included.
    advice: a sentence on what to do next, if anything.
    notes: sentences on what was done in another way than one might expect.
    also: what was done for the second encoder; None where there is none.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    failed: tuple[Failure, ...] = ()
    ignored: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    kept: int = 0
    left_out: int = 0
    continued: int = 0
    fitted_on: int = 0
    fitted: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_second: float = 0.0
    advice: str | None = None
    notes: tuple[str, ...] = ()
    also: AlsoReport | None = None


@dataclass(frozen=True)
class _Read:
    """A wanted image after reading: its item and, where networks have to run, its pixels for each
    encoder, or in their place what it gave in an interrupted run; or the reason why it cannot be
    used. `moved_from` are items of the same content whose file is gone, `same_as` the item whose
    file this is by another name, `left_out` the path of the item of this content that was removed
    by hand; `contested` says that removed items of this content have no file, so that it has to be
    decided which new file was theirs."""

    wanted: Wanted
    item: Item | None = None
    pixels: Sequence[images.Pixels | None] = ()
    raws: Sequence[NDArray[np.float32] | None] = ()
    failure: str | None = None
    moved_from: Sequence[int] = ()
    same_as: int | None = None
    left_out: str | None = None
    contested: bool = False


@dataclass
class _Encoder:
    """A model of the index, the store as it sees that, and what its network has given in a run that
    was interrupted before there were codes."""

    store: AnyStore
    model: Model
    outputs: Outputs | None


@dataclass
class _Tally:
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    moved: int = 0
    left_out: int = 0
    continued: int = 0
    failed: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def add(
    store: AnyStore,
    model: Model,
    batch: Batch,
    *,
    bits: int | None,
    seed: int,
    threads: int | None,
    progress: Progress | None,
    options: FitOptions | None = None,
    rehash: bool = False,
    restore: bool = False,
    is_whole: bool = False,
    unproven: bool = False,
    ray: str | None = None,
    also: Model | None = None,
    joining: Model | None = None,
) -> tuple[AddReport, Model, Model | None]:
    """Make the index hold what `batch` wants, and nothing below its roots whose file is gone.
    Returns the report and the models, which have codes now.

    options: what codes are fitted with and for, where there are none yet.
    rehash: whether to read files that size and time call unchanged.
    restore: whether images whose items were removed by hand come back.
    is_whole: whether the batch is the whole truth, so that items it does not name are removed.
    unproven: whether images may be encoded on a machine that does not pass the index's proof.
    ray: the Ray cluster that encodes, see `bulk.encode_on_ray`; `threads` are then those of each of
        its workers, 1 by default.
    also: the model of the second encoder, where the store has one. New images are encoded by both;
        those that were there before it follow at the end.
    joining: the model of a second encoder that the store takes in once nothing speaks against the
        batch.

    Raises StoreError when the index cannot be written (what was stored stays), DataError when there
    is nothing to add. A KeyboardInterrupt is raised again once what is encoded is stored, with the
    report of it as its argument.
    """
    start = time.monotonic()
    job = _Sync(
        store,
        model,
        bits,
        seed,
        cores() if ray is not None else threads or cores(),
        progress or no_progress,
        rehash,
        restore,
        options,
        also,
    )
    gone = job.gone_from(batch)
    todo = job.plan(batch)
    if is_whole:
        gone |= job.not_named_in(batch)
    if todo:
        if options is not None and not job.gives_codes:
            sample = sample_of(len(todo), seed)
            require_labels(options.adapt, (todo[i].label for i in sample.tolist()))
        job.prove(unproven)
    if joining is not None:
        if options is not None and not joining.gives_codes:
            known = [item.label for _, item in job.known.values()]
            require_labels(options.adapt, [*known, *(one.label for one in todo)])
        job.join(joining)
    if ray is not None and todo:
        job.encode_on_ray(ray, todo, threads or 1)
    try:
        if not job.gives_codes and todo:
            todo = job.fit_on_sample(todo)
        job.process(todo)
    except KeyboardInterrupt as stopped:
        job.commit()
        if not job.gives_codes:  # what is encoded waits for its codes
            job.tally.added = job.tally.updated = 0
        stopped.args = (job.report(batch, 0, time.monotonic() - start),)
        raise
    removed = job.remove(gone)
    try:
        followed = job.follow(batch, unproven)
    except KeyboardInterrupt as stopped:
        stopped.args = (job.report(batch, removed, time.monotonic() - start),)
        raise
    for encoder in job.all_encoders:
        if encoder.model.averages:
            with store.writing():
                average_new(encoder.store, encoder.model)
    job.discard_outputs()
    report = job.report(batch, removed, time.monotonic() - start, followed)
    return report, job.model, None if job.second is None else job.second.model


class _Sync:
    """The state of one `add`: what is known, what waits to be stored, what was counted."""

    def __init__(
        self,
        store: AnyStore,
        model: Model,
        bits: int | None,
        seed: int,
        threads: int,
        progress: Progress,
        rehash: bool,
        restore: bool,
        options: FitOptions | None,
        also: Model | None,
    ) -> None:
        self.store, self.bits = store, bits
        self.first = _Encoder(store, model, _outputs(store.scratch, model))
        self.encoders = [self.first]  # those that encode new images
        self.second: _Encoder | None = None
        if also is not None:
            self._take_second(also)
        self.options = options
        self.seed, self.threads, self.progress = seed, threads, progress
        self.rehash = rehash
        self.removed = {} if restore else store.removed()
        self.removed_by_content: dict[bytes, list[str]] = {}
        for path, one in self.removed.items():
            self.removed_by_content.setdefault(one.content, []).append(path)
        self.known = {item.path: (id_, item) for id_, item in store.all_items()}
        self.by_content: dict[bytes, list[int]] = {}
        for id_, item in self.known.values():
            self.by_content.setdefault(item.content, []).append(id_)
        self.path_of = {id_: path for path, (id_, _) in self.known.items()}
        self.tally = _Tally()
        self.encoded = self.fitted_on = 0
        self._done, self._total = 0, 0
        self._claimed: set[int] = set()
        self._held: dict[str, list[int]] = {}  # items without a file, by the folder that is empty
        self._elsewhere: Encoded | None = None  # outputs that a cluster has made
        self._changes: dict[int, Item] = {}
        self._still_removed: dict[str, Removed] = {}  # whose file was touched or moved
        self._no_longer: list[str] = []  # from where it was moved
        self._named: set[str] = set()  # paths of items that the batch names
        self._by_real: dict[str, str] | None = None  # where links lead -> the path of its item
        # encoded batches that are not stored yet
        self._waiting: list[tuple[list[Item], list[NDArray[np.float32]]]] = []
        self._also_fitted_on = 0
        self._stored_at = time.monotonic()

    @property
    def model(self) -> Model:
        """The first encoder's."""
        return self.first.model

    @property
    def all_encoders(self) -> list[_Encoder]:
        """The one, or both."""
        return [self.first] if self.second is None else [self.first, self.second]

    @property
    def gives_codes(self) -> bool:
        """Whether new images can be stored."""
        return all(encoder.model.gives_codes for encoder in self.encoders)

    def report(
        self, batch: Batch, removed: int, seconds: float, also: AlsoReport | None = None
    ) -> AddReport:
        """What was done by now."""
        kept, tally = self.kept(), self.tally  # which adds a note
        return AddReport(
            added=tally.added,
            updated=tally.updated,
            unchanged=tally.unchanged,
            moved=tally.moved,
            removed=removed,
            failed=tuple(tally.failed),
            ignored=tuple(batch.ignored),
            skipped=tuple(map(printable, batch.skipped)),
            kept=kept,
            left_out=tally.left_out,
            continued=tally.continued,
            fitted_on=self.fitted_on,
            fitted=self.model.record["fitted"] if self.fitted_on else {},
            seconds=seconds,
            images_per_second=self.encoded / seconds if seconds > 0 else 0.0,
            advice=advice(self.model, self.store.count()),
            notes=(*batch.notes, *tally.notes),
            also=also,
        )

    def gone_from(self, batch: Batch) -> dict[int, str]:
        """Ids and paths of items below the batch's roots whose files no longer exist. Items below a
        folder that holds no images now, or that cannot be reached, are held back: a disk may not be
        mounted."""
        here = {w.path for w in batch.wanted}
        folders = _Folders(here)
        gone = {}
        for root in batch.roots:
            below = {path: id_ for path, (id_, _) in self.known.items() if _is_below(path, root)}
            if not any(_is_below(path, root) for path in here):
                if below:
                    raise DataError(
                        f"{root} has no images now, but {len(below):,} of them are indexed: is a "
                        "disk not mounted? Nothing was removed; to give them up, run wingbar "
                        f"remove {self.store.path} {root}"
                    )
                others = (
                    f", only {counted(len(batch.ignored), 'other file')}" if batch.ignored else ""
                )
                raise DataError(f"{root} has no images{others}")
            unseen = [path for path in (*batch.unreadable, *batch.skipped) if _is_below(path, root)]
            for path, id_ in below.items():
                if path in here or any(path == u or _is_below(path, u) for u in unseen):
                    continue
                if not _is_gone(path):
                    continue
                empty = folders.empty_above(path, root)
                if empty is None:
                    gone[id_] = path
                else:
                    self._held.setdefault(empty, []).append(id_)
        return gone

    def not_named_in(self, batch: Batch) -> dict[int, str]:
        """Ids and paths of the items that the planned batch does not name, apart from those that
        were held back and those below folders that could not be looked into."""
        if not batch.wanted:
            raise DataError(
                "a source that is the whole truth names no images: nothing was removed; to give "
                "all of them up, delete the index"
            )
        held = {id_ for ids in self._held.values() for id_ in ids}
        unseen = (*batch.unreadable, *batch.skipped)
        return {
            id_: path
            for path, (id_, _) in self.known.items()
            if path not in self._named
            and id_ not in held
            and not any(path == u or _is_below(path, u) for u in unseen)
        }

    def kept(self) -> int:
        """The number of items that were held back and not found elsewhere; a note names their
        folders."""
        left = {
            folder: sum(id_ not in self._claimed for id_ in ids)
            for folder, ids in self._held.items()
        }
        left = {folder: count for folder, count in left.items() if count}
        if left:
            folders = sorted(left)
            more = f" and {len(folders) - 1:,} more" if len(folders) > 1 else ""
            self.tally.notes.append(
                f"{printable(folders[0])}{more} cannot be reached or holds no images now, but "
                f"{sum(left.values()):,} of them are indexed: is a disk not mounted? They were "
                "kept; to give them up, delete the folder itself and run the same command again"
            )
        return sum(left.values())

    def plan(self, batch: Batch) -> list[Wanted]:
        """What has to be read: whatever is not stored with the same size and time."""
        self.tally.failed += [Failure(printable(f), _why_unlisted(f)) for f in batch.unreadable]
        self.tally.failed += batch.failed
        labels = {root: self._label_from_above(root) for root in batch.roots}
        names = _RealPaths()
        todo = []
        seen: dict[str, Wanted] = {}
        for wanted in batch.wanted:
            w, key = self._under_its_name(wanted, names)
            self._named.add(w.path)
            first = seen.setdefault(key, w)
            if first is not w:
                if w.labelled and (first.label, first.columns) != (w.label, w.columns):
                    reason = (
                        "listed again with another label or columns; the first "
                        f"({first.label}) was taken"
                    )
                    self.tally.failed.append(Failure(printable(w.path), reason))
                continue
            above = labels.get(w.root or "")
            if above is not None:
                w = replace(w, label=above, labelled=False)
            if not w.labelled and w.path in self.known:  # a bare path removes no label
                w = replace(
                    w, label=self.known[w.path][1].label, columns=self.known[w.path][1].columns
                )
            if not is_utf8(w.path):
                self.tally.failed.append(
                    Failure(printable(w.path), "the file name is not valid UTF-8: rename it")
                )
            elif self._stays_out(w):
                self.tally.left_out += 1
            elif not self._is_unchanged(w):
                todo.append(w)
        self._total = len(todo)
        return todo

    def _under_its_name(self, w: Wanted, names: _RealPaths) -> tuple[Wanted, str]:
        """The same image under the path by which the index knows it, if it was indexed by way of
        another link; and what tells it from all others of the batch."""
        if w.path in self.known or not isinstance(w.source, str):
            return w, w.path
        real = names.of(w.path)
        if self._by_real is None:
            self._by_real = {}
            for path, (_, item) in self.known.items():
                if item.size != NO_FILE and (other := names.by_folder(path)) != path:
                    self._by_real.setdefault(other, path)
        known = real if real in self.known else self._by_real.get(real)
        return (w, real) if known is None else (replace(w, path=known), known)

    def _label_from_above(self, root: str) -> str | None:
        """The label of all items below `root`, if it comes from a folder above: then a listing of
        `root` by itself must not label them by the folders inside."""
        below = [
            (path[len(root) :].lstrip(os.sep).split(os.sep), item.label)
            for path, (_, item) in self.known.items()
            if _is_below(path, root)
        ]
        labels = {label for _, label in below}
        if len(labels) != 1:
            return None
        [label] = labels
        above = unicodedata.normalize("NFC", root).split(os.sep)
        own = all(unicodedata.normalize("NFC", parts[0]) == label for parts, _ in below)
        return label if label in above and not own else None

    def _stays_out(self, w: Wanted) -> bool:
        """Whether the item was removed by hand, and its file is unchanged by size and time."""
        before = self.removed.get(w.path)
        if before is None or w.named or self.rehash or w.path in self.known:
            return False
        try:
            status = os.stat(w.path)
        except OSError:
            return False
        return (status.st_size, time_of(status)) == (before.size, before.mtime)

    def _is_unchanged(self, w: Wanted) -> bool:
        if w.path not in self.known:
            return False
        if self.rehash and isinstance(w.source, str):
            return False
        id_, item = self.known[w.path]
        if not isinstance(w.source, str):
            try:
                if content_of(w.source) != item.content:
                    return False
            except (TypeError, ValueError):  # no picture: reading it says why
                return False
        elif item.size != NO_FILE:
            try:
                status = os.stat(w.path)
            except OSError:
                return False
            if (status.st_size, time_of(status)) != (item.size, item.mtime):
                return False
        if (item.label, dict(item.columns)) == (w.label, dict(w.columns)):
            self.tally.unchanged += 1
        else:
            self._changes[id_] = replace(item, label=w.label, columns=w.columns)
            self.tally.updated += 1
        return True

    def _take_second(self, model: Model) -> None:
        """Have the second encoder of the store take part. One that still has to learn its codes
        from all images that were there before it encodes no new ones."""
        if self.store.also is None:
            return
        beside = self.store.scratch.with_name(f"{self.store.scratch.name}-also")
        self.second = _Encoder(self.store.also, model, _outputs(beside, model))
        if model.gives_codes or self.store.is_empty():
            self.encoders.append(self.second)

    def join(self, model: Model) -> None:
        """Take a second encoder into the store."""
        with self.store.writing():
            self.store.set_also(model.files)
        self._take_second(model)
        if self.second in self.encoders:  # it has no items yet, and goes by what is computed here
            self._prove(self.second, unproven=False)

    def prove(self, unproven: bool) -> None:
        """Make sure that what this machine computes can stand beside the items that are there.

        An index without items goes by what this machine computes, and its model says so. Raises
        ModelError where items of another machine are there, unless `unproven` allows it.
        """
        for encoder in self.encoders:
            self._prove(encoder, unproven)

    def _prove(self, encoder: _Encoder, unproven: bool) -> None:
        problem = proof.problem(encoder.model)
        if problem is None:
            return
        with self.store.writing():
            if encoder.store.is_empty():
                encoder.model = proof.proven(encoder.model)
                encoder.store.set_model(encoder.model.files)
                self.tally.notes.append(f"{problem}; the index goes by what this machine computes")
            elif unproven:
                self.tally.notes.append(f"{problem}; they were added all the same")
            else:
                raise ModelError(
                    f"{self.store.path} was not changed: {problem}; add from a machine that "
                    "passes, or all the same with --unproven"
                )
        if encoder.outputs is not None:
            encoder.outputs = Outputs(encoder.outputs.index, encoder.model)

    def encode_on_ray(self, address: str, todo: Sequence[Wanted], threads: int) -> None:
        """Have a cluster make the network's outputs of all files in the order in which they are
        needed. Then the network does not run here, except for what changes meanwhile."""
        folder = self.store.scratch.with_name(f"{self.store.scratch.name}-ray")
        encoded = self._elsewhere = Encoded(folder, network_of(self.model))
        first = [] if self.model.gives_codes else sample_of(len(todo), self.seed).tolist()
        others = sorted(set(range(len(todo))) - set(first))
        files = [todo[i].path for i in [*first, *others] if isinstance(todo[i].source, str)]
        new = [path for path in files if self.rehash or not self._is_made(path)]
        self.tally.continued += len(files) - len(new)
        touched = set(new)
        stored = [  # of files that were touched or moved
            content
            for content, ids in self.by_content.items()
            if any(self.path_of[i] in touched or _is_gone(self.path_of[i]) for i in ids)
        ]
        self.encoded += encode_on_ray(
            address, self.model, new, stored, encoded, threads, self.progress
        )

    def _is_made(self, path: str) -> bool:
        """Whether a cluster has read a file as it is now."""
        try:
            return self._made_elsewhere(path, os.stat(path)) is not None
        except (OSError, ValueError):
            return False

    def _made_elsewhere(self, path: str, status: os.stat_result) -> Made | None:
        if self._elsewhere is None:
            return None
        return self._elsewhere.of(path, status.st_size, time_of(status))

    def discard_outputs(self) -> None:
        """Remove what a cluster has made, once all of it is stored."""
        if self._elsewhere is not None:
            self._elsewhere.discard()

    def fit_on_sample(self, todo: Sequence[Wanted]) -> list[Wanted]:
        """Read a seeded sample, learn the codes from it, store it. Returns what is left to do."""
        chosen = set(sample_of(len(todo), self.seed).tolist())
        for _ in self._take(w for i, w in enumerate(todo) if i in chosen):
            pass  # the index gets nothing yet: the codes depend on the whole sample
        if self._waiting:
            labels = [item.label for items, _ in self._waiting for item in items]
            self.progress("learning codes", 0, len(labels))
            fitted = {}
            for i, encoder in enumerate(self.encoders):
                if not encoder.model.gives_codes:
                    raw = np.concatenate([raws[i] for _, raws in self._waiting])
                    encoder.model = self._fitted(encoder.model, raw, labels)
                    fitted[i] = encoder.model.fingerprint
            self.commit(new_model=True)
            self.progress("learning codes", len(labels), len(labels))
            for i, encoder in enumerate(self.encoders):
                if encoder.outputs is not None:
                    encoder.outputs.discard()
                if encoder.model.fingerprint == fitted.get(i):  # and not another process's
                    if encoder is self.first:
                        self.fitted_on = len(labels)
                    else:
                        self._also_fitted_on = len(labels)
            return [w for i, w in enumerate(todo) if i not in chosen]
        if len(chosen) < len(todo):  # a sample of nothing but bad files: try the rest
            return self.fit_on_sample([w for i, w in enumerate(todo) if i not in chosen])
        return []

    def _fitted(
        self, model: Model, raw: NDArray[np.float32], labels: Sequence[str | None]
    ) -> Model:
        return model.fitted(
            raw,
            default_bits(model) if self.bits is None else self.bits,
            self.seed,
            self.options,
            labels,
            look=lambda: self.progress("learning codes", 0, len(labels)),
        )

    def process(self, todo: Sequence[Wanted]) -> None:
        """Read, encode and store the rest."""
        for _ in self._take(todo):
            self._commit_if_due()
        self.commit()

    def _commit_if_due(self) -> None:
        waiting = sum(len(items) for items, _ in self._waiting) + len(self._changes)
        waiting += len(self._still_removed)
        if waiting >= COMMIT_IMAGES or time.monotonic() - self._stored_at > COMMIT_SECONDS:
            self.commit()

    def commit(self, new_model: bool = False) -> None:
        """Store what waits, in one transaction. If another process has fitted the model meanwhile,
        its codes are used."""
        if not self._waiting and not self._changes and not self._still_removed:
            return
        if self._waiting and not self.gives_codes:
            return  # interrupted before the codes were known
        self.store.retried(lambda: self._write(new_model))
        self._waiting, self._changes = [], {}
        self._still_removed, self._no_longer = {}, []
        self._stored_at = time.monotonic()

    def _write(self, new_model: bool) -> None:
        """In one transaction: the model, where it is new, and what waits."""
        with self.store.writing():
            for encoder in self.encoders:
                encoder.model = adopted(encoder.store, encoder.model, self.bits, new_model)
            for items, raws in self._waiting:
                self._write_items(items, raws)
            taken = self.store.ids_of_paths(item.path for item in self._changes.values())
            self.store.update(
                {i: item for i, item in self._changes.items() if taken.get(item.path, i) == i}
            )
            self.store.forget(self._no_longer)
            self.store.remember(self._still_removed)

    def _write_items(self, items: Sequence[Item], raws: Sequence[NDArray[np.float32]]) -> None:
        embeddings = self.model.embed(raws[0])
        self.store.add(items, embeddings.codes, embeddings.features, self.model.bits)
        for encoder, raw in zip(self.encoders[1:], raws[1:], strict=True):
            add_by_second(self.store, items, encoder.model.embed(raw))

    def remove(self, gone: Mapping[int, str]) -> int:
        """Delete the items of files that are gone, unless they were found to have moved."""
        left = {path: id_ for id_, path in gone.items() if id_ not in self._claimed}
        if not left:
            return 0
        with self.store.writing():  # another process may have recorded that one of them moved
            still = self.store.ids_of_paths(left)
            return self.store.delete(id_ for path, id_ in still.items() if left[path] == id_)

    def _take(self, todo: Iterable[Wanted]) -> Iterator[None]:
        """Read images in threads, run the network in batches and queue the results for storing;
        yields after each batch."""
        for batch in batched(self._to_encode(todo), BATCH):
            raws = self._raws_of(batch)
            finite = np.stack([np.isfinite(raw).all(1) for raw in raws]).all(0)
            rows = np.flatnonzero(finite).tolist()
            self.tally.failed += [
                Failure(printable(read.wanted.path), NOT_FINITE)
                for i, read in enumerate(batch)
                if i not in rows
            ]
            kept = [batch[i] for i in rows]
            if kept:
                items = [read.item for read in kept if read.item is not None]
                self._waiting.append((items, [raw[rows] for raw in raws]))
            known = sum(read.wanted.path in self.known for read in kept)
            self.tally.updated += known
            self.tally.added += len(kept) - known
            yield

    def _to_encode(self, todo: Iterable[Wanted]) -> Iterator[_Read]:
        """Read images in threads, settle what needs no network, and yield the others."""
        contested: dict[bytes, list[_Read]] = {}  # by content, until all files are read
        for read in in_order(todo, self._read, self.threads):
            self._done += 1
            self.progress("indexing", self._done, self._total)
            if read.contested and read.item is not None:
                contested.setdefault(read.item.content, []).append(read)
            elif (left := self._settled(read)) is not None:
                yield left
        for content, reads in contested.items():
            for read in self._decided(content, reads):
                if (left := self._settled(read)) is not None:
                    yield left

    def _decided(self, content: bytes, reads: Sequence[_Read]) -> Iterator[_Read]:
        """What became of the files of one content: each is the file of one item at most, be it in
        the index or removed by hand."""
        by_path = {read.wanted.path: read for read in reads}
        ids = [i for i in self._ids_without_file(content) if i not in self._claimed]
        kept = {self.path_of[i]: i for i in ids}
        removed = self._removals_without_file(content)
        olds = _pairs(by_path, kept, removed)
        for path, read in sorted(by_path.items()):
            old = olds.get(path)
            if old is None:
                yield replace(read, same_as=self._id_of_same_file(content, path))
            elif old in kept:
                yield replace(read, moved_from=[kept[old]])
            else:
                self.removed_by_content[content].remove(old)
                yield replace(read, left_out=old)

    def _raws_of(self, batch: Sequence[_Read]) -> list[NDArray[np.float32]]:
        """The outputs [B, r] of each encoder's network for a batch; new ones are kept while there
        are no codes."""
        made = [self._raw_of(i, batch) for i in range(len(self.encoders))]
        new = sum(any(pixels is not None for pixels in read.pixels) for read in batch)
        self.encoded += new
        if self._elsewhere is None:  # or they are counted already
            self.tally.continued += len(batch) - new
        return made

    def _raw_of(self, number: int, batch: Sequence[_Read]) -> NDArray[np.float32]:
        encoder = self.encoders[number]
        new = [(read.item, read.pixels[number]) for read in batch]
        new = [(item, pixels) for item, pixels in new if pixels is not None]
        rows = [read.raws[number] for read in batch]
        if new:
            raw = encoder.model.run([pixels for _, pixels in new if pixels is not None])
            if encoder.outputs is not None and not encoder.model.gives_codes:
                encoder.outputs.append([item.content for item, _ in new if item], raw)
            made = iter(raw)
            rows = [next(made) if row is None else row for row in rows]
        return np.stack([row for row in rows if row is not None])

    def _read(self, w: Wanted) -> _Read:
        """In a thread: read and hash a file, and decode it if its content is new."""
        try:
            data: images.Whole
            if not isinstance(w.source, str):
                item = Item(w.path, w.label, w.columns, NO_FILE, 0, content_of(w.source))
                data = w.source
            else:
                status = os.stat(w.path)
                made = self._made_elsewhere(w.path, status)
                if made is None:
                    data = images.read(w.path)
                    size, digest = len(data), hashlib.sha256(data).digest()
                elif made.failure is None:
                    data, size, digest = w.path, made.size, made.content
                else:
                    return _Read(w, failure=made.failure)
                item = Item(w.path, w.label, w.columns, size, time_of(status), digest)
            if w.path in self.known:
                if self.known[w.path][1].content == item.content:
                    return _Read(w, item)
            elif isinstance(w.source, str):
                if not w.named and w.path in self.removed_by_content.get(item.content, []):
                    return _Read(w, item, left_out=w.path)
                if not w.named and self._removals_without_file(item.content):
                    return _Read(w, item, contested=True)
                if old := self._ids_without_file(item.content):
                    return _Read(w, item, moved_from=old)
                same = self._id_of_same_file(item.content, w.path)
                if same is not None:
                    return _Read(w, item, same_as=same)
            return self._made(w, item, data)
        except ImageError as error:
            return _Read(w, failure=str(error))
        except OSError as error:
            return _Read(w, failure=error.strerror or str(error))
        except ValueError as error:  # a path with a NUL byte
            return _Read(w, failure=str(error))

    def _made(self, w: Wanted, item: Item, data: images.Source) -> _Read:
        """The picture for the networks that have to run, decoded once. Raises ImageError."""
        raws = [self._kept_outputs(encoder, item.content) for encoder in self.encoders]
        pairs = list(zip(self.encoders, raws, strict=True))
        wanted = [encoder.model.preprocessing for encoder, raw in pairs if raw is None]
        made = iter(images.load_each(data, wanted) if wanted else ())
        return _Read(w, item, [next(made) if raw is None else None for raw in raws], raws)

    def _kept_outputs(self, encoder: _Encoder, content: bytes) -> NDArray[np.float32] | None:
        """What the network gave for this content in an interrupted run, or on a cluster."""
        raw = None if encoder.outputs is None else encoder.outputs.of(content)
        if raw is None and self._elsewhere is not None:
            raw = self._elsewhere.raw(content)
        return raw

    def _removals_without_file(self, content: bytes) -> list[str]:
        """Paths of the removed items of this content whose file no longer exists."""
        paths = self.removed_by_content.get(content, [])
        return [path for path in paths if not os.path.exists(path)]

    def _ids_without_file(self, content: bytes) -> list[int]:
        """Items of this content whose file no longer exists."""
        ids = self.by_content.get(content, [])
        return [
            i
            for i in ids
            if self.known[self.path_of[i]][1].size != NO_FILE
            and not os.path.exists(self.path_of[i])
        ]

    def _id_of_same_file(self, content: bytes, path: str) -> int | None:
        """The item of this content whose path is a link to the same file."""
        for id_ in self.by_content.get(content, []):
            if os.path.realpath(self.path_of[id_]) == os.path.realpath(path):
                return id_
        return None

    def _settled(self, read: _Read) -> _Read | None:
        """Settle what needs no network: failures, unchanged content, moved files. Returns what is
        left to encode."""
        if read.left_out is not None and read.item is not None:
            self.tally.left_out += 1
            if read.left_out != read.item.path:
                self._no_longer.append(read.left_out)
            self._still_removed[read.item.path] = Removed(
                read.item.size, read.item.mtime, read.item.content
            )
            self._commit_if_due()
            return None
        if read.item is not None and not read.pixels:
            id_ = self._same_image(read)
            if id_ is not None:
                self._changes[id_] = self._as_stored(read.item, read, id_)
                self._commit_if_due()
                return None
            read = self._decoded(read)  # a second copy of a file that moved: new
        if read.item is None:
            self.tally.failed.append(
                Failure(printable(read.wanted.path), read.failure or "unknown reason")
            )
            return None
        return read

    def _as_stored(self, item: Item, read: _Read, id_: int) -> Item:
        """The new record of an item; one that was reached by another link keeps its path, and its
        label unless it comes with one."""
        if read.same_as is None:
            return item
        before = self.known[self.path_of[id_]][1]
        if not read.wanted.labelled:
            return before
        return replace(before, label=item.label, columns=item.columns)

    def _same_image(self, read: _Read) -> int | None:
        """The item that already has this content, at the same path or at one that no longer
        exists."""
        if read.same_as is not None:
            self.tally.unchanged += 1
            self._claimed.add(read.same_as)
            return read.same_as
        if read.wanted.path in self.known:
            id_, before = self.known[read.wanted.path]
            if (before.label, dict(before.columns)) == (
                read.wanted.label,
                dict(read.wanted.columns),
            ):
                self.tally.unchanged += 1
            else:
                self.tally.updated += 1
            return id_
        for id_ in read.moved_from:
            if id_ not in self._claimed:
                self._claimed.add(id_)
                self.tally.moved += 1
                return id_
        return None

    def _decoded(self, read: _Read) -> _Read:
        assert read.item is not None
        try:
            return self._made(read.wanted, read.item, read.wanted.source)
        except ImageError as error:
            return _Read(read.wanted, failure=str(error))

    def follow(self, batch: Batch, unproven: bool) -> AlsoReport | None:
        """Have the second encoder encode what was there before it."""
        if self.second is None:
            return None
        waiting = len(self.second.store.waiting())
        fitted_on = self._also_fitted_on
        if waiting:
            self._prove(self.second, unproven)
            pictures = {w.path: w.source for w in batch.wanted if not isinstance(w.source, str)}
            done = encode_waiting(
                self.store,
                self.second.model,
                fit=self._fitted,
                pictures=pictures,
                outputs=self.second.outputs,
                bits=self.bits,
                seed=self.seed,
                threads=self.threads,
                progress=self.progress,
            )
            self.second.model = done.model
            self.tally.failed += done.failed
            fitted_on = done.fitted_on or fitted_on
        model, left = self.second.model, len(self.second.store.waiting())
        return AlsoReport(
            model.name,
            encoded=waiting - left,
            waiting=left,
            fitted_on=fitted_on,
            fitted=model.record["fitted"] if fitted_on else {},
        )


def _outputs(beside: Path, model: Model) -> Outputs | None:
    """What an encoder without codes has given so far; of one with codes, what a run has left that
    was killed as soon as they were stored is removed."""
    if model.gives_codes:
        remove_outputs(beside)
        return None
    return Outputs(beside, model)


def _pairs(new: Iterable[str], kept: Iterable[str], removed: Iterable[str]) -> dict[str, str]:
    """The path that each new file had before, out of paths of the same content that are gone: first
    by the same file name, then by order of path. New files without one are not in it."""
    groups = [_by_name(paths) for paths in (new, kept, removed)]
    pairs: dict[str, str] = {}
    for name in groups[0]:
        pairs |= _pairs_in_order(*(group.get(name, []) for group in groups))
    paired = {*pairs, *pairs.values()}
    rest = [[p for paths in group.values() for p in paths if p not in paired] for group in groups]
    return pairs | _pairs_in_order(*rest)


def _pairs_in_order(
    new: Sequence[str], kept: Sequence[str], removed: Sequence[str]
) -> dict[str, str]:
    """Paths in order; where new files are too few for all, those of the index come first."""
    olds = [*sorted(kept), *sorted(removed)][: len(new)]
    return dict(zip(sorted(new), sorted(olds), strict=False))


def _by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for path in paths:
        named.setdefault(os.path.basename(path), []).append(path)
    return named


class _RealPaths:
    """Where paths lead when links are followed; each folder is resolved once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: str) -> str:
        """The real path of a file."""
        try:
            return os.path.realpath(path) if os.path.islink(path) else self.by_folder(path)
        except (OSError, ValueError):  # a path with a NUL byte
            return path

    def by_folder(self, path: str) -> str:
        """The path with the links in its folder followed, but not the file itself."""
        folder, name = os.path.split(path)
        try:
            if folder not in self._folders:
                self._folders[folder] = os.path.realpath(folder)
        except (OSError, ValueError):
            return path
        return os.path.join(self._folders[folder], name)


class _Folders:
    """Which folders hold images now."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._holding: dict[str, bool] = {}
        for path in paths:
            folder = os.path.dirname(path)
            while folder not in self._holding:
                self._holding[folder] = True
                folder = os.path.dirname(folder)

    def empty_above(self, path: str, root: str) -> str | None:
        """The first folder below `root`, on the way to `path`, that holds no images or cannot be
        reached; None if all do, or if one was deleted from a folder that is there."""
        folder = root
        for part in os.path.relpath(os.path.dirname(path), root).split(os.sep):
            folder = os.path.normpath(os.path.join(folder, part))
            if self._holds_images(folder):
                continue
            return None if _is_gone(folder) and not _MOUNT_POINT.fullmatch(folder) else folder
        return None

    def _holds_images(self, folder: str) -> bool:
        if folder not in self._holding:
            try:
                self._holding[folder] = bool(images.find(folder).images)
            except OSError:
                self._holding[folder] = False
        return self._holding[folder]


def _is_gone(path: str) -> bool:
    """Whether there is nothing at `path`, for sure: an error of the disk is no proof."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:
        return False
    return False


def _why_unlisted(folder: str) -> str:
    try:
        with os.scandir(folder):
            return "the folder cannot be listed"
    except OSError as error:
        return f"the folder cannot be listed ({error.strerror})"


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)
