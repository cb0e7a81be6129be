"""Filters, search settings and the order of results on the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.serving.web.browser import EACH, Open, search_api

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_filters_and_settings(tab: Open) -> None:
    one = tab()
    page = one.open()
    page.click("#panel-button")
    assert page.is_hidden("#settings")
    page.click("#filters [data-condition='label=green']")
    one.status(rf"^{EACH} of {3 * EACH} pictures$")
    assert set(one.labels()) == {"green"}
    page.click(".card .hit")
    page.wait_for_url("**id=*")
    one.status(f"^{EACH - 1} results$")
    page.click("#filters [data-condition='label=green']")
    page.click("#filters [data-condition='label=blue']")
    one.until("document.querySelector('.card .name')?.textContent === 'blue'")
    assert one.query()["where"] == ["label=blue"]
    assert page.get_attribute("#filters [data-condition='label=blue']", "aria-pressed") == "true"
    page.click("#filters [data-condition='place=north']")
    one.until("location.search.includes('place=north')")
    page.fill("#condition", "price < 6")
    page.keyboard.press("Enter")
    one.status("^3 results")
    assert page.inner_text("#panel-count") == "3"
    assert sorted(one.names()) == ["blue_01.png", "blue_03.png", "blue_05.png"]
    page.click("#chosen .chip:has-text('label: blue')")
    one.status("^9 results")
    page.fill("#condition", "what")
    page.keyboard.press("Enter")
    assert "such as price<20" in page.inner_text("#condition-note")
    page.fill("#condition", "colour=7")
    page.keyboard.press("Enter")
    page.wait_for_selector("#blank:has-text('This search failed')")
    one.expected += ["status of 4", "Problem"]
    page.click("#blank button:has-text('Remove the filters')")
    one.status("closest first")
    assert "where" not in one.query()
    page.click("#settings summary")
    page.focus("#radius")
    page.keyboard.press("Home")
    page.wait_for_url("**radius=0*")
    page.click("#chosen .chip:has-text('up to 0 bits')")
    one.until("!location.search.includes('radius')")
    page.check("#distinct")
    page.wait_for_url("**distinct=true*")
    one.status("closest first")
    page.keyboard.press("Escape")
    assert page.is_hidden("#panel")
    width = "document.querySelector('.thumb').getBoundingClientRect().height"
    before = page.evaluate(width)
    page.focus("#size")
    page.keyboard.press("End")
    assert page.evaluate(width) > 1.5 * before


@pytest.mark.slow
def test_the_collection_is_sorted_and_stacked(tab: Open) -> None:
    one = tab()
    page = one.open()
    page.select_option("#sort", "name")
    page.wait_for_url("**sort=name")
    one.until("document.querySelector('.hit')?.ariaLabel.includes('blue_00.png')")
    assert one.names()[:5] == [f"blue_{i:02}.png" for i in range(5)]
    page.reload()
    page.wait_for_selector(".card")
    assert page.input_value("#sort") == "name"
    assert one.names()[0] == "blue_00.png"

    def stacked(route: Route) -> None:
        answer = route.fetch().json()
        copies = [item | {"copies": [80, 81]} for item in answer["items"][:4]]
        route.fulfill(json={"items": copies, "total": 4})

    page.route(re.compile("/api/items.*distinct=true"), stacked)
    page.click("#panel-button")
    page.check("#distinct")
    one.status(r"^4 of 90 pictures, copies stacked$")
    assert page.locator(".card.stack .copies").all_text_contents() == ["+2"] * 4
    page.uncheck("#distinct")
    one.status("^90 pictures$")
    page.keyboard.press("Escape")
    for n in (1, 3):  # some of them alone
        page.locator(".hit").nth(n).focus()
        page.keyboard.press("x")
    page.click("#tray-only")
    one.status("^2 of 90 pictures$")
    assert one.names() == ["blue_01.png", "blue_03.png"]
    page.click("#chosen .chip:has-text('Only these')")
    one.status("^90 pictures$")


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
    page.click("#panel-button")
    page.fill("#filters input[type=search]", "red t")
    chip = page.locator("#filters [data-condition='label=red_tern']")  # its value stays
    assert chip.locator("span").first.inner_text() == "red tern"
    page.fill("#filters input[type=search]", "red_t")
    assert chip.is_visible()
    page.focus(".hit")
    page.keyboard.press("Space")
    assert page.inner_text("#lightbox-title") == "red tern"
    page.keyboard.press("Escape")
    page.goto(f"{one.url}/?where=label=red_tern")
    page.wait_for_selector("#chosen .chip:has-text('label: red tern')")


@pytest.mark.slow
def test_coarse_and_fine_show_what_moved(tab: Open, server: str) -> None:
    one = tab(1280, 2000)
    page = one.open("/?id=7")
    one.status("closest first|results")
    page.keyboard.press("i")
    assert page.is_checked("input[value=fine]")
    fine = [hit["id"] for hit in search_api(server, id=7, k=60)["hits"]][1:]
    coarse = [hit["id"] for hit in search_api(server, id=7, k=90, fine="none")["hits"]]
    coarse.remove(7)
    ids = "[...document.querySelectorAll('.card')].map((card) => Number(card.dataset.id))"
    page.keyboard.press("f")
    page.wait_for_url("**fine=none*")
    one.until("document.querySelector('input[value=coarse]').checked")
    assert page.inner_text("#order-note") == "By the number of differing bits alone."
    assert page.evaluate(ids)[:12] == coarse[:12]
    page.keyboard.press("f")
    one.until("document.querySelector('input[value=fine]').checked")
    assert page.evaluate(ids)[:12] == fine[:12]
    moves = page.locator(".move").all_text_contents()[:12]
    wanted = [coarse.index(id_) - fine.index(id_) for id_ in fine[:12]]
    assert moves == ["" if not n else f"+{n}" if n > 0 else f"−{-n}" for n in wanted]
    assert page.inner_text("#moves").startswith("Compared with the coarse order:")
    assert "places higher than in the coarse order" in " ".join(
        page.locator(".hit").evaluate_all("(all) => all.map((hit) => hit.ariaLabel)")
    )
    assert "fine" not in one.query()
    page.check("input[value=coarse]", force=True)
    page.wait_for_url("**fine=none*")
