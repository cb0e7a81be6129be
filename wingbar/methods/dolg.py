"""DOLG: Yang et al., "DOLG: Single-Stage Image Retrieval with Deep Orthogonal Fusion of Local and
Global Features", ICCV 2021.

One network gives one descriptor that combines a global vector of the last stage (GeM pooling) with
the local features of the stage before it. The local features are weighted by attention, and only
their part that is orthogonal to the global vector is used, as the rest repeats the global vector.

The codes are not in the paper: after the last epoch, ITQ is fitted to the training descriptors, so
that DOLG can be searched coarse to fine like the other methods. Where the authors' released code
differs from their paper, the paper is the default and a flag selects the code's way: `--loss
curricular` and `--no-aspp`. Widths follow the backbone; ResNet-50 and -101 have the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.methods import Output, body_and_head
from wingbar.methods.bounds import require, require_bits, require_one_of
from wingbar.model.model import MOST
from wingbar.networks.backbones import Backbone
from wingbar.networks.layers import Gem, arc_margin, curricular, orthogonal_part

RECIPE: dict[str, Any] = {
    **{"nesterov": True, "weight_decay": 1e-4, "lr": 0.0125, "warmup": 1.0, "lighting": 0.1},
    **{"whole": True, "scales": "0.3535,0.5,0.7071,1,1.4142"},
}
"""The paper's recipe where it differs from the defaults of Run. Its learning rate is 0.05 for a
batch of 128; this one is scaled to the default batch of 32."""

PAPER: dict[str, Any] = {"lr": 0.05, "batch": 128, "epochs": 100, "size": 512, "clip": 0.0}

DILATIONS = (6, 12, 18)  # of the 3 x 3 convolutions of ASPP
_BRANCH = 512  # channels of each branch of ASPP


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of DOLG. The defaults are the paper's; the help of each field is its
    documentation. More than one of `sub_centres` make it sub-center ArcFace (Deng et al., ECCV
    2020), for noisy labels."""

    bits: int = field(
        default=64,
        metadata={
            "help": "code length in bits; codes are fitted to the descriptors after the last epoch"
        },
    )
    dim: int = field(default=512, metadata={"help": "length of the descriptor"})
    hidden: int = field(
        default=1024,
        metadata={"help": "length of the global vector, and channels of the local features"},
    )
    p: float = field(default=3.0, metadata={"help": "initial exponent of GeM pooling"})
    aspp: bool = field(
        default=True, metadata={"help": "apply dilated convolutions (ASPP) before the attention"}
    )
    local: bool = field(
        default=True,
        metadata={"help": "use the local branch; without it, only the global vector"},
    )
    loss: str = field(
        default="arcface", metadata={"help": "arcface, or curricular as in the released code"}
    )
    margin: float = field(default=0.15, metadata={"help": "angular margin of the loss, in radians"})
    scale: float = field(
        default=30.0, metadata={"help": "factor from cosines to logits in the loss"}
    )
    sub_centres: int = field(default=1, metadata={"help": "centres per class in the loss"})
    head_lr: float = field(
        default=1.0,
        metadata={"help": "factor of --lr for everything but the backbone"},
    )

    def __post_init__(self) -> None:
        require_one_of(self, "loss", "arcface", "curricular")
        require(self, "dim", "hidden", least=1, most=MOST)
        require_bits(self, most=self.dim)  # which are fitted to the feature
        require(self, "sub_centres", least=1)
        require(self, "scale", "p", above=0)
        require(self, "margin", "head_lr", least=0)


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling (DeepLab): a map [B, channels, h, w] filtered with several
    dilations, [B, hidden, h, w]."""

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
    """The attention of the local branch: local features of unit length, each multiplied by its
    score."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.score = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map [B, channels, h, w] -> the weighted features [B, hidden, h, w] and the scores
        [B, h, w], above 0."""
        x = self.norm(self.conv(x))
        score = F.softplus(self.score(F.relu(x)).float())
        return F.normalize(x.float(), dim=1) * score, score[:, 0]


def _initialise(module: nn.Module) -> None:
    """Draw every convolution with a standard deviation of sqrt(2 / fan_out) and set its bias to 0,
    as the released code does. With PyTorch's smaller weights the local branch begins with less
    than a thousandth of the descriptor's variance."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Net(nn.Module):
    """The backbone, the two branches, and the layer that joins them."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        """`classes` is not used: only the Loss has class centres."""
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
        for module in (self.aspp, self.attention):
            if module is not None:
                _initialise(module)

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> no code, the descriptor [B, dim], not scaled to unit length,
        and with the local branch its "attention" [B, h, w]."""
        maps = self.backbone.stages(pixels)
        global_vector = self.globally(self.gem(maps[2]))
        if self.attention is None:
            return Output(None, self.join(global_vector))
        local, attention = self.local_features(maps[1])
        # The paper concatenates the global vector to every local feature and then averages; as it
        # is the same everywhere, it can be concatenated to the average.
        pooled = orthogonal_part(local, global_vector).mean((2, 3))
        fused = torch.cat([global_vector.float(), pooled], 1)
        return Output(None, self.join(fused), {"attention": attention})

    def local_features(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        """The local branch: the map of the last stage but one -> features [B, hidden, h, w] and
        attention [B, h, w]."""
        assert self.attention is not None
        x = stage if self.aspp is None else self.aspp(stage)
        features, attention = self.attention(x)
        return features, attention


class Loss(nn.Module):
    """The class centres, and the softmax loss of the cosines to them, with a margin.

    progress: for CurricularFace, the moving average of the cosine to the own class; a scalar.
    """

    progress: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.config = config
        self.centres = nn.Parameter(torch.empty(classes, config.sub_centres, config.dim))
        # Directions that are uniform on the sphere. The length decides how fast they turn: vectors
        # of length 1 follow the first images so fast that little is learned (docs/dolg.md).
        nn.init.normal_(self.centres)
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "classification" and "total", which are equal for this method."""
        feature = net(pixels).feature
        with torch.autocast(feature.device.type, enabled=False):
            cosine = self.cosines(feature)
            if self.config.loss == "arcface":
                logits = arc_margin(cosine, labels, self.config.margin)
            else:
                with torch.no_grad():  # CurricularFace's moving average, with momentum 0.01
                    own = cosine.gather(1, labels[:, None]).mean()
                    self.progress.lerp_(_mean_over_processes(own), 0.01)
                logits = curricular(cosine, labels, self.config.margin, self.progress)
            classification = F.cross_entropy(self.config.scale * logits, labels)
        return {"classification": classification, "total": classification}

    def cosines(self, feature: Tensor) -> Tensor:
        """Descriptors [B, dim] -> the cosine to the nearest centre of each class, [B, y]."""
        centres = F.normalize(self.centres.float(), dim=2)
        return torch.einsum("bd,ysd->bys", F.normalize(feature.float(), dim=1), centres).amax(2)

    def end_epoch(self) -> None:
        """Does nothing: this loss keeps no state per epoch."""


def _mean_over_processes(mean: Tensor) -> Tensor:
    """The mean over a whole batch, from each process's mean over its equal share."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, everything else at `head_lr` times that; GeM's
    exponent does not decay."""
    body, head = body_and_head(net, loss, config.head_lr)
    head["params"] = [parameter for parameter in head["params"] if parameter is not net.gem.p]
    return [
        body,
        head,
        {"params": [net.gem.p], "lr_scale": config.head_lr, "decay_scale": 0.0},
    ]
