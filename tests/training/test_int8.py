from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from tests.model.test_proof import small_model
from tests.training.test_export import net, pixels
from wingbar.errors import ModelError
from wingbar.images import Preprocessing, load
from wingbar.model import proof, runtime
from wingbar.model.model import Model, with_record
from wingbar.training import export, int8


@pytest.mark.slow
def test_an_int8_version_is_smaller_and_agrees() -> None:
    scenes = pytest.importorskip("sklearn.datasets").load_sample_images().images  # two photographs
    crops = [
        s[y : y + 96, x : x + 96].copy()
        for s in scenes
        for y in range(0, 300, 60)
        for x in range(0, 500, 60)
    ]
    made = net("resnet18")
    record = {
        "name": "m",
        "method": "dlbhc",
        "dim": 512,
        "bits": 20,
        "fine": "pool",
        "preparation": {"size": 64},
        "held_out_map": {"pool": 0.5},
    }
    model = Model(with_record({"model.onnx": export.to_onnx(made, Preprocessing(size=64))}, record))
    given = np.stack([load(crop, model.preprocessing) for crop in crops])
    small, agreed = int8.int8_model(model, given)
    assert len(small.files["model.onnx"]) < len(model.files["model.onnx"]) / 3
    assert agreed["cosine_mean"] > 0.98
    assert (small.name, small.bits) == ("m-int8", 20)
    assert "held_out_map" not in small.record, "it is of the exact model"
    assert small.record["int8_agreement"] == agreed
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(small.files["model.onnx"]).graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(weights) > 10
    assert all(abs(w.astype(int)).max() <= 64 for w in weights)
    int8.check_kernels(small.files["model.onnx"], given)
    with pytest.raises(ModelError, match="calibration needs at least 4"):
        int8.int8_model(model, given[:2])
    assert small.is_int8
    assert not model.is_int8
    with pytest.raises(ModelError, match="m-int8 is an int8 model already"):
        int8.int8_model(small, given)


def test_an_int8_network_that_saturates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, precise: bool) -> None:
            self.precise = precise

        def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((len(inputs["pixels"]), 2), np.float32(1 if self.precise else 0.9))]

    monkeypatch.setattr(
        runtime, "open_session", lambda network, threads, name, precise: Session(precise)
    )
    with pytest.raises(ModelError, match="gives other features on other CPUs"):
        int8.check_kernels(b"", pixels(3))


class Precise(Model):
    """A model whose int8 sums saturate on no CPU."""

    @cached_property
    def _session(self) -> Any:
        return runtime.open_session(self.files["model.onnx"], 1, self.name, precise=True)


def test_an_int8_model_passes_its_proof_with_and_without_the_precise_kernels() -> None:
    given = pixels(32, 16)
    exact = small_model()
    network = int8.quantise(exact.files["model.onnx"], given)
    model = proof.proven(exact.altered({"model.onnx": network}))
    assert model.batch == 16  # its ranges are fixed
    for kind in (Model, Precise):
        proof._computed.clear()
        assert proof.problem(kind(model.files)) is None


def two_convolutions() -> tuple[bytes, np.ndarray]:
    """A graph of pixels [B, 32, 32, 3] uint8 -> the mean [B, 12] of what a full and then a grouped
    convolution give, whose weights differ so much that rounding shifts it; and 16 pictures."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((6, 3, 3, 3)) * rng.choice([0.02, 1], (6, 3, 3, 3), p=[0.9, 0.1])
    grouped = rng.standard_normal((12, 2, 1, 1)) * np.array([1, 0.006]).reshape(1, 2, 1, 1)
    constants = {
        "first": first / 100,
        "first_bias": 10 ** np.linspace(0, 2, 6),
        "grouped": grouped,
        "grouped_bias": rng.standard_normal(12),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first", "first_bias"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "grouped", "grouped_bias"], ["c"], name="two", group=3),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["feature"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", 32, 32, 3])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", 12])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return network.SerializeToString(), pixels(16)


def test_the_mean_of_what_rounding_the_weights_lost_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, given = two_convolutions()
    graphs: list[onnx.ModelProto] = []

    def kept(exact: onnx.ModelProto, rounded: onnx.ModelProto, _: Any) -> onnx.ModelProto:
        graphs.extend([exact, rounded])
        return rounded

    with monkeypatch.context() as patched:
        patched.setattr(int8, "_with_mean_outputs", kept)
        int8.quantise(network, given)
    exact, rounded = graphs

    def values(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}

    means = int8._channel_means(exact, ["planes", "b"], given)
    before = values(rounded)
    after = values(int8._with_mean_outputs(exact, rounded, given))
    moved = 0
    for name, source, groups in (("first", "planes", 1), ("grouped", "b", 3)):
        weight = values(exact)[name]
        scale = before[f"{name}_scale"]
        inside = weight.shape[1]
        for o in range(len(weight)):
            group = o // (len(weight) // groups)
            shift = 0.0
            for i in range(inside):
                lost = weight[o, i] - before[f"{name}_quantized"][o, i] * scale[o]
                shift += lost.sum() * means[source][group * inside + i]
            step = before[f"{name}_bias_quantized_scale"][o]
            found = after[f"{name}_bias_quantized"][o] - before[f"{name}_bias_quantized"][o]
            assert abs(found - shift / step) < 0.6
            moved += abs(found) > 5
    assert moved > 10


def test_channel_means_by_hand() -> None:
    network, given = two_convolutions()
    means = int8._channel_means(onnx.load_from_string(network), ["planes"], given[:5])
    np.testing.assert_allclose(means["planes"], given[:5].mean((0, 1, 2)), rtol=1e-5)


def test_the_quantiser_says_nothing_and_leaves_the_logger_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root, quantize = logging.getLogger(), quantization.quantize_static
    monkeypatch.setattr(root, "handlers", [])
    before = root.level

    def warn(*given: Any, **more: Any) -> None:
        logging.warning("Axis 1 is out-of-range for weight")  # as it does
        quantize(*given, **more)

    monkeypatch.setattr(quantization, "quantize_static", warn)
    int8.quantise(*two_convolutions())
    assert (root.level, root.handlers) == (before, [])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("side", [1, 3])
def test_convolutions_without_a_name_or_a_bias(side: int) -> None:
    """Of one shape or of two: each is corrected by what its own weights lost."""
    rng = np.random.default_rng(1)
    one, two = (
        (rng.standard_normal((4, c, k, k)) * 10.0 ** rng.integers(-3, 1, (4, c, 1, 1))).astype(
            np.float32
        )
        for c, k in ((3, 3), (4, side))
    )
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "one", "bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "two"], ["c"]),
        helper.make_node("GlobalAveragePool", ["a"], ["d"]),
        helper.make_node("GlobalAveragePool", ["c"], ["e"]),
        helper.make_node("Flatten", ["d"], ["first"]),
        helper.make_node("Flatten", ["e"], ["second"]),
    ]
    constants = {"one": one, "two": two, "bias": np.zeros(4, np.float32)}
    graph = helper.make_graph(
        nodes,
        "unnamed",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", 32, 32, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4])
            for name in ("first", "second")
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    given = pixels(16)
    exact, rounded = (
        runtime.open_session(each, 1, "this model", precise=True).run(None, {"pixels": given})
        for each in (network.SerializeToString(), int8.quantise(network.SerializeToString(), given))
    )
    off = abs((rounded[0] - exact[0]).mean(0)) / abs(exact[0]).mean()
    assert off.max() < 0.02


def test_a_model_that_8_bits_do_not_suit_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = small_model()
    bad = {"cosine_mean": 0.83, "cosine_min": 0.5, "same_neighbour": 0.453}
    monkeypatch.setattr(int8, "agreement", lambda *features: bad)
    with pytest.raises(ModelError, match=r"of 16 images only 45% keep their nearest neighbour in"):
        int8.int8_model(exact, pixels(32, 16))
