from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.shelf import Shelf, serve, zip_of
from wingbar.data import download
from wingbar.errors import DataError

DATA = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setattr(download, "WAIT", 0.001)
    yield from serve(Shelf(files={"/data.bin": DATA}))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_fetched_once(shelf: Shelf, tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    path = tmp_path / "deep" / "data.bin"
    found = download.fetch(
        shelf.url + "data.bin",
        path,
        sha256=sha256(DATA),
        progress=lambda *what: reported.append(what),
    )
    assert found == download.Fetched(path, len(DATA), sha256(DATA), hashlib.md5(DATA).hexdigest())
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["data.bin"]
    assert reported[0][0] == "fetching data.bin"
    assert reported[-1] == ("verifying data.bin", len(DATA), len(DATA))
    assert all(total == len(DATA) for _, _, total in reported)
    assert download.fetch(shelf.url + "data.bin", path) == found
    assert len(shelf.asked) == 1


def test_cut_connections_resume_where_they_were_cut(shelf: Shelf, tmp_path: Path) -> None:
    shelf.cuts = [1_000_000, 1, 500_000]
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert shelf.asked == ["", "bytes=1000000-", "bytes=1000001-", "bytes=1500001-"]


def test_the_part_that_arrived_is_kept_for_the_next_call(shelf: Shelf, tmp_path: Path) -> None:
    shelf.cuts = [2_000_000, *[0] * download.TRIES]
    with pytest.raises(
        DataError,
        match=(
            r"cut after 2,000,000 of 3,000,000 bytes; 2 MB are kept, run the same command to "
            r"resume"
        ),
    ):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin.part").stat().st_size == 2_000_000
    assert not (tmp_path / "data.bin").exists()
    shelf.asked.clear()
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))
    assert shelf.asked == ["bytes=2000000-"]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_killed_process_loses_nothing(shelf: Shelf, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from wingbar.data import download\n"
        "def kill(stage, done, total):\n"
        "    if done > 1_500_000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "download.fetch(sys.argv[1], Path(sys.argv[2]), progress=kill)"
    )
    path = tmp_path / "data.bin"
    killed = subprocess.run(
        [sys.executable, "-c", script, shelf.url + "data.bin", str(path)], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    kept = (tmp_path / "data.bin.part").stat().st_size
    assert kept > 0
    download.fetch(shelf.url + "data.bin", path, sha256=sha256(DATA))
    assert shelf.asked == ["", f"bytes={kept}-"]
    assert path.read_bytes() == DATA


def test_a_process_killed_at_the_last_byte(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA)
    (tmp_path / "data.bin.part.json").write_text(
        f'{{"url": "{shelf.url}data.bin", "version": "\\"first\\""}}'
    )
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))
    assert shelf.asked == ["bytes=3000000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_changed_on_the_server_is_fetched_again(
    shelf: Shelf, tmp_path: Path, heeds_if_range: bool
) -> None:
    shelf.heeds_if_range = heeds_if_range
    shelf.cuts = [2_000_000, *[0] * download.TRIES]
    with pytest.raises(DataError, match="kept"):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin")
    other = DATA[::-1]
    shelf.files["/data.bin"], shelf.etag = other, '"second"'
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(other))
    assert (tmp_path / "data.bin").read_bytes() == other


def test_a_file_that_became_shorter_on_the_server(shelf: Shelf, tmp_path: Path) -> None:
    shelf.heeds_if_range = False
    shelf.cuts = [2_000_000, *[0] * download.TRIES]
    with pytest.raises(DataError, match="kept"):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin")
    shelf.files["/data.bin"], shelf.etag = DATA[:1000], '"second"'
    assert download.fetch(shelf.url + "data.bin", tmp_path / "data.bin").size == 1000


def test_another_address_does_not_resume_the_first_one(shelf: Shelf, tmp_path: Path) -> None:
    shelf.files["/other.bin"] = DATA[::-1]
    shelf.cuts = [2_000_000, *[0] * download.TRIES]
    with pytest.raises(DataError, match="kept"):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin")
    download.fetch(shelf.url + "other.bin", tmp_path / "data.bin", sha256=sha256(DATA[::-1]))


@pytest.mark.parametrize(("etag", "modified"), [('W/"weak"', ""), ("", "")])
def test_without_a_version_to_ask_for_it_starts_over(
    shelf: Shelf, tmp_path: Path, etag: str, modified: str
) -> None:
    shelf.etag, shelf.modified, shelf.cuts = etag, modified, [2_000_000]
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))
    assert shelf.asked == ["", ""]


def test_the_time_of_the_last_change_is_a_version_too(shelf: Shelf, tmp_path: Path) -> None:
    shelf.etag, shelf.modified, shelf.cuts = (
        'W/"weak"',
        "Mon, 02 Jan 2012 03:04:05 GMT",
        [2_000_000],
    )
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))
    assert shelf.asked == ["", "bytes=2000000-"]


def test_a_server_without_ranges_sends_all_again(shelf: Shelf, tmp_path: Path) -> None:
    shelf.ranges, shelf.cuts = False, [2_000_000, 2_500_000]
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_giving_up_on_a_server_without_ranges_that_always_cuts(
    shelf: Shelf, tmp_path: Path
) -> None:
    shelf.ranges, shelf.cuts = False, [2_000_000] * 20
    with pytest.raises(DataError, match="cut after 2,000,000 of 3,000,000"):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin")
    assert len(shelf.asked) == 1 + download.TRIES


def test_a_wrong_checksum_removes_the_file(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"its sha256 is {sha256(DATA)}, not {'0' * 64}; the file was removed"
    ):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256="0" * 64)
    with pytest.raises(DataError, match=r"its md5 is .*, not abc; the file was"):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", md5="abc")
    assert not list(tmp_path.iterdir())
    (tmp_path / "data.bin").write_bytes(b"something else")
    with pytest.raises(DataError, match="remove it to have it fetched again"):
        download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))


def test_a_busy_server_is_asked_again(shelf: Shelf, tmp_path: Path) -> None:
    shelf.refusals = [503, 429, 500]
    download.fetch(shelf.url + "data.bin", tmp_path / "data.bin", sha256=sha256(DATA))
    shelf.refusals = [503] * 10
    with pytest.raises(DataError, match="HTTP Error 503"):
        download.fetch(shelf.url + "data.bin", tmp_path / "again.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_addresses_that_lead_nowhere(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.bin"
    with pytest.raises(DataError, match="HTTP Error 404"):
        download.fetch(shelf.url + "lost.bin", path)
    assert len(shelf.asked) == 1
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("no server: nothing to wait for"))
    with pytest.raises(DataError, match="refused"):
        download.fetch("http://127.0.0.1:9/data.bin", path)
    for address in ("file:///etc/passwd", "data.bin", "ftp://127.0.0.1/data.bin"):
        with pytest.raises(DataError, match="begins with http"):
            download.fetch(address, path)
    with pytest.raises(DataError, match="cannot be fetched"):
        download.fetch("http://[bad/data.bin", path)
    assert not list(tmp_path.iterdir())


def test_giving_up_on_a_silent_server(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.02)
    silent = ThreadingHTTPServer(
        ("127.0.0.1", 0), BaseHTTPRequestHandler
    )  # connects and never answers
    with silent, pytest.raises(DataError, match="timed out"):
        download.fetch(f"http://127.0.0.1:{silent.server_port}/", tmp_path / "data.bin")


def test_free_space_is_checked_before_fetching(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1_000_000))
    with pytest.raises(DataError, match=r"needs 3 MB and its disk has 1 MB free: free some space"):
        download.fetch(shelf.url + "data.bin", tmp_path / "new" / "data.bin")


class FullDisk(io.FileIO):
    """A file on a disk that is full after the first megabyte."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 1_100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_disk_that_fills_up_keeps_the_part_that_arrived(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "data.bin", Path.open

    def opened(self: Path, mode: str = "r", **options: Any) -> Any:
        return FullDisk(self, mode) if mode == "ab" else real(self, mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(DataError, match="is full; the part that arrived is kept: free some"):
            download.fetch(shelf.url + "data.bin", path)
    kept = (tmp_path / "data.bin.part").stat().st_size
    assert 0 < kept < len(DATA)
    download.fetch(shelf.url + "data.bin", path, sha256=sha256(DATA))
    assert shelf.asked == ["", f"bytes={kept}-"]


def test_two_processes_do_not_write_one_file(shelf: Shelf, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "data.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is fetching"):
            download.fetch(shelf.url + "data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin.part").exists()


def test_sizes_for_people() -> None:
    assert [download.size_text(n) for n in (5, 1500, 170_498_071, 1_150_585_339)] == [
        "5 bytes",
        "1.5 kB",
        "170 MB",
        "1.15 GB",
    ]


# -- archives


def tar_of(path: Path, files: dict[str, bytes], *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for member in members:
            tar.addfile(member)
    return path


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_archives(tmp_path: Path, ending: str) -> None:
    files = {"data/a.txt": b"one", "./data/deep/b.txt": b"two"}
    archive = tmp_path / f"data{ending}"
    (zip_of if ending == ".zip" else tar_of)(archive, files)
    reported: list[tuple[str, int, int]] = []
    download.unpack(archive, tmp_path / "out", lambda *what: reported.append(what))
    found = {
        str(p.relative_to(tmp_path / "out")): p.read_bytes()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file()
    }
    assert found == {"data/a.txt": b"one", "data/deep/b.txt": b"two"}
    assert reported[-1][0] == f"unpacking data{ending}"
    assert 0 < reported[-1][1] <= reported[-1][2]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name",
    ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:\\out.txt", "C:/out.txt"],
)
@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_paths_that_lead_outside(tmp_path: Path, name: str, ending: str) -> None:
    archive = tmp_path / f"bad{ending}"
    (zip_of if ending == ".zip" else tar_of)(archive, {"good.txt": b"x", name: b"evil"})
    with pytest.raises(DataError, match="leads outside"):
        download.unpack(archive, tmp_path / "in" / "out")
    assert not [
        p for p in tmp_path.rglob("*") if p.is_file() and p.name not in (archive.name, "good.txt")
    ]


@pytest.mark.parametrize(
    "member",
    [
        link("out", "/etc"),
        link("out", "../.."),
        link("hosts", "/etc/hosts", tarfile.LNKTYPE),
        link("inside", "good.txt"),
        link("pipe", "", tarfile.FIFOTYPE),
        link("device", "", tarfile.CHRTYPE),
    ],
    ids=lambda member: member.name,
)
def test_links_and_devices(tmp_path: Path, member: tarfile.TarInfo) -> None:
    archive = tar_of(tmp_path / "bad.tar", {"good.txt": b"x"}, member)
    with pytest.raises(DataError, match="holds a link or a device"):
        download.unpack(archive, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.txt"]


def test_a_link_in_a_zip_file(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("out")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as opened:
        opened.writestr(info, "/etc")
    with pytest.raises(DataError, match="holds a link or a device"):
        download.unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, ending: str) -> None:
    archive = tmp_path / f"bomb{ending}"
    (zip_of if ending == ".zip" else tar_of)(archive, {"zeros": bytes(30_000_000)})
    with pytest.raises(DataError, match="unpacks to more than"):
        download.unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def many(kind: bytes, size: int) -> bytes:
    """A tar header of a kind that tarfile reads into memory, and as many bytes as it names."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, size
    return header.tobuf(tarfile.GNU_FORMAT) + b"1" * size


def sparse_map(entries: int) -> bytes:
    """A sparse file of the format 1.0, whose map of parts is read as a header."""
    records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
    header, data = tarfile.TarInfo("pax"), tarfile.TarInfo("data")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    content = f"{entries}\n".encode() + b"0\n0\n" * entries
    data.size = len(content)
    padded = records.ljust(tarfile.BLOCKSIZE, b"\0")
    return header.tobuf(tarfile.USTAR_FORMAT) + padded + data.tobuf() + content


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize(
    "content",
    [
        many(tarfile.GNUTYPE_LONGNAME, 3_000_000),
        many(tarfile.GNUTYPE_LONGLINK, 3_000_000),
        many(tarfile.XHDTYPE, 3_000_000),
        many(tarfile.XGLTYPE, 3_000_000),
        sparse_map(1_000_000),
    ],
    ids=["longname", "longlink", "pax", "global", "sparse"],
)
def test_a_bomb_in_a_header_is_not_read(tmp_path: Path, content: bytes, ending: str) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".tar": bytes,
        ".tar.gz": gzip.compress,
        ".tar.bz2": bz2.compress,
        ".tar.xz": lzma.compress,
    }
    archive = tmp_path / f"bomb{ending}"
    archive.write_bytes(pack[ending](content + bytes(10240)))
    with pytest.raises(DataError, match="of headers for one file"):
        download.unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_members_of_a_tar_file_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of empty files hardly take room in an archive."""
    archive = tar_of(tmp_path / "many.tar", {f"{i}.txt": b"x" for i in range(50)})
    kept: list[int] = []
    extract = tarfile.TarFile.extract

    def counting(tar: Any, *args: Any, **more: Any) -> None:
        kept.append(len(tar.members))
        extract(tar, *args, **more)

    monkeypatch.setattr(tarfile.TarFile, "extract", counting)
    download.unpack(archive, tmp_path / "out")
    assert len(kept) == 50
    assert max(kept) <= 2


def test_long_names_are_unpacked(tmp_path: Path) -> None:
    name = "/".join(["folder" * 30] * 3) + "/a.txt"
    for number, kind in enumerate([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]):
        archive = tmp_path / f"{number}.tar.gz"
        with tarfile.open(archive, "w:gz", format=kind) as opened:
            for each in (name, "b.txt"):
                member = tarfile.TarInfo(each)
                member.size = 5
                opened.addfile(member, io.BytesIO(b"words"))
        download.unpack(archive, tmp_path / str(number))
        assert (tmp_path / str(number) / name).read_bytes() == b"words"
        assert (tmp_path / str(number) / "b.txt").read_bytes() == b"words"


@pytest.mark.parametrize("ending", [".tar.gz", ".tar", ".zip"])
def test_damaged_archives(tmp_path: Path, ending: str) -> None:
    archive = tmp_path / f"data{ending}"
    (zip_of if ending == ".zip" else tar_of)(
        archive, {"a": DATA[:50_000], "b": DATA[50_000:90_000]}
    )
    whole = archive.read_bytes()
    for size in (0, 20, 40_000, 70_000):
        archive.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"is damaged, or not an archive|cannot be unpacked"):
            download.unpack(archive, tmp_path / f"out{size}")
    archive.write_bytes(DATA[:10_000])
    with pytest.raises(DataError, match=r"is damaged, or not an archive|cannot be unpacked"):
        download.unpack(archive, tmp_path / "noise")


def test_what_is_an_archive() -> None:
    names = ["a.tar", "a.TGZ", "a.tar.gz", "a.zip", "a.pkl", "train-images-idx3-ubyte.gz", "a.csv"]
    assert [download.is_archive(Path(name)) for name in names] == [True] * 4 + [False] * 3


def test_a_disk_that_fills_up_while_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    archive = tar_of(tmp_path / "data.tar", {"a": b"x"})
    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    with pytest.raises(
        DataError,
        match=r"the disk of .*out filled up while .*data.tar was unpacked: free some space",
    ):
        download.unpack(archive, tmp_path / "out")
