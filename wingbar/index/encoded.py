"""Network outputs that other machines have made, in a folder of Parquet files, until they are
stored.

Each file holds some of the pictures, one row each:

    path      of the picture
    size      bytes of its file when it was read
    mtime     time of its last change then, in nanoseconds since 1970
    content   32 bytes: sha256 of the file
    raw       the network's outputs, float32, little-endian; null where they are in another row of
              the same content, or already stored
    failure   why there are none; null otherwise

and the sha256 of the network in the metadata of the schema. A file gets its name only when it is
whole, and its pages have checksums; one that is damaged, or of another network, is passed over.
"""

from __future__ import annotations

import io
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import StoreError
from wingbar.files import write_whole, writer_runs

if TYPE_CHECKING:
    import pyarrow

ROWS = 1024  # rows of a file
_NETWORK = b"network"  # the name of the sha256 in the metadata
_IN_MEMORY = 4  # files whose outputs are kept in memory; they are read nearly in order


class Made(NamedTuple):
    """What became of a picture: its file as it was then, and why it has no outputs, if so."""

    size: int
    mtime: int
    content: bytes
    failure: str | None


class Encoded:
    """The outputs of the network with the sha256 `network` in `folder`, by path and by content."""

    def __init__(self, folder: Path, network: bytes) -> None:
        self.folder = folder
        self._network = network
        self._made: dict[str, Made] = {}
        self._places: dict[bytes, tuple[Path, int]] = {}  # of the outputs, by content
        self._waiting: list[pyarrow.Table] = []
        self._files: list[Path] = []
        self._read: OrderedDict[Path, pyarrow.Array] = OrderedDict()
        self._lock = threading.Lock()
        for path in sorted(folder.glob("*.parquet")):
            self._take(path)

    def __len__(self) -> int:
        return len(self._made)

    def of(self, path: str, size: int, mtime: int) -> Made | None:
        """What became of the picture at `path`, if its file is still of this size and time."""
        made = self._made.get(path)
        return made if made is not None and (made.size, made.mtime) == (size, mtime) else None

    def contents(self) -> Iterable[bytes]:
        """The sha256 of every picture whose outputs are here."""
        return self._places.keys()

    def raw(self, content: bytes) -> NDArray[np.float32] | None:
        """The outputs [r] of the picture with this sha256; None if they are not here, or no longer.

        For several threads."""
        if content not in self._places:
            return None
        path, row = self._places[content]
        with self._lock:
            if path not in self._read:
                table = _read_table(path, self._network)
                if table is None:  # removed or damaged since: the picture is encoded again
                    return None
                self._read[path] = table["raw"].combine_chunks()
                if len(self._read) > _IN_MEMORY:
                    self._read.popitem(last=False)
            self._read.move_to_end(path)
            return np.frombuffer(self._read[path][row].as_py(), "<f4").astype(np.float32)

    def add(self, table: pyarrow.Table) -> None:
        """Keep rows in the form of `schema`. Raises StoreError."""
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits into a file. Raises StoreError."""
        if not self._waiting:
            return
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.concat_tables(self._waiting)
        buffer = io.BytesIO()
        parquet.write_table(
            table.replace_schema_metadata({_NETWORK: self._network}),
            buffer,
            compression="none",  # floats of a network hardly shrink
            write_page_checksum=True,
        )
        path = self.folder / f"{len(self._files):06}-{uuid.uuid4().hex[:8]}.parquet"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, buffer.getvalue())
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written ({error.strerror}): free some space and run the same "
                "command again"
            ) from error
        self._waiting = []
        self._take(path)

    def discard(self) -> None:
        """Remove the files, and the folder if nothing else is in it."""
        cut_off = [path for path in self.folder.glob(".*.partial") if not writer_runs(path)]
        for path in [*self.folder.glob("*.parquet"), *cut_off]:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _take(self, path: Path) -> None:
        """Note what a file holds."""
        table = _read_table(path, self._network)
        if table is None:
            return
        self._files.append(path)
        columns = [table[name].to_pylist() for name in ("path", "size", "mtime", "content")]
        failures, has_raw = table["failure"].to_pylist(), table["raw"].is_valid().to_pylist()
        for row, (name, size, mtime, content) in enumerate(zip(*columns, strict=True)):
            self._made[name] = Made(size, mtime, content, failures[row])
            if has_raw[row]:
                self._places[content] = (path, row)


def schema() -> pyarrow.Schema:
    """The columns of a file."""
    import pyarrow as pa

    return pa.schema(
        [
            ("path", pa.string()),
            ("size", pa.int64()),
            ("mtime", pa.int64()),
            ("content", pa.binary(32)),
            ("raw", pa.binary()),
            ("failure", pa.string()),
        ]
    )


def _read_table(path: Path, network: bytes) -> pyarrow.Table | None:
    """A whole file; None if it is damaged, gone, or of another network."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as file:  # pyarrow takes no file names that are not UTF-8
            table = parquet.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    mark = (table.schema.metadata or {}).get(_NETWORK)
    is_ours = mark == network and table.schema.remove_metadata().equals(schema())
    return table if is_ours else None
