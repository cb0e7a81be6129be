"""Verbs as records, the flags that several verbs share, and the kinds of values that flags take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from wingbar.errors import WingbarError

# -- verbs


CONTINUES = "what was stored is kept, and the same command continues from there"
_DESTINATIONS = {"--for": "purpose", "--with": "encoder", "--from": "start"}
NOTHING_YET = "nothing was stored yet; the same command begins again"


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line: `wingbar NAME ...`.

    name: the word that is typed.
    summary: one sentence for the help.
    examples: command lines at the end of its help, one per line.
    flags: gives a parser the flags of the verb. It is called only when the verb is asked for, so
        it may import the constants that the flags show.
    run: does the work with the parsed flags and returns the exit code.
    stopped: what is said when Ctrl-C ends it, where there is something to say.
    method_flags: for a verb whose first argument is a METHOD: gives a parser the flags of that
        method, and as the default of `elsewhere` what to say of flags that others have.
    """

    name: str
    summary: str
    examples: str
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    stopped: str = ""
    method_flags: Callable[[argparse.ArgumentParser, str], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """A word that verbs of its own follow: `wingbar NAME VERB ...`. Its fields are as in Verb."""

    name: str
    summary: str
    examples: str
    verbs: Sequence[Verb]


# -- flags


def add_features_flag(parser: argparse.ArgumentParser, default: str | None) -> None:
    """--features: how a new file keeps them."""
    from wingbar.index.kept import KEPT

    parser.add_argument(
        "--features",
        choices=KEPT,
        default=default,
        help="how a new index keeps features: as float16 (the default; a copy, as its source "
        "does), or as int8 in half the room, at a small cost of the ranking by features",
    )


def add_protocol_flag(parser: argparse.ArgumentParser) -> None:
    """--protocol, one of data.protocols.PROTOCOLS."""
    from wingbar.data.protocols import PROTOCOLS

    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="own",
        help="how a data set is split into parts (default own: as published)",
    )


def add_multi_label_flag(parser: argparse.ArgumentParser) -> None:
    """--multi-label, as in data.readers.read_dataset."""
    parser.add_argument(
        "--multi-label",
        action="store_true",
        help="a label such as cat|dog is two labels, and images match when they share one; lists "
        "with several ones in a line need no such flag",
    )


def add_all_flag(parser: argparse.ArgumentParser) -> None:
    """--all, for verbs that print only the gist of a long record."""
    parser.add_argument("--all", action="store_true", help="print every figure, one per line")


def add_where_flag(parser: argparse.ArgumentParser) -> None:
    """--where, for verbs that are about some of the items."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help="only items that match, as label=monarch, path=blue/* or price<20; may be repeated",
    )


def add_encoder_flag(parser: argparse.ArgumentParser, what: str) -> None:
    """--with: which of two encoders. `what` says what it does."""
    parser.add_argument(
        "--with",
        dest="encoder",
        metavar="NAME",
        help=f"of an index with two encoders, {what} (default: the first)",
    )


def add_ranking_flags(parser: argparse.ArgumentParser) -> None:
    """--fine, --shortlist and --expand, as in index.ranking.SearchOptions."""
    from wingbar.index.ranking import FINE, SearchOptions

    parser.add_argument(
        "--fine",
        choices=FINE,
        help="fine mode: how the fine stage ranks (default: the model's own)",
    )
    parser.add_argument(
        "--shortlist",
        type=positive_number,
        default=SearchOptions.shortlist,
        help="number of nearest codes that the fine stage re-ranks "
        f"(default {SearchOptions.shortlist})",
    )
    parser.add_argument(
        "--expand",
        type=int,
        metavar="K",
        help="average each query with its K nearest neighbours in the index, which finds more of "
        "its kind (default: 0, but 10 in an index for classes)",
    )


def refuse_flags(args: argparse.Namespace, flags: Iterable[str], reason: str) -> None:
    """Raise WingbarError where one of these flags of the verb, as "--html", was given: what would
    not be heeded is refused. `reason` says after its name why it is of no use."""
    for flag in flags:
        name = _DESTINATIONS.get(flag, flag.lstrip("-").replace("-", "_"))
        if getattr(args, name) != args.verb.get_default(name):
            raise WingbarError(f"{flag} {reason}: leave it out")


def refuse_idle_shortlist(args: argparse.Namespace) -> None:
    """Raise WingbarError for a --shortlist that no fine stage would order."""
    if args.fine == "none":
        refuse_flags(args, ["--shortlist"], "is for a fine stage, and --fine none has none")


def add_field_flags(
    parser: argparse._ArgumentGroup, record: Any, defaults: Mapping[str, Any]
) -> None:
    """One flag per field of a dataclass: its name, type, default and help. `defaults` override
    those of the fields."""
    for field in fields(record):
        flag = flag_of(field.name)
        default = defaults.get(field.name, field.default)
        text = f"{field.metadata['help']} (default {default})"
        if isinstance(field.default, bool):
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=default, help=text
            )
        else:
            parser.add_argument(flag, type=type(field.default), default=default, help=text)


def from_field_flags(record: Any, args: argparse.Namespace) -> Any:
    """The dataclass `record` made of the flags that `add_field_flags` added for it."""
    values = {field.name: getattr(args, field.name) for field in fields(record)}
    try:
        return record(**values)
    except WingbarError as error:
        name, _, rest = str(error).partition(" ")
        if name not in values:
            raise
        raise type(error)(f"{flag_of(name)} {rest}") from None


def flag_of(name: str) -> str:
    """The flag of a field, as it is typed."""
    return "--" + name.replace("_", "-")


# -- kinds of values; argparse puts the flag before their messages


def whole_number(text: str) -> int:
    """A number from 0 up."""
    return _number(text, 0, None, "a whole number of at least 0")


def positive_number(text: str) -> int:
    """A number from 1 up."""
    return _number(text, 1, None, "a whole number of at least 1")


def port_number(text: str) -> int:
    """A TCP port; 0 stands for any free one."""
    return _number(text, 0, 65_535, "a port from 0 to 65535")


def code_length(text: str) -> int:
    """Bits of a code."""
    return _number(text, 1, 1024, "a number of bits from 1 to 1024")


def _number(text: str, low: int, high: int | None, kind: str) -> int:
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
    return int(text)
