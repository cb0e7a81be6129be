"""The verbs that tidy an index: `remove` and `duplicates`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbar.cli.options import (
    Verb,
    add_encoder_flag,
    add_where_flag,
    positive_number,
    refuse_flags,
    whole_number,
)
from wingbar.cli.output import (
    LISTED,
    print_message,
    print_result,
    progress_bars,
    require_page,
    visible,
)
from wingbar.errors import WingbarError, counted, one_line, shortened
from wingbar.files import kind_of

if TYPE_CHECKING:
    from wingbar.duplicates.find import Copy, Duplicates

GROUPS_LISTED = 10  # on the terminal; --json lists all

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
    add_where_flag(parser)
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="a text file with one path per line, as wingbar duplicates --drop-list writes it",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and remove nothing"
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="remove more than half of an index without a question",
    )


def remove(args: argparse.Namespace) -> int:
    """Remove items from an index; exit code 2 when a name belongs to no item, or none is chosen."""
    from wingbar.index.engine import place_of
    from wingbar.index.index import Index

    place = str(place_of(args.index))  # without its password
    names = [*args.names, *([] if args.list is None else _listed_in(args.list))]
    if args.list is not None and not names:
        raise WingbarError(f"{args.list} names no file: nothing was removed")
    with Index.open(args.index) as index:
        chosen = index.select(names, where=args.where)
        for name in chosen.missing[:LISTED]:
            print_message(f"{place} holds nothing of the name {shortened(name)}")
        if len(chosen.missing) > LISTED:
            more = f"{len(chosen.missing) - LISTED:,} more names"
            print_message(f"{place} holds nothing of {more}; --json lists them all")
        if not chosen.ids and args.where:
            why = index.why_nothing_passes(args.where)
            if why is None and len(chosen.missing) < len(names):
                why = "no item of these names passes the filter, though others do"
            if why is not None:
                print_message(why)
        if not args.dry_run:
            if not args.yes:
                _ask_before_most(place, len(chosen), len(index))
            index.delete(chosen.ids)
        left = len(index)
        noun = "image" if index.model.has_network else "item"
    head = "would remove" if args.dry_run else "removed"
    text = f"{place}: {head} {counted(len(chosen), noun)}"
    text += f", {left - len(chosen) if args.dry_run else left:,} left"
    lines = [text, *(f"  {visible(path)}" for path in chosen.paths[:LISTED])]
    if len(chosen) > LISTED:
        lines.append(f"  and {len(chosen) - LISTED:,} more; --json lists them all")
    record = {
        "index": place,
        "removed": 0 if args.dry_run else len(chosen),
        "items": left,
        "paths": list(chosen.paths),
        "ids": list(chosen.ids),
        "missing": list(chosen.missing),
        "dry_run": args.dry_run,
    }
    print_result(args, record, "\n".join(lines))
    return 2 if chosen.missing or not chosen.ids else 0


def _ask_before_most(name: str, chosen: int, items: int) -> None:
    """Raise WingbarError unless at most half of the items were chosen, or the person at the
    terminal says yes: a folder too far up names all of them."""
    if 2 * chosen <= items:
        return
    what = f"{chosen:,} of the {counted(items, 'image')} in {name}"
    if not sys.stdin.isatty():
        raise WingbarError(
            f"{what} would be removed, more than half: add --yes, or look first with --dry-run"
        )
    print(visible(f"Remove {what}? [y/N] "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise WingbarError("nothing was removed")


REMOVE = Verb(
    name="remove",
    summary="Remove images from an index; their files stay.",
    examples="wingbar remove photos.wb photos/blurred photos/a.jpg\n"
    "wingbar remove shop.wb --where 'price<1' --dry-run",
    flags=remove_flags,
    run=remove,
)


# -- duplicates


def duplicates_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `duplicates`."""
    parser.add_argument("index", metavar="INDEX", help="the index file")
    parser.add_argument(
        "--exact", action="store_true", help="only files of the same content, which takes seconds"
    )
    parser.add_argument(
        "--radius",
        type=int,
        help="largest distance of two codes in bits (default: from the index's own pairs)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        help="least cosine of two features (default: from the index's own pairs)",
    )
    parser.add_argument(
        "--no-pixels",
        action="store_true",
        help="let codes and features decide, and read no picture",
    )
    add_encoder_flag(parser, "whose codes and features find candidates")
    parser.add_argument("--html", metavar="FILE", help="write a page with the pictures")
    parser.add_argument(
        "--drop-list",
        metavar="FILE",
        help="write the paths of all copies but the largest of each group, one per line; - for "
        "standard output",
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="seed of the sample of pairs (default 0)"
    )
    parser.add_argument(
        "--threads",
        type=positive_number,
        help="threads that read and compare pictures (default: one per core)",
    )


def duplicates(args: argparse.Namespace) -> int:
    """Print the groups of copies in an index."""
    from wingbar.duplicates import page
    from wingbar.duplicates.find import DuplicateOptions, find_duplicates
    from wingbar.evaluation.report import check_pages
    from wingbar.files import require_own, write_whole
    from wingbar.index.engine import place_of
    from wingbar.index.index import Index

    place = str(place_of(args.index))  # without its password
    if args.exact:
        flags = ("--radius", "--min-score", "--no-pixels", "--with")
        refuse_flags(args, flags, "is of no use with --exact, which compares contents alone")
    if args.drop_list == "-" and args.json:
        raise WingbarError("--drop-list - and --json both write to standard output: name a file")
    if args.html is not None:
        check_pages()  # before the work, not after it
        require_page(args.html)
    if args.html is not None and args.html == args.drop_list:
        raise WingbarError("--html and --drop-list name one file: give each its own")
    if args.drop_list not in (None, "-"):  # an earlier list begins with a path
        require_own(Path(args.drop_list), os.path.abspath(os.sep).encode())
    options = DuplicateOptions(
        radius=args.radius,
        min_score=args.min_score,
        exact=args.exact,
        pixels=not args.no_pixels,
        seed=args.seed,
    )
    with Index.open(args.index) as opened, progress_bars() as progress:
        index = opened.encoder(args.encoder)
        found = find_duplicates(index, options, threads=args.threads, progress=progress)
    if args.html is not None:
        write_whole(Path(args.html), page.duplicates_page(place, found))
    if args.drop_list is not None:
        lines = _drop_lines(found)
        if args.drop_list == "-":
            print(lines, end="")
            return 0
        write_whole(Path(args.drop_list), lines.encode("utf-8", "surrogateescape"))
    print_result(args, _record(place, found), _duplicates_text(args, place, found))
    return 0


DUPLICATES = Verb(
    name="duplicates",
    summary="Find the copies among the pictures of an index, exact ones and near ones.",
    examples="wingbar duplicates photos.wb --html copies.html\n"
    "wingbar duplicates photos.wb --drop-list drop.txt && "
    "wingbar remove photos.wb --list drop.txt",
    flags=duplicates_flags,
    run=duplicates,
)


def _record(name: str, found: Duplicates) -> dict[str, Any]:
    record = asdict(found)
    groups = record.pop("groups")
    return {"index": name, **record, "copies": len(found.to_drop), "groups": groups}


def _drop_lines(found: Duplicates) -> str:
    """The paths of what can go. A file whose name has a line break cannot be listed, and stays."""
    paths = [copy.path for copy in found.to_drop]
    for path in paths:
        if "\n" in path:
            print_message(f"{path} has a line break in its name and is not listed")
    return "".join(f"{path}\n" for path in paths if "\n" not in path)


def _duplicates_text(args: argparse.Namespace, place: str, found: Duplicates) -> str:
    from wingbar.duplicates.page import bytes_text, freed, intro, undecided

    noun = "image" if found.noun == "picture" else found.noun
    space = f" ({bytes_text(freed(found))})" if freed(found) else ""
    if not found.groups:
        return f"{place}: no copies among {counted(found.items, noun)}.\n{intro(found)}"
    groups = counted(len(found.groups), "group")
    lines = [
        f"{place}: {groups} of copies among {counted(found.items, noun)}; "
        f"{len(found.to_drop):,} can go{space}",
        intro(found),
    ]
    for group in found.groups[:GROUPS_LISTED]:
        lines += [f"  {_copy_text(copy)}" for copy in group[:GROUPS_LISTED]]
        if len(group) > GROUPS_LISTED:
            lines.append(f"  and {len(group) - GROUPS_LISTED:,} more copies")
        lines.append("")
    if len(found.groups) > GROUPS_LISTED:
        lines.append(
            f"and {len(found.groups) - GROUPS_LISTED:,} more groups; --json lists them all"
        )
    lines += undecided(found)
    for flag, what in (("html", "The page is"), ("drop_list", "The list is")):
        if getattr(args, flag) is not None:
            lines.append(f"{what} {getattr(args, flag)}")
    return "\n".join(lines).rstrip()


def _copy_text(copy: Copy) -> str:
    from wingbar.duplicates.page import size_text

    size = f"  ({text})" if (text := size_text(copy)) else ""
    likeness = "" if copy.how in (None, "same file") else f", cosine {copy.score:.2f}"
    return f"{(copy.relation or 'keep') + likeness:28}  {visible(copy.path)}{size}"


def _listed_in(name: str) -> list[str]:
    """The lines of a text file that are not empty. Raises WingbarError for one that holds no
    paths."""
    try:
        with Path(name).open("rb") as file:
            data = file.read(4096)
            if b"\0" in data:  # as no path has
                raise WingbarError(
                    f"{name} is {kind_of(Path(name))}, not a text file with one path per line, as "
                    "wingbar duplicates --drop-list writes it: nothing was removed"
                )
            data += file.read()
    except OSError as error:
        raise WingbarError(f"{name} cannot be read: {error.strerror or one_line(error)}") from None
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    return [line.rstrip("\r") for line in lines if line.strip()]
