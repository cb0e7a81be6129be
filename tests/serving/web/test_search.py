"""Searches on the page: by file, clipboard, drop, card and link, and back again."""

from __future__ import annotations

import base64
import re

import pytest

from tests.conftest import HUES
from tests.serving.web.browser import (
    BITS,
    EACH,
    Open,
    choose_file,
    drop_file,
    picture_bytes,
    search_api,
)

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_the_start_shows_what_is_indexed(tab: Open) -> None:
    one = tab()
    page = one.open()
    assert "colours" in page.inner_text("#about")
    assert f"{3 * EACH} pictures" in page.inner_text("#about")
    assert page.get_attribute(".thumb img", "loading") == "lazy"
    assert page.get_by_role("heading", level=1).inner_text() == "Find pictures that look alike"
    page.mouse.wheel(0, 20_000)
    one.until(f"document.querySelectorAll('.card').length === {3 * EACH}")  # more came by itself
    assert page.is_hidden("#more")


@pytest.mark.slow
def test_search_by_file(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=6")
    choose_file(page, "mine.jpg", picture_bytes(5001, HUES["red"]))
    one.status(r"^6 results in [\d.,]+ ms$")
    assert one.labels()[0] == "red"
    assert page.inner_text("#title") == "Like mine.jpg"
    assert re.search(r"decode [\d.]+ · encode [\d.]+ · coarse [\d.]+", page.inner_text("#stages"))
    assert one.query() == {"k": ["6"]}  # no URL can hold the picture; the options stay
    assert page.inner_text("#query-facts").startswith("96 × 72")
    first = page.locator(".card").first
    assert re.fullmatch(rf"\d+/{BITS} bits", first.locator(".bits").inner_text())
    assert re.fullmatch(r"cos -?\d\.\d\d", first.locator(".score").inner_text())
    assert first.locator(".hit").get_attribute("aria-label") is not None
    assert first.locator(".hit").evaluate("(hit) => hit === document.activeElement")


@pytest.mark.slow
def test_search_by_paste(tab: Open) -> None:
    one = tab(permissions=["clipboard-read", "clipboard-write"])
    page = one.open("/?k=6")
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(picture_bytes(5002, HUES["blue"], "PNG")).decode(),
    )
    page.keyboard.press("Control+V")
    one.status(r"^6 results")
    assert one.labels()[0] == "blue"
    page.evaluate("navigator.clipboard.writeText('no picture')")
    page.keyboard.press("Control+V")
    page.wait_for_selector("#notice:has-text('There is no picture on the clipboard')")


@pytest.mark.slow
def test_search_by_drop(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=6")
    drop_file(page, "dropped.png", picture_bytes(5003, HUES["green"], "PNG"), "image/png")
    one.status(r"^6 results")
    assert one.labels()[0] == "green"
    assert page.inner_text("#title") == "Like dropped.png"
    page.drag_and_drop(".card:nth-child(4) .hit", "#query-name")  # a picture of the page itself
    page.wait_for_url("**/?id=*")
    one.status(r"^6 results")


@pytest.mark.slow
def test_the_same_answer_as_the_api(tab: Open, server: str) -> None:
    one = tab()
    page = one.open("/?id=5&k=12&fine=ties&radius=9&where=place=north")
    one.status("results? in")
    hits = search_api(server, id=5, k=12, fine="ties", radius=9, where=["place=north"])["hits"]
    assert one.names() == [hit["name"] for hit in hits]
    assert page.locator(".bits").all_inner_texts() == [
        f"{hit['distance']}/{BITS} bits" for hit in hits
    ]
    distances = [hit["distance"] for hit in hits]
    ties = page.evaluate(
        "[...document.querySelectorAll('.card')].map((card) => "
        "card.querySelector('.tie').textContent)"
    )
    assert [text.rstrip("+") for text in ties] == [
        f"tie ×{distances.count(d)}" if distances.count(d) > 1 else "" for d in distances
    ]
    differing = page.evaluate(
        "[...document.querySelectorAll('.differ')].map((path) => "
        "path.getAttribute('d').split('M').length - 1)"
    )
    assert differing == distances


@pytest.mark.slow
def test_more_like_this_and_back(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=12")
    choose_file(page, "mine.jpg", picture_bytes(5001, HUES["red"]))
    one.status("results in")
    before = one.names()
    page.click(".card:nth-child(8) .hit")
    page.wait_for_url("**/?id=*&k=12")
    one.status("results in")
    assert page.inner_text(".card .rank") == "query"
    assert page.inner_text(".hit:focus .file") == one.names()[1]
    second = one.names()
    here = page.url
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    one.until("(url) => location.href !== url", here)
    page.go_back()
    one.until("(name) => document.querySelector('.file')?.textContent === name", second[0])
    assert page.inner_text(".hit:focus .file") == second[2]  # where the person was
    page.go_back()
    one.until("document.getElementById('title').textContent === 'Like mine.jpg'")
    assert one.names() == before
    page.go_forward()
    page.wait_for_url("**/?id=*&k=12")
    page.go_back()
    page.reload()
    page.wait_for_selector("#notice:has-text('kept only in this tab')")
    assert one.query() == {"k": ["12"]}


@pytest.mark.slow
def test_a_link_can_be_shared(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=40&k=6&fine=none&radius=20&where=label=green&where=label=red")
    one.status("^6 results")
    assert set(one.labels()) <= {"green", "red"}
    assert page.is_checked("input[value=coarse]")
    assert page.inner_text("#radius-out") == "up to 20 bits"
    assert page.inner_text("#k-out") == "6"
    assert page.locator("#chosen .chip").count() == 2
    again = tab()
    again.open(page.url.removeprefix(one.url))
    again.status("^6 results")
    assert again.names() == one.names()
    nonsense = tab()
    nonsense.open("/?id=abc&k=-1&fine=magic&box=1,2&radius=x").wait_for_selector(".card")
    assert nonsense.page.is_visible("#ask")


@pytest.mark.slow
def test_cards_open_in_new_tabs_as_links(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=40&k=6")
    one.status("^6 results")
    with page.context.expect_page() as opened:
        page.click(".card:nth-child(3) .hit", modifiers=["Control"])
    assert re.search(r"/\?id=\d+&k=6$", opened.value.url)
    assert "id=40" in page.url
