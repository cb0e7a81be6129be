"""The verbs that tidy an index: `remove`."""

from __future__ import annotations

import argparse
from pathlib import Path

from wingbar.cli.options import Verb
from wingbar.cli.output import LISTED, print_message, print_result
from wingbar.errors import WingbarError, counted, one_line

# -- remove


def remove_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remove`."""
    parser.add_argument("index", metavar="INDEX", help="the index file")
    parser.add_argument(
        "names",
        metavar="PATH",
        nargs="*",
        help="files, or folders with all that is below them; they need not exist any more",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help="only items that match, as label=monarch, path=blue/* or price<20; may be repeated",
    )
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="a text file with one path per line, as wingbar duplicates --drop-list writes it",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and remove nothing"
    )


def remove(args: argparse.Namespace) -> int:
    """Remove items from an index; exit code 2 when a name belongs to no item."""
    from wingbar.index.index import Index

    names = [*args.names, *([] if args.list is None else _listed_in(args.list))]
    if args.list is not None and not names:
        raise WingbarError(f"{args.list} names no file: nothing was removed")
    with Index.open(args.index) as index:
        chosen = index.select(names, where=args.where)
        for name in chosen.missing:
            print_message(f"{args.index} holds nothing of the name {name}")
        if not chosen.ids and args.where and (why := index.why_nothing_passes(args.where)):
            print_message(why)
        if not args.dry_run:
            index.delete(chosen.ids)
        left = len(index)
    head = "would remove" if args.dry_run else "removed"
    text = f"{args.index}: {head} {counted(len(chosen), 'image')}"
    text += f", {left - len(chosen) if args.dry_run else left:,} left"
    lines = [text, *(f"  {path}" for path in chosen.paths[:LISTED])]
    if len(chosen) > LISTED:
        lines.append(f"  and {len(chosen) - LISTED:,} more; --json lists them all")
    record = {
        "index": args.index,
        "removed": 0 if args.dry_run else len(chosen),
        "items": left,
        "paths": list(chosen.paths),
        "ids": list(chosen.ids),
        "missing": list(chosen.missing),
        "dry_run": args.dry_run,
    }
    print_result(args, record, "\n".join(lines))
    return 2 if chosen.missing else 0


REMOVE = Verb(
    name="remove",
    summary="Remove images from an index; their files stay.",
    examples="wingbar remove photos.wb photos/blurred photos/a.jpg\n"
    "wingbar remove shop.wb --where 'price<1' --dry-run",
    flags=remove_flags,
    run=remove,
)


def _listed_in(name: str) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        lines = Path(name).read_text("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        raise WingbarError(f"{name} cannot be read: {error.strerror or one_line(error)}") from None
    return [line.rstrip("\r") for line in lines if line.strip()]
