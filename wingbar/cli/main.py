"""The command `wingbar`: its verbs, its exit codes, and one line per error."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from typing import Any, NoReturn

from wingbar import __version__
from wingbar.cli import (
    bench,
    copy,
    data,
    evaluate,
    index,
    model,
    search,
    serve,
    tidy,
    train,
    transfer,
)
from wingbar.cli.options import Group, Verb
from wingbar.cli.output import print_message, visible
from wingbar.errors import MachineWarning, OutdatedWarning, WingbarError, shortened

VERBS: tuple[Verb | Group, ...] = (
    index.INDEX,
    search.SEARCH,
    search.EXPLAIN,
    evaluate.EVALUATE,
    index.INFO,
    tidy.REMOVE,
    tidy.DUPLICATES,
    transfer.EXPORT_CODES,
    transfer.IMPORT,
    index.VERIFY,
    copy.COPY,
    copy.BACKUP,
    train.TRAIN,
    train.EXPORT,
    model.MODEL,
    bench.BENCH,
    data.DATA,
    serve.SERVE,
    serve.DEMO,
)


EXTRAS = {  # what an optional package is installed with
    "torch": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "scipy": "train",
    "jinja2": "report",
    "matplotlib": "report",
    "sklearn": "report",
}


GREETING = """Visual search for a folder of images, on an ordinary CPU. Start with one of these:

  wingbar demo                          search drawn birds, to see what it does
  wingbar index photos.wb photos/       make an index of a folder of images
  wingbar search photos.wb query.jpg    find the images most similar to this one

wingbar --help lists all commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without one, say how to start.

    0: done. 1: `verify` found a damaged index. 2: wrong usage or an error, told in one line on
    standard error. 130: stopped by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(_with_help_last(arguments))
    except KeyboardInterrupt:  # before the verb has begun
        return 130
    except ModuleNotFoundError as error:
        extra = _extra_of(error)
        if extra is None or "--debug" in arguments:
            raise
        print_message(f"this needs {error.name}: run pip install 'wingbar[{extra}]'")
        return 2


def _run(arguments: Sequence[str]) -> int:
    """Run the command that these arguments name."""
    if not arguments:
        print(GREETING)
        return 0
    parser = parser_for(arguments)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(_no_argument(args, unknown))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    # Pictures that Pillow cannot read are listed as failures; its other warnings are noise.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        with _messages_of_warnings():
            return int(args.run(args))
    except KeyboardInterrupt:
        print_message(f"stopped; {args.stopped}" if args.stopped else "stopped")
        return 130
    except BrokenPipeError:
        # The reader has gone: flushing at exit must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except WingbarError as error:
        return _failed(args, str(error))
    except OSError as error:
        return _failed(args, f"{error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        if _extra_of(error) is not None:
            raise
        return _failed(
            args,
            f"a bug in wingbar ({type(error).__name__}: {error}): please report it with the "
            "traceback that --debug prints",
        )


def _extra_of(error: Exception) -> str | None:
    """The extra of EXTRAS that brings what could not be imported; None for other errors."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    return EXTRAS.get((error.name or "").split(".")[0])


@contextmanager
def _messages_of_warnings() -> Iterator[None]:
    """Warnings about an index are printed once, in one line; all others as Python prints them."""
    with warnings.catch_warnings():
        ours = (MachineWarning, OutdatedWarning)
        for kind in ours:
            warnings.simplefilter("always", kind)
        others, told = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if not issubclass(category, ours):
                others(message, category, *rest, **more)
            elif str(message) not in told:
                told.add(str(message))
                print_message(str(message))

        warnings.showwarning = show
        yield


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and the next step. A verb's arguments may stand before,
    between and after its flags.

    has_verbs: whether a verb follows, which begins what another parser reads.
    """

    has_verbs = False
    _looks_between = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as usual; where words are left over, look for arguments between the flags too."""
        parsed, left = super().parse_known_args(args, namespace)
        if not left or self.has_verbs or self._looks_between:
            return parsed, left
        self._looks_between = True  # parse_known_intermixed_args calls this method
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._looks_between = False

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, and exit with 2."""
        said = shortened(_in_words(message))
        self.exit(2, f"{self.prog}: {visible(said)}; see {self.prog} --help\n")


def _with_help_last(arguments: Sequence[str]) -> Sequence[str]:
    """The same, but `wingbar help search` and `wingbar -h search` are `wingbar search --help`.
    What follows and would not be heeded is refused."""
    first, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if first == "--version" and rest:
        _refuse(f"wingbar --version takes nothing more: leave {_quoted(rest[0])} out")
    if first not in ("help", "-h", "--help"):
        return arguments
    words = _words_of_verb(rest)
    if len(words) < len(rest):
        asked = " ".join(["wingbar help", *words])
        _refuse(f"{asked} takes nothing more: leave {_quoted(rest[len(words)])} out")
    return [*rest, "--help"]


def _words_of_verb(arguments: Sequence[str]) -> Sequence[str]:
    """Those of the first arguments that have a help: a verb, one of its verbs, a METHOD."""
    if not arguments or arguments[0].startswith("-"):
        return []
    verb = next((verb for verb in VERBS if verb.name == arguments[0]), None)
    if verb is None:
        return arguments  # which says what verbs there are
    has_more = isinstance(verb, Group) or verb.method_flags is not None
    return arguments[: 2 if has_more else 1]


def _refuse(said: str) -> NoReturn:
    """Say in one line what is wrong with a command, and exit with 2."""
    print_message(said)
    raise SystemExit(2)


def _quoted(word: str) -> str:
    """A word that was typed, in quotes and on one line."""
    return f"'{visible(shortened(word))}'"


def _in_words(message: str) -> str:
    """An error of argparse in plain words, with a value that is spelled alike."""
    import re
    from difflib import get_close_matches

    missing = re.fullmatch("the following arguments are required: (.*)", message)
    if missing:
        names = [name.split("/")[-1] for name in missing[1].split(", ")]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    about = re.fullmatch("argument ([^:]*): (.*)", message, re.DOTALL)
    if not about:
        return message
    flag, wrong = about[1].split("/")[-1], about[2]
    if wrong == "expected one argument":
        return f"{flag} needs a value; one that begins with - is written {flag}=-1"
    if re.match("ignored explicit argument", wrong):
        return f"{flag} takes no value"
    choice = re.fullmatch(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", wrong, re.DOTALL)
    if choice:
        choices = choice[2].replace("'", "").split(", ")
        near = get_close_matches(choice[1], choices, n=1)
        said = f"{flag} is one of {', '.join(choices)}, not {choice[1]!r}"
        return said + (f": did you mean {near[0]}?" if near else "")
    number = re.fullmatch("invalid (int|float) value: (.*)", wrong, re.DOTALL)
    if number:
        return f"{flag}: {number[2]} is not a {'whole ' if number[1] == 'int' else ''}number"
    return f"{flag}: {wrong}"


def parser_for(arguments: Sequence[str]) -> _Parser:
    """A parser for these arguments: it knows all verbs, and the flags of the one that they name."""
    parser = _Parser(
        prog="wingbar",
        description="Visual search for a folder of images, on an ordinary CPU.",
        epilog="Start with: wingbar demo\n"
        "Then: wingbar index photos.wb photos/ && wingbar search photos.wb query.jpg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wingbar {__version__}")
    _add_common_flags(parser)
    parser.set_defaults(json=False, debug=False)
    _add_verbs(parser, VERBS, arguments)
    return parser


def _add_verbs(parser: _Parser, verbs: Sequence[Verb | Group], arguments: Sequence[str]) -> None:
    """Subcommands for `verbs`; the one that `arguments` name first gets its flags too."""
    words = list(dropwhile(lambda argument: argument.startswith("-"), arguments))  # as --json
    asked, rest = (words[0], words[1:]) if words else ("", [])
    names = [verb.name for verb in verbs]
    if asked and asked not in names:
        _refuse(_no_verb(parser.prog, asked, names))
    for word in [] if asked else arguments:
        if not any(flag.startswith(word) for flag in _flags(parser)):
            _refuse(_no_flag(parser, word))
    parser.has_verbs = True
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for verb in verbs:
        added = subparsers.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.summary,
            epilog="example:\n  " + verb.examples.replace("\n", "\n  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if verb.name != asked:
            continue
        _add_common_flags(added)
        if isinstance(verb, Group):
            _add_verbs(added, verb.verbs, rest)
            continue
        added.set_defaults(run=verb.run, verb=added, stopped=verb.stopped)
        verb.flags(added)
        if verb.method_flags is not None and rest:
            verb.method_flags(added, _method_of(added, rest))


def _method_of(parser: argparse.ArgumentParser, rest: Sequence[str]) -> str:
    """The METHOD among the arguments of a verb: the first of them, or the one behind flags that all
    methods have."""
    if not rest[0].startswith("-") or {"-h", "--help"} & set(rest):
        return rest[0]
    from wingbar import methods

    found = parser.parse_known_args(list(rest))[0].method
    return found if found in methods.NAMES else rest[0]


def _no_verb(command: str, asked: str, names: Sequence[str]) -> str:
    """What to say about a word that is no verb of `command`: a verb that is spelled alike, or all
    of them."""
    from difflib import get_close_matches

    near = get_close_matches(asked, names, n=1)
    said = f"{command} has no verb {_quoted(asked)}: "
    return said + (f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}")


def _no_argument(args: argparse.Namespace, unknown: Sequence[str]) -> str:
    """What to say about arguments that the verb does not take."""
    verb: argparse.ArgumentParser = args.verb
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is not None:
        flag = flag.split("=")[0]
        elsewhere = getattr(args, "elsewhere", {}).get(flag)
        return f"{flag} {elsewhere}" if elsewhere else _no_flag(verb, flag)
    return f"{verb.prog} does not take {_quoted(unknown[0])}: --help shows what it takes"


def _no_flag(parser: argparse.ArgumentParser, word: str) -> str:
    """What to say about a flag that a command does not have: one that is spelled alike."""
    from difflib import get_close_matches

    flag = word.split("=")[0]
    near = [known for known in _flags(parser) if known == flag[1:]]  # --k
    near += get_close_matches(flag, _flags(parser), n=1, cutoff=0.7)
    said = f"{parser.prog} has no flag {visible(shortened(flag))}: "
    return said + (f"did you mean {near[0]}?" if near else "--help lists those it has")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """The flags of a command, as they are typed."""
    import re

    return re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", parser.format_help())


def _add_common_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every verb; their defaults are the top parser's."""
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print the traceback of an error",
    )


def _failed(args: argparse.Namespace, message: str) -> int:
    """Report the exception that is being handled: in one line, or with --debug as it is."""
    if args.debug:
        raise  # noqa: PLE0704
    print_message(message)
    return 2
