"""The verbs `bench encode`, `bench search` and `bench hamming`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from wingbar.cli.options import (
    Group,
    Verb,
    code_length,
    positive_number,
    refuse_flags,
    whole_number,
)
from wingbar.cli.output import print_result, table_text, value_text

# -- bench encode


def encode_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench encode`."""
    parser.add_argument("model", metavar="MODEL", help="a model directory, or general")
    parser.add_argument("images", metavar="IMAGES", help="a folder of images")


def encode(args: argparse.Namespace) -> int:
    """Print images per second of decoding and encoding."""
    from wingbar.bench import encoding

    record = encoding.encode(args.model, args.images)
    print_result(args, record, table_text(_flat(record)))
    return 0


ENCODE = Verb(
    name="encode",
    summary="Measure decoding and encoding in images per second, beside PyTorch.",
    examples="wingbar bench encode general photos/ --json",
    flags=encode_flags,
    run=encode,
)


# -- bench search


def search_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench search`."""
    parser.add_argument("index", metavar="INDEX", help="the index file")
    parser.add_argument(
        "images", metavar="IMAGES", help="a folder of images that the clients search for"
    )
    parser.add_argument(
        "--clients", type=positive_number, default=32, help="concurrent clients (default 32)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=60,
        help="how long they send requests (default 60)",
    )


def search(args: argparse.Namespace) -> int:
    """Print throughput and latencies of a server under load."""
    from wingbar.bench import server

    record = server.search(args.index, args.images, clients=args.clients, seconds=args.seconds)
    print_result(args, record, table_text(_flat(record)))
    return 0


SEARCH = Verb(
    name="search",
    summary="Measure a server under load, beside what encoding alone can do.",
    examples="wingbar bench search photos.wb photos/ --clients 32 --seconds 60",
    flags=search_flags,
    run=search,
)


# -- bench hamming


def hamming_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench hamming`."""
    from wingbar.bench.hamming import PEERS
    from wingbar.hamming.records import PATHS

    peers = ",".join(PEERS)
    parser.add_argument(
        "--items",
        type=positive_number,
        default=1_000_000,
        help="codes in the gallery (default 1000000)",
    )
    parser.add_argument("--bits", type=code_length, default=48, help="code length (default 48)")
    parser.add_argument(
        "--centres",
        type=whole_number,
        default=0,
        help="number of random codes around which the others cluster, as learned codes do "
        "(default 0: uniform codes)",
    )
    parser.add_argument(
        "--flip",
        type=float,
        default=0.05,
        help="probability that a bit differs from its centre's (default 0.05)",
    )
    parser.add_argument(
        "--k", type=positive_number, default=10, help="number of neighbours (default 10)"
    )
    parser.add_argument(
        "--radius",
        type=whole_number,
        default=2,
        help="radius of the range search in bits, inclusive (default 2)",
    )
    parser.add_argument(
        "--threads", type=positive_number, default=1, help="threads of each library (default 1)"
    )
    parser.add_argument(
        "--path",
        choices=PATHS,
        default="auto",
        help="how wingbar searches: probing tables of substrings, scanning bit planes or words (or "
        "whichever of the two this CPU does faster), numpy; auto chooses for each query",
    )
    parser.add_argument(
        "--peers",
        default=peers,
        help=f"comma-separated list; libraries not installed are skipped (default {peers})",
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="seed of the codes (default 0)"
    )


def hamming(args: argparse.Namespace) -> int:
    """Print times of exact Hamming search."""
    from wingbar.bench import hamming

    if not args.centres:
        refuse_flags(args, ["--flip"], "is for clustered codes, with --centres")
    record = hamming.hamming(
        args.items,
        args.bits,
        centres=args.centres,
        flip=args.flip,
        k=args.k,
        radius=args.radius,
        threads=args.threads,
        path=args.path,
        peers=tuple(args.peers.split(",")) if args.peers else (),
        seed=args.seed,
    )
    print_result(args, record, table_text(_flat(record)))
    return 0


HAMMING = Verb(
    name="hamming",
    summary="Measure exact Hamming search beside FAISS, usearch and NumPy, on synthetic codes.",
    examples="wingbar bench hamming --items 1000000 --bits 48 --centres 10000",
    flags=hamming_flags,
    run=hamming,
)


# -- all of them

BENCH = Group(
    name="bench",
    summary="Benchmark encoding, Hamming search or a server beside other libraries.",
    examples="wingbar bench encode general photos/ --json\n"
    "wingbar bench hamming --items 1000000 --bits 48 --centres 10000",
    verbs=(ENCODE, SEARCH, HAMMING),
)


def _flat(record: Mapping[str, object]) -> dict[str, object]:
    """A record without records inside: each of their entries gets a line of its own."""
    flat: dict[str, object] = {}
    for key, value in record.items():
        if not isinstance(value, dict):
            flat[key] = value
            continue
        for name, inner in value.items():
            flat[f"{key} {name}"] = value_text(inner)
    return flat
