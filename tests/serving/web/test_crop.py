"""Cropping the query on the page."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.web.browser import Open, choose_file, red_and_blue

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_crop_with_the_mouse(tab: Open) -> None:
    one = tab()
    page = one.open()
    choose_file(page, "halves.png", red_and_blue(), "image/png")
    one.status("closest first")
    page.click("#terms .open")
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
    assert page.inner_text("#title") == "Like a part of halves.png"
    page.wait_for_selector("#chosen .chip:has-text('Part of halves.png')")
    page.click(".exact summary")
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
    page.click("#chosen .chip:has-text('Part of halves.png')")
    one.until("!location.search.includes('box')")


@pytest.mark.slow
def test_crop_with_a_finger(tab: Open) -> None:
    one = tab(390, 844, has_touch=True, is_mobile=True)
    page = one.open("/?id=3")
    one.status("closest first")
    one.until("document.getElementById('query-facts').textContent.startsWith('96 × 72')")
    page.tap("#terms .open")
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


@pytest.mark.slow
def test_crop_with_keys_and_numbers(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=3")
    one.status("closest first")
    one.until("document.getElementById('query-facts').textContent.startsWith('96 × 72')")
    page.keyboard.press("c")
    assert one.focused() == "box"
    label = page.get_attribute("#box", "aria-label") or ""
    assert label.startswith("Part to search: 67 by 50 pixels, 14 from the left, 11 from the top")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_url("**box=15,12,66,50*")
    page.click(".exact summary")
    page.fill("#box-h", "30")
    page.keyboard.press("Tab")
    page.wait_for_url("**box=15,12,66,30*")
    page.fill("#box-w", "5000")
    page.keyboard.press("Tab")
    page.wait_for_url("**box=15,12,81,30*")  # as far as the picture goes
    page.focus("#box")
    page.keyboard.press("Escape")
    assert one.focused() == "open"
    assert page.is_hidden("#query")
    assert page.is_visible("#terms .part")  # still what is searched
    page.go_back()
    one.until("!location.search.includes('box')")
    one.until("!document.querySelector('#terms .part')")
