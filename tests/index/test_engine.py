from __future__ import annotations

from pathlib import Path

import pytest

from wingbar.errors import StoreError
from wingbar.index.engine import Url, place_of


def url(text: str) -> Url:
    place = place_of(text)
    assert isinstance(place, Url)
    return place


def test_a_path_is_a_path() -> None:
    for text in ("photos.wb", "/a/b.wb", "C:/photos.wb", "a:b"):
        assert place_of(text) == Path(text)
    assert place_of(Path("a.wb")) == Path("a.wb")


@pytest.mark.parametrize(
    ("text", "server", "name", "shown"),
    [
        ("postgresql://h/d/n", "postgresql://h/d", "n", "postgresql://h/d/n"),
        (
            "postgres://u@h:5433/d",
            "postgresql://u@h:5433/d",
            "wingbar",
            "postgresql://u@h:5433/d/wingbar",
        ),
        (
            "postgresql://u:p%40ss@h/d/n?sslmode=require&partitions=4",
            "postgresql://u:p%40ss@h/d?sslmode=require",
            "n",
            "postgresql://u@h/d/n",
        ),
        ("postgresql://a,b:2/d/n", "postgresql://a,b:2/d", "n", "postgresql://a,b:2/d/n"),
        ("postgresql:///d", "postgresql:///d", "wingbar", "postgresql:///d/wingbar"),
        ("milvus://h", "http://h:19530", "wingbar", "milvus://h/wingbar"),
        ("milvus://h:1/n", "http://h:1", "n", "milvus://h:1/n"),
        ("milvus://u:p@h/d/n?secure=true", "https://h:19530", "n", "milvus://u@h/d/n"),
        ("milvus:photos.db", "photos.db", "wingbar", "milvus:photos.db"),
        ("milvus:///a/photos.db", "/a/photos.db", "wingbar", "milvus:/a/photos.db"),
    ],
)
def test_the_parts_of_a_url(text: str, server: str, name: str, shown: str) -> None:
    found = url(text)
    assert (found.server, found.name, str(found), found.stem) == (server, name, shown, name)
    assert place_of(found) is found


def test_settings_of_a_url() -> None:
    assert url("postgresql://h/d/n?partitions=4&sslmode=require").settings == {"partitions": "4"}
    assert url("milvus:photos.db").settings == {"lite": "yes"}
    settings = url("milvus://u:p@h/d/n").settings
    assert (settings["token"], settings["database"]) == ("u:p", "d")


@pytest.mark.parametrize(
    "text",
    [
        "mysql://h/d",
        "https://h/d",
        "postgresql:h",
        "postgresql://h/d/Name",
        "postgresql://h/d/n;drop",
        "postgresql://h/d/" + "n" * 49,
        "postgresql://u:secret@h/a/b/c",
        "milvus://h/a/b/c",
        "milvus:",
    ],
)
def test_a_url_that_names_no_index(text: str) -> None:
    with pytest.raises(StoreError) as raised:
        place_of(text)
    assert "secret" not in str(raised.value)
