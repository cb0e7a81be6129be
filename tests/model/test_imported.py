from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.model import encoders
from tests.model.encoders import EDGE, SIZE, TEN, WIDTH
from wingbar.errors import ModelError
from wingbar.images import Preprocessing, load
from wingbar.index.index import Index
from wingbar.model import proof
from wingbar.model.imported import CLIP_MEAN, CLIP_STD, HALF, Form, from_onnx, read_preprocessor
from wingbar.model.model import PROOF, Model

FORM = Form(
    preprocessing=Preprocessing(size=SIZE, edge=EDGE, bicubic=True), mean=CLIP_MEAN, std=CLIP_STD
)
TAKEN: dict[str, dict[str, Any]] = {
    "cls": {"output": "last_hidden_state", "pool": "cls"},
    "mean": {"output": "last_hidden_state", "pool": "mean"},
    "": {"output": "pooler_output"},
}


@pytest.fixture(scope="module")
def vit() -> encoders.Vit:
    return encoders.vit()


@pytest.fixture(scope="module")
def folder(vit: encoders.Vit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in every form."""
    folder = tmp_path_factory.mktemp("encoders")
    for layout in ("nchw", "nhwc"):
        for is_uint8 in (False, True):
            kind = "uint8" if is_uint8 else "float"
            encoders.write(folder / f"{layout}-{kind}.onnx", vit, layout, is_uint8)
    return folder


@pytest.mark.parametrize("pool", TAKEN)
@pytest.mark.parametrize("kind", ["nchw-float", "nhwc-float", "nchw-uint8", "nhwc-uint8"])
def test_every_form_gives_what_pytorch_gives(
    folder: Path, vit: encoders.Vit, kind: str, pool: str
) -> None:
    model = from_onnx(folder / f"{kind}.onnx", replace(FORM, **TAKEN[pool]), "vit")
    found = model.encode(TEN) if model.gives_codes else None
    assert found is None  # label-free: codes are learned from the images of an index
    raw = model.run([load(one, model.preprocessing) for one in TEN])
    assert raw.shape == (10, WIDTH)
    np.testing.assert_allclose(raw, encoders.features(vit, pool), atol=1e-4)
    assert (model.method, model.batch, model.dim) == ("itq", 16, WIDTH)
    assert model.record["imported"]["layout"] == kind[:4]
    assert PROOF in model.files
    assert proof.problem(model) is None


def test_an_index_of_an_imported_model_is_complete_in_itself(folder: Path, tmp_path: Path) -> None:
    model = from_onnx(folder / "nchw-float.onnx", replace(FORM, **TAKEN["cls"]), "vit")
    model.save(tmp_path / "m")
    again = Model.load(tmp_path / "m")
    assert again.fingerprint == model.fingerprint
    assert again.preprocessing == FORM.preprocessing
    with Index.create(tmp_path / "a.wb", tmp_path / "m") as index:
        index.add(TEN, bits=16)
    with Index.open(tmp_path / "a.wb") as index:
        for i, one in enumerate(TEN):
            hit = index.search(one, 1)[0]
            assert (hit.id, hit.distance) == (i + 1, 0)


# -- other graphs


def graph_of(
    path: Path,
    nodes: list[Any],
    shape: list[Any],
    kind: int = TensorProto.FLOAT,
    constants: dict[str, np.ndarray] | None = None,
    names: tuple[str, str] = ("x", "y"),
    opset: int = 18,
) -> Path:
    """A graph that was written by hand, its output of any shape."""
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info(names[0], kind, shape)],
        [helper.make_tensor_value_info(names[1], kind, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(made, str(path))
    return path


def pooled(given: str = "x", made: str = "y") -> list[Any]:
    return [
        helper.make_node("GlobalAveragePool", [given], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], [made]),
    ]


SQUARE = Form(preprocessing=Preprocessing(size=16, squash=True), mean=HALF, std=HALF)


def means(form: Form = SQUARE) -> np.ndarray:
    """The mean of each normalised channel of TEN, of unit length."""
    loaded = [load(one, form.preprocessing) for one in TEN]
    found = np.stack([(one.mean((0, 1)) * form.scale - form.mean) / form.std for one in loaded])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def run(model: Model) -> np.ndarray:
    return model.run([load(one, model.preprocessing) for one in TEN])


def test_float16_a_map_of_features_and_pixels_up_to_255(tmp_path: Path) -> None:
    shape = ["B", 3, "H", "W"]
    half = graph_of(tmp_path / "half.onnx", pooled(), shape, TensorProto.FLOAT16)
    np.testing.assert_allclose(run(from_onnx(half, SQUARE, "half")), means(), atol=3e-3)
    same = [helper.make_node("Relu", ["x"], ["y"])]
    for opset in (11, 13, 18):
        map_ = graph_of(tmp_path / f"map{opset}.onnx", same, shape, opset=opset)
        form = replace(SQUARE, pool="mean", mean=(0.0, 0.0, 0.0), std=(1.0, 2.0, 4.0), scale=1.0)
        np.testing.assert_allclose(run(from_onnx(map_, form, "map")), means(form), atol=1e-5)


def test_names_of_a_graph_may_be_wingbars_own(tmp_path: Path) -> None:
    path = graph_of(
        tmp_path / "a.onnx",
        pooled("pixels", "feature"),
        ["B", 3, 16, 16],
        names=("pixels", "feature"),
    )
    np.testing.assert_allclose(run(from_onnx(path, SQUARE, "own")), means(), atol=1e-5)


def test_a_network_of_one_picture_is_run_on_one_at_a_time(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "a.onnx", pooled(), [1, 3, 16, 16])
    model = from_onnx(path, SQUARE, "one")
    assert model.batch == 1
    np.testing.assert_allclose(run(model), means(), atol=1e-5)


def test_ranges_of_the_batch_make_it_one_by_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("AveragePool", ["x"], ["grid"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["grid"], ["flat"]),
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = from_onnx(graph_of(tmp_path / "a.onnx", nodes, ["B", 3, 16, 16]), SQUARE, "dynamic")
    assert (model.batch, model.dim) == (1, 48)
    alone = np.concatenate([run_one(model, one) for one in TEN])
    np.testing.assert_array_equal(run(model), alone)


def run_one(model: Model, one: Any) -> np.ndarray:
    return model.run([load(one, model.preprocessing)])


def test_weights_beside_a_file_are_taken_in_and_others_are_not(tmp_path: Path) -> None:
    weights = np.arange(9, dtype=np.float32).reshape(3, 3)
    nodes = [*pooled("x", "flat"), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    path = graph_of(tmp_path / "a.onnx", nodes, ["B", 3, 16, 16], constants={"w": weights})
    whole = from_onnx(path, SQUARE, "inside")
    network = onnx.load(str(path))
    onnx.save(
        network,
        str(path),
        save_as_external_data=True,
        location="a.onnx_data",
        size_threshold=0,
    )
    assert (tmp_path / "a.onnx_data").stat().st_size >= 36
    np.testing.assert_array_equal(run(from_onnx(path, SQUARE, "beside")), run(whole))
    (tmp_path / "secret").write_bytes(bytes(36))
    (tmp_path / "below").mkdir()
    network = onnx.load(str(path), load_external_data=False)
    for location in ("../secret", str(tmp_path / "secret")):
        network.graph.initializer[0].external_data[0].value = location
        (tmp_path / "below" / "b.onnx").write_bytes(network.SerializeToString())
        with pytest.raises(ModelError, match=r"is not an ONNX network|cannot be read"):
            from_onnx(tmp_path / "below" / "b.onnx", SQUARE, "outside")
    (tmp_path / "a.onnx_data").unlink()
    with pytest.raises(ModelError, match=r"a\.onnx"):
        from_onnx(path, SQUARE, "lost")


@pytest.mark.parametrize(
    ("nodes", "shape", "change", "reason"),
    [
        (pooled(), ["B", 3, 8, 8], {}, r"takes pictures of shape \[3, 8, 8\], not \[3, 16, 16\]"),
        (pooled(), [4, 3, 16, 16], {}, "takes batches of 4 only"),
        (pooled(), ["B", 3, 16, 16], {"output": "z"}, "has no output 'z': it has y"),
        (pooled(), ["B", 3, 16, 16], {"pool": "cls"}, "one vector already: leave --pool out"),
        ([helper.make_node("Relu", ["x"], ["y"])], ["B", 3, 16, 16], {}, "add --pool mean"),
        (
            [helper.make_node("Squeeze", ["x", "first"], ["y"])],
            [1, 3, 16, 16],
            {},
            "has a vector for each token",
        ),
        ([helper.make_node("Relu", ["x"], ["y"])], ["B", 16], {}, "not pictures"),
        ([helper.make_node("Log", ["x"], ["z"]), *pooled("z")], ["B", 3, 16, 16], {}, "not finite"),
    ],
)
def test_a_graph_that_is_no_encoder_is_one_line(
    tmp_path: Path, nodes: list[Any], shape: list[Any], change: dict[str, Any], reason: str
) -> None:
    constants = {"first": np.array([0])}
    path = graph_of(tmp_path / "a.onnx", nodes, shape, constants=constants)
    with pytest.raises(ModelError, match=reason) as refused:
        from_onnx(path, replace(SQUARE, **change), "none")
    assert str(refused.value).isprintable()


def test_a_graph_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "a.onnx", pooled(), ["B", 3, 16, 16], opset=9)
    with pytest.raises(ModelError, match="is of opset 9: export it as 11 or later"):
        from_onnx(path, SQUARE, "old")


def test_two_inputs_and_no_network(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "ids"], ["y"])],
        "two",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in ("x", "ids")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
    )
    path = tmp_path / "a.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    with pytest.raises(ModelError, match="takes x, ids, not a batch of pictures alone"):
        from_onnx(path, SQUARE, "two")
    path.write_bytes(b"words")
    with pytest.raises(ModelError, match="is not an ONNX network"):
        from_onnx(path, SQUARE, "words")
    with pytest.raises(ModelError, match="cannot be read"):
        from_onnx(tmp_path / "none.onnx", SQUARE, "none")


# -- preprocessor_config.json, as the hub has it for the encoders that are known

CLIP = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
SIGLIP = {
    **{key: CLIP[key] for key in ("do_normalize", "do_rescale", "do_resize", "rescale_factor")},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": {"height": 224, "width": 224},
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CLIP, Preprocessing(size=224, edge=224, bicubic=True)),
        ({**CLIP, "size": {"shortest_edge": 256}}, Preprocessing(size=224, edge=256, bicubic=True)),
        ({**CLIP, "size": 256, "crop_size": 224}, Preprocessing(size=224, edge=256, bicubic=True)),
        (SIGLIP, Preprocessing(size=224, squash=True)),
        ({**SIGLIP, "size": 384}, Preprocessing(size=384, squash=True)),
        (
            {**SIGLIP, "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            Preprocessing(size=224, edge=256),
        ),
    ],
)
def test_a_configuration_is_read(
    tmp_path: Path, config: dict[str, Any], expected: Preprocessing
) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(config))
    form = read_preprocessor(path)
    assert form.preprocessing == expected
    assert form.scale == pytest.approx(1 / 255)
    assert (list(form.mean), list(form.std)) == (config["image_mean"], config["image_std"])


@pytest.mark.parametrize(
    "config",
    [
        {**CLIP, "resample": 1},
        {key: value for key, value in CLIP.items() if key != "resample"},
        {**CLIP, "do_center_crop": False},
        {**CLIP, "crop_size": {"height": 224, "width": 200}},
        {**SIGLIP, "do_center_crop": True, "crop_size": 200},
        {**SIGLIP, "image_mean": 0.5},
        {key: value for key, value in SIGLIP.items() if key != "image_std"},
        [],
        "no JSON",
    ],
)
def test_a_configuration_that_wingbar_cannot_follow_is_one_line(
    tmp_path: Path, config: Any
) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ModelError, match="does not say how to prepare pictures") as refused:
        read_preprocessor(path)
    assert str(refused.value).isprintable()
