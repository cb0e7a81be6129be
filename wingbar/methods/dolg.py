"""DOLG: Yang et al., "DOLG: Single-Stage Image Retrieval with Deep Orthogonal Fusion of Local and
Global Features", ICCV 2021.

One network gives one descriptor that holds both: a global vector of the last stage (GeM pooling),
and of the local features of the stage before, weighed by attention, only what the global vector
does not say already: the part orthogonal to it.

Codes are not the paper's: ITQ turns the training descriptors into bits after the last epoch, so
that DOLG can be searched coarse to fine as the other methods are. Where the authors' released code
and their paper differ, the paper is the default and the other way a flag: the loss (`--loss
curricular`) and ASPP (`--no-aspp`). Widths follow the backbone; ResNet-50 and -101 have the
paper's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.errors import TrainingError
from wingbar.methods import Output
from wingbar.networks.backbones import Backbone
from wingbar.networks.layers import Gem, arc_margin, curricular, orthogonal_part

RECIPE: dict[str, Any] = {
    **{"nesterov": True, "weight_decay": 1e-4, "lr": 0.0125, "warmup": 1.0, "lighting": 0.1},
    **{"whole": True, "scales": "0.3535,0.5,0.7071,1,1.4142"},
}
"""The paper's recipe where it differs from the defaults of Run; its learning rate of 0.05 is for a
batch of 128."""

DILATIONS = (6, 12, 18)
_BRANCH = 512  # channels of each branch of ASPP


@dataclass(frozen=True, kw_only=True)
class Config:
    """What DOLG needs; the defaults are the paper's. `sub_centres` is ArcFace with several centres
    a class (Deng et al., ECCV 2020), for noisy labels."""

    bits: int = field(
        default=64, metadata={"help": "code length, fitted to the descriptors after the last epoch"}
    )
    dim: int = field(default=512, metadata={"help": "length of the descriptor"})
    hidden: int = field(
        default=1024,
        metadata={"help": "length of the global vector and channels of the local features"},
    )
    p: float = field(default=3.0, metadata={"help": "first exponent of GeM"})
    aspp: bool = field(default=True, metadata={"help": "dilated convolutions before the attention"})
    local: bool = field(
        default=True,
        metadata={"help": "the local branch; without it the global vector alone is used"},
    )
    loss: str = field(
        default="arcface", metadata={"help": "arcface, or curricular as in the released code"}
    )
    margin: float = field(
        default=0.15, metadata={"help": "angle by which the own class has to be nearer, radians"}
    )
    scale: float = field(default=30.0, metadata={"help": "factor from cosines to logits"})
    sub_centres: int = field(default=1, metadata={"help": "centres a class"})
    head_lr: float = field(
        default=1.0,
        metadata={"help": "learning rate of all but the backbone, times that of the run"},
    )

    def __post_init__(self) -> None:
        if self.loss not in ("arcface", "curricular"):
            raise TrainingError(f"loss is arcface or curricular, not {self.loss!r}")
        if not 1 <= self.bits <= self.dim:
            raise TrainingError(f"bits are from 1 to dim, {self.dim}, not {self.bits}")
        if self.sub_centres < 1 or self.scale <= 0 or self.p <= 0:
            raise TrainingError(f"sub_centres is at least 1, scale and p are above 0, not {self}")


class Aspp(nn.Module):
    """A map [B, channels, h, w] seen at several widths: [B, hidden, h, w]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, _BRANCH, 1)
        self.dilated = nn.ModuleList(
            nn.Conv2d(channels, _BRANCH, 3, padding=d, dilation=d) for d in DILATIONS
        )
        self.pooled = nn.Conv2d(channels, _BRANCH, 1)
        self.join = nn.Conv2d((2 + len(DILATIONS)) * _BRANCH, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        whole = F.relu(self.pooled(x.mean((2, 3), keepdim=True))).expand(
            -1, -1, x.shape[2], x.shape[3]
        )
        return F.relu(
            self.join(torch.cat([self.narrow(x), *(conv(x) for conv in self.dilated), whole], 1))
        )


class Attention(nn.Module):
    """Local features of unit length, each times how much it counts: [B, channels, h, w] -> [B,
    hidden, h, w]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.score = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weighed features and the scores [B, h, w], above 0."""
        x = self.norm(self.conv(x))
        score = F.softplus(self.score(F.relu(x)).float())
        return F.normalize(x.float(), dim=1) * score, score[:, 0]


class Net(nn.Module):
    """Backbone, both branches, and the layer that joins them."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        """The number of classes is the Loss's alone here."""
        super().__init__()
        self.backbone = backbone
        self.gem = Gem(config.p)
        self.globally = nn.Linear(backbone.widths[2], config.hidden)
        self.aspp = (
            Aspp(backbone.widths[1], config.hidden) if config.local and config.aspp else None
        )
        channels = config.hidden if config.aspp else backbone.widths[1]
        self.attention = Attention(channels, config.hidden) if config.local else None
        self.join = nn.Linear((2 if config.local else 1) * config.hidden, config.dim)

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> no code, and the descriptor [B, dim], not yet of unit
        length; shows the "attention" [B, h, w] of the local branch, where there is one."""
        maps = self.backbone.stages(pixels)
        globally = self.globally(self.gem(maps[2]))
        if self.attention is None:
            return Output(None, self.join(globally))
        local, attention = self.look(maps[1])
        # the global vector is the same at every place, so pooling after the concatenation is
        # concatenating what is pooled
        fused = torch.cat([globally.float(), orthogonal_part(local, globally).mean((2, 3))], 1)
        return Output(None, self.join(fused), {"attention": attention})

    def look(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        """The local branch on the map of the last stage but one: features [B, hidden, h, w] and
        attention [B, h, w]."""
        assert self.attention is not None
        found: tuple[Tensor, Tensor] = self.attention(
            stage if self.aspp is None else self.aspp(stage)
        )
        return found


class Loss(nn.Module):
    """Class centres and the softmax loss on cosines with a margin."""

    progress: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.config = config
        self.centres = nn.Parameter(torch.empty(classes, config.sub_centres, config.dim))
        nn.init.normal_(self.centres)  # directions count only: these are uniform on the sphere
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Scalars "classification" and "total", which are the same here."""
        feature = net(pixels).feature
        with torch.autocast(feature.device.type, enabled=False):
            cosine = self.cosines(feature)
            if self.config.loss == "arcface":
                logits = arc_margin(cosine, labels, self.config.margin)
            else:
                with torch.no_grad():  # as in CurricularFace: its moving mean, with momentum 0.01
                    self.progress.lerp_(
                        _over_processes(cosine.gather(1, labels[:, None]).mean()), 0.01
                    )
                logits = curricular(cosine, labels, self.config.margin, self.progress)
            classification = F.cross_entropy(self.config.scale * logits, labels)
        return {"classification": classification, "total": classification}

    def cosines(self, feature: Tensor) -> Tensor:
        """Descriptors [B, dim] -> cosine to the nearest centre of each class [B, y]."""
        centres = F.normalize(self.centres.float(), dim=2)
        return torch.einsum("bd,ysd->bys", F.normalize(feature.float(), dim=1), centres).amax(2)

    def end_epoch(self) -> None:
        """Nothing is kept from one epoch to the next."""


def _over_processes(mean: Tensor) -> Tensor:
    """The mean of a whole batch, of which each process has an equal share."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, all else at `head_lr` times it; GeM's exponent does
    not decay."""
    body = list(net.backbone.parameters())
    known = {*map(id, body), id(net.gem.p)}
    head = [
        parameter
        for module in (net, loss)
        for parameter in module.parameters()
        if id(parameter) not in known
    ]
    return [
        {"params": body, "lr_scale": 1.0, "decay_scale": 1.0},
        {"params": head, "lr_scale": config.head_lr, "decay_scale": 1.0},
        {"params": [net.gem.p], "lr_scale": config.head_lr, "decay_scale": 0.0},
    ]
