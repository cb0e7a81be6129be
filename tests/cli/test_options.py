from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import pytest

from wingbar.cli import main, options
from wingbar.data import protocols
from wingbar.index import ranking


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "a.wb", "p", "--bits", "0"],
        ["index", "a.wb", "p", "--threads", "-1"],
        ["index", "a.wb", "p", "--seed", "-1"],
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
