"""Files that are written whole or not at all."""

from __future__ import annotations

import glob
import os
import time
from contextlib import suppress
from pathlib import Path

from wingbar.errors import WingbarError

LEFTOVER_SECONDS = 10  # age from which a partial file is one, if its process is gone here


def write_whole(path: Path, data: bytes | str) -> None:
    """Replace the file at `path` by `data` (text as UTF-8, with escapes for
    what a file name of other bytes has brought into it), or leave the old one whole.

    The data goes to `.NAME.PID.partial` beside it first and reaches the disk before the file gets
    its name. Raises OSError and removes the partial file when that fails.
    """
    partial = partial_path(path)
    remove_leftovers(path)
    try:
        with partial.open("wb") as file:
            file.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
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
    if path.is_file():
        with path.open("rb") as file:
            found = file.read(at + len(begins))
        if not found or found[at:].lower() == begins.lower():
            return
    raise WingbarError(
        f"{path} is there and nothing that wingbar wrote: name another file, or delete it first"
    )


def partial_path(path: Path) -> Path:
    """Where this process writes a file before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def with_own_name(text: str, path: Path) -> str:
    """A message about the partial file of `path`, with the name that was asked for."""
    return text.replace(str(partial_path(path)), str(path))


def remove_leftovers(path: Path) -> None:
    """Remove the partial files of `path` that processes which were killed have left behind."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):
            # one from the future is old too: the clock was set back
            old = abs(time.time() - left.stat().st_mtime) > LEFTOVER_SECONDS
            if old and not writer_runs(left):
                left.unlink()


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
