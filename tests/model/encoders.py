"""Encoders of the forms in which they are published, with random weights and small enough to be
exported in half a second."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.conftest import picture
from wingbar.model.imported import CLIP_MEAN, CLIP_STD

SIZE, EDGE, PATCH, WIDTH = 32, 36, 8, 24
SHAPES = [(64, 48), (48, 64), (36, 36), (101, 67), (67, 150), (40, 37), (300, 90), (33, 80)]
TEN = [picture(i, (SHAPES * 2)[i]) for i in range(10)]


class Vit(nn.Module):
    """A vision transformer of two layers: normalised [B, 3, H, W] -> hidden states of the CLS token
    and the patches [B, 1 + T, d], and a pooled vector [B, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, 1 + (SIZE // PATCH) ** 2, WIDTH))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(WIDTH),
                    "qkv": nn.Linear(WIDTH, 3 * WIDTH),
                    "out": nn.Linear(WIDTH, WIDTH),
                    "norm2": nn.LayerNorm(WIDTH),
                    "up": nn.Linear(WIDTH, 2 * WIDTH),
                    "down": nn.Linear(2 * WIDTH, WIDTH),
                }
            )
            for _ in range(2)
        )
        self.norm, self.pooler = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm1"](x)).chunk(3, -1)  # type: ignore[index]
            weights = (q @ k.transpose(1, 2) / WIDTH**0.5).softmax(-1)
            x = x + layer["out"](weights @ v)  # type: ignore[index]
            inner = layer["up"](layer["norm2"](x))  # type: ignore[index]
            x = x + layer["down"](nn.functional.gelu(inner))  # type: ignore[index]
        x = self.norm(x)
        return x, torch.tanh(self.pooler(x[:, 0]))


class AsPublished(nn.Module):
    """A Vit that takes its pictures in another order of axes, or as bytes that it normalises
    itself."""

    def __init__(self, vit: Vit, layout: str, is_uint8: bool) -> None:
        super().__init__()
        self.vit, self.layout, self.is_uint8 = vit, layout, is_uint8

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.layout == "nhwc":
            x = x.permute(0, 3, 1, 2)
        if self.is_uint8:
            mean, std = (torch.tensor(v)[None, :, None, None] for v in (CLIP_MEAN, CLIP_STD))
            x = (x.float() / 255 - mean) / std
        hidden, pooled = self.vit(x)
        return hidden, pooled


def vit() -> Vit:
    torch.manual_seed(0)
    return Vit().eval()


def write(
    path: Path, network: nn.Module, layout: str = "nchw", is_uint8: bool = False, batch: int = 0
) -> Path:
    """An ONNX file as exporters of encoders write it."""
    shape = (batch or 2, 3, SIZE, SIZE) if layout == "nchw" else (batch or 2, SIZE, SIZE, 3)
    example = torch.zeros(shape, dtype=torch.uint8 if is_uint8 else torch.float32)
    names = ["last_hidden_state", "pooler_output"]
    axes = {} if batch else {name: {0: "batch"} for name in ["pixel_values", *names]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            AsPublished(network, layout, is_uint8).eval() if isinstance(network, Vit) else network,
            (example,),
            str(path),
            dynamo=False,
            input_names=["pixel_values"],
            output_names=names,
            dynamic_axes=axes,
            opset_version=17 if layout == "nchw" else 18,
        )
    return path


def prepared(image: Image.Image) -> Tensor:
    """Normalised pixels [3, H, W] as image processors of Hugging Face make them: the short side
    scaled to EDGE, the centre cut out, every step on its own."""
    width, height = image.size
    short = min(width, height)
    scaled = image.resize(
        (int(EDGE * width / short), int(EDGE * height / short)), Image.Resampling.BICUBIC
    )
    array = np.asarray(scaled)
    top, left = (array.shape[0] - SIZE) // 2, (array.shape[1] - SIZE) // 2
    cut = array[top : top + SIZE, left : left + SIZE].astype(np.float32) * np.float32(1 / 255)
    mean, std = (np.array(value, np.float32) for value in (CLIP_MEAN, CLIP_STD))
    normal = (cut - mean) / std
    return torch.from_numpy(normal).permute(2, 0, 1)


def features(network: Vit, pool: str) -> np.ndarray:
    """The unit features [10, d] that PyTorch gives for TEN."""
    with torch.no_grad():
        hidden, pooled = network(torch.stack([prepared(one) for one in TEN]))
    chosen = {"cls": hidden[:, 0], "mean": hidden[:, 1:].mean(1), "": pooled}[pool]
    return nn.functional.normalize(chosen, dim=1).numpy()
