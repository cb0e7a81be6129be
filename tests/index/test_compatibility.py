"""Indexes and models that older versions made open and answer as they did then."""

from __future__ import annotations

import hashlib
import json
import lzma
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wingbar.cli import main
from wingbar.data import toy
from wingbar.errors import OutdatedWarning
from wingbar.hamming import codes
from wingbar.index import store, tables
from wingbar.index.checks import verify
from wingbar.index.index import Index
from wingbar.index.ranking import SearchOptions
from wingbar.model.model import Embeddings, Model

pytestmark = pytest.mark.filterwarnings("ignore::wingbar.errors.OutdatedWarning")
MADE = Path(__file__).parents[1] / "fixtures" / "made_at_2e003ea"
ANSWERS = json.loads((MADE / "answers.json").read_text())


def unpacked(name: str, folder: Path) -> Path:
    path = folder / f"{name}.wb"
    path.write_bytes(lzma.decompress((MADE / f"{name}.wb.xz").read_bytes()))
    return path


@pytest.fixture(scope="module", params=["label_free", "trained"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the index that no test changes."""
    return unpacked(name, tmp_path_factory.mktemp("made"))


@pytest.fixture
def index(path: Path) -> Any:
    with Index.open(path) as index:
        yield index


def test_it_is_whole_and_says_what_it_is(path: Path, index: Index, name: str) -> None:
    assert verify(path) == []
    info = vars(index.info())
    assert {key: info[key] for key in ANSWERS[name]["info"]} == ANSWERS[name]["info"]


def test_items_and_codes_are_read(index: Index, name: str) -> None:
    ids = index.ids()
    assert [ids[0], ids[-1]] == ANSWERS[name]["ids"]
    assert " ".join(hex(int(code)) for code in index.codes()[:, 0]) == ANSWERS[name]["codes"]
    assert index.items()[0].path.startswith("/photos/birds/train/")
    assert np.linalg.norm(index.features().astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("fine", ["none", "ties", "pool"])
def test_stored_items_find_what_they_found(index: Index, name: str, fine: Any) -> None:
    packed, model = index.codes()[:4], index.model
    signs = np.where(codes.unpack(packed, model.bits), np.float32(1), np.float32(-1))
    features = index.features()[:4].astype(np.float32)
    stored = Embeddings(packed, features, signs, model.bits, model.name, model.fingerprint)
    found = index.find(stored, SearchOptions(k=5, fine=fine, shortlist=20))
    for hits, expected in zip(found, ANSWERS[name]["by_stored"][fine], strict=True):
        assert [(hit.id, hit.distance) for hit in hits] == [(id_, d) for id_, d, _ in expected]
        if fine != "none":
            scores = [hit.score for hit in hits]
            assert scores == pytest.approx([min(score, 1) for _, _, score in expected], abs=1e-4)


def test_a_picture_finds_what_it_found(index: Index, name: str) -> None:
    hits = index.search(toy.draw_bird(3, 12345, 48), 3, fine="none")
    if name == "trained":  # float32: alike on every CPU
        found = [(hit.id, hit.path, hit.label, hit.distance) for hit in hits]
        expected = [
            tuple(hit[key] for key in ("id", "path", "label", "distance"))
            for hit in ANSWERS[name]["by_picture"]
        ]
        assert found == expected
    assert [hit.rank for hit in hits] == [1, 2, 3]


def test_a_trained_model_computes_the_same(tmp_path: Path) -> None:
    with Index.open(unpacked("trained", tmp_path)) as index:
        index.model.save(tmp_path / "model")
    model, expected = Model.load(tmp_path / "model"), ANSWERS["model"]
    assert (model.fingerprint, model.method) == (expected["fingerprint"], expected["method"])
    assert set(ANSWERS["model_json_keys"]) == set(model.record)
    embedded = model.encode([toy.draw_bird(species, 777 + species, 48) for species in range(4)])
    np.testing.assert_allclose(embedded.logits, expected["logits"], atol=2e-3)
    np.testing.assert_allclose(embedded.features[:, :4], expected["feature_head"], atol=1e-3)


def test_more_is_added_to_it(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.wb"
    copy.write_bytes(path.read_bytes())
    with Index.open(copy) as index:
        report = index.add([toy.draw_bird(0, 999, 48)])
        assert (report.added, len(index)) == (1, 97)
    assert verify(copy) == []


def test_what_is_printed_still_has_all_keys(
    path: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    birds, query = toy.write_birds(tmp_path / "birds", train=1, test=1, size=48), tmp_path / "q.png"
    Image.fromarray(toy.draw_bird(3, 12345, 48)).save(query)
    for key, command in {
        "info_keys": ["info", path, "--json"],
        "search_keys": ["search", path, query, "-k", "1", "--json"],
        "explain_keys": ["explain", path, query, "-k", "1", "--json"],
        "evaluate_keys": ["evaluate", path, birds, "--keep-constant-bits", "--json"],
    }.items():
        assert main.main([str(part) for part in command]) == 0
        printed = capsys.readouterr().out
        missing = set(ANSWERS[name][key]) - json.loads(printed).keys()
        assert not missing, key


def test_an_index_of_the_old_built_in_model_says_once_that_it_should_be_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = unpacked("label_free", tmp_path)
    with pytest.warns(OutdatedWarning, match=r"label_free.wb was made with .*: make it again with"):
        Index.open(path).close()
    assert main.main(["info", str(path), "--json"]) == 0
    said = capsys.readouterr().err
    assert said.count("wingbar: ") == said.count("make it again with wingbar index NEW.wb") == 1
    assert not Model.load().is_outdated


# -- the ladder of formats: an index of every one of them opens for ever

FIXTURES = Path(__file__).parents[1] / "fixtures"
OF_FORMAT = {
    1: FIXTURES / "made_at_2e003ea" / "trained.wb.xz",
    2: FIXTURES / "format_2" / "vectors.wb.xz",
    3: FIXTURES / "format_3" / "vectors.wb.xz",
    4: FIXTURES / "format_4" / "two.wb.xz",
}
AS_INT8 = json.loads((FIXTURES / "format_3" / "answers.json").read_text())
VECTORS = json.loads((FIXTURES / "format_2" / "answers.json").read_text())


def test_there_is_an_index_of_every_format() -> None:
    """A new format comes with a fixture, made by the version before the next one."""
    assert sorted(OF_FORMAT) == list(range(1, tables.FORMAT + 1))


@pytest.mark.parametrize("format_", OF_FORMAT)
def test_every_format_is_read_unchanged_and_written_in_the_present_one(
    format_: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.wb"
    path.write_bytes(lzma.decompress(OF_FORMAT[format_].read_bytes()))
    before = path.read_bytes()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == format_
    db.close()
    assert verify(path) == []
    with Index.open(path) as index:
        items = index.items()
        first = index.search(int(index.ids()[0]), 3)
        assert first[0].distance == 0
        assert index.select(where="label!=none").ids
    assert path.read_bytes() == before
    with Index.open(path) as index:
        index.delete(int(index.ids()[-1]))
        assert index.items() == items[:-1]
        assert index.search(int(index.ids()[0]), 3)[0].id == first[0].id
    assert verify(path) == []
    with Index.open(path) as index, closing(store.Store.open(path)) as opened:
        assert (opened.format, len(index)) == (tables.FORMAT, len(items) - 1)


def test_what_a_second_encoder_has(tmp_path: Path) -> None:
    path = tmp_path / "a.wb"
    path.write_bytes(lzma.decompress(OF_FORMAT[4].read_bytes()))
    expected = json.loads((FIXTURES / "format_4" / "answers.json").read_text())
    with Index.open(path) as index:
        assert list(index.encoders) == expected["encoders"]
        view = index.encoder("small")
        assert view.ids().tolist() == expected["ids"]
        assert [hex(int(code)) for code in view.codes()[:, 0]] == expected["codes"]
        assert view.model.fingerprint == expected["fingerprint"]
        assert hashlib.sha256(view.features().tobytes()).hexdigest() == expected["features"]
        found = [[hit.id for hit in view.search(int(id_), 5)] for id_ in view.ids()[:4]]
        assert found == expected["nearest"]


@pytest.mark.parametrize("format_", [2, 3])
def test_what_an_index_of_vectors_holds(format_: int, tmp_path: Path) -> None:
    """That of format 3 is a copy with features as int8."""
    path = tmp_path / "a.wb"
    path.write_bytes(lzma.decompress(OF_FORMAT[format_].read_bytes()))
    vectors = np.random.default_rng(2).standard_normal((40, 16)).astype(np.float32)
    with Index.open(path) as index, closing(store.Store.open(path)) as opened:
        assert index.ids().tolist() == VECTORS["ids"]
        assert index.label_counts() == VECTORS["labels"]
        assert [hex(int(code)) for code in index.codes()[:, 0]] == VECTORS["codes"]
        assert index.model.fingerprint == VECTORS["fingerprint"]
        found = [[hit.id for hit in index.search(vector, 5)] for vector in vectors[:4]]
        answers = VECTORS | (AS_INT8 if format_ == 3 else {})
        assert found == answers["nearest"]
        assert index.kept == ("int8" if format_ == 3 else "float16")
        if format_ == 3:
            features = hashlib.sha256(index.features().tobytes()).hexdigest()
            assert features == answers["features"]
        assert list(opened.removed()) == VECTORS["removed"]
