"""The verb `evaluate`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.errors import WingbarError

if TYPE_CHECKING:
    from wingbar.data.records import Dataset
    from wingbar.evaluation.labelled import Evaluation
    from wingbar.index.index import Index
    from wingbar.parallel import Progress

from wingbar.cli.output import _list_failures, _number, _print, _progress


def evaluate(args: argparse.Namespace) -> int:
    """Measure an index with the labelled queries of a data set, or compare two such
    measurements."""
    from wingbar.data.readers import read_dataset, read_images
    from wingbar.evaluation.labelled import evaluate
    from wingbar.files import write_whole
    from wingbar.index.index import Index

    if args.compare:
        return _compare(args)
    if args.index is None or args.data is None:
        raise WingbarError(
            "name an index and a data set, as in wingbar evaluate birds.wb birds/, or --compare "
            "A.json B.json"
        )
    if args.solution:
        return _evaluate_landmarks(args)
    if args.report:
        from wingbar.evaluation import report

        report.check_installed()
    with Index.open(args.index) as found, _progress() as progress:
        if args.split:
            queries = read_images(args.data, args.split, protocol=args.protocol, seed=args.seed)
            protocol = f"{queries.protocol} as queries, the index as gallery"
        else:
            data = read_dataset(args.data, protocol=args.protocol, seed=args.seed)
            queries, protocol = data.query, data.protocol
            if data.truth:
                return _evaluate_revisited(args, found, data, progress)
        result = evaluate(
            found,
            queries,
            protocol=protocol,
            fine=args.fine,
            shortlist=args.shortlist,
            gallery_codes=args.gallery_codes,
            exhaustive=args.exhaustive,
            keep_constant_bits=args.keep_constant_bits,
            progress=progress,
        )
        if args.report:
            write_whole(Path(args.report), report.evaluation_page(found, queries, result))
    _list_failures(result.failed)
    return _print(args, asdict(result), _evaluation_text(result))


def _evaluate_revisited(
    args: argparse.Namespace, found: Index, data: Dataset, progress: Progress
) -> int:
    from wingbar.evaluation.landmarks import evaluate_revisited

    result = evaluate_revisited(
        found,
        data,
        fine=args.fine,
        shortlist=args.shortlist,
        whole_queries=args.whole_queries,
        progress=progress,
    )
    _list_failures(result.failed)
    lines = [
        result.protocol,
        f"{'':8}  {'setup':6}  {'MAP':>6}  {'mP@1':>6}  {'mP@5':>6}  {'mP@10':>6}  queries",
    ]
    for name, setups in (("features", result.features), ("search", result.search)):
        for setup, s in setups.items():
            values = "  ".join(
                f"{value:6.4f}" for value in (s.map, s.mp_at_1, s.mp_at_5, s.mp_at_10)
            )
            lines.append(f"{name:8}  {setup:6}  {values}  {s.queries:7,}")
    lines += [f"Note: {note}." for note in result.notes]
    return _print(args, asdict(result), "\n".join(lines))


def _evaluate_landmarks(args: argparse.Namespace) -> int:
    from wingbar.evaluation.landmarks import evaluate_landmarks
    from wingbar.images import find
    from wingbar.index.index import Index

    with Index.open(args.index) as found, _progress() as progress:
        paths = find(args.data).images
        result = evaluate_landmarks(
            found,
            paths,
            Path(args.solution),
            fine=args.fine,
            shortlist=args.shortlist,
            progress=progress,
        )
    _list_failures(result.failed)
    shown = {
        key: value for key, value in asdict(result).items() if key != "failed" and value is not None
    }
    return _print(
        args,
        asdict(result),
        "\n".join(f"{key:10}  {_number(value)}" for key, value in shown.items()),
    )


def _evaluation_text(result: Evaluation) -> str:
    shown = {
        field.name: getattr(result, field.name)
        for field in fields(result)
        if field.name not in ("failed", "notes", "curves", "per_query")
    }
    width = max(map(len, shown))
    lines = [f"{key:{width}}  {_number(value)}" for key, value in shown.items()]
    return "\n".join([*lines, *(f"Note: {note}." for note in result.notes)])


def _compare(args: argparse.Namespace) -> int:
    from wingbar.evaluation.compare import compare

    records = [_read_json(Path(name)) for name in args.compare]
    found = compare(records[0], records[1], seed=args.seed)
    lines = [
        f"{name}: {protocol}" for name, protocol in zip(args.compare, found.protocols, strict=True)
    ]
    lines.append(
        f"{found.queries:,} queries in both; the interval of the difference holds "
        f"{found.level:.0%} (paired bootstrap)"
    )
    lines.append(f"{'':12}  {'first':>7}  {'second':>7}  {'difference':>10}")
    lines += [
        (
            f"{d.measure:12}  {d.first:7.4f}  {d.second:7.4f}  {d.difference:+10.4f}  "
            f"({d.low:+.4f} "
            f"to {d.high:+.4f})"
        )
        for d in found.differences
    ]
    lines += [f"Note: {note}." for note in found.notes]
    return _print(args, asdict(found), "\n".join(lines))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WingbarError(
            f"{path} is not JSON ({error}): write it with wingbar evaluate INDEX DATA --json > "
            f"{path}"
        ) from None
