from __future__ import annotations

from pathlib import Path

import pytest

from wingbar.bench import encoding, server
from wingbar.errors import StoreError


@pytest.mark.slow
def test_a_server_is_measured_under_load(
    shared_index_path: Path, shared_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ROUNDS", 1)
    monkeypatch.setattr(encoding, "IMAGES", 8)
    monkeypatch.setattr(server, "SINGLE", 5)
    found = server.search(shared_index_path, shared_photos, clients=3, seconds=1.0)
    assert (found["items"], found["clients"], found["errors"]) == (60, 3, {})
    assert found["searches"] >= 3
    assert found["ratio"] == pytest.approx(
        found["searches_per_second"] / found["encode_images_per_second"]
    )
    assert 0 < found["median_ms"] <= found["p99_ms"]
    assert found["by_id_overhead_ms"] == pytest.approx(found["by_id_ms"] - found["by_id_inside_ms"])
    assert found["bare_route_ms"] > 0
    with pytest.raises(StoreError, match="wingbar index"):
        server.search(tmp_path / "none.wb", shared_photos)
