"""What is PostgreSQL's own: lost connections, rights, versions, writers that take turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.brute_force import pairs
from tests.conftest import write_classes
from tests.databases import Server
from tests.index.galleries import Gallery, gallery, model_of
from tests.model.test_model import trained_model
from wingbar.errors import QueryError, StoreError
from wingbar.hamming.codes import pack
from wingbar.index import checks
from wingbar.index.engine import Item, Url, place_of
from wingbar.index.index import Index
from wingbar.index.ranking import SearchOptions

BITS = 24


@pytest.fixture(scope="module")
def made() -> Gallery:
    return gallery(120, BITS)


@pytest.fixture(scope="module")
def postgres_module(postgres_server: Server) -> object:
    from wingbar.index import postgres  # needs psycopg, which the server's fixture has looked for

    return postgres


def url_of(server: Server, name: str, **parts: str) -> Url:
    place = place_of(server.url(name, **parts) + "?partitions=2")
    assert isinstance(place, Url)
    return place


@pytest.fixture
def url(postgres_server: Server, request: pytest.FixtureRequest) -> Url:
    """A name of its own for each test."""
    return url_of(postgres_server, request.node.name.removeprefix("test_").lower()[:40])


@pytest.fixture
def store(url: Url, made: Gallery, postgres_module: object) -> Iterator[object]:
    from wingbar.index.postgres import PostgresStore

    with closing(PostgresStore.create(url, made.model.files)) as opened:
        made.add_to(opened)
        yield opened


def sql(server: Server, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
    import psycopg

    with psycopg.connect(server.url(database=database), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_a_server_that_was_restarted_is_found_again(
    store: object, made: Gallery, postgres_server: Server
) -> None:
    from wingbar.index.postgres import PostgresStore

    assert isinstance(store, PostgresStore)
    [query] = made.queries(1)

    def searched() -> list[tuple[int, int]]:
        return pairs(store.search_codes([query], SearchOptions(k=5), "none")[0].near)

    before = searched()
    postgres_server.stop()
    restart = threading.Timer(0.5, postgres_server.start)
    restart.start()
    try:
        assert searched() == before  # waits for it
    finally:
        restart.join()
    calls: list[int] = []

    def work() -> int:
        with store.writing():
            calls.append(store.delete([len(calls) + 1]))
            if len(calls) == 1:
                postgres_server.stop(9)
                postgres_server.start()
            return store.delete([50 + len(calls)])

    assert store.retried(work) == 1  # begun anew: nothing of the first time was stored
    assert store.existing([1, 2, 51, 52]) == [1, 51]
    with Index.open(store.path) as index:
        assert index.verify() == []


def test_a_server_that_stays_away_is_one_sentence(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch, postgres_module: object
) -> None:
    monkeypatch.setattr("wingbar.index.postgres.PAUSES", ())
    place = place_of("postgresql://me:secret@127.0.0.1:1/pictures/birds")
    with pytest.raises(StoreError, match="cannot be reached") as raised:
        Index.open(place)
    assert "secret" not in str(raised.value)
    assert "postgresql://me@127.0.0.1:1/pictures/birds" in str(raised.value)
    with pytest.raises(StoreError, match="make the database with createdb"):
        Index.open(postgres_server.url("birds", database="none_such"))
    with pytest.raises(StoreError, match=r"no index at .*: make one with wingbar index"):
        Index.open(postgres_server.url("none_such"))


def test_versions_and_extensions(
    postgres_server: Server, url: Url, monkeypatch: pytest.MonkeyPatch, store: object
) -> None:
    monkeypatch.setattr("wingbar.index.postgres.OLDEST_PGVECTOR", (9, 1, 0))
    with pytest.raises(StoreError, match=r"has pgvector 0\.8\.\d+: wingbar needs 9\.1\.0 or newer"):
        Index.open(url)
    monkeypatch.setattr("wingbar.index.postgres.OLDEST_PGVECTOR", (0, 8, 0))
    monkeypatch.setattr("wingbar.index.postgres.OLDEST_SERVER", 99)
    with pytest.raises(StoreError, match=r"is on PostgreSQL \d+: wingbar needs 99 or newer"):
        Index.open(url)
    monkeypatch.setattr("wingbar.index.postgres.OLDEST_SERVER", 13)
    sql(postgres_server, "CREATE DATABASE bare", "CREATE ROLE plain LOGIN")
    with pytest.raises(StoreError, match="lacks the extension pgvector: run CREATE EXTENSION"):
        Index.open(postgres_server.url("birds", database="bare"))
    with pytest.raises(StoreError, match="you may not add it: have an administrator run"):
        Index.create(postgres_server.url("birds", user="plain", database="bare"), model_of(BITS))


def test_rights(postgres_server: Server, url: Url, store: object, made: Gallery) -> None:
    name = url.name
    sql(postgres_server, "CREATE ROLE reader LOGIN")
    place = url_of(postgres_server, name, user="reader")
    with pytest.raises(StoreError, match=r"no rights .*: ask the owner of the database"):
        Index.open(place)
    sql(
        postgres_server,
        f"GRANT USAGE ON SCHEMA {name} TO reader",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO reader",
    )
    with Index.open(place) as index:
        assert len(index.search(made.queries(1)[0], 3)) == 3
        with pytest.raises(StoreError, match="no rights"):
            index.delete([1])
        assert len(index) == 120
    with pytest.raises(StoreError, match="no rights"):
        Index.create(url_of(postgres_server, "another", user="reader"), made.model)


def test_a_schema_of_another_program_is_left_alone(postgres_server: Server) -> None:
    with pytest.raises(StoreError, match="a schema of that name holds something else; name the"):
        Index.create(postgres_server.url("public"), model_of(BITS))


def test_a_server_that_starts_needs_a_moment(store: object) -> None:
    import psycopg

    from wingbar.index.postgres import PostgresStore

    assert isinstance(store, PostgresStore)
    error = psycopg.OperationalError("FATAL:  the database system is starting up")
    assert str(store._unreachable(error)).endswith(
        " cannot be reached yet (FATAL: the database system is starting up): try again soon"
    )


def test_writers_take_turns_and_readers_see_whole_changes(
    store: object, url: Url, made: Gallery
) -> None:
    from wingbar.index.postgres import PostgresStore

    failures: list[BaseException] = []

    def add(first: int) -> None:
        try:
            with closing(PostgresStore.open(url)) as mine:
                for i in range(first, first + 20):
                    item = Item(f"/new/{i // 2}", None, {}, i, i, i.to_bytes(32, "big"))
                    with mine.writing():
                        mine.add([item], pack(made.bits[:1]), made.features[:1], BITS)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 10, 20)]
    for thread in threads:
        thread.start()
    with closing(PostgresStore.open(url)) as reader:
        while any(thread.is_alive() for thread in threads):
            with reader.reading():
                count, ids = reader.count(), reader.codes(BITS)[0]
                time.sleep(0.002)
                assert count == len(ids) == reader.count()
        assert failures == []
        assert reader.count() == 120 + 20
    assert checks.verify(url) == []


def test_damage_is_found(postgres_server: Server, url: Url, store: object) -> None:
    name = url.name
    sql(
        postgres_server,
        f"UPDATE {name}.items SET label = 'other' WHERE id = 5",
        f"UPDATE {name}.codes SET code = ~code WHERE id = 6",
        f"DELETE FROM {name}.features WHERE id = 7",
    )
    problems = checks.verify(url)
    assert len(problems) == 3
    assert problems[0].startswith("item 5 (")
    assert problems[1] == "code or feature of item 6: wrong checksum"
    assert problems[2] == "1 items without a feature, or features without an item"
    sql(postgres_server, f"UPDATE {name}.model SET data = 'x' WHERE name = 'model.onnx'")
    assert checks.verify(url)[0].startswith("model: model.onnx is not the file")
    with pytest.raises(StoreError, match="is damaged"):
        Index.open(url)


def test_texts_that_cannot_be_stored_and_patterns(store: object, made: Gallery) -> None:
    from wingbar.index.postgres import PostgresStore

    assert isinstance(store, PostgresStore)
    for item in (
        Item("/a", "nul\0", {}, 1, 1, b"c" * 32),
        Item("/a", None, {"a": "nul\0"}, 1, 1, b"c" * 32),
    ):
        with (
            pytest.raises(StoreError, match="cannot store a text with a NUL character"),
            store.writing(),
        ):
            store.add([item], pack(made.bits[:1]), made.features[:1], BITS)
    assert store.count() == 120
    strange = Item("/x/(a) [b]+.$^\\ü.jpg", "it's", {'"quoted"': "%s %(x)s"}, 1, 1, b"c" * 32)
    with store.writing():
        store.add([strange], pack(made.bits[:1]), made.features[:1], BITS)
    id_ = store.ids_of_paths([strange.path])[strange.path]
    assert store.items([id_]) == [strange]
    with Index.open(store.path) as index:
        for where in (
            "path=(a) [[]b]+.$^\\ü.jpg",
            "path=/x/*",
            "path=?a) [[]b]*",
            "label=it's",
            '"quoted"=%s %(x)s',
        ):
            assert index.matching(where).tolist() == [id_], where
        assert index.matching("path=[").tolist() == []
        with pytest.raises(QueryError, match="a pattern of the filter cannot be read"):
            index.matching("path=[z-a]")


def test_refit_and_a_folder_through_the_index(
    postgres_server: Server, url: Url, tmp_path: Path, postgres_module: object
) -> None:
    photos = write_classes(tmp_path / "photos", 4)
    model = trained_model()
    with Index.create(url, model) as index, Index.create(tmp_path / "a.wb", model) as file:
        for one in (index, file):
            assert one.add(photos).added == 12
            (photos / "red" / "000.jpg").rename(photos / "red" / "moved.jpg")
            (photos / "red" / "001.jpg").unlink()
            report = one.add(photos)
            assert (report.moved, report.removed, report.unchanged) == (1, 1, 10)
            (photos / "red" / "moved.jpg").rename(photos / "red" / "000.jpg")
            (photos / "red" / "001.jpg").write_bytes((photos / "red" / "002.jpg").read_bytes())
            one.add(photos)
        assert index.ids().tolist() == file.ids().tolist()
        np.testing.assert_array_equal(index.codes(), file.codes())
        np.testing.assert_array_equal(index.features(), file.features())
        assert index.paths() == file.paths()
        assert index.delete(photos / "blue" / "000.jpg") == 1


@pytest.mark.slow
def test_a_label_free_index_is_fitted_and_refitted(url: Url, photos: Path, store: object) -> None:
    place = place_of(str(url) + "_fresh?partitions=2")
    with Index.create(place) as index, Index.open(place) as other:
        assert index.add(photos, bits=24).fitted_on == 24
        assert other.search(photos / "red" / "003.jpg")[0].distance == 0
        assert other.model.bits == 24
        index.refit(bits=16)
        assert other.search(photos / "red" / "003.jpg")[0].distance == 0
        assert (other.model.bits, other.searchable().bits) == (16, 16)
        assert index.verify() == []
