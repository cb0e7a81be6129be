"""The verbs `copy` and `backup`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from wingbar.cli.options import NOTHING_YET, Verb, add_features_flag
from wingbar.cli.output import continuing, print_result, progress_bars
from wingbar.errors import counted

# -- copy


def copy_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `copy`."""
    parser.add_argument(
        "source",
        metavar="FROM",
        help="the index, a file or a URL such as postgresql://HOST/DATABASE/NAME; it may be in use",
    )
    parser.add_argument(
        "target",
        metavar="TO",
        help="a file or a URL where there is nothing yet, or an unfinished or older copy of FROM, "
        "which is brought up to date",
    )
    add_features_flag(parser, None)
    parser.add_argument(
        "--with",
        dest="encoder",
        metavar="NAME",
        help="of an index with two encoders, copy what this one has encoded, without the other "
        "(default: both, into a file)",
    )


_HALF_COPIED = "Warning: {source} is a copy that was stopped itself: both may lack items."


def copy(args: argparse.Namespace) -> int:
    """Copy an index from one store to another, and compare the two."""
    from wingbar.index.copy import copy
    from wingbar.index.engine import place_of

    source, target = place_of(args.source), place_of(args.target)
    with progress_bars() as progress:
        report = copy(
            source,
            target,
            features=args.features,
            encoder=args.encoder,
            progress=continuing(args, progress),
        )
    parts = [f"{report.copied:,} copied"]
    parts += [f"{report.present:,} there already"] if report.present else []
    parts += [f"{report.removed:,} removed"] if report.removed else []
    lines = [
        f"{target} is a copy of {source}: {counted(report.items, 'image')} ({', '.join(parts)}) in "
        f"{report.seconds:.1f} s",
        f"Number and checksum are the same on both sides: {report.checksum[:16]}.",
    ]
    if report.rounded:
        lines.append(
            f"Features were rounded to int8, as {target} keeps them, and compared as rounded; the "
            "codes are the same."
        )
    if report.half_copied:
        lines.append(_HALF_COPIED.format(source=source))
    print_result(
        args,
        {"source": str(source), "target": str(target), **asdict(report)},
        "\n".join(lines),
    )
    return 0


COPY = Verb(
    name="copy",
    summary="Copy an index into another file or store, and check the copy.",
    examples="wingbar copy photos.wb postgresql://server/pictures/photos\n"
    "wingbar copy postgresql://server/pictures/photos photos.wb",
    flags=copy_flags,
    run=copy,
    stopped=NOTHING_YET,
)


# -- backup


def backup_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `backup`."""
    parser.add_argument("index", metavar="INDEX", help="the index, a file or a URL; may be in use")
    parser.add_argument("file", metavar="FILE", help="the file to write")
    parser.add_argument(
        "--replace", action="store_true", help="replace FILE, once the new backup is complete"
    )


def backup(args: argparse.Namespace) -> int:
    """Write an index as it is at one moment into a file."""
    from wingbar.data.download import size_text
    from wingbar.index.copy import backup
    from wingbar.index.engine import place_of

    source = place_of(args.index)
    with progress_bars() as progress:
        report = backup(source, args.file, replace=args.replace, progress=progress)
    text = (
        f"{args.file}: {counted(report.items, 'image')} of {source}, {size_text(report.bytes)}, "
        f"every checksum right, in {report.seconds:.1f} s"
    )
    if report.half_copied:
        text += "\n" + _HALF_COPIED.format(source=source)
    print_result(args, {"index": str(source), "file": args.file, **asdict(report)}, text)
    return 0


BACKUP = Verb(
    name="backup",
    summary="Write an index into a file while it is in use, and check the file.",
    examples="wingbar backup photos.wb /backups/photos-monday.wb --replace",
    flags=backup_flags,
    run=backup,
    stopped="nothing was written",
)
