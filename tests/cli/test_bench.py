from __future__ import annotations

import json

import pytest

from tests.commands import run
from wingbar.cli import bench


@pytest.mark.slow
def test_bench_hamming_prints_what_it_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingbar.bench.encoding.ROUNDS", 1)
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
    assert "None" not in out
    assert ["exact", "yes"] in [line.split() for line in out.splitlines()]
    code, _, err = run(capsys, "bench", "hamming", "--items", 50)
    assert code == 2
    assert "at least 100" in err


def test_a_record_inside_a_record_has_one_line_for_each_entry() -> None:
    record = {"items": 24, "peers": {"flat": {"ms": 0.5, "recall": 1.0}, "numpy": 2}}
    assert bench._flat(record) == {
        "items": 24,
        "peers flat": "ms 0.5000, recall 1.0000",
        "peers numpy": "2",
    }
