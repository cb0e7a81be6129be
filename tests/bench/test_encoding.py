from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from wingbar.bench import encoding
from wingbar.errors import DataError


@pytest.mark.slow
@pytest.mark.usefixtures("built_in_network")
def test_encoding_is_measured_beside_pytorch_where_there_is_one(
    shared_photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoding, "ROUNDS", 1)
    monkeypatch.setattr(encoding, "IMAGES", 20)
    found = encoding.encode("general", shared_photos)
    assert found["ratio"] == pytest.approx(
        found["encode_images_per_second"] / found["eager_images_per_second"]
    )
    assert found["images"] == 20
    monkeypatch.setattr(encoding, "find_spec", lambda name: None)
    without = encoding.encode("general", shared_photos)
    assert (without["eager_images_per_second"], without["ratio"]) == (None, None)
    assert without["images_per_second"] > 0
    assert importlib.util.find_spec("torch") is not None
    with pytest.raises(DataError, match="no image that can be read"):
        encoding.encode("general", tmp_path)
