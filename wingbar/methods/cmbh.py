"""CMBH: Chen, Zhao, Zhang, Luo & Xu, "Characteristics Matching Based Hash Codes Generation for
Efficient Fine-grained Image Retrieval", CVPR 2024.

A code need not describe an image; it is enough that it tells which characteristics the image shows.
Every class has k learned vectors (C-vectors). An image's feature is compared with all of them, and
its code is a linear map of the matching scores. What makes the C-vectors good (the other stages,
their fusion, regions of the image) exists in training only: inference is the backbone up to its
last stage but one, one small network, and the comparison.

Letters: B batch, y classes, k C-vectors per class, d their length, b bits, n training images, M
regions. There are L = 3 stages, and the code comes from stage l = 2. The authors' code is not
public; each choice that the paper leaves open is a field of `Config`. N_sub is the block of PMG (Du
et al., ECCV 2020), which reproduces the paper's Table 5 to every digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingbar.errors import TrainingError
from wingbar.methods import Output, body_and_head
from wingbar.methods.bounds import require, require_bits, require_one_of
from wingbar.model import class_codes
from wingbar.model.model import MOST
from wingbar.model.saliency import find_regions, to_pixels
from wingbar.networks.backbones import Backbone
from wingbar.networks.centres import spread_codes

RECIPE: dict[str, Any] = {}
PAPER: dict[str, Any] = {
    **{"lr": 0.001, "warmup": 0.0, "schedule": "step", "step_epochs": 70, "epochs": 100},
    **{"batch": 16, "clip": 0.0, "area": 0.77},
    **{"region_mean": False, "box_share": 0.0, "relu_maps": False, "assign": False},
    **{"hash_scaled": False, "hash_weight": 1.0},
}
"""An area of 0.77 is that of the paper's random 224 x 224 pixels of 255 x 255."""

LIKELY = 5  # classes of each training image whose logits are kept for the codes of the classes
# A network is surer of the images that it has learned than of others: its logits are divided by
# this before they say what it may confuse. Chosen on held-out images (docs/cmbh.md).
DOUBT = 2.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of CMBH. The defaults are the paper's but for region_mean, box_share,
    relu_maps and assign, which are measured in docs/cmbh.md; the help of each field is its
    documentation.

    The paper leaves these open:

    detach_teacher: on, as in knowledge distillation; otherwise the teacher would be pulled towards
        its pupil.
    hash_warmup: 3, because Eq. 6 and 7 pull images towards what the previous epoch made of their
        class: classes that the network cannot tell apart yet get the same code, and keep it.
        Without `levels` nothing else is learned, and the hash losses start at once. The banks they
        start with hold codes that are far apart, one per class (`spread_codes`).
    hash_scaled: on, because the pair and proxy losses grow with b^2 / y for y classes and the
        others do not: few classes and a long code drown them in a clipped gradient. Divided by
        that, each begins at about `hash_weight`, which is 4; undivided they would begin at 0.7 to
        23 on data sets like the paper's, of 100 to 200 classes, with 12 to 48 bits.
    fused: off, as in the paper. On, training stays the same, but an image's code is made of f
        instead of f^l: its classes are better, as Eq. 11 presumes. W_h serves both, since both are
        compared with the same C-vectors.
    region_mean: on, so that the regions of an image weigh as much as the image. Eq. 14 adds them
        up, and four regions then leave the clipped gradient little of everything else.
    box_share: 0.5, because the boxes that Algorithm 1 finds cover a tenth of the image on average.
    relu_maps: on, because the stages of some backbones end without a ReLU.
    assign: on, because Eq. 6 and 7 push all classes equally far apart, while the network confuses
        some of them only: a right class whose code is near the wrong one's is still found early.
        Without `levels`, where no probabilities weigh the scores, W_h stays as trained.
    crop: 0, regions are enlarged to the size of the whole image.
    head_lr: 1, as the paper gives one learning rate.
    feature: the paper searches by codes alone. For a fine stage, f^l orders items of equal codes
        well; the tanh of the code logits, u of Eq. 6, orders whole galleries better and is as short
        as the code (docs/cmbh.md compares them).

    Losses are means over the batch, not the sums of Eq. 10 and 11, so that the learning rate does
    not depend on the batch size.
    """

    bits: int = field(default=48, metadata={"help": "code length in bits"})
    characteristics: int = field(default=2, metadata={"help": "C-vectors per class (k)"})
    dim: int = field(
        default=512, metadata={"help": "length of the feature and of the C-vectors (d)"}
    )
    width: int = field(
        default=0,
        metadata={
            "help": "channels inside N_sub (C'); 0: half of those of the backbone's last stage"
        },
    )
    alpha: float = field(
        default=12.0, metadata={"help": "factor from matching scores to class logits"}
    )
    levels: bool = field(
        default=True, metadata={"help": "learn to classify from all stages (L of Table 4)"}
    )
    transfer: bool = field(
        default=True, metadata={"help": "let all stages together teach stage l (T of Table 4)"}
    )
    regions: int = field(
        default=4,
        metadata={"help": "regions of each image to learn from (R of Table 4); 0: none"},
    )
    crop: int = field(
        default=0,
        metadata={"help": "side that regions are resized to, in pixels; 0: that of the image"},
    )
    region_mean: bool = field(
        default=True,
        metadata={"help": "average the losses of an image's regions instead of adding them up"},
    )
    box_share: float = field(
        default=0.5,
        metadata={
            "help": "regions are squares with at least this share of the image's side; 0: boxes as "
            "Algorithm 1 finds them"
        },
    )
    relu_maps: bool = field(
        default=True,
        metadata={"help": "find regions on the positive part of the maps"},
    )
    assign: bool = field(
        default=True,
        metadata={
            "help": "after the last epoch, replace W_h so that classes that the network confuses "
            "have codes close together"
        },
    )
    detach_teacher: bool = field(
        default=True, metadata={"help": "stop the gradient into the teacher of the transfer loss"}
    )
    fused: bool = field(
        default=False,
        metadata={
            "help": "compute the code from all stages together (f of Eq. 8) instead of from stage "
            "l: more accurate, but inference needs the last stage and all of N_sub"
        },
    )
    hash_warmup: int = field(default=3, metadata={"help": "epochs before the hash losses start"})
    hash_scaled: bool = field(
        default=True, metadata={"help": "divide the hash losses by bits^2 / classes"}
    )
    hash_weight: float = field(default=4.0, metadata={"help": "factor of the hash losses"})
    head_lr: float = field(
        default=1.0,
        metadata={"help": "factor of --lr for everything but the backbone"},
    )
    feature: str = field(
        default="stage",
        metadata={
            "help": "feature for the fine stage: stage (f^l), or code (tanh of the code logits)"
        },
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "characteristics", least=1)
        require(self, "dim", least=1, most=MOST)
        require(self, "regions", "crop", "hash_warmup", "hash_weight", "head_lr", least=0)
        require(self, "width", least=0, most=MOST)
        require(self, "alpha", above=0)
        require(self, "box_share", least=0, most=1)
        require_one_of(self, "feature", "stage", "code")
        if (self.transfer or self.regions or self.fused) and not self.levels:
            raise TrainingError(
                "transfer, regions and fused need levels: add --no-transfer --regions 0, without "
                "--fused, or leave --no-levels out"
            )


# -- the formulas


def matching_scores(vectors: Tensor, feature: Tensor) -> Tensor:
    """Eq. 3 and 9: the cosines of C-vectors [y, k, d] and features [B, d], M [B, y, k]."""
    return torch.einsum(
        "ykd,bd->byk", F.normalize(vectors.float(), dim=2), F.normalize(feature.float(), dim=1)
    )


def weighted_scores(scores: Tensor, logits: Tensor) -> Tensor:
    """The argument of W_h in Eq. 12: M [B, y, k] times the probability of each class, by class
    logits [B, y], as vectors [B, y k]."""
    return (F.softmax(logits, dim=1)[:, :, None] * scores).flatten(1)


def pair_loss(
    relaxed: Tensor, labels: Tensor, moment: Tensor, sums: Tensor, counts: Tensor
) -> Tensor:
    """Eq. 6 for a batch: the mean of (u_i . b_j - b S_ij)^2 over its B images i and the n images j
    of the bank.

    relaxed [B, b] are u; labels [B] int64 class numbers. The bank enters by the sums to which the
    square expands: moment [b, b], of b_j b_j^T; sums [y, b], of the codes of each class; counts
    [y]. S is 1 within a class and -sum(S) / sum(1 - S) between classes. Takes O(B b^2) steps
    instead of O(B n b).
    """
    bits, n = relaxed.shape[1], counts.sum().clamp_min(1)
    same = counts.square().sum()
    ratio = same / (n * n - same).clamp_min(1)
    target = (1 + ratio) * sums[labels] - ratio * sums.sum(0)  # sum over j of S_ij b_j
    squares = torch.einsum("ib,bc,ic->i", relaxed, moment, relaxed)
    targets = counts[labels] + ratio * ratio * (n - counts[labels])
    return ((squares - 2 * bits * (relaxed * target).sum(1) + bits * bits * targets) / n).mean()


def proxy_loss(relaxed: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
    """Eq. 7 for a batch: the mean of (u_i . c_j - b S_ij)^2 over its B images i and the y classes
    j. relaxed [B, b] are u, proxies [y, b] are c.

    S is 1 for an image's own class and -1 / (y - 1) for the others.
    """
    classes, bits = proxies.shape
    similar = F.one_hot(labels, classes).float()
    similar = similar - (1 - similar) / max(classes - 1, 1)
    return (relaxed @ proxies.T - bits * similar).square().mean()


def transfer_loss(levels: list[Tensor], logits: Tensor, detach: bool) -> Tensor:
    """Eq. 11: the cross-entropy of stage l's classes, by logits [B, y], against those of all levels
    together, by the sum of their logits [B, y]."""
    teacher = F.softmax(torch.stack(levels).sum(0), dim=1)
    if detach:
        teacher = teacher.detach()
    return -(teacher * F.log_softmax(logits, dim=1)).sum(1).mean()


def activation(maps: list[Tensor]) -> Tensor:
    """A [B, h, w], the mean over all channels of all stages' maps [B, c, h, w], each pooled to the
    height and width of the last."""
    size = (maps[-1].shape[2], maps[-1].shape[3])
    sums = [F.adaptive_avg_pool2d(stage.float(), size).sum(1) for stage in maps]
    return torch.stack(sums).sum(0) / sum(stage.shape[1] for stage in maps)


def grown(boxes: Tensor, share: float, size: tuple[int, int]) -> Tensor:
    """Boxes [B, M, 4] (x1, y1, x2, y2 in pixels) of images of `size` (height, width) as squares
    about the same centres, moved so that they lie inside: as long as the longer side of the box,
    at least `share` of the shorter side of the image and at most all of it."""
    height, width = size
    short = min(size)
    longer = torch.maximum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
    side = longer.clamp(share * short, short)
    left = ((boxes[..., 0] + boxes[..., 2] - side) / 2).clamp_min(0)
    top = ((boxes[..., 1] + boxes[..., 3] - side) / 2).clamp_min(0)
    left, top = torch.minimum(left, width - side), torch.minimum(top, height - side)
    return torch.stack([left, top, left + side, top + side], -1)


def crop(pixels: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut boxes [B, M, 4] (x1, y1, x2, y2 in pixels) out of images [B, H, W, 3] uint8 and resize
    them bilinearly: [B M, size, size, 3] float32, from 0 to 255."""
    batch, regions = boxes.shape[:2]
    height, width = pixels.shape[1:3]
    flat = boxes.reshape(-1, 4)
    scale = torch.tensor([width, height, width, height], device=boxes.device)
    x1, y1, x2, y2 = (2 * flat / scale - 1).unbind(1)
    zero = torch.zeros_like(x1)
    affine = torch.stack(
        [
            torch.stack([(x2 - x1) / 2, zero, (x1 + x2) / 2], 1),
            torch.stack([zero, (y2 - y1) / 2, (y1 + y2) / 2], 1),
        ],
        1,
    )
    grid = F.affine_grid(affine, [batch * regions, 3, size, size], align_corners=False)
    repeated = pixels.permute(0, 3, 1, 2).float().repeat_interleave(regions, 0)
    crops = F.grid_sample(
        repeated, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return crops.permute(0, 2, 3, 1)


# -- the network


class GlobalMax(nn.Module):
    """The largest value of each channel, [B, c, h, w] -> [B, c, 1, 1].

    Training takes the gradient of max pooling, which goes to one place alone. Inference takes the
    plain maximum, the same values, as PyTorch 2.11 cannot export max pooling to a given size.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.adaptive_max_pool2d(x, 1) if self.training else x.amax((2, 3), keepdim=True)


def sub_network(channels: int, width: int, dim: int) -> nn.Sequential:
    """N_sub: a stage's map [B, channels, h, w] -> feature [B, dim]."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 512, 1, bias=False), nn.BatchNorm2d(512), nn.ReLU()),
        *(nn.Conv2d(512, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(GlobalMax(), nn.Flatten()),
        *(nn.BatchNorm1d(width), nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ELU()),
    )


class Fused(NamedTuple):
    """What the other stages of B images add: their features f^1 and f^3 and, with f^l, the fused f
    of Eq. 8; each [B, d]."""

    first: Tensor
    third: Tensor
    together: Tensor


class Fusion(nn.Module):
    """The last stage, both other N_sub (`subs`) and N_con (`fuse`)."""

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__()
        width = config.width or backbone.widths[2] // 2
        self.last = backbone.cut()
        self.subs = nn.ModuleList(
            sub_network(backbone.widths[j], width, config.dim) for j in (0, 2)
        )
        self.fuse = nn.Linear(3 * config.dim, config.dim)

    def forward(self, first: Tensor, third: Tensor, feature: Tensor) -> Fused:
        """The maps of the first and the last stage and f^l [B, d] -> Fused."""
        features = self.subs[0](first), self.subs[1](third)
        return Fused(*features, self.fuse(torch.cat([features[0], feature, features[1]], 1)))


class Matches(NamedTuple):
    """A feature of B images compared with the C-vectors.

    feature: f^l, or f where the code is computed from all stages, [B, d].
    scores: M, [B, y, k], in [-1, 1].
    logits: of the classes, [B, y].
    code: code logits, [B, b].
    """

    feature: Tensor
    scores: Tensor
    logits: Tensor
    code: Tensor


class Net(nn.Module):
    """The backbone up to stage l, N_sub, the C-vectors (`vectors`) and W_h (`hash`); where the code
    is computed from all stages, also their `fusion`."""

    def __init__(self, backbone: Backbone, config: Config, classes: int) -> None:
        super().__init__()
        backbone.cut()  # without `fused`, only training needs the last stage
        self.backbone = backbone
        self.alpha, self.weights_scores = config.alpha, config.levels
        self.code_as_feature = config.feature == "code"
        self.sub = sub_network(
            backbone.widths[1], config.width or backbone.widths[2] // 2, config.dim
        )
        self.vectors = nn.Parameter(torch.randn(classes, config.characteristics, config.dim))
        self.hash = nn.Linear(classes * config.characteristics, config.bits, bias=False)
        self.fusion = Fusion(backbone, config) if config.fused else None

    def forward(self, pixels: Tensor) -> Output:
        """Pixels [B, H, W, 3] uint8 -> code logits [B, b]; as feature f^l or f [B, d], or the tanh
        of the code logits; as auxiliary outputs the matching "scores" [B, y, k] and the
        "activation" [B, h, w], the mean over the channels of stage l's map."""
        found, stage = self.compare(pixels)
        feature = torch.tanh(found.code) if self.code_as_feature else found.feature
        return Output(found.code, feature, {"scores": found.scores, "activation": stage.mean(1)})

    def compare(self, pixels: Tensor) -> tuple[Matches, Tensor]:
        """Pixels [B, H, W, 3] uint8 -> the Matches of which the code is made, and stage l's map
        [B, c, h, w]."""
        first, stage = self.backbone.stages(pixels, 2)
        feature = self.sub(stage)
        if self.fusion is not None:
            feature = self.fusion(first, self.fusion.last(stage), feature).together
        return self.match(feature), stage

    def match(self, feature: Tensor) -> Matches:
        """Compare features [B, d] with the C-vectors."""
        with torch.autocast(feature.device.type, enabled=False):
            scores = matching_scores(self.vectors, feature)
            logits = self.alpha * scores.sum(2)
            if self.weights_scores:
                code = self.hash(weighted_scores(scores, logits))  # Eq. 12
            else:
                code = self.hash(scores.flatten(1))  # Eq. 4
        return Matches(feature, scores, logits, code)


class Levels(NamedTuple):
    """What training sees of B images.

    maps: of the three stages, each [B, c, h, w].
    first, third: f^1 and f^3, [B, d].
    stage, together: f^l and f of Eq. 8, compared with the C-vectors.
    """

    maps: list[Tensor]
    first: Tensor
    third: Tensor
    stage: Matches
    together: Matches


def levels(net: Net, fusion: Fusion, pixels: Tensor) -> Levels:
    """All stages of pixels [B, H, W, 3]."""
    maps = net.backbone.stages(pixels, 2)
    maps = [*maps, fusion.last(maps[1])]
    stage = net.match(net.sub(maps[1]))
    fused = fusion(maps[0], maps[2], stage.feature)
    return Levels(maps, fused.first, fused.third, stage, net.match(fused.together))


@contextmanager
def frozen_statistics(*modules: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation, which still normalises by each batch: at
    inference there are no regions, so that they must not count."""
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
    """L_hash + L_cls + L_trans + L_region; the stages, networks and classifiers that only these
    need; and the banks.

    Banks, as buffers, that collect the latest code of each image:

    relaxed: u of each training image when it was last seen, [n, b].
    label: its class number, [n] int64; -1 before it is seen.
    likely, likely_logits: the LIKELY classes with the largest logits then, of the feature that the
        code is made of, [n, t] int64, and these logits, [n, t].
    fresh: whether that was in the current epoch, [n] bool.

    What Eq. 6 and 7 use, from the previous epoch: `moment` [b, b], `sums` [y, b], `counts` [y] and
    `proxies` [y, b], as in `pair_loss` and `proxy_loss`. `epoch` counts complete epochs.
    """

    moment: Tensor
    sums: Tensor
    counts: Tensor
    proxies: Tensor
    relaxed: Tensor
    label: Tensor
    likely: Tensor
    likely_logits: Tensor
    fresh: Tensor
    epoch: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.config = config
        self.fusion = Fusion(backbone, config) if config.levels and not config.fused else None
        if config.levels:
            self.classifiers = nn.ModuleList(nn.Linear(config.dim, classes) for _ in (0, 2))
        codes = spread_codes(classes, config.bits)
        self.register_buffer("moment", codes.T @ codes)
        self.register_buffer("sums", codes)
        self.register_buffer("counts", torch.ones(classes))
        self.register_buffer("proxies", codes.clone())
        self.register_buffer("relaxed", torch.zeros(items, config.bits))
        self.register_buffer("label", torch.full((items,), -1))
        kept = min(LIKELY, classes)
        self.register_buffer("likely", torch.zeros((items, kept), dtype=torch.int64))
        self.register_buffer("likely_logits", torch.zeros(items, kept))
        self.register_buffer("fresh", torch.zeros(items, dtype=torch.bool))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "pair" and "proxy"; with levels "classes", and where they are on "transfer"
        and "regions"; and their "total"."""
        losses: dict[str, Tensor] = {}
        fusion = self.fusion_of(net)
        if fusion is None:
            found = inferred = net.match(net.sub(net.backbone.stages(pixels, 2)[1]))
        else:
            seen = levels(net, fusion, pixels)
            found = seen.stage
            inferred = seen.together if self.config.fused else found
            losses |= self._level_losses(seen, labels, whole=True)
            if self.config.regions:
                losses["regions"] = self._region_loss(net, fusion, pixels, seen.maps, labels)
        relaxed = torch.tanh(found.code)
        self._store(rows, labels, relaxed.detach(), inferred.logits.detach())
        scale = self._hash_scale()
        losses |= {
            "pair": scale * pair_loss(relaxed, labels, self.moment, self.sums, self.counts),
            "proxy": scale * proxy_loss(relaxed, labels, self.proxies),
        }
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def fusion_of(self, net: Net) -> Fusion | None:
        """What fuses the stages: a part of the network where its code needs it. None without
        `levels`."""
        return net.fusion if self.config.fused else self.fusion

    def _store(self, rows: Tensor, labels: Tensor, relaxed: Tensor, logits: Tensor) -> None:
        """Put a batch into the banks."""
        self.relaxed[rows], self.label[rows], self.fresh[rows] = relaxed, labels, True
        top = logits.float().topk(self.likely.shape[1], dim=1)
        self.likely[rows], self.likely_logits[rows] = top.indices, top.values

    def _hash_scale(self) -> float:
        """The factor of the pair and proxy losses."""
        if self._is_warming_up():
            return 0.0
        size = self.config.bits**2 / len(self.proxies) if self.config.hash_scaled else 1
        return self.config.hash_weight / size

    def _is_warming_up(self) -> bool:
        """Whether the hash losses and their banks still wait."""
        return self.config.levels and int(self.epoch) < self.config.hash_warmup

    def _level_losses(self, seen: Levels, labels: Tensor, whole: bool) -> dict[str, Tensor]:
        """L_cls (Eq. 10) and L_trans (Eq. 11) of whole images, or of regions, where the maximum of
        a class's scores replaces their sum (Eq. 13)."""
        of_fused, of_stage = (  # Eq. 9 and 3
            self.config.alpha * (found.scores.sum(2) if whole else found.scores.amax(2))
            for found in (seen.together, seen.stage)
        )
        of_first, of_third = (
            classify(feature).float()
            for classify, feature in zip(self.classifiers, (seen.first, seen.third), strict=True)
        )
        every = [of_fused, of_first, of_stage, of_third]
        losses = {
            "classes": torch.stack([F.cross_entropy(logits, labels) for logits in every]).sum()
        }
        if self.config.transfer:
            losses["transfer"] = transfer_loss(every, of_stage, self.config.detach_teacher)
        return losses

    def _region_loss(
        self, net: Net, fusion: Fusion, pixels: Tensor, maps: list[Tensor], labels: Tensor
    ) -> Tensor:
        """L_region (Eq. 14): the losses of the regions, averaged or summed over the M regions of an
        image."""
        count = self.config.regions
        maps = [stage.detach() for stage in maps]
        if self.config.relu_maps:
            maps = [F.relu(stage) for stage in maps]
        strength = activation(maps).cpu().numpy()
        size = (pixels.shape[1], pixels.shape[2])
        boxes = [
            [to_pixels(box, strength.shape[1:], size) for box in find_regions(one, count)]
            for one in strength
        ]
        placed = torch.tensor(boxes, device=pixels.device)
        if self.config.box_share:
            placed = grown(placed, self.config.box_share, size)
        crops = crop(pixels, placed, self.config.crop or size[0])
        with frozen_statistics(net, self):
            seen = levels(net, fusion, crops)
            losses = self._level_losses(seen, labels.repeat_interleave(count), whole=False)
        mean = torch.stack(list(losses.values())).sum()  # each loss is a mean over all regions
        return mean if self.config.region_mean else count * mean

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Make each image's latest code, from all processes, the bank of the next epoch."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._gather()
        known, warming_up = self.label >= 0, self._is_warming_up()
        self.fresh.zero_()
        self.epoch += 1
        if warming_up or not known.any():
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

    @torch.no_grad()
    def end_training(self, net: Net) -> None:
        """Give each class the code that suits what the network confuses (`class_codes.assign`), and
        make it W_h: both C-vectors of a class then vote for the bits of its code."""
        known = self.label >= 0
        if not (self.config.assign and self.config.levels and known.any()):
            return
        shares = F.softmax(self.likely_logits[known].double() / DOUBT, dim=1)
        codes = class_codes.assign(
            class_codes.Likely(self.likely[known].cpu().numpy(), shares.cpu().numpy()),
            (self.proxies >= 0).cpu().numpy(),
            torch.bincount(self.label[known], minlength=len(self.proxies)).cpu().numpy(),
            np.random.default_rng(0),  # a fixed one, so that a resumed run ends the same
        )
        votes = torch.where(torch.from_numpy(codes).to(self.proxies.device), 1.0, -1.0)
        net.hash.weight.copy_(votes.repeat_interleave(self.config.characteristics, 0).T)

    def _gather(self) -> None:
        """Fill the banks with what the other processes saw of this epoch."""
        times = self.fresh.long()  # by how many processes an image was seen
        torch.distributed.all_reduce(times)
        for bank in (self.relaxed, self.label, self.likely, self.likely_logits):
            own, all_times = (
                x.reshape(-1, *[1] * (bank.dim() - 1)).to(bank.dtype) for x in (self.fresh, times)
            )
            total = bank * own
            torch.distributed.all_reduce(total)
            mean = total / all_times.clamp_min(1)
            bank.copy_(torch.where(all_times > 0, mean.to(bank.dtype), bank))


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, everything else at `head_lr` times that; all
    parameters decay, as in the paper."""
    fusion = loss.fusion_of(net)
    last = () if fusion is None else fusion.last.parameters()
    return body_and_head(net, loss, config.head_lr, last)
