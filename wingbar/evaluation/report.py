"""Self-contained HTML pages: ranked neighbours, and the report of an evaluation."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from wingbar import images
from wingbar.data.records import Entry
from wingbar.errors import ImageError
from wingbar.evaluation import charts
from wingbar.evaluation.labelled import Evaluation, Scored
from wingbar.index.index import Index
from wingbar.index.ranking import Hit

THUMB = 128  # pixels of the longer side
SHOWN = 3  # queries of each kind in a report: best, middling, worst
HITS = 8  # results shown of each
POINTS = 2000  # items in the plane of features

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #0a7d32; --bad: #c02626; --soft: #8882; }
@media (prefers-color-scheme: dark) { :root { --good: #5fd38a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0 1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .75rem; margin: 1.25rem 0 2rem; }
.facts div { background: var(--soft); border-radius: .5rem; padding: .6rem .8rem; }
.facts dt { font-size: .8rem; } .facts dd { margin: 0; font-weight: 600; }
section { border-top: 1px solid var(--line); padding: 1rem 0; display: grid; gap: 1rem; }
section { grid-template-columns: 8.5rem minmax(0, 1fr); }
section h2 { font-size: 1rem; margin: .4rem 0 0; overflow-wrap: anywhere; }
h3 { font-size: .85rem; font-weight: 600; margin: 0 0 .35rem; }
ol { list-style: none; display: flex; gap: .5rem; margin: 0 0 .9rem; padding: 0 0 .3rem; overflow-x: auto; }
li { flex: 0 1 6.4rem; min-width: 5rem; font-size: .75rem; overflow-wrap: anywhere; }
figure { margin: 0; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--soft); border-radius: .35rem; }
li.good img { outline: 3px solid var(--good); outline-offset: -3px; }
li.bad img { outline: 3px dashed var(--bad); outline-offset: -3px; }
.mark { font-weight: 700; } .good .mark { color: var(--good); } .bad .mark { color: var(--bad); }
.missing { display: grid; place-items: center; aspect-ratio: 1; background: var(--soft); border-radius: .35rem; padding: .3rem; }
h2.part { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2rem; }
.charts figcaption { font-weight: 600; margin-bottom: .3rem; } svg { display: block; width: 100%; height: auto; }
.plane { max-width: 56rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .9rem .3rem 0; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; min-width: 7rem; overflow-wrap: anywhere; }
td.words { text-align: left; max-width: 34rem; }
summary { cursor: pointer; font-weight: 600; margin: .4rem 0; } ul.notes { padding-left: 1.2rem; }
footer { border-top: 1px solid var(--line); font-size: .85rem; padding-top: 1rem; }
@media (max-width: 40rem) { section { grid-template-columns: minmax(0, 1fr); } section > figure { max-width: 8.5rem; } }
"""


@dataclass(frozen=True)
class Gallery:
    """One query and its rankings, each with a title. With `marked`, hits of the query's label count
    as right."""

    query: Entry
    rankings: Sequence[tuple[str, Sequence[Hit]]]
    marked: bool


def page(
    title: str,
    intro: str,
    facts: Sequence[tuple[str, str]],
    galleries: Sequence[Gallery],
    note: str,
) -> str:
    """The whole page as text; pictures are inside as small JPEGs without EXIF."""
    body = "".join(map(_gallery, galleries))
    return _frame(title, f"<p>{escape(intro)}</p>{_cards(facts)}<main>{body}</main>", note)


def evaluation_page(
    index: Index, queries: Sequence[Entry], result: Evaluation, *, seed: int = 0
) -> str:
    """The report of `result`, which `evaluate` gave for `queries` on `index`, as text.

    Measures with their bounds and the protocol in words, curves, distances of matches and others,
    features in the plane (`seed` draws the items and their first places), best, middling and worst
    queries, and every label. Raises WingbarError when matplotlib or scikit-learn is not installed.
    """
    charts.check_installed()
    title = f"{index.path.stem}: {index.model.method}, {result.bits} bits"
    facts = [
        ("MAP of codes", f"{result.map:.3f} ({result.map_low:.3f} to {result.map_high:.3f})"),
        (f"MAP, fine mode {result.fine}", f"{result.rerank_map:.3f}"),
        *(
            [("MAP of features", f"{result.feature_map:.3f}")]
            if result.feature_map is not None
            else []
        ),
        ("MAP of the believed class", f"{result.argmax_map:.3f}"),
        ("queries", f"{result.queries:,}"),
        ("gallery", f"{result.gallery:,}"),
    ]
    notes = "".join(f"<li>{escape(note)}.</li>" for note in result.notes)
    parts = [
        f"<p>{escape(_protocol_in_words(result))}</p>",
        f'<ul class="notes">{notes}</ul>' if notes else "",
        _cards(facts),
        _part("Measures", _measures(result)),
        _part("Curves", _charts(result)),
        _part("Features in the plane", _plane(index, seed)),
        _part("Queries", _queries(index, queries, result)),
        _part("Labels", _labels(result)),
    ]
    if result.failed:
        rows = "".join(
            f"<tr><td>{escape(f.path)}</td><td class=words>{escape(f.reason)}</td></tr>"
            for f in result.failed
        )
        parts.append(_part("Left out", f'<div class="scroll"><table>{rows}</table></div>'))
    note = f"Protocol: {result.protocol}. Model {index.model}."
    return _frame(title, "<main>" + "".join(parts) + "</main>", note)


def _frame(title: str, body: str, note: str) -> str:
    foot = f"<footer>{escape(note)}</footer>" if note else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<body><h1>{escape(title)}</h1>{body}{foot}</body></html>\n"
    )


def _cards(facts: Sequence[tuple[str, str]]) -> str:
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
    )
    return f'<dl class="facts">{cards}</dl>'


def _part(title: str, body: str) -> str:
    return f'<h2 class="part">{escape(title)}</h2>{body}'


# -- parts of an evaluation


def _protocol_in_words(result: Evaluation) -> str:
    codes = {
        "network": "The codes of both sides are what the network gives.",
        "labels": (
            "The gallery's codes are made from its labels, which no search of new pictures "
            "could do."
        ),
    }[result.gallery_codes]
    return (
        f"Each of {result.queries:,} labelled queries was searched for among {result.gallery:,} "
        "items, through the index's own "
        f"search; an item is right when its label is the query's. {codes} Where items are tied, a "
        "value is the mean over all "
        "orders that the ties allow, and the bounds are the least and the greatest of them."
    )


def _measures(result: Evaluation) -> str:
    whole = f"{result.map_low:.4f} to {result.map_high:.4f}"
    balance = f"{result.bit_balance[0]:.2f} to {result.bit_balance[1]:.2f}"
    rows = [
        (
            "MAP of codes",
            f"{result.map:.4f}",
            whole,
            "average precision over the whole gallery by Hamming distance",
        ),
        ("MAP@1000", f"{result.map_at_1000:.4f}", "", "cut at 1,000; divided by the hits inside"),
        (
            "MAP@R",
            f"{result.map_at_r:.4f}",
            "",
            "cut at R, the number of right items; divided by R",
        ),
        (
            "precision, radius 2",
            f"{result.precision_radius_2:.4f}",
            "",
            "of items at most 2 bits away; 0 where there are none",
        ),
        (
            "empty balls, radius 2",
            f"{result.empty_radius_2:.4f}",
            "",
            "share of queries with nothing at most 2 bits away",
        ),
        (f"MAP, fine mode {result.fine}", f"{result.rerank_map:.4f}", "", _fine_words(result)),
    ]
    if result.feature_map is not None:
        rows += [
            (
                "MAP of features",
                f"{result.feature_map:.4f}",
                "",
                "all items by the cosine of their features",
            ),
            (
                "first by features",
                f"{result.feature_top1:.4f}",
                "",
                "how often the nearest feature has the right label",
            ),
        ]
    rows += [
        ("MAP of the believed class", f"{result.argmax_map:.4f}", "", _argmax_words(result)),
        (
            "distinct codes",
            f"{result.unique_codes:,}",
            "",
            f"the commonest stands for {result.largest_bucket:,} items",
        ),
        ("ones of a bit", balance, "", "least and greatest share; a bit says most at 0.5"),
        (
            "correlation of bits",
            f"{result.bit_correlation:.4f}",
            "",
            "mean of the absolute value over pairs; 0 is best",
        ),
    ]
    cells = "".join(
        (
            f"<tr><td>{escape(name)}</td><td>{value}</td><td>{bounds}</td><td "
            f"class=words>{escape(words)}</td></tr>"
        )
        for name, value, bounds, words in rows
    )
    head = "<tr><th>measure</th><th>value</th><th>bounds over ties</th><th></th></tr>"
    return f'<div class="scroll"><table>{head}{cells}</table></div>'


def _fine_words(result: Evaluation) -> str:
    if result.fine == "none":
        return "no fine stage"
    read = (
        "no feature" if not result.features_read else f"{result.features_read:.1%} of the features"
    )
    return (
        f"the {result.shortlist:,} nearest codes and what ties with them, ordered anew; this "
        f"reads {read}"
    )


def _argmax_words(result: Evaluation) -> str:
    return (
        f"{result.argmax_bits} bits that only name the label with the nearest mean feature, right "
        "for "
        f"{result.argmax_accuracy:.1%} of the queries: a hash code should be worth more than that"
    )


def _charts(result: Evaluation) -> str:
    curves = result.curves
    by_radius = charts.Line("by Hamming threshold", curves.recall, curves.precision)
    by_rank = charts.Line("by rank", curves.recall_at, curves.precision_at)
    drawn = [
        (
            "Precision and recall",
            charts.lines("Precision and recall", "recall", "precision", [by_radius, by_rank]),
        ),
        (
            "Precision of the first k",
            charts.lines(
                "Precision of the first k",
                "k",
                "precision",
                [charts.Line("", curves.ranks, curves.precision_at)],
                log_x=True,
            ),
        ),
        (
            "Precision and recall within a radius",
            charts.lines(
                "Precision and recall within a radius",
                "Hamming radius",
                "share",
                [
                    charts.Line("precision", range(len(curves.precision)), curves.precision),
                    charts.Line("recall", range(len(curves.recall)), curves.recall),
                ],
            ),
        ),
        ("Distances", charts.distances("Distances of pairs", curves.matching, curves.others)),
    ]
    figures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in drawn
    )
    return f'<div class="charts">{figures}</div>'


def _plane(index: Index, seed: int) -> str:
    labels, features = index.labels(), index.features()
    rows = np.sort(np.random.default_rng(seed).permutation(len(labels))[:POINTS])
    chosen = np.nan_to_num(features[rows].astype(np.float32))
    picture = charts.scatter(
        "Features in the plane", charts.project(chosen, seed), [labels[row] for row in rows]
    )
    words = (
        f"{len(rows):,} of {len(labels):,} items"
        if len(rows) < len(labels)
        else f"All {len(rows):,} items"
    )
    words += (
        ", a colour for each label; t-SNE keeps neighbours together, distances between "
        "groups say little."
    )
    return f'<p>{words} Point at a dot for its label.</p><figure class="plane">{picture}</figure>'


def _queries(index: Index, queries: Sequence[Entry], result: Evaluation) -> str:
    """Rank galleries of the best, the middling and the worst queries by the fine mode's average
    precision."""
    ordered = sorted(
        result.per_query, key=lambda query: (-query.rerank_map, -query.map, query.path)
    )
    kinds = {"best": ordered, "middling": ordered[len(ordered) // 2 :], "worst": ordered[::-1]}
    entries = {(str(entry.path), entry.label): entry for entry in queries}
    shown: set[str] = set()
    parts = []
    for kind, some in kinds.items():
        fresh = _varied([query for query in some if query.path not in shown])
        shown.update(query.path for query in fresh)
        galleries = "".join(
            _gallery(_ranked(index, entries[query.path, query.label], query, result))
            for query in fresh
        )
        parts.append(f"<h3>{kind}</h3>{galleries}" if galleries else "")
    return "".join(parts)


def _varied(queries: Sequence[Scored]) -> list[Scored]:
    """The first few, of different labels as far as there are so many."""
    first: dict[str, Scored] = {}
    for query in queries:
        first.setdefault(query.label, query)
    chosen = list(first.values())[:SHOWN]
    return chosen + [query for query in queries if query not in chosen][: SHOWN - len(chosen)]


def _ranked(index: Index, entry: Entry, query: Scored, result: Evaluation) -> Gallery:
    """What search finds for one query, by code and with the fine mode, without the query's own
    file."""
    source: images.Source = entry.path if entry.box is None else images.Part(entry.path, entry.box)
    rankings = []
    for fine in dict.fromkeys(["none", result.fine]):
        hits = index.search(source, HITS + 1, fine=fine, shortlist=result.shortlist)  # type: ignore[arg-type]
        others = [hit for hit in hits if hit.path != query.path][:HITS]
        ap = query.map if fine == "none" else query.rerank_map
        rankings.append(
            (f"{'by code' if fine == 'none' else f'fine mode {fine}'}, AP {ap:.3f}", others)
        )
    return Gallery(entry, rankings, marked=True)


def _labels(result: Evaluation) -> str:
    by_label: dict[str, list[Scored]] = {}
    for query in result.per_query:
        by_label.setdefault(query.label, []).append(query)

    def mean(some: Sequence[Scored], name: str) -> float:
        return float(np.mean([getattr(query, name) for query in some]))

    names = ["map", "rerank_map", *(["feature_map"] if result.feature_map is not None else [])]
    heads = {
        "map": "MAP of codes",
        "rerank_map": f"MAP, {result.fine}",
        "feature_map": "MAP of features",
    }
    head = "".join(f"<th>{escape(heads[name])}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(label)}</td><td>{len(some):,}</td>{''.join(f'<td>{mean(some, name):.3f}</td>' for name in names)}</tr>"
        for label, some in sorted(by_label.items(), key=lambda item: mean(item[1], "map"))
    )
    table = (
        "<div "
        f'class="scroll"><table><tr><th>label</th><th>queries</th>{head}</tr>{rows}</table></div>'
    )
    shown = " open" if len(by_label) <= 20 else ""
    return (
        f"<details{shown}><summary>{len(by_label):,} labels, worst first</summary>{table}</details>"
    )


# -- rank galleries


def _gallery(gallery: Gallery) -> str:
    query = gallery.query
    name = query.label or query.path.name
    rows = "".join(
        f"<h3>{escape(title)}</h3><ol>{''.join(_hit(hit, query.label if gallery.marked else None) for hit in hits)}</ol>"
        for title, hits in gallery.rankings
    )
    picture = _picture(str(query.path), f"query: {name}")
    return f"<section><figure>{picture}<h2>{escape(name)}</h2></figure><div>{rows}</div></section>"


def _hit(hit: Hit, label: str | None) -> str:
    right = label is not None and hit.label == label
    kind = "" if label is None else "good" if right else "bad"
    mark = "" if label is None else f'<span class="mark">{"✓" if right else "✗"}</span> '
    name = hit.label or Path(hit.path).name
    bits = f"{hit.distance} bit{'' if hit.distance == 1 else 's'}"
    score = "" if hit.score is None else f"<br>cosine {hit.score:.2f}"
    picture = _picture(hit.path, name)
    return f'<li class="{kind}">{picture}{mark}{escape(name)}<br>{bits}{score}</li>'


def _picture(path: str, alt: str) -> str:
    try:
        data = base64.b64encode(images.thumbnail(path, THUMB)).decode()
    except ImageError as error:
        return f'<div class="missing">{escape(str(error))}</div>'
    return (
        f'<img loading="lazy" alt="{escape(alt)}" title="{escape(path)}" '
        f'src="data:image/jpeg;base64,{data}">'
    )
