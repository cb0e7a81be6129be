"""Search by a text on the page, where the model knows texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import HUES, picture
from tests.model.text_towers import CLIP, FORM, image_tower, text_tower, texts, write_text
from tests.servers import process
from tests.serving.web.browser import Open
from wingbar.index.index import Index
from wingbar.model.imported import from_onnx

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_a_text_is_searched_for_and_linked_to(tab: Open, tmp_path: Path) -> None:
    text = write_text(tmp_path / "t.onnx", text_tower(causal=True), "text_embeds")
    model = from_onnx(
        image_tower(tmp_path / "i.onnx"), FORM, "small", texts=texts(tmp_path, text, CLIP)
    )
    path = tmp_path / "said.wb"
    with Index.create(path, model) as index:
        pictures = [picture(i, hue=hue) for i, hue in enumerate(HUES.values())]
        index.add([np.asarray(one) for one in pictures], labels=list(HUES), bits=3)
        expected = [hit.label for hit in index.search(text="a red dress")]
    with process(path) as (_, client):
        one = tab()
        one.url = str(client.base_url).rstrip("/")
        page = one.open()
        page.get_by_role("searchbox", name="Search by text").fill("a red dress")
        page.keyboard.press("Enter")
        one.status("3 results")
        assert page.inner_text("#title") == "Showing “a red dress”"
        assert one.query() == {"text": ["a red dress"]}
        assert one.labels() == expected
        page.reload()
        one.status("3 results")
        assert one.labels() == expected
        assert page.locator(".earlier").inner_text() == "“a red dress”"
        page.get_by_role("button", name="Take “a red dress” out of the query").click()
        one.until("document.body.dataset.view === 'start'")


@pytest.mark.slow
def test_without_texts_there_is_no_field(tab: Open) -> None:
    assert tab().open().is_hidden("#text-input")
