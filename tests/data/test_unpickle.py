from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.miniatures import oxford, put, python2
from wingbar.data.readers import read_dataset
from wingbar.data.unpickle import numbers, read_pickle
from wingbar.errors import DataError


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("broken-in",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"imlist": Evil()}),
        pickle.dumps({"imlist": np.array([Evil()], object)}),
        b"cposix\nsystem\n(S'touch broken-in'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cposix\nsystem\nI0\ntR.",
        python2({"a": np.zeros(3)})[:-30],
        b"",
        b"\x80\x04noise",
    ],
)
def test_hostile_pickles_run_no_code(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (put(tmp_path, oxford()) / "gnd_roxford5k.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"gnd_roxford5k.pkl cannot be read \(.*\): fetch it again"):
        read_dataset(tmp_path)
    assert not (tmp_path / "broken-in").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.array([1, 2], ">i4"),
        np.asfortranarray(np.eye(3)),
        np.empty(0),
    ],
)
def test_arrays_come_back_from_pickles(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    contents = [
        pickle.dumps({"x": array, "y": array.dtype.type(3)}, protocol=protocol)
        for protocol in range(2, 6)
    ]
    for content in [
        *contents,
        *([python2({"x": array, "y": 3.0})] if array.flags.c_contiguous else []),
    ]:
        (tmp_path / "a.pkl").write_bytes(content)
        back = read_pickle(tmp_path / "a.pkl")
        np.testing.assert_array_equal(numbers(back["x"]), array)
        assert back["y"] == 3
