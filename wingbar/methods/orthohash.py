"""OrthoHash: Hoe, Ng, Zhang, Chan, Song & Xiang, "One Loss for All: Deep Hashing with a Single
Cosine Similarity based Learning Objective", NeurIPS 2021.

Every class has a fixed code. Code logits are classified by their cosine to these codes, with a
margin, and that is the only loss: a high cosine to a code of +1 and -1 leaves little for signs to
lose, so that no quantization loss is needed. Batch normalisation in front of the signs makes every
bit 1 in about half of the images.

The backbone's feature serves the fine stage. The paper has no feature for one.
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
from wingbar.networks.centres import hash_centres
from wingbar.networks.layers import memberships

RECIPE: dict[str, Any] = {}
PAPER: dict[str, Any] = {
    **{"optimizer": "adam", "lr": 1e-5, "warmup": 0.0, "schedule": "step", "step_epochs": 80},
    **{"epochs": 100, "batch": 256, "clip": 0.0, "spread": False},
}
"""Adam at 1e-4, a tenth of that for the backbone; divided by 10 after 80 of 100 epochs."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of OrthoHash; the help of each field is its documentation. About `spread`, see
    `csq.Config`."""

    bits: int = field(default=48, metadata={"help": "code length in bits"})
    scale: float = field(default=8.0, metadata={"help": "factor from cosines to logits (s)"})
    margin: float = field(
        default=0.2, metadata={"help": "margin of the cosine to the own class (m)"}
    )
    spread: bool = field(
        default=True,
        metadata={
            "help": "take rows of a Hadamard matrix none of whose bits is constant, and draw "
            "class codes far apart where it has too few rows"
        },
    )
    hash_std: float = field(
        default=0.01, metadata={"help": "standard deviation of the hash layer's initial weights"}
    )
    head_lr: float = field(
        default=10.0, metadata={"help": "factor of --lr for everything but the backbone"}
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "scale", "hash_std", above=0)
        require(self, "margin", "head_lr", least=0)


def cosine_loss(
    logits: Tensor, labels: Tensor, centres: Tensor, scale: float, margin: float
) -> Tensor:
    """The mean cross-entropy of s (cos(z, o_c) - m [c = y]) over the classes c. Code logits z
    [B, b], class codes o [y, b] of +1 and -1, labels [B] int64.

    Of labels [B, y] bool, each class of an image has the margin and an equal share of the target,
    as in the released code.
    """
    own = memberships(labels, len(centres))
    cosine = F.normalize(logits, dim=1) @ F.normalize(centres, dim=1).T
    target = own / own.sum(1, keepdim=True).clamp_min(1)
    return -(target * F.log_softmax(scale * (cosine - margin * own), dim=1)).sum(1).mean()


class Net(nn.Module):
    """The backbone, the hash layer, and batch normalisation of its outputs."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        """`classes` is not used: only the Loss has class codes."""
        super().__init__()
        self.backbone = backbone
        self.hash = nn.Linear(backbone.width, config.bits, bias=False)
        nn.init.normal_(self.hash.weight, std=config.hash_std)
        self.norm = nn.BatchNorm1d(config.bits)

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> code logits z [B, bits] and the backbone's feature
        [B, width]."""
        feature = self.backbone(pixels)
        return Output(self.norm(self.hash(feature)), feature)


class Loss(nn.Module):
    """The one loss.

    centres: the codes of the classes, [y, b] of +1 and -1.
    """

    centres: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.scale, self.margin = config.scale, config.margin
        self.register_buffer("centres", hash_centres(classes, config.bits, config.spread))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "classification" and "total", which are equal for this method."""
        logits = net(pixels).code
        assert logits is not None
        with torch.autocast(logits.device.type, enabled=False):
            classification = cosine_loss(
                logits.float(), labels, self.centres, self.scale, self.margin
            )
        return {"classification": classification, "total": classification}

    def end_epoch(self) -> None:
        """Does nothing: this loss keeps no state between epochs."""


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, everything else at `head_lr` times that."""
    return body_and_head(net, loss, config.head_lr)
