from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.model.test_whitening import clusters
from wingbar.errors import ModelError
from wingbar.model import itq
from wingbar.model.averaging import averages_of
from wingbar.model.fitting import FEWEST, FitOptions, description, fit
from wingbar.model.itq import unit
from wingbar.model.rotations import fit_lsh, fit_pca
from wingbar.model.whitening import mutual_neighbours, whitening

ITQ, WHITENED = FitOptions(codes="itq"), FitOptions(codes="whitened")


def sample(n: int = 600, seed: int = 0) -> np.ndarray:
    x = clusters(each=25, classes=24, dim=32, seed=seed)
    order = np.random.default_rng(1).permutation(len(x))[:n]
    return unit(x[order]).astype(np.float32)


def right(codes: np.ndarray, labels: np.ndarray) -> float:
    """Share of the five nearest codes that are of the class."""
    signs = codes * 2.0 - 1
    likeness = signs @ signs.T
    np.fill_diagonal(likeness, -99)
    near = np.argsort(-likeness, axis=1, kind="stable")[:, :5]
    return float((labels[near] == labels[:, None]).mean())


def test_whitened_codes_are_taken_where_they_confuse_less() -> None:
    found = fit(sample(), 16, 0)
    assert found.codes == "whitened"
    assert found.compared["whitened"] <= found.compared["itq"]
    labels = np.random.default_rng(1).permutation(600) // 25
    white = right(found.rotation.apply(sample())[0] >= 0, labels)
    plain = right(fit(sample(), 16, 0, ITQ).rotation.apply(sample())[0] >= 0, labels)
    assert white > plain


def test_itq_is_taken_where_nothing_has_neighbours() -> None:
    """Of pictures that have nothing in common, no pair says anything about another."""
    x = unit(np.random.default_rng(0).standard_normal((200, 40)) * np.linspace(3, 0.2, 40))
    found = fit(x.astype(np.float32), 16, 0)
    assert (found.codes, set(found.compared)) == ("itq", {"whitened", "itq"})
    plain = itq.fit(x.astype(np.float32), 16, np.random.default_rng(0))
    assert found.rotation.to_bytes() == plain.to_bytes()


@pytest.mark.parametrize("x", [sample(FEWEST - 1), np.repeat(sample(1), 100, axis=0)])
def test_too_little_to_compare(x: np.ndarray) -> None:
    found = fit(x, 16, 0)
    assert (found.codes, found.compared) == ("itq", {})


def test_what_was_chosen_fills_what_is_left_open() -> None:
    chosen = {"for": "classes", "codes": "itq"}
    as_chosen = FitOptions(codes="itq", purpose="classes")
    assert FitOptions().or_chosen(chosen) == as_chosen
    assert FitOptions(purpose="classes").or_chosen(chosen) == as_chosen
    assert FitOptions(codes="whitened").or_chosen(chosen).codes == "whitened"
    assert FitOptions(adapt="labels").or_chosen(chosen) == FitOptions(
        purpose="classes", adapt="labels"
    )
    assert FitOptions(purpose="copies").or_chosen(chosen) == FitOptions(purpose="copies")
    assert FitOptions().or_chosen({}) == FitOptions()
    for codes in ("own", "", None):
        assert FitOptions().or_chosen({"for": "copies", "codes": codes}) == FitOptions(
            purpose="copies"
        )


def test_the_whitened_map_by_the_formula() -> None:
    raw = sample()
    rotation = fit(raw, 8, 3, FitOptions(codes="whitened", purpose="classes")).rotation
    x = raw.astype(np.float64)
    space = (x - x.mean(0)) @ whitening(x, mutual_neighbours(unit(x)))
    _, _, rows = np.linalg.svd(space, full_matrices=False)  # PCA another way
    expected = unit(space @ rows.T)
    logits, stored = rotation.apply(raw)
    plain = stored[:, :32] * np.sqrt(1.25)
    np.testing.assert_allclose(plain @ plain.T, expected @ expected.T, atol=1e-4)
    np.testing.assert_allclose(stored[:, :32], 2 * stored[:, 32:], atol=1e-6)
    # codes are of the directions in which averages over neighbours vary most
    average = averages_of(expected.astype(np.float32))
    _, _, first = np.linalg.svd(average, full_matrices=False)
    of_logits = np.linalg.lstsq(
        expected @ first[:8].T, logits / np.linalg.norm(space, axis=1)[:, None], rcond=None
    )
    assert of_logits[1].max() < 1e-6
    np.testing.assert_allclose(of_logits[0] @ of_logits[0].T, np.eye(8), atol=1e-3)


def test_half_of_the_mean_stays_in_features_that_are_not_averaged() -> None:
    raw = sample()
    classes = fit(raw, 8, 3, FitOptions(codes="whitened", purpose="classes")).rotation
    plain = fit(raw, 8, 3, WHITENED).rotation
    np.testing.assert_array_equal(plain.code, classes.code)
    np.testing.assert_allclose(plain.feature_mean, raw.mean(0) / 2, atol=1e-6)
    np.testing.assert_allclose(classes.feature_mean, raw.mean(0), atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("purpose", ["copies", "instances", "classes"])
def test_one_image_and_copies_of_it_keep_their_feature(count: int, purpose: str) -> None:
    raw = np.repeat(sample()[:1], count, axis=0)
    fitted = fit(raw, 8, 3, FitOptions(purpose=purpose)).rotation
    feature = (raw - fitted.feature_mean) @ fitted.feature
    assert np.linalg.norm(feature, axis=1).min() > 0.1


@pytest.mark.parametrize(("codes", "made"), [("pca", fit_pca), ("lsh", fit_lsh)])
def test_other_codes_beside_the_features_of_itq(codes: str, made: Any) -> None:
    raw = sample()
    logits, features = fit(raw, 8, 3, FitOptions(codes=codes)).rotation.apply(raw)
    np.testing.assert_array_equal(logits, made(raw, 8, np.random.default_rng(3)).apply(raw)[0])
    centred = raw - raw.mean(0) / 2
    np.testing.assert_allclose(features @ features.T, unit(centred) @ unit(centred).T, atol=1e-4)
    with pytest.raises(ModelError, match="codes of averages are whitened or itq"):
        FitOptions(codes=codes, purpose="classes")


def test_features_can_be_kept() -> None:
    raw = sample()
    kept = fit(raw, 16, 0, WHITENED, keep_features=True).rotation
    logits, features = kept.apply(raw)
    np.testing.assert_allclose(features, raw, atol=1e-6)
    np.testing.assert_array_equal(logits, fit(raw, 16, 0, WHITENED).rotation.apply(raw)[0])


def test_the_same_seed_gives_the_same_map() -> None:
    first, second = fit(sample(), 16, 5), fit(sample(), 16, 5)
    assert first.rotation.to_bytes() == second.rotation.to_bytes()
    assert first.record() == second.record()


def test_labels_on_some_pictures_help_the_others() -> None:
    order = np.random.default_rng(1).permutation(600)
    labels = [str(i // 25) if i % 4 == 0 else None for i in order]
    found = fit(sample(), 5, 0, FitOptions(adapt="labels"), labels=labels)
    assert (found.codes, found.record()["adapt"]) == ("whitened", "labels")
    assert description(found.record()) == "whitened by mutual neighbours and labels"
    without = fit(sample(), 5, 0, WHITENED, labels=labels)
    assert without.rotation.to_bytes() == fit(sample(), 5, 0, WHITENED).rotation.to_bytes()
    theirs, plain = (
        right(one.rotation.apply(sample())[0] >= 0, order // 25) for one in (found, without)
    )
    assert theirs > plain
    for few in ([None] * 600, [None] * 599 + ["a"], ()):
        with pytest.raises(ValueError, match="no two of the images"):
            fit(sample(), 16, 0, FitOptions(adapt="labels"), labels=few)
    with pytest.raises(ModelError, match="whitened codes learn from labels, not itq"):
        FitOptions(adapt="labels", codes="itq")


@pytest.mark.parametrize("options", [{"codes": "magic"}, {"purpose": "magic"}])
def test_an_unknown_kind(options: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"must be one of .*, not 'magic'"):
        FitOptions(**options)


def test_what_is_left_open_is_as_it_was_asked_for() -> None:
    before = fit(sample(50), 8, 0, FitOptions(codes="itq", purpose="classes")).record()
    assert FitOptions().or_as(before) == FitOptions(codes="itq", purpose="classes")
    assert FitOptions(purpose="copies").or_as(before).purpose == "copies"
    assert fit(sample(50), 8, 0).record()["asked"] is None
    assert FitOptions().or_as({"sample": 9}) == FitOptions()
    assert FitOptions(adapt="labels").or_as(before) == FitOptions(purpose="classes", adapt="labels")
    labelled = {"asked": None, "for": "copies", "adapt": "labels"}
    assert FitOptions().or_as(labelled) == FitOptions(purpose="copies", adapt="labels")
    assert FitOptions(adapt="none").or_as(labelled).adapt == "none"
    assert FitOptions(codes="lsh").or_as(labelled) == FitOptions(codes="lsh", purpose="copies")
    asked = {"asked": "lsh", "for": "instances"}
    assert FitOptions(purpose="classes").or_as(asked) == FitOptions(purpose="classes")


def test_what_was_chosen_in_words() -> None:
    compared = {"whitened": 0.0101, "itq": 0.0203}
    assert description({"codes": "whitened", "compared": compared}) == (
        "whitened by mutual neighbours, which takes 1.01% of random pairs for nearer than held-out "
        "neighbours (ITQ 2.03%)"
    )
    assert description({"codes": "itq", "compared": {}}) == "ITQ"
    assert description({"codes": "itq", "for": "classes", "expand": 10}) == (
        "ITQ; for classes, each item averaged with its 10 nearest"
    )
    assert description({"sample": 9}) == description({"codes": "of a later version"}) == ""
