"""Write self-contained HTML pages: the neighbours of some queries, and the report of an evaluation.

The pages are Jinja templates in templates/, with every value escaped. They hold no script and load
nothing: styles, charts and pictures are inside.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wingbar import images
from wingbar.data.records import Entry
from wingbar.errors import ImageError, WingbarError, counted
from wingbar.evaluation import charts
from wingbar.evaluation.charts import shown
from wingbar.evaluation.labelled import Evaluation, QueryResult
from wingbar.evaluation.verdict import Verdict, verdict
from wingbar.index.index import Index
from wingbar.index.ranking import Fine, Hit, SearchOptions

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
LOOK = Path(__file__).parents[1] / "look"
THUMBNAIL = 128  # pixels of the longer side
QUERIES_SHOWN = 3  # of each kind in a report: best, median, worst
HITS_SHOWN = 8  # results of each query
CONFUSIONS_SHOWN = 20
POINTS_SHOWN = 2000  # items in the plane of features


class Fact(NamedTuple):
    """A card at the top of a page: what was measured, its value, and a second line."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Ranking:
    """The hits of one query, best first, as found by one way of searching.

    title: how they were found.
    hits: best first.
    score_name: what a hit's score is, such as "cosine".
    """

    title: str
    hits: Sequence[Hit]
    score_name: str = "cosine"


@dataclass(frozen=True)
class RankedQuery:
    """A query and its rankings, to be compared side by side."""

    query: Entry
    rankings: Sequence[Ranking]


def check_installed() -> None:
    """Raise WingbarError, which names the command to install them, without the libraries that a
    report needs."""
    try:
        import jinja2
        import matplotlib
        import sklearn  # noqa: F401
    except ImportError:
        raise WingbarError(
            "a report needs Jinja2, matplotlib and scikit-learn: pip install 'wingbar[report]'"
        ) from None
    del jinja2, matplotlib


def check_pages() -> None:
    """Raise WingbarError, which names the command to install it, without what every page needs."""
    try:
        import jinja2
    except ImportError:
        raise WingbarError("a page needs Jinja2: pip install 'wingbar[report]'") from None
    del jinja2


def neighbours_page(
    title: str,
    intro: str,
    facts: Sequence[Fact],
    queries: Sequence[RankedQuery],
    note: str,
    *,
    kind: str,
    marked: bool,
    said: Verdict | None = None,
) -> str:
    """A page of queries beside their neighbours, as HTML text; its pictures are small JPEGs without
    EXIF.

    kind: a line above the title. note: the line at the foot. marked: whether hits are marked as
    right where their label is the query's, and as wrong elsewhere. said: what an evaluation found.
    """
    values = {
        "title": title,
        "kind": kind,
        "intro": intro,
        "said": said,
        "facts": facts,
        "queries": [_query_view(query, marked) for query in queries],
        "note": note,
    }
    return rendered("neighbours.html", values)


def evaluation_page(
    index: Index, queries: Sequence[Entry], result: Evaluation, *, seed: int = 0
) -> str:
    """The report of `result`, which `evaluate` gave for `queries` on `index`, as HTML text.

    It holds a verdict in words, the labels that are taken for another, the best, median and worst
    queries, a t-SNE map of features (`seed` draws its items and their initial places), precision
    and recall curves, the distances of pairs with equal and with different labels, every label, and
    the metrics with their bounds and the protocol in words.
    Raises WingbarError when Jinja2, matplotlib or scikit-learn is not installed.
    """
    check_installed()
    values = {
        "title": f"{index.path.stem}: codes of {counted(result.bits, 'bit')}",
        "kind": "wingbar evaluation",
        "intro": _protocol_in_words(result),
        "said": verdict(result),
        "notes": result.notes,
        "facts": _facts(result),
        "metrics": _metrics(result),
        "charts": _charts(result),
        "plane": _plane(index, seed),
        "confusions": _confusions(result),
        "groups": _query_groups(index, queries, result),
        "labels": _labels(result),
        "failed": result.failed,
        "note": f"Protocol: {result.protocol}. Model {index.model}.",
    }
    return rendered("evaluation.html", values)


def rendered(template: str, values: Mapping[str, Any], folders: Sequence[Path] = ()) -> str:
    """A page: a template with its values, every one of them escaped. `folders` hold further
    templates beside those of this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES, LOOK]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["breaking"] = _breaking
    return environment.get_template(template).render(values)


def _breaking(name: str) -> Markup:
    """The name of a picture, which may break into lines before the ending of a file, never inside
    of it."""
    from markupsafe import Markup, escape

    found = re.search(r"\.\w{1,5}$", name)
    if found is None:
        return escape(name)
    stem, ending = name[: found.start()], name[found.start() :]
    return Markup('{}<wbr><span class="ending">{}</span>').format(stem, ending)


# -- parts of an evaluation


class _Metric(NamedTuple):
    name: str
    value: str
    meaning: str


class _Chart(NamedTuple):
    title: str
    svg: str


class _Plane(NamedTuple):
    words: str
    svg: str


class _Group(NamedTuple):
    title: str
    queries: list[_QueryView]


class _Confusion(NamedTuple):
    """`times` of the `queries` with a label were taken for another one."""

    label: str
    other: str
    times: int
    queries: int


class _LabelRow(NamedTuple):
    """Means over the queries of a label, one for each column of the table."""

    label: str
    queries: int
    means: list[float]


class _LabelTable(NamedTuple):
    columns: list[str]
    rows: list[_LabelRow]


def _protocol_in_words(result: Evaluation) -> str:
    codes = {
        "network": "The codes of queries and gallery are the network's.",
        "labels": (
            "The codes of the gallery are derived from its labels, which is impossible for new "
            "pictures."
        ),
    }[result.gallery_codes]
    return (
        f"{counted(result.queries, 'labelled query was', 'labelled queries were')} searched for "
        f"among {counted(result.gallery, 'item')}, with the index's own search. An item is "
        "relevant when its label is the query's. "
        f"{codes} Where items are tied, a value is the mean over all orders that the ties allow; "
        "the bounds are the lowest and the highest value of any order."
    )


def _facts(result: Evaluation) -> list[Fact]:
    facts = [
        Fact(
            "MAP of codes",
            f"{result.map:.3f}",
            f"ties: {result.map_low:.3f} to {result.map_high:.3f}",
        ),
        Fact(f"MAP, fine mode {result.fine}", f"{result.rerank_map:.3f}"),
    ]
    if result.feature_map is not None:
        facts.append(Fact("MAP of features", f"{result.feature_map:.3f}"))
    return [
        *facts,
        Fact("MAP if only the predicted class were stored", f"{result.argmax_map:.3f}"),
        Fact("queries", f"{result.queries:,}"),
        Fact("gallery", f"{result.gallery:,}"),
    ]


def _metrics(result: Evaluation) -> list[_Metric]:
    metrics = [
        _Metric(
            "MAP of codes",
            f"{result.map:.4f}",
            "average precision over the whole gallery by Hamming distance; ties allow "
            f"{result.map_low:.4f} to {result.map_high:.4f}",
        ),
        _Metric(
            "MAP@1000",
            f"{result.map_at_1000:.4f}",
            "cut at 1,000; divided by the relevant items inside the cut",
        ),
        _Metric(
            "MAP@R",
            f"{result.map_at_r:.4f}",
            "cut at R, the number of relevant items; divided by R",
        ),
        _Metric(
            "precision, radius 2",
            f"{result.precision_radius_2:.4f}",
            "share of relevant items among those at most 2 bits away; 0 where there are none",
        ),
        _Metric(
            "empty balls, radius 2",
            f"{result.empty_radius_2:.4f}",
            "share of queries with no item at most 2 bits away",
        ),
        _Metric(
            f"MAP, fine mode {result.fine}", f"{result.rerank_map:.4f}", _fine_in_words(result)
        ),
    ]
    if result.feature_map is not None:
        metrics += [
            _Metric(
                "MAP of features",
                f"{result.feature_map:.4f}",
                "all items by the cosine of their features",
            ),
            _Metric(
                "top-1 accuracy of features",
                f"{result.feature_top1:.4f}",
                "share of queries whose nearest feature has their label",
            ),
        ]
    lowest, highest = result.bit_balance
    return [
        *metrics,
        _Metric(
            "MAP if only the predicted class were stored",
            f"{result.argmax_map:.4f}",
            _argmax_in_words(result),
        ),
        _Metric(
            "distinct codes",
            f"{result.unique_codes:,}",
            f"the most frequent code is that of {counted(result.largest_bucket, 'item')}",
        ),
        _Metric(
            "bit balance",
            f"{lowest:.2f} to {highest:.2f}",
            "lowest and highest share of ones of a bit; a bit carries most information at 0.5",
        ),
        _Metric(
            "bit correlation",
            f"{result.bit_correlation:.4f}",
            "mean absolute correlation of two bits; 0 is best",
        ),
    ]


def _fine_in_words(result: Evaluation) -> str:
    if result.fine == "none":
        return "no fine stage"
    read = (
        "no features" if not result.features_read else f"{result.features_read:.1%} of the features"
    )
    return f"the {result.shortlist:,} nearest codes and their ties, re-ranked; this reads {read}"


def _argmax_in_words(result: Evaluation) -> str:
    return (
        f"{result.argmax_bits} bits that name the label with the nearest mean feature, the right "
        f"one for {result.argmax_accuracy:.1%} of the queries: a hash code should do better"
    )


def _charts(result: Evaluation) -> list[_Chart]:
    curves = result.curves
    radii = range(len(curves.precision))
    precision_recall = [
        charts.Line("by Hamming radius", curves.recall, curves.precision),
        charts.Line("by rank", curves.recall_at, curves.precision_at),
    ]
    precision_at_k = [charts.Line("", curves.ranks, curves.precision_at)]
    within_radius = [
        charts.Line("precision", radii, curves.precision),
        charts.Line("recall", radii, curves.recall),
    ]
    titles = (
        "Precision and recall",
        "Precision of the first k",
        "Precision and recall within a radius",
        "Distances of pairs",
    )
    drawn = (
        charts.lines(titles[0], "recall", "precision", precision_recall),
        charts.lines(titles[1], "k", "precision", precision_at_k, log_x=True),
        charts.lines(titles[2], "Hamming radius", "share", within_radius),
        charts.distances(titles[3], curves.matching, curves.others),
    )
    return [_Chart(title, svg) for title, svg in zip(titles, drawn, strict=True)]


def _plane(index: Index, seed: int) -> _Plane:
    labels, features = index.labels(), index.features()
    rows = np.sort(np.random.default_rng(seed).permutation(len(labels))[:POINTS_SHOWN])
    points = charts.project(np.nan_to_num(features[rows].astype(np.float32)), seed)
    count = (
        f"{len(rows):,} of {len(labels):,} items"
        if len(rows) < len(labels)
        else f"All {len(rows):,} items"
    )
    return _Plane(
        f"{count}, coloured by label. t-SNE keeps neighbours together; distances between groups "
        "mean little. A name stands in the middle of its pictures where there is room.",
        charts.scatter("Features in the plane", points, [labels[row] for row in rows]),
    )


def _confusions(result: Evaluation) -> list[_Confusion]:
    """The labels that queries are most often taken for another one, the most frequent first."""
    queries = Counter(query.label for query in result.per_query)
    pairs = Counter(
        (query.label, query.predicted) for query in result.per_query if not query.predicted_right
    )
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return [
        _Confusion(shown(label), shown(other), count, queries[label])
        for (label, other), count in ordered[:CONFUSIONS_SHOWN]
    ]


def _query_groups(index: Index, queries: Sequence[Entry], result: Evaluation) -> list[_Group]:
    """The best, the median and the worst queries by the average precision of the fine mode, none of
    them twice."""
    ordered = sorted(
        result.per_query, key=lambda query: (-query.rerank_map, -query.map, query.path)
    )
    candidates = {
        "Best queries": ordered,
        "Median queries": ordered[len(ordered) // 2 :],
        "Worst queries": ordered[::-1],
    }
    entries = {(str(entry.path), entry.label): entry for entry in queries}
    shown: set[str] = set()
    groups = []
    for title, some in candidates.items():
        chosen = _of_different_labels([query for query in some if query.path not in shown])
        shown.update(query.path for query in chosen)
        ranked = [_ranked(index, entries[q.path, q.label], q, result) for q in chosen]
        groups.append(_Group(title, [_query_view(query, marked=True) for query in ranked]))
    return [group for group in groups if group.queries]


def _of_different_labels(queries: Sequence[QueryResult]) -> list[QueryResult]:
    """The first QUERIES_SHOWN, of different labels as far as possible."""
    first: dict[str, QueryResult] = {}
    for query in queries:
        first.setdefault(query.label, query)
    chosen = list(first.values())[:QUERIES_SHOWN]
    others = [query for query in queries if query not in chosen]
    return chosen + others[: QUERIES_SHOWN - len(chosen)]


def _ranked(index: Index, entry: Entry, query: QueryResult, result: Evaluation) -> RankedQuery:
    """The hits of one query by code and with the fine mode, without the query's own file."""
    source: images.Source = entry.path if entry.box is None else images.Part(entry.path, entry.box)
    modes: tuple[Fine, ...] = ("none", result.fine)
    rankings = []
    for fine in dict.fromkeys(modes):
        options = SearchOptions(
            k=HITS_SHOWN + 1, fine=fine, shortlist=result.shortlist, expand=result.expand
        )
        [hits] = index.find([source], options)
        others = [hit for hit in hits if hit.path != query.path][:HITS_SHOWN]
        name, ap = (
            ("by code", query.map) if fine == "none" else (f"fine mode {fine}", query.rerank_map)
        )
        score_name = "agreement" if fine == "asymmetric" else "cosine"
        rankings.append(Ranking(f"{name}, AP {ap:.3f}", others, score_name))
    return RankedQuery(entry, rankings)


def _labels(result: Evaluation) -> _LabelTable:
    columns = {"map": "codes", "rerank_map": f"fine={result.fine}"}
    if result.feature_map is not None:
        columns["feature_map"] = "features"
    by_label: dict[str, list[QueryResult]] = {}
    for query in result.per_query:
        by_label.setdefault(query.label, []).append(query)
    rows = [
        _LabelRow(
            shown(label),
            len(some),
            [float(np.mean([getattr(query, name) for query in some])) for name in columns],
        )
        for label, some in by_label.items()
    ]
    return _LabelTable(list(columns.values()), sorted(rows, key=lambda row: row.means[0]))


# -- queries and hits


class Picture(NamedTuple):
    """A picture as a data URI, or the reason why there is none."""

    path: str
    alt: str
    data: str
    problem: str


class _HitView(NamedTuple):
    """`mark` is good, bad or empty."""

    picture: Picture
    name: str
    mark: str
    distance: int
    score: str


class _RankingView(NamedTuple):
    title: str
    hits: list[_HitView]


class _QueryView(NamedTuple):
    picture: Picture
    name: str
    rankings: list[_RankingView]


def _query_view(ranked: RankedQuery, marked: bool) -> _QueryView:
    query = ranked.query
    name = query.path.name if query.label is None else shown(query.label)
    label = query.label if marked else None
    return _QueryView(
        picture(str(query.path), f"query: {name}"),
        name,
        [
            _RankingView(
                ranking.title, [_hit_view(hit, label, ranking.score_name) for hit in ranking.hits]
            )
            for ranking in ranked.rankings
        ],
    )


def _hit_view(hit: Hit, label: str | None, score_name: str) -> _HitView:
    name = Path(hit.path).name if hit.label is None else shown(hit.label)
    return _HitView(
        picture(hit.path, name),
        name,
        "" if label is None else "good" if hit.label == label else "bad",
        hit.distance,
        "" if hit.score is None else f"{score_name} {hit.score:.2f}",
    )


def picture(path: str, alt: str) -> Picture:
    """A small picture for a page: a JPEG without EXIF, inside of the page itself."""
    try:
        data = base64.b64encode(images.thumbnail(path, THUMBNAIL)).decode()
    except ImageError as error:
        return Picture(path, alt, "", str(error))
    return Picture(path, alt, f"data:image/jpeg;base64,{data}", "")
