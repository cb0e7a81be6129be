"""HashNet: Cao, Long, Wang & Yu, "HashNet: Deep Learning to Hash by Continuation", ICCV 2017.

Codes are learned from pairs of images: of two that share a class, the codes should have a great
inner product, of all others a small one. Similar pairs are few, so that each is weighted by how
rare its kind is. The sign has no gradient: tanh(beta u) takes its place, and beta grows during
training until the two are nearly equal.

The code is the sign of one linear layer on the backbone's feature, and that feature serves the fine
stage. The paper has no feature for one. Where it sums over all pairs of training images, pairs are
those of a batch here, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.methods import body_and_head, csq
from wingbar.methods.bounds import require, require_bits
from wingbar.networks.backbones import Backbone
from wingbar.networks.layers import memberships

RECIPE: dict[str, Any] = {}
PAPER: dict[str, Any] = {"batch": 256, "clip": 0.0, "head_lr": 10.0}
"""The paper chose its learning rate for each data set, and gave the hash layer ten times that."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of HashNet; the help of each field is its documentation. `similarity` and
    `growth` are those of the released code.

    head_lr: 1, not the paper's 10, with which the layer's outputs grow so fast at the default
        learning rate that tanh is flat before much is learned.
    """

    bits: int = field(default=48, metadata={"help": "code length in bits"})
    similarity: float = field(
        default=10.0,
        metadata={"help": "what inner products are multiplied by, times the code length (alpha)"},
    )
    growth: float = field(
        default=0.005, metadata={"help": "growth of beta: it is (1 + growth * steps) ** 0.5"}
    )
    head_lr: float = field(
        default=1.0, metadata={"help": "factor of --lr for everything but the backbone"}
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "similarity", above=0)
        require(self, "growth", "head_lr", least=0)


def pair_loss(relaxed: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Eq. 4 for a batch: the mean over its pairs i != j of w_ij (log(1 + exp(a_ij)) - s_ij a_ij)
    with a_ij = alpha h_i . h_j. relaxed [B, b] are h, labels [B, y] are 0 and 1.

    s_ij is 1 where two images share a class, else 0. w_ij is the share of the classes of both that
    they share (1 where they share none), times the number of pairs over that of pairs of this kind
    (Eq. 2). 0 for a batch of one.
    """
    shared = labels @ labels.T
    pairs = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similar = (shared > 0) & pairs
    other = ~similar & pairs
    total = pairs.sum()
    of_both = labels.sum(1)[:, None] + labels.sum(1)[None] - shared
    weight = torch.where(
        similar,
        shared / of_both.clamp_min(1) * total / similar.sum().clamp_min(1),
        total / other.sum().clamp_min(1),
    )
    product = alpha * relaxed @ relaxed.T
    losses = weight * (F.softplus(product) - similar.float() * product)
    return torch.where(pairs, losses, 0.0).sum() / total.clamp_min(1)


Net = csq.Net


class Loss(nn.Module):
    """Eq. 4 on tanh(beta u).

    steps: steps so far, int64.
    """

    steps: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.classes, self.growth = classes, config.growth
        self.alpha = config.similarity / config.bits
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "pair" and "total", which are equal for this method."""
        logits = net(pixels).code
        assert logits is not None
        with torch.autocast(logits.device.type, enabled=False):
            relaxed = torch.tanh(self.beta() * logits.float())
            pair = pair_loss(relaxed, memberships(labels, self.classes), self.alpha)
        self.steps += 1
        return {"pair": pair, "total": pair}

    def beta(self) -> Tensor:
        """The factor inside tanh, which grows with the steps."""
        return (1 + self.growth * self.steps).sqrt()

    def end_epoch(self) -> None:
        """Does nothing: beta grows with the steps."""


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, the hash layer at `head_lr` times that."""
    return body_and_head(net, loss, config.head_lr)
