"""What the page does with results: details, export, and changes of the index."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HUES
from tests.serving.web.browser import BITS, EACH, Open, choose_file, picture_bytes, search_api

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request, Route

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_details_compare_the_codes(tab: Open, server: str) -> None:
    one = tab()
    page = one.open("/?id=7&k=6")
    one.status("^6 results")
    page.hover(".card:nth-child(4)")
    page.click(".card:nth-child(4) .detail")
    hit = search_api(server, id=7, k=6)["hits"][3]
    assert hit["name"] in page.inner_text("#details")
    assert f"{hit['distance']} of {BITS} bits differ" in page.inner_text("#details-facts")
    assert page.locator("#details-bits b").count() == 2 * hit["distance"]
    assert "96 × 72" in page.locator("#details-facts div:has-text('Size')").inner_text()
    assert hit["columns"]["place"] in page.inner_text("#details-facts")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#details-facts div:has-text('Rank') dd:has-text('3')")
    page.keyboard.press("Escape")
    assert page.is_hidden("#details")
    page.goto(f"{one.url}/?id=7&k=48")
    one.status("^48 results")
    page.focus(".card:has(.tie:not([hidden])) .hit")
    page.keyboard.press("Space")
    assert "results at this distance" in page.inner_text("#details-facts")


@pytest.mark.slow
def test_what_the_model_saw(tab: Open) -> None:
    one = tab()
    asked: list[Any] = []

    def overlay(route: Route, request: Request) -> None:
        asked.append(request.post_data_json)
        route.fulfill(content_type="image/png", body=picture_bytes(3, HUES["blue"], "PNG"))

    one.page.route(
        "**/api/info", lambda route: route.fulfill(json=route.fetch().json() | {"explains": True})
    )
    one.page.route("**/api/explain**", overlay)
    page = one.open("/?id=7&k=6&box=10,10,40,40")
    one.status("^6 results")
    page.click("#look-button")
    page.wait_for_selector("#query-look:not([hidden])")
    assert asked == [{"id": 7, "box": [10, 10, 40, 40]}]
    assert page.get_attribute("#look-button", "aria-pressed") == "true"
    page.click("#look-button")
    assert page.is_hidden("#query-look")
    page.hover(".card:nth-child(2)")
    page.click(".card:nth-child(2) .detail")
    page.click("#details-look-button")
    page.wait_for_selector("#details-look:not([hidden])")


@pytest.mark.slow
def test_export(tab: Open, tmp_path: Path) -> None:
    one = tab(permissions=["clipboard-read", "clipboard-write"])
    page = one.open("/?id=7&k=6&where=label=red")
    one.status("^6 results")
    page.click("#export summary")
    with page.expect_download() as saved:
        page.click("#export-csv")
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert [row["name"] for row in rows] == one.names()
    assert {row["place"] for row in rows} <= {"north", "south"}
    page.click("#export summary")
    with page.expect_download() as saved:
        page.click("#export-json")
    assert len(json.loads(saved.value.path().read_text())["hits"]) == 6
    page.click("#export summary")
    page.click("#export-curl")
    page.wait_for_selector("#notice:has-text('The command was copied')")
    command = page.evaluate("navigator.clipboard.readText()")
    if shutil.which("curl"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=20)
        assert [hit["name"] for hit in json.loads(done.stdout)["hits"]] == one.names()


@pytest.mark.slow
def test_add_and_remove(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=6")
    choose_file(page, "new.png", picture_bytes(9001, (220, 220, 40), "PNG"), "image/png")
    one.status("^6 results")
    page.click("#keep")
    page.fill("#add-label", "yellow")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:has-text('new.png was added to the index')")
    assert f"{3 * EACH + 1} pictures" in page.inner_text("#about")
    page.click("#notice button:has-text('Show similar pictures')")
    one.until("document.querySelector('.card .name')?.textContent === 'yellow'")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    _remove_first(page)
    page.wait_for_selector("#removal:has-text('new.png will be removed from the index')")
    page.click("#removal button:has-text('Undo')")
    assert page.is_hidden("#removal")
    _remove_first(page)
    page.reload()  # as if the page were closed
    one.status("results in")
    assert "DELETE" not in sent
    assert f"{3 * EACH + 1} pictures" in page.inner_text("#about")
    _remove_first(page)
    page.wait_for_selector("#notice:has-text('new.png was removed from the index')")
    assert sent.count("DELETE") == 1
    assert f"{3 * EACH} pictures" in page.inner_text("#about")
    assert page.is_visible("#ask")


@pytest.mark.slow
def test_a_removal_leaves_the_start_page_where_it_is(tab: Open) -> None:
    one = tab()
    removed: list[str] = []

    def pretend(route: Route) -> None:
        if route.request.method == "DELETE":
            removed.append(route.request.url)
            route.fulfill(status=204)
        else:
            route.continue_()

    one.page.route("**/api/items/*", pretend)
    page = one.open()
    page.mouse.wheel(0, 20_000)
    one.until(f"document.querySelectorAll('.card').length === {3 * EACH}")
    first, second = one.names()[:2]
    _remove_first(page)
    page.focus(".card:nth-child(2) .hit")
    page.keyboard.press("Space")
    page.click("#details-delete")  # removes the first one now
    page.wait_for_selector(f"#notice:has-text('{first} was removed from the index')")
    assert page.is_visible(f"#removal:has-text('{second} will be removed')")
    assert page.locator(".card").count() == 3 * EACH - 1
    assert page.inner_text("#status") == f"{3 * EACH - 1} pictures"
    page.click("#removal button:has-text('Undo')")
    assert len(removed) == 1


def _remove_first(page: Page) -> None:
    page.focus(".card:first-child .hit")
    page.keyboard.press("Space")
    page.click("#details-delete")
    page.mouse.move(5, 5)  # over the message it would stop the clock


@pytest.mark.slow
def test_a_thousand_results(tab: Open, server: str) -> None:
    one = tab()
    answer = search_api(server, id=1, k=90)
    hits = [
        hit | {"id": 1 + i, "rank": 1 + i} for i, hit in enumerate((answer["hits"] * 12)[:1000])
    ]
    one.page.route("**/api/search", lambda route: route.fulfill(json=answer | {"hits": hits}))
    thumbs: list[str] = []
    one.page.on(
        "request", lambda request: thumbs.append(request.url) if "/thumbs/" in request.url else None
    )
    page = one.open("/?id=1&k=1000")
    one.status("^1,000 results")
    assert page.locator(".card").count() == 1000
    assert len(thumbs) < 200  # the rest are loaded when they come near the screen
    drawn = (
        "[...document.querySelectorAll('.thumb')].filter((t) => t.checkVisibility({ "
        "contentVisibilityAuto: true })).length"
    )
    # what is far from the screen costs no layout and no paint
    assert 8 <= page.evaluate(drawn) < 100
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(200)
    assert 1 <= page.evaluate(drawn) < 100
    assert page.evaluate(
        "document.querySelector('.card:last-child').getBoundingClientRect().top < innerHeight"
    )
    one.expected.append("404")  # thumbnails of made-up ids
