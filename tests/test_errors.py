from __future__ import annotations

import os

from wingbar import errors
from wingbar.errors import WingbarError, counted, one_line, printable, shortened, visible


def test_the_docstring_shows_the_tree() -> None:
    kinds: list[type[WingbarError]] = [WingbarError, *WingbarError.__subclasses__()]
    for kind in kinds:
        if kind.__module__ == errors.__name__:
            assert f"{kind.__name__} " in str(errors.__doc__)


def test_foreign_messages_become_one_short_line() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 200


def test_a_number_agrees_with_its_noun() -> None:
    assert counted(1, "image") == "1 image"
    assert counted(0, "image") == "0 images"
    assert counted(3068, "image") == "3,068 images"
    assert counted(2, "query", "queries") == "2 queries"


def test_bytes_of_a_name_that_are_not_utf8_are_shown_as_bytes() -> None:
    name = os.fsdecode(b"caf\xe9\n.jpg")
    assert printable(name) == "caf\\xe9\n.jpg"
    assert visible(name) == "caf\\xe9\\n.jpg"
    assert visible("caf\u00e9 \ud800") == "caf\u00e9 \\ud800"


def test_a_long_text_is_shortened_in_its_middle() -> None:
    assert shortened("a" * 300) == "a" * 300
    assert shortened("a" * 5000 + "end", 100) == f"{'a' * 47} ... {'a' * 44}end"
