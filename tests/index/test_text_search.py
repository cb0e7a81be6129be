from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.commands import run
from tests.conftest import picture
from tests.model.encoders import vit, write
from tests.model.text_towers import CLIP, FORM, text_tower, texts, write_text
from wingbar import images
from wingbar.errors import QueryError
from wingbar.index.index import Index
from wingbar.index.ranking import SearchOptions
from wingbar.index.text_search import Text
from wingbar.model.imported import from_onnx
from wingbar.model.model import Model

PICTURES = [np.asarray(picture(i, (40, 36))) for i in range(70)]
LABELS = [f"{i % 3}" for i in range(70)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("towers")
    path = write(folder / "image.onnx", vit())
    text = write_text(folder / "text.onnx", text_tower(causal=True), "text_embeds")
    return from_onnx(
        path, replace(FORM, output="pooler_output"), "clip", texts=texts(folder, text, CLIP)
    )


@pytest.fixture(params=["instances", "classes"])
def index(request: pytest.FixtureRequest, model: Model, tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "a.wb", model) as made:
        made.add(PICTURES, labels=LABELS, bits=8, purpose=request.param)
        yield made


def test_all_items_are_ranked_by_the_encoders_own_cosine(index: Index, model: Model) -> None:
    raw = model.run([images.load(one, model.preprocessing) for one in PICTURES])
    scores = raw @ model.encode_text("a red dress")
    hits = index.search(text="a red dress", k=70)
    assert sorted(hit.id for hit in hits) == list(range(1, 71))
    found = np.array([hit.score for hit in hits])
    assert (np.diff(found) <= 0).all()
    np.testing.assert_allclose(found, [scores[hit.id - 1] for hit in hits], atol=1e-3)
    assert np.ptp(scores) > 10 * 1e-3
    assert hits.shortlist == 70
    assert all(hit.p_chance is None for hit in hits)
    some = index.search(text="a red dress", k=3, where="label=1")
    assert [hit.id for hit in some] == [hit.id for hit in hits if hit.label == "1"][:3]
    two = index.find([Text("a red dress"), Text("two cats")], SearchOptions(k=5))
    assert list(two[0]) == hits[:5]
    assert two[0] != two[1]


def test_what_a_text_does_not_take(index: Index) -> None:
    for options, reason in [
        (SearchOptions(radius=3), "without a radius"),
        (SearchOptions(fine="none"), "without the fine mode none"),
        (SearchOptions(box=(0, 0, 1, 1)), "without a box"),
        (SearchOptions(distinct=True), "without distinct"),
        (SearchOptions(expand=5), "without expand"),
        (SearchOptions(cut=0.01), "without cut"),
    ]:
        with pytest.raises(QueryError, match=reason):
            index.find([Text("x")], options)
    with pytest.raises(QueryError, match="in calls of their own"):
        index.find([Text("x"), 1], SearchOptions())
    with pytest.raises(QueryError, match="one of them at a time"):
        index.search(1, text="x")
    with pytest.raises(QueryError, match="one of them at a time"):
        index.search()


def test_an_index_without_texts(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", Model.of_vectors(4)) as index:
        index.add(vectors=np.eye(4), keys=list("abcd"), bits=4)
        with pytest.raises(QueryError, match="vectors knows no texts"):
            index.search(text="x")


def test_a_text_goes_to_the_encoder_that_knows_texts(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.wb"
    with Index.create(path, also=model) as index:
        index.add(PICTURES, labels=LABELS, bits=8)
        hits = index.search(text="a red dress", k=9)
        assert list(hits) == list(index.encoder("clip").search(text="a red dress", k=9))
        assert list(hits) == list(index.search(text="a red dress", k=9, encoder="clip"))
        with pytest.raises(QueryError, match="general"):
            index.search(text="a red dress", encoder="general")
    code, out, err = run(capsys, "search", path, "--text", "a red dress", "-k", 9)
    assert (code, err) == (0, "wingbar: clip answers, which knows texts\n")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [hit.id for hit in hits]
