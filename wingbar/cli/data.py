"""The verbs `data list`, `data info` and `data fetch`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from wingbar.cli.options import NOTHING_YET, Group, Verb
from wingbar.cli.output import continuing, print_result, progress_bars, require_folder

if TYPE_CHECKING:
    from wingbar.data.catalogue import FetchReport, KnownDataSet

# -- data list


def list_flags(parser: argparse.ArgumentParser) -> None:
    """`data list` has no flags of its own."""


def list_data_sets(args: argparse.Namespace) -> int:
    """Print one line per known data set."""
    from wingbar.data import catalogue

    known = list(catalogue.DATA_SETS.values())
    record = {"data_sets": [asdict(data) for data in known]}
    print_result(args, record, "\n".join(map(_line, known)))
    return 0


LIST = Verb(
    name="list",
    summary="List the known data sets.",
    examples="wingbar data list",
    flags=list_flags,
    run=list_data_sets,
)


# -- data info


def info_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `data info`."""
    parser.add_argument("name", metavar="NAME", help="a name from wingbar data list")


def describe_data_set(args: argparse.Namespace) -> int:
    """Print where a data set comes from, its licence, and its files with their checksums."""
    from wingbar.data import catalogue

    data = catalogue.get(args.name)
    print_result(args, asdict(data), _description(data))
    return 0


INFO = Verb(
    name="info",
    summary="Show where a data set comes from, its licence, its files and their checksums.",
    examples="wingbar data info cifar-10",
    flags=info_flags,
    run=describe_data_set,
)


# -- data fetch


def fetch_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `data fetch`."""
    parser.add_argument("name", metavar="NAME", help="a name from wingbar data list")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="the folder to create (default: NAME)"
    )
    parser.add_argument(
        "--url",
        default="",
        help="a mirror: the address of the file, or of the folder with the files",
    )


def fetch_data_set(args: argparse.Namespace) -> int:
    """Fetch and unpack a data set, and print what is in it."""
    from wingbar.data import catalogue

    require_folder(args.output or args.name)
    with progress_bars() as progress:
        report = catalogue.fetch(
            args.name, args.output, url=args.url, progress=continuing(args, progress)
        )
    print_result(args, asdict(report), _report_text(report))
    return 0


FETCH = Verb(
    name="fetch",
    summary="Fetch and unpack a data set; continues where it was stopped.",
    examples="wingbar data fetch cifar-10 -o data/cifar-10",
    flags=fetch_flags,
    run=fetch_data_set,
    stopped=NOTHING_YET,
)


# -- all of them

DATA = Group(
    name="data",
    summary="List, describe or fetch the data sets that wingbar knows.",
    examples="wingbar data list\n"
    "wingbar data info cifar-10\n"
    "wingbar data fetch cifar-10 -o data/cifar-10",
    verbs=(LIST, INFO, FETCH),
)


def _line(data: KnownDataSet) -> str:
    from wingbar.data.download import size_text

    how = "by hand" if data.by_hand else size_text(data.size) if data.size else "fetch"
    return (
        f"{data.name:14}  {data.images:>9,} images  {data.classes or '':>6} "
        f"{'classes' if data.classes else '':7}  {how}"
    )


def _description(data: KnownDataSet) -> str:
    from wingbar.data.download import size_text

    lines = [
        f"{data.title}: {_sizes(data.images, data.classes)}",
        f"page      {data.page}",
        f"licence   {data.licence}",
        f"unpacked  about {size_text(data.disk)}",
    ]
    for file in data.files:
        lines.append(f"file      {file.url}" + (f", {file.size:,} bytes" if file.size else ""))
        checksums = (("sha256", file.sha256), ("md5", file.md5))
        known = next((f"{kind} {value}" for kind, value in checksums if value), "no known checksum")
        lines.append(f"          {known}")
    lines += [f"note      {text}" for text in (data.note, data.by_hand) if text]
    return "\n".join(lines)


def _report_text(report: FetchReport) -> str:
    first = f"{report.folder}: {_sizes(report.images, report.classes)}"
    if not report.fetched:
        first += ", fetched before"
    if report.images != report.official_images:
        first += f" (officially {report.official_images:,} images)"
    lines = [first]
    for file in report.files:
        how = (
            f"{file.checked} as published"
            if file.checked
            else "no published checksum to compare with: keep this one"
        )
        lines.append(f"{file.url}\n  sha256 {file.sha256} ({how})")
    lines.append(f"Next: wingbar index {report.name}.wb {report.folder} --split gallery")
    return "\n".join(lines)


def _sizes(images: int, classes: int) -> str:
    """Numbers of images and, where there are labels, of classes."""
    return f"{images:,} images" + (f", {classes:,} classes" if classes else "")
