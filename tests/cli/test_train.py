from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.model.test_model import trained_model
from tests.runs import command
from wingbar import methods
from wingbar.cli import main
from wingbar.cli.options import from_field_flags
from wingbar.cli.output import LISTED
from wingbar.cli.train import _trained_text
from wingbar.images import Preprocessing
from wingbar.model.model import Model
from wingbar.networks import BACKBONES
from wingbar.training.run import Run


def test_what_see_does_not_name_stays(tmp_path: Path) -> None:
    """Those of a published encoder, which scales the short side to 48 pixels, bicubic, and cuts
    32 out of them."""
    before = Preprocessing(size=32, edge=48, bicubic=True, mirrored=True)
    trained_model().with_preprocessing(before).save(tmp_path / "m")
    for how, seen in (
        ("square 64", Preprocessing(size=64, edge=96, bicubic=True, mirrored=True)),
        ("whole 64", Preprocessing(size=64, whole=True, bicubic=True, mirrored=True)),
    ):
        new = tmp_path / how
        assert main.main(["export", str(tmp_path / "m"), "--see", how, "-o", str(new)]) == 0
        assert Model.load(new).preprocessing == seen


def test_a_square_is_a_crop_where_the_image_was_squeezed(tmp_path: Path) -> None:
    squeezed = Preprocessing(size=32, squash=True)
    trained_model().with_preprocessing(squeezed).save(tmp_path / "m")
    made = ["export", str(tmp_path / "m"), "--see", "square 64", "-o", str(tmp_path / "n")]
    assert main.main(made) == 0
    assert Model.load(tmp_path / "n").preprocessing == Preprocessing(size=64)


def test_an_int8_model_says_how_it_agrees_with_the_exact_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agreed = {"cosine_mean": 0.9876, "cosine_min": 0.91, "same_neighbour": 0.875}
    trained_model().altered({}, {"int8_agreement": agreed}).save(tmp_path / "m")
    assert main.main(["info", str(tmp_path / "m")]) == 0
    assert "a cosine of 0.988 with those of the exact model" in capsys.readouterr().out
    assert main.main(["info", str(tmp_path / "m"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["int8_agreement"] == agreed


def test_a_model_that_sees_so_already_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_model().with_preprocessing(Preprocessing(size=32)).save(tmp_path / "m")
    again = ["export", str(tmp_path / "m"), "--see", "square 32", "-o", str(tmp_path / "n")]
    assert main.main(again) == 2
    assert "sees the central square of the image, scaled to 32 x 32 pixels already" in (
        capsys.readouterr().err
    )


def test_a_model_is_written_into_no_folder_that_holds_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    trained_model().save(tmp_path / "m")
    before = sorted(photos.rglob("*"))
    for flags in (["--mirrored"], ["--open"], ["--int8", "--calibrate", photos]):
        code, _, err = run(capsys, "export", tmp_path / "m", *flags, "-o", photos)
        assert (code, err.count("\n")) == (2, 1)
        assert "photos is not empty: name another directory" in err
    assert sorted(photos.rglob("*")) == before


def test_whole_images_have_no_int8_version_which_is_said_before_any_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_model().with_preprocessing(Preprocessing(size=32, whole=True)).save(tmp_path / "m")
    flags = ("--int8", "--calibrate", tmp_path / "nowhere", "-o", tmp_path / "n")
    code, _, err = run(capsys, "export", tmp_path / "m", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert (
        "takes whole images, for which there is no int8 version: train with --no-whole --scales 1"
        in err
    )


def test_a_run_that_was_not_finished_is_no_model_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    (tmp_path / "m" / "train").mkdir(parents=True)
    (tmp_path / "m" / "train" / "run.json").write_text("{}")
    for words in (["info", tmp_path / "m"], ["index", tmp_path / "a.wb", photos, "--model"]):
        code, _, err = run(capsys, *words, *([tmp_path / "m"] if words[0] == "index" else []))
        assert (code, err.count("\n")) == (2, 1)
        assert (
            f"m is a training run that was not finished: wingbar train --resume -o {tmp_path}"
            in (err)
        )


def test_calibration_names_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_model().save(tmp_path / "m")
    (tmp_path / "few").mkdir()
    made = ["export", str(tmp_path / "m"), "--int8", "--calibrate", str(tmp_path / "few")]
    made += ["-o", str(tmp_path / "n")]
    assert main.main(made) == 2
    assert "at least 4 images, better 400; there are 0" in capsys.readouterr().err
    (tmp_path / "few" / "a.jpg").write_bytes(b"no image")
    assert main.main(made) == 2
    assert "a.jpg: not an image" in capsys.readouterr().err


def test_a_model_is_made_to_see_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_model().save(tmp_path / "m")
    assert (
        main.main(
            ["export", str(tmp_path / "m"), "--see", "whole 64 0.5,1", "-o", str(tmp_path / "n")]
        )
        == 0
    )
    assert Model.load(tmp_path / "n").preprocessing == Preprocessing(
        size=64, whole=True, scales=(0.5, 1.0)
    )
    assert (
        main.main(["export", str(tmp_path / "m"), "--see", "square 32", "-o", str(tmp_path / "o")])
        == 0
    )
    assert Model.load(tmp_path / "o").preprocessing == Preprocessing(size=32)
    made = ["export", str(tmp_path / "n"), "--mirrored", "-o", str(tmp_path / "both")]
    assert main.main(made) == 0
    seen = Preprocessing(size=64, whole=True, scales=(0.5, 1.0), mirrored=True)
    assert Model.load(tmp_path / "both").preprocessing == seen
    capsys.readouterr()
    assert main.main(["info", str(tmp_path / "both")]) == 0
    sees = "Sees the whole image, scaled to the area of 64 x 64 pixels times 0.5, 1, and its mirror"
    assert sees in capsys.readouterr().out
    again = ["export", str(tmp_path / "both"), "--mirrored", "-o", str(tmp_path / "p")]
    assert main.main(again) == 2
    assert "sees mirror images already" in capsys.readouterr().err
    whole = ["export", str(tmp_path / "both"), "--see", "whole 32", "-o", str(tmp_path / "q")]
    assert main.main(whole) == 0
    assert Model.load(tmp_path / "q").preprocessing == Preprocessing(
        size=32, whole=True, mirrored=True
    )
    for wrong in (
        "round 64",
        "whole",
        "whole x",
        "whole 64 0.5,9",
        "square 0",
        "square 1" + 400 * "0",
    ):
        assert (
            main.main(["export", str(tmp_path / "m"), "--see", wrong, "-o", str(tmp_path / "p")])
            == 2
        )
        assert "--see" in capsys.readouterr().err
    assert main.main(["export", str(tmp_path / "m"), "--see", "square 32"]) == 2
    assert not (tmp_path / "p").exists()


def test_the_codes_of_a_model_are_left_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_model().save(tmp_path / "m")
    words = ["export", str(tmp_path / "m"), "--open"]
    assert main.main([*words, "-o", str(tmp_path / "n")]) == 0
    opened = Model.load(tmp_path / "n")
    assert opened.is_label_free
    assert not opened.gives_codes
    assert opened.record["opened"] == trained_model().method
    assert main.main(words) == 2
    assert "--open needs -o NEW" in capsys.readouterr().err
    again = ["export", str(tmp_path / "n"), "--open", "-o", str(tmp_path / "o")]
    assert main.main(again) == 2
    assert "learns its codes from each index already" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


_CODES = ("unique_codes", "constant_bits")
RECORD: dict[str, Any] = {
    "run": {"instances": False},
    "held_out_map": {"none": 0.5, "ties": 0.75},
    "held_out": {"queries": 7, "images": 90, "classes": 3},
    "trained": {"epochs": 3, "of_epochs": 3, "steps": 0, "images": 90, "failed": 0},
}


def test_what_was_trained_is_said_with_its_reservations() -> None:
    def text(**known: object) -> list[str]:
        parts: dict[str, Any] = {
            name: {key: known.get(key, value) for key, value in RECORD[name].items()}
            for name in ("trained", "held_out")
        }
        parts["held_out"] |= {key: known[key] for key in _CODES if key in known}
        parts = {**RECORD, "classes": list("abc"), **parts}
        return _trained_text(trained_model().altered({}, parts), "m").splitlines()

    whole = text(unique_codes=3, constant_bits=[])
    assert whole[1:] == [
        "MAP of 7 held-out training images by fine mode: none 0.500, ties 0.750; searches use "
        "ties.",
        "Next: wingbar index photos.wb photos/ --model m",
    ]
    assert text(epochs=2, steps=5)[1] == (
        "Not finished: trained for 2 of 3 epochs and 5 steps. wingbar train --resume -o m "
        "continues it."
    )
    assert text(failed=2)[1].startswith("2 images could not be read and took no part")
    longer = "train for longer, or at another --lr."
    assert text(unique_codes=9, constant_bits=[1, 4])[2] == (
        f"Warning: 2 bits are constant (1, 4): {longer}"
    )
    assert text(unique_codes=2, constant_bits=[])[2] == f"Warning: 2 codes for 3 classes: {longer}"
    assert len(text(unique_codes=4, constant_bits=[])) == 3
    assert len(text(unique_codes=2, constant_bits=[], classes=0)) == 3  # each image by itself


def test_info_says_how_far_a_model_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {**RECORD["trained"], "epochs": 1}
    searched = {**RECORD["held_out"], "constant_bits": [0]}
    model = trained_model().altered({}, {**RECORD, "trained": known, "held_out": searched})
    model.save(tmp_path / "m")
    code, out, _ = run(capsys, "info", tmp_path / "m")
    assert code == 0
    assert "Not finished: trained for 1 of 3 epochs.\n" in out
    assert "MAP of 7 held-out training images: " in out
    assert "Warning: 1 bit is constant (0).\n" in out
    code, out, _ = run(capsys, "info", tmp_path / "m", "--json")
    assert (json.loads(out)["trained"], json.loads(out)["held_out"]) == (known, searched)
    model.opened().save(tmp_path / "open")  # whose codes are others
    code, out, _ = run(capsys, "info", tmp_path / "open")
    assert code == 0
    assert "Not finished" in out
    assert "Warning" not in out


def test_a_record_that_info_could_not_show_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, wrong in (
        ("trained", {"epochs": None}),
        ("trained", {"steps": "x"}),
        ("trained", 3),
        ("held_out", {"queries": "seven"}),
        ("held_out_map", {"none": float("nan")}),
        ("parameters", None),
        ("macs", "many"),
        ("held_out", {"constant_bits": 3}),
        ("held_out", {"constant_bits": ["a"]}),
        ("held_out", None),
    ):
        folder = tmp_path / f"{part}-{len(str(wrong))}"
        trained_model().save(folder)
        record = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**record, part: wrong}))
        code, _, err = run(capsys, "info", folder)
        assert (code, err.count("\n")) == (2, 1)
        assert f"model.json cannot be read ('{part}' is " in err


@pytest.mark.parametrize(
    "before", [["-o", "m"], ["--json", "-o", "m"], ["--split", "all", "--json"]]
)
def test_flags_may_come_before_the_method(before: list[str]) -> None:
    words = ["train", *before, "csq", "photos", "--bits", "16", "--epochs", "3"]
    words += [] if "-o" in words else ["-o", "m"]
    args = main.parser_for(words).parse_args(words)
    assert (args.method, args.data, args.bits, args.epochs) == ("csq", "photos", 16, 3)
    assert args.quantization == methods.get("csq").Config.quantization


def test_a_flag_of_another_method_is_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["csq", "photos", "--regions", "2"], "--regions is a flag of cmbh"),
        (["adsh", "photos", "--no-spread"], "--no-spread is a flag of csq, orthohash"),
        ([".", "--bits=12"], "--bits is a flag of a method, which comes first, as in"),
        (["--bits", "12", "csq", "photos"], "--bits is a flag of a method, which comes first"),
        (
            ["--resume", "--lr", "1"],
            "--lr is a flag of a method, which comes first, as in wingbar ",
        ),
        (["dlbch", "photos", "--bits", "12"], "--bits is a flag of methods, and none is named"),
        (["csq", "photos", "--regoins", "2"], "wingbar train has no flag --regoins"),
    ):
        with pytest.raises(SystemExit):
            main.main(["train", *words, "-o", "m"])
        assert f"wingbar: {said}" in capsys.readouterr().err


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main.main([*arguments, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_images_that_cannot_be_read_are_named(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wingbar.training.loop.Training.train", lambda self: None)
    model = trained_model()
    model.record = {**model.record, **RECORD, "classes": ["blue", "green", "red"]}
    monkeypatch.setattr("wingbar.training.loop.Training.finish", lambda self: model)
    for i in range(LISTED + 3):
        (photos / "red" / f"bad{i:02}.jpg").write_text("no")
    output = tmp_path / "m"
    code, _, err = run(capsys, *command(photos, output))
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == LISTED + 1
    assert lines[0].startswith(f"wingbar: skipped {photos}/red/bad00.jpg: not an image")
    assert lines[-1] == f"wingbar: skipped 3 more; {output}/train/run.json lists them all"
    for path in photos.rglob("*.jpg"):
        path.write_text("no")
    code, _, err = run(capsys, *command(photos, tmp_path / "n"))
    assert (code, err.count("\n")) == (2, 1)
    assert "at least two classes, these have 0; 47 images could not be read, the first: " in err
    assert ".jpg: not an image" in err


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_method_has_flags_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "train", name)
    assert shown.startswith(f"usage: wingbar train {name} DATA -o DIR")
    for record in (methods.get(name).Config, Run):
        for field in fields(record):
            assert "--" + field.name.replace("_", "-") in shown
    args = main.parser_for(["train", name]).parse_args(["train", name, "photos", "-o", "m"])
    for key, value in methods.get(name).RECIPE.items():
        assert getattr(args, key) == value


@pytest.mark.parametrize("name", methods.NAMES)
def test_the_recipe_of_the_paper_is_one_flag(name: str) -> None:
    method = methods.get(name)
    words = ["train", name, "photos", "-o", "m", "--recipe", "paper", "--clip", "3", "--seed", "7"]
    args = main.parser_for(words).parse_args(words)
    expected = {**method.RECIPE, **method.PAPER, "clip": 3.0, "seed": 7}
    for record in (method.Config, Run):
        made = from_field_flags(record, args)
        for field in fields(record):
            assert getattr(made, field.name) == expected.pop(field.name, field.default), field.name
    assert not expected


def test_the_methods_are_named_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "train")
    assert ", ".join(methods.NAMES) in " ".join(shown.split())
    assert "--epochs EPOCHS" not in shown
    assert f"--backbone ({', '.join(BACKBONES)}, or timm:NAME)" in " ".join(shown.split())
    listed = " ".join(help_of(capsys, "train", "cmbh").split())
    assert f"backbone: {', '.join(BACKBONES)}, or timm:NAME" in listed


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "-o", "m"], "name a method (cmbh, dlbhc, dolg, csq, "),
        (["train", "dlbch", "photos", "-o", "m"], "no method named 'dlbch'"),
        (["train", "--resume", "-o", "m"], "m holds no run"),
        (["train", "csq", "--resume", "-o", "m"], "name DATA too, or leave METHOD out"),
        (["train", "--resume", "-o", "m", "--split", "all"], "no use with --resume"),
        (["train", "--repeat", "m", "dlbhc", "-o", "n"], "leave METHOD, DATA and --resume out"),
        (["export", "m", "--int8", "-o", "n"], "--int8 needs --calibrate DIR"),
        (["export", "m", "--see", "square 32"], "--see needs -o NEW"),
    ],
)
def test_wrong_usage(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert reason in err
