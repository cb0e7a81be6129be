"""A folder of the server's machine, indexed from the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import HUES, picture
from tests.model.test_model import trained_model
from tests.servers import serving
from tests.serving.web.browser import Open
from wingbar.index.index import Index
from wingbar.serving.settings import Settings

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_an_empty_index_invites_to_index_a_folder(tab: Open, tmp_path: Path) -> None:
    Index.create(tmp_path / "own.wb", trained_model()).close()
    for i in range(5):
        (tmp_path / "photos" / "red").mkdir(parents=True, exist_ok=True)
        picture(i, hue=HUES["red"]).save(tmp_path / "photos" / "red" / f"{i}.jpg")
    (tmp_path / "photos" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    settings = Settings(index=tmp_path / "own.wb", index_folders=(tmp_path / "photos",))
    one = tab()
    with serving(settings) as client:
        one.url = str(client.base_url).rstrip("/")
        page = one.open()
        page.click("#blank button:has-text('Index a folder of this machine')")
        assert page.input_value("#indexing-folder") == str(tmp_path / "photos")
        page.fill("#indexing-folder", str(tmp_path))
        page.keyboard.press("Enter")
        page.wait_for_selector("#indexing-note:has-text('is not inside')")
        page.fill("#indexing-folder", str(tmp_path / "photos"))
        page.keyboard.press("Enter")
        page.wait_for_selector("#adding-text:has-text('5 added. 1 picture could not be used')")
        assert "broken.jpg not an image" in page.inner_text("#adding-failed")
        page.click("#adding-stop:has-text('Close')")
        page.wait_for_selector(".card")
        assert one.labels() == ["red"] * 5
        page.goto("about:blank")  # the server waits for nobody
    one.expected += ["status of 403", "Problem"]
