from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import run
from tests.conftest import picture
from wingbar.index.index import Index


@pytest.fixture
def copy(shared_index_path: Path, tmp_path: Path) -> Path:
    """A copy of the shared index, which a test may change."""
    return Path(shutil.copy(shared_index_path, tmp_path / "copy.wb"))


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
    code, out, _ = run(capsys, "remove", copy, "--where", "label=green")
    assert out.startswith(f"{copy}: removed 20 images, 19 left")
    code, out, _ = run(capsys, "index", copy, shared_photos)
    assert "41 images stay out: removed before and not changed since; --restore brings" in out
    code, out, _ = run(capsys, "index", copy, blue)
    assert "1 added" in out


def test_remove_names_what_it_does_not_find(
    copy: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "remove", copy, "nowhere.jpg", shared_photos / "red" / "000.jpg")
    assert (code, err) == (2, f"wingbar: {copy} holds nothing of the name nowhere.jpg\n")
    assert "removed 1 image, 59 left" in out
    code, out, err = run(capsys, "remove", copy, "--where", "label=rad")
    assert (code, "removed 0 images" in out, "there is red" in err) == (0, True, True)
    code, _, err = run(capsys, "remove", copy)
    assert (code, "name files or folders" in err) == (2, True)


def test_remove_what_a_file_lists(
    copy: Path, shared_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "drop.txt"
    listed.write_text(f"{shared_photos / 'red' / '000.jpg'}\n\n{shared_photos / 'blue'}\r\n")
    code, out, _ = run(capsys, "remove", copy, "--list", listed)
    assert (code, "removed 21 images, 39 left" in out) == (0, True)
    listed.write_text("\n")
    code, _, err = run(capsys, "remove", copy, "--list", listed)
    assert (code, "names no file: nothing was removed" in err) == (2, True)
    code, _, err = run(capsys, "remove", copy, "--list", tmp_path / "none.txt")
    assert (code, "cannot be read" in err) == (2, True)


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
