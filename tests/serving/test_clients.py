from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from tests.servers import LONG, raw, serving
from wingbar.serving import clients
from wingbar.serving.clients import Connection, Connections, client_of
from wingbar.serving.settings import Limits, Settings

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-a: "


@pytest.fixture
def narrow(shared_index_path: Path) -> Iterator[httpx.Client]:
    """A server with room for 8 connections."""
    limits = Limits(connections=8, header_seconds=LONG)
    with serving(Settings(index=shared_index_path, limits=limits)) as client:
        yield client


def _connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), LONG)


def test_slow_headers_are_ended(shared_index_path: Path) -> None:
    limits = Limits(header_seconds=0.3)
    with serving(Settings(index=shared_index_path, limits=limits)) as client:
        head, _, body = raw(client, HALF).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"application/problem+json" in head
        assert b"0.3 s: send them again" in body
        assert raw(client, b"") == b""  # a spare connection is closed without a word
        with _connect(client) as connection:  # also between two requests
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"}" not in received:
                received += connection.recv(4096)
            connection.sendall(HALF)
            while part := connection.recv(4096):
                received += part
        assert b" 200 OK" in received
        assert b" 408 Request Timeout" in received


def test_endless_headers_are_ended(narrow: httpx.Client) -> None:
    with _connect(narrow) as connection:
        connection.sendall(HALF)
        sent = 0
        with suppress(OSError):  # closed or reset, as the system likes
            while sent < 2**25:
                connection.sendall(b"x" * 2**16)
                sent += 2**16
        assert sent < 2**25


def test_connections_that_wait_make_room_for_others(narrow: httpx.Client) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(_connect(narrow)) for _ in range(40)]
        for connection in held:
            with suppress(OSError):  # it may be closed already
                connection.sendall(HALF)
        url = str(narrow.base_url.join("/healthz"))
        assert httpx.get(url, timeout=LONG).status_code == 200
        for connection in held[:32]:  # the oldest had to go
            with suppress(ConnectionError):
                assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:2", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", None),
        ("::1", None),
        (None, None),
    ],
)
def test_whom_an_address_stands_for(address: str | None, client: str | None) -> None:
    assert client_of(address) == client


class _Transport:
    """A socket of a client at `address` that reads nothing."""

    def __init__(self, address: str) -> None:
        self.address, self.sent, self.is_open, self.unread = address, b"", True, 100_000

    def get_extra_info(self, name: str) -> object:
        return (self.address, 1)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return not self.is_open

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.is_open = False

    abort = close


@contextmanager
def _opener(**limits: Any) -> Iterator[Callable[..., tuple[Connection, _Transport]]]:
    connections = Connections(Limits(**limits))

    def opened(address: str, *, works: bool = False) -> tuple[Connection, _Transport]:
        cycle = SimpleNamespace(more_body=False, response_complete=not works)
        ignore = SimpleNamespace(
            cycle=cycle,
            connection_made=lambda transport: None,
            connection_lost=lambda error: None,
            pause_writing=lambda: None,
            resume_writing=lambda: None,
        )
        connection, transport = Connection(connections, cast(Any, ignore)), _Transport(address)
        connection.connection_made(cast(asyncio.BaseTransport, transport))
        return connection, transport

    yield opened


def test_a_client_has_room_for_few_connections_and_this_machine_for_all() -> None:
    async def check() -> None:
        with _opener(connections=10, connections_per_client=2) as opened:
            _, other = opened("192.0.2.1")
            _, first = opened("192.0.2.7")
            _, second = opened("192.0.2.7", works=True)
            _, third = opened("192.0.2.7", works=True)
            assert [one.is_open for one in (other, first, second, third)] == [
                True,
                False,
                True,
                True,
            ]
            _, fourth = opened("192.0.2.7")
            assert not fourth.is_open
            assert fourth.sent.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            local = [opened("127.0.0.1", works=True)[1] for _ in range(7)]
            assert all(one.is_open for one in local)
            _, last = opened("127.0.0.1", works=True)  # in the place of the one that waits
            assert (last.is_open, other.is_open) == (True, False)
            assert not opened("127.0.0.1")[1].is_open

    asyncio.run(check())


def test_who_does_not_read_the_answer_is_cut_off() -> None:
    async def check() -> None:
        with _opener(seconds=0.05) as opened:
            reads, reader = opened("192.0.2.1", works=True)
            stalls, staller = opened("192.0.2.2", works=True)
            done, finished = opened("192.0.2.3", works=True)
            for connection in (reads, stalls, done):
                connection.pause_writing()
            done.resume_writing()
            reader.unread -= clients.LEAST_READ
            while staller.is_open:
                reader.unread -= clients.LEAST_READ
                await asyncio.sleep(0.01)
            assert reader.is_open
            assert finished.is_open
            for connection in (reads, stalls, done):
                connection.connection_lost(None)

    asyncio.run(asyncio.wait_for(check(), LONG))
