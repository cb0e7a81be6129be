"""Make pictures of the page in ten states, of an index of the demo's drawn birds.

    python scripts/screenshots.py shots/ [--index photos.wb]
    python scripts/screenshots.py docs/pictures/ --readme

Needs Playwright and Chromium. Every state is taken at 1280 x 800, light and dark, and at 390 x 844
as on a phone. With --index the pictures of another index are shown; --readme makes only the
pictures of the README, as WebP.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from wingbar.data.garden import write_garden
from wingbar.index.index import Index

if TYPE_CHECKING:
    from playwright.sync_api import Page

README = ("start-light", "results-light", "lightbox-dark", "map-light", "results-phone")
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
WINDOWS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {**PHONE, "color_scheme": "light"},
    "phone-dark": {**PHONE, "color_scheme": "dark"},
}


def write_index(folder: Path) -> Path:
    """An index of drawn birds."""
    birds = write_garden(folder / "birds")
    with Index.create(folder / "birds.wb") as index:
        index.add(birds / "train")
    return folder / "birds.wb"


@contextmanager
def serving(index: Path) -> Iterator[str]:
    """The URL of a server of the index."""
    command = [sys.executable, "-m", "wingbar", "serve", str(index), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"].rstrip("/")
    finally:
        process.terminate()
        process.wait()


def start(page: Page) -> None:
    page.wait_for_selector(".card")


def search(page: Page) -> None:
    page.locator(".card").nth(10).locator(".hit").click()
    page.wait_for_url("**id=*")
    page.wait_for_selector("#results[aria-busy='false']")
    page.mouse.move(2, 2)


def inspect(page: Page) -> None:
    page.keyboard.press("i")
    for _ in range(2):
        page.keyboard.press("f")
        page.wait_for_timeout(1000)


def mark(page: Page) -> None:
    page.keyboard.press("i")
    for n, side in ((2, "y"), (5, "y"), (7, "n")):
        page.locator(".hit").nth(n).focus()
        page.keyboard.press(side)
        page.wait_for_timeout(800)


def crop(page: Page) -> None:
    page.keyboard.press("c")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(1500)


def lightbox(page: Page) -> None:
    page.keyboard.press("Escape")
    page.locator(".card").nth(3).locator(".detail").click()
    page.wait_for_timeout(800)


def tray(page: Page) -> None:
    page.keyboard.press("Escape")
    for n in (0, 2, 3, 6):
        page.locator(".hit").nth(n).focus()
        page.keyboard.press("x")


def filters(page: Page) -> None:
    page.keyboard.press("Escape")
    page.click("#panel-button")
    page.locator("#filters .chip").first.click()
    page.wait_for_timeout(800)


def show_map(page: Page) -> None:
    page.click("#panel-close")
    page.click("#home")
    page.click("#map-button")  # by the mouse, which leaves no focus ring
    page.mouse.move(2, 2)
    page.wait_for_selector("#map-wait", state="hidden", timeout=120_000)
    page.wait_for_timeout(3000)


def nothing(page: Page) -> None:
    page.goto(page.url.split("/?")[0].rstrip("/") + "/?id=1&radius=0&where=label=none")
    page.wait_for_selector("#blank:not([hidden])")


STATES: dict[str, Callable[[Page], None]] = {
    "start": start,
    "results": search,
    "inspect": inspect,
    "marks": mark,
    "crop": crop,
    "lightbox": lightbox,
    "tray": tray,
    "filters": filters,
    "map": show_map,
    "nothing": nothing,
}


def as_webp(path: Path) -> None:
    """Make the picture a WebP of half its bytes."""
    with Image.open(path) as picture:
        picture.save(path.with_suffix(".webp"), quality=90, method=6)
    path.unlink()


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--readme", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as own,
        serving(args.index or write_index(Path(own))) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for window, options in WINDOWS.items():
            page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
            page.goto(url)
            for name, go in STATES.items():
                go(page)
                page.wait_for_timeout(1200)  # thumbnails
                shot = f"{name}-{window}"
                if args.readme and shot not in README:
                    continue
                page.screenshot(path=args.folder / f"{shot}.png")
                if args.readme:
                    as_webp(args.folder / f"{shot}.png")
                print(shot)
        browser.close()


if __name__ == "__main__":
    main()
