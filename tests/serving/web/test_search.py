"""Searches on the page: by file, clipboard, drop, card and link, by several pictures and marks, and
back again."""

from __future__ import annotations

import base64
import re
from pathlib import Path

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
    one = tab(1280, 400)
    page = one.open()
    assert f"{3 * EACH} pictures" in (page.text_content("#about") or "")
    assert page.get_by_role("heading", level=1).inner_text() == "colours"
    assert page.inner_text("#status") == f"{3 * EACH} pictures"
    assert page.is_visible("#browse:has-text('Drop, paste or choose a picture')")
    # whole pictures in rows as wide as the page
    boxes = [thumb.bounding_box() for thumb in page.locator(".thumb").all()[:8]]
    assert all(abs(box["width"] / box["height"] - 96 / 72) < 0.02 for box in boxes if box)
    right = max(box["x"] + box["width"] for box in boxes if box)
    assert 1240 < right <= 1280
    # only the pictures near the screen are in the page
    assert page.locator(".card").count() < 60
    page.mouse.wheel(0, 50_000)
    one.until(f"[...document.querySelectorAll('.card')].at(-1)?.ariaPosInSet === '{3 * EACH}'")
    assert page.locator(".card").count() < 60


@pytest.mark.slow
def test_search_by_file_and_reload(tab: Open) -> None:
    one = tab()
    page = one.open()
    choose_file(page, "mine.jpg", picture_bytes(5001, HUES["red"]))
    one.status("closest first")
    assert one.labels()[0] == "red"
    assert page.inner_text("#title") == "Like mine.jpg"
    assert page.locator(".hit").first.evaluate("(hit) => hit === document.activeElement")
    assert list(one.query()) == ["upload"]
    names = one.names()
    page.reload()  # the picture is kept in this browser
    one.status("closest first")
    assert one.names() == names
    assert page.locator(".earlier").count() == 1
    page.click(".card:nth-child(3) .hit")
    page.wait_for_url("**id=*")
    one.until("document.querySelectorAll('.earlier').length === 2")
    page.click("li:nth-child(2) > .earlier")
    one.until("document.getElementById('title').textContent === 'Like mine.jpg'")
    page.click("#forget")
    assert page.is_hidden("#history")
    another = tab()  # another browser has never seen it
    another.open(page.url.removeprefix(one.url)).wait_for_selector(
        "#notice:has-text('kept only in the browser that searched with it')"
    )


@pytest.mark.slow
def test_search_by_paste(tab: Open) -> None:
    one = tab(permissions=["clipboard-read", "clipboard-write"])
    page = one.open()
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(picture_bytes(5002, HUES["blue"], "PNG")).decode(),
    )
    page.keyboard.press("Control+V")
    one.status("closest first")
    assert one.labels()[0] == "blue"
    page.evaluate("navigator.clipboard.writeText('no picture')")
    page.keyboard.press("Control+V")
    page.wait_for_selector("#notice:has-text('There is no picture on the clipboard')")


@pytest.mark.slow
def test_a_shared_picture_is_searched_for(tab: Open) -> None:
    one = tab()
    page = one.open()
    page.evaluate(
        """async (data) => {
          await navigator.serviceWorker.register("/share.js"); // an installed page does
          await navigator.serviceWorker.ready;
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const files = new DataTransfer();
          files.items.add(new File([bytes], "shared.jpg", { type: "image/jpeg" }));
          const form = document.createElement("form");
          Object.assign(form, { action: "/share", method: "post", enctype: "multipart/form-data" });
          const input = document.createElement("input");
          Object.assign(input, { type: "file", name: "image", files: files.files });
          form.append(input);
          document.body.append(form);
          while (!navigator.serviceWorker.controller) await new Promise((go) => setTimeout(go, 20));
          form.submit();
        }""",
        base64.b64encode(picture_bytes(5004, HUES["blue"])).decode(),
    )
    page.wait_for_url("**upload=u*")
    one.status("closest first")
    assert page.inner_text("#title") == "Like shared.jpg"
    assert one.labels()[0] == "blue"


@pytest.mark.slow
def test_several_pictures_and_marks(tab: Open, server: str, tmp_path: Path) -> None:
    one = tab()
    page = one.open()
    drop_file(page, "dropped.png", picture_bytes(5003, HUES["green"], "PNG"), "image/png")
    one.status("closest first")
    assert one.labels()[0] == "green"
    page.drag_and_drop(".card:nth-child(4) .hit", "#grid")  # a picture of the page itself
    page.wait_for_url("**/?id=*")
    one.status("closest first")
    first = int(one.query()["id"][0])
    right, wrong = (
        int(page.locator(f".card:nth-child({n})").get_attribute("data-id") or 0) for n in (5, 2)
    )
    page.hover(".card:nth-child(5)")
    page.click(".card:nth-child(5) .right")
    page.wait_for_url(f"**like={right}*")
    one.until("document.querySelector('.card').classList.contains('is-right')")
    page.focus(f".card[data-id='{wrong}'] .hit")
    page.keyboard.press("n")
    page.wait_for_url(f"**unlike={wrong}*")
    one.until("document.getElementById('title').textContent.endsWith('· 1 right, 1 wrong')")
    found = search_api(server, id=first, k=60, like=[right], unlike=[wrong])["hits"]
    ids = [hit["id"] for hit in found if hit["id"] not in (first, wrong)]
    page.wait_for_function(
        """(ids) => [...document.querySelectorAll('.card')].every(
            (card, i) => Number(card.dataset.id) === ids[i]
        )""",
        arg=ids,
    )
    assert page.locator(".term").count() == 3
    page.click("#terms .wrong .remove")
    one.until("!location.search.includes('unlike')")
    drop = picture_bytes(5005, HUES["blue"], "PNG")
    drop_file(page, "more.png", drop, "image/png", "#ask")  # becomes one more of the query
    page.wait_for_url("**like=u*")
    one.until("document.getElementById('title').textContent.endsWith('· 2 right')")
    one.status("closest first")
    page.click("#terms button:has-text('Clear marks')")
    one.until("!location.search.includes('like')")
    for n in (1, 2):
        (tmp_path / f"{n}.jpg").write_bytes(picture_bytes(n, HUES["red"]))
    page.set_input_files("#file", [tmp_path / "1.jpg", tmp_path / "2.jpg"])
    one.until("document.getElementById('title').textContent === 'Like 1.jpg · 1 right'")
    one.status("closest first")
    assert one.labels()[0] == "red"


@pytest.mark.slow
def test_inspect_shows_what_the_api_says(tab: Open, server: str) -> None:
    one = tab()
    page = one.open("/?id=5&fine=none&radius=9&where=place=north")
    one.status("results?$")
    assert page.locator(".bits:visible").count() == 0
    page.keyboard.press("i")
    hits = search_api(server, id=5, k=60, fine="none", radius=9, where=["place=north"])["hits"]
    hits = [hit for hit in hits if hit["id"] != 5]
    shown = one.names()
    assert shown == [hit["name"] for hit in hits[: len(shown)]]
    assert page.locator(".bits").all_inner_texts() == [
        f"{hit['distance']}/{BITS} bits" for hit in hits[: len(shown)]
    ]
    distances = [hit["distance"] for hit in hits]
    ties = page.locator(".tie").all_text_contents()
    assert [text.rstrip("+") for text in ties] == [
        f"tie ×{distances.count(d)}" if distances.count(d) > 1 else "" for d in distances
    ][: len(shown)]
    differing = page.evaluate(
        "[...document.querySelectorAll('.differ')].map((path) => "
        "path.getAttribute('d').split('M').length - 1)"
    )
    assert differing == distances[: len(shown)]
    assert re.search(r"^in [\d.,]+ ms: .*coarse [\d.]+", page.inner_text("#stages"))
    page.reload()
    one.status("results?$")
    assert page.is_visible(".bits")  # it is remembered
    page.keyboard.press("i")
    assert page.is_hidden("#stages")


@pytest.mark.slow
def test_more_like_this_and_back(tab: Open) -> None:
    one = tab()
    page = one.open()
    choose_file(page, "mine.jpg", picture_bytes(5001, HUES["red"]))
    one.status("closest first")
    before = one.names()
    page.mouse.wheel(0, 700)
    page.click(".card:nth-child(12) .hit")
    page.wait_for_url("**/?id=*")
    one.status("closest first")
    second = one.names()
    assert page.inner_text(".hit:focus .name") == one.labels()[0]
    here = page.url
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    one.until("(url) => location.href !== url", here)
    page.go_back()
    one.until("(name) => document.querySelector('.hit')?.ariaLabel.includes(name)", second[0])
    focused = page.locator(".hit:focus").get_attribute("aria-label") or ""
    assert second[1] in focused  # where the person was
    page.go_back()
    one.until("document.getElementById('title').textContent === 'Like mine.jpg'")
    assert one.names()[:4] == before[:4]
    one.until("scrollY > 500")
    with page.context.expect_page() as opened:
        page.click(".card:nth-child(12) .hit", modifiers=["Control"])  # a card is a link
    assert re.search(r"/\?id=\d+$", opened.value.url)


@pytest.mark.slow
def test_a_link_can_be_shared(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=40&fine=none&radius=20&where=label=green&where=label=red")
    one.status("results$|closest first")
    assert set(one.labels()) <= {"green", "red"}
    assert page.is_checked("input[value=coarse]")
    assert page.locator("#chosen .chip").all_inner_texts() == [
        "up to 20 bits\n×",
        "label: green\n×",
        "label: red\n×",
    ]
    again = tab()
    again.open(page.url.removeprefix(one.url))
    again.status("results$|closest first")
    assert again.names() == one.names()
    nonsense = tab()
    nonsense.open("/?id=abc&fine=magic&box=1,2&radius=x&like=7").wait_for_selector(".card")
    assert nonsense.page.is_hidden("#terms")
