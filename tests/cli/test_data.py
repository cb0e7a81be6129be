from __future__ import annotations

import json

import pytest

from tests.commands import run
from wingbar.data.catalogue import DATA_SETS


def test_every_data_set_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in DATA_SETS.items():
        code, out, err = run(capsys, "data", "info", name)
        assert (code, err) == (0, "")
        assert out.startswith(f"{data.title}: {data.images:,} images")
        assert data.licence in out
        assert all(file.url in out for file in data.files)


def test_the_list_has_one_line_per_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(DATA_SETS)
    _, out, _ = run(capsys, "data", "list", "--json")
    assert [data["name"] for data in json.loads(out)["data_sets"]] == list(DATA_SETS)


def test_a_data_set_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("info", "fetch"):
        code, out, err = run(capsys, "data", verb, "cifar")
        assert (code, out) == (2, "")
        assert "no data set is named 'cifar'" in err
