"""A server under load, beside the network alone, in one run."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from wingbar import images
from wingbar.bench.encoding import ROUNDS, decode_and_run, sample_files
from wingbar.errors import QueryError
from wingbar.index.index import Index
from wingbar.parallel import BATCH, batched, cores, in_order

BARE = """
import json, uvicorn
from fastapi import FastAPI, Request, Response
from wingbar.serving.run import bound
app = FastAPI()
hit = {"name": "picture.jpg", "code": "01" * 32}
text = json.dumps({"hits": [{"id": i, **hit, "distance": i} for i in range(20)]})

@app.post("/")
async def answer(request: Request) -> Response:
    await request.json()
    return Response(text, media_type="application/json")

config = uvicorn.Config(app, log_level="error", access_log=False, ws="none")
listening = bound("127.0.0.1", 0)
listening.listen(100)
print(json.dumps({"url": "http://127.0.0.1:%d/" % listening.getsockname()[1]}), flush=True)
uvicorn.Server(config).run([listening])
"""
"""A server with one route that answers with as many hits, the least that FastAPI can do."""

SINGLE = 300  # searches by id, one after the other


def search(
    index: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    clients: int = 32,
    seconds: float = 60.0,
) -> dict[str, Any]:
    """A server of `index` under the load of `clients` that search for pictures of `folder`, beside
    the network alone.

    Clients and server share this machine. Each of the ROUNDS rounds measures, one after the other:
    the network alone on decoded pictures in batches, as `encode` does, which is the ceiling of
    `ratio`; the network with one batch per core at a time, as a server runs it; decoding and
    network together; and the clients for `seconds` / ROUNDS. Latencies are those that the clients
    see; a client that gets a Retry-After waits for it. In the end SINGLE searches by id are timed
    one after the other, beside a bare FastAPI route that answers with as many hits;
    `by_id_overhead_ms` is the time that is not spent in the search itself.

    Raises DataError without readable images, QueryError if the server does not start.
    """
    from wingbar.serving.encoder import SingleCoreModel

    with Index.open(index) as opened:
        model, items = opened.model, len(opened)
    files, _ = sample_files(folder, model)
    pixels = [images.load(data, model.preprocessing) for data in files]
    network = SingleCoreModel(model.files)
    ceilings: list[float] = []
    by_core: list[float] = []
    both: list[float] = []
    asked: list[_Asked] = []
    with _serving(
        [sys.executable, "-m", "wingbar", "serve", str(index), "--port", "0", "--json"]
    ) as address:
        _load(address, files, clients, 1.0)  # warm up
        for warmed in (model, network):
            warmed.run(pixels[:BATCH])
        for _ in range(ROUNDS):
            ceilings.append(
                _per_second(
                    lambda: [model.run(batch) for batch in batched(pixels, BATCH)], len(pixels)
                )
            )
            by_core.append(
                _per_second(
                    lambda: list(in_order(batched(pixels, BATCH), network.run, cores())),
                    len(pixels),
                )
            )
            both.append(_per_second(lambda: decode_and_run(model, files), len(files)))
            asked += _load(address, files, clients, seconds / ROUNDS)
        ids = [item["id"] for item in _get(address, "/api/items?limit=100")["items"]]
        with _serving([sys.executable, "-c", BARE]) as bare:
            by_id, inside, beside = _by_id(address, bare, ids)
    good = [one.seconds for one in asked if one.status == 200]
    rate = len(good) / seconds
    middle, p99 = (median(good), float(np.percentile(good, 99))) if good else (0.0, 0.0)
    statuses = Counter(str(one.status) for one in asked if one.status != 200)
    return {
        "items": items,
        "model": model.name,
        "clients": clients,
        "seconds": seconds,
        "threads": cores(),
        "searches": len(good),
        "errors": dict(sorted(statuses.items())),
        "searches_per_second": rate,
        "encode_images_per_second": median(ceilings),
        "encode_by_core_images_per_second": median(by_core),
        "decode_and_encode_images_per_second": median(both),
        "ratio": rate / median(ceilings),
        "ratio_by_core": rate / median(by_core),
        "ratio_with_decoding": rate / median(both),
        "median_ms": middle * 1e3 if good else None,
        "p99_ms": p99 * 1e3 if good else None,
        "p99_over_median": p99 / middle if good else None,
        "by_id_ms": by_id,
        "by_id_inside_ms": inside,
        "by_id_overhead_ms": by_id - inside,
        "bare_route_ms": beside,
    }


@dataclass(frozen=True)
class _Asked:
    """One request of a client.

    status: of HTTP, 0 if the connection broke
    seconds: until the answer was read
    """

    status: int
    seconds: float


@contextmanager
def _serving(command: Sequence[str]) -> Iterator[str]:
    """A server in its own process; yields HOST:PORT. Raises QueryError with its output if it does
    not start."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise QueryError(
                "the server did not start: "
                f"{(process.communicate()[1] or 'it printed nothing').strip()}"
            )
        yield urlsplit(json.loads(line)["url"]).netloc
    finally:
        process.terminate()
        process.communicate()


def _load(address: str, files: Sequence[bytes], clients: int, seconds: float) -> list[_Asked]:
    """The requests of `clients` threads in `seconds`, each one request after the other on one
    connection."""
    start = time.perf_counter()

    def ask(number: int) -> list[_Asked]:
        asked: list[_Asked] = []
        connection = http.client.HTTPConnection(address, timeout=60)
        while (began := time.perf_counter()) < start + seconds:
            data = files[(number + len(asked) * clients) % len(files)]
            later = 0.0
            try:
                connection.request(
                    "POST", "/api/search", data, {"Content-Type": "application/octet-stream"}
                )
                answer = connection.getresponse()
                answer.read()
                status, later = answer.status, float(answer.headers.get("Retry-After", 0))
            except (OSError, http.client.HTTPException):
                status = 0
                connection.close()
            asked.append(_Asked(status, time.perf_counter() - began))
            time.sleep(later)
        connection.close()
        return asked

    with ThreadPoolExecutor(clients) as pool:
        return [one for part in pool.map(ask, range(clients)) for one in part]


def _by_id(address: str, bare: str, ids: Sequence[int]) -> tuple[float, float, float]:
    """Median milliseconds of a search by id over HTTP, of the search inside it, and of the bare
    route, asked in turns."""
    times: list[float] = []
    inside: list[float] = []
    beside: list[float] = []
    with (
        closing(http.client.HTTPConnection(address)) as there,
        closing(http.client.HTTPConnection(bare)) as other,
    ):
        for i in range(SINGLE):
            body = json.dumps({"id": ids[i % len(ids)]})
            for connection, path, seconds in ((there, "/api/search", times), (other, "/", beside)):
                start = time.perf_counter()
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                text = connection.getresponse().read()
                seconds.append(time.perf_counter() - start)
                if connection is there:
                    inside.append(json.loads(text)["milliseconds"]["total"])
    return median(times) * 1e3, median(inside), median(beside) * 1e3


def _per_second(work: Callable[[], object], count: int) -> float:
    """How many of `count` things `work` does per second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def _get(address: str, path: str) -> Any:
    with closing(http.client.HTTPConnection(address)) as connection:
        connection.request("GET", path)
        return json.load(connection.getresponse())
