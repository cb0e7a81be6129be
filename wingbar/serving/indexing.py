"""Indexing a folder of the server's own machine while the server runs: one folder at a time, in a
thread with a connection of its own, as `wingbar index` would in another process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from wingbar.data.readers import read_images
from wingbar.data.records import Images
from wingbar.errors import QueryError, WingbarError, printable
from wingbar.images import Failure
from wingbar.index.index import Index
from wingbar.index.sync import AddReport

MOST_FAILURES = 1000  # whose reasons are told
LOOK_SECONDS = 0.1  # between two looks at how far a run is
ODD_LINK = "a link out of the folders that the server was started for: index it with wingbar index"


class NotAllowedError(WingbarError):
    """The server was not started for this folder."""


class RunningError(WingbarError):
    """A folder is being indexed already."""


class Unusable(NamedTuple):
    """An image that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Run:
    """How far the indexing of a folder is.

    state: "idle" before the first one.
    folder: the folder, with links resolved.
    stage: what is being done, as in "indexing".
    done: how much of this stage is finished, 0 to total.
    total: how much there is in this stage.
    counts: at the end, also of one that was stopped, how many images were added, updated,
        unchanged, moved, removed.
    failed: at the end, images that could not be used; MOST_FAILURES of them.
    failures: number of all of them.
    message: why it failed; at the end of others, what to do next, or "".
    """

    state: Literal["idle", "running", "done", "stopped", "failed"] = "idle"
    folder: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    counts: tuple[tuple[str, int], ...] = ()
    failed: tuple[Unusable, ...] = ()
    failures: int = 0
    message: str = ""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        failed = [one._asdict() for one in self.failed]
        return {**vars(self), "counts": dict(self.counts), "failed": failed}


class FolderIndexing:
    """Indexes folders inside `allowed`. Its methods may be called from any thread.

    run: how far the present folder is, or the last one.
    """

    def __init__(self, index: Path, allowed: Sequence[Path]) -> None:
        self.run = Run()
        self.allowed = tuple(Path(os.path.realpath(folder)) for folder in allowed)
        self._index = index
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, folder: str) -> Run:
        """Begin with a folder, given by its absolute path. Raises NotAllowedError for one outside
        of those that are allowed, QueryError for one that is none, RunningError while another is
        indexed."""
        real = self._checked(folder)
        with self._lock:
            if self.run.state == "running":
                raise RunningError(f"{self.run.folder} is being indexed: wait for it, or stop it")
            self._stop.clear()
            self.run = Run("running", str(real), "reading the folder")
            self._thread = threading.Thread(target=self._work, args=(real,), name="wingbar-index")
            self._thread.start()
            return self.run

    def stop(self) -> Run:
        """End the present run soon; what was stored stays."""
        self._stop.set()
        return self.run

    def close(self) -> None:
        """End the present run and wait for it."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    async def runs(self, seconds: float) -> AsyncIterator[Run]:
        """How far it is, now and after each change, until the run ends or `seconds` are over."""
        end = time.monotonic() + seconds
        last = None
        while True:
            if (run := self.run) != last:
                yield run
                last = run
            if run.state != "running" or time.monotonic() > end:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _checked(self, folder: str) -> Path:
        """The folder with links and `..` resolved. What is outside of `allowed` is refused before
        anything is said about whether it exists."""
        given = os.path.expanduser(folder.strip())
        if "\0" in given or not os.path.isabs(given):
            raise QueryError(f"name a folder by its whole path, as in {self.allowed[0]}")
        real = Path(os.path.realpath(given))
        if not self._is_allowed(real):
            raise NotAllowedError(
                f"{printable(folder)} is not inside {' or '.join(map(str, self.allowed))}: start "
                "the server with another --allow-index FOLDER, or run wingbar index"
            )
        if not real.is_dir():
            raise QueryError(f"there is no folder {printable(folder)}: check its name")
        return real

    def _is_allowed(self, real: Path) -> bool:
        return any(real.is_relative_to(folder) for folder in self.allowed)

    def _work(self, folder: Path) -> None:
        """In the thread: index a folder."""
        try:
            images = self._inside(read_images(folder))
            with Index.open(self._index) as index:
                report = index.add([images], progress=self._progress)
            self.run = _finished(self.run, report)
        except _Stopped as stopped:
            done = stopped.args[0] if stopped.args else AddReport()  # before anything was begun
            self.run = _finished(self.run, done, "stopped")
        except WingbarError as error:
            self.run = replace(self.run, state="failed", message=str(error))
        except BaseException as error:  # a bug: nobody may wait for ever
            text = f"a bug in wingbar ({type(error).__name__}): see the server's log"
            self.run = replace(self.run, state="failed", message=text)
            raise

    def _inside(self, images: Images) -> Images:
        """Without files that links lead to outside of `allowed`."""
        kept, failed = [], list(images.failed)
        for entry in images:
            if self._is_allowed(Path(os.path.realpath(entry.path))):
                kept.append(entry)
            else:
                failed.append(Failure(str(entry.path), ODD_LINK))
        return replace(images, entries=kept, failed=failed)

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        self.run = replace(self.run, stage=stage, done=done, total=total)


class _Stopped(KeyboardInterrupt):
    """Ends `Index.add` as Ctrl-C does: what is encoded by then is stored, and the argument is the
    report of it."""


def _finished(run: Run, report: AddReport, state: Literal["done", "stopped"] = "done") -> Run:
    """The end of a run."""
    names = ("added", "updated", "unchanged", "moved", "removed")
    failed = [Unusable(printable(one.path), one.reason) for one in report.failed]
    return replace(
        run,
        state=state,
        counts=tuple((name, getattr(report, name)) for name in names),
        failed=tuple(failed[:MOST_FAILURES]),
        failures=len(failed),
        message=" ".join([*report.notes, *([report.advice] if report.advice else [])]),
    )
