"""From a trained Net to a model directory that runs without PyTorch, checked against PyTorch."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar import images
from wingbar.errors import ModelError
from wingbar.images import Preparation
from wingbar.model import BATCH, Model, preparation_record, with_record

PARITY_IMAGES = 16
CLEAR = 1e-3  # a bit must agree where its logit is further from zero than this share of the typical logit


class Exported(nn.Module):
    """What the graph computes: pixels [B, H, W, 3] uint8 -> unit feature [B, d] and code logits [B, bits]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        found = self.net(pixels)
        return F.normalize(found.feature.float(), dim=1), found.code.float()


def write(output: Path, net: nn.Module, record: Mapping[str, Any], paths: Sequence[str]) -> Model:
    """Write model.safetensors, model.onnx and, last, model.json into `output`, and return the Model.

    `record` has name, method, config, run and so on; `paths` are images for the parity check. Raises ModelError when
    ONNX Runtime and PyTorch do not agree: features to 1e-4, every bit whose logit is clear of zero.
    """
    net = net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    preparation = Preparation(size=record["run"]["size"])
    pixels = np.stack([images.load(path, preparation) for path in paths])
    network = to_onnx(net, preparation.size)
    weights = save({name: value.contiguous() for name, value in net.state_dict().items()})
    parameters, macs = cost(net, preparation.size)
    bits = int(record["config"]["bits"])
    with torch.no_grad():
        feature, logits = Exported(net)(torch.from_numpy(pixels))
    content = {
        **record,
        "backbone": record["run"]["backbone"],
        "bits": bits,
        "dim": feature.shape[1],
        "preparation": preparation_record(preparation),
        "parameters": parameters,
        "macs": macs,
        "weights": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
        "versions": {name: version(name) for name in ("wingbar", "torch", "onnxruntime", "numpy")},
        "git_commit": _git_commit(),
    }
    model = Model(with_record({"model.onnx": network}, content))
    check_parity(model, pixels, feature.numpy(), logits.numpy())
    (output / "model.safetensors").write_bytes(weights)
    model.save(output)
    return model


def to_onnx(net: nn.Module, size: int) -> bytes:
    """The graph of a Net for pictures of `size` x `size`, or of any size where its backbone allows it."""
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if getattr(getattr(net, "backbone", None), "any_size", False):
        axes |= {1: torch.export.Dim("height", min=32, max=4096), 2: torch.export.Dim("width", min=32, max=4096)}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks on its own dependencies
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(
            Exported(net).eval(),
            (pixels,),
            dynamo=True,
            input_names=["pixels"],
            output_names=["feature", "logits"],
            dynamic_shapes={"pixels": axes},
            verbose=False,
        )
        if program is None:
            raise ModelError("PyTorch could not export this network to ONNX")
        program.save(str(path))
        return path.read_bytes()


def check_parity(model: Model, pixels: images.Pixels, feature: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
    """Compare ONNX Runtime with PyTorch's outputs for pixels [B, H, W, 3]. Raises ModelError where they differ."""
    raw = np.concatenate([model.run(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])
    found_feature, found_logits = raw[:, : feature.shape[1]], raw[:, feature.shape[1] :]
    off = float(np.abs(found_feature - feature).max())
    if not off <= 1e-4:
        raise ModelError(f"the exported model's features differ from PyTorch's by {off:.2g}: nothing was written")
    clear = np.abs(logits) > CLEAR * np.abs(logits).mean()
    wrong = int(((found_logits >= 0) != (logits >= 0))[clear].sum())
    if wrong:
        raise ModelError(f"{wrong} bits of the exported model differ from PyTorch's: nothing was written")


def cost(net: nn.Module, size: int) -> tuple[int, int]:
    """Parameters of a Net, and multiply-accumulates for one picture of `size` x `size`.

    Counted as in the tables of the hashing literature: convolutions and linear layers, and 4 for each element that
    batch normalisation gives out.
    """
    counted: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            counted.append(out.numel() * layer.in_channels // layer.groups * kernel)
        elif isinstance(layer, nn.Linear):
            counted.append(out.numel() * layer.in_features)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            counted.append(4 * out.numel())

    hooks = [module.register_forward_hook(count) for module in net.modules()]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return sum(parameter.numel() for parameter in net.parameters()), sum(counted)


def _git_commit() -> str | None:
    """The commit of the folder that training was started in, if it is a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
