"""Formulas of networks and losses, as pure functions, and thin modules around them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def gem(x: Tensor, p: Tensor | float, eps: float = 1e-6) -> Tensor:
    """Generalised-mean pooling (Radenovic, Tolias & Chum, TPAMI 2019): x [B, c, h, w] -> [B, c],

        (mean over h and w of max(x, eps)^p)^(1 / p).

    p = 1 is average pooling; the greater p is, the closer it comes to max pooling.
    """
    return x.float().clamp_min(eps).pow(p).mean((2, 3)).pow(1 / p)


def orthogonal_part(local: Tensor, global_vector: Tensor) -> Tensor:
    """The part of local features [B, c, h, w] that is orthogonal to a global vector [B, c] (DOLG,
    Eq. 1 and 2):

        f - (f . g / |g|^2) g    for each local feature f; f itself where g is zero.
    """
    # a zero vector stays zero, so that nothing is divided by zero
    direction = F.normalize(global_vector.float(), dim=1)
    length = torch.einsum("bchw,bc->bhw", local.float(), direction)
    return local.float() - length[:, None] * direction[:, :, None, None]


def arc_margin(cosine: Tensor, labels: Tensor, margin: float) -> Tensor:
    """ArcFace's additive angular margin (Deng et al., CVPR 2019): cosines [B, y] to y classes, in
    which the cosine to the image's own class, cos(t), becomes cos(t + margin); margin in radians.

    Where t + margin would exceed pi, it becomes cos(t) - margin sin(margin), so that it decreases
    with t everywhere.
    """
    own = cosine.gather(1, labels[:, None])
    sine = (1 - own.square()).clamp_min(1e-7).sqrt()  # the square root's slope is infinite at 0
    with_margin = own * math.cos(margin) - sine * math.sin(margin)
    beyond_pi = own - math.sin(margin) * margin
    return cosine.scatter(
        1, labels[:, None], torch.where(own > math.cos(math.pi - margin), with_margin, beyond_pi)
    )


def curricular(cosine: Tensor, labels: Tensor, margin: float, progress: Tensor) -> Tensor:
    """CurricularFace (Huang et al., CVPR 2020): `arc_margin`, in which the cosine c to another
    class that is greater than the own one with its margin becomes c (p + c).

    p is the `progress` of training, a scalar: the moving average of the cosines to the own class.
    """
    out = arc_margin(cosine, labels, margin)
    own = out.gather(1, labels[:, None])
    hard = (out > own) & ~F.one_hot(labels, cosine.shape[1]).bool()
    return torch.where(hard, out * (progress + out), out)


def memberships(labels: Tensor, classes: int) -> Tensor:
    """Which of y classes images are of, [B, y] float32 of 0 and 1: from their class numbers [B]
    int64 or, where they have several, from [B, y] bool, which is only converted."""
    return (F.one_hot(labels, classes) if labels.ndim == 1 else labels).float()


class Gem(nn.Module):
    """`gem` with a learned exponent."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.eps = nn.Parameter(torch.tensor(p)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c]."""
        return gem(x, self.p, self.eps)
