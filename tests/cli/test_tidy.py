from __future__ import annotations

import io
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.commands import run
from tests.conftest import picture
from tests.duplicates.test_find import write_copies
from wingbar.index.index import Index
from wingbar.model.model import Model


@pytest.fixture
def copy(shared_index_path: Path, tmp_path: Path) -> Path:
    """A copy of the shared index, which a test may change."""
    return Path(shutil.copy(shared_index_path, tmp_path / "copy.wb"))


@pytest.mark.parametrize(
    "command",
    [
        ["remove", "nothing.jpg", "--dry-run"],
        ["remove", "nothing.jpg", "--dry-run", "--json"],
        ["duplicates"],
        ["duplicates", "--json"],
    ],
)
def test_a_password_is_never_printed(
    command: list[str],
    copies: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = Index.open(copies)
    monkeypatch.setattr(Index, "open", lambda *_, **__: opened)
    verb, *rest = command
    url = "postgresql://me:s3cret@server/pictures/c"
    page = [] if verb == "remove" else ["--html", tmp_path / "page.html"]
    _, out, err = run(capsys, verb, url, *rest, *page)
    assert "postgresql://me@server/pictures/c" in out + err
    shown = [out, err, *(path.read_text() for path in tmp_path.glob("*.html"))]
    assert not any("s3cret" in text for text in shown)


# -- remove


def test_remove_by_path_folder_and_filter(
    copy: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red, blue = shared_photos / "red", shared_photos / "blue" / "000.jpg"
    code, out, err = run(capsys, "remove", copy, red, blue, "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith(f"{copy}: would remove 21 images, 39 left\n  {shared_photos}")
    assert "and 1 more; --json lists them all" in out
    with Index.open(copy) as index:
        assert len(index) == 60
    code, out, _ = run(capsys, "remove", copy, red, blue, "--json")
    record = json.loads(out)
    assert (code, record["removed"], record["items"], len(record["paths"])) == (0, 21, 39, 21)
    code, out, _ = run(capsys, "remove", copy, "--where", "label=green", "--yes")
    assert out.startswith(f"{copy}: removed 20 images, 19 left")
    code, out, _ = run(capsys, "index", copy, shared_photos)
    assert "41 images stay out: removed before and not changed since; --restore brings" in out
    code, out, _ = run(capsys, "index", copy, blue)
    assert "1 added" in out


def test_more_than_half_is_removed_only_after_a_yes(
    copy: Path,
    shared_photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def typed(text: str, is_terminal: bool = True) -> None:
        answer = io.StringIO(text)
        monkeypatch.setattr(answer, "isatty", lambda: is_terminal)
        monkeypatch.setattr("sys.stdin", answer)

    typed("y\n", is_terminal=False)
    code, out, err = run(capsys, "remove", copy, "/")
    assert (code, out) == (2, "")
    assert f"60 of the 60 images in {copy} would be removed, more than half: add --yes" in err
    for text in ("\n", "n\n", ""):
        typed(text)
        code, out, err = run(capsys, "remove", copy, "/")
        assert (code, out, err.endswith("[y/N] wingbar: nothing was removed\n")) == (2, "", True)
    halves = [shared_photos / "red", *sorted((shared_photos / "green").iterdir())[:10]]
    code, out, _ = run(capsys, "remove", copy, *halves)
    assert (code, "removed 30 images, 30 left" in out) == (0, True)
    typed("Y\n")
    code, out, _ = run(capsys, "remove", copy, shared_photos)
    assert (code, "removed 30 images, 0 left" in out) == (0, True)


def test_remove_names_what_it_does_not_find(
    copy: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "remove", copy, "nowhere.jpg", shared_photos / "red" / "000.jpg")
    assert (code, err) == (2, f"wingbar: {copy} holds nothing of the name nowhere.jpg\n")
    assert "removed 1 image, 59 left" in out
    code, out, err = run(capsys, "remove", copy, "--where", "label=rad")
    assert (code, "removed 0 images" in out) == (2, True)
    assert "there is red, and 2 more" in err
    code, out, err = run(capsys, "remove", copy, shared_photos / "red", "--where", "label=blue")
    assert (code, "removed 0 images" in out) == (2, True)
    assert "no item of these names passes the filter" in err
    code, _, err = run(capsys, "remove", copy)
    assert (code, "name files or folders" in err) == (2, True)


def test_remove_what_a_file_lists(
    copy: Path, shared_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "drop.txt"
    listed.write_text(f"{shared_photos / 'red' / '000.jpg'}\n\n{shared_photos / 'blue'}\r\n")
    code, out, _ = run(capsys, "remove", copy, "--list", listed)
    assert (code, "removed 21 images, 39 left" in out) == (0, True)
    for path in (copy, shared_photos / "red" / "000.jpg"):
        code, out, err = run(capsys, "remove", copy, "--list", path)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{path} is a " in err
        assert "not a text file with one path per line" in err
    listed.write_text("".join(f"/{n}{'x' * 900}\n" for n in range(25)))
    code, _, err = run(capsys, "remove", copy, "--list", listed)
    assert (code, err.count("\n")) == (2, 21)
    assert err.endswith("holds nothing of 5 more names; --json lists them all\n")
    assert max(map(len, err.splitlines())) < 600
    listed.write_text("\n")
    code, _, err = run(capsys, "remove", copy, "--list", listed)
    assert (code, "names no file: nothing was removed" in err) == (2, True)
    code, _, err = run(capsys, "remove", copy, "--list", tmp_path / "none.txt")
    assert (code, "cannot be read" in err) == (2, True)


@pytest.mark.slow
def test_index_sync_and_rehash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "p", tmp_path / "a.wb"
    folder.mkdir()
    for i in range(3):
        picture(i).save(folder / f"{i}.jpg")
    run(capsys, "index", path, folder, "--bits", 8)
    listed = tmp_path / "l.csv"
    listed.write_text("path\np/0.jpg\np/1.jpg\n")
    code, out, _ = run(capsys, "index", path, listed, "--sync", "--rehash")
    assert (code, f"{path}: 2 images (2 unchanged, 1 removed)" in out) == (0, True)


# -- duplicates


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of pictures and copies of them, which no test may change."""
    folder = write_copies(tmp_path_factory.mktemp("copies") / "p")
    with Index.create(folder.parent / "a.wb") as index:
        index.add(folder, bits=64)
    return folder.parent / "a.wb"


def test_a_drop_list_replaces_nothing_but_one(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes, old, empty = (tmp_path / name for name in ("notes.txt", "old.txt", "empty.txt"))
    notes.write_text("milk\n")
    old.write_text("/photos/a.jpg\n")
    empty.touch()
    for place in (notes, copy):
        code, _, err = run(capsys, "duplicates", copy, "--exact", "--drop-list", place)
        kind = "a wingbar index" if place == copy else "another kind of file"
        assert (code, f"{place} is there and is {kind}, which" in err) == (2, True)
    assert notes.read_text() == "milk\n"
    for place in (old, empty):
        assert run(capsys, "duplicates", copy, "--exact", "--drop-list", place)[0] == 0
        assert place.read_text() == ""


@pytest.mark.slow
def test_duplicates_as_text_json_page_and_list(
    copies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, drop = tmp_path / "copies.html", tmp_path / "drop.txt"
    code, _, err = run(capsys, "duplicates", copies, "--html", page, "--drop-list", page)
    assert (code, page.exists()) == (2, False)
    assert "name one file" in err
    code, out, err = run(capsys, "duplicates", copies, "--html", page, "--drop-list", drop)
    assert (code, err) == (0, "")
    assert f"{copies}: 4 groups of copies among 29 images; 5 can go" in out
    assert "keep" in out
    assert out.endswith(f"The page is {page}\nThe list is {drop}\n")
    assert "Copies in a.wb" in page.read_text()
    listed = drop.read_text().splitlines()
    assert sorted(Path(line).name for line in listed) == [
        "00.png",
        "01 recompressed.jpg",
        "01 small.png",
        "02 part.png",
        "03.png",
    ]
    code, out, _ = run(capsys, "duplicates", copies, "--exact", "--json")
    record = json.loads(out)
    assert (record["copies"], record["radius"], len(record["groups"])) == (1, None, 1)
    assert record["groups"][0][1]["how"] == "same file"
    code, out, _ = run(capsys, "duplicates", copies, "--exact", "--drop-list", "-")
    assert [Path(line).name for line in out.splitlines()] == ["00.png"]
    mine = shutil.copy(copies, tmp_path / "mine.wb")
    code, out, _ = run(capsys, "remove", mine, "--list", drop)
    assert (code, "removed 5 images, 24 left" in out) == (0, True)


def test_copies_among_vectors_are_no_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    vectors[1] = vectors[0]
    path, page = tmp_path / "a.wb", tmp_path / "a.html"
    with Index.create(path, Model.of_vectors(8)) as index:
        index.add(vectors=vectors, keys=[str(i) for i in range(30)], bits=8)
    code, out, _ = run(capsys, "duplicates", path, "--radius", 0, "--html", page)
    assert (code, "among 30 items; 1 can go\n" in out, "same content" in out) == (0, True, True)
    for word in ("picture", "image", "bytes", "file"):
        assert word not in out
    assert "pictures" not in page.read_text().split("<p>", 1)[1]
    code, out, _ = run(capsys, "duplicates", path, "--exact")
    assert "Items are copies when they hold the same numbers." in out


def test_duplicates_that_cannot_be_searched_for(
    copies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "duplicates", copies, "--radius", 65)
    assert (code, "from 0 to 64" in err, err.count("\n")) == (2, True, 1)
    code, _, err = run(
        capsys, "duplicates", copies, "--exact", "--html", tmp_path / "no" / "x.html"
    )
    assert (code, err.count("\n")) == (2, 1)


def test_search_for_distinct_hits(copies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = copies.parent / "p" / "00.png"
    code, out, _ = run(capsys, "search", copies, query, "-k", 29, "--distinct")
    hits = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert Path(hits[0]["path"]).name in ("00.png", "00 again.png")
    assert len(hits[0]["copies"]) == 1
    seen = [hit["id"] for hit in hits] + [one for hit in hits for one in hit["copies"]]
    assert sorted(seen) == list(range(1, 30))
    code, out, _ = run(capsys, "search", copies, query, "-k", 29)
    assert [hit["rank"] for hit in map(json.loads, out.splitlines())] == list(range(1, 30))
    assert "copies" not in json.loads(out.splitlines()[0])


def test_a_page_is_not_written_over_an_index(
    shared_index_path: Path, shared_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    path.write_bytes(shared_index_path.read_bytes())
    before = path.read_bytes()
    query = next(shared_photos.rglob("*.jpg"))
    for command in (["search", path, query], ["duplicates", path]):
        code, out, err = run(capsys, *command, "--html", path)
        assert (code, out) == (2, "")
        assert "is there and is a wingbar index, which is not what would be written" in err
        assert path.read_bytes() == before


@pytest.mark.parametrize("verb", ["remove", "duplicates", "verify"])
def test_a_name_with_a_line_break_is_one_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "p", tmp_path / "a.wb"
    folder.mkdir()
    for name in ("a\nwingbar: all is well\x1b[2K.jpg", "b.jpg"):
        picture(1).save(folder / name)
    with Index.create(path) as index:
        index.add(folder, bits=8)
    if verb == "verify":
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE items SET label = 'other'")
        connection.close()
    flags: dict[str, list[object]] = {
        "remove": [folder, "--dry-run"],
        "duplicates": ["--exact"],
        "verify": [],
    }
    _, out, err = run(capsys, verb, path, *flags[verb])
    assert r"a\nwingbar: all is well\x1b[2K.jpg" in out
    assert not any(line.startswith("wingbar:") for line in (out + err).splitlines())
