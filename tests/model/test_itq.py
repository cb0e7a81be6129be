from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from wingbar.errors import ModelError
from wingbar.model import itq


def sample(n: int = 200, r: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, r)) * np.linspace(3, 0.1, r) + rng.standard_normal(r)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def fit(x: np.ndarray, bits: int, seed: int = 0) -> itq.Rotation:
    return itq.fit(x, bits, np.random.default_rng(seed), dim=16)


def test_the_code_matrix_spans_the_principal_directions() -> None:
    x = sample()
    rotation = fit(x, 8)
    code = rotation.code.astype(np.float64)
    np.testing.assert_allclose(code.T @ code, np.eye(8), atol=1e-5)
    _, _, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)  # PCA another way
    np.testing.assert_allclose(code @ code.T, vt[:8].T @ vt[:8], atol=1e-4)
    np.testing.assert_allclose(rotation.mean, x.mean(0), atol=1e-6)


def test_the_rotation_loses_less_than_chance_and_less_every_step() -> None:
    x = sample().astype(np.float64)
    centred = x - x.mean(0)
    _, _, vt = np.linalg.svd(centred, full_matrices=False)
    projected = centred @ vt[:12].T

    def loss(rotation: np.ndarray) -> float:
        rotated = projected @ rotation
        scale = np.abs(rotated).mean()
        return float(((np.sign(rotated) * scale - rotated) ** 2).sum())

    random = [
        loss(np.linalg.qr(np.random.default_rng(i).standard_normal((12, 12)))[0]) for i in range(20)
    ]
    learned = vt[:12] @ fit(x.astype(np.float32), 12).code.astype(np.float64)
    assert loss(learned) < min(random)


def test_logits_and_features_by_the_formula() -> None:
    x = sample()
    rotation = fit(x, 8)
    logits, features = rotation.apply(x[:5])
    for i in range(5):
        expected = [
            float(((x[i].astype(float) - rotation.mean) * rotation.code[:, j]).sum())
            for j in range(8)
        ]
        np.testing.assert_allclose(logits[i], expected, atol=1e-9)
        reduced = (x[i].astype(float) - x.mean(0) / 2) @ rotation.feature
        np.testing.assert_allclose(features[i], reduced / np.linalg.norm(reduced), atol=1e-5)
    assert features.dtype == np.float32


@pytest.mark.slow
def test_alone_and_in_a_batch_the_bits_are_equal() -> None:
    x = sample(300, 64)
    rotation = itq.fit(x, 48, np.random.default_rng(0))
    together = rotation.apply(x)[0] >= 0
    alone = np.concatenate([rotation.apply(x[i : i + 1])[0] >= 0 for i in range(len(x))])
    np.testing.assert_array_equal(together, alone)


def test_fitting_twice_gives_the_same_bytes() -> None:
    x = sample()
    assert fit(x, 8).to_bytes() == fit(x, 8).to_bytes()
    assert fit(x, 8, seed=1).to_bytes() != fit(x, 8).to_bytes()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_are_enough(n: int) -> None:
    rotation = fit(sample(n), 24)
    code = rotation.code.astype(np.float64)
    np.testing.assert_allclose(code.T @ code, np.eye(24), atol=1e-5)
    others = rotation.apply(sample(100, seed=9))[0] >= 0
    balance = others.mean(0)
    # bits that no sample decided still tell other images apart
    assert ((balance > 0) & (balance < 1)).sum() > 12


def test_equal_images_only() -> None:
    rotation = fit(np.repeat(sample(1), 6, axis=0), 8)
    assert np.isfinite(rotation.code).all()


def test_bytes_are_read_back() -> None:
    rotation = fit(sample(), 8)
    again = itq.Rotation.from_bytes(rotation.to_bytes())
    for name, array in rotation._asdict().items():
        np.testing.assert_array_equal(getattr(again, name), array)
    with pytest.raises(ModelError, match=r"rotation\.npz"):
        itq.Rotation.from_bytes(b"nothing of the kind")


@pytest.mark.parametrize("bits", [0, -1, 33])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 32"):
        fit(sample(), bits)


def test_an_empty_sample() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit(sample()[:0], 8)


def npz(arrays: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def promise(*shape: int) -> bytes:
    """The header of a float32 array, and nothing behind it."""
    out = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, described)
    return out.getvalue()


def test_a_rotation_that_is_none_is_refused_before_it_takes_memory() -> None:
    zeros = {
        "mean": npy(np.zeros(4, np.float32)),
        "code": npy(np.zeros((4, 8), np.float32)),
        "feature_mean": npy(np.zeros(4, np.float32)),
        "feature": npy(np.zeros((4, 4), np.float32)),
    }
    assert itq.Rotation.from_bytes(npz(zeros)).bits == 8
    wrong = [
        npz(zeros, zipfile.ZIP_DEFLATED),  # a bomb would be
        npz({**zeros, "feature": promise(2**20, 2**20)}),
        npz({**zeros, "feature": npy(np.array([{}], object))}),
        npz({**zeros, "feature": npy(np.zeros((5, 4), np.float32))}),
        npz({**zeros, "code": npy(np.zeros((4, 0), np.float32))}),
        npz({**zeros, "mean": npy(np.full(4, np.nan, np.float32))}),
        npz(dict.fromkeys(zeros, npy(np.float32(1)))),
        npz({name: zeros[name] for name in ("mean", "code")}),
        npz({**zeros, "mean": b"rubbish"}),
    ]
    for data in wrong:
        with pytest.raises(ModelError, match=r"rotation\.npz cannot be read") as refused:
            itq.Rotation.from_bytes(data)
        assert "\n" not in str(refused.value)


def test_raw_features_are_made_of_whole_ones_again() -> None:
    x = sample()
    rotation = itq.fit(x, 8, np.random.default_rng(0), dim=16, whole=True)
    assert rotation.feature.shape == (32, 32)
    _, features = rotation.apply(x)
    np.testing.assert_allclose(rotation.raw_of(features), x, atol=1e-5)
    np.testing.assert_allclose(rotation.raw_of(features.astype(np.float16)), x, atol=5e-3)
    with pytest.raises(ValueError, match="features of 16 numbers do not tell 32"):
        fit(x, 8).raw_of(features[:, :16])


def test_what_whole_features_keep_beyond_the_reduced_ones_counts_little() -> None:
    x = sample()
    _, reduced = fit(x, 8).apply(x)
    _, whole = itq.fit(x, 8, np.random.default_rng(0), dim=16, whole=True).apply(x)
    np.testing.assert_allclose(whole @ whole.T, reduced @ reduced.T, atol=0.01)
