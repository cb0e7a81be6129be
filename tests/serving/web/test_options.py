"""Filters, options and the order of results on the page."""

from __future__ import annotations

import pytest

from tests.serving.web.browser import EACH, Open, search_api

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
    fine = [hit["id"] for hit in search_api(server, id=7, k=12)["hits"]]
    coarse = [hit["id"] for hit in search_api(server, id=7, k=90, fine="none")["hits"]]
    assert fine != coarse[:12]
    page.keyboard.press("f")
    page.wait_for_url("**fine=none*")
    one.until("document.querySelector('input[value=coarse]').checked")
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
