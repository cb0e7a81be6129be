from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import run
from wingbar import images
from wingbar.index.index import Index
from wingbar.index.ranking import Hits, SearchOptions


def test_a_search_of_a_small_index_wakes_no_compiler(
    shared_index_path: Path, shared_photos: Path
) -> None:
    script = (
        "import sys; from wingbar.cli import main as cli\n"
        "cli.main(['search', *sys.argv[1:]])\n"
        "assert not {'numba', 'torch', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    query = shared_photos / "red" / "000.jpg"
    subprocess.run(
        [sys.executable, "-c", script, shared_index_path, query],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_one_bad_query_does_not_lose_the_others(
    shared_index_path: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = shared_photos / "red" / "000.jpg"
    code, out, err = run(capsys, "search", shared_index_path, good, "nowhere.jpg", good, "-k", 1)
    assert (code, len(out.splitlines())) == (2, 2)
    assert err == "wingbar: nowhere.jpg: No such file or directory\n"


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        (["--text", "red"], "knows no texts"),
        (["v.npy"], "is an index of images by"),
        (["v.npy", "--box", "1,1,9,9"], "cannot be given beside"),
        (["none.npy"], "none.npy cannot be read"),
    ],
)
def test_nothing_is_answered_where_one_of_the_queries_is_refused(
    further: list[str],
    reason: str,
    shared_index_path: Path,
    shared_photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.ones(8, np.float32))
    query = shared_photos / "red" / "000.jpg"
    code, out, err = run(capsys, "search", shared_index_path, query, *further)
    assert (code, out, reason in err) == (2, "", True)


def test_no_vector_is_searched_for_where_a_picture_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vectors = np.random.default_rng(0).normal(size=(8, 6))
    np.savez("v.npz", feature=vectors)
    np.save("q.npy", vectors[0])
    np.save("zero.npy", np.zeros(6))
    assert run(capsys, "import", "v.npz", "-o", "v.wb", "--bits", 4)[0] == 0
    for further, reason in (("a.jpg", "has no network"), ("zero.npy", "nothing but zeros")):
        code, out, err = run(capsys, "search", "v.wb", "q.npy", further)
        assert (code, out, reason in err) == (2, "", True)


def test_on_a_terminal_there_is_a_table(
    shared_index_path: Path,
    shared_photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = run(capsys, "search", shared_index_path, shared_photos / "red" / "000.jpg", "-k", 2)
    first, header, *rows = out.splitlines()
    assert "2 hits in" in first
    assert "decode" in first
    assert header.split() == ["rank", "bits", "cosine", "label", "path"]
    assert rows[0].split()[:2] == ["1", "0"]
    other = shared_photos / "red" / "001.jpg"
    where = "path!=*/red/001.jpg"
    _, out, _ = run(capsys, "search", shared_index_path, other, "--radius", 0, "--where", where)
    assert "0 hits in" in out
    assert out.count("\n") == 1  # no header of nothing


def test_a_terminal_that_can_shows_the_pictures_above_the_table(
    shared_index_path: Path,
    shared_photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = shared_photos / "red" / "000.jpg"
    search = ("search", shared_index_path, query, "-k", 2, "--pictures", "iterm")
    _, piped, _ = run(capsys, *search)
    assert "1337" not in piped
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = run(capsys, *search)
    first, second = out.splitlines()[:2]
    assert first.startswith("\x1b]1337;File=inline=1;size=")
    assert "2 hits in" in second
    _, out, _ = run(capsys, *search[:-1], "never")
    assert "1337" not in out


def test_a_page_of_the_hits_is_written_and_opened(
    shared_index_path: Path,
    shared_photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    queries = [shared_photos / label / "000.jpg" for label in ("red", "blue")]
    target = tmp_path / "hits.html"
    search = ("search", shared_index_path, *queries, "-k", 3, "--html")
    code, _, err = run(capsys, *search, target)
    assert (code, err, opened) == (0, f"wingbar: the pictures are in {target}\n", [])
    page = target.read_text(encoding="utf-8")
    assert page.count("<section>") == 2
    assert page.count("data:image/jpeg;base64,") == 2 * (1 + 3)
    assert "2 queries in" in page
    _, _, err = run(capsys, *search[:-1], "--open")
    [url] = opened
    assert url.startswith("file:///")
    assert err.strip().endswith(url.removeprefix("file://"))


def test_a_page_needs_jinja(
    shared_index_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = run(capsys, "search", shared_index_path, "q.jpg", "--open")
    assert (code, out) == (2, "")
    assert "a page needs Jinja2: pip install 'wingbar[report]'" in err


def test_a_search_asks_the_index_once_per_query_with_one_record_of_options(
    shared_index_path: Path,
    shared_photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[list[str], SearchOptions]] = []
    find = Index.find

    def noted(index: Index, queries: list[str], options: SearchOptions) -> list[Hits]:
        asked.append((queries, options))
        return find(index, queries, options)

    monkeypatch.setattr(Index, "find", noted)
    first, second = (str(shared_photos / "red" / f"00{i}.jpg") for i in range(2))
    flags = "-k 4 --radius 20 --fine ties --shortlist 9 --where label=red --box 0,0,40,30"
    code, _, err = run(capsys, "search", shared_index_path, first, second, *flags.split())
    assert (code, err) == (0, "")
    options = SearchOptions(
        k=4, radius=20, fine="ties", shortlist=9, where=["label=red"], box=(0.0, 0.0, 40.0, 30.0)
    )
    assert asked == [([first], options), ([second], options)]


def test_a_box_beyond_the_picture(
    shared_index_path: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = shared_photos / "red" / "000.jpg"
    width, height = images.upright(query).size
    for verb in ("search", "explain"):
        for inside in ("0,0,20,20", f"0,0,{width},{height}"):
            code, _, err = run(capsys, verb, shared_index_path, query, "--box", inside)
            assert (code, err) == (0, "")
        for partly in (f"10,10,{width},20", "-5,0,20,20", "0,10,20,1e308"):
            code, out, err = run(capsys, verb, shared_index_path, query, f"--box={partly}")
            assert (code, err.count("\n"), out != "") == (0, 1, True)
            assert f"reaches beyond the picture of {width} x {height}; only the part inside" in err
        code, out, err = run(capsys, verb, shared_index_path, query, "--box", f"{width},0,9,9")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"holds nothing of a picture of {width} x {height}" in err


def test_explain_shows_the_hits_of_a_search(
    shared_index_path: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, box = shared_photos / "red" / "000.jpg", ("--box", "0,0,40,30")
    _, out, _ = run(capsys, "search", shared_index_path, query, "-k", 3, *box)
    found = [json.loads(line) for line in out.splitlines()]
    _, out, _ = run(capsys, "explain", shared_index_path, query, "-k", 3, *box, "--json")
    explained = json.loads(out)
    assert [hit["id"] for hit in explained["hits"]] == [hit["id"] for hit in found]
    assert [hit["agree"].count("0") for hit in explained["hits"]] == [
        hit["distance"] for hit in found
    ]
    assert len(explained["code"]) == 24


def test_a_filter_that_matches_nothing_says_so_once(
    shared_index_path: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = shared_photos / "red" / "000.jpg"
    code, out, err = run(
        capsys, "search", shared_index_path, query, query, "--where", "label==gren"
    )
    assert (code, out) == (0, "")
    assert err == "wingbar: no item has label=gren: there is green, and 2 more\n"
