"""Filters, options and the order of results on the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.serving.web.browser import EACH, Open, search_api

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_filters(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=1&k=12")
    one.status("^12 results")
    page.click("#filters [data-condition='label=blue']")
    one.until(
        "[...document.querySelectorAll('.card .name')].every((name) => name.textContent === 'blue')"
    )
    assert one.query()["where"] == ["label=blue"]
    assert page.get_attribute("#filters [data-condition='label=blue']", "aria-pressed") == "true"
    page.click("#filters [data-condition='place=north']")
    one.until("location.search.includes('place=north')")
    page.fill("#condition", "price < 6")
    page.keyboard.press("Enter")
    one.status("^3 results")
    assert sorted(one.names()) == ["blue_01.png", "blue_03.png", "blue_05.png"]
    page.click("#chosen .chip:has-text('label: blue')")
    one.status("^9 results")
    page.fill("#condition", "what")
    page.keyboard.press("Enter")
    assert "such as price<20" in page.inner_text("#condition-note")
    page.fill("#condition", "colour=7")
    page.keyboard.press("Enter")
    page.wait_for_selector("#blank:has-text('This search failed')")
    one.expected.append("status of 4")
    one.expected.append("Problem")
    page.click("#blank button:has-text('Remove the filters')")
    one.status("^12 results")
    assert "where" not in one.query()


@pytest.mark.slow
def test_filters_before_there_is_a_query(tab: Open) -> None:
    one = tab()
    page = one.open()
    page.click("#filters [data-condition='label=green']")
    one.status(rf"^{EACH} of {3 * EACH} pictures$")
    assert set(one.labels()) == {"green"}
    assert page.is_hidden("#options")


@pytest.mark.slow
def test_labels_are_shown_with_spaces(tab: Open) -> None:
    one = tab()

    def rename(route: Route) -> None:
        page = route.fetch().json()
        route.fulfill(json=page | {"items": [i | {"label": "red_tern"} for i in page["items"]]})

    info = {"label_counts": {"red_tern": 30, "_": 1, **{f"other_{i}": 1 for i in range(20)}}}
    one.page.route(re.compile(r"/api/items\?"), rename)
    one.page.route("**/api/info", lambda route: route.fulfill(json=route.fetch().json() | info))
    page = one.open()
    assert set(one.labels()) == {"red tern"}
    assert (page.get_attribute(".hit", "aria-label") or "").startswith("red tern, ")
    page.fill("#filters input[type=search]", "red t")
    chip = page.locator("#filters [data-condition='label=red_tern']")  # its value stays
    assert chip.locator("span").first.inner_text() == "red tern"
    page.fill("#filters input[type=search]", "red_t")
    assert chip.is_visible()
    page.focus(".hit")
    page.keyboard.press("Space")
    assert page.inner_text("#details-title") == "red tern"
    page.keyboard.press("Escape")
    page.goto(f"{one.url}/?where=label=red_tern")
    page.wait_for_selector("#chosen .chip:has-text('label: red tern')")


@pytest.mark.slow
def test_sliders(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=1")
    one.status("^24 results")
    page.focus("#k")
    page.keyboard.press("ArrowLeft")
    one.status("^12 results")
    assert page.get_attribute("#k", "aria-valuetext") == "12"
    page.focus("#radius")
    page.keyboard.press("Home")
    page.wait_for_url("**radius=0*")
    one.until(
        "[...document.querySelectorAll('.card .bits')].every((bits) => "
        "bits.textContent.startsWith('0/'))"
    )
    page.keyboard.press("End")
    one.until("!location.search.includes('radius')")


@pytest.mark.slow
def test_coarse_and_fine_show_what_moved(tab: Open, server: str) -> None:
    one = tab()
    page = one.open("/?id=7&k=12")
    one.status("^12 results")
    assert page.is_checked("input[value=fine]")
    assert page.inner_text("#order-note") == "Fine: by bits first, then by the fine stage"
    fine = [hit["id"] for hit in search_api(server, id=7, k=12)["hits"]]
    coarse = [hit["id"] for hit in search_api(server, id=7, k=90, fine="none")["hits"]]
    assert fine != coarse[:12]
    page.keyboard.press("f")
    page.wait_for_url("**fine=none*")
    one.until("document.querySelector('input[value=coarse]').checked")
    assert page.inner_text("#order-note") == "Coarse: by the number of differing bits alone"
    assert (
        page.evaluate(
            "[...document.querySelectorAll('.card')].map((card) => Number(card.dataset.id))"
        )
        == coarse[:12]
    )
    page.keyboard.press("f")
    one.until("document.querySelector('input[value=fine]').checked")
    assert (
        page.evaluate(
            "[...document.querySelectorAll('.card')].map((card) => Number(card.dataset.id))"
        )
        == fine
    )
    moves = page.evaluate("[...document.querySelectorAll('.move')].map((move) => move.textContent)")
    wanted = [coarse.index(id_) - fine.index(id_) for id_ in fine]
    assert moves == ["" if not n else f"+{n}" if n > 0 else f"−{-n}" for n in wanted]
    assert page.inner_text("#moves").startswith("Compared with the coarse order:")
    assert "places higher than in the coarse order" in " ".join(
        page.locator(".hit").evaluate_all("(all) => all.map((hit) => hit.ariaLabel)")
    )
    assert "fine" not in one.query()
    page.check("input[value=coarse]", force=True)
    page.wait_for_url("**fine=none*")
