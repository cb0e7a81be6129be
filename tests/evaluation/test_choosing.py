from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tests.model.test_model import trained_model
from tests.small_network import small_general
from wingbar.data.readers import read_images
from wingbar.data.records import Entry, Images
from wingbar.errors import ModelError
from wingbar.evaluation import choosing
from wingbar.evaluation.choosing import Choice, best_of, choose_model
from wingbar.evaluation.labelled import evaluate
from wingbar.index.copy import copy
from wingbar.index.index import Index
from wingbar.model.fitting import PURPOSES
from wingbar.model.model import Model

BITS = 16


@pytest.fixture(scope="module", autouse=True)
def small_samples() -> Iterator[None]:
    """What is tried here is plain enough for a few pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "FEWEST", 20)
        yield


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patterns, each three times in another light: the colour says nothing."""
    folder = tmp_path_factory.mktemp("patterns")
    for i in range(24):
        light = np.random.default_rng(i).integers(-30, 30, 3)
        seen = np.asarray(picture(i % 8), int) + light + np.asarray(picture(100 + i))
        (folder / str(i % 8)).mkdir(exist_ok=True)
        shown = Image.fromarray((seen / 2).clip(0, 255).astype(np.uint8))
        shown.save(folder / str(i % 8) / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def shape() -> Model:
    return small_general("shape")


@pytest.fixture(scope="module")
def colour() -> Model:
    """It sees the mean colour of a picture and nothing else."""
    return small_general("colour", cells=1)


@pytest.fixture(scope="module")
def for_copies(patterns: Path, shape: Model, colour: Model) -> Choice:
    return choose_model(patterns, [colour, shape], purpose="copies", bits=BITS)


@pytest.mark.parametrize("purpose", ["instances", "classes"])
def test_the_better_model_is_taken(
    patterns: Path, shared_photos: Path, shape: Model, colour: Model, purpose: str
) -> None:
    pictures = patterns if purpose == "classes" else shared_photos
    choice = choose_model(pictures, [colour, shape], purpose=purpose, bits=BITS, codes="itq")
    assert (choice.chosen["for"], choice.chosen["name"]) == (purpose, "shape")
    assert choice.model.files["model.onnx"] == shape.files["model.onnx"]


def test_what_was_measured_is_told(for_copies: Choice, shape: Model, colour: Model) -> None:
    chosen = for_copies.chosen
    assert (chosen["name"], chosen["measure"]) == ("shape", "reciprocal rank of altered copies")
    assert (chosen["queries"], chosen["gallery"]) == (24, 24)
    assert [one["name"] for one in chosen["candidates"]] == ["colour", "shape"]
    assert [one["fingerprint"] for one in chosen["candidates"]] == [
        colour.fingerprint,
        shape.fingerprint,
    ]
    scores = chosen["candidates"][1]["scores"]
    assert {kind: sorted(found) for kind, found in scores.items()} == {
        kind: ["asymmetric", "none", "pool", "ties"] for kind in ("whitened", "itq")
    }
    assert chosen["score"] == scores[chosen["codes"]][chosen["fine"]] <= 1
    assert chosen["score"] > max(chosen["candidates"][0]["scores"]["itq"].values())
    assert set(for_copies.images_per_second) == {"colour", "shape"}
    assert for_copies.seconds > 0
    assert for_copies.notes == ()
    again = for_copies.model.chosen
    assert dict(again) == {**chosen, "fine_before": "pool"}


def test_the_same_sample_gives_the_same_model(
    patterns: Path, shape: Model, colour: Model, for_copies: Choice
) -> None:
    again = choose_model(patterns, [colour, shape], purpose="copies", bits=BITS, threads=1)
    assert again.model.fingerprint == for_copies.model.fingerprint


def test_an_index_learns_codes_of_the_length_that_was_measured(
    patterns: Path, for_copies: Choice, tmp_path: Path
) -> None:
    with Index.create(tmp_path / "a.wb", for_copies.model) as index:
        index.add(patterns)
        assert (index.model.bits, for_copies.chosen["bits"]) == (BITS, BITS)
        index.refit()
        assert index.model.bits == BITS
    with Index.create(tmp_path / "b.wb", for_copies.model) as index:
        index.add(patterns, bits=8)
        assert index.model.bits == 8


def test_one_model_by_itself_is_one_candidate(patterns: Path, shape: Model) -> None:
    found = choose_model(patterns, shape, purpose="copies", bits=8, codes="itq")
    assert [one["name"] for one in found.chosen["candidates"]] == ["shape"]
    assert choose_model(patterns, "general", purpose="classes").chosen["name"] == "general"


def test_codes_for_instances_can_be_chosen_for_copies(
    patterns: Path, shape: Model, tmp_path: Path
) -> None:
    with Index.create(tmp_path / "a.wb", shape) as index:
        index.add(patterns, bits=8)
        fitted = index.model
    choice = choose_model(patterns, [fitted], purpose="copies")
    with Index.create(tmp_path / "b.wb", choice.model) as index:
        assert index.add(patterns, purpose="copies").added == 24
        assert index.model.chosen["for"] == "copies"


def test_equal_models_tie_and_the_first_is_taken(patterns: Path, shape: Model) -> None:
    same = shape.altered({}, {"name": "same"})
    choice = choose_model(patterns, [same, shape], purpose="copies", bits=BITS, codes="itq")
    assert choice.chosen["name"] == "same"
    assert (choice.chosen["codes"], choice.chosen["fine"]) == ("itq", "pool")


def test_the_noise_decides_for_the_first() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 1, 200)
    noise = rng.normal(size=200)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * 0.1
    error = 0.1 / np.sqrt(200)  # of the mean difference, which pairs make small
    assert best_of([base, base]) == 0
    assert best_of([base, base + noise + 1.9 * error]) == 0
    assert best_of([base, base + noise + 2.1 * error]) == 1
    assert best_of([base - 0.5, base, base + noise + 1.9 * error]) == 1
    assert best_of([base, base + 1e-6]) == 1  # always, and so no noise
    assert best_of([np.full(9, 1 - 2e-16), np.ones(9)]) == 0  # the same, summed up otherwise
    assert best_of([np.array([0.4]), np.array([0.5])]) == 1


def test_the_figures_are_those_of_an_index_and_its_evaluation(
    patterns: Path, shape: Model, tmp_path: Path
) -> None:
    choice = choose_model(patterns, [shape], purpose="classes", bits=BITS, codes="whitened")
    images = read_images(patterns)
    order = np.random.default_rng([0, 2]).permutation(len(images))
    of_label: dict[str | None, list[Entry]] = {}
    for i in order:
        of_label.setdefault(images[int(i)].label, []).append(images[int(i)])
    parts: tuple[list[Entry], list[Entry]] = ([], [])
    for first, query, _ in of_label.values():
        parts[0].append(first)
        parts[1].append(query)
    parts[0].extend(third for _, _, third in of_label.values())
    with Index.create(tmp_path / "a.wb", shape) as index:
        index.add(parts[0], bits=BITS, purpose="classes", codes="whitened")
        queries = replace(Images(parts[1], "other half"), labelled=True)
        for fine, score in choice.chosen["candidates"][0]["scores"]["whitened"].items():
            measured = evaluate(index, queries, fine=fine, exhaustive=False)
            assert measured.rerank_map == pytest.approx(score, abs=1e-4), fine
        assert measured.queries == choice.chosen["queries"] == 8


def test_an_index_keeps_the_choice(patterns: Path, for_copies: Choice, tmp_path: Path) -> None:
    fine = for_copies.chosen
    model = for_copies.model.as_chosen({**fine, "codes": "itq", "fine": "asymmetric"})
    path, other = tmp_path / "a.wb", tmp_path / "b.wb"
    with Index.create(path, model) as index:
        assert index.add(patterns, bits=BITS).fitted["codes"] == "itq"
        assert index.add(patterns, purpose="copies").unchanged == 24
        index.refit(bits=8)
    copy(path, other)
    for one in (path, other):
        with Index.open(one) as index:
            info = index.info()
            assert (info.fine, info.bits) == ("asymmetric", 8)
            assert info.chosen["for"] == index.model.record["fitted"]["for"] == "copies"
            hits = index.search(1, k=3)
            assert hits == index.search(1, k=3, fine="asymmetric")
            assert hits != index.search(1, k=3, fine="pool")  # an explicit mode wins
            assert evaluate(index, read_images(patterns)).fine == "asymmetric"
    with Index.open(path) as index:
        index.refit(purpose="classes")  # which nobody has measured
        assert (index.info().fine, index.info().chosen) == ("pool", {})
        assert index.verify() == []


def test_a_trained_model_can_be_chosen(patterns: Path, shape: Model, tmp_path: Path) -> None:
    trained = trained_model()
    choice = choose_model(patterns, [trained], purpose="instances")
    assert choice.chosen["codes"] == "own"
    assert choice.model.opened().chosen == {}  # its codes are open again
    with Index.create(tmp_path / "a.wb", choice.model) as index:
        index.add(patterns, purpose="instances")
        assert index.add(patterns, purpose="instances").unchanged == 24
        assert index.model.bits == 20
        with pytest.raises(ModelError, match="trained and chosen for instances: leave --for out"):
            index.add(patterns, purpose="copies")
    for asked in ({"bits": 12}, {"codes": "itq"}, {"adapt": "labels"}):
        with pytest.raises(
            ModelError, match=r"tiny .* has codes of its own: leave --bits, --codes"
        ):
            choose_model(patterns, [shape, trained], purpose="copies", **asked)


def test_codes_of_another_index_are_taken_as_they_are(patterns: Path, shape: Model) -> None:
    raw = np.random.default_rng(0).standard_normal((40, 160)).astype(np.float32)
    fitted = shape.fitted(raw, BITS, 0)
    choice = choose_model(patterns, [fitted], purpose="copies")
    assert choice.chosen["codes"] == "own"
    assert choice.model.rotation is not None
    with pytest.raises(ModelError, match="learned for instances: leave it out"):
        choose_model(patterns, [fitted], purpose="classes")


def test_without_labels_the_first_stays(patterns: Path, shape: Model, colour: Model) -> None:
    paths = sorted(patterns.rglob("*.png"))
    choice = choose_model(paths, [colour, shape], purpose="classes")
    assert choice.chosen["name"] == "colour"
    assert "fewer than 20 pictures have a label that others have too" in choice.chosen["reason"]
    assert (choice.model.fine, choice.model.chosen["for"]) == ("pool", "classes")
    alone = [str(i) for i in range(len(paths))]
    assert "reason" in choose_model(paths, [shape], purpose="classes", labels=alone).chosen
    same = choose_model(paths, [shape], purpose="classes", labels=["a"] * len(paths)).chosen
    assert same["reason"] == "all pictures with a label have the same one, a"
    found = choose_model(paths, [shape], purpose="classes", labels=[*"abcd"] * 6, codes="itq")
    assert found.chosen["measure"] == "average precision by labels"


def test_few_pictures_are_not_measured(
    patterns: Path, shape: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "FEWEST", 25)
    monkeypatch.setattr(Model, "run", None)  # no network runs
    choice = choose_model(patterns, [shape], purpose="copies")
    assert choice.chosen["reason"] == "there are fewer than 25 pictures to measure with"


def test_pictures_that_cannot_be_read_take_no_part(
    patterns: Path, shape: Model, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no")
    paths = [*sorted(patterns.rglob("*.png")), tmp_path / "bad.png", tmp_path / "gone.png"]
    choice = choose_model(paths, [shape], purpose="copies", bits=8, codes="itq")
    assert (choice.chosen["queries"], choice.chosen["gallery"]) == (24, 24)


@pytest.mark.parametrize("purpose", ["copies", "classes"])
def test_where_few_pictures_can_be_read_no_model_is_blamed(
    purpose: str, patterns: Path, shape: Model, tmp_path: Path
) -> None:
    for i in range(60):
        (tmp_path / f"{i}.png").write_text("no")
    bad, good = sorted(tmp_path.iterdir()), sorted(patterns.rglob("*.png"))[:9]
    labels = ["a", "b"] * 30
    none = choose_model(bad, [shape], purpose=purpose, labels=labels)
    assert none.chosen["reason"] == "none of the 60 pictures that were tried could be read"
    few = choose_model([*bad[9:], *good], [shape], purpose=purpose, labels=labels)
    assert few.chosen["reason"] == (
        "only 9 of the 60 pictures that were tried could be read, too few to measure with"
    )
    assert none.notes == few.notes == ()


def test_where_all_that_is_searched_for_is_damaged_nothing_is_measured(
    patterns: Path, shape: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.png").write_text("no")
    good = sorted(patterns.rglob("*.png"))
    shown = [choosing._Shown(str(path), "a", "a", is_query=False) for path in good]
    shown.append(choosing._Shown(str(tmp_path / "bad.png"), "b", "b", is_query=True))
    monkeypatch.setattr(choosing, "_labelled", lambda order: shown)
    choice = choose_model(patterns, [shape], purpose="classes")
    assert choice.chosen["reason"] == "no label is left in both halves"


def test_an_installed_model_too_short_for_the_codes_is_left_out_and_said(
    patterns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path))
    small_general("short", seed=1, dim=48).save(tmp_path / "short")
    choice = choose_model(patterns, purpose="copies", codes="itq")
    assert [one["name"] for one in choice.chosen["candidates"]] == ["general"]
    [note] = choice.notes
    assert "bits must be from 1 to 48 for short, which gives features of 48 numbers" in note


def test_a_slow_model_is_left_out_and_a_slower_one_makes_the_sample_smaller(
    patterns: Path, shape: Model, colour: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "SECONDS", 0.0)  # after one batch of 16
    choice = choose_model(patterns, [shape, colour], purpose="copies")
    assert choice.chosen["reason"] == "no model encoded enough pictures"
    assert choice.notes[0].startswith("shape was left out: it encoded 16 pictures in ")
    assert [one["name"] for one in choice.chosen["candidates"]] == ["shape", "colour"]
    monkeypatch.setattr(choosing, "FEWEST", 16)
    encoded, given = choosing._encoded, []

    def counted(model: Model, name: str, shown: Sequence[Any], *rest: Any) -> Any:
        given.append(len(shown))
        return encoded(model, name, shown, *rest)

    monkeypatch.setattr(choosing, "_encoded", counted)
    choice = choose_model(patterns, [shape, colour], purpose="copies", codes="itq", bits=8)
    assert given == [48, 16]
    assert (choice.chosen["queries"], choice.chosen["gallery"]) == (8, 8)


def test_one_model_by_two_names_is_tried_once(patterns: Path, shape: Model) -> None:
    twice = [shape, Model(shape.files)]
    found = choose_model(patterns, twice, purpose="copies", bits=8, codes="itq")
    assert len(found.chosen["candidates"]) == 1
    assert found.notes == (f"shape ({shape.fingerprint[:12]}) was named twice, and tried once",)
    other = small_general("shape", seed=1)
    both = choose_model(patterns, [shape, other], purpose="copies", bits=8, codes="itq")
    assert [one["name"] for one in both.chosen["candidates"]] == [
        f"shape ({model.fingerprint[:12]})" for model in (shape, other)
    ]


def test_a_model_that_cannot_be_used(
    patterns: Path, shape: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad, why in (
        (tmp_path, "no model in"),
        (Model.of_vectors(4), "has no network"),
        (shape, "bits must be from 1 to 160 for shape, .* not 300"),
    ):
        bits = 300 if bad is shape else None
        with pytest.raises(ModelError, match=why):
            choose_model(patterns, [bad], purpose="copies", bits=bits)
    with pytest.raises(ModelError, match="there is no model to choose"):
        choose_model(patterns, [], purpose="copies")
    with pytest.raises(ModelError, match="the purpose must be one of"):
        choose_model(patterns, purpose="pets")

    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path))
    small_general("good", seed=1).save(tmp_path / "good")
    shape.save(tmp_path / "bad")
    (tmp_path / "bad" / "model.onnx").write_bytes(b"")
    found = choose_model(patterns, purpose="copies", bits=8, codes="itq")
    assert [one["name"] for one in found.chosen["candidates"]] == ["general", "good"]
    [note] = found.notes
    assert note.startswith(f"{tmp_path / 'bad'} was left out: model.onnx is not the file that ")
    assert note.count(str(tmp_path / "bad")) == 1

    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path / "none"))
    found = choose_model(patterns, purpose="copies", bits=8, codes="itq")
    [note] = found.notes
    assert note.startswith(f"WINGBAR_MODELS names {tmp_path / 'none'}, which cannot be read (")
    assert note.endswith("): no installed model was tried")


def test_a_sample_of_many_labels_leaves_each_some_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    from wingbar.index.sources import Wanted

    monkeypatch.setattr(choosing, "LABELLED", 40)
    order = [Wanted(str(i), f"{i % 50}", {}, str(i)) for i in range(1000)]
    shown = list(choosing._labelled([Wanted("x", "alone", {}, "x"), *order]))
    counts = {
        label: [one.is_query for one in shown if one.label == label] for label in "0123456789"
    }
    assert len(shown) == 40
    assert set(map(tuple, counts.values())) == {(False, True, False, True)}


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_purpose_has_a_measure(purpose: str) -> None:
    assert purpose in choosing.MEASURES
