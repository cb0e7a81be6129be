from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import run
from tests.index.test_vectors import keys, vectors


def test_own_embeddings_in_searched_and_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, path, out_file = tmp_path / "own.npz", tmp_path / "a.wb", tmp_path / "out.npz"
    np.savez(own, feature=vectors(30), key=keys(30))
    code, out, err = run(capsys, "import", own, "-o", path, "--bits", 12)
    assert (code, err) == (0, "")
    assert out == f"{path}: 30 items, codes learned from the features (12 bits)\n"
    np.save(tmp_path / "one.npy", vectors(30)[3])
    np.save(tmp_path / "two.npy", vectors(30)[5:7])
    code, out, _ = run(capsys, "search", path, tmp_path / "one.npy", tmp_path / "two.npy", "-k", 1)
    hits = [json.loads(line) for line in out.splitlines()]
    assert [hit["path"] for hit in hits] == ["array:k3", "array:k5", "array:k6"]
    assert hits[2]["query"] == f"{tmp_path / 'two.npy'}[1]"
    code, out, _ = run(capsys, "export-codes", path, "-o", out_file)
    assert out == f"{out_file}: 30 items with codes of 12 bits and features of 24 numbers\n"
    code, out, _ = run(
        capsys, "import", out_file, "-o", tmp_path / "b.wb", "--model", path, "--json"
    )
    assert json.loads(out)["kept_codes"] is True
    code, out, _ = run(capsys, "info", tmp_path / "b.wb")
    assert (code, "30 items" in out) == (0, True)


def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "own.npz", feature=vectors(30))
    run(capsys, "import", tmp_path / "own.npz", "-o", tmp_path / "a.wb")
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    (tmp_path / "text.npy").write_text("no array")
    for command, said in (
        (["import", "none.npz", "-o", tmp_path / "b.wb"], "there is no file"),
        (["search", tmp_path / "a.wb", tmp_path / "cube.npy"], "holds no vectors"),
        (["search", tmp_path / "a.wb", tmp_path / "text.npy"], "cannot be read as a NumPy file"),
        (["index", tmp_path / "a.wb", tmp_path / "own.npz"], ""),
        (["export-codes", tmp_path / "a.wb", "-o", "x.txt"], "ends in .parquet or .npz"),
        (["serve", tmp_path / "a.wb", "--port", "0"], "has no network"),
    ):
        code, _, err = run(capsys, *command)
        assert (code, err.count("\n"), said in err) == (2, 1, True), (command, err)
        assert "bug" not in err
