from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from tests.servers import LONG, READ, TOKEN, Stuck, ask, jpeg, problem, raw, service_of, serving
from wingbar.serving import middleware
from wingbar.serving.logs import in_log
from wingbar.serving.middleware import FREE_GUESSES, LONGEST_WAIT, Brake
from wingbar.serving.settings import Limits, Settings


@pytest.fixture(scope="module")
def with_tokens(shared_index_path: Path) -> Iterator[httpx.Client]:
    settings = Settings(
        index=shared_index_path, token=TOKEN, read_token=READ, cors=("https://photos.example.org",)
    )
    later = itertools.count(step=1000)  # at every look at the clock, so that nothing has to wait
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(middleware, "Brake", lambda: Brake(lambda: float(next(later))))
            client = stack.enter_context(serving(settings))
        yield client


def test_reading_and_writing_tokens(with_tokens: httpx.Client) -> None:
    reads = [
        ("GET", "/api/info"),
        ("GET", "/api/items"),
        ("GET", "/api/items/1"),
        ("GET", "/api/thumbs/1"),
    ]
    reads += [
        ("GET", "/api/images/1"),
        ("GET", "/metrics"),
        ("POST", "/api/search"),
        ("POST", "/api/search/batch"),
    ]
    reads += [("POST", "/api/explain"), ("POST", "/api/regions")]
    writes = [
        ("POST", "/api/items"),
        ("PATCH", "/api/items"),
        ("DELETE", "/api/items/100000"),
        ("DELETE", "/api/items?id=100000"),
    ]
    for method, path in reads + writes:
        for wrong in (
            None,
            "Bearer",
            "Bearer wrong-token",
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
        ):
            answer = with_tokens.request(
                method, path, headers={} if wrong is None else {"Authorization": wrong}
            )
            problem(answer, 401, "Authorization: Bearer")
            assert answer.headers["www-authenticate"].startswith("Bearer")
    for method, path in reads:
        for token in (READ, TOKEN):
            answer = with_tokens.request(method, path, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code not in (401, 403), path
    for method, path in writes:
        problem(
            with_tokens.request(method, path, headers={"Authorization": f"Bearer {READ}"}),
            403,
            "search only",
        )
        answer = with_tokens.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code in (404, 415) or answer.json() == {"count": 0}
    for path in ("/", "/healthz", "/readyz", "/openapi.json"):
        assert with_tokens.get(path).status_code == 200


def test_a_header_that_is_not_ascii_is_a_wrong_token(with_tokens: httpx.Client) -> None:
    problem(with_tokens.get("/api/info", headers=[(b"Authorization", b"Bearer \xff\xfe\x80")]), 401)


def test_a_public_server_allows_no_changes(shared_index_path: Path) -> None:
    with serving(Settings(index=shared_index_path, public=True)) as client:
        assert client.get("/api/info").json()["writable"] is False
        problem(client.delete("/api/items/1"), 403, "--token")
        problem(client.delete("/api/items", params={"id": 1}), 403, "--token")
        problem(client.patch("/api/items", json={"ids": [1], "label": "x"}), 403, "--token")
        assert client.post("/api/search", json={"id": 1}).status_code == 200


def test_an_index_that_cannot_be_written(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_of(client), "writable", False)
    detail = problem(client.delete("/api/items/1"), 403, "shared.wb is read-only")
    assert "/" not in detail
    assert client.get("/api/info").json()["writable"] is False


def test_other_names_in_the_host_header_are_refused(
    client: httpx.Client, shared_index_path: Path
) -> None:
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "localhost.evil.example",
    ):
        problem(client.get("/api/info", headers={"Host": host}), 421)
        problem(client.get("/", headers={"Host": host}), 421)
    for host in (
        "localhost",
        "LOCALHOST:99",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "10.0.0.7",
        "localhost.",
    ):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    settings = Settings(index=shared_index_path, hosts=("Photos.Example.org",), token=TOKEN)
    with serving(settings) as named:
        assert named.get("/healthz", headers={"Host": "photos.example.org"}).status_code == 200
        problem(named.get("/healthz", headers={"Host": "other.example.org"}), 421)


def test_a_request_without_host(client: httpx.Client) -> None:
    assert b" 421 " in raw(client, b"GET /healthz HTTP/1.0\r\n\r\n").split(b"\r\n")[0]


def test_pages_from_elsewhere_cannot_change_or_search(
    client: httpx.Client, with_tokens: httpx.Client
) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1:1",
    ):
        problem(
            client.post(
                "/api/items", files={"image": ("a.jpg", jpeg())}, headers={"Origin": origin}
            ),
            403,
            "--cors",
        )
        problem(client.delete("/api/items/1", headers={"Origin": origin}), 403)
        problem(client.post("/api/search", json={"id": 1}, headers={"Origin": origin}), 403)
    own = str(client.base_url).rstrip("/")
    assert client.post("/api/search", json={"id": 1}, headers={"Origin": own}).status_code == 200
    assert (
        "access-control-allow-origin"
        not in client.get("/api/info", headers={"Origin": "https://evil.example"}).headers
    )
    asked = {"Origin": "https://photos.example.org", "Access-Control-Request-Method": "POST"}
    preflight = with_tokens.options(
        "/api/search", headers={**asked, "Access-Control-Request-Headers": "authorization"}
    )
    assert preflight.headers["access-control-allow-origin"] == "https://photos.example.org"
    assert "access-control-allow-credentials" not in preflight.headers
    answer = with_tokens.post(
        "/api/search",
        json={"id": 1},
        headers={"Origin": "https://photos.example.org", "Authorization": f"Bearer {READ}"},
    )
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
        200,
        "https://photos.example.org",
    )
    other = with_tokens.options("/api/search", headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    for path in (
        "/",
        "/api/info",
        "/api/thumbs/1",
        "/api/images/1",
        "/nothing",
        "/metrics",
        "/openapi.json",
        "/static/nothing.js",
    ):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith(
            "default-src 'self'; img-src 'self' blob: data:;"
        )
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers
    assert (
        client.get("/api/info", headers={"Host": "evil"}).headers["x-content-type-options"]
        == "nosniff"
    )


def test_bytes_are_counted_as_they_arrive(shared_index_path: Path) -> None:
    limits = Limits(upload_bytes=10_000, pixels=5000)
    with serving(Settings(index=shared_index_path, limits=limits)) as client:
        headers = {"Content-Type": "image/jpeg"}
        problem(client.post("/api/search", content=b"x" * 10_001, headers=headers), 413, "10,000")
        big = b"x" * 100_000
        problem(client.post("/api/search", content=big, headers=headers), 413)
        problem(
            client.post("/api/search", content=iter([big[:50_000], big[50_000:]]), headers=headers),
            413,
        )  # no length said
        problem(client.post("/api/search", files={"image": ("a.jpg", big)}), 413)
        problem(
            client.post(
                "/api/search",
                content=b'{"path": "' + big + b'"}',
                headers={"Content-Type": "application/json"},
            ),
            413,
        )
        problem(client.post("/api/items", files={"image": ("a.jpg", b"x" * 200_000)}), 413)
        problem(ask(client, jpeg()), 413, "96 x 72", "5,000 pixels")
        several = [("image", ("a.jpg", jpeg(size=(60, 60)))), ("image", ("b.jpg", jpeg()))]
        batch = client.post("/api/search/batch", files=several).json()["results"]
        assert [one.get("status") for one in batch] == [None, 413]
        problem(client.get("/api/thumbs/1"), 404, "pixels")
        assert ask(client, jpeg(size=(60, 60))).status_code == 200


def _post(size: int, *lines: str, kind: str = "image/jpeg") -> bytes:
    """A search by a body of `size` bytes."""
    head = [
        "POST /api/search HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {kind}",
        f"Content-Length: {size}",
        "Connection: close",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode() + b"x" * size


def test_who_sends_too_much_gets_the_answer(shared_index_path: Path) -> None:
    """A connection that is closed before all was sent is reset, and the answer lost with it."""
    limits = Limits(upload_bytes=8 * 2**20)
    with serving(Settings(index=shared_index_path, limits=limits, read_token=READ)) as client:
        right = f"Authorization: Bearer {READ}"
        answer = raw(client, _post(24 * 2**20, right))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"8,454,144 bytes, the limit" in answer
        assert raw(client, _post(24 * 2**20)).startswith(b"HTTP/1.1 401 ")
        answer = raw(client, _post(24 * 2**20, right, kind="text/plain"))
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert client.get("/healthz").status_code == 200


def test_what_is_dropped_before_an_answer_has_limits(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(upload_bytes=100_000)
    with serving(Settings(index=shared_index_path, limits=limits)) as client:
        address = (client.base_url.host, client.base_url.port or 80)
        with socket.create_connection(address) as endless:
            endless.sendall(_post(200_000).replace(b"200000", b"1000000000"))
            sent = 0
            with suppress(OSError):  # closed or reset, as the system likes
                while sent < 2**26:
                    endless.sendall(b"x" * 2**16)
                    sent += 2**16
            assert sent < 2**26
        monkeypatch.setattr(middleware, "DROP_SECONDS", 0.2)
        answer = raw(client, _post(200_000).replace(b"200000", b"200001"))  # and waits
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nconnection: close\r\n" in answer.lower()


def test_who_asks_before_sending_is_answered_at_once(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "DROP_SECONDS", LONG)
    with serving(Settings(index=shared_index_path, read_token=READ)) as client:
        head = _post(0, "Expect: 100-continue").replace(b"Length: 0", b"Length: 1000")
        assert raw(client, head).startswith(b"HTTP/1.1 401 ")


def test_bodies_that_would_fill_the_memory_together(shared_index_path: Path) -> None:
    with serving(Settings(index=shared_index_path, limits=Limits(body_bytes=5_000))) as client:
        problem(
            client.post("/api/search", content=b"x" * 6000, headers={"Content-Type": "image/jpeg"}),
            429,
            "memory",
        )
        assert ask(client, jpeg(size=(60, 60))).status_code == 200


def test_requests_that_take_too_long_are_ended(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Settings(index=shared_index_path, limits=Limits(seconds=0.5))) as client:
        stuck = Stuck(client, monkeypatch)
        problem(ask(client, jpeg()), 503, "longer than 0.5 s")
        stuck.go_on.set()
        head = (
            b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"image/jpeg\r\nContent-Length: 1000\r\n\r\nsome"
        )
        answer = raw(client, head)
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b"application/problem+json" in answer


def test_requests_beyond_the_limit_get_429(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Settings(index=shared_index_path, limits=Limits(requests=0))) as client:
        problem(client.get("/healthz"), 429, "being handled already")


def test_guessing_is_slowed_down_and_stops_nobody() -> None:
    seconds = 0.0
    brake = Brake(lambda: seconds)
    for _ in range(FREE_GUESSES):
        assert brake.seconds("guesser") == 0
        brake.count("guesser")
    brake.count("guesser")
    assert 0 < brake.seconds("guesser") < 1
    for _ in range(100_000):
        brake.count("guesser")
    assert brake.seconds("guesser") == LONGEST_WAIT
    assert brake.seconds("owner") == 0
    seconds += 2 * (LONGEST_WAIT + 1) * FREE_GUESSES
    assert brake.seconds("guesser") == 0


def test_a_right_token_works_while_somebody_guesses(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    settings = Settings(index=shared_index_path, token=TOKEN, read_token=READ)
    monkeypatch.setattr(middleware, "Brake", lambda: Brake(lambda: 0.0))
    with serving(settings) as client:
        timeout = asyncio.timeout
        monkeypatch.setattr(middleware, "asyncio", SimpleNamespace(sleep=note, timeout=timeout))
        for i in range(20):
            guess = {"Authorization": f"Bearer guess-{i:05}"}
            problem(client.get("/api/info", headers=guess), 401)
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/api/info", headers=right).status_code == 200
        assert waits[: FREE_GUESSES + 1] == [0.0] * (FREE_GUESSES + 1)
        assert waits[-1] == 1.0
        assert waits == sorted(waits)
        before = len(waits)
        problem(client.get("/api/info"), 401)  # nobody guesses without a token
        assert len(waits) == before


def test_nothing_that_strangers_send_gets_raw_into_the_log(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*arguments: object) -> None:
        raise ZeroDivisionError("a\x1b[31mb\nERROR: forged")

    monkeypatch.setattr(service_of(client).pictures, "thumbnail", broken)
    problem(client.get("/api/thumbs/1"), 500)
    assert "thumbs/1 failed" in caplog.text
    assert "\x1b" not in caplog.text
    assert "a\\x1b[31mb" in caplog.text
    assert not any(line.startswith("ERROR: forged") for line in caplog.text.splitlines())


def test_a_text_for_the_log_is_one_line_that_can_be_shown() -> None:
    assert in_log("a\n\x1b]0;x\x07\u202eb\ud800") == r"a\n\x1b]0;x\x07\u202eb\ud800"
    assert in_log("Käfer 12.jpg") == "Käfer 12.jpg"
