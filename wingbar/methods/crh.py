"""CRH: Yin, Yin, Hou, Liu, Chen & Zhang, "Codebook-Centric Deep Hashing: End-to-End Joint Learning
of Semantic Hash Centers and Neural Hash Function", AAAI 2026 (arXiv 2511.12162).

As in OrthoHash, code logits are classified by their cosine to fixed binary codes, one for each
class. Which class has which code is learned: there are more codes than classes, and now and then
each class gets the free code that its images are closest to, so that similar classes end up with
similar codes. Long codes are made of several heads, each with a codebook of its own: a class has a
sub-code in each.

Code and feature are those of OrthoHash. Written from the paper's equations: the authors' code has
no licence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wingbar.errors import TrainingError
from wingbar.methods import body_and_head, orthohash
from wingbar.methods.bounds import require, require_bits
from wingbar.networks.backbones import Backbone
from wingbar.networks.centres import random_codes

RECIPE: dict[str, Any] = {}
PAPER: dict[str, Any] = {"clip": 0.0}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of CRH; the help of each field is its documentation.

    Codes of a head are all different, so that its length is at least log2 of the codes in its
    codebook; where no division of the bits allows that, there is one head, and a codebook that
    holds as many codes as there are.
    """

    bits: int = field(default=48, metadata={"help": "code length in bits"})
    scale: float = field(default=8.0, metadata={"help": "factor from cosines to logits (s)"})
    margin: float = field(
        default=0.2, metadata={"help": "margin of the cosine to the own class (m)"}
    )
    quantization: float = field(
        default=0.1, metadata={"help": "factor of the quantization loss (lambda)"}
    )
    codebook: float = field(
        default=2.0, metadata={"help": "codes in each head's codebook, per class (M / C)"}
    )
    every_epoch: int = field(
        default=20, metadata={"help": "epochs in which codes are reassigned each time"}
    )
    interval: int = field(default=5, metadata={"help": "epochs between reassignments after that"})
    hash_std: float = field(
        default=0.01, metadata={"help": "standard deviation of the hash layer's initial weights"}
    )
    head_lr: float = field(
        default=10.0, metadata={"help": "factor of --lr for everything but the backbone"}
    )

    def __post_init__(self) -> None:
        require_bits(self)
        require(self, "codebook", least=1, most=1000)
        require(self, "interval", least=1)
        require(self, "scale", "hash_std", above=0)
        require(self, "every_epoch", "margin", "quantization", "head_lr", least=0)


Net = orthohash.Net


def head_length(bits: int, codes: int) -> int:
    """The smallest divisor d of `bits` with 2^d >= `codes`; `bits` where there is none."""
    return next((d for d in range(1, bits) if bits % d == 0 and 2**d >= codes), bits)


def unique_codes(count: int, bits: int) -> Tensor:
    """Different random codes [count, b] of +1 and -1. Raises TrainingError for more than 2^b."""
    if count > 2**bits:
        raise TrainingError(
            f"{count} classes cannot have different codes of {bits} bits: use more bits"
        )
    found: dict[tuple[float, ...], None] = {}
    while len(found) < count:
        found |= dict.fromkeys(tuple(code) for code in random_codes(count, bits).tolist())
    return torch.tensor(list(found)[:count])


def assignment(cost: Tensor) -> Tensor:
    """Greedy one-to-one minimum: of costs [y, M] with y <= M, the cheapest pair of a class and a
    code is taken, then the cheapest of the rest, and so on; the code of each class [y] int64.
    Equal costs go in the order of classes, then codes."""
    classes, codes = cost.shape
    order = torch.argsort(cost.flatten(), stable=True).tolist()
    chosen, used = [-1] * classes, [False] * codes
    for place in order:
        c, code = divmod(place, codes)
        if chosen[c] < 0 and not used[code]:
            chosen[c], used[code] = code, True
    return torch.tensor(chosen)


def quantization_loss(logits: Tensor) -> Tensor:
    """The mean of (|tanh z| - 1)^2 over code logits z [B, b]."""
    return (torch.tanh(logits).abs() - 1).square().mean()


class Loss(nn.Module):
    """The loss of OrthoHash to the codes of the classes, the quantization loss, and the
    reassignment.

    codebooks: the codes of each of h heads, [h, M, d] of +1 and -1.
    assigned: the code of each class in each head, [h, y] int64.
    sums: of the signs of each class's images in this epoch, [y, b].
    counts: images of each class in this epoch, [y].
    epoch: complete epochs, int64.
    """

    codebooks: Tensor
    assigned: Tensor
    sums: Tensor
    counts: Tensor
    epoch: Tensor

    def __init__(self, backbone: Backbone, config: Config, classes: int, items: int) -> None:
        super().__init__()
        self.config = config
        wanted = max(classes, round(config.codebook * classes))
        length = head_length(config.bits, wanted)
        heads, size = config.bits // length, min(wanted, 2**length)
        if size < classes:
            unique_codes(classes, length)  # says what is wrong
        self.register_buffer(
            "codebooks", torch.stack([unique_codes(size, length) for _ in range(heads)])
        )
        first = torch.stack([torch.randperm(size)[:classes] for _ in range(heads)])
        self.register_buffer("assigned", first)
        self.register_buffer("sums", torch.zeros(classes, config.bits))
        self.register_buffer("counts", torch.zeros(classes))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def forward(self, net: Net, pixels: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The scalars "classification", "quantization" and their "total"."""
        logits = net(pixels).code
        assert logits is not None
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            classification = orthohash.cosine_loss(
                logits, labels, self.centres(), self.config.scale, self.config.margin
            )
            quantization = self.config.quantization * quantization_loss(logits)
        signs = torch.where(logits.detach() >= 0, 1.0, -1.0)
        self.sums.index_add_(0, labels, signs)
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        return {
            "classification": classification,
            "quantization": quantization,
            "total": classification + quantization,
        }

    def centres(self) -> Tensor:
        """The codes of the classes, [y, b] of +1 and -1: their sub-codes side by side."""
        heads = torch.arange(len(self.codebooks), device=self.codebooks.device)
        return self.codebooks[heads[:, None], self.assigned].transpose(0, 1).flatten(1)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Reassign the codes, if it is time, by what this epoch made of the images of all
        processes."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for tensor in (self.sums, self.counts):
                torch.distributed.all_reduce(tensor)
        self.epoch += 1
        done = int(self.epoch)
        if done <= self.config.every_epoch or done % self.config.interval == 0:
            self._reassign()
        self.sums.zero_()
        self.counts.zero_()

    def _reassign(self) -> None:
        """In each head, by the cost mean ||sign z - code||^2 over the images of a class, which is
        2 (d - mean sign z . code)."""
        heads, _, length = self.codebooks.shape
        means = (self.sums / self.counts.clamp_min(1)[:, None]).view(-1, heads, length)
        for head, codes in enumerate(self.codebooks):
            cost = 2 * (length - means[:, head] @ codes.T)
            self.assigned[head] = assignment(cost.cpu()).to(self.assigned.device)


def param_groups(net: Net, loss: Loss, config: Config) -> list[dict[str, Any]]:
    """The backbone at the run's learning rate, everything else at `head_lr` times that."""
    return body_and_head(net, loss, config.head_lr)
