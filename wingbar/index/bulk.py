"""Encode many pictures on a Ray cluster: one encoder an actor, fed by Ray Data.

Workers read, hash, decode and encode; the rows that they return are kept beside the index
(`encoded.py`), from where the ordinary run takes them in its own order. So the index is that of one
process, and whatever was kept is not encoded again. A worker that dies is started anew by Ray, and
its batch with it.

wingbar must be installed on every node, in one version, and the pictures must have the same paths
there. The network's outputs depend on the CPU's instructions in their last digits: nodes of one
kind give what one machine of that kind gives.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wingbar import images
from wingbar.errors import ImageError, ModelError, StoreError, one_line
from wingbar.index.encoded import Encoded, schema
from wingbar.index.sources import time_of
from wingbar.model import proof
from wingbar.model.model import Model
from wingbar.parallel import BATCH, Progress, batched, cores, in_order

if TYPE_CHECKING:
    import pyarrow

LOCAL = "local"  # a cluster of this machine alone, for as long as the run takes
PICTURES = 64  # that a worker is given at a time
STAGE = "encoding on Ray"
_LOOPBACK = (LOCAL, "localhost", "127.0.0.1")
_OBJECTS = 256 * 2**20  # bytes of shared memory of a local cluster; a batch takes far less
_MADE_BY = ("wingbar", "numpy", "onnxruntime", "pillow")  # what the outputs depend on


def encode_on_ray(
    address: str,
    model: Model,
    paths: Sequence[str],
    stored: Iterable[bytes],
    encoded: Encoded,
    threads: int,
    progress: Progress,
) -> int:
    """Bring the outputs of the pictures at `paths` into `encoded`, apart from those whose sha256 is
    there or in `stored`, and return how many were made. Each worker takes `threads` cores.

    Pictures that cannot be read are left out, and those that cannot be decoded are kept with the
    reason. Raises StoreError where the cluster cannot be used; what was encoded stays.
    """
    known = frozenset([*stored, *encoded.contents()])
    done = made = 0
    if not paths:
        return made
    progress(STAGE, done, len(paths))
    with _connected(address) as ray:
        try:
            for table in _tables(ray, model, paths, known, threads):
                _check(table)
                encoded.add(table.filter(table["content"].is_valid()).select(schema().names))
                done += len(table)
                made += len(table) - table["raw"].null_count
                progress(STAGE, done, len(paths))
        except ray.exceptions.RayError as error:
            raise StoreError(
                f"the Ray cluster failed ({one_line(_cause(error))}): run the same command again, "
                "it continues; wingbar must be installed on every node"
            ) from error
        finally:
            encoded.flush()
    return made


class Encoder:
    """What a worker does: paths to rows in the form of `encoded.schema`, with the columns `unread`
    (why a file cannot be read), `problem` (why the whole worker is of no use) and `node`."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        versions: Mapping[str, str],
        known: frozenset[bytes],
        threads: int,
    ) -> None:
        self._problem = _other_versions(versions)
        self._known = known
        self._threads = threads
        try:
            self._model = Model(files, threads)
            self._problem = self._problem or proof.problem(self._model)
        except ModelError as error:
            self._problem = str(error)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """The rows of a table with the column `path`, in its order."""
        import pyarrow as pa

        paths = table["path"].to_pylist()
        rows: list[dict[str, object]] = []
        if self._problem is None:
            for batch in batched(in_order(paths, self._read, self._threads), BATCH):
                self._encode(batch)
                rows += [row for row, _ in batch]
        else:
            rows = [{"path": path, "problem": self._problem} for path in paths]
        extra = [(name, pa.string()) for name in ("unread", "problem", "node")]
        wide = pa.schema([*schema(), *(pa.field(*one) for one in extra)])
        import socket

        node = socket.gethostname()
        return pa.Table.from_pylist([{**row, "node": node} for row in rows], wide)

    def _encode(self, batch: Sequence[tuple[dict[str, object], images.Pixels | None]]) -> None:
        new = [(row, pixels) for row, pixels in batch if pixels is not None]
        if not new:
            return
        try:
            raw = self._model.run([pixels for _, pixels in new])
        except ModelError as error:
            for row, _ in batch:
                row["problem"] = str(error)
            return
        for (row, _), outputs in zip(new, raw, strict=True):
            row["raw"] = outputs.astype("<f4").tobytes()

    def _read(self, path: str) -> tuple[dict[str, object], images.Pixels | None]:
        """In a thread: the row of a picture without its outputs, and its pixels where the network
        has to run."""
        row: dict[str, object] = {"path": path}
        try:
            status = os.stat(path)
            data = images.read(path)
        except ImageError as error:
            return row | {"unread": str(error)}, None
        except (OSError, ValueError) as error:
            return row | {"unread": getattr(error, "strerror", None) or str(error)}, None
        content = hashlib.sha256(data).digest()
        row |= {"size": len(data), "mtime": time_of(status), "content": content}
        if content in self._known:
            return row, None
        try:
            return row, images.load(data, self._model.preprocessing)
        except ImageError as error:
            return row | {"failure": str(error)}, None


class RayEncoder(Encoder):
    """The same with its first three arguments in Ray's object store, in a list so that Ray does not
    resolve it: an actor is started anew with what it was given."""

    def __init__(self, job: Sequence[Any], threads: int) -> None:
        import ray

        files, versions, known = ray.get(job[0])
        super().__init__(files, versions, known, threads)


def _tables(
    ray: Any,
    model: Model,
    paths: Sequence[str],
    known: frozenset[bytes],
    threads: int,
) -> Iterator[pyarrow.Table]:
    """The rows of all pictures, in any order, as workers return them."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"path": path} for path in paths]
    parts = from_items(rows, override_num_blocks=-(-len(paths) // PICTURES))
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    made = parts.map_batches(
        RayEncoder,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=threads,
        compute=ActorPoolStrategy(min_size=1, max_size=workers),
        fn_constructor_args=([ray.put((model.files, _versions(), known))], threads),
    )
    yield from made.iter_batches(batch_size=None, batch_format="pyarrow")


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one of this machine that ends with the block."""
    if address.startswith("ray://"):
        raise StoreError(
            f"{address} is for Ray's client, which Ray Data does not work with: run wingbar on a "
            "node of the cluster, with --ray auto or --ray HOST:6379"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    if address.partition(":")[0] in _LOOPBACK:
        # Or Ray puts this machine's address in a network in its place, and listens there.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
        import ray.data
    except ImportError:
        raise StoreError("--ray needs Ray: pip install 'wingbar[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():  # by the program that uses wingbar
        yield ray
        return
    own: dict[str, Any] = {"address": address}
    if address == LOCAL:
        own |= {
            "num_cpus": cores(),
            "object_store_memory": _OBJECTS,
            "include_dashboard": False,
        }
    try:
        ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many types, a bare Exception among them
        raise StoreError(
            f"no Ray cluster can be reached at {address} ({one_line(error)}): name the HOST:PORT "
            f"that ray start --head has printed, or {LOCAL}"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check(table: pyarrow.Table) -> None:
    """Raise StoreError where a worker is of no use, or cannot read what this machine can."""
    for row in table.select(["path", "unread", "problem", "node"]).to_pylist():
        if row["problem"] is not None:
            raise StoreError(f"node {row['node']} cannot encode: {row['problem']}")
        if row["unread"] is not None and _can_read(row["path"]):
            raise StoreError(
                f"node {row['node']} cannot read {row['path']} ({row['unread']}), which this "
                "machine can: every node needs the pictures under the same paths"
            )


def _can_read(path: str) -> bool:
    try:
        images.read(path)
    except ImageError:
        return False
    return True


def _versions() -> dict[str, str]:
    from importlib.metadata import version  # a search, which imports this module, has no use for it

    return {name: version(name) for name in _MADE_BY}


def _other_versions(wanted: Mapping[str, str]) -> str | None:
    """What a worker has in another version than the machine that started it, as a sentence."""
    here = _versions()
    for name, version in wanted.items():
        if here[name] != version:
            return (
                f"it has {name} {here[name]}, the machine that started the run {version}: install "
                "the same versions on every node"
            )
    return None


def _cause(error: BaseException) -> BaseException:
    """The exception that Ray has wrapped."""
    inner = getattr(error, "cause", None)
    return _cause(inner) if isinstance(inner, BaseException) else error
