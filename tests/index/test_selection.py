from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.index.test_store import add, empty, item
from wingbar.errors import QueryError
from wingbar.index.selection import select
from wingbar.index.store import Item, Store

__all__ = ["empty"]


@pytest.fixture
def filled(empty: Store) -> Store:
    names = ["red/a.jpg", "red/deep/b.jpg", "red2/c.jpg", "red.jpg", "blue/d.jpg"]
    add(empty, [item(name, name.split("/")[0], price=str(i)) for i, name in enumerate(names)])
    return empty


def test_files_and_folders(filled: Store) -> None:
    chosen = select(filled, ["/photos/red", "/photos/red2/c.jpg", "/photos/none"])
    assert chosen.paths == ["/photos/red/a.jpg", "/photos/red/deep/b.jpg", "/photos/red2/c.jpg"]
    assert (chosen.ids, chosen.missing, len(chosen)) == ([1, 2, 3], ["/photos/none"], 3)
    assert select(filled, [Path("/photos/red/")]).ids == [1, 2]
    assert select(filled, ["/"]).ids == [1, 2, 3, 4, 5]


def test_names_and_filters_must_both_hold(filled: Store) -> None:
    assert select(filled, where="price>2").ids == [4, 5]
    assert select(filled, ["/photos/red", "/photos/blue"], where=["price>0"]).ids == [2, 5]
    nothing = select(filled, ["/photos/red"], where="label=blue")
    assert (nothing.ids, nothing.missing) == ([], [])


def test_neither_names_nor_a_filter(filled: Store) -> None:
    with pytest.raises(QueryError, match="name files or folders, or a filter"):
        select(filled)


def test_names_relative_to_the_folder_and_through_links(
    empty: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path(os.path.realpath(tmp_path)) / "pictures"
    real.mkdir()
    os.symlink(real, tmp_path / "link")
    add(empty, [Item(str(real / "a.jpg"), None, {}, 1, 1, b"x" * 32), item("array:red/x")])
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "pictures/a.jpg", "link", "link/a.jpg", "./pictures//"):
        assert select(empty, [name]).ids == [1], name
    # a picture that is no file has no folder
    assert select(empty, ["array:red"]).missing == ["array:red"]


def test_a_name_that_is_not_utf8_is_of_no_item(filled: Store, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    chosen = select(filled, [odd, "a\0b.jpg", "/photos/blue"])
    assert (chosen.ids, chosen.missing) == ([5], [odd, "a\0b.jpg"])
    link = tmp_path / odd
    link.symlink_to("/photos/red")
    assert select(filled, [link]).ids == [1, 2]
    for text in (f"label={odd}", f"path!={odd}", f"{odd}<3"):
        with pytest.raises(QueryError, match="is not valid UTF-8, and no item has"):
            select(filled, where=text)
