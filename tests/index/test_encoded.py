"""Outputs of a cluster in Parquet files beside an index."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from wingbar.index import encoded
from wingbar.index.encoded import Encoded, Made, schema

NETWORK, CONTENT = b"n" * 32, [bytes([i]) * 32 for i in range(6)]
RAW = np.arange(12, dtype=np.float32).reshape(6, 2)


def table(rows: range, failed: int | None = None) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "path": f"/{i}.jpg",
                "size": 10 + i,
                "mtime": i,
                "content": CONTENT[i],
                "raw": None if i == failed else RAW[i].tobytes(),
                "failure": "broken" if i == failed else None,
            }
            for i in rows
        ],
        schema(),
    )


def test_what_was_kept_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "ROWS", 2)
    monkeypatch.setattr(encoded, "_IN_MEMORY", 1)
    folder = tmp_path / os.fsdecode(b"\xe9.wb-ray")  # not UTF-8
    kept = Encoded(folder, NETWORK)
    assert len(kept) == 0
    kept.add(table(range(2)))
    kept.add(table(range(2, 5), failed=3))
    kept.add(table(range(5, 6)))
    assert len(kept) == 5  # the last one waits
    kept.flush()
    for again in (kept, Encoded(folder, NETWORK)):
        assert len(again) == 6
        assert again.of("/2.jpg", 12, 2) == Made(12, 2, CONTENT[2], None)
        assert again.of("/3.jpg", 13, 3) == Made(13, 3, CONTENT[3], "broken")
        assert again.of("/2.jpg", 12, 3) is again.of("/7.jpg", 12, 3) is None
        assert set(again.contents()) == {*CONTENT} - {CONTENT[3]}
        for i in (5, 0, 4, 1):
            raw = again.raw(CONTENT[i])
            assert raw is not None
            assert raw.tobytes() == RAW[i].tobytes()
        assert again.raw(CONTENT[3]) is None
    (folder / ".0.parquet.999999999.partial").touch()  # of a process that is gone
    kept.discard()
    assert not folder.exists()


def test_damaged_files_and_those_of_others_are_passed_over(tmp_path: Path) -> None:
    kept = Encoded(tmp_path, NETWORK)
    kept.add(table(range(6)))
    kept.flush()
    [path] = tmp_path.glob("*.parquet")
    assert len(Encoded(tmp_path, b"m" * 32)) == 0
    whole = path.read_bytes()
    at = whole.index(RAW[4].tobytes())
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    assert len(Encoded(tmp_path, NETWORK)) == 0
    assert kept.raw(CONTENT[4]) is None  # the picture is encoded again
    path.write_bytes(whole[: len(whole) // 2])
    assert len(Encoded(tmp_path, NETWORK)) == 0
