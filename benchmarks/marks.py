"""How much do marks help? MAP of the results after 0, 1, 3 and 5 of them were marked.

    python benchmarks/marks.py photos.wb photos/val

Each picture of the folder (class folders) is searched in the index. A person is imagined who looks
at the results from the top and marks the first 1, 3 or 5 as right (same class) or wrong. Then the
search is repeated with the marks (`wingbar.index.feedback`). What was marked is taken out of every
ranking, also of the one without marks it is compared with, so that a mark gains nothing by itself:
the lines of one number of marks are about the same pictures. Items outside the shortlist keep the
place of their code. `--beta` and `--gamma` are the weights of right and of wrong pictures; choose
them on other pictures than those of the report. With `--from-index COUNT` that many items of the
index are the queries, each without itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wingbar.data.readers import read_images
from wingbar.evaluation.metrics import expected_ap, expected_precision_at
from wingbar.hamming.codes import hamming
from wingbar.index.feedback import BETA, GAMMA, moved
from wingbar.index.index import Index
from wingbar.index.ranking import SHORTLIST, SearchOptions, fine_places
from wingbar.model.model import Embeddings

PAGE = 24  # results whose precision is reported
MARKS = (1, 3, 5)


def places(index: Index, query: Embeddings, shortlist: int) -> NDArray[np.float64]:
    """The place [N] of every item, smaller is earlier; see `fine_places`."""
    searchable = index.searchable()
    fine, [found] = index.shortlists([query], SearchOptions(k=1, shortlist=shortlist))
    out = hamming(query.codes[0], searchable.of(searchable.ids)).astype(np.float64)
    if found.scores is not None:
        rows = np.searchsorted(searchable.ids, found.near.ids)
        out[rows] = fine_places(fine, found.near.distances, found.scores)
    return out


def queries_of(
    index: Index, folder: Path | None, count: int, seed: int
) -> Iterator[tuple[Embeddings, str, int | None]]:
    """The embedding of each query, its class, and its row if it is an item of the index."""
    if folder is None:
        ids, labels = index.searchable().ids, index.labels()
        for row in np.random.default_rng(seed).permutation(len(ids))[:count].tolist():
            yield index.embedding(int(ids[row])), str(labels[row]), row
        return
    entries = read_images(folder).entries
    for start in range(0, len(entries), 64):
        some = entries[start : start + 64]
        for entry, one in zip(some, index.model.encode([e.path for e in some]), strict=True):
            yield one, str(entry.label), None


def measure(
    index: Index,
    found: Sequence[tuple[Embeddings, str, int | None]],
    shortlist: int,
    beta: float,
    gamma: float,
) -> dict[tuple[int, bool], tuple[float, float]]:
    """MAP and precision of the first PAGE by (number of marks, whether they were used)."""
    ids, labels = index.searchable().ids, np.array(index.labels())
    sums: dict[tuple[int, bool], NDArray[np.float64]] = {}
    for query, label, itself in found:
        relevant = labels == label
        first = places(index, query, shortlist)
        shown = [row for row in np.lexsort((ids, first)).tolist() if row != itself]
        for count in MARKS:
            marked = shown[:count]
            right = [index.embedding(int(ids[row])) for row in marked if relevant[row]]
            wrong = [index.embedding(int(ids[row])) for row in marked if not relevant[row]]
            after = places(index, moved(query, right, wrong, beta=beta, gamma=gamma), shortlist)
            rest = np.setdiff1d(np.arange(len(ids)), [*marked, itself] if itself else marked)
            for used, order in ((False, first), (True, after)):
                ap = expected_ap(order[rest], relevant[rest])
                precision = expected_precision_at(order[rest], relevant[rest], PAGE)
                sums.setdefault((count, used), np.zeros(2))
                sums[count, used] += np.array([ap, precision])
    return {key: tuple((value / len(found)).tolist()) for key, value in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path, nargs="?")
    parser.add_argument("--from-index", type=int, metavar="COUNT")
    parser.add_argument("--beta", type=float, default=BETA)
    parser.add_argument("--gamma", type=float, default=GAMMA)
    parser.add_argument("--shortlist", type=int, default=SHORTLIST)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if (args.queries is None) == (args.from_index is None):
        parser.error("give a folder of queries, or --from-index COUNT")
    with Index.open(args.index) as index:
        found = list(queries_of(index, args.queries, args.from_index or 0, args.seed))
        results = measure(index, found, args.shortlist, args.beta, args.gamma)
    for (count, used), (mean_ap, precision) in sorted(results.items()):
        what = "with marks" if used else "without   "
        print(f"{count} marked  {what}  MAP {mean_ap:.4f}  precision at {PAGE} {precision:.4f}")


if __name__ == "__main__":
    main()
