"""Fetch files over HTTP, resuming what was interrupted, and unpack archives; nothing incomplete
ever looks complete."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import http.client
import json
import lzma
import os
import re
import shutil
import socket
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO, cast

from wingbar.errors import DataError
from wingbar.parallel import Progress, no_progress

TRIES = 5  # requests in a row without new bytes before giving up
WAIT = 1.0  # seconds before the second of them, doubled each time
TIMEOUT = 60.0  # seconds without a byte
BYTE_STAGES = ("fetching", "verifying", "unpacking")  # they count bytes; no other stage starts so
RATIO = 200  # an archive that unpacks to more times its size is a bomb; pictures hardly compress
HEADER = 2**20  # bytes of headers that one member of a tar file may have
_BLOCK = 1 << 20  # bytes per read
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # statuses that are worth another try
_HEADERS = {"User-Agent": f"wingbar/{version('wingbar')}", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched completely.

    path: where it is
    size: bytes
    sha256, md5: its checksums in hex
    """

    path: Path
    size: int
    sha256: str
    md5: str


def fetch(
    url: str, path: Path, *, sha256: str = "", md5: str = "", progress: Progress = no_progress
) -> Fetched:
    """Fetch the file at `path` from `url` (http or https) unless it is there already. `sha256` and
    `md5` are the beginnings of its checksums in hex; "" compares nothing. `progress` counts bytes.

    If the connection is cut, the process is killed or the disk is full, the part that arrived is
    kept beside it as NAME.part, and the next call resumes from it if the server still has the same
    file. It is renamed to `path` only if its checksums match. Raises DataError.
    """
    if path.is_file():
        found = _checksums(path, path, progress)
        if wrong := _mismatch(found, sha256, md5):
            raise DataError(
                f"{path} is not what {url} should be ({wrong}): remove it to have it fetched again"
            )
        return found
    part, origin = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _lock(file, part)
            try:
                _receive_all(_Transfer(url, file, origin, f"fetching {path.name}", progress))
            except DataError:
                if not file.tell():
                    _remove(part, origin)
                raise
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(_disk_problem(error, part)) from None
    found = _checksums(part, path, progress)
    if wrong := _mismatch(found, sha256, md5):
        _remove(part, origin)
        raise DataError(f"{url} cannot be fetched ({wrong}; the file was removed)")
    os.replace(part, path)
    origin.unlink(missing_ok=True)
    return found


def require_free_space(folder: Path, needed: int) -> None:
    """Raise DataError unless the disk of `folder`, or of the nearest existing folder above it, has
    `needed` bytes free."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{folder} needs {size_text(needed)} and its disk has {size_text(free)} free: free "
            "some space, or name a folder elsewhere"
        )


def size_text(size: int) -> str:
    """A number of bytes for people: "1.15 GB", "170 MB"."""
    for limit, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= limit:
            return f"{size / limit:.3g} {unit}"
    return f"{size} bytes"


def is_archive(path: Path) -> bool:
    """Whether `unpack` can unpack a file of this name."""
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"))


def unpack(archive: Path, folder: Path, progress: Progress = no_progress) -> None:
    """Unpack a tar file, compressed or not, or a zip file into `folder`, which should be empty.
    `progress` counts bytes.

    Only files and folders inside `folder` are written: an archive that holds an absolute path, a
    path with "..", a link or a device is refused, and so is one that unpacks to more than RATIO
    times its size, or has more than HEADER bytes of headers for one file. Raises DataError;
    `folder` may then hold a part of it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, folder, progress)
        else:
            _unpack_tar(archive, folder, progress)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        gzip.BadGzipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
    ) as error:
        raise DataError(
            f"{archive} is damaged, or not an archive ({error}): remove it to have it fetched again"
        ) from None
    except (RuntimeError, ValueError) as error:  # an encrypted zip file; a name with a NUL byte
        raise DataError(f"{archive} cannot be unpacked ({error})") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {folder} filled up while {archive} was unpacked: free some space"
            ) from None
        raise DataError(f"{archive} cannot be unpacked ({error.strerror or error})") from None


# -- the connection


class _CutError(Exception):
    """A request that failed but may succeed if repeated. The message is the reason."""


class _Transfer:
    """One file in transit: `file` holds what was received, `origin` records of which version of
    `url` it is."""

    def __init__(
        self, url: str, file: BinaryIO, origin: Path, stage: str, progress: Progress
    ) -> None:
        self.url, self.file, self.origin = url, file, origin
        self.stage, self.progress = stage, progress
        self.answered = False  # whether the server has ever answered

    def restart(self) -> None:
        """Drop what was received."""
        self.file.truncate(0)
        self.origin.unlink(missing_ok=True)

    def version(self) -> str:
        """The server's tag for the version that `file` is the beginning of; "" if not known."""
        try:
            known = json.loads(self.origin.read_text(encoding="utf-8"))
            return str(known["version"]) if known["url"] == self.url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _receive_all(transfer: _Transfer) -> None:
    """Repeat requests until the file is complete. Raises DataError after TRIES requests in a row
    that brought nothing new."""
    best, failures = transfer.file.seek(0, os.SEEK_END), 0
    while True:
        try:
            return _receive(transfer)
        except _CutError as cut:
            size = transfer.file.seek(0, os.SEEK_END)
            failures = 0 if size > best else failures + 1
            best = max(best, size)
            if failures >= TRIES:
                kept = (
                    f"; {size_text(size)} are kept, run the same command to resume" if size else ""
                )
                raise DataError(f"{transfer.url} cannot be fetched ({cut}{kept})") from None
            time.sleep(WAIT * 2**failures)


def _receive(transfer: _Transfer) -> None:
    """One request: append what is missing, or start over if the server has another version or sends
    only whole files."""
    have, version = transfer.file.seek(0, os.SEEK_END), transfer.version()
    if have and not version:
        transfer.restart()
        have = 0
    asked = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    with _answer(transfer, asked) as answer:
        if answer is None:  # everything is here already
            return
        sent = _version(answer)
        if answer.status == 206 and (not _continues(answer, have) or sent not in ("", version)):
            transfer.restart()
            raise _CutError("the file changed on the server")
        if answer.status != 206:
            transfer.restart()
            have = 0
            transfer.origin.write_text(
                json.dumps({"url": transfer.url, "version": sent}), encoding="utf-8"
            )
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else 0
        require_free_space(transfer.origin.parent, max(0, total - have))
        while block := _read(answer):
            transfer.file.write(block)
            have += len(block)
            transfer.progress(transfer.stage, have, max(total, have))
        transfer.file.flush()
        if total and have != total:
            raise _CutError(f"the connection was cut after {have:,} of {total:,} bytes")


@contextmanager
def _answer(
    transfer: _Transfer, asked: dict[str, str]
) -> Iterator[http.client.HTTPResponse | None]:
    """The server's answer, None if all of the file is here already. Raises _CutError or
    DataError."""
    url = transfer.url
    if not url.lower().startswith(("http://", "https://")):
        raise DataError(f"{url} cannot be fetched: an address begins with http:// or https://")
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers={**_HEADERS, **asked}), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        transfer.answered = True
        error.close()
        if error.code == 416 and asked:
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if total and int(total[1]) == transfer.file.tell():
                yield None
                return
            transfer.restart()
            raise _CutError("the file changed on the server") from None
        if error.code in _BUSY:
            raise _CutError(str(error)) from None
        raise DataError(f"{url} cannot be fetched ({error})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        again = (
            isinstance(reason, (TimeoutError, ConnectionResetError, http.client.HTTPException))
            or transfer.answered
        )
        if again and not isinstance(error, ValueError):
            raise _CutError(str(reason) or type(reason).__name__) from None
        hint = ""
        if isinstance(reason, (socket.gaierror, ConnectionError)):
            hint = "; is this machine online?"
        raise DataError(f"{url} cannot be fetched ({reason}{hint})") from None
    transfer.answered = True
    with answer:
        yield answer


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(str(error) or type(error).__name__) from None


def _version(answer: http.client.HTTPResponse) -> str:
    """What If-Range accepts: a strong ETag, otherwise the time of the last change, or ""."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _continues(answer: http.client.HTTPResponse, have: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


# -- files


def _lock(file: BinaryIO, path: Path) -> None:
    """Raise DataError if another process is writing the file; does nothing without file locks."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"another process is fetching {path}: wait for it") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # a network file system without locks
            raise


def _checksums(path: Path, name: Path, progress: Progress) -> Fetched:
    """The checksums of the file at `path`, as those of `name`."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    done, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
            md5.update(block)
            done += len(block)
            progress(f"verifying {name.name}", done, size)
    return Fetched(name, size, sha256.hexdigest(), md5.hexdigest())


def _mismatch(found: Fetched, sha256: str, md5: str) -> str:
    """Which checksum does not begin as published, or ""."""
    for name, real, wanted in (("sha256", found.sha256, sha256), ("md5", found.md5, md5)):
        if not real.startswith(wanted.lower()):
            return f"its {name} is {real[: len(wanted)]}, not {wanted.lower()}"
    return ""


def _disk_problem(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of {path.parent} is full; the part that arrived is kept: free some space, "
            "then run the same command to resume"
        )
    return f"{path} cannot be written ({error.strerror or error})"


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


# -- archives


class _Headers:
    """The decompressed bytes of a tar file. At most HEADER of them may be read for the headers of
    one member: tarfile keeps them all in memory.

    left: how many more may be read; None while the content of a member is read.
    """

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        self.file, self.archive = file, archive
        self.left: int | None = HEADER
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            if size < 0 or size > self.left:
                raise DataError(
                    f"{self.archive} has more than {size_text(HEADER)} of headers for one file: "
                    "it is refused"
                )
            self.left -= size
        return self.file.read(size)


def _decompressed(file: BinaryIO) -> IO[bytes]:
    """The content of a file that may be compressed by gzip, bzip2 or xz."""
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith((b"\xfd7zXZ", b"]\0\0\x80")):
        return lzma.LZMAFile(file)
    return file


def _unpack_tar(archive: Path, folder: Path, progress: Progress) -> None:
    size, total = archive.stat().st_size, 0
    with archive.open("rb") as file, _decompressed(file) as content:
        headers = _Headers(content, archive)
        with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r:") as tar:
            while member := tar.next():
                _check_name(archive, member.name)
                if not member.isreg() and not member.isdir():
                    raise DataError(
                        f"{archive} holds a link or a device, {member.name!r}: it is not unpacked"
                    )
                total += member.size + tarfile.BLOCKSIZE
                _check_growth(archive, size, total)
                headers.left = None
                tar.extract(member, folder, filter="data")
                headers.left = HEADER
                tar.members = []  # type: ignore[attr-defined]  # it would remember them all
                progress(f"unpacking {archive.name}", min(file.tell(), size), size)


def _unpack_zip(archive: Path, folder: Path, progress: Progress) -> None:
    size, done = archive.stat().st_size, 0
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        total = sum(member.file_size for member in members)
        _check_growth(archive, size, total)
        for member in members:
            _check_name(archive, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError(
                    f"{archive} holds a link or a device, {member.filename!r}: it is not unpacked"
                )
            opened.extract(member, folder)
            done += member.file_size
            progress(f"unpacking {archive.name}", done, total)


def _check_name(archive: Path, name: str) -> None:
    slashed = name.replace("\\", "/")
    if (
        slashed.startswith("/")
        or PureWindowsPath(name).drive
        or ".." in PurePosixPath(slashed).parts
    ):
        raise DataError(f"{archive} holds a path that leads outside, {name!r}: it is not unpacked")


def _check_growth(archive: Path, size: int, total: int) -> None:
    if total > RATIO * size:
        raise DataError(
            f"{archive} of {size_text(size)} unpacks to more than {size_text(RATIO * size)}: it "
            "is refused"
        )
