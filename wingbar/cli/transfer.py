"""The verbs `export-codes` and `import`: items, codes and features out of an index, and back."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from wingbar.cli.options import (
    Verb,
    add_encoder_flag,
    add_features_flag,
    code_length,
    refuse_flags,
    whole_number,
)
from wingbar.cli.output import print_result, visible
from wingbar.errors import counted

# -- export-codes


def export_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `export-codes`."""
    parser.add_argument("index", metavar="INDEX", help="the index file")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="the file to write: .parquet (needs the extra parquet) or .npz",
    )
    add_encoder_flag(parser, "whose codes and features are written")


def export(args: argparse.Namespace) -> int:
    """Write items, codes and features of an index into a file."""
    from wingbar.index.index import Index
    from wingbar.index.transfer import export

    with Index.open(args.index) as index:
        done = export(index.encoder(args.encoder), args.output)
    text = (
        f"{done.file}: {counted(done.items, 'item')} with codes of {counted(done.bits, 'bit')} and "
        f"features of {done.dim:,} numbers"
    )
    print_result(args, asdict(done), text)
    return 0


EXPORT_CODES = Verb(
    name="export-codes",
    summary="Write the items of an index, their codes and features to a Parquet or NumPy file.",
    examples="wingbar export-codes photos.wb -o photos.parquet",
    flags=export_flags,
    run=export,
    stopped="nothing was written",
)


# -- import


def import_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `import`."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a .parquet or .npz file of export-codes, or of your own embeddings: a column "
        "feature, and path or key and label where there are any",
    )
    parser.add_argument(
        "-o", "--output", metavar="INDEX", required=True, help="the index to make; a new file"
    )
    parser.add_argument(
        "--model",
        help="the model, or an index of it, that the file was exported from: keeps its codes, and "
        "is searched by images (default: an index of vectors)",
    )
    parser.add_argument(
        "--bits", type=code_length, help="length of the codes that are learned (default 64)"
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        help="seed of the vectors that codes are learned from (default 0)",
    )
    add_features_flag(parser, "float16")


def import_file(args: argparse.Namespace) -> int:
    """Make an index of a file of embeddings."""
    from wingbar.index.transfer import import_file

    if args.model is not None:
        flags = ("--bits", "--seed")
        refuse_flags(
            args, flags, "is for codes that are learned anew, and --model keeps those of the file"
        )
    done = import_file(
        args.file,
        args.output,
        model=args.model,
        bits=args.bits,
        seed=args.seed,
        features=args.features,
    )
    codes = "codes as they were" if done.kept_codes else "codes learned from the features"
    lines = [
        f"{done.index}: {counted(done.items, 'item')}, {codes} ({counted(done.bits, 'bit')})",
        *(f"Note: {visible(note)}." for note in done.notes),
    ]
    print_result(args, asdict(done), "\n".join(lines))
    return 0


IMPORT = Verb(
    name="import",
    summary="Make an index of a Parquet or NumPy file of embeddings.",
    examples="wingbar import photos.parquet -o copy.wb --model photos.wb\n"
    "wingbar import embeddings.npz -o own.wb && wingbar search own.wb query.npy",
    flags=import_flags,
    run=import_file,
    stopped="no index was made",
)
