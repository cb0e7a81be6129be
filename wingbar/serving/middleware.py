"""Who may ask the server what (hosts, origins, tokens), how many bytes and seconds a request may
take, and metrics."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import urlsplit

import prometheus_client
from cachetools import LRUCache
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from wingbar.serving.batching import BusyError
from wingbar.serving.clients import client_of
from wingbar.serving.encoder import TooLargeError
from wingbar.serving.logs import in_log, traceback_in_log
from wingbar.serving.schemas import MOST_JSON, problem
from wingbar.serving.service import Service
from wingbar.serving.settings import Settings, parse_address

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src "
    "'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
FORM_OVERHEAD = 64 * 2**10  # bytes that a form may have in addition to its pictures
SEVERAL = 4  # a request with several pictures may have this many times the bytes of one
DROP_SECONDS = 10.0  # for which the rest of a body is read and dropped before the answer
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # buckets
BEARER = HTTPBearer(auto_error=False, description="The token that the server was started with.")
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="wingbar"'}
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
log = logging.getLogger(__name__)
JSON = "application/json"
FREE_GUESSES = 10  # wrong tokens that a client may send in a row before it has to wait
LONGEST_WAIT = 5.0  # seconds
MOST_GUESSERS = 10_000  # clients that are remembered


def content_type(headers: Headers) -> str:
    """The media type of a body in lower case, without parameters; empty if none was sent."""
    return headers.get("content-type", "").split(";")[0].strip().lower()


class Access:
    """Checks of the bearer token, as dependencies of routes."""

    def __init__(self, settings: Settings, service: Service) -> None:
        self._settings, self._service = settings, service
        self._brake = Brake()

    async def read(self, request: Request, credentials: Credentials) -> None:
        """Raises HTTPException 401 if searching needs a token and this is not one."""
        settings = self._settings
        if settings.reading_needs_token and not await self._is_one_of(
            request, credentials, settings.token, settings.read_token
        ):
            raise HTTPException(
                401,
                "searching needs the server's token: send Authorization: Bearer TOKEN",
                CHALLENGE,
            )

    async def write(self, request: Request, credentials: Credentials) -> None:
        """Raises HTTPException 401 without a token, 403 if this token or the whole server may not
        write."""
        settings = self._settings
        if not settings.writing_allowed:
            raise HTTPException(
                403, "this server allows no changes: start it with --token to allow them"
            )
        if settings.token is not None and not (
            await self._is_one_of(request, credentials, settings.token, settings.read_token)
            and _is_one_of(credentials, settings.token)
        ):
            if _is_one_of(credentials, settings.read_token):
                raise HTTPException(
                    403, "this token allows to search only: changes need the other one"
                )
            raise HTTPException(
                401, "changes need the server's token: send Authorization: Bearer TOKEN", CHALLENGE
            )
        if self._service.is_sharded:
            raise HTTPException(
                403,
                "a server of several indexes, or of one on a server, changes none of them: use "
                "wingbar index, or serve the file alone",
            )
        if not self._service.writable:
            raise HTTPException(
                403,
                f"{self._service.path.name} is read-only: the server may not write to it or its "
                "folder",
            )

    async def _is_one_of(
        self, request: Request, credentials: Credentials, *tokens: str | None
    ) -> bool:
        """Whether one of the tokens was sent; slow for a client that has sent many wrong ones."""
        if credentials is None:
            return False  # nobody guessed
        address = None if request.client is None else request.client.host
        client = client_of(address) or "this machine"
        await asyncio.sleep(self._brake.seconds(client))
        is_right = _is_one_of(credentials, *tokens)
        if not is_right:
            self._brake.count(client)
        return is_right


class Brake:
    """Slows down clients that guess tokens.

    Each wrong token raises the level of a client by 1, each second lowers it by 1. Above
    FREE_GUESSES every check of this client waits before it looks at the token, for a right one as
    for a wrong one, so that the time tells nothing. It never refuses: who shares an address with a
    guesser waits LONGEST_WAIT at most, and other clients do not wait at all.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # of each client, its level and when it was so high
        self._levels: LRUCache[str, tuple[float, float]] = LRUCache(MOST_GUESSERS)

    def seconds(self, client: str) -> float:
        """How long a check for this client waits."""
        return min(LONGEST_WAIT, max(0.0, self._level(client) - FREE_GUESSES) / FREE_GUESSES)

    def count(self, client: str) -> None:
        """Count a wrong token."""
        level = min(self._level(client) + 1, (LONGEST_WAIT + 1) * FREE_GUESSES)
        self._levels[client] = level, self._now()

    def _level(self, client: str) -> float:
        level, then = self._levels.get(client, (0.0, 0.0))
        return max(0.0, level - (self._now() - then))


def _is_one_of(credentials: HTTPAuthorizationCredentials | None, *tokens: str | None) -> bool:
    """Whether one of the tokens was sent; takes the same time for every token and wherever it
    differs."""
    sent = "" if credentials is None else credentials.credentials
    given = sent.encode("utf-8", "surrogateescape")
    same = [secrets.compare_digest(given, token.encode()) for token in tokens if token is not None]
    return any(same)


class Metrics:
    """Counts and times for Prometheus, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "wingbar_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = prometheus_client.Histogram(
            "wingbar_request_seconds",
            "Time of a request.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stages = prometheus_client.Histogram(
            "wingbar_search_stage_seconds",
            "Time of each stage of a search.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_work = prometheus_client.Gauge(
            "wingbar_requests_in_work", "Requests being handled.", registry=self.registry
        )
        batch = prometheus_client.Histogram(
            "wingbar_encode_batch",
            "Pictures encoded together.",
            buckets=(1, 2, 4, 8, 16),
            registry=self.registry,
        )
        service.on_batch = batch.observe
        waiting = prometheus_client.Gauge(
            "wingbar_encodes_waiting",
            "Pictures accepted and not encoded yet.",
            registry=self.registry,
        )
        waiting.set_function(lambda: service.waiting)
        items = prometheus_client.Gauge(
            "wingbar_items", "Items of the index.", registry=self.registry
        )
        items.set_function(lambda: service.count)

    def count_search(self, milliseconds: dict[str, float]) -> None:
        """Count the stages of one search."""
        for stage, value in milliseconds.items():
            self.stages.labels(stage).observe(value / 1000)

    def text(self) -> bytes:
        """All metrics, in the text format of Prometheus."""
        return prometheus_client.generate_latest(self.registry)


class Protection:
    """The outermost layer of the app: refuses requests for other servers and from pages elsewhere,
    limits bytes and time, adds the headers of HEADERS, turns bugs into problems, counts."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._names = {
            "localhost",
            settings.host.lower(),
            *(name.lower() for name in settings.hosts),
        }
        self._requests = 0  # being handled
        self._bytes = 0  # of their bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(
            receive,
            send,
            Headers(scope=scope),
            max_bytes=self._max_bytes(scope),
            max_dropped=SEVERAL * self._settings.limits.upload_bytes,
            count_bytes=self._count_bytes,
        )
        start = time.perf_counter()
        self._requests += 1
        self._metrics.in_work.set(self._requests)
        try:
            await self._answer(scope, exchange)
        finally:
            self._requests -= 1
            self._bytes -= exchange.received
            self._metrics.in_work.set(self._requests)
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(scope["method"], route, str(exchange.status or 499)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await exchange.refuse(scope, *refusal)
            return
        seconds = self._settings.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if exchange.status is not None:
                raise
            if exchange.reading:
                await exchange.refuse(
                    scope, 408, f"the request was not complete after {seconds:g} s: send it again"
                )
            else:
                await exchange.refuse(
                    scope, 503, f"this took longer than {seconds:g} s: try again, or ask for less"
                )
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            place = in_log(f"{scope['method']} {scope['path']}")
            log.error("%s failed\n%s", place, traceback_in_log(error))
            if exchange.status is not None:
                raise
            await exchange.refuse(
                scope, 500, f"a bug in wingbar ({type(error).__name__}): see the server's log"
            )

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason for a request that is not for this server or is one too many."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_name(hosts[0]):
            return (
                421,
                f"this server does not answer for {', '.join(hosts) or 'no host'}: allow that name "
                "with wingbar serve --allow-host NAME",
            )
        origin = headers.get("origin")
        is_allowed = (
            origin is None
            or urlsplit(origin).netloc.lower() == hosts[0].lower()
            or origin in self._settings.cors
        )
        if not is_allowed and method not in ("GET", "HEAD", "OPTIONS"):
            return (
                403,
                f"pages of {origin} may not use this server: start it with --cors {origin} to "
                "allow them",
            )
        limit = self._settings.limits.requests
        if self._requests > limit:
            return 429, f"{limit} requests are being handled already: try again in a moment"
        return None

    def _count_bytes(self, size: int) -> None:
        """Count bytes of a body. Raises BusyError when all bodies together have too many."""
        self._bytes += size
        if self._bytes > self._settings.limits.body_bytes:
            raise BusyError(
                "the pictures being sent would fill the server's memory: try again in a moment"
            )

    def _is_name(self, host: str) -> bool:
        """Whether a Host header names this server. A page that resolves its own name to this
        machine (DNS rebinding) sends that name; an IP address cannot be redirected."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._names or parse_address(name) is not None

    def _max_bytes(self, scope: Scope) -> int:
        """How many bytes the body of a request may have. JSON is parsed in one piece, during which
        nobody else is answered."""
        pictures = SEVERAL if scope["path"] in ("/api/items", "/api/search/batch") else 1
        limit = pictures * self._settings.limits.upload_bytes + FORM_OVERHEAD
        return min(limit, MOST_JSON) if content_type(Headers(scope=scope)) == JSON else limit


class _Exchange:
    """One request and its answer.

    max_bytes: most bytes of the body that the app gets.
    max_dropped: bytes of the body after which no more is dropped for the sake of the answer.
    count_bytes: is told the bytes that the app gets.

    received: number of body bytes so far, without those dropped before the answer.
    reading: whether the app waits for more of the body.
    status: HTTP status of the answer, once it is sent.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        headers: Headers,
        *,
        max_bytes: int,
        max_dropped: int,
        count_bytes: Callable[[int], None],
    ) -> None:
        self._receive, self._send = receive, send
        self._max_bytes, self._max_dropped = max_bytes, max_dropped
        self._count_bytes = count_bytes
        self._is_unread = "content-length" in headers or "transfer-encoding" in headers
        # such a client sends its body once it is asked to
        self._is_held_back = headers.get("expect", "").lower() == "100-continue"
        self.received = 0
        self.reading = False
        self.status: int | None = None

    async def receive(self) -> Message:
        """The next part of the request. Raises TooLargeError or BusyError beyond the limits, and
        drops the part."""
        message = await self._next_message()
        size = len(message.get("body", b""))
        self.received += size
        self._count_bytes(size)
        if self.received > self._max_bytes:
            raise TooLargeError(
                f"the request has more than {self._max_bytes:,} bytes, the limit for its content "
                "type: send less at once"
            )
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with HEADERS, once the body is read or dropped."""
        if message["type"] == "http.response.start":
            if not self._is_held_back:
                await self._drop_rest()
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._is_unread:
                headers["Connection"] = "close"  # what may still come is no new request
        await self._send(message)

    async def refuse(self, scope: Scope, status: int, detail: str) -> None:
        """Answer with a problem, without waiting any longer for a client that was too slow."""
        if status == 408:
            self._is_held_back = True
        await problem(status, detail)(scope, self._receive, self.send)

    async def _next_message(self) -> Message:
        self.reading, self._is_held_back = True, False
        message = await self._receive()
        self.reading = self._is_unread = bool(message.get("more_body"))
        return message

    async def _drop_rest(self) -> None:
        """Read what is left of the body, for `max_dropped` bytes and DROP_SECONDS at most. A client
        that still sends when the connection is closed gets a reset in place of the answer."""
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DROP_SECONDS):
                while self._is_unread and dropped < self._max_dropped:
                    message = await self._next_message()
                    dropped += len(message.get("body", b""))
