from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from tests.commands import run
from wingbar.cli import main, options
from wingbar.data import protocols
from wingbar.errors import TrainingError
from wingbar.index import ranking
from wingbar.training.run import Run


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "a.wb", "p", "--bits", "0"],
        ["index", "a.wb", "p", "--threads", "-1"],
        ["index", "a.wb", "p", "--seed", "-1"],
        ["evaluate", "a.wb", "p", "--shortlist", "-3"],
        ["search", "a.wb", "p", "--shortlist", "0"],
        ["explain", "a.wb", "p", "--shortlist", "0"],
    ],
)
def test_numbers_out_of_range(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    assert "is not a" in capsys.readouterr().err


def test_a_wrong_number_is_named_with_what_is_allowed() -> None:
    assert [options.whole_number("0"), options.positive_number("1")] == [0, 1]
    assert [options.port_number("65535"), options.code_length("1024")] == [65535, 1024]
    for kind, text, allowed in (
        (options.whole_number, "-1", "at least 0"),
        (options.whole_number, "1.5", "at least 0"),
        (options.positive_number, "0", "at least 1"),
        (options.positive_number, "many", "at least 1"),
        (options.port_number, "65536", "from 0 to 65535"),
        (options.code_length, "1025", "from 1 to 1024"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a .*{allowed}"):
            kind(text)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A record with a flag for each field."""

    step_size: float = field(default=0.5, metadata={"help": "length of a step"})
    mirror: bool = field(default=True, metadata={"help": "mirror the pictures"})
    name: str = field(default="plain", metadata={"help": "its name"})


def test_the_fields_of_a_record_are_flags() -> None:
    parser = argparse.ArgumentParser()
    group = parser.add_argument_group("flags of the recipe")
    options.add_field_flags(group, Recipe, {"name": "special"})
    assert options.from_field_flags(Recipe, parser.parse_args([])) == Recipe(name="special")
    args = parser.parse_args(["--step-size", "2", "--no-mirror", "--name", "other"])
    assert options.from_field_flags(Recipe, args) == Recipe(
        step_size=2.0, mirror=False, name="other"
    )
    assert "length of a step (default 0.5)" in parser.format_help()


def test_the_choices_are_those_of_the_library() -> None:
    parser = argparse.ArgumentParser()
    options.add_protocol_flag(parser)
    options.add_ranking_flags(parser)
    args = parser.parse_args([])
    assert (args.protocol, args.fine, args.shortlist) == ("own", None, ranking.SHORTLIST)
    for fine in ranking.FINE:
        assert parser.parse_args(["--fine", fine]).fine == fine
    for protocol in protocols.PROTOCOLS:
        assert parser.parse_args(["--protocol", protocol]).protocol == protocol


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ("duplicates a.wb --exact --radius 3", "--radius"),
        ("duplicates a.wb --exact --min-score 0.5", "--min-score"),
        ("duplicates a.wb --exact --no-pixels", "--no-pixels"),
        ("duplicates a.wb --json --drop-list -", "--drop-list - and --json"),
        ("search a.wb q.jpg --fine none --shortlist 5", "--shortlist"),
        ("search a.wb q.jpg --json --pictures kitty", "--pictures"),
        ("explain a.wb q.jpg --fine none --shortlist 5", "--shortlist"),
        ("evaluate a.wb d --radius 2 --shortlist 5", "--shortlist"),
        ("evaluate a.wb d --solution s.csv --report r.html", "--report"),
        ("evaluate a.wb d --compare a.json b.json", "--compare reads"),
        ("evaluate --compare a.json b.json --fine none", "--fine"),
        ("evaluate --compare a.json b.json --with x", "--with"),
        ("index a.wb --refit --sync", "--sync"),
        ("index a.wb --refit --model m", "--model"),
        ("index a.wb --refit --exclude x", "--exclude"),
        ("index a.wb --refit --also m", "--also"),
        ("index a.wb --refit --ray local", "--ray"),
        ("index a.wb d --also m --ray local", "--ray"),
        ("index a.wb d --adapt labels --codes itq", "whitened codes learn from labels, not itq:"),
        ("index a.wb d --for classes --codes lsh", "codes of averages are whitened or itq, not"),
        ("index a.wb --refit --for classes --codes pca", "codes of averages are"),
        ("info a.wb --backbone resnet18", "--backbone"),
        ("info --method cmbh --all", "--all"),
        ("info a.wb --system --all", "--all"),
        ("import a.npz -o a.wb --model m --seed 3", "--seed"),
        ("serve a.wb --public --read-token 0123456789abcdef0", "--public lets anybody"),
        ("bench hamming --flip 0.1", "--flip"),
        ("export m -o n", "-o is for"),
        ("export m --open --int8 -o n", "--open and --int8"),
        ("export m --open --calibrate d -o n", "--calibrate"),
        ("train --repeat r -o n --split val", "--split"),
    ],
)
def test_a_flag_that_would_not_be_heeded_is_refused(
    arguments: str,
    flag: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"wingbar: {flag} ")


def test_a_value_out_of_range_is_told_by_its_flag() -> None:
    args = argparse.Namespace(**{field.name: field.default for field in fields(Run)})
    args.held_out = 2.0
    with pytest.raises(TrainingError, match=r"^--held-out must be at least 0 and below 1"):
        options.from_field_flags(Run, args)
    args.held_out, args.whole = 0.1, True
    args.scales = "9"
    with pytest.raises(TrainingError, match="see --whole and --scales"):
        options.from_field_flags(Run, args)
