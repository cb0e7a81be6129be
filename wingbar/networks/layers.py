"""Formulas that networks and losses are made of: pure functions first, thin modules second."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def gem(x: Tensor, p: Tensor | float, eps: float = 1e-6) -> Tensor:
    """Generalised mean over places (Radenovic, Tolias & Chum, TPAMI 2019): x [B, c, h, w] -> [B,
    c].

    p = 1 is the mean of what is above `eps`, and the greater p, the nearer is the greatest value.
    """
    return x.float().clamp_min(eps).pow(p).mean((2, 3)).pow(1 / p)


def orthogonal_part(local: Tensor, globally: Tensor) -> Tensor:
    """The part of local features [B, c, h, w] that is orthogonal to the global one [B, c] (DOLG,
    Eq. 1 and 2).

    Each place less its projection on the global vector; all of it where that vector is zero.
    """
    along = F.normalize(
        globally.float(), dim=1
    )  # a zero vector stays zero, so that nothing is divided by zero
    share = torch.einsum("bchw,bc->bhw", local.float(), along)
    return local.float() - share[:, None] * along[:, :, None, None]


def arc_margin(cosine: Tensor, labels: Tensor, margin: float) -> Tensor:
    """ArcFace (Deng et al., CVPR 2019): cosines [B, y] with the own class's angle widened by
    `margin`, in radians.

    Where the angle would pass a half turn, the cosine falls on linearly, so that it never rises
    with the angle.
    """
    own = cosine.gather(1, labels[:, None])
    sine = (1 - own.square()).clamp_min(1e-7).sqrt()  # the square root's slope is infinite at 0
    widened = own * math.cos(margin) - sine * math.sin(margin)
    beyond = own - math.sin(margin) * margin
    return cosine.scatter(
        1, labels[:, None], torch.where(own > math.cos(math.pi - margin), widened, beyond)
    )


def curricular(cosine: Tensor, labels: Tensor, margin: float, progress: Tensor) -> Tensor:
    """CurricularFace (Huang et al., CVPR 2020): as `arc_margin`, and other classes that are nearer
    than the widened own one count cos (t + cos), where t is the `progress` of training (the moving
    mean of the own cosines, a scalar)."""
    out = arc_margin(cosine, labels, margin)
    own = out.gather(1, labels[:, None])
    hard = (out > own) & ~F.one_hot(labels, cosine.shape[1]).bool()
    return torch.where(hard, out * (progress + out), out)


class Gem(nn.Module):
    """`gem` with a learned exponent."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.eps = nn.Parameter(torch.tensor(p)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c]."""
        return gem(x, self.p, self.eps)
