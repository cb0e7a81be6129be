from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.encoders import TEN, Vit, features, prepared, vit, write
from tests.model.test_imported import SQUARE, graph_of, pooled
from tests.model.text_towers import (
    CLIP,
    FORM,
    SIGLIP,
    TOKENS,
    feature,
    text_tower,
    texts,
    tokenizer,
    write_both,
    write_text,
)
from wingbar.errors import ModelError, QueryError
from wingbar.model.imported import from_onnx
from wingbar.model.model import Model
from wingbar.model.text import TOWER, TextEncoder, TextForm, default_pad

QUERIES = [
    "a red dress",
    "A BLUE Butterfly",
    "x",
    "two cats and a dog and two cats and a dog and two cats",  # too long, so it is cut
]


@pytest.fixture(scope="module")
def network() -> Vit:
    return vit()


@pytest.mark.parametrize(
    ("form", "causal", "masked"), [(CLIP, True, True), (CLIP, True, False), (SIGLIP, False, False)]
)
def test_a_tower_computes_what_pytorch_does(
    form: TextForm, causal: bool, masked: bool, tmp_path: Path
) -> None:
    tower = text_tower(causal)
    path = write_text(tmp_path / "text.onnx", tower, form.output, masked)
    made = tokenizer(lower=not form.lower).to_str().encode()
    encoder = TextEncoder(path.read_bytes(), made, form, "m", 1)
    for query in QUERIES:
        expected = feature(tower, query, form.pad)
        np.testing.assert_allclose(encoder.encode(query), expected, atol=1e-4)
        assert len(encoder.tokens(query)[0]) == TOKENS
    assert len({encoder.encode(query).tobytes() for query in QUERIES}) == len(QUERIES)


def test_a_model_brings_its_texts(network: Vit, tmp_path: Path) -> None:
    path = write(tmp_path / "image.onnx", network)
    tower = text_tower(causal=True)
    text = write_text(tmp_path / "t.onnx", tower, "text_embeds")
    given = texts(tmp_path, text, replace(CLIP, output=""))  # found by its name
    model = from_onnx(path, replace(FORM, output="pooler_output"), "clip", texts=given)
    assert model.has_text
    assert model.record["text"]["output"] == "text_embeds"
    model.save(tmp_path / "m")
    again = Model.load(tmp_path / "m")
    np.testing.assert_allclose(
        again.encode_text("a red dress"), feature(tower, "a red dress", "<end>"), atol=1e-4
    )
    with pytest.raises(QueryError, match="is empty"):
        again.encode_text("  ")
    with pytest.raises(QueryError, match="is not valid UTF-8"):
        again.encode_text("caf\udce9")
    with pytest.raises(QueryError, match="1,001 characters"):
        again.encode_text("a" * 1001)
    with pytest.raises(QueryError, match="general knows no texts: search by an image"):
        Model.load().encode_text("a red dress")


def test_one_file_of_both_towers(network: Vit, tmp_path: Path) -> None:
    tower = text_tower(causal=True)
    path = write_both(tmp_path / "both.onnx", network, tower)
    model = from_onnx(path, FORM, "clip", texts=texts(tmp_path, path, CLIP))
    # each part has its own weights only
    sizes = [len(model.files[name]) for name in ("model.onnx", TOWER)]
    assert sum(sizes) < 1.2 * path.stat().st_size
    np.testing.assert_allclose(
        model.encode_text("two cats"), feature(tower, "two cats", "<end>"), atol=1e-4
    )
    with torch.no_grad():
        expected = torch.nn.functional.normalize(
            network(torch.stack([prepared(one) for one in TEN]))[1], dim=1
        ).numpy()
    assert np.allclose(expected, features(network, ""))
    assert from_onnx(path, FORM, "clip").dim == model.dim


def test_what_cannot_be_used(network: Vit, tmp_path: Path) -> None:
    path = write(tmp_path / "image.onnx", network)
    text = write_text(tmp_path / "t.onnx", text_tower(causal=True), "text_embeds")
    form = replace(FORM, output="pooler_output")
    given = texts(tmp_path, text, CLIP)
    form_of_pictures = replace(CLIP, output="pooler_output")
    wrong = [
        (replace(given, form=replace(CLIP, pad="<none>")), "no token '<none>' to pad with"),
        (replace(given, form=replace(CLIP, output="y")), "has no output 'y'"),
        (replace(given, network=path, form=form_of_pictures), "text network takes pixel_values"),
        (replace(given, tokenizer=tmp_path / "none"), "cannot be read"),
        (replace(given, tokenizer=text), "tokenizer.json cannot be read"),
    ]
    for one, reason in wrong:
        with pytest.raises(ModelError, match=reason):
            from_onnx(path, form, "clip", texts=one)
    small = graph_of(tmp_path / "small.onnx", pooled(), ["B", 3, "H", "W"])
    with pytest.raises(ModelError, match="of texts have 24 numbers and those of images 3"):
        from_onnx(small, SQUARE, "small", texts=given)


def test_the_form_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TextForm.from_record(SIGLIP.record()) == SIGLIP
    for change in ({"tokens": "77"}, {"tokens": 10**6}, {"tokens": 1}, {"more": 1}, {"pad": None}):
        with pytest.raises(ModelError, match="'text'"):
            TextForm.from_record({**SIGLIP.record(), **change})
    padded = tokenizer()
    assert default_pad(padded.to_str().encode()) == ""
    padded.enable_padding(pad_token="<pad>")
    assert default_pad(padded.to_str().encode()) == "<pad>"
    assert default_pad(json.dumps([]).encode()) == ""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModelError, match=r"run pip install 'wingbar\[text\]'"):
        TextEncoder(b"", b"", CLIP, "m", 1)
