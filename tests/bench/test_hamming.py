from __future__ import annotations

import importlib.util

import pytest
import torch

from wingbar.bench import hamming
from wingbar.errors import DataError
from wingbar.hamming import codes

KEYS = (
    "unique build_s bytes_per_code single_ms batch_qps radius_us faiss_single_ms faiss_batch_qps "
    "faiss_radius_us ratio_single "
    "ratio_batch ratio_radius path paths bandwidth_gb_s bandwidth_share exact"
).split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("items", "bits", "centres"),
    [(60_000, 48, 500), (60_000, 24, 0), (3_000, 12, 20), (2_000, 100, 20)],
)
def test_hamming_search_is_measured_and_checked(
    monkeypatch: pytest.MonkeyPatch, items: int, bits: int, centres: int
) -> None:
    monkeypatch.setattr(hamming, "ROUNDS", 2)
    monkeypatch.setattr(hamming, "QUERIES", 4)
    before = torch.get_num_threads()
    found = hamming.hamming(items, bits, centres=centres, peers=hamming.PEERS)
    assert set(KEYS) <= set(found)
    assert torch.get_num_threads() == before  # FAISS shares OpenMP with PyTorch
    assert found["exact"] is True
    assert found["path"] == "auto"
    assert sum(found["paths"]["one"].values()) == 4
    assert sum(found["paths"]["batch"].values()) == hamming.BATCH_QUERIES
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


@pytest.mark.slow
def test_a_path_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "ROUNDS", 1)
    monkeypatch.setattr(hamming, "QUERIES", 2)
    found = hamming.hamming(60_000, 48, path="planes", peers=())
    assert found["path"] == "planes"
    assert found["paths"] == {"one": {"planes": 2}, "batch": {"planes": hamming.BATCH_QUERIES}}
    assert found["exact"] is True


def test_a_wrong_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "ROUNDS", 1)
    monkeypatch.setattr(hamming, "QUERIES", 2)
    right = codes.Codes.within
    monkeypatch.setattr(
        codes.Codes,
        "within",
        lambda self, query, radius, path="auto": right(self, query, radius - 1),
    )
    assert hamming.hamming(3_000, 12, peers=())["exact"] is False


def test_invalid_arguments() -> None:
    with pytest.raises(DataError, match="no peer is named annoy: have flat, multihash"):
        hamming.hamming(1000, 12, peers=("annoy",))
    with pytest.raises(DataError, match="at least 200"):
        hamming.hamming(150, 12, k=200)
