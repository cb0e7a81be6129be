"""Send malformed pictures, forms, JSON and URLs to a server, and check that it answers each as its
OpenAPI document says.

    python benchmarks/fuzz_server.py --count 20000 --seed 0

Starts a server of a small index as a process. The requests are the same for the same seed. Every
status must be one that the OpenAPI document lists for the route, and below 500; afterwards the
server must still run and its index pass `wingbar verify`. The server's memory is printed ten times
along the way: it should stay flat.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image

from wingbar.index.index import Index

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SEARCHES = ("/api/search", "/api/search/batch", "/api/explain")
TYPES = (
    "image/jpeg",
    "image/png",
    "image/x",
    "application/octet-stream",
    "IMAGE/JPEG; q=1",
    "text/plain",
    "",
)
NAMES = ("k", "radius", "fine", "shortlist", "where", "box", "size", "offset", "limit", "x")
HOSTILE = (
    "",
    "0",
    "-1",
    "1e9",
    "nan",
    "inf",
    "9" * 400,
    "\x00",
    "\ud7ff",
    "'; DROP TABLE items; --",
    "../" * 20,
    "%s%n",
)
VALUES = (
    "5",
    "pool",
    "label=red",
    "path=*a*b*c",
    "price<3",
    "a<b",
    "a\\=1",
    '"=1',
    "0,0,9,9",
    "1,1,-5,nan",
    "%ff%fe",
    "l" * 2000,
)


@dataclass(frozen=True)
class Request:
    """One request.

    method: HTTP method.
    route: its path as the OpenAPI document names it, as "/api/items/{id}".
    path: path and query as they are sent.
    body: body as it is sent.
    headers: further headers.
    """

    method: str
    route: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def requests(count: int, seed: int) -> Iterator[Request]:
    """`count` malformed requests of all kinds; the same for the same seed."""
    rng = np.random.default_rng(seed)
    seeds = _pictures(rng)
    kinds = (_raw, _raw, _raw, _form, _form, _json, _json, _parameters, _look)
    for _ in range(count):
        yield kinds[rng.integers(len(kinds))](rng, seeds)


def _pictures(rng: np.random.Generator) -> list[bytes]:
    """Small valid pictures of every format, with an EXIF orientation where the format has one."""
    pictures = []
    for kind in FORMATS:
        for size in ((48, 36), (7, 5), (1, 1)):
            image = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
            exif = Image.Exif()
            exif[0x0112] = int(rng.integers(1, 9))
            out = io.BytesIO()
            options: dict[str, Any] = (
                {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "AVIF") else {}
            )
            image.save(out, kind, **options)
            pictures.append(out.getvalue())
    return pictures


def mutated(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """A copy of `data` that is cut off, has changed bytes, or contains parts of `other`."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(out) + 1)), int(rng.integers(1, 40))
        how = rng.integers(6)
        if how == 0:
            del out[at:]
        elif how == 1:
            out[at : at + length] = rng.bytes(length)
        elif how == 2:
            out[at:at] = other[: 8 * length]
        elif how == 3:
            del out[at : at + length]
        elif how == 4 and out:  # in the header, which has sizes and offsets
            head = min(len(out), 64)
            out[int(rng.integers(head))] = int(rng.choice([0, 1, 127, 128, 255]))
        else:
            out += rng.bytes(length)
    return bytes(out)


def _picture(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    if rng.random() < 0.1:
        return rng.bytes(int(rng.integers(0, 300)))
    return mutated(rng, seeds[rng.integers(len(seeds))], seeds[rng.integers(len(seeds))])


def _raw(rng: np.random.Generator, seeds: list[bytes]) -> Request:
    kind = str(rng.choice(TYPES))
    route = str(rng.choice(SEARCHES))
    return Request(
        "POST",
        route,
        route + _query(rng, 0.2),
        _picture(rng, seeds),
        {"Content-Type": kind} if kind else {},
    )


def _form(rng: np.random.Generator, seeds: list[bytes]) -> Request:
    route = str(rng.choice([*SEARCHES, "/api/items"]))
    boundary = str(rng.choice(["x", "-" * 70, "a b", "é"]))
    parts = b""
    for _ in range(rng.integers(0, 4)):
        name = str(rng.choice(["image", "image", "image", "label", "k", ""]))
        file = str(
            rng.choice(['; filename="a.jpg"', '; filename="../../é\x01.jpg"', "; filename=", ""])
        )
        parts += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        )
        parts += (_picture(rng, seeds) if rng.random() < 0.8 else rng.bytes(20)) + b"\r\n"
    body = parts + f"--{boundary}--\r\n".encode()
    if rng.random() < 0.4:
        body = mutated(rng, body, rng.bytes(30))
    stated = boundary if rng.random() < 0.9 else "other"
    return Request(
        "POST",
        route,
        route + _query(rng, 0.1),
        body,
        {"Content-Type": f"multipart/form-data; boundary={stated}"},
    )


def _json(rng: np.random.Generator, seeds: list[bytes]) -> Request:
    route = str(rng.choice(SEARCHES))
    names = ["id", "ids", "path", "k", "radius", "fine", "shortlist", "where", "box", "\ud7ff", ""]
    chosen = {str(rng.choice(names)): _value(rng, 0) for _ in range(rng.integers(0, 4))}
    if rng.random() < 0.5:
        chosen["id"] = int(rng.integers(-1, 20))
    body = json.dumps(chosen if rng.random() < 0.9 else _value(rng, 0)).encode()
    if rng.random() < 0.3:
        body = mutated(rng, body, b"[" * 300)
    return Request(
        "POST", route, route + _query(rng, 0.2), body, {"Content-Type": "application/json"}
    )


def _value(rng: np.random.Generator, depth: int) -> Any:
    simple: list[Any] = [
        None,
        True,
        0,
        -1,
        1,
        7,
        2**63,
        -(2**70),
        0.5,
        float("nan"),
        float("inf"),
        "none",
        "ties",
        "asymmetric",
    ]
    how = rng.integers(5)
    if how == 0 and depth < 4:
        return [_value(rng, depth + 1) for _ in range(rng.integers(0, 5))]
    if how == 1 and depth < 4:
        return {str(rng.choice(HOSTILE)): _value(rng, depth + 1) for _ in range(rng.integers(0, 3))}
    return str(rng.choice(HOSTILE)) if how == 2 else simple[rng.integers(len(simple))]


def _query(rng: np.random.Generator, share: float) -> str:
    """A query string with invalid parameters, for a `share` of the requests; else an empty text."""
    if rng.random() >= share:
        return ""
    pairs = [
        f"{rng.choice(NAMES)}={quote(str(rng.choice([*HOSTILE, *VALUES])), safe='%')}"
        for _ in range(rng.integers(1, 5))
    ]
    return "?" + "&".join(pairs)


def _parameters(rng: np.random.Generator, seeds: list[bytes]) -> Request:
    route = str(rng.choice(["/api/search", "/api/items"]))
    if route == "/api/items":
        return Request("GET", route, route + _query(rng, 1))
    return Request(
        "POST",
        route,
        route + _query(rng, 1),
        seeds[rng.integers(len(seeds))],
        {"Content-Type": "image/png"},
    )


def _look(rng: np.random.Generator, seeds: list[bytes]) -> Request:
    route = str(rng.choice(["/api/items/{id}", "/api/thumbs/{id}", "/api/images/{id}"]))
    method = "DELETE" if route == "/api/items/{id}" and rng.random() < 0.05 else "GET"
    id_ = (
        str(rng.integers(-2, 30))
        if rng.random() < 0.6
        else quote(str(rng.choice(HOSTILE)), safe="")
    )
    headers = (
        {"If-None-Match": str(rng.choice(['"x"', "*", "W/", ",,,", '"' * 50]))}
        if rng.random() < 0.3
        else {}
    )
    return Request(method, route, route.replace("{id}", id_) + _query(rng, 0.3), headers=headers)


def send(connection: http.client.HTTPConnection, request: Request) -> tuple[int, str]:
    """Status and content type of the answer. Raises OSError or HTTPException if none comes."""
    connection.request(request.method, request.path, request.body, request.headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers.get("Content-Type", "")


def wrong(request: Request, status: int, kind: str, document: dict[str, Any]) -> str | None:
    """How an answer differs from the OpenAPI document; None if it does not."""
    what = f"{request.method} {request.route}"
    if (
        status >= 500
        or str(status) not in document["paths"][request.route][request.method.lower()]["responses"]
    ):
        return f"{status} is not documented for {what}: {request}"
    if status >= 400 and kind != "application/problem+json":
        return f"{status} of {what} is {kind}, not application/problem+json"
    return None


def small_index(folder: Path, seed: int) -> Path:
    """An index of 20 random pictures in `folder`."""
    rng = np.random.default_rng(seed)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{i:02}.png")
    with Index.create(folder / "fuzz.wb") as index:
        index.add(folder, bits=16)
    return folder / "fuzz.wb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="number of requests")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests")
    parser.add_argument("--clients", type=int, default=4, help="number of concurrent clients")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = small_index(Path(folder), args.seed)
        command = [sys.executable, "-m", "wingbar", "serve", str(path), "--port", "0", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = urlsplit(json.loads(server.stdout.readline())["url"]).netloc
            bad = _run(address, server, args.count, args.seed, args.clients)
        finally:
            server.terminate()
            server.wait()
        with Index.open(path) as index:
            bad += index.verify()
    print(f"{len(bad)} wrong answers")
    for line in bad[:20]:
        print(line)
    sys.exit(1 if bad else 0)


def _run(
    address: str, server: subprocess.Popen[str], count: int, seed: int, clients: int
) -> list[str]:
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/openapi.json")
    document = json.load(connection.getresponse())
    bad: list[str] = []
    statuses: Counter[int] = Counter()
    remaining = requests(count, seed)
    lock = threading.Lock()
    print(f"{0:7,} requests, server at {_memory(server.pid):.0f} MiB")

    def work() -> None:
        own = http.client.HTTPConnection(address, timeout=60)
        while True:
            with lock:
                request = next(remaining, None)
            if request is None:
                return
            try:
                status, kind = send(own, request)
                fault = wrong(request, status, kind, document)
            except (OSError, http.client.HTTPException) as error:
                own.close()
                status, fault = 0, f"{type(error).__name__} at {request.method} {request.path[:80]}"
                if server.poll() is not None:
                    fault = f"the server died at {request}"
            with lock:
                statuses[status] += 1
                if fault:
                    bad.append(fault)
                done = statuses.total()
                if done % max(1, count // 10) == 0:
                    print(
                        f"{done:7,} requests, server at {_memory(server.pid):.0f} MiB, "
                        f"{dict(sorted(statuses.items()))}",
                        flush=True,
                    )

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return bad


def _memory(pid: int) -> float:
    """Resident memory of a process in MiB; nan on systems other than Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
