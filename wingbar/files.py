"""Files that are written whole or not at all."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wingbar.errors import WingbarError, printable

INDEX_MARK = b"wbar"  # an index, from its byte 68 on: the id of its program in SQLite's header
INDEX, DATABASE, UNKNOWN = (
    "a wingbar index",
    "a database of another program",
    "another kind of file",
)
_KINDS = {
    b"<!doctype html": "a page",
    b"SQLite format 3\0": DATABASE,
    b"PAR1": "a Parquet file",
    b"PK": "a .npz or .zip file",
    b"\xff\xd8\xff": "a picture",
    b"\x89PNG": "a picture",
}
LOGS = ("-wal", "-shm", "-journal")  # what SQLite writes beside a file, after its name
LEFTOVER_SECONDS = 10  # age from which a partial file is one, if its process is gone here
SILENT_SECONDS = 600  # and if its number is that of a process here, but it is from elsewhere


def write_whole(path: Path, data: bytes | str) -> None:
    """Replace the file at `path` by `data` (text as UTF-8, with escapes for
    what a file name of other bytes has brought into it), or leave the old one whole.

    The data goes to `partial_path(path)` beside it first and reaches the disk before the file gets
    its name. Raises OSError and removes the partial file when that fails.
    """
    partial = partial_path(path)
    remove_leftovers(path)
    try:
        with partial.open("wb") as file:
            file.write(printable(data).encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that was asked for
        raise


def require_own(path: Path, begins: bytes, at: int = 0) -> None:
    """Raise WingbarError unless `path` can be given to a new file: nothing is there, or a file that
    begins, in any case of letters, as those do that are written there; `begins` are its bytes from
    `at` on. A slip of the keyboard must not replace an index, a picture or a device by a page."""
    if not path.parent.is_dir():
        raise WingbarError(f"there is no folder {path.parent} for {path.name}: make it first")
    if path.is_symlink():
        raise WingbarError(f"{path} is a link: name the file that it leads to, or another one")
    if not os.access(path.parent, os.W_OK):
        raise WingbarError(f"you may not write into the folder {path.parent}: name another place")
    if not path.exists():
        return
    if path.is_dir():
        raise WingbarError(taken(path))
    if not path.is_file():
        raise WingbarError(f"{path} is {kind_of(path)} and no file: name another one")
    with path.open("rb") as file:
        head = file.read(max(72, at + len(begins)))
    if head and head[at : at + len(begins)].lower() != begins.lower():
        raise WingbarError(
            f"{path} is there and is {_kind(head)}, which is not what would be written: name "
            "another file, or move this one away"
        )


def taken(path: Path) -> str:
    """What to say where something is at `path`, and nothing may be."""
    if path.is_dir():
        return f"{path} is a folder: name a file in it, or another one"
    return f"{path} exists already and is {kind_of(path)}: name another file, or move it away"


def require_folder(path: Path) -> None:
    """Raise WingbarError unless `path` is a folder, or one can be made there."""
    there = next((one for one in (path, *path.parents) if one.exists()), path)
    if there.exists() and not there.is_dir():
        raise WingbarError(f"{there} is {kind_of(there)}, not a folder: name a folder")
    if not os.access(there, os.W_OK):
        raise WingbarError(f"you may not write into the folder {there}: name another place")


def kind_of(path: Path) -> str:
    """What kind of file is at `path`, in words."""
    try:
        if not path.is_file():
            return "a folder" if path.is_dir() else "a device or pipe"
        with path.open("rb") as file:
            return _kind(file.read(72))
    except OSError:
        return "a file that cannot be read"


def _kind(head: bytes) -> str:
    """What kind of file begins with these bytes."""
    if not head:
        return "an empty file"
    if head[68:72] == INDEX_MARK:
        return INDEX
    for begins, kind in _KINDS.items():
        if head[: len(begins)].lower() == begins.lower():
            return kind
    return UNKNOWN


def partial_path(path: Path) -> Path:
    """Where this process writes a file before it gets its name: `.NAME.SPACE.PID.partial` beside
    it, or without SPACE where that cannot be told. Such a place itself stays as it is."""
    space = _process_space()
    ending = f".{space}.{os.getpid()}.partial" if space else f".{os.getpid()}.partial"
    return path if path.name.endswith(ending) else path.with_name(f".{path.name}{ending}")


@functools.cache
def _process_space() -> str:
    """Six digits that tell where the numbers of processes are those of this one: on this machine,
    since it started, in this container. Empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{boot}{space}".encode()).hexdigest()[:6]


def with_own_name(text: str, path: Path) -> str:
    """A message about the partial file of `path`, with the name that was asked for."""
    return text.replace(str(partial_path(path)), str(path))


def remove_leftovers(path: Path) -> None:
    """Remove the partial files of `path`, with SQLite's logs beside them, that processes which were
    killed have left behind."""
    by_partial: dict[Path, list[Path]] = {}
    for one in path.parent.glob(f".{glob.escape(path.name)}.*.partial*"):
        partial = _without_log(one)
        if partial.name.endswith(".partial"):
            by_partial.setdefault(partial, []).append(one)
    for partial, files in by_partial.items():
        with suppress(OSError):
            if _is_leftover(partial, files):
                for one in files:
                    one.unlink(missing_ok=True)


def _without_log(path: Path) -> Path:
    """The file that a log belongs to; any other file itself."""
    ending = next((one for one in LOGS if path.name.endswith(one)), "")
    return path.with_name(path.name.removesuffix(ending))


def _is_leftover(partial: Path, files: Sequence[Path]) -> bool:
    """Whether the process is gone that wrote a partial file, of which `files` are there. Of a
    process that may be of another machine or container, only its silence tells. Raises OSError."""
    space, runs = _process_space(), writer_runs(partial)
    if space and partial.name.split(".")[-3] == space:
        return not runs
    # one from the future is old too: the clock was set back
    silence = min(abs(time.time() - one.stat().st_mtime) for one in files)
    if runs:  # its number does, which may be that of another process here
        return bool(space) and silence > SILENT_SECONDS
    return silence > LEFTOVER_SECONDS


def writer_runs(partial: Path) -> bool:
    """Whether the process that a partial file names is running; where that cannot be told, yes."""
    number = partial.name.split(".")[-2]
    if os.name != "posix" or not number.isdecimal():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut. Raises OSError."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
