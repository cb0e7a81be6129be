"""Write a trained Net as a model directory that runs without PyTorch, checked against PyTorch; and
read the Net of such a directory back."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar import images, methods
from wingbar.errors import ModelError, TrainingError, one_line
from wingbar.files import write_whole
from wingbar.images import Preprocessing
from wingbar.model import proof
from wingbar.model.itq import Rotation
from wingbar.model.model import Model, over_views, preprocessing_record, with_record
from wingbar.networks import backbones
from wingbar.networks.backbones import SameConv
from wingbar.parallel import BATCH

PARITY_IMAGES = 16  # training images on which ONNX Runtime and PyTorch are compared
_TRACED = (160, 224)  # height and width of the pixels with which a graph for whole images is traced


class Exported(nn.Module):
    """What the graph computes: pixels [B, H, W, 3] uint8 -> unit feature [B, d], code logits [B, b]
    unless the codes are fitted to the features, and the Net's auxiliary outputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return tuple(self.named(pixels).values())

    def named(self, pixels: Tensor) -> dict[str, Tensor]:
        """The outputs by their names in the graph."""
        output = self.net(pixels)
        logits = {} if output.code is None else {"logits": output.code.float()}
        auxiliary = {name: value.float() for name, value in output.auxiliary.items()}
        return {"feature": F.normalize(output.feature.float(), dim=1), **logits, **auxiliary}

    def arrays(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Pixels [B, H, W, 3] -> features [B, d] and code logits [B, b], if any, as
        `model.over_views` takes them."""
        with torch.no_grad():
            output = self.named(torch.from_numpy(pixels))
        return output["feature"].numpy(), output["logits"].numpy() if "logits" in output else None


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

    `record` has name, method, config, run and whatever else model.json should say; `preprocessing`
    is how the model prepares images; `paths` are images for the parity check; `rotation` makes the
    codes where the net gives none.

    Raises ModelError when ONNX Runtime and PyTorch do not agree on features to 1e-4 and on every
    bit whose logit is clear of zero.
    """
    net = net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    pixels = [images.load(path, preprocessing) for path in paths]
    network = to_onnx(net, preprocessing)
    weights = save({name: value.contiguous() for name, value in net.state_dict().items()})
    bits = int(record["config"]["bits"])
    expected = over_views(Exported(net).arrays, pixels, preprocessing)
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
    model = proof.proven(model)
    write_whole(output / "model.safetensors", weights)
    model.save(output)
    return model


def _git_commit() -> str | None:
    """The current commit where the working directory is in a git repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def to_onnx(net: nn.Module, preprocessing: Preprocessing) -> bytes:
    """The ONNX graph of a Net for images that `preprocessing` prepares.

    Batch, height and width are dynamic where the backbone takes any size (`step` 1). Otherwise
    height and width are fixed, or, for whole images, any multiples of the backbone's step. Raises
    ModelError for whole images and a backbone that takes one size only (`step` 0).
    """
    step = getattr(getattr(net, "backbone", None), "step", 0)
    if preprocessing.whole and not step:
        raise ModelError(
            "this backbone takes squares of one size only: train without --whole, or with a "
            "different --backbone"
        )
    height, width = _TRACED if preprocessing.whole else (preprocessing.size, preprocessing.size)
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if step == 1:
        axes |= {
            1: torch.export.Dim("height", min=min(32, height), max=4096),
            2: torch.export.Dim("width", min=min(32, width), max=4096),
        }
    elif preprocessing.whole:
        axes |= {
            i: step * torch.export.Dim(name, min=1, max=4096 // step)
            for i, name in ((1, "height"), (2, "width"))
        }
    names = list(Exported(net).eval().named(pixels))
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.no_grad(),  # the same graph, captured in four fifths of the time
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
    """With `even`, the padding of every SameConv is a constant while the context lasts: an export
    with a formula of height and width in each takes a minute."""
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
    """Suppress the exporter's messages about its own dependencies."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # where onnxscript is old it prints how many rules it applied
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def in_batches(model: Model, pixels: Sequence[images.Pixels]) -> NDArray[np.float32]:
    """What `model` gives for the pixels of n images, [n, d] or [n, d + b], a few at a time."""
    return np.concatenate([model.run(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])


def check_parity(
    model: Model,
    pixels: Sequence[images.Pixels],
    feature: NDArray[np.float32],
    logits: NDArray[np.float32] | None = None,
) -> None:
    """Compare what `model` gives for the pixels of B images with PyTorch's feature [B, d] and code
    logits [B, b]. Raises ModelError when a feature differs by more than 1e-4, or a bit whose logit
    is clear of zero (proof.CLEAR)."""
    raw = in_batches(model, pixels)
    onnx_feature, onnx_logits = raw[:, : feature.shape[1]], raw[:, feature.shape[1] :]
    difference = float(np.abs(onnx_feature - feature).max())
    if not difference <= 1e-4:
        raise ModelError(
            f"the exported model's features differ from PyTorch's by {difference:.2g}: nothing was "
            "written"
        )
    if logits is None or not logits.size:
        return
    clear = np.abs(logits) > proof.CLEAR * np.abs(logits).mean()
    wrong = int(((onnx_logits >= 0) != (logits >= 0))[clear].sum())
    if wrong:
        raise ModelError(
            f"{wrong} bits of the exported model differ from PyTorch's: nothing was written"
        )


def cost(net: nn.Module, size: int) -> dict[str, int]:
    """The size of a Net and its work for one image of `size` x `size` pixels.

    parameters: of convolutions, linear layers and batch normalisation.
    macs: multiply-accumulates of these, as the tables of the hashing literature count them, with 4
        for each element that batch normalisation outputs.
    parameters_total: all parameters, CMBH's C-vectors among them.
    """
    layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
    counted = [module for module in net.modules() if isinstance(module, layers)]
    macs: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            macs.append(out.numel() * layer.in_channels // layer.groups * kernel)
        elif isinstance(layer, nn.Linear):
            macs.append(out.numel() * layer.in_features)
        else:
            macs.append(4 * out.numel())

    hooks = [layer.register_forward_hook(count) for layer in counted]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return {
        "parameters": sum(p.numel() for layer in counted for p in layer.parameters(recurse=False)),
        "macs": sum(macs),
        "parameters_total": sum(p.numel() for p in net.parameters()),
    }


def load_net(folder: str | os.PathLike[str]) -> nn.Module:
    """The Net of a trained model directory, with its weights. Raises ModelError or OSError when the
    directory is not complete, or of a version of wingbar whose networks are built differently."""
    model = Model.load(folder)
    weights = Path(folder) / "model.safetensors"
    if "weights" not in model.record:
        raise ModelError(f"{folder} was not trained by wingbar: it has no PyTorch network")
    expected = model.record["weights"]["model.safetensors"]
    if hashlib.sha256(weights.read_bytes()).hexdigest() != expected:
        raise ModelError(
            f"{weights} is not the file that model.json describes: copy the model again"
        )
    method = methods.get(model.method)
    backbone = backbones.create(model.record["backbone"])
    try:
        config = method.Config(**model.record["config"])
        net: nn.Module = method.Net(backbone, config, len(model.record["classes"]))
        net.load_state_dict(load_file(weights))
    except (TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the network of {folder} cannot be built ({one_line(error)}): it was written by "
            f"wingbar {model.record['versions']['wingbar']}, whose networks differ"
        ) from None
    return net


def start_from(net: nn.Module, folder: Path, backbone: str) -> None:
    """Copy the weights of the trained model in `folder` into `net`, where the shapes fit. Raises
    TrainingError when they cannot be read or the model has a different backbone than `backbone`."""
    if str(folder) == "general" and not folder.exists():
        raise TrainingError(
            "the built-in model holds no weights that could be trained: start from those it was "
            "made of, with --backbone efficientnet_lite0 --weights imagenet"
        )
    try:
        its_backbone = Model.load(folder).record.get("backbone")
        if its_backbone is None:
            raise ModelError("it was not trained by wingbar")
        if not (folder / "model.safetensors").exists():
            raise ModelError("it is a variant of a trained model: start from that one")
        state = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError, ModelError) as error:
        raise TrainingError(f"{folder} has no weights to start from ({error})") from None
    if its_backbone != backbone:
        raise TrainingError(
            f"{folder} has the backbone {its_backbone}, not {backbone}: start from a model with "
            "the same one"
        )
    own = net.state_dict()
    fitting = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
    net.load_state_dict(fitting, strict=False)
