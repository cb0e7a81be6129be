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
    page = one.open()
    page.keyboard.press("Tab")
    assert one.focused() == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('.card:first-child .hit')")
    page.keyboard.press("ArrowRight")
    first = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    page.keyboard.press("ArrowDown")  # what is below
    below = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    assert abs(below["x"] - first["x"]) < 5
    assert below["y"] > first["y"]
    assert page.locator(".hit[tabindex='0']").count() == 1
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    one.status("closest first")
    assert page.evaluate("document.activeElement.matches('.card:first-child .hit')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("y")
    page.wait_for_url("**like=*")
    page.keyboard.press("x")
    assert page.inner_text("#tray-text") == "1 picture selected"
    page.keyboard.press("Shift+ArrowRight")
    assert page.inner_text("#tray-text") == "2 pictures selected"
    page.keyboard.press("Space")
    assert page.is_visible("#lightbox")
    assert one.focused() == "lightbox-like"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('.hit')")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tray")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert one.focused() == "browse"
    page.focus("#panel-button")
    page.keyboard.press("Enter")
    page.focus("#condition")
    page.keyboard.type("f/c?i")  # letters in a field are letters
    assert page.input_value("#condition") == "f/c?i"
    assert "fine" not in one.query()
    page.keyboard.press("/")
    page.focus("#home")
    page.keyboard.press("Enter")
    one.until("document.body.dataset.view === 'start'")
    page.keyboard.press("/")
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
    page.tap("#panel-button")  # a sheet from below
    assert page.is_visible("#condition")
    assert page.evaluate("document.getElementById('panel').getBoundingClientRect().top > 150")
    assert page.evaluate(fits)
    page.tap("#panel-close")
    page.tap(".card:nth-child(2) .hit")
    one.status("closest first")
    assert page.evaluate(fits)
    # results first, under a bar that stays
    assert page.evaluate("document.querySelector('.card').getBoundingClientRect().top < 140")
    page.evaluate("scrollBy(0, 900)")
    assert page.evaluate("document.getElementById('top').getBoundingClientRect().top") == 0
    page.tap("#terms .open")
    assert page.evaluate(fits)
    page.tap("#crop-done")
    page.locator(".detail:visible").nth(2).tap()
    page.wait_for_selector("#lightbox[open]")
    assert page.evaluate(fits)
    place = page.inner_text("#lightbox-place")
    touch = page.context.new_cdp_session(page)
    for kind, x in (("touchStart", 300), ("touchMove", 200), ("touchEnd", 100)):
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [] if x == 100 else [{"x": x, "y": 300}]},
        )
    one.until("(place) => document.getElementById('lightbox-place').textContent !== place", place)
    small = page.evaluate(
        "[...document.querySelectorAll('button, summary, .button')].filter((b) => "
        "b.checkVisibility({ visibilityProperty: true })"
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
    page.goto(f"{one.url}/?id=7&like=9&unlike=33&where=label=red&where=label=blue")
    one.status("results|closest")
    page.keyboard.press("i")
    page.keyboard.press("f")
    page.wait_for_selector(".move:not([hidden])")
    page.keyboard.press("c")
    look("results")
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    page.locator(".hit").nth(2).focus()
    page.keyboard.press("x")
    page.click("#panel-button")
    look("tray and filters")
    page.click("#panel-close")
    page.locator(".hit").nth(2).focus()
    page.keyboard.press("Space")
    page.keyboard.press("d")
    look("lightbox")
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
    page = one.open("/?id=7")
    one.status("closest first")
    page.keyboard.press("f")
    one.until("document.querySelector('input[value=coarse]').checked")
    assert page.evaluate("document.getAnimations().length") == 0
