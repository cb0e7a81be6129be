"""The command line: one short function a verb. Heavy modules are imported inside them, so that
--help is quick."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

from wingbar import __version__
from wingbar.cli.bench import bench
from wingbar.cli.data import data
from wingbar.cli.evaluate import evaluate
from wingbar.cli.index import index, info, verify
from wingbar.cli.options import (
    METHODS,
    PEERS,
    _add_flags,
    _bits,
    _count,
    _port,
    _positive,
    _protocol_flag,
    _ranking_flags,
    _sub,
    _verb,
)
from wingbar.cli.search import explain, search
from wingbar.cli.serve import demo, serve
from wingbar.cli.train import export, train
from wingbar.errors import WingbarError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 good, 1 something is wrong with the index, 2 wrong
    usage, 130 stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser(arguments).parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # what matters of its remarks is said in the list of failures
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print(
            "wingbar: stopped; what was stored stays, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader has gone; flushing at exit must not fail too
        return 0
    except WingbarError as error:
        return _failed(args, str(error))
    except OSError as error:
        return _failed(args, f"{error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        return _failed(
            args,
            f"a bug in wingbar ({type(error).__name__}: {error}): please report it with what "
            "--debug prints",
        )


def _failed(args: argparse.Namespace, message: str) -> int:
    if args.debug:
        raise  # noqa: PLE0704  # only called while an exception is being handled
    print(f"wingbar: {message}", file=sys.stderr)
    return 2


# -- flags


def _parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The flags of all verbs; those of `train METHOD` only when that is what `arguments` ask for,
    as they need PyTorch."""
    parser = argparse.ArgumentParser(
        prog="wingbar",
        description="Visual search for a folder of images, on an ordinary CPU.",
        epilog=(
            "Start with: wingbar demo\nThen: wingbar index photos.wb photos/ && wingbar "
            "search photos.wb query.jpg"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wingbar {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    p = _verb(
        verbs,
        index,
        "wingbar index photos.wb photos/\nwingbar index photos.wb catalogue.csv --split gallery "
        "--bits 48",
    )
    p.add_argument("index", metavar="INDEX", help="the index file; made when it is not there")
    p.add_argument(
        "images",
        metavar="IMAGES",
        nargs="*",
        help="a folder, a CSV file (path,label,split,...), or image files",
    )
    p.add_argument(
        "--model", help="a model directory, or general (the default): no labels, no training"
    )
    p.add_argument("--bits", type=_bits, help="code length of a label-free index (default 64)")
    p.add_argument(
        "--split",
        default="all",
        help="only this part of a data set: gallery, train, query, val, test (default all)",
    )
    _protocol_flag(p)
    p.add_argument(
        "--seed",
        type=_count,
        default=0,
        help="draws the images that label-free codes are learnt from, and a split (default 0)",
    )
    p.add_argument(
        "--threads", type=_positive, help="threads that decode pictures (default: one a core)"
    )
    p.add_argument(
        "--refit", action="store_true", help="learn label-free codes anew from all that is indexed"
    )

    p = _verb(verbs, search, "wingbar search photos.wb query.jpg -k 5 --where label=monarch")
    p.add_argument("index", metavar="INDEX")
    p.add_argument("images", metavar="IMAGE", nargs="+", help="one or more query images")
    p.add_argument("-k", type=int, default=10, help="how many hits (default 10)")
    p.add_argument("--radius", type=int, help="only items at most so many bits away")
    p.add_argument(
        "--box",
        metavar="X,Y,WIDTH,HEIGHT",
        help="look at this part of the query images only, in pixels",
    )
    _ranking_flags(p)
    p.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help="label=monarch, path=blue/* or price<20; may be repeated",
    )

    p = _verb(verbs, explain, "wingbar explain photos.wb query.jpg -o seen/")
    p.add_argument("index", metavar="INDEX")
    p.add_argument("image", metavar="IMAGE", help="the query")
    p.add_argument("-k", type=int, default=3, help="how many hits (default 3)")
    p.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="write here an overlay (PNG) and the map (.npy) of query and hits",
    )
    p.add_argument(
        "--box", metavar="X,Y,WIDTH,HEIGHT", help="look at this part of the query only, in pixels"
    )
    _ranking_flags(p)

    p = _verb(verbs, evaluate, "wingbar evaluate birds.wb birds/ --json")
    p.add_argument("index", metavar="INDEX", nargs="?")
    p.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="a folder or CSV file with labels; its query, test or val part is searched for",
    )
    p.add_argument(
        "--report", metavar="FILE", help="write a page (HTML) with curves, pictures and every label"
    )
    p.add_argument(
        "--solution",
        metavar="CSV",
        help="score the images of the folder DATA by a solution file of Google Landmarks v2",
    )
    p.add_argument(
        "--whole-queries",
        action="store_true",
        help="revisited Oxford and Paris: do not cut the queries to their boxes",
    )
    p.add_argument(
        "--compare",
        nargs=2,
        metavar="JSON",
        help="compare two measurements instead, each as --json printed it",
    )
    p.add_argument(
        "--gallery-codes",
        choices=("network", "labels"),
        default="network",
        help=(
            "codes of the gallery: what the network gives, or one for each label as in much of "
            "the literature (default network)"
        ),
    )
    p.add_argument(
        "--exhaustive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="rank the whole gallery by features too, which are then all in memory (default yes)",
    )
    p.add_argument(
        "--keep-constant-bits",
        action="store_true",
        help="score a code although some of its bits never change",
    )
    p.add_argument("--split", help="use this part as queries instead")
    _protocol_flag(p)
    p.add_argument(
        "--seed", type=_count, default=0, help="draws what is random in the split (default 0)"
    )
    _ranking_flags(p)

    p = _verb(
        verbs,
        info,
        "wingbar info photos.wb --json\nwingbar info --method cmbh --backbone resnet50 --bits 48 "
        "--classes 200",
    )
    p.add_argument(
        "path", metavar="PATH", nargs="?", help="an index, a model directory, or general"
    )
    p.add_argument(
        "--method", choices=METHODS, help="instead: what this method's network would cost"
    )
    p.add_argument("--backbone", default="resnet50", help="of --method (default resnet50)")
    p.add_argument("--bits", type=_bits, default=48, help="code length, of --method (default 48)")
    p.add_argument(
        "--classes", type=_positive, default=100, help="classes, of --method (default 100)"
    )
    p.add_argument(
        "--size",
        type=_positive,
        default=224,
        help="side of the picture in pixels, of --method (default 224)",
    )

    p = _verb(verbs, verify, "wingbar verify photos.wb && echo fine")
    p.add_argument("index", metavar="INDEX")

    p = _verb(verbs, train, "wingbar train dlbhc photos/ -o models/photos48 --bits 48 --epochs 20")
    p.add_argument(
        "method",
        metavar="METHOD",
        nargs="?",
        help=f"{', '.join(METHODS)}; wingbar train METHOD --help lists its flags",
    )
    p.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="labelled images; of a data set with parts only train is used",
    )
    p.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="the model directory to make"
    )
    p.add_argument("--split", help="learn from this part of DATA instead")
    _protocol_flag(p)
    p.add_argument(
        "--split-seed",
        type=_count,
        default=0,
        help="draws the split, as --seed of index and evaluate (default 0)",
    )
    p.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="begin from a trained model of the same backbone",
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in the output directory",
    )
    p.add_argument(
        "--repeat", metavar="RUN", help="do the run in this directory again, with all it says"
    )
    if list(arguments[:1]) == ["train"] and len(arguments) > 1 and arguments[1] in METHODS:
        from wingbar import methods
        from wingbar.training import run

        p.usage = f"wingbar train {arguments[1]} DATA -o DIR [flags]"
        _add_flags(
            p.add_argument_group(f"flags of {arguments[1]}"), methods.get(arguments[1]).Config
        )
        _add_flags(
            p.add_argument_group("flags of the run"), run.Run, methods.get(arguments[1]).RECIPE
        )

    p = _verb(
        verbs,
        export,
        "wingbar export models/photos48\nwingbar export models/photos48 --int8 --calibrate "
        "photos/ -o models/small",
    )
    p.add_argument(
        "path", metavar="MODEL", help="a run with a checkpoint, or for --int8 a model directory"
    )
    p.add_argument(
        "--int8",
        action="store_true",
        help="write a version of 8 bits, several times faster and smaller",
    )
    p.add_argument(
        "--calibrate", metavar="DIR", help="typical pictures that set the ranges of --int8"
    )
    p.add_argument(
        "--see",
        metavar="HOW",
        help="see pictures in another way: 'square 224', or 'whole 224 0.7,1,1.4' with scales",
    )
    p.add_argument("-o", "--output", metavar="DIR", help="where --int8 and --see write")

    p = _verb(
        verbs,
        bench,
        "wingbar bench encode general photos/ --json\nwingbar bench hamming --items 1000000 "
        "--bits 48 --centres 10000",
    )
    whats = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    p = _sub(whats, "encode", "Images a second of decoding, encoding and both, beside PyTorch.")
    p.add_argument("model", metavar="MODEL", help="a model directory, or general")
    p.add_argument("images", metavar="IMAGES", help="a folder of pictures")
    p = _sub(whats, "search", "A server under load, beside what encoding alone can do.")
    p.add_argument("index", metavar="INDEX")
    p.add_argument(
        "images", metavar="IMAGES", help="a folder of pictures that the clients search for"
    )
    p.add_argument(
        "--clients",
        type=_positive,
        default=32,
        help="clients that ask at the same time (default 32)",
    )
    p.add_argument("--seconds", type=_positive, default=60, help="how long they ask (default 60)")
    p = _sub(
        whats,
        "hamming",
        "Exact Hamming search beside FAISS, usearch and NumPy, on synthetic codes.",
    )
    p.add_argument(
        "--items", type=_positive, default=1_000_000, help="codes in the gallery (default 1000000)"
    )
    p.add_argument("--bits", type=_bits, default=48, help="code length (default 48)")
    p.add_argument(
        "--centres",
        type=_count,
        default=0,
        help="codes fall around so many, as learned ones do (default 0: uniform)",
    )
    p.add_argument(
        "--flip",
        type=float,
        default=0.05,
        help="probability that a bit differs from its centre's (default 0.05)",
    )
    p.add_argument("--k", type=_positive, default=10, help="neighbours (default 10)")
    p.add_argument(
        "--radius", type=_count, default=2, help="of the radius search, inclusive (default 2)"
    )
    p.add_argument(
        "--threads", type=_positive, default=1, help="threads of every contestant (default 1)"
    )
    p.add_argument(
        "--peers",
        default=PEERS,
        help=f"comma list; those not installed are left out (default {PEERS})",
    )
    p.add_argument("--seed", type=_count, default=0, help="draws the codes (default 0)")

    p = _verb(
        verbs,
        data,
        "wingbar data list\nwingbar data info cifar-10\nwingbar data fetch cifar-10 -o "
        "data/cifar-10",
    )
    whats = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    _sub(whats, "list", "The data sets that wingbar knows.")
    p = _sub(whats, "info", "Where a data set comes from, its licence, its files and their sums.")
    p.add_argument("name", metavar="NAME", help="as in wingbar data list")
    p = _sub(whats, "fetch", "Fetch a data set and unpack it; goes on where it was stopped.")
    p.add_argument("name", metavar="NAME", help="as in wingbar data list")
    p.add_argument("-o", "--output", metavar="DIR", help="the folder to make (default: NAME)")
    p.add_argument(
        "--url", default="", help="a mirror: of the file, or of the folder with the files"
    )

    p = _verb(
        verbs,
        serve,
        "wingbar serve photos.wb --open\nwingbar serve photos.wb --host 0.0.0.0 --token "
        "$(openssl rand -hex 16)",
    )
    p.add_argument("index", metavar="INDEX")
    p.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default 127.0.0.1: this machine only)",
    )
    p.add_argument(
        "--port", type=_port, default=8000, help="port; 0 takes a free one (default 8000)"
    )
    p.add_argument(
        "--token", help="whoever sends it may search and change the index (default: $WINGBAR_TOKEN)"
    )
    p.add_argument(
        "--read-token", help="whoever sends it may search only (default: $WINGBAR_READ_TOKEN)"
    )
    p.add_argument(
        "--public", action="store_true", help="anybody who reaches the server may search"
    )
    p.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this server; may be repeated",
    )
    p.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="pages from there may use the API; may be repeated",
    )
    p.add_argument("--open", action="store_true", help="open the page in a browser")

    p = _verb(verbs, demo, "wingbar demo\nwingbar demo --images photos/")
    p.add_argument(
        "--no-serve",
        action="store_true",
        help="do not end in a server; it does so only on a terminal",
    )
    p.add_argument(
        "--images", metavar="DIR", help="show your own folder of images instead of the digits"
    )
    p.add_argument(
        "-o",
        "--output",
        default="wingbar-demo",
        metavar="DIR",
        help="where to write (default wingbar-demo)",
    )
    p.add_argument("--bits", type=_bits, default=64, help="code length (default 64)")
    return parser
