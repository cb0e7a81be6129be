"""Measure wingbar beside a peer, both in one run, as ratios."""

from __future__ import annotations

import http.client
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import DataError, ImageError, ModelError, QueryError
from wingbar.hamming import codes
from wingbar.hamming.codes import Codes, Packed
from wingbar.index.index import Index
from wingbar.model.model import BATCH, Model, batched, cores, in_order

ROUNDS = 5
IMAGES = 256  # a round; images of the folder are repeated where there are fewer

QUERIES = 32  # asked one by one in each round
BATCH_QUERIES = 1000
CHECKED = 16  # queries whose answers are compared with brute force
PEERS = ("flat", "multihash", "ivf", "hnsw", "usearch", "numpy")
HNSW_UP_TO = 2_000_000  # items; its graph takes 20 s a million
FILTERED = 100  # one item of so many passes the filter
INSERTED = 1000


def encode(model_path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Images a second of decoding, of encoding and of both together, beside PyTorch eager in float32 on the same pixels.

    Each number is the median of ROUNDS rounds, in which the contestants take turns. `eager_images_per_second` and
    `ratio` are None where PyTorch or the model's weights are missing. Raises DataError without readable images.
    """
    model = Model.load(model_path)
    files, distinct = _readable(folder, model)
    pixels = [images.load(data, model.preparation) for data in files]

    def decode() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda data: images.load(data, model.preparation), files))

    contestants: dict[str, Callable[[], object]] = {
        "decode": decode,
        "encode": lambda: [model.run(batch) for batch in batched(pixels, BATCH)],
        "both": lambda: model.encode(files) if model.gives_codes else _decode_and_run(model, files),
    }
    eager = _eager(model_path, model)
    if eager is not None:
        contestants["eager"] = lambda: [eager(np.stack(batch)) for batch in batched(pixels, BATCH)]
    for contestant in contestants.values():
        contestant()  # warm up
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            times[name].append(time.perf_counter() - start)
    speed: dict[str, float | None] = {name: IMAGES / median(seconds) for name, seconds in times.items()}
    slow = speed.get("eager")
    return {
        "model": model.name,
        "images": IMAGES,
        "distinct_images": distinct,
        "threads": cores(),
        "decode_images_per_second": speed["decode"],
        "encode_images_per_second": speed["encode"],
        "images_per_second": speed["both"],
        "eager_images_per_second": slow,
        "ratio": _ratio(speed["encode"], slow),
    }


def _readable(folder: str | os.PathLike[str], model: Model) -> tuple[list[bytes], int]:
    """IMAGES files that can be read, some more than once where the folder has fewer, and how many different ones."""
    readable: list[bytes] = []
    for path in images.find(folder).images:
        try:
            data = images.read(path)
            images.load(data, model.preparation)
            readable.append(data)
        except ImageError:
            continue
        if len(readable) == IMAGES:
            break
    if not readable:
        raise DataError(f"{folder} has no image that can be read")
    return [readable[i % len(readable)] for i in range(IMAGES)], len(readable)


def _decode_and_run(model: Model, files: list[bytes]) -> None:
    for batch in batched(in_order(files, lambda data: images.load(data, model.preparation), cores()), BATCH):
        model.run(batch)


def _eager(path: str | os.PathLike[str], model: Model) -> Callable[[images.Pixels], object] | None:
    """The model's net in PyTorch, float32, or None where it cannot be had."""
    if find_spec("torch") is None:
        return None
    import torch

    from wingbar.networks import backbones
    from wingbar.training import loop

    if model.method == "itq":
        try:
            net: torch.nn.Module = backbones.create(model.record["backbone"], "imagenet").eval()
        except ModelError:
            return None
    else:
        try:
            net = loop.load_net(Path(path)).eval()
        except (ModelError, OSError):
            return None

    def run(pixels: images.Pixels) -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(cores())  # as many as ONNX Runtime uses
        try:
            with torch.no_grad():
                return net(torch.from_numpy(pixels))
        finally:
            torch.set_num_threads(before)

    return run


# -- Hamming search


def hamming(
    items: int,
    bits: int,
    *,
    centres: int = 0,
    flip: float = 0.05,
    k: int = 10,
    radius: int = 2,
    threads: int = 1,
    peers: tuple[str, ...] = PEERS,
    seed: int = 0,
) -> dict[str, Any]:
    """Exact Hamming search beside its peers on synthetic codes, all in one run on `threads` threads.

    With `centres` each code is one of so many random codes with each bit flipped with probability `flip`, as learned codes
    are; with none they are uniform. Queries are drawn in the same way. In each of ROUNDS rounds every contestant answers the
    same QUERIES queries one by one and BATCH_QUERIES at once; times are medians, of one query over all rounds.

    Peers get codes padded to 4 or 8 bytes, which FAISS needs to be fast. `exact` says that every answer checked, of each
    path, with filter and after inserts, is that of brute force. `bandwidth_gb_s` is what the plain scan reads,
    `bandwidth_share` its part of what one core reads from memory (more than 1 where the codes lie in a cache). `single_ms`
    includes probing. Raises DataError for fewer items than k or an unknown peer.
    """
    unknown = sorted(set(peers) - set(PEERS))
    if unknown or items < max(k, FILTERED) or not 0 <= flip <= 1:
        raise DataError(
            f"{', '.join(unknown)} is not among {', '.join(PEERS)}"
            if unknown
            else f"items must be at least {max(k, FILTERED)} and flip from 0 to 1"
        )
    with _faiss_threads(threads):
        return _hamming(items, bits, centres, flip, k, radius, threads, peers, seed)


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """FAISS on so many threads; afterwards as before, since OpenMP's number is shared with PyTorch."""
    if find_spec("faiss") is None:
        yield
        return
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _hamming(
    items: int, bits: int, centres: int, flip: float, k: int, radius: int, threads: int, peers: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """`hamming`, its arguments checked."""
    packed, queries = _synthetic(items + BATCH_QUERIES + INSERTED, bits, centres, flip, seed, items)
    warm_up = codes.warm_up(bits) if items >= codes.COMPILED_FROM else 0.0
    start = time.perf_counter()
    engine = Codes(packed[:items], bits, threads=threads)
    build = time.perf_counter() - start
    some = queries[:QUERIES]
    among = engine.among(np.sort(np.random.default_rng(seed).choice(items, max(1, items // FILTERED), replace=False)))
    contestants = {
        "wingbar": _Contestant(
            lambda query: engine.nearest(query, k),
            lambda many: engine.nearest_many(many, k),
            lambda query: engine.within(query, radius),
            build,
        )
    }
    skipped: dict[str, str] = {}
    for peer in peers:
        try:
            contestants[peer] = _peer(peer, packed[:items], bits, k, radius, threads)
        except (ImportError, _LeftOutError) as error:
            skipped[peer] = str(error)
    scan = _Contestant(lambda query: engine.nearest(query, k, path="scan"), None, None, 0.0)
    filtered = _Contestant(lambda query: engine.nearest(query, k, among=among), None, None, 0.0)
    times = _race({**contestants, "scan": scan, "filter": filtered}, some, queries)
    start = time.perf_counter()
    more = np.arange(items, items + INSERTED)
    grown = engine.changed(more, packed[items : items + INSERTED], more[:0])
    grown.nearest(some[0], k)
    insert = time.perf_counter() - start
    mine = times["wingbar"]
    flat = times.get("flat", _Times())
    read = _read_bandwidth()
    scanned = engine.unique * _bytes_stored(bits) / (times["scan"].single or 1.0) / 1e9
    return {
        "items": items,
        "bits": bits,
        "centres": centres,
        "flip": flip if centres else None,
        "k": k,
        "radius": radius,
        "threads": threads,
        "cpu": f"{platform.machine()}, {_vector_unit()}",
        "unique": engine.unique,
        "build_s": build,
        "warm_up_s": warm_up,
        "bytes_per_code": engine.nbytes / items,
        "single_ms": _ms(mine.single),
        "scan_ms": _ms(times["scan"].single),
        "batch_qps": mine.qps,
        "radius_us": _us(mine.radius),
        "filter_ms": _ms(times["filter"].single),
        "insert_ms": insert * 1e3,
        "faiss_single_ms": _ms(flat.single),
        "faiss_batch_qps": flat.qps,
        "faiss_radius_us": _us(flat.radius),
        "ratio_single": _ratio(flat.single, mine.single),
        "ratio_scan": _ratio(flat.single, times["scan"].single),
        "ratio_batch": _ratio(mine.qps, flat.qps),
        "ratio_radius": _ratio(flat.radius, mine.radius),
        "read_gb_s": read,
        "bandwidth_gb_s": scanned,
        "bandwidth_share": scanned / read,
        "exact": _all_exact(engine, grown, among, packed, queries[:CHECKED], items, k, radius),
        "peers": {name: _peer_record(name, contestants[name], times[name], packed[:items], queries[:CHECKED], k, radius)
                  for name in contestants if name != "wingbar"},
        "skipped": skipped,
    }  # fmt: skip


@dataclass(frozen=True)
class _Contestant:
    """A peer's ways to search; each gives something with the distances of what it found, nearest first."""

    single: Callable[[Packed], Any]
    many: Callable[[Packed], Any] | None
    within: Callable[[Packed], Any] | None
    build: float
    distances: Callable[[Any], list[int]] = lambda found: found.distances.tolist()


@dataclass
class _Times:
    """Median seconds of one query and of a radius search, queries a second in a batch."""

    single: float | None = None
    qps: float | None = None
    radius: float | None = None


class _LeftOutError(Exception):
    """A peer that takes no part in this case, and why."""


def _synthetic(count: int, bits: int, centres: int, flip: float, seed: int, items: int) -> tuple[Packed, Packed]:
    """Codes [items + INSERTED, w] and queries [BATCH_QUERIES, w]."""
    rng = np.random.default_rng(seed)
    around = rng.random((centres, bits)) < 0.5
    parts = []
    for first in range(0, count, 1_000_000):
        size = min(1_000_000, count - first)
        if centres:
            drawn = around[rng.integers(centres, size=size)] ^ (rng.random((size, bits), np.float32) < flip)
        else:
            drawn = rng.integers(0, 2, (size, bits), np.uint8).astype(bool)
        parts.append(codes.pack(drawn))
    packed = np.concatenate(parts)
    return packed[: items + INSERTED], packed[items + INSERTED :]


def _race(contestants: dict[str, _Contestant], some: Packed, queries: Packed) -> dict[str, _Times]:
    """The contestants take turns in every round, so that a busy moment of the machine meets all of them."""
    single: dict[str, list[float]] = {name: [] for name in contestants}
    within: dict[str, list[float]] = {name: [] for name in contestants}
    batch: dict[str, list[float]] = {name: [] for name in contestants}
    sizes = {name: _affordable(contestant, queries) for name, contestant in contestants.items()}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            single[name] += _each(contestant.single, some)
        for name, contestant in contestants.items():
            if contestant.within:
                within[name] += _each(contestant.within, some)
        for name, contestant in contestants.items():
            if contestant.many:
                start = time.perf_counter()
                contestant.many(queries[: sizes[name]])
                batch[name].append((time.perf_counter() - start) / sizes[name])
    return {
        name: _Times(
            median(single[name]),
            1 / median(batch[name]) if batch[name] else None,
            median(within[name]) if within[name] else None,
        )
        for name in contestants
    }


def _each(ask: Callable[[Packed], Any], queries: Packed) -> list[float]:
    seconds = []
    for query in queries:
        start = time.perf_counter()
        ask(query)
        seconds.append(time.perf_counter() - start)
    return seconds


def _affordable(contestant: _Contestant, queries: Packed) -> int:
    """How many queries a batch may have to stay near a second, found with a small batch that also warms up."""
    few = 32
    for ask in (contestant.single, contestant.within):
        if ask:
            ask(queries[0])
    if contestant.many is None:
        return few
    start = time.perf_counter()
    contestant.many(queries[:few])
    each = (time.perf_counter() - start) / few
    return int(np.clip(1.0 / each, few, BATCH_QUERIES))


def _peer(name: str, packed: Packed, bits: int, k: int, radius: int, threads: int) -> _Contestant:
    """A peer over the same codes. Raises ImportError where it is not installed, _LeftOutError where it takes no part."""
    if name == "numpy":
        rows = packed[:, 0].astype(np.uint32) if bits <= 32 else packed

        def by_numpy(query: Packed) -> Any:
            distance = np.bitwise_count(rows ^ query.astype(rows.dtype))
            distance = distance if distance.ndim == 1 else distance.sum(1, dtype=np.uint16)
            near = np.argpartition(distance, min(k, len(distance)) - 1)[:k]
            return near[np.lexsort((near, distance[near]))], np.sort(distance[near])

        return _Contestant(by_numpy, None, None, 0.0, lambda found: found[1].tolist())
    as_bytes = _padded(packed, bits)
    start = time.perf_counter()
    if name == "usearch":
        from usearch.index import MetricKind, search  # type: ignore[attr-defined,unused-ignore]

        if len(packed) > 1_000_000:
            raise _LeftOutError("more than a second a query")

        def by_usearch(many: Packed) -> Any:
            rows = _padded(np.atleast_2d(many), bits)
            return search(as_bytes, rows, k, MetricKind.Hamming, exact=True, threads=threads)

        return _Contestant(by_usearch, by_usearch, None, 0.0, lambda found: np.sort(found.distances.ravel()).astype(int).tolist())
    import faiss

    length = as_bytes.shape[1] * 8
    if name == "flat":
        index: Any = faiss.IndexBinaryFlat(length)
    elif name == "multihash":
        if bits < 32:
            raise _LeftOutError("fewer than two tables of 16 bits")
        index = faiss.IndexBinaryMultiHash(length, min(bits, 64) // 16, 16)
        index.nflip = 0 if radius < bits // 16 else 1
    elif name == "ivf":
        quantiser = faiss.IndexBinaryFlat(length)
        index = faiss.IndexBinaryIVF(quantiser, length, max(1, min(1024, len(packed) // 100)))
        index.quantiser = quantiser  # kept alive
        index.train(as_bytes[:: max(1, len(as_bytes) // 50_000)])
        index.nprobe = 32
    else:
        if len(packed) > HNSW_UP_TO:
            raise _LeftOutError("minutes to build")
        index = faiss.IndexBinaryHNSW(length, 16)
        index.hnsw.efSearch = 64
    index.add(as_bytes)
    ranged = name in ("flat", "multihash", "ivf")
    return _Contestant(
        lambda query: index.search(_padded(query[None], bits), k),
        lambda many: index.search(_padded(many, bits), k),
        (lambda query: index.range_search(_padded(query[None], bits), radius + 1)) if ranged else None,  # FAISS excludes it
        time.perf_counter() - start,
        lambda found: (found[0][0] if len(found) == 2 else np.sort(found[1])).astype(int).tolist(),
    )


def _padded(packed: Packed, bits: int) -> NDArray[np.uint8]:
    """Codes as bytes [n, 4 or a multiple of 8], the sizes that FAISS has fast loops for."""
    return np.ascontiguousarray(packed.astype("<u4") if bits <= 32 else packed.astype("<u8")).view(np.uint8)


def _peer_record(
    name: str, peer: _Contestant, times: _Times, packed: Packed, queries: Packed, k: int, radius: int
) -> dict[str, Any]:
    """A peer's times, and its recall: the share of the true distances that it found, ties being as good as each other."""
    found = want = inside = all_inside = 0
    for query in queries:
        true = np.sort(codes.hamming(query, packed))
        last = true[min(k, len(true)) - 1]
        found += sum(0 <= distance <= last for distance in peer.distances(peer.single(query))[:k])
        want += min(k, len(true))
        if peer.within:
            inside += len(peer.distances(peer.within(query)))
            all_inside += int((true <= radius).sum())
    return {
        "build_s": peer.build,
        "single_ms": _ms(times.single),
        "batch_qps": times.qps,
        "radius_us": _us(times.radius),
        "recall": found / want,
        "radius_recall": (inside / all_inside if all_inside else 1.0) if peer.within else None,
    }


def _all_exact(
    engine: Codes, grown: Codes, among: codes.Filter, packed: Packed, queries: Packed, items: int, k: int, radius: int
) -> bool:
    """Whether every kind of search gives the ids and distances of brute force."""
    inside = np.zeros(items, bool)
    inside[np.concatenate([part.rows for part in among.parts])] = True
    many = engine.nearest_many(queries, k)
    for i, query in enumerate(queries):
        distance = codes.hamming(query, packed)
        mine = distance[:items]
        expected = _brute_force(mine, np.arange(items), k)
        answers = [
            (engine.nearest(query, k), expected),
            (engine.nearest(query, k, path="scan"), expected),
            (many[i], expected),
            (engine.within(query, radius), _brute_force(mine, np.flatnonzero(mine <= radius), items)),
            (engine.nearest(query, k, among=among), _brute_force(mine, np.flatnonzero(inside), k)),
            (grown.nearest(query, k), _brute_force(distance, np.arange(len(distance)), k)),
        ]
        for found, (ids, distances) in answers:
            if not (np.array_equal(found.ids, ids) and np.array_equal(found.distances, distances)):
                return False
    return True


def _brute_force(distance: NDArray[np.int64], rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first k of rows by (distance, row), and their distances."""
    if len(rows) > k:
        rows = rows[distance[rows] <= np.partition(distance[rows], k - 1)[k - 1]]
    order = rows[np.argsort(distance[rows], kind="stable")][:k]
    return order, distance[order]


def _read_bandwidth() -> float:
    """GB/s at which one core reads memory: the median of seven passes over 512 MiB, by a compiled sum."""
    from wingbar.hamming import kernels

    many = np.ones(64 << 20, np.uint64)
    kernels.total(many)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        kernels.total(many)
        seconds.append(time.perf_counter() - start)
    return many.nbytes / median(seconds) / 1e9


def _vector_unit() -> str:
    """What counts ones on this CPU, as LLVM sees it."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    named = {"avx512vpopcntdq": "AVX-512 VPOPCNTDQ", "avx2": "AVX2", "neon": "NEON"}
    return next((name for feature, name in named.items() if features.get(feature)), "no vectors")


def _bytes_stored(bits: int) -> int:
    return 4 if bits <= 32 else 8 * codes.words(bits)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


# -- serving

BARE = """
import json, uvicorn
from fastapi import FastAPI, Request, Response
from wingbar.server import bound
app = FastAPI()
text = json.dumps({"hits": [{"id": i, "name": "picture.jpg", "code": "01" * 32, "distance": i} for i in range(20)]})

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
SINGLE = 300  # searches by id, one after the other


def search(
    index: str | os.PathLike[str], folder: str | os.PathLike[str], *, clients: int = 32, seconds: float = 60.0
) -> dict[str, Any]:
    """A server of `index` under the load of `clients` that search for pictures of `folder`, beside what encoding alone can do.

    Client and server share this machine. The run has ROUNDS rounds; in each of them the network first runs alone on decoded
    pictures in batches, as in `encode`, which is the ceiling of `ratio`; then with a batch for each core at a time, as a server
    runs it; then decoding and network together; then the clients ask for their part of `seconds`. Latencies are those of the
    clients; one that is told to come back later does so. Then searches by id, one after the other, are timed beside a bare
    FastAPI route that answers with as many hits: `overhead` is the time around the search.
    Raises DataError without readable images, QueryError when the server does not start.
    """
    from wingbar.serving.service import Network

    with Index.open(index) as opened:
        model, items = opened.model, len(opened)
    files, _ = _readable(folder, model)
    pixels = [images.load(data, model.preparation) for data in files]
    network = Network(model.files)
    ceilings: list[float] = []
    by_core: list[float] = []
    both: list[float] = []
    asked: list[_Asked] = []
    with _serving([sys.executable, "-m", "wingbar", "serve", str(index), "--port", "0", "--json"]) as address:
        _load(address, files, clients, 1.0)  # warm up
        for one in (model, network):
            one.run(pixels[:BATCH])
        for _ in range(ROUNDS):
            ceilings.append(_speed(lambda: [model.run(batch) for batch in batched(pixels, BATCH)], len(pixels)))
            by_core.append(_speed(lambda: list(in_order(batched(pixels, BATCH), network.run, cores())), len(pixels)))
            both.append(_speed(lambda: _decode_and_run(model, files), len(files)))
            asked += _load(address, files, clients, seconds / ROUNDS)
        ids = [item["id"] for item in _get(address, "/api/items?limit=100")["items"]]
        with _serving([sys.executable, "-c", BARE]) as bare:
            by_id, inside, beside = _by_id(address, bare, ids)
    good = [one.seconds for one in asked if one.status == 200]
    rate = len(good) / seconds
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
        "median_ms": _ms(median(good)) if good else None,
        "p99_ms": _ms(float(np.percentile(good, 99))) if good else None,
        "p99_over_median": float(np.percentile(good, 99)) / median(good) if good else None,
        "by_id_ms": by_id,
        "by_id_inside_ms": inside,
        "by_id_overhead_ms": by_id - inside,
        "bare_route_ms": beside,
    }


@dataclass(frozen=True)
class _Asked:
    """One request of a client: its status (0 where the connection broke) and seconds."""

    status: int
    seconds: float


@contextmanager
def _serving(command: Sequence[str]) -> Iterator[str]:
    """A server in a process of its own; gives HOST:PORT. Raises QueryError with what it said when it does not start."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise QueryError(f"the server did not start: {(process.communicate()[1] or 'it said nothing').strip()}")
        yield urlsplit(json.loads(line)["url"]).netloc
    finally:
        process.terminate()
        process.communicate()


def _load(address: str, files: Sequence[bytes], clients: int, seconds: float) -> list[_Asked]:
    """What `clients` asked in so many seconds, each one request after the other on one connection."""
    start = time.perf_counter()

    def ask(number: int) -> list[_Asked]:
        asked: list[_Asked] = []
        connection = http.client.HTTPConnection(address, timeout=60)
        while (began := time.perf_counter()) < start + seconds:
            data = files[(number + len(asked) * clients) % len(files)]
            later = 0.0
            try:
                connection.request("POST", "/api/search", data, {"Content-Type": "application/octet-stream"})
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
    """Median milliseconds of a search by id, of the search inside of it, and of a bare route, asked in turns."""
    times: list[float] = []
    inside: list[float] = []
    beside: list[float] = []
    with closing(http.client.HTTPConnection(address)) as there, closing(http.client.HTTPConnection(bare)) as other:
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


def _get(address: str, path: str) -> Any:
    with closing(http.client.HTTPConnection(address)) as connection:
        connection.request("GET", path)
        return json.load(connection.getresponse())


def _speed(work: Callable[[], object], count: int) -> float:
    """How many of `count` things a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)
