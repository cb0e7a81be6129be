"""Score labelled queries against the gallery of an index, through the index's own search.

N gallery items, Q queries, P items of a shortlist, b bits, w words per code, d dim, y labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data.records import Entry, labels_of
from wingbar.errors import DataError, ImageError
from wingbar.evaluation.metrics import Bool, Buckets, Int64, merge_buckets, to_buckets
from wingbar.hamming import codes
from wingbar.images import Box, Failure
from wingbar.index.index import Index
from wingbar.index.ranking import Fine, SearchOptions, coarse, fine_places, rank
from wingbar.model.itq import unit
from wingbar.model.model import NOT_FINITE, Embeddings
from wingbar.parallel import Progress, batched, cores, in_order

GalleryCodes = Literal["network", "labels"]
"""Where the gallery's codes come from: the network, or the labels. The code of a label has the bits
that most of its items have. Much of the literature derives codes from labels, which no system that
searches new pictures can do."""

CUT = 1000  # of MAP@1000, as DLBHC has it
RADIUS = 2  # bits
_BLOCK_QUERIES = 64  # queries that are scored together
_BLOCK_ITEMS = 65_536  # gallery features that are float32 at a time


# -- the gallery


@dataclass(frozen=True)
class Gallery:
    """What scoring reads of an index, items by ascending id.

    ids: [N].
    searchable: the codes that are searched.
    network_codes: codes by the network, [N, w].
    searched_codes: codes that are searched, [N, w]: the network's or, for GalleryCodes "labels",
        those of the labels.
    label_names: distinct labels, sorted, [y]; where items have several, distinct combinations.
    multi_label: whether they can have several.
    label_ids: place of each item's label in `label_names`, [N]; -1 without a label.
    rows_by_label: rows sorted by label id, [N].
    label_starts: where each label starts in `rows_by_label`, [y + 1].
    sorted_contents: sha256 of the items' files, sorted, [N].
    rows_by_content: the row of each of these, [N].
    features: [N, d] float16; None unless all features are compared.
    class_means: unit mean feature of each label, [y, d] float32.
    predicted_classes: the label whose mean is nearest to each item, [N].
    confusion: number of items by predicted class and by label, [y, y + 1]; the last column counts
        those without a label.
    """

    ids: Int64
    searchable: codes.Codes
    network_codes: codes.Packed
    searched_codes: codes.Packed
    label_names: list[str]
    multi_label: bool
    label_ids: Int64
    rows_by_label: Int64
    label_starts: Int64
    sorted_contents: NDArray[np.bytes_]
    rows_by_content: Int64
    features: NDArray[np.float16] | None
    class_means: NDArray[np.float32]
    predicted_classes: Int64
    confusion: Int64

    @cached_property
    def label_places(self) -> dict[str, int]:
        """The place of each label in `label_names`."""
        return {name: i for i, name in enumerate(self.label_names)}

    def matches(self, label: str) -> Bool:
        """Which labels match that of a query, [y + 1]: the same or, of several, those that share
        one with it. The last, which -1 selects, stands for items without a label and is False."""
        found = np.zeros(len(self.label_names) + 1, bool)
        if self.multi_label:
            own = labels_of(label)
            found[:-1] = [not own.isdisjoint(labels_of(name)) for name in self.label_names]
        elif label in self.label_places:
            found[self.label_places[label]] = True
        return found

    def of_labels(self, matches: Bool) -> Int64:
        """The rows of the items whose labels match, by `matches` [y + 1], ascending."""
        parts = [
            self.rows_by_label[self.label_starts[i] : self.label_starts[i + 1]]
            for i in np.flatnonzero(matches)
        ]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def of_content(self, content: bytes) -> Int64:
        """The rows of the items whose files have this sha256, ascending."""
        first, last = (
            np.searchsorted(self.sorted_contents, np.bytes_(content), side)
            for side in ("left", "right")
        )
        return np.sort(self.rows_by_content[first:last])


def read_gallery(
    index: Index, gallery_codes: GalleryCodes, exhaustive: bool, multi_label: bool = False
) -> Gallery:
    """Read what scoring needs of `index`; with `exhaustive` also all features, 2 d bytes per item;
    with `multi_label`, an item's label can be several.

    Raises DataError where no item has a label, or for unknown `gallery_codes`.
    """
    labels = index.labels()
    if all(label is None for label in labels):
        raise DataError(
            f"no item of {index.path} has a label: index class folders, or a CSV with a label "
            "column"
        )
    label_names = sorted({label for label in labels if label is not None})
    id_of = {label: i for i, label in enumerate(label_names)}
    label_ids = np.array([-1 if label is None else id_of[label] for label in labels], np.int64)
    rows_by_label = np.argsort(label_ids, kind="stable")
    contents = np.array(index.contents(), "S32")
    rows_by_content = np.argsort(contents, kind="stable")
    searchable = index.searchable()
    network_codes = searched_codes = searchable.of(searchable.ids)
    if gallery_codes == "labels":
        searched_codes = _codes_of_labels(network_codes, label_ids, index.model.bits)
        searchable = codes.Codes(searched_codes, index.model.bits, searchable.ids)
    elif gallery_codes != "network":
        raise DataError(f"gallery codes are network or labels, not {gallery_codes!r}")
    class_means = _class_means(index, label_ids, len(label_names))
    predicted_classes = np.concatenate(
        [_nearest_mean(block.astype(np.float32), class_means) for block in index.feature_blocks()]
    )
    confusion = np.zeros((len(label_names), len(label_names) + 1), np.int64)
    np.add.at(confusion, (predicted_classes, label_ids), 1)  # without a label: -1, the last column
    return Gallery(
        ids=searchable.ids,
        searchable=searchable,
        network_codes=network_codes,
        searched_codes=searched_codes,
        label_names=label_names,
        multi_label=multi_label,
        label_ids=label_ids,
        rows_by_label=rows_by_label,
        label_starts=np.searchsorted(label_ids[rows_by_label], np.arange(len(label_names) + 1)),
        sorted_contents=contents[rows_by_content],
        rows_by_content=rows_by_content,
        features=np.concatenate(list(index.feature_blocks())) if exhaustive else None,
        class_means=class_means,
        predicted_classes=predicted_classes,
        confusion=confusion,
    )


def _codes_of_labels(network_codes: codes.Packed, label_ids: Int64, bits: int) -> codes.Packed:
    """The code of each item's label [N, w]: the bits that most items of the label have, 1 where
    half of them do. Items without a label keep their own code."""
    labelled = label_ids >= 0
    counts = np.bincount(label_ids[labelled])
    ones = np.zeros((len(counts), bits))
    for bit in range(bits):
        column = (network_codes[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
        ones[:, bit] = np.bincount(label_ids[labelled], column[labelled], len(counts))
    of_label = codes.pack(2 * ones >= counts[:, None])
    return np.where(labelled[:, None], of_label[label_ids], network_codes)


def _class_means(index: Index, label_ids: Int64, labels: int) -> NDArray[np.float32]:
    """Unit mean features of the labels [y, d]."""
    sums = np.zeros((labels, index.model.dim), np.float64)
    start = 0
    for block in index.feature_blocks():
        block_labels = label_ids[start : start + len(block)]
        used = block_labels >= 0
        np.add.at(sums, block_labels[used], block[used].astype(np.float64))
        start += len(block)
    return unit(sums.astype(np.float32))


def _nearest_mean(features: NDArray[np.float32], class_means: NDArray[np.float32]) -> Int64:
    """The label whose mean has the highest cosine with each of the features [n, d]: [n]."""
    return np.asarray((features @ class_means.T).argmax(1), np.int64)


# -- the queries


class LabelledQuery(NamedTuple):
    """A query and its label."""

    entry: Entry
    label: str


class Block(NamedTuple):
    """Queries that could be read.

    queries: [Q].
    embeddings: what the model made of them, [Q].
    contents: sha256 of their files, [Q].
    """

    queries: list[LabelledQuery]
    embeddings: Embeddings
    contents: list[bytes]


class _Read(NamedTuple):
    """A query whose file was read; `pixels` is the error where that failed."""

    query: LabelledQuery
    content: bytes
    pixels: images.Pixels | ImageError


def encoded_blocks(
    index: Index,
    queries: Sequence[LabelledQuery],
    failed: list[Failure],
    progress: Progress | None,
) -> Iterator[Block]:
    """Read and encode queries in blocks; those that cannot be used are appended to `failed`."""

    def read(query: LabelledQuery) -> _Read:
        try:
            data = images.read(query.entry.path)
            box = query.entry.box
            source = data if box is None else images.Part(data, box)
            pixels = images.load(source, index.model.preprocessing)
        except ImageError as error:
            return _Read(query, b"", error)
        return _Read(query, hashlib.sha256(data).digest(), pixels)

    done = 0
    for batch in batched(in_order(queries, read, cores()), _BLOCK_QUERIES):
        block = _encoded(index, batch, failed)
        if block.queries:
            yield block
        done += len(batch)
        if progress:
            progress("evaluating", done, len(queries))


def _encoded(index: Index, batch: Sequence[_Read], failed: list[Failure]) -> Block:
    readable: list[_Read] = []
    pixels: list[images.Pixels] = []
    for one in batch:
        if isinstance(one.pixels, ImageError):
            failed.append(Failure(str(one.query.entry.path), str(one.pixels)))
        else:
            readable.append(one)
            pixels.append(one.pixels)
    embeddings = index.model.encode_pixels(pixels)
    outputs = np.hstack([embeddings.features, embeddings.logits])
    kept = np.flatnonzero(np.isfinite(outputs).all(1)).tolist()
    failed += [
        Failure(str(one.query.entry.path), NOT_FINITE)
        for i, one in enumerate(readable)
        if i not in kept
    ]
    finite = replace(
        embeddings,
        codes=embeddings.codes[kept],
        features=embeddings.features[kept],
        logits=embeddings.logits[kept],
    )
    return Block([readable[i].query for i in kept], finite, [readable[i].content for i in kept])


def expanded_block(index: Index, block: Block, options: SearchOptions) -> Block:
    """The block with its queries averaged with their neighbours, where the options or the index
    say so."""
    queries = index.expanded(list(block.embeddings), options)
    codes_, features, logits = (
        np.concatenate([getattr(query, name) for query in queries])
        for name in ("codes", "features", "logits")
    )
    found = replace(block.embeddings, codes=codes_, features=features, logits=logits)
    return block._replace(embeddings=found)


# -- scores


class QueryScore(NamedTuple):
    """The metrics of one query; those without a comment are in [0, 1]."""

    path: str
    label: str
    items_at: Int64  # gallery items at each Hamming distance, [b + 1]
    relevant_at: Int64  # relevant ones among them, [b + 1]
    by_code: Buckets  # the ranking by Hamming distance
    ap: float
    ap_low: float
    ap_high: float
    ap_at_1000: float
    ap_at_r: float
    precision_radius_2: float
    empty_radius_2: float  # 1 where no item is at most 2 bits away, else 0
    argmax_ap: float
    predicted: str  # the label with the nearest mean feature
    argmax_correct: float  # 1 where the predicted class is the query's label, else 0
    feature_ap: float  # 0 without exhaustive features
    feature_top1: float  # as feature_ap
    rerank_ap: float
    features_read: float
    has_copies: bool  # whether the query's file is in the gallery
    box: Box | None  # the part of the file that is the query


class _Matched(NamedTuple):
    """One query with relevant items. `copies` and `relevant` are rows of the gallery; relevant ones
    have a label that matches the query's and are not copies of it. `matches` is as in
    Gallery.matches."""

    path: str
    label: str
    box: Box | None
    matches: Bool
    embedding: Embeddings
    copies: Int64
    relevant: Int64
    items_at: Int64
    relevant_at: Int64


def score_block(
    index: Index, gallery: Gallery, block: Block, options: SearchOptions
) -> tuple[list[QueryScore], list[LabelledQuery]]:
    """The scores of the queries that have a match in the gallery, and the queries that have none.

    Copies of a query (the same file content) are left out of its ranking.
    """
    fine = index.fine_of(options)
    matched, unmatched = _match(gallery, block)
    if not matched:
        return [], unmatched
    shortlists = _shortlists(gallery, matched, fine, options)
    features = np.concatenate([query.embedding.features for query in matched])
    predicted = _nearest_mean(features, gallery.class_means)
    cosines = None if gallery.features is None else _cosines(features, gallery.features)
    scores = []
    for i, query in enumerate(matched):
        by_code = merge_buckets(np.arange(len(query.items_at)), query.items_at, query.relevant_at)
        reranked, read = by_code, 0.0
        if fine != "none":
            reranked, read = _reranked(index, gallery, query, shortlists[i], fine)
        rankings = _Rankings(
            by_code,
            _by_predicted_class(gallery, query, int(predicted[i])),
            None if cosines is None else _by_feature(gallery, query, cosines[i]),
            reranked,
        )
        is_correct = bool(query.matches[predicted[i]])
        name = gallery.label_names[predicted[i]]
        scores.append(_scored(query, rankings, name, is_correct, read))
    return scores, unmatched


class _Rankings(NamedTuple):
    """The rankings of one query; `by_feature` is None without exhaustive features."""

    by_code: Buckets
    by_class: Buckets
    by_feature: Buckets | None
    reranked: Buckets


def _scored(
    query: _Matched, rankings: _Rankings, predicted: str, is_correct: bool, features_read: float
) -> QueryScore:
    by_code, by_class, by_feature, reranked = rankings
    near = int(query.items_at[: RADIUS + 1].sum())
    near_relevant = int(query.relevant_at[: RADIUS + 1].sum())
    feature_ap = feature_top1 = 0.0
    if by_feature is not None:
        feature_ap = by_feature.expected_ap()
        feature_top1 = float(by_feature.hits[0] / by_feature.size[0])
    return QueryScore(
        path=query.path,
        label=query.label,
        items_at=query.items_at,
        relevant_at=query.relevant_at,
        by_code=by_code,
        ap=by_code.expected_ap(),
        ap_low=by_code.lowest_ap(),
        ap_high=by_code.highest_ap(),
        ap_at_1000=by_code.expected_ap_at(CUT),
        ap_at_r=by_code.expected_ap_at_r(),
        precision_radius_2=near_relevant / near if near else 0.0,
        empty_radius_2=float(not near),
        argmax_ap=by_class.expected_ap(),
        predicted=predicted,
        argmax_correct=float(is_correct),
        feature_ap=feature_ap,
        feature_top1=feature_top1,
        rerank_ap=reranked.expected_ap(),
        features_read=features_read,
        has_copies=bool(len(query.copies)),
        box=query.box,
    )


def _match(gallery: Gallery, block: Block) -> tuple[list[_Matched], list[LabelledQuery]]:
    """Split the queries of a block into those with relevant items in the gallery and the others."""
    matches_of = {label: gallery.matches(label) for label in {q.label for q in block.queries}}
    all_items_at = gallery.searchable.counts(block.embeddings.codes)
    matched: list[_Matched] = []
    unmatched: list[LabelledQuery] = []
    for i, query in enumerate(block.queries):
        embedding = block.embeddings[i]
        matches = matches_of[query.label]
        copies = gallery.of_content(block.contents[i])
        relevant = np.setdiff1d(gallery.of_labels(matches), copies, assume_unique=True)
        if not len(relevant):
            unmatched.append(query)
            continue
        copies_at, relevant_at = (
            np.bincount(
                codes.hamming(embedding.codes[0], gallery.searched_codes[rows]),
                minlength=all_items_at.shape[1],
            )
            for rows in (copies, relevant)
        )
        items_at = all_items_at[i] - copies_at
        matched.append(
            _Matched(
                str(query.entry.path),
                query.label,
                query.entry.box,
                matches,
                embedding,
                copies,
                relevant,
                items_at,
                relevant_at,
            )
        )
    return matched, unmatched


def _shortlists(
    gallery: Gallery, queries: Sequence[_Matched], fine: Fine, options: SearchOptions
) -> dict[int, codes.Nearest]:
    """The shortlist of each query without its copies, by the query's place; empty for "none"."""
    if fine == "none":
        return {}
    found: dict[int, codes.Nearest] = {}
    plain = [i for i, query in enumerate(queries) if not len(query.copies)]
    if plain:  # in one call
        packed = np.concatenate([queries[i].embedding.codes for i in plain])
        found.update(zip(plain, coarse(gallery.searchable, packed, options, fine), strict=True))
    for i, query in enumerate(queries):
        if len(query.copies):
            allowed = gallery.searchable.only(np.delete(gallery.ids, query.copies))
            [found[i]] = coarse(gallery.searchable, query.embedding.codes, options, fine, allowed)
    return found


def _cosines(queries: NDArray[np.float32], features: NDArray[np.float16]) -> NDArray[np.float32]:
    """Cosines [Q, N] of unit features; -2, below all others, for an item whose feature is not
    finite."""
    blocks = [
        queries @ features[i : i + _BLOCK_ITEMS].astype(np.float32).T
        for i in range(0, len(features), _BLOCK_ITEMS)
    ]
    return np.nan_to_num(np.concatenate(blocks, axis=1), nan=-2.0, posinf=-2.0, neginf=-2.0)


def _by_feature(gallery: Gallery, query: _Matched, cosines: NDArray[np.float32]) -> Buckets:
    """The ranking of the whole gallery by cosines [N]."""
    is_relevant = query.matches[gallery.label_ids]
    return to_buckets(np.delete(-cosines, query.copies), np.delete(is_relevant, query.copies))


def _by_predicted_class(gallery: Gallery, query: _Matched, predicted_class: int) -> Buckets:
    """The ranking by a code that only names the predicted class: items predicted to be of the
    query's predicted class are at distance 0, all others at 1."""
    copies_in_class = gallery.predicted_classes[query.copies] == predicted_class
    copies_of_label = query.matches[gallery.label_ids[query.copies]]
    in_class = int(gallery.confusion[predicted_class].sum() - copies_in_class.sum())
    hits_in_class = int(
        gallery.confusion[predicted_class, query.matches].sum()
        - (copies_in_class & copies_of_label).sum()
    )
    others = len(gallery.ids) - len(query.copies) - in_class
    other_hits = len(query.relevant) - hits_in_class
    return merge_buckets([0, 1], [in_class, others], [hits_in_class, other_hits])


def _reranked(
    index: Index, gallery: Gallery, query: _Matched, shortlist: codes.Nearest, fine: Fine
) -> tuple[Buckets, float]:
    """The ranking with the shortlist in the order of a fine mode, and the share of the gallery's
    features that this reads."""
    scores = index.scores(gallery.searchable, query.embedding, shortlist, fine)
    ranked = rank(shortlist, fine, scores)
    assert ranked.scores is not None
    rows = np.searchsorted(gallery.ids, ranked.ids)
    is_relevant = query.matches[gallery.label_ids[rows]]
    buckets = fine_buckets(
        fine, query.items_at, query.relevant_at, ranked.distances, ranked.scores, is_relevant
    )
    return buckets, 0.0 if fine == "asymmetric" else len(rows) / len(gallery.ids)


def fine_buckets(
    fine: Fine,
    items_at: Int64,
    relevant_at: Int64,
    distances: Int64,
    scores: NDArray[np.float32],
    is_relevant: Bool,
) -> Buckets:
    """The ranking of a gallery whose shortlist is ordered by a fine mode, the rest by Hamming
    distance.

    items_at, relevant_at: items and relevant items of the whole gallery at each Hamming distance,
    [b + 1]. distances, scores, is_relevant: the shortlist's, [P].
    """
    places = fine_places(fine, distances, scores)
    bins = len(items_at)
    rest = items_at - np.bincount(distances, minlength=bins)
    rest_relevant = relevant_at - np.bincount(distances[is_relevant], minlength=bins)
    return merge_buckets(
        np.concatenate([places, np.arange(bins)]),
        np.concatenate([np.ones(len(places), np.int64), rest]),
        np.concatenate([is_relevant.astype(np.int64), rest_relevant]),
    )
