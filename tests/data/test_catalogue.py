from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.miniatures import (
    Files,
    aircraft,
    cifar,
    cub,
    dogs,
    fashion,
    food,
    mnist,
    nabirds,
    oxford,
    paris,
)
from tests.data.shelf import Shelf, serve, zip_of
from wingbar.cli import main
from wingbar.data import catalogue, download, layouts
from wingbar.data.catalogue import DATA_SETS, KnownDataSet
from wingbar.data.readers import read_dataset
from wingbar.errors import DataError


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setattr(download, "WAIT", 0.001)
    yield from serve(Shelf())


def tar(files: Files, zipped: bool = True) -> bytes:
    """An archive as the official ones are, with entries for the folders too."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if zipped else "w") as opened:
        folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
        for name in sorted(folders):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            opened.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.uname = len(data), 10_000, "somebody"
            opened.addfile(info, io.BytesIO(data))
    return out.getvalue()


def below(files: Files, *tops: str) -> Files:
    return {name: data for name, data in files.items() if name.startswith(tops)}


def archives(name: str) -> Files:
    """The files that the server of a data set has, in miniature."""
    if name in ("mnist", "fashion-mnist"):
        return mnist() if name == "mnist" else fashion()
    if name == "stanford-dogs":
        files = dogs()
        lists = {path: data for path, data in files.items() if path.endswith(".mat")}
        return {
            "images.tar": tar(below(files, "Images/"), zipped=False),
            "lists.tar": tar(lists, zipped=False),
        }
    if name == "roxford5k":
        files = oxford()
        images = {Path(path).name: data for path, data in below(files, "jpg/").items()}
        return {
            "oxbuild_images-v1.tgz": tar(images),
            "gnd_roxford5k.pkl": files["gnd_roxford5k.pkl"],
        }
    if name == "rparis6k":
        files = paris()
        images = {path.removeprefix("jpg/"): data for path, data in below(files, "jpg/").items()}
        halves = [dict(list(images.items())[i::2]) for i in range(2)]
        return {
            "paris_1-v1.tgz": tar(halves[0]),
            "paris_2-v1.tgz": tar(halves[1]),
            "gnd_rparis6k.pkl": files["gnd_rparis6k.pkl"],
        }
    make: dict[str, Callable[[], Files]] = {
        "cub-200-2011": cub,
        "fgvc-aircraft": aircraft,
        "food-101": food,
        "cifar-10": cifar,
    }
    return {DATA_SETS[name].files[0].name: tar(make[name]())}


def stock(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, name: str) -> KnownDataSet:
    """Put a miniature on the shelf, and its own checksums into the catalogue."""
    content = archives(name)
    shelf.files = {f"/{name}/{file}": data for file, data in content.items()}
    data = DATA_SETS[name]
    assert {file.name for file in data.files} == set(content)
    files = [
        replace(
            file,
            url=f"{shelf.url}{name}/{file.name}",
            size=len(content[file.name]),
            sha256=hashlib.sha256(content[file.name]).hexdigest() if file.sha256 else "",
            md5=hashlib.md5(content[file.name]).hexdigest() if file.md5 else "",
        )
        for file in data.files
    ]
    known = replace(data, files=files, disk=1_000_000)
    monkeypatch.setitem(catalogue.DATA_SETS, name, known)
    return known


COUNTS = {  # train, query, gallery
    "cub-200-2011": (3, 1, 3),
    "fgvc-aircraft": (2, 2, 2),
    "food-101": (3, 2, 3),
    "stanford-dogs": (2, 1, 2),
    "cifar-10": (30, 6, 30),
    "mnist": (3, 10, 3),
    "fashion-mnist": (3, 10, 3),
    "roxford5k": (3, 2, 3),
    "rparis6k": (3, 2, 3),
}


@pytest.mark.parametrize("name", COUNTS)
def test_fetch_to_read(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    known = stock(shelf, monkeypatch, name)
    shelf.cuts = [100, 200]
    reported: list[str] = []
    target = tmp_path / "data" / name
    report = catalogue.fetch(
        name, target, progress=lambda stage, done, total: reported.append(stage)
    )
    assert [path.name for path in target.parent.iterdir()] == [name]
    data = read_dataset(target)
    assert data.protocol.startswith(known.title)
    assert (len(data.train), len(data.query), len(data.gallery)) == COUNTS[name]
    everything = len({*data.train.paths, *data.query.paths, *data.gallery.paths})
    assert (report.images, report.official_images) == (everything, layouts.IMAGES[known.title])
    assert [file.checked for file in report.files] == [
        "sha256" if file.sha256 else "" for file in known.files
    ]
    sums = {
        shelf.url + path[1:]: hashlib.sha256(content).hexdigest()
        for path, content in shelf.files.items()
    }
    assert {file.url: file.sha256 for file in report.files} == sums
    assert {f"fetching {file.name}" for file in known.files} <= set(reported)
    asked = len(shelf.asked)
    again = catalogue.fetch(name, target)
    assert again == replace(report, fetched=False)
    assert len(shelf.asked) == asked


def test_every_data_set_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in DATA_SETS.items():
        assert name == data.name
        assert bool(data.files) != bool(data.by_hand)
        assert data.page.startswith("http")
        assert data.licence
        assert "\n" not in data.licence + data.by_hand + data.note
        assert data.disk > 1.01 * data.size or "Dogs" in data.title or not data.size
        for file in data.files:
            assert re.fullmatch(r"([0-9a-f]{64})?", file.sha256)
            assert re.fullmatch(r"([0-9a-f]{32})?", file.md5)
            assert file.sha256 or data.note
            assert download.is_archive(Path(file.name)) or file.name.endswith((".gz", ".pkl"))
        assert len({file.name for file in data.files}) == len(data.files)
    assert set(COUNTS) == {name for name, data in DATA_SETS.items() if data.files}


def test_list_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(DATA_SETS)
    assert lines[0].split() == ["cub-200-2011", "11,788", "images", "200", "classes", "1.15", "GB"]
    assert main.main(["data", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["data_sets"]] == list(
        DATA_SETS
    )
    assert main.main(["data", "info", "CIFAR_10"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("CIFAR-10: 60,000 images, 10 classes\n")
    assert "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce" in out
    assert main.main(["data", "info", "roxford5k"]) == 0
    assert "no known checksum" in capsys.readouterr().out
    assert main.main(["data", "info", "cifar-10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["size"] == 170_498_071
    assert main.main(["data", "info", "cifar"]) == 2
    assert (
        "no data set is named 'cifar': have cub-200-2011, fgvc-aircraft" in capsys.readouterr().err
    )


def test_fetch_on_the_command_line(
    shelf: Shelf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stock(shelf, monkeypatch, "roxford5k")
    monkeypatch.chdir(tmp_path)
    assert main.main(["data", "fetch", "roxford5k"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("roxford5k: 5 images (officially 5,063 images)\n")
    assert "no published checksum to compare with: keep this one" in out
    assert "Next: wingbar index roxford5k.wb roxford5k --split gallery" in out
    assert err == ""
    assert main.main(["data", "fetch", "roxford5k", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fetched"] is False
    assert main.main(["data", "fetch", "nabirds"]) == 2
    assert "fill it in at https://dl.allaboutbirds.org/nabirds" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cub-200-2011", "mnist"])
def test_a_mirror_must_have_the_same_files(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    known = stock(shelf, monkeypatch, name)
    elsewhere = replace(
        known, files=[replace(file, url=f"http://127.0.0.1:9/{file.name}") for file in known.files]
    )
    monkeypatch.setitem(catalogue.DATA_SETS, name, elsewhere)
    report = catalogue.fetch(name, tmp_path / "a", url=f"{shelf.url}{name}/")
    assert report.files[0].url == f"{shelf.url}{name}/{known.files[0].name}"
    with pytest.raises(DataError, match="refused; is this machine online"):
        catalogue.fetch(name, tmp_path / "offline")
    assert not list(tmp_path.glob("offline*"))
    if name == "cub-200-2011":
        shelf.files["/download/1"] = shelf.files[f"/{name}/CUB_200_2011.tgz"]
        assert catalogue.fetch(name, tmp_path / "b", url=f"{shelf.url}download/1").images == 4
    shelf.files = {path: data[:-1] + b"x" for path, data in shelf.files.items()}
    with pytest.raises(DataError, match=r"its sha256 is .* the file was removed"):
        catalogue.fetch(name, tmp_path / "c", url=f"{shelf.url}{name}/")
    assert not (tmp_path / "c").exists()


def test_a_data_set_that_cannot_be_fetched_may_have_a_mirror(shelf: Shelf, tmp_path: Path) -> None:
    shelf.files["/nabirds.tar.gz"] = tar(nabirds())
    monkeyless = replace(DATA_SETS["nabirds"], disk=1_000_000)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(catalogue.DATA_SETS, "nabirds", monkeyless)
        report = catalogue.fetch("nabirds", tmp_path / "birds", url=shelf.url + "nabirds.tar.gz")
    assert (report.images, report.files[0].checked) == (3, "")
    assert read_dataset(tmp_path / "birds").protocol.startswith("NABirds")


def test_a_mirror_with_another_data_set(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wanted, content in (
        ("cub-200-2011", tar(food())),
        ("fgvc-aircraft", tar({"cat/a.jpg": b"jpeg"})),
    ):
        known = stock(shelf, monkeypatch, wanted)
        shelf.files = dict.fromkeys(shelf.files, content)
        monkeypatch.setitem(
            catalogue.DATA_SETS,
            wanted,
            replace(known, files=[replace(known.files[0], sha256="", md5="")]),
        )
        with pytest.raises(
            DataError,
            match=rf"does not look like {known.title}: remove .*{wanted}.fetching and fetch it",
        ):
            catalogue.fetch(wanted, tmp_path / wanted)
        assert not (tmp_path / wanted).exists()
    known = stock(shelf, monkeypatch, "mnist")
    swapped = fashion()
    shelf.files = {f"/mnist/{name}": data for name, data in swapped.items()}
    monkeypatch.setitem(
        catalogue.DATA_SETS,
        "mnist",
        replace(known, files=[replace(f, sha256="") for f in known.files]),
    )
    with pytest.raises(DataError, match="does not look like MNIST"):
        catalogue.fetch("mnist", tmp_path / "mnist")


def test_a_folder_that_is_not_empty_is_left_alone(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(shelf, monkeypatch, "mnist")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="exists and is not empty: name another folder with -o"):
        catalogue.fetch("mnist", tmp_path / "mine")
    with pytest.raises(DataError, match="exists and is not empty"):
        catalogue.fetch("mnist", tmp_path / "mine" / "a.jpg")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.jpg"]
    (tmp_path / "empty").mkdir()
    assert catalogue.fetch("mnist", tmp_path / "empty").images == 13
    stock(shelf, monkeypatch, "cub-200-2011")
    with pytest.raises(DataError, match="holds mnist: name another folder"):
        catalogue.fetch("cub-200-2011", tmp_path / "empty")
    (tmp_path / "empty" / ".wingbar-data.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        catalogue.fetch("mnist", tmp_path / "empty")


def test_free_space_is_checked_first(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = stock(shelf, monkeypatch, "cub-200-2011")
    needed = known.size + known.disk
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, needed - 1))
    with pytest.raises(DataError, match=r"needs 1 MB and its disk has 1 MB free"):
        catalogue.fetch("cub-200-2011", tmp_path / "a")
    assert not shelf.asked
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, needed))
    catalogue.fetch("cub-200-2011", tmp_path / "a")


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from wingbar.data import catalogue
name, url, sha256, target, stage = sys.argv[1:]
known = catalogue.DATA_SETS[name]
file = replace(known.files[0], url=url, sha256=sha256, md5="", size=0)
catalogue.DATA_SETS[name] = replace(known, files=[file], disk=1_000_000)
def kill(now, done, total):
    if now.startswith(stage): os.kill(os.getpid(), signal.SIGKILL)
catalogue.fetch(name, Path(target), progress=kill)
"""


@pytest.mark.parametrize("stage", ["fetching", "verifying", "unpacking", "writing"])
def test_a_killed_fetch_resumes_and_never_looks_complete(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    known = stock(shelf, monkeypatch, "cifar-10")
    target = tmp_path / "cifar"
    arguments = ["cifar-10", known.files[0].url, known.files[0].sha256, str(target), stage]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["cifar.fetching"]
    report = catalogue.fetch("cifar-10", target)
    assert (report.images, report.fetched) == (36, True)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar"]
    wholes = [range_ for range_ in shelf.asked if not range_]
    assert len(wholes) == 1  # the part that had arrived was not fetched again


def test_killed_while_it_cleans_up(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(shelf, monkeypatch, "mnist")
    with monkeypatch.context() as patched:
        real = shutil.rmtree

        def killed(path: Any, ignore_errors: bool = False) -> None:
            if (tmp_path / "mnist").exists():
                raise KeyboardInterrupt
            real(path, ignore_errors)

        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            catalogue.fetch("mnist", tmp_path / "mnist")
    assert catalogue.fetch("mnist", tmp_path / "mnist").fetched is False
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]


def test_an_archive_that_leads_outside_writes_nothing_there(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = stock(shelf, monkeypatch, "cub-200-2011")
    evil = tar({**cub(), "../../evil.txt": b"evil"})
    path = f"/{known.name}/{known.files[0].name}"
    shelf.files[path] = evil
    monkeypatch.setitem(
        catalogue.DATA_SETS,
        known.name,
        replace(known, files=[replace(known.files[0], sha256="", md5="")]),
    )
    with pytest.raises(DataError, match="leads outside"):
        catalogue.fetch(known.name, tmp_path / "deep" / "cub")
    assert not list(tmp_path.rglob("evil.txt"))
    assert not (tmp_path / "deep" / "cub").exists()


def test_a_zip_file_is_fine_too(shelf: Shelf, tmp_path: Path) -> None:
    shelf.files["/vegfru.zip"] = zip_of(tmp_path / "x.zip", nabirds()).read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(
            catalogue.DATA_SETS, "nabirds", replace(DATA_SETS["nabirds"], disk=1_000_000)
        )
        assert (
            catalogue.fetch("nabirds", tmp_path / "birds", url=shelf.url + "vegfru.zip").images == 3
        )


def test_miniatures_are_what_their_names_say() -> None:
    assert gzip.decompress(mnist()["train-images-idx3-ubyte.gz"])[:4] == b"\0\0\x08\x03"
    with tarfile.open(fileobj=io.BytesIO(archives("cub-200-2011")["CUB_200_2011.tgz"])) as opened:
        assert "CUB_200_2011/images.txt" in opened.getnames()
    assert os.path.basename(DATA_SETS["cifar-10"].files[0].url) == "cifar-10-python.tar.gz"
