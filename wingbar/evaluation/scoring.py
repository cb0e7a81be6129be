"""Queries scored against a gallery, through the index's own search: the numbers of each query, from
which evaluation.py makes means, curves and words.

N gallery items, Q queries, b bits, w words a code, d dim, y labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data.records import Entry
from wingbar.errors import DataError, ImageError
from wingbar.evaluation.metrics import (
    Buckets,
    Int64,
    expected,
    expected_at,
    expected_at_r,
    greatest,
    in_buckets,
    least,
    merged_buckets,
)
from wingbar.hamming import codes
from wingbar.images import Failure
from wingbar.index.index import Index
from wingbar.index.ranking import Fine, SearchOptions, coarse, fine_places, rank
from wingbar.model.itq import unit
from wingbar.model.model import Embeddings
from wingbar.parallel import Progress, batched, cores, in_order

GalleryCodes = Literal["network", "labels"]
"""Whose codes the gallery has: those that the network gave, or for every class one, the bits that
most of its items have. Much of the literature takes codes from labels, which no system that
searches new pictures can."""

AT = 1000  # DLBHC's cut
RADIUS = 2
_BLOCK_QUERIES = 64  # queries that are scored together
_BLOCK_ITEMS = 65_536  # gallery features that are float32 at a time


# -- the gallery


@dataclass(frozen=True)
class Gallery:
    """The items by ascending id: `ids` [N]; `network` and `packed` [N, w], their codes by the
    network and those that are searched, as `searched`; `label_ids` [N], a place in `names` or -1;
    `rows` and `starts`, the rows of each label.

    `by_content` are the rows in the order of their files' sha256, `contents`. `features` [N, d]
    float16, None unless all are compared. `means` [y, d] float32 are the mean features of the
    labels, `believed` [N] whose is nearest to an item, and `table` [y, y + 1] counts items by that
    and by their label, the last column those without one.
    """

    ids: Int64
    searched: codes.Codes
    network: codes.Packed
    packed: codes.Packed
    names: list[str]
    label_ids: Int64
    rows: Int64
    starts: Int64
    by_content: Int64
    contents: NDArray[np.bytes_]
    features: NDArray[np.float16] | None
    means: NDArray[np.float32]
    believed: Int64
    table: Int64
    not_finite: int

    def of_label(self, label: int) -> Int64:
        """The rows of a label, ascending."""
        return self.rows[self.starts[label] : self.starts[label + 1]]

    def of_content(self, content: bytes) -> Int64:
        """The rows whose files have this sha256."""
        first, last = (
            np.searchsorted(self.contents, np.bytes_(content), side) for side in ("left", "right")
        )
        return np.sort(self.by_content[first:last])


def read_gallery(index: Index, gallery_codes: GalleryCodes, exhaustive: bool) -> Gallery:
    """All of an index that scoring needs; with `exhaustive` its features too. Raises DataError
    where no item has a label."""
    labels = index.labels()
    if all(label is None for label in labels):
        raise DataError(
            f"no item of {index.path} has a label: index class folders, or a CSV with a label "
            "column"
        )
    names = sorted({label for label in labels if label is not None})
    id_of_label = {label: i for i, label in enumerate(names)}
    label_ids = np.array(
        [-1 if label is None else id_of_label[label] for label in labels], np.int64
    )
    by_label = np.argsort(label_ids, kind="stable")
    contents = np.array(index.contents(), "S32")
    by_content = np.argsort(contents, kind="stable")
    searched = index.searchable()
    network = packed = searched.of(searched.ids)
    if gallery_codes == "labels":
        packed = _codes_of_labels(network, label_ids, index.model.bits)
        searched = codes.Codes(packed, index.model.bits, searched.ids)
    elif gallery_codes != "network":
        raise DataError(f"gallery codes are of the network or of the labels, not {gallery_codes!r}")
    means, believed, not_finite = _class_means(index, label_ids, len(names))
    table = np.zeros((len(names), len(names) + 1), np.int64)
    np.add.at(table, (believed, label_ids), 1)  # without a label: -1, the last column
    return Gallery(
        ids=searched.ids,
        searched=searched,
        network=network,
        packed=packed,
        names=names,
        label_ids=label_ids,
        rows=by_label,
        starts=np.searchsorted(label_ids[by_label], np.arange(len(names) + 1)),
        by_content=by_content,
        contents=contents[by_content],
        features=np.concatenate(list(index.feature_blocks())) if exhaustive else None,
        means=means,
        believed=believed,
        table=table,
        not_finite=not_finite,
    )


def _codes_of_labels(network: codes.Packed, label_ids: Int64, bits: int) -> codes.Packed:
    """For every labelled item the code of its class: the bits that most of its items have, 1 where
    it is half of them."""
    ones = np.zeros((label_ids.max() + 1, bits))
    for bit in range(bits):
        column = (network[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
        ones[:, bit] = np.bincount(label_ids[label_ids >= 0], column[label_ids >= 0], len(ones))
    counts = np.bincount(label_ids[label_ids >= 0], minlength=len(ones))
    of_class = codes.pack(2 * ones >= counts[:, None])
    return np.where((label_ids >= 0)[:, None], of_class[label_ids], network)


def _class_means(
    index: Index, label_ids: Int64, count: int
) -> tuple[NDArray[np.float32], Int64, int]:
    """Unit means [y, d] of the labels' features, which of them is nearest to each item [N], and how
    many items have a feature that is not finite."""
    sums = np.zeros((count, index.model.dim), np.float64)
    start = not_finite = 0
    for block in index.feature_blocks():
        labels = label_ids[start : start + len(block)]
        finite = np.isfinite(block).all(1)
        np.add.at(
            sums, labels[finite & (labels >= 0)], block[finite & (labels >= 0)].astype(np.float64)
        )
        not_finite += int((~finite).sum())
        start += len(block)
    means = unit(sums.astype(np.float32))
    believed = [
        _nearest_mean(np.nan_to_num(block.astype(np.float32)), means)
        for block in index.feature_blocks()
    ]
    return means, np.concatenate(believed), not_finite


def _nearest_mean(features: NDArray[np.float32], means: NDArray[np.float32]) -> Int64:
    return np.asarray((features @ means.T).argmax(1), np.int64)


def _cosines(queries: NDArray[np.float32], features: NDArray[np.float16]) -> NDArray[np.float32]:
    """Cosines [Q, N] of unit features; -2, behind all others, for an item whose feature is not
    finite."""
    found = [
        queries @ features[i : i + _BLOCK_ITEMS].astype(np.float32).T
        for i in range(0, len(features), _BLOCK_ITEMS)
    ]
    return np.nan_to_num(np.concatenate(found, axis=1), nan=-2.0, posinf=-2.0, neginf=-2.0)


# -- the queries


class Block(NamedTuple):
    """Queries that could be read, with their files' sha256."""

    embeddings: Embeddings
    entries: list[tuple[Entry, str]]
    contents: list[bytes]


def encoded(
    index: Index,
    labelled: Sequence[tuple[Entry, str]],
    failed: list[Failure],
    progress: Progress | None,
) -> Iterator[Block]:
    """Readable queries, encoded in blocks; bad ones go to `failed`."""

    def read(
        query: tuple[Entry, str],
    ) -> tuple[tuple[Entry, str], bytes, images.Pixels | ImageError]:
        entry, _ = query
        try:
            data = images.read(entry.path)
            source = data if entry.box is None else images.Part(data, entry.box)
            return (
                query,
                hashlib.sha256(data).digest(),
                images.load(source, index.model.preprocessing),
            )
        except ImageError as error:
            return query, b"", error

    done = 0
    for batch in batched(in_order(labelled, read, cores()), _BLOCK_QUERIES):
        failed += [
            Failure(str(query[0].path), str(pixels))
            for query, _, pixels in batch
            if isinstance(pixels, ImageError)
        ]
        good = [
            (query, content, pixels)
            for query, content, pixels in batch
            if not isinstance(pixels, ImageError)
        ]
        embeddings = index.model.encode_pixels([pixels for _, _, pixels in good])
        finite = np.isfinite(embeddings.features).all(1) & np.isfinite(embeddings.logits).all(1)
        failed += [
            Failure(
                str(good[i][0][0].path),
                "the network gives numbers for it that are not finite: train again, or check it",
            )
            for i in np.flatnonzero(~finite)
        ]
        kept = np.flatnonzero(finite)
        if len(kept):
            some = replace(
                embeddings,
                codes=embeddings.codes[kept],
                features=embeddings.features[kept],
                logits=embeddings.logits[kept],
            )
            yield Block(some, [good[i][0] for i in kept], [good[i][1] for i in kept])
        done += len(batch)
        if progress:
            progress("evaluating", done, len(labelled))


class Score(NamedTuple):
    """The numbers of one query; items and hits [b + 1] at each distance, and its ranking by
    code."""

    path: str
    label: str
    items: Int64
    hits: Int64
    ranking: Buckets
    map: float
    low: float
    high: float
    at_1000: float
    at_r: float
    precision: float
    empty: float
    argmax: float
    named: float
    feature_map: float
    feature_top1: float
    rerank: float
    read: float
    copies: bool


def score_block(
    index: Index, gallery: Gallery, block: Block, options: SearchOptions
) -> tuple[list[Score], list[str]]:
    """Scores of the queries that have a match, and the labels of those that have none."""
    names = {name: i for i, name in enumerate(gallery.names)}
    labels = [names.get(label, -1) for _, label in block.entries]
    copies = [gallery.of_content(content) for content in block.contents]
    relevant = [
        np.setdiff1d(gallery.of_label(label), own, assume_unique=True) if label >= 0 else own[:0]
        for label, own in zip(labels, copies, strict=True)
    ]
    kept = [i for i, rows in enumerate(relevant) if len(rows)]
    missed = [block.entries[i][1] for i in range(len(labels)) if not len(relevant[i])]
    items = gallery.searched.counts(block.embeddings.codes)
    fine = index.fine_of(options)
    near = _coarse(gallery, block.embeddings, copies, kept, fine, options)
    cosines = (
        None if gallery.features is None else _cosines(block.embeddings.features, gallery.features)
    )
    believed = _nearest_mean(block.embeddings.features, gallery.means)
    scores = []
    for i in kept:
        query, own = block.embeddings[i], copies[i]
        bins = index.model.bits + 1
        at = items[i] - np.bincount(
            codes.hamming(query.codes[0], gallery.packed[own]), minlength=bins
        )
        hits = np.bincount(
            codes.hamming(query.codes[0], gallery.packed[relevant[i]]), minlength=bins
        )
        ranking = merged_buckets(np.arange(bins), at, hits)
        inside = int(at[: RADIUS + 1].sum())
        is_label = gallery.label_ids == labels[i] if cosines is not None else None
        feature_map = feature_top1 = 0.0
        if cosines is not None and is_label is not None:
            by_feature = in_buckets(np.delete(-cosines[i], own), np.delete(is_label, own))
            feature_map, feature_top1 = (
                expected(by_feature),
                float(by_feature.hits[0] / by_feature.size[0]),
            )
        rerank, read = expected(ranking), 0.0
        if fine != "none":
            found = rank(near[i], fine, index.scores(gallery.searched, query, near[i], fine))
            pool = np.searchsorted(gallery.ids, found.ids)
            right = gallery.label_ids[pool] == labels[i]
            assert found.scores is not None
            rerank = expected(fine_buckets(fine, at, hits, found.distances, found.scores, right))
            read = 0.0 if fine == "asymmetric" else len(pool) / len(gallery.ids)
        scores.append(
            Score(
                path=str(block.entries[i][0].path),
                label=block.entries[i][1],
                items=at,
                hits=hits,
                ranking=ranking,
                map=expected(ranking),
                low=least(ranking),
                high=greatest(ranking),
                at_1000=expected_at(ranking, AT),
                at_r=expected_at_r(ranking),
                precision=float(hits[: RADIUS + 1].sum() / inside) if inside else 0.0,
                empty=float(not inside),
                argmax=expected(_by_class(gallery, int(believed[i]), labels[i], own)),
                named=float(believed[i] == labels[i]),
                feature_map=feature_map,
                feature_top1=feature_top1,
                rerank=rerank,
                read=read,
                copies=bool(len(own)),
            )
        )
    return scores, missed


def _coarse(
    gallery: Gallery,
    queries: Embeddings,
    copies: Sequence[Int64],
    kept: Sequence[int],
    fine: Fine,
    options: SearchOptions,
) -> dict[int, codes.Nearest]:
    """The shortlist of each of the `kept` queries, found without its copies; none where there is no
    fine stage."""
    if fine == "none":
        return {}
    plain = [i for i in kept if not len(copies[i])]
    some = replace(
        queries,
        codes=queries.codes[plain],
        features=queries.features[plain],
        logits=queries.logits[plain],
    )
    found = (
        dict(zip(plain, coarse(gallery.searched, some.codes, options, fine), strict=True))
        if plain
        else {}
    )
    for i in kept:
        if i not in found:
            allowed = gallery.searched.only(np.delete(gallery.ids, copies[i]))
            [found[i]] = coarse(gallery.searched, queries.codes[i : i + 1], options, fine, allowed)
    return found


def _by_class(gallery: Gallery, believed: int, label: int, own: Int64) -> Buckets:
    """The ranking by a code that only names the believed class: its items first, in any order, then
    all others."""
    same = gallery.table[believed]
    without = gallery.believed[own] == believed
    of_label = gallery.label_ids[own] == label
    first = [int(same.sum() - without.sum()), int(same[label] - (without & of_label).sum())]
    every = [len(gallery.ids) - len(own), int(gallery.table[:, label].sum() - of_label.sum())]
    return merged_buckets([0, 1], [first[0], every[0] - first[0]], [first[1], every[1] - first[1]])


def fine_buckets(
    fine: Fine,
    items: Int64,
    hits: Int64,
    distances: Int64,
    scores: NDArray[np.float32],
    right: NDArray[np.bool_],
) -> Buckets:
    """The ranking when a shortlist, of `distances`, `scores` and `right` [P], is ordered by a fine
    mode and the rest of the `items` and `hits` [b + 1] at each distance stays where it is."""
    place = fine_places(fine, distances, scores)
    bins = len(items)
    rest = items - np.bincount(distances, minlength=bins)
    rest_hits = hits - np.bincount(distances[right], minlength=bins)
    return merged_buckets(
        np.concatenate([place, np.arange(bins)]),
        np.concatenate([np.ones(len(place), np.int64), rest]),
        np.concatenate([right.astype(np.int64), rest_hits]),
    )
