"""DLBHC: Lin, Yang, Hsiao & Chen, "Deep Learning of Binary Hash Codes for Fast Image Retrieval",
CVPR Workshops 2015.

A latent layer H of sigmoid units lies between the feature layer F7 and the classifier F8, and the
classification loss alone trains it: when a few units must carry everything that distinguishes the
classes, they become attributes that are on or off. Bit j is 1 where H_j >= 0.5 (Section 2.2.1),
which is where its logit is >= 0. Search is coarse to fine: by Hamming distance of H, then by
Euclidean distance of F7. The exported model scales F7 to unit length, so that ascending Euclidean
distance and descending cosine give the same order.

Initialisation and learning-rate multipliers are those of the configuration that the authors
released for CIFAR-10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.methods import Output
from wingbar.methods.bounds import require, require_bits
from wingbar.networks.backbones import Backbone

RECIPE: dict[str, Any] = {}
PAPER: dict[str, Any] = {
    **{"lr": 0.001, "warmup": 0.0, "schedule": "step", "step_epochs": 16, "epochs": 32},
    **{"clip": 0.0},
}
"""The released configuration: 50,000 steps on CIFAR-10, the rate divided by 10 in their middle."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of DLBHC. The defaults are those of the released configuration; the help of
    each field is its documentation."""

    bits: int = field(
        default=48, metadata={"help": "code length in bits: units of the latent layer"}
    )
    latent_std: float = field(
        default=0.005, metadata={"help": "standard deviation of the latent layer's initial weights"}
    )
    latent_bias: float = field(default=1.0, metadata={"help": "initial bias of the latent layer"})
    classifier_std: float = field(
        default=0.01, metadata={"help": "standard deviation of the classifier's initial weights"}
    )
    latent_lr: float = field(default=1.0, metadata={"help": "factor of --lr for the latent layer"})
    classifier_lr: float = field(
        default=10.0, metadata={"help": "factor of --lr for the classifier"}
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "latent_std", "classifier_std", above=0)
        require(self, "latent_lr", "classifier_lr", least=0)
        require(self, "latent_bias", least=-1e6, most=1e6)


class Net(nn.Module):
    """The backbone and the latent layer."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        """`classes` is not used: only the Loss has a classifier."""
        super().__init__()
        self.backbone = backbone
        self.latent = nn.Linear(backbone.width, config.bits)
        nn.init.normal_(self.latent.weight, std=config.latent_std)
        nn.init.constant_(self.latent.bias, config.latent_bias)

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> logits of H [B, bits] and F7 [B, width]."""
        feature = self.backbone(pixels)
        return Output(self.latent(feature), feature)


class Loss(nn.Module):
    """The classifier F8 on H, and its softmax loss."""

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.bits, classes)
        nn.init.normal_(self.classifier.weight, std=config.classifier_std)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "classification" and "total", which are equal for this method."""
        latent = torch.sigmoid(net.latent(net.backbone(pixels)))
        classification = F.cross_entropy(self.classifier(latent), labels)
        return {"classification": classification, "total": classification}

    def end_epoch(self) -> None:
        """Does nothing: this loss keeps no state between epochs."""


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """Weights decay; biases and batch normalisation do not. The biases of layers have twice the
    learning rate of their weights."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module, scale in (
        (net.backbone, 1.0),
        (net.latent, config.latent_lr),
        (loss.classifier, config.classifier_lr),
    ):
        for layer in module.modules():
            normalises = isinstance(layer, nn.modules.batchnorm._BatchNorm)
            for name, parameter in layer.named_parameters(recurse=False):
                is_bias = name == "bias" and not normalises
                key = (scale * (2.0 if is_bias else 1.0), 0.0 if is_bias or normalises else 1.0)
                groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "lr_scale": lr, "decay_scale": decay}
        for (lr, decay), params in groups.items()
    ]
