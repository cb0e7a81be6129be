"""The verb `data`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wingbar.data.catalogue import FetchReport, KnownDataSet

from wingbar.cli.output import _print, _progress


def data(args: argparse.Namespace) -> int:
    """List the data sets that wingbar knows, say what one is, or fetch it."""
    from wingbar.data import catalogue

    if args.what == "list":
        known = list(catalogue.DATA_SETS.values())
        return _print(
            args, {"data_sets": [asdict(one) for one in known]}, "\n".join(map(_data_line, known))
        )
    if args.what == "info":
        one = catalogue.get(args.name)
        return _print(args, asdict(one), _data_text(one))
    with _progress() as progress:
        report = catalogue.fetch(args.name, args.output, url=args.url, progress=progress)
    return _print(args, asdict(report), _data_report(report))


def _data_line(one: KnownDataSet) -> str:
    from wingbar.data.download import size_text

    how = "by hand" if one.by_hand else size_text(one.size) if one.size else "fetch"
    return (
        f"{one.name:14}  {one.images:>9,} images  {one.classes or '':>6} "
        f"{'classes' if one.classes else '':7}  {how}"
    )


def _data_text(one: KnownDataSet) -> str:
    from wingbar.data.download import size_text

    lines = [
        f"{one.title}: {one.images:,} images"
        + (f", {one.classes:,} classes" if one.classes else "")
    ]
    lines += [
        f"page      {one.page}",
        f"licence   {one.licence}",
        f"unpacked  about {size_text(one.disk)}",
    ]
    for file in one.files:
        lines.append(f"file      {file.url}" + (f", {file.size:,} bytes" if file.size else ""))
        sums = (("sha256", file.sha256), ("md5", file.md5))
        known = next((f"{kind} {value}" for kind, value in sums if value), "no sum is known")
        lines.append(f"          {known}")
    lines += [f"note      {text}" for text in (one.note, one.by_hand) if text]
    return "\n".join(lines)


def _data_report(report: FetchReport) -> str:
    lines = [
        f"{report.folder}: {report.images:,} images"
        + (f", {report.classes:,} classes" if report.classes else "")
    ]
    if not report.fetched:
        lines[0] += ", there already"
    if report.images != report.official_images:
        lines[0] += f" (officially {report.official_images:,} images)"
    for file in report.files:
        how = (
            f"{file.checked} as published"
            if file.checked
            else "no published sum to compare it with: keep this one"
        )
        lines.append(f"{file.url}\n  sha256 {file.sha256} ({how})")
    lines.append(f"Next: wingbar index {report.name}.wb {report.folder} --split gallery")
    return "\n".join(lines)
