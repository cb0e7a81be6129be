from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import pytest

from wingbar.cli import main, output
from wingbar.images import Failure, Preprocessing
from wingbar.model.model import Model


def test_a_result_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_result(argparse.Namespace(json=False), {"name": "Grün"}, "its text")
    assert capsys.readouterr().out == "its text\n"
    output.print_result(argparse.Namespace(json=True), {"name": "Grün"}, "its text")
    assert capsys.readouterr().out == '{"name": "Grün"}\n'


def test_numbers_are_readable() -> None:
    assert output.value_text(0.123456) == "0.1235"
    assert output.value_text(81313.5) == "81,314"
    assert output.value_text(81313) == "81,313"
    assert output.value_text(None) == output.value_text(()) == output.value_text({}) == "-"
    assert output.value_text(True) == "yes"
    assert output.value_text((0.25, 3068)) == "0.2500, 3,068"
    assert output.value_text({"pool": 0.5, "none": None}) == "pool 0.5000, none -"
    assert output.table_text({"items": 24, "map": 0.5}) == "items  24\nmap    0.5000"


def test_constant_bits_are_counted_and_named() -> None:
    assert output.constant_bits_text(()) == "no bit is constant"
    assert output.constant_bits_text([3]) == "1 bit is constant (3)"
    assert output.constant_bits_text(range(9)) == (
        "9 bits are constant (0, 1, 2, 3, 4, 5, 6, 7 and more)"
    )


def test_only_the_first_failures_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [Failure(f"{i}.jpg", "not an image") for i in range(output.LISTED + 2)]
    output.print_failures(failed[: output.LISTED])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == output.LISTED
    assert lines[0] == "wingbar: skipped 0.jpg: not an image"
    output.print_failures(failed)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "wingbar: skipped 2 more; --json lists them all"
    )
    output.print_failures(failed, "run.json")
    assert "2 more; run.json lists them all" in capsys.readouterr().err


def test_a_log_has_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with output.progress_bars() as progress:
        for second in range(0, 200, 7):
            clock[0] = float(second)
            progress("training", 32 * second, 64000)
        clock[0] = 3600.0
        progress("fetching a.tar", 10**6, 2 * 10**9)
    assert capsys.readouterr().err.splitlines() == [
        "wingbar: training: 2,016 of 64,000 images after 1 min",
        "wingbar: training: 4,032 of 64,000 images after 2 min",
        "wingbar: training: 6,048 of 64,000 images after 3 min",
        "wingbar: fetching a.tar: 1 MB of 2 GB after 60 min",
    ]


def test_bars_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bars() as progress:
        progress("indexing", 1, 2)
        progress("fetching a.tar", 1000, 2000)
        progress("indexing", 2, 2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_bar_counts_images_or_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with output.progress_bars() as progress:
        progress("indexing", 1, 2)
    assert "images/s" in capsys.readouterr().err
    with output.progress_bars() as progress:
        progress("fetching a.tar", 1000, 2000)
    assert "B/s" in capsys.readouterr().err


def test_the_record_of_a_model_is_json() -> None:
    record = output.model_record(Model.load("general"))
    assert (record["name"], record["bits"], record["classes"]) == ("general", None, 0)
    assert json.loads(json.dumps(record)) == record


def test_json_is_json_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "latin-1", "cp437", "utf-8"):
        written = io.BytesIO()
        out = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")
        monkeypatch.setattr("sys.stdout", out)
        name = "K\u00e4fer \u65e5 \udce9 \U0001f600"
        output.print_result(argparse.Namespace(json=True), {"name": name}, "")
        out.flush()
        assert json.loads(written.getvalue().decode(encoding)) == {"name": name}


def test_names_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31m\nwingbar: all is well\r\x9b2J\u202egpj.exe"
    shown = r"a\x1b[31m\nwingbar: all is well\r\x9b2J\u202egpj.exe"
    assert output.visible(hostile) == shown
    family = "\U0001f469\u200d\U0001f467"  # one emoji, of two and a joiner
    assert output.visible(family) == family
    output.print_message(hostile)
    output.print_failures([Failure(hostile, "no\nimage")])
    assert capsys.readouterr().err.splitlines() == [
        f"wingbar: {shown}",
        rf"wingbar: skipped {shown}: no\nimage",
    ]
    output.print_result(argparse.Namespace(json=False), {}, "first\nsecond \x1b[0m")
    assert capsys.readouterr().out == "first\nsecond \\x1b[0m\n"


def test_only_stages_of_downloads_count_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    package = Path(output.__file__).parents[1]
    stages = {
        (path.name, word)
        for path in package.rglob("*.py")
        for word in re.findall(r"\b(?:progress|report)\(f?\"(\w+)", path.read_text())
    }
    assert ("pictures.py", "checking") in stages
    assert ("download.py", "verifying") in stages
    for file, word in stages:
        for rest in ("images", "images.tar"):
            with output.progress_bars() as progress:
                progress(f"{word} {rest}", 1, 2)
            unit = "B/s" if file == "download.py" else "images/s"
            assert unit in capsys.readouterr().err, (file, word)


def test_a_stage_that_has_done_nothing_yet_is_named_without_a_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with output.progress_bars() as progress:
        progress("indexing", 1, 9)
        capsys.readouterr()
        progress("learning codes", 0, 9)
        shown = capsys.readouterr().err
        assert shown.endswith("\rlearning codes ...")
        assert "/s" not in shown
        progress("learning codes", 9, 9)
        progress("indexing", 3, 9)  # a stage may come back
    assert capsys.readouterr().err.endswith("\r")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.slow
def test_nothing_is_printed_beside_a_bar(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, whatever is printed starts on a line that the bar has left."""
    (photos / "red" / "bad.jpg").write_text("no")
    index = str(tmp_path / "a.wb")
    for arguments in (
        ["index", index, str(photos), "--bits", "12"],
        ["index", index, "--refit"],
        ["evaluate", index, str(photos), "--split", "all"],
    ):
        screen = Terminal()
        monkeypatch.setattr("sys.stdout", screen)
        monkeypatch.setattr("sys.stderr", screen)
        main.main(arguments)
        shown = screen.getvalue()
        assert "images/s" in shown
        assert ("\rlearning codes ..." in shown) == (arguments[0] == "index")
        assert f"\r{index}: " in shown or f"\n{index}: " in shown
        first = re.search(r".(wingbar: |" + re.escape(index) + r": )", shown, re.DOTALL)
        assert first is not None
        assert first[0][0] == "\r", shown
        assert "%|" not in shown[first.start() :]


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (
            Preprocessing(size=192),
            "the central square of the image, scaled to 192 x 192 pixels",
        ),
        (
            Preprocessing(size=224, keep=0.875),
            "87.5% of the central square of the image, scaled to 224 x 224 pixels",
        ),
        (
            Preprocessing(size=224, edge=256),
            "the central 224 x 224 pixels of the image, whose short side is scaled to 256",
        ),
        (
            Preprocessing(size=32, squash=True, mirrored=True),
            "the whole image, squeezed into 32 x 32 pixels, and its mirror image",
        ),
        (
            Preprocessing(size=224, whole=True, scales=(0.7071, 1.0)),
            "the whole image, scaled to the area of 224 x 224 pixels times 0.7071, 1",
        ),
    ],
)
def test_what_a_model_sees(seen: Preprocessing, text: str) -> None:
    assert output.seen_text(seen) == text
