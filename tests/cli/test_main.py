from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import picture
from tests.model.test_model import trained_model
from wingbar.cli import main, options
from wingbar.images import Preprocessing
from wingbar.index.index import Index
from wingbar.model.model import Model

VERBS = ["index", "search", "evaluate", "info", "verify", "demo"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_in_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main([verb, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.rstrip().splitlines()[-1].strip().startswith(f"wingbar {verb}")
    assert "--json" in out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from wingbar.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'PIL', 'onnxruntime', 'numba', 'torch', 'tqdm', 'sqlite3'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


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


def test_the_whole_loop(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.wb"
    code, out, err = run(capsys, "index", path, photos, "--bits", 24)
    assert (code, err) == (0, "")
    assert f"{path}: 24 images (24 added)" in out
    assert "learnt from 24" in out
    code, out, _ = run(capsys, "index", path, photos, "--json")
    record = json.loads(out)
    assert (record["items"], record["unchanged"]) == (24, 24)
    query = photos / "red" / "001.jpg"
    code, out, _ = run(capsys, "search", path, query, photos / "blue" / "002.jpg", "-k", 3)
    lines = [json.loads(line) for line in out.splitlines()]  # not a terminal: JSON lines
    assert [line["rank"] for line in lines] == [1, 2, 3, 1, 2, 3]
    assert lines[0]["query"] == str(query)
    assert set(lines[0]) == {"query", "rank", "id", "path", "label", "distance", "score", "columns"}
    code, out, _ = run(
        capsys,
        "search",
        path,
        query,
        "--where",
        "label=blue",
        "--fine",
        "none",
        "--radius",
        24,
        "-k",
        50,
    )
    assert {json.loads(line)["label"] for line in out.splitlines()} == {"blue"}
    code, out, _ = run(capsys, "info", path, "--json")
    assert {"items", "labels", "bits", "dim", "unique_codes", "bytes", "fingerprint"} <= set(
        json.loads(out)
    )
    code, out, _ = run(capsys, "verify", path)
    assert (code, out) == (0, f"{path} is whole\n")
    code, out, _ = run(capsys, "index", path, "--refit", "--bits", 12)
    assert code == 0
    assert "codes of 12 bits (before: 24) learnt anew from 24 images; 24 of 24 codes changed" in out


def test_evaluate_has_the_keys(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    run(capsys, "index", path, photos, "--split", "gallery", "--bits", 12)
    assert run(capsys, "info", path)[0] == 0
    code, out, _ = run(capsys, "evaluate", path, photos, "--json")
    assert code == 0
    record = json.loads(out)
    wanted = (
        "protocol queries gallery bits map map_low map_high map_at_1000 precision_radius_2 "
        "empty_radius_2 unique_codes "
        "feature_map feature_top1 rerank_map"
    )
    assert set(wanted.split()) <= set(record)
    assert (record["queries"], record["gallery"]) == (6, 18)
    code, out, _ = run(capsys, "evaluate", path, photos)
    assert "map_low" in out
    code, out, _ = run(capsys, "evaluate", path, photos, "--split", "all", "--json")
    record = json.loads(out)
    assert (record["queries"], record["queries_in_gallery"]) == (24, 18)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["search", "nowhere.wb", "q.jpg"], "no index at nowhere.wb: make one with wingbar index"),
        (["index", "a.wb", "nowhere"], "there is no nowhere"),
        (["index", "a.wb"], "name the images to index"),
        (["index", "a.wb", "photos", "--refit"], "run it without images"),
        (["index", "a.wb", "--refit"], "no index at a.wb"),
        (["index", "a.wb", "photos", "--model", "nowhere"], "no model in nowhere"),
        (["index", "a.wb", "photos", "--split", "holdout"], "no part 'holdout'"),
        (["index", "a.wb", "hollow"], "hollow has no images, only 1 other files"),
        (["index", "no/such/folder.wb", "photos"], "cannot be"),
        (["info", "hollow"], "no model in hollow"),
        (["verify", "nowhere.wb"], "no index at nowhere.wb"),
        (["demo", "--images", "hollow"], "hollow has no images"),
        (["evaluate", "photos.wb", "nowhere"], "there is no nowhere"),
        (["evaluate", "photos.wb", "photos/red"], "queries have no labels"),
        (["search", "photos.wb", "hollow/notes.txt"], "hollow/notes.txt: not an image"),
        (["evaluate", "photos.wb", "photos", "--shortlist", "-3"], "at least 1"),
        (
            ["index", "photos.wb", "photos/red/000.jpg", "--split", "gallery"],
            "is one image and has no part",
        ),
        (["search", "photos.wb", "photos/red/000.jpg", "-k", "0"], "at least 1"),
        (
            ["search", "photos.wb", "photos/red/000.jpg", "--where", "shelf=3"],
            "no item has a column 'shelf'",
        ),
        (["index", "photos.wb", "photos", "--bits", "48"], "has codes of 24 bits, not 48"),
        (
            ["index", "photos.wb", "photos", "--model", "tiny"],
            r"was made with general \(itq, 24 bits, .*\), not with tiny \(dlbhc",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str],
    reason: str,
    photos: Path,
    shared_index_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.chdir(photos.parent)
    Path("photos.wb").write_bytes(shared_index_path.read_bytes())
    Path("hollow").mkdir()
    Path("hollow/notes.txt").write_text("milk")
    trained_model().save("tiny")
    code, out, err = run(capsys, *arguments)
    assert code == 2, out
    assert re.search(reason, err), err
    assert err.startswith("wingbar: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "a.wb", "p", "--bits", "0"],
        ["index", "a.wb", "p", "--threads", "-1"],
        ["index", "a.wb", "p", "--seed", "-1"],
    ],
)
def test_numbers_out_of_range(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    assert "is not a" in capsys.readouterr().err


def test_one_bad_query_does_not_lose_the_others(
    shared_index_path: Path, shared_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = shared_photos / "red" / "000.jpg"
    code, out, err = run(capsys, "search", shared_index_path, good, "nowhere.jpg", good, "-k", 1)
    assert (code, len(out.splitlines())) == (2, 2)
    assert err == "wingbar: nowhere.jpg: No such file or directory\n"


def test_names_that_are_not_utf8(photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"q\xe9.jpg")
    (photos / "red" / "000.jpg").rename(tmp_path / name)
    (photos / os.fsdecode(b"caf\xe9.txt")).touch()
    wingbar = [sys.executable, "-m", "wingbar"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}
    indexed = ["index", "a.wb", "photos", "--bits", "8", "--json"]
    for arguments in (indexed, ["search", "a.wb", name, "-k", "1"], ["demo", "--images", "."]):
        done = subprocess.run(
            [*wingbar, *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert b"bug" not in done.stderr


def test_a_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    from wingbar.errors import StoreError

    with pytest.raises(StoreError):
        main.main(["info", "nowhere.wb", "--debug"])


def test_a_bug_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shared_index_path: Path
) -> None:
    monkeypatch.setattr(Index, "info", lambda self: 1 / 0)
    code, _, err = run(capsys, "info", shared_index_path)
    assert code == 2
    assert "a bug in wingbar (ZeroDivisionError" in err
    assert err.count("\n") == 1


def test_bad_images_are_named_on_stderr(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(25):
        (photos / "red" / f"bad{i:02}.jpg").write_text("no")
    code, out, err = run(capsys, "index", tmp_path / "a.wb", photos, "--bits", 8)
    assert code == 0
    assert "24 added, 25 failed" in out
    assert err.count("wingbar: left out") == 21
    assert "left out 5 more; --json lists them all" in err
    code, out, _ = run(capsys, "index", tmp_path / "a.wb", photos, "--json")
    assert len(json.loads(out)["failed"]) == 25


def test_nothing_but_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("no")
    code, _, err = run(capsys, "index", tmp_path / "a.wb", tmp_path / "p")
    assert code == 2
    assert "none of the images could be used" in err


def test_ctrl_c(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Index, "add", interrupted)
    code, _, err = run(capsys, "index", tmp_path / "a.wb", photos)
    assert code == 130
    assert "the same command goes on from there" in err


def test_a_reader_that_leaves_early(shared_index_path: Path, shared_photos: Path) -> None:
    queries = [str(path) for path in sorted(shared_photos.rglob("*.jpg"))]
    search = [
        sys.executable,
        "-m",
        "wingbar",
        "search",
        str(shared_index_path),
        *queries,
        "-k",
        "60",
    ]
    process = subprocess.Popen(search, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


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


def test_info_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "general", "--json")
    record = json.loads(out)
    assert (code, record["name"], record["bits"], record["dim"]) == (0, "general", None, 1280)
    trained_model().save(tmp_path / "m")
    assert "bits" in run(capsys, "info", tmp_path / "m")[1]


def test_a_damaged_index_is_exit_code_1(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    path = tmp_path / "a.wb"
    run(capsys, "index", path, photos, "--bits", 8)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE items SET label = 'x' WHERE id = 3")
    connection.commit()
    connection.close()
    code, out, _ = run(capsys, "verify", path)
    assert code == 1
    assert "item 3" in out
    code, out, _ = run(capsys, "verify", path, "--json")
    assert (code, len(json.loads(out)["problems"])) == (1, 1)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert capsys.readouterr().out.startswith("wingbar 0.")


def test_one_file_can_be_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(1).save(tmp_path / "one.png")
    picture(2).save(tmp_path / "two.png")
    code, out, _ = run(
        capsys,
        "index",
        tmp_path / "a.wb",
        tmp_path / "one.png",
        tmp_path / "two.png",
        "--bits",
        8,
        "--json",
    )
    assert code == 0
    assert json.loads(out)["items"] == 2


def test_the_lists_that_help_shows_are_the_real_ones() -> None:
    """They are written a second time so that --help imports neither numpy nor PyTorch."""
    from wingbar import methods
    from wingbar.bench import hamming
    from wingbar.index import ranking

    assert options.FINE == ranking.FINE
    assert tuple(options.PEERS.split(",")) == hamming.PEERS
    assert all(methods.get(name).Config for name in options.METHODS)


def test_bench_hamming_prints_what_it_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingbar.bench.hamming.ROUNDS", 1)
    arguments = [
        "bench",
        "hamming",
        "--items",
        2000,
        "--bits",
        12,
        "--centres",
        9,
        "--k",
        5,
        "--peers",
        "numpy",
    ]
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    record = json.loads(out)
    assert (record["items"], record["k"], record["exact"]) == (2000, 5, True)
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "peers numpy" in out
    code, _, err = run(capsys, "bench", "hamming", "--items", 50)
    assert code == 2
    assert "at least 100" in err


def test_a_large_index_is_warmed_up(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wingbar.hamming.codes.COMPILED_FROM", 5)
    asked: list[int] = []

    def warm_up(bits: int) -> float:
        asked.append(bits)
        return 9.0

    monkeypatch.setattr("wingbar.hamming.codes.warm_up", warm_up)
    code, _, err = run(capsys, "index", tmp_path / "a.wb", photos, "--bits", 24)
    assert (code, asked) == (0, [24])
    assert "compiled for this machine in 9 s" in err


def test_a_fitted_model_can_be_named_again(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rotation is compared as bytes, that of another fit is refused."""
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos / "red", bits=8)
        index.model.save(tmp_path / "fitted")
    assert run(capsys, "index", tmp_path / "a.wb", photos, "--model", tmp_path / "fitted")[0] == 0
    assert run(capsys, "index", tmp_path / "b.wb", photos, "--bits", 8)[0] == 0
    code, _, err = run(capsys, "index", tmp_path / "b.wb", photos, "--model", tmp_path / "fitted")
    assert code == 2
    assert "leave --model out" in err


def test_a_model_is_made_to_see_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_model().save(tmp_path / "m")
    assert (
        main.main(
            ["export", str(tmp_path / "m"), "--see", "whole 64 0.5,1", "-o", str(tmp_path / "n")]
        )
        == 0
    )
    assert Model.load(tmp_path / "n").preprocessing == Preprocessing(
        size=64, whole=True, scales=(0.5, 1.0)
    )
    assert (
        main.main(["export", str(tmp_path / "m"), "--see", "square 32", "-o", str(tmp_path / "o")])
        == 0
    )
    assert Model.load(tmp_path / "o").preprocessing == Preprocessing(size=32)
    for wrong in ("round 64", "whole", "whole x", "whole 64 0.5,9", "square 0"):
        assert (
            main.main(["export", str(tmp_path / "m"), "--see", wrong, "-o", str(tmp_path / "p")])
            == 2
        )
        assert "--see" in capsys.readouterr().err
    assert main.main(["export", str(tmp_path / "m"), "--see", "square 32"]) == 2
    assert not (tmp_path / "p").exists()


def test_a_report_and_a_comparison(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, data = tmp_path / "a.wb", ("--split", "query")
    run(capsys, "index", index, photos, "--bits", 16, "--split", "gallery")
    records = []
    for name, more in (("a", ()), ("b", ("--gallery-codes", "labels", "--no-exhaustive"))):
        code, out, _ = run(
            capsys,
            "evaluate",
            index,
            photos,
            *data,
            *more,
            "--report",
            tmp_path / f"{name}.html",
            "--json",
        )
        assert code == 0
        records.append(tmp_path / f"{name}.json")
        records[-1].write_text(out)
        assert (tmp_path / f"{name}.html").read_text().startswith("<!doctype html>")
    assert json.loads(records[1].read_text())["feature_map"] is None
    code, out, _ = run(capsys, "evaluate", "--compare", *records)
    assert code == 0
    assert "gallery codes: network and labels" in out
    code, out, _ = run(capsys, "evaluate", "--compare", *records, "--json")
    assert [d["measure"] for d in json.loads(out)["differences"]] == ["map", "rerank_map"]
    code, _, err = run(capsys, "evaluate", "--compare", records[0], tmp_path / "a.html")
    assert (code, err.count("\n")) == (2, 1)
    assert "is not JSON" in err
    code, _, err = run(capsys, "evaluate", index)
    assert (code, err.count("\n")) == (2, 1)
    assert "name an index and a data set" in err
    code, out, _ = run(capsys, "evaluate", index, photos, *data)
    assert "per_query" not in out
    assert "argmax_map" in out


def test_a_solution_of_landmarks(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "index", tmp_path / "a.wb", photos / "red", "--bits", 8)
    (tmp_path / "s.csv").write_text("id,images,Usage\n003,001 003,Public\n")
    code, out, _ = run(
        capsys,
        "evaluate",
        tmp_path / "a.wb",
        photos / "blue",
        "--solution",
        tmp_path / "s.csv",
        "--json",
    )
    assert code == 0
    assert 0 < json.loads(out)["map_at_100"] <= 1
