"""What the page does with results: the lightbox, the tray, export, and changes of the index."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HUES
from tests.serving.web.browser import BITS, EACH, Open, choose_file, picture_bytes, search_api

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request, Route

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_the_lightbox(tab: Open, server: str) -> None:
    one = tab(permissions=["clipboard-read", "clipboard-write"])
    page = one.open("/?id=7")
    one.status("closest first")
    page.hover(".card:nth-child(3)")
    page.click(".card:nth-child(3) .detail")
    hit = search_api(server, id=7, k=6)["hits"][3]
    assert hit["name"] in page.inner_text("#lightbox-caption")
    assert f"{hit['distance']} of {BITS} bits" in page.inner_text("#lightbox-caption")
    assert page.inner_text("#lightbox-place") == "3 of 59+"
    one.until("document.getElementById('lightbox-query-image').naturalWidth === 96")
    page.keyboard.press("d")
    one.until("document.getElementById('facts').textContent.includes('96 × 72')")
    assert page.locator("#lightbox-bits b").count() == 2 * hit["distance"]
    assert hit["columns"]["place"] in page.inner_text("#facts")
    assert page.locator("#path").text_content() == hit["path"]
    page.click("#path-copy")
    assert page.evaluate("navigator.clipboard.readText()") == hit["path"]
    page.keyboard.press("z")
    assert "scale(2.5)" in page.evaluate(
        "document.getElementById('lightbox-image').style.transform"
    )
    page.keyboard.press("z")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#lightbox-place:has-text('2 of')")
    page.click("#lightbox-copies")
    page.wait_for_selector("#lightbox-note:has-text('There is no copy of this picture.')")
    page.click("#lightbox-pair")
    assert page.is_hidden("#lightbox-query")
    page.focus("#lightbox-like")
    page.keyboard.press("y")
    page.wait_for_url("**like=*")
    assert "is marked as right" in page.inner_text("#lightbox-note")
    page.keyboard.press("Escape")
    assert page.is_hidden("#lightbox")


@pytest.mark.slow
def test_what_the_model_saw(tab: Open) -> None:
    one = tab()
    asked: list[Any] = []

    def overlay(route: Route, request: Request) -> None:
        asked.append(request.post_data_json)
        route.fulfill(content_type="image/png", body=picture_bytes(3, HUES["blue"], "PNG"))

    def explaining(route: Route) -> None:
        record = route.fetch().json()
        for encoder in record["by_encoder"].values():
            encoder["explains"] = True
        route.fulfill(json=record | {"explains": True})

    one.page.route("**/api/info", explaining)
    regions = {"regions": [[5, 5, 40, 40], [50, 20, 40, 40]]}
    one.page.route("**/api/regions**", lambda route: route.fulfill(json=regions))
    one.page.route("**/api/explain**", overlay)
    page = one.open("/?id=7&box=10,10,40,40")
    one.status("closest first")
    page.keyboard.press("c")
    page.click("#look-button")
    page.wait_for_selector("#query-look:not([hidden])")
    assert asked == [{"id": 7, "box": [10, 10, 40, 40]}]
    assert page.get_attribute("#look-button", "aria-pressed") == "true"
    page.click("#look-button")
    assert page.is_hidden("#query-look")
    page.click("li:nth-child(2) > .region")
    page.wait_for_url("**box=50,20,40,40*")
    page.click("#crop-done")
    page.hover(".card:nth-child(2)")
    page.click(".card:nth-child(2) .detail")
    page.click("#lightbox-look-button")
    page.wait_for_selector("#lightbox-look:not([hidden])")
    page.route("**/api/match**", overlay)
    page.click("#lightbox-match")  # on both of them
    page.wait_for_selector("#lightbox-query-look:not([hidden])")
    assert asked[-1] == {"id": 7, "box": [50, 20, 40, 40]}
    assert page.inner_text("#lightbox-note").startswith("Orange: what makes the two alike")
    assert page.get_attribute("#lightbox-look-button", "aria-pressed") == "false"
    page.keyboard.press("ArrowRight")
    assert page.is_hidden("#lightbox-query-look")


@pytest.mark.slow
def test_export(tab: Open) -> None:
    one = tab(permissions=["clipboard-read", "clipboard-write"])
    page = one.open("/?id=7&where=label=red")
    one.status("29 results$")
    page.click("#more summary")
    with page.expect_download() as saved:
        page.click("#export-csv")
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert len(rows) == EACH - 1
    assert [row["name"] for row in rows][:5] == one.names()[:5]
    assert all(Path(row["path"]).is_file() for row in rows)
    assert {row["place"] for row in rows} <= {"north", "south"}
    page.click("#more summary")
    with page.expect_download() as saved:
        page.click("#export-json")
    assert len(json.loads(saved.value.path().read_text())["hits"]) == EACH
    page.click("#more summary")
    page.click("#export-curl")
    page.wait_for_selector("#notice:has-text('The command was copied')")
    command = page.evaluate("navigator.clipboard.readText()")
    if shutil.which("curl"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=20)
        assert json.loads(done.stdout)["hits"][1]["name"] == one.names()[0]


@pytest.mark.slow
def test_the_tray(tab: Open) -> None:
    one = tab(permissions=["clipboard-read", "clipboard-write"])
    changed: list[Any] = []

    def pretend(route: Route) -> None:
        if route.request.method == "PATCH":
            changed.append(route.request.post_data_json)
            route.fulfill(json={"count": 3})
        else:
            route.continue_()

    one.page.route("**/api/items", pretend)
    page = one.open("/?id=7")
    one.status("closest first")
    page.hover(".card:nth-child(2)")
    page.click(".card:nth-child(2) .pick")
    page.click(".card:nth-child(4) .hit", modifiers=["Shift"])
    assert page.inner_text("#tray-text") == "3 pictures selected"
    assert page.locator(".card.selected").count() == 3
    page.click("#tray-paths")
    page.wait_for_selector("#notice:has-text('3 paths copied')")
    paths = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert [Path(path).name for path in paths] == one.names()[1:4]
    with page.expect_download() as saved:
        page.click("#tray-zip")
    with zipfile.ZipFile(saved.value.path()) as file:
        assert file.testzip() is None
        assert file.namelist() == one.names()[1:4]
    with page.expect_download() as saved:
        page.click("#tray-csv")
    assert len(list(csv.DictReader(io.StringIO(saved.value.path().read_text())))) == 3
    page.click("#tray-label")
    page.fill("#label-input", "crimson")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:has-text('3 pictures labelled crimson')")
    assert (len(changed[0]["ids"]), changed[0]["label"]) == (3, "crimson")
    assert one.labels()[1:4] == ["crimson"] * 3
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tray")
    page.keyboard.press("s")  # a lasso around the first two
    boxes = [page.locator(f".card:nth-child({n}) .thumb").bounding_box() for n in (1, 2)]
    assert boxes[0]
    assert boxes[1]
    page.mouse.move(boxes[0]["x"] + 20, boxes[0]["y"] + 90)
    page.mouse.down()
    page.mouse.move(boxes[1]["x"] + 20, boxes[1]["y"] + 40, steps=4)
    assert page.is_visible("#lasso")
    page.mouse.up()
    page.wait_for_selector("#tray-text:has-text('2 pictures selected')")
    page.click(".card:nth-child(3) .hit")
    assert page.inner_text("#tray-text") == "3 pictures selected"
    page.click("#tray-search")
    one.until("document.getElementById('title').textContent.endsWith('· 2 right')")
    assert len(one.query()["like"]) == 2


@pytest.mark.slow
def test_add_and_remove(tab: Open) -> None:
    one = tab()
    page = one.open()
    choose_file(page, "new.png", picture_bytes(9001, (220, 220, 40), "PNG"), "image/png")
    one.status("closest first")
    page.click("#more summary")
    page.click("#keep")
    page.fill("#add-label", "yellow")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:has-text('new.png was added to the index')")
    assert f"{3 * EACH + 1} pictures" in (page.text_content("#about") or "")
    page.click("#notice button:has-text('Show similar pictures')")
    one.until("document.querySelector('#title').textContent === 'Like yellow'")
    added = page.url
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.goto(f"{one.url}/?where=label=yellow")
    one.status("^1 of")
    _remove_first(page)
    page.wait_for_selector("#removal:has-text('new.png will be removed from the index')")
    page.click("#removal button:has-text('Undo')")
    assert page.is_hidden("#removal")
    _remove_first(page)
    page.goto(added)  # as if the page were closed
    one.status("closest first")
    assert "DELETE" not in sent
    page.goto(f"{one.url}/?where=label=yellow")
    one.status("^1 of")
    _remove_first(page)
    page.wait_for_selector("#notice:has-text('new.png was removed from the index')")
    assert sent.count("DELETE") == 1
    assert f"{3 * EACH} pictures" in (page.text_content("#about") or "")


@pytest.mark.slow
def test_a_removal_leaves_the_page_where_it_is(tab: Open) -> None:
    one = tab()
    removed: list[str] = []

    def pretend(route: Route) -> None:
        removed.append(route.request.url)
        route.fulfill(json={"count": 1})

    one.page.route("**/api/items?id=*", pretend)
    page = one.open()
    first, second = one.names()[:2]
    _remove_first(page)
    page.focus(".card:nth-child(2) .hit")
    page.keyboard.press("Space")
    page.click("#lightbox-delete")  # removes the first one now
    page.wait_for_selector(f"#notice:has-text('{first} was removed from the index')")
    assert page.is_visible(f"#removal:has-text('{second} will be removed')")
    assert page.inner_text("#status") == f"{3 * EACH - 1} pictures"
    assert one.names()[0] == second
    page.click("#removal button:has-text('Undo')")
    assert len(removed) == 1


def _remove_first(page: Page) -> None:
    page.focus(".card:first-child .hit")
    page.keyboard.press("Space")
    page.click("#lightbox-delete")
    page.mouse.move(5, 5)  # over the message it would stop the clock


@pytest.mark.slow
def test_ten_thousand_results_and_the_line(tab: Open, server: str) -> None:
    one = tab()
    answer = search_api(server, id=1, k=90, sizes=True)
    made_up = [
        hit | {"id": 1 + i, "rank": 1 + i, "p_chance": 0.001 if i < 7 else 0.5}
        for i, hit in enumerate((answer["hits"] * 112)[:10_000])
    ]

    def pretend(route: Route) -> None:
        asked: Any = route.request.post_data_json
        route.fulfill(json=answer | {"hits": made_up[: asked["k"]]})

    one.page.route("**/api/search", pretend)
    one.page.route(
        "**/api/info", lambda route: route.fulfill(json=route.fetch().json() | {"items": 10_000})
    )
    thumb = picture_bytes(1, HUES["red"])
    one.page.route(
        "**/api/thumbs/**", lambda route: route.fulfill(content_type="image/jpeg", body=thumb)
    )
    page = one.open("/?id=1")
    assert page.inner_text(".chance") == "Not alike any more"
    assert page.locator(".card:not(.beyond)").count() == 6  # without the query itself
    for count in (199, 999, 3999, 9999):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        one.until(f"document.querySelector('.card').ariaSetSize === '{count}'")
    one.status("^9,999 results$")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    one.until("[...document.querySelectorAll('.card')].at(-1)?.ariaPosInSet === '9999'")
    assert page.locator(".card").count() < 100


@pytest.mark.slow
def test_nothing_is_surely_alike(tab: Open, server: str) -> None:
    one = tab()
    answer = search_api(server, id=1, k=60, sizes=True)
    p_chance: float | None = 0.5

    def pretend(route: Route) -> None:
        hits = [hit | {"p_chance": p_chance} for hit in answer["hits"]]
        route.fulfill(json=answer | {"hits": hits})

    one.page.route("**/api/search", pretend)
    one.page.route(
        "**/api/info", lambda route: route.fulfill(json=route.fetch().json() | {"items": 10_000})
    )
    page = one.open("/?id=1")
    one.status("^closest first: none is surely alike$")
    assert page.is_hidden(".chance")
    assert page.locator(".card.beyond").count() == 0
    p_chance = None  # an index of which it is not known
    page.reload()
    one.status("^closest first$")
    assert page.is_hidden(".chance")


@pytest.mark.slow
def test_the_map(tab: Open) -> None:
    one = tab()
    page = one.open()
    page.keyboard.press("m")
    assert page.is_hidden("#grid")
    one.until("performance.getEntriesByType('resource').some((r) => r.name.endsWith('size=96'))")
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.keyboard.down("Shift")  # a lasso around everything
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for x, y in ((0.99, 0.01), (0.99, 0.99), (0.01, 0.99)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=2)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_selector(f"#tray-text:has-text('{3 * EACH} pictures selected')")
    page.click("#tray-only")  # the lasso filters the pictures
    one.status(f"^{3 * EACH} of {3 * EACH} pictures$")
    assert page.is_visible(".card")
    page.keyboard.press("m")
    page.focus("#map")
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")  # the picture in the middle
    page.wait_for_selector("#lightbox[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert page.is_visible(".card")


@pytest.mark.slow
def test_a_folder_is_added(tab: Open, tmp_path: Path) -> None:
    one = tab()
    sent: list[int] = []

    def pretend(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        names = (route.request.post_data_buffer or b"").count(b'name="image"')
        sent.append(names)
        failed = [{"name": "broken.jpg", "reason": "no picture"}] if len(sent) == 1 else []
        items = [{"id": i, "name": "x"} for i in range(names - len(failed))]
        route.fulfill(status=201, json={"items": items, "failed": failed})

    one.page.route("**/api/items", pretend)
    page = one.open()
    for i in range(20):
        (tmp_path / f"{i:02}.jpg").write_bytes(picture_bytes(i, HUES["red"]))
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#folder", tmp_path)
    page.wait_for_selector("#adding-text:has-text('19 pictures added. 1 picture could not be')")
    assert "broken.jpg no picture" in page.inner_text("#adding-failed")
    assert "1 other file left out" in page.inner_text("#adding-note")
    assert sent == [16, 4]
    page.click("#adding-stop")
    assert page.is_hidden("#adding")


@pytest.mark.slow
def test_a_long_name_is_cut_off_before_its_ending(tab: Open) -> None:
    one = tab(width=390)
    page = one.page
    place = {"name": "a_long_name_of_a_picture_that_was_once_taken_by_a_camera_4444.jpg"}
    page.route("**/api/search", lambda route: _with_items(route, {"label": None, **place}))
    page.route("**/api/items/*", lambda route: _with_items(route, {"label": None, **place}))
    one.open("/?id=7")
    name = page.locator(".card .name").first
    assert name.text_content() == place["name"]
    assert name.locator(".stem").evaluate("(e) => e.scrollWidth > e.clientWidth")
    ends = "(e) => [e.getBoundingClientRect().right, e.parentElement.getBoundingClientRect().right]"
    right, edge = name.locator(".ending").evaluate(ends)
    assert right <= edge + 0.5
    ending = page.locator("#title .ending")
    ending.wait_for()
    assert ending.evaluate("(e) => e.getClientRects().length") == 1  # in one line


def _with_items(route: Route, changes: dict[str, Any]) -> None:
    """Answer as the server does, with other items."""
    answer = route.fetch()
    record = answer.json()
    for item in record.get("hits", [record]):
        item.update(changes)
    route.fulfill(response=answer, json=record)
