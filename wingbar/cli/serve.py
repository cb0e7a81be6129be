"""The verbs `serve` and `demo`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from wingbar.cli.output import _list_failures, _print, _progress
from wingbar.errors import WingbarError


def serve(args: argparse.Namespace) -> int:
    """Serve an index: an HTTP API, and a page to search with."""
    _serve(
        Path(args.index),
        host=args.host,
        port=args.port,
        token=args.token or os.environ.get("WINGBAR_TOKEN"),
        read_token=args.read_token or os.environ.get("WINGBAR_READ_TOKEN"),
        public=args.public,
        hosts=tuple(args.allow_host),
        cors=tuple(args.cors),
        open_page=args.open,
        as_json=args.json,
    )
    return 0


def _serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    read_token: str | None = None,
    public: bool = False,
    hosts: tuple[str, ...] = (),
    cors: tuple[str, ...] = (),
    open_page: bool = False,
    as_json: bool = False,
) -> None:
    """Serve until stopped; says where on standard output."""
    try:
        from wingbar.serving import run
        from wingbar.serving.settings import Settings
    except ImportError as error:
        raise WingbarError(
            f"serving needs {error.name}: run pip install 'wingbar[serve]'"
        ) from None

    def started(url: str) -> None:
        text = (
            json.dumps({"url": url})
            if as_json
            else f"wingbar serves {path} at {url}   (Ctrl-C stops it)"
        )
        print(text, flush=True)
        if open_page:
            import webbrowser

            webbrowser.open(url)

    settings = Settings(
        index=path,
        host=host,
        port=port,
        token=token,
        read_token=read_token,
        public=public,
        hosts=hosts,
        cors=cors,
    )
    with suppress(KeyboardInterrupt):  # the way to stop it
        run.run(settings, started)


def demo(args: argparse.Namespace) -> int:
    """Index, search and evaluate real handwritten digits, or your own images, and serve them."""
    from wingbar import demo

    with _progress() as progress:
        shown = demo.run(
            Path(args.output),
            Path(args.images) if args.images else None,
            bits=args.bits,
            progress=progress,
        )
    _list_failures(shown.report.failed)
    code = _print(args, demo.record(shown), demo.text(shown))
    if not args.no_serve and not args.json and sys.stdout.isatty():
        try:
            _serve(shown.index, port=0)
        except WingbarError as error:  # the demo is done; the server is its last page
            print(f"wingbar: {error}", file=sys.stderr)
    return code
