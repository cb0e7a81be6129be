"""The files of the page."""

from __future__ import annotations

import gzip
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import wingbar

pytestmark = pytest.mark.browser

WEB = Path(wingbar.__file__).parent / "serving" / "web"
MODULES = {file.name: file.read_text() for file in WEB.glob("*.js")}


def test_nothing_comes_from_elsewhere() -> None:
    """No inline script or style, which a strict policy forbids, and no address of another host."""
    page = (WEB / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page) == []
    for file in WEB.iterdir():
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text()) == [], file.name
        assert not re.search(
            r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", file.read_text()
        ), file.name


def test_all_ids_exist() -> None:
    """Every element that the modules name is in the page."""
    ids = set(re.findall(r'\bid="([\w-]+)"', (WEB / "index.html").read_text()))
    for name, text in MODULES.items():
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= ids, name


def test_nothing_is_said_by_a_tooltip_alone() -> None:
    """Fingers and keys do not reach tooltips."""
    assert " title=" not in (WEB / "index.html").read_text()
    for name, text in MODULES.items():
        assert not re.search(r'(?<!document)\.title = |setAttribute\("title"', text), name


def test_modules_import_without_circles() -> None:
    imports: dict[str, list[str]] = {
        name: re.findall(r' from "\./([\w-]+\.js)";', text) for name, text in MODULES.items()
    }
    order = list(TopologicalSorter(imports).static_order())  # raises CycleError
    assert set(order) == set(MODULES)
    assert all("main.js" not in needed for needed in imports.values())


def test_modules_are_preloaded() -> None:
    """All at once, instead of one after the other as their imports are read."""
    page = (WEB / "index.html").read_text()
    preloaded = re.findall(r'<link rel="modulepreload" href="/static/([\w-]+\.js)">', page)
    assert sorted(preloaded) == sorted(set(MODULES) - {"main.js", "share.js"})


def test_the_page_is_light() -> None:
    """Under 150 KB on the way, compressed as the server sends it."""
    files = [file for file in WEB.iterdir() if file.name != "share.js"]
    scripts = [file for file in files if file.suffix in (".js", ".css")]
    sent = sum(len(gzip.compress(file.read_bytes(), 6)) for file in scripts)
    assert sent + sum(file.stat().st_size for file in files if file not in scripts) < 150_000
