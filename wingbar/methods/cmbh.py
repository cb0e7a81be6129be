"""CMBH: Chen, Zhao, Zhang, Luo & Xu, "Characteristics Matching Based Hash Codes Generation for
Efficient Fine-grained Image Retrieval", CVPR 2024.

A code need not describe a picture, only say which characteristics it shows. Every class has k
learned vectors (C-vectors); a picture's feature is compared with all of them, and its code is a
linear map of the matching scores. What makes the C-vectors good (other layers, their fusion,
regions of the picture) is there in training only: inference is the backbone up to its last stage
but one, one small network, and the comparison.

Letters: B batch, y classes, k C-vectors a class, d their length, b bits, n training images, M
regions. L = 3 stages, and the code comes from stage l = 2. The authors' code is not public; what
the paper leaves open is a field of `Config` that says which way was taken. N_sub is the block of
PMG (Du et al., ECCV 2020), with which the paper's Table 5 is met to every digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.errors import TrainingError
from wingbar.methods import Output
from wingbar.model.saliency import find_regions, to_pixels
from wingbar.networks.backbones import Backbone

RECIPE: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What CMBH needs. Defaults are the paper's where it says something.

    Where it does not: `detach_teacher`, as in knowledge distillation, or the teacher would be
    pulled to its pupil. `hash_warmup` 3, because Eq. 6 and 7 draw pictures to what the epoch before
    made of their class: classes that the network cannot tell apart yet get one code, and stay with
    it. With `levels` off there is nothing else to learn, and the hash losses start at once. Their
    first banks hold codes that are far apart, one a class (`spread_codes`). `hash_per_bit` with
    `hash_weight` 12, because the pair and proxy losses grow with b^2 while the others do not: at 12
    bits they are as the paper writes them, and a bit of a longer code is pulled as strongly as one
    of these. Losses are means over the batch, not the sums of Eq. 10 and 11, so that the learning
    rate does not depend on the batch size. `crop` 0: regions are seen at the size of the whole
    picture. `head_lr` 1: the paper names one learning rate. `feature`: the paper searches by codes
    alone; for a second stage f^l orders equal codes well, and the tanh of the code logits, u of Eq.
    6, orders whole galleries better (docs/cmbh.md has both) and is as short as the code.
    """

    bits: int = field(default=48, metadata={"help": "code length"})
    characteristics: int = field(default=2, metadata={"help": "C-vectors a class (k)"})
    dim: int = field(
        default=512, metadata={"help": "length of the feature and of the C-vectors (d)"}
    )
    width: int = field(
        default=0,
        metadata={"help": "channels inside N_sub (C'); 0: half of the backbone's last stage"},
    )
    alpha: float = field(
        default=12.0, metadata={"help": "factor from matching scores to class logits"}
    )
    levels: bool = field(
        default=True, metadata={"help": "learn from all stages and classes (L of Table 4)"}
    )
    transfer: bool = field(
        default=True, metadata={"help": "let all stages together teach the one (T of Table 4)"}
    )
    regions: int = field(
        default=4,
        metadata={"help": "regions of each picture that are learned from (R of Table 4); 0: none"},
    )
    crop: int = field(
        default=0,
        metadata={"help": "side at which regions are seen, pixels; 0: that of the picture"},
    )
    detach_teacher: bool = field(
        default=True, metadata={"help": "no gradient into the teacher of the transfer loss"}
    )
    hash_warmup: int = field(default=3, metadata={"help": "epochs before the hash losses begin"})
    hash_per_bit: bool = field(
        default=True, metadata={"help": "divide the hash losses by the code length"}
    )
    hash_weight: float = field(default=12.0, metadata={"help": "factor of the hash losses"})
    head_lr: float = field(
        default=1.0,
        metadata={"help": "learning rate of all but the backbone, times that of the run"},
    )
    feature: str = field(
        default="stage",
        metadata={"help": "for the second stage: stage (f^l), or code (tanh of code logits)"},
    )

    def __post_init__(self) -> None:
        if self.feature not in ("stage", "code"):
            raise TrainingError(f"feature is stage or code, not {self.feature!r}")
        if (self.transfer or self.regions) and not self.levels:
            raise TrainingError(
                "transfer and regions build on levels: add --no-transfer --regions 0, or leave "
                "--no-levels out"
            )
        if (
            min(self.bits, self.characteristics, self.dim) < 1
            or self.regions < 0
            or self.alpha <= 0
        ):
            raise TrainingError(
                "bits, characteristics and dim are at least 1, regions at least 0, alpha above "
                f"0, not {self}"
            )


# -- the formulas


def matching_scores(vectors: Tensor, feature: Tensor) -> Tensor:
    """Eq. 3 and 9: cosines of C-vectors [y, k, d] and features [B, d] -> M [B, y, k]."""
    return torch.einsum(
        "ykd,bd->byk", F.normalize(vectors.float(), dim=2), F.normalize(feature.float(), dim=1)
    )


def weighted_scores(scores: Tensor, logits: Tensor) -> Tensor:
    """Inside of Eq. 12: M [B, y, k], each class weighed by its probability, as a vector [B, y
    k]."""
    return (F.softmax(logits, dim=1)[:, :, None] * scores).flatten(1)


def pair_loss(
    relaxed: Tensor, labels: Tensor, moment: Tensor, sums: Tensor, counts: Tensor
) -> Tensor:
    """Eq. 6 for a batch: the mean over its pictures and all n of the bank of (u_i . b_j - b
    S_ij)^2.

    relaxed [B, b] are u, labels [B]; of the bank only what the square needs is used: moment [b, b],
    the sum of b_j b_j^T, sums [y, b], those of the codes of each class, and counts [y]. S is 1
    within a class and -sum(S) / sum(1 - S) between classes. O(B (b^2 + b)) in place of O(B n b).
    """
    bits, n = relaxed.shape[1], counts.sum().clamp_min(1)
    same = counts.square().sum()
    ratio = same / (n * n - same).clamp_min(1)
    target = (1 + ratio) * sums[labels] - ratio * sums.sum(0)  # sum over j of S_ij b_j
    squares = torch.einsum("ib,bc,ic->i", relaxed, moment, relaxed)
    targets = counts[labels] + ratio * ratio * (n - counts[labels])
    return ((squares - 2 * bits * (relaxed * target).sum(1) + bits * bits * targets) / n).mean()


def proxy_loss(relaxed: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
    """Eq. 7 for a batch: the mean of (u_i . c_j - b S_ij)^2 over its pictures and the classes;
    proxies [y, b] are c.

    S is 1 for a picture's class and -1 / (y - 1) for the others.
    """
    classes, bits = proxies.shape
    similar = F.one_hot(labels, classes).float()
    similar = similar - (1 - similar) / max(classes - 1, 1)
    return (relaxed @ proxies.T - bits * similar).square().mean()


def spread_codes(classes: int, bits: int) -> Tensor:
    """A code of +1 and -1 for each class, [y, b]: random ones, of which each is the farthest from
    those before it."""
    candidates = torch.randint(0, 2, (max(4096, 4 * classes), bits)).float() * 2 - 1
    chosen, nearest = [candidates[0]], candidates @ candidates[0]
    while len(chosen) < classes:
        chosen.append(candidates[nearest.argmin()])
        nearest = torch.maximum(nearest, candidates @ chosen[-1])
    return torch.stack(chosen)


def transfer_loss(levels: list[Tensor], logits: Tensor, detach: bool) -> Tensor:
    """Eq. 11: cross-entropy of the classes by stage l, logits [B, y], against those by all `levels`
    together."""
    teacher = F.softmax(torch.stack(levels).sum(0), dim=1)
    if detach:
        teacher = teacher.detach()
    return -(teacher * F.log_softmax(logits, dim=1)).sum(1).mean()


def activation(maps: list[Tensor]) -> Tensor:
    """A, the mean over all channels of all stages [B, c, h, w], brought to the size of the last:
    [B, h, w]."""
    size = (maps[-1].shape[2], maps[-1].shape[3])
    total = torch.stack([F.adaptive_avg_pool2d(stage.float(), size).sum(1) for stage in maps]).sum(
        0
    )
    return total / sum(stage.shape[1] for stage in maps)


def crop(pixels: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut boxes [B, M, 4] (x1, y1, x2, y2 in pixels) out of pictures [B, H, W, 3] uint8: [B M,
    size, size, 3] float32 of the same range, bilinear, in one go."""
    batch, regions = boxes.shape[:2]
    height, width = pixels.shape[1:3]
    flat = boxes.reshape(-1, 4)
    scale = torch.tensor([width, height, width, height], device=boxes.device)
    x1, y1, x2, y2 = (2 * flat / scale - 1).unbind(1)
    zero = torch.zeros_like(x1)
    turn = torch.stack(
        [
            torch.stack([(x2 - x1) / 2, zero, (x1 + x2) / 2], 1),
            torch.stack([zero, (y2 - y1) / 2, (y1 + y2) / 2], 1),
        ],
        1,
    )
    grid = F.affine_grid(turn, [batch * regions, 3, size, size], align_corners=False)
    pictures = pixels.permute(0, 3, 1, 2).float().repeat_interleave(regions, 0)
    cut = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.permute(0, 2, 3, 1)


# -- the network


def sub_network(channels: int, width: int, dim: int) -> nn.Sequential:
    """N_sub: a stage's map [B, channels, h, w] -> feature [B, dim]."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 512, 1, bias=False), nn.BatchNorm2d(512), nn.ReLU()),
        *(nn.Conv2d(512, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        *(nn.BatchNorm1d(width), nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ELU()),
    )


class Seen(NamedTuple):
    """What stage l says of pictures: feature f^l [B, d], scores M [B, y, k], class logits [B, y]
    and code logits [B, b]."""

    feature: Tensor
    scores: Tensor
    logits: Tensor
    code: Tensor


class Net(nn.Module):
    """The backbone up to stage l, N_sub, the C-vectors and W_h."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        super().__init__()
        backbone.cut()  # the last stage is the training's
        self.backbone = backbone
        self.alpha, self.weighs, self.feature = config.alpha, config.levels, config.feature
        self.sub = sub_network(
            backbone.widths[1], config.width or backbone.widths[2] // 2, config.dim
        )
        self.vectors = nn.Parameter(torch.randn(classes, config.characteristics, config.dim))
        self.hash = nn.Linear(classes * config.characteristics, config.bits, bias=False)

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> code logits [B, b] and f^l [B, d], or their tanh; shows the
        scores [B, y, k] and the mean over the channels of stage l's map, "activation" [B, h, w]."""
        stage = self.backbone.stages(pixels, 2)[1]
        seen = self.see(stage)
        feature = torch.tanh(seen.code) if self.feature == "code" else seen.feature
        return Output(seen.code, feature, {"scores": seen.scores, "activation": stage.mean(1)})

    def see(self, stage: Tensor) -> Seen:
        """Stage l's map [B, c, h, w] compared with the C-vectors."""
        feature = self.sub(stage)
        with torch.autocast(stage.device.type, enabled=False):
            scores = matching_scores(self.vectors, feature)
            logits = self.alpha * scores.sum(2)
            code = self.hash(
                weighted_scores(scores, logits) if self.weighs else scores.flatten(1)
            )  # Eq. 12, or Eq. 4
        return Seen(feature, scores, logits, code)


@contextmanager
def keeping_statistics(*modules: nn.Module) -> Iterator[None]:
    """Batch normalisation goes by each batch as ever, but its running statistics stay: inference
    sees no regions."""
    norms = [
        part
        for module in modules
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class Loss(nn.Module):
    """L_hash + L_cls + L_trans + L_region, with the stages, networks and classifiers that only they
    need, and the banks.

    Banks, as buffers: `relaxed` [n, b] holds every picture's u from when it was last seen, `label`
    [n] its class (-1 before that), `fresh` [n] whether that was in this epoch; `moment`, `sums`,
    `counts` and `proxies` are what Eq. 6 and 7 need of the epoch before.
    """

    moment: Tensor
    sums: Tensor
    counts: Tensor
    proxies: Tensor
    relaxed: Tensor
    label: Tensor
    fresh: Tensor
    epoch: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.config = config
        if config.levels:
            width = config.width or backbone.widths[2] // 2
            self.last = backbone.cut()
            self.subs = nn.ModuleList(
                sub_network(backbone.widths[j], width, config.dim) for j in (0, 2)
            )
            self.classifiers = nn.ModuleList(nn.Linear(config.dim, classes) for _ in (0, 2))
            self.fuse = nn.Linear(3 * config.dim, config.dim)  # N_con
        codes = spread_codes(classes, config.bits)
        self.register_buffer("moment", codes.T @ codes)
        self.register_buffer("sums", codes)
        self.register_buffer("counts", torch.ones(classes))
        self.register_buffer("proxies", codes.clone())
        self.register_buffer("relaxed", torch.zeros(items, config.bits))
        self.register_buffer("label", torch.full((items,), -1))
        self.register_buffer("fresh", torch.zeros(items, dtype=torch.bool))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Scalars "pair", "proxy", and with levels "classes", "transfer", "regions", and their
        "total"."""
        maps = net.backbone.stages(pixels, 2)
        seen = net.see(maps[1])
        relaxed = torch.tanh(seen.code)
        self._note(rows, labels, relaxed.detach())
        scale = self.config.hash_weight / (self.config.bits if self.config.hash_per_bit else 1)
        if self._warming():
            scale = 0.0
        losses = {
            "pair": scale * pair_loss(relaxed, labels, self.moment, self.sums, self.counts),
            "proxy": scale * proxy_loss(relaxed, labels, self.proxies),
        }
        if self.config.levels:
            maps = [*maps, self.last(maps[1])]
            of_image = self._of_levels(net, maps, seen, labels, whole=True)
            losses |= of_image
            if self.config.regions:
                of_regions = self._of_regions(net, pixels, maps, labels)
                losses["regions"] = (
                    self.config.regions * torch.stack(list(of_regions.values())).sum()
                )
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def _of_levels(
        self, net: Net, maps: list[Tensor], seen: Seen, labels: Tensor, whole: bool
    ) -> dict[str, Tensor]:
        """L_cls (Eq. 10) and L_trans (Eq. 11) of pictures, or of regions, where a score's greatest
        replaces its sum (Eq. 13)."""
        first, third = (sub(maps[j]) for sub, j in zip(self.subs, (0, 2), strict=True))
        fused = self.fuse(torch.cat([first, seen.feature, third], 1))  # Eq. 8
        with torch.autocast(fused.device.type, enabled=False):
            both = [matching_scores(net.vectors, fused), seen.scores]  # Eq. 9 and 3
            early, own = (
                self.config.alpha * (scores.sum(2) if whole else scores.amax(2)) for scores in both
            )
        others = [
            classify(f).float()
            for classify, f in zip(self.classifiers, (first, third), strict=True)
        ]
        levels = [early, others[0], own, others[1]]
        losses = {
            "classes": torch.stack([F.cross_entropy(logits, labels) for logits in levels]).sum()
        }
        if self.config.transfer:
            losses["transfer"] = transfer_loss(levels, own, self.config.detach_teacher)
        return losses

    def _of_regions(
        self, net: Net, pixels: Tensor, maps: list[Tensor], labels: Tensor
    ) -> dict[str, Tensor]:
        """The mean over the regions of what Eq. 14 sums."""
        strength = activation([stage.detach() for stage in maps]).cpu().numpy()
        size = (pixels.shape[1], pixels.shape[2])
        boxes = [
            [
                to_pixels(box, strength.shape[1:], size)
                for box in find_regions(one, self.config.regions)
            ]
            for one in strength
        ]
        cut = crop(pixels, torch.tensor(boxes, device=pixels.device), self.config.crop or size[0])
        with keeping_statistics(net, self):
            inside = net.backbone.stages(cut, 2)
            inside = [*inside, self.last(inside[1])]
            return self._of_levels(
                net,
                inside,
                net.see(inside[1]),
                labels.repeat_interleave(self.config.regions),
                whole=False,
            )

    def _warming(self) -> bool:
        """Whether the hash losses wait, and their first banks with them."""
        return self.config.levels and int(self.epoch) < self.config.hash_warmup

    def _note(self, rows: Tensor, labels: Tensor, relaxed: Tensor) -> None:
        """Put a batch into the banks."""
        self.relaxed[rows], self.label[rows], self.fresh[rows] = relaxed, labels, True

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Make the epoch's codes the bank of the next; under several processes, those of all of
        them."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._gather()
        known, warming = self.label >= 0, self._warming()
        self.fresh.zero_()
        self.epoch += 1
        if warming or not known.any():
            return
        label, relaxed = self.label[known], self.relaxed[known].double()
        codes = torch.where(relaxed >= 0, 1.0, -1.0).double()
        counts = torch.bincount(label, minlength=len(self.counts))
        zeros = torch.zeros_like(self.sums, dtype=torch.float64)
        means = zeros.index_add(0, label, relaxed) / counts.clamp_min(1)[:, None]
        self.moment.copy_(codes.T @ codes)
        self.sums.copy_(zeros.index_add(0, label, codes))
        self.counts.copy_(counts)
        self.proxies.copy_(torch.where(counts[:, None] > 0, means, self.proxies.double()))

    def _gather(self) -> None:
        """Take over what the other processes saw; each picture was seen by one of them."""
        seen = self.fresh.to(self.relaxed.dtype)
        relaxed, label = self.relaxed * seen[:, None], self.label * self.fresh
        for tensor in (seen, relaxed, label):
            torch.distributed.all_reduce(tensor)
        times = seen.clamp_min(1)
        self.relaxed.copy_(torch.where(seen[:, None] > 0, relaxed / times[:, None], self.relaxed))
        self.label.copy_(torch.where(seen > 0, label // times.long(), self.label))


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, all that is new at `head_lr` times it; everything
    decays, as in the paper."""
    body = [*net.backbone.parameters(), *(loss.last.parameters() if config.levels else ())]
    known = set(map(id, body))
    head = [
        parameter
        for module in (net, loss)
        for parameter in module.parameters()
        if id(parameter) not in known
    ]
    return [
        {"params": body, "lr_scale": 1.0, "decay_scale": 1.0},
        {"params": head, "lr_scale": config.head_lr, "decay_scale": 1.0},
    ]
