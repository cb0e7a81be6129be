"""Run the server: listen on an address, start, stop."""

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
from wingbar.serving.clients import Connections
from wingbar.serving.settings import Settings


def run(settings: Settings, started: Callable[[str], None]) -> None:
    """Serve until stopped by a signal. `started` is called with the URL once requests are answered.

    Raises StoreError when the index cannot be opened, WingbarError when the address is not
    available.
    """
    app = create_app(settings)
    # The products of a search take under a millisecond; a pool of BLAS threads would gain nothing
    # and spin while it waits, on cores that the network needs.
    with bound(settings.host, settings.port) as listening, threadpool_limits(1, user_api="blas"):
        app.state.service.start()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{listening.getsockname()[1]}/"
        _Server(configured(app), lambda: started(url)).run([listening])


def configured(app: FastAPI) -> uvicorn.Config:
    """How Uvicorn runs the app: it logs warnings only, and waits up to 10 s for open requests when
    it stops."""
    # the answer already says what is wrong with a form
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    connections = Connections(app.state.service.limits)
    return uvicorn.Config(
        app,
        http=connections.protocol,  # type: ignore[arg-type]  # Uvicorn only calls it
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=10,
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address. Raises WingbarError when the address is not available."""
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
        is_taken = error.errno == errno.EADDRINUSE
        advice = f"try --port {other}" if is_taken else "choose another --host or --port"
        raise WingbarError(
            f"cannot listen at {host}, port {port} ({error.strerror or error}): {advice}"
        ) from None
    return listening


class _Server(uvicorn.Server):
    """Uvicorn with a callback for when requests are answered."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then call back."""
        await super().startup(sockets)
        if self.started:
            self._on_start()
