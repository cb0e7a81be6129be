"""What the tests of the page share: tabs of a real browser, and pictures for them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.conftest import HUES, picture

if TYPE_CHECKING:
    from playwright.sync_api import Page

EACH = 30  # pictures per class
BITS = 24
SECONDS = 30  # that a busy machine may take


class Tab:
    """A page, with the errors and warnings of its console.

    complaints: all of them
    expected: parts of those that a test provokes
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.expected: list[str] = []
        # interception that begins later would miss the requests that follow at once
        page.route("**/nothing-of-this-name", lambda route: route.abort())
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )

    def open(self, path: str = "/") -> Page:
        """Visit an address and wait for pictures, or for a text in their place."""
        self.page.goto(self.url + path)
        self.page.wait_for_selector(".card, #blank:not([hidden]), #notice:not([hidden])")
        return self.page

    def until(self, expression: str, arg: Any = None) -> None:
        """Wait until an expression holds. Playwright's own way evaluates text, which the page's
        content policy forbids."""
        end = time.monotonic() + SECONDS
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end, f"not within {SECONDS} s: {expression}"
            time.sleep(0.02)

    def status(self, like: str) -> None:
        """Wait until no request is under way and the status line matches the regex `like`."""
        self.until(
            "(like) => document.getElementById('results').ariaBusy !== 'true'"
            " && new RegExp(like).test(document.getElementById('status').textContent)",
            like,
        )

    def labels(self) -> list[str]:
        """Of the cards, in their order."""
        return self.page.locator(".card .name").all_text_contents()

    def names(self) -> list[str]:
        """File names of the cards, in their order, as they are spoken."""
        spoken = self.page.locator(".card .hit").evaluate_all(
            "(all) => all.map((e) => e.ariaLabel)"
        )
        return [name for text in spoken for name in re.findall(r"[^ ,]+\.(?:png|jpg)", text)[:1]]

    def focused(self) -> str:
        """Id or classes of the element that has the focus."""
        return self.page.evaluate("document.activeElement.id || document.activeElement.className")

    def query(self) -> dict[str, list[str]]:
        """The parameters of the URL."""
        return self.page.evaluate(
            "Object.fromEntries([...new URLSearchParams(location.search).keys()]"
            ".map((name) => [name, new URLSearchParams(location.search).getAll(name)]))"
        )


Open = Callable[..., Tab]


def skip_or_fail(reason: str) -> None:
    """Skip a test that has no browser, or fail it with WINGBAR_BROWSER=required."""
    if os.environ.get("WINGBAR_BROWSER") == "required":
        pytest.fail(f"WINGBAR_BROWSER=required, but {reason}")
    pytest.skip(reason)


def picture_bytes(
    seed: int, hue: tuple[int, int, int], kind: str = "JPEG", size: tuple[int, int] = (96, 72)
) -> bytes:
    """A drawn picture as a file."""
    out = io.BytesIO()
    picture(seed, size, hue).save(out, kind)
    return out.getvalue()


def red_and_blue() -> bytes:
    """A PNG of 200 x 100 pixels, red on the left and blue on the right."""
    both = Image.new("RGB", (200, 100))
    both.paste(picture(7001, (100, 100), HUES["red"]), (0, 0))
    both.paste(picture(7002, (100, 100), HUES["blue"]), (100, 0))
    out = io.BytesIO()
    both.save(out, "PNG")
    return out.getvalue()


def choose_file(page: Page, name: str, data: bytes, kind: str = "image/jpeg") -> None:
    """Choose a file as by the button."""
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def drop_file(page: Page, name: str, data: bytes, kind: str, onto: str = "main") -> None:
    """Drop a file on the page, or on a part of it."""
    page.evaluate(
        """async ([name, data, kind, onto]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name, { type: kind }));
          for (const type of ["dragenter", "dragover", "drop"])
            document.querySelector(onto).dispatchEvent(
              new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [name, base64.b64encode(data).decode(), kind, onto],
    )


def search_api(url: str, **record: Any) -> dict[str, Any]:
    """The server's answer to a search by item."""
    asked = urllib.request.Request(
        f"{url}/api/search", json.dumps(record).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.load(answer)
