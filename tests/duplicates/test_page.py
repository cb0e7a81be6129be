from __future__ import annotations

from dataclasses import replace

import pytest

from wingbar.duplicates import page
from wingbar.duplicates.find import Copy, Duplicates

KEPT = Copy(1, "/p/<b>a.jpg", "red & blue", 2_500_000, (640, 480), None, 0, 1.0, None)
PART = Copy(2, "/p/b.jpg", "green", 4_000, (320, 240), "part", 3, 0.8123, 0.97)
FOUND = Duplicates(100, [[KEPT, PART]], 9, 0.6, 5, 1, False, {"pixels": 2.0})


def test_what_the_page_says() -> None:
    text = page.duplicates_page("/x/photos.wb", FOUND)
    for part in (
        "Copies in photos.wb",
        "differ in at most 9 bits",
        "cosine of at least 0.60",
        '&lt;b&gt;a<wbr><span class="ending">.jpg</span>',
        "2 pictures, 1 can go",
        '<p class="quiet">/p</p>',
        "labelled green and red &amp; blue",
        "a part of the other",
        "3 bits, cosine 0.81, pixels 0.97",
        "640 x 480, 2.5 MB",
        "1.0% of all",
        "1 picture could not be read",
    ):
        assert part in text, part
    assert "<b>a" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_without_copies_and_with_too_many() -> None:
    nothing = page.duplicates_page("a.wb", replace(FOUND, groups=[], radius=None, compared=0))
    assert "No copies were found." in nothing
    assert "hold the same bytes" in nothing
    many = [[KEPT, *[PART] * (page.COPIES_SHOWN + 6)], *[[KEPT, PART]] * page.GROUPS_SHOWN]
    text = page.duplicates_page("a.wb", replace(FOUND, groups=many))
    assert "and 7 more" in text
    assert "1 more groups are not shown" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (2_540_000, "2.5 MB"),
        (3e15, "3,000.0 TB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert page.bytes_text(int(count)) == text
