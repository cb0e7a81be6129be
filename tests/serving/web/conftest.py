"""A browser, and a server with an index for it to visit."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HUES, picture
from tests.serving.web.browser import BITS, EACH, SECONDS, Open, Tab, skip_or_fail
from wingbar.index.index import Index

if TYPE_CHECKING:
    from playwright.sync_api import Browser


# one per module: Playwright's event loop would be in the way of other tests' own
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_or_fail("playwright is not installed: pip install playwright")
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        skip_or_fail("there is no chromium on the path: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def index_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 90 pictures of three colours, with two columns."""
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


@pytest.fixture(scope="session")
def server(index_path: Path) -> Iterator[str]:
    """The URL of `wingbar serve` over the index. Tests that change the index undo it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (index_path.parent / "serve.log").open("w+")
    command = [sys.executable, "-m", "wingbar", "serve", str(index_path), "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):  # a busy machine needs its time
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


@pytest.fixture
def tab(browser: Browser, server: str) -> Iterator[Open]:
    """Opens tabs. At the end their consoles may hold only what the test expects."""
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
    for one in tabs:  # answers that a test makes up may still be under way
        one.page.unroute_all(behavior="ignoreErrors")
    for context in contexts:
        context.close()
    assert complaints == []
