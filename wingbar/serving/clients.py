"""Connections of clients: how many there may be, and how slow they may be.

Uvicorn ends neither a connection whose client sends its headers for ever nor one whose client never
reads the answer, and accepts as many as there are files. This stands between it and the sockets.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from http import HTTPStatus
from typing import Any, Protocol, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from wingbar.serving.schemas import problem
from wingbar.serving.settings import Limits, parse_address

MOST_HEADERS = 128 * 2**10  # bytes of the headers of one request
LEAST_READ = 16 * 2**10  # bytes of an answer that a client must read in `Limits.seconds`
OTHER_FILES = 128  # files and connections that the process has beside those of clients
FEWEST = 8  # connections, however few files the system allows


class Connections:
    """The open connections of one server.

    When there is no room for another, the one that has kept the server waiting longest is closed in
    its favour: idle, or with a request that is not complete. So clients that only hold connections
    cannot keep others out. When all are at work, the new one gets 503. A client has room for
    `connections_per_client`, unless it is on this machine, as a proxy for many is.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._most = min(limits.connections, max(FEWEST, _most_files() - OTHER_FILES))
        self._open: dict[Connection, str | None] = {}  # with the client that each counts for

    def __len__(self) -> int:
        """Number of open connections."""
        return len(self._open)

    def protocol(self, **given: Any) -> Connection:
        """What Uvicorn calls for every new connection."""
        return Connection(self, cast(_Http, AutoHTTPProtocol(**given)))

    def admit(self, new: Connection, address: str | None) -> bool:
        """Take in a new connection from an IP address, if there is or can be made room for it."""
        client = client_of(address)
        if client is not None:
            same = [one for one, other in self._open.items() if other == client]
            if len(same) >= self.limits.connections_per_client and not self._close_one_of(same):
                return False
        if len(self._open) >= self._most and not self._close_one_of(list(self._open)):
            return False
        self._open[new] = client
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.pop(connection, None)

    def _close_one_of(self, connections: list[Connection]) -> bool:
        waiting = [one for one in connections if one.is_waiting]
        if waiting:
            longest = min(waiting, key=lambda one: one.since)
            self.remove(longest)
            longest.abort()
        return bool(waiting)


class Connection(asyncio.Protocol):
    """Passes everything on to Uvicorn's protocol for one connection, and watches the time.

    since: when the connection was opened or its latest request began, in seconds of the loop.
    """

    def __init__(self, connections: Connections, http: _Http) -> None:
        self._connections, self._http, self._limits = connections, http, connections.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._headers: asyncio.TimerHandle | None = None  # runs while headers are awaited
        self._header_bytes = 0
        self._reading: asyncio.TimerHandle | None = None  # runs while the client should read
        self.since = self._loop.time()

    @property
    def is_waiting(self) -> bool:
        """Whether the server waits for the client: for a request, or for the rest of one."""
        cycle = self._http.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def abort(self) -> None:
        """Close the connection at once, whatever is in its buffers."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request, or refuse the connection."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) and peer else None
        self._http.connection_made(transport)
        if self._connections.admit(self, address):
            self._wait_for_headers()
        else:
            self._refuse(503, "too many connections are open already: try again in a moment")

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, and see whether they complete the headers of a request."""
        before = self._http.cycle
        is_between = before is None or before.response_complete
        self._http.data_received(data)
        if self._http.cycle is not before:
            self.since = self._loop.time()
            self._stop_waiting()
        elif is_between:
            self._header_bytes += len(data)
            if self._header_bytes > MOST_HEADERS:
                self._refuse(431, f"the headers have more than {MOST_HEADERS:,} bytes")
            elif self._headers is None:
                self._wait_for_headers()

    def eof_received(self) -> bool | None:
        """Pass the end of the request on."""
        return self._http.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self.resume_writing()
        self._connections.remove(self)
        self._http.connection_lost(error)

    def pause_writing(self) -> None:
        """More is to be sent than the client has read so far: see to it that it reads on."""
        self._http.pause_writing()
        assert self._transport is not None
        self._watch(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read nearly everything."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
            self._http.resume_writing()

    def _wait_for_headers(self) -> None:
        self._headers = self._loop.call_later(self._limits.header_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        self._header_bytes = 0
        if self._headers is not None:
            self._headers.cancel()
            self._headers = None

    def _too_slow(self) -> None:
        """Say so to a client that has begun a request; browsers also open spare connections."""
        seconds = self._limits.header_seconds
        if self._header_bytes:
            self._refuse(408, f"the headers were not complete after {seconds:g} s: send them again")
        elif self._transport is not None:
            self._transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        transport = self._transport
        self._stop_waiting()
        if transport is None or transport.is_closing():
            return
        answer = problem(status, detail, {"Connection": "close"})
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
        lines += [name + b": " + value for name, value in answer.raw_headers]
        transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        transport.close()

    def _watch(self, unread: int) -> None:
        self._reading = self._loop.call_later(self._limits.seconds, self._check, unread)

    def _check(self, before: int) -> None:
        """Close the connection of a client that has read next to nothing for a while."""
        assert self._transport is not None
        unread = self._transport.get_write_buffer_size()
        if before - unread < LEAST_READ:
            self.abort()
        else:
            self._watch(unread)


def client_of(address: str | None) -> str | None:
    """Whom an IP address stands for: itself, or its network of 64 bits, of which one client has all
    addresses. None for this machine, where a proxy may speak for many clients."""
    parsed = None if address is None else parse_address(address)
    if parsed is None or parsed.is_loopback:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return client_of(str(parsed.ipv4_mapped))
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


class _Cycle(Protocol):
    """What Uvicorn knows about one request: whether the rest of its body is missing, and whether it
    was answered."""

    more_body: bool
    response_complete: bool


class _Http(Protocol):
    """What is used of Uvicorn's protocol; `cycle` is the latest request whose headers are
    complete."""

    cycle: _Cycle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool | None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


def _most_files() -> int:
    """How many files the system lets this process open."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
