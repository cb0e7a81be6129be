"""Encoders of timm, torchvision and TorchScript files as ONNX files, from which
`model/imported.py` makes models."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wingbar import images
from wingbar.errors import ModelError, one_line
from wingbar.images import Preprocessing
from wingbar.model import proof
from wingbar.model.imported import PARITY, Form, from_onnx
from wingbar.model.model import Model

LIBRARIES = ("timm", "torchvision")
# where networks of torchvision keep their classifiers
_HEADS = ("fc", "classifier", "heads", "head")
_TIMM_CROPS = ("center", "squash")  # ways in which timm cuts a square that wingbar has too


def from_library(name: str, called: str = "") -> Model:
    """The model of a pretrained network of timm ("timm:NAME", or NAME alone) or torchvision
    ("torchvision:NAME") without its classifier; the library fetches the weights.

    `called` is its name, NAME by default. Raises ModelError when the library cannot be imported,
    has no such network, or prepares pictures in a way that wingbar does not have.
    """
    library, _, network = name.rpartition(":")
    library = library or "timm"
    if library not in LIBRARIES:
        raise ModelError(f"networks are from {' or '.join(LIBRARIES)}, not from {library}")
    made, form = {"timm": _of_timm, "torchvision": _of_torchvision}[library](network)
    return from_torch(made, form, called or network, {"from": f"{library}:{network}"})


def from_torchscript(
    path: Path, form: Form, name: str, source: dict[str, Any] | None = None
) -> Model:
    """The model of a TorchScript file that takes pixels [B, 3, H, W] and gives vectors [B, d].
    Raises ModelError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, about TorchScript itself
            network = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location="cpu"
            ).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path} is no TorchScript file ({one_line(error)})") from None
    return from_torch(network, form, name, source)


def from_torch(
    network: nn.Module, form: Form, name: str, source: dict[str, Any] | None = None
) -> Model:
    """The model of a network that takes normalised pixels [B, 3, H, W] float32 and gives vectors
    [B, d], for any B; what it gives is compared with what PyTorch does. Raises ModelError."""
    size = form.preprocessing.size
    example = torch.zeros(2, 3, size, size)
    with tempfile.TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / "network.onnx"
        try:
            # the newer exporter takes no TorchScript
            torch.onnx.export(
                network.eval(),
                (example,),
                str(path),
                dynamo=False,
                input_names=["image"],
                output_names=["vector"],
                dynamic_axes={"image": {0: "B"}, "vector": {0: "B"}},
                opset_version=18,
            )
        except Exception as error:  # the exporter raises many kinds
            raise ModelError(f"PyTorch cannot export {name} to ONNX ({one_line(error)})") from None
        model = from_onnx(path, form, name, source)
    _check_parity(model, network, form)
    return model


def _check_parity(model: Model, network: nn.Module, form: Form) -> None:
    """Raise ModelError unless the model gives what PyTorch does, to PARITY."""
    pixels = [images.load(one, form.preprocessing) for one in proof.draw_pictures()]
    x = torch.from_numpy(np.stack(pixels)).float() * form.scale
    x = ((x - torch.tensor(form.mean)) / torch.tensor(form.std)).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = nn.functional.normalize(network(x), dim=1).numpy()
    difference = float(np.abs(model.run(pixels) - expected).max())
    if not difference <= PARITY:
        raise ModelError(
            f"the exported network differs from PyTorch's by {difference:.2g}: nothing was written"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's warnings about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except Exception as error:  # one built for another PyTorch fails in many ways
        raise ModelError(
            f"{name} cannot be imported ({one_line(error)}): install the {name} that fits your "
            "PyTorch, or import an ONNX file"
        ) from None


def _of_timm(name: str) -> tuple[nn.Module, Form]:
    timm = _library("timm")
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
        config = timm.data.resolve_model_data_config(network)
    except Exception as error:  # timm and the hub raise many kinds
        raise ModelError(f"timm cannot make {name} ({one_line(error)})") from None
    _, height, width = config["input_size"]
    crop = config.get("crop_mode", "center")
    if height != width or crop not in _TIMM_CROPS:
        raise ModelError(f"timm prepares pictures for {name} in a way that wingbar has not: {crop}")
    edge = math.floor(height / config["crop_pct"])
    if crop == "squash" and edge != height:
        raise ModelError(f"timm crops a squeezed picture for {name}, which wingbar does not")
    bicubic = _bicubic(config["interpolation"], name)
    seen = (
        Preprocessing(size=height, squash=True, bicubic=bicubic)
        if crop == "squash"
        else Preprocessing(size=height, edge=edge, bicubic=bicubic)
    )
    return network, Form(preprocessing=seen, mean=tuple(config["mean"]), std=tuple(config["std"]))


def _of_torchvision(name: str) -> tuple[nn.Module, Form]:
    models = _library("torchvision.models")
    try:
        weights = models.get_model_weights(name).DEFAULT
        network = models.get_model(name, weights=weights)
        config = weights.transforms()
    except Exception as error:
        raise ModelError(f"torchvision cannot make {name} ({one_line(error)})") from None
    head = next((head for head in _HEADS if hasattr(network, head)), None)
    if head is None:
        raise ModelError(f"where {name} has its classifier is not known: import an ONNX file")
    setattr(network, head, nn.Identity())
    [size], [edge] = config.crop_size, config.resize_size
    bicubic = _bicubic(str(getattr(config.interpolation, "value", config.interpolation)), name)
    seen = Preprocessing(size=size, edge=edge, bicubic=bicubic)
    return network, Form(preprocessing=seen, mean=tuple(config.mean), std=tuple(config.std))


def _bicubic(interpolation: str, name: str) -> bool:
    if interpolation not in ("bilinear", "bicubic"):
        raise ModelError(f"{name} wants {interpolation} scaling, which wingbar does not have")
    return interpolation == "bicubic"
