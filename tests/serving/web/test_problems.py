"""What the page does when something goes wrong."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.conftest import HUES
from tests.serving.web.browser import Open, choose_file, picture_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Request, Route

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_a_file_that_is_no_picture(tab: Open) -> None:
    one = tab()
    page = one.open()
    choose_file(page, "paper.pdf", b"%PDF-1.7", "application/pdf")
    page.wait_for_selector("#notice:has-text('paper.pdf is not a picture. Choose a JPEG')")
    assert page.is_visible(".card")  # nothing else has changed
    page.keyboard.press("Escape")
    assert page.is_hidden("#notice")
    choose_file(page, "broken.jpg", b"\xff\xd8\xff" + bytes(100))
    page.wait_for_selector("#blank:has-text('This search failed')")
    assert page.is_visible("#blank button:has-text('Choose another picture')")
    assert page.is_hidden("#terms .crop-text")
    page.click("#more summary")
    assert page.is_hidden("#keep")
    one.expected += ["status of 4", "Problem"]
    choose_file(page, "good.jpg", picture_bytes(1, HUES["red"]))
    one.status("closest first")
    assert page.is_hidden("#blank")
    assert page.is_visible("#terms .crop-text")
    page.click("#terms .open")
    page.wait_for_selector("#picture")
    assert page.is_hidden("#no-preview")
    page.click("#more summary")
    assert page.is_visible("#keep")


@pytest.mark.slow
def test_a_picture_that_only_the_server_can_read(tab: Open) -> None:
    one = tab()
    page = one.open()
    choose_file(page, "scan.tif", picture_bytes(1, HUES["red"], "TIFF"), "image/tiff")
    one.status("closest first")
    page.click("#terms .open")  # the server has said how large it is
    page.wait_for_selector(
        "#no-preview:has-text('This browser cannot show the picture. The search works all the')"
    )
    page.click("#more summary")
    assert page.is_visible("#keep")


@pytest.mark.slow
def test_a_picture_that_is_too_large(tab: Open) -> None:
    one = tab()

    def small_limit(route: Route) -> None:
        info = route.fetch().json()
        route.fulfill(json=info | {"limits": info["limits"] | {"upload_bytes": 400_000}})

    one.page.route("**/api/info", small_limit)
    page = one.open()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8))
    out = io.BytesIO()
    noise.save(out, "PNG")
    choose_file(page, "huge.png", out.getvalue(), "image/png")
    page.wait_for_selector(
        "#notice:has-text('huge.png is 1.1 MB; this server accepts at most 400 KB')"
    )
    page.click("#notice button:has-text('Search with a smaller copy')")
    one.status("closest first")
    assert page.inner_text("#title") == "Like huge.jpg"


@pytest.mark.slow
def test_the_server_is_gone_and_comes_back(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=1")
    one.status("closest first")
    page.route("**/{api,healthz}**", lambda route: route.abort())
    page.route("**/api/**", lambda route: route.abort())
    page.keyboard.press("f")
    page.wait_for_selector(
        "#notice:has-text('The server does not respond. Check that wingbar serve is still running')"
    )
    assert page.locator(".card").count() > 10  # what was there stays
    page.unroute_all()
    one.until("document.querySelector('input[value=coarse]').checked")  # it looks by itself
    one.status("results$|closest first")
    assert page.is_hidden("#notice")
    one.expected += ["ERR_FAILED", "Problem"]


@pytest.mark.slow
def test_pictures_come_when_the_server_is_back(tab: Open) -> None:
    one = tab()
    one.page.route("**/api/thumbs/**", lambda route: route.abort())
    page = one.open()
    page.wait_for_selector(".card .gone:has-text('The server does not respond')")
    page.unroute_all()
    one.until(
        "[...document.querySelectorAll('.card')].slice(0, 5)"
        ".every((card) => card.querySelector('img').checkVisibility())"
    )
    page.route("**/{api,healthz}**", lambda route: route.abort())
    page.route("**/api/**", lambda route: route.abort())
    page.click(".card:nth-child(3) .hit")
    page.wait_for_selector("#notice:has-text('The server does not respond')")
    page.unroute_all()
    one.status("closest first")
    one.until("document.getElementById('picture').naturalWidth === 96")
    one.until("document.querySelector('#terms img').naturalWidth > 0")
    page.click("#terms .open")
    assert page.is_hidden("#no-preview")
    assert page.inner_text("#query-name") in HUES
    assert page.inner_text("#query-facts").startswith("96 × 72")
    one.expected += ["ERR_FAILED", "Problem"]


@pytest.mark.slow
def test_a_busy_server_is_asked_again(tab: Open) -> None:
    one = tab()
    asked: list[float] = []

    def busy(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            route.fulfill(
                status=429,
                headers={"Retry-After": "1"},
                json={"status": 429, "title": "busy", "detail": "busy"},
            )
        else:
            route.continue_()

    page = one.open("/?id=1")
    one.status("closest first")
    page.evaluate(
        """() => {
          window.said = [];
          const notice = document.getElementById("notice");
          new MutationObserver(() => window.said.push(notice.textContent))
            .observe(notice, { childList: true });
        }"""
    )
    page.route("**/api/search", busy)
    page.keyboard.press("f")
    one.until(
        "document.querySelector('input[value=coarse]').checked && "
        "!!document.querySelector('#moves').textContent"
    )
    assert page.evaluate("window.said")[0].startswith(
        "The server is busy. Trying again in 1 second."
    )
    assert asked[1] - asked[0] >= 0.9
    assert page.is_hidden("#notice")
    one.expected.append("429")


@pytest.mark.slow
def test_a_server_that_stays_busy(tab: Open) -> None:
    one = tab()
    one.page.route(
        "**/api/search",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "0.05"}, json={}),
    )
    page = one.open("/?id=1")
    page.wait_for_selector("#notice button:has-text('Try again')")
    page.unroute_all()
    page.click("#notice button:has-text('Try again')")
    one.status("closest first")
    one.expected += ["429", "Problem"]


@pytest.mark.slow
def test_a_server_that_asks_for_a_token(tab: Open) -> None:
    one = tab()
    sent: list[str | None] = []

    def guard(route: Route, request: Request) -> None:
        sent.append(request.headers.get("authorization"))
        if sent[-1] == "Bearer s3cret":
            route.continue_()
        else:
            route.fulfill(
                status=401, json={"status": 401, "title": "token", "detail": "a token is needed"}
            )

    one.page.route("**/api/**", guard)
    page = one.page
    page.goto(one.url)
    page.fill("#token-input", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-note:has-text('That token is not valid')")
    page.fill("#token-input", "s3cret")
    page.keyboard.press("Enter")
    page.wait_for_selector(".thumb img[src^='blob:']")  # pictures come with the token too
    one.until("[...document.images].some((img) => img.naturalWidth > 0 && img.closest('.card'))")
    page.reload()
    page.wait_for_selector(".card")
    assert sent[-1] == "Bearer s3cret"
    assert "s3cret" not in page.evaluate("JSON.stringify(localStorage)")
    one.expected.append("401")


@pytest.mark.slow
def test_an_empty_index(tab: Open) -> None:
    one = tab()
    empty = {"items": 0, "labels": 0, "label_counts": {}, "columns": {}}
    one.page.route("**/api/info", lambda route: route.fulfill(json=route.fetch().json() | empty))
    page = one.open()
    assert "This index is empty" in page.inner_text("#blank")
    assert "wingbar index colours.wb photos/" in page.inner_text("#blank code")
    page.unroute_all()
    page.click("#blank button:has-text('Check again')")
    page.wait_for_selector(".card")


@pytest.mark.slow
def test_the_first_picture_of_an_empty_index(tab: Open) -> None:
    one = tab()
    refusal = {"status": 409, "title": "Conflict", "detail": "the index holds no images yet"}
    one.page.route("**/api/search?**", lambda route: route.fulfill(status=409, json=refusal))
    added = {"items": [{"id": 1, "name": "new.png"}], "failed": []}
    one.page.route("**/api/items", lambda route: route.fulfill(status=201, json=added))
    page = one.open()
    choose_file(page, "new.png", picture_bytes(1, HUES["red"], "PNG"), "image/png")
    page.wait_for_selector("#blank:has-text('The index holds no images yet')")
    page.unroute("**/api/search?**")
    page.click("#more summary")
    page.click("#keep")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:has-text('new.png was added to the index')")
    one.status("closest first")
    assert page.is_hidden("#blank")
    assert page.is_visible("#notice")
    one.expected += ["409", "Problem"]


@pytest.mark.slow
def test_a_shard_does_not_answer(tab: Open) -> None:
    one = tab()
    failed = [{"name": "b.wb", "reason": "no such host"}]
    one.page.route(
        "**/api/search", lambda route: route.fulfill(json=route.fetch().json() | {"failed": failed})
    )
    page = one.open("/?id=1")
    page.wait_for_selector(
        "#notice:has-text('Results are missing: b.wb does not answer (no such host)')"
    )
    assert page.locator(".card").count() > 10


@pytest.mark.slow
def test_nothing_found(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=1&radius=0&where=label=blue")
    page.wait_for_selector("#blank:has-text('No picture within 0 bits that matches the filters.')")
    page.click("#blank button:has-text('Any distance')")
    one.status("results$")
    page.goto(f"{one.url}/?id=99999999")
    page.wait_for_selector("#blank:has-text('Not in this index')")
    assert page.is_hidden("#terms .crop-text")
    page.click("#blank button:has-text('All pictures')")
    page.wait_for_selector(".card")
    one.expected += ["404", "Problem"]
