"""Say in words what an evaluation found: how good the search is, whether the codes are worth it,
and what is wrong with them."""

from __future__ import annotations

from typing import NamedTuple

from wingbar.errors import counted
from wingbar.evaluation.labelled import Evaluation

GAP = 0.02  # differences of MAP below this are not worth a sentence
SHARED = 0.1  # share of the gallery in one bucket from which codes tell too little apart
TIES = 0.05  # width of the bounds of MAP from which the order of ties decides


class Verdict(NamedTuple):
    """An evaluation in words.

    headline: one sentence: how good the search is.
    good: whether nothing is said against the codes.
    points: sentences about codes, features and the predicted class, the gravest first.
    warnings: sentences about the health of the codes and the data; empty when all is well.
    """

    headline: str
    good: bool
    points: list[str]
    warnings: list[str]


def verdict(result: Evaluation) -> Verdict:
    """What an evaluation found, in words."""
    points, good = [], True
    if result.map < result.argmax_map - GAP:
        good = False
        points.append(
            f"At finding all pictures of a label, the codes are weaker than a plain classifier: "
            f"its answer in {counted(result.argmax_bits, 'bit')} reaches MAP "
            f"{result.argmax_map:.3f}, the {result.bits}-bit codes {result.map:.3f}. Training on "
            "labels, or for longer, may help."
        )
    elif result.map > result.argmax_map + GAP:
        points.append(
            f"At finding all pictures of a label, the codes beat a plain classifier: MAP "
            f"{result.map:.3f}, against {result.argmax_map:.3f} if only its answer were stored."
        )
    if result.feature_map is not None and result.map < result.feature_map - 2 * GAP:
        good = False
        points.append(
            f"The codes lose much of what the features know: MAP {result.map:.3f} against "
            f"{result.feature_map:.3f}. Longer codes may help."
        )
    if result.rerank_map > result.map + GAP:
        points.append(
            f"Ranking by features, fine={result.fine}, lifts MAP from {result.map:.3f} to "
            f"{result.rerank_map:.3f}."
        )
    elif result.rerank_map < result.map - GAP:
        points.append(
            f"The fine stage does harm: fine={result.fine} lowers MAP from {result.map:.3f} to "
            f"{result.rerank_map:.3f}. Search with --fine none."
        )
    return Verdict(_headline(result), good, points, _warnings(result))


def _headline(result: Evaluation) -> str:
    if result.feature_top1 is not None:
        share = result.feature_top1
        at, of = "the nearest picture", "it has the right label for"
    else:
        share = result.argmax_accuracy
        at, of = "the predicted class", "it is right for"
    grade = (
        "Excellent"
        if share >= 0.95
        else "Good"
        if share >= 0.8
        else "Fair"
        if share >= 0.5
        else "Poor"
    )
    return (
        f"{grade} at {at}: {of} {share:.1%} of {counted(result.queries, 'query', 'queries')}. "
        f"At finding all pictures of a label, the search has MAP {result.rerank_map:.3f} of 1."
    )


def _warnings(result: Evaluation) -> list[str]:
    warnings = []
    if result.constant_bits:
        warnings.append(
            f"{counted(len(result.constant_bits), 'bit is', 'bits are')} the same in all codes "
            "and say nothing."
        )
    if result.largest_bucket > max(1, SHARED * result.gallery):
        advice = "" if result.constant_bits else ": use more bits"
        warnings.append(
            f"{result.largest_bucket:,} of {result.gallery:,} items share one code{advice}."
        )
    if result.map_high - result.map_low > TIES:
        warnings.append(
            f"Many distances are tied: their order alone moves MAP from {result.map_low:.3f} to "
            f"{result.map_high:.3f}."
        )
    if result.gallery_codes == "labels":
        warnings.append("The gallery's codes are made of its labels, which new pictures lack.")
    return warnings
