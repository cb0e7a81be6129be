"""The page, in a real browser over a real server."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import HUES, picture
from wingbar.index.index import Index

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

pytestmark = pytest.mark.browser

EACH = 30  # pictures a class
BITS = 24
SECONDS = 30  # that a busy machine may take


def _missing(what: str) -> None:
    """Without a browser these tests are skipped, unless WINGBAR_BROWSER=required."""
    if os.environ.get("WINGBAR_BROWSER") == "required":
        pytest.fail(f"WINGBAR_BROWSER=required, but {what}")
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed: pip install playwright")
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        _missing("there is no chromium on the path: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def index_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 pictures of three colours, listed with two columns."""
    folder = tmp_path_factory.mktemp("web")
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "place", "price"])
        for c, (label, hue) in enumerate(HUES.items()):
            for i in range(EACH):
                picture(1000 * c + i, hue=hue).save(folder / f"{label}_{i:02}.png")
                rows.writerow([f"{label}_{i:02}.png", label, "north" if i % 2 else "south", i])
    with Index.create(folder / "colours.wb") as index:
        index.add(folder / "list.csv", bits=BITS)
    return folder / "colours.wb"


@pytest.fixture(scope="module")
def server(index_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (index_path.parent / "serve.log").open("w+")
    command = [sys.executable, "-m", "wingbar", "serve", str(index_path), "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    break
                time.sleep(0.1)
        else:
            process.kill()
        assert process.poll() is None, (index_path.parent / "serve.log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


class Tab:
    """A page with what it complained about."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.expected: list[str] = []
        page.route(
            "**/nothing-of-this-name", lambda route: route.abort()
        )  # begun later, intercepting misses the next requests
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        self.page.wait_for_selector(".card, #blank:not([hidden]), #notice:not([hidden])")
        return self.page

    def until(self, expression: str, arg: Any = None) -> None:
        """Wait until an expression holds. Playwright's own way evaluates text, which the page's
        policy forbids."""
        end = time.monotonic() + SECONDS
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end, f"not within {SECONDS} s: {expression}"
            time.sleep(0.02)

    def status(self, like: str) -> None:
        """Wait until nothing is under way and the live region says something like it."""
        self.until(
            "(like) => document.getElementById('results').ariaBusy !== 'true'"
            " && new RegExp(like).test(document.getElementById('status').textContent)",
            like,
        )

    def labels(self) -> list[str]:
        return self.page.locator(".card .name").all_inner_texts()

    def names(self) -> list[str]:
        return self.page.evaluate("[...document.querySelectorAll('.hit')].map((hit) => hit.title)")

    def focused(self) -> str:
        return self.page.evaluate("document.activeElement.id || document.activeElement.className")

    def query(self) -> dict[str, list[str]]:
        return self.page.evaluate(
            "Object.fromEntries([...new URLSearchParams(location.search).keys()]"
            ".map((name) => [name, new URLSearchParams(location.search).getAll(name)]))"
        )


Open = Callable[..., Tab]


@pytest.fixture
def tab(browser: Browser, server: str) -> Iterator[Open]:
    """Opens tabs; afterwards none of them may have complained, but of what the test expects."""
    contexts, tabs = [], []

    def opened(width: int = 1280, height: int = 860, **options: Any) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        tabs.append(Tab(context.new_page(), server))
        return tabs[-1]

    yield opened
    complaints = [
        said
        for one in tabs
        for said in one.complaints
        if not any(part in said for part in one.expected)
    ]
    for context in contexts:
        context.close()
    assert complaints == []


def _file(
    seed: int, hue: tuple[int, int, int], kind: str = "JPEG", size: tuple[int, int] = (96, 72)
) -> bytes:
    out = io.BytesIO()
    picture(seed, size, hue).save(out, kind)
    return out.getvalue()


def _halves() -> bytes:
    """Red on the left, blue on the right: 200 x 100."""
    both = Image.new("RGB", (200, 100))
    both.paste(picture(7001, (100, 100), HUES["red"]), (0, 0))
    both.paste(picture(7002, (100, 100), HUES["blue"]), (100, 0))
    out = io.BytesIO()
    both.save(out, "PNG")
    return out.getvalue()


def _choose(page: Page, name: str, data: bytes, kind: str = "image/jpeg") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def _drop(page: Page, name: str, data: bytes, kind: str) -> None:
    """What a person's drop of a file looks like to the page."""
    page.evaluate(
        """async ([name, data, kind]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name, { type: kind }));
          for (const type of ["dragenter", "dragover", "drop"])
            document.querySelector("main").dispatchEvent(
              new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [name, base64.b64encode(data).decode(), kind],
    )


def _api(url: str, **record: Any) -> dict[str, Any]:
    asked = urllib.request.Request(
        f"{url}/api/search", json.dumps(record).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.load(answer)


# -- searching


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


def test_search_by_file(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=6")
    _choose(page, "mine.jpg", _file(5001, HUES["red"]))
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


def test_search_by_paste(tab: Open) -> None:
    one = tab(permissions=["clipboard-read", "clipboard-write"])
    page = one.open("/?k=6")
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(_file(5002, HUES["blue"], "PNG")).decode(),
    )
    page.keyboard.press("Control+V")
    one.status(r"^6 results")
    assert one.labels()[0] == "blue"
    page.evaluate("navigator.clipboard.writeText('no picture')")
    page.keyboard.press("Control+V")
    page.wait_for_selector("#notice:has-text('There is no picture on the clipboard')")


def test_search_by_drop(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=6")
    _drop(page, "dropped.png", _file(5003, HUES["green"], "PNG"), "image/png")
    one.status(r"^6 results")
    assert one.labels()[0] == "green"
    assert page.inner_text("#title") == "Like dropped.png"
    page.drag_and_drop(".card:nth-child(4) .hit", "#query-name")  # a picture of the page itself
    page.wait_for_url("**/?id=*")
    one.status(r"^6 results")


def test_the_same_answer_as_the_api(tab: Open, server: str) -> None:
    one = tab()
    page = one.open("/?id=5&k=12&fine=ties&radius=9&where=place=north")
    one.status("results? in")
    hits = _api(server, id=5, k=12, fine="ties", radius=9, where=["place=north"])["hits"]
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


# -- the part of a picture


def test_crop_with_the_mouse(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=6")
    _choose(page, "halves.png", _halves(), "image/png")
    one.status("results in")
    frame = page.locator("#frame").bounding_box()
    assert frame is not None
    one.until("document.getElementById('query-facts').textContent.startsWith('200 × 100')")
    page.mouse.move(frame["x"] + 0.55 * frame["width"], frame["y"] + 0.1 * frame["height"])
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.95 * frame["width"], frame["y"] + 0.9 * frame["height"], steps=5)
    page.mouse.up()
    page.wait_for_url("**box=*")
    box = [int(v) for v in one.query()["box"][0].split(",")]
    assert np.allclose(box, [110, 10, 80, 80], atol=2)
    one.until("document.querySelector('.card .name').textContent === 'blue'")
    assert page.input_value("#box-w") == str(box[2])
    corner = page.locator(".handle.nw").bounding_box()
    assert corner is not None
    page.mouse.move(corner["x"] + 14, corner["y"] + 14)
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.65 * frame["width"], frame["y"] + 0.3 * frame["height"], steps=3)
    page.mouse.up()
    one.until("!location.search.includes('110,10')")
    assert np.allclose(
        [int(v) for v in one.query()["box"][0].split(",")], [130, 30, 60, 60], atol=3
    )
    page.click("#whole")
    one.until("!location.search.includes('box')")


def test_crop_with_a_finger(tab: Open) -> None:
    one = tab(390, 844, has_touch=True, is_mobile=True)
    page = one.open("/?id=3&k=6")
    one.status("results in")
    one.until("document.getElementById('query-facts').textContent.startsWith('96 × 72')")
    page.tap("#crop-button")
    frame = page.locator("#frame").bounding_box()
    assert frame is not None
    touch = page.context.new_cdp_session(page)
    for kind, part in (
        ("touchStart", 0.5),
        ("touchMove", 0.55),
        ("touchMove", 0.6),
        ("touchEnd", 0.6),
    ):
        where = {"x": frame["x"] + part * frame["width"], "y": frame["y"] + part * frame["height"]}
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [] if kind == "touchEnd" else [where]},
        )
    page.wait_for_url("**box=*")
    assert np.allclose([int(v) for v in one.query()["box"][0].split(",")], [24, 18, 67, 50], atol=2)


def test_crop_with_keys_and_numbers(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=3&k=6")
    one.status("results in")
    one.until("document.getElementById('query-facts').textContent.startsWith('96 × 72')")
    page.keyboard.press("c")
    assert one.focused() == "box"
    label = page.get_attribute("#box", "aria-label") or ""
    assert label.startswith("Part to search: 67 by 50 pixels, 14 from the left, 11 from the top")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_url("**box=15,12,66,50*")
    page.fill("#box-h", "30")
    page.keyboard.press("Tab")
    page.wait_for_url("**box=15,12,66,30*")
    page.fill("#box-w", "5000")
    page.keyboard.press("Tab")
    page.wait_for_url("**box=15,12,81,30*")  # as far as the picture goes
    page.focus("#box")
    page.keyboard.press("Escape")
    assert one.focused() == "crop-button"
    assert page.is_hidden("#box-fields")
    assert page.is_visible("#box")  # still what is searched
    page.go_back()
    one.until("!location.search.includes('box')")
    assert page.is_hidden("#box")


# -- going on, and back


def test_more_like_this_and_back(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=12")
    _choose(page, "mine.jpg", _file(5001, HUES["red"]))
    one.status("results in")
    before = one.names()
    page.click(".card:nth-child(8) .hit")
    page.wait_for_url("**/?id=*&k=12")
    one.status("results in")
    assert page.inner_text(".card .rank") == "query"
    assert page.evaluate("document.activeElement.title") == one.names()[1]
    second = one.names()
    here = page.url
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    one.until("(url) => location.href !== url", here)
    page.go_back()
    one.until("(name) => document.querySelector('.hit')?.title === name", second[0])
    assert page.evaluate("document.activeElement.title") == second[2]  # where the person was
    page.go_back()
    one.until("document.getElementById('title').textContent === 'Like mine.jpg'")
    assert one.names() == before
    page.go_forward()
    page.wait_for_url("**/?id=*&k=12")
    page.go_back()
    page.reload()
    page.wait_for_selector("#notice:has-text('kept only in this tab')")
    assert one.query() == {"k": ["12"]}


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


def test_cards_open_in_new_tabs_as_links(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=40&k=6")
    one.status("^6 results")
    with page.context.expect_page() as opened:
        page.click(".card:nth-child(3) .hit", modifiers=["Control"])
    assert re.search(r"/\?id=\d+&k=6$", opened.value.url)
    assert "id=40" in page.url


# -- filters, options, order


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


def test_filters_before_there_is_a_query(tab: Open) -> None:
    one = tab()
    page = one.open()
    page.click("#filters [data-condition='label=green']")
    one.status(rf"^{EACH} of {3 * EACH} pictures$")
    assert set(one.labels()) == {"green"}
    assert page.is_hidden("#options")


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


def test_coarse_and_fine_show_what_moved(tab: Open, server: str) -> None:
    one = tab()
    page = one.open("/?id=7&k=12")
    one.status("^12 results")
    assert page.is_checked("input[value=fine]")
    fine = [hit["id"] for hit in _api(server, id=7, k=12)["hits"]]
    coarse = [hit["id"] for hit in _api(server, id=7, k=90, fine="none")["hits"]]
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


def test_details_compare_the_codes(tab: Open, server: str) -> None:
    one = tab()
    page = one.open("/?id=7&k=6")
    one.status("^6 results")
    page.hover(".card:nth-child(4)")
    page.click(".card:nth-child(4) .detail")
    hit = _api(server, id=7, k=6)["hits"][3]
    assert hit["name"] in page.inner_text("#details")
    assert f"{hit['distance']} of {BITS} bits differ" in page.inner_text("#details-facts")
    assert page.locator("#details-bits b").count() == 2 * hit["distance"]
    assert "96 × 72" in page.locator("#details-facts div:has-text('Size')").inner_text()
    assert hit["columns"]["place"] in page.inner_text("#details-facts")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#details-facts div:has-text('Rank') dd:has-text('3')")
    page.keyboard.press("Escape")
    assert page.is_hidden("#details")


# -- without a mouse, on a phone, for everyone


def test_keyboard_only(tab: Open) -> None:
    one = tab()
    asked: list[
        object
        # file choosers; listened to from the start, since the browser needs a moment to take that
        # in
    ] = []
    one.page.on("filechooser", lambda chooser: asked.append(chooser))
    page = one.open("/?k=12")
    page.keyboard.press("Tab")
    assert one.focused() == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.card:first-child .hit')")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length"
    )
    assert (
        page.evaluate("[...document.querySelectorAll('.hit')].indexOf(document.activeElement)")
        == 1 + columns
    )
    assert page.locator(".hit[tabindex='0']").count() == 1
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    one.status("^12 results")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.matches('.card:last-child .hit')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    assert page.is_visible("#details")
    assert one.focused() == "details-like"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('.card:last-child .hit')")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert one.focused() == "another"
    page.focus("#condition")
    page.keyboard.type("f/c?")  # letters in a field are letters
    assert page.input_value("#condition") == "f/c?"
    assert "fine" not in one.query()
    page.keyboard.press("Tab")
    page.go_back()  # Alt and the left arrow, which a browser without windows does not take
    page.wait_for_selector("#ask:not([hidden])")
    page.keyboard.press("/")
    assert one.focused() == "browse"
    page.keyboard.press("Enter")
    end = time.monotonic() + SECONDS
    while not asked:
        assert time.monotonic() < end, "no file chooser"
        page.wait_for_timeout(20)


def test_on_a_phone(tab: Open) -> None:
    one = tab(390, 844, has_touch=True, is_mobile=True)
    page = one.open()
    fits = "document.documentElement.scrollWidth <= innerWidth && innerWidth === 390"
    assert page.evaluate(fits)
    assert page.is_visible("#camera")
    assert page.get_attribute("#photo", "capture") == "environment"
    page.tap("#panel summary")
    assert page.is_visible("#condition")
    assert page.evaluate(fits)
    page.tap(".card:nth-child(2) .hit")
    one.status("results in")
    assert page.evaluate(fits)
    assert (
        page.evaluate(
            "getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' "
            "').length"
        )
        == 2
    )
    page.tap("#crop-button")
    assert page.evaluate(fits)
    page.tap(".card:nth-child(2) .detail")
    page.wait_for_selector("#details[open]")
    assert page.evaluate(fits)
    small = page.evaluate(
        "[...document.querySelectorAll('button, summary, .button')].filter((b) => "
        "b.checkVisibility()"
        " && Math.min(b.getBoundingClientRect().width, b.getBoundingClientRect().height) < "
        "24).map((b) => b.outerHTML)"
    )
    assert small == []


AXE = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_axe_finds_nothing_serious(tab: Open, scheme: str, width: int) -> None:
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        _missing("axe-playwright-python is not installed: pip install axe-playwright-python")
    one = tab(width, 860, color_scheme=scheme, reduced_motion="reduce")
    found: list[tuple[str, str, str, list[str]]] = []

    def look(where: str) -> None:
        page.wait_for_timeout(100)
        for violation in Axe().run(one.page, options=AXE).response["violations"]:
            nodes = [
                node["html"][:200] + str(node["any"][:1])[:300] for node in violation["nodes"][:3]
            ]
            found.append((where, violation["impact"], violation["id"], nodes))

    page = one.open()
    look("start")
    page.goto(f"{one.url}/?id=7&k=6&where=label=red&where=label=blue")
    one.status("^6 results")
    page.keyboard.press("f")
    page.wait_for_selector(".move:not([hidden])")
    page.keyboard.press("c")
    look("results")
    page.keyboard.press("Escape")
    page.locator(".hit").nth(2).focus()
    page.keyboard.press("Space")
    look("details")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    if scheme == "light":
        look("help")
    page.keyboard.press("Escape")
    page.goto(f"{one.url}/?id=99999999")
    page.wait_for_selector("#blank:not([hidden])")
    _choose(page, "wrong.pdf", b"%PDF-1.7", "application/pdf")
    look("what is wrong")
    one.expected += ["404", "Problem"]
    assert [each for each in found if each[1] in ("serious", "critical")] == []
    assert found == []


def test_dark(tab: Open) -> None:
    def luminance(scheme: str) -> float:
        page = tab(color_scheme=scheme).open()
        rgb = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        return sum(rgb) / 3

    assert luminance("dark") < 40 < 220 < luminance("light")


def test_reduced_motion(tab: Open) -> None:
    one = tab(reduced_motion="reduce")
    page = one.open("/?id=7&k=12")
    one.status("^12 results")
    page.keyboard.press("f")
    one.until("document.querySelector('input[value=coarse]').checked")
    assert page.evaluate("document.getAnimations().length") == 0


def test_a_thousand_results(tab: Open, server: str) -> None:
    one = tab()
    answer = _api(server, id=1, k=90)
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
    assert len(thumbs) < 200  # the rest come when they come near
    drawn = (
        "[...document.querySelectorAll('.thumb')].filter((t) => t.checkVisibility({ "
        "contentVisibilityAuto: true })).length"
    )
    assert (
        8 <= page.evaluate(drawn) < 100
    )  # what is far from the screen costs no layout and no paint
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(200)
    assert 1 <= page.evaluate(drawn) < 100
    assert page.evaluate(
        "document.querySelector('.card:last-child').getBoundingClientRect().top < innerHeight"
    )
    one.expected.append("404")  # thumbnails of made-up ids


# -- what can go wrong


def test_a_file_that_is_no_picture(tab: Open) -> None:
    one = tab()
    page = one.open()
    _choose(page, "paper.pdf", b"%PDF-1.7", "application/pdf")
    page.wait_for_selector("#notice:has-text('paper.pdf is not a picture. Choose a JPEG')")
    assert page.is_visible(".card")  # nothing else has changed
    page.keyboard.press("Escape")
    assert page.is_hidden("#notice")
    _choose(page, "broken.jpg", b"\xff\xd8\xff" + bytes(100))
    page.wait_for_selector("#blank:has-text('This search failed')")
    assert page.is_visible("#blank button:has-text('Choose another picture')")
    one.expected += ["status of 4", "Problem"]
    _choose(page, "good.jpg", _file(1, HUES["red"]))
    one.status("results in")
    assert page.is_hidden("#blank")


def test_a_picture_that_is_too_large(tab: Open) -> None:
    one = tab()

    def small_limit(route: Route) -> None:
        info = route.fetch().json()
        route.fulfill(json=info | {"limits": info["limits"] | {"upload_bytes": 400_000}})

    one.page.route("**/api/info", small_limit)
    page = one.open("/?k=6")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8))
    out = io.BytesIO()
    noise.save(out, "PNG")
    _choose(page, "huge.png", out.getvalue(), "image/png")
    page.wait_for_selector(
        "#notice:has-text('huge.png is 1.1 MB; this server accepts at most 400 KB')"
    )
    page.click("#notice button:has-text('Search with a smaller copy')")
    one.status("^6 results")
    assert page.inner_text("#title") == "Like huge.jpg"


def test_the_server_is_gone_and_comes_back(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=1&k=12")
    one.status("^12 results")
    page.route("**/{api,healthz}**", lambda route: route.abort())
    page.route("**/api/**", lambda route: route.abort())
    page.keyboard.press("f")
    page.wait_for_selector(
        "#notice:has-text('The server does not respond. Check that wingbar serve is still running')"
    )
    assert page.locator(".card").count() == 12  # what was there stays
    page.unroute_all()
    one.until("document.querySelector('input[value=coarse]').checked")  # it looks by itself
    one.status("^12 results")
    assert page.is_hidden("#notice")
    one.expected += ["ERR_FAILED", "Problem"]


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

    page = one.open("/?id=1&k=6")
    one.status("^6 results")
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


def test_a_server_that_stays_busy(tab: Open) -> None:
    one = tab()
    one.page.route(
        "**/api/search",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "0.05"}, json={}),
    )
    page = one.open("/?id=1&k=6")
    page.wait_for_selector("#notice button:has-text('Try again')")
    page.unroute_all()
    page.click("#notice button:has-text('Try again')")
    one.status("^6 results")
    one.expected += ["429", "Problem"]


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
    assert page.evaluate("localStorage.length") == 0
    one.expected.append("401")


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


def test_nothing_found(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=1&radius=0&where=label=blue")
    page.wait_for_selector("#blank:has-text('No picture within 0 bits that matches the filters.')")
    page.click("#blank button:has-text('Any distance')")
    one.status("^24 results")
    page.goto(f"{one.url}/?id=99999999")
    page.wait_for_selector("#blank:has-text('Not in this index')")
    page.click("#blank button:has-text('All pictures')")
    page.wait_for_selector(".card")
    one.expected += ["404", "Problem"]


# -- taking along, adding, removing


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


def test_add_and_remove(tab: Open) -> None:
    one = tab()
    page = one.open("/?k=6")
    _choose(page, "new.png", _file(9001, (220, 220, 40), "PNG"), "image/png")
    one.status("^6 results")
    page.click("#keep")
    page.fill("#add-label", "yellow")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:has-text('new.png was added to the index')")
    assert f"{3 * EACH + 1} pictures" in page.inner_text("#about")
    page.click("#notice button:has-text('Show similar pictures')")
    one.until("document.querySelector('.card .name')?.textContent === 'yellow'")
    page.focus(".card:first-child .hit")
    page.keyboard.press("Space")
    page.click("#details-delete")
    page.click("#details-delete:has-text('Yes, remove it')")
    page.wait_for_selector("#notice:has-text('removed from the index')")
    assert f"{3 * EACH} pictures" in page.inner_text("#about")
    assert page.is_visible("#ask")


def test_what_the_model_saw(tab: Open) -> None:
    one = tab()
    asked: list[Any] = []

    def overlay(route: Route, request: Request) -> None:
        asked.append(request.post_data_json)
        route.fulfill(content_type="image/png", body=_file(3, HUES["blue"], "PNG"))

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


# -- the files


def test_nothing_comes_from_elsewhere() -> None:
    """No inline script or style, which a strict policy forbids, and no address of another host."""
    folder = Path(__file__).parents[2] / "wingbar" / "serving" / "web"
    page = (folder / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page) == []
    for file in folder.iterdir():
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text()) == [], file.name
        assert not re.search(
            r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", file.read_text()
        ), file.name


def test_all_ids_exist() -> None:
    """Every element that the modules name is in the page."""
    folder = Path(__file__).parents[2] / "wingbar" / "serving" / "web"
    ids = set(re.findall(r'\bid="([\w-]+)"', (folder / "index.html").read_text()))
    for module in folder.glob("*.js"):
        assert set(re.findall(r'\$\("([\w-]+)"\)', module.read_text())) <= ids, module.name
