from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.shelf import Shelf, serve
from wingbar.data import encoders
from wingbar.data.encoders import ENCODERS
from wingbar.errors import DataError

NETWORK = b"the bytes of a network" * 50


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    yield from serve(Shelf())


def test_the_table_is_whole() -> None:
    assert list(ENCODERS) == [
        "dinov2-small",
        "dinov3-small",
        "siglip2-base",
        "tinyclip-8m",
        "clip-vit-b32",
        "sscd",
    ]
    for name, encoder in ENCODERS.items():
        assert encoder.name == name
        assert encoder.licence
        assert encoder.preprocessing.size in (224, 320)
        assert all(0 < value < 1 for value in (*encoder.mean, *encoder.std))
        assert all(url.startswith("https://") for url in encoder.urls())
    assert not ENCODERS["dinov3-small"].is_permissive
    assert [url.rsplit("/", 1)[-1] for url in ENCODERS["dinov3-small"].urls()] == [
        "model_quantized.onnx",
        "model_quantized.onnx_data",
    ]
    assert ENCODERS["dinov2-small"].urls("http://mirror/") == [
        "http://mirror/onnx-community/dinov2-small/resolve/8b1f705a/onnx/model.onnx"
    ]
    with pytest.raises(DataError, match="no encoder is called 'dino': there are dinov2-small"):
        encoders.get("dino")


def test_files_are_fetched_and_checked(shelf: Shelf, tmp_path: Path) -> None:
    known = replace(
        ENCODERS["dinov3-small"], revision="abc", size=len(NETWORK), beside=("model.onnx_data",)
    )
    folder = f"/{known.repository}/resolve/abc/onnx/"
    shelf.files = {f"{folder}model_quantized.onnx": NETWORK, f"{folder}model.onnx_data": b"weights"}
    digest = hashlib.sha256(NETWORK).hexdigest()
    found = encoders.fetch(known, tmp_path / "a", hub=shelf.url)
    assert found == encoders.FetchedEncoder(
        tmp_path / "a" / "model_quantized.onnx",
        f"{shelf.url}{folder[1:]}model_quantized.onnx",
        len(NETWORK),
        digest,
    )
    assert found.path.read_bytes() == NETWORK
    assert (tmp_path / "a" / "model.onnx_data").read_bytes() == b"weights"
    asked = len(shelf.asked)
    encoders.fetch(known, tmp_path / "a", hub=shelf.url, sha256=digest[:8])
    assert len(shelf.asked) == asked  # they were there
    with pytest.raises(DataError, match="its sha256 is"):
        encoders.fetch(known, tmp_path / "b", hub=shelf.url, sha256="00")
    with pytest.raises(DataError, match="its sha256 is"):
        encoders.fetch(replace(known, sha256="00"), tmp_path / "c", hub=shelf.url)
    with pytest.raises(DataError, match=r"has 1,100 bytes, not the 7 that are known"):
        encoders.fetch(replace(known, size=7), tmp_path / "d", hub=shelf.url)


def test_a_text_tower_is_fetched_and_checked(shelf: Shelf, tmp_path: Path) -> None:
    for name in ("siglip2-base", "tinyclip-8m", "clip-vit-b32"):
        text = ENCODERS[name].text
        assert text is not None
        for one in text.files:
            assert (one.size > 10**6, len(one.sha256)) == (True, 64)
    made = {
        name: encoders.KnownFile(name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in (("onnx/text.onnx", b"tower"), ("tokenizer.json", b"tokens"))
    }
    clip = ENCODERS["clip-vit-b32"]
    assert clip.text is not None
    text = replace(clip.text, network=made["onnx/text.onnx"], tokenizer=made["tokenizer.json"])
    known = replace(clip, revision="abc", size=0, sha256="", text=text)
    folder = f"/{known.repository}/resolve/abc"
    shelf.files = {
        f"{folder}/{known.file}": NETWORK,
        f"{folder}/onnx/text.onnx": b"tower",
        f"{folder}/tokenizer.json": b"tokens",
    }
    found = encoders.fetch(known, tmp_path / "a", hub=shelf.url)
    assert found.text is not None
    assert found.tokenizer is not None
    assert (found.text.read_bytes(), found.tokenizer.read_bytes()) == (b"tower", b"tokens")
    assert encoders.fetch(known, tmp_path / "b", hub=shelf.url, texts=False).text is None
    both = replace(known, text=replace(text, network=None))
    found = encoders.fetch(both, tmp_path / "c", hub=shelf.url)
    assert found.text == found.path
    shelf.files[f"{folder}/tokenizer.json"] = b"others"
    with pytest.raises(DataError, match="its sha256 is"):
        encoders.fetch(known, tmp_path / "d", hub=shelf.url)


def test_another_revision_has_no_known_checksum(shelf: Shelf, tmp_path: Path) -> None:
    known = replace(ENCODERS["siglip2-base"], sha256="00", text=None)
    shelf.files = {f"/{known.repository}/resolve/main/{known.file}": NETWORK}
    found = encoders.fetch(known, tmp_path, hub=shelf.url, revision="main")
    assert found.size == len(NETWORK)
