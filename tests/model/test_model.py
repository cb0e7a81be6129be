from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import picture
from tests.small_network import DIM, SIZE
from wingbar import images
from wingbar.errors import ImageError, ModelError, QueryError
from wingbar.hamming import codes
from wingbar.images import Preprocessing, load
from wingbar.model import fitting, runtime
from wingbar.model import model as model_module
from wingbar.model.fitting import FitOptions
from wingbar.model.model import (
    GENERAL,
    OWN_NETWORKS,
    Embeddings,
    Model,
    check_same,
    over_views,
    preprocessing_record,
    with_record,
)
from wingbar.parallel import BATCH, batched


def trained_model(seed: int = 0, bits: int = 20) -> Model:
    """A model as training leaves it, two outputs: mean colour as feature, and a random layer on it
    as code logits."""
    weights = np.random.default_rng(seed).standard_normal((3, bits)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["feature"], axis=1, p=2),
        helper.make_node("Sub", ["feature", "half"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", "H", "W", 3])],
        [
            helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", 3]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", bits]),
        ],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("half", TensorProto.FLOAT, [1], [0.55]),
            helper.make_tensor("weights", TensorProto.FLOAT, [3, bits], weights.ravel().tolist()),
        ],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(network)
    record = {
        "name": "tiny",
        "method": "dlbhc",
        "dim": 3,
        "bits": bits,
        "fine": "ties",
        "preparation": preprocessing_record(Preprocessing(size=16)),
    }
    return Model(with_record({"model.onnx": network.SerializeToString()}, record))


@pytest.fixture(scope="module")
def fitted() -> Model:
    model = Model.load()
    pixels = [load(picture(i), model.preprocessing) for i in range(40)]
    return model.fitted(
        np.concatenate([model.run(batch) for batch in batched(pixels, 16)]), 32, seed=0
    )


@pytest.mark.usefixtures("built_in_network")
def test_the_general_model_is_small_and_whole() -> None:
    assert sum(path.stat().st_size for path in GENERAL.iterdir()) <= 7_500_000
    assert "Apache" in (GENERAL / "NOTICE").read_text()
    model = Model.load()
    assert model.record["files"]["model.onnx"] == OWN_NETWORKS[-1]
    runtime.check_network(model.files["model.onnx"])
    assert (model.name, model.method, model.fine, model.dim) == ("general", "itq", "pool", 1280)
    assert not model.gives_codes
    with pytest.raises(ModelError, match="learns its codes"):
        _ = model.bits
    raw = model.run([load(picture(1), model.preprocessing)])
    assert raw.shape == (1, 1280)
    np.testing.assert_allclose(np.linalg.norm(raw), 1, atol=1e-5)


def test_the_core_imports_neither_torch_nor_scipy() -> None:
    script = (
        "import sys, wingbar as wb; wb.Model.load().encode; wb.Index; wb.evaluate; "
        "assert not {'torch', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_an_image_has_the_same_code_from_every_kind_of_source(
    fitted: Model, tmp_path: Path
) -> None:
    paths = []
    for i in range(35):
        paths.append(tmp_path / f"{i}.png")
        picture(100 + i, (120, 90)).save(paths[-1])
    together = fitted.encode(paths)
    assert together.codes.shape == (35, 1)
    assert together.features.shape == (35, DIM)
    np.testing.assert_allclose(np.linalg.norm(together.features, axis=1), 1, atol=1e-5)
    for threads in (1, 3):
        again = fitted.encode((path.read_bytes() for path in paths), threads=threads)
        np.testing.assert_array_equal(again.codes, together.codes)
        np.testing.assert_array_equal(again.features, together.features)
    for i in range(0, 35, 6):
        alone = fitted.encode([np.asarray(picture(100 + i, (120, 90)))])
        np.testing.assert_array_equal(alone.codes[0], together.codes[i])
        np.testing.assert_array_equal(alone.codes, together[i].codes)


def test_encoding_nothing(fitted: Model) -> None:
    nothing = fitted.encode([])
    assert nothing.codes.shape == (0, 1)
    assert nothing.features.shape == (0, DIM)


def test_a_bad_image_is_named_by_its_error(fitted: Model) -> None:
    with pytest.raises(ImageError, match="not an image"):
        fitted.encode([picture(1), b"words"])


def test_codes_are_the_signs_of_the_rotated_feature(fitted: Model) -> None:
    raw = fitted.run([load(picture(5), fitted.preprocessing)])
    assert fitted.rotation is not None
    logits = (raw[0].astype(float) - fitted.rotation.mean) @ fitted.rotation.code
    np.testing.assert_array_equal(codes.unpack(fitted.embed(raw).codes, 32)[0], logits >= 0)


def test_a_trained_model_has_its_own_logits() -> None:
    model = trained_model()
    image = picture(3, hue=(200, 40, 30))
    found = model.encode([image])
    mean = load(image, model.preprocessing).reshape(-1, 3).mean(0)
    np.testing.assert_allclose(found.features[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert (model.bits, model.dim) == (20, 3)
    weights = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    np.testing.assert_array_equal(
        codes.unpack(found.codes, 20)[0], (found.features[0] - 0.55) @ weights >= 0
    )
    with pytest.raises(ModelError, match="nothing to fit"):
        model.fitted(np.zeros((5, 23), np.float32), 8, 0)


def test_a_model_is_the_same_after_saving_and_loading(fitted: Model, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m")
    again = Model.load(tmp_path / "m")
    assert again.fingerprint == fitted.fingerprint
    assert str(again) == str(fitted)
    np.testing.assert_array_equal(
        again.encode([picture(1)]).codes, fitted.encode([picture(1)]).codes
    )


def test_the_fingerprint_covers_the_rotation(fitted: Model) -> None:
    raw = np.concatenate([fitted.run([load(picture(i), fitted.preprocessing)]) for i in range(5)])
    assert fitted.fitted(raw, 32, seed=0).fingerprint != fitted.fingerprint
    assert (
        Model.load().fitted(raw, 32, seed=0).fingerprint
        == Model.load().fitted(raw, 32, seed=0).fingerprint
    )


def test_a_changed_file_is_noticed(fitted: Model, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[1000] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.onnx is not the file"):
        Model.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "upgrade wingbar"),
        ({"preparation": {"size": 9, "spin": 1}}, "newer wingbar"),
        ({"files": {"lost.bin": "0"}}, "not complete"),
        ({"files": []}, "cannot be read"),
        ({"files": {}}, "names no"),
    ],
)
def test_a_record_that_cannot_be_used(
    fitted: Model, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    fitted.save(tmp_path)
    record = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(ModelError, match=reason):
        Model.load(tmp_path)


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model in"):
        Model.load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        Model.load(tmp_path)


def test_another_models_embedding_is_refused_with_both_names(fitted: Model) -> None:
    stranger = Embeddings(
        np.zeros((1, 1), np.uint64),
        np.zeros((1, 256), np.float32),
        np.zeros((1, 32), np.float32),
        32,
        "other",
        "ab" * 32,
    )
    with pytest.raises(QueryError, match=r"other \(abababababab\).*general \(label-free, 32 bits"):
        check_same(stranger, fitted, "photos.wb")


def test_scales_are_averaged_and_shapes_kept_apart() -> None:
    """A network that gives the mean colour and the share of the width, by hand."""
    preprocessing = Preprocessing(size=64, whole=True, scales=(0.5, 1.0, 2.0))

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert len(pixels) <= BATCH
        count, height, width = pixels.shape[:3]
        feature = np.tile([height, width], (count, 1)).astype(np.float32)
        return feature / np.linalg.norm(feature, axis=1, keepdims=True), np.full(
            (count, 1), width, np.float32
        )

    shapes = [(100, 100), (200, 100), (50, 200)]
    given = [load(picture(i, shapes[i % 3]), preprocessing) for i in range(50)]
    raw = over_views(run, given, preprocessing)
    for i, row in enumerate(raw):
        sizes = [view.shape[:2] for view in images.views(given[i], preprocessing)]
        mean = np.mean([np.array(size) / np.hypot(*size) for size in sizes], axis=0)
        np.testing.assert_allclose(row[:2], mean / np.linalg.norm(mean), rtol=1e-5)
        assert row[2] == pytest.approx(np.mean([width for _, width in sizes]), rel=1e-6)
    assert len({tuple(row) for row in raw.round(4).tolist()}) == 3


def test_a_picture_and_its_mirror_image_get_one_answer() -> None:
    model = trained_model()
    mirrored = model.with_preprocessing(replace(model.preprocessing, mirrored=True))
    assert mirrored.fingerprint != model.fingerprint
    given = picture(1, (SIZE, SIZE))
    pixels = np.asarray(given)
    both = model.run([pixels, pixels[:, ::-1]])
    [found] = mirrored.run([pixels])
    features = both[:, : model.dim]
    mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found[: model.dim], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(found[model.dim :], both[:, model.dim :].mean(0), atol=1e-5)
    one, other = mirrored.encode([pixels, pixels[:, ::-1]]).features
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert mirrored.name == f"{model.name}-mirrored"
    again = mirrored.with_preprocessing(model.preprocessing)
    assert again.record["preparation"] == model.record["preparation"]


def test_what_was_measured_with_other_pixels_is_left_out() -> None:
    agreed = {"cosine_mean": 0.99, "cosine_min": 0.9, "same_neighbour": 0.8}
    measured = {"held_out_map": {"none": 0.5}, "int8_agreement": agreed, "macs": 7}
    model = trained_model().altered({}, measured)
    other = model.with_preprocessing(replace(model.preprocessing, mirrored=True))
    assert measured.keys() <= set(model.record) - set(other.record)


@pytest.mark.parametrize("wrong", [float("nan"), 10**400, 1e300, True, None])
def test_an_agreement_that_is_none_is_refused(wrong: Any) -> None:
    agreed = {"cosine_mean": wrong, "cosine_min": 0.9, "same_neighbour": 0.8}
    with pytest.raises(ModelError, match="int8_agreement"):
        trained_model().altered({}, {"int8_agreement": agreed})


def test_other_models_are_made_to_run_on_as_many_cores() -> None:
    model = Model(trained_model().files, threads=3)
    for other in (model.altered({}, {"name": "other"}), model.opened()):
        assert other._threads == 3


def test_a_model_without_a_network_has_no_preprocessing_to_change() -> None:
    with pytest.raises(ModelError, match="has no network"):
        Model.of_vectors(8).with_preprocessing(Preprocessing(size=32))


def test_another_preprocessing_makes_another_model() -> None:
    model = trained_model()  # of any size
    other = model.with_preprocessing(Preprocessing(size=64, whole=True, scales=(1.0, 2.0)))
    assert other.fingerprint != model.fingerprint
    assert other.preprocessing == Preprocessing(size=64, whole=True, scales=(1.0, 2.0))
    wide = picture(1, (128, 32))
    views = images.views(load(wide, other.preprocessing), other.preprocessing)
    mean = np.mean(
        [model.run([view])[0, :3] / np.linalg.norm(model.run([view])[0, :3]) for view in views],
        axis=0,
    )
    found = other.encode([wide]).features[0]
    np.testing.assert_allclose(
        found / np.linalg.norm(found), mean / np.linalg.norm(mean), atol=1e-5
    )
    assert (
        other.with_preprocessing(model.preprocessing).encode([wide]).features.tolist()
        == model.encode([wide]).features.tolist()
    )
    with pytest.raises(ModelError, match=f"{SIZE} x {SIZE} only"):
        Model.load().with_preprocessing(Preprocessing(size=192))


def test_open_codes_are_learned_from_the_features_of_the_trained_network() -> None:
    trained = trained_model()
    rng = np.random.default_rng(0)
    pixels = list(rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8))
    opened = trained.opened()
    assert opened.fingerprint != trained.fingerprint
    raw = opened.run(pixels)
    np.testing.assert_array_equal(raw, trained.encode_pixels(pixels).features)
    with pytest.raises(ModelError, match="learns its codes"):
        opened.embed(raw)
    assert opened.fitted(raw, 2, seed=0).encode_pixels(pixels).codes.shape == (12, 1)
    with pytest.raises(ModelError, match="from each index already"):
        opened.opened()


# -- models of strangers


def written(folder: Path, change: dict[str, object] | None = None, text: str = "") -> Path:
    """A model directory whose model.json was changed or replaced."""
    trained_model().save(folder)
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(text or json.dumps({**record, **(change or {})}))
    return folder


def with_file(name: str, content: bytes = b"secret") -> dict[str, object]:
    """The files of the model, and one more."""
    network = trained_model().record["files"]
    return {"files": {**network, name: hashlib.sha256(content).hexdigest()}}


@pytest.mark.parametrize(
    "name",
    ["../secret", "./../secret", "/etc/passwd", "a/b", "..", ".", "", ".bashrc", "a\\b", "n\0"],
)
def test_files_of_a_model_have_plain_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(ModelError, match="names the file"):
        Model.load(written(tmp_path / "m", with_file(name)))
    record = {key: value for key, value in trained_model().record.items() if key != "files"}
    files = {"model.onnx": trained_model().files["model.onnx"], name: b"secret"}
    with pytest.raises(ModelError, match="names the file"):  # as an index would bring it
        Model(with_record(files, record))


def test_files_of_a_model_are_regular_and_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for kind, reason in [
        ("pipe", "not a regular"),
        ("link", "leads outside"),
        ("dir", "regular|directory"),
    ]:
        folder = written(tmp_path / kind, with_file("more"))
        if kind == "pipe":
            os.mkfifo(folder / "more")
        elif kind == "link":
            (folder / "more").symlink_to(tmp_path / "secret")
        else:
            (folder / "more").mkdir()
        with pytest.raises(ModelError, match=reason):
            Model.load(folder)
    (folder / "more").rmdir()
    (folder / "other").write_bytes(b"secret")
    (folder / "more").symlink_to("other")  # a link inside of the directory is fine
    assert Model.load(folder).files["more"] == b"secret"
    monkeypatch.setattr(model_module, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="over the limit of 100"):
        Model.load(folder)


def test_a_file_that_the_record_does_not_name_is_refused() -> None:
    with pytest.raises(ModelError, match="does not name"):
        Model({**trained_model().files, "../../.bashrc": b"echo"})


@pytest.mark.parametrize("key", sorted(trained_model().record))
@pytest.mark.parametrize(
    "value", [None, -1, 10**12, 0.5, True, "\033[2J\n", [], ["x"], {}, {"x": [1]}], ids=repr
)
def test_a_record_of_any_shape_gives_a_model_or_one_line(key: str, value: object) -> None:
    files = trained_model().files
    record = {**trained_model().record, key: value}
    try:
        model = Model({**files, "model.json": json.dumps(record).encode()})
    except ModelError as error:
        assert str(error).isprintable()  # noqa: PT017  # both outcomes are right
    else:
        assert str(model).isprintable()


CHOSEN: dict[str, Any] = {
    "for": "classes",
    "measure": "average precision by labels",
    "queries": 3,
    "gallery": 4,
    "candidates": [{"name": "tiny", "fingerprint": "ab", "scores": {"itq": {"none": 0.5}}}],
    "name": "tiny",
    "codes": "itq",
    "fine": "none",
    "score": 0.5,
    "error": 0.1,
}


@pytest.mark.parametrize("purpose", ["classes", "copies"])
def test_a_fit_can_be_ended_for_the_purpose_of_a_choice_and_for_others(
    purpose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Event()
    monkeypatch.setattr(fitting, "fit", lambda *_, **__: ended.wait(30))

    def look() -> None:
        raise InterruptedError

    chosen = Model.load().as_chosen(CHOSEN)
    raw = np.eye(24, chosen.dim, dtype=np.float32)
    with pytest.raises(InterruptedError):
        chosen.fitted(raw, 8, 0, FitOptions(purpose=purpose), look=look)
    ended.set()


def test_a_model_that_was_chosen_knows_for_what() -> None:
    general = Model.load()
    raw = np.random.default_rng(0).standard_normal((70, general.dim)).astype(np.float32)
    chosen = general.as_chosen(CHOSEN)
    assert (general.chosen, general.fine) == ({}, "pool")
    assert dict(chosen.chosen) == {**CHOSEN, "fine_before": "pool"}
    assert chosen.fine == "none"
    assert chosen.as_before_choice().fingerprint == general.fingerprint
    # chosen again, for something that was not measured
    reason = {**CHOSEN, "for": "copies", "reason": "it rains"}
    again = chosen.as_chosen({key: reason[key] for key in ("for", "reason", "candidates", "name")})
    assert (again.fine, again.chosen["fine_before"]) == ("pool", "pool")

    fitted = chosen.fitted(raw, 8, 0)
    assert fitted.averages
    assert fitted.record["fitted"]["codes"] == "itq"
    assert (fitted.fine, dict(fitted.chosen)) == ("none", dict(chosen.chosen))
    assert chosen.fitted(raw, 8, 0, FitOptions(codes="whitened")).record["fitted"]["codes"] == (
        "whitened"
    )
    other = fitted.fitted(raw, 8, 0, FitOptions(purpose="copies"))
    assert (other.fine, other.chosen, other.averages) == ("pool", {}, False)
    assert (
        fitted.files["rotation.npz"]
        == (
            general.fitted(raw, 8, 0, FitOptions(purpose="classes", codes="itq")).files[
                "rotation.npz"
            ]
        )
    )


@pytest.mark.parametrize("key", sorted(CHOSEN))
@pytest.mark.parametrize("value", [None, True, [1], {"x": 1}, [{}], "pets"], ids=repr)
def test_a_choice_that_cannot_be_read_is_one_line(key: str, value: object) -> None:
    broken = {**CHOSEN, "fine_before": "pool", key: value}
    record = {**trained_model().record, "chosen": broken}
    files = {name: data for name, data in trained_model().files.items() if name != "model.json"}
    if value == "pets" and key not in ("for", "queries", "gallery", "candidates", "score", "error"):
        assert Model(with_record(files, record)).chosen == broken
        return
    with pytest.raises(ModelError, match="'chosen' is"):
        Model(with_record(files, record))


@pytest.mark.parametrize(
    "text", ["[1]", "7", "null", "[" * 100_000, "{", "\0", '{"format": 1}', "1" * 9999, '"format"']
)
def test_a_record_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match="cannot be read") as refused:
        Model.load(written(tmp_path, text=text))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "preparation",
    [
        {"size": "224"},
        {"size": 10**6},
        {"size": True},
        {"keep": None},
        {"keep": float("nan")},
        {"scales": 3},
        {"scales": ["1"]},
        {"scales": [1.0] * 17, "whole": True},
        {"whole": 1},
    ],
)
def test_a_preprocessing_of_the_wrong_kind(preparation: dict[str, object]) -> None:
    record = {**trained_model().record, "preparation": preparation}
    with pytest.raises(ModelError, match="its preprocessing is"):
        Model({**trained_model().files, "model.json": json.dumps(record).encode()})


@pytest.mark.parametrize("change", [{"dim": 4}, {"bits": 19}])
def test_a_network_that_gives_something_else_than_its_record_says(change: dict[str, int]) -> None:
    record = {**trained_model().record, **change}
    model = Model({**trained_model().files, "model.json": json.dumps(record).encode()})
    with pytest.raises(ModelError, match=r"as model\.json says"):
        model.encode([picture(1)])
