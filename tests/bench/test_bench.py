from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from wingbar.bench import encoding, hamming, server
from wingbar.errors import DataError, StoreError
from wingbar.hamming import codes


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
    monkeypatch.setattr(hamming, "find_spec", lambda name: None)
    without = encoding.encode("general", shared_photos)
    assert (without["eager_images_per_second"], without["ratio"]) == (None, None)
    assert without["images_per_second"] > 0
    assert importlib.util.find_spec("torch") is not None
    with pytest.raises(DataError, match="no image that can be read"):
        encoding.encode("general", tmp_path)


KEYS = (
    "unique build_s bytes_per_code single_ms batch_qps radius_us faiss_single_ms faiss_batch_qps "
    "faiss_radius_us ratio_single "
    "ratio_batch ratio_radius bandwidth_gb_s bandwidth_share exact"
).split()


@pytest.mark.parametrize(
    ("items", "bits", "centres"),
    [(60_000, 48, 500), (60_000, 24, 0), (3_000, 12, 20), (2_000, 100, 20)],
)
def test_hamming_search_is_measured_and_checked(
    monkeypatch: pytest.MonkeyPatch, items: int, bits: int, centres: int
) -> None:
    monkeypatch.setattr(encoding, "ROUNDS", 2)
    monkeypatch.setattr(hamming, "QUERIES", 4)
    before = torch.get_num_threads()
    found = hamming.hamming(items, bits, centres=centres, peers=hamming.PEERS)
    assert set(KEYS) <= set(found)
    assert torch.get_num_threads() == before  # FAISS shares OpenMP with PyTorch
    assert found["exact"] is True
    assert found["single_ms"] > 0
    assert found["peers"]["numpy"]["recall"] == 1.0
    assert set(found["peers"]) | set(found["skipped"]) == set(hamming.PEERS)
    if importlib.util.find_spec("faiss"):
        assert found["peers"]["flat"]["recall"] == found["peers"]["flat"]["radius_recall"] == 1.0
        assert found["ratio_single"] == pytest.approx(found["faiss_single_ms"] / found["single_ms"])
        assert found["ratio_batch"] == pytest.approx(found["batch_qps"] / found["faiss_batch_qps"])
        assert found["ratio_radius"] == pytest.approx(found["faiss_radius_us"] / found["radius_us"])
    else:
        assert found["ratio_single"] is None


def test_a_wrong_answer_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ROUNDS", 1)
    monkeypatch.setattr(hamming, "QUERIES", 2)
    right = codes.Codes.within
    monkeypatch.setattr(
        codes.Codes, "within", lambda self, query, radius: right(self, query, radius - 1)
    )
    assert hamming.hamming(3_000, 12, peers=())["exact"] is False


def test_bench_hamming_refuses_what_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="annoy"):
        hamming.hamming(1000, 12, peers=("annoy",))
    with pytest.raises(DataError, match="at least 200"):
        hamming.hamming(150, 12, k=200)


def test_a_server_is_measured_under_load(
    shared_index_path: Path, shared_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "ROUNDS", 1)
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
