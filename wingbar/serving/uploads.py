"""Pictures that come over HTTP: received, stored as files, indexed, deleted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from wingbar.files import write_whole
from wingbar.index.store import Item
from wingbar.serving.connections import NAME
from wingbar.serving.encoder import SUFFIXES, Encoded


@dataclass(frozen=True)
class Upload:
    """A picture to be stored, the name of its file, and its label."""

    name: str
    data: bytes
    label: str | None


@dataclass(frozen=True)
class _Ready:
    """An upload after the network, and the sha256 of its bytes: all that is left is to store it."""

    upload: Upload
    encoded: Encoded
    content: bytes

    @property
    def columns(self) -> dict[str, str]:
        """What is stored beside its label."""
        return {NAME: self.upload.name}

    @property
    def file(self) -> str:
        """The name of its file here."""
        return f"{self.content.hex()[:32]}{SUFFIXES.get(self.encoded.kind, '.jpg')}"

    def item(self, path: Path) -> Item:
        """Its item, as `Index.add` would make it."""
        status = path.stat()
        return Item(
            str(path),
            self.upload.label,
            self.columns,
            status.st_size,
            status.st_mtime_ns,
            self.content,
        )


def _hashed(encoded: tuple[Upload, Encoded]) -> _Ready:
    upload, one = encoded
    return _Ready(upload, one, hashlib.sha256(upload.data).digest())


def _put(path: Path, data: bytes) -> bool:
    """Write a file so that it is whole or not there, whatever happens. False when it is there
    already. Raises OSError."""
    if path.exists() and path.stat().st_size == len(data):
        return False
    write_whole(path, data)
    return True
