"""The verb `bench`."""

from __future__ import annotations

import argparse

from wingbar.cli.output import _print, _record_lines


def bench(args: argparse.Namespace) -> int:
    """Measure encoding, Hamming search or a server, beside peers in the same run."""
    from wingbar.bench import encoding, hamming, server

    if args.what == "encode":
        record = encoding.encode(args.model, args.images)
    elif args.what == "search":
        record = server.search(args.index, args.images, clients=args.clients, seconds=args.seconds)
    else:
        record = hamming.hamming(
            args.items,
            args.bits,
            centres=args.centres,
            flip=args.flip,
            k=args.k,
            radius=args.radius,
            threads=args.threads,
            peers=tuple(args.peers.split(",")) if args.peers else (),
            seed=args.seed,
        )
    return _print(args, record, "\n".join(_record_lines(record)))
