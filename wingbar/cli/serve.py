"""The verbs `serve` and `demo`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wingbar.cli.options import Verb, code_length, port_number
from wingbar.cli.output import (
    print_failures,
    print_message,
    print_result,
    progress_bars,
    visible,
)
from wingbar.errors import WingbarError

if TYPE_CHECKING:
    from wingbar.serving.settings import Settings

# -- serve


def serve_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `serve`."""
    from wingbar.serving.settings import Settings

    parser.add_argument(
        "index",
        metavar="INDEX",
        nargs="+",
        help="the index, a file or a URL; several of the same model are served as one",
    )
    parser.add_argument(
        "--host",
        default=Settings.host,
        help=f"address to listen on (default {Settings.host}: this machine only)",
    )
    parser.add_argument(
        "--port",
        type=port_number,
        default=Settings.port,
        help=f"port to listen on; 0 chooses a free one (default {Settings.port})",
    )
    parser.add_argument(
        "--token",
        help="token with which clients may search and change the index (default: $WINGBAR_TOKEN)",
    )
    parser.add_argument(
        "--read-token",
        help="token with which clients may only search (default: $WINGBAR_READ_TOKEN)",
    )
    parser.add_argument(
        "--public", action="store_true", help="anybody who can reach the server may search"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another host name of this server; may be repeated",
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin of other web pages that may use the API; may be repeated",
    )
    parser.add_argument(
        "--allow-index",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder of this machine that the page may index, or one inside it; may be repeated",
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")


def serve(args: argparse.Namespace) -> int:
    """Serve an index until stopped."""
    from wingbar.index.engine import Url, place_of
    from wingbar.serving.settings import Settings

    places = tuple(place_of(name) for name in args.index)
    settings = Settings(
        index=places[0] if len(places) == 1 and not isinstance(places[0], Url) else places,
        host=args.host,
        port=args.port,
        token=args.token or os.environ.get("WINGBAR_TOKEN"),
        read_token=args.read_token or os.environ.get("WINGBAR_READ_TOKEN"),
        public=args.public,
        hosts=tuple(args.allow_host),
        cors=tuple(args.cors),
        index_folders=tuple(map(Path, args.allow_index)),
    )
    _run_server(settings, as_json=args.json, open_page=args.open)
    return 0


SERVE = Verb(
    name="serve",
    summary="Serve an index, or several as one: an HTTP API and a web page.",
    examples="wingbar serve photos.wb --open\n"
    "wingbar serve photos.wb --allow-index ~/Pictures\n"
    "wingbar serve a.wb b.wb postgresql://server/pictures/c\n"
    "wingbar serve photos.wb --host 0.0.0.0 --token $(openssl rand -hex 16)",
    flags=serve_flags,
    run=serve,
)


# -- demo


def demo_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `demo`."""
    parser.add_argument(
        "--no-serve",
        action="store_true",
        help="do not start a server at the end (on a terminal the demo does)",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="use your own folder of images instead of drawn birds"
    )
    parser.add_argument(
        "-o",
        "--output",
        default="wingbar-demo",
        metavar="DIR",
        help="the folder to write to (default wingbar-demo)",
    )
    parser.add_argument("--bits", type=code_length, default=64, help="code length (default 64)")


def demo(args: argparse.Namespace) -> int:
    """Run the demo; on a terminal, end by serving its index, in a browser where there is one."""
    from wingbar import demo
    from wingbar.serving.settings import Settings

    with progress_bars() as progress:
        shown = demo.run(
            Path(args.output),
            Path(args.images) if args.images else None,
            bits=args.bits,
            progress=progress,
        )
    print_failures(shown.report.failed)
    print_result(args, demo.record(shown), demo.text(shown))
    if not args.no_serve and not args.json and sys.stdout.isatty():
        try:
            settings = Settings(index=shown.index, port=0)
            _run_server(settings, as_json=False, open_page=_has_windows())
        except WingbarError as error:  # the demo itself is done
            print_message(str(error))
    return 0


def _has_windows() -> bool:
    """Whether a browser would open in a window, and not in this terminal."""
    return sys.platform in ("win32", "darwin") or bool(
        {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    )


DEMO = Verb(
    name="demo",
    summary="Draw birds, or take your own images: index, search, evaluate and serve them.",
    examples="wingbar demo\nwingbar demo --images photos/",
    flags=demo_flags,
    run=demo,
)


def _run_server(settings: Settings, *, as_json: bool, open_page: bool) -> None:
    """Serve until stopped; print the address once requests are answered."""
    try:
        from wingbar.serving import run
    except ImportError as error:
        raise WingbarError(
            f"serving needs {error.name}: run pip install 'wingbar[serve]'"
        ) from None

    def started(url: str) -> None:
        served = (settings.index,) if isinstance(settings.index, Path) else settings.index
        names = visible(", ".join(map(str, served)))
        text = f"wingbar serves {names} at {url}   (Ctrl-C stops it)"
        print(json.dumps({"url": url}) if as_json else text, flush=True)
        if open_page:
            import webbrowser

            webbrowser.open(url)

    with suppress(KeyboardInterrupt):  # the way to stop it
        run.run(settings, started)
