"""The page without a mouse, on a phone, and for everyone."""

from __future__ import annotations

import time

import pytest

from tests.serving.web.browser import SECONDS, Open, choose_file, skip_or_fail

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_keyboard_only(tab: Open) -> None:
    one = tab()
    choosers: list[object] = []  # from the start, since the browser needs a moment to report them
    one.page.on("filechooser", lambda chooser: choosers.append(chooser))
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
    page.go_back()  # Alt and the left arrow, which a headless browser ignores
    page.wait_for_selector("#ask:not([hidden])")
    page.keyboard.press("/")
    assert one.focused() == "browse"
    page.keyboard.press("Enter")
    end = time.monotonic() + SECONDS
    while not choosers:
        assert time.monotonic() < end, "no file chooser"
        page.wait_for_timeout(20)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_axe_finds_nothing_serious(tab: Open, scheme: str, width: int) -> None:
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        skip_or_fail("axe-playwright-python is not installed: pip install axe-playwright-python")
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
    choose_file(page, "wrong.pdf", b"%PDF-1.7", "application/pdf")
    look("what is wrong")
    one.expected += ["404", "Problem"]
    assert [each for each in found if each[1] in ("serious", "critical")] == []
    assert found == []


@pytest.mark.slow
def test_dark(tab: Open) -> None:
    def luminance(scheme: str) -> float:
        page = tab(color_scheme=scheme).open()
        rgb = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        return sum(rgb) / 3

    assert luminance("dark") < 40 < 220 < luminance("light")


@pytest.mark.slow
def test_reduced_motion(tab: Open) -> None:
    one = tab(reduced_motion="reduce")
    page = one.open("/?id=7&k=12")
    one.status("^12 results")
    page.keyboard.press("f")
    one.until("document.querySelector('input[value=coarse]').checked")
    assert page.evaluate("document.getAnimations().length") == 0
