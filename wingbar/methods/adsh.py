"""ADSH: Jiang & Li, "Asymmetric Deep Supervised Hashing", AAAI 2018.

Codes are learned from two sides: a network gives the codes of queries, and the codes of the
training images, B, are free variables, found bit by bit in closed form. The inner product of a
query's code and a training image's code should be high where they share a class and low elsewhere.
Several methods for fine-grained hashing (A2-Net, SEMICON) train with this loss.

The code is the sign of one linear layer on the backbone's feature, and that feature serves the fine
stage. In the literature B serves as the gallery; here it is only a target, since new pictures have
none: the gallery's codes are the network's.

The paper alternates 50 times between three epochs over 2,000 training images and an update of B.
Here each epoch over all training images is followed by an update.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wingbar.methods import body_and_head, csq
from wingbar.methods.bounds import require, require_bits
from wingbar.networks.backbones import Backbone
from wingbar.networks.centres import random_codes

RECIPE: dict[str, Any] = {}
PAPER: dict[str, Any] = {
    **{"lr": 2.5e-4, "momentum": 0.91, "weight_decay": 1e-4, "warmup": 0.0, "schedule": "step"},
    **{"step_epochs": 1000, "batch": 16, "clip": 0.0},
}
"""One rate, as the methods for fine-grained hashing have it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of ADSH; the help of each field is its documentation."""

    bits: int = field(default=48, metadata={"help": "code length in bits"})
    gamma: float = field(
        default=200.0, metadata={"help": "factor of the distance to an image's own row of B"}
    )
    head_lr: float = field(
        default=1.0, metadata={"help": "factor of --lr for everything but the backbone"}
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "gamma", "head_lr", least=0)


def contrast(counts: Tensor) -> Tensor:
    """-S of images of two classes where S of one class is 1: sum S / sum (1 - S) over all pairs of
    images, by the number of images of each class [y]. It makes S sum to 0."""
    same, every = counts.square().sum(), counts.sum().square()
    return same / (every - same).clamp_min(1)


def asymmetric_loss(
    relaxed: Tensor, own: Tensor, labels: Tensor, codes: Tensor, of_codes: Tensor, gamma: float
) -> Tensor:
    """(12 / b) (||b S - F B'||^2 + gamma ||F - B_own||^2) / (m n) of a batch of m images and n
    training images. relaxed F [m, b]; own: the rows of B of these images, [m, b]; labels [m] int64;
    codes B [n, b] of +1 and -1; of_codes: their labels, [n] int64.

    12 / b, by which A2-Net and SEMICON multiply it, keeps the pull on each bit.
    """
    bits, n = codes.shape[1], len(codes)
    ratio = contrast(torch.bincount(of_codes).float())
    similar = torch.where(labels[:, None] == of_codes[None], 1.0, -ratio)
    pairs = (bits * similar - relaxed @ codes.T).square().sum()
    return 12 / bits * (pairs + gamma * (relaxed - own).square().sum()) / (len(relaxed) * n)


def updated(codes: Tensor, relaxed: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """B after one pass over its bits: B_k = sign(Q_k - B_-k U_-k' u_k) with Q = b S'U + gamma U,
    where every training image is also a query. codes B and relaxed U [n, b], labels [n] int64; a
    sum of 0 gives +1.
    """
    bits = codes.shape[1]
    counts = torch.bincount(labels)
    ratio = contrast(counts.float())
    sums = torch.zeros(len(counts), bits, dtype=relaxed.dtype, device=relaxed.device)
    sums.index_add_(0, labels, relaxed)
    pull = bits * ((1 + ratio) * sums[labels] - ratio * sums.sum(0)) + gamma * relaxed
    gram = relaxed.T @ relaxed
    found = codes.clone()
    for k in range(bits):
        others = found @ gram[:, k] - found[:, k] * gram[k, k]
        found[:, k] = torch.where(pull[:, k] - others >= 0, 1.0, -1.0)
    return found


Net = csq.Net


class Loss(nn.Module):
    """The asymmetric loss and B.

    In the first epoch a random code of each class is B, as nothing is known of the images yet;
    gamma then weighs as much beside the pairs as it does later.

    classes: the random codes of the classes, [y, b] of +1 and -1.
    codes: B, the rows of training images that were seen before this epoch, [n, b] of +1 and -1; 0
        for the others.
    relaxed: F of each training image when it was last seen, [n, b].
    label: its class number, [n] int64; -1 before it is seen.
    known: whether it has a row in B, [n] bool.
    fresh: whether it was seen in the current epoch, [n] bool.
    """

    classes: Tensor
    codes: Tensor
    relaxed: Tensor
    label: Tensor
    known: Tensor
    fresh: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.gamma = config.gamma
        self.register_buffer("classes", random_codes(classes, config.bits))
        self.register_buffer("codes", torch.zeros(items, config.bits))
        self.register_buffer("relaxed", torch.zeros(items, config.bits))
        self.register_buffer("label", torch.full((items,), -1))
        self.register_buffer("known", torch.zeros(items, dtype=torch.bool))
        self.register_buffer("fresh", torch.zeros(items, dtype=torch.bool))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "asymmetric" and "total", which are equal for this method."""
        logits = net(pixels).code
        assert logits is not None
        with torch.autocast(logits.device.type, enabled=False):
            relaxed = torch.tanh(logits.float())
            asymmetric = self._loss(relaxed, labels, rows)
        self.relaxed[rows], self.label[rows] = relaxed.detach(), labels
        self.fresh[rows] = True
        return {"asymmetric": asymmetric, "total": asymmetric}

    def _loss(self, relaxed: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        known = self.known
        if not known.any():
            own, numbers = self.classes[labels], torch.arange(len(self.classes))
            gamma = self.gamma * len(self.classes) / len(known)
            return asymmetric_loss(
                relaxed, own, labels, self.classes, numbers.to(labels.device), gamma
            )
        # an image that has no row yet is pulled to its own signs
        signs = torch.where(relaxed.detach() >= 0, 1.0, -1.0)
        own = torch.where(known[rows, None], self.codes[rows], signs)
        return asymmetric_loss(
            relaxed, own, labels, self.codes[known], self.label[known], self.gamma
        )

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Update B by what this epoch made of the images of all processes."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._gather()
        self.fresh.zero_()
        known = self.label >= 0
        if not known.any():
            return
        relaxed, label = self.relaxed[known], self.label[known]
        begun = torch.where(relaxed >= 0, 1.0, -1.0)
        codes = torch.where(self.known[known][:, None], self.codes[known], begun)
        self.codes[known] = updated(codes, relaxed, label, self.gamma)
        self.known.copy_(known)

    def _gather(self) -> None:
        """Fill the banks with what the other processes saw of this epoch."""
        times = self.fresh.to(self.relaxed.dtype)  # by how many processes an image was seen
        relaxed, label = self.relaxed * times[:, None], self.label * self.fresh
        for tensor in (times, relaxed, label):
            torch.distributed.all_reduce(tensor)
        seen, divisor = times > 0, times.clamp_min(1)
        self.relaxed.copy_(torch.where(seen[:, None], relaxed / divisor[:, None], self.relaxed))
        self.label.copy_(torch.where(seen, label // divisor.long(), self.label))


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, the hash layer at `head_lr` times that."""
    return body_and_head(net, loss, config.head_lr)
