from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import interrupted, run
from tests.small_network import small_general
from wingbar.cli.chosen import chosen_sentence, chosen_table
from wingbar.evaluation import choosing
from wingbar.index.index import Index
from wingbar.model import fitting
from wingbar.model.model import Model

CHOSEN = {
    "for": "copies",
    "measure": "reciprocal rank of altered copies",
    "queries": 300,
    "gallery": 290,
    "candidates": [
        {
            "name": "general",
            "fingerprint": "ab" * 32,
            "scores": {
                "whitened": {"none": 0.4, "ties": 0.5, "pool": 0.98, "asymmetric": 0.6},
                "itq": {"none": 0.5, "ties": 0.6, "pool": 0.9812, "asymmetric": 0.7},
            },
        },
        {"name": "tiny", "fingerprint": "cd" * 32, "scores": {"own": {"none": 0.3}}},
    ],
    "name": "general",
    "codes": "whitened",
    "fine": "pool",
    "score": 0.98,
    "error": 0.0042,
}


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "FEWEST", 20)
    monkeypatch.setattr(choosing, "COMPARED", ("itq",))


@pytest.fixture
def colour(tmp_path: Path) -> Path:
    """The directory of a model that sees the mean colour of a picture and nothing else."""
    small_general("colour", cells=1).save(tmp_path / "colour")
    return tmp_path / "colour"


def test_what_was_chosen_in_words_and_figures() -> None:
    assert chosen_sentence(CHOSEN) == (
        "Chosen for copies: general, whitened codes, fine=pool; reciprocal rank of altered copies "
        "0.980 ± 0.004 (300 queries, 290 pictures); what measured higher is within the noise."
    )
    assert "noise" not in chosen_sentence({**CHOSEN, "score": 0.9812})
    assert chosen_table(CHOSEN, {"general": 61.26, "tiny": 1200.0}) == (
        "reciprocal rank of altered copies    none    ties    pool  asymmetric  images/s\n"
        "general, whitened codes            0.400   0.500   0.980*      0.600       61.3\n"
        "general, itq codes                 0.500   0.600   0.981       0.700       61.3\n"
        "tiny, its own codes                0.300       -       -           -    1,200.0"
    )
    assert "images/s" not in chosen_table(CHOSEN)
    unmeasured = {"for": "classes", "name": "general", "reason": "it rains", "candidates": []}
    assert chosen_table(unmeasured) == ""
    assert chosen_sentence(unmeasured) == (
        "Taken for classes without measuring: general, since it rains."
    )


def test_a_purpose_picks_the_model_and_says_so(
    photos: Path, colour: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    command = ["index", path, photos, "--bits", 8, "--for", "copies"]
    both = ["--model", colour, "--model", "general"]
    code, out, err = run(capsys, *command, *both)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == (
        "reciprocal rank of altered copies none ties pool asymmetric images/s".split()
    )
    assert [line.split(",")[0] for line in lines[1:3]] == ["colour", "general"]
    assert lines[2].count("*") == 1
    assert lines[3].startswith("Chosen for copies: general, itq codes, fine=")
    assert lines[4].startswith(f"{path}: 24 images (24 added)")
    assert err.startswith("wingbar: in ")
    assert err.endswith(f" s chose {lines[3][19:].split(';')[0]}, for copies\n")
    code, out, _ = run(capsys, "info", path)
    assert lines[3] in out.splitlines()
    code, out, _ = run(capsys, "info", path, "--all")
    assert lines[1].rsplit(maxsplit=1)[0] in out  # without the speed
    code, out, _ = run(capsys, "info", path, "--json")
    assert json.loads(out)["chosen"]["name"] == "general"

    code, out, err = run(capsys, *command, *both)  # the same command goes on with it
    assert (code, err, "24 unchanged" in out) == (0, "", True)
    code, out, err = run(capsys, *command[:-1], "classes", *both)
    assert (code, out) == (2, "")
    assert err.startswith(f"wingbar: {path} was made with general (label-free, 8 bits, ")
    assert err.endswith(
        ") and keeps it: leave --model out, or name a new index to have candidates tried\n"
    )
    code, _, err = run(capsys, *command[:-1], "instances")
    assert (code, "has for=copies, not instances: leave --for out" in err) == (2, True)
    code, _, err = run(capsys, *command, "--model", colour)
    assert (code, "was made with general" in err) == (2, True)
    code, out, _ = run(capsys, *command, *both[2:], *both[:2])  # in another order
    assert (code, "24 unchanged" in out) == (0, True)
    small_general("other", seed=1).save(tmp_path / "other")
    code, _, err = run(capsys, *command, *both, "--model", tmp_path / "other")
    assert (code, err.count("\n")) == (2, 1)
    assert ", and other (label-free, not fitted yet, " in err
    assert "was not among what was tried then: leave --model out, or name a new index" in err

    assert "was chosen" not in run(capsys, "index", path, "--refit")[1]
    code, out, _ = run(capsys, "index", path, "--refit", "--for", "instances")
    assert code == 0
    assert out.splitlines()[-1].startswith(
        "general was chosen for copies, and nothing was measured"
    )
    assert "was chosen" not in run(capsys, "index", path, "--refit", "--for", "copies")[1]


def test_installed_models_are_tried(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WINGBAR_MODELS", str(tmp_path / "models"))
    small_general("other", seed=1).save(tmp_path / "models" / "other")
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "model.json").write_text("{}")
    code, out, err = run(
        capsys, "index", tmp_path / "a.wb", photos, "--for", "classes", "--bits", 8, "--json"
    )
    chosen = json.loads(out)["chosen"]
    assert code == 0
    assert [one["name"] for one in chosen["candidates"]] == ["general", "other"]
    assert set(chosen["images_per_second"]) == {"general", "other"}
    assert f"wingbar: {tmp_path / 'models' / 'broken'} was left out: " in err
    with Index.open(tmp_path / "a.wb") as index:
        assert index.model.averages
        assert index.info().fine == chosen["fine"]


def test_without_a_purpose_nothing_is_measured(
    photos: Path,
    colour: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "choose_model", None)
    path = tmp_path / "a.wb"
    code, out, err = run(capsys, "index", path, photos, "--bits", 8, "--json")
    assert (code, err, json.loads(out)["chosen"]) == (0, "", None)
    both = ["--model", colour, "--model", "general"]
    code, _, err = run(capsys, "index", tmp_path / "b.wb", photos, *both)
    assert (code, "add --for copies, instances or classes, or name one model" in err) == (2, True)
    assert not (tmp_path / "b.wb").exists()
    for wanted in (both, [*both, "--for", "copies"]):  # an index that was there
        code, _, err = run(capsys, "index", path, photos, *wanted)
        assert (code, err.count("\n")) == (2, 1)
    code, out, _ = run(capsys, "index", path, photos, "--for", "instances")
    assert (code, "24 unchanged" in out) == (0, True)
    assert "Chosen" not in run(capsys, "info", path)[1]


def test_few_pictures_and_a_model_that_cannot_be_read(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "FEWEST", 50)
    path = tmp_path / "a.wb"
    command = ["index", path, photos, "--for", "copies", "--bits", 8]
    code, out, err = run(capsys, *command, "--model", "general", "--model", tmp_path / "none")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"no model in {tmp_path / 'none'}" in err
    assert not path.exists()
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")  # the reason is told once
    assert out.startswith(
        "Taken for copies without measuring: general, since there are fewer than 50 pictures to "
        f"measure with.\n{path}: 24 images"
    )


def test_ctrl_c_while_measuring_leaves_nothing_and_later_all_that_is_encoded(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.wb"
    command = ["index", path, photos, "--for", "copies", "--bits", 8]
    with monkeypatch.context() as patch:
        patch.setattr(Model, "run", interrupted)
        code, out, err = run(capsys, *command)
        assert (code, out) == (130, "")
        assert "nothing was stored yet; the same command begins again" in err
    assert list(tmp_path.glob("*")) == [photos]
    fit = fitting.fit
    calls: list[int] = []

    def interrupted_later(*arguments: Any, **options: Any) -> fitting.Fitted:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", interrupted_later)
        code, _, err = run(capsys, *command)
        assert (code, "24 of 24 images are encoded, which is kept" in err) == (130, True)
    code, _, err = run(capsys, "index", path, photos, "--for", "classes")
    assert (code, f"{path} was begun for copies, which general was chosen for" in err) == (2, True)
    code, out, _ = run(capsys, *command)
    assert (code, "Continued with 24 images of an interrupted run." in out) == (0, True)
    with Index.open(path) as index:
        assert index.info().chosen["for"] == "copies"
