from __future__ import annotations

import time
from contextlib import suppress

import pytest

from wingbar.errors import QueryError
from wingbar.index.filters import Condition, parse_where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label=monarch", Condition("label", "=", "monarch")),
        ("\t price \n<=\u00a02.5 ", Condition("price", "<=", "2.5")),
        ("price>=2", Condition("price", ">=", "2")),
        ("price<2", Condition("price", "<", "2")),
        ("price>-1e3", Condition("price", ">", "-1e3")),
        ("path!=a=b", Condition("path", "!=", "a=b")),
        ("a=<5", Condition("a", "=", "<5")),
        ("a = !b", Condition("a", "=", "!b")),
        ("a=b\nc", Condition("a", "=", "b\nc")),
        ("shelf mark=", Condition("shelf mark", "=", "")),
    ],
)
def test_a_filter_is_split_at_its_first_operator(text: str, expected: Condition) -> None:
    assert parse_where([text]) == [expected]


@pytest.mark.parametrize("text", ["", " ", "monarch", "=a", "  =a", "a!b", "a!", "!=b", "a!<5"])
def test_what_is_no_filter_gets_an_example(text: str) -> None:
    with pytest.raises(QueryError, match=r"cannot read the filter .*: write label=monarch"):
        parse_where(text)


@pytest.mark.parametrize("text", ["price<cheap", "price>=", "price<="])
def test_numbers_are_required_where_numbers_are_compared(text: str) -> None:
    with pytest.raises(QueryError, match=r"compares numbers, and '.*' is none"):
        parse_where(text)


@pytest.mark.parametrize(
    "text", [" " * 100_000, " a" * 50_000, "a=" + " " * 100_000 + "b", "<" * 100_000]
)
def test_a_hostile_filter_takes_no_time(text: str) -> None:
    start = time.process_time()
    with suppress(QueryError):
        parse_where(text)
    assert time.process_time() - start < 2  # the pattern that this replaces took hours
