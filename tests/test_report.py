from __future__ import annotations

from pathlib import Path

from wingbar import report
from wingbar.datasets import Entry
from wingbar.index import Hit


def test_right_and_wrong_are_marked_and_lost_files_explained(shared_photos: Path) -> None:
    red = shared_photos / "red" / "000.jpg"
    hits = [
        Hit(1, 1, str(red), "red", 0, 1.0, {}),
        Hit(2, 2, str(shared_photos / "blue" / "000.jpg"), "blue", 5, None, {}),
        Hit(3, 3, "/gone/away.jpg", "red", 9, 0.25, {}),
    ]
    page = report.page(
        "a <title>", "words", [("images", "3")], [report.Gallery(Entry(red, "red"), [("by code", hits)], True)], "note"
    )
    assert page.startswith("<!doctype html>")
    assert "a &lt;title&gt;" in page
    assert page.count('class="good"') == 2
    assert page.count('class="bad"') == 1
    assert "No such file or directory" in page
    assert "9 bits<br>cosine 0.25" in page
    assert "5 bits<" in page
    assert "<footer>note</footer>" in page
    unmarked = report.page("t", "i", [], [report.Gallery(Entry(red, "red"), [("by code", hits)], False)], "")
    assert "✓" not in unmarked
    assert "<footer" not in unmarked
