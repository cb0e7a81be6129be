"""Network outputs that wait for their codes, in a file beside an index.

Label-free codes are learned from a whole sample, so nothing can enter the index before all of it is
encoded. Until then every batch of outputs is appended to `NAME-sample`. A run that is stopped or
killed loses at most a batch; the next one takes the outputs of unchanged pictures from there, and
the file goes when the codes are stored.

The file is a header and records of one size: sha256 of the picture, CRC-32 of the outputs, outputs.
A record that was cut off or is damaged is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import StoreError
from wingbar.model.model import PROOF, Model

_MAGIC = b"wbraw001"
_HEADER = struct.Struct("<8s32sI")  # magic, sha256 of the network, numbers per picture
_RECORD = struct.Struct("<32sI")  # sha256 of the picture, CRC-32 of the outputs


def network_of(model: Model) -> bytes:
    """sha256 of what the outputs depend on: the network, how it wants its pixels, and the machine
    whose proof it has."""
    prepared = json.dumps(model.record["preparation"], sort_keys=True).encode()
    proof = model.files.get(PROOF, b"")
    return hashlib.sha256(model.files["model.onnx"] + prepared + proof).digest()


def remove_outputs(index: Path) -> None:
    """Remove what is kept for the index at `index`, if anything is."""
    path = _path_of(index)
    with suppress(OSError):
        with path.open("rb") as file:
            is_ours = file.read(len(_MAGIC)) == _MAGIC
        if is_ours:
            path.unlink()


def _path_of(index: Path) -> Path:
    return Path(f"{index}-sample")


class Outputs:
    """The outputs of one network that were kept for the index at `index`, by sha256 of the
    picture."""

    def __init__(self, index: Path, model: Model) -> None:
        self.index = index
        self.path = _path_of(index)
        self._network = network_of(model)
        self._kept, whole = self._read()
        self._whole: int | None = whole  # bytes of whole records, until the first append

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, content: bytes) -> NDArray[np.float32] | None:
        """The outputs [r] float32 of the picture with this sha256; None if there are none."""
        return self._kept.get(content)

    def append(self, contents: Sequence[bytes], raw: NDArray[np.float32]) -> None:
        """Keep the outputs `raw` [B, r] of the pictures with the sha256s `contents` [B]. Raises
        StoreError."""
        rows = [row.astype("<f4").tobytes() for row in raw]
        records = [
            _RECORD.pack(content, zlib.crc32(row)) + row
            for content, row in zip(contents, rows, strict=True)
        ]
        try:
            if self._whole is not None:  # once: drop a record that a killed run has cut off
                self._begin(raw.shape[1])
                self._whole = None
            with self.path.open("ab") as file:
                file.write(b"".join(records))
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written ({error.strerror}): free some space and run the "
                "same command again"
            ) from error

    def _begin(self, numbers: int) -> None:
        """Make the file end with a whole record, or begin one where there is none, as when another
        run has stored its codes meanwhile. Raises OSError."""
        if self._whole:
            with suppress(FileNotFoundError):
                os.truncate(self.path, self._whole)
                return
        self.path.write_bytes(_HEADER.pack(_MAGIC, self._network, numbers))

    def discard(self) -> None:
        """Remove the file; what was read from it stays in memory."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._whole = 0

    def _read(self) -> tuple[dict[bytes, NDArray[np.float32]], int]:
        """What the file holds, and its length up to the last whole record; 0 if it is another
        network's or none."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return {}, 0
        if len(data) < _HEADER.size:
            return {}, 0
        magic, network, numbers = _HEADER.unpack_from(data)
        if magic != _MAGIC or network != self._network or not 0 < numbers <= 1 << 20:
            return {}, 0
        size = _RECORD.size + 4 * numbers
        count = (len(data) - _HEADER.size) // size
        kept = {}
        for i in range(count):
            start = _HEADER.size + i * size
            content, crc = _RECORD.unpack_from(data, start)
            row = data[start + _RECORD.size : start + size]
            if zlib.crc32(row) == crc:
                kept[content] = np.frombuffer(row, "<f4").astype(np.float32)
        return kept, _HEADER.size + count * size
