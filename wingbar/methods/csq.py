"""CSQ: Yuan, Wang, Zhang, Tay, Jie, Liu & Feng, "Central Similarity Quantization for Efficient
Image and Video Retrieval", CVPR 2020.

Every class has a fixed code, its hash centre; the centres are far from each other. The network
learns to give an image the code of its class, bit by bit. An image of several classes is pulled to
the bits that most of their centres have (the paper's multi-label centroid).

The code is the sign of one linear layer on the backbone's feature, and that feature serves the fine
stage. The paper has no feature for one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.methods import Output, body_and_head
from wingbar.methods.bounds import require, require_bits
from wingbar.networks.backbones import Backbone
from wingbar.networks.centres import hash_centres, random_codes
from wingbar.networks.layers import memberships

RECIPE: dict[str, Any] = {"lr": 0.1}
"""The loss is a mean over bits, whose gradient is small: at 0.01 it has hardly learned when the
rate is back at zero (docs/leaderboard.md)."""
PAPER: dict[str, Any] = {"lr": 0.01, "spread": False, "clip": 0.0}
"""The paper's rate is not known here: without clipping it is that of the other methods."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of CSQ; the help of each field is its documentation.

    Centres are rows of a Hadamard matrix where its size allows it. Elsewhere the paper draws them
    bit by bit, so that some are close and, at 12 bits, can be equal; classes with equal centres
    cannot be told apart. `spread` draws them far apart instead, and takes rows of the matrix such
    that few bits say the same as another; the paper's first rows of few classes have such bits, and
    some that are the same for all classes, which `spread` leaves none of.
    """

    bits: int = field(default=48, metadata={"help": "code length in bits"})
    quantization: float = field(
        default=1e-4, metadata={"help": "factor of the quantization loss (lambda)"}
    )
    spread: bool = field(
        default=True,
        metadata={
            "help": "take rows of a Hadamard matrix none of whose bits is constant, and draw "
            "centres far apart where it has too few rows"
        },
    )
    head_lr: float = field(
        default=10.0, metadata={"help": "factor of --lr for everything but the backbone"}
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "quantization", "head_lr", least=0)


def central_loss(logits: Tensor, centres: Tensor) -> Tensor:
    """L_C: the mean over bits and images of the cross-entropy between h = (tanh u + 1) / 2 and the
    bits of the centre, (c + 1) / 2. Code logits u [B, b], centres c [B, b] of +1 and -1.

    As (tanh u + 1) / 2 is the sigmoid of 2 u, nothing is rounded to log 0.
    """
    return F.binary_cross_entropy_with_logits(2 * logits, (centres + 1) / 2)


def quantization_loss(logits: Tensor) -> Tensor:
    """L_Q: the mean over bits and images of log cosh(|2 h - 1| - 1), which is log cosh(|tanh u| -
    1). Code logits u [B, b]."""
    return torch.log(torch.cosh(torch.tanh(logits).abs() - 1)).mean()


def centroids(labels: Tensor, centres: Tensor, ties: Tensor) -> Tensor:
    """The centre of each image, [B, b] of +1 and -1: that of its class or, of several classes, the
    bits that most of their centres have, with the bits of `ties` [b] where half of them do.

    labels [B] int64 or [B, y] bool; centres [y, b].
    """
    votes = memberships(labels, len(centres)) @ centres
    return torch.where(votes == 0, ties, votes.sign())


class Net(nn.Module):
    """The backbone and the hash layer."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        """`classes` is not used: only the Loss has anything of them."""
        super().__init__()
        self.backbone = backbone
        self.hash = nn.Linear(backbone.width, config.bits)

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> code logits u [B, bits] and the backbone's feature
        [B, width]."""
        feature = self.backbone(pixels)
        return Output(self.hash(feature), feature)


class Loss(nn.Module):
    """L_C + lambda L_Q.

    centres: of the classes, [y, b] of +1 and -1.
    ties: bits for images of several classes where their centres disagree, [b] of +1 and -1.
    """

    centres: Tensor
    ties: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.quantization = config.quantization
        self.register_buffer("centres", hash_centres(classes, config.bits, config.spread))
        self.register_buffer("ties", random_codes(1, config.bits)[0])

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "central", "quantization" and their "total"."""
        logits = net(pixels).code
        assert logits is not None
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            central = central_loss(logits, centroids(labels, self.centres, self.ties))
            quantization = self.quantization * quantization_loss(logits)
        return {
            "central": central,
            "quantization": quantization,
            "total": central + quantization,
        }

    def end_epoch(self) -> None:
        """Does nothing: this loss keeps no state between epochs."""


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, the hash layer at `head_lr` times that."""
    return body_and_head(net, loss, config.head_lr)
