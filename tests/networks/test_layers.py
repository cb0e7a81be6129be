from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wingbar.networks import layers


def test_gem_is_the_mean_at_1_and_nears_the_greatest() -> None:
    x = torch.rand(3, 5, 7, 6) + 0.01
    torch.testing.assert_close(layers.gem(x, 1.0), x.mean((2, 3)))
    greatest = x.amax((2, 3))
    off = [float((layers.gem(x, p) - greatest).abs().max()) for p in (1.0, 3.0, 10.0, 40.0)]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.1
    by_hand = [
        [float(np.mean(x[b, c].numpy().astype(float) ** 3) ** (1 / 3)) for c in range(5)]
        for b in range(3)
    ]
    np.testing.assert_allclose(layers.Gem(3.0)(x).detach(), by_hand, rtol=1e-5)
    assert torch.isfinite(layers.gem(torch.zeros(1, 2, 3, 3), 3.0)).all()


@pytest.mark.parametrize(
    "kind", ["random", "zero global", "constant maps", "parallel", "tiny", "huge"]
)
def test_the_fused_part_is_orthogonal(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    local, global_vector = (
        torch.randn(4, 16, 5, 6, generator=generator),
        torch.randn(4, 16, generator=generator),
    )
    if kind == "zero global":
        global_vector = torch.zeros(4, 16)
    if kind == "constant maps":
        local = torch.ones(4, 16, 5, 6)
    if kind == "parallel":
        local = global_vector[:, :, None, None].expand(-1, -1, 5, 6) * 2
    if kind in ("tiny", "huge"):
        global_vector = global_vector * (1e-10 if kind == "tiny" else 1e10)
    found = layers.orthogonal_part(local, global_vector)
    unit = torch.nn.functional.normalize(global_vector, dim=1)
    assert float(torch.einsum("bchw,bc->bhw", found, unit).abs().max()) < 1e-5
    if kind == "zero global":
        torch.testing.assert_close(found, local)
    if kind == "parallel":
        assert float(found.abs().max()) < 1e-5
    if kind == "random":  # the seed's formula, place by place
        for b, y, x in np.ndindex(4, 5, 6):
            f, g = local[b, :, y, x].double(), global_vector[b].double()
            torch.testing.assert_close(
                found[b, :, y, x].double(), f - (f @ g) / (g @ g) * g, atol=1e-5, rtol=1e-4
            )
            assert float(found[b, :, y, x].norm()) <= float(f.norm()) + 1e-6


def test_arc_margin_by_hand() -> None:
    cosine = torch.tensor(
        [[0.9, 0.2, -0.5], [0.1, -0.999, 0.3], [1.0, 0.0, -1.0]], requires_grad=True
    )
    labels = torch.tensor([0, 1, 2])
    found = layers.arc_margin(cosine, labels, 0.15)
    expected = cosine.detach().clone()
    expected[0, 0] = math.cos(math.acos(0.9) + 0.15)
    expected[1, 1] = -0.999 - 0.15 * math.sin(0.15)  # its angle and the margin pass a half turn
    expected[2, 2] = -1.0 - 0.15 * math.sin(0.15)
    torch.testing.assert_close(found, expected)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(cosine.grad).all()  # type: ignore[arg-type]
    at_one = torch.ones(1, 1, requires_grad=True)
    layers.arc_margin(at_one, torch.tensor([0]), 0.15).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(at_one.grad).all()  # type: ignore[arg-type]
    falling = layers.arc_margin(
        torch.linspace(1, -1, 200)[:, None], torch.zeros(200, dtype=torch.int64), 0.5
    )
    assert (falling.diff(dim=0) < 0).all()


def test_curricular_raises_hard_negatives_by_hand() -> None:
    cosine, labels = torch.tensor([[0.5, 0.45, 0.1]]), torch.tensor([0])
    own = math.cos(math.acos(0.5) + 0.15)
    assert own < 0.45
    found = layers.curricular(cosine, labels, 0.15, torch.tensor(0.3))
    torch.testing.assert_close(found, torch.tensor([[own, 0.45 * (0.3 + 0.45), 0.1]]))
