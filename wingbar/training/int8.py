"""An int8 version of a model: its network quantised, corrected and compared with the exact one."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from wingbar import images
from wingbar.errors import ModelError
from wingbar.model import proof, runtime
from wingbar.model.model import PROOF, Model
from wingbar.parallel import BATCH, cores
from wingbar.training.export import in_batches

SAME_NEIGHBOUR = 0.75  # share of the images compared that must keep their nearest neighbour

Float32 = NDArray[np.float32]


def int8_model(model: Model, pixels: images.Pixels) -> tuple[Model, dict[str, float]]:
    """`model` with an int8 network, and its `agreement` with the exact one, which its record has in
    place of the scores of the exact one.

    Of pixels [n, H, W, 3] uint8 the first half calibrates the network and the second half is
    compared. Raises ModelError for an int8 model, one of whole images, and fewer than 4 images,
    when fewer than three quarters keep their nearest neighbour, and when the fast kernels of this
    CPU do not give what the precise ones give, bit for bit.
    """
    require_quantisable(model)
    half = len(pixels) // 2
    if half < 2:
        raise ModelError(
            f"calibration needs at least 4 images, better 400; there are {len(pixels)}"
        )
    network = quantise(model.files["model.onnx"], pixels[:half])
    told = {"name": f"{model.name}-int8", "held_out_map": None, "held_out": None}
    small = model.altered({"model.onnx": network, PROOF: None}, told)
    dim, compared = int(model.record["dim"]), list(pixels[half:])
    exact, quantised = (in_batches(m, compared)[:, :dim] for m in (model, small))
    check_kernels(network, pixels[half:])
    agreed = agreement(exact, quantised)
    if agreed["same_neighbour"] < SAME_NEIGHBOUR:
        raise ModelError(
            f"of {len(compared)} images only {agreed['same_neighbour']:.0%} keep their nearest "
            f"neighbour in 8 bits, and {SAME_NEIGHBOUR:.0%} should: the features of {model.name} "
            f"tell these images too little apart (cosine to the exact ones "
            f"{agreed['cosine_mean']:.2f}). Train it for longer, calibrate it with images like "
            "those that it is for, or keep the exact model"
        )
    return proof.proven(small.altered({}, {"int8_agreement": agreed})), agreed


def require_quantisable(model: Model) -> None:
    """Raise ModelError where there is no int8 version of a model."""
    model.require_network()
    if model.is_int8:
        raise ModelError(f"{model.name} is an int8 model already: quantise the exact one")
    if model.preprocessing.whole:
        raise ModelError(
            f"{model.name} takes whole images, for which there is no int8 version: train with "
            "--no-whole --scales 1"
        )


def quantise(network: bytes, pixels: images.Pixels) -> bytes:
    """An int8 version of an ONNX graph: static quantisation of ONNX Runtime's default operators,
    with uint8 activations, and weights of 7 bits that have a scale per channel. The ranges of the
    activations come from pixels [n, H, W, 3] uint8 of typical images, and so does what
    `_with_mean_outputs` corrects.

    Without VNNI, CPUs add the products of two activations and two weights in 16 bits. With weights
    from -64 to 64, the sum is at most 2 * 255 * 64 = 32,640, which 16 bits hold; with those of 8
    bits it would saturate, and features would differ between CPUs.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.remaining = ({"pixels": batch} for batch in _batches(pixels))

        def get_next(self) -> dict[str, images.Pixels] | None:
            return next(self.remaining, None)

    with tempfile.TemporaryDirectory() as folder, _quiet_root_logger():
        exact, ready, int8 = (Path(folder) / f"{name}.onnx" for name in ("exact", "ready", "int8"))
        exact.write_bytes(network)
        quant_pre_process(str(exact), str(ready), skip_symbolic_shape=True)
        _name_nodes(ready)
        quantization.quantize_static(
            str(ready),
            str(int8),
            Batches(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
        )
        return _with_mean_outputs(onnx.load(ready), onnx.load(int8), pixels).SerializeToString()


def _batches(pixels: images.Pixels) -> Iterator[images.Pixels]:
    """Pixels [n, H, W, 3] in parts of at most BATCH."""
    return (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))


def _name_nodes(path: Path) -> None:
    """Give each node of an ONNX file a name of its own, by which it is found when quantised."""
    network = onnx.load(path)
    for i, node in enumerate(network.graph.node):
        node.name = f"{node.op_type}_{i}"
    onnx.save(network, path)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Suppress what the quantiser warns of by Python's root logger, and the handler that its first
    message would leave there."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silent)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)


def _with_mean_outputs(
    exact: onnx.ModelProto, int8: onnx.ModelProto, pixels: images.Pixels
) -> onnx.ModelProto:
    """`int8`, in which the bias of each convolution makes up for the mean of what rounding its
    weights changed: (W - W_int8) times the mean of its input over pixels [n, H, W, 3] (bias
    correction: Nagel et al., ICCV 2019, Sec. 4.2). The border of an image counts like the rest of
    it; a convolution without a bias of its own, or with float16 weights, stays as it is."""
    weights = {tensor.name: tensor for tensor in exact.graph.initializer}
    layers = {
        node.name: (numpy_helper.to_array(weights[node.input[1]]), node.input[0])
        for node in exact.graph.node
        if node.op_type == "Conv"
        and node.input[1] in weights
        and len(weights[node.input[1]].dims) == 4
    }
    if not layers:
        return int8
    means = _channel_means(exact, sorted({source for _, source in layers.values()}), pixels)
    constants = {tensor.name: tensor for tensor in int8.graph.initializer}
    rounded_by = {
        node.output[0]: node
        for node in int8.graph.node
        if node.op_type == "DequantizeLinear" and all(name in constants for name in node.input)
    }
    for node in int8.graph.node:
        has_bias = len(node.input) == 3
        if not (node.name in layers and has_bias and rounded_by.keys() >= {*node.input[1:]}):
            continue
        rounded, bias = (rounded_by[name] for name in node.input[1:3])
        weight, source = layers[node.name]
        lost = (weight - _dequantised(rounded, constants)).sum((2, 3))  # [C_out, C_in / groups]
        each = len(lost) // (len(means[source]) // lost.shape[1])  # output channels of a group
        inputs = means[source].reshape(-1, lost.shape[1]).repeat(each, axis=0)
        step = numpy_helper.to_array(constants[bias.input[1]])
        number = numpy_helper.to_array(constants[bias.input[0]])
        corrected = (number + np.rint((lost * inputs).sum(1) / step)).astype(np.int32)
        constants[bias.input[0]].CopyFrom(numpy_helper.from_array(corrected, bias.input[0]))
    return int8


def _dequantised(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Float32:
    """What a DequantizeLinear node makes of weights [C_out, ...] with a scale per channel."""
    number, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
    shape = (-1,) + (1,) * (number.ndim - 1)
    found: Float32 = (number - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)
    return found


def _channel_means(
    network: onnx.ModelProto, names: list[str], pixels: images.Pixels
) -> dict[str, Float32]:
    """The mean of each channel [C] of values [B, C, H, W] in a graph, over pixels [n, H, W, 3]."""
    measured = onnx.ModelProto()
    measured.CopyFrom(network)
    for name in names:
        pooled = f"{name}/mean"
        measured.graph.node.append(helper.make_node("GlobalAveragePool", [name], [pooled]))
        measured.graph.output.append(
            helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, None)
        )
    session = runtime.open_session(measured.SerializeToString(), cores(), "this model")
    found: dict[str, list[Float32]] = {name: [] for name in names}
    for batch in _batches(pixels):
        values = session.run([f"{name}/mean" for name in names], {"pixels": batch})
        for name, value in zip(names, values, strict=True):
            found[name].append(value[:, :, 0, 0])
    return {name: np.concatenate(each).mean(0) for name, each in found.items()}


def check_kernels(network: bytes, pixels: images.Pixels) -> None:
    """Raise ModelError when an int8 graph gives other outputs for pixels [n, H, W, 3] uint8 by
    ONNX Runtime's fast kernels than by its precise ones: its sums saturate on this CPU."""
    sessions = [
        runtime.open_session(network, cores(), "this model", precise=precise)
        for precise in (False, True)
    ]
    for batch in _batches(pixels):
        fast, precise = (session.run(None, {"pixels": batch}) for session in sessions)
        if not all(map(np.array_equal, fast, precise)):
            raise ModelError(
                "the int8 network gives other features on other CPUs, as its sums saturate: "
                "export it with smaller weights, or serve the exact model"
            )


def agreement(exact: NDArray[np.float32], quantised: NDArray[np.float32]) -> dict[str, float]:
    """How alike two unit features [n, d] of the same n images are.

    cosine_mean, cosine_min: of each image's two features, in [-1, 1].
    same_neighbour: share of the images with the same nearest neighbour, in [0, 1].
    """
    cosine = (exact * quantised).sum(1)
    nearest = [(x @ x.T - 2 * np.eye(len(x), dtype=x.dtype)).argmax(1) for x in (exact, quantised)]
    return {
        "cosine_mean": round(float(cosine.mean()), 4),
        "cosine_min": round(float(cosine.min()), 4),
        "same_neighbour": round(float((nearest[0] == nearest[1]).mean()), 4),
    }
