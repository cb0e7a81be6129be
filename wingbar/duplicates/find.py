"""Find the copies in an index.

1. Items of equal content are one picture.
2. Codes: the nearest codes of every item, within a radius.
3. Features: of these the NEIGHBOURS with the greatest cosine, if it is great enough.
4. Pixels: each such pair is laid over each other (pixels.py).

The limits of the second and third step come from the index itself (index/chance.py). What is linked
is one group, of which the largest picture is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.duplicates.pixels import MOST_COLOUR, Overlap, Small, overlap
from wingbar.errors import ImageError, QueryError
from wingbar.hamming.codes import Codes, Ids, hamming, pack
from wingbar.index import chance
from wingbar.index.index import Index
from wingbar.index.store import NO_FILE, Item
from wingbar.model import itq
from wingbar.parallel import Progress, batched, cores, in_order, no_progress

How = Literal["same file", "same picture", "part", "through another", "by feature"]

LEAST_AGREEMENT = 0.93  # correlation of the details of a copy, see docs/duplicates.md
WHOLE = 0.93  # share of the area from which a copy is the same picture and no part
PAIRS = 200_000_000  # candidates by code that are compared by feature, in all
MOST_NEAR, FEWEST_NEAR = 1000, 50  # candidates by code for each item
NEIGHBOURS = 8  # candidates by feature for each item, whose pixels are compared
BLOCK = 2048  # items whose codes are searched for at a time
AT_ONCE = 8192  # pairs whose cosines are computed at a time
LARGEST_FLOAT32 = 2**28  # numbers of all features, up to which they are kept as float32 as well
COARSE = 50  # mean number of other items with the same code from which codes tell too little
IN_MEMORY = 1500  # small pictures that are kept, 270 kB each


@dataclass(frozen=True, kw_only=True)
class DuplicateOptions:
    """What counts as a copy.

    radius: largest distance of two codes in bits; None for what the index itself suggests.
    min_score: least cosine of two features; None for what the index itself suggests.
    exact: whether to look for items of equal content only.
    pixels: whether to compare the pixels of what is alike by code and feature; without, the least
        cosine is that of pictures that differ in nothing a feature sees.
    seed: of the sample that limits are taken from.
    """

    radius: int | None = None
    min_score: float | None = None
    exact: bool = False
    pixels: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.radius is not None and self.radius < 0:
            raise QueryError(f"radius must be at least 0, not {self.radius}")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise QueryError(f"min-score must be from -1 to 1, not {self.min_score}")


@dataclass(frozen=True)
class Copy:
    """A picture of a group, and how it is related to the one that is kept.

    id, path, label: of its item.
    bytes: size of its file; -1 if it has none.
    size: width and height of the upright picture; None if it cannot be read.
    how: "same file" (the same content), "same picture" (scaled or recompressed), "part" (one shows
        a part of the other), "through another" (linked by another picture of the group), "by
        feature" (the pixels were not compared); None for the one that is kept.
    distance: bits in which its code differs from that of the kept one.
    score: cosine of their features.
    agreement: correlation of their details, where pixels were compared.
    """

    id: int
    path: str
    label: str | None
    bytes: int
    size: tuple[int, int] | None
    how: How | None
    distance: int
    score: float
    agreement: float | None

    @property
    def relation(self) -> str:
        """`how`, as it is shown: what has no file is of the same content; "" for what is kept."""
        return "same content" if self.how == "same file" and self.bytes < 0 else self.how or ""


@dataclass(frozen=True)
class Duplicates:
    """The copies in an index.

    items: number of items that were compared.
    groups: pictures that are copies of each other, the one to keep first; the largest groups first.
    radius: largest distance of candidates in bits; None where only contents were compared.
    min_score: least cosine of candidates; None likewise.
    compared: number of pairs whose pixels were compared.
    unread: items whose pixels were wanted and could not be read; they are copies by feature alone.
    own_codes: whether codes were made of the features, because those of the index tell too little.
    seconds: time of each step.
    without_file: items that have no file, as vectors and arrays; their features decide, too.
    """

    items: int
    groups: Sequence[Sequence[Copy]]
    radius: int | None
    min_score: float | None
    compared: int
    unread: int
    own_codes: bool
    seconds: dict[str, float] = field(hash=False)
    without_file: int = 0

    @property
    def noun(self) -> str:
        """What is compared: "item" where none of them is a picture in a file."""
        return "item" if self.without_file == self.items else "picture"

    @property
    def to_drop(self) -> list[Copy]:
        """All but the one to keep of every group."""
        return [copy for group in self.groups for copy in group[1:]]


def find_duplicates(
    index: Index,
    options: DuplicateOptions | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Duplicates:
    """The groups of copies in an index.

    `threads` read and compare pixels (default: one per core). Raises QueryError for an index
    without images, and StoreError when it is damaged.
    """
    options = options or DuplicateOptions()
    search = _Search(index, options, threads or cores(), progress or no_progress)
    if not options.exact:
        search.compare_near()
    return search.result()


class _Search:
    """The state of one search for copies. An item is known by its row, the place of its id among
    all ids."""

    def __init__(
        self, index: Index, options: DuplicateOptions, threads: int, progress: Progress
    ) -> None:
        self.options, self.threads, self.progress = options, threads, progress
        self.seconds: dict[str, float] = {}
        start = time.perf_counter()
        with index.snapshot():
            if not len(index):
                raise QueryError(
                    f"{index.path} holds no images yet: add some with wingbar index {index.path} "
                    "IMAGES"
                )
            self.ids: Ids = index.ids()
            self.items = list(index.items())
            self.bits = index.model.bits
            self.packed = index.codes(self.ids)
            self.features = index.features()
        if options.radius is not None and options.radius > self.bits:
            raise QueryError(
                f"radius must be from 0 to {self.bits}, the bits of a code, not {options.radius}"
            )
        self.groups = _Groups(len(self.items))
        self.same: dict[bytes, int] = {}  # content -> its first row
        for row, item in enumerate(self.items):
            first = self.same.setdefault(item.content, row)
            self.groups.join(first, row)
        self.radius: int | None = None
        self.min_score: float | None = None
        self.compared = 0
        self.unread: set[int] = set()
        self.own_codes = False
        self.small = lru_cache(IN_MEMORY)(self._small)
        self.seconds["reading"] = time.perf_counter() - start

    def compare_near(self) -> None:
        """Link what is alike by code, feature and pixels."""
        start = time.perf_counter()
        codes = Codes(self.packed, self.bits, threads=self.threads)
        measured = chance.measure(codes, self._features_of, self.options.seed)
        if measured.same_code > COARSE and self.options.radius is None:
            self.own_codes = True
            codes = self._codes_of_features()
            measured = chance.measure(codes, self._features_of, self.options.seed)
        self.radius = measured.radius if self.options.radius is None else self.options.radius
        least = measured.min_score if self.options.pixels else measured.copy_score
        self.min_score = least if self.options.min_score is None else self.options.min_score
        pairs = self._candidates(codes, self.radius, self.min_score)
        self.seconds["codes and features"] = time.perf_counter() - start
        start = time.perf_counter()
        if self.options.pixels:
            self._compare_pixels(pairs, max(self.min_score, measured.copy_score))
        else:
            for one, other, _ in pairs.each():
                self.groups.join(one, other)
        self.seconds["pixels"] = time.perf_counter() - start

    def result(self) -> Duplicates:
        """What was found."""
        start = time.perf_counter()
        groups = [self._described(group) for group in self.groups.several()]
        groups.sort(key=lambda group: (-len(group), group[0].id))
        self.seconds["describing"] = time.perf_counter() - start
        return Duplicates(
            len(self.items),
            groups,
            self.radius,
            self.min_score,
            self.compared,
            len(self.unread),
            self.own_codes,
            self.seconds,
            sum(item.size == NO_FILE for item in self.items),
        )

    # -- candidates

    def _features_of(self, rows: Ids) -> NDArray[np.float16]:
        return self.features[rows]

    def _codes_of_features(self) -> Codes:
        """Codes that tell pictures apart, where those of the index only tell classes apart."""
        rng = np.random.default_rng(self.options.seed)
        rows = np.sort(rng.permutation(len(self.ids))[:4096])
        sample = self.features[rows].astype(np.float32)
        bits = min(64, sample.shape[1])
        rotation = itq.fit_codes(sample, bits, rng)
        packed = [
            pack(rotation.apply(self.features[begin : begin + 65_536].astype(np.float32))[0] >= 0)
            for begin in range(0, len(self.ids), 65_536)
        ]
        return Codes(np.concatenate(packed), bits, threads=self.threads)

    def _candidates(self, codes: Codes, radius: int, min_score: float) -> _Pairs:
        """Pairs of items that are alike by code and feature. Of items with equal content only the
        first is compared."""
        firsts = np.array(list(self.same.values()), np.int64)
        allowed = None if len(firsts) == len(self.ids) else codes.only(firsts)
        near = int(np.clip(PAIRS // len(firsts), FEWEST_NEAR, MOST_NEAR))
        fast = self.features
        if self.features.size <= LARGEST_FLOAT32:
            fast = self.features.astype(np.float32)  # once, and not for every pair
        found = []
        for begin in range(0, len(firsts), BLOCK):
            rows = firsts[begin : begin + BLOCK]
            answers = codes.nearest(codes.of(rows), near + 1, radius=radius, allowed=allowed)
            found.append(self._best(fast, rows, [answer.ids for answer in answers], min_score))
            self.progress("comparing codes", min(begin + BLOCK, len(firsts)), len(firsts))
        return _Pairs.once(found)

    def _best(
        self,
        features: NDArray[np.floating],
        rows: Ids,
        near: Sequence[Ids],
        min_score: float,
    ) -> _Pairs:
        """Of the items that are near by code to each of `rows`, the best by feature."""
        one = np.repeat(rows, [len(some) for some in near])
        other = np.concatenate(near)
        different = one != other
        one, other = one[different], other[different]
        parts = [slice(begin, begin + AT_ONCE) for begin in range(0, len(one), AT_ONCE)]
        scores = np.empty(len(one), np.float32)

        def score(part: slice) -> None:
            scores[part] = _cosines(features, one[part], other[part])

        for _ in in_order(parts, score, self.threads):
            pass
        good = scores >= min_score
        one, other, scores = one[good], other[good], scores[good]
        order = np.lexsort((other, -scores, one))
        one, other, scores = one[order], other[order], scores[order]
        place = np.arange(len(one)) - np.searchsorted(one, one)  # among those of its item
        best = place < NEIGHBOURS
        return _Pairs(np.minimum(one, other)[best], np.maximum(one, other)[best], scores[best])

    # -- pixels

    def _compare_pixels(self, pairs: _Pairs, copy_score: float) -> None:
        """Join the pairs whose pixels agree; where they cannot be read, the features decide."""
        for done, wave in enumerate(batched(pairs.each(), 256)):
            left = [pair for pair in wave if not self.groups.are_joined(*pair[:2])]
            for (one, other, score), found in zip(
                left, in_order(left, self._overlap, self.threads), strict=True
            ):
                if found is None:
                    if score >= copy_score:
                        self.groups.join(one, other)
                    continue
                self.compared += 1
                if is_copy(found):
                    self.groups.join(one, other)
            self.progress("comparing pixels", min((done + 1) * 256, len(pairs.low)), len(pairs.low))

    def _overlap(self, pair: tuple[int, int, float]) -> Overlap | None:
        """In a thread: how two pictures lie over each other; None where one cannot be read."""
        one, other = self.small(pair[0]), self.small(pair[1])
        return None if one is None or other is None else overlap(one, other)

    def _small(self, row: int) -> Small | None:
        item = self.items[row]
        if item.size == NO_FILE:
            return None
        try:
            return Small.of(item.path)
        except ImageError:
            self.unread.add(row)
            return None

    # -- groups

    def _described(self, rows: Sequence[int]) -> list[Copy]:
        """A group: the largest picture, and the others by their likeness to it."""
        sizes = {
            content: self._size_of(content) for content in {self.items[row].content for row in rows}
        }

        def order(row: int) -> tuple[int, int, int]:
            item = self.items[row]
            width, height = sizes[item.content] or (0, 0)
            return (-width * height, -item.size, row)

        kept, *others = sorted(rows, key=order)
        kept_first = np.array([kept, *others], np.int64)
        distances = hamming(self.packed[kept], self.packed[kept_first])
        scores = _cosines(self.features, np.full(len(rows), kept), kept_first)
        copies = []
        for place, row in enumerate(kept_first.tolist()):
            item = self.items[row]
            how, agreement = self._how(kept, row)
            copies.append(
                Copy(
                    int(self.ids[row]),
                    item.path,
                    item.label,
                    item.size,
                    sizes[item.content],
                    how,
                    int(distances[place]),
                    round(min(1.0, float(scores[place])), 4),
                    agreement,
                )
            )
        return copies

    def _size_of(self, content: bytes) -> tuple[int, int] | None:
        item: Item = self.items[self.same[content]]
        try:
            return None if item.size == NO_FILE else images.size_of(item.path)
        except ImageError:
            return None

    def _how(self, kept: int, row: int) -> tuple[How | None, float | None]:
        """How an item is related to the one that is kept, and the agreement of their pixels."""
        if row == kept:
            return None, None
        if self.items[row].content == self.items[kept].content:
            return "same file", None
        if not self.options.pixels:
            return "by feature", None
        firsts = [self.same[self.items[one].content] for one in (kept, row)]
        found = self._overlap((firsts[0], firsts[1], 0.0))
        if found is None:
            return "by feature", None
        agreement = round(found.agreement, 4)
        if not is_copy(found):
            return "through another", agreement
        return ("same picture" if found.share >= WHOLE else "part"), agreement


def is_copy(found: Overlap) -> bool:
    """Whether two pictures that lie over each other like this are copies."""
    return found.agreement >= LEAST_AGREEMENT and found.colour <= MOST_COLOUR


class _Pairs(NamedTuple):
    """Pairs of items, each as rows `low` [n] < `high` [n], and their cosines `scores` [n]."""

    low: Ids
    high: Ids
    scores: NDArray[np.float32]

    @classmethod
    def once(cls, parts: Sequence[_Pairs]) -> _Pairs:
        """Each pair once, by ascending rows."""
        low, high, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((high, low))
        low, high, scores = low[order], high[order], scores[order]
        new = np.ones(len(low), bool)
        new[1:] = (np.diff(low) != 0) | (np.diff(high) != 0)
        return cls(low[new], high[new], scores[new])

    def each(self) -> Iterator[tuple[int, int, float]]:
        """The pairs one by one."""
        return zip(self.low.tolist(), self.high.tolist(), self.scores.tolist(), strict=True)


def _cosines(features: NDArray[np.floating], one: Ids, other: Ids) -> NDArray[np.float32]:
    """Cosines [n] of pairs of rows of unit features [N, d]."""
    a, b = (features[rows].astype(np.float32, copy=False) for rows in (one, other))
    return np.einsum("ij,ij->i", a, b)


class _Groups:
    """Which items are linked (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def _root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        a, b = self._root(one), self._root(other)
        self._parent[max(a, b)] = min(a, b)

    def are_joined(self, one: int, other: int) -> bool:
        return self._root(one) == self._root(other)

    def several(self) -> list[list[int]]:
        """The groups of more than one item, rows ascending."""
        groups: dict[int, list[int]] = {}
        for row in range(len(self._parent)):
            groups.setdefault(self._root(row), []).append(row)
        return [rows for rows in groups.values() if len(rows) > 1]
