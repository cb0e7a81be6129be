from __future__ import annotations

import time
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import picture
from wingbar.errors import QueryError
from wingbar.index.filters import Condition, as_number, parse_where
from wingbar.index.index import Index


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


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with a label and columns as spreadsheets write them."""
    folder = tmp_path_factory.mktemp("shop")
    for i in range(3):
        picture(i).save(folder / f"{i}.jpg")
    (folder / "list.csv").write_text(
        "path,label,Year,price\n"
        '0.jpg,monarch,2020.0,"3,50"\n1.jpg,007,2021,4\n2.jpg,K\u00e4fer,,"1.234,50"\n',
        encoding="utf-8",
    )
    with Index.create(folder / "a.wb") as index:
        index.add(folder / "list.csv", bits=8)
    return folder / "a.wb"


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("label==monarch", [0]),
        ("label=" + unicodedata.normalize("NFD", "K\u00e4fer"), [2]),
        ("label=7", []),  # a label is text
        ("Year=2020", [0]),
        ("Year=2021.0", [1]),
        ("Year!=2020", [1, 2]),
        ("Year>=2020", [0, 1]),
        ("price<5", [0, 1]),
        ("price=3.5", [0]),
        ("price<3,75", [0]),
        ("price>1000", [2]),
    ],
)
def test_numbers_compare_as_numbers(shop: Path, where: str, found: list[int]) -> None:
    with Index.open(shop) as index:
        hits = index.search(picture(1), where=where)
        assert sorted(int(Path(hit.path).stem) for hit in hits) == found
        assert (index.why_nothing_passes(where) is None) == bool(found)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3,50", 3.5),
        ("-3,5", -3.5),
        ("0,125", 0.125),
        ("1.234,50", 1234.5),
        ("1,234.50", 1234.5),
        ("1,234,567", 1234567.0),
        ("1,234", None),  # German for 1.234, English for 1234
        ("3,", None),
        ("", None),
        ("red", None),
        (" 12 ", 12.0),
    ],
)
def test_numbers_with_commas(text: str, number: float | None) -> None:
    assert as_number(text) == number


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (["label=Monach"], "no item has label=Monach: there is monarch"),
        (["label=kafer"], "no item has label=kafer: there is K\u00e4fer"),
        (["Year=1999"], "no item has Year=1999: there is"),
        (["price>99999"], "no item has price>99999: its numbers are 3.5 to 1234.5"),
        (["path=nowhere/*"], "no item has path=nowhere/*; path=*/folder/* finds what is in"),
        (["label=monarch", "Year=2021"], "no item passes all of these filters, though some pass"),
    ],
)
def test_a_filter_that_nothing_passes_says_what_is_near(
    shop: Path, where: list[str], reason: str
) -> None:
    with Index.open(shop) as index:
        assert str(index.why_nothing_passes(where)).startswith(reason)


def test_an_order_needs_a_number() -> None:
    with pytest.raises(QueryError, match="compares numbers, and 'red' is none"):
        parse_where("price<red")
