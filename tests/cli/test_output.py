from __future__ import annotations

import argparse
import io
import json

import pytest

from wingbar.cli import output
from wingbar.images import Failure
from wingbar.model.model import Model


def test_a_result_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_result(argparse.Namespace(json=False), {"name": "Grün"}, "its text")
    assert capsys.readouterr().out == "its text\n"
    output.print_result(argparse.Namespace(json=True), {"name": "Grün"}, "its text")
    assert capsys.readouterr().out == '{"name": "Grün"}\n'


def test_numbers_are_readable() -> None:
    assert output.counted(1, "image") == "1 image"
    assert output.counted(0, "image") == "0 images"
    assert output.counted(3068, "image") == "3,068 images"
    assert output.value_text(0.123456) == "0.1235"
    assert output.value_text(81313.5) == "81,314"
    assert output.value_text(81313) == "81,313"
    assert output.value_text(None) == "None"
    assert output.table_text({"items": 24, "map": 0.5}) == "items  24\nmap    0.5000"


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


def test_progress_is_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_checked_images_are_not_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with output.progress_bars() as progress:
        progress("checking images", 1, 2)
    assert "images/s" in capsys.readouterr().err
