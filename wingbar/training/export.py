"""From a trained Net to a model directory that runs without PyTorch, checked against PyTorch."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from wingbar.images import Preprocessing
from wingbar.model.itq import Rotation
from wingbar.model.model import Model, over_scales, preprocessing_record, with_record
from wingbar.networks.backbones import SameConv
from wingbar.parallel import BATCH

PARITY_IMAGES = 16
_WHOLE = (160, 224)  # height and width of the pictures by which a graph for whole ones is traced
# a bit must agree where its logit is further from zero than this share of the typical logit
CLEAR = 1e-3


class Exported(nn.Module):
    """What the graph computes: pixels [B, H, W, 3] uint8 -> unit feature [B, d], code logits [B,
    bits], what explains them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class; without logits where the codes are fitted to the features."""
        return tuple(self.named(pixels).values())

    def named(self, pixels: Tensor) -> dict[str, Tensor]:
        """The outputs by their names in the graph."""
        found = self.net(pixels)
        code = {} if found.code is None else {"logits": found.code.float()}
        auxiliary = {name: value.float() for name, value in found.auxiliary.items()}
        return {"feature": F.normalize(found.feature.float(), dim=1), **code, **auxiliary}

    def arrays(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Features and code logits, if any, as `model.over_scales` wants them."""
        with torch.no_grad():
            found = self.named(torch.from_numpy(pixels))
        return found["feature"].numpy(), found["logits"].numpy() if "logits" in found else None


def write(
    output: Path,
    net: nn.Module,
    record: Mapping[str, Any],
    preprocessing: Preprocessing,
    paths: Sequence[str],
    rotation: Rotation | None = None,
) -> Model:
    """Write model.safetensors, model.onnx and, last, model.json into `output`, and return the
    Model.

    `rotation` makes the codes where the net gives none. `record` has name, method, config, run and
    so on; `preprocessing` is how the model sees pictures, and `paths` are images for the parity
    check. Raises ModelError when ONNX Runtime and PyTorch do not agree: features to 1e-4, every bit
    whose logit is clear of zero.
    """
    net = net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    pixels = [images.load(path, preprocessing) for path in paths]
    network = to_onnx(net, preprocessing)
    weights = save({name: value.contiguous() for name, value in net.state_dict().items()})
    bits = int(record["config"]["bits"])
    expected = over_scales(Exported(net).arrays, pixels, preprocessing)
    dim = expected.shape[1] - (bits if rotation is None else 0)
    content = {
        **record,
        "backbone": record["run"]["backbone"],
        "bits": bits,
        "dim": dim,
        "preparation": preprocessing_record(preprocessing),
        **cost(net, preprocessing.size),
        "weights": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
        "versions": {name: version(name) for name in ("wingbar", "torch", "onnxruntime", "numpy")},
        "git_commit": _git_commit(),
    }
    files = {"model.onnx": network} | (
        {} if rotation is None else {"rotation.npz": rotation.to_bytes()}
    )
    model = Model(with_record(files, content))
    check_parity(model, pixels, expected[:, :dim], expected[:, dim:])
    (output / "model.safetensors").write_bytes(weights)
    model.save(output)
    return model


def to_onnx(net: nn.Module, preprocessing: Preprocessing) -> bytes:
    """The graph of a Net for pictures of `preprocessing`: any size where its backbone allows that
    at once, else the one size, or any multiple of its step for whole pictures. Raises ModelError
    where the backbone allows one size only."""
    step = getattr(getattr(net, "backbone", None), "step", 0)
    if preprocessing.whole and not step:
        raise ModelError(
            "this backbone sees squares of one size only: train without --whole, or with another "
            "--backbone"
        )
    height, width = _WHOLE if preprocessing.whole else (preprocessing.size, preprocessing.size)
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if step == 1:
        axes |= {
            1: torch.export.Dim("height", min=32, max=4096),
            2: torch.export.Dim("width", min=32, max=4096),
        }
    elif preprocessing.whole:
        axes |= {
            i: step * torch.export.Dim(name, min=1, max=4096 // step)
            for i, name in ((1, "height"), (2, "width"))
        }
    names = list(Exported(net).eval().named(pixels))
    with (
        tempfile.TemporaryDirectory() as folder,
        _quiet_exporter(),
        _even_sides(net, step > 1 and preprocessing.whole),
    ):
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(
            Exported(net).eval(),
            (pixels,),
            dynamo=True,
            input_names=["pixels"],
            output_names=names,
            dynamic_shapes={"pixels": axes},
            verbose=False,
        )
        if program is None:
            raise ModelError("PyTorch could not export this network to ONNX")
        program.save(str(path))
        return path.read_bytes()


@contextmanager
def _even_sides(net: nn.Module, even: bool) -> Iterator[None]:
    """The padding of SameConv is a constant inside: with a formula of the sides in each, an export
    takes a minute."""
    layers = [module for module in net.modules() if isinstance(module, SameConv)]
    for layer in layers:
        layer.even = even
    try:
        yield
    finally:
        for layer in layers:
            layer.even = False


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks on its own dependencies."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def quantise(network: bytes, pixels: images.Pixels) -> bytes:
    """An int8 version of a graph: static, uint8 activations and int8 weights with a scale per
    channel, ONNX Runtime's default list of operators; the ranges come from pixels [n, H, W, 3] of
    ordinary pictures."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.left = iter([pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH)])

        def get_next(self) -> dict[str, images.Pixels] | None:
            batch = next(self.left, None)
            return None if batch is None else {"pixels": batch}

    with tempfile.TemporaryDirectory() as folder:
        exact, ready, int8 = (Path(folder) / f"{name}.onnx" for name in ("exact", "ready", "int8"))
        exact.write_bytes(network)
        quant_pre_process(str(exact), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready),
            str(int8),
            Pictures(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return int8.read_bytes()


def int8_model(model: Model, pixels: images.Pixels) -> tuple[Model, dict[str, float]]:
    """`model` with an int8 network, and how far it agrees on pixels [n, H, W, 3]: the first half
    sets the ranges, the second half is compared. Raises ModelError when fewer than three quarters
    keep their nearest neighbour."""
    if model.preprocessing.whole:
        raise ModelError(
            f"{model.name} sees whole pictures, for which there is no int8 version: train without "
            "--whole"
        )
    half = len(pixels) // 2
    if half < 2:
        raise ModelError(
            f"calibration needs at least 4 pictures, better 400; there are {len(pixels)}"
        )
    network = quantise(model.files["model.onnx"], pixels[:half])
    rest = {
        name: data for name, data in model.files.items() if name not in ("model.json", "model.onnx")
    }
    record = {**model.record, "name": f"{model.name}-int8"}
    small = Model(with_record(rest | {"model.onnx": network}, record))
    agreed = agreement(
        *(
            _in_batches(m, list(pixels[half:]))[:, : int(model.record["dim"])]
            for m in (model, small)
        )
    )
    if agreed["same_neighbour"] < 0.75:
        raise ModelError(
            f"the int8 model does not agree with the exact one ({agreed}): use more typical "
            "pictures"
        )
    return Model(
        with_record(rest | {"model.onnx": network}, {**record, "int8_agreement": agreed})
    ), agreed


def agreement(exact: NDArray[np.float32], quantised: NDArray[np.float32]) -> dict[str, float]:
    """How alike unit features [n, d] are: mean and least cosine, and the share of pictures with the
    same nearest neighbour."""
    cosine = (exact * quantised).sum(1)
    nearest = [(x @ x.T - 2 * np.eye(len(x), dtype=x.dtype)).argmax(1) for x in (exact, quantised)]
    return {
        "cosine_mean": round(float(cosine.mean()), 4),
        "cosine_min": round(float(cosine.min()), 4),
        "same_neighbour": round(float((nearest[0] == nearest[1]).mean()), 4),
    }


def _in_batches(model: Model, pixels: Sequence[images.Pixels]) -> NDArray[np.float32]:
    return np.concatenate([model.run(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])


def check_parity(
    model: Model,
    pixels: Sequence[images.Pixels],
    feature: NDArray[np.float32],
    logits: NDArray[np.float32] | None = None,
) -> None:
    """Compare ONNX Runtime with PyTorch's outputs for B pictures' pixels. Raises ModelError where
    they differ."""
    raw = _in_batches(model, pixels)
    found_feature, found_logits = raw[:, : feature.shape[1]], raw[:, feature.shape[1] :]
    off = float(np.abs(found_feature - feature).max())
    if not off <= 1e-4:
        raise ModelError(
            f"the exported model's features differ from PyTorch's by {off:.2g}: nothing was written"
        )
    if logits is None or not logits.size:
        return
    clear = np.abs(logits) > CLEAR * np.abs(logits).mean()
    wrong = int(((found_logits >= 0) != (logits >= 0))[clear].sum())
    if wrong:
        raise ModelError(
            f"{wrong} bits of the exported model differ from PyTorch's: nothing was written"
        )


def cost(net: nn.Module, size: int) -> dict[str, int]:
    """`parameters` of a Net and `macs`, multiply-accumulates, for one picture of `size` x `size`;
    `parameters_total`.

    The first two are counted as in the tables of the hashing literature: convolutions and linear
    layers, and 4 for each element that batch normalisation gives out. Parameters that are none of
    these (CMBH's C-vectors) are in the total only.
    """
    counted: list[int] = []
    layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)

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
    of_layers = sum(
        p.numel()
        for m in net.modules()
        if isinstance(m, layers)
        for p in m.parameters(recurse=False)
    )
    return {
        "parameters": of_layers,
        "macs": sum(counted),
        "parameters_total": sum(p.numel() for p in net.parameters()),
    }


def _git_commit() -> str | None:
    """The commit of the folder that training was started in, if it is a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
