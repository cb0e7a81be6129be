"""A small network in place of the built-in one, for tests of everything around a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from wingbar import images
from wingbar.model import proof
from wingbar.model.model import Model, preprocessing_record, with_record

SIZE = 32  # side of its pictures, in pixels
CELLS = 8  # along each side, of whose colours it sees the mean
DIM = 160


def small_general(
    name: str = "general", seed: int = 64, edge: int = 0, cells: int = CELLS, dim: int = DIM
) -> Model:
    """A label-free model that is called general: mean colours of 64 cells, and a random layer with
    a ReLU. It tells colours and shapes apart, in a thousandth of the time. Others have another
    `name`, layer, preprocessing and length; one of a single one of `cells` a side sees no
    shapes."""
    rng = np.random.default_rng(seed)
    inputs = 3 * cells**2
    weights = (rng.standard_normal((inputs, dim)) / np.sqrt(inputs)).astype(np.float32)
    side = SIZE // cells
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["cells"], kernel_shape=[side, side], strides=[side, side]
        ),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("Sub", ["flat", "grey"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["layer"]),
        helper.make_node("Relu", ["layer"], ["positive"]),
        helper.make_node("LpNormalization", ["positive"], ["feature"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", dim])],
        [
            helper.make_tensor("grey", TensorProto.FLOAT, [1], [128.0]),
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
        ],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    record = {
        "name": name,
        "method": "itq",
        "fine": "pool",
        "dim": dim,
        "classes": [],
        "preparation": preprocessing_record(images.Preprocessing(size=SIZE, edge=edge)),
    }
    files = {"model.onnx": network.SerializeToString()}
    return proof.proven(Model(with_record(files, record)))


def write_small_general(folder: Path) -> Path:
    """Write it as the directory that stands for `general`."""
    small_general().save(folder)
    return folder
