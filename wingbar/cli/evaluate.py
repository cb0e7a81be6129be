"""The verb `evaluate`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.cli.options import (
    Verb,
    add_all_flag,
    add_encoder_flag,
    add_multi_label_flag,
    add_protocol_flag,
    add_ranking_flags,
    refuse_flags,
    refuse_idle_shortlist,
    whole_number,
)
from wingbar.cli.output import (
    constant_bits_text,
    print_failures,
    print_message,
    print_result,
    progress_bars,
    require_page,
    table_text,
    visible,
)
from wingbar.errors import WingbarError, counted

if TYPE_CHECKING:
    from wingbar.data.records import Dataset, Images
    from wingbar.evaluation.compare import Comparison
    from wingbar.evaluation.labelled import Evaluation
    from wingbar.evaluation.landmarks import Landmarks, Revisited
    from wingbar.index.index import Index
    from wingbar.parallel import Progress


# flags that only one kind of evaluation has a use for
_LABELLED = ("--report", "--gallery-codes", "--exhaustive", "--keep-constant-bits", "--all")
_REVISITED = ("--whole-queries",)
_PARTS = ("--split", "--protocol", "--multi-label")
_RANKING = ("--fine", "--shortlist", "--expand", "--with")


def evaluate_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    parser.add_argument("index", metavar="INDEX", nargs="?", help="the index, a file or a URL")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="a folder or CSV file with labels; its query, test or val part holds the queries",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="write a page (HTML) with curves, pictures and a table of all labels",
    )
    parser.add_argument(
        "--solution",
        metavar="CSV",
        help="score the images in the folder DATA by a solution file of Google Landmarks v2",
    )
    parser.add_argument(
        "--whole-queries",
        action="store_true",
        help="revisited Oxford and Paris: do not crop the queries to their boxes",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="JSON",
        help="compare two evaluations instead, each a file with the output of --json",
    )
    parser.add_argument(
        "--gallery-codes",
        choices=("network", "labels"),
        default="network",
        help="codes of the gallery: from the network, or one per label as in much of the "
        "literature (default network)",
    )
    parser.add_argument(
        "--exhaustive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also rank the whole gallery by features, with all of them in memory (default yes)",
    )
    parser.add_argument(
        "--keep-constant-bits",
        action="store_true",
        help="evaluate even if some bits are the same in all codes",
    )
    parser.add_argument(
        "--split",
        help="use this part of DATA as queries instead: query, gallery, train, val, test, or all",
    )
    add_protocol_flag(parser)
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="seed of a random split (default 0)"
    )
    add_multi_label_flag(parser)
    add_all_flag(parser)
    add_ranking_flags(parser)
    add_encoder_flag(parser, "the one that is evaluated")
    parser.add_argument(
        "--radius",
        type=whole_number,
        metavar="BITS",
        help="the fine stage re-ranks every item at most this many bits away, in place of the "
        "shortlist; --fine pool unless another is named, as in the paper of DLBHC",
    )


def evaluate(args: argparse.Namespace) -> int:
    """Print the metrics of an index on labelled queries, or compare two evaluations."""
    if args.compare:
        if args.index is not None:
            raise WingbarError("--compare reads two results: leave INDEX and DATA out")
        others = (*_RANKING, *_LABELLED, *_REVISITED, *_PARTS, "--solution", "--radius")
        refuse_flags(args, others, "is of no use with --compare, which reads two results")
        return _compare(args)
    if args.index is None or args.data is None:
        raise WingbarError(
            "name an index and a data set, as in wingbar evaluate birds.wb birds/, or --compare "
            "A.json B.json"
        )
    refuse_idle_shortlist(args)
    if args.radius is not None:
        refuse_flags(args, ["--shortlist"], "is of no use beside --radius, which takes its place")
    if args.solution:
        _refuse_radius(args)
        flags = (*_LABELLED, *_REVISITED, *_PARTS, "--seed")
        refuse_flags(args, flags, "is of no use with --solution")
        return _evaluate_landmarks(args)
    return _evaluate_dataset(args)


EVALUATE = Verb(
    name="evaluate",
    summary="Evaluate an index on labelled queries, or compare two evaluations.",
    examples="wingbar evaluate birds.wb birds/ --json",
    flags=evaluate_flags,
    run=evaluate,
)


# -- labelled data sets


def _evaluate_dataset(args: argparse.Namespace) -> int:
    from wingbar.data.readers import read_dataset, read_images
    from wingbar.evaluation import labelled
    from wingbar.files import write_whole
    from wingbar.index.index import Index

    if args.report:
        from wingbar.evaluation import report

        report.check_installed()
        require_page(args.report)
    revisited: Revisited | None = None
    trained = None
    with Index.open(args.index) as opened, progress_bars() as progress:
        index = opened.encoder(args.encoder)
        if args.split:
            queries = read_images(
                args.data,
                args.split,
                protocol=args.protocol,
                seed=args.seed,
                multi_label=args.multi_label,
            )
            protocol = f"{queries.protocol} as queries, the index as gallery"
        else:
            data = read_dataset(
                args.data, protocol=args.protocol, seed=args.seed, multi_label=args.multi_label
            )
            queries, protocol = data.query, data.protocol
            if data.truth:
                _refuse_radius(args)
                refuse_flags(args, _LABELLED, "is for data sets with labels, not for landmarks")
                revisited = _evaluate_revisited(args, index, data, progress)
        if revisited is None:
            refuse_flags(args, _REVISITED, "is for the revisited Oxford and Paris data sets")
            if args.protocol == "unseen" and args.split != "train":
                trained = _trained_on(index, queries)
                protocol += f"; {trained}" if trained else ""
                protocol += _other_classes(index, queries)
            result = labelled.evaluate(
                index,
                queries,
                protocol=protocol,
                fine=args.fine,
                shortlist=args.shortlist,
                expand=args.expand,
                radius=args.radius,
                gallery_codes=args.gallery_codes,
                exhaustive=args.exhaustive,
                keep_constant_bits=args.keep_constant_bits,
                progress=progress,
            )
            if args.report:
                write_whole(Path(args.report), report.evaluation_page(index, queries, result))
    if revisited is not None:  # printed when the bars are closed
        print_failures(revisited.failed)
        print_result(args, asdict(revisited), _revisited_text(revisited))
        return 0
    for note in queries.notes:
        print_message(note)
    if trained:
        print_message(
            f"Warning: {trained}: for classes that it never saw, train with --protocol unseen and "
            f"--split-seed {args.seed}"
        )
    print_failures(result.failed)
    print_result(args, asdict(result), _evaluation_text(args, result))
    return 0


def _trained_on(index: Index, queries: Images) -> str | None:
    """In words, that the model of `index` was trained on classes of the queries; None where it was
    not, or does not say."""
    asked = {entry.label for entry in queries if entry.label is not None}
    known = asked.intersection(index.model.record.get("classes") or ())
    if not known:
        return None
    return (
        f"the model was trained on {len(known):,} of these "
        f"{counted(len(asked), 'class', 'classes')}"
    )


def _other_classes(index: Index, queries: Images) -> str:
    """In words for the protocol, how many classes `index` holds beside those of the queries."""
    others = {*index.labels()} - {None} - {entry.label for entry in queries}
    if not others:
        return ""
    return f"; searched among {counted(len(others), 'other class', 'other classes')} too"


def _refuse_radius(args: argparse.Namespace) -> None:
    if args.radius is not None:
        raise WingbarError("--radius is for data sets with labels: leave it out for landmarks")


def _evaluation_text(args: argparse.Namespace, result: Evaluation) -> str:
    from wingbar.evaluation.verdict import verdict
    from wingbar.index.engine import place_of

    said = verdict(result)
    lines = [
        f"{place_of(args.index)}: {counted(result.queries, 'query', 'queries')} searched for among "
        f"{counted(result.gallery, 'item')}, with codes of {counted(result.bits, 'bit')}",
        said.headline,
        *map(visible, said.points),
        *(f"Warning: {visible(warning)}" for warning in said.warnings),
        "MAP (1 when every query finds all items of its label first, before any other):",
        f"  {'the codes alone':27}  {result.map:.4f}  (the order of ties allows "
        f"{result.map_low:.4f} to {result.map_high:.4f})",
        f"  {f'the search, fine={result.fine}':27}  {result.rerank_map:.4f}",
    ]
    if result.feature_map is not None:
        lines.append(
            f"  {'the features alone':27}  {result.feature_map:.4f}  (first hit right: "
            f"{result.feature_top1:.1%})"
        )
    lines.append(
        f"Codes: {result.unique_codes:,} of {result.gallery:,} are unique; "
        f"{constant_bits_text(result.constant_bits)}."
    )
    lines.append(f"Protocol: {visible(result.protocol)}.")
    lines += [f"Note: {visible(note)}." for note in result.notes]
    if args.all:
        hidden = ("protocol", "failed", "notes", "curves", "per_query")
        names = [field.name for field in fields(result) if field.name not in hidden]
        lines.append(table_text({name: getattr(result, name) for name in names}))
    if args.report:
        lines.append(f"The report is {args.report}: open it in a browser.")
    return "\n".join(lines)


# -- landmarks


def _evaluate_revisited(
    args: argparse.Namespace, index: Index, data: Dataset, progress: Progress
) -> Revisited:
    from wingbar.evaluation.landmarks import evaluate_revisited

    return evaluate_revisited(
        index,
        data,
        fine=args.fine,
        shortlist=args.shortlist,
        expand=args.expand,
        whole_queries=args.whole_queries,
        progress=progress,
    )


def _revisited_text(result: Revisited) -> str:
    lines = [
        result.protocol,
        f"{'':8}  {'setup':6}  {'MAP':>6}  {'mP@1':>6}  {'mP@5':>6}  {'mP@10':>6}  queries",
    ]
    for name, setups in (("features", result.features), ("search", result.search)):
        for setup, s in setups.items():
            values = "  ".join(f"{v:6.4f}" for v in (s.map, s.mp_at_1, s.mp_at_5, s.mp_at_10))
            lines.append(f"{name:8}  {setup:6}  {values}  {s.queries:7,}")
    return "\n".join([*lines, *(f"Note: {visible(note)}." for note in result.notes)])


def _evaluate_landmarks(args: argparse.Namespace) -> int:
    from wingbar.evaluation.landmarks import evaluate_landmarks
    from wingbar.images import find
    from wingbar.index.index import Index

    with Index.open(args.index) as opened, progress_bars() as progress:
        index = opened.encoder(args.encoder)
        result = evaluate_landmarks(
            index,
            find(args.data).images,
            Path(args.solution),
            fine=args.fine,
            shortlist=args.shortlist,
            expand=args.expand,
            progress=progress,
        )
    print_failures(result.failed)
    print_result(args, asdict(result), _landmarks_text(args, result))
    return 0


def _landmarks_text(args: argparse.Namespace, result: Landmarks) -> str:
    scores = {"mAP@100": result.map_at_100, "GAP": result.gap}
    shown = ", ".join(f"{name} {score:.4f}" for name, score in scores.items() if score is not None)
    from wingbar.index.engine import place_of

    return (
        f"{place_of(args.index)}: {shown} of {counted(result.queries, 'query', 'queries')} "
        f"searched for among {counted(result.gallery, 'item')}\n"
        f"Protocol: {visible(result.protocol)}."
    )


# -- two evaluations


def _compare(args: argparse.Namespace) -> int:
    from wingbar.evaluation.compare import compare

    first, second = (_read_json(Path(name)) for name in args.compare)
    result = compare(first, second, seed=args.seed)
    print_result(args, asdict(result), _comparison_text(args.compare, result))
    return 0


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WingbarError(
            f"{path} is not JSON ({error}): write it with wingbar evaluate INDEX DATA --json > "
            f"{path}"
        ) from None


def _comparison_text(names: list[str], result: Comparison) -> str:
    lines = [f"{name}: {protocol}" for name, protocol in zip(names, result.protocols, strict=True)]
    lines.append(
        f"{counted(result.queries, 'query', 'queries')} in both; {result.level:.0%} confidence "
        "intervals of the difference (paired bootstrap)"
    )
    lines.append(f"{'':12}  {'first':>7}  {'second':>7}  {'difference':>10}")
    for d in result.differences:
        lines.append(
            f"{d.measure:12}  {d.first:7.4f}  {d.second:7.4f}  {d.difference:+10.4f}  "
            f"({d.low:+.4f} to {d.high:+.4f})"
        )
    return "\n".join([*lines, *(f"Note: {visible(note)}." for note in result.notes)])
