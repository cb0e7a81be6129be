"""How a search ranks: its options, the two stages, the fine modes, and the hits.

Shapes: N gallery items, P of them in the shortlist, Q queries, w words per code, d dim.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError
from wingbar.hamming.codes import (
    Codes,
    Distances,
    Filter,
    Ids,
    Nearest,
    Packed,
    agreement,
    hamming,
)
from wingbar.images import Box
from wingbar.index.filters import parse_where
from wingbar.model.model import Embeddings
from wingbar.model.random_pairs import FEWEST, RandomPairs

Fine = Literal["none", "ties", "pool", "asymmetric"]
FINE: tuple[Fine, ...] = ("none", "ties", "pool", "asymmetric")
SHORTLIST = 200
LONGEST_EXPAND = 200  # neighbours that a query is averaged with
CUT = 0.01  # of SearchOptions.cut, where one is asked for without a number
TIE_CAP = 10  # ties extend a shortlist to at most this many times its requested length


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search an index. The options check themselves: QueryError names the one bad value.

    k: number of hits, at least 1.
    radius: largest Hamming distance of a hit in bits, inclusive; None for any.
    fine: fine stage, one of FINE; None for the model's own.
    shortlist: number of nearest codes that the fine stage looks at, at least 1.
    where: filters, as "label=monarch", "path=blue/*" or "price<20"; all must hold, except that
        several on one field with = are alternatives.
    box: part of the query picture to look at: x, y, width, height in pixels of the upright picture.
    distinct: whether copies of a hit are folded into it: items of the same content, or so alike by
        code and feature that chance does not explain it (chance.py).
    expand: number of neighbours that a query is averaged with, from 0 for none to LONGEST_EXPAND;
        None for the index's own choice.
    cut: largest `Hit.p_chance`, in (0, 1]: the list ends where hits are more like chance; None for
        no such end.
    encoder: name of the one of two encoders that answers; None for the first.
    """

    k: int = 10
    radius: int | None = None
    fine: Fine | None = None
    shortlist: int = SHORTLIST
    where: Sequence[str] = ()
    box: Box | None = None
    distinct: bool = False
    expand: int | None = None
    cut: float | None = None
    encoder: str | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise QueryError(f"k must be at least 1, not {self.k}")
        if self.shortlist < 1:
            raise QueryError(f"shortlist must be at least 1, not {self.shortlist}")
        if self.radius is not None and self.radius < 0:
            raise QueryError(f"radius must be at least 0, not {self.radius}")
        if self.fine is not None and self.fine not in FINE:
            raise QueryError(f"fine must be one of {', '.join(FINE)}, not {self.fine!r}")
        if self.expand is not None and not 0 <= self.expand <= LONGEST_EXPAND:
            raise QueryError(f"expand must be from 0 to {LONGEST_EXPAND}, not {self.expand}")
        if self.cut is not None and not 0 < self.cut <= 1:
            raise QueryError(f"cut must be above 0 and at most 1, not {self.cut:g}")
        where = (self.where,) if isinstance(self.where, str) else tuple(self.where)
        object.__setattr__(self, "where", where)
        parse_where(where)


@dataclass(frozen=True)
class Hit:
    """One search result. It can be a member of a set or a key.

    rank: place among the hits, from 1.
    id: number of the item in its index.
    path: absolute path of its file, or "array:…" for a picture that is no file.
    label: its class, if any.
    distance: number of bits in which its code differs from the query's.
    score: what the fine stage ranked by, in [-1, 1]: the cosine of the features, or for
        "asymmetric" the agreement of logits and bits; None without a fine stage.
    columns: further columns of its row in a CSV file.
    p_chance: share of random pairs of items of the index that are at least as near, in (0, 1], by
        score where the fine stage ranked by it alone, else by distance; None for an index of fewer
        than 20 items. Of a picture of something else than the index holds, no more hits are that
        near, so it bounds the share of false ones.
    """

    rank: int
    id: int
    path: str
    label: str | None
    distance: int
    score: float | None
    columns: Mapping[str, str] = field(hash=False)
    p_chance: float | None = None


class FailedShard(NamedTuple):
    """A shard that did not answer.

    name: its file or its URL, without the password.
    reason: why, in one sentence.
    """

    name: str
    reason: str


class Hits(list[Hit]):
    """The hits of one query, best first, and how they were found.

    shortlist: number of items that the fine stage looked at.
    cut: whether items that tied with the last of them were left out.
    milliseconds: time of each stage: decode, encode, coarse, fine, fetch.
    failed: the shards that did not answer, so that hits of theirs are missing; always empty for
        one index.
    copies: of a search for distinct hits: the ids of the items that were folded into each hit, by
        its id; best first.
    """

    def __init__(
        self,
        hits: Iterable[Hit],
        shortlist: int,
        cut: bool,
        milliseconds: Mapping[str, float],
        failed: Sequence[FailedShard] = (),
        copies: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(hits)
        self.failed = tuple(failed)
        self.copies = copies or {}
        self.shortlist = shortlist
        self.cut = cut
        self.milliseconds = milliseconds


class Ranked(NamedTuple):
    """The order of one query: ids [n], distances [n] and, with a fine stage, the scores [n] that
    it ranked by; `shortlist` and `cut` as in Hits; `p_chance` [n] as in Hit where it is known."""

    ids: Ids
    distances: Distances
    scores: NDArray[np.float32] | None
    shortlist: int
    cut: bool
    p_chance: NDArray[np.float64] | None = None

    def p_chances(self) -> list[float | None]:
        """`p_chance` as a list of n, each None where it is not known."""
        return [None] * len(self.ids) if self.p_chance is None else list(self.p_chance.tolist())


def coarse(
    searchable: Codes,
    queries: Packed,
    options: SearchOptions,
    fine: Fine,
    allowed: Filter | None = None,
) -> list[Nearest]:
    """The first stage of queries [Q, w]: the k nearest codes of each, or for a fine stage its
    shortlist together with what ties with the last of it."""
    if fine == "none":
        return searchable.nearest(queries, options.k, radius=options.radius, allowed=allowed)
    want = max(options.k, options.shortlist)
    return searchable.nearest(
        queries, want, radius=options.radius, allowed=allowed, ties="include", limit=TIE_CAP * want
    )


class Features(Protocol):
    """Where features are read from."""

    def features(self, ids: Sequence[int], dim: int) -> NDArray[np.float16]:
        """Features [N, d] of the items `ids`, in their order."""


def stage_scores(
    store: Features, searchable: Codes, query: Embeddings, near: Nearest, fine: Fine
) -> NDArray[np.float32] | None:
    """What a fine mode orders the shortlist of one query by: [P] in [-1, 1]; None for "none"."""
    if fine == "none":
        return None
    if fine == "asymmetric":
        return agreement(query.logits[0], searchable.of(near.ids), query.bits)
    features = store.features(near.ids.tolist(), query.features.shape[1])
    return features.astype(np.float32) @ query.features[0]


def rank(
    near: Nearest, fine: Fine, scores: NDArray[np.float32] | None, k: int | None = None
) -> Ranked:
    """The fine stage of one query: the first `k` (None: all) of its shortlist in the order of a
    fine mode. `scores` [P] in [-1, 1] are what the mode orders by, None for "none"."""
    if scores is None:
        return Ranked(near.ids[:k], near.distances[:k], None, 0, False)
    order = np.lexsort((near.ids, fine_places(fine, near.distances, scores)))[:k]
    return Ranked(near.ids[order], near.distances[order], scores[order], len(near.ids), near.cut)


def fine_places(
    fine: Fine, distances: Distances, scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The fine modes, defined: the places [P] of a shortlist, where smaller comes first, equal is
    tied, and an item outside the shortlist has its Hamming distance as its place.

    distances [P] in bits; scores [P] in [-1, 1]. "none" keeps the order of the distances. "ties"
    orders items of equal distance only: a score moves a place by at most half a bit. "pool" and
    "asymmetric" order by score alone, in front of everything outside the shortlist.
    """
    if fine == "none":
        return distances.astype(np.float64)
    exact = scores.astype(np.float64)
    return distances - 0.25 - exact / 4 if fine == "ties" else -3.0 - exact


def with_chances(
    ranked: Ranked,
    random_pairs: RandomPairs | None,
    fine: Fine,
    logits: NDArray[np.floating],
    cut: float | None,
) -> Ranked:
    """What was ranked for a query with these logits [b], with the `p_chance` of each, which does
    not fall in their order, up to those where it exceeds `cut`. Nothing changes where it is not
    known how near random pairs are; then QueryError for a `cut`."""
    if random_pairs is None:
        if cut is not None:
            raise QueryError(
                f"what is as near as random pairs is told from {FEWEST} items on, and these are "
                "fewer: leave cut out"
            )
        return ranked
    if fine == "pool" and ranked.scores is not None:
        p_chance = random_pairs.of_cosines(ranked.scores)
    elif fine == "asymmetric" and ranked.scores is not None:
        p_chance = random_pairs.of_agreements(ranked.scores, logits)
    else:
        p_chance = random_pairs.of_distances(ranked.distances)
    kept = slice(None) if cut is None else slice(int((p_chance <= cut).sum()))
    return ranked._replace(
        ids=ranked.ids[kept],
        distances=ranked.distances[kept],
        scores=None if ranked.scores is None else ranked.scores[kept],
        p_chance=p_chance[kept],
    )


def folded(
    ranked: Ranked,
    k: int,
    contents: Sequence[bytes],
    packed: Packed,
    features: NDArray[np.float32],
    radius: int,
    copy_score: float,
) -> tuple[Ranked, dict[int, list[int]], bool]:
    """The first `k` distinct of ranked items [n], and the ids of the copies of each by its id.

    A copy of an item before it has the same content, or a code [n, w] at most `radius` bits away
    and a feature [n, d] of at least the cosine `copy_score`. Also tells whether there were k.
    """
    kept: list[int] = []
    copies: dict[int, list[int]] = {}
    for place, content in enumerate(contents):
        of = _first_alike(place, content, kept, contents, packed, features, radius, copy_score)
        if of is not None:
            copies.setdefault(int(ranked.ids[of]), []).append(int(ranked.ids[place]))
        elif len(kept) < k:
            kept.append(place)
        else:
            break
    rows = np.array(kept, np.int64)
    scores = None if ranked.scores is None else ranked.scores[rows]
    first = Ranked(ranked.ids[rows], ranked.distances[rows], scores, ranked.shortlist, ranked.cut)
    return first, copies, len(kept) >= k


def _first_alike(
    place: int,
    content: bytes,
    kept: Sequence[int],
    contents: Sequence[bytes],
    packed: Packed,
    features: NDArray[np.float32],
    radius: int,
    copy_score: float,
) -> int | None:
    """The place of the first kept item that the one at `place` is a copy of."""
    if not kept:
        return None
    alike = (hamming(packed[place], packed[kept]) <= radius) & (
        features[kept] @ features[place] >= copy_score
    )
    for i, other in enumerate(kept):
        if alike[i] or contents[other] == content:
            return other
    return None


class Clock:
    """Milliseconds of the stages of a search."""

    def __init__(self, times: Mapping[str, float]) -> None:
        self.milliseconds = {**times, "fine": 0.0, "fetch": 0.0}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap, or since the start, for `stage`."""
        now = time.perf_counter()
        self.milliseconds[stage] += (now - self._last) * 1000
        self._last = now
