"""FISH: Chen, Luo, Wang, Guo & Xu, "Fine-Grained Hashing with Double Filtering", IEEE Transactions
on Image Processing 2022.

Two filters help a network to find what distinguishes similar classes. Space: the map of the last
stage is weighted by where it is active, and a picture whose most active parts are erased must still
be classified. Features: the code is a linear map of the class scores, with the scores of all
classes but the best one damped. Every class has a code that is found beforehand from the labels
alone, and the network regresses it.

The feature for the fine stage is the filtered, averaged map. The paper searches by codes alone, and
it searches the codes of the labels, not those of the network: see `--gallery-codes labels` of
`wingbar evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.methods import Output, body_and_head
from wingbar.methods.bounds import require, require_bits
from wingbar.networks.backbones import Backbone

RECIPE: dict[str, Any] = {}
PAPER: dict[str, Any] = {
    **{"lr": 0.01, "weight_decay": 0.0, "warmup": 0.0, "schedule": "step", "step_epochs": 30},
    **{"epochs": 90, "batch": 128, "clip": 0.0},
}

ROUNDS = 15  # of the codes of the labels
RIDGE = 1e-4  # delta in their equations


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of FISH. The defaults are the paper's; the help of each field is its
    documentation."""

    bits: int = field(default=48, metadata={"help": "code length in bits"})
    space: float = field(
        default=0.5, metadata={"help": "weight of the map where it is less active than its mean"}
    )
    damping: float = field(
        default=0.7, metadata={"help": "factor of the scores of all classes but the best one"}
    )
    erase: float = field(
        default=0.9,
        metadata={"help": "least share of the highest activation from which pixels are erased"},
    )
    head_lr: float = field(
        default=1.0, metadata={"help": "factor of --lr for everything but the backbone"}
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "erase", above=0, most=1)
        require(self, "space", "damping", "head_lr", least=0)


# -- the formulas


def filtered(stage: Tensor, weight: float) -> Tensor:
    """The space filter: a map F [B, c, h, w] times M, which is 1 where A, the sum over the
    channels, is above its mean over the map, and `weight` elsewhere."""
    strength = stage.sum(1, keepdim=True)
    is_active = strength > strength.mean((2, 3), keepdim=True)
    return stage * torch.where(is_active, 1.0, weight)


def damped(scores: Tensor, factor: float) -> Tensor:
    """The feature filter: class scores [B, y], all but the highest of each image times `factor`."""
    best = F.one_hot(scores.argmax(1), scores.shape[1]).bool()
    return scores * torch.where(best, 1.0, factor)


def erased(pixels: Tensor, stage: Tensor, shares: Tensor) -> Tensor:
    """Pixels [B, H, W, 3] with those black where the map F [B, c, h, w], summed over its channels
    and enlarged bilinearly, is at least `shares` [B] of its maximum."""
    strength = stage.detach().float().sum(1, keepdim=True)
    large = F.interpolate(strength, pixels.shape[1:3], mode="bilinear", align_corners=False)
    highest = large.amax((1, 2, 3))
    hidden = large[:, 0] >= (shares * highest)[:, None, None]
    return torch.where(hidden[..., None], torch.zeros_like(pixels), pixels)


def codes_of_labels(classes: int, bits: int) -> Tensor:
    """A code of +1 and -1 for each class, [y, b] float32, from the labels alone: rounds of

        B = sign(R V); U = L V' (V V')^-1; V = (U'U + delta R'R)^-1 (U'L + delta R'B); R = S1 S2'

    with S1 S2' of the singular value decomposition of B V', V [b, n] and R [b, b] random at first,
    and L [y, n] the labels. Images of a class have equal columns, so that one of each is enough
    where classes are equally frequent, as they are taken to be here.
    """
    labels = torch.eye(classes, dtype=torch.float64)
    latent = torch.randn(bits, classes, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(bits, bits, dtype=torch.float64))[0]
    for _ in range(ROUNDS):
        code = torch.where(rotation @ latent >= 0, 1.0, -1.0).double()
        of_labels = labels @ latent.T @ torch.linalg.pinv(latent @ latent.T)
        latent = torch.linalg.pinv(of_labels.T @ of_labels + RIDGE * rotation.T @ rotation) @ (
            of_labels.T @ labels + RIDGE * rotation.T @ code
        )
        left, _, right = torch.linalg.svd(code @ latent.T)
        rotation = left @ right
    return code.T.float().contiguous()


# -- the network


class Filtered(NamedTuple):
    """A picture through both filters.

    stage: the map of the last stage, [B, c, h, w].
    feature: its filtered mean, [B, c].
    scores: of the classes, [B, y].
    code: code logits, [B, b].
    """

    stage: Tensor
    feature: Tensor
    scores: Tensor
    code: Tensor


class Net(nn.Module):
    """The backbone, the classifier and the hash layer on its scores."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.space, self.damping = config.space, config.damping
        self.classifier = nn.Linear(backbone.widths[2], classes)
        self.hash = nn.Linear(classes, config.bits)

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> code logits [B, bits] and the filtered mean of the last
        stage's map [B, width]."""
        found = self.filter(pixels)
        return Output(found.code, found.feature)

    def filter(self, pixels: Tensor) -> Filtered:
        """Pixels [B, H, W, 3], uint8 or float32 from 0 to 255, through both filters."""
        stage = self.backbone.stages(pixels)[2]
        feature = filtered(stage, self.space).mean((2, 3))
        scores = self.classifier(feature)
        return Filtered(stage, feature, scores, self.hash(damped(scores, self.damping)))


class Loss(nn.Module):
    """The classification loss, the distance to the codes of the classes, and the classification
    loss of erased pictures.

    codes: of the classes, [y, b] of +1 and -1.
    """

    codes: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.erase = config.erase
        self.register_buffer("codes", codes_of_labels(classes, config.bits))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "classification", "code", "erased" and their "total"."""
        found = net.filter(pixels)
        shares = torch.empty(len(pixels), device=pixels.device).uniform_(self.erase, 1)
        hidden = net.filter(erased(pixels, found.stage, shares))
        losses = {
            "classification": F.cross_entropy(found.scores.float(), labels),
            "code": F.mse_loss(found.code.float(), self.codes[labels]),
            "erased": F.cross_entropy(hidden.scores.float(), labels),
        }
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def end_epoch(self) -> None:
        """Does nothing: this loss keeps no state between epochs."""


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, everything else at `head_lr` times that."""
    return body_and_head(net, loss, config.head_lr)
