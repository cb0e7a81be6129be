"""The page of an index with two encoders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import process
from tests.serving.web.browser import Open
from tests.small_network import small_general
from wingbar.index.index import Index

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_the_encoder_that_searches_is_chosen(
    tab: Open, shared_photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "both.wb"
    with Index.create(path, small_general("one", 1), also=small_general("two", 2)) as index:
        index.add(shared_photos, bits=16)
    with process(path) as (_, client):
        expected = {}
        for name in ("one", "two"):
            query = {"id": 7, "k": 6, "encoder": name}
            hits = client.post("/api/search", json=query).json()["hits"]
            expected[name] = [str(hit["id"]) for hit in hits if hit["id"] != 7]
        assert expected["one"] != expected["two"]
        one = tab()
        one.url = str(client.base_url).rstrip("/")
        page = one.open("/?id=7")

        def shown(name: str) -> None:
            one.until(
                "(ids) => String([...document.querySelectorAll('.card')]"
                ".slice(0, ids.length).map((card) => card.dataset.id)) === String(ids)",
                expected[name],
            )

        shown("one")
        choice = page.get_by_label("Encoder")
        assert choice.input_value() == "one"
        choice.select_option("two")
        shown("two")
        assert one.query() == {"id": ["7"], "encoder": ["two"]}
        page.click(".card:nth-child(1) .detail")
        with page.expect_request("**/api/match*") as asked:
            page.get_by_role("button", name="What matches").click()
        assert '"encoder":"two"' in (asked.value.post_data or "")
        page.keyboard.press("Escape")
        page.go_back()
        shown("one")
        assert choice.input_value() == "one"
        page.goto(f"{one.url}/?id=7&encoder=two")
        shown("two")
        page.get_by_role("link", name="wingbar").click()
        one.until("document.body.dataset.view === 'start'")
        assert one.query() == {"encoder": ["two"]}  # of the next search
        page.goto(f"{one.url}/?id=7&encoder=three")
        shown("one")


@pytest.mark.slow
def test_one_encoder_is_no_choice(tab: Open) -> None:
    assert tab().open("/?id=7").get_by_label("Encoder").is_hidden()
