"""Flags that several verbs share, and the kinds of values they take."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

METHODS = ("cmbh", "dlbhc", "dolg")  # as in methods/__init__.py, which imports PyTorch
PEERS = "flat,multihash,ivf,hnsw,usearch,numpy"  # as in bench.py
PROTOCOLS = ("own", "10k-50k", "1k-5k-54k", "1k-5k-59k", "unseen")  # as in datasets.py
FINE = ("none", "ties", "pool", "asymmetric")  # as in index.py, which is not imported for --help


def _from_flags(kind: Any, args: argparse.Namespace) -> Any:
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


def _add_flags(
    parser: argparse._ArgumentGroup, kind: Any, recipe: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """A flag for each field of a dataclass: its name, type, default (the recipe's, where it has
    one) and help."""
    for field in fields(kind):
        default = recipe.get(field.name, field.default)
        flag, text = (
            "--" + field.name.replace("_", "-"),
            f"{field.metadata['help']} (default {default})",
        )
        if isinstance(field.default, bool):
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=default, help=text
            )
        else:
            parser.add_argument(flag, type=type(field.default), default=default, help=text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _port(text: str) -> int:
    if _count(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _bits(text: str) -> int:
    if not 1 <= _count(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bits from 1 to 1024")
    return int(text)


def _verb(verbs: Any, run: Any, example: str) -> argparse.ArgumentParser:
    """A subcommand named after its function, described by its docstring, its help ending in an
    example."""
    text = run.__doc__.splitlines()[0]
    parser: argparse.ArgumentParser = verbs.add_parser(
        run.__name__,
        help=text,
        description=text,
        epilog="example:\n  " + example.replace("\n", "\n  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--debug", action="store_true", help="print a traceback when something goes wrong"
    )
    parser.set_defaults(run=run)
    return parser


def _sub(whats: Any, name: str, text: str) -> argparse.ArgumentParser:
    """One thing that a verb does, with the flags that every verb has."""
    parser: argparse.ArgumentParser = whats.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--debug", action="store_true", help="print a traceback when something goes wrong"
    )
    return parser


def _protocol_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="own",
        help="how the parts of a data set are made (default own)",
    )


def _ranking_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fine",
        choices=FINE,
        help="second stage: none, ties, pool or asymmetric (default: what the model says)",
    )
    parser.add_argument(
        "--shortlist",
        type=int,
        default=200,
        help="items that --fine pool orders anew (default 200)",
    )
