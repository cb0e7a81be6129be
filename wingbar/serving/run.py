"""Run the server: bind the address, start, stop."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from wingbar.errors import WingbarError
from wingbar.serving.app import create_app
from wingbar.serving.settings import Settings

# -- run


def run(settings: Settings, started: Callable[[str], None]) -> None:
    """Serve until stopped by a signal. `started` gets the URL once requests are answered.

    Raises StoreError when the index cannot be opened, WingbarError when the address cannot be had.
    """
    app = create_app(settings)
    # A pool of BLAS would spin while it waits, on cores that the network needs, for products that
    # take no millisecond.
    with bound(settings.host, settings.port) as listening, threadpool_limits(1, user_api="blas"):
        app.state.service.start()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        _Server(
            configured(app), lambda: started(f"http://{host}:{listening.getsockname()[1]}/")
        ).run([listening])


def configured(app: FastAPI) -> uvicorn.Config:
    """How Uvicorn runs the app: it says no more than necessary, and a stop waits for requests in
    work, but not for ever."""
    logging.getLogger("python_multipart").setLevel(
        logging.ERROR
    )  # what is wrong with a form is in the answer
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=10,
    )


class _Server(uvicorn.Server):
    """Uvicorn, which says when it answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._say()


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address. Raises WingbarError when that cannot be had."""
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        other = port + 1 if port < 65_535 else port - 1
        advice = (
            f"try --port {other}"
            if error.errno == errno.EADDRINUSE
            else "name another --host or --port"
        )
        raise WingbarError(
            f"cannot listen at {host}, port {port} ({error.strerror or error}): {advice}"
        ) from None
    return listening
