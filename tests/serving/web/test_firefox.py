"""Walks through the page in Firefox; the other browser tests run in Chromium."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serving.web.browser import Open

# these walks are made in Firefox as well
from tests.serving.web.test_accessibility import test_keyboard_only  # noqa: F401
from tests.serving.web.test_crop import test_crop_with_the_mouse  # noqa: F401
from tests.serving.web.test_results import test_the_lightbox, test_the_map  # noqa: F401
from tests.serving.web.test_search import test_search_by_file_and_reload  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Firefox, in which `tab` opens tabs."""
    pytest.importorskip("websockets")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    if shutil.which("firefox-esr") is None and shutil.which("firefox") is None:
        pytest.skip("there is no firefox on the path: apt-get install firefox-esr")
    start = tmp_path_factory.mktemp("firefox") / "firefox"
    program = Path(__file__).with_name("firefox.py")
    start.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    start.chmod(start.stat().st_mode | stat.S_IXUSR)
    with sync_playwright() as playwright:
        # the channel says that it is a Firefox as it is released, not one of Playwright's own
        opened = playwright.firefox.launch(channel="moz-firefox", executable_path=start)
        yield opened
        opened.close()


def test_the_tray(tab: Open) -> None:
    one = tab()
    page = one.open("/?id=7")
    one.status("closest first")
    page.focus(".card:nth-child(2) .hit")
    page.keyboard.press("x")
    page.click(".card:nth-child(4) .hit", modifiers=["Shift"])
    assert page.inner_text("#tray-text") == "3 pictures selected"
    page.keyboard.press("Escape")
    assert page.is_hidden("#tray")


def test_a_narrow_window(tab: Open) -> None:
    one = tab(390, 844)
    page = one.open()
    fits = "document.documentElement.scrollWidth <= innerWidth && innerWidth === 390"
    assert page.evaluate(fits)
    page.click(".card:nth-child(2) .hit")
    one.status("closest first")
    assert page.evaluate(fits)
    assert page.evaluate("document.querySelector('.card').getBoundingClientRect().top < 140")
    page.evaluate("scrollBy(0, 900)")
    assert page.evaluate("document.getElementById('top').getBoundingClientRect().top") == 0
